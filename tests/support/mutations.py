"""Applies the mutations of tests/core/mutations.txt to copies of the core, and runs programs that have to notice.

`tests/core/test_mutations.py` runs a random dozen. To run all of them, as root, because each program gets its
own /dev/shm:

    python tests/support/mutations.py                  every mutation
    python tests/support/mutations.py segment.c        those with this text in their description
    python tests/support/mutations.py --search LOCK    with every program of tests/c: which of them notice?
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from c_programs import COMPILER, run, run_program, wrapped_by
from orders import flaws
from repository import CSRC, TESTS

FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-pthread", "-w", "-O0"]
THREAD = ["-O1", "-fsanitize=thread"]
HANGS_SEC = 60.0
"""A program that has not ended by then hangs: normally it takes a few seconds."""
ALONE = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o mode=1777,size=512m tmpfs /dev/shm && exec "$@"', "sh"]

HEADER = "orders.py"  # builds nothing: checks that the code does what the header says about each step
STEPS_ALONE = ("test_steps", "test_interleavings", "test_races")  # these use protocol.h, and nothing else of the core
SURVIVES = "survives, because "


@dataclass(frozen=True)
class Mutation:
    """One change, and the program that notices it; or why no program does."""

    file: str
    old: str
    new: str
    by: str
    survives_because: str

    def __str__(self) -> str:
        return f"{self.file}: {' '.join(self.old.split())}  ->  {' '.join(self.new.split()) or 'nothing'}"


def read_table(text: str) -> list[Mutation]:
    """The mutations of mutations.txt."""
    found = []
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        if lines:
            file, _, verdict = lines[0].partition(": ")
            old, new = ("\n".join(line[1:] for line in lines[1:] if line[0] == sign) for sign in "-+")
            reason = verdict.removeprefix(SURVIVES) if verdict.startswith(SURVIVES) else ""
            found.append(Mutation(file, old, new, "" if reason else verdict, reason))
    return found


MUTATIONS = read_table((TESTS / "core" / "mutations.txt").read_text())
PROGRAMS = sorted({mutation.by for mutation in MUTATIONS if mutation.by})


def mutate(mutation: Mutation, csrc: Path) -> None:
    """Change the copy of the core in `csrc`."""
    path = csrc / mutation.file
    text = path.read_text()
    count = text.count(mutation.old)
    assert count == 1, f"adapt this mutation: its text is {count} times in {mutation.file}: {mutation.old}"
    path.write_text(text.replace(mutation.old, mutation.new))


def compile_with(flags: Iterable[str | Path]) -> None:
    finished = run([*COMPILER, *FLAGS, *flags])
    assert finished.returncode == 0, f"a mutant has to compile: {finished.stdout}"


class Workshop:
    """Builds mutants and runs the programs that have to notice them. Compiles only what a mutation touches."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.objects: dict[str, Path] = {}
        self.objects = self._compile(CSRC.rglob("*.c"), CSRC, directory)

    def _compile(self, sources: Iterable[Path], csrc: Path, directory: Path) -> dict[str, Path]:
        objects = dict(self.objects)
        for source in sources:
            objects[source.stem] = directory / f"{source.stem}.o"
            compile_with([f"-I{csrc}", "-c", source, "-o", objects[source.stem]])
        return objects

    def notices(self, program: str, mutation: Mutation | None) -> bool:
        """Whether the program fails with this mutation; None: with the unchanged core."""
        with tempfile.TemporaryDirectory(dir=self.directory) as name:
            directory = Path(name)
            csrc = directory / "csrc"
            shutil.copytree(CSRC, csrc)
            if mutation:
                mutate(mutation, csrc)
            if program == HEADER:
                return bool(flaws(csrc))
            return self._fails(self._build(program, mutation, csrc, directory))

    def _build(self, program: str, mutation: Mutation | None, csrc: Path, directory: Path) -> Path:
        source = TESTS / "c" / f"{program}.c"
        core: list[Path] = []
        if program not in STEPS_ALONE:
            changed = [csrc / mutation.file] if mutation else []
            if mutation and mutation.file.endswith(".h"):
                changed = sorted(csrc.rglob("*.c"))
            # An archive: some programs include core sources, and the linker then leaves out the archive's.
            core = [directory / "core.a"]
            run(["ar", "rcs", *core, *self._compile(changed, csrc, directory).values()])
        flags = [*(THREAD if program == "test_races" else []), f"-I{csrc}", f"-I{source.parent}", *wrapped_by(source)]
        compile_with([*flags, source, *core, "-o", directory / program])
        return directory / program

    @staticmethod
    def _fails(program: Path) -> bool:
        try:
            finished = run_program(program, "mutant", wrapper=ALONE, timeout=HANGS_SEC)
        except subprocess.TimeoutExpired:
            return True  # it hangs
        return finished.returncode != 0 or ", 0 failed" not in finished.stdout


@dataclass(frozen=True)
class Verdict:
    """The result of a mutant."""

    mutation: Mutation
    noticed_by: tuple[str, ...]

    @property
    def is_wrong(self) -> bool:
        """It survived without a reason, or was noticed although the table says that it cannot be."""
        return bool(self.noticed_by) == bool(self.mutation.survives_because)

    def __str__(self) -> str:
        noticed = f"noticed by {', '.join(self.noticed_by)}" if self.noticed_by else "SURVIVES"
        return f"{noticed}{'' if not self.is_wrong else ' (wrong)'}: {self.mutation}"


def examine(mutations: Iterable[Mutation], directory: Path, *, search: bool = False) -> Iterator[Verdict]:
    """Run every mutant, on all processors. `search`: with every program."""
    workshop = Workshop(directory)

    def judge(mutation: Mutation) -> Verdict:
        programs = PROGRAMS if search or not mutation.by else [mutation.by]
        return Verdict(mutation, tuple(program for program in programs if workshop.notices(program, mutation)))

    mutations = list(mutations)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        needed = sorted({mutation.by for mutation in mutations if mutation.by})
        assert not any(pool.map(lambda program: workshop.notices(program, None), needed)), "the unchanged core fails"
        yield from pool.map(judge, mutations)


def main() -> int:
    """Print a line for each mutant; return how many verdicts are wrong."""
    parser = argparse.ArgumentParser(description="Runs mutants of the core.")
    parser.add_argument("--search", action="store_true", help="with every program")
    parser.add_argument("text", nargs="?", default="", help="those with this in their description")
    options = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        chosen = [mutation for mutation in MUTATIONS if options.text in str(mutation)]
        for verdict in examine(chosen, Path(directory), search=options.search):
            print(verdict, flush=True)
            wrong += verdict.is_wrong
    print(f"{len(chosen)} mutants, {wrong} of them wrong")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())

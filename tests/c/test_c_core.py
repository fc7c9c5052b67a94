"""Tests of the core in C: builds every program of tests/c from csrc, plain and with sanitizers, and runs it.

The programs print each of their tests as a sentence, and counts where they sample: ``pytest -rP tests/c``.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from repository import CSRC, TESTS

PROGRAMS_DIRECTORY = TESTS / "c"
# test_platforms.py runs the one for Windows.
PROGRAMS = sorted(path.stem for path in PROGRAMS_DIRECTORY.glob("test_*.c") if path.stem != "test_windows")
# For ThreadSanitizer; the other programs have one thread.
THREADED = [name for name in PROGRAMS if name in ("test_races", "test_threads")]
# These take the protocol's steps in plain memory, and need no segment.
WITHOUT_SEGMENT = ("test_copy", "test_interleavings", "test_races", "test_steps", "test_validation")

COMPILER = shlex.split(os.environ.get("CC", "cc"))
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
# -O0: builds in half the time, and no undefined behaviour is optimized away.
COMMON = ["-std=c11", "-D_GNU_SOURCE", "-pthread", "-O0", "-g1", f"-I{CSRC}", f"-I{PROGRAMS_DIRECTORY}"]
FLAVOURS = {
    "plain": [],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"],
    # GCC's ThreadSanitizer warns that it does not model fences; test_races.c says why that is sound here.
    "thread": ["-O1", "-fsanitize=thread", "-fno-omit-frame-pointer", "-Wno-tsan"],
}
CASES = [
    pytest.param(
        name,
        flavour,
        marks=[pytest.mark.xdist_group(f"c {flavour}"), *([pytest.mark.slow] if FLAVOURS[flavour] else [])],
    )
    for flavour in FLAVOURS
    for name in (THREADED if flavour == "thread" else PROGRAMS)
]


def run(command: Iterable[str | Path], timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=timeout,
        check=False,
    )


@cache
def flags_of(flavour: str) -> tuple[str, ...]:
    """The flavour's own flags."""
    flags = list(FLAVOURS[flavour])
    for attempt in (flags, [flag for flag in flags if flag != "-Wno-tsan"]):  # Clang does not have it
        command = [*COMPILER, "-Werror", *attempt, "-x", "c", "-", "-o", "/dev/null"]
        built = subprocess.run(command, input="int main(void){return 0;}", text=True, capture_output=True, check=False)
        if built.returncode == 0:
            return tuple(attempt)
    pytest.fail(f"{shlex.join(COMPILER)} does not do {' '.join(flags)}: {built.stderr}")


def wrapped_by(source: Path) -> list[str]:
    """Linker flags for the functions that a program wraps."""
    text = source.read_text()
    names = {*re.findall(r"^WRAPPED\((\w+),", text, re.MULTILINE), *re.findall(r"\) __wrap_(\w+);", text)}
    return [f"-Wl,--wrap={name}" for name in sorted(names)]


class Build:
    """Objects and programs, each built at most once in a session, on all processors."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._flavours: dict[str, dict[str, subprocess.CompletedProcess[str]]] = {}

    def program(self, name: str, flavour: str) -> Path:
        if flavour not in self._flavours:
            self._flavours[flavour] = self._build_flavour(flavour, flags_of(flavour))
        built = self._flavours[flavour][name]
        assert built.returncode == 0, built.stdout
        return self.directory / flavour / name

    def _build_flavour(self, flavour: str, flags: tuple[str, ...]) -> dict[str, subprocess.CompletedProcess[str]]:
        directory = self.directory / flavour
        directory.mkdir()
        core = sorted(CSRC.rglob("*.c"))  # the files of other systems compile to nothing
        names = THREADED if flavour == "thread" else PROGRAMS
        compile_only = [*COMPILER, *COMMON, *WARNINGS, *flags, "-c", "-o"]
        sources = [*core, *(PROGRAMS_DIRECTORY / f"{name}.c" for name in names)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            results = list(
                pool.map(lambda source: run([*compile_only, directory / f"{source.stem}.o", source]), sources)
            )
        built = dict(zip((source.stem for source in sources), results, strict=True))
        for source in core:
            assert built[source.stem].returncode == 0, built[source.stem].stdout
        # An archive: test_copy.c includes copy.c, and the linker then leaves the other one out.
        run(["ar", "rcs", directory / "core.a", *(directory / f"{source.stem}.o" for source in core)])
        return {
            name: self._link(directory, name, flags) if built[name].returncode == 0 else built[name] for name in names
        }

    def _link(self, directory: Path, name: str, flags: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        wrapped = wrapped_by(PROGRAMS_DIRECTORY / f"{name}.c")
        return run(
            [
                *COMPILER,
                "-pthread",
                *flags,
                *wrapped,
                directory / f"{name}.o",
                directory / "core.a",
                "-o",
                directory / name,
            ]
        )


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return Build(tmp_path_factory.mktemp("c-core"))


def run_program(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    finished = run([program, *arguments])
    if (
        "unexpected memory mapping" in finished.stdout
    ):  # an older ThreadSanitizer, and address randomization of a newer kernel
        finished = run(["setarch", "-R", program, *arguments])
    return finished


@pytest.mark.parametrize(("name", "flavour"), CASES)
def test_every_check_of_the_program_holds(name: str, flavour: str, build: Build, segment_name: str) -> None:
    arguments = () if name in WITHOUT_SEGMENT else (segment_name,)
    finished = run_program(build.program(name, flavour), *arguments)
    print(finished.stdout)
    assert finished.returncode == 0, finished.stdout
    assert ", 0 failed" in finished.stdout


def test_every_global_name_of_the_core_has_the_prefix(build: Build) -> None:
    build.program("test_steps", "plain")
    listed = run(["nm", "--extern-only", "--defined-only", "--format=posix", build.directory / "plain" / "core.a"])
    names = re.findall(r"^(\w+) [A-Z] ", listed.stdout, re.MULTILINE)
    assert len(names) > 100, listed.stdout
    assert [name for name in names if not name.startswith("bshm_")] == []


def included_by(source: Path) -> set[str]:
    """The modules whose headers a file includes; a header and its source are one module."""
    found = re.findall(r'^#include "([\w./]+)\.h"', source.read_text(), re.MULTILINE)
    return {Path(name).name for name in found} - {source.stem}


def test_the_sources_include_one_another_in_one_direction() -> None:
    arrows: dict[str, set[str]] = {}
    for source in CSRC.rglob("*.[ch]"):
        arrows.setdefault(source.stem, set()).update(included_by(source))
    order = list(TopologicalSorter(arrows).static_order())  # raises CycleError, which names the circle
    assert order.index("windows_base") < order.index("windows_names") < order.index("windows_files")


# ---------------------------------------------------------------- do the tests find broken steps?


@dataclass(frozen=True)
class Mutation:
    """One change of one function, and the program that must fail because of it.

    Fences are not among them: no program on this kind of machine can show that one is missing. They are for the models.
    """

    says: str
    file: str
    function: str
    old: str
    new: str
    caught_by: str


STEPS, SEARCH, RACES = "test_steps", "test_interleavings", "test_races"
ACQUIRE, RELAXED = "__ATOMIC_ACQUIRE", "__ATOMIC_RELAXED"
MUTATIONS = [
    Mutation(
        "W2 ignores pins", "protocol.h", "bshm_step_claim_slot", r"word & BSHM_TOKEN_MASK\(slot_count\)", "0", SEARCH
    ),
    Mutation("W3 relaxed", "ordering.h", "bshm_claim_acquire", ACQUIRE, RELAXED, RACES),
    Mutation("W4 even", "protocol.h", "bshm_step_begin_write", r"2 \* sequence - 1", "2 * sequence", SEARCH),
    Mutation("W8 relaxed", "protocol.h", "bshm_step_end_write", "store_release", "store_relaxed", RACES),
    Mutation("W9 left out", "protocol.h", "bshm_step_clear_writing", "BSHM_PIN_WRITING", "0", SEARCH),
    Mutation("W10 relaxed", "protocol.h", "bshm_step_store_latest", "store_release", "store_relaxed", RACES),
    Mutation("W12 relaxed", "ordering.h", "bshm_store_release32", "__ATOMIC_RELEASE", RELAXED, RACES),
    Mutation("W12 without a bump", "protocol.h", "bshm_step_bump_notify", r"\+ 1\)", "+ 0)", STEPS),
    Mutation("R0 clears nothing", "protocol.h", "bshm_step_clear_token", r"bshm_clear_release\(.*?\);", ";", SEARCH),
    Mutation(
        "R0 forgets a slot", "protocol.h", "bshm_step_clear_token", "slot < slot_count", "slot + 1 < slot_count", SEARCH
    ),
    Mutation(
        "R0 clears relaxed",
        "protocol.h",
        "bshm_step_clear_token",
        r"bshm_clear_release\(&(.*?), (UINT64_C\(1\) << token)\)",
        r"__atomic_fetch_and(&\1.shared, ~(\2), __ATOMIC_RELAXED)",
        RACES,
    ),
    Mutation("R1 relaxed", "protocol.h", "bshm_step_load_latest", "load_acquire", "load_relaxed", RACES),
    Mutation("R2 relaxed", "ordering.h", "bshm_pin_acquire_release", "__ATOMIC_(ACQ_REL|ACQUIRE)", RELAXED, RACES),
    Mutation("R3 left out", "protocol.h", "bshm_step_pin", "& BSHM_PIN_WRITING", "& 0", SEARCH),
    Mutation("R3 leaves its pin", "protocol.h", "bshm_step_pin", r"bshm_clear_release\(.*?\);", ";", SEARCH),
    Mutation(
        "R4 left out",
        "protocol.h",
        "bshm_step_load_descriptor",
        r"\(\*seq & 1\) \|\| \*seq < 2 \* sequence",
        "0",
        SEARCH,
    ),
    Mutation("R4 takes odd for even", "protocol.h", "bshm_step_load_descriptor", r"\(\*seq & 1\) \|\| ", "", SEARCH),
    Mutation(
        "R4 takes older frames", "protocol.h", "bshm_step_load_descriptor", r" \|\| \*seq < 2 \* sequence", "", STEPS
    ),
    Mutation("R4 relaxed", "protocol.h", "bshm_step_load_descriptor", "load_acquire", "load_relaxed", RACES),
    Mutation("R5 left out", "protocol.h", "bshm_step_seq_unchanged", "return .*? == seq;", "return seq != 0;", SEARCH),
    Mutation("R6 relaxed", "ordering.h", "bshm_clear_release", "__ATOMIC_RELEASE", RELAXED, RACES),
    Mutation("R6 left out", "protocol.h", "bshm_step_unpin", r"<< token", "<< token & 0", SEARCH),
    Mutation("notify read relaxed", "ordering.h", "bshm_load_acquire32", ACQUIRE, RELAXED, RACES),
    Mutation("last reference dropped relaxed", "ordering.h", "bshm_reference_drop", "__ATOMIC_ACQ_REL", RELAXED, RACES),
]


def mutate(mutation: Mutation, directory: Path) -> None:
    """All headers in `directory`, one of them changed."""
    directory.mkdir()
    for header in CSRC.glob("*.h"):
        shutil.copy(header, directory)
    path = directory / mutation.file
    text = path.read_text()
    function = re.search(rf"\b{mutation.function}\([^;{{]*\)\n\{{\n.*?\n\}}\n", text, re.DOTALL)
    assert function, f"{mutation.function} is not in {mutation.file} any more: adapt the mutation"
    body, count = re.subn(mutation.old, mutation.new, function[0], flags=re.DOTALL)
    assert count > 0, f"{mutation.function} does not contain {mutation.old!r} any more: adapt the mutation"
    path.write_text(text.replace(function[0], body))


def run_mutant(mutation: Mutation, directory: Path, flags: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    mutate(mutation, directory)
    common = [flag for flag in COMMON if flag != f"-I{CSRC}"]
    source = PROGRAMS_DIRECTORY / f"{mutation.caught_by}.c"
    built = run([*COMPILER, *common, f"-I{directory}", "-w", *flags, source, "-o", directory / "mutant"])
    assert built.returncode == 0, built.stdout
    return run_program(directory / "mutant")


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """The result of each mutant. They are built and run on all processors."""
    directory = tmp_path_factory.mktemp("mutants")
    futures = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, mutation in enumerate(MUTATIONS):
            flags = flags_of("thread" if mutation.caught_by == RACES else "plain")
            futures[mutation.says] = pool.submit(run_mutant, mutation, directory / str(number), flags)
        yield futures


@pytest.mark.slow
@pytest.mark.xdist_group("c mutants")
@pytest.mark.parametrize("says", [mutation.says for mutation in MUTATIONS])
def test_a_protocol_with_a_step_broken_does_not_pass(
    says: str, mutants: dict[str, Future[subprocess.CompletedProcess[str]]]
) -> None:
    finished = mutants[says].result()
    assert finished.returncode != 0, finished.stdout
    assert "data race" in finished.stdout or "0 failed" not in finished.stdout

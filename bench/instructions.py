"""Instructions and system calls of publishing and reading, counted by callgrind: no noise disturbs them.

    python -m bench.instructions            counts, and compares with the baseline
    python -m bench.instructions --update   makes them the baseline of this compiler and of this Python

Callgrind sees no instruction of the kernel, but every system call; under it asking for the time is one, too. It counts
system calls from dump to dump, whatever is collected: so nothing stands between a dump and the next call.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench.floors import compiler
from bench.sizes import own_name

SOURCES = Path(__file__).parents[1] / "csrc"
HERE = Path(__file__).parent
BASELINE = HERE / "instructions.json"
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O3", "-pthread", "-Wall", "-Wextra", "-Werror"]
ROUNDS = 12
COPY_FREE = ("publish", "read_new", "read_nothing")
COPYING = ("write",)
# What counting itself costs, where it costs something; and a call that is there for what comes after it.
EMPTY, SETTLE = "empty", "settle"

# C: the same tools give the same number, to the instruction; another processor may have another memset chosen for it.
MARGIN_SAME_TOOLS = 1.005
MARGIN_OTHER_TOOLS = 1.02
# A copy's instructions: what the C library chooses for this processor, and for where the source happens to lie.
MARGIN_COPY = 1.10
# Python: memory that happens to be laid out otherwise is worth a few instructions; another numpy, some more.
MARGIN_PYTHON = 1.02
MARGIN_OTHER_PYTHON = 1.10

Counts = dict[str, "Count"]


@dataclass(frozen=True)
class Count:
    """Of one call."""

    instructions: int
    system_calls: int


class ValgrindMissingError(RuntimeError):
    """There is no valgrind; the message says what to install."""


def valgrind() -> str:
    """Its path."""
    found = shutil.which("valgrind")
    if found is None:
        raise ValgrindMissingError("valgrind is missing: apt-get install valgrind")
    return found


def build(directory: Path, *macros: str) -> Path:
    """The driver with the core, as setup.py builds it."""
    core = sorted(SOURCES.rglob("*.c"))  # those of other systems come out empty
    program = directory / "-".join(["counted", *macros])
    defined = [f"-D{macro}" for macro in macros]
    subprocess.run(
        [
            *compiler(),
            *FLAGS,
            *defined,
            f"-I{SOURCES}",
            "-o",
            str(program),
            str(HERE / "counted.c"),
            *sorted(map(str, core)),
        ],
        check=True,
    )
    return program


def count(program: Path, readers: int = 0) -> Counts:
    """What each call takes from C, with so many readers attached."""
    return run_counted([str(program), own_name(f"counted_{readers}"), str(readers), str(ROUNDS)])


def count_python(directory: Path) -> Counts:
    """What each call takes from Python."""
    library = directory / "requests.so"
    source = HERE / "requests.c"
    subprocess.run([*compiler(), *FLAGS, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    counts = run_counted(
        [sys.executable, "-m", "bench.counted", own_name("counted_python"), str(library), str(ROUNDS)],
    )
    empty = counts.pop(EMPTY)
    return {
        name: Count(one.instructions - empty.instructions, one.system_calls - empty.system_calls)
        for name, one in counts.items()
    }


def run_counted(command: list[str]) -> Counts:
    """The least that each call took once all slots are in use: now and then one also looks after its name."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "out"
        callgrind = (
            valgrind(), "--quiet", "--tool=callgrind", "--collect-atstart=no", "--collect-systime=yes",
            f"--callgrind-out-file={out}",
        )  # fmt: skip
        environment = os.environ | {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
        subprocess.run(
            [*callgrind, *command], check=True, capture_output=True, text=True, env=environment, cwd=HERE.parent
        )
        found: dict[str, list[Count]] = {}
        for dump in sorted(out.parent.glob("out.*"), key=lambda path: int(path.suffix[1:])):
            name, counted = read_dump(dump.read_text())
            found.setdefault(name, []).append(counted)
    found.pop(SETTLE, None)
    seen = {name: len(all_counts) for name, all_counts in found.items() if name != EMPTY}
    if seen != dict.fromkeys((*COPY_FREE, *COPYING), ROUNDS):
        raise RuntimeError(f"callgrind saw {seen}, expected {ROUNDS} of each call")
    return {name: min(counts[ROUNDS // 2 :], key=lambda one: one.instructions) for name, counts in found.items()}


def read_dump(text: str) -> tuple[str, Count]:
    """Which call, and what it took. A count that is 0 may be left out at the end."""
    (name,) = re.findall(r"^desc: Trigger: Client Request: (\w+)$", text, re.MULTILINE)
    (totals,) = re.findall(r"^totals: (.*)$", text, re.MULTILINE)
    numbers = [int(number) for number in totals.split()]
    return name, Count(numbers[0], numbers[1] if len(numbers) > 1 else 0)


# ---------------------------------------------------------------- the baseline


def toolchain() -> str:
    """What the baseline of C is kept for: compiler and C library with their versions, and the kind of processor."""
    done = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=True)
    first = done.stdout.splitlines()[0]
    family = "clang" if "clang" in first else "gcc"
    version = re.findall(r"\d+\.\d+\.\d+", first)
    return f"{family} {version[-1] if version else 'unknown'}, {' '.join(platform.libc_ver())}, {platform.machine()}"


def python_version() -> str:
    """What the baseline of Python is kept for. The extension is built by whatever compiler built the package."""
    return f"Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}"


def load_baseline() -> dict[str, Counts]:
    """By toolchain, or version of Python."""
    stored = json.loads(BASELINE.read_text())
    return {tools: {name: Count(**one) for name, one in counts.items()} for tools, counts in stored.items()}


def store_baseline(found: dict[str, Counts]) -> None:
    """Those of other tools stay."""
    stored = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    stored |= {tools: {name: asdict(counts[name]) for name in sorted(counts)} for tools, counts in found.items()}
    BASELINE.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")


def margin(name: str, tools: str, known: bool) -> float:
    """How many times the baseline a count may be."""
    if name in COPYING:
        return MARGIN_COPY
    if tools.startswith("Python"):
        return MARGIN_PYTHON if known else MARGIN_OTHER_PYTHON
    return MARGIN_SAME_TOOLS if known else MARGIN_OTHER_TOOLS


def complaints(counts: Counts, tools: str, baseline: dict[str, Counts]) -> list[str]:
    """What has become more expensive than the baseline allows, in words. Empty: nothing has."""
    found = []
    expected = nearest(tools, baseline)
    for name, now in counts.items():
        most = round(expected[name].instructions * margin(name, tools, tools in baseline))
        if now.instructions > most:
            found.append(
                f"{name}: {now.instructions} instructions, at most {most} expected ({tools});"
                " if that is worth it: python -m bench.instructions --update"
            )
        if now.system_calls > expected[name].system_calls:
            found.append(f"{name}: {now.system_calls} system calls, {expected[name].system_calls} expected ({tools})")
    return found


def nearest(tools: str, baseline: dict[str, Counts]) -> Counts:
    """The baseline of these tools; else the most generous of their kin (gcc, clang, Python), call by call.

    LookupError: no kin.
    """
    if tools in baseline:
        return baseline[tools]
    kin = [counts for known, counts in baseline.items() if known.split()[0] == tools.split()[0]]
    if not kin:
        raise LookupError(f"no baseline for {tools} or its kin; python -m bench.instructions --update makes one")
    return {name: max((counts[name] for counts in kin), key=lambda one: one.instructions) for name in kin[0]}


def count_all() -> dict[str, Counts]:
    """From C and from Python, by the key of the baseline."""
    with tempfile.TemporaryDirectory() as directory:
        return {
            toolchain(): count(build(Path(directory))),
            python_version(): count_python(Path(directory)),
        }


def main() -> None:
    """Count, print, and compare or store."""
    parser = argparse.ArgumentParser(description="Count instructions of publishing and reading.")
    parser.add_argument("--update", action="store_true", help="store the counts as the baseline of these tools")
    options = parser.parse_args()
    counted = count_all()
    for tools, counts in counted.items():
        print(tools)
        for name, one in counts.items():
            print(f"    {name:14} {one.instructions:6} instructions {one.system_calls:3} system calls")
    if options.update:
        store_baseline(counted)
        return
    baseline = load_baseline()
    if found := [line for tools, counts in counted.items() for line in complaints(counts, tools, baseline)]:
        raise SystemExit("\n".join(found))


if __name__ == "__main__":
    main()

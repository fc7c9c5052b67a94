"""Instructions and system calls of publishing and reading, counted by callgrind, so unaffected by noise.

    python -m bench.instructions            count, and compare with the baseline
    python -m bench.instructions --update   store them as the baseline of this compiler and this Python

Callgrind sees no kernel instructions, but every system call; under it, reading the clock is one, too. It counts
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
# What counting itself costs, if anything; and a call that only prepares the next one.
EMPTY, SETTLE = "empty", "settle"

# C: the same tools give the same exact number; on another processor the C library may pick another memset.
MARGIN_SAME_TOOLS = 1.005
MARGIN_OTHER_TOOLS = 1.02
# A copy's instructions: these depend on what the C library chooses for this processor and for the source's alignment.
MARGIN_COPY = 1.10
# Python: a different memory layout costs a few instructions; another numpy, some more.
MARGIN_PYTHON = 1.02
MARGIN_OTHER_PYTHON = 1.10

Counts = dict[str, "Count"]


@dataclass(frozen=True)
class Count:
    """The counts of one call."""

    instructions: int
    system_calls: int


class ValgrindMissingError(RuntimeError):
    """Valgrind is not installed; the message says what to install."""


def valgrind() -> str:
    """Its path."""
    found = shutil.which("valgrind")
    if found is None:
        raise ValgrindMissingError("valgrind is missing: apt-get install valgrind")
    return found


def build(directory: Path, *macros: str) -> Path:
    """The driver with the core, as setup.py builds it."""
    core = sorted(SOURCES.rglob("*.c"))  # those for other systems compile to nothing
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


def count(program: Path, readers: int = 0, history: int = 0) -> Counts:
    """The cost of each call from C, with that many attached readers and kept frames."""
    rounds = ROUNDS + 2 * history  # half of them are for slots that are used for the first time
    name = own_name(f"counted_{readers}_{history}")
    return run_counted([str(program), name, str(readers), str(history), str(rounds)], rounds)


def count_python(directory: Path) -> Counts:
    """The cost of each call from Python."""
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


def run_counted(command: list[str], rounds: int = ROUNDS) -> Counts:
    """The lowest count of each call once all slots are in use: now and then a call also checks its name."""
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
    if seen != dict.fromkeys((*COPY_FREE, *COPYING), rounds):
        raise RuntimeError(f"callgrind saw {seen}, expected {rounds} of each call")
    return {name: min(counts[rounds // 2 :], key=lambda one: one.instructions) for name, counts in found.items()}


def read_dump(text: str) -> tuple[str, Count]:
    """The call, and its counts. Trailing zeros may be left out."""
    (name,) = re.findall(r"^desc: Trigger: Client Request: (\w+)$", text, re.MULTILINE)
    (totals,) = re.findall(r"^totals: (.*)$", text, re.MULTILINE)
    numbers = [int(number) for number in totals.split()]
    return name, Count(numbers[0], numbers[1] if len(numbers) > 1 else 0)


# ---------------------------------------------------------------- the baseline


def toolchain() -> str:
    """The key of a C baseline: compiler and C library with their versions, and the kind of processor."""
    done = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=True)
    first = done.stdout.splitlines()[0]
    family = "clang" if "clang" in first else "gcc"
    version = re.findall(r"\d+\.\d+\.\d+", first)
    return f"{family} {version[-1] if version else 'unknown'}, {' '.join(platform.libc_ver())}, {platform.machine()}"


def python_version() -> str:
    """The key of a Python baseline. The extension is built by whatever compiler built the package."""
    return f"Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}"


def load_baseline() -> dict[str, Counts]:
    """The baselines by toolchain or Python version."""
    stored = json.loads(BASELINE.read_text())
    return {tools: {name: Count(**one) for name, one in counts.items()} for tools, counts in stored.items()}


def store_baseline(found: dict[str, Counts]) -> None:
    """Save the counts; baselines of other tools are kept."""
    stored = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    stored |= {tools: {name: asdict(counts[name]) for name in sorted(counts)} for tools, counts in found.items()}
    BASELINE.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")


def margin(name: str, tools: str, known: bool) -> float:
    """How far a count may exceed the baseline, as a factor."""
    if name in COPYING:
        return MARGIN_COPY
    if tools.startswith("Python"):
        return MARGIN_PYTHON if known else MARGIN_OTHER_PYTHON
    return MARGIN_SAME_TOOLS if known else MARGIN_OTHER_TOOLS


def complaints(counts: Counts, tools: str, baseline: dict[str, Counts]) -> list[str]:
    """What has become more expensive than the baseline allows, as messages; empty if nothing has."""
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
    """The baseline of these tools; else the most generous of similar tools (gcc, clang, Python), call by call.

    LookupError: no similar tools.
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

"""Tests of the core in C: builds every program of tests/c from csrc, plain and with sanitizers, and runs it.

The programs print each of their tests as a sentence, and counts where they sample: ``pytest -rP tests/c``.
"""

import os
import re
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import psutil
import pytest
from c_programs import COMPILER, run, run_program, wrapped_by
from repository import CSRC, TESTS
from segments_under_test import wait_until

PROGRAMS_DIRECTORY = TESTS / "c"
# test_platforms.py runs the program for Windows.
PROGRAMS = sorted(path.stem for path in PROGRAMS_DIRECTORY.glob("test_*.c") if path.stem != "test_windows")
# For ThreadSanitizer; the other programs have one thread.
THREADED = [name for name in PROGRAMS if name in ("test_races", "test_threads")]
# These take the protocol's steps in plain memory, and need no segment.
WITHOUT_SEGMENT = ("test_copy", "test_interleavings", "test_races", "test_steps", "test_validation")

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
# -O0: builds in half the time, and no undefined behaviour is optimized away.
COMMON = ["-std=c11", "-D_GNU_SOURCE", "-pthread", "-O0", "-g1", f"-I{CSRC}", f"-I{PROGRAMS_DIRECTORY}"]
FLAVOURS = {
    "plain": [],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"],
    # GCC's ThreadSanitizer warns that it does not model fences; test_races.c says why that is sound here.
    "thread": ["-O1", "-fsanitize=thread", "-fno-omit-frame-pointer", "-Wno-tsan"],
}
LONG = ("test_copy", "test_interleavings")
CASES = [
    pytest.param(
        name,
        flavour,
        marks=[
            pytest.mark.xdist_group(f"c {flavour}"),
            *([pytest.mark.slow] if FLAVOURS[flavour] or name in LONG else []),
        ],
    )
    for flavour in FLAVOURS
    for name in (THREADED if flavour == "thread" else PROGRAMS)
]


@cache
def flags_of(flavour: str) -> tuple[str, ...]:
    """The flavour's own flags."""
    flags = list(FLAVOURS[flavour])
    for attempt in (flags, [flag for flag in flags if flag != "-Wno-tsan"]):  # Clang does not support it
        command = [*COMPILER, "-Werror", *attempt, "-x", "c", "-", "-o", "/dev/null"]
        built = subprocess.run(command, input="int main(void){return 0;}", text=True, capture_output=True, check=False)
        if built.returncode == 0:
            return tuple(attempt)
    pytest.fail(f"{shlex.join(COMPILER)} does not do {' '.join(flags)}: {built.stderr}")


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
        core = sorted(CSRC.rglob("*.c"))  # files for other systems compile to nothing
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
        # An archive: test_copy.c includes copy.c, and the linker then leaves out the other one.
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


@pytest.mark.parametrize(("name", "flavour"), CASES)
def test_every_check_of_the_program_holds(name: str, flavour: str, build: Build, segment_name: str) -> None:
    arguments = () if name in WITHOUT_SEGMENT else (segment_name,)
    finished = run_program(build.program(name, flavour), *arguments)
    print(finished.stdout)
    assert finished.returncode == 0, finished.stdout
    assert ", 0 failed" in finished.stdout


@pytest.mark.slow
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
    order = list(TopologicalSorter(arrows).static_order())  # raises CycleError, which names the cycle
    assert order.index("windows_base") < order.index("windows_names") < order.index("windows_files")


def test_a_program_that_is_run_leaves_no_process() -> None:
    left = int(run(["sh", "-c", "sleep 1000 > /dev/null 2>&1 & echo $!"]).stdout)
    wait_until(lambda: not is_running(left))
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        run(["sh", "-c", "sleep 1000 & echo $!; wait"], timeout=1.0)
    left = int(caught.value.stdout or 0)
    assert left
    wait_until(lambda: not is_running(left))


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

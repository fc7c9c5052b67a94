"""Programs in C and C++, built from what the package ships, read what a Python writer publishes."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT

from billiards_shm import SharedMemoryFrameWriter, get_include, inspect_segment

EXAMPLES = ROOT / "examples"
SHAPE = (60, 80, 3)
C_COMPILER = shlex.split(os.environ.get("CC", "cc"))
CXX_COMPILER = shlex.split(os.environ.get("CXX", "c++"))
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]


def build(command: list[str | Path]) -> None:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources that the package ships, all of them, as a strict C compiler takes them."""
    directory = tmp_path_factory.mktemp("core")
    include = Path(get_include())
    for source in sorted(include.glob("*.c")):
        build([*C_COMPILER, "-std=c11", "-O1", *WARNINGS, "-c", source, "-o", directory / f"{source.stem}.o"])
    return directory


@pytest.fixture(params=["reader.c", "reader.cpp"])
def program(request: pytest.FixtureRequest, core: Path, tmp_path: Path) -> Path:
    example = EXAMPLES / request.param
    compiler = [*C_COMPILER, "-std=c11"] if example.suffix == ".c" else [*CXX_COMPILER, "-std=c++17"]
    output = tmp_path / "reader"
    flags = ["-O1", *WARNINGS, f"-I{get_include()}", "-pthread"]
    build([*compiler, *flags, example, *sorted(core.glob("*.o")), "-o", output])
    return output


def picture(number: int) -> np.ndarray:
    return np.full(SHAPE, number, np.uint8)


def test_the_package_ships_header_and_sources() -> None:
    include = Path(get_include())
    header = (include / "billiards_shm.h").read_text()
    assert "bshm_reader_acquire" in header
    assert not re.search(r"\b_Atomic\b|\bbool\b|\blong\b", re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL))
    systems = {"platform_linux.c", "platform_macos.c", "platform_windows.c"}
    assert systems <= {path.name for path in include.glob("*.c")}


@pytest.mark.parametrize("standard", ["c++11", "c++20"])
def test_any_cxx_compiler_takes_the_header(standard: str, tmp_path: Path) -> None:
    source = tmp_path / "only.cpp"
    source.write_text('#include "billiards_shm.h"\nstatic_assert(sizeof(bshm_identity) == 128, "layout");\n')
    build([*CXX_COMPILER, f"-std={standard}", *WARNINGS, f"-I{get_include()}", "-c", source, "-o", tmp_path / "only.o"])


def test_a_program_reads_frames_as_they_come_and_ends_with_the_writer(program: Path, segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.write_frame(picture(1))
        with subprocess.Popen([program, segment_name], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline()]
            assert len(inspect_segment(segment_name).readers) == 1
            for number in range(2, 11):
                writer.write_frame(picture(number))
                lines.append(process.stdout.readline())  # it has read this one before the next comes
            writer.close()
            rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert rest == ""
    found = [re.match(r"(\d+): 80 x 60 x 3, mean ([\d.]+)", line) for line in lines]
    assert [(int(match[1]), float(match[2])) for match in found if match] == [(n, float(n)) for n in range(1, 11)]


def test_a_program_stops_after_the_frames_it_was_asked_for(program: Path, segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.write_frame(picture(7))
        finished = subprocess.run([program, segment_name, "1"], capture_output=True, text=True, timeout=30, check=False)
    assert finished.returncode == 0
    assert finished.stdout.startswith("1: 80 x 60 x 3, mean 7.0")


def test_a_program_says_what_is_wrong_with_a_name(program: Path) -> None:
    finished = subprocess.run([program, "/billiards_video"], capture_output=True, text=True, timeout=30, check=False)
    assert finished.returncode == 1
    assert "leave the slash out" in finished.stderr

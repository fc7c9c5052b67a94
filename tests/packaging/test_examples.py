"""Programs in C and C++, built from what the package ships, read what a Python writer publishes."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from repository import ROOT

from billiards_shm import SharedMemoryFrameWriter, get_include, inspect_segment

pytestmark = pytest.mark.xdist_group("examples in C")

EXAMPLES = ROOT / "examples"
SHAPE = (60, 80, 3)
C_COMPILER = shlex.split(os.environ.get("CC", "cc"))
CXX_COMPILER = shlex.split(os.environ.get("CXX", "c++"))
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]


def build(command: list[str | Path], **options: Any) -> None:
    finished = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert finished.returncode == 0, finished.stderr


@pytest.fixture(scope="module", params=["reader.c", pytest.param("reader.cpp", marks=pytest.mark.slow)])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built with the commands in its own comment."""
    directory = tmp_path_factory.mktemp("example")
    example = shutil.copy(EXAMPLES / request.param, directory)
    commands = re.findall(r"^//     ((?:include=|cc |c\+\+ ).*)$", Path(example).read_text(), re.MULTILINE)
    assert commands[0].startswith("include=")
    assert any('"$include"/platform/*.c' in command for command in commands)
    python = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    build(["sh", "-ec", "\n".join(commands)], cwd=directory, env=os.environ | python)
    return directory / "reader"


@pytest.mark.parametrize("source", sorted(Path(get_include()).rglob("*.c")), ids=lambda path: path.name)
def test_a_strict_c_compiler_accepts_every_source(source: Path) -> None:
    build([*C_COMPILER, "-std=c11", "-O1", "-fsyntax-only", *WARNINGS, source])


@pytest.mark.parametrize("example", ["reader.c", pytest.param("reader.cpp", marks=pytest.mark.slow)])
def test_a_strict_compiler_accepts_the_example(example: str) -> None:
    compiler = [*C_COMPILER, "-std=c11"] if example.endswith(".c") else [*CXX_COMPILER, "-std=c++17"]
    build([*compiler, "-O1", "-fsyntax-only", *WARNINGS, f"-I{get_include()}", EXAMPLES / example])


def picture(number: int) -> np.ndarray:
    return np.full(SHAPE, number, np.uint8)


def test_the_package_ships_header_and_sources() -> None:
    include = Path(get_include())
    header = (include / "billiards_shm.h").read_text()
    assert "bshm_reader_acquire" in header
    assert not re.search(r"\b_Atomic\b|\bbool\b|\blong\b", re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL))
    systems = {"linux.c", "macos.c", "windows_files.c"}
    assert systems <= {path.name for path in include.glob("platform/*.c")}


@pytest.mark.slow
@pytest.mark.parametrize("standard", ["c++11", "c++20"])
def test_any_cxx_compiler_accepts_the_header(standard: str, tmp_path: Path) -> None:
    source = tmp_path / "only.cpp"
    source.write_text('#include "billiards_shm.h"\n')
    build([*CXX_COMPILER, f"-std={standard}", *WARNINGS, f"-I{get_include()}", "-c", source, "-o", tmp_path / "only.o"])


def test_a_program_reads_frames_as_they_arrive_and_ends_with_the_writer(program: Path, segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.write_frame(picture(1))
        with subprocess.Popen([program, segment_name], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline()]
            assert len(inspect_segment(segment_name).readers) == 1
            for number in range(2, 11):
                writer.write_frame(picture(number))
                lines.append(process.stdout.readline())  # it has read this one before the next arrives
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


def test_a_program_reports_what_is_wrong_with_a_name(program: Path) -> None:
    finished = subprocess.run([program, "/billiards_video"], capture_output=True, text=True, timeout=30, check=False)
    assert finished.returncode == 1
    assert "leave the slash out" in finished.stderr

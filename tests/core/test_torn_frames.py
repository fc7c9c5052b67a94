"""Promises 1, 2 and 4 under stress: whichever process is stopped, killed or replaced, no frame is ever torn.

Set BILLIARDS_SHM_STRESS_SECONDS for a longer run: `BILLIARDS_SHM_STRESS_SECONDS=3600 pytest -m slow -k torn_in -s`.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from repository import SUPPORT
from segments_under_test import path_of
from stress import LINE, PLANTS, SHAPES, draw, wrong_lines

SECONDS = float(os.environ.get("BILLIARDS_SHM_STRESS_SECONDS", "60"))


@pytest.fixture
def directory(segment_name: str) -> Iterator[Path]:
    """A place in shared memory for the segment, and for what killed creators leave next to it."""
    path = path_of(segment_name)
    path.mkdir()
    path.chmod(0o755)  # observers are other users
    yield path
    shutil.rmtree(path)


def stress(directory: Path, seconds: float, plant: str | None = None) -> dict[str, Any]:
    """The counts of a run, which has to succeed."""
    command = [sys.executable, str(SUPPORT / "stress.py"), str(directory / "segment")]
    command += [f"--seconds={seconds}", *([f"--plant={plant}"] if plant else [])]
    environment = os.environ | {"PYTHONPATH": str(SUPPORT)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds + 90, check=False)
    print(ended.stdout, ended.stderr, sep="\n")
    assert ended.returncode == 0
    assert plant or not ended.stderr
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    assert result["failures"] == [], "only killed processes end, and none ends with an error"
    return result


def check(directory: Path, result: dict[str, Any]) -> None:
    assert result["torn"] == 0
    assert result["unordered"] == 0, "numbers rise, over every takeover and replacement"
    assert result["dropped"] == result["broken"] == 0, "no reader ever cost the writer a frame"
    assert result["idle"] == [], "every kind of reader reads"
    assert result["frames"] > 0
    assert 0 < result["copies"] < result["reads"] < result["verified"]
    assert min(result[each] for each in ("kills", "writer_kills", "stops", "replaced")) > 0
    left = [path.name for path in directory.iterdir() if not path.name.startswith(".bshm-")]
    assert left == [], "a clean end removes the name"
    if os.environ.get("CI"):
        assert result["observers"] > 0, "only root can make a process an observer: run this as root"
    counts = ", ".join(
        f"{result[each]} {each}"
        for each in ("frames", "reads", "verified", "copies", "retries", "kills", "writer_kills", "stops", "replaced")
    )
    print(f"{result['seconds']:.0f} s, {result['readers']} readers, {result['observers']} of them observers: {counts}")


def test_no_frame_is_torn_in_seconds_of_stops_kills_takeovers_and_replacements(directory: Path) -> None:
    check(directory, stress(directory, 3))


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
def test_no_frame_is_torn_in_a_minute_of_stops_kills_takeovers_and_replacements(directory: Path) -> None:
    check(directory, stress(directory, SECONDS))


@pytest.mark.parametrize("plant", PLANTS)
def test_torn_frames_are_found_when_a_reader_uses_no_pin_or_clears_the_pins_of_others(
    directory: Path, plant: str
) -> None:
    result = stress(directory, 20, plant)
    assert result["torn"] > 0
    print(f"{plant}: {result['torn']} torn of {result['verified']} looks")


@given(st.sampled_from(SHAPES), st.integers(1, 2**57), st.integers(0), st.integers(1, 255))
def test_a_single_wrong_byte_is_found(shape: tuple[int, ...], number: int, at: int, change: int) -> None:
    frame = np.empty(shape, np.uint8)
    draw(frame, number)
    assert wrong_lines(frame, number) == 0
    frame.reshape(-1)[at % frame.nbytes] ^= change
    assert wrong_lines(frame, number) == 1


@given(st.sampled_from(SHAPES), st.integers(1, 2**57), st.integers(-5, 5), st.integers(0))
def test_the_lines_of_another_frame_are_found(shape: tuple[int, ...], number: int, distance: int, lines: int) -> None:
    frame, other = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    draw(frame, number)
    draw(other, number + distance)
    lines %= frame.nbytes // LINE + 1
    frame.reshape(-1)[: lines * LINE] = other.reshape(-1)[: lines * LINE]
    assert wrong_lines(frame, number) == (lines if distance else 0)

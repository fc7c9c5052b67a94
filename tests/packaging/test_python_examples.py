"""The programs of examples/: they run, and two strict type checkers find nothing in them."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from jpegs import as_frame, jpeg
from repository import ROOT

import billiards_shm
from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter

EXAMPLES = ROOT / "examples"
PACKAGE = Path(billiards_shm.__file__).parent
SOURCES = sorted(EXAMPLES.glob("*.py"))


@pytest.fixture
def capturing(name: str) -> Iterator[str]:
    """The name that a capture process publishes the demo under."""
    command = [sys.executable, "-m", "billiards_shm", "capture", "demo", "--name", name, "--resolution", "320x240"]
    with subprocess.Popen([*command, "--fps", "60"], stderr=subprocess.DEVNULL) as process:
        try:
            with SharedMemoryFrameReader(name) as reader:
                reader.attach(timeout=20)
                assert reader.read_frame(timeout=20)[0] is not None
            yield name
        finally:
            process.terminate()


def output_of(example: str, *arguments: object) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / example, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_numpy_statistics_sees_that_the_picture_changes(capturing: str) -> None:
    lines = output_of("numpy_statistics.py", capturing, "--frames", 5)
    assert len(lines) == 5
    assert any(float(line.rpartition(" ")[2]) > 0 for line in lines[1:])


def test_opencv_consumer_finds_edges(capturing: str) -> None:
    lines = output_of("opencv_consumer.py", capturing, "--frames", 3)
    assert len(lines) == 3
    assert all(int(line.removeprefix("320x240: ").split()[0]) > 0 for line in lines)


def test_async_reader_watches_its_sources_at_the_same_time(capturing: str) -> None:
    lines = output_of("async_reader.py", capturing, capturing, "--frames", 4)
    assert len([line for line in lines if "frame " in line]) == 8
    assert len([line for line in lines if line.endswith("frames missed")]) == 2


def test_publish_publishes_frames_that_readers_see(segment_name: str) -> None:
    with subprocess.Popen(
        [sys.executable, EXAMPLES / "publish.py", segment_name, "--frames", "20", "--fps", "40"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        with SharedMemoryFrameReader(segment_name) as reader:
            frame, metadata = reader.read_frame(timeout=None)
            assert frame is not None
            assert metadata is not None
            assert frame.shape == (480, 640, 3)
            first = 4 * (metadata.sequence - 1) % 256
            assert frame[0, :3, 0].tolist() == [first, (first + 1) % 256, (first + 2) % 256]
            del frame
        said, _ = process.communicate(timeout=30)
    assert said == f"20 frames published as {segment_name}\n"


PICTURE = cv2.resize(np.random.default_rng(1).integers(60, 190, (3, 3, 3), np.uint8), (64, 48))


@contextmanager
def published(name: str, pixel_format: str, *frames: np.ndarray) -> Iterator[None]:
    """Publishes each frame ten times, again and again."""
    done = threading.Event()

    def publish() -> None:
        with SharedMemoryFrameWriter(name, frames[0].shape, pixel_format=pixel_format) as writer:
            while not done.wait(0.02):
                writer.write_frame(frames[writer.sequence // 10 % len(frames)])

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_numpy_statistics_refuses_jpegs(segment_name: str) -> None:
    with published(segment_name, "MJPG", as_frame(jpeg(PICTURE))):
        command = [sys.executable, EXAMPLES / "numpy_statistics.py", segment_name]
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "whose bytes are not pixels" in refused.stderr


def test_healthy_is_silent_about_a_healthy_source_and_otherwise_says_what_is_wrong(capturing: str) -> None:
    assert output_of("healthy.py", capturing) == []
    wrong = subprocess.run(
        [sys.executable, EXAMPLES / "healthy.py", capturing, "--max-age", "0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.returncode == 1
    assert "0 s are allowed" in wrong.stderr


def test_every_example_is_run() -> None:
    elsewhere = ROOT / "tests" / "serve" / "test_serve_recipes.py"
    text = Path(__file__).read_text() + elsewhere.read_text()
    assert [path.name for path in SOURCES if f'"{path.name}"' not in text] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "checker",
    [
        pytest.param(["mypy", "--strict", "--python-version", "3.11"], id="mypy"),
        pytest.param(["pyright", "--pythonversion", "3.11", "--pythonpath", sys.executable], id="pyright"),
    ],
)
def test_strict_type_checkers_find_nothing(checker: list[str], tmp_path: Path) -> None:
    # In another folder, as a user would, without this project's configuration.
    for path in SOURCES:
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "extraPaths": [str(PACKAGE.parent)]})
    )
    done = subprocess.run(
        [sys.executable, "-m", *checker, "."],
        cwd=tmp_path,
        env=os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1", "MYPYPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

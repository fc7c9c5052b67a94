"""A camera behind OpenCV's own V4L2 code: bench/camera.c, which the capture process preloads."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from c_programs import COMPILER
from jpegs import as_frame, jpeg, without_tables
from repository import ROOT

from billiards_shm import SegmentInfo, SharedMemoryFrameReader, inspect_segment
from billiards_shm.jpeg import complete

CAMERA = "/dev/camera-of-tests"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("camera") / "camera.so"
    command = [*COMPILER, "-shared", "-fPIC", "-o", built, ROOT / "bench" / "camera.c", "-ldl"]
    subprocess.run([str(each) for each in command], check=True)
    return built


@contextmanager
def capturing(library: Path, folder: Path, sent: list[bytes], name: str, publish: str) -> Iterator[None]:
    for number, data in enumerate(sent):
        (folder / f"{number}.jpg").write_bytes(data)
    command = [sys.executable, "-m", "billiards_shm", "capture", CAMERA, "--name", name, "--publish", publish]
    camera = {"LD_PRELOAD": str(library), "CAMERA": CAMERA, "CAMERA_JPEGS": str(folder)}
    process = subprocess.Popen([*command, "--fourcc", "MJPG"], env=os.environ | camera)
    try:
        yield
    finally:
        process.terminate()
        assert process.wait() == 0


def seen(name: str, frames: int) -> tuple[set[bytes], SegmentInfo]:
    """The pixels of that many frames, and the segment's state afterwards."""
    found = set()
    with SharedMemoryFrameReader(name) as reader:
        reader.attach(timeout=60)
        for _ in range(frames):
            frame, metadata = reader.read_frame(timeout=60, copy=True)
            assert frame is not None
            assert metadata is not None
            assert metadata.clock == "driver"
            assert 0 <= time.monotonic_ns() - metadata.capture_time_ns < 60e9
            found.add(frame.tobytes())
    return found, inspect_segment(name)


WHOLE = [jpeg(np.full((1080, 1920, 3), level, np.uint8)) for level in (40, 90, 140)]
DAMAGED = [WHOLE[0][:-9], b"no JPEG", b"", b"\xff", WHOLE[1][: len(WHOLE[1]) // 2]]


@pytest.mark.parametrize("publish", ["native", "bgr"])
def test_damaged_frames_and_empty_buffers_of_a_camera_are_counted_and_left_out(
    library: Path, tmp_path: Path, segment_name: str, publish: str
) -> None:
    sent = [WHOLE[0], DAMAGED[0], DAMAGED[1], without_tables(WHOLE[1]), *DAMAGED[2:], WHOLE[2]]
    whole = [bytes(complete(data)) for data in sent if data not in DAMAGED]
    with capturing(library, tmp_path, sent, segment_name, publish):
        found, known = seen(segment_name, 12)
    if publish == "bgr":
        whole = [cv2.imdecode(as_frame(data), cv2.IMREAD_COLOR).tobytes() for data in whole]
    assert found <= set(whole)
    assert len(found) > 1
    assert known.unreadable >= 5
    assert known.reconnects == 0

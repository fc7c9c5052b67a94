"""A real video file, the capture process as a service starts it, readers in other processes.

BILLIARDS_SHM_E2E_SECONDS=60 and BILLIARDS_SHM_E2E_SIZE=3840x2160 make it the long run on 4K.
"""

import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from videos import decode_all, make_clip

from billiards_shm import SegmentStatus, SharedMemoryFrameReader, inspect_segment, list_segments, remove_stale_segments

SECONDS = float(os.environ.get("BILLIARDS_SHM_E2E_SECONDS", "4"))
SIZE = os.environ.get("BILLIARDS_SHM_E2E_SIZE", "1280x720")
FPS = 24

# The snippet of the replaced system's users, told to say what it saw.
READER = """
import hashlib, json, sys, time
from billiards_shm import SharedMemoryFrameReader

reader = SharedMemoryFrameReader(name=sys.argv[1])
reader.attach(timeout=5.0)
deadline = time.monotonic() + float(sys.argv[2])
while time.monotonic() < deadline:
    frame, metadata = reader.read_frame(timeout=1)
    if frame is not None:
        digest = hashlib.sha1(frame.data).hexdigest() if sys.argv[3] == "hash" else ""
        print(json.dumps([metadata.sequence, metadata.skipped, metadata.zero_copy, digest]), flush=True)
"""


@dataclass(frozen=True)
class Seen:
    """One line that a reader printed."""

    sequence: int
    skipped: int
    zero_copy: bool
    digest: str


class ReaderProcess:
    """A reader in a process of its own."""

    def __init__(self, name: str, seconds: float, *, hashing: bool) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", READER, name, str(seconds), "hash" if hashing else "-"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def seen(self) -> list[Seen]:
        """All it saw, once it has ended well."""
        out, err = self.process.communicate(timeout=SECONDS + 30)
        assert (self.process.returncode, err) == (0, "")
        return [Seen(*json.loads(line)) for line in out.splitlines()]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """H.264 by ffmpeg, which CI has; else MPEG-4 by OpenCV."""
    folder = tmp_path_factory.mktemp("end_to_end")
    width, height = map(int, SIZE.split("x"))
    if shutil.which("ffmpeg") is None:
        assert not os.environ.get("CI"), "ffmpeg is missing"
        return make_clip(folder / "clip.mp4", 3 * FPS, (width, height), FPS)
    path = folder / "clip.mp4"
    source = f"testsrc2=size={SIZE}:rate={FPS}:duration=3"
    options = ["-pix_fmt", "yuv420p", "-preset", "ultrafast", str(path)]
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, *options], check=True)
    return path


@pytest.fixture(scope="module")
def digests(clip: Path) -> list[str]:
    """What OpenCV decodes, frame by frame."""
    return [hashlib.sha1(frame.data).hexdigest() for frame in decode_all(clip)]


@pytest.fixture
def service(clip: Path, segment_name: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``python -m billiards_shm`` with nothing but the environment."""
    environment = os.environ | {
        "VIDEO_FILE": str(clip),
        "BILLIARDS_SHM__VIDEO__SHARED_MEMORY_NAME": segment_name,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "billiards_shm"], env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL
    ) as process:
        yield process
        process.kill()
    remove_stale_segments([segment_name])


def test_one_reader_gets_every_frame_once_and_pixel_for_pixel(
    service: subprocess.Popen[bytes], segment_name: str, digests: list[str]
) -> None:
    missed = []
    for _ in range(3):  # a reader that is not given the processor for 40 ms misses a frame, and is told
        seen = ReaderProcess(segment_name, SECONDS, hashing=True).seen()
        assert all(one.zero_copy for one in seen)
        for one in seen:
            assert one.digest == digests[(one.sequence - 1) % len(digests)], f"frame {one.sequence} is another picture"
        for before, after in itertools.pairwise(seen):
            assert after.sequence == before.sequence + 1 + after.skipped
        missed.append(sum(one.skipped for one in seen))
        if missed[-1] == 0:
            break
    print(f"{len(seen)} frames, missed in each attempt: {missed}")
    assert missed[-1] == 0
    assert len(seen) >= (SECONDS - 2) * FPS


def test_three_readers_at_once_miss_no_frame_that_is_not_counted(
    service: subprocess.Popen[bytes], segment_name: str
) -> None:
    readers = [ReaderProcess(segment_name, SECONDS, hashing=False) for _ in range(3)]
    for reader in readers:
        seen = reader.seen()
        assert len(seen) > FPS
        for before, after in itertools.pairwise(seen):
            assert after.sequence == before.sequence + 1 + after.skipped


def test_a_killed_reader_then_a_killed_writer_then_a_new_one_and_the_survivor_goes_on(
    service: subprocess.Popen[bytes], segment_name: str, clip: Path, tmp_path: Path
) -> None:
    victim = ReaderProcess(segment_name, 60, hashing=False)
    with SharedMemoryFrameReader(segment_name) as survivor:
        survivor.attach(timeout=10)
        assert victim.process.stdout is not None
        victim.process.stdout.readline()
        victim.process.kill()
        victim.process.communicate()
        frame, before = survivor.read_frame(timeout=5)
        assert frame is not None
        assert before is not None
        service.send_signal(signal.SIGKILL)
        service.wait()
        assert survivor.status is SegmentStatus.DEAD
        command = [sys.executable, "-m", "billiards_shm", "capture", str(clip), "--name", segment_name]
        with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as successor:
            numbers = []
            while len(numbers) < 10:
                _, metadata = survivor.read_frame(timeout=10)
                assert metadata is not None
                numbers.append(metadata.sequence)
            assert numbers == sorted(set(numbers))
            assert numbers[0] > before.sequence
            assert metadata.generation != before.generation
            assert inspect_segment(segment_name).status is SegmentStatus.LIVE
            successor.terminate()
            assert successor.wait(timeout=10) == 0
    assert remove_stale_segments([segment_name]) == []
    assert segment_name not in [info.name for info in list_segments()]

"""A real video file, the capture process started as by a service, readers in other processes."""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from videos import RECORDING, decode_all

from billiards_shm import SegmentStatus, SharedMemoryFrameReader, inspect_segment, list_segments, remove_stale_segments

# The snippet used with the replaced system, changed to print what it saw.
READER = """
import hashlib, json, sys
from billiards_shm import SharedMemoryFrameReader

reader = SharedMemoryFrameReader(name=sys.argv[1])
reader.attach(timeout=30.0)
for _ in range(int(sys.argv[2])):
    frame, metadata = reader.read_frame(timeout=30)
    digest = hashlib.sha1(frame.data).hexdigest()
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
    """A reader of that many frames, in its own process."""

    def __init__(self, name: str, frames: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", READER, name, str(frames)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def seen(self) -> list[Seen]:
        """All it saw, once it has ended successfully."""
        out, err = self.process.communicate(timeout=100)
        assert (self.process.returncode, err) == (0, "")
        return [Seen(*json.loads(line)) for line in out.splitlines()]


@pytest.fixture
def service(segment_name: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``python -m billiards_shm`` configured only by the environment."""
    environment = os.environ | {
        "VIDEO_FILE": str(RECORDING),
        "BILLIARDS_SHM__VIDEO__SHARED_MEMORY_NAME": segment_name,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "billiards_shm"], env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL
    ) as process:
        yield process
        process.kill()
    remove_stale_segments([segment_name])


def test_three_readers_get_frames_pixel_for_pixel_and_the_count_of_missed_ones(
    service: subprocess.Popen[bytes], segment_name: str
) -> None:
    digests = [hashlib.sha1(frame.data).hexdigest() for frame in decode_all(RECORDING)]
    readers = [ReaderProcess(segment_name, 40) for _ in range(3)]
    for reader in readers:
        seen = reader.seen()
        assert len(seen) == 40
        assert all(one.zero_copy for one in seen)
        for one in seen:
            assert one.digest == digests[(one.sequence - 1) % len(digests)], f"frame {one.sequence} is another picture"
        for before, after in itertools.pairwise(seen):
            assert after.sequence == before.sequence + 1 + after.skipped
        print(f"40 frames, {sum(one.skipped for one in seen)} missed")


def test_after_a_killed_reader_a_killed_writer_and_a_new_one_the_survivor_goes_on(
    service: subprocess.Popen[bytes], segment_name: str, tmp_path: Path
) -> None:
    victim = ReaderProcess(segment_name, 10**6)
    with SharedMemoryFrameReader(segment_name) as survivor:
        survivor.attach(timeout=40)
        assert victim.process.stdout is not None
        victim.process.stdout.readline()
        victim.process.kill()
        victim.process.communicate()
        frame, before = survivor.read_frame(timeout=40)
        assert frame is not None
        assert before is not None
        service.send_signal(signal.SIGKILL)
        service.wait()
        assert survivor.status is SegmentStatus.DEAD
        command = [sys.executable, "-m", "billiards_shm", "capture", str(RECORDING), "--name", segment_name]
        with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as successor:
            numbers = []
            while len(numbers) < 10:
                _, metadata = survivor.read_frame(timeout=40)
                assert metadata is not None
                numbers.append(metadata.sequence)
            assert numbers == sorted(set(numbers))
            assert numbers[0] > before.sequence
            assert metadata.generation != before.generation
            assert inspect_segment(segment_name).status is SegmentStatus.LIVE
            successor.terminate()
            assert successor.wait(timeout=40) == 0
    assert remove_stale_segments([segment_name]) == []
    assert segment_name not in [info.name for info in list_segments()]

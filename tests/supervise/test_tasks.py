"""What a supervisor sees of a process from outside, and what it removes when that has ended."""

import os

import pytest
from child_processes import Child
from segments_under_test import SHAPE, path_of, picture

from billiards_shm import SharedMemoryFrameWriter, remove_stale_segments
from billiards_shm.config.model import CameraConfig, Settings, SourceConfig, native_name
from billiards_shm.supervise.tasks import CaptureTask


def task(name: str, **camera: str) -> CaptureTask:
    return CaptureTask(Settings(), SourceConfig(name=name, camera=CameraConfig(device_id="demo", **camera)))


def test_placeholders_are_no_progress(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.update_source(captured=7)
        writer.write_frame(picture(1))
        assert task(segment_name).captured(os.getpid()) == 7
        writer.write_frame(picture(2), online=False)
        assert task(segment_name).captured(os.getpid()) == 7
        writer.update_source(captured=8)
        assert task(segment_name).captured(os.getpid()) == 8


@pytest.mark.parametrize("publish", ["bgr", "both"])
def test_every_segment_of_a_killed_process_is_removed_when_no_successor_follows(
    segment_name: str, publish: str
) -> None:
    names = [segment_name, native_name(segment_name)]
    with Child(
        "writers = [SharedMemoryFrameWriter(name, SHAPE) for name in sys.argv[1:]]; say(); told()", *names
    ) as child:
        child.says()
        child.kill()
    task(segment_name, publish=publish).stopped()
    # Where native frames are not published, a segment of that name is another source's.
    assert [path_of(name).exists() for name in names] == [False, publish == "bgr"]
    remove_stale_segments(names)

"""Promises kept on every platform, through public names only: this tests wheels where there is no /dev/shm."""

import time

import numpy as np
import pytest
from child_processes import Child
from segments_under_test import SHAPE, new_frame, picture, sees, wait_until

from billiards_shm import (
    SegmentNotFoundError,
    SegmentStatus,
    SharedMemoryFrameReader,
    SharedMemoryFrameWriter,
    WriterExistsError,
    inspect_segment,
    list_segments,
    remove_stale_segments,
)

READS = """
with SharedMemoryFrameReader(sys.argv[1]) as reader:
    reader.attach(timeout=20)
    while True:
        frame, metadata = reader.read_frame(timeout=20)
        say(metadata.sequence, metadata.zero_copy, sees(frame, metadata.sequence))
        if told() == "end":
            break
"""
WRITES = "write_and_wait(sys.argv[1])"


def test_a_waiting_reader_in_another_process_gets_every_frame(name: str) -> None:
    with SharedMemoryFrameWriter(name, SHAPE) as writer, Child(READS, name) as reader:
        wait_until(lambda: inspect_segment(name).readers, "the reader")
        for number in range(1, 51):
            assert writer.write_frame(picture(number)) == number
            assert reader.says() == f"{number} True True"
            reader.tell()
        writer.write_frame(picture(51))
        assert reader.says() == "51 True True"
        reader.tell("end")
        reader.ends_well()


@pytest.mark.parametrize("shape", [(1080, 1920, 3), (719, 1277, 3), (1, 1, 3), (480, 641)])
def test_every_size_arrives_to_the_last_byte(segment_name: str, shape: tuple[int, ...]) -> None:
    with SharedMemoryFrameWriter(segment_name, shape) as writer, SharedMemoryFrameReader(segment_name) as reader:
        for number in range(1, 6):
            writer.write_frame(picture(number, shape))
            assert sees(new_frame(reader)[0], number)


def test_a_crop_is_copied_row_by_row(segment_name: str) -> None:
    whole = picture(1, (1100, 2000, 3))
    crop = whole[7:1087, 13:1933]
    with SharedMemoryFrameWriter(segment_name, crop.shape) as writer, SharedMemoryFrameReader(segment_name) as reader:
        writer.write_frame(crop)
        assert np.array_equal(new_frame(reader)[0], crop)


def test_a_view_is_read_only_never_changes_and_outlives_everything(segment_name: str) -> None:
    writer = SharedMemoryFrameWriter(segment_name, SHAPE)
    reader = SharedMemoryFrameReader(segment_name)
    writer.write_frame(picture(1))
    view, metadata = new_frame(reader)
    assert metadata.zero_copy
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0, 0] = 1
    for number in range(2, 500):
        writer.write_frame(picture(number))
    assert sees(view, 1)
    reader.close()
    writer.close()
    assert sees(view, 1)
    with SharedMemoryFrameWriter(segment_name, SHAPE) as successor:
        successor.write_frame(picture(2))
        assert sees(view, 1)


def test_a_name_has_one_writer(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    with pytest.raises(WriterExistsError, match=segment_name):
        SharedMemoryFrameWriter(segment_name, SHAPE)
    assert segment_name in {segment.name for segment in list_segments()}


def test_a_killed_writer_is_seen_as_dead_and_its_name_is_taken_over(name: str) -> None:
    with Child(WRITES, name) as killed, SharedMemoryFrameReader(name) as reader:
        assert killed.says() == "written"
        view, _ = new_frame(reader)
        assert reader.status is SegmentStatus.LIVE
        killed.kill()
        wait_until(lambda: reader.status is SegmentStatus.DEAD, "the death of the writer")
        with SharedMemoryFrameWriter(name, SHAPE) as successor:
            assert successor.write_frame(picture(2)) == 2, "numbers go on"
            assert sees(new_frame(reader)[0], 2)
            assert sees(view, 1)


def test_slots_held_by_a_killed_reader_are_free_again(name: str) -> None:
    with (
        SharedMemoryFrameWriter(name, SHAPE, slots=3) as writer,
        SharedMemoryFrameReader(name) as reader,
        Child(READS, name) as holds,
    ):
        wait_until(lambda: inspect_segment(name).readers, "the reader")
        writer.write_frame(picture(1))
        assert holds.says() == "1 True True"
        writer.write_frame(picture(2))
        assert not new_frame(reader)[1].zero_copy, "three slots are one lease, and that is held"
        holds.kill()

        def lent() -> bool:
            number = writer.write_frame(picture(writer.sequence + 1))
            frame, metadata = new_frame(reader)
            assert sees(frame, number)
            return bool(metadata.zero_copy)

        wait_until(lent, "a lease")


def test_a_killed_writers_segment_is_listed_and_removed(name: str) -> None:
    with Child(WRITES, name) as killed:
        assert killed.says() == "written"
        assert remove_stale_segments([name]) == [], "its writer lives"
        killed.kill()
    wait_until(lambda: inspect_segment(name).status is SegmentStatus.DEAD, "the death of the writer")
    assert remove_stale_segments([name]) == [name]
    with pytest.raises(SegmentNotFoundError):
        inspect_segment(name)


def test_a_wait_lasts_as_long_as_requested(reader: SharedMemoryFrameReader) -> None:
    begun = time.perf_counter()  # on Windows monotonic() moves in steps of 16 ms
    assert reader.read_frame(timeout=0.3) == (None, None)
    assert time.perf_counter() - begun >= 0.3


def test_iteration_ends_with_the_last_frame_when_the_writer_closes(segment_name: str) -> None:
    writer = SharedMemoryFrameWriter(segment_name, SHAPE)
    with SharedMemoryFrameReader(segment_name) as reader:
        writer.write_frame(picture(1))
        frames = iter(reader)
        assert sees(next(frames)[0], 1)
        writer.write_frame(picture(2))
        writer.close()
        assert sees(next(frames)[0], 2)
        assert list(frames) == []

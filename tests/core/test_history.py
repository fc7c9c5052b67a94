"""Frames before the newest: kept by the writer, read one after another, by number, and by time."""

import asyncio
import random
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from child_processes import Child
from segment_layout import opened
from segments_under_test import LARGER, SHAPE, flat, path_of, picture, sees, wait_until

from billiards_shm import (
    SegmentStatus,
    SharedMemoryFrameReader,
    SharedMemoryFrameWriter,
    SharedMemoryFullError,
    inspect_segment,
)

HISTORY = 4


@pytest.fixture
def writer(segment_name: str) -> Iterator[SharedMemoryFrameWriter]:
    with SharedMemoryFrameWriter(segment_name, SHAPE, history=HISTORY) as made:
        yield made


def write(writer: SharedMemoryFrameWriter, numbers: range) -> None:
    for number in numbers:
        assert writer.write_frame(picture(number), capture_time_ns=number * 1000) == number


def rest(reader: SharedMemoryFrameReader, **options: Any) -> list[tuple[int, int]]:
    """Number and `skipped` of each frame that can now be read in turn."""
    found = []
    while True:
        frame, metadata = reader.read_next(**options)
        if frame is None:
            return found
        assert metadata is not None
        assert sees(frame, metadata.sequence)
        found.append((metadata.sequence, metadata.skipped))


# ---------------------------------------------------------------- the writer


def test_history_has_slots_of_its_own_with_memory_from_the_start(
    segment_name: str, writer: SharedMemoryFrameWriter
) -> None:
    assert writer.statistics.backed_slots == 3 + HISTORY
    found = inspect_segment(segment_name)
    assert (found.slots, found.history) == (8, HISTORY)
    with opened(path_of(segment_name)) as segment:
        identity = segment.identity
        assert [identity[field] for field in ("slot_count", "token_count", "history")] == [8 + HISTORY, 6, HISTORY]
    write(writer, range(1, 50))
    assert writer.statistics.backed_slots == 3 + HISTORY, "and no more while no reader holds a frame"


@pytest.mark.parametrize(
    ("slots", "history", "allowed"), [(8, 55, 54), (8, -1, 54), (62, 1, 0), (3, 60, 59), (8, 1.5, 54)]
)
def test_slots_and_history_are_62_at_most(segment_name: str, slots: int, history: Any, allowed: int) -> None:
    with pytest.raises(ValueError, match=rf"history={history}: expected an integer from 0 to {allowed} with slots="):
        SharedMemoryFrameWriter(segment_name, SHAPE, slots=slots, history=history)
    with SharedMemoryFrameWriter(segment_name, SHAPE, slots=slots, history=allowed) as writer:
        write(writer, range(1, 70))


def test_a_history_that_memory_cannot_hold_is_an_error_with_the_bytes(segment_name: str) -> None:
    slot = 100_000 * 1_000_000
    needed = 131072 + 62 * -(-slot // 65536) * 65536
    with pytest.raises(SharedMemoryFullError, match=rf"the segment, with 62 slots, needs {needed} bytes"):
        SharedMemoryFrameWriter(segment_name, (100_000, 1_000_000), slots=3, history=59)


# ---------------------------------------------------------------- one after another


@pytest.mark.parametrize("copy", [False, True])
def test_every_frame_of_the_window_is_read_in_turn_and_the_others_are_counted(
    segment_name: str, writer: SharedMemoryFrameWriter, copy: bool
) -> None:
    with SharedMemoryFrameReader(segment_name) as reader:
        assert reader.read_next() == (None, None)
        write(writer, range(1, 4))
        assert rest(reader, copy=copy) == [(3, 0)], "the first is the newest"
        write(writer, range(4, 9))
        assert rest(reader, copy=copy) == [(n, 0) for n in range(4, 9)]
        write(writer, range(9, 20))
        assert rest(reader, copy=copy) == [(15, 6), (16, 0), (17, 0), (18, 0), (19, 0)]
        assert (reader.statistics.frames, reader.statistics.skipped) == (11, 6)
        write(writer, range(20, 23))
        frame, metadata = reader.read_frame()
        assert frame is not None
        assert (metadata.sequence, metadata.skipped) == (22, 2), "read_frame gives the newest, as ever"


def test_frames_in_turn_are_pinned_like_any_others(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    with SharedMemoryFrameReader(segment_name, max_leases=3) as reader:
        write(writer, range(1, 2))
        held = [reader.read_next()]
        write(writer, range(2, 4))
        held += [reader.read_next(), reader.read_next()]
        write(writer, range(4, 60))
        for number, (frame, metadata) in enumerate(held, start=1):
            assert frame is not None
            assert metadata.zero_copy
            assert not frame.flags.writeable
            assert sees(frame, number)


def test_waiting_for_the_next_frame_ends_with_it_or_with_the_timeout(
    segment_name: str, writer: SharedMemoryFrameWriter
) -> None:
    with SharedMemoryFrameReader(segment_name) as reader:
        assert reader.read_next(timeout=0.01) == (None, None)
        write(writer, range(1, 2))
        assert rest(reader, timeout=0.01) == [(1, 0)]
        with pytest.raises(ValueError, match="timeout=-1"):
            reader.read_next(timeout=-1)


def test_iteration_over_every_frame_ends_after_the_last_one_of_a_clean_close(segment_name: str) -> None:
    writer = SharedMemoryFrameWriter(segment_name, SHAPE, history=HISTORY)
    with SharedMemoryFrameReader(segment_name) as reader:
        write(writer, range(1, 2))
        frames = reader.frames(every=True, timeout=40.0)
        assert next(frames)[1].sequence == 1
        write(writer, range(2, 5))
        writer.close()
        assert [metadata.sequence for _, metadata in frames] == [2, 3, 4]


def test_asynchronous_iteration_gives_every_frame_too(segment_name: str) -> None:
    writer = SharedMemoryFrameWriter(segment_name, SHAPE, history=HISTORY)

    async def read() -> list[int]:
        found = []
        with SharedMemoryFrameReader(segment_name) as reader:
            async for frame, metadata in reader.frames(every=True, timeout=40.0):
                assert sees(frame, metadata.sequence)
                found.append(metadata.sequence)
                if metadata.sequence == 1:
                    write(writer, range(2, 6))
                if metadata.sequence == 5:
                    writer.close()
        return found

    write(writer, range(1, 2))
    assert asyncio.run(read()) == [1, 2, 3, 4, 5]


def test_without_history_every_frame_means_the_newest_and_one_warning(segment_name: str) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, SHAPE) as writer,
        SharedMemoryFrameReader(segment_name) as reader,
        SharedMemoryFrameReader(segment_name) as other,
    ):
        write(writer, range(1, 3))
        with pytest.warns(RuntimeWarning, match=f"'{segment_name}' keeps no history") as warned:
            _, metadata = reader.read_next()
        assert metadata is not None
        assert metadata.sequence == 2
        assert warned[0].filename == __file__
        write(writer, range(3, 6))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert rest(reader) == [(5, 2)]
        with pytest.warns(RuntimeWarning, match="history") as warned:
            assert next(other.frames(every=True))[1].sequence == 5
        assert warned[0].filename == __file__


def test_the_warning_waits_until_there_is_a_segment(segment_name: str) -> None:
    with SharedMemoryFrameReader(segment_name) as reader:
        assert reader.read_next() == (None, None)
        with SharedMemoryFrameWriter(segment_name, SHAPE):
            reader.attach()
            with pytest.warns(RuntimeWarning, match="keeps no history"):
                reader.read_next()


def test_the_next_frame_is_waited_for_in_any_format(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    with SharedMemoryFrameReader(segment_name) as reader:
        began = time.monotonic()
        assert reader.read_next(timeout=0.05, format="BGR24") == (None, None)
        assert time.monotonic() - began >= 0.05
        write(writer, range(1, 4))
        assert rest(reader, timeout=0.01, format="BGR24") == [(3, 0)]


@pytest.mark.parametrize("copy", [True, False])
def test_a_frame_of_the_window_is_a_copy_if_one_is_asked_for(
    segment_name: str, writer: SharedMemoryFrameWriter, copy: bool
) -> None:
    write(writer, range(1, 4))
    for name in (None, "BGR24"):
        with SharedMemoryFrameReader(segment_name) as reader:
            for frame, metadata in (
                reader.frame_at(2000, copy=copy, format=name),
                reader.read_frame(sequence=2, copy=copy, format=name),
                reader.read_next(copy=copy, format=name),
            ):
                assert frame is not None
                assert metadata.zero_copy is not copy
                assert frame.flags.writeable is copy


# ---------------------------------------------------------------- by number and by time


def test_a_frame_can_be_read_by_its_number_while_it_is_in_the_window(
    segment_name: str, writer: SharedMemoryFrameWriter
) -> None:
    with SharedMemoryFrameReader(segment_name) as reader:
        assert reader.read_frame(sequence=1) == (None, None)
        write(writer, range(1, 12))
        for number in (-1, 0, 1, 6, 12, 2**64, 2**100):
            assert reader.read_frame(sequence=number) == (None, None)
        for number in (7, 11, 9):
            frame, metadata = reader.read_frame(sequence=number, format="BGR24")
            assert frame is not None
            assert (metadata.sequence, metadata.skipped) == (number, 0)
            assert sees(frame, number)
            assert frame is not reader.read_frame(sequence=number, copy=True)[0]
        assert rest(reader) == [(11, 0)], "none of them counts as seen"
        with pytest.raises(ValueError, match=r"timeout=1\.0: a frame requested by its number is not waited for"):
            reader.read_frame(timeout=1.0, sequence=3)
        with pytest.raises(TypeError):
            reader.read_frame(sequence="3")  # type: ignore[arg-type]


def test_a_frame_can_be_read_by_its_time(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    with SharedMemoryFrameReader(segment_name) as reader:
        assert reader.frame_at(time.monotonic_ns()) == (None, None)
        write(writer, range(1, 12))
        for asked, number in [(7000, 7), (7499, 7), (7500, 7), (7501, 8), (11_000, 11), (10**30, 11)]:
            frame, metadata = reader.frame_at(asked)
            assert frame is not None
            assert (metadata.sequence, metadata.skipped) == (number, 0)
            assert sees(frame, number)
        for outside in (6999, 0, -(10**30)):
            assert reader.frame_at(outside) == (None, None)
        assert rest(reader) == [(11, 0)]


def test_a_time_after_all_frames_of_an_ended_segment_is_looked_up_in_the_next_one(segment_name: str) -> None:
    with SharedMemoryFrameReader(segment_name) as reader:
        with SharedMemoryFrameWriter(segment_name, SHAPE, history=4) as writer:
            for number in range(1, 4):
                writer.write_frame(picture(number), capture_time_ns=1000 * number)
            assert reader.read_next(timeout=30)[1] is not None
        with SharedMemoryFrameWriter(segment_name, SHAPE, history=4) as writer:
            writer.write_frame(picture(7), capture_time_ns=9000)
            # What came before its last frame is still found where that one was.
            assert reader.frame_at(2000)[1].generation != writer.generation
            wait_until(lambda: reader.frame_at(9500)[1].generation == writer.generation, "the next segment")


def test_a_closed_reader_says_so(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    reader = SharedMemoryFrameReader(segment_name)
    reader.close()
    for read in (reader.read_next, lambda: reader.read_frame(sequence=0), lambda: reader.frame_at(1)):
        with pytest.raises(ValueError, match="closed"):
            read()


# ---------------------------------------------------------------- from segment to segment


def test_a_replaced_segment_is_read_to_its_end_first(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    with SharedMemoryFrameReader(segment_name) as reader:
        write(writer, range(1, 2))
        assert rest(reader) == [(1, 0)]
        write(writer, range(2, 4))
        for number in (4, 5):
            assert writer.write_frame(picture(number, LARGER)) == number
        assert reader.status is SegmentStatus.LIVE
        found = [reader.read_next(timeout=40.0) for _ in range(4)]
        assert [(metadata.sequence, metadata.skipped) for _, metadata in found] == [(2, 0), (3, 0), (4, 0), (5, 0)]
        assert inspect_segment(segment_name).history == HISTORY


def test_after_a_clean_restart_numbers_begin_again_and_what_fell_out_is_counted(segment_name: str) -> None:
    with SharedMemoryFrameReader(segment_name) as reader:
        with SharedMemoryFrameWriter(segment_name, SHAPE, history=HISTORY) as writer:
            write(writer, range(1, 3))
            assert rest(reader) == [(2, 0)]
            write(writer, range(3, 5))
        with SharedMemoryFrameWriter(segment_name, SHAPE, history=HISTORY) as writer:
            write(writer, range(1, 8))
            found = [reader.read_next(timeout=40.0)[1] for _ in range(7)]
        assert [(metadata.sequence, metadata.skipped) for metadata in found if metadata] == [
            *[(3, 0), (4, 0)],
            *[(3, 2), (4, 0), (5, 0), (6, 0), (7, 0)],
        ]


WRITES_ON = """
with SharedMemoryFrameWriter(sys.argv[1], SHAPE, history=int(sys.argv[2])) as writer:
    say("ready")
    while True:
        number = writer.sequence + 1
        with writer.loan() as slot:
            slot.array[:] = number % 251
            if number % 7 == 0:
                slot.cancel()
        if number % 7 == 0:
            writer.write_frame(flat(number))
"""


@pytest.mark.slow
def test_writers_that_are_killed_anywhere_leave_readers_nothing_to_wait_for(name: str) -> None:
    chance = random.Random(17)
    last, seen, missed = 0, 0, 0
    reader = SharedMemoryFrameReader(name, max_leases=3)
    for _ in range(12):
        with Child(WRITES_ON, name, 8) as child:
            child.says()
            end = time.monotonic() + chance.uniform(0.0, 0.05)
            begun = seen
            while time.monotonic() < end or seen == begun:
                frame, metadata = reader.read_next(timeout=40.0)
                assert frame is not None, "no frame arrived"
                assert np.all(frame == metadata.sequence % 251)
                if last:
                    assert metadata.skipped == metadata.sequence - last - 1
                last = metadata.sequence
                seen, missed = seen + 1, missed + metadata.skipped
            child.kill()
    while (found := reader.read_next()[1]) is not None:
        assert found.skipped == found.sequence - last - 1
        last = found.sequence
    assert reader.status is SegmentStatus.DEAD
    print(f"{seen} frames in turn from 12 writers, {missed} missed")
    reader.close()


READS_ON = """
reader = SharedMemoryFrameReader(sys.argv[1], max_leases=2)
held = []
say("ready")
for frame, metadata in reader.frames(every=True, follow=True):
    assert (frame == metadata.sequence % 251).all()
    held = [*held[-1:], (frame, metadata.sequence)]
    for view, number in held:
        assert (view == number % 251).all()
    older, found = reader.read_frame(sequence=metadata.sequence - 2)
    assert older is None or (older == found.sequence % 251).all()
"""


@pytest.mark.slow
def test_readers_of_the_history_that_are_killed_anywhere_cost_the_writer_nothing(segment_name: str) -> None:
    chance = random.Random(18)
    with SharedMemoryFrameWriter(segment_name, SHAPE, slots=6, history=HISTORY) as writer:
        for _ in range(10):
            with Child(READS_ON, segment_name) as one, Child(READS_ON, segment_name) as two:
                one.says()
                two.says()
                end = time.monotonic() + chance.uniform(0.01, 0.1)
                while time.monotonic() < end:
                    writer.write_frame(flat(writer.sequence + 1))
                assert (one.process.poll(), two.process.poll()) == (None, None), one.stderr + two.stderr
                one.kill()
        wait_until(lambda: inspect_segment(segment_name).readers == ())
        statistics = writer.statistics
        assert (statistics.leases_broken, statistics.dropped) == (0, 0)
        with SharedMemoryFrameReader(segment_name) as reader:
            for number in range(writer.sequence - HISTORY, writer.sequence + 1):
                frame, _ = reader.read_frame(sequence=number)
                assert frame is not None
                assert np.all(frame == number % 251)
        print(f"{writer.sequence} frames with 20 readers, 10 of them killed in a loop")

"""Reading: the newest frame immediately, every missed one counted, and every wait ends when it should."""

import asyncio
import gc
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from child_processes import Child
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from segments_under_test import LARGER, SHAPE, flat, new_frame, path_of, picture, sees, wait_until

from billiards_shm import (
    FrameMetadata,
    SegmentFormatError,
    SegmentNotFoundError,
    SegmentStatus,
    SharedMemoryFrameReader,
    SharedMemoryFrameWriter,
    SourceState,
    inspect_segment,
    remove_stale_segments,
)


@pytest.fixture
def reader(segment_name: str) -> Iterator[SharedMemoryFrameReader]:
    with SharedMemoryFrameReader(segment_name) as made:
        yield made


class Seconds:
    """How long a block took, and the thread's CPU time in it."""

    def __enter__(self) -> "Seconds":
        self._begun, self._worked = time.monotonic(), time.thread_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.passed = time.monotonic() - self._begun
        self.worked = time.thread_time() - self._worked


# ---------------------------------------------------------------- attaching


def test_the_constructor_touches_nothing(segment_name: str) -> None:
    files = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
    path_of(segment_name).write_bytes(b"not a segment")
    reader = SharedMemoryFrameReader(segment_name)
    assert sorted(os.listdir("/proc/self/fd")) == files  # noqa: PTH208
    assert reader.status is SegmentStatus.DETACHED
    assert reader.name == segment_name
    path_of(segment_name).unlink()


@pytest.mark.parametrize("max_leases", [-1, 61, 1.5, "2", None])
def test_leases_beyond_0_to_60_are_refused_and_the_limits_named(segment_name: str, max_leases: Any) -> None:
    with pytest.raises(ValueError, match="0 to 60"):
        SharedMemoryFrameReader(segment_name, max_leases=max_leases)


def test_the_with_statement_attaches_if_it_can(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    with SharedMemoryFrameReader(segment_name) as reader:
        assert reader.status is SegmentStatus.LIVE


def test_the_with_statement_accepts_that_there_is_no_segment(segment_name: str) -> None:
    with SharedMemoryFrameReader(segment_name) as reader:
        assert reader.status is SegmentStatus.DETACHED


@pytest.mark.parametrize("timeout", [0, 0.0, 0.1])
def test_attach_raises_at_the_timeout_and_not_before(
    segment_name: str, reader: SharedMemoryFrameReader, timeout: float
) -> None:
    with Seconds() as seconds, pytest.raises(SegmentNotFoundError, match=segment_name):
        reader.attach(timeout=timeout)
    assert seconds.passed >= timeout
    assert reader.status is SegmentStatus.DETACHED


def test_attach_waits_for_the_segment(segment_name: str, reader: SharedMemoryFrameReader) -> None:
    for timeout in (10.0, None):
        with ThreadPoolExecutor(1) as pool:
            attaching = pool.submit(reader.attach, timeout=timeout)
            time.sleep(0.05)  # long enough for the wait to have begun; the test holds if it has not
            assert not attaching.done()
            with SharedMemoryFrameWriter(segment_name, SHAPE):
                attaching.result(40)
                assert reader.status is SegmentStatus.LIVE


def test_attach_takes_five_seconds_unless_told_otherwise(reader: SharedMemoryFrameReader) -> None:
    import inspect as introspect

    text = introspect.getdoc(SharedMemoryFrameReader.attach) or ""
    assert "timeout=5.0" in text


def test_attaching_again_changes_nothing(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    with SharedMemoryFrameReader(segment_name) as reader:
        writer.write_frame(picture(1))
        for _ in range(5):
            reader.attach(timeout=0)
        assert len(inspect_segment(segment_name).readers) == 1
        new_frame(reader)
        reader.attach(timeout=0)
        assert reader.read_frame() == (None, None), "seen stays seen"


def test_attach_moves_to_the_segment_that_has_the_name_now(segment_name: str, reader: SharedMemoryFrameReader) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.write_frame(picture(1))
        reader.attach()
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        reader.attach(timeout=0)
        assert reader.status is SegmentStatus.LIVE
        writer.write_frame(picture(2))
        assert sees(new_frame(reader)[0], 2)


def test_attach_sleeps_while_it_waits_for_the_successor_of_a_segment_with_an_unseen_frame(
    reader: SharedMemoryFrameReader, writer: SharedMemoryFrameWriter
) -> None:
    writer.write_frame(picture(1))
    reader.attach()
    writer.close()
    with Seconds() as seconds, pytest.raises(SegmentNotFoundError):
        reader.attach(timeout=0.5)
    assert seconds.passed >= 0.5
    assert seconds.worked < seconds.passed / 2, "it spun"


@pytest.mark.parametrize("timeout", [-1, -0.001, -math.inf, math.nan])
@pytest.mark.parametrize("with_frame", [False, True])
def test_a_negative_timeout_is_a_value_error_whether_or_not_there_is_a_frame(
    segment_name: str, reader: SharedMemoryFrameReader, timeout: float, with_frame: bool
) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        if with_frame:
            writer.write_frame(picture(1))
        for use in (reader.attach, reader.read_frame, lambda timeout: reader.frames(timeout=timeout)):
            with pytest.raises(ValueError, match="timeout"):
                use(timeout=timeout)
    gc.collect()


@pytest.mark.parametrize("timeout", ["1", [], {}])
def test_a_timeout_that_is_not_a_number_is_a_type_error(reader: SharedMemoryFrameReader, timeout: Any) -> None:
    for use in (reader.attach, reader.read_frame, lambda timeout: reader.frames(timeout=timeout)):
        with pytest.raises(TypeError):
            use(timeout=timeout)
    gc.collect()


# ---------------------------------------------------------------- reading


def test_without_a_segment_reads_return_nothing_and_the_status_is_detached(reader: SharedMemoryFrameReader) -> None:
    assert reader.read_frame() == (None, None)
    assert reader.latest_frame() == (None, None)
    assert reader.read_frame(timeout=0.02) == (None, None)
    assert reader.status is SegmentStatus.DETACHED
    assert reader.last_frame_age is None
    assert reader.source_state is SourceState.UNKNOWN
    assert reader.source_reason == ""
    assert reader.statistics.as_dict() == {"frames": 0, "skipped": 0, "copies": 0, "retries": 0}


def test_before_the_first_frame_reads_return_nothing(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    reader.attach()
    assert reader.read_frame() == (None, None)
    assert reader.latest_frame() == (None, None)
    assert reader.status is SegmentStatus.LIVE


def test_a_frame_is_read_once_and_the_latest_any_number_of_times(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    assert sees(new_frame(reader)[0], 1)
    assert reader.read_frame() == (None, None)
    for _ in range(3):
        frame, metadata = reader.latest_frame()
        assert sees(frame, 1)
        assert (metadata.sequence, metadata.skipped) == (1, 0)
    assert reader.read_frame() == (None, None)


def test_the_latest_frame_counts_as_seen(writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader) -> None:
    writer.write_frame(picture(1))
    assert sees(reader.latest_frame()[0], 1)
    assert reader.read_frame() == (None, None)
    writer.write_frame(picture(2))
    writer.write_frame(picture(3))
    assert reader.latest_frame()[1].skipped == 1
    assert reader.latest_frame()[1].skipped == 0
    assert reader.statistics.skipped == 1


def test_a_slow_reader_gets_the_newest_and_is_told_what_it_missed(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    expected = []
    number = 0
    for gap in (1, 1, 2, 5, 1, 100):
        for _ in range(gap):
            number += 1
            writer.write_frame(picture(number))
        frame, metadata = new_frame(reader)
        assert sees(frame, number)
        assert metadata.sequence == number
        expected.append(gap - 1)
        assert metadata.skipped == gap - 1
    assert reader.statistics.frames == 6
    assert reader.statistics.skipped == sum(expected)


def test_frames_published_before_a_reader_attached_do_not_count_as_missed(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    for number in range(1, 11):
        writer.write_frame(picture(number))
    metadata = new_frame(reader)[1]
    assert (metadata.sequence, metadata.skipped) == (10, 0)


def test_a_reader_that_joins_late_immediately_gets_the_newest_frame_from_an_idle_writer(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    writer.write_frame(picture(2))
    frame, metadata = reader.read_frame()
    assert metadata is not None, "without waiting"
    assert sees(frame, 2)
    assert metadata.zero_copy


@pytest.mark.parametrize("copy", [False, True])
def test_a_reader_that_joins_late_immediately_gets_the_newest_frame_from_a_dead_writer(
    segment_name: str, reader: SharedMemoryFrameReader, copy: bool
) -> None:
    with Child("write_and_wait(sys.argv[1])", segment_name) as child:
        child.says()
        child.kill()
        frame, metadata = reader.read_frame(copy=copy)
        assert metadata is not None, "without waiting"
        assert sees(frame, 1)
        assert metadata.zero_copy != copy
        assert reader.status is SegmentStatus.DEAD
    remove_stale_segments([segment_name])


def test_a_read_sleeps_until_its_timeout(writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader) -> None:
    assert reader.read_frame(timeout=0) == reader.read_frame(timeout=0.0) == (None, None)
    for timeout in (0.15, 0.3):
        with Seconds() as seconds:
            assert reader.read_frame(timeout=timeout) == (None, None)
        assert seconds.passed >= timeout
        assert seconds.worked < seconds.passed / 2, "it spun"


@pytest.mark.parametrize("timeout", [5.0, 1e9, math.inf, None])
def test_a_waiting_read_is_woken_by_the_frame(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader, timeout: float | None
) -> None:
    reader.attach()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(reader.read_frame, timeout=timeout)
        time.sleep(0.03)
        assert not reading.done()
        writer.write_frame(picture(1))
        frame, metadata = reading.result(40)
        assert sees(frame, 1)
        assert metadata.sequence == 1


def test_a_frame_wakes_a_waiting_reader_before_its_own_next_look(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    reader.attach()
    delays = []
    with ThreadPoolExecutor(1) as pool:
        for number in range(1, 21):
            begun = time.monotonic()
            reading = pool.submit(lambda: (reader.read_frame(timeout=40), time.monotonic()))
            time.sleep(0.01)
            writer.write_frame(picture(number))
            delays.append(reading.result(40)[1] - begun)
    print(f"from the beginning of the wait: median {sorted(delays)[10]:.4f} s, longest {max(delays):.4f} s")
    assert min(delays) < 0.1, "every 0.1 s it looks on its own"


def test_read_frame_without_a_limit_waits_for_a_segment_too(segment_name: str, reader: SharedMemoryFrameReader) -> None:
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(reader.read_frame, timeout=None)
        time.sleep(0.03)
        assert not reading.done()
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            writer.write_frame(picture(1))
            assert sees(reading.result(40)[0], 1)


def test_other_threads_run_while_a_read_waits(writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader) -> None:
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(reader.read_frame, timeout=None)
        for _ in range(1000):
            assert not reading.done()
        writer.write_frame(picture(1))
        assert sees(reading.result(40)[0], 1)


def test_a_foreign_object_under_the_name_is_an_error_of_every_read(
    segment_name: str, reader: SharedMemoryFrameReader
) -> None:
    path_of(segment_name).write_bytes(b"x" * 200_000)
    for use in (reader.read_frame, reader.latest_frame, reader.attach, lambda: next(iter(reader))):
        with pytest.raises(SegmentFormatError, match=segment_name):
            wait_until(lambda use=use: use() is None)
    path_of(segment_name).unlink()


# ---------------------------------------------------------------- copies


@pytest.mark.parametrize(("made", "asked", "copied"), [(False, True, True), (True, None, True), (True, False, False)])
def test_a_copy_is_the_callers_own_and_writable(
    segment_name: str, writer: SharedMemoryFrameWriter, made: bool, asked: bool | None, copied: bool
) -> None:
    with SharedMemoryFrameReader(segment_name, copy=made) as reader:
        writer.write_frame(picture(1))
        frame, metadata = new_frame(reader, copy=asked)
        assert metadata.zero_copy != copied
        assert frame.flags.writeable == frame.flags.owndata == copied
        if copied:
            frame[:] = 0
        again, _ = reader.latest_frame(copy=asked)
        assert sees(again, 1)
        assert reader.statistics.copies == (2 if copied else 0)


def test_copies_take_no_lease_away(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    with SharedMemoryFrameReader(segment_name, copy=True) as reader:
        copies = []
        for number in range(1, 30):
            writer.write_frame(picture(number))
            copies.append(new_frame(reader)[0])
        assert all(sees(copy, number) for number, copy in enumerate(copies, 1))
        assert inspect_segment(segment_name).readers[0].leases == 0
        assert writer.statistics.backed_slots == 3


def test_an_observer_may_read_but_not_lock_and_always_copies(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE, mode=0o444) as writer:
        writer.write_frame(picture(1))
        code = """
        if os.geteuid() == 0:
            os.setresuid(65534, 65534, 65534)
        reader = SharedMemoryFrameReader(sys.argv[1])
        while True:
            frame, metadata = reader.read_frame(timeout=10)
            assert sees(frame, metadata.sequence)
            assert frame.flags.writeable and not metadata.zero_copy
            say(metadata.sequence, reader.status)
            if not told():
                break
        assert reader.statistics.copies == reader.statistics.frames == 3
        """
        with Child(code, segment_name) as child:
            for number in (1, 2, 3):
                assert child.says() == f"{number} live"
                found = inspect_segment(segment_name).readers
                assert [(each.kind, each.pid, each.leases) for each in found] == [("observer", None, 0)]
                if number < 3:
                    child.tell()
                    writer.write_frame(picture(number + 1))
            child.tell("")
            child.ends_well()
        wait_until(lambda: inspect_segment(segment_name).readers == ())


def test_a_copy_that_newer_frames_overtake_is_made_of_the_newest_and_the_others_are_skipped(
    segment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    coming = [picture(number) for number in range(3, 7)]
    with (
        SharedMemoryFrameWriter(segment_name, SHAPE, slots=3) as writer,
        SharedMemoryFrameReader(segment_name) as holder,
        SharedMemoryFrameReader(segment_name) as reader,
    ):
        writer.write_frame(picture(1))
        held, _ = holder.read_frame()  # with the only token
        assert new_frame(reader)[1].sequence == 1
        writer.write_frame(picture(2))
        empty = np.empty

        def overtaken(*arguments: Any, **options: Any) -> Any:
            while coming:
                writer.write_frame(coming.pop(0))
            return empty(*arguments, **options)

        monkeypatch.setattr(np, "empty", overtaken)  # the reader has chosen frame 2, and is making room for it
        frame, metadata = reader.read_frame()
        monkeypatch.undo()
        assert frame is not None
        assert (metadata.sequence, metadata.skipped, metadata.zero_copy) == (6, 4, False)
        assert sees(frame, 6)
        assert held is not None
        assert sees(held, 1)
        found = reader.statistics
        assert (found.frames, found.skipped, found.copies, found.retries) == (2, 4, 2, 1)


# ---------------------------------------------------------------- metadata and statistics


def test_metadata_has_everything_about_the_frame(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1, (5, 7, 4)), capture_time_ns=17, position_ms=2.5, clock="sender", source_sequence=0)
    metadata = new_frame(reader)[1]
    assert metadata.as_dict() == {
        "sequence": 1,
        "skipped": 0,
        "capture_time_ns": 17,
        "publish_time_ns": metadata.publish_time_ns,
        "wall_time_ns": metadata.wall_time_ns,
        "position_ms": 2.5,
        "width": 7,
        "height": 5,
        "channels": 4,
        "dtype": np.dtype("uint8"),
        "pixel_format": "BGRA32",
        "generation": writer.generation,
        "zero_copy": True,
        "online": True,
        "clock": "sender",
        "source_sequence": 0,
    }
    assert "sequence=1" in repr(metadata)


def test_metadata_is_frozen_hashable_and_compared_by_value(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    metadata, again = new_frame(reader)[1], reader.latest_frame()[1]
    assert metadata == again
    assert hash(metadata) == hash(again)
    assert len({metadata, again}) == 1
    writer.write_frame(picture(2))
    assert metadata != new_frame(reader)[1]
    assert metadata != "metadata"
    for name in metadata.as_dict():
        with pytest.raises(AttributeError):
            setattr(metadata, name, 1)
    with pytest.raises(AttributeError):
        metadata.other = 1  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        FrameMetadata()


def test_statistics_count_frames_skips_and_copies(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    for number in range(1, 11):
        writer.write_frame(picture(number))
        if number % 3 == 0:
            new_frame(reader, copy=number == 6)
    reader.latest_frame(copy=True)
    found = reader.statistics
    assert found.as_dict() == {"frames": 4, "skipped": 4, "copies": 2, "retries": 0}
    assert "frames=4" in repr(found)
    reader.latest_frame()
    assert (found.frames, reader.statistics.frames) == (4, 5), "a snapshot"


def test_inspect_shows_the_readers_own_numbers(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    for number in (1, 2, 3, 4):
        writer.write_frame(picture(number))
        if number != 2:
            new_frame(reader, copy=number == 3)
    (found,) = inspect_segment(segment_name).readers
    assert (found.pid, found.kind) == (os.getpid(), "lease")
    assert (found.frames, found.skipped, found.copies, found.last_sequence, found.leases) == (3, 1, 1, 4, 0)


def test_the_age_is_the_last_captured_frames(writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader) -> None:
    reader.attach()
    assert reader.last_frame_age is None
    writer.write_frame(picture(1), online=False)
    assert reader.last_frame_age is None
    before = time.monotonic_ns()
    writer.write_frame(picture(2), capture_time_ns=before - 3_000_000_000)
    after = time.monotonic_ns()
    for _ in range(3):
        writer.write_frame(picture(3), online=False)
    asked = time.monotonic_ns()
    age = reader.last_frame_age
    assert age is not None
    assert (asked - after) / 1e9 <= age <= (time.monotonic_ns() - before) / 1e9, "whatever the source's clock says"
    writer.write_frame(picture(4))
    assert 0 <= (reader.last_frame_age or 9) < 2
    assert reader.read_frame()[1] is not None, "asking reads nothing"


# ---------------------------------------------------------------- restarts


def test_after_a_clean_close_numbers_and_the_count_of_missed_frames_start_again(
    segment_name: str, reader: SharedMemoryFrameReader
) -> None:
    generations = set()
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        for number in range(1, 6):
            writer.write_frame(picture(number))
        generations.add(new_frame(reader)[1].generation)
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        assert writer.write_frame(picture(1)) == 1
        metadata = new_frame(reader)[1]
        assert (metadata.sequence, metadata.skipped) == (1, 0)
        generations.add(metadata.generation)
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        for number in range(1, 8):
            writer.write_frame(picture(number))
        metadata = new_frame(reader)[1]
        assert (metadata.sequence, metadata.skipped) == (7, 6)
        generations.add(metadata.generation)
    assert len(generations) == 3


def test_the_count_of_missed_frames_starts_again_even_if_the_new_segment_was_replaced(
    segment_name: str, reader: SharedMemoryFrameReader
) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.write_frame(picture(1))
        writer.write_frame(picture(2))
        assert new_frame(reader)[1].sequence == 2
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        for number in (1, 2, 3):
            writer.write_frame(picture(number))
        writer.write_frame(picture(4, LARGER))
        metadata = new_frame(reader)[1]
        assert metadata.sequence == 4
        assert metadata.skipped == 3, "1, 2 and 3 of the new count"


def test_the_count_of_missed_frames_goes_on_over_a_replaced_segment(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    new_frame(reader)
    for number in range(2, 10):
        writer.write_frame(picture(number, (24 + number, 32, 3)))
    metadata = new_frame(reader)[1]
    assert (metadata.sequence, metadata.skipped) == (9, 7)
    assert writer.statistics.replacements == 8


def test_a_killed_writers_numbers_and_the_count_of_missed_frames_go_on(
    segment_name: str, reader: SharedMemoryFrameReader
) -> None:
    with Child("write_and_wait(sys.argv[1])", segment_name) as child:
        child.says()
        assert new_frame(reader)[1].sequence == 1
        child.kill()
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        assert writer.sequence == 1
        assert [writer.write_frame(picture(number)) for number in (2, 3, 4)] == [2, 3, 4]
        metadata = new_frame(reader)[1]
        assert (metadata.sequence, metadata.skipped) == (4, 2)


def test_between_a_takeover_and_its_first_frame_a_late_reader_finds_no_frame(segment_name: str) -> None:
    with Child("write_and_wait(sys.argv[1])", segment_name) as child:
        child.says()
        child.kill()
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, SharedMemoryFrameReader(segment_name) as late:
        late.attach()
        assert late.read_frame() == (None, None)
        assert late.latest_frame() == (None, None)
        writer.write_frame(picture(2))
        assert new_frame(late)[1].sequence == 2


def test_the_latest_frame_follows_to_the_successor_of_a_dead_segment_that_was_cleaned_away(
    segment_name: str, reader: SharedMemoryFrameReader
) -> None:
    with Child("write_and_wait(sys.argv[1])", segment_name) as child:
        child.says()
        assert sees(reader.latest_frame()[0], 1)
        child.kill()
    assert remove_stale_segments([segment_name]) == [segment_name]
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.write_frame(picture(77))
        wait_until(lambda: sees(reader.latest_frame()[0], 77), "the new picture")


def assert_polling_brings(reader: SharedMemoryFrameReader, read: str, number: int) -> None:
    """A hundred looks, 2 ms apart: 200 ms, or more on a busy machine, where each of them is late."""
    for _ in range(100):
        frame = getattr(reader, read)()[0]
        if frame is not None and sees(frame, number):
            return
        time.sleep(0.002)
    raise AssertionError(f"no picture {number}")


@pytest.mark.parametrize("read", ["read_frame", "latest_frame"])
def test_polling_follows_replacements_and_restarts_within_200_ms(
    segment_name: str, reader: SharedMemoryFrameReader, read: str
) -> None:
    for number in (1, 4, 7):
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            writer.write_frame(picture(number))
            assert_polling_brings(reader, read, number)
            writer.write_frame(picture(number + 1, LARGER))
            assert_polling_brings(reader, read, number + 1)


@pytest.mark.parametrize("read", ["read_frame", "latest_frame"])
def test_polling_follows_a_takeover_within_200_ms(
    segment_name: str, reader: SharedMemoryFrameReader, read: str
) -> None:
    with Child("write_and_wait(sys.argv[1])", segment_name) as child:
        child.says()
        wait_until(lambda: getattr(reader, read)()[0] is not None)
        child.kill()
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.write_frame(picture(2))
        assert_polling_brings(reader, read, 2)


# ---------------------------------------------------------------- status


def test_the_status_follows_the_life_of_the_segment(segment_name: str, reader: SharedMemoryFrameReader) -> None:
    assert reader.status is SegmentStatus.DETACHED
    with SharedMemoryFrameWriter(segment_name, SHAPE):
        reader.attach()
        assert reader.status is SegmentStatus.LIVE
        assert reader.status == "live"
    assert reader.status is SegmentStatus.CLOSED
    with SharedMemoryFrameWriter(segment_name, SHAPE):
        assert reader.status is SegmentStatus.LIVE
    reader.close()
    assert reader.status is SegmentStatus.DETACHED


def test_a_retired_segments_reader_is_told_of_the_living_one(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    new_frame(reader)
    writer.write_frame(picture(2, LARGER))
    assert reader.status is SegmentStatus.LIVE
    assert new_frame(reader)[1].sequence == 2


# ---------------------------------------------------------------- closing


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda reader: reader.attach(), id="attach"),
        pytest.param(lambda reader: reader.read_frame(), id="read_frame"),
        pytest.param(lambda reader: reader.read_frame(timeout=5), id="read_frame with timeout"),
        pytest.param(lambda reader: reader.read_frame(timeout=None), id="read_frame without limit"),
        pytest.param(lambda reader: reader.latest_frame(), id="latest_frame"),
        pytest.param(lambda reader: next(iter(reader)), id="iteration"),
        pytest.param(lambda reader: next(reader.frames(follow=True)), id="following iteration"),
        pytest.param(lambda reader: asyncio.run(anext(aiter(reader))), id="async iteration"),
    ],
)
def test_use_after_close_is_a_value_error(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader, use: Callable[[Any], Any]
) -> None:
    writer.write_frame(picture(1))
    reader.attach()
    assert not reader.closed
    reader.close()
    reader.close()
    assert reader.closed
    with pytest.raises(ValueError, match=f"{segment_name}.*closed"):
        use(reader)
    assert "closed" in repr(reader)
    assert reader.last_frame_age is None


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("wait", ["read_frame", "attach", "iteration"])
def test_closing_from_another_thread_ends_the_wait_with_value_error(
    segment_name: str, reader: SharedMemoryFrameReader, attached: bool, wait: str
) -> None:
    waits = {
        "read_frame": lambda: reader.read_frame(timeout=None),
        "attach": lambda: reader.attach(timeout=None),
        "iteration": lambda: next(iter(reader)),
    }
    if attached and wait == "attach":
        return  # nothing to wait for
    writer = SharedMemoryFrameWriter(segment_name, SHAPE) if attached else None
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(waits[wait])
        time.sleep(0.02)
        reader.close()
        with pytest.raises(ValueError, match="closed"):
            waiting.result(40)
    if writer is not None:
        writer.close()


def test_a_reader_is_made_once(segment_name: str, reader: SharedMemoryFrameReader) -> None:
    with pytest.raises(ValueError, match="created already"):
        reader.__init__(segment_name)  # type: ignore[misc]


def test_a_reader_that_was_never_made_raises_and_does_not_crash() -> None:
    reader = SharedMemoryFrameReader.__new__(SharedMemoryFrameReader)
    for use in (reader.attach, reader.read_frame, reader.latest_frame, lambda: next(iter(reader))):
        with pytest.raises(ValueError, match="never created"):
            use()
    assert reader.status is SegmentStatus.DETACHED
    assert reader.last_frame_age is None
    assert reader.statistics.frames == 0
    reader.close()
    repr(reader)


# ---------------------------------------------------------------- iteration


def test_plain_iteration_ends_at_a_clean_close_with_the_last_frame_delivered(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    seen = []
    writer.write_frame(picture(1))
    for frame, metadata in reader:
        assert sees(frame, metadata.sequence)
        seen.append(metadata.sequence)
        if metadata.sequence < 5:
            writer.write_frame(picture(metadata.sequence + 1))
        elif metadata.sequence == 5:
            writer.write_frame(picture(6))
            writer.close()
    assert seen == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "call",
    [
        lambda reader: reader.status,
        lambda reader: reader.last_frame_age,
        lambda reader: reader.latest_frame(),
        lambda reader: reader.read_frame(sequence=2),
    ],
    ids=["status", "age", "latest", "look-up"],
)
def test_plain_iteration_ends_at_a_clean_close_whatever_else_is_called(
    segment_name: str, reader: SharedMemoryFrameReader, call: Callable[[SharedMemoryFrameReader], object]
) -> None:
    frames = reader.frames(timeout=30)
    with SharedMemoryFrameWriter(segment_name, SHAPE, history=3) as writer:
        for number in range(1, 4):
            writer.write_frame(picture(number))
        assert next(frames)[1].sequence == 3
    with SharedMemoryFrameWriter(segment_name, SHAPE, history=3) as writer:
        writer.write_frame(picture(9))
        # It moves to the new writer now, or at its next look.
        wait_until(lambda: call(reader) is not None and reader.status is SegmentStatus.LIVE)
        assert list(frames) == []
        assert list(frames) == []


def test_a_reader_that_only_watches_follows_the_name(segment_name: str, reader: SharedMemoryFrameReader) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.write_frame(picture(1))
        reader.attach()
        writer.update_source(state="streaming", reason="old")
        assert reader.source_reason == "old"
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.write_frame(picture(1))
        writer.update_source(state="reconnecting", reason="unplugged")
        wait_until(lambda: reader.source_reason == "unplugged", "the new writer's report")
        assert reader.status is SegmentStatus.LIVE
        assert reader.last_frame_age < 30


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_frame_published_and_closed_over_between_two_looks_is_delivered(
    segment_name: str, writer: SharedMemoryFrameWriter, asynchronous: bool
) -> None:
    between = [writer.close, lambda: writer.write_frame(picture(2)), lambda: writer.write_frame(picture(1))]

    class Interrupted(SharedMemoryFrameReader):
        def _poll(self, follow: bool, every: bool = False) -> Any:
            found = super()._poll(follow, every)
            if found is None and between:
                between.pop()()
                if len(between) == 1:
                    between.pop()()  # the last frame and the end together
            return found

    async def collect() -> list[int]:
        return [metadata.sequence async for _, metadata in reader]

    with Interrupted(segment_name) as reader:
        seen = asyncio.run(collect()) if asynchronous else [metadata.sequence for _, metadata in reader]
    assert seen == [1, 2]


def test_iteration_that_ended_stays_ended(writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader) -> None:
    writer.write_frame(picture(1))
    iterator = iter(reader)
    next(iterator)
    writer.close()
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(iterator)


def test_iteration_that_waits_ends_when_the_writer_closes(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    reader.attach()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(list, reader)
        time.sleep(0.03)
        writer.close()
        assert reading.result(40) == []


@pytest.mark.parametrize("follow", [False, True])
def test_iteration_follows_a_replaced_segment(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader, follow: bool
) -> None:
    iterator = reader.frames(follow=follow, timeout=5)
    for number, shape in enumerate((SHAPE, LARGER, SHAPE, (96, 128, 3)), 1):
        writer.write_frame(picture(number, shape))
        frame, metadata = next(iterator)
        assert (metadata.sequence, frame.shape) == (number, shape)


def test_a_writer_that_grows_and_immediately_closes_ends_the_iteration(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    iterator = reader.frames(timeout=1)
    writer.write_frame(picture(1))
    next(iterator)
    writer.write_frame(picture(2, LARGER))
    writer.close()
    with pytest.raises(StopIteration):  # not TimeoutError: it was closed, so nothing more will arrive
        next(iterator)


@pytest.mark.parametrize("follow", [False, True])
def test_iteration_follows_a_killed_writer(segment_name: str, reader: SharedMemoryFrameReader, follow: bool) -> None:
    iterator = reader.frames(follow=follow, timeout=10)
    with Child("write_and_wait(sys.argv[1])", segment_name) as child:
        child.says()
        assert next(iterator)[1].sequence == 1
        child.kill()
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        for number in (2, 3):
            writer.write_frame(picture(number))
            assert next(iterator)[1].sequence == number
    if not follow:
        with pytest.raises(StopIteration):
            next(iterator)


def test_following_iteration_goes_on_across_clean_closes(segment_name: str, reader: SharedMemoryFrameReader) -> None:
    iterator = reader.frames(follow=True, timeout=5)
    for round_number in range(4):
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            for number in (1, 2, 3):
                writer.write_frame(picture(number + round_number))
                frame, metadata = next(iterator)
                assert metadata.sequence == number
                assert sees(frame, number + round_number)


def test_plain_iteration_begun_after_a_close_waits_for_the_next_writer(
    segment_name: str, reader: SharedMemoryFrameReader
) -> None:
    for _ in range(3):
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            writer.write_frame(picture(1))
            writer.write_frame(picture(2))
            iterator = reader.frames(timeout=5)
            assert next(iterator)[1].sequence == 2
        with pytest.raises(StopIteration):
            next(iterator)


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("timeout", [0, 0.0, 0.1, 0.3])
@pytest.mark.parametrize("follow", [False, True])
def test_a_timeout_that_runs_out_raises_timeout_error(
    segment_name: str, reader: SharedMemoryFrameReader, attached: bool, timeout: float, follow: bool
) -> None:
    writer = SharedMemoryFrameWriter(segment_name, SHAPE) if attached else None
    iterator = reader.frames(follow=follow, timeout=timeout)
    with Seconds() as seconds, pytest.raises(TimeoutError, match=segment_name):
        next(iterator)
    assert timeout <= seconds.passed < timeout + 0.5
    if writer is not None:
        writer.write_frame(picture(1))
        assert next(iterator)[1].sequence == 1, "and may be tried again"
        writer.close()


def test_the_timeout_is_for_each_frame_and_not_for_all(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    iterator = reader.frames(timeout=0.3)
    with Seconds() as seconds:
        for number in range(1, 6):
            timer = threading.Timer(0.1, writer.write_frame, [picture(number)])
            timer.start()
            assert next(iterator)[1].sequence == number
            timer.join()
    assert seconds.passed > 0.4


# ---------------------------------------------------------------- async


def test_async_iteration_of_several_readers_in_one_loop(segment_name: str) -> None:
    frames = 40

    async def consume(reader: SharedMemoryFrameReader) -> None:
        first = last = seen = skipped = 0
        async for frame, metadata in reader:
            assert sees(frame, metadata.sequence)
            first, last = first or metadata.sequence, metadata.sequence
            seen += 1
            skipped += metadata.skipped
        assert last == frames, "the last frame is delivered"
        assert seen + skipped == last - first + 1, "what a reader did not get it was told of"

    async def publish(writer: SharedMemoryFrameWriter) -> None:
        for number in range(1, frames + 1):
            writer.write_frame(picture(number))
            await asyncio.sleep(0.002)
        writer.close()

    async def everything() -> None:
        writer = SharedMemoryFrameWriter(segment_name, SHAPE)
        readers = [SharedMemoryFrameReader(segment_name, copy=number % 2 == 1) for number in range(6)]
        for reader in readers:
            reader.attach()
        await asyncio.gather(*(consume(reader) for reader in readers), publish(writer))
        for reader in readers:
            reader.close()

    asyncio.run(everything())


def test_many_async_readers_wait_without_starving_each_other_or_the_loop(segment_name: str) -> None:
    async def everything() -> None:
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            readers = [SharedMemoryFrameReader(segment_name) for _ in range(40)]
            waiting = [asyncio.ensure_future(anext(aiter(reader))) for reader in readers]
            for _ in range(20):
                await asyncio.sleep(0.005)
            assert not any(task.done() for task in waiting)
            writer.write_frame(picture(1))
            done = await asyncio.wait_for(asyncio.gather(*waiting), 40)
            assert [metadata.sequence for _, metadata in done] == [1] * 40
            del done
            for reader in readers:
                reader.close()

    asyncio.run(everything())


def test_async_iteration_follows_and_times_out_as_plain_iteration_does(
    segment_name: str, reader: SharedMemoryFrameReader
) -> None:
    async def everything() -> None:
        iterator = reader.frames(follow=True, timeout=0.3)
        for _ in range(2):
            with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
                writer.write_frame(picture(1))
                frame, metadata = await anext(iterator)
                assert sees(frame, 1)
                assert metadata.sequence == 1
        with pytest.raises(TimeoutError, match=segment_name):
            await anext(iterator)

    asyncio.run(everything())


def test_a_cancelled_async_read_ends_and_loses_no_frame(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    async def everything() -> None:
        for number in range(1, 6):
            waiting = asyncio.ensure_future(anext(aiter(reader)))
            await asyncio.sleep(0.01)
            assert not waiting.done()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            writer.write_frame(picture(number))
            frame, metadata = await asyncio.wait_for(anext(aiter(reader)), 40)
            assert (metadata.sequence, metadata.skipped) == (number, 0)
            assert sees(frame, number)

    asyncio.run(everything())


def test_wait_for_around_an_async_read_can_be_repeated(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    async def everything() -> None:
        iterator = aiter(reader)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(iterator), 0.03)
        writer.write_frame(picture(1))
        assert (await asyncio.wait_for(anext(iterator), 40))[1].sequence == 1

    asyncio.run(everything())


def test_async_iteration_leaves_no_thread_behind(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    before = threading.active_count()

    async def everything() -> None:
        for number in range(20):
            with SharedMemoryFrameReader(segment_name) as reader:
                iterator = aiter(reader)
                reader.attach()
                waiting = asyncio.ensure_future(anext(iterator))
                await asyncio.sleep(0.002)
                writer.write_frame(picture(number + 1))
                await waiting

    asyncio.run(everything())
    gc.collect()
    wait_until(lambda: threading.active_count() <= before, "the end of the waiting threads")


# ---------------------------------------------------------------- Ctrl+C

WAITS = {
    "read_frame without a segment": "SharedMemoryFrameReader(name + '-none').read_frame(timeout=None)",
    "read_frame": "SharedMemoryFrameReader(name).read_frame(timeout=None)",
    "read_frame with a timeout": "SharedMemoryFrameReader(name).read_frame(timeout=60)",
    "attach": "SharedMemoryFrameReader(name + '-none').attach(timeout=None)",
    "for": "for frame in SharedMemoryFrameReader(name): pass",
    "for without a segment": "for frame in SharedMemoryFrameReader(name + '-none'): pass",
    "for follow": "for frame in SharedMemoryFrameReader(name).frames(follow=True, timeout=60): pass",
    "async for": """
    async def everything():
        async for frame in SharedMemoryFrameReader(name):
            pass
    import asyncio
    asyncio.run(everything())
    """,
}


@pytest.mark.parametrize("wait", WAITS)
def test_ctrl_c_ends_every_wait(segment_name: str, writer: SharedMemoryFrameWriter, wait: str) -> None:
    body = WAITS[wait].strip("\n")
    code = "\n".join(
        [
            "name = sys.argv[1]",
            "say('waits')",
            "try:",
            *(f"    {line.removeprefix('    ')}" if "\n" in body else f"    {line}" for line in body.splitlines()),
            "except KeyboardInterrupt:",
            "    say('interrupted')",
        ]
    )
    with Child(code, segment_name) as child:
        assert child.says() == "waits"
        for _ in range(5):  # in the wait itself, not before it
            wait_until(lambda: child.sleeps)
            time.sleep(0.01)
        child.interrupt()
        assert child.says() == "interrupted"
        child.ends_well()


# ---------------------------------------------------------------- threads


def test_threads_that_share_a_reader_get_each_frame_once(segment_name: str) -> None:
    frames, threads = 600, 8
    with (
        SharedMemoryFrameWriter(segment_name, SHAPE, slots=20) as writer,
        SharedMemoryFrameReader(segment_name, max_leases=10) as reader,
        ThreadPoolExecutor(threads) as pool,
    ):

        def read() -> list[tuple[int, int]]:
            found = []
            for frame, metadata in reader:
                assert sees(frame, metadata.sequence)
                found.append((metadata.sequence, metadata.skipped))
            return found

        reader.attach()
        jobs = [pool.submit(read) for _ in range(threads)]
        for number in range(1, frames + 1):
            writer.write_frame(picture(number))
        writer.close()
        found = sorted(pair for job in jobs for pair in job.result(40))
    numbers = [sequence for sequence, _ in found]
    assert len(set(numbers)) == len(numbers)
    assert numbers[-1] == frames
    first = numbers[0]
    assert len(numbers) + sum(skipped for _, skipped in found) == frames - first + 1
    print(f"{frames} frames, {len(numbers)} read by {threads} threads")


@pytest.mark.parametrize(
    ("slots", "kinds"),
    [
        pytest.param(8, ({}, {"copy": True}, {"max_leases": 0}), id="leases and copies"),
        pytest.param(3, ({"copy": True}, {"copy": True}), id="copies while all tokens are taken"),
    ],
)
def test_no_frame_is_torn_while_a_writer_writes_as_fast_as_it_can(
    segment_name: str, slots: int, kinds: tuple[dict[str, Any], ...]
) -> None:
    shape = (120, 160, 3)
    stop = threading.Event()
    with (
        SharedMemoryFrameWriter(segment_name, shape, slots=slots) as writer,
        SharedMemoryFrameReader(segment_name) as holder,
        ThreadPoolExecutor(4) as pool,
    ):
        writer.write_frame(flat(1, shape))
        held = new_frame(holder)[0]
        pictures = [flat(number, shape) for number in range(251)]

        def read(**options: Any) -> tuple[int, int]:
            with SharedMemoryFrameReader(segment_name, **options) as reader:
                last = 0
                while not stop.is_set() or reader.statistics.frames <= 10:
                    frame, metadata = reader.read_frame(timeout=0.1)
                    if frame is None:
                        continue
                    assert metadata.sequence > last
                    last = metadata.sequence
                    assert frame[0, 0, 0] == last % 251
                    assert (frame == frame[0, 0, 0]).all(), "torn"
                return reader.statistics.frames, reader.statistics.retries

        jobs = [pool.submit(read, **options) for options in kinds]
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            for _ in range(20):
                writer.write_frame(pictures[(writer.sequence + 1) % 251])
        stop.set()
        while not all(job.done() for job in jobs):
            writer.write_frame(pictures[(writer.sequence + 1) % 251])
        assert (held == 1).all()
        for job in jobs:
            frames, retries = job.result()
            print(f"{frames} of {writer.sequence} frames read, {retries} retries")


# ---------------------------------------------------------------- a model of all of it

SHAPES = [(4, 6, 3), (5, 7), (3, 3, 4), (8, 8, 3)]
MAX_LEASES = 2


class Segment:
    """What the model knows about one generation."""

    def __init__(self, count: int) -> None:
        self.count = count  # which series of numbers; a clean restart begins another
        self.newest = 0
        self.content: np.ndarray[Any, Any] | None = None


class ModelReader:
    def __init__(self, reader: SharedMemoryFrameReader, segment: Segment | None) -> None:
        self.reader = reader
        self.segment = segment  # attached to
        self.seen = 0  # in that segment
        self.last: tuple[int, int] | None = None  # series, and number, of the last frame delivered
        self.frames = self.skipped = self.copies = 0


class Held:
    def __init__(self, owner: ModelReader, segment: Segment, number: int, view: Any, zero_copy: bool) -> None:
        self.owner, self.segment, self.number, self.view, self.zero_copy = owner, segment, number, view, zero_copy
        self.expected = np.array(view)


class AnyOrder(RuleBasedStateMachine):
    """Writers, readers and views in any order, against a model that knows only the promises."""

    names = iter(range(10**9))

    def __init__(self) -> None:
        super().__init__()
        self.name = f"test-{os.getpid()}-model-{next(self.names)}"
        self.readers: list[ModelReader] = []
        self.held: list[Held] = []
        self.runs = 0
        self.values = 0
        self.capacity = 0
        self.open()

    def open(self) -> None:
        self.runs += 1
        self.segment: Segment | None = Segment(self.runs)
        self.number = 0
        self.capacity = 8 * 8 * 3
        self.writer = SharedMemoryFrameWriter(self.name, (8, 8, 3), slots=62)

    def next_picture(self, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        self.values += 1
        return picture(self.values, shape)

    def published(self, content: np.ndarray[Any, Any], sequence: int) -> None:
        assert self.segment is not None
        self.number += 1
        assert sequence == self.number
        if content.nbytes > self.capacity:
            self.capacity = content.nbytes
            self.segment = Segment(self.runs)
        self.segment.newest = self.number
        self.segment.content = content

    @staticmethod
    def one_of(things: list[Any], data: st.DataObject) -> int:
        """An index, because what is drawn is kept for the report, and would keep a view alive."""
        return data.draw(st.integers(0, len(things) - 1))

    @initialize()
    def first_reader(self) -> None:
        self.new_reader()

    @precondition(lambda self: self.segment is not None)
    @rule(shape=st.sampled_from(SHAPES), times=st.integers(1, 5))
    def write(self, shape: tuple[int, ...], times: int) -> None:
        for _ in range(times):
            content = self.next_picture(shape)
            self.published(content, self.writer.write_frame(content))

    @precondition(lambda self: self.segment is not None)
    @rule(shape=st.sampled_from(SHAPES), cancel=st.booleans())
    def loan(self, shape: tuple[int, ...], cancel: bool) -> None:
        content = self.next_picture(shape)
        with self.writer.loan(shape) as slot:
            slot.array[...] = content
            if cancel:
                slot.cancel()
        if not cancel:
            self.published(content, slot.sequence)

    @precondition(lambda self: self.segment is not None and self.capacity < 5000)
    @rule(more=st.integers(1, 20))
    def write_larger_than_the_segment(self, more: int) -> None:
        content = self.next_picture((1, self.capacity + more))
        self.published(content, self.writer.write_frame(content))

    @precondition(lambda self: self.segment is not None)
    @rule()
    def close_the_writer(self) -> None:
        self.writer.close()
        self.segment = None

    @precondition(lambda self: self.segment is None)
    @rule()
    def open_a_writer_and_write(self) -> None:
        self.open()
        self.write((4, 6, 3), 1)

    @precondition(lambda self: len(self.readers) < 8 and self.segment is not None)
    @rule()
    def new_reader(self) -> None:
        reader = SharedMemoryFrameReader(self.name, max_leases=MAX_LEASES)
        reader.attach(timeout=5)
        self.readers.append(ModelReader(reader, self.segment))

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def close_a_reader(self, data: st.DataObject) -> None:
        model = self.readers.pop(self.one_of(self.readers, data))
        model.reader.close()

    def deliverable(self, model: ModelReader, seen: int) -> Segment | None:
        """Where the next frame comes from: unseen frames in the reader's segment come before its successor's."""
        if model.segment is not None and model.segment.newest > model.seen:
            return model.segment
        if self.segment is not None and self.segment is not model.segment:
            return self.segment if self.segment.newest > 0 else None
        return model.segment if model.segment is not None and model.segment.newest > seen else None

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), copy=st.booleans(), again=st.booleans())
    def read(self, data: st.DataObject, copy: bool, again: bool) -> None:
        model = self.readers[self.one_of(self.readers, data)]
        source = self.deliverable(model, 0 if again else model.seen)
        if source is None:
            found = model.reader.latest_frame(copy=copy) if again else model.reader.read_frame(copy=copy)
            assert found == (None, None)
            return
        frame, metadata = self.take(model, source, copy, again)
        new = source is not model.segment or source.newest > model.seen
        skipped = 0
        if new and model.last is not None:
            skipped = source.newest - 1 - (model.last[1] if model.last[0] == source.count else 0)
        assert metadata.sequence == source.newest
        assert metadata.skipped == skipped
        assert source.content is not None
        np.testing.assert_array_equal(frame, source.content)
        pinned = {(held.segment, held.number) for held in self.held if held.owner is model and held.zero_copy}
        here = {number for segment, number in pinned if segment is source}
        assert metadata.zero_copy == (not copy and (source.newest in here or len(here) < MAX_LEASES))
        model.segment, model.seen, model.last = source, source.newest, (source.count, source.newest)
        model.skipped += skipped
        model.copies += not metadata.zero_copy
        self.held.append(Held(model, source, source.newest, frame, metadata.zero_copy))

    def take(self, model: ModelReader, source: Segment, copy: bool, again: bool) -> tuple[Any, Any]:
        if not again:
            model.frames += 1
            return new_frame(model.reader, copy=copy)
        moves = source is not model.segment
        deadline = time.monotonic() + 40
        while True:  # readers look for a successor every few milliseconds
            model.frames += 1
            frame, metadata = model.reader.latest_frame(copy=copy)
            if metadata is not None and (not moves or metadata.generation == self.writer.generation):
                return frame, metadata
            model.copies += metadata is not None and not metadata.zero_copy
            model.frames -= metadata is None
            assert time.monotonic() < deadline, "the successor was not followed"

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def drop_a_view(self, data: st.DataObject) -> None:
        self.held.pop(self.one_of(self.held, data))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def keep_only_a_slice(self, data: st.DataObject) -> None:
        held = self.held[self.one_of(self.held, data)]
        held.view = held.view[:1]
        held.expected = held.expected[:1]

    @invariant()
    def no_held_view_has_changed(self) -> None:
        for held in self.held:
            np.testing.assert_array_equal(held.view, held.expected)

    @invariant()
    def the_statistics_add_up(self) -> None:
        for model in self.readers:
            found = model.reader.statistics
            assert (found.frames, found.skipped, found.copies) == (model.frames, model.skipped, model.copies)
        if self.segment is not None:
            assert self.writer.sequence == self.number
            assert self.writer.statistics.dropped == self.writer.statistics.leases_broken == 0

    @invariant()
    def the_pins_are_those_of_the_held_views(self) -> None:
        if self.segment is None:
            return
        expected = {
            (id(held.owner), held.number) for held in self.held if held.zero_copy and held.segment is self.segment
        }
        assert sum(reader.leases for reader in inspect_segment(self.name).readers) == len(expected)

    def teardown(self) -> None:
        self.writer.close()
        for model in self.readers:
            model.reader.close()
        self.held.clear()


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=50, suppress_health_check=list(HealthCheck))
test_any_order_of_operations_keeps_the_promises = AnyOrder.TestCase

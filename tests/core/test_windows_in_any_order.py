"""Readers of the history, writers and views in any order, against a model that knows only what the header promises."""

import os
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from segments_under_test import picture

from billiards_shm import FrameMetadata, SharedMemoryFrameReader, SharedMemoryFrameWriter

pytestmark = pytest.mark.slow

HISTORY = 3
SLOTS = 8  # six leases: readers run out of them, and get copies
SMALLEST = 4 * 6 * 3


class Segment:
    """What the model knows about one generation."""

    def __init__(self, run: int, base: int, generation: str) -> None:
        self.run = run  # a clean restart begins a new count
        self.base = base
        self.newest = base
        self.generation = generation
        self.frames: dict[int, np.ndarray[Any, Any]] = {}

    @property
    def window(self) -> range:
        return range(max(self.newest - HISTORY, self.base + 1), self.newest + 1)


class Reading:
    """What the model knows about one reader."""

    def __init__(self, reader: SharedMemoryFrameReader) -> None:
        self.reader = reader
        self.segment: Segment | None = None  # its segment
        self.seen = 0
        self.last: tuple[int, int] | None = None  # series and number
        self.in_turn = False
        self.frames = self.skipped = 0


class WindowsInAnyOrder(RuleBasedStateMachine):
    names = iter(range(10**9))

    def __init__(self) -> None:
        super().__init__()
        self.name = f"test-{os.getpid()}-window-{next(self.names)}"
        self.readings: list[Reading] = []
        self.held: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
        self.segments: dict[str, Segment] = {}
        self.run = 0
        self.drawn = 0

    @initialize()
    def open(self) -> None:
        self.run += 1
        self.writer = SharedMemoryFrameWriter(self.name, (4, 6, 3), slots=SLOTS, history=HISTORY)
        self.capacity = SMALLEST
        self.number = 0
        self.is_open = True
        self.current = self.segment_of_now(0)

    def segment_of_now(self, base: int) -> Segment:
        made = Segment(self.run, base, self.writer.generation)
        self.segments[made.generation] = made
        return made

    def publish(self, content: np.ndarray[Any, Any]) -> None:
        assert self.writer.write_frame(content, capture_time_ns=1000 * (self.number + 1)) == self.number + 1
        if content.nbytes > self.capacity:
            self.capacity = content.nbytes
            self.current = self.segment_of_now(self.number)
        self.number += 1
        self.current.newest = self.number
        self.current.frames[self.number] = content

    def draw(self, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        self.drawn += 1
        return picture(self.drawn, shape)

    @precondition(lambda self: self.is_open)
    @rule(times=st.integers(1, 2 * HISTORY))
    def write(self, times: int) -> None:
        for _ in range(times):
            self.publish(self.draw((4, 6, 3)))

    @precondition(lambda self: self.is_open)
    @rule()
    def cancel_a_loan(self) -> None:
        with self.writer.loan() as slot:
            slot.array[...] = 255
            slot.cancel()

    @precondition(lambda self: self.is_open and self.capacity < 2000)
    @rule()
    def write_larger_than_the_segment(self) -> None:
        self.publish(self.draw((1, self.capacity + 1)))

    @precondition(lambda self: self.is_open)
    @rule()
    def close_the_writer(self) -> None:
        self.writer.close()
        self.is_open = False

    @precondition(lambda self: not self.is_open)
    @rule(times=st.integers(1, 2 * HISTORY))
    def open_a_writer_and_write(self, times: int) -> None:
        self.open()
        self.write(times)

    @precondition(lambda self: len(self.readings) < 4 and self.is_open)
    @rule(leases=st.integers(0, 3))
    def new_reader(self, leases: int) -> None:
        reader = SharedMemoryFrameReader(self.name, max_leases=leases)
        reader.attach(timeout=5)
        self.readings.append(Reading(reader))
        self.readings[-1].segment = self.current

    def source(self, reading: Reading) -> Segment | None:
        """Where an unseen frame comes from: first from the segment at hand, then from the one with the name."""
        if reading.segment is not None and reading.segment.newest > max(reading.seen, reading.segment.base):
            return reading.segment
        if self.is_open and self.current is not reading.segment and self.current.newest > self.current.base:
            return self.current
        return None

    @precondition(lambda self: self.readings)
    @rule(data=st.data(), in_turn=st.booleans(), copy=st.booleans())
    def read(self, data: st.DataObject, in_turn: bool, copy: bool) -> None:
        self.read_with(self.one_of_them(data), in_turn, copy)

    def one_of_them(self, data: st.DataObject) -> Reading:
        return self.readings[data.draw(st.integers(0, len(self.readings) - 1))]

    def read_with(self, reading: Reading, in_turn: bool, copy: bool) -> None:
        source = self.source(reading)
        take = reading.reader.read_next if in_turn else reading.reader.read_frame
        reading.in_turn |= in_turn
        if source is None:
            assert take(copy=copy)[1] is None
            return
        reading.in_turn = in_turn
        seen = reading.seen if source is reading.segment else 0
        number = max(seen + 1, source.window.start) if in_turn and reading.last is not None else source.newest
        frame, metadata = take(timeout=20, copy=copy)  # readers look for a successor every few milliseconds
        assert metadata is not None
        skipped = 0
        if reading.last is not None:
            skipped = number - 1 - (reading.last[1] if reading.last[0] == source.run else 0)
        assert (metadata.sequence, metadata.skipped, metadata.generation) == (number, skipped, source.generation)
        self.check(frame, metadata, source)
        reading.segment, reading.seen, reading.last = source, number, (source.run, number)
        reading.frames += 1
        reading.skipped += skipped

    @precondition(lambda self: self.readings)
    @rule(data=st.data(), back=st.integers(-1, HISTORY + 2), by_time=st.booleans(), copy=st.booleans())
    def look_up(self, data: st.DataObject, back: int, by_time: bool, copy: bool) -> None:
        reading = self.one_of_them(data)
        here = reading.segment
        assert here is not None
        number = max(1, here.newest - back)
        metadata = self.look_up_with(reading, number, by_time, copy)
        window = here.window
        expected = min(number, here.newest) if by_time and window else number
        if here is self.current or not self.is_open:
            assert (metadata and metadata.sequence) == (expected if expected in window else None)
        elif reading.in_turn and (
            (expected in window and not (by_time and number >= here.newest))
            or here.newest > max(reading.seen, here.base)
        ):
            assert reading.segment is here, "who reads in turn finishes a segment first"
            assert (metadata and metadata.sequence) == (expected if expected in window else None)
        elif reading.in_turn:
            self.read_with(reading, in_turn=True, copy=copy)  # it has moved on, or is about to
        else:  # the same
            until = time.monotonic() + 20
            while reading.segment is not self.current:
                assert time.monotonic() < until, "the successor was not followed"
                self.look_up_with(reading, self.current.newest, by_time, copy)

    def look_up_with(self, reading: Reading, number: int, by_time: bool, copy: bool) -> FrameMetadata | None:
        if by_time:
            frame, metadata = reading.reader.frame_at(1000 * number + 400, copy=copy)
        else:
            frame, metadata = reading.reader.read_frame(sequence=number, copy=copy)
        if metadata is not None:
            source = self.segments[metadata.generation]
            self.check(frame, metadata, source)
            assert metadata.skipped == 0
            assert metadata.sequence == (min(number, source.newest) if by_time else number)
            reading.frames += 1
            if source is not reading.segment:
                reading.segment, reading.seen = source, 0
        return metadata

    def check(self, frame: Any, metadata: FrameMetadata, source: Segment) -> None:
        np.testing.assert_array_equal(frame, source.frames[metadata.sequence])
        assert metadata.capture_time_ns == 1000 * metadata.sequence
        assert metadata.sequence in source.window
        self.held = [*self.held[-5:], (frame, source.frames[metadata.sequence])]

    @precondition(lambda self: self.readings)
    @rule(data=st.data())
    def close_a_reader(self, data: st.DataObject) -> None:
        reading = self.one_of_them(data)
        self.readings.remove(reading)
        reading.reader.close()

    @rule()
    def drop_all_views(self) -> None:
        self.held.clear()

    @rule()
    def let_readers_look_at_the_name_again(self) -> None:
        time.sleep(0.006)

    @invariant()
    def no_held_view_has_changed(self) -> None:
        for view, content in self.held:
            np.testing.assert_array_equal(view, content)

    @invariant()
    def the_statistics_add_up(self) -> None:
        for reading in self.readings:
            found = reading.reader.statistics
            assert (found.frames, found.skipped) == (reading.frames, reading.skipped)
        if self.is_open:
            assert self.writer.statistics.dropped == self.writer.statistics.leases_broken == 0

    def teardown(self) -> None:
        for reading in self.readings:
            reading.reader.close()
        self.held.clear()
        self.writer.close()


WindowsInAnyOrder.TestCase.settings = settings(max_examples=200, stateful_step_count=40)
test_windows_hold_in_any_order = WindowsInAnyOrder.TestCase

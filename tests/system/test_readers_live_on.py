"""Readers of every kind survive whatever happens to the capture process: real processes, killed, hung, replaced."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import end_started, start
from segments_under_test import wait_until
from supervised_runs import DEMO, SHORT_HANG_SEC, SupervisedRun, alive, published, replaced, send, writer_of
from videos import make_clip

from billiards_shm import (
    SegmentStatus,
    SharedMemoryFrameReader,
    SourceState,
    VideoConsumer,
    inspect_segment,
    remove_stale_segments,
)
from billiards_shm.sources.demo.table import read_counter

Size = tuple[int, int]


class Watcher:
    """One reader in its own thread, and what it saw: (generation, number, width, height)."""

    def __init__(self, name: str, read: Callable[["Watcher"], None]) -> None:
        self.name = name
        self.seen: list[tuple[str, int, int, int]] = []
        self.done = threading.Event()
        self.failure: BaseException | None = None
        self._read = read
        self._thread = threading.Thread(target=self._run, name=read.__name__, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._read(self)
        except BaseException as error:
            self.failure = error

    def saw(self, generation: str, number: int, frame: np.ndarray) -> bool:
        """Note a frame; False when it is time to end."""
        self.seen.append((generation, number, frame.shape[1], frame.shape[0]))
        return not self.done.is_set()

    def end(self) -> None:
        self.done.set()
        self._thread.join(30)
        assert not self._thread.is_alive(), f"{self._read.__name__} does not end"
        if self.failure is not None:
            raise self.failure

    def sees(self, size: Size) -> None:
        """Wait for a frame of that size after those seen so far."""
        before = len(self.seen)
        wait_until(
            lambda: self.failure or any((width, height) == size for _, _, width, height in self.seen[before:]),
            f"{self._read.__name__} to see {size}",
        )
        if self.failure is not None:
            raise self.failure


def polls(watcher: Watcher) -> None:
    with SharedMemoryFrameReader(watcher.name) as reader:
        while not watcher.done.wait(0.005):
            frame, metadata = reader.read_frame()
            if frame is not None:
                watcher.saw(metadata.generation, metadata.sequence, frame)


def waits(watcher: Watcher) -> None:
    with SharedMemoryFrameReader(watcher.name, copy=True) as reader:
        while not watcher.done.is_set():
            frame, metadata = reader.read_frame(timeout=0.5)
            if frame is not None:
                watcher.saw(metadata.generation, metadata.sequence, frame)


def follows(watcher: Watcher) -> None:
    with SharedMemoryFrameReader(watcher.name) as reader:
        for frame, metadata in reader.frames(follow=True):
            if not watcher.saw(metadata.generation, metadata.sequence, frame):
                return


def follows_asynchronously(watcher: Watcher) -> None:
    async def follow() -> None:
        with SharedMemoryFrameReader(watcher.name) as reader:
            async for frame, metadata in reader.frames(follow=True):
                if not watcher.saw(metadata.generation, metadata.sequence, frame):
                    return

    asyncio.run(follow())


def consumes(watcher: Watcher) -> None:
    consumer = VideoConsumer(watcher.name, timeout=60.0)
    assert consumer.isOpened()
    consumer.set(54, 500)  # CAP_PROP_READ_TIMEOUT_MSEC
    while not watcher.done.is_set():
        ok, frame = consumer.read()
        assert consumer.isOpened()
        if ok:
            assert frame is not None
            frame[0, 0] = 0
            assert consumer.get(3) == frame.shape[1]
            watcher.saw("", int(consumer.get(1)), frame)
    consumer.release()


def iterates(watcher: Watcher) -> None:
    """Only a clean close ends it."""
    with SharedMemoryFrameReader(watcher.name) as reader:
        for frame, metadata in reader:
            if not watcher.saw(metadata.generation, metadata.sequence, frame):
                return


KINDS = (polls, waits, follows, follows_asynchronously, consumes)


@pytest.fixture
def watch(segment_name: str) -> Iterator[Callable[..., list[Watcher]]]:
    watchers: list[Watcher] = []

    def make(*kinds: Callable[[Watcher], None]) -> list[Watcher]:
        made = [Watcher(segment_name, kind) for kind in kinds]
        watchers.extend(made)
        return made

    yield make
    for watcher in watchers:
        watcher.done.set()
    end_started()
    # Those waiting for a frame see one more, and then notice that it is time to end.
    start(*demo(segment_name, (64, 48)))
    for watcher in watchers:
        watcher.end()
    end_started()
    remove_stale_segments([segment_name])


def demo(name: str, size: Size) -> list[str]:
    return ["capture", "demo", "--name", name, "--resolution", f"{size[0]}x{size[1]}", "--fps", "50"]


def numbers_rise(watcher: Watcher) -> None:
    """Numbers rise within a generation, and an old generation never comes back."""
    last: dict[str, int] = {}
    order: list[str] = []
    for generation, number, _, _ in watcher.seen:
        assert number > last.get(generation, 0)
        last[generation] = number
        if generation not in order:
            order.append(generation)
        assert order[-1] == generation


def test_every_kind_of_reader_follows_kills_closes_and_other_sizes(
    segment_name: str, watch: Callable[..., list[Watcher]]
) -> None:
    first = start(*demo(segment_name, (64, 48)))
    watchers = watch(*KINDS)
    (plain,) = watch(iterates)
    for watcher in [*watchers, plain]:
        watcher.sees((64, 48))
    first.kill()
    first.wait()
    # A take-over, larger than before: a new segment, and the numbers go on.
    second = start(*demo(segment_name, (320, 240)))
    for watcher in [*watchers, plain]:
        watcher.sees((320, 240))
    for watcher in [*watchers, plain]:
        assert [number for _, number, _, _ in watcher.seen] == sorted({number for _, number, _, _ in watcher.seen})
    second.terminate()
    assert second.wait(30) == 0
    plain.end()
    # After a clean close everything starts again.
    third = start(*demo(segment_name, (96, 72)))
    for watcher in watchers:
        watcher.sees((96, 72))
    for watcher in watchers[:4]:
        numbers_rise(watcher)
    third.terminate()
    for watcher in watchers:
        assert watcher.failure is None


@pytest.mark.slow
def test_every_kind_of_reader_survives_what_a_supervisor_does(
    tmp_path: Path, segment_name: str, watch: Callable[..., list[Watcher]]
) -> None:
    with SupervisedRun(tmp_path, {segment_name: DEMO}, hang_timeout=SHORT_HANG_SEC) as supervised:
        supervised.start().streams()
        watchers = watch(*KINDS, iterates)
        for watcher in watchers:
            watcher.sees((64, 48))
        for number in (signal.SIGKILL, signal.SIGSTOP):
            pid = writer_of(segment_name)
            send(pid, number)
            replaced(segment_name, pid)
            for watcher in watchers:
                watcher.sees((64, 48))
        # Neither was a clean close: the iterating reader is still there, and no frame arrived twice.
        for watcher in watchers:
            numbers = [number for _, number, _, _ in watcher.seen]
            assert numbers == sorted(set(numbers))
        assert supervised.end() == 0
        watchers[-1].end()


@pytest.mark.slow
def test_readers_of_a_file_that_vanishes_and_returns_larger_are_told_why_and_go_on(
    tmp_path: Path, segment_name: str, watch: Callable[..., list[Watcher]]
) -> None:
    clip = make_clip(tmp_path / "table.avi", 25, (64, 48))
    larger = make_clip(tmp_path / "larger.avi", 25, (320, 240))
    start("capture", clip, "--name", segment_name, "--playback-fps", "50")
    wait_until(lambda: published(segment_name))
    watchers = watch(*KINDS, iterates)
    with SharedMemoryFrameReader(segment_name) as reader, VideoConsumer(segment_name, timeout=0.2) as consumer:
        for watcher in watchers:
            watcher.sees((64, 48))
        clip.rename(tmp_path / "away.avi")
        wait_until(lambda: reader.read_frame() and reader.source_state is SourceState.RECONNECTING)
        assert reader.status is SegmentStatus.LIVE
        assert "no such file" in reader.source_reason
        age = reader.last_frame_age
        assert age is not None
        wait_until(lambda: consumer.read() == (False, None))
        assert consumer.isOpened()
        # The age grows while nothing arrives: that is how a reader notices.
        wait_until(lambda: (reader.last_frame_age or 0.0) > age + 0.3)
        larger.rename(clip)
        for watcher in watchers:
            watcher.sees((320, 240))
        assert consumer.read()[0]
        frame, metadata = reader.read_frame(timeout=5.0)
        assert frame is not None
        assert metadata is not None
        assert frame.shape == (240, 320, 3)
        assert reader.source_state is SourceState.STREAMING
        assert reader.source_reason == ""
        wait_until(lambda: inspect_segment(segment_name).reconnects == 1)
    for watcher in watchers:
        numbers = [number for _, number, _, _ in watcher.seen]
        assert numbers == sorted(set(numbers))


def test_a_held_frame_stays_unchanged_while_everything_around_it_changes(segment_name: str) -> None:
    first = start(*demo(segment_name, (160, 120)))
    wait_until(lambda: published(segment_name))
    with SharedMemoryFrameReader(segment_name) as reader:
        frame, metadata = reader.read_frame(timeout=5.0)
        assert frame is not None
        assert metadata is not None
        before = frame.tobytes()
        first.kill()
        first.wait()
        wait_until(lambda: reader.status is SegmentStatus.DEAD)
        second = start(*demo(segment_name, (320, 240)))
        newer, later = reader.read_frame(timeout=40.0)
        assert newer is not None
        assert later is not None
        assert newer.shape == (240, 320, 3)
        second.terminate()
        assert second.wait(30) == 0
        assert not alive(segment_name)
        assert frame.tobytes() == before
        assert read_counter(newer)  # still a picture of the demo's
    end_started()


def test_waiting_begins_before_anything_is_there(segment_name: str, watch: Callable[..., list[Watcher]]) -> None:
    watchers = watch(*KINDS, iterates)
    start(*demo(segment_name, (64, 48)))
    for watcher in watchers:
        watcher.sees((64, 48))

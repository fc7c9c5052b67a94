"""The capture loop on scripted sources: every frame once, and recovery from every failure."""

import itertools
import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capture_runs import published, settings_for
from encoding import encode
from segments_under_test import sleeps_or_has_ended, wait_until
from stops import Stop
from videos import damage_clip, decode_all, make_clip

from billiards_shm import (
    CameraError,
    DamagedSourceError,
    FrameMetadata,
    SharedMemoryFrameReader,
    SharedMemoryFrameWriter,
    SharedMemoryFullError,
    SourceState,
    WriterExistsError,
    inspect_segment,
)
from billiards_shm.capture import pace as pace_module
from billiards_shm.capture import publisher as publisher_module
from billiards_shm.capture import read_failures as read_failures_module
from billiards_shm.capture import reporter as reporter_module
from billiards_shm.capture import status as status_module
from billiards_shm.capture.loop import CaptureLoop
from billiards_shm.capture.process import open_source
from billiards_shm.capture.stats import CaptureStatistics, StatisticsSnapshot
from billiards_shm.config.address import SourceAddress
from billiards_shm.config.load import load_settings
from billiards_shm.service.exit_codes import EXIT_FAILURE, exit_code_of
from billiards_shm.sources.demo.table import read_counter
from billiards_shm.sources.protocol import (
    Delivery,
    Image,
    SourceDetails,
    SourceLostError,
    SourceReopenError,
    VideoFormat,
)

SHAPE = (48, 64, 3)
LIVE = "rtsp://somewhere/live"


@dataclass
class Script:
    """A source that plays a list: an image, or None for a grab that fails, or a function to call."""

    steps: list[Any]
    details: SourceDetails = field(default_factory=lambda: SourceDetails("SCRIPT", SHAPE[1], SHAPE[0], 0.0))
    position_ms: float | None = None
    released: bool = False
    landed: list[bool] = field(default_factory=list)
    _current: Any = None

    @property
    def frames_left(self) -> int:
        return sum(isinstance(step, np.ndarray) for step in self.steps)

    def grab(self) -> bool:
        assert not self.released
        self._current = self.steps.pop(0) if self.steps else None
        if callable(self._current):
            self._current()
            return self.grab()
        return self._current is not None

    def retrieve(self, target: Image | None) -> Image | None:
        if isinstance(self._current, str):
            return None
        fits = target is not None and target.shape == self._current.shape and target.dtype == self._current.dtype
        self.landed.append(fits)
        if not fits:
            return self._current.copy()
        assert target is not None
        target[:] = self._current
        return target

    def release(self) -> None:
        self.released = True


def image(value: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.full(shape, value, np.uint8)


@pytest.fixture
def name(segment_name: str) -> str:
    return segment_name


class Clock:
    """The time that the loop sees: it passes only when a script says so, and when the loop waits."""

    def __init__(self) -> None:
        self.now_ns = time.monotonic_ns()

    def monotonic_ns(self) -> int:
        return self.now_ns

    def process_time_ns(self) -> int:
        return 0

    def pass_by(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)

    def after(self, seconds: float) -> Callable[[], None]:
        """A step of a script."""
        return lambda: self.pass_by(seconds)


CLOCK = Clock()
TOLD_THE_TIME = ("loop", "observers", "placeholders", "publisher", "reporter", "staleness", "status")


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    CLOCK.now_ns = time.monotonic_ns()
    for module in TOLD_THE_TIME:
        monkeypatch.setattr(f"billiards_shm.capture.{module}.time", CLOCK)


class ClockedStop(Stop):
    """Waits by advancing the time."""

    def wait(self, seconds: float) -> bool:
        CLOCK.pass_by(seconds)
        return self.requested


class Run:
    """One run of the loop on scripted sources, and a reader that notes every frame."""

    def __init__(
        self,
        name: str,
        device_id: str,
        *openings: Any,
        frames: int | None = None,
        observers: dict[str, Any] | None = None,
        **overrides: Any,
    ) -> None:
        self.openings = list(openings)
        self.opened: list[Script] = []
        self.stop: Stop = ClockedStop()
        self.seen: list[tuple[int, int, tuple[int, ...]]] = []
        self.reader = SharedMemoryFrameReader(name)
        self.delivery = Delivery.LIVE if SourceAddress.parse(device_id).live else Delivery.RECORDED
        settings = settings_for(name, device_id, **overrides)
        self.loop = CaptureLoop(settings, self.stop, self._open, frames=frames, **(observers or {}))

    def _open(self) -> Script:
        if not self.openings:
            self.stop.request()
            raise CameraError("no more sources")
        opening = self.openings.pop(0)
        if isinstance(opening, Exception):
            raise opening
        if callable(opening):
            opening()
            return self._open()
        opening.details = replace(opening.details, delivery=self.delivery)
        self.opened.append(opening)
        # Published frames are read before the next grab, so that none is missed.
        opening.steps = [
            part for step in opening.steps for part in ((step, self.look) if isinstance(step, np.ndarray) else (step,))
        ]
        return opening

    def look(self) -> None:
        frame, metadata = self.reader.read_frame(timeout=60.0)
        assert frame is not None
        assert metadata is not None
        self.note(frame, metadata)

    def note(self, frame: np.ndarray, metadata: FrameMetadata) -> None:
        self.seen.append((metadata.sequence, int(frame[0, 0, 0]), frame.shape))

    def run(self) -> "Run":
        try:
            self.loop.run()
            if self.loop.statistics.captured > len(self.seen):
                self.look()
        finally:
            self.loop.close()
            self.reader.close()
        return self

    @property
    def values(self) -> list[int]:
        return [value for _, value, _ in self.seen]


# Frames.


def test_every_frame_is_published_once_in_order_and_in_place(name: str) -> None:
    run = Run(name, "clip.mp4", Script([image(value) for value in range(1, 9)]), playback_fps=0, loop_video=False).run()
    assert [(sequence, value) for sequence, value, _ in run.seen] == [(value, value) for value in range(1, 9)]
    # The first one determines the shape; all others are decoded into shared memory.
    assert run.opened[0].landed == [False] + [True] * 7
    assert run.loop.statistics.captured == run.loop.statistics.written == 8
    assert run.opened[0].released


def test_readers_see_captured_frames_counted_together_with_published_ones(name: str) -> None:
    counts = []

    def count() -> None:
        info = inspect_segment(name)
        counts.append((info.captured, info.published))

    steps = [step for value in range(1, 6) for step in (image(value), count)]
    Run(name, "clip.mp4", Script(steps), playback_fps=0, loop_video=False).run()
    assert counts == [(value, value) for value in range(1, 6)]


def test_the_segment_takes_the_shape_of_the_first_frame_whatever_the_header_says(name: str) -> None:
    lying = Script([image(1, (30, 40, 3)), image(2, (30, 40, 3))], SourceDetails("SCRIPT", 1920, 1080, 0.0))
    run = Run(name, "clip.mp4", lying, playback_fps=0, loop_video=False).run()
    assert [shape for _, _, shape in run.seen] == [(30, 40, 3)] * 2
    assert run.loop.reporter.snapshot().width == 40
    assert run.loop.reporter.snapshot().height == 30


@pytest.mark.parametrize("other", [(24, 32, 3), (96, 128, 3)], ids=["smaller", "larger"])
def test_a_change_of_geometry_loses_no_frame(name: str, other: tuple[int, int, int]) -> None:
    steps = [image(1), image(2), image(3, other), image(4, other), image(5), image(6)]
    run = Run(name, "clip.mp4", Script(steps), playback_fps=0, loop_video=False).run()
    assert run.seen == [(number + 1, number + 1, step.shape) for number, step in enumerate(steps)]
    assert run.opened[0].landed == [False, True, False, True, False, True]


def test_frames_that_cannot_be_decoded_are_left_out(name: str) -> None:
    steps = [image(1), None, image(2), "undecodable", "undecodable", image(3), image(4)]
    run = Run(name, "clip.mp4", Script(steps), playback_fps=0, loop_video=False).run()
    assert [(sequence, value) for sequence, value, _ in run.seen] == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_frames_that_cannot_be_decoded_are_counted_for_readers(name: str) -> None:
    steps = [image(1), "undecodable", image(2), None, image(3), *["undecodable"] * 9, image(4)]
    run = Run(name, "clip.mp4", Script(steps), playback_fps=0, loop_video=False)
    source = run.openings[0]
    source.steps.append(lambda: run.loop._status.set_state("streaming"))
    unreadable: list[int] = []
    source.steps.append(lambda: unreadable.append(inspect_segment(name).unreadable))
    run.run()
    # A failed read between two frames was a damaged frame too.
    assert run.loop.statistics.unreadable == 11
    assert unreadable == [11]
    assert "unreadable=11" in run.loop.reporter.snapshot().line()


@dataclass
class Checked(Script):
    """Reports images of even value as damaged."""

    @property
    def damaged(self) -> bool:
        return self._current is not None and bool(self._current[0, 0, 0] % 2 == 0)


def test_frames_that_the_decoder_repaired_are_published_and_counted_and_logged(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(name, "clip.mp4", Checked([image(value) for value in range(1, 8)]), playback_fps=0, loop_video=False)
    run.run()
    assert run.values == list(range(1, 8))
    assert (run.loop.statistics.damaged, run.loop.statistics.unreadable) == (3, 0)
    assert "damaged=3" in run.loop.reporter.snapshot().line()
    warned = [re.match(r"(\d+) frames? of clip.mp4 lacked parts", record.message) for record in caplog.records]
    assert sum(int(match[1]) for match in warned if match) == 3


@pytest.mark.parametrize("before", [[], [image(1)], [image(1), "undecodable", image(2)]], ids=["all", "one", "some"])
def test_a_recording_ends_with_an_error_at_ten_frames_in_a_row_that_cannot_be_decoded(
    name: str, before: list[Any]
) -> None:
    run = Run(name, "clip.mp4", Script([*before, *["undecodable"] * 10, image(9)]), Script([image(9)]), playback_fps=0)
    with pytest.raises(DamagedSourceError, match=r"^clip\.mp4: decode errors: 10 frames in a row cannot be decoded$"):
        run.run()
    assert 9 not in run.values
    assert exit_code_of(DamagedSourceError()) == EXIT_FAILURE


def test_the_number_of_frames_can_be_limited(name: str) -> None:
    run = Run(name, "clip.mp4", Script([image(value) for value in range(1, 9)]), frames=3, playback_fps=0).run()
    assert run.values == [1, 2, 3]


def test_metadata_has_the_time_of_the_grab_and_the_position(name: str) -> None:
    source = Script([image(1), image(2)], position_ms=125.0)
    run = Run(name, "clip.mp4", source, playback_fps=0, loop_video=False)
    grabbed: list[int] = []
    source.steps.insert(1, lambda: grabbed.append(CLOCK.now_ns))
    metadata: list[FrameMetadata] = []
    run.note = lambda frame, found: (run.seen.append((0, 0, ())), metadata.append(found))  # type: ignore
    run.run()
    last = metadata[-1]
    assert last.position_ms == 125.0
    assert last.capture_time_ns == grabbed[0]


@dataclass
class TimedScript(Script):
    """A source with its own clock: numeric steps set it."""

    timestamp_ms: float | None = None
    sent_ns: int | None = None

    def is_taken(self, ago_ms: float) -> Callable[[], None]:
        """A step: the next frame was taken that long ago, according to the driver or the sender."""

        def step() -> None:
            self.timestamp_ms = CLOCK.now_ns / 1e6 - ago_ms
            self.sent_ns = CLOCK.now_ns - round(ago_ms * 1e6) + time.time_ns() - time.monotonic_ns()

        return step


@pytest.mark.parametrize(("backend", "taken_from"), [("V4L2", "driver"), ("AV", "sender")])
def test_frames_of_a_live_source_have_its_own_time_and_the_age_goes_by_arrival(
    name: str, backend: str, taken_from: str
) -> None:
    source = TimedScript([], SourceDetails(backend, SHAPE[1], SHAPE[0], 25.0))
    arrived = []
    for value in range(1, 40):
        source.steps += [CLOCK.after(0.08 if value == 36 else 0.04), source.is_taken(12 + value % 3)]
        source.steps += [lambda: arrived.append(CLOCK.now_ns), image(value)]
    run = Run(name, LIVE, source, frames=39)
    metadata: list[FrameMetadata] = []
    run.note = lambda frame, found: (run.seen.append((0, 0, ())), metadata.append(found))  # type: ignore
    run.run()
    assert {each.clock for each in metadata} == {taken_from}
    late = [(at - each.capture_time_ns) / 1e6 for at, each in zip(arrived, metadata, strict=True)]
    assert late == pytest.approx([12 + value % 3 for value in range(1, 40)], abs=0.5)
    statistics = run.loop.statistics
    assert statistics.clock_offset_ns == pytest.approx(-12e6, abs=5e5)
    assert statistics.last_capture_ns == arrived[-1]
    assert statistics.age_ms(0.5)[0] == pytest.approx(13, abs=0.5)
    assert statistics.lost == (1 if taken_from == "driver" else 0)


def test_a_wrong_clock_is_warned_about_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    source = TimedScript([], SourceDetails("V4L2", SHAPE[1], SHAPE[0], 25.0))
    for value in range(1, 10):
        source.steps += [CLOCK.after(1), source.is_taken(-7000), image(value)]
    run = Run(name, LIVE, source, frames=9, **{"logging.stats_interval_sec": 2.0})
    run.run()
    warnings = [record.getMessage() for record in caplog.records if "has a clock that is" in record.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{LIVE} has a clock that is 7.000 s ahead of this host's: ")


def test_frames_of_a_recording_are_captured_when_they_are_due(name: str) -> None:
    steps = [step for value in range(1, 9) for step in (CLOCK.after(0.001 * value), image(value))]
    run = Run(name, "clip.mp4", Script(steps), playback_fps=25, loop_video=False)
    metadata: list[FrameMetadata] = []
    run.note = lambda frame, found: (run.seen.append((0, 0, ())), metadata.append(found))  # type: ignore
    run.run()
    assert {each.clock for each in metadata} == {"file"}
    times = [each.capture_time_ns for each in metadata]
    assert [after - before for before, after in itertools.pairwise(times)] == [40_000_000] * 7
    assert times[-1] <= CLOCK.now_ns, "none is in the future"


def test_a_recording_that_is_not_paced_has_no_times(name: str) -> None:
    run = Run(name, "clip.mp4", Script([image(1), image(2)]), playback_fps=0, loop_video=False)
    clocks: list[str] = []
    run.note = lambda frame, found: (run.seen.append((0, 0, ())), clocks.append(found.clock))  # type: ignore
    run.run()
    assert clocks == ["arrival", "arrival"]


VARYING = [0, 40, 120, 160, 660, 700, 720]
"""In milliseconds, as from a phone, which films more slowly in the dark."""


def times_of(name: str, path: Path, **camera: Any) -> list[float]:
    """When the frames of a video were captured, in milliseconds after the first."""
    settings = settings_for(name, str(path), loop_video=False, **camera)
    reader = SharedMemoryFrameReader(name)
    found: list[int] = []

    def note() -> None:
        _, metadata = reader.read_frame(timeout=0)
        if metadata is not None:
            assert metadata.clock == "file"
            found.append(metadata.capture_time_ns)

    loop = CaptureLoop(settings, ClockedStop(), lambda: open_source(settings.vision.camera), on_progress=note)
    loop.run()
    loop.close()
    reader.close()
    return [(at - found[0]) / 1e6 for at in found]


@pytest.mark.parametrize("begins_ms", [0, 5000])
def test_frames_at_a_variable_rate_are_captured_at_their_own_times(name: str, tmp_path: Path, begins_ms: int) -> None:
    times = [begins_ms + each for each in VARYING]
    path = encode(tmp_path / "phone.mkv", "libx264", "yuv420p", frames=len(times), times=times)
    assert times_of(name, path, backend="av") == pytest.approx(VARYING, abs=1)
    assert times_of(name, path, backend="ffmpeg") != pytest.approx(VARYING, abs=1), "OpenCV plays it at one rate"


def test_a_video_with_jumping_times_goes_on_after_one_frame(name: str, tmp_path: Path) -> None:
    parts = [encode(tmp_path / f"{first}.ts", "libx264", "yuv420p", first=first) for first in (1, 6)]
    path = tmp_path / "all.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert times_of(name, path) == pytest.approx([40 * number for number in range(10)], abs=1)


# Recordings.


def test_a_recording_that_loops_is_opened_again_and_numbers_go_on(name: str) -> None:
    passes = [Script([image(10 * number + 1), image(10 * number + 2)]) for number in range(3)]
    run = Run(name, "clip.mp4", *passes, frames=6, playback_fps=0).run()
    assert [sequence for sequence, _, _ in run.seen] == [1, 2, 3, 4, 5, 6]
    assert run.values == [1, 2, 11, 12, 21, 22]
    assert run.loop.statistics.loops == 2
    assert run.loop.statistics.reconnects == 0
    assert all(script.released for script in run.opened)


def test_the_end_of_a_pass_takes_no_frame_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dues: list[int] = []
    original = pace_module.Pace.due_ns

    def note(pace: pace_module.Pace, now_ns: int, timestamp_ms: float | None = None) -> int:
        dues.append(original(pace, now_ns, timestamp_ms))
        return dues[-1]

    monkeypatch.setattr(pace_module.Pace, "due_ns", note)
    monkeypatch.setattr(pace_module, "_TOLERATED_LAG_NS", 60_000_000_000)
    details = SourceDetails("SCRIPT", SHAPE[1], SHAPE[0], 100.0, 5)
    passes = [Script([image(1) for _ in range(5)], details) for _ in range(4)]
    run = Run(name, "clip.mp4", *passes, frames=20).run()
    assert run.loop.statistics.loops == 3
    steps = {after - before for before, after in itertools.pairwise(dues)}
    assert len(dues) == 20
    assert steps == {10_000_000}


def test_a_recording_without_a_frame_is_not_published_and_says_so(name: str) -> None:
    run = Run(name, "clip.mp4", Script([]), Script([image(1)]), playback_fps=0)
    with pytest.raises(CameraError, match=r"cannot open clip\.mp4: it delivered no frame"):
        run.run()
    assert len(run.opened) == 1


def test_a_loop_over_a_recording_that_has_become_empty_is_tried_with_growing_delays(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[float] = []
    original = pace_module.Backoff.next_delay

    def note(backoff: pace_module.Backoff) -> float:
        delays.append(original(backoff))
        return delays[-1]

    monkeypatch.setattr(pace_module.Backoff, "next_delay", note)
    passes = [Script([image(1)]), Script([]), Script([]), Script([image(2)])]
    run = Run(name, "clip.mp4", *passes, frames=2, playback_fps=0).run()
    assert run.values == [1, 2]
    assert len(delays) == 2


def test_a_recording_that_vanishes_while_it_loops_is_waited_for(name: str) -> None:
    gone = CameraError("cannot open clip.mp4: no such file or directory")
    run = Run(name, "clip.mp4", Script([image(1)]), gone, gone, Script([image(2)]), frames=2, playback_fps=0).run()
    assert run.values == [1, 2]
    assert run.loop.statistics.reconnects == 1


@pytest.mark.parametrize(("playback_fps", "logged"), [(None, 1), (40, 0), (0, 0)])
def test_the_rate_that_is_assumed_is_logged_only_if_it_is_used(
    name: str, caplog: pytest.LogCaptureFixture, playback_fps: float | None, logged: int
) -> None:
    caplog.set_level(logging.INFO)
    Run(name, "clip.mp4", Script([image(1)]), playback_fps=playback_fps, loop_video=False).run()
    assert caplog.messages.count("clip.mp4 does not name its frame rate: played at 25 fps") == logged


# Live sources.


def test_a_live_source_that_fails_is_opened_again_and_numbers_go_on(name: str) -> None:
    run = Run(name, LIVE, Script([image(1), image(2)]), Script([image(3), image(4)]), frames=4).run()
    assert [(sequence, value) for sequence, value, _ in run.seen] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert run.loop.statistics.reconnects == 1
    assert run.loop.statistics.loops == 0
    assert run.opened[0].released


def test_a_single_failure_of_a_live_source_is_no_reason_to_open_it_again(name: str) -> None:
    run = Run(name, LIVE, Script([image(1), None, image(2)]), frames=2).run()
    assert run.values == [1, 2]
    assert len(run.opened) == 1
    assert run.loop.statistics.reconnects == 0


def test_a_live_source_is_opened_again_at_ten_frames_in_a_row_that_cannot_be_decoded(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    steps = [image(1), *["undecodable"] * 9, image(2), *["undecodable"] * 10, image(9)]
    run = Run(name, LIVE, Script(steps), Script([image(3)]), frames=3).run()
    assert run.values == [1, 2, 3]
    assert run.loop.statistics.unreadable == 19
    (lost,) = [message for message in caplog.messages if message.startswith("Lost ")]
    reason, _, when = lost.partition("; trying again in ")
    assert reason == f"Lost {LIVE}: decode errors: 10 frames in a row cannot be decoded"
    assert float(when.removesuffix(" s")) >= 0


def test_what_an_engine_knows_about_a_lost_source_is_believed_immediately(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_failures_module, "FAILING_SEC", 60)
    reasons: list[str] = []

    def vanish() -> None:
        raise SourceLostError("end of stream: connection reset by peer")

    def note() -> None:
        reasons.append(inspect_segment(name).source_reason)

    run = Run(name, LIVE, Script([image(1), vanish]), note, Script([image(2)]), frames=2).run()
    assert run.values == [1, 2]
    assert reasons == ["end of stream: connection reset by peer"]
    assert run.loop.statistics.reconnects == 1


@pytest.mark.parametrize("device_id", [LIVE, "clip.mp4"])
def test_a_source_that_is_lost_before_its_first_frame_never_opened(name: str, device_id: str) -> None:
    def vanish() -> None:
        raise SourceLostError("end of stream: gone")

    expected = rf"cannot open {re.escape(device_id)}: it delivered no frame \(end of stream: gone\)"
    with pytest.raises(CameraError, match=expected):
        Run(name, device_id, Script([vanish])).run()


def test_a_stream_with_an_end_is_a_recording(name: str) -> None:
    scripts = [Script([image(value) for value in values]) for values in ((1, 2), (3, 4))]
    run = Run(name, "http://somewhere/clip.mp4", *scripts, frames=4, playback_fps=0)
    run.delivery = Delivery.RECORDED
    run.run()
    assert run.values == [1, 2, 3, 4]
    assert (run.loop.statistics.loops, run.loop.statistics.reconnects) == (1, 0)


def test_a_stream_that_has_become_a_recording_is_not_played_as_if_it_were_live(name: str) -> None:
    reasons: list[str] = []
    openings: list[Any] = []

    def becomes(delivery: Delivery) -> Callable[[], None]:
        def change() -> None:
            reasons.append(inspect_segment(name).source_reason)
            run.delivery = delivery

        return change

    recording = Script([image(9)])
    openings += [becomes(Delivery.RECORDED), recording, becomes(Delivery.BURSTS), Script([image(2)])]
    run = Run(name, "http://somewhere/live.m3u8", Script([image(1)]), *openings, frames=2)
    run.delivery = Delivery.BURSTS
    run.run()
    assert run.values == [1, 2]
    assert recording.released
    assert reasons == [
        "end of stream: the server ended it, or is gone",
        "end of stream: it was live, but is a recording now: start the capture again to play it",
    ]


def test_readers_see_that_a_source_is_away_and_why(name: str) -> None:
    states: list[tuple[str, str]] = []

    def note() -> None:
        info = inspect_segment(name)
        states.append((str(info.source_state), info.source_reason))

    refused = CameraError(f"cannot open {LIVE}: connection refused")
    run = Run(name, LIVE, Script([image(1)]), note, refused, note, Script([image(2), note, image(3)]), frames=3).run()
    assert run.values == [1, 2, 3]
    assert states == [
        ("reconnecting", "end of stream: the server ended it, or is gone"),
        ("reconnecting", "connection refused"),
        ("streaming", ""),
    ]


def test_a_source_that_comes_back_with_another_size_just_works(name: str) -> None:
    large = (96, 128, 3)
    run = Run(name, LIVE, Script([image(1), image(2)]), Script([image(3, large), image(4, large)]), frames=4).run()
    assert [(value, shape) for _, value, shape in run.seen] == [(1, SHAPE), (2, SHAPE), (3, large), (4, large)]


def test_a_grab_that_blocks_until_the_timeout_is_a_stall(name: str) -> None:
    hung = Script([image(1), CLOCK.after(0.12), None, image(99)])
    run = Run(name, LIVE, hung, Script([image(2)]), frames=2, read_timeout_sec=0.1).run()
    assert run.values == [1, 2]
    assert run.loop.statistics.stalls == 1
    assert run.loop.statistics.reconnects == 1


def test_a_frame_that_arrives_after_a_timeout_is_discarded(name: str) -> None:
    buffered = Script([image(1), CLOCK.after(0.12), image(99)])
    run = Run(name, LIVE, buffered, Script([image(2)]), frames=2, read_timeout_sec=0.1)
    assert run.run().values == [1, 2]
    assert run.loop.statistics.stalls == 1


def test_a_live_source_that_never_delivers_a_frame_never_opened(name: str) -> None:
    run = Run(name, LIVE, Script([]), Script([image(1)]))
    with pytest.raises(CameraError, match=f"cannot open {LIVE}: it delivered no frame"):
        run.run()


def test_a_source_that_cannot_be_opened_the_first_time_is_an_error(name: str) -> None:
    with pytest.raises(CameraError, match="busy"):
        Run(name, LIVE, CameraError("busy"), Script([image(1)])).run()


def test_an_attempt_to_open_interrupted_by_a_stop_is_not_an_error(name: str) -> None:
    def interrupted() -> None:
        run.stop.request()

    run = Run(name, LIVE, interrupted, CameraError("interrupted system call"))
    assert run.run().values == []
    run = Run(name, LIVE, Script([interrupted]))
    assert run.run().values == []


def test_delays_start_over_once_frames_arrive_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[int] = []
    original = pace_module.Backoff.next_delay

    def note(backoff: pace_module.Backoff) -> float:
        attempts.append(backoff.attempts)
        return original(backoff)

    monkeypatch.setattr(pace_module.Backoff, "next_delay", note)
    gone = CameraError("gone")
    # An open source is not back yet: only a frame shows that.
    openings = [Script([image(1)]), gone, Script([]), Script([image(2)]), gone, Script([image(3)])]
    assert Run(name, LIVE, *openings, frames=3).run().values == [1, 2, 3]
    assert attempts == [0, 1, 2, 0, 1]


def test_a_stop_ends_waiting_for_a_lost_source(name: str) -> None:
    run = Run(name, LIVE, Script([image(1)]), reconnect_delay_sec=3600, reconnect_max_delay_sec=3600)
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        CLOCK.pass_by(seconds)
        if len(run.opened) == 1 and run.loop.reporter.snapshot().state == "reconnecting":
            run.stop.request()
        return run.stop.requested

    run.stop.wait = wait  # type: ignore[method-assign]
    run.run()
    assert run.values == [1]
    # Statistics go on while the source is away, so no single wait is long.
    assert max(waits) <= 0.5


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the thread that looks for stalls look soon; the clock cannot hurry it."""
    monkeypatch.setattr(status_module, "STALL_CHECK_SEC", 0.01)


@pytest.mark.usefixtures("looks_often")
def test_readers_see_a_stall_while_the_grab_hangs(name: str) -> None:
    found: list[Any] = []

    def hang() -> None:
        CLOCK.pass_by(2.1)
        wait_until(lambda: inspect_segment(name).source_state == "stalled")
        found.append(inspect_segment(name))

    run = Run(name, LIVE, Script([image(1), image(2), hang, image(3)]), frames=3)
    run.run()
    assert found[0].source_reason.startswith("timeout: no frame for more than ")
    assert found[0].stalls == 1
    # It recovered on its own.
    assert run.values == [1, 2, 3]
    assert run.loop.reporter.snapshot().state == "streaming"
    assert run.loop.reporter.snapshot().stalls == 1
    assert run.loop.statistics.reconnects == 0


@pytest.mark.usefixtures("looks_often")
def test_the_measured_rate_falls_to_nothing_while_the_grab_hangs(name: str) -> None:
    rates: list[float] = []

    def hang() -> None:
        rates.append(inspect_segment(name).fps)
        CLOCK.pass_by(20)
        wait_until(lambda: inspect_segment(name).fps == 0)

    steps = [part for value in range(1, 12) for part in (image(value), CLOCK.after(0.06))]
    run = Run(name, LIVE, Script([*steps, hang, image(99)]), frames=12)
    run.run()
    assert rates[0] > 1


def test_a_slow_source_has_not_stalled_between_two_frames(name: str) -> None:
    states: list[str] = []
    steps: list[Any] = []
    for value in range(1, 30):
        steps += [CLOCK.after(1.5), image(value)]

    def pause_for_five_frames() -> None:
        for _ in range(5):
            CLOCK.pass_by(1.5)
            run.loop._status._check_for_stall(CLOCK.now_ns)
            states.append(str(inspect_segment(name).source_state))

    run = Run(name, LIVE, Script([*steps, pause_for_five_frames, image(99)]), frames=30)
    run.run()
    assert states == ["streaming"] * 4 + ["stalled"]


def test_a_stall_of_a_slow_source_stays_counted(name: str) -> None:
    reported: list[int] = []

    def hang() -> None:
        CLOCK.pass_by(6)
        run.loop._status._check_for_stall(CLOCK.now_ns)
        reported.append(inspect_segment(name).stalls)

    steps = [step for value in range(1, 30) for step in (CLOCK.after(1), image(value))]
    run = Run(name, LIVE, Script([*steps, hang, image(99)]), frames=30, read_timeout_sec=60)
    run.run()
    assert reported == [1]
    assert run.loop.reporter.snapshot().stalls == 1


def test_a_frozen_picture_is_a_stall_and_the_source_is_opened_again(name: str) -> None:
    still = [part for _ in range(60) for part in (image(7), CLOCK.after(0.01))]
    reasons: list[str] = []
    script = Script([image(8)])
    run = Run(name, LIVE, Script(still), script, frames=61, frozen_timeout_sec=0.3)
    run.loop._frames = None
    script.steps.append(lambda: setattr(run.loop, "_frames", run.loop.statistics.captured + 1))
    script.steps.append(image(9))
    run.openings.insert(1, lambda: reasons.append(inspect_segment(name).source_reason))
    run.run()
    assert reasons == ["frozen: identical frames for 0.3 s or more"]
    assert run.values[-2:] == [8, 9]
    assert run.loop.statistics.stalls == 1
    assert run.loop.statistics.reconnects == 1


@pytest.mark.parametrize(
    ("options", "recorded", "seconds"),
    [({}, True, 0), ({}, False, 10), ({"frozen_timeout_sec": 3}, True, 3), ({"frozen_timeout_sec": 0}, False, 0)],
)
def test_a_recording_may_show_the_same_picture_for_any_length_of_time(
    options: dict[str, Any], recorded: bool, seconds: float
) -> None:
    assert settings_for("x", LIVE, **options).vision.camera.frozen_after_sec(recorded=recorded) == seconds


@pytest.mark.parametrize("options", [{"auto_reconnect": False}, {"reconnect_attempts": 2}], ids=["off", "limited"])
def test_reconnecting_ends_where_the_configuration_says(name: str, options: dict[str, Any]) -> None:
    gone = [CameraError(f"cannot open {LIVE}: busy: somebody has it") for _ in range(5)]
    run = Run(name, LIVE, Script([image(1), image(2)]), *gone, **options)
    with pytest.raises(CameraError, match=rf"^lost {LIVE} (after 2 attempts: busy|and auto_reconnect is off: end of)"):
        run.run()
    assert len(run.openings) == (5 if "auto_reconnect" in options else 3)
    assert run.loop.reporter.snapshot().state == "reconnecting"


def reopen() -> None:
    raise SourceReopenError("unreadable: too slow with one thread")


def test_a_source_that_asks_to_be_opened_again_is_not_lost(name: str) -> None:
    states: list[str] = []

    def note() -> None:
        states.append(str(inspect_segment(name).source_state))

    openings = [Script([image(1), image(2), reopen]), note, Script([image(3), note, image(4)])]
    run = Run(name, LIVE, *openings, frames=4, auto_reconnect=False).run()
    assert run.values == [1, 2, 3, 4]
    assert states == ["opening", "streaming"]
    assert run.opened[0].released
    assert run.loop.statistics.reconnects == 0


def test_a_source_that_asks_to_be_opened_again_but_cannot_be_is_lost(name: str) -> None:
    gone = CameraError(f"cannot open {LIVE}: busy: somebody has it")
    run = Run(name, LIVE, Script([image(1), reopen]), gone, auto_reconnect=False)
    with pytest.raises(CameraError, match=rf"^lost {LIVE} and auto_reconnect is off: busy: somebody has it$"):
        run.run()


def test_attempts_are_counted_from_zero_once_frames_have_arrived(name: str) -> None:
    gone = CameraError("gone")
    openings = [Script([image(value)]) if value % 2 else gone for value in range(1, 12)]
    assert Run(name, LIVE, *openings, frames=6, reconnect_attempts=2).run().values == [1, 3, 5, 7, 9, 11]


def test_a_crop_outside_the_frames_is_an_error_at_the_first_and_a_reason_later(name: str) -> None:
    def refuse() -> None:
        raise CameraError("crop [64, 0, 9, 9] lies outside the frames, which are 64x48")

    with pytest.raises(CameraError, match="crop"):
        Run(name, LIVE, Script([refuse])).run()
    assert Run(name, LIVE, Script([image(1), refuse]), Script([image(2)]), frames=2).run().values == [1, 2]


# Old frames.


@dataclass
class Timed(Script):
    """A live source that reports when each frame was taken."""

    timestamp_ms: float = 0.0

    def retrieve(self, target: Image | None) -> Image | None:
        assert self.timestamp_ms == 40.0 * int(self._current[0, 0, 0])
        return super().retrieve(target)

    def grab(self) -> bool:
        grabbed = super().grab()
        if grabbed:
            self.timestamp_ms = 40.0 * int(self._current[0, 0, 0])
        return grabbed


def test_frames_that_have_piled_up_are_skipped_and_counted(name: str) -> None:
    steady = [part for value in range(1, 11) for part in (CLOCK.after(0.03), image(value))]
    piled = [image(value) for value in range(11, 41)]
    source = Timed([*steady, CLOCK.after(1.2), *piled])
    run = Run(name, LIVE, source)
    run.reader.close()
    run.look = lambda: None  # type: ignore[method-assign]
    run.loop.run()
    snapshot = run.loop.reporter.snapshot()
    run.loop.close()
    # Of the frames that piled up, the first is shown, as its grab waited, and the last three, which are new enough.
    assert (snapshot.frames_captured, snapshot.frames_stale) == (14, 26)
    assert (snapshot.age_p50_ms, snapshot.age_p99_ms) == (0, 1160)
    assert "stale=26" in snapshot.line()


def test_frames_that_arrive_in_bursts_are_published_at_their_own_times(name: str) -> None:
    numbers = [1, 2, 4, 5, 9]
    run = Run(name, "http://somewhere/live.m3u8", Timed([image(number) for number in numbers]), frames=5)
    run.delivery = Delivery.BURSTS
    taken: list[int] = []

    def note(frame: np.ndarray, metadata: FrameMetadata) -> None:
        taken.append(metadata.capture_time_ns)

    run.note = note  # type: ignore[method-assign]
    run.run()
    # A wait may take longer, and later ones make up for it; none is shorter.
    assert all(moment >= taken[0] + 40_000_000 * (number - 1) for number, moment in zip(numbers, taken, strict=True))
    assert len(taken) == 5
    assert run.loop.statistics.stale == 0


# Placeholders.


def drawn(target: np.ndarray, lines: list[str]) -> None:
    target[:] = 200
    DRAWN.append(lines)


DRAWN: list[list[str]] = []


@pytest.mark.usefixtures("looks_often")
@pytest.mark.parametrize("away", ["stalled", "reconnecting"])
def test_placeholders_are_published_while_a_source_is_away(name: str, away: str) -> None:
    DRAWN.clear()
    seen: list[FrameMetadata] = []

    def wait() -> None:
        for _ in range(2):
            CLOCK.pass_by(2.1)
            frame, metadata = run.reader.read_frame(timeout=60.0)
            assert frame is not None
            assert metadata is not None
            assert frame.shape == SHAPE
            assert (frame == 200).all()
            seen.append(metadata)

    run = Run(name, LIVE, frames=2, observers={"draw_placeholder": drawn}, placeholder=True)
    if away == "stalled":
        run.openings = [Script([image(1), wait, image(2)])]
    else:
        run.openings = [Script([image(1)]), wait, Script([image(2)])]
    run.run()
    assert [metadata.online for metadata in seen] == [False, False]
    assert run.loop.statistics.captured == 2
    assert run.seen[-1][1] == 2
    assert run.seen[-1][0] >= 4
    title, source, reason, state = DRAWN[0]
    assert (title, source) == ("NO PICTURE", LIVE)
    assert reason.startswith("timeout: " if away == "stalled" else "end of stream: ")
    assert state.startswith(f"{away} for ")


@pytest.mark.usefixtures("looks_often")
def test_a_placeholder_that_was_begun_while_the_source_was_away_is_not_published_after_its_frame(name: str) -> None:
    begun, frame_is_out = threading.Event(), threading.Event()

    def draw(target: np.ndarray, lines: list[str]) -> None:
        begun.set()
        frame_is_out.wait()

    class Back(Script):
        def release(self) -> None:
            frame_is_out.set()

    openings = [Script([image(1)]), begun.wait, Back([image(2)])]
    run = Run(name, LIVE, *openings, frames=2, observers={"draw_placeholder": draw}, placeholder=True)
    run.loop.run()
    assert run.loop.reporter.snapshot().write_sequence == 2
    run.loop.close()
    run.reader.close()


def test_no_placeholder_is_published_while_a_frame_is() -> None:
    statistics = CaptureStatistics(CLOCK.now_ns)
    order: list[str] = []

    def bring_frame() -> None:
        status.frame_comes()
        order.append("frame")

    def publish() -> None:
        frames.start()
        wait_until(lambda: sleeps_or_has_ended(frames))
        order.append("placeholder")

    frames = threading.Thread(target=bring_frame)
    publisher = publisher_module.Publisher(settings_for("x", LIVE).video, statistics)
    status = status_module.SourceStatus(publisher, statistics, lambda state, reason: publish)
    status.set_state(SourceState.RECONNECTING, "gone")
    status.frame_comes()
    status._check_for_stall(CLOCK.now_ns)
    assert order == []
    # That frame could not be decoded.
    status.grab_started(CLOCK.now_ns)
    status._check_for_stall(CLOCK.now_ns)
    frames.join()
    assert order == ["placeholder", "frame"]


@pytest.mark.usefixtures("looks_often")
def test_placeholders_are_plain_without_opencv_and_a_line_says_so(name: str, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[bool, float]] = []

    def missing(target: np.ndarray, lines: list[str]) -> None:
        raise ImportError("libGL.so.1: cannot open shared object file")

    def wait() -> None:
        for _ in range(2):
            CLOCK.pass_by(2.1)
            frame, metadata = run.reader.read_frame(timeout=60.0)
            assert frame is not None
            assert metadata is not None
            seen.append((metadata.online, float(np.ptp(frame))))

    run = Run(name, LIVE, frames=2, observers={"draw_placeholder": missing}, placeholder=True)
    run.openings = [Script([image(1), wait, image(2)])]
    run.run()
    assert seen == [(False, 0.0)] * 2
    said = [record.message for record in caplog.records if record.message.startswith("Placeholders have no text: ")]
    assert len(said) == 1
    assert "(libGL.so.1: cannot open shared object file): pip install 'billiards-shm[headless]'" in said[0]


def test_there_are_no_placeholders_unless_requested(name: str) -> None:
    DRAWN.clear()
    run = Run(name, LIVE, frames=2, observers={"draw_placeholder": drawn})
    run.openings = [Script([image(1)]), lambda: run.loop._status._check_for_stall(CLOCK.now_ns), Script([image(2)])]
    run.run()
    assert [sequence for sequence, _, _ in run.seen] == [1, 2]
    assert DRAWN == []


# Requested and negotiated.


def test_requested_and_actual_settings_are_logged_once_and_in_the_statistics(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asked, given = VideoFormat(1920, 1080, 30.0, "MJPG"), VideoFormat(640, 480, 15.0, "YUYV")
    refused = ("gain: asked for 5, the driver has 3",)
    details = SourceDetails("V4L2", 64, 48, 15.0, negotiated=given, requested=asked, warnings=refused)
    openings = [Script([image(1)], details), Script([image(2)], details)]
    run = Run(name, "/dev/video0", *openings, frames=2).run()
    warning = "/dev/video0 was asked for 1920x1080 at 30 fps MJPG but delivers 640x480 at 15 fps YUYV"
    assert caplog.messages.count(warning) == 1
    assert caplog.messages.count("/dev/video0: gain: asked for 5, the driver has 3") == 1
    fields = run.loop.reporter.snapshot().fields()
    assert fields["requested"] == {"width": 1920, "height": 1080, "fps": 30.0, "fourcc": "MJPG"}
    assert fields["negotiated"] == {"width": 640, "height": 480, "fps": 15.0, "fourcc": "YUYV"}


def test_a_camera_slower_than_its_driver_claims_is_warned_about_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    details = SourceDetails("V4L2", 64, 48, 1000.0, requested=VideoFormat(64, 48, 1000.0))
    steps = [part for value in range(1, 60) for part in (image(value), CLOCK.after(0.01))]
    Run(name, "/dev/video0", Script(steps, details), frames=59, **{"logging.stats_interval_sec": 0.1}).run()
    told = [message for message in caplog.messages if "though its driver says 1000" in message]
    assert len(told) == 1
    assert "MJPG" in told[0]


def test_a_camera_whose_frames_are_damaged_is_not_called_slow(name: str, caplog: pytest.LogCaptureFixture) -> None:
    details = SourceDetails("V4L2", 64, 48, 1000.0, requested=VideoFormat(64, 48, 1000.0))
    steps = [part for value in range(1, 60) for part in (image(value), "undecodable", CLOCK.after(0.01))]
    Run(name, "/dev/video0", Script(steps, details), frames=59, **{"logging.stats_interval_sec": 0.1}).run()
    assert not any("though its driver says" in message for message in caplog.messages)
    assert any("could not be decoded" in message for message in caplog.messages)


def test_progress_is_reported_at_each_frame_and_each_attempt_to_reconnect(name: str) -> None:
    told: list[int] = []
    gone = CameraError("gone")
    openings = [Script([image(1), image(2)]), gone, gone, Script([image(3)])]
    observers = {"on_progress": lambda: told.append(run.loop.statistics.captured)}
    run = Run(name, LIVE, *openings, frames=3, observers=observers)
    assert run.run().values == [1, 2, 3]
    # Two frames, two failed attempts, a successful one, and its frame.
    assert told == [1, 2, 2, 2, 2, 3]


# Closing from outside.


def test_a_segment_that_a_stop_has_closed_under_the_loop_ends_it_without_error(name: str) -> None:
    run = Run(name, "clip.mp4", Script([image(1), image(2), image(3)]), playback_fps=0)

    def close() -> None:
        run.stop.request()
        run.loop.close()

    run.openings[0].steps.insert(2, close)
    run.run()
    assert run.values == [1, 2]
    run.loop.close()


def test_a_second_writer_on_the_name_is_an_error_and_harms_nothing(name: str) -> None:
    first = Run(name, "clip.mp4", Script([image(1), image(2)]), frames=2, playback_fps=0)

    def second() -> None:
        with pytest.raises(WriterExistsError):
            Run(name, "clip.mp4", Script([image(9)]), playback_fps=0).run()

    first.openings[0].steps.insert(1, second)
    first.run()
    assert first.values == [1, 2]


def test_a_name_lost_while_the_source_is_away_is_reported_once(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Refused(publisher_module.Publisher):
        reports = 0

        def report(self, **news: Any) -> None:
            self.reports += 1
            raise WriterExistsError("the name belongs to another")

    statistics = CaptureStatistics(CLOCK.monotonic_ns())
    publisher = Refused(settings_for(name, LIVE).video, statistics)
    status = status_module.SourceStatus(publisher, statistics)
    status.state = SourceState.RECONNECTING
    monkeypatch.setattr(status_module, "STALL_CHECK_SEC", 0.001)

    def reported_often() -> bool:
        CLOCK.pass_by(1)
        return publisher.reports > 3

    with status:
        wait_until(reported_often)
    assert caplog.text.count("the name belongs to another") == 1


def test_frames_without_memory_are_dropped_and_counted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class OftenFull(SharedMemoryFrameWriter):
        full = False

        def loan(self, *arguments: Any, **options: Any) -> Any:
            if OftenFull.full:
                raise SharedMemoryFullError("no room")
            return super().loan(*arguments, **options)

        def write_frame(self, *arguments: Any, **options: Any) -> int:
            return 0 if OftenFull.full else super().write_frame(*arguments, **options)

    def fill() -> None:
        OftenFull.full = True

    def free() -> None:
        OftenFull.full = False

    monkeypatch.setattr(publisher_module, "SharedMemoryFrameWriter", OftenFull)
    run = Run(name, "clip.mp4", Script([]), playback_fps=0, loop_video=False)
    run.openings[0].steps = [image(1), fill, image(2), free, image(3)]
    run.look = lambda: None  # type: ignore[method-assign]
    run.loop.run()
    snapshot = run.loop.reporter.snapshot()
    run.loop.close()
    run.reader.close()
    assert (snapshot.frames_captured, snapshot.frames_written, snapshot.frames_dropped) == (3, 2, 1)
    assert snapshot.write_sequence == 2


# Statistics.


def test_statistics_are_given_and_logged_while_frames_flow(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reporter_module, "DISPLAY_INTERVAL_NS", 20_000_000)
    caplog.set_level(logging.INFO)
    snapshots: list[StatisticsSnapshot] = []
    settings, _ = load_settings(
        None,
        {
            "video.shared_memory_name": name,
            "vision.camera.device_id": "demo",
            "vision.camera.resolution": "160x120",
            "vision.camera.fps": 100,
            "logging.stats_interval_sec": 0.1,
        },
        {},
    )
    loop = CaptureLoop(
        settings, ClockedStop(), lambda: open_source(settings.vision.camera), frames=40, on_statistics=snapshots.append
    )
    loop.run()
    loop.close()
    assert len(snapshots) > 5
    last = snapshots[-1]
    assert (last.source, last.name, last.state, last.width, last.height) == ("demo", name, "streaming", 160, 120)
    assert 0 < last.frames_written <= last.frames_captured <= 40
    assert last.write_sequence == last.frames_written
    assert last.backed_bytes > 3 * 160 * 120 * 3
    assert last.frame_age_s is not None
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == "Camera initialized successfully"
    assert "First frame received: 160x120, channels=3" in messages
    backed = last.backed_bytes / 1e6
    assert f"Shared memory writer initialized: {name} ({backed:.1f} MB)" in messages
    assert sum(message.startswith("Stats: uptime=") for message in messages) >= 2


def test_a_display_that_fails_does_not_stop_the_frames(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter_module, "DISPLAY_INTERVAL_NS", 0)
    monkeypatch.setattr(status_module, "REPORT_INTERVAL_NS", 0)
    calls: list[StatisticsSnapshot] = []

    def fail(snapshot: StatisticsSnapshot) -> None:
        calls.append(snapshot)
        raise BrokenPipeError(32, "Broken pipe")

    clip = Script([image(value) for value in range(1, 9)])
    run = Run(name, "clip.mp4", clip, observers={"on_statistics": fail}, playback_fps=0, loop_video=False).run()
    assert run.values == list(range(1, 9))
    assert len(calls) == 1


def test_readers_and_inspect_learn_the_counts(name: str) -> None:
    found: list[Any] = []
    run = Run(name, "clip.mp4", Script([image(1)]), Script([image(2)]), frames=2, playback_fps=0)

    def look_closely() -> None:
        run.loop._status.set_state("streaming")
        found.append(inspect_segment(name))

    run.openings[1].steps.append(look_closely)
    run.loop._frames = 3
    run.openings.append(Script([image(3)]))
    run.run()
    assert found[0].source_state == "streaming"
    assert found[0].loops == 1


# Real files.


@pytest.mark.parametrize("file", ["clip.avi", "clip.mp4"])
def test_a_file_is_published_pixel_for_pixel_as_opencv_decodes_it(name: str, tmp_path: Path, file: str) -> None:
    clip = make_clip(tmp_path / file, 12)
    frames = published(name, settings_for(name, str(clip), playback_fps=0, loop_video=False))
    expected = decode_all(clip)
    assert [sequence for sequence, _ in frames] == list(range(1, 13))
    assert all(np.array_equal(frame, theirs) for (_, frame), theirs in zip(frames, expected, strict=True))


def test_a_file_that_loops_begins_again_at_its_first_frame(name: str, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.avi", 5)
    frames = published(name, settings_for(name, str(clip), playback_fps=0), frames=13)
    assert [(sequence, read_counter(frame)) for sequence, frame in frames] == [
        (number + 1, number % 5 + 1) for number in range(13)
    ]


def test_damaged_frames_of_a_file_are_left_out_and_reported(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = damage_clip(make_clip(tmp_path / "clip.avi", 12), 4, 5, 9)
    frames = published(name, settings_for(name, str(clip), playback_fps=0, loop_video=False))
    assert [read_counter(frame) for _, frame in frames] == [1, 2, 3, 6, 7, 8, 10, 11, 12]
    assert [sequence for sequence, _ in frames] == list(range(1, 10))
    assert f"3 frames of {clip} could not be decoded: they are not published" in caplog.messages


def test_the_report_says_what_was_wrong_with_a_jpeg(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = damage_clip(make_clip(tmp_path / "clip.avi", 12), 4, 5, 9)
    published(name, settings_for(name, str(clip), playback_fps=0, loop_video=False, publish="native"))
    (report,) = [message for message in caplog.messages if "could not be decoded" in message]
    assert report.startswith(f"3 frames of {clip} could not be decoded: they are not published. The last one: ")
    assert report.endswith("it does not start like a JPEG, but with 0000")


def test_one_damaged_frame_of_a_file_is_reported_in_the_singular(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = damage_clip(make_clip(tmp_path / "clip.avi", 5), 4)
    published(name, settings_for(name, str(clip), playback_fps=0, loop_video=False))
    assert f"1 frame of {clip} could not be decoded: it is not published" in caplog.messages


def count_openings(open_it: Callable[[], Any]) -> tuple[Callable[[], Any], list[int]]:
    openings: list[int] = []

    def counted() -> Any:
        openings.append(1)
        return open_it()

    return counted, openings


def test_a_file_is_opened_again_for_every_pass_and_never_sought(name: str, tmp_path: Path) -> None:
    settings = settings_for(name, str(make_clip(tmp_path / "clip.avi", 3)), playback_fps=0)
    counted, openings = count_openings(lambda: open_source(settings.vision.camera))
    loop = CaptureLoop(settings, Stop(), counted, frames=9)
    loop.run()
    loop.close()
    assert len(openings) == 3
    assert loop.statistics.loops == 2

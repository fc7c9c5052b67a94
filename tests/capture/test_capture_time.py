"""When frames were captured, by clocks of drivers and senders that are right, wrong, set, or missing."""

import random
import time
from collections.abc import Iterable
from typing import Any

import pytest

from billiards_shm.capture.capture_time import BELIEVED_NS, GAPS, LATEST_NS, CaptureTime, LostFrames, SourceClock
from billiards_shm.capture.least_late import MEMORY_NS, LeastLate
from billiards_shm.sources.protocol import Delivery, SourceDetails

MS = 1_000_000
SECOND = 1_000_000_000
PERIOD = 40 * MS
START = 10**12
WALL = 1_900_000_000 * SECOND
"""The wall clock at START."""


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    """This host's two clocks; only their difference matters."""
    monkeypatch.setattr(time, "time_ns", lambda: WALL)
    monkeypatch.setattr(time, "monotonic_ns", lambda: START)


class Source:
    """An open source, reduced to its clock."""

    def __init__(self, backend: str = "AV", delivery: Delivery = Delivery.LIVE) -> None:
        self.details = SourceDetails(backend, 64, 48, 25.0, delivery=delivery)
        self.timestamp_ms: float | None = None
        self.sent_ns: int | None = None


def clock_of(source: Any) -> SourceClock:
    clock = SourceClock.of(source)
    assert clock is not None
    return clock


def play(
    delays: Iterable[int],
    *,
    ahead: int = 0,
    source: Source | None = None,
    clock: SourceClock | None = None,
    at: int = 0,
    period: int = PERIOD,
) -> list[int]:
    """Play frames of a sender whose clock is ahead, each late by its delay; return the errors of their times."""
    source = source or Source()
    clock = clock or clock_of(source)
    errors = []
    for number, delay in enumerate(delays):
        taken = START + at + number * period
        source.timestamp_ms = (at + number * period) / MS
        source.sent_ns = taken + WALL - START + ahead
        when = clock.capture_time(taken + delay)
        assert when.ns <= taken + delay, "never in the future"
        assert when.clock == "sender"
        errors.append(when.ns - taken)
    return errors


def jitter(count: int, least: int = 30 * MS, most: int = 90 * MS) -> list[int]:
    rng = random.Random(1)
    return [least, *(rng.randrange(least, most) for _ in range(count))]


def test_a_sender_whose_clock_is_right_is_taken_at_its_word() -> None:
    source = Source()
    clock = clock_of(source)
    assert set(play(jitter(500), source=source, clock=clock)) == {0}
    assert clock.offset_ns == -30 * MS


@pytest.mark.parametrize("ahead", [7 * SECOND, -7 * SECOND, -2 * BELIEVED_NS, 86_400 * SECOND, -WALL + 5 * SECOND])
def test_with_a_wrong_sender_clock_frames_are_late_relative_to_the_least_late_one(
    ahead: int,
) -> None:
    source = Source()
    clock = clock_of(source)
    assert set(play(jitter(500), ahead=ahead, source=source, clock=clock)) == {30 * MS}
    assert clock.offset_ns == ahead - 30 * MS


def test_a_clock_ahead_by_less_than_the_delay_looks_like_a_shorter_delay() -> None:
    assert set(play(jitter(50), ahead=20 * MS)) == {20 * MS}


@pytest.mark.parametrize("step", [5 * SECOND, -5 * SECOND])
def test_a_sender_that_sets_its_clock_is_followed_immediately(step: int) -> None:
    source = Source()
    clock = clock_of(source)
    play(jitter(100), source=source, clock=clock)
    errors = play(jitter(100), ahead=step, source=source, clock=clock, at=200 * PERIOD)
    assert set(errors) == {30 * MS}
    assert set(play(jitter(100), source=source, clock=clock, at=400 * PERIOD)) <= {0, 30 * MS}


@pytest.mark.parametrize("ahead", [7 * SECOND, SECOND // 2, -7 * SECOND])
def test_a_clock_set_back_by_less_than_a_frame_period_is_followed_immediately(ahead: int) -> None:
    source = Source()
    clock = clock_of(source)
    play(jitter(20), ahead=ahead, source=source, clock=clock, period=SECOND)
    back = SECOND // 2
    errors = play(jitter(20), ahead=ahead - back, source=source, clock=clock, at=21 * SECOND, period=SECOND)
    assert set(errors) == {0 if ahead == back else 30 * MS}


def test_reports_with_their_sending_time_do_not_restart_the_comparison() -> None:
    source = Source()
    clock = clock_of(source)
    play([30 * MS], ahead=7 * SECOND, source=source, clock=clock)
    rng = random.Random(1)
    for number in range(1, 200):
        ahead = 7 * SECOND - rng.randrange(90) * MS
        (error,) = play([80 * MS], ahead=ahead, source=source, clock=clock, at=number * SECOND // 10)
        assert error <= 30 * MS, "no frame is taken for the least late one but the first"


def test_this_hosts_wall_clock_may_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    clock = clock_of(source)
    play(jitter(100), source=source, clock=clock)
    monkeypatch.setattr(time, "time_ns", lambda: WALL + 3600 * SECOND)
    assert set(play(jitter(100), source=source, clock=clock, at=200 * PERIOD)) == {30 * MS}


def test_a_clock_that_drifts_is_followed() -> None:
    source = Source()
    clock = clock_of(source)
    for number in range(0, 10 * MEMORY_NS, SECOND):
        (error,) = play([30 * MS], ahead=7 * SECOND + number // 10_000, source=source, clock=clock, at=number)
        assert 30 * MS - MEMORY_NS // 10_000 <= error <= 30 * MS, number


def test_frames_more_than_a_minute_old_are_not_compared_however_few_arrived_since() -> None:
    least = LeastLate()
    assert least.add(START, 5) == 5
    assert least.add(START + MEMORY_NS // 2, 9) == 5
    assert least.add(START + MEMORY_NS + 10 * SECOND, 8) == 8
    assert least.add(START + 10 * MEMORY_NS, 20) == 20


def test_before_the_first_report_of_a_sender_and_without_any_arrival_counts() -> None:
    source = Source()
    clock = clock_of(source)
    assert clock.capture_time(START) == CaptureTime(START, "arrival")
    assert clock.offset_ns is None
    source.sent_ns = WALL - 40 * MS
    assert clock.capture_time(START) == CaptureTime(START - 40 * MS, "sender")
    source.sent_ns = None
    assert clock.capture_time(START + 5) == CaptureTime(START + 5, "arrival")


def test_a_frame_that_is_far_too_late_has_no_usable_time() -> None:
    source = Source()
    clock = clock_of(source)
    play([0], source=source, clock=clock)
    source.sent_ns = WALL + 1
    assert clock.capture_time(START + LATEST_NS + 2) == CaptureTime(START + LATEST_NS + 2, "arrival")


@pytest.mark.parametrize("seconds", [None, 9e15, 1e12, float("inf")])
def test_a_time_that_no_driver_clock_can_show_is_ignored(seconds: float | None) -> None:
    source = Source("V4L2")
    clock = clock_of(source)
    for number in range(1, 3):
        arrived = START + number * PERIOD
        source.timestamp_ms = None if seconds is None else seconds * 1e3
        assert clock.capture_time(arrived) == CaptureTime(arrived, "arrival")
        assert clock.lost_frames() == 0
    assert clock.offset_ns is None


def test_a_cameras_driver_reports_clock_monotonic() -> None:
    source = Source("V4L2")
    clock = clock_of(source)
    for number in range(1, 100):
        taken = START + number * PERIOD
        source.timestamp_ms = taken / MS
        assert clock.capture_time(taken + 8 * MS) == CaptureTime(taken, "driver")
    assert clock.offset_ns == -8 * MS


def test_a_driver_that_reports_the_wall_clock_is_detected() -> None:
    source = Source("V4L2")
    clock = clock_of(source)
    source.timestamp_ms = WALL / MS
    assert clock.capture_time(START + 8 * MS) == CaptureTime(START + 8 * MS, "driver")
    assert clock.offset_ns == WALL - START - 8 * MS


def test_a_driver_without_times_or_with_repeated_times_is_not_a_clock() -> None:
    source = Source("V4L2")
    clock = clock_of(source)
    assert clock.capture_time(START) == CaptureTime(START, "arrival")
    source.timestamp_ms = START / MS
    for number in range(5):
        arrived = START + number * PERIOD
        assert clock.capture_time(arrived) == CaptureTime(arrived, "driver" if number == 0 else "arrival")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (Source("V4L2"), "driver"),
        (Source(), "sender"),
        (Source(delivery=Delivery.RECORDED), None),
        (Source(delivery=Delivery.BURSTS), None),
        (Source("V4L2", Delivery.RECORDED), None),
    ],
)
def test_which_sources_have_a_clock(source: Any, name: str | None) -> None:
    clock = SourceClock.of(source)
    assert (clock and clock.name) == name


def test_a_source_that_has_no_sender_has_no_clock() -> None:
    source: Any = Source("FFMPEG")
    del source.sent_ns
    assert SourceClock.of(source) is None


# Frames that a driver lost.


def lost(gaps: Iterable[int]) -> int:
    frames, now = LostFrames(), START
    found = frames.add(now)
    for gap in gaps:
        now += gap
        found += frames.add(now)
    return found


def test_a_steady_camera_loses_nothing_whatever_its_jitter() -> None:
    rng = random.Random(1)
    assert lost(PERIOD + rng.randrange(-10, 10) * MS for _ in range(1000)) == 0


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5])
def test_lost_frames_are_those_that_are_missing_between_others(share: float) -> None:
    rng = random.Random(2)
    gaps, gap, missing = [], 0, 0
    for _ in range(2000):
        gap += 1
        if rng.random() < share:
            missing += len(gaps) >= GAPS
            continue
        gaps.append(gap * PERIOD + rng.randrange(-2, 2) * MS)
        gap = 0
    assert missing > 0
    assert lost(gaps) == pytest.approx(missing, abs=max(3, 0.02 * missing))


def test_a_camera_that_slows_down_for_good_is_believed() -> None:
    found = lost([PERIOD] * 100 + [2 * PERIOD] * 1000)
    assert 0 < found <= GAPS


def test_two_simultaneous_frames_do_not_make_all_others_late() -> None:
    assert lost(([PERIOD] * 20 + [2 * MS, 2 * PERIOD - 2 * MS]) * 20) <= 20


def test_a_clock_that_is_set_back_does_not_count_as_loss() -> None:
    frames = LostFrames()
    for number in range(100):
        frames.add(START + number * PERIOD)
    assert frames.add(START) == 0
    assert frames.add(START + PERIOD) == 0

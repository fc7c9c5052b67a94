"""Which frames of a live source are old, by clocks with the errors of real sources."""

import time
from collections.abc import Callable

import pytest

from billiards_shm.capture.least_late import MEMORY_NS
from billiards_shm.capture.staleness import LONGEST_SKIP_NS, StalenessFilter

MS = 1_000_000
PERIOD = 40 * MS
START = 10**12


@pytest.fixture
def computing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set how much processor time the process uses from here on."""
    used = [0]
    monkeypatch.setattr(time, "process_time_ns", lambda: used[0])

    def compute(nanoseconds: int) -> None:
        used[0] += nanoseconds

    return compute


class Clock:
    """A source's report of when its frame was taken."""

    timestamp_ms: float | None = None


def judge(staleness: StalenessFilter, taken: int | None, ended: int) -> bool:
    staleness._source.timestamp_ms = None if taken is None else taken / MS
    return staleness.stale(ended)


def grab(staleness: StalenessFilter, taken: int, began: int, ended: int) -> bool:
    staleness.grab_started(began)
    return judge(staleness, taken, ended)


def steady(staleness: StalenessFilter, frames: int, jitter: Callable[[int], int] = lambda number: 0) -> int:
    """Frames that arrive when they are taken, each waited for; returns the number called old."""
    old = 0
    for number in range(1, frames + 1):
        arrives = START + number * PERIOD + jitter(number)
        old += grab(staleness, number * PERIOD, arrives - PERIOD * 3 // 4, arrives)
    return old


def test_frames_that_arrive_in_time_are_all_kept(computing: Callable[[int], None]) -> None:
    staleness = StalenessFilter(Clock(), monotonic=False)
    assert steady(staleness, 500, lambda number: number * 7919 % 13 * MS) == 0
    assert staleness.lag_ns < 13 * MS


def test_piled_up_frames_are_skipped_until_the_newest(computing: Callable[[int], None]) -> None:
    staleness = StalenessFilter(Clock(), monotonic=False)
    steady(staleness, 100)
    # Delayed for two seconds, during which 50 frames arrived.
    now = START + 150 * PERIOD
    kept = []
    for number in range(101, 151):
        if not grab(staleness, number * PERIOD, now, now + MS):
            kept.append(number)
        now += MS
    # A tenth of a second is no reason to skip anything.
    assert kept == [149, 150]
    assert staleness.lag_ns < 100 * MS


def test_a_frame_that_was_waited_for_is_the_newest_however_late(computing: Callable[[int], None]) -> None:
    staleness = StalenessFilter(Clock(), monotonic=False)
    steady(staleness, 100)
    # The network was down for three seconds, and delivers everything late from now on.
    assert steady(staleness, 50, lambda number: 100 * PERIOD + 75 * PERIOD) == 0


def test_decoding_is_not_waiting(computing: Callable[[int], None]) -> None:
    staleness = StalenessFilter(Clock(), monotonic=False)
    steady(staleness, 100)
    now = START + 125 * PERIOD
    staleness.grab_started(now)
    computing(30 * MS)
    assert judge(staleness, 101 * PERIOD, now + 31 * MS)


def test_when_decoding_alone_is_too_slow_some_frames_are_still_published(
    computing: Callable[[int], None],
) -> None:
    staleness = StalenessFilter(Clock(), monotonic=False)
    steady(staleness, 100)
    now = START + 125 * PERIOD
    kept = 0
    for number in range(101, 201):
        staleness.grab_started(now)
        computing(60 * MS)
        now += 60 * MS
        kept += not judge(staleness, number * PERIOD, now)
    assert 100 * 60 * MS / (LONGEST_SKIP_NS + 120 * MS) - 2 < kept < 40


def test_a_clock_that_jumps_is_no_reason_to_skip_anything(computing: Callable[[int], None]) -> None:
    staleness = StalenessFilter(Clock(), monotonic=False)
    steady(staleness, 100)
    # The stream starts again: its clock is back at zero, or an hour ahead, and two frames arrive in one packet.
    for taken in (0, 3600_000 * MS, 3600_040 * MS):
        now = START + 101 * PERIOD
        assert not grab(staleness, taken, now, now + MS)


def test_a_clock_that_drifts_is_followed(computing: Callable[[int], None]) -> None:
    staleness = StalenessFilter(Clock(), monotonic=False)
    # A source that is slow by one part in a thousand is seconds late after an hour, but no frame is old.
    frames = 3 * MEMORY_NS // PERIOD
    for number in range(1, frames):
        arrives = START + number * PERIOD * 1001 // 1000
        staleness.grab_started(arrives - PERIOD)
        judge(staleness, number * PERIOD, arrives)
    assert staleness.lag_ns <= 1.2 * MEMORY_NS / 1000


def test_a_source_without_a_clock_is_never_late(computing: Callable[[int], None]) -> None:
    staleness = StalenessFilter(Clock(), monotonic=False)
    staleness.grab_started(START)
    assert not judge(staleness, None, START + MS)
    assert staleness.lag_ns == 0


def test_the_v4l2_clock_gives_the_age_directly(computing: Callable[[int], None]) -> None:
    staleness = StalenessFilter(Clock(), monotonic=True)
    now = START
    ages = []
    kept = []
    for number in range(4):
        # Four buffers had filled while the loop was elsewhere for two seconds.
        taken = START - 2000 * MS + number * PERIOD
        kept.append(not grab(staleness, taken, now, now + MS))
        ages.append(staleness.lag_ns // MS)
        now += MS
    assert ages == [2001, 1962, 1923, 1884]
    # After the first frame the rate is not known yet.
    assert kept == [True, False, False, False]
    assert not grab(staleness, now, now - PERIOD, now + 5 * MS)
    assert staleness.lag_ns == 5 * MS


def test_an_invalid_v4l2_clock_is_not_believed(computing: Callable[[int], None]) -> None:
    staleness = StalenessFilter(Clock(), monotonic=True)
    assert not grab(staleness, 1000 * MS, START, START + MS)
    assert staleness.lag_ns == 0

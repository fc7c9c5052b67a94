"""What is measured: rates, latencies, pace, delays; and how it is logged."""

import dataclasses
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billiards_shm import SourceState
from billiards_shm.capture.pace import Backoff, Pace
from billiards_shm.capture.stats import (
    LATENCY_WINDOW_FRAMES,
    RATE_WINDOW_NS,
    CaptureStatistics,
    RateWindow,
    StatisticsSnapshot,
)
from billiards_shm.service.logs import configure_logging

SECOND = 1_000_000_000
START = 5 * SECOND


def steady(fps: float, seconds: float, start: int = START) -> tuple[RateWindow, int]:
    window = RateWindow()
    now = start
    for number in range(int(seconds * fps) + 1):
        now = start + round(number * SECOND / fps)
        window.add(now)
    return window, now


# Rates.


@pytest.mark.parametrize("fps", [0.3, 1, 24, 29.97, 240, 2000])
def test_a_steady_rate_is_measured_exactly(fps: float) -> None:
    window, now = steady(fps, 20)
    assert window.rate(now) == pytest.approx(fps, rel=1e-3)


def test_the_rate_falls_to_zero_when_no_frames_arrive() -> None:
    window, now = steady(30, 20)
    rates = [window.rate(now + silence * SECOND // 10) for silence in range(70)]
    assert rates[0] == pytest.approx(30)
    assert rates[-1] == 0.0
    assert rates == sorted(rates, reverse=True)
    assert window.rate(now + RATE_WINDOW_NS + SECOND) == 0.0


def test_the_rate_covers_only_the_last_seconds() -> None:
    window, now = steady(100, 20)
    for number in range(1, 200):
        window.add(now + number * SECOND // 10)
    assert window.rate(now + 199 * SECOND // 10) == pytest.approx(10, rel=0.01)


def test_nothing_and_one_event_have_no_rate() -> None:
    window = RateWindow()
    assert window.rate(START) == 0.0
    window.add(START)
    assert window.rate(START) == 0.0


def test_events_at_the_same_instant_do_no_harm() -> None:
    window = RateWindow()
    window.add(START)
    window.add(START)
    assert window.rate(START) == 0.0


# Latency and age.


def test_latency_percentiles_are_values_that_occurred() -> None:
    statistics = CaptureStatistics(START)
    assert statistics.latency_ms(0.5, 0.99) == (0.0, 0.0)
    for latency in range(1, 101):
        statistics.frame_written(START, latency * 1_000_000)
    assert statistics.latency_ms(0.5, 0.99, 1.0) == (51, 100, 100)


def test_latency_is_forgotten_after_a_window_of_frames() -> None:
    statistics = CaptureStatistics(START)
    statistics.frame_written(START, 10**12)
    for _ in range(LATENCY_WINDOW_FRAMES):
        statistics.frame_written(START, 1_000_000)
    assert statistics.latency_ms(1.0) == (1.0,)
    assert statistics.written == LATENCY_WINDOW_FRAMES + 1


def test_the_age_is_the_last_captured_frames() -> None:
    statistics = CaptureStatistics(START)
    assert statistics.frame_age_s(START + SECOND) is None
    statistics.frame_captured(START)
    statistics.frame_written(START + SECOND, 5)
    assert statistics.frame_age_s(START + 2 * SECOND) == 2.0
    assert statistics.uptime_s(START + 2 * SECOND) == 2.0


# The line.

SNAPSHOT = StatisticsSnapshot(
    uptime_s=10.0,
    frames_captured=243,
    frames_written=242,
    frames_dropped=1,
    fps=24.3,
    camera_fps=24.2,
    reconnects=2,
    stalls=3,
    loops=4,
    frame_age_s=0.0123,
    write_sequence=242,
    write_p50_ms=0.081,
    write_p99_ms=0.4,
    source="clip.mp4",
    name="billiards_video",
    width=3840,
    height=2160,
    backed_bytes=74_800_000,
    state=SourceState.STREAMING,
    reason="",
)


def test_the_statistics_line_is_unchanged() -> None:
    assert SNAPSHOT.line() == (
        "Stats: uptime=10.0s, frames_captured=243, frames_written=242, fps=24.3, camera_fps=24.2, "
        "dropped=1, reconnects=2, stalls=3, loops=4, frame_age=0.012s, write_sequence=242, "
        "write_p50=0.08ms, write_p99=0.40ms"
    )


def test_a_state_without_a_reason_has_no_empty_brackets() -> None:
    assert dataclasses.replace(SNAPSHOT, state=SourceState.ENDED).line().endswith(", state=ended")
    lost = dataclasses.replace(SNAPSHOT, state=SourceState.RECONNECTING, reason="no signal")
    assert lost.line().endswith(", state=reconnecting (no signal)")


def test_the_fields_can_be_logged_and_are_complete() -> None:
    fields = SNAPSHOT.fields()
    assert fields["frames_captured"] == 243
    assert fields["segment"] == "billiards_video"
    # `logging` refuses extra fields with its own names, such as `name`.
    logging.getLogger("test").makeRecord("test", logging.INFO, "", 0, "", (), None, extra=fields)


# Pace.


def test_deadlines_do_not_drift() -> None:
    pace = Pace(29.97)
    now = START
    for number in range(10_000):
        due = pace.due_ns(now)
        assert abs(due - (START + number * SECOND / 29.97)) < 1000
        # Always a millisecond late, as sleep is.
        now = due + 1_000_000


def test_a_short_hiccup_is_made_up_for() -> None:
    pace = Pace(50)
    pace.due_ns(START)
    late = START + SECOND // 10
    overdue = 0
    while pace.due_ns(late) <= late:
        overdue += 1
    assert overdue == 5


def test_after_a_long_hiccup_the_pace_starts_over() -> None:
    pace = Pace(50)
    pace.due_ns(START)
    late = START + 60 * SECOND
    assert pace.due_ns(late) == late
    assert pace.due_ns(late) == late + SECOND // 50


@given(st.lists(st.integers(0, SECOND), max_size=50), st.floats(0.1, 1000))
def test_a_deadline_is_never_further_away_than_one_period(steps: list[int], fps: float) -> None:
    pace = Pace(fps)
    now = START
    for step in steps:
        due = pace.due_ns(now)
        assert due - now <= SECOND / fps + 1
        now = max(now, due) + step


def test_frames_with_their_own_times_are_due_at_these() -> None:
    pace = Pace(25, longest_gap_sec=10)
    times = [0, 40, 120, 160, 240, 3240, 3280]
    dues = [pace.due_ns(START, 5000 + milliseconds) for milliseconds in times]
    assert [due - START for due in dues] == [milliseconds * 1_000_000 for milliseconds in times]


@pytest.mark.parametrize(
    "times",
    [[0, 40, 20_000], [0, 40, 0], [0, 40, 40], [0, 40, None], [None, None, None], [0, None, 80], [90_000, 90_040, -5]],
    ids=["a leap", "again from the start", "twice the same", "one without", "none", "a hole", "a wrap"],
)
def test_useless_times_leave_the_rate_in_effect(times: list[float | None]) -> None:
    pace = Pace(25, longest_gap_sec=10)
    dues = [pace.due_ns(START, milliseconds) for milliseconds in times]
    assert [due - START for due in dues] == [0, SECOND // 25, 2 * SECOND // 25]


def test_without_a_longest_gap_only_the_rate_counts() -> None:
    pace = Pace(10)
    assert [pace.due_ns(START, milliseconds) - START for milliseconds in (0, 40, 80)] == [0, SECOND // 10, SECOND // 5]


# Back-off.


def test_delays_grow_from_half_a_second_to_half_a_minute() -> None:
    backoff = Backoff()
    delays = [backoff.next_delay() for _ in range(5000)]
    assert 0.5 <= delays[0] <= 0.625
    assert 1.0 <= delays[1] <= 1.25
    assert delays[:6] == sorted(delays[:6])
    assert max(delays) <= 30.0
    assert min(delays[10:]) >= 0.75 * 30.0


def test_delays_differ_so_that_many_processes_do_not_try_in_step() -> None:
    assert len({Backoff().next_delay() for _ in range(50)}) > 40


def test_delays_begin_again_after_a_success() -> None:
    backoff = Backoff()
    for _ in range(10):
        backoff.next_delay()
    backoff.reset()
    assert backoff.next_delay() < 1.0


# Log lines.


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """The output on standard error; the root logger is restored afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield lambda: capsys.readouterr().err
    root.handlers[:] = handlers
    root.setLevel(level)


def test_plain_lines_have_time_level_and_message(stderr: Callable[[], str]) -> None:
    configure_logging("INFO", json=False)
    logging.getLogger("any").info("Camera %s", "here")
    logging.getLogger("any").debug("not this")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO     Camera here\n", stderr())


def test_json_lines_have_the_same_as_fields(stderr: Callable[[], str]) -> None:
    configure_logging("INFO", json=True)
    logging.getLogger("any").info("%s", SNAPSHOT.line(), extra=SNAPSHOT.fields())
    record = json.loads(stderr())
    assert record["message"] == SNAPSHOT.line()
    assert record["level"] == "INFO"
    assert record["logger"] == "any"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", record["time"])
    assert record["write_p99_ms"] == 0.4
    assert record["segment"] == "billiards_video"
    assert SNAPSHOT.fields().keys() <= record.keys()


def test_json_lines_hold_tracebacks_on_one_line(stderr: Callable[[], str]) -> None:
    configure_logging("INFO", json=True)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("any").exception("Failed")
    (line,) = stderr().splitlines()
    assert "ValueError: two\nlines" in json.loads(line)["exception"]


def test_configuring_again_replaces_the_old_configuration(stderr: Callable[[], str]) -> None:
    configure_logging("INFO", json=False)
    configure_logging("WARNING", json=True)
    logging.getLogger("any").warning("once")
    assert len(stderr().splitlines()) == 1


def test_logging_without_standard_error_does_no_harm(
    stderr: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    configure_logging("INFO", json=False)
    logging.getLogger("any").info("not shown")
    assert stderr() == ""

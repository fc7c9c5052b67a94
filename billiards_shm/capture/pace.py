"""When a frame of a recording is due, and when a lost source is tried again."""

import random
from typing import Final

from billiards_shm.sources.protocol import RecordedFrame

__all__ = ["Backoff", "Pace", "RecordedPace"]

_JITTER: Final = 0.25
_random: Final = random.Random()  # not the global one: programs that seed that one should get what they expect
_TOLERATED_LAG_NS: Final = 250_000_000
_NS_PER_MS: Final = 1_000_000
_NS_PER_SEC: Final = 1_000_000_000


class Pace:
    """Deadlines at a steady rate, or at the intervals of the frames' own timestamps.

    Each counts from the one before it, so that errors of single waits do not add up. A loop that falls behind a little
    catches up; one that falls far behind starts over, because frames that are long overdue are of no use.

    Parameters
    ----------
    fps : float
        Above 0.
    longest_gap_sec : float
        Timestamps further apart, or going back, are not on one timeline: the next frame is due after one period.
    """

    def __init__(self, fps: float, longest_gap_sec: float = 0.0) -> None:
        self.fps = fps
        self._period_ns = _NS_PER_SEC / fps
        self._tolerated_ns = max(_TOLERATED_LAG_NS, 2 * self._period_ns)
        self._longest_gap_ns = longest_gap_sec * _NS_PER_SEC
        self._due_ns: float | None = None
        self._timestamp_ms: float | None = None

    def due_ns(self, now_ns: int, timestamp_ms: float | None = None) -> int:
        """When the next frame is due, on the clock of `now_ns`; to be called once for each frame."""
        due = now_ns if self._due_ns is None else self._due_ns + self._gap_ns(timestamp_ms)
        if now_ns - due > self._tolerated_ns:
            due = now_ns
        self._due_ns, self._timestamp_ms = due, timestamp_ms
        return round(due)

    def _gap_ns(self, timestamp_ms: float | None) -> float:
        if timestamp_ms is not None and self._timestamp_ms is not None:
            gap = (timestamp_ms - self._timestamp_ms) * _NS_PER_MS
            if 0 < gap <= self._longest_gap_ns:
                return gap
        return self._period_ns


class RecordedPace(Pace):
    """Deadlines that are as far apart as the frames were when they were captured, however late the loop is.

    They never go back: a frame that was captured before its predecessor is due with it.
    """

    def __init__(self, fps: float) -> None:
        super().__init__(fps)
        self._ahead_ns = 0
        self._place: int | None = None
        self._recorded_due_ns = 0

    def recorded_due_ns(self, now_ns: int, frame: RecordedFrame) -> int:
        """When a frame is due; to be called once for each frame."""
        if self._place is None:
            self._recorded_due_ns = now_ns
            self._ahead_ns = now_ns - frame.capture_time_ns
        elif frame.place <= self._place:  # the recording begins again, one period after its end
            self._ahead_ns = self._recorded_due_ns + round(self._period_ns) - frame.capture_time_ns
        self._place = frame.place
        self._recorded_due_ns = max(self._recorded_due_ns, frame.capture_time_ns + self._ahead_ns)
        return self._recorded_due_ns


class Backoff:
    """Growing delays between attempts, with jitter so that many processes do not retry in step.

    Parameters
    ----------
    first, longest : float
        Seconds before the first attempt, and the most before any.
    """

    def __init__(self, first: float = 0.5, longest: float = 30.0) -> None:
        self._first = first
        self._longest = longest
        self.attempts = 0

    def next_delay(self) -> float:
        """Seconds to wait before the next attempt."""
        # The exponent is bounded because a source may be away for years.
        delay = min(self._first * 2.0 ** min(self.attempts, 32), self._longest / (1 + _JITTER))
        self.attempts += 1
        return delay * _random.uniform(1, 1 + _JITTER)

    def reset(self) -> None:
        """Start again from the shortest delay: the source is back."""
        self.attempts = 0

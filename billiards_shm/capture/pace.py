"""When the next frame of a recording is due, and when a lost source is tried again."""

import random
from typing import Final

__all__ = ["ASSUMED_FILE_FPS", "Backoff", "Pace"]

ASSUMED_FILE_FPS: Final = 25.0
"""For recordings that do not name a rate, such as numbered images."""

_JITTER: Final = 0.25
_TOLERATED_LAG_NS: Final = 250_000_000
_NS_PER_SEC: Final = 1_000_000_000


class Pace:
    """Deadlines at a steady rate.

    They count from one anchor, so that errors of single waits do not add up. A loop that falls behind a little catches
    up; one that falls far behind gets a new anchor, because frames that are long overdue are of no use.

    Parameters
    ----------
    fps : float
        Above 0.
    """

    def __init__(self, fps: float) -> None:
        self.fps = fps
        self._period_ns = _NS_PER_SEC / fps
        self._tolerated_ns = max(_TOLERATED_LAG_NS, 2 * self._period_ns)
        self._anchor_ns: int | None = None
        self._frames = 0

    def due_ns(self, now_ns: int) -> int:
        """When the next frame is due, on the clock of `now_ns`."""
        if self._anchor_ns is not None:
            due = self._anchor_ns + round(self._frames * self._period_ns)
            if now_ns - due <= self._tolerated_ns:
                return due
        self._anchor_ns, self._frames = now_ns, 0
        return now_ns

    def frame_done(self) -> None:
        """Go on to the next deadline. An attempt that gave no frame uses none up."""
        self._frames += 1


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
        return delay * random.uniform(1, 1 + _JITTER)

    def reset(self) -> None:
        """Start again from the shortest delay: the source is back."""
        self.attempts = 0

"""Rates from sequence numbers, and percentiles from latency buckets."""

import time
from collections import deque
from collections.abc import Sequence

from billiards_shm.segments import SegmentInfo

__all__ = ["RateMeter", "latency_bound"]


def latency_bound(buckets: Sequence[int], share: float) -> float | None:
    """Return the time, in seconds, that `share` of the writes stayed below; None: there was no write.

    Parameters
    ----------
    buckets : sequence of int
        Bucket i counts the writes that took less than 2**i ns, and not less than half of that.
    share : float
        0.99 for the 99th percentile.
    """
    total = sum(buckets)
    if not total:
        return None
    seen = 0
    for exponent, count in enumerate(buckets):
        seen += count
        if seen >= share * total:
            return float(2**exponent) / 1e9
    return None


class RateMeter:
    """Frames per second over the last seconds, from successive sequence numbers."""

    def __init__(self, window_s: float = 5.0) -> None:
        self._window_s = window_s
        self._samples: deque[tuple[float, int]] = deque()
        self._generation = ""

    def update(self, info: SegmentInfo, now: float | None = None) -> float | None:
        """Add a sample; return the rate, or None while there is only one sample."""
        now = time.monotonic() if now is None else now
        # After a clean close the numbers start at 1 again: a difference across that is not a rate.
        if info.generation != self._generation and self._samples and info.sequence < self._samples[-1][1]:
            self._samples.clear()
        self._generation = info.generation
        self._samples.append((now, info.sequence))
        while len(self._samples) > 2 and self._samples[1][0] <= now - self._window_s:
            self._samples.popleft()
        (begin, first), (end, last) = self._samples[0], self._samples[-1]
        return (last - first) / (end - begin) if end > begin else None

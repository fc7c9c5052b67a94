"""How old a live source's frames are when they arrive, and which of them are skipped for newer ones.

OpenCV returns every frame, in order: a loop that was held up once would see only old frames from then on. A frame's
timestamp shows how late it is. V4L2's is CLOCK_MONOTONIC. On a stream's clock only differences mean something, so a
frame is compared with the least late one of the last minute.
"""

import time
from typing import Final

from billiards_shm.capture.least_late import LeastLate
from billiards_shm.sources.protocol import TimedSource

__all__ = ["StalenessFilter"]

STALE_NS: Final = 100_000_000
"""Frames later than this, and than two frame times, are skipped if a newer one is waiting."""
LONGEST_SKIP_NS: Final = 250_000_000
"""How long frames may be skipped without publishing one, where decoding alone is too slow."""
_BELIEVABLE_NS: Final = 60_000_000_000
_JUMP_NS: Final = 10_000_000_000
_NS_PER_MS: Final = 1e6


class StalenessFilter:
    """Follows one open source from grab to grab.

    Parameters
    ----------
    source : TimedSource
    monotonic : bool
        Whether the source's clock is CLOCK_MONOTONIC.
    """

    def __init__(self, source: TimedSource, *, monotonic: bool) -> None:
        self._source = source
        self._monotonic = monotonic
        self._delays = LeastLate()
        self._last_taken_ns: int | None = None
        self._period_ns = 0
        self._skipping_since_ns: int | None = None
        self._started_ns = 0
        self._started_cpu_ns = 0
        self.lag_ns = 0
        """How late the last frame was."""

    def grab_started(self, now_ns: int) -> None:
        """Note when a grab started."""
        self._started_ns = now_ns
        self._started_cpu_ns = time.process_time_ns()

    def stale(self, now_ns: int) -> bool:
        """Judge the grabbed frame: True if the loop should skip it, because a newer one is waiting."""
        self.lag_ns = self._lag(self._source.timestamp_ms, now_ns)
        late = self.lag_ns > max(STALE_NS, 2 * self._period_ns)
        if not late or self._waited(now_ns):
            self._skipping_since_ns = None
            return False
        if self._skipping_since_ns is None:
            self._skipping_since_ns = now_ns
        elif now_ns - self._skipping_since_ns > LONGEST_SKIP_NS:
            self._skipping_since_ns = None
            return False
        return True

    def _waited(self, now_ns: int) -> bool:
        """Whether the grab waited for the frame, so that there cannot be a newer one.

        Decoding takes CPU time, waiting does not.
        """
        computed = time.process_time_ns() - self._started_cpu_ns
        return now_ns - self._started_ns - computed > self._period_ns / 2

    def _lag(self, timestamp_ms: float | None, now_ns: int) -> int:
        if timestamp_ms is None:
            return 0
        taken_ns = round(timestamp_ms * _NS_PER_MS)
        last, self._last_taken_ns = self._last_taken_ns, taken_ns
        if self._monotonic:
            self._update_period(taken_ns, last)
            age = now_ns - taken_ns
            return age if 0 <= age < _BELIEVABLE_NS else 0
        if last is None or not 0 < taken_ns - last < _JUMP_NS:
            # The stream started again, or its clock is useless.
            self._delays.clear()
        else:
            self._update_period(taken_ns, last)
        offset = now_ns - taken_ns
        return offset - self._delays.add(now_ns, offset)

    def _update_period(self, taken_ns: int, last: int | None) -> None:
        if last is not None and 0 < taken_ns - last < _JUMP_NS:
            period = taken_ns - last
            self._period_ns = period if not self._period_ns else (7 * self._period_ns + period) // 8

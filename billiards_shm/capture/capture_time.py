"""When a frame was captured, by CLOCK_MONOTONIC, and which clock says so.

The driver of a camera and the sender of a stream note when they took a frame. Their time is converted to this host's
clock; where it is useless, the time of arrival counts. The two clocks are compared when a frame arrives: the delay of
the least late frame of the last minute is their offset plus the least delay, and nothing can tell the two apart. So a
clock is believed if its frames take up to `BELIEVED_NS`. If they arrive before they were taken, or later than that, the
clock is wrong: its frames count as taken when they arrived, minus the time by which each was later than the least late
one.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, Self

from billiards_shm.capture.least_late import LeastLate
from billiards_shm.sources.protocol import Delivery, FrameSource, SentSource, TimedSource

__all__ = ["BELIEVED_NS", "CaptureTime", "LostFrames", "SourceClock", "is_right"]

BELIEVED_NS: Final = 1_000_000_000
"""If frames take no longer than this by the source's clock, that clock is right."""
LATEST_NS: Final = 10_000_000_000
"""If a frame is later than this compared with the others, its time is not used."""
STEP_NS: Final = 100_000_000
"""If the zero of a clock moves by less, the clock was not set: the times in sender reports vary by this much."""
GAPS: Final = 32
"""The usual interval is taken from this many of the last intervals between frames."""
_SHORT_GAPS: Final = GAPS // 4
_NS_PER_MS: Final = 1e6
_LATEST_MS: Final = 100 * 365 * 86_400e3


class CaptureTime(NamedTuple):
    """When a frame was captured."""

    ns: int
    """By CLOCK_MONOTONIC."""
    clock: str = "arrival"
    """The clock that the time was taken from, as in `FrameMetadata.clock`."""


def is_right(offset_ns: int) -> bool:
    """Whether a clock may be right if it is this far ahead of this host's when its least late frame arrives."""
    return -BELIEVED_NS <= offset_ns <= 0


class SourceClock:
    """Converts the times of one open source to CLOCK_MONOTONIC.

    Parameters
    ----------
    name : str
        ``driver`` or ``sender``.
    taken_ns : callable
        When the grabbed frame was taken by the source's clock; None if it does not say.
    ahead_ns : callable
        How far a right clock of this kind is ahead of CLOCK_MONOTONIC.
    stream_ns : callable, optional
        The same on a timeline that runs on when the source's clock is set, like a stream's own.
    """

    def __init__(
        self,
        name: str,
        taken_ns: Callable[[], int | None],
        ahead_ns: Callable[[], int],
        stream_ns: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.name = name
        self.offset_ns: int | None = None
        """How far the clock is ahead of this host's, when its least late frame arrives; None before the first."""
        self._read_taken_ns = taken_ns
        self._read_ahead_ns = ahead_ns
        self._read_stream_ns = stream_ns
        self._delays = LeastLate()
        self._last_ns = 0
        self._last_zero_ns: int | None = None
        self._lost = LostFrames()

    @classmethod
    def of(cls, source: FrameSource) -> Self | None:
        """The clock of an open source; None if it has none that could be compared with this host's."""
        if source.details.delivery is not Delivery.LIVE:
            return None
        if source.details.backend == "V4L2" and isinstance(source, TimedSource):
            return cls("driver", lambda: _to_ns(source.timestamp_ms), lambda: 0)
        if not isinstance(source, SentSource):
            return None
        return cls("sender", lambda: source.sent_ns, _wall_ahead_ns, lambda: _to_ns(source.timestamp_ms))

    def capture_time(self, arrived_ns: int) -> CaptureTime:
        """Capture time, by CLOCK_MONOTONIC, of the frame that was grabbed at `arrived_ns`."""
        taken_ns, last_ns = self._read_taken_ns(), self._last_ns
        if taken_ns is None or taken_ns == last_ns:
            return CaptureTime(arrived_ns)
        if self._zero_went_back(taken_ns) or taken_ns < last_ns:
            self._delays.clear()  # it was set back
        self._last_ns = taken_ns
        least_ns = self._delays.add(arrived_ns, arrived_ns - taken_ns)
        self.offset_ns = -(least_ns + self._read_ahead_ns())
        late_ns = arrived_ns - taken_ns - least_ns
        if late_ns > LATEST_NS:
            return CaptureTime(arrived_ns)
        return CaptureTime(arrived_ns - late_ns + (self.offset_ns if is_right(self.offset_ns) else 0), self.name)

    def _zero_went_back(self, taken_ns: int) -> bool:
        """Whether the clock was set back since the last frame, perhaps by less than the time between the two.

        Setting it forward needs no care: frames that are less late than any before are compared with themselves.
        """
        stream_ns, last_ns = self._read_stream_ns(), self._last_zero_ns
        self._last_zero_ns = None if stream_ns is None else taken_ns - stream_ns
        return self._last_zero_ns is not None and last_ns is not None and self._last_zero_ns <= last_ns - STEP_NS

    def lost_frames(self) -> int:
        """How many frames a camera's driver seems to have lost right before the grabbed one."""
        return self._lost.add(self._last_ns) if self.name == "driver" and self._last_ns else 0


class LostFrames:
    """Estimates how many frames a camera's driver lost, from the times of those that it delivered.

    The usual time between two frames is among the shortest of the last ones: a lost frame makes an interval longer. A
    camera that slows down for good, for instance in the dark, is believed after `GAPS` frames.
    """

    def __init__(self) -> None:
        self._gaps: deque[int] = deque(maxlen=GAPS)
        self._last_ns: int | None = None

    def add(self, taken_ns: int) -> int:
        """Note when a frame was taken; return how many seem to be missing before it."""
        last_ns, self._last_ns = self._last_ns, taken_ns
        if last_ns is None or taken_ns <= last_ns:
            return 0
        self._gaps.append(taken_ns - last_ns)
        if len(self._gaps) < GAPS:
            return 0
        return max(0, round((taken_ns - last_ns) / sorted(self._gaps)[_SHORT_GAPS]) - 1)


def _to_ns(milliseconds: float | None) -> int | None:
    """A driver's time in nanoseconds; None for one in a hundred years, which is garbage and not from a clock."""
    return None if milliseconds is None or milliseconds > _LATEST_MS else round(milliseconds * _NS_PER_MS)


def _wall_ahead_ns() -> int:
    """How far the wall clock is ahead of CLOCK_MONOTONIC, at this moment: it may be set at any time."""
    return time.time_ns() - time.monotonic_ns()

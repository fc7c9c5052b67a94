"""The states of a segment and of its source, and what a frame's time was taken from."""

from enum import StrEnum
from typing import Literal, get_args

__all__ = ["CLOCKS", "Clock", "SegmentStatus", "SourceState"]

# In the order of enum bshm_clock.
Clock = Literal["arrival", "driver", "sender", "file", "remote"]
CLOCKS: tuple[Clock, ...] = get_args(Clock)


class SegmentStatus(StrEnum):
    """State of a segment, as shown by the kernel's locks and the segment itself."""

    LIVE = "live"
    """Its writer lives."""
    CLOSED = "closed"
    """Its writer closed it."""
    DEAD = "dead"
    """Its writer died without closing it; the newest frame is still there."""
    DETACHED = "detached"
    """There is no segment."""


class SourceState(StrEnum):
    """State of the source that feeds a segment, as reported by the capture process."""

    UNKNOWN = "unknown"
    """The writer says nothing about a source."""
    OPENING = "opening"
    """No frame has arrived from the source yet."""
    STREAMING = "streaming"
    """Frames arrive."""
    STALLED = "stalled"
    """The source is open but delivers no frames."""
    RECONNECTING = "reconnecting"
    """The source was lost and is being opened again."""
    ENDED = "ended"
    """The source has ended."""

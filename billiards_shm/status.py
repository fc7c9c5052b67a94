"""What a segment and its source can be."""

from enum import StrEnum

__all__ = ["SegmentStatus", "SourceState"]


class SegmentStatus(StrEnum):
    """Of a segment, as the kernel's locks and the segment's own state tell it."""

    LIVE = "live"
    """Its writer lives."""
    CLOSED = "closed"
    """Its writer closed it."""
    DEAD = "dead"
    """Its writer died without closing it; the newest frame is still there."""
    DETACHED = "detached"
    """There is no segment."""


class SourceState(StrEnum):
    """Of the source that feeds a segment, as the capture process tells it."""

    UNKNOWN = "unknown"
    """The writer says nothing of a source."""
    OPENING = "opening"
    """Nothing came from the source yet."""
    STREAMING = "streaming"
    """Frames come."""
    STALLED = "stalled"
    """The source is open and brings nothing."""
    RECONNECTING = "reconnecting"
    """The source was lost and is opened anew."""
    ENDED = "ended"
    """The source came to its end."""

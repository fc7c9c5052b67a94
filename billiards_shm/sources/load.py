"""Whether one thread is enough to decode a live stream."""

from typing import Final

__all__ = ["BUSY_SHARE", "MEASURED_FRAMES", "DecodingLoad"]

BUSY_SHARE: Final = 0.6
"""One thread decodes a live stream, unless that takes more than this share of the time between two frames."""
MEASURED_FRAMES: Final = 50
_NS_PER_SEC: Final = 1e9


class DecodingLoad:
    """Whether one thread is too busy decoding a live stream to keep up with it when the picture gets difficult.

    With several threads FFmpeg decodes that many frames at a time, and so holds each back until the next have arrived.
    """

    def __init__(self) -> None:
        self.busy = False
        """By the last frames that were measured."""
        self._spent_ns = 0
        self._frames = 0
        self._first_sec: float | None = None

    def add(self, spent_ns: int, frames: int, time_sec: float | None) -> None:
        """Count the processor time that some frames took.

        Parameters
        ----------
        spent_ns : int
        frames : int
            How many were decoded in that time; may be 0.
        time_sec : float or None
            When the last of them was taken, on the stream's clock or, for Motion JPEG, at 25 frames a second; None if
            unknown.
        """
        self._spent_ns += spent_ns
        self._frames += frames
        if not frames or time_sec is None:
            return
        if self._first_sec is None:
            self._first_sec = time_sec
        elif self._frames >= MEASURED_FRAMES:
            span_sec = time_sec - self._first_sec
            self.busy = span_sec > 0 and self._spent_ns / _NS_PER_SEC > BUSY_SHARE * span_sec
            self._spent_ns, self._frames, self._first_sec = 0, 0, time_sec

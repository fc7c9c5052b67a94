"""The last seconds of a stream, in memory."""

import threading
from collections import deque
from typing import Final, NamedTuple

from billiards_shm.encoder import EncodedFrame, StreamFormat

__all__ = ["KEY_INTERVAL_S", "Clip", "Ring"]

KEY_INTERVAL_S: Final = 0.5
"""A clip starts with a frame at which decoding can start, so a stream for a ring has one this often."""
_FRAME_BYTES: Final = 300
"""Memory of a frame besides its data."""
_GAP_US: Final = 3_000_000
"""In longer gaps the source was away."""


class Clip(NamedTuple):
    """Frames of one stream; the first one has `key`."""

    stream: StreamFormat
    frames: list[EncodedFrame]

    @property
    def seconds(self) -> float:
        """From the first frame to the last."""
        return (self.frames[-1].time_us - self.frames[0].time_us) / 1e6


class Ring:
    """Keeps the newest frames, as long as they are not too old and not too many.

    It begins with a key frame, and keeps a little more than asked, so that a clip can be as long as asked. One thread
    adds frames; any thread may take clips.

    Parameters
    ----------
    seconds
        How much of the stream is kept.
    max_bytes
        The most memory that the frames may take. If it is not enough for `seconds`, less is kept.
    """

    def __init__(self, seconds: float, max_bytes: int) -> None:
        self.seconds: Final = seconds
        self.max_bytes: Final = max_bytes
        self.bytes = 0
        self._stream: StreamFormat | None = None
        self._groups: deque[list[EncodedFrame]] = deque()
        """Each begins with a key frame."""
        self._lock = threading.Lock()

    def begin(self, stream: StreamFormat) -> None:
        """Another stream begins; a clip cannot have frames of two, so the old frames are dropped."""
        with self._lock:
            self._stream = stream
            self._clear()

    def add(self, frame: EncodedFrame) -> None:
        """Keep a frame, and drop frames that are too old or take too much memory."""
        with self._lock:
            if frame.key:
                self._groups.append([])
            elif not self._groups:
                return  # its key frame was dropped
            self._groups[-1].append(frame)
            self.bytes += len(frame.data) + _FRAME_BYTES
            oldest_us = frame.time_us - round(self.seconds * 1e6)
            while len(self._groups) > 1 and (
                self.bytes > self.max_bytes or _is_before(oldest_us, self._groups[0], self._groups[1])
            ):
                self.bytes -= _bytes_of(self._groups.popleft())
            if self.bytes > self.max_bytes:
                self._clear()

    def clip(self, last_s: float, max_bytes: int | None = None) -> Clip | None:
        """The last seconds, from the key frame at or before their beginning; None if there is nothing.

        If the source was away at their beginning, the clip begins when it was back.

        Parameters
        ----------
        last_s
            Up to the newest frame.
        max_bytes
            The clip is shortened if it would take more.
        """
        with self._lock:
            stream, groups = self._stream, [list(group) for group in self._groups]
        if stream is None or not groups:
            return None
        first_us = groups[-1][-1].time_us - round(last_s * 1e6)
        while len(groups) > 1 and _is_before(first_us, groups[0], groups[1]):
            del groups[0]
        if max_bytes is not None:
            size = sum(map(_bytes_of, groups))
            while len(groups) > 1 and size > max_bytes:
                size -= _bytes_of(groups.pop(0))
        return Clip(stream, [frame for group in groups for frame in group])

    @property
    def kept_s(self) -> float:
        """Seconds that a clip can have now."""
        with self._lock:
            return (self._groups[-1][-1].time_us - self._groups[0][0].time_us) / 1e6 if self._groups else 0.0

    def _clear(self) -> None:
        self._groups.clear()
        self.bytes = 0


def _is_before(first_us: int, group: list[EncodedFrame], following: list[EncodedFrame]) -> bool:
    """Whether what `group` shows is over at `first_us`."""
    end_us, next_us = group[-1].time_us, following[0].time_us
    return next_us <= first_us or (end_us < first_us and next_us - end_us > _GAP_US)


def _bytes_of(group: list[EncodedFrame]) -> int:
    return sum(len(frame.data) + _FRAME_BYTES for frame in group)

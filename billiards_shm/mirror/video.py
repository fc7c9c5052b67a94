"""H.264 between hosts: access units that several receivers share, and their decoder.

A frame is encoded when a receiver is ready for it, so everything encoded is used. A receiver gets all units since
its last one, because each needs the ones before it; one that is too far behind, or new, continues with a key frame.
"""

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

import av
import numpy as np
import numpy.typing as npt

from billiards_shm import FrameMetadata
from billiards_shm.encoder import Encoder, EncoderOptions, open_encoder
from billiards_shm.mirror.wire import FrameHeader, SentFrame, WireError

__all__ = ["VideoDecoder", "VideoForm", "picture"]

MOST_UNITS: Final = 30
"""In one answer; a receiver that is further behind gets a key frame."""
MOST_BYTES: Final = 4 << 20
"""In one answer."""
KEPT_BYTES: Final = 2 * MOST_BYTES
"""Kept for receivers that are behind."""
KEY_INTERVAL_NS: Final = 1_000_000_000
"""Shortest interval between key frames, however many receivers want one."""

Frame = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Scaled:
    """The metadata that the encoder reads, for a picture that was scaled down."""

    pixel_format: str
    sequence: int
    capture_time_ns: int
    publish_time_ns: int
    wall_time_ns: int
    position_ms: float | None


class _Unit(NamedTuple):
    generation: bytes
    sent: SentFrame


class VideoForm:
    """Access units of the frames of one segment, in one size.

    Parameters
    ----------
    width : int
        Wider pictures are scaled down to it; 0: unchanged.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._lock = threading.Lock()
        self._encoder: Encoder | None = None
        self._units: deque[_Unit] = deque(maxlen=4 * MOST_UNITS)
        self._key_ns = -KEY_INTERVAL_NS

    def units(
        self, frame: Frame, metadata: FrameMetadata, header: FrameHeader, generation: bytes, after: tuple[bytes, int]
    ) -> tuple[list[SentFrame], bool]:
        """Return the units since `after`, up to those of a frame, and whether the frame was encoded for that.

        Parameters
        ----------
        frame, metadata : numpy.ndarray, FrameMetadata
        header : FrameHeader
            Of the frame, as decoded.
        generation : bytes
            Of the segment.
        after : tuple of bytes and int
            Generation and number of the last unit that the receiver has decoded; number 0: none.

        Returns
        -------
        units : list of SentFrame
            Empty: a key frame is needed, and the last one was a moment ago.
        encoded : bool

        Raises
        ------
        ValueError, BilliardsShmError
            The frame cannot be encoded.
        """
        with self._lock:
            encoded = False
            last = self._units[-1] if self._units else None
            if last is None or (last.generation, last.sent.header.sequence) != (generation, header.sequence):
                if last is not None and last.generation == generation and last.sent.header.sequence > header.sequence:
                    # Another receiver has been given a newer one.
                    return self._since(after), False
                due = time.monotonic_ns() - self._key_ns >= KEY_INTERVAL_NS
                self._encode(frame, metadata, header, generation, key=due and not self._can_go_on(after))
                encoded = True
            return self._since(after), encoded

    def _can_go_on(self, after: tuple[bytes, int]) -> bool:
        """Whether a receiver can decode the next unit, whichever that is."""
        newest = self._units[-1] if self._units else None
        at_end = newest is not None and (newest.generation, newest.sent.header.sequence) == after
        return at_end or bool(self._since(after))

    def _since(self, after: tuple[bytes, int]) -> list[SentFrame]:
        """The units after one; from the last key frame on, if that one is not there or too far back."""
        units = list(self._units)
        place = next(
            (index for index, unit in enumerate(units) if (unit.generation, unit.sent.header.sequence) == after), None
        )
        if place is not None and _fits(units[place + 1 :]):
            return [unit.sent for unit in units[place + 1 :]]
        start = next((index for index in reversed(range(len(units))) if units[index].sent.header.key), None)
        if start is None or (place is not None and start <= place) or not _fits(units[start:]):
            return []
        return [unit.sent for unit in units[start:]]

    def _encode(
        self, frame: Frame, metadata: FrameMetadata, header: FrameHeader, generation: bytes, *, key: bool
    ) -> None:
        told: Any = metadata
        if self._width:
            from billiards_shm.images import Previews

            frame = np.ascontiguousarray(Previews(frame, metadata.pixel_format).picture(self._width))
            name = metadata.pixel_format if frame.ndim == 2 else "BGRA32" if frame.shape[2] == 4 else "BGR24"
            told = _Scaled(
                *(name, metadata.sequence, metadata.capture_time_ns, metadata.publish_time_ns, metadata.wall_time_ns),
                metadata.position_ms,
            )
        told = cast("FrameMetadata", told)
        if self._encoder is None or not self._encoder.takes(frame, told):
            self._encoder = open_encoder(EncoderOptions(key_interval_s=3600.0), frame, told)
        height, width = self._encoder.format.height, self._encoder.format.width
        gray = header.pixel_format == "GRAY8"
        for found in self._encoder.encode(frame, told, key=key):
            if found.key:
                self._key_ns = time.monotonic_ns()
            shape = (height, width) if gray else (height, width, 3)
            sent = SentFrame(header.of_video(shape, key=found.key), found.data)
            self._units.append(_Unit(generation, sent))
        while len(self._units) > 1 and sum(len(unit.sent.data) for unit in self._units) > KEPT_BYTES:
            self._units.popleft()


def _fits(units: list[_Unit]) -> bool:
    """Whether an answer may have that many: always one, however large it is."""
    return len(units) <= 1 or (len(units) <= MOST_UNITS and sum(len(unit.sent.data) for unit in units) <= MOST_BYTES)


class VideoDecoder:
    """Decodes access units in turn; each yields a picture immediately."""

    def __init__(self) -> None:
        self._context: Any = None

    @property
    def begun(self) -> bool:
        """Whether there has been a key frame, so others can be decoded."""
        return self._context is not None

    def reset(self) -> None:
        """Start again with a key frame."""
        self._context = None

    def decode(self, sent: SentFrame) -> Any:
        """Decode a unit, to a frame of PyAV; `picture` makes an array of it.

        Raises
        ------
        WireError
            It does not decode to what its header says. Decoding continues with a key frame.
        """
        header, data = sent
        if self._context is None:
            if not header.key:
                raise WireError(f"frame {header.sequence} needs one before it, which is not there")
            self._context = av.CodecContext.create("h264", "r")
            self._context.thread_count = 1  # several would hold frames back
        try:
            frames = self._context.decode(av.Packet(bytes(data)))
        except av.FFmpegError as error:
            self.reset()
            raise WireError(f"frame {header.sequence} does not decode: {error.strerror}") from error
        if len(frames) != 1 or (frames[0].height, frames[0].width) != header.shape[:2]:
            self.reset()
            sizes = ", ".join(f"{frame.width}x{frame.height}" for frame in frames) or "no picture"
            raise WireError(f"frame {header.sequence} decodes to {sizes}, but was announced with shape {header.shape}")
        return frames[0]


def picture(decoded: Any, header: FrameHeader) -> Frame:
    """The array of a frame that was decoded."""
    array: Frame = decoded.to_ndarray(format="gray" if header.pixel_format == "GRAY8" else "bgr24")
    return array

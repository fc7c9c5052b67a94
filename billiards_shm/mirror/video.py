"""H.264 between hosts: access units that several receivers share, and their decoder.

A frame is encoded when a receiver is ready for it, so everything encoded is used. A receiver gets all units since
its last one, because each needs the ones before it. One that is new or too far behind, or has lost its place in the
stream, continues with a key frame that is newer than what it has; one is made if there is none.
"""

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import av
import numpy as np
import numpy.typing as npt

from billiards_shm import FrameMetadata
from billiards_shm.encoder import Encoder, EncoderOptions, open_encoder
from billiards_shm.mirror.codecs import video_header
from billiards_shm.mirror.wire import FrameHeader, Request, SentFrame, WireError

if TYPE_CHECKING:
    from billiards_shm.mirror.forms import Following, OriginFrame

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


class VideoForm:
    """Access units of the frames of one generation of a segment, in one size.

    Parameters
    ----------
    width : int
        Wider pictures are scaled down to it; 0: unchanged.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._lock = threading.Lock()
        self._encoder: Encoder | None = None
        self._units: deque[SentFrame] = deque(maxlen=4 * MOST_UNITS)
        self._tried = 0  # number of the last frame to encode, whether or not that was possible
        self._key_ns = -KEY_INTERVAL_NS
        self._cleared_at = 0

    def clear(self) -> None:
        """Forget all units, and begin again with a key frame."""
        with self._lock:
            self._encoder = None
            self._units.clear()
            self._tried, self._cleared_at = 0, max(self._tried, self._cleared_at)
            self._key_ns = -KEY_INTERVAL_NS

    def units(self, newest: "OriginFrame", request: Request, following: "Following") -> tuple[list[SentFrame], int]:
        """Return the units that the receiver lacks, or the first of them, and how many frames were encoded for that.

        Parameters
        ----------
        newest : OriginFrame
        request : Request
        following : callable
            Returns the frame to encode after a given one. For receivers that want every frame, that is the next one
            still there, even if this receiver has it: one that is behind may lack it.

        Returns
        -------
        units : list of SentFrame
            Empty: a key frame is needed, and the last one was a moment ago.
        encoded : int

        Raises
        ------
        ValueError, BilliardsShmError
            The frame cannot be encoded.
        """
        with self._lock:
            has = request.after if request.generation == newest.generation else 0
            encoded = 0
            # Another receiver may have been given the newest, or a newer one.
            while newest.metadata.sequence > self._tried and not (request.every and self._since(has, request)):
                key = not self._can_go_on(has, request)
                if key and time.monotonic_ns() - self._key_ns < KEY_INTERVAL_NS:
                    break
                origin = following((newest.generation, self._tried)) if self._tried else following()
                # Decoding cannot begin with a frame that the receiver has.
                self._encode(origin.frame, origin.metadata, key=key and origin.metadata.sequence > has)
                encoded += 1
            return self._since(has, request), encoded

    def _can_go_on(self, has: int, request: Request) -> bool:
        """Whether a receiver can decode the next unit, whichever that is."""
        if self._units and self._units[-1].header.sequence <= self._cleared_at:
            return False  # the same frame was encoded before: a receiver that has it may have the other unit
        at_end = bool(self._units) and self._units[-1].header.sequence == has and not request.key_frame
        return at_end or bool(self._since(has, request))

    def _since(self, has: int, request: Request) -> list[SentFrame]:
        """The units after number `has`, if necessary from a newer key frame on; if every one is wanted, the first."""
        units = list(self._units)
        numbers = [unit.header.sequence for unit in units]
        if has in numbers and not request.key_frame:
            following = units[numbers.index(has) + 1 :]
            while request.every and not _fits(following):
                following.pop()
            if _fits(following):
                return following
        keys = [place for place, unit in enumerate(units) if unit.header.key and numbers[place] > has]
        return units[keys[-1] :] if keys and _fits(units[keys[-1] :]) else []

    def _encode(self, frame: Frame, metadata: FrameMetadata, *, key: bool) -> None:
        self._tried = metadata.sequence
        header = video_header(metadata)
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
            self._units.append(SentFrame(header.of_video(shape, key=found.key), found.data))
        while len(self._units) > 1 and sum(len(unit.data) for unit in self._units) > KEPT_BYTES:
            self._units.popleft()


def _fits(units: list[SentFrame]) -> bool:
    """Whether an answer may have that many: always one, however large it is."""
    return len(units) <= 1 or (len(units) <= MOST_UNITS and sum(len(unit.data) for unit in units) <= MOST_BYTES)


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

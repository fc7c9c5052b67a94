"""The messages: requests, answers, and the frames in them. Everything that arrives is checked here."""

import math
import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final, NamedTuple, Self

import numpy as np

from billiards_shm import SegmentStatus, SourceState
from billiards_shm.pixel_formats import PIXEL_FORMATS

__all__ = [
    "Answer",
    "Codec",
    "FrameHeader",
    "Kind",
    "Request",
    "SentFrame",
    "WireError",
    "pack_frames",
    "unpack_frames",
]

MAGIC: Final = b"BSHM"
VERSION: Final = 1
LARGEST_SIDE: Final = 1 << 26
"""Of an array; an MJPG frame is one row of bytes."""
LARGEST_PICTURE_SIDE: Final = 32767
LARGEST_FRAME_BYTES: Final = 1 << 28
LARGEST_ANSWER_BYTES: Final = LARGEST_FRAME_BYTES + (1 << 23)
"""Of one frame, or of H.264 units. Larger answers are not even assembled from their packets."""
LARGEST_PROBE_KIB: Final = 256
"""Requests for more get this much."""
MOST_FRAMES: Final = 256
"""In one answer."""
REASON_BYTES: Final = 127
LONGEST_CLOCK_ERROR_US: Final = 65535
"""The largest that an answer can hold; larger errors become this."""

_REQUEST: Final = struct.Struct("<4sBBBBHHfQ16sQ")
_ANSWER: Final = struct.Struct("<4sBBBBBBHQqq16sfIQH")
_FRAME: Final = struct.Struct("<Qqqqd IIHBB 4s12s I")

_STATUSES: Final = tuple(SegmentStatus)
_STATES: Final = tuple(SourceState)
_NAMES_OF_DTYPES: Final = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
_DTYPES: Final = {dtype.str.encode(): dtype for dtype in map(np.dtype, _NAMES_OF_DTYPES)}


class WireError(ValueError):
    """A message that is not valid; says why."""


class Codec(IntEnum):
    """How the pixels of frames are sent."""

    RAW = 0
    """Unchanged, bit for bit."""
    MJPG = 1
    """JPEGs from the camera, unchanged."""
    JPEG = 2
    H264 = 3


class Kind(IntEnum):
    """What is asked for."""

    FRAMES = 0
    """Frames newer than a given one, once there are any."""
    CLOCK = 1
    """The time, immediately."""
    DESCRIPTION = 2
    """What the segment is, as JSON."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a receiver asks for."""

    kind: Kind
    nonce: int = 0
    """The answer has the same."""
    codec: Codec = Codec.RAW
    every: bool = False
    """Whether the oldest frame after `after` that is still there is wanted, instead of the newest."""
    key_frame: bool = False
    """Whether the receiver cannot decode without a key frame."""
    width: int = 0
    """Pixels; 0: unchanged. In requests for the time: KiB to send with it, to measure the link."""
    wait_ms: int = 0
    """How long to wait for a frame before answering without one."""
    fps: float = 0.0
    """Most frames a second; 0.0: all."""
    generation: bytes = bytes(16)
    """Of the segment that `after` counts in."""
    after: int = 0
    """Number of the last frame that the receiver has."""
    automatic: bool = False
    """Whether the codec is the receiver's own choice, which must not change the depth or the size of frames."""

    def pack(self) -> bytes:
        """As bytes."""
        flags = self.every | self.key_frame << 1 | self.automatic << 2
        return _REQUEST.pack(
            *(MAGIC, VERSION, self.kind, self.codec, flags, self.width, self.wait_ms, self.fps),
            *(self.nonce, self.generation, self.after),
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Read it.

        Raises
        ------
        WireError
            It is malformed, or of another version.
        """
        magic, version, kind, codec, flags, width, wait_ms, fps, nonce, generation, after = _unpack(
            _REQUEST, data, "a request"
        )
        _check_version(magic, version)
        if kind > max(Kind) or codec > max(Codec):
            raise WireError(f"a request of kind {kind} and codec {codec}, which this version does not know")
        if width > LARGEST_PICTURE_SIDE or not 0 <= fps <= 1e6:
            raise WireError(f"a request for frames of width {width} at {fps} fps")
        return cls(
            *(Kind(kind), nonce, Codec(codec), bool(flags & 1), bool(flags & 2)),
            *(width, wait_ms, fps, generation, after, bool(flags & 4)),
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What a sender says about its segment, besides the frames."""

    nonce: int
    received_ns: int
    """When the request arrived, by the sender's CLOCK_MONOTONIC."""
    sent_ns: int
    """When the answer left, by the same clock."""
    status: SegmentStatus = SegmentStatus.LIVE
    state: SourceState = SourceState.UNKNOWN
    reason: str = ""
    codec: Codec = Codec.RAW
    key_missing: bool = False
    """Whether there is no frame because a key frame is not made yet."""
    clock_error_us: int = 0
    """How wrong the segment's own capture times can be, if it is a copy."""
    generation: bytes = bytes(16)
    fps: float = 0.0
    """Of the segment."""
    encode_us: int = 0
    """What it took to encode the frame."""
    sequence: int = 0
    """Number of the newest frame."""

    def pack(self) -> bytes:
        """As bytes."""
        reason = self.reason.encode(errors="replace")[:REASON_BYTES].decode(errors="ignore").encode()
        fixed = _ANSWER.pack(
            *(MAGIC, VERSION, _STATUSES.index(self.status), _STATES.index(self.state), self.codec),
            *(self.key_missing, 0, min(self.clock_error_us, LONGEST_CLOCK_ERROR_US)),
            *(self.nonce, self.received_ns, self.sent_ns, self.generation),
            *(self.fps, min(self.encode_us, 0xFFFFFFFF), self.sequence, len(reason)),
        )
        return fixed + reason

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Read it.

        Raises
        ------
        WireError
            It is malformed, or of another version.
        """
        fields = _unpack(_ANSWER, data[: _ANSWER.size], "an answer")
        magic, version, status, state, codec, key_missing, _, clock_error_us, *rest = fields
        nonce, received_ns, sent_ns, generation, fps, encode_us, sequence, reason_bytes = rest
        _check_version(magic, version)
        if status >= len(_STATUSES) or state >= len(_STATES) or codec > max(Codec):
            raise WireError(f"an answer of status {status}, state {state} and codec {codec}")
        if reason_bytes > REASON_BYTES or len(data) != _ANSWER.size + reason_bytes:
            raise WireError(f"an answer of {len(data)} bytes, of which {reason_bytes} are the reason")
        if not (math.isfinite(fps) and received_ns <= sent_ns):
            raise WireError(f"an answer with a rate of {fps} fps, from {received_ns} to {sent_ns} ns")
        reason = data[_ANSWER.size :].decode(errors="replace")
        return cls(
            *(nonce, received_ns, sent_ns, _STATUSES[status], _STATES[state], reason, Codec(codec)),
            *(bool(key_missing), clock_error_us, generation, fps, encode_us, sequence),
        )


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """What is sent with the bytes of a frame."""

    sequence: int
    """Its number at the origin."""
    capture_ns: int
    publish_ns: int
    """By the origin's CLOCK_MONOTONIC."""
    wall_ns: int
    position_ms: float | None
    shape: tuple[int, ...]
    """Of the decoded array."""
    dtype: np.dtype[Any]
    pixel_format: str
    online: bool
    key: bool = True
    """Whether it can be decoded without the frames before it."""

    @property
    def frame_bytes(self) -> int:
        """Size of the array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def of_video(self, shape: tuple[int, ...], *, key: bool) -> "FrameHeader":
        """The same, for an access unit that decodes to an array of that shape."""
        return replace(self, shape=shape, key=key)

    def pack(self, length: int) -> bytes:
        """As bytes, for a frame that is sent as `length` bytes."""
        height, width, *channels = self.shape
        return _FRAME.pack(
            *(self.sequence, self.capture_ns, self.publish_ns, self.wall_ns),
            math.nan if self.position_ms is None else self.position_ms,
            *(height, width, channels[0] if channels else 0, self.online | self.key << 1, 0),
            *(self.dtype.str.encode(), self.pixel_format.encode(), length),
        )

    @classmethod
    def unpack(cls, data: memoryview) -> tuple[Self, int]:
        """Read it, and how many bytes of the frame follow.

        Raises
        ------
        WireError
            It is not a header, or its geometry is impossible.
        """
        fields = _unpack(_FRAME, data, "the header of a frame")
        sequence, capture_ns, publish_ns, wall_ns, position_ms, height, width, channels, flags, _, *rest = fields
        dtype_text, pixel_format, length = rest
        dtype = _dtype(dtype_text.rstrip(b"\0"))
        shape = (height, width, channels) if channels else (height, width)
        name = pixel_format.rstrip(b"\0").decode("ascii", "replace")
        row = PIXEL_FORMATS.get(name)
        if row is None:
            raise WireError(f"a frame of the unknown pixel format {name!r}")
        if not sequence or not height or not width or max(height, width) > LARGEST_SIDE:
            raise WireError(f"frame {sequence} of shape {shape}")
        header = cls(
            *(sequence, capture_ns, publish_ns, wall_ns, None if math.isnan(position_ms) else position_ms),
            *(shape, dtype, name, bool(flags & 1), bool(flags & 2)),
        )
        if header.frame_bytes > LARGEST_FRAME_BYTES or length > LARGEST_FRAME_BYTES:
            raise WireError(f"frame {sequence} of {header.frame_bytes} bytes, more than {LARGEST_FRAME_BYTES}")
        return header, length


class SentFrame(NamedTuple):
    """A frame as sent."""

    header: FrameHeader
    data: bytes | memoryview


def pack_frames(frames: list[SentFrame]) -> bytes:
    """Frames as the bytes of one answer."""
    parts: list[bytes | memoryview] = []
    for header, data in frames:
        parts += (header.pack(len(data)), data)
    return b"".join(parts)


def unpack_frames(payload: bytes) -> list[SentFrame]:
    """Read the frames of an answer; their bytes are views.

    Raises
    ------
    WireError
        It is not a list of frames, or one of them is not valid.
    """
    data = memoryview(payload)
    frames: list[SentFrame] = []
    while data:
        if len(frames) == MOST_FRAMES:
            raise WireError(f"an answer of more than {MOST_FRAMES} frames")
        header, length = FrameHeader.unpack(data[: _FRAME.size])
        data = data[_FRAME.size :]
        if length > len(data):
            raise WireError(f"frame {header.sequence} of {length} bytes, of which {len(data)} arrived")
        if frames and header.sequence <= frames[-1].header.sequence:
            raise WireError(f"frame {header.sequence} after frame {frames[-1].header.sequence}")
        frames.append(SentFrame(header, data[:length]))
        data = data[length:]
    return frames


def _unpack(form: struct.Struct, data: bytes | memoryview, what: str) -> tuple[Any, ...]:
    if len(data) != form.size:
        raise WireError(f"{what} of {len(data)} bytes instead of {form.size}")
    return form.unpack(data)


def _check_version(magic: bytes, version: int) -> None:
    if magic != MAGIC:
        raise WireError(f"a message that begins with {magic.hex()}, which is not from this package")
    if version != VERSION:
        raise WireError(f"a message of version {version} of the protocol; this is version {VERSION}")


def _dtype(text: bytes) -> np.dtype[Any]:
    dtype = _DTYPES.get(text)
    if dtype is None:
        raise WireError(f"a frame of dtype {text!r}")
    return dtype

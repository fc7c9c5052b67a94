"""Turns published frames into packets of a video stream: H.264, or unchanged. It knows neither files nor segments."""

import math
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, NamedTuple

import av
import numpy as np
import numpy.typing as npt
from av.codec.codec import UnknownCodecError
from av.video.frame import PictureType

from billiards_shm._core import FrameMetadata
from billiards_shm.errors import ConfigurationError, FrameShapeError
from billiards_shm.jpeg import MOST_PIXELS_A_BYTE, read_header
from billiards_shm.pixel_formats import PIXEL_FORMATS, PixelFormat

__all__ = [
    "CODECS",
    "COPY",
    "RAW_FORMATS",
    "TIME_BASE",
    "DamagedFrameError",
    "EncodedFrame",
    "Encoder",
    "EncoderOptions",
    "StreamFormat",
    "Timeline",
    "check_codec",
    "open_encoder",
]

TIME_BASE: Final = Fraction(1, 1_000_000)
"""Unit of the times of encoded frames: microseconds."""
COPY: Final = "copy"
"""The codec that leaves frames unchanged."""
_SOFTWARE: Final = "libx264"
_FORCED_KEY: Final = {"h264_nvenc": "forced-idr", "h264_qsv": "forced_idr", "h264_amf": "forced_idr"}
CODECS: Final = {
    "h264": _SOFTWARE,
    **{name: name for name in (*_FORCED_KEY, "h264_v4l2m2m", "h264_videotoolbox")},
}
"""The encoders to choose from, each with FFmpeg's name: software, and those of hardware."""
RAW_FORMATS: Final = frozenset({"BGR24", "BGRA32", "GRAY8", "YUYV", "UYVY", "NV12", "NV21", "I420", "YV12"})
"""The formats, besides MJPG, that a file can hold unchanged. Matroska has no name for the others."""
_TAKEN_DIRECTLY: Final = frozenset(
    {"bgr24", "rgb24", "bgra", "gray", "gray16le", "nv12", "yuv420p"}
    | {row.ffmpeg for row in PIXEL_FORMATS.values() if row.name.startswith("BAYER")}
)
_PROBE_SIZE: Final = (320, 240)
_BITS_A_PIXEL: Final = 0.1
"""Bitrate of hardware encoders if none is requested. They have no common setting for constant quality."""
_PIXELS_A_THREAD: Final = 1920 * 1080 * 15
"""Per second: a tenth of what a 2021 core encodes with preset ultrafast, because this one may be slower, or busy."""
_STEPS: Final = 8
_IRREGULAR: Final = 1.25
"""The next frame may be this many times as far away as the longest of the last `_STEPS` steps."""
_BT601: Final = 6
_LIMITED_RANGE: Final = 1
_CLOCK_JUMP_NS: Final = 1_000_000_000
_GAP_NS: Final = 60_000_000_000


class DamagedFrameError(FrameShapeError):
    """A frame that cannot be read, although others of its format can."""


class EncodedFrame(NamedTuple):
    """One frame of a stream."""

    data: bytes
    """For H.264, an access unit in Annex B form. One with `key` has its parameter sets before it."""
    key: bool
    """Whether decoding can start here."""
    time_us: int
    """When to show it: strictly rising, from 0 at the first frame of the `Timeline`."""
    sequence: int
    capture_time_ns: int
    wall_time_ns: int
    position_ms: float | None


@dataclass(frozen=True, slots=True)
class StreamFormat:
    """What a container has to know about a stream."""

    codec: str
    """FFmpeg's name: ``h264``, ``mjpeg`` or ``rawvideo``."""
    width: int
    height: int
    pixel_format: str = ""
    """For ``rawvideo``, the name of the published format."""
    fps: float = 0.0
    """Approximate frames per second."""


@dataclass(frozen=True, slots=True)
class EncoderOptions:
    """How frames are encoded."""

    codec: str = "h264"
    """One of `CODECS`, or `COPY`."""
    crf: int = 23
    """Constant quality of the software encoder: 0 is lossless, 51 the worst."""
    bitrate: int | None = None
    """Bits per second, instead of constant quality."""
    preset: str = "ultrafast"
    """Of the software encoder."""
    key_interval_s: float = 2.0
    """The most seconds between two frames at which decoding can start, unless a frame is later than expected."""
    fps: float = 30.0
    """Approximate frames per second. It guides the bitrate; the times are those of the frames."""


class Timeline:
    """When to show each frame, from the times of capture: always strictly rising.

    If the clock jumps, by more than a second back or a minute forward, the times go on from where they were: the time
    between the two frames is then that between their publications. Smaller steps back become a microsecond each, so
    later times are as captured again.
    """

    def __init__(self) -> None:
        self._origin_ns: int | None = None
        self._last_ns = -1
        self._published_ns = 0
        self._last_us = -1

    def time_us(self, capture_time_ns: int, publish_time_ns: int) -> int:
        """The time of the next frame, in microseconds."""
        if self._origin_ns is None:
            self._origin_ns = capture_time_ns
        since_publish = max(1000, publish_time_ns - self._published_ns)
        time_ns = capture_time_ns - self._origin_ns
        step = time_ns - self._last_ns
        if self._last_us >= 0 and (step < -_CLOCK_JUMP_NS or step > since_publish + _GAP_NS):
            time_ns = self._last_ns + since_publish
            self._origin_ns = capture_time_ns - time_ns
        self._last_ns, self._published_ns = time_ns, publish_time_ns
        self._last_us = max(self._last_us + 1, round(time_ns / 1000))
        return self._last_us


class Encoder(ABC):
    """Encodes frames of one format and size. `open_encoder` makes one."""

    def __init__(self, kind: tuple[object, ...], stream: StreamFormat, timeline: Timeline) -> None:
        self.format: Final = stream
        self._kind = kind
        self._timeline = timeline

    def takes(self, frame: npt.NDArray[Any], metadata: FrameMetadata) -> bool:
        """Whether a frame has the format and size that this encoder was opened for.

        Raises
        ------
        DamagedFrameError
            It is a JPEG that cannot be read.
        """
        return _kind(frame, metadata) == self._kind

    @abstractmethod
    def encode(self, frame: npt.NDArray[Any], metadata: FrameMetadata, *, key: bool = False) -> list[EncodedFrame]:
        """Encode a frame. The software encoder returns it immediately; hardware encoders may be some frames late.

        Parameters
        ----------
        frame, metadata
            As readers return them; `takes` must be true for them.
        key
            Whether decoding must be able to start here.

        Raises
        ------
        DamagedFrameError
            It is a JPEG that cannot be read.
        """

    def flush(self) -> list[EncodedFrame]:
        """Return the frames still held back. This ends the stream."""
        return []


class _Copier(Encoder):
    def encode(self, frame: npt.NDArray[Any], metadata: FrameMetadata, *, key: bool = False) -> list[EncodedFrame]:
        time_us = self._timeline.time_us(metadata.capture_time_ns, metadata.publish_time_ns)
        return [
            EncodedFrame(
                *(frame.tobytes(), True, time_us, metadata.sequence),
                *(metadata.capture_time_ns, metadata.wall_time_ns, metadata.position_ms),
            )
        ]


class _H264Encoder(Encoder):
    def __init__(
        self,
        kind: tuple[object, ...],
        size: tuple[int, int],
        row: PixelFormat,
        timeline: Timeline,
        options: EncoderOptions,
    ) -> None:
        width, height = (each // 2 * 2 for each in size)  # four pixels share one colour
        super().__init__(kind, StreamFormat("h264", width, height), timeline)
        formats = {each.name for each in av.Codec(CODECS[options.codec], "w").video_formats or ()}
        self._row = row
        self._target = row.ffmpeg if row.chroma and row.ffmpeg in formats else _plain(formats)
        self._context = _open_context(options, width, height, self._target)
        self._decoder = av.CodecContext.create("mjpeg", "r") if row.name == "MJPG" else None
        if self._decoder is not None:
            self._decoder.thread_count = 1  # with several threads it would hold frames back
        self._key_interval_us = round(options.key_interval_s * 1e6)
        self._key_due_us = -1
        self._last_us = -math.inf
        self._steps_us = deque([0.0], _STEPS)
        self._held: dict[int, FrameMetadata] = {}

    def encode(self, frame: npt.NDArray[Any], metadata: FrameMetadata, *, key: bool = False) -> list[EncodedFrame]:
        picture = self._picture(frame)
        picture.pts = self._timeline.time_us(metadata.capture_time_ns, metadata.publish_time_ns)
        picture.time_base = TIME_BASE
        due = self._is_key_due(picture.pts)
        picture.pict_type = PictureType.I if key or due else PictureType.NONE
        if picture.pict_type == PictureType.I:
            self._key_due_us = picture.pts + self._key_interval_us
        self._held[picture.pts] = metadata
        return self._frames(self._context.encode(picture))

    def flush(self) -> list[EncodedFrame]:
        return self._frames(self._context.encode(None))

    def _is_key_due(self, time_us: int) -> bool:
        """Whether the next frame may be too late to be the next key frame. To be called once for each frame."""
        step_us, self._last_us = time_us - self._last_us, time_us
        if step_us <= self._key_interval_us:  # after longer ones the source was away
            self._steps_us.append(step_us)
        return time_us + _IRREGULAR * max(self._steps_us) > self._key_due_us

    def _frames(self, packets: Iterable[Any]) -> list[EncodedFrame]:
        found = []
        for packet in packets:
            metadata = self._held.pop(packet.pts)
            found.append(
                EncodedFrame(
                    *(bytes(packet), packet.is_keyframe, packet.pts, metadata.sequence),
                    *(metadata.capture_time_ns, metadata.wall_time_ns, metadata.position_ms),
                )
            )
        return found

    def _picture(self, frame: npt.NDArray[Any]) -> Any:
        """The frame as the encoder takes it, without a copy where that is possible."""
        width, height = self.format.width, self.format.height
        if self._decoder is not None:
            picture = _decoded(self._decoder, frame)
        elif self._row.ffmpeg in _TAKEN_DIRECTLY and not (self._row.chroma and height % 4):
            # For pictures with chroma, PyAV takes heights that are multiples of four, and rounds others.
            if self._row.dimensions == 0:
                frame = frame.reshape(frame.shape[:2])
            if not self._row.chroma:
                frame = frame[:height, :width]
            picture = av.VideoFrame.from_numpy_buffer(frame, self._row.ffmpeg)
        else:
            picture = _filled(frame, self._row, width, height)
        if picture.format.name == self._target and (picture.width, picture.height) == (width, height):
            return picture
        return picture.reformat(width, height, self._target, dst_colorspace=_BT601, dst_color_range=_LIMITED_RANGE)


def open_encoder(
    options: EncoderOptions, frame: npt.NDArray[Any], metadata: FrameMetadata, timeline: Timeline | None = None
) -> Encoder:
    """Open an encoder for frames like this one.

    Parameters
    ----------
    options
    frame, metadata
        As readers return them.
    timeline
        That of an earlier encoder, to continue it; by default the frame is the first of a new one.

    Raises
    ------
    FrameShapeError
        Frames of this format cannot be encoded this way; the message says why.
    DamagedFrameError
        This one is a JPEG that cannot be read.
    ConfigurationError
        The encoder does not work here.
    """
    timeline = timeline or Timeline()
    kind = _kind(frame, metadata)
    row = PIXEL_FORMATS[metadata.pixel_format]
    width, height = _picture_size(frame, metadata)
    if options.codec != COPY:
        if row.dtype != frame.dtype.name:
            why = f"they have to be of {row.dtype}" if row.dtype else "RAW does not say what the pixels are"
            raise FrameShapeError(f"{row.name} frames of {frame.dtype} cannot be encoded: {why}")
        if min(width, height) < 2:
            raise FrameShapeError(f"frames of {width}x{height} cannot be encoded: expected at least 2x2")
        return _H264Encoder(kind, (width, height), row, timeline, options)
    if row.name == "MJPG":
        return _Copier(kind, StreamFormat("mjpeg", width, height), timeline)
    if row.name not in RAW_FORMATS:
        raise FrameShapeError(
            f"a file cannot hold {row.name} frames unchanged; it can hold MJPG, {', '.join(sorted(RAW_FORMATS))}"
        )
    return _Copier(kind, StreamFormat("rawvideo", width, height, row.name, options.fps), timeline)


def check_codec(options: EncoderOptions) -> None:
    """Check that an encoder works here, before the first frame.

    Raises
    ------
    ConfigurationError
        It is unknown, or there is no hardware for it.
    """
    if options.codec != COPY:
        _open_context(options, *_PROBE_SIZE, "nv12")


def _kind(frame: npt.NDArray[Any], metadata: FrameMetadata) -> tuple[object, ...]:
    shape = _picture_size(frame, metadata) if metadata.pixel_format == "MJPG" else frame.shape
    return (metadata.pixel_format, frame.dtype.name, *shape)


def _picture_size(frame: npt.NDArray[Any], metadata: FrameMetadata) -> tuple[int, int]:
    size = PIXEL_FORMATS[metadata.pixel_format].picture_size(*frame.shape[:2])
    if size is not None:
        return size
    try:
        header = read_header(frame.reshape(-1).data)
    except ValueError as error:
        raise DamagedFrameError(f"frame {metadata.sequence} is not a JPEG: {error}") from error
    if not 0 < header.width * header.height <= MOST_PIXELS_A_BYTE * frame.size:
        raise DamagedFrameError(
            f"frame {metadata.sequence} is a JPEG of {header.width}x{header.height} in {frame.size} bytes"
        )
    return header.width, header.height


def _plain(formats: set[str]) -> str:
    return "yuv420p" if "yuv420p" in formats else "nv12"


def _open_context(options: EncoderOptions, width: int, height: int, pixel_format: str) -> Any:
    name = CODECS.get(options.codec)
    if name is None:
        raise ConfigurationError(
            f"codec {options.codec!r} is unknown; allowed are {', '.join(CODECS)}, and {COPY} for unchanged frames"
        )
    try:
        context: Any = av.CodecContext.create(name, "w")
        context.width, context.height, context.pix_fmt = width, height, pixel_format
        context.time_base, context.framerate = TIME_BASE, Fraction(options.fps).limit_denominator(1001)
        # Key frames are requested by time. Where that works, the encoder's own count must not be faster.
        spare = 2 if name == _SOFTWARE or name in _FORCED_KEY else 1
        context.gop_size = max(1, round(spare * options.key_interval_s * options.fps))
        context.max_b_frames = 0
        context.colorspace = context.color_primaries = context.color_trc = _BT601
        context.color_range = _LIMITED_RANGE
        if options.bitrate is not None or name != _SOFTWARE:
            context.bit_rate = options.bitrate or round(width * height * options.fps * _BITS_A_PIXEL)
        if name == _SOFTWARE:
            if options.preset == "ultrafast":
                # Each further thread adds a slice to every picture, which costs CPU and bits.
                wanted = math.ceil(width * height * options.fps / _PIXELS_A_THREAD)
                context.thread_count = min(wanted, os.cpu_count() or 1)
            context.options = {"preset": options.preset, "tune": "zerolatency", "forced-idr": "1"}
            if options.bitrate is None:
                context.options["crf"] = str(options.crf)
        elif name in _FORCED_KEY:
            context.options = {_FORCED_KEY[name]: "1"}
        context.open()
    except UnknownCodecError:
        raise ConfigurationError(f"codec {name!r} is not in this build of FFmpeg: use h264") from None
    except av.FFmpegError as error:
        if name == _SOFTWARE:
            why = f"frames of {width}x{height} cannot be encoded by {name!r} ({error.strerror}): use {COPY}"
        else:
            why = f"codec {name!r} does not work here ({error.strerror}): use h264"
        raise ConfigurationError(why) from error
    return context


def _decoded(decoder: Any, frame: npt.NDArray[Any]) -> Any:
    try:
        return decoder.decode(av.Packet(frame.tobytes()))[0]
    except (av.FFmpegError, IndexError) as error:
        raise DamagedFrameError(f"a JPEG of {frame.size} bytes cannot be decoded") from error


def _filled(frame: npt.NDArray[Any], row: PixelFormat, width: int, height: int) -> Any:
    """A copy, for layouts that PyAV does not take directly."""
    picture = av.VideoFrame(width, height, row.ffmpeg or "yuv420p")
    row_bytes = frame.strides[0]
    data = frame.reshape(-1).view(np.uint8)
    planes = list(picture.planes)
    if row.chroma == ("v", "u"):
        planes[1:] = reversed(planes[1:])
    place = 0
    for plane, name in zip(planes, ("y", *row.chroma), strict=True):
        rows = height if name == "y" else height // 2
        length = row_bytes // 2 if name in ("u", "v") else row_bytes
        target = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        source = data[place : place + rows * length].reshape(rows, length)
        shown = min(length, plane.line_size)
        target[:rows, :shown] = source[:, :shown]
        place += rows * length
    return picture

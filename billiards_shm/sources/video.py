"""PyAV's FFmpeg as a source: files and URLs."""

import ctypes
import logging
import os
import sys
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from billiards_shm.config.address import SourceAddress, SourceKind
from billiards_shm.config.model import CameraConfig
from billiards_shm.errors import CameraError
from billiards_shm.jpeg import END, complete, has_end, read_header
from billiards_shm.pixel_formats import PixelFormat, format_named
from billiards_shm.sources.decoder import Decoder
from billiards_shm.sources.delivery import delivery_of
from billiards_shm.sources.diagnosis import reason_for_file, reason_for_unopened
from billiards_shm.sources.names import ffmpeg_name
from billiards_shm.sources.protocol import Delivery, Image, Reason, SourceDetails, SourceLostError, VideoFormat

if TYPE_CHECKING:
    from billiards_shm.sources.conversion import FrameConverter

__all__ = ["Video"]

_SEGMENTED: Final = frozenset({"hls", "dash"})
_BELIEVABLE_FPS: Final = 1000
_US_PER_SEC: Final = 1_000_000

# The others stand for several.
_STATUSES: Final[dict[type[BaseException], int]] = {
    av.error.HTTPUnauthorizedError: 401,
    av.error.HTTPForbiddenError: 403,
    av.error.HTTPNotFoundError: 404,
}

_NOT_NATIVE: Final = "publish: asked for native, bgr for {}"

# Titles and the like that are not UTF-8 are no reason not to play a file. PyAV 19 thinks so too.
_TOLERANT: Final[dict[str, Any]] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}

# From malloc.h: how much free memory the heap keeps at its end, and from which size on a block is mapped by itself.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 1 << 30

_log = logging.getLogger(__name__)


class Video:
    """An open file or stream.

    Parameters
    ----------
    config : CameraConfig

    Raises
    ------
    CameraError
        If the source cannot be opened; says what and why in one line.
    """

    def __init__(self, config: CameraConfig) -> None:
        self._config = config
        self._address = SourceAddress.parse(config.device_id)
        _keep_freed_memory()
        self._container = _open(self._address, config)
        self._stream = _video_stream(self._address, self._container)
        delivery = _delivery(self._address, self._container)
        self._recorded = delivery is Delivery.RECORDED
        self._keeps_jpegs = config.publish != "bgr" and self._stream.codec_context.name == "mjpeg"
        self._decoder = Decoder(
            self._container,
            self._stream,
            live=not self._recorded or self._keeps_jpegs,
            keep_damaged=config.keep_damaged,
        )
        self._reformatter = VideoReformatter()
        self._converters: dict[int, FrameConverter | None] = {}
        self._tick_ms = 1000 * float(self._stream.time_base or 0)
        self._start_ms = (self._stream.start_time or 0) * self._tick_ms
        self._jpeg: av.Packet[VideoStream] | None = None
        self._jpegs_have_ends = False
        self._frame: VideoFrame | None = None
        self._grabbed = 0
        self._ended = False
        # Only a frame tells how to turn a recording, and with that its size.
        self._first_is_read = self._recorded and self._read()
        if self._jpeg is not None:
            self._look_at_first_jpeg(self._jpeg)
        self._refused: set[str] = {_described(self._frame)} if self._frame is not None and self._jpeg is None else set()
        self._details = self._read_details(delivery)

    @property
    def details(self) -> SourceDetails:
        """What the container's header says."""
        return self._details

    @property
    def position_ms(self) -> float | None:
        """Position of the grabbed frame in a recording."""
        timestamp = self.timestamp_ms
        return timestamp - self._start_ms if self._recorded and timestamp is not None else None

    @property
    def timestamp_ms(self) -> float | None:
        """Presentation time of the grabbed frame, on the clock of the file or stream."""
        grabbed = self._jpeg or self._frame
        if grabbed is None:
            return None
        ticks = grabbed.dts if grabbed.pts is None else grabbed.pts
        return None if ticks is None else ticks * self._tick_ms

    @property
    def damaged(self) -> bool:
        """Whether parts of the grabbed frame were missing, as when packets were lost, and FFmpeg filled them in."""
        return self._frame is not None and self._frame.is_corrupt

    @property
    def frames_left(self) -> int | None:
        """Frames that the header promises beyond those grabbed; 0 at the end, whatever it promised."""
        if self._ended:
            return 0
        count = self._details.frame_count
        return None if count is None else max(0, count - self._grabbed)

    def grab(self) -> bool:
        """Decode the next frame; True also for one that cannot be decoded, of which `retrieve` gives none."""
        grabbed, self._first_is_read = self._first_is_read or self._read(), False
        self._grabbed += grabbed
        return grabbed

    def retrieve(self, target: Image | None) -> Image | None:
        """Convert the decoded frame, into `target` if that has its shape; see `FrameSource.retrieve`."""
        if self._frame is None and self._jpeg is not None:
            self._frame = self._decoder.decode_jpeg(self._jpeg)
        frame = self._frame
        image = None if frame is None else self._convert(frame)
        if frame is None or image is None:
            return None
        converter = self._converter_for(_turn_of(frame))
        if converter is not None:
            return converter.into(image, target)
        return _put(image, target)

    @property
    def native_format(self) -> str:
        """MJPG of Motion JPEG, which is not decoded; else the decoder's format, if segments can have it."""
        if self._jpeg is not None:
            return "MJPG"
        row = None if self._frame is None else _native_format_of(self._frame)
        return "BGR24" if row is None else row.name

    def retrieve_native(self, target: Image | None) -> Image | None:
        """Give the frame as it was decoded, or its JPEG; see `NativeSource.retrieve_native`."""
        if self._jpeg is not None:
            return self._whole_jpeg(memoryview(self._jpeg))
        frame = self._frame
        if frame is None:
            return None
        row = _native_format_of(frame)
        if row is not None:
            return copy_planes(frame, row, target)
        self._warn_of(frame)
        image = self._convert(frame)
        return None if image is None else _put(image, target)

    def _warn_of(self, frame: VideoFrame) -> None:
        """Log once that frames of this kind are not native. That of a recording's first frame is in the details."""
        described = _described(frame)
        if described not in self._refused:
            self._refused.add(described)
            _log.warning("%s: %s", self._address, _NOT_NATIVE.format(described))

    def _look_at_first_jpeg(self, jpeg: "av.Packet[VideoStream]") -> None:
        """Decode the first JPEG of a recording: for its turn, and to see whether it is interlaced.

        An interlaced frame is two JPEGs of half its height, which readers would take for pictures.
        """
        self._frame = self._decoder.decode_jpeg(jpeg)
        try:
            height = read_header(memoryview(jpeg)).height
        except ValueError:
            return
        if self._frame is not None and self._frame.height != height:
            self._keeps_jpegs = False
            self._jpeg = None

    def _whole_jpeg(self, data: memoryview) -> Image | None:
        found: bytes | memoryview | None = data
        try:
            found = complete(data)
            self._jpegs_have_ends = True
        except ValueError:
            if not self._config.keep_damaged:
                found = self._with_end(bytes(data))
        return None if found is None else np.frombuffer(found, np.uint8).reshape(1, -1)

    def _with_end(self, data: bytes) -> bytes | memoryview | None:
        """Give a JPEG the end marker that it lacks, in a stream none of whose JPEGs has one; None if it is damaged."""
        if self._jpegs_have_ends or has_end(data) is not False:
            return None
        try:
            return complete(data + END)
        except ValueError:
            return None

    def _convert(self, frame: VideoFrame) -> Image | None:
        """Make BGR of a frame, as it lies; None if FFmpeg cannot."""
        try:
            # Bicubic, as OpenCV does: it spreads colours over pixels where there are fewer colours than pixels.
            converted = self._reformatter.reformat(
                frame, format="bgr24", interpolation=Interpolation.BICUBIC, threads=1
            )
        except av.error.FFmpegError:
            return None
        return converted.to_ndarray()

    def release(self) -> None:
        """Close the file or connection."""
        self._frame = self._jpeg = None
        self._decoder.close()
        self._container.close()

    def _read(self) -> bool:
        self._frame = self._jpeg = None
        if self._ended:
            return False
        try:
            if self._keeps_jpegs:
                self._jpeg = self._decoder.next_jpeg()
            else:
                self._frame = self._decoder.next_frame()
        except EOFError:
            self._ended = True
            if not self._recorded:
                raise SourceLostError(Reason.END_OF_STREAM.because("the server ended it")) from None
            return False
        except av.error.ExitError:
            # The time is up, as the loop sees by its own clock.
            return False
        except av.error.FFmpegError as error:
            words = (error.strerror or type(error).__name__).lower()
            raise SourceLostError(Reason.END_OF_STREAM.because(words)) from None
        return True

    def _converter_for(self, turn: int) -> "FrameConverter | None":
        """What turns, mirrors and crops frames that are themselves to be turned so; None if nothing has to."""
        if turn not in self._converters:
            self._converters[turn] = self._make_converter(turn)
        return self._converters[turn]

    def _make_converter(self, turn: int) -> "FrameConverter | None":
        config = self._config
        if (turn + config.rotation) % 360 == 0 and config.flip == "none" and config.crop is None:
            return None
        try:
            from billiards_shm.sources.conversion import FrameConverter
        except ImportError as error:
            raise CameraError(
                f"cannot open {self._address}: OpenCV turns, mirrors and crops, and cannot be imported ({error}): "
                "pip install 'billiards-shm[headless]'"
            ) from error
        return FrameConverter(config, turn)

    def _read_details(self, delivery: Delivery) -> SourceDetails:
        context = self._stream.codec_context
        size = (context.width, context.height)
        converter = self._converter_for(0 if self._frame is None else _turn_of(self._frame))
        rate = float(self._stream.guessed_rate or 0)
        fps = rate if 0 < rate <= _BELIEVABLE_FPS else 0.0
        return SourceDetails(
            "AV",
            *(size if converter is None else converter.size(*size)),
            fps,
            frame_count=self._count_frames(fps) if self._recorded else None,
            negotiated=VideoFormat(*size, fps, context.codec.canonical_name),
            warnings=self._warnings(),
            delivery=delivery,
        )

    def _warnings(self) -> tuple[str, ...]:
        refused = []
        if self._config.hardware_acceleration != "none":
            asked = self._config.hardware_acceleration
            refused.append(f"hardware_acceleration: asked for {asked}, there is none; backend ffmpeg may have it")
        if self._config.publish != "bgr" and self._frame is not None:
            if self._jpeg is None and _native_format_of(self._frame) is None:
                refused.append(_NOT_NATIVE.format(_described(self._frame)))
            elif _turn_of(self._frame):
                turn = _turn_of(self._frame)
                refused.append(
                    f"publish: native frames lie as they are stored, and want to be turned by {turn} degrees"
                )
        return tuple(refused)

    def _count_frames(self, fps: float) -> int | None:
        """How many frames the header promises, or its duration and rate do."""
        if self._stream.frames:
            return self._stream.frames
        duration = self._container.duration
        return (round(duration / _US_PER_SEC * fps) or None) if duration is not None and duration > 0 else None


def _turn_of(frame: VideoFrame) -> int:
    """Degrees clockwise to turn a frame by."""
    turn = -frame.rotation % 360
    return turn if turn in (90, 180, 270) else 0


def _put(image: Image, target: Image | None) -> Image:
    if target is None or target.shape != image.shape or target.dtype != image.dtype:
        return np.ascontiguousarray(image)
    np.copyto(target, image)
    return target


# Native frames.


def _native_format_of(frame: VideoFrame) -> PixelFormat | None:
    """The pixel format of a decoded frame; None if segments have none for it.

    Frames do not say what range their YUV has: readers take it for the limited one.
    """
    row = format_named(frame.format.name)
    if row is None or row.array_shape(frame.width, frame.height) is None or frame.planes[0].line_size < 0:
        return None
    full_range = frame.color_range == ColorRange.JPEG
    return None if full_range and (row.chroma or row.channels == 2) else row


def _described(frame: VideoFrame) -> str:
    of_range = " of full range" if frame.color_range == ColorRange.JPEG else ""
    interlaced = ", interlaced" if frame.interlaced_frame else ""
    return f"{frame.width}x{frame.height} {frame.format.name}{of_range}{interlaced}"


def copy_planes(frame: VideoFrame, row: PixelFormat, target: Image | None) -> Image:
    """Copy a frame as it was decoded, into `target` if that has its shape. Padding of rows is left out."""
    shape = row.array_shape(frame.width, frame.height)
    assert shape is not None
    image = target
    if image is None or image.shape != shape or image.dtype != row.dtype or not image.flags.c_contiguous:
        image = np.empty(shape, row.dtype)
    rows = image.reshape(shape[0], -1)  # of packed formats: the channels of a pixel beside one another
    height = frame.height
    np.copyto(rows[:height], _plane(frame, 0, height, rows))
    if len(row.chroma) == 1:
        np.copyto(rows[height:], _plane(frame, 1, height // 2, rows))
    elif row.chroma:
        quarters = rows[height:].reshape(2, height // 2, rows.shape[1] // 2)
        for number, quarter in enumerate(quarters, 1):
            np.copyto(quarter, _plane(frame, number, height // 2, quarter))
    return image


def _plane(frame: VideoFrame, number: int, height: int, like: Image) -> Image:
    """The pixels of a plane, of the width and type of `like`."""
    plane = frame.planes[number]
    items: Image = np.frombuffer(plane, like.dtype)  # type: ignore[call-overload]
    stride = plane.line_size // like.itemsize
    return np.lib.stride_tricks.as_strided(
        items, (height, like.shape[1]), (stride * like.itemsize, like.itemsize), writeable=False
    )


@cache
def _keep_freed_memory() -> None:
    """Have the heap keep the memory of a converted frame for the next one.

    Otherwise glibc gives it back to the kernel and asks for it again, at every frame: for 1080p a third of what
    decoding costs.
    """
    if sys.platform == "linux":
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have no such function
        for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            if set_option is not None:
                set_option(option, _KEPT_BYTES)


# Opening.


def _open(address: SourceAddress, config: CameraConfig) -> InputContainer:
    url = address.kind is SourceKind.URL
    if not address.recorded and not url:
        raise CameraError(f"cannot open {address}: backend av reads files and URLs, and this is neither")
    reason = None
    if address.kind is SourceKind.FILE:
        reason = reason_for_file(Path(str(address.place)))
    elif address.kind is SourceKind.IMAGES and "%" in str(address.place):
        reason = Reason.UNREADABLE.because("numbered images are for the backends images and auto")
    started = time.monotonic()
    if reason is None:
        place = ffmpeg_name(address)
        try:
            container: InputContainer = av.open(
                place,
                container_options=_options_for_url(place) if url else {"pattern_type": "none"},
                timeout=(config.open_timeout_sec, config.read_timeout_sec) if url else None,
                **_TOLERANT,
            )
            return container
        except (av.error.FFmpegError, OSError, ValueError) as error:
            seconds, status = time.monotonic() - started, _STATUSES.get(type(error))
            reason = reason_for_unopened(address, seconds, config.open_timeout_sec, "PyAV", status)
    raise CameraError(f"cannot open {address}: {reason}")


def _options_for_url(url: str) -> dict[str, str]:
    """FFmpeg's options of a protocol; OpenCV's variable for them counts here too, as users have set it."""
    text = os.environ.get("OPENCV_FFMPEG_CAPTURE_OPTIONS")
    if text is not None:
        return dict(pair.split(";", 1) for pair in text.split("|") if ";" in pair)
    return {"rtsp_transport": "tcp"} if url.lower().startswith(("rtsp:", "rtsps:")) else {}


def _video_stream(address: SourceAddress, container: InputContainer) -> VideoStream:
    stream = container.streams.best("video")
    if isinstance(stream, VideoStream) and stream.codec_context is not None:
        return stream
    container.close()
    raise CameraError(f"cannot open {address}: {Reason.UNREADABLE.because('not a video that PyAV can read')}")


def _delivery(address: SourceAddress, container: InputContainer) -> Delivery:
    name = container.format.name
    segmented = name in _SEGMENTED
    # Cameras name lengths of their endless answers, which are not to be believed. A playlist's is that of its text.
    size = 0 if segmented or name == "mpjpeg" else container.size or 0
    return delivery_of(address, segmented=segmented, has_end=max(size, container.duration or 0) > 0)

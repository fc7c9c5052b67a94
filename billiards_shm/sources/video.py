"""PyAV's FFmpeg as a source: files and URLs."""

import ctypes
import logging
import math
import sys
from functools import cache
from typing import TYPE_CHECKING, Final

import av
import av.error
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from billiards_shm.config.address import SourceAddress, SourceKind
from billiards_shm.config.model import CameraConfig
from billiards_shm.errors import CameraError
from billiards_shm.jpeg import END, complete, has_end, read_header
from billiards_shm.pixel_formats import PixelFormat
from billiards_shm.sources.container import container_delivery, open_container, video_stream
from billiards_shm.sources.decoded_frames import REARRANGED, copy_planes, describe, native_format_of
from billiards_shm.sources.decoder import Decoder, NoFrameError
from billiards_shm.sources.protocol import Delivery, Image, Reason, SourceDetails, SourceLostError, VideoFormat

if TYPE_CHECKING:
    from av.video.stream import VideoStream

    from billiards_shm.sources.conversion import FrameConverter

__all__ = ["Video"]

_BELIEVABLE_FPS: Final = 1000
_US_PER_SEC: Final = 1_000_000
_NS_PER_MS: Final = 1e6

# Remembered, because a sender may wait for only one connection, and each opening may cost a second.
_IN_PIECES: Final[set[SourceAddress]] = set()
"""Sources whose packets are not pictures."""

# A recording that loops is opened again for each pass.
_SAID: Final[set[tuple[SourceAddress, str]]] = set()
_NOT_NATIVE: Final = "publish: asked for native, got bgr for {}"

# From malloc.h: how much free memory the heap keeps at its end, and the size from which a block has its own mapping.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 1 << 30

_INDEX_LAST: Final = (
    "no frame of this MP4 could be read; if its index comes last, the server has to send parts of files (Range): "
    "ffmpeg -i IN.mp4 -c copy -movflags +faststart OUT.mp4 puts it first"
)

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
        self._open()
        delivery = container_delivery(self._address, self._container)
        self._reformatter = VideoReformatter()
        self._converters: dict[int, FrameConverter | None] = {}
        self._tick_ms = 1000 * float(self._stream.time_base or 0)
        self._start_ms = (self._stream.start_time or 0) * self._tick_ms
        self._jpeg: av.Packet[VideoStream] | None = None
        self._jpegs_have_ends = False
        self.flaw = ""
        self._interlaced = False
        self._frame: VideoFrame | None = None
        self._grabbed = 0
        self._ended = False
        # Only a frame shows how to turn a recording, and so its size.
        self._first_is_read = self._recorded and self._read_first()
        if self._jpeg is not None:
            self._look_at_first_jpeg(self._jpeg)
        if self._frame is not None and self._jpeg is None:
            _SAID.add((self._address, describe(self._frame)))
        self._details = self._read_details(delivery)

    def _open(self) -> None:
        config = self._config
        self._container, unparsed = open_container(self._address, config)
        self._stream = video_stream(self._address, self._container)
        self._recorded = container_delivery(self._address, self._container) is Delivery.RECORDED
        self._keeps_jpegs = config.publish != "bgr" and self._stream.codec_context.name == "mjpeg"
        self._decoder = Decoder(
            self._container,
            self._stream,
            live=not self._recorded or self._keeps_jpegs,
            keep_damaged=config.keep_damaged,
            unparsed=unparsed,
            in_pieces=self._address in _IN_PIECES,
            timeout_sec=math.inf if self._recorded else config.read_timeout_sec,
        )

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
        """Presentation time of the grabbed frame, on the clock of the file or stream; None if a stream has none."""
        grabbed = self._jpeg or self._frame
        if grabbed is None or not (self._recorded or self._decoder.has_times):
            return None
        ticks = grabbed.dts if grabbed.pts is None else grabbed.pts
        return None if ticks is None else ticks * self._tick_ms

    @property
    def sent_ns(self) -> int | None:
        """When the grabbed frame was taken, by the sender's wall clock, if the stream reports it."""
        timestamp, zero_ns = self.timestamp_ms, self._decoder.sender.zero_ns
        return None if timestamp is None or zero_ns is None else zero_ns + round(timestamp * _NS_PER_MS)

    @property
    def damaged(self) -> bool:
        """Whether parts of the grabbed frame were missing, for instance lost packets, and FFmpeg filled them in."""
        return self._frame is not None and self._decoder.damaged

    @property
    def frames_left(self) -> int | None:
        """Frames that the header promises beyond those grabbed; always 0 at the end."""
        if self._ended:
            return 0
        count = self._details.frame_count
        return None if count is None else max(0, count - self._grabbed)

    def grab(self) -> bool:
        """Decode the next frame. Also True for one that cannot be decoded: `retrieve` then returns None."""
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
        """MJPG for Motion JPEG, which is not decoded; otherwise the decoder's format, if segments can have it."""
        if self._jpeg is not None:
            return "MJPG"
        row = None if self._frame is None else self._row_of(self._frame)
        return "BGR24" if row is None else row.name

    def retrieve_native(self, target: Image | None) -> Image | None:
        """Return the frame as it was decoded, or its JPEG; see `NativeSource.retrieve_native`."""
        if self._jpeg is not None:
            return self._whole_jpeg(memoryview(self._jpeg))
        frame = self._frame
        if frame is None:
            return None
        row = self._row_of(frame)
        if row is not None:
            if frame.format.name in REARRANGED:
                frame = self._reformatter.reformat(frame, format=row.ffmpeg, threads=1)
            return copy_planes(frame, row, target)
        self._warn_of(frame)
        image = self._convert(frame)
        return None if image is None else _put(image, target)

    def _row_of(self, frame: VideoFrame) -> PixelFormat | None:
        """The pixel format to publish a frame in, unconverted; None if it has to be BGR.

        Readers cannot tell interlaced frames, and would take the colours of 4:2:0 from lines of the other field. Some
        video changes between interlaced and not at every frame. The published format changes only once.
        """
        self._interlaced |= frame.interlaced_frame
        row = native_format_of(frame)
        return None if row is None or (row.chroma and self._interlaced) else row

    def _warn_of(self, frame: VideoFrame) -> None:
        """Log once that frames of this kind are not native. For a recording's first frame, the details say so."""
        described = describe(frame)
        if (self._address, described) not in _SAID:
            _SAID.add((self._address, described))
            _log.warning("%s: %s", self._address, _NOT_NATIVE.format(described))

    def _look_at_first_jpeg(self, jpeg: "av.Packet[VideoStream]") -> None:
        """Decode the first JPEG of a recording: for its turn, and to see whether readers can read it unchanged.

        An interlaced frame is two JPEGs of half its height, which readers would take for whole pictures.
        """
        self._frame = self._decoder.decode_jpeg(jpeg)
        try:
            header = read_header(memoryview(jpeg))
        except ValueError:
            return
        if self._frame is not None and not (header.common and self._frame.height == header.height):
            self._keeps_jpegs = False
            self._jpeg = None

    def _whole_jpeg(self, data: memoryview) -> Image | None:
        found: bytes | memoryview | None = data
        try:
            found = complete(data)
            self._jpegs_have_ends = True
        except ValueError as error:
            self.flaw = str(error)
            if not self._config.keep_damaged:
                found = self._with_end(bytes(data))
        return None if found is None else np.frombuffer(found, np.uint8).reshape(1, -1)

    def _with_end(self, data: bytes) -> bytes | memoryview | None:
        """Add the end marker that a JPEG lacks, in a stream where no JPEG has one; None if it is damaged."""
        if self._jpegs_have_ends or has_end(data) is not False:
            return None
        try:
            return complete(data + END)
        except ValueError:
            return None

    def _convert(self, frame: VideoFrame) -> Image | None:
        """Convert a frame to BGR, without turning it; None if FFmpeg cannot."""
        try:
            # Bicubic, as in OpenCV: it spreads colours over pixels where there are fewer colours than pixels.
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

    def _read_first(self) -> bool:
        why = ""
        try:
            read = self._read()
            if read or not self._ended:
                return read
        except SourceLostError as error:
            why = str(error)
        timed_out = why.startswith(Reason.TIMEOUT)
        if not timed_out and self._address.kind is SourceKind.URL and "mp4" in self._container.format.name:
            why = Reason.UNREADABLE.because(_INDEX_LAST)
        if not why:
            return False
        self.release()
        raise CameraError(f"cannot open {self._address}: {why}")

    def _read(self) -> bool:
        self._frame = self._jpeg = None
        self.flaw = ""
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
        except (av.error.ExitError, NoFrameError):
            if self._recorded:
                # The next read would report the end, as if all of it had been read.
                silent = f"no data within {self._config.read_timeout_sec:g} s"
                raise SourceLostError(Reason.TIMEOUT.because(silent)) from None
            # The time is up, as the loop sees by its own clock.
            return False
        except av.error.FFmpegError as error:
            words = (error.strerror or type(error).__name__).lower()
            raise SourceLostError(Reason.END_OF_STREAM.because(words)) from None
        if self._decoder.assembles and self._address not in _IN_PIECES:
            _log.info("%s has packets that are not pictures: assembling them", self._address)
            _IN_PIECES.add(self._address)
        return True

    def _converter_for(self, turn: int) -> "FrameConverter | None":
        """The converter that turns, mirrors and crops frames with this rotation; None if there is nothing to do."""
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
                f"cannot open {self._address}: OpenCV turns, mirrors and crops, but cannot be imported ({error}): "
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
            refused.append(f"hardware_acceleration: asked for {asked}, got none; backend ffmpeg may have it")
        if self._config.publish != "bgr" and self._frame is not None:
            if self._jpeg is None and self._row_of(self._frame) is None:
                refused.append(_NOT_NATIVE.format(describe(self._frame)))
            elif _turn_of(self._frame):
                turn = _turn_of(self._frame)
                refused.append(
                    f"publish: native frames are published as stored, and have to be turned by {turn} degrees"
                )
        return tuple(refused)

    def _count_frames(self, fps: float) -> int | None:
        """How many frames the header promises, or its duration and rate imply."""
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


@cache
def _keep_freed_memory() -> None:
    """Have the heap keep the memory of a converted frame for the next one.

    Otherwise glibc returns it to the kernel and asks for it again, at every frame: for 1080p that costs a third of
    what decoding costs.
    """
    if sys.platform == "linux":
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have no such function
        for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            if set_option is not None:
                set_option(option, _KEPT_BYTES)

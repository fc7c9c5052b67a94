"""Brings the frames of a source into shared memory, each decoded straight into its slot if it fits."""

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from billiards_shm import LoanedSlot, SharedMemoryFrameWriter
from billiards_shm.capture.capture_time import CaptureTime
from billiards_shm.capture.frozen import FrozenPicture
from billiards_shm.capture.stats import CaptureStatistics
from billiards_shm.config.model import VideoConfig, native_name
from billiards_shm.errors import ConfigurationError, SharedMemoryFullError
from billiards_shm.jpeg import MOST_PIXELS_A_BYTE, read_header
from billiards_shm.owners import resolve_group
from billiards_shm.pixel_formats import PIXEL_FORMATS
from billiards_shm.sources.protocol import FrameSource, Image, NativeSource, RecordedSource

__all__ = ["Publisher", "create_writer", "group_of", "picture_size_of"]

FRESH_NS: Final = 900_000_000
"""Age at which the frame of a segment without readers is replaced. With the time to the next frame: a second."""
MJPG_HEADROOM: Final = 2
"""A segment has room for JPEGs this many times as large as the first one; a larger one replaces the segment."""
MJPG_BITS_PER_PIXEL: Final = 2
"""It also has room for JPEGs of this many bits per pixel, which is fine quality."""
_BYTES_PER_MB: Final = 1e6

_log = logging.getLogger(__name__)


class Publisher:
    """Owns the segments, which are created when the first frame shows how large frames are.

    Parameters
    ----------
    video : VideoConfig
    statistics : CaptureStatistics
    publish : str
        As in `CameraConfig`. With ``both`` the native frames are counted, and are converted to BGR for those who read
        that.

    Raises
    ------
    ConfigurationError
        The group `video.group` does not exist; or the name is too long for the second segment of ``both``.
    """

    def __init__(self, video: VideoConfig, statistics: CaptureStatistics, publish: str = "bgr") -> None:
        self._video = video
        self._group = group_of(video)
        self._statistics = statistics
        self._name = video.shared_memory_name
        self._native = publish != "bgr"
        self._both = publish == "both"
        if self._both:
            self._name = native_name(video.shared_memory_name)
        self._source: FrameSource | None = None
        self._native_source: NativeSource | None = None
        self._recording: RecordedSource | None = None
        self._writer: SharedMemoryFrameWriter | None = None
        self._bgr_writer: SharedMemoryFrameWriter | None = None
        self._bgr_shape: tuple[int, ...] = ()
        self._bgr_ns = 0
        self._pixel_format = "BGR24"
        self._pictures = FrozenPicture(0.0)
        self._shape: tuple[int, ...] = ()
        self._last_capture_ns = 0
        self.picture_size = (0, 0)
        """Width and height of the last picture; zeros before the first."""
        self.frozen = False
        """Whether the last frame was one identical frame too many."""

    def watch_for_frozen(self, seconds: float) -> None:
        """Set `frozen` after this many seconds of identical frames; 0.0: never."""
        if seconds != self._pictures.limit_sec:
            self._pictures = FrozenPicture(seconds)

    @property
    def begun(self) -> bool:
        """Whether there was a frame, so that the segment exists."""
        return self._writer is not None

    @property
    def closed(self) -> bool:
        """Whether the segment was closed."""
        return self._writer is not None and self._writer.closed

    @property
    def sequence(self) -> int:
        """Number of the last frame, 0 before the first."""
        return self._writer.sequence if self._writer is not None else 0

    @property
    def backed_bytes(self) -> int:
        """Memory that the segments take."""
        return sum(writer.statistics.backed_bytes for writer in self._writers())

    def close(self) -> None:
        """Close the segments; may be called from another thread, and more than once."""
        for writer in self._writers():
            writer.close()

    def publish(
        self, source: FrameSource, captured_ns: int, lag_ns: int | None = None, when: CaptureTime | None = None
    ) -> bool:
        """Bring the grabbed frame into shared memory; False if it could not be decoded.

        Parameters
        ----------
        source : FrameSource
        captured_ns : int
            When it was grabbed, by CLOCK_MONOTONIC.
        lag_ns : int or None
            How long it had been waiting to be grabbed; None for a recording, whose frames have no age.
        when : CaptureTime or None
            When it was captured by the source's clock; None: when it was grabbed.
        """
        native = self._native_source_of(source)
        origin = self._origin(when or CaptureTime(captured_ns)) | {
            "position_ms": source.position_ms,
            "source_sequence": self._number(),
        }
        retrieve = source.retrieve if native is None else native.retrieve_native
        self._pixel_format = "BGR24" if native is None else native.native_format
        started_ns = time.monotonic_ns()
        slot = self._loan(origin)
        if slot is None:
            image = retrieve(None)
        else:
            lent_ns = time.monotonic_ns()
            # Leaving this block by an exception returns the slot.
            with slot:
                target = slot.array
                image = retrieve(target)
                if image is target:
                    self._count_captured(image, captured_ns)
                    decoded_ns = time.monotonic_ns()
                    slot.publish()
                    self._count_written(captured_ns, lag_ns, lent_ns - started_ns - decoded_ns)
                else:
                    slot.cancel()
        if image is None:
            return False
        self._last_capture_ns = origin["capture_time_ns"]
        if slot is None or image is not target:
            # There was no slot, or one of another shape, so the source put the frame somewhere else.
            # Some sources learn only from the frame that it is BGR after all.
            self._pixel_format = "BGR24" if native is None else native.native_format
            self._notice_shape(image)
            if self._writer is None:
                self._writer = self._create_writer(self._name, image)
            self._count_captured(image, captured_ns)
            self._copy(image, captured_ns, lag_ns, origin)
        if self._both:
            self._publish_bgr(source, image, captured_ns, origin, delivered_bgr=native is None)
        return True

    def placeholder(self, draw: Callable[[int, int], Image]) -> Callable[[], None]:
        """Draw a placeholder; return what publishes it, while no frame is published. Any thread may do both.

        Parameters
        ----------
        draw : callable
            Makes a BGR picture of a given width and height. Not called before the size is known from the first frame.
        """
        drawn = []
        if self._bgr_writer is not None:
            # Turned and cropped, it may have another size than the native frames.
            height, width = self._bgr_shape[:2]
            drawn.append((self._bgr_writer, *_placeholder_for("BGR24", draw(width, height))))
        if self._writer is not None and all(self.picture_size):
            drawn.append((self._writer, *_placeholder_for(self._pixel_format, draw(*self.picture_size))))

        def publish() -> None:
            for writer, image, pixel_format in drawn:
                self._write_placeholder(writer, image, pixel_format)

        return publish

    def report(self, **news: Any) -> None:
        """Report the state of the source to readers; may be called from another thread."""
        for writer in self._writers():
            if writer.closed:
                continue
            try:
                writer.update_source(**news)
            except ValueError:
                if not writer.closed:
                    raise

    def _writers(self) -> list[SharedMemoryFrameWriter]:
        return [writer for writer in (self._writer, self._bgr_writer) if writer is not None]

    def _origin(self, when: CaptureTime) -> dict[str, Any]:
        """Time and clock of the next frame. Times never go back, not even where the clock changes."""
        return {"capture_time_ns": max(when.ns, self._last_capture_ns), "clock": when.clock}

    def _loan(self, origin: dict[str, Any]) -> LoanedSlot | None:
        """Borrow a slot for a frame of the last one's shape; None before the first, and if there is no memory."""
        # The size of a JPEG is known only from its bytes.
        if self._writer is None or self._pixel_format == "MJPG":
            return None
        try:
            return self._writer.loan(
                self._shape,
                dtype=PIXEL_FORMATS[self._pixel_format].dtype,
                pixel_format=self._pixel_format,
                **origin,
            )
        except SharedMemoryFullError:
            # The frame is copied instead, and the writer counts it as dropped and warns.
            return None

    def _copy(self, image: Image, captured_ns: int, lag_ns: int | None, origin: dict[str, Any]) -> None:
        assert self._writer is not None
        started_ns = time.monotonic_ns()
        if self._writer.write_frame(image, pixel_format=self._pixel_format, **origin):
            self._count_written(captured_ns, lag_ns, -started_ns)
        else:
            self._statistics.dropped += 1

    def _native_source_of(self, source: FrameSource) -> NativeSource | None:
        """The source, if its native frames are wanted and it has any."""
        if source is not self._source:  # isinstance of a protocol takes as long as writing a frame
            self._source = source
            self._native_source = source if self._native and isinstance(source, NativeSource) else None
            self._recording = source if isinstance(source, RecordedSource) else None
        return self._native_source

    def _number(self) -> int | None:
        """The number that the grabbed frame had when it was recorded. Both frames of a grab have its number."""
        recorded = None if self._recording is None else self._recording.recorded
        if recorded is not None:
            return recorded.sequence
        return self._statistics.captured + 1 if self._both else None

    def _publish_bgr(
        self, source: FrameSource, image: Image, captured_ns: int, origin: dict[str, Any], *, delivered_bgr: bool
    ) -> None:
        """Publish the last frame as BGR too, if that segment has readers, or its frame is too old."""
        if self._bgr_writer is not None and not self._bgr_writer.has_readers and captured_ns - self._bgr_ns < FRESH_NS:
            return
        slot = None
        if self._bgr_writer is not None and not delivered_bgr:
            with contextlib.suppress(SharedMemoryFullError):
                slot = self._bgr_writer.loan(self._bgr_shape, **origin)
        if slot is None:
            bgr = image if delivered_bgr else source.retrieve(None)
        else:
            with slot:
                target = slot.array
                bgr = source.retrieve(target)
                if bgr is target:
                    self._bgr_ns = captured_ns
                    return
                slot.cancel()
        if bgr is None:
            # A JPEG may be complete and still not decode; only decoding shows that.
            self._statistics.unreadable += 1
            return
        if self._bgr_writer is None:
            self._bgr_writer = self._create_writer(self._video.shared_memory_name, bgr, "BGR24")
        self._bgr_shape = bgr.shape
        self._bgr_ns = captured_ns
        self._bgr_writer.write_frame(bgr, **origin)

    def _create_writer(self, name: str, image: Image, pixel_format: str | None = None) -> SharedMemoryFrameWriter:
        pixel_format = pixel_format or self._pixel_format
        return create_writer(self._video, name, image, pixel_format, self.picture_size, self._group)

    def _notice_shape(self, image: Image) -> None:
        self._shape = image.shape
        size = picture_size_of(image, self._pixel_format, self.picture_size)
        if size == self.picture_size:
            return
        if self._writer is None:
            channels = image.shape[2] if image.ndim == 3 else 1
            native = "" if self._pixel_format == "BGR24" else f", {self._pixel_format}"
            _log.info("First frame received: %dx%d, channels=%d%s", *size, channels, native)
        else:
            _log.info("Frames are now %dx%d", *size)
        self.picture_size = size

    def _write_placeholder(self, writer: SharedMemoryFrameWriter, image: Image, pixel_format: str) -> None:
        try:
            origin = self._origin(CaptureTime(time.monotonic_ns()))
            writer.write_frame(image, online=False, pixel_format=pixel_format, **origin)
            self._last_capture_ns = origin["capture_time_ns"]
        except ValueError:
            if not writer.closed:
                raise

    def _count_captured(self, image: Image, captured_ns: int) -> None:
        self._statistics.frame_captured(captured_ns)
        # With every frame, before it is published, so that no reader sees fewer frames captured than published.
        self.report(captured=self._statistics.captured)
        self.frozen = self._pictures.is_frozen(image, captured_ns)

    def _count_written(self, captured_ns: int, lag_ns: int | None, latency_without_now_ns: int) -> None:
        now = time.monotonic_ns()
        self._statistics.frame_written(now, now + latency_without_now_ns)
        if lag_ns is not None:
            self._statistics.frame_aged(now - captured_ns + lag_ns)


def create_writer(
    video: VideoConfig,
    name: str,
    image: Image,
    pixel_format: str,
    picture_size: tuple[int, int],
    group: int | None = None,
) -> SharedMemoryFrameWriter:
    """Create the segment for frames like `image`, with room for larger JPEGs."""
    shape = image.shape
    if pixel_format == "MJPG":
        width, height = picture_size
        # A damaged one, kept on request, may claim any size.
        pixels = min(width * height, MOST_PIXELS_A_BYTE * image.size)
        shape = (1, max(MJPG_HEADROOM * image.size, pixels * MJPG_BITS_PER_PIXEL // 8))
    writer = SharedMemoryFrameWriter(
        name,
        shape,
        dtype=image.dtype,
        pixel_format=pixel_format,
        slots=video.slots,
        history=video.history,
        mode=int(video.mode, 8),
        group=group,
    )
    megabytes = writer.statistics.backed_bytes / _BYTES_PER_MB
    _log.info("Shared memory writer initialized: %s (%.1f MB)", name, megabytes)
    return writer


def group_of(video: VideoConfig) -> int | None:
    """Number of the group that `video.group` names.

    Raises
    ------
    ConfigurationError
        It does not exist.
    """
    try:
        return None if video.group is None else resolve_group(video.group)
    except ValueError as error:
        raise ConfigurationError(f"video.group: {error}") from error


def picture_size_of(image: Image, pixel_format: str, otherwise: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a picture, for MJPG read from its bytes; `otherwise` if they cannot be read."""
    found = PIXEL_FORMATS[pixel_format].picture_size(*image.shape[:2])
    if found is not None:
        return found
    try:
        header = read_header(image.reshape(-1).data)
    except ValueError:  # one that is damaged, and kept on request
        return otherwise
    return (header.width, header.height)


def _placeholder_for(pixel_format: str, image: Image) -> tuple[Image, str]:
    """A placeholder in a format that a segment of that format accepts, and its format."""
    if pixel_format == "BGR24":
        return image, "BGR24"
    if pixel_format == "MJPG":
        with contextlib.suppress(ImportError):  # OpenCV is missing
            from billiards_shm.images import encode_image

            return np.frombuffer(encode_image(image, "BGR24", ".jpg"), np.uint8).reshape(1, -1), "MJPG"
    # As gray it fits into a segment of any format but MJPG, which grows. Green is close to the brightness.
    return np.ascontiguousarray(image[..., 1]), "GRAY8"

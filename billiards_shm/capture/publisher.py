"""Brings the frames of a source into shared memory, each decoded straight into its slot if it fits."""

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from billiards_shm import LoanedSlot, SharedMemoryFrameWriter
from billiards_shm.capture.frozen import FrozenPicture
from billiards_shm.capture.stats import CaptureStatistics
from billiards_shm.config.model import VideoConfig, native_name
from billiards_shm.errors import ConfigurationError, LoanError, SharedMemoryFullError
from billiards_shm.jpeg import read_header
from billiards_shm.owners import resolve_group
from billiards_shm.pixel_formats import PIXEL_FORMATS
from billiards_shm.sources.protocol import FrameSource, Image, NativeSource

__all__ = ["Publisher"]

FRESH_NS: Final = 900_000_000
"""How old the frame of a segment that no reader reads may get, before it is replaced: with the next frame, a second."""
MJPG_HEADROOM: Final = 2
"""A segment has room for JPEGs that are so many times as large as the first: a larger one replaces it."""
MJPG_BITS_PER_PIXEL: Final = 2
"""And for those that take so many bits a pixel, which is fine quality."""
_BYTES_PER_MB: Final = 1e6

_log = logging.getLogger(__name__)


class Publisher:
    """Owns the segments, which are made when the first frame tells how large frames are.

    Parameters
    ----------
    video : VideoConfig
    statistics : CaptureStatistics
    publish : str
        As in `CameraConfig`. With ``both`` the native frames are counted, and BGR is made of them for those who read
        it.

    Raises
    ------
    ConfigurationError
        There is no group `video.group`; or the name is too long for the second segment of ``both``.
    """

    def __init__(self, video: VideoConfig, statistics: CaptureStatistics, publish: str = "bgr") -> None:
        self._video = video
        try:
            self._group = None if video.group is None else resolve_group(video.group)
        except ValueError as error:
            raise ConfigurationError(f"video.group: {error}") from error
        self._statistics = statistics
        self._name = video.shared_memory_name
        self._native = publish != "bgr"
        self._both = publish == "both"
        if self._both:
            self._name = native_name(video.shared_memory_name)
        self._source: FrameSource | None = None
        self._native_source: NativeSource | None = None
        self._writer: SharedMemoryFrameWriter | None = None
        self._bgr_writer: SharedMemoryFrameWriter | None = None
        self._bgr_shape: tuple[int, ...] = ()
        self._bgr_ns = 0
        self._pixel_format = "BGR24"
        self._pictures = FrozenPicture(0.0)
        self._shape: tuple[int, ...] = ()
        self.picture_size = (0, 0)
        """Width and height of the last picture; zeros before the first."""
        self.frozen = False
        """Whether the last frame was one too many of identical frames."""

    def watch_for_frozen(self, seconds: float) -> None:
        """Set `frozen` after so many seconds of identical frames; 0.0: never."""
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

    def publish(self, source: FrameSource, captured_ns: int, lag_ns: int | None = None) -> bool:
        """Bring the grabbed frame into shared memory; False if it could not be decoded.

        Parameters
        ----------
        source : FrameSource
        captured_ns : int
            When it was grabbed, by CLOCK_MONOTONIC.
        lag_ns : int or None
            How long it had been waiting to be; None for a recording, whose frames have no age.
        """
        position_ms = source.position_ms
        native = self._native_source_of(source)
        # Both frames of a grab have its number.
        number = self._statistics.captured + 1 if self._both else None
        retrieve = source.retrieve if native is None else native.retrieve_native
        self._pixel_format = "BGR24" if native is None else native.native_format
        started_ns = time.monotonic_ns()
        slot = self._loan(captured_ns, position_ms)
        if slot is None:
            image = retrieve(None)
        else:
            lent_ns = time.monotonic_ns()
            # Leaving this block by an exception gives the slot back.
            with slot:
                target = slot.array
                image = retrieve(target)
                if image is target:
                    self._count_captured(image, captured_ns)
                    decoded_ns = time.monotonic_ns()
                    slot.publish(source_sequence=number)
                    self._count_written(captured_ns, lag_ns, lent_ns - started_ns - decoded_ns)
                else:
                    slot.cancel()
        if image is None:
            return False
        if slot is None or image is not target:
            # There was no slot, or one of another shape, so the source put the frame somewhere else.
            # Only the frame tells some sources that it is BGR after all.
            self._pixel_format = "BGR24" if native is None else native.native_format
            self._notice_shape(image)
            if self._writer is None:
                self._writer = self._create_writer(self._name, image)
            self._count_captured(image, captured_ns)
            self._copy(image, captured_ns, position_ms, lag_ns, number)
        if number is not None:
            times = {"capture_time_ns": captured_ns, "position_ms": position_ms, "source_sequence": number}
            self._publish_bgr(source, image, times, delivered_bgr=native is None)
        return True

    def publish_placeholder(self, draw: Callable[[int, int], Image]) -> None:
        """Publish what stands for the frames there are none of; may be called from another thread.

        Parameters
        ----------
        draw : callable
            Makes a BGR picture of a width and a height. Not called before the first frame has told the size.
        """
        if self._bgr_writer is not None:
            # Turned and cropped, it may have another size than the native frames.
            height, width = self._bgr_shape[:2]
            self._write_placeholder(self._bgr_writer, draw(width, height), "BGR24")
        if self._writer is not None and all(self.picture_size):
            self._write_placeholder(self._writer, draw(*self.picture_size), self._pixel_format)

    def report(self, **news: Any) -> None:
        """Tell readers how the source is; may be called from another thread."""
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

    def _loan(self, captured_ns: int, position_ms: float | None) -> LoanedSlot | None:
        """Borrow a slot for a frame of the last one's shape; None before the first, and if there is no memory."""
        # How large a JPEG is, it tells itself.
        if self._writer is None or self._pixel_format == "MJPG":
            return None
        try:
            return self._writer.loan(
                self._shape,
                dtype=PIXEL_FORMATS[self._pixel_format].dtype,
                capture_time_ns=captured_ns,
                position_ms=position_ms,
                pixel_format=self._pixel_format,
            )
        except SharedMemoryFullError:
            # The frame takes the other way: copied, it is counted as dropped and warned of by the writer.
            return None

    def _copy(
        self, image: Image, captured_ns: int, position_ms: float | None, lag_ns: int | None, number: int | None
    ) -> None:
        assert self._writer is not None
        started_ns = time.monotonic_ns()
        if self._writer.write_frame(
            image,
            capture_time_ns=captured_ns,
            position_ms=position_ms,
            pixel_format=self._pixel_format,
            source_sequence=number,
        ):
            self._count_written(captured_ns, lag_ns, -started_ns)
        else:
            self._statistics.dropped += 1

    def _native_source_of(self, source: FrameSource) -> NativeSource | None:
        """The source, if its native frames are wanted, and it has any."""
        if source is not self._source:  # to ask a protocol takes as long as to write a frame
            self._source = source
            self._native_source = source if self._native and isinstance(source, NativeSource) else None
        return self._native_source

    def _publish_bgr(self, source: FrameSource, image: Image, times: dict[str, Any], *, delivered_bgr: bool) -> None:
        """Make BGR of the frame that was just published, if there is a reader for it, or the last one is too old."""
        captured_ns: int = times["capture_time_ns"]
        if self._bgr_writer is not None and not self._bgr_writer.has_readers and captured_ns - self._bgr_ns < FRESH_NS:
            return
        slot = None
        if self._bgr_writer is not None and not delivered_bgr:
            with contextlib.suppress(SharedMemoryFullError):
                slot = self._bgr_writer.loan(self._bgr_shape, **times)
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
            return
        if self._bgr_writer is None:
            self._bgr_writer = self._create_writer(self._video.shared_memory_name, bgr, "BGR24")
        self._bgr_shape = bgr.shape
        self._bgr_ns = captured_ns
        self._bgr_writer.write_frame(bgr, **times)

    def _create_writer(self, name: str, image: Image, pixel_format: str | None = None) -> SharedMemoryFrameWriter:
        pixel_format = pixel_format or self._pixel_format
        shape = image.shape
        if pixel_format == "MJPG":
            width, height = self.picture_size
            shape = (1, max(MJPG_HEADROOM * image.size, width * height * MJPG_BITS_PER_PIXEL // 8))
        writer = SharedMemoryFrameWriter(
            name,
            shape,
            dtype=image.dtype,
            pixel_format=pixel_format,
            slots=self._video.slots,
            history=self._video.history,
            mode=int(self._video.mode, 8),
            group=self._group,
        )
        megabytes = writer.statistics.backed_bytes / _BYTES_PER_MB
        _log.info("Shared memory writer initialized: %s (%.1f MB)", name, megabytes)
        return writer

    def _notice_shape(self, image: Image) -> None:
        self._shape = image.shape
        size = self._picture_size_of(image)
        if size == self.picture_size:
            return
        if self._writer is None:
            channels = image.shape[2] if image.ndim == 3 else 1
            _log.info("First frame received: %dx%d, channels=%d", *size, channels)
        else:
            _log.info("Frames are now %dx%d", *size)
        self.picture_size = size

    def _picture_size_of(self, image: Image) -> tuple[int, int]:
        found = PIXEL_FORMATS[self._pixel_format].picture_size(*image.shape[:2])
        if found is not None:
            return found
        try:
            header = read_header(image.reshape(-1).data)
        except ValueError:  # one that is damaged, and kept on request
            return self.picture_size
        return (header.width, header.height)

    def _write_placeholder(self, writer: SharedMemoryFrameWriter, image: Image, pixel_format: str) -> None:
        image, pixel_format = _placeholder_for(pixel_format, image)
        try:
            writer.write_frame(image, online=False, pixel_format=pixel_format)
        except LoanError:
            # The loop has a frame after all.
            return
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


def _placeholder_for(pixel_format: str, image: Image) -> tuple[Image, str]:
    """A placeholder, and its format, as a segment of that format takes it."""
    if pixel_format == "BGR24":
        return image, "BGR24"
    if pixel_format == "MJPG":
        with contextlib.suppress(ImportError):  # OpenCV is missing
            from billiards_shm.images import encode_image

            return np.frombuffer(encode_image(image, "BGR24", ".jpg"), np.uint8).reshape(1, -1), "MJPG"
    # In gray it fits into a segment of any format but MJPG, which grows. Green is close to the brightness.
    return np.ascontiguousarray(image[..., 1]), "GRAY8"

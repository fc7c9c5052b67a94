"""Brings the frames of a source into shared memory, each decoded straight into its slot if it fits."""

import logging
import time
from typing import Any, Final

from billiards_shm import LoanedSlot, SharedMemoryFrameWriter
from billiards_shm.capture.frozen import FrozenPicture
from billiards_shm.capture.stats import CaptureStatistics
from billiards_shm.config.model import VideoConfig
from billiards_shm.errors import ConfigurationError, LoanError, SharedMemoryFullError
from billiards_shm.owners import resolve_group
from billiards_shm.sources.protocol import FrameSource, Image

__all__ = ["Publisher"]

_BYTES_PER_MB: Final = 1e6

_log = logging.getLogger(__name__)


class Publisher:
    """Owns the segment, which is made when the first frame tells how large frames are.

    Parameters
    ----------
    video : VideoConfig
    statistics : CaptureStatistics

    Raises
    ------
    ConfigurationError
        There is no group `video.group`.
    """

    def __init__(self, video: VideoConfig, statistics: CaptureStatistics) -> None:
        self._video = video
        try:
            self._group = None if video.group is None else resolve_group(video.group)
        except ValueError as error:
            raise ConfigurationError(f"video.group: {error}") from error
        self._statistics = statistics
        self._writer: SharedMemoryFrameWriter | None = None
        self._pictures = FrozenPicture(0.0)
        self.shape: tuple[int, ...] = ()
        """Of the last frame; empty before the first."""
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
        """Memory that the segment takes."""
        return self._writer.statistics.backed_bytes if self._writer is not None else 0

    def close(self) -> None:
        """Close the segment; may be called from another thread, and more than once."""
        if self._writer is not None:
            self._writer.close()

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
        started_ns = time.monotonic_ns()
        slot = self._loan(captured_ns, position_ms)
        if slot is None:
            image = source.retrieve(None)
        else:
            lent_ns = time.monotonic_ns()
            # Leaving this block by an exception gives the slot back.
            with slot:
                target = slot.array
                image = source.retrieve(target)
                if image is target:
                    self._count_captured(image, captured_ns)
                    decoded_ns = time.monotonic_ns()
                    slot.publish()
                    self._count_written(captured_ns, lag_ns, lent_ns - started_ns - decoded_ns)
                    return True
                slot.cancel()
        if image is None:
            return False
        # There was no slot, or one of another shape, so the source put the frame somewhere else.
        self._count_captured(image, captured_ns)
        if self._writer is None:
            self._create_writer(image)
        self._copy(image, captured_ns, position_ms, lag_ns)
        return True

    def publish_placeholder(self, image: Image) -> None:
        """Publish a picture that stands for the frames there are none of; may be called from another thread."""
        if self._writer is None:
            return
        try:
            self._writer.write_frame(image, online=False)
        except LoanError:
            # The loop has a frame after all.
            return
        except ValueError:
            if not self._writer.closed:
                raise

    def report(self, **news: Any) -> None:
        """Tell readers how the source is; may be called from another thread."""
        if self._writer is None or self._writer.closed:
            return
        try:
            self._writer.update_source(**news)
        except ValueError:
            if not self._writer.closed:
                raise

    def _loan(self, captured_ns: int, position_ms: float | None) -> LoanedSlot | None:
        """Borrow a slot for a frame of the last one's shape; None before the first, and if there is no memory."""
        if self._writer is None:
            return None
        try:
            return self._writer.loan(self.shape, capture_time_ns=captured_ns, position_ms=position_ms)
        except SharedMemoryFullError:
            # The frame takes the other way: copied, it is counted as dropped and warned of by the writer.
            return None

    def _copy(self, image: Image, captured_ns: int, position_ms: float | None, lag_ns: int | None) -> None:
        assert self._writer is not None
        if image.shape != self.shape:
            _log.info("Frames are now %dx%d", image.shape[1], image.shape[0])
            self.shape = image.shape
        started_ns = time.monotonic_ns()
        if self._writer.write_frame(image, capture_time_ns=captured_ns, position_ms=position_ms):
            self._count_written(captured_ns, lag_ns, -started_ns)
        else:
            self._statistics.dropped += 1

    def _create_writer(self, image: Image) -> None:
        height, width, channels = image.shape
        _log.info("First frame received: %dx%d, channels=%d", width, height, channels)
        name = self._video.shared_memory_name
        mode = int(self._video.mode, 8)
        self._writer = SharedMemoryFrameWriter(name, image.shape, slots=self._video.slots, mode=mode, group=self._group)
        self.shape = image.shape
        _log.info("Shared memory writer initialized: %s (%.1f MB)", name, self.backed_bytes / _BYTES_PER_MB)

    def _count_captured(self, image: Image, captured_ns: int) -> None:
        self._statistics.frame_captured(captured_ns)
        self.frozen = self._pictures.is_frozen(image, captured_ns)

    def _count_written(self, captured_ns: int, lag_ns: int | None, latency_without_now_ns: int) -> None:
        now = time.monotonic_ns()
        self._statistics.frame_written(now, now + latency_without_now_ns)
        if lag_ns is not None:
            self._statistics.frame_aged(now - captured_ns + lag_ns)

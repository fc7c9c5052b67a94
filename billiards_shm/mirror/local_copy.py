"""The copy of another host's segment: a segment like any other, with its own numbers."""

from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from billiards_shm.capture.publisher import create_writer, group_of, picture_size_of
from billiards_shm.config.model import VideoConfig
from billiards_shm.mirror.wire import FrameHeader

if TYPE_CHECKING:
    from billiards_shm import SharedMemoryFrameWriter

__all__ = ["LocalCopy"]


class LocalCopy:
    """Owns the segment, which is created once the first frame shows how large frames are.

    Parameters
    ----------
    video : VideoConfig
        Name, slots, history, permissions.

    Raises
    ------
    ConfigurationError
        There is no group `video.group`.
    """

    def __init__(self, video: VideoConfig) -> None:
        self._video = video
        self._group = group_of(video)
        self._writer: SharedMemoryFrameWriter | None = None
        self.picture_size = (0, 0)

    @property
    def begun(self) -> bool:
        """Whether there has been a frame, so the segment exists."""
        return self._writer is not None

    @property
    def has_readers(self) -> bool:
        """Whether somebody reads it now; true before the first frame, because readers need one to attach."""
        return self._writer is None or self._writer.has_readers

    @property
    def sequence(self) -> int:
        """Number of the last frame here, 0 before the first."""
        return self._writer.sequence if self._writer is not None else 0

    @property
    def backed_bytes(self) -> int:
        """Memory that the segment takes."""
        return self._writer.statistics.backed_bytes if self._writer is not None else 0

    def write(self, frame: npt.NDArray[Any], header: FrameHeader, capture_ns: int) -> bool:
        """Write a frame with its header; False if there was no memory for it.

        Parameters
        ----------
        frame : numpy.ndarray
        header : FrameHeader
        capture_ns : int
            When it was captured, by the local clock.

        Raises
        ------
        BilliardsShmError
            The segment could not be created, or does not accept the frame.
        """
        self.picture_size = picture_size_of(frame, header.pixel_format, self.picture_size)
        if self._writer is None:
            name = self._video.shared_memory_name
            self._writer = create_writer(self._video, name, frame, header.pixel_format, self.picture_size, self._group)
        number = self._writer.write_frame(
            frame,
            capture_time_ns=capture_ns,
            position_ms=header.position_ms,
            online=header.online,
            pixel_format=header.pixel_format,
            clock="remote",
            source_sequence=header.sequence,
            wall_time_ns=max(1, header.wall_ns),
        )
        return number > 0

    def report(self, **news: Any) -> None:
        """Report the state of the source to readers; may be called from another thread."""
        writer = self._writer
        if writer is None or writer.closed:
            return
        try:
            writer.update_source(**news)
        except ValueError:
            if not writer.closed:
                raise

    def close(self) -> None:
        """Close the segment; may be called from another thread, and more than once."""
        if self._writer is not None:
            self._writer.close()

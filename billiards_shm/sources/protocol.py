"""What the capture loop asks of an open source, and what a source reports about itself."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import numpy.typing as npt

from billiards_shm.errors import CameraError

__all__ = [
    "ASSUMED_FPS",
    "CheckedSource",
    "Delivery",
    "FrameSource",
    "Image",
    "NativeSource",
    "Reason",
    "RecordedFrame",
    "RecordedSource",
    "SentSource",
    "SourceDetails",
    "SourceLostError",
    "SourceReopenError",
    "TimedSource",
    "VideoFormat",
]

Image = npt.NDArray[Any]

ASSUMED_FPS: Final = 25.0
"""For recordings that do not name their rate, such as numbered images."""


class Reason(StrEnum):
    """Why a source is away. Readers get this name, a colon and the details."""

    NOT_FOUND = "not found"
    BUSY = "busy"
    PERMISSION = "permission"
    NO_SIGNAL = "no signal"
    """It is there, but delivers nothing."""
    TIMEOUT = "timeout"
    DECODE_ERRORS = "decode errors"
    END_OF_STREAM = "end of stream"
    FROZEN = "frozen"
    """It delivers the same frame again and again."""
    UNREADABLE = "unreadable"
    """It is there, but the engine cannot read it."""

    def because(self, details: str) -> str:
        """Name and details, as readers get them."""
        return f"{self}: {details}"


class Delivery(StrEnum):
    """How the frames of a source arrive, which decides what paces them."""

    LIVE = "live"
    """As they are taken: readers want the newest, and old ones are skipped."""
    BURSTS = "bursts"
    """Live, but many at a time, like the segments of HLS: published at the intervals of their timestamps."""
    RECORDED = "recorded"
    """Whenever they are asked for, up to an end."""


@dataclass(frozen=True, slots=True)
class VideoFormat:
    """What a camera is asked for, or says that it delivers."""

    width: int
    height: int
    fps: float
    """Frames per second; 0.0 if unknown."""
    fourcc: str = ""
    """Four characters, such as ``MJPG``; empty if unknown."""

    def __str__(self) -> str:
        rate = f"{self.fps:g} fps" if self.fps else "unknown fps"
        return f"{self.width}x{self.height} at {rate} {self.fourcc}".rstrip()


@dataclass(frozen=True, slots=True)
class SourceDetails:
    """What an open source reports about itself. Drivers and file headers err: the frames have the last word."""

    backend: str
    width: int
    height: int
    fps: float
    """Frames per second, 0.0 if the source does not say."""
    frame_count: int | None = None
    """Frames that a recording's header promises, None for live sources and where the header is silent."""
    negotiated: VideoFormat | None = None
    """Size, rate and format before frames are turned and cropped; None if the source does not say."""
    requested: VideoFormat | None = None
    """What the configuration asked a camera for; None for sources that cannot be asked."""
    warnings: tuple[str, ...] = ()
    """Warnings for the log, a sentence each: settings that the driver did not take, and what the engine cannot do."""
    delivery: Delivery = Delivery.LIVE

    def __str__(self) -> str:
        said = VideoFormat(self.width, self.height, self.fps, self.negotiated.fourcc if self.negotiated else "")
        count = f", {self.frame_count} frames" if self.frame_count is not None else ""
        return f"{said}{count}, {self.backend}"


class SourceLostError(CameraError):
    """An open source can deliver no more frames; the message is the reason, beginning with a `Reason`."""


class SourceReopenError(SourceLostError):
    """An open source has to be opened again, to continue in another way. It is not away."""


class FrameSource(Protocol):
    """An open source: `grab` moves on to the next frame, `retrieve` returns its pixels."""

    @property
    def details(self) -> SourceDetails:
        """What the source said when it was opened."""

    @property
    def position_ms(self) -> float | None:
        """Position of the grabbed frame in a recording, in milliseconds; None for live sources."""

    @property
    def frames_left(self) -> int | None:
        """How many more frames a recording's header promises; None if unknown."""

    def grab(self) -> bool:
        """Take the next frame; False if there was none.

        Raises
        ------
        SourceLostError
            No more frames can come, and it is not the end of a recording.
        """

    def retrieve(self, target: Image | None) -> Image | None:
        """Return the grabbed frame's pixels as a (height, width, 3) uint8 array in BGR order.

        Parameters
        ----------
        target : numpy.ndarray or None
            Where to put the pixels. It is used, and returned, only if its shape and dtype are those of the frame;
            otherwise a new array is returned, and `target` stays unchanged.

        Returns
        -------
        numpy.ndarray or None
            None if the frame could not be decoded.
        """

    def release(self) -> None:
        """Release the device or file."""


@runtime_checkable
class NativeSource(Protocol):
    """A source that can also return frames as the camera, file or stream delivers them. Others deliver BGR."""

    @property
    def native_format(self) -> str:
        """Pixel format of the grabbed frame, one of `PIXEL_FORMATS`; BGR24 where the engine has no other."""

    def retrieve_native(self, target: Image | None) -> Image | None:
        """Return the grabbed frame in its `native_format`. It is not turned, even if the file asks for it.

        Parameters
        ----------
        target : numpy.ndarray or None
            As in `FrameSource.retrieve`, which may be called for the same frame afterwards.

        Returns
        -------
        numpy.ndarray or None
            None if the frame is damaged. A JPEG is complete, and has its Huffman tables.
        """

    @property
    def flaw(self) -> str:
        """What is wrong with the grabbed frame, if it is a damaged JPEG; otherwise empty."""


@runtime_checkable
class CheckedSource(Protocol):
    """A source that says which of its frames are damaged."""

    @property
    def damaged(self) -> bool:
        """Whether parts of the grabbed frame were missing, and the decoder filled them in."""


@runtime_checkable
class TimedSource(Protocol):
    """A live source that says when its frames were taken."""

    @property
    def timestamp_ms(self) -> float | None:
        """When the grabbed frame was taken, in milliseconds of the source's own clock; None if unknown."""


@runtime_checkable
class SentSource(TimedSource, Protocol):
    """A live source whose sender says when its frames were taken."""

    @property
    def sent_ns(self) -> int | None:
        """When the grabbed frame was taken, by the sender's wall clock, in nanoseconds since 1970; None if unknown."""


class RecordedFrame(NamedTuple):
    """Number and time that a frame had when it was recorded."""

    place: int
    """In the recording: 0 for the first."""
    sequence: int
    capture_time_ns: int
    """Where the clock was set, the times go on as those of the file."""


@runtime_checkable
class RecordedSource(Protocol):
    """A recording that knows the original number and time of its frames."""

    @property
    def recorded(self) -> RecordedFrame | None:
        """The grabbed frame's number and time; None if there are none."""

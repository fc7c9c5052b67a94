"""What a source is called, and what the capture loop asks of one that is open."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol, Self, runtime_checkable
from urllib.parse import unquote, urlsplit

import numpy.typing as npt

__all__ = [
    "FrameSource",
    "Image",
    "Reason",
    "SourceAddress",
    "SourceDetails",
    "SourceKind",
    "TimedSource",
    "VideoFormat",
    "without_password",
]

Image = npt.NDArray[Any]

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_NUMBERED: Final = re.compile(r"%0?\d*d")
_USER_INFO: Final = re.compile(r"(?<=://)([^/@:\s]*):[^/\s]*@")


class SourceKind(StrEnum):
    """Where frames come from."""

    DEMO = "demo"
    CAMERA = "camera"
    DEVICE = "device"
    FILE = "file"
    IMAGES = "images"
    URL = "url"
    PIPELINE = "pipeline"


class Reason(StrEnum):
    """Why a source is away: the name that what readers are told begins with, before a colon and the details."""

    NOT_FOUND = "not found"
    BUSY = "busy"
    PERMISSION = "permission"
    NO_SIGNAL = "no signal"
    """It is there and brings nothing."""
    TIMEOUT = "timeout"
    DECODE_ERRORS = "decode errors"
    END_OF_STREAM = "end of stream"
    FROZEN = "frozen"
    """It brings the same frame again and again."""
    UNREADABLE = "unreadable"
    """It is there and is nothing that this OpenCV can read."""

    def because(self, details: str) -> str:
        """Name and details, as readers are told."""
        return f"{self}: {details}"


_LIVE: Final = frozenset({SourceKind.CAMERA, SourceKind.DEVICE, SourceKind.URL, SourceKind.PIPELINE})
_RECORDED: Final = frozenset({SourceKind.FILE, SourceKind.IMAGES})


@dataclass(frozen=True, slots=True)
class SourceAddress:
    """A source as it was configured, and the kind of thing that is."""

    kind: SourceKind
    place: int | str

    @classmethod
    def parse(cls, device_id: int | str) -> Self:
        """Tell camera numbers, devices, files, URLs and pipelines apart.

        Parameters
        ----------
        device_id : int or str
            As in the configuration: ``0``, ``"/dev/video0"``, ``"table.mp4"``, ``"frames/%04d.png"``,
            ``"rtsp://..."``, ``"v4l2src ! ... ! appsink"`` or ``"demo"``.
        """
        if isinstance(device_id, int) or device_id.isdecimal():
            return cls(SourceKind.CAMERA, int(device_id))
        if device_id == "demo":
            return cls(SourceKind.DEMO, device_id)
        if device_id.startswith("file://"):
            return cls.parse(unquote(urlsplit(device_id).path))
        if _URL.match(device_id):
            return cls(SourceKind.URL, device_id)
        if " ! " in device_id:
            return cls(SourceKind.PIPELINE, device_id)
        if device_id.startswith("/dev/") and not device_id.startswith("/dev/shm/"):
            return cls(SourceKind.DEVICE, device_id)
        if _NUMBERED.search(device_id):
            return cls(SourceKind.IMAGES, device_id)
        return cls(SourceKind.FILE, device_id)

    @property
    def live(self) -> bool:
        """Whether frames come at the source's own time, as from a camera."""
        return self.kind in _LIVE

    @property
    def recorded(self) -> bool:
        """Whether it is a recording, which has an end and a frame rate of its own."""
        return self.kind in _RECORDED

    def __str__(self) -> str:
        return f"camera {self.place}" if self.kind is SourceKind.CAMERA else without_password(str(self.place))


@dataclass(frozen=True, slots=True)
class VideoFormat:
    """What a camera is asked for, or says that it gives."""

    width: int
    height: int
    fps: float
    """Frames per second, 0.0 if nobody says."""
    fourcc: str = ""
    """Four characters, such as ``MJPG``; empty if nobody says."""

    def __str__(self) -> str:
        rate = f"{self.fps:g} fps" if self.fps else "unknown fps"
        return f"{self.width}x{self.height} at {rate} {self.fourcc}".rstrip()


@dataclass(frozen=True, slots=True)
class SourceDetails:
    """What an open source says of itself. Drivers and file headers err: the frames have the last word."""

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
    """What the configuration asked a camera for; None for what cannot be asked."""
    refused: tuple[str, ...] = ()
    """Settings that the driver did not take, each a sentence with the value asked for and the value there is."""

    def __str__(self) -> str:
        said = VideoFormat(self.width, self.height, self.fps, self.negotiated.fourcc if self.negotiated else "")
        count = f", {self.frame_count} frames" if self.frame_count is not None else ""
        return f"{said}{count}, {self.backend}"


class FrameSource(Protocol):
    """An open source: `grab` moves on to the next frame, `retrieve` gives its pixels."""

    @property
    def details(self) -> SourceDetails:
        """What the source said when it was opened."""

    @property
    def position_ms(self) -> float | None:
        """Position of the grabbed frame in a recording, in milliseconds; None for live sources."""

    @property
    def frames_left(self) -> int | None:
        """How many more frames a recording's header promises; None if nobody knows."""

    def grab(self) -> bool:
        """Take the next frame; False if there was none."""

    def retrieve(self, target: Image | None) -> Image | None:
        """Give the grabbed frame's pixels as a (height, width, 3) uint8 array in BGR order.

        Parameters
        ----------
        target : numpy.ndarray or None
            Where to put the pixels. Only if its shape and dtype are those of the frame is it used, and then it is
            what is returned; otherwise a new array is, and `target` stays as it was.

        Returns
        -------
        numpy.ndarray or None
            None if the frame could not be decoded.
        """

    def release(self) -> None:
        """Let go of the device or file."""


@runtime_checkable
class TimedSource(Protocol):
    """A live source that says when its frames were taken."""

    @property
    def timestamp_ms(self) -> float | None:
        """When the grabbed frame was taken, in milliseconds of a clock of the source's own; None if unknown."""


def without_password(text: str) -> str:
    """Mask the password of every URL in a text that is going to be logged."""
    return _USER_INFO.sub(r"\1:***@", text)

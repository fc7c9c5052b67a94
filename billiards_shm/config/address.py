"""What a source is called: a camera's number, a device, a file, a URL, a pipeline; told apart in one place."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self
from urllib.parse import unquote, urlsplit

__all__ = ["IMAGE_NUMBER", "SourceAddress", "SourceKind", "without_password"]

IMAGE_NUMBER: Final = re.compile(r"%(0[0-9]{1,2}|[1-9])?d|%%")
"""What stands for a number in the names of images, as in C; or for a percent sign, which is no number."""

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
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
        if any(token[0] != "%%" for token in IMAGE_NUMBER.finditer(device_id)):
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


def without_password(text: str) -> str:
    """Mask the password of every URL in a text that is going to be logged."""
    return _USER_INFO.sub(r"\1:***@", text)

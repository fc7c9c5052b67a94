"""Addresses of sources: a camera's number, a device, a file, a URL, a pipeline; told apart in one place."""

import os
import re
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Self
from urllib.parse import unquote

from billiards_shm.config.secrets import without_secrets, without_secrets_of_url

__all__ = ["IMAGE_NUMBER", "SOURCE_KINDS", "SourceAddress", "SourceKind", "image_names"]

IMAGE_NUMBER: Final = re.compile(r"%(0[0-9]{1,2}|[1-9])?d|%%")
"""The placeholder for a number in the names of images, as in C; or for a percent sign, which is not a number."""

_CAMERA_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_FILE_URL: Final = re.compile(r"file:(?P<host>//[^/]*(?=/))?(?P<path>.+)", re.IGNORECASE | re.DOTALL)
_LOCAL_HOSTS: Final = (None, "//", "//localhost")
_URL: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)(?P<rest>://.*)", re.DOTALL)
_DRIVE: Final = re.compile(r"/[A-Za-z]:")
_DESCRIPTOR: Final = re.compile(r"/dev/stdin|(?:/dev/fd|/proc/self/fd)/(?P<number>[0-9]+)")
_PICTURE: Final = re.compile(r"\.(?:avif|bmp|dib|exr|hdr|jp2|jpe|jpe?g|p[bgnp]m|png|ras|tiff?|webp)", re.IGNORECASE)


class SourceKind(StrEnum):
    """Where frames come from."""

    DEMO = "demo"
    CAMERA = "camera"
    DEVICE = "device"
    FILE = "file"
    PIPE = "pipe"
    """A named pipe, or redirected input: read once, from its beginning to its end."""
    IMAGES = "images"
    """One image, or those that a pattern names."""
    URL = "url"
    PIPELINE = "pipeline"


SOURCE_KINDS: Final = {
    SourceKind.CAMERA: "a camera number",
    SourceKind.DEVICE: "a device path",
    SourceKind.FILE: "a file",
    SourceKind.IMAGES: "numbered images",
    SourceKind.PIPE: "a named pipe",
    SourceKind.URL: "a URL",
    SourceKind.PIPELINE: "a GStreamer pipeline",
    SourceKind.DEMO: "'demo'",
}
"""What users give, by kind, as it stands in the reference and in errors."""

_LIVE: Final = frozenset({SourceKind.CAMERA, SourceKind.DEVICE, SourceKind.URL, SourceKind.PIPELINE})
_RECORDED: Final = frozenset({SourceKind.FILE, SourceKind.PIPE, SourceKind.IMAGES})


@dataclass(frozen=True, slots=True)
class SourceAddress:
    """A source as it was configured, and its kind."""

    kind: SourceKind
    place: int | str

    @classmethod
    def parse(cls, device_id: int | str) -> Self:
        """Tell camera numbers, devices, files, URLs and pipelines apart.

        If something with exactly this name exists, it is a file, a pipe or a device. Only ``demo`` is never a file.

        Parameters
        ----------
        device_id : int or str
            As in the configuration: ``0``, ``"/dev/video0"``, ``"table.mp4"``, ``"frames/%04d.png"``,
            ``"rtsp://..."``, ``"v4l2src ! ... ! appsink"`` or ``"demo"``.
        """
        if isinstance(device_id, int):
            return cls(SourceKind.CAMERA, device_id)
        if device_id == "demo":
            return cls(SourceKind.DEMO, device_id)
        kind = _kind_of_existing(device_id)
        if kind is not None:
            return cls(kind, device_id)
        if _CAMERA_NUMBER.fullmatch(device_id):
            return cls(SourceKind.CAMERA, int(device_id))
        if found := _FILE_URL.fullmatch(device_id):
            return cls._of_paths(*_paths_of_url(found["host"], found["path"]))
        if found := _URL.fullmatch(device_id):
            # FFmpeg only knows its protocols in lower case.
            return cls(SourceKind.URL, found["scheme"].lower() + found["rest"])
        if " ! " in device_id:
            return cls(SourceKind.PIPELINE, device_id)
        return cls._of_paths(device_id)

    @classmethod
    def _of_paths(cls, *paths: str) -> Self:
        """The path that exists, or that names images; otherwise the first."""
        for kind_of in (_kind_of_existing, _kind_of_missing):
            for path in paths:
                kind = kind_of(path)
                if kind is not None:
                    return cls(kind, path)
        return cls(SourceKind.FILE, paths[0])

    @property
    def live(self) -> bool:
        """Whether frames arrive at the source's own pace, as from a camera."""
        return self.kind in _LIVE

    @property
    def recorded(self) -> bool:
        """Whether it is a recording, which has an end and its own frame rate."""
        return self.kind in _RECORDED

    @property
    def repeats(self) -> bool:
        """Whether it can be read again from its beginning."""
        return self.kind is not SourceKind.PIPE

    @property
    def descriptor(self) -> int | None:
        """Number of this process's descriptor that it names, such as 0 for ``/dev/stdin``; None if it names none."""
        found = _DESCRIPTOR.fullmatch(str(self.place))
        return None if found is None else int(found["number"] or 0)

    def __str__(self) -> str:
        if self.kind is SourceKind.CAMERA:
            return f"camera {self.place}"
        text = str(self.place)
        if self.kind is SourceKind.FILE and _CAMERA_NUMBER.fullmatch(text):
            return f"./{text}"
        return _printable(without_secrets_of_url(text) if self.kind is SourceKind.URL else without_secrets(text))


def _kind_of_existing(path: str) -> SourceKind | None:
    """What kind of file is at a path; None if there is nothing, or a folder."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return None
    if stat.S_ISDIR(mode):
        return None
    if stat.S_ISCHR(mode):
        return SourceKind.DEVICE
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        return SourceKind.PIPE
    return SourceKind.IMAGES if _PICTURE.fullmatch(Path(path).suffix) else SourceKind.FILE


def image_names(pattern: str, *, exact: bool = True) -> re.Pattern[str]:
    """What matches the names that a pattern describes, with a group for each number.

    Parameters
    ----------
    pattern : str
        ``%d`` stands for a number, ``%04d`` for one of at least four digits, ``%%`` for a percent sign.
    exact : bool
        False: numbers may have any number of digits.
    """

    def expression(token: re.Match[str]) -> str:
        if token[0] == "%%":
            return "%"
        digits = int(token[1] or 1) or 1
        # A number that is longer than its padding does not begin with a zero.
        return f"([0-9]{{{digits}}}|[1-9][0-9]{{{digits},}})" if exact else "([0-9]+)"

    return re.compile(IMAGE_NUMBER.sub(expression, re.escape(pattern)))


def _kind_of_missing(path: str) -> SourceKind | None:
    """What a path that does not exist can mean: a camera that is away, or numbered images."""
    if path.startswith("/dev/") and not path.startswith("/dev/shm/") and not _DESCRIPTOR.fullmatch(path):
        return SourceKind.DEVICE
    numbered = any(token[0] != "%%" for token in IMAGE_NUMBER.finditer(path))
    return SourceKind.IMAGES if numbered else None


def _paths_of_url(host: str | None, path: str) -> tuple[str, ...]:
    """What a URL of a file may mean: the name with its percent signs decoded, or unchanged."""
    if host is not None and host.lower() not in _LOCAL_HOSTS:
        path = host + path
    elif os.name == "nt" and _DRIVE.match(path):
        path = path[1:]
    return unquote(path, errors="surrogateescape"), path


def _printable(text: str) -> str:
    """Escape what is unsafe in terminals and JSON: control characters, and bytes of names that are not UTF-8."""

    def escape(character: str) -> str:
        if "\udc80" <= character <= "\udcff":
            return f"\\x{ord(character) - 0xDC00:02x}"
        return character if character.isprintable() else character.encode("unicode_escape").decode()

    return "".join(map(escape, text))

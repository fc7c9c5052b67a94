"""Numbered images as a recording: the files that a pattern such as ``cam1_%04d.png`` names, by number."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from billiards_shm.config.address import SourceAddress, image_names
from billiards_shm.config.model import CameraConfig
from billiards_shm.errors import CameraError
from billiards_shm.jpeg import has_end
from billiards_shm.sources.conversion import FrameConverter
from billiards_shm.sources.diagnosis import system_reason
from billiards_shm.sources.protocol import ASSUMED_FPS, Delivery, Image, Reason, SourceDetails

__all__ = ["ImageSequence", "numbered_files"]

FIRST_TRIES: Final = 10
"""The first image has to be among this many files."""


class ImageSequence:
    """Images that are listed on opening, and decoded one by one.

    Parameters
    ----------
    config : CameraConfig
        Its source is a pattern, or the name of one image.

    Raises
    ------
    CameraError
        If there is no such file, or none of the first ones is an image; says what and why in one line.
    """

    def __init__(self, config: CameraConfig) -> None:
        address = SourceAddress.parse(config.device_id)
        if not address.recorded:
            raise CameraError(f"cannot open {address}: backend images reads files; this is not one")
        self._files = _files_of(address)
        self._next = 0
        self._fps = config.playback_fps or ASSUMED_FPS
        self._converter = FrameConverter(config)
        first = next((image for file in self._files[:FIRST_TRIES] if (image := _decode(file)) is not None), None)
        if first is None:
            reason = Reason.UNREADABLE.because(f"{self._files[0]} is not an image that OpenCV can read")
            raise CameraError(f"cannot open {address}: {reason}")
        height, width = first.shape[:2]
        self._details = SourceDetails(
            "IMAGES", *self._converter.size(width, height), 0.0, len(self._files), delivery=Delivery.RECORDED
        )

    @property
    def details(self) -> SourceDetails:
        """Size of the first image, and how many files there are."""
        return self._details

    @property
    def position_ms(self) -> float | None:
        """How long the images before the grabbed one are shown."""
        return (self._next - 1) * 1000 / self._fps

    @property
    def frames_left(self) -> int | None:
        """Files after the grabbed one."""
        return len(self._files) - self._next

    def grab(self) -> bool:
        """Go on to the next file."""
        if self._next == len(self._files):
            return False
        self._next += 1
        return True

    def retrieve(self, target: Image | None) -> Image | None:
        """Decode the file, into `target` if that has its shape; see `FrameSource.retrieve`."""
        image = _decode(self._files[self._next - 1])
        return None if image is None else self._converter.into(image, target)

    def release(self) -> None:
        """There is nothing to release: no file stays open."""


def _decode(file: Path) -> Image | None:
    """Read an image upright, of any depth, without its alpha channel; None if it is not an image, or gone."""
    # If OpenCV itself reads the file, a name that is not UTF-8 crashes the process.
    with contextlib.suppress(OSError, cv2.error):
        content = np.fromfile(file, np.uint8)
        # OpenCV before 4.11 decodes what there is of a truncated one.
        if has_end(content.tobytes()) is not False:
            return cv2.imdecode(content, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    return None


# Which files.


def _files_of(address: SourceAddress) -> list[Path]:
    pattern = Path(str(address.place))
    try:
        files = numbered_files(pattern)
        near = [] if files else numbered_files(pattern, exact=False)
    except OSError as error:
        raise CameraError(f"cannot open {address}: {system_reason(error)}") from None
    if files:
        return files
    words = f"no file has such a name; there is {near[0].name}" if near else "no file has such a name"
    raise CameraError(f"cannot open {address}: {Reason.NOT_FOUND.because(words)}")


def numbered_files(pattern: Path, *, exact: bool = True) -> list[Path]:
    """Files whose names a pattern describes, by number; numbers may be missing.

    Parameters
    ----------
    pattern : pathlib.Path
        ``%d`` stands for a number, ``%04d`` for one of at least four digits, ``%%`` for a percent sign; in folders too.
        With several numbers the first counts most. A name that exists as it stands is taken literally.
    exact : bool
        False: numbers may have any number of digits.

    Raises
    ------
    OSError
        A folder does not exist, or cannot be read.
    """
    found: list[tuple[tuple[int, ...], Path]] = [((), Path(pattern.anchor))]
    for part in pattern.parts[bool(pattern.anchor) :]:
        found = [
            ((*numbers, *more), folder / name)
            for numbers, folder in found
            if not numbers or folder.is_dir()
            for more, name in _entries(folder, part, exact)
        ]
    return [path for _, path in sorted(found) if path.is_file()]


def _entries(folder: Path, part: str, exact: bool) -> Iterator[tuple[tuple[int, ...], str]]:
    """What one part of a pattern matches in a folder: the numbers in a name, and the name."""
    if "%" not in part or os.path.lexists(folder / part):
        yield (), part
        return

    name = image_names(part, exact=exact)
    for entry in folder.iterdir():
        if match := name.fullmatch(entry.name):
            yield tuple(map(int, match.groups())), entry.name

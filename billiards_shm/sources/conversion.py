"""Converts OpenCV's frames into published ones: formats, rotation, mirroring and crops, with few copies."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

import cv2
import numpy as np

from billiards_shm.config.model import CameraConfig
from billiards_shm.errors import CameraError
from billiards_shm.images import convert
from billiards_shm.jpeg import complete
from billiards_shm.pixel_formats import format_named
from billiards_shm.sources.protocol import Image

__all__ = ["FrameConverter", "Orientation", "as_bgr", "completed", "placeholder"]

_TURNS: Final = {(True, False): cv2.ROTATE_90_CLOCKWISE, (False, True): cv2.ROTATE_90_COUNTERCLOCKWISE}
_FLIPS: Final = {(True, False): 1, (False, True): 0, (True, True): -1}
_PLACEHOLDER_BACKGROUND: Final = (48, 40, 36)
_PLACEHOLDER_COLOURS: Final = ((235, 235, 235), (190, 190, 190))


@dataclass(frozen=True, slots=True)
class Orientation:
    """One of the eight orientations of a picture: perhaps transposed, then perhaps mirrored."""

    transposed: bool = False
    mirrored_x: bool = False
    mirrored_y: bool = False

    @classmethod
    def of(cls, degrees: int, flip: str) -> Self:
        """Turn clockwise by a multiple of 90 degrees, then flip as the configuration says."""
        quarters = degrees // 90 % 4
        x = (quarters in (1, 2)) != (flip in ("horizontal", "both"))
        y = (quarters in (2, 3)) != (flip in ("vertical", "both"))
        return cls(quarters % 2 == 1, x, y)

    @property
    def upright(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.transposed or self.mirrored_x or self.mirrored_y)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that a picture has afterwards."""
        return (height, width) if self.transposed else (width, height)

    def before(self, area: tuple[int, int, int, int], width: int, height: int) -> tuple[int, int, int, int]:
        """Where in a picture of that size an area (left, top, width, height) of the result comes from."""
        left, top, wide, high = area
        whole_width, whole_height = self.size(width, height)
        if self.mirrored_x:
            left = whole_width - left - wide
        if self.mirrored_y:
            top = whole_height - top - high
        return (top, left, high, wide) if self.transposed else (left, top, wide, high)

    def into(self, image: Image, target: Image | None) -> Image:
        """Turn a picture this way, into `target` if that has the right shape."""
        mirrors = (self.mirrored_x, self.mirrored_y)
        if not self.transposed:
            return cv2.flip(image, _FLIPS[mirrors], target) if any(mirrors) else _copy(image, target)
        if mirrors in _TURNS:
            return cv2.rotate(image, _TURNS[mirrors], target)
        image = cv2.transpose(image, target)
        return cv2.flip(image, -1, image) if all(mirrors) else image


class FrameConverter:
    """Makes published frames from OpenCV's.

    Parameters
    ----------
    config : CameraConfig
    turn : int
        Degrees clockwise by which the source itself says that its frames have to be turned.
    raw_format : str
        The camera's format if its frames arrive unconverted; empty if OpenCV converts them to BGR.
    """

    def __init__(self, config: CameraConfig, turn: int = 0, raw_format: str = "") -> None:
        self._orientation = Orientation.of(turn + config.rotation, config.flip)
        self._crop = config.crop
        self._raw_format = format_named(raw_format)

    @property
    def straight(self) -> bool:
        """Whether OpenCV's own frames are published unchanged."""
        return self._orientation.upright and self._crop is None and not self._raw_format

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that frames of that size have when published."""
        return self._orientation.size(width, height) if self._crop is None else self._area(width, height)[2:]

    def into(self, raw: Image, target: Image | None) -> Image | None:
        """Make the picture, in `target` if that has its shape; None if the frame is damaged.

        The last step writes into `target`, so there is no further copy.
        """
        convert = self._conversion(raw)
        if convert is None:
            return self._orient(as_bgr(raw, None), target)
        if self._orientation.upright and self._crop is None:
            return convert(raw, target)
        if self._orientation.upright and raw.ndim == 3 and self._crop is not None and self._crop[0] % 2 == 0:
            # Pairs of pixels share their colour, so a crop that falls between pairs can be made beforehand.
            left, top, width, height = self._area(raw.shape[1], raw.shape[0])
            if width % 2 == 0:
                return convert(raw[top : top + height, left : left + width], target)
        image = convert(raw, None)
        return None if image is None else self._orient(image, target)

    def _orient(self, image: Image, target: Image | None) -> Image:
        if self._crop is not None:
            area = self._area(*self._orientation.size(image.shape[1], image.shape[0]))
            left, top, width, height = self._orientation.before(area, image.shape[1], image.shape[0])
            image = image[top : top + height, left : left + width]
        return self._orientation.into(image, target)

    def _area(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The part of the crop that lies within a turned picture of that size."""
        assert self._crop is not None
        left, top, wide, high = self._crop
        if left >= width or top >= height:
            raise CameraError(
                f"crop [{left}, {top}, {wide}, {high}] lies outside the frames, which are {width}x{height}; "
                "it has to begin within them"
            )
        return left, top, min(wide, width - left), min(high, height - top)

    def _conversion(self, raw: Image) -> Callable[[Image, Image | None], Image | None] | None:
        """How a frame is converted to BGR; None if it already is a picture."""
        row = self._raw_format
        if row is None or row.name == "BGR24" or (raw.shape[2] if raw.ndim == 3 else 1) != row.channels:
            return None

        def to_bgr(image: Image, target: Image | None) -> Image | None:
            try:
                return convert(image, row.name, "BGR24", target)
            except ValueError:
                return None

        return to_bgr


def as_bgr(image: Image, target: Image | None) -> Image:
    """Return a frame of any kind as three 8-bit channels; image sequences may mix kinds."""
    if image is target or (image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8):
        return image
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    elif image.dtype != np.uint8:
        image = cv2.normalize(image, np.empty(0), 0, 255, cv2.NORM_MINMAX, cv2.CV_8U)
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR, target)
    if image.shape[2] == 2:
        raise CameraError("frames have two channels in an unknown format: name it in the pipeline with format=...")
    return cv2.cvtColor(image, cv2.COLOR_BGRA2BGR, target) if image.shape[2] == 4 else image


def completed(frame: Image) -> Image:
    """Return an MJPG frame with its Huffman tables; raises ValueError if it is damaged, as `jpeg.complete` does."""
    return np.frombuffer(complete(frame.reshape(-1).data), np.uint8).reshape(1, -1)


def placeholder(target: Image, lines: list[str]) -> None:
    """Draw lines of text in place of a picture, into a (height, width, 3) array."""
    height, width = target.shape[:2]
    target[:] = _PLACEHOLDER_BACKGROUND
    line_height = height / (len(lines) + 1)
    for number, line in enumerate(lines):
        text = line.encode("ascii", "replace").decode()
        (wide, high), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)
        scale = min(0.9 * width / max(wide, 1), 0.4 * line_height / max(high, 1))
        place = (round((width - wide * scale) / 2), round((number + 1) * line_height + high * scale / 2))
        colour = _PLACEHOLDER_COLOURS[min(number, 1)]
        cv2.putText(target, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, max(1, round(scale)), cv2.LINE_AA)


def _copy(image: Image, target: Image | None) -> Image:
    if target is None or target.shape != image.shape or target.dtype != image.dtype:
        return np.ascontiguousarray(image)
    np.copyto(target, image)
    return target

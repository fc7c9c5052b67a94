"""Converts frames of any pixel format with OpenCV, and encodes them as PNG or JPEG.

JPEG by ``cv2.imencode``: OpenCV's wheels contain libjpeg-turbo (3.1). simplejpeg contains it too, is no faster
(docs/figures.md; ``bench/serve.py --encoders`` measures it), and would be one more dependency. PyTurboJPEG 2 needs
libjpeg-turbo 3 in the system; Debian 12 has version 2.
"""

import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from billiards_shm.jpeg import complete, read_header
from billiards_shm.pixel_formats import PIXEL_FORMATS

__all__ = ["EXTENSIONS", "TARGETS", "Previews", "convert", "encode_image", "size_within"]

PNG: Final = (".png",)
JPEG: Final = (".jpg", ".jpeg")

EXTENSIONS: Final = (*PNG, *JPEG)
"""What `encode_image` can make."""

TARGETS: Final = {"BGR24": "BGR", "RGB24": "RGB", "GRAY8": "GRAY"}
"""What `convert` can make, each with its part in the names of OpenCV's constants."""

_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_LINE_OF_PICTURE: Final = 1 / 30
_LINE_PIXELS: Final = 9
"""Minimum height of capital letters, if the width allows it."""
_WHITE: Final = (255, 255, 255, 255)


def convert(
    frame: npt.NDArray[Any], pixel_format: str, target: str, out: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """Convert a frame to BGR24, RGB24 or GRAY8, as OpenCV does. YUV is treated as BT.601 with limited range.

    Parameters
    ----------
    frame : numpy.ndarray
        As readers return it, in the shape that `PIXEL_FORMATS` names.
    pixel_format : str
        One of `PIXEL_FORMATS`; RAW cannot be converted.
    target : str
        One of `TARGETS`.
    out : numpy.ndarray, optional
        Where to put the picture. It is used, and returned, if its shape and dtype match the picture's.

    Returns
    -------
    numpy.ndarray
        The picture; the frame itself only if it already has the format.

    Raises
    ------
    ValueError
        The frame cannot be converted; the message names both formats, and says why.
    """
    row = PIXEL_FORMATS.get(pixel_format)
    if row is None:
        raise ValueError(f"unknown pixel format {pixel_format!r}")
    if target not in TARGETS:
        raise ValueError(f"cannot convert {pixel_format} to {target}: use {', '.join(TARGETS)}")
    cannot = f"{_description(frame, pixel_format)} cannot be converted to {target}"
    if row.name == "RAW":
        raise ValueError(f"{cannot}: RAW does not say what the pixels are")
    if row.name == target:
        return frame
    if frame.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{cannot}: its pixels are not uint8 or uint16")
    try:
        if row.name == "MJPG":
            image = _decoded(frame, gray=target == "GRAY8")
            return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, out) if target == "RGB24" else _put(image, out)
        if frame.dtype == np.uint16:
            frame = (frame >> 8).astype(np.uint8)
        if target == "GRAY8" and (row.chroma or row.name == "GRAY16"):
            return _put(frame[: frame.shape[0] * 2 // 3] if row.chroma else frame, out)
        code: int = getattr(cv2, "COLOR_" + row.conversion.format(TARGETS[target]))
        return cv2.cvtColor(frame, code, out)
    except cv2.error as error:
        raise ValueError(f"{cannot}: {error.err}") from error


def _put(image: npt.NDArray[Any], out: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    if out is None or out.shape != image.shape or out.dtype != image.dtype:
        return image
    np.copyto(out, image)
    return out


def _decoded(frame: npt.NDArray[Any], *, gray: bool = False) -> npt.NDArray[Any]:
    """Decode an MJPG frame to BGR or gray, without the rotation in EXIF data, which is for files."""
    flag = cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR
    data = frame.reshape(-1)
    if data[:2].tobytes() != b"\xff\xd8":
        raise ValueError(f"{_description(frame, 'MJPG')} does not start like a JPEG")
    image = cv2.imdecode(data, flag | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError(f"{_description(frame, 'MJPG')} cannot be decoded: not a complete JPEG")
    return image


def encode_image(frame: npt.NDArray[Any], pixel_format: str, extension: str, quality: int = 95) -> bytes:
    """Encode a frame as an image file.

    Parameters
    ----------
    frame : numpy.ndarray
        As readers return it, in the shape that `PIXEL_FORMATS` names.
    pixel_format : str
        One of `PIXEL_FORMATS`; RAW cannot be encoded.
    extension : str
        ``.png``, ``.jpg`` or ``.jpeg``, upper or lower case.
    quality : int
        JPEG quality, 1 to 100. Ignored for PNG, and for an MJPG frame, which is already a JPEG: its bytes are
        returned, with the standard Huffman tables if it has none.

    Returns
    -------
    bytes
        The file. PNG keeps every bit of gray, BGR and BGRA frames; JPEG has 8 bits a channel and no alpha.

    Raises
    ------
    ValueError
        The extension is unknown, or the frame cannot be turned into an image; the message says why.
    """
    extension = extension.lower()
    if extension not in EXTENSIONS:
        raise ValueError(f"cannot write {extension or 'a file without extension'}: use {', '.join(EXTENSIONS)}")
    if pixel_format == "MJPG" and extension in JPEG:
        try:
            return bytes(complete(frame.tobytes()))
        except ValueError as error:
            raise ValueError(f"{_description(frame, 'MJPG')} is not a JPEG: {error}") from error
    try:
        image = _displayable(frame, pixel_format)
        if extension in JPEG:
            if image.dtype == np.uint16:
                image = (image >> 8).astype(np.uint8)
            done, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        else:
            done, encoded = cv2.imencode(".png", image)
    except cv2.error as error:
        raise ValueError(f"{_description(frame, pixel_format)} cannot be encoded: {error.err}") from error
    if not done:
        raise ValueError(f"{_description(frame, pixel_format)} cannot be encoded as {extension}")
    return encoded.tobytes()


class Previews:
    """One frame as JPEGs for display, of several sizes. It is decoded once for all of them; threads may share it.

    Parameters
    ----------
    frame, pixel_format
        As for `encode_image`.

    Notes
    -----
    **Lifetime.** It holds the frame.
    """

    def __init__(self, frame: npt.NDArray[Any], pixel_format: str) -> None:
        self._frame = frame
        self._pixel_format = pixel_format
        self._lock = threading.Lock()
        self._picture: npt.NDArray[Any] | None = None

    @cached_property
    def width(self) -> int:
        """Width of the picture in pixels; 0 if the frame is not a picture."""
        if self._pixel_format != "MJPG":
            return int(self._frame.shape[1])
        try:
            return read_header(self._frame.reshape(-1).data).width
        except ValueError:
            return 0

    def encode(self, width: int | None, quality: int, lines: Sequence[str] = ()) -> bytes:
        """Encode it, scaled down if it is wider than `width`.

        Parameters
        ----------
        width : int or None
            Pixels; None: the frame's own. A frame is never enlarged.
        quality : int
            1 to 100; for an MJPG frame at its full size, without lines, it is what the camera chose.
        lines : sequence of str
            Drawn at the bottom of the picture, never into the frame. OpenCV's font has ASCII only.

        Raises
        ------
        ValueError
            The frame cannot be turned into an image; the message says why.
        """
        if self._pixel_format == "MJPG" and not lines and self._fits(width):
            return encode_image(self._frame, "MJPG", ".jpg")
        return _encode_picture(self.picture(width), quality, lines)

    def picture(self, width: int | None) -> npt.NDArray[Any]:
        """Return it as gray, BGR or BGRA, scaled down if it is wider than `width`; do not write into it.

        Raises
        ------
        ValueError
            The frame cannot be turned into a picture; the message says why.
        """
        image = self._decode()
        if width is None or self._fits(width):
            return image
        full_height, full_width = image.shape[:2]
        # Averaging over whole blocks costs no more than interpolation, and avoids aliasing where pixels are dropped.
        # For sizes in between it takes seven times as long.
        whole = full_width % width == 0 or full_width > 2 * width
        size = size_within(width, full_width, full_height)
        try:
            return cv2.resize(image, size, interpolation=cv2.INTER_AREA if whole else cv2.INTER_LINEAR)
        except cv2.error as error:
            described = _description(self._frame, self._pixel_format)
            raise ValueError(f"{described} cannot be made smaller: {error.err}") from error

    def _fits(self, width: int | None) -> bool:
        return width is None or 0 < self.width <= width

    def _decode(self) -> npt.NDArray[Any]:
        with self._lock:
            if self._picture is None:
                self._picture = _displayable(self._frame, self._pixel_format)
            return self._picture


def size_within(width: int, full_width: int, full_height: int) -> tuple[int, int]:
    """Width and height of a picture that is scaled down if it is wider than `width`; all in pixels."""
    if full_width <= width:
        return full_width, full_height
    return width, max(1, round(full_height * width / full_width))


def _encode_picture(image: npt.NDArray[Any], quality: int, lines: Sequence[str]) -> bytes:
    if lines:
        image = _with_lines(image, lines)
    # A displayable picture is gray or has its channels in OpenCV's order.
    return encode_image(image, "GRAY8" if image.ndim == 2 or image.shape[2] == 1 else "BGR24", ".jpg", quality)


def _with_lines(image: npt.NDArray[Any], lines: Sequence[str]) -> npt.NDArray[Any]:
    """Draw lines of text, white on a darker background, at the bottom left of a copy, scaled to fit its width."""
    image = (image >> 8).astype(np.uint8) if image.dtype == np.uint16 else image.copy()
    height, width = image.shape[:2]
    sizes = [cv2.getTextSize(line, _FONT, 1, 1)[0] for line in lines]
    widest, letter = max(size[0] for size in sizes), sizes[0][1]
    scale = min(max(_LINE_OF_PICTURE * height, _LINE_PIXELS) / letter, 0.96 * width / widest)
    thickness = max(1, round(1.5 * scale))
    bottom, margin = height, max(1, round(letter * scale / 4))
    for line in reversed(lines):
        (length, above), below = cv2.getTextSize(line, _FONT, scale, thickness)
        top = max(0, bottom - above - below - 2 * margin)
        image[top:bottom, : length + 2 * margin] >>= 2
        cv2.putText(image, line, (margin, bottom - below - margin), _FONT, scale, _WHITE, thickness, cv2.LINE_AA)
        bottom = top
    return image


def _displayable(frame: npt.NDArray[Any], pixel_format: str) -> npt.NDArray[Any]:
    """Turn a frame into what ``cv2.imencode`` takes: gray, BGR or BGRA, 8 or 16 bits."""
    row = PIXEL_FORMATS.get(pixel_format)
    if row is None:
        raise ValueError(f"unknown pixel format {pixel_format!r}")
    if row.name == "RAW":
        raise ValueError(f"{_description(frame, pixel_format)} cannot be encoded: RAW does not say what the pixels are")
    if frame.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{_description(frame, pixel_format)} cannot be encoded: images have uint8 or uint16 pixels")
    # These are displayed unchanged, with all their bits.
    if row.name in ("BGR24", "BGRA32", "GRAY8", "GRAY16"):
        return frame
    return convert(frame, pixel_format, "BGR24")


def _description(frame: npt.NDArray[Any], pixel_format: str) -> str:
    return f"a {pixel_format} frame of shape {frame.shape} and dtype {frame.dtype}"

"""Encode one frame of any pixel format as PNG or JPEG.

JPEG by ``cv2.imencode``: OpenCV's wheels contain libjpeg-turbo (3.1). simplejpeg contains it too, is no faster
(docs/figures.md; ``bench/serve.py --encoders`` measures it), and would be one more dependency. PyTurboJPEG 2 needs
libjpeg-turbo 3 in the system; Debian 12 has version 2.
"""

from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["EXTENSIONS", "encode_image", "encode_preview"]

PNG: Final = (".png",)
JPEG: Final = (".jpg", ".jpeg")

EXTENSIONS: Final = (*PNG, *JPEG)
"""What `encode_image` can make."""


def encode_image(frame: npt.NDArray[Any], pixel_format: str, extension: str, quality: int = 95) -> bytes:
    """Encode a frame as an image file.

    Parameters
    ----------
    frame : numpy.ndarray
        As readers give it: ``(h, w, 3)`` for BGR24 and RGB24, ``(h, w, 4)`` for BGRA32, ``(h, w)`` for GRAY8
        and GRAY16, ``(h, w, 2)`` for YUYV, ``(h * 3 / 2, w)`` for NV12, ``(1, n)`` with the bytes of one JPEG
        for MJPG.
    pixel_format : str
        One of ``billiards_shm.PIXEL_FORMATS``; RAW cannot be encoded.
    extension : str
        ``.png``, ``.jpg`` or ``.jpeg``, in any case.
    quality : int
        Of a JPEG, 1 to 100; without effect on PNG and on an MJPG frame that is a complete JPEG already, which
        is passed on untouched.

    Returns
    -------
    bytes
        The file. PNG keeps every bit, GRAY16 and alpha included; JPEG has 8 bits a channel and no alpha.

    Raises
    ------
    ValueError
        Unknown extension, or the frame cannot be made into an image; the message says why.
    """
    extension = extension.lower()
    if extension not in EXTENSIONS:
        raise ValueError(f"cannot write {extension or 'a file without extension'}: use {', '.join(EXTENSIONS)}")
    if pixel_format == "MJPG" and extension in JPEG:
        data = _jpeg_bytes(frame)
        # Many cameras leave the Huffman tables out, which programs that open JPEG files do not forgive.
        if b"\xff\xc4" in data:
            return data
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


def encode_preview(frame: npt.NDArray[Any], pixel_format: str, width: int | None, quality: int) -> bytes:
    """Encode a frame as a JPEG for looking at, made smaller if it is wider than wanted.

    Parameters
    ----------
    frame, pixel_format
        As for `encode_image`.
    width : int or None
        Pixels; None, or no less than the frame has: as it is.
    quality : int
        1 to 100.

    Returns
    -------
    bytes
        The JPEG.

    Raises
    ------
    ValueError
        The frame cannot be made into an image; the message says why.
    """
    if width is None:
        return encode_image(frame, pixel_format, ".jpg", quality)
    try:
        image = _displayable(frame, pixel_format)
        full_height, full_width = image.shape[:2]
        if width >= full_width:
            return encode_image(frame, pixel_format, ".jpg", quality)
        # Averaging over whole blocks costs no more than interpolating, and is right where pixels are left out;
        # for sizes in between it takes seven times as long.
        whole = full_width % width == 0 or full_width > 2 * width
        size = (width, max(1, round(full_height * width / full_width)))
        smaller = cv2.resize(image, size, interpolation=cv2.INTER_AREA if whole else cv2.INTER_LINEAR)
    except cv2.error as error:
        raise ValueError(f"{_description(frame, pixel_format)} cannot be made smaller: {error.err}") from error
    # What can be displayed is gray, or has the channels in OpenCV's order.
    return encode_image(smaller, "GRAY8" if smaller.ndim == 2 else "BGR24", ".jpg", quality)


def _displayable(frame: npt.NDArray[Any], pixel_format: str) -> npt.NDArray[Any]:
    """Turn a frame into what ``cv2.imencode`` takes: gray, BGR or BGRA, 8 or 16 bits."""
    if pixel_format == "RAW":
        raise ValueError(f"{_description(frame, pixel_format)} cannot be encoded: RAW says not how pixels are stored")
    if frame.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{_description(frame, pixel_format)} cannot be encoded: images have uint8 or uint16 pixels")
    match pixel_format:
        case "BGR24" | "BGRA32" | "GRAY8" | "GRAY16":
            return frame
        case "RGB24":
            return cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        case "YUYV":
            return cv2.cvtColor(frame, cv2.COLOR_YUV2BGR_YUYV)
        case "NV12":
            return cv2.cvtColor(frame, cv2.COLOR_YUV2BGR_NV12)
        case "MJPG":
            image = cv2.imdecode(np.frombuffer(_jpeg_bytes(frame), np.uint8), cv2.IMREAD_COLOR)
            if image is None:
                raise ValueError(f"{_description(frame, pixel_format)} cannot be decoded: not a whole JPEG")
            return image
        case _:
            raise ValueError(f"unknown pixel format {pixel_format!r}")


def _jpeg_bytes(frame: npt.NDArray[Any]) -> bytes:
    data = frame.tobytes()
    if not data.startswith(b"\xff\xd8"):
        raise ValueError(f"{_description(frame, 'MJPG')} does not begin like a JPEG")
    return data


def _description(frame: npt.NDArray[Any], pixel_format: str) -> str:
    return f"a {pixel_format} frame of shape {frame.shape} and dtype {frame.dtype}"

"""Encodes frames to send them, and decodes them: raw, MJPG as captured, JPEG."""

from importlib.util import find_spec
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from billiards_shm import FrameMetadata
from billiards_shm.jpeg import complete, read_header
from billiards_shm.mirror.wire import Codec, FrameHeader, Request, SentFrame, WireError
from billiards_shm.pixel_formats import PIXEL_FORMATS

__all__ = ["decodable", "decode", "encode", "possible_codec", "video_header"]

JPEG_QUALITY: Final = 90
_GRAY: Final = ("GRAY8", "GRAY16")

Frame = npt.NDArray[Any]


def decodable() -> list[Codec]:
    """The codecs whose frames can be decoded here."""
    lacking = {codec for codec, module in ((Codec.JPEG, "cv2"), (Codec.H264, "av")) if find_spec(module) is None}
    return [codec for codec in Codec if codec not in lacking]


def possible_codec(request: Request, frame: Frame, metadata: FrameMetadata) -> Codec:
    """The codec used to send a frame for a request."""
    wanted, pixel_format = request.codec, metadata.pixel_format
    if pixel_format == "RAW" or frame.dtype not in (np.uint8, np.uint16):
        return Codec.RAW  # only its user knows the meaning of its pixels
    if request.automatic and frame.dtype == np.uint16:
        return Codec.RAW  # the others have 8 bits
    if wanted is Codec.H264 and (
        find_spec("av") is None or (request.automatic and not _has_even_size(frame, pixel_format, request.width))
    ):
        wanted = Codec.JPEG
    if wanted is Codec.MJPG and (pixel_format != "MJPG" or request.width):
        wanted = Codec.JPEG
    if wanted is Codec.JPEG and pixel_format == "MJPG" and not request.width:
        return Codec.MJPG
    if wanted is Codec.JPEG and find_spec("cv2") is None:
        return Codec.RAW
    return wanted


def _has_even_size(frame: Frame, pixel_format: str, width: int) -> bool:
    """Whether H.264 sends a picture in its whole size."""
    size = PIXEL_FORMATS[pixel_format].picture_size(*frame.shape[:2])
    if size is None:
        try:
            header = read_header(frame.reshape(-1).data)
        except ValueError:
            return False
        size = header.width, header.height
    if width:
        from billiards_shm.images import size_within

        size = size_within(width, *size)
    return all(side % 2 == 0 for side in size)


def encode(frame: Frame, metadata: FrameMetadata, codec: Codec, width: int) -> SentFrame:
    """Encode a frame with a codec that is possible for it.

    Parameters
    ----------
    frame, metadata
        As a reader returned them.
    codec : Codec
        RAW, MJPG or JPEG.
    width : int
        In pixels; wider pictures are scaled down to it; 0: unchanged.

    Raises
    ------
    ValueError
        The frame cannot be encoded; the message says why.
    ImportError
        It has to be made smaller, and OpenCV is missing.
    """
    pixel_format = metadata.pixel_format
    if codec is Codec.JPEG or width:
        from billiards_shm.images import Previews, encode_image  # needs OpenCV, which raw frames do not
    if codec is Codec.JPEG:
        picture = Previews(frame, pixel_format).picture(width or None)
        gray = pixel_format in _GRAY
        data = encode_image(picture, "GRAY8" if gray else _format_of(picture), ".jpg", JPEG_QUALITY)
        shape = picture.shape[:2] if gray else (*picture.shape[:2], 3)
        return SentFrame(_header(metadata, shape, np.dtype(np.uint8), "GRAY8" if gray else "BGR24"), data)
    if width and pixel_format != "RAW":
        frame = Previews(frame, pixel_format).picture(width)
        pixel_format = pixel_format if pixel_format in _GRAY else _format_of(frame)
    pixels = np.ascontiguousarray(frame).reshape(-1).view(np.uint8).data
    return SentFrame(_header(metadata, frame.shape, frame.dtype, pixel_format), pixels)


def _format_of(picture: Frame) -> str:
    return "GRAY8" if picture.ndim == 2 else "BGRA32" if picture.shape[2] == 4 else "BGR24"


def _header(metadata: FrameMetadata, shape: tuple[int, ...], dtype: np.dtype[Any], pixel_format: str) -> FrameHeader:
    return FrameHeader(
        sequence=metadata.sequence,
        capture_ns=metadata.capture_time_ns,
        publish_ns=metadata.publish_time_ns,
        wall_ns=metadata.wall_time_ns,
        position_ms=metadata.position_ms,
        shape=shape,
        dtype=dtype,
        pixel_format=pixel_format,
        online=metadata.online,
    )


def video_header(metadata: FrameMetadata) -> FrameHeader:
    """Header of a frame that is sent as video; the encoder knows the shape."""
    name = "GRAY8" if metadata.pixel_format in _GRAY else "BGR24"
    return _header(metadata, (0, 0), np.dtype(np.uint8), name)


def decode(header: FrameHeader, data: bytes | memoryview, codec: Codec) -> Frame:
    """Return the array of a frame that was sent as RAW, MJPG or JPEG.

    Raises
    ------
    WireError
        The bytes do not decode to what the header says.
    """
    name = f"frame {header.sequence}"
    if codec is Codec.JPEG:
        return _decode_jpeg(header, data)
    if len(data) != header.frame_bytes:
        raise WireError(f"{name} of {len(data)} bytes instead of {header.frame_bytes}")
    if codec is Codec.MJPG or header.pixel_format == "MJPG":
        if header.shape[0] != 1 or header.dtype != np.uint8:
            raise WireError(f"{name} of shape {header.shape} and dtype {header.dtype}, which is not possible for MJPG")
        try:
            complete(data)
        except ValueError as error:
            raise WireError(f"{name} is not a JPEG: {error}") from error
    row = PIXEL_FORMATS[header.pixel_format]
    if row.dtype and header.dtype != np.dtype(row.dtype):
        raise WireError(f"{name} of dtype {header.dtype}, which is not possible for {row.name}")
    return np.frombuffer(data, header.dtype).reshape(header.shape)


def _decode_jpeg(header: FrameHeader, data: bytes | memoryview) -> Frame:
    name = f"frame {header.sequence}"
    try:
        from billiards_shm.images import convert
    except ImportError as error:
        raise WireError(f"{name} is a JPEG, but OpenCV cannot be imported ({error})") from error
    try:
        # Before decoding, which takes memory.
        found = read_header(data)
        if (found.height, found.width) != header.shape[:2]:
            raise WireError(f"{name} is {found.width}x{found.height}, but was announced with shape {header.shape}")
        image = convert(np.frombuffer(data, np.uint8).reshape(1, -1), "MJPG", header.pixel_format)
    except ValueError as error:
        raise error if isinstance(error, WireError) else WireError(f"{name} does not decode: {error}") from error
    if image.shape != header.shape:
        raise WireError(f"{name} has shape {image.shape}, but was announced with {header.shape}")
    return image

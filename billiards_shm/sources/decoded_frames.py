"""Decoded frames, unconverted: their pixel format, and their planes as one array."""

from typing import Final

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange

from billiards_shm.pixel_formats import PixelFormat, format_named
from billiards_shm.sources.protocol import Image

__all__ = ["REARRANGED", "copy_planes", "describe", "native_format_of"]

REARRANGED: Final = {"yuv420p10le": "p010le"}
"""Formats that segments do not have, and those that hold the same samples in another order, without loss."""


def native_format_of(frame: VideoFrame) -> PixelFormat | None:
    """The pixel format of a decoded frame; None if segments have no format for it.

    Published frames do not say which range their YUV has: readers assume the limited one.
    """
    row = format_named(REARRANGED.get(frame.format.name, frame.format.name))
    if row is None or row.array_shape(frame.width, frame.height) is None or frame.planes[0].line_size < 0:
        return None
    full_range = frame.color_range == ColorRange.JPEG
    return None if full_range and (row.chroma or row.channels == 2) else row


def describe(frame: VideoFrame) -> str:
    """Size, format and other traits of a frame, for messages."""
    of_range = " of full range" if frame.color_range == ColorRange.JPEG else ""
    interlaced = ", interlaced" if frame.interlaced_frame else ""
    return f"{frame.width}x{frame.height} {frame.format.name}{of_range}{interlaced}"


def copy_planes(frame: VideoFrame, row: PixelFormat, target: Image | None) -> Image:
    """Copy a frame as it was decoded, into `target` if that has its shape. Padding of rows is left out."""
    shape = row.array_shape(frame.width, frame.height)
    assert shape is not None
    image = target
    if image is None or image.shape != shape or image.dtype != row.dtype or not image.flags.c_contiguous:
        image = np.empty(shape, row.dtype)
    rows = image.reshape(shape[0], -1)  # of packed formats: the channels of a pixel next to one another
    height = frame.height
    np.copyto(rows[:height], _plane(frame, 0, height, rows))
    if len(row.chroma) == 1:
        np.copyto(rows[height:], _plane(frame, 1, height // 2, rows))
    elif row.chroma:
        quarters = rows[height:].reshape(2, height // 2, rows.shape[1] // 2)
        for number, quarter in enumerate(quarters, 1):
            np.copyto(quarter, _plane(frame, number, height // 2, quarter))
    return image


def _plane(frame: VideoFrame, number: int, height: int, like: Image) -> Image:
    """The pixels of a plane, of the width and type of `like`."""
    plane = frame.planes[number]
    items: Image = np.frombuffer(plane, like.dtype)  # type: ignore[call-overload]
    stride = plane.line_size // like.itemsize
    return np.lib.stride_tricks.as_strided(
        items, (height, like.shape[1]), (stride * like.itemsize, like.itemsize), writeable=False
    )

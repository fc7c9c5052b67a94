"""The planes of planar YUV frames, as views."""

from typing import Any

import numpy.typing as npt

from billiards_shm._core import FrameMetadata
from billiards_shm.pixel_formats import PIXEL_FORMATS

__all__ = ["planes"]

Plane = npt.NDArray[Any]


def planes(frame: Plane, metadata: FrameMetadata) -> tuple[Plane, ...]:
    """Split a frame of NV12, NV21, I420, YV12 or P010 into its planes, without a copy.

    Parameters
    ----------
    frame : numpy.ndarray
        As a reader returned it, with shape (height * 3 / 2, width).
    metadata : FrameMetadata
        The metadata of that frame.

    Returns
    -------
    tuple of numpy.ndarray
        For a picture of height h and width w: ``(y, uv)`` of NV12, NV21 and P010, with y of shape (h, w) and uv of
        shape (h / 2, w / 2, 2), U first, even where V comes first in memory. ``(y, u, v)`` of I420 and YV12, with u and
        v of shape (h / 2, w / 2).

    Raises
    ------
    ValueError
        The format has no planes, or the array does not fit it; or it is I420 or YV12 with padded rows, where u and v
        are not arrays: copy the frame first.

    Notes
    -----
    **Lifetime.** The planes are views: each of them holds the frame.
    """
    name = metadata.pixel_format
    row = PIXEL_FORMATS[name]
    if not row.chroma:
        have = ", ".join(one.name for one in PIXEL_FORMATS.values() if one.chroma)
        raise ValueError(f"a {name} frame has no planes: only those of {have} do")
    if frame.ndim != 2 or frame.shape[0] % 3 or frame.shape[1] % 2:
        raise ValueError(f"an array of shape {frame.shape} does not fit {name}: expected (h * 3 / 2, w), h and w even")
    height, width = frame.shape[0] // 3 * 2, frame.shape[1]
    luma, chroma = frame[:height], frame[height:]
    item = frame.itemsize
    if frame.strides[1] != item:
        raise ValueError(
            f"pixels of this {name} frame are not contiguous: copy it first, numpy.ascontiguousarray(frame)"
        )
    if len(row.chroma) == 1:
        pairs = chroma.reshape(height // 2, width // 2, 2)
        return luma, pairs[..., ::-1] if row.chroma == ("vu",) else pairs
    if not frame.flags.c_contiguous:
        raise ValueError(
            f"rows of this {name} frame are padded, so its u and v are not arrays: copy it first, "
            "numpy.ascontiguousarray(frame)"
        )
    quarters = chroma.reshape(2, height // 2, width // 2)
    found = dict(zip(row.chroma, quarters, strict=True))
    return luma, found["u"], found["v"]

"""Whether this OpenCV can convert interlaced pictures: with FFmpeg 8 it cannot, but claims that it did."""

from functools import cache
from importlib.resources import as_file, files
from typing import Final

import cv2
import numpy as np

__all__ = ["converts_interlaced"]

# interlaced.m2v is one picture of 48x32 pixels, all of this colour, coded as two fields.
_BGR: Final = (40, 160, 220)
_TOLERATED: Final = 16


@cache
def converts_interlaced() -> bool:
    """Whether OpenCV's FFmpeg decodes a tiny interlaced clip correctly."""
    with as_file(files("billiards_shm.sources") / "interlaced.m2v") as path:
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        good, picture = capture.read()
        capture.release()
    return good and bool(np.abs(picture.astype(int) - _BGR).max() <= _TOLERATED)

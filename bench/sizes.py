"""The frame sizes of all measurements."""

import os

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
Shape = tuple[int, int, int]

SIZES: dict[str, Shape] = {"vga": (480, 640, 3), "1080p": (1080, 1920, 3), "4k": (2160, 3840, 3)}
TITLES = {"vga": "640x480", "1080p": "1920x1080", "4k": "3840x2160"}


def noise(shape: Shape) -> Picture:
    """A picture of noise, touched, in page-aligned private memory."""
    picture = np.random.default_rng(1).integers(0, 256, int(np.prod(shape)) + 4096, dtype=np.uint8)
    begin = -picture.ctypes.data % 4096
    return picture[begin : begin + int(np.prod(shape))].reshape(shape)


def own_name(what: str) -> str:
    """A segment's name that no other process uses."""
    return f"bench_{what}_{os.getpid()}"

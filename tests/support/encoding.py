"""Clips in every codec and pixel format that PyAV can encode. Every frame carries its number, for `read_counter`."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import Flags

from billiards_shm.sources.demo.table import DemoTable

FPS = 25


def pictures(count: int, size: tuple[int, int], first: int = 1) -> list[np.ndarray]:
    """Frames of the demo, with a patch of colours that change from pixel to pixel, where scalers differ."""
    table = DemoTable(*size, FPS, first=first)
    colours = np.random.default_rng(first).integers(0, 256, (size[1] // 4, size[0] // 4, 3), np.uint8)
    found = []
    for _ in range(count):
        table.grab()
        picture = table.retrieve(None)
        picture[: colours.shape[0], : colours.shape[1]] = colours
        found.append(picture)
    return found


def encode(
    path: Path,
    codec: str,
    pixel_format: str,
    size: tuple[int, int] = (320, 240),
    frames: int = 5,
    *,
    first: int = 1,
    times: list[int] | None = None,
    interlaced: bool = False,
    tags: dict[str, int] | None = None,
    container: dict[str, str] | None = None,
    **options: Any,
) -> Path:
    """Record numbered frames.

    Parameters
    ----------
    path : pathlib.Path
        The container follows from its suffix.
    codec, pixel_format : str
        As FFmpeg names them.
    size : tuple of int
    frames : int
    first : int
        Number of the first frame.
    times : list of int, optional
        When each frame is shown, in milliseconds; by default 40 apart.
    interlaced : bool
        Two fields per frame.
    tags : dict, optional
        What the stream declares about its colours: attributes of PyAV's codec context.
    container, **options
        Options of the container, and of the codec.
    """
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=FPS, options={name: str(value) for name, value in options.items()})
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        context = stream.codec_context
        if times is not None:
            context.time_base = Fraction(1, 1000)
        if interlaced:
            context.flags |= Flags.interlaced_dct | Flags.interlaced_me
            context.field_order = 2
        for name, value in (tags or {}).items():
            setattr(context, name, value)
        for number, picture in enumerate(pictures(frames, size, first)):
            frame = av.VideoFrame.from_ndarray(picture, "bgr24").reformat(format=pixel_format)
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, FPS) if times is None else Fraction(1, 1000)
            for name, value in (tags or {}).items():
                setattr(frame, name, value)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path

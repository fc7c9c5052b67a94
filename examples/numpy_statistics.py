"""Looks at frames with numpy: mean brightness, and how much changed since the previous frame.

    python examples/numpy_statistics.py [NAME] [--frames N]

Nothing is copied: `frame` is a read-only view of shared memory, valid for as long as you hold it.
"""

import argparse
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from billiards_shm import SharedMemoryFrameReader


def statistics(reader: SharedMemoryFrameReader) -> Iterator[tuple[int, float, float]]:
    """Number, mean, and mean difference from the previous frame, of every eighth pixel."""
    before: npt.NDArray[np.int16] | None = None
    for frame, metadata in reader:
        if metadata.pixel_format == "MJPG":
            raise SystemExit(
                f"{reader.name} has JPEGs, whose bytes are not pixels: capture it with --publish bgr or both"
            )
        pixels = frame[::8, ::8].astype(np.int16)
        change = 0.0 if before is None or before.shape != pixels.shape else float(np.abs(pixels - before).mean())
        yield metadata.sequence, float(pixels.mean()), change
        before = pixels


def main() -> None:
    """Print a line per frame."""
    parser = argparse.ArgumentParser(description="Mean and change of each frame")
    parser.add_argument("name", nargs="?", default="billiards_video")
    parser.add_argument("--frames", type=int, default=100)
    arguments = parser.parse_args()
    with SharedMemoryFrameReader(arguments.name) as reader:
        reader.attach(timeout=5.0)
        for count, (sequence, mean, change) in enumerate(statistics(reader), 1):
            print(f"{sequence}: mean {mean:.1f}, change {change:.2f}")
            if count == arguments.frames:
                break


if __name__ == "__main__":
    main()

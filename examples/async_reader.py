"""Reads several sources in one asynchronous program, each with its own reader; waits for sources that restart.

python examples/async_reader.py NAME [NAME ...] [--frames N]
"""

import argparse
import asyncio

from billiards_shm import SharedMemoryFrameReader


async def watch(name: str, frames: int) -> int:
    """Print the frames of one source; return how many were missed."""
    missed = 0
    with SharedMemoryFrameReader(name) as reader:
        count = 0
        async for frame, metadata in reader.frames(follow=True, timeout=30.0):
            missed += metadata.skipped
            print(f"{name}: frame {metadata.sequence}, {metadata.width}x{metadata.height}, mean {frame.mean():.1f}")
            count += 1
            if count == frames:
                break
    return missed


async def main() -> None:
    """Watch all at once."""
    parser = argparse.ArgumentParser(description="Several sources at once")
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--frames", type=int, default=100)
    arguments = parser.parse_args()
    missed = await asyncio.gather(*(watch(name, arguments.frames) for name in arguments.names))
    for name, number in zip(arguments.names, missed, strict=True):
        print(f"{name}: {number} frames missed")


if __name__ == "__main__":
    asyncio.run(main())

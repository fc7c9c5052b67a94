"""multiprocessing.Queue: each picture is pickled, sent through a pipe, and unpickled."""

import queue
from multiprocessing.context import SpawnContext
from time import monotonic_ns
from typing import Any

from bench.sizes import Picture, Shape


def share(context: SpawnContext) -> Any:
    """The queue."""
    return context.Queue(2)


class Publisher:
    def __init__(self, where: str, shape: Shape, shared: Any) -> None:
        self._queue = shared

    def write(self, picture: Picture) -> None:
        self._queue.put(picture)

    def publish(self, picture: Picture) -> int:
        before = monotonic_ns()
        self._queue.put(picture)
        return before

    def close(self) -> None: ...


class Subscriber:
    def __init__(self, where: str, shape: Shape, shared: Any) -> None:
        self._queue = shared

    def receive(self, timeout: float) -> tuple[int, Picture] | None:
        try:
            picture = self._queue.get(timeout=timeout)
        except queue.Empty:
            return None
        return monotonic_ns(), picture

    def close(self) -> None: ...

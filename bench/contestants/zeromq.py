"""pyzmq over ipc, publish and subscribe, the newest message only; no copies in Python on either side."""

import tempfile
from multiprocessing.context import SpawnContext
from pathlib import Path
from time import monotonic_ns

import numpy as np
import zmq

from bench.sizes import Picture, Shape


def share(context: SpawnContext) -> None:
    """Both sides find each other by a path."""


def path_of(where: str) -> Path:
    """The socket's path."""
    return Path(tempfile.gettempdir()) / where


class Publisher:
    def __init__(self, where: str, shape: Shape, shared: None) -> None:
        self._path = path_of(where)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._socket.setsockopt(zmq.SNDHWM, 2)
        self._socket.bind(f"ipc://{self._path}")

    def write(self, picture: Picture) -> None:
        self._socket.send(picture.data, copy=False)

    def publish(self, picture: Picture) -> int:
        before = monotonic_ns()
        self.write(picture)
        return before

    def close(self) -> None:
        self._context.destroy(linger=0)
        self._path.unlink(missing_ok=True)


class Subscriber:
    def __init__(self, where: str, shape: Shape, shared: None) -> None:
        self._shape = shape
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.CONFLATE, 1)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.connect(f"ipc://{path_of(where)}")

    def receive(self, timeout: float) -> tuple[int, Picture] | None:
        if not self._socket.poll(int(timeout * 1000)):
            return None
        message = self._socket.recv(copy=False)
        picture = np.frombuffer(message.buffer, np.uint8).reshape(self._shape)
        return monotonic_ns(), picture

    def close(self) -> None:
        self._context.destroy(linger=0)

"""eclipse-zenoh with shared memory: its Python package takes and returns bytes, so each side copies.

Two peers on their own socket, so they find no other zenoh.
"""

import json
import re
import tempfile
import threading
from multiprocessing.context import SpawnContext
from pathlib import Path
from time import monotonic_ns
from typing import Any

import numpy as np
import zenoh

from bench.sizes import Picture, Shape

KEY = "bench/frames"
FRAMES_IN_POOL = 4


def share(context: SpawnContext) -> None:
    """Both sides find each other by a path."""


def configuration(where: str, role: str) -> Any:
    """A session that listens on, or connects to, a socket named after `where`."""
    path = Path(tempfile.gettempdir()) / where
    config = zenoh.Config()
    for key, value in (
        ("mode", "peer"),
        ("scouting/multicast/enabled", False),
        ("listen/endpoints", [f"unixsock-stream/{path}"] if role == "listen" else []),
        ("connect/endpoints", [f"unixsock-stream/{path}"] if role == "connect" else []),
        ("transport/shared_memory/enabled", True),
    ):
        config.insert_json5(key, json.dumps(value))
    return config


def close(session: Any) -> None:
    """Multiprocessing skips the C library's exit hooks, which would leave zenoh's shared memory behind."""
    mapped = set(re.findall(r"/dev/shm/\d+\.zenoh", Path("/proc/self/maps").read_text()))
    session.close()
    for path in mapped:
        Path(path).unlink(missing_ok=True)


class Publisher:
    def __init__(self, where: str, shape: Shape, shared: None) -> None:
        self._path = Path(tempfile.gettempdir()) / where
        self._bytes = int(np.prod(shape))
        self._session = zenoh.open(configuration(where, "listen"))
        self._publisher = self._session.declare_publisher(KEY)
        self._pool = zenoh.shm.ShmProvider.default_backend(FRAMES_IN_POOL * (self._bytes + 4096))
        self._policy = zenoh.shm.BlockOn(zenoh.shm.GarbageCollect())

    def write(self, picture: Picture) -> None:
        self.publish(picture)

    def publish(self, picture: Picture) -> int:
        memory = self._pool.alloc(self._bytes, policy=self._policy)
        memory[:] = picture.tobytes()  # it takes only bytes or bytearray
        before = monotonic_ns()
        self._publisher.put(memory)
        return before

    def close(self) -> None:
        close(self._session)
        for left in self._path.parent.glob(f"{self._path.name}*"):
            left.unlink()


class Subscriber:
    def __init__(self, where: str, shape: Shape, shared: None) -> None:
        self._shape = shape
        self._session = zenoh.open(configuration(where, "connect"))
        self._news = threading.Event()
        self._newest: Any = None
        self._subscriber = self._session.declare_subscriber(KEY, self._keep)

    def _keep(self, sample: Any) -> None:
        self._newest = sample
        self._news.set()

    def receive(self, timeout: float) -> tuple[int, Picture] | None:
        if not self._news.wait(timeout):
            return None
        self._news.clear()
        sample, self._newest = self._newest, None
        if sample is None:
            return None
        picture = np.frombuffer(sample.payload.to_bytes(), np.uint8).reshape(self._shape)
        return monotonic_ns(), picture

    def close(self) -> None:
        self._newest = None
        close(self._session)

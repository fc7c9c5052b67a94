"""Segments on hosts, as seen from the test, and the command that mirrors them.

A host's /dev/shm can be reached from outside by a path, so the test can write on one host and read on another.
"""

import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from hosts import Host, Process
from segments_under_test import wait_until

from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter, SourceState

SCRIPT = shutil.which("billiards-shm", path=str(Path(sys.executable).parent)) or "billiards-shm"
FPS = 30
SHAPE = (48, 64, 3)


def at(host: Host, name: str) -> str:
    """The path by which the test reaches a segment of a host."""
    return f"/proc/{host.pid}/root/dev/shm/{name}"


def send(host: Host, *arguments: object) -> Process:
    """``billiards-shm mirror send`` on a host."""
    return host.start(SCRIPT, "mirror", "send", *arguments)


def receive(host: Host, origin: str, *options: object) -> Process:
    """``billiards-shm mirror receive`` on a host."""
    return host.start(SCRIPT, "mirror", "receive", origin, *options)


class Camera:
    """Writes numbered pictures, `first` and those after it, into a segment of a host, until the end of the block."""

    def __init__(self, host: Host, name: str = "table_1", shape: tuple[int, ...] = SHAPE, first: int = 0) -> None:
        self.writer = SharedMemoryFrameWriter(at(host, name), shape)
        self.pictures = [np.full(shape, 10 + 30 * ((first + number) % 8), np.uint8) for number in range(8)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the stream."""
        self._stop.set()
        self._thread.join()
        self.writer.close()

    def _run(self) -> None:
        while not self._stop.wait(1 / FPS):
            self.writer.write_frame(self.pictures[(self.writer.sequence + 1) % len(self.pictures)])

    def shows(self, frame: np.ndarray, source_sequence: int, tolerance: int = 0) -> bool:
        """Whether this is the frame with that number: exactly, or as closely as a codec allows."""
        expected = self.pictures[source_sequence % len(self.pictures)]
        return frame.shape == expected.shape and int(np.abs(frame.astype(int) - expected).max()) <= tolerance


class Copy(SharedMemoryFrameReader):
    """Reads the copy of a segment on a host, once there is one."""

    def __init__(self, host: Host, name: str = "table_1", **options: Any) -> None:
        super().__init__(at(host, name), **options)
        self.attach(timeout=40)

    def next(self, **options: Any) -> tuple[np.ndarray, Any]:
        """The next frame, which has to arrive."""
        frame, metadata = self.read_frame(timeout=40, **options)
        assert frame is not None, f"no frame arrived: {self.source_state}, {self.source_reason}"
        return frame, metadata

    def newer_than(self, source_sequence: int) -> Any:
        """The metadata of the first frame that the origin captured after that one."""
        return self._until(lambda metadata: metadata.source_sequence > source_sequence)

    def until_lost(self) -> str:
        """Wait until the copy reports that it has lost its origin; return the reason."""
        wait_until(lambda: self.source_state is SourceState.RECONNECTING, "the loss")
        return self.source_reason

    def _until(self, condition: Callable[[Any], bool]) -> Any:
        while not condition(metadata := self.next()[1]):
            pass
        return metadata

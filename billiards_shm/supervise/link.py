"""The connection of a supervised process to its supervisor."""

import contextlib
import json
import os
import select
import signal
import socket
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from billiards_shm import SourceState

__all__ = ["LARGEST_MESSAGE", "SUCCESSOR_FOLLOWS", "Progress", "SupervisorLink"]

LARGEST_MESSAGE: Final = 1 << 17
SUCCESSOR_FOLLOWS: Final = b"successor"
"""Sent before the signal that ends a child which will be replaced. Its readers wait for the successor."""
MESSAGE_INTERVAL_NS: Final = 500_000_000


@dataclass(frozen=True, slots=True)
class Progress:
    """How the work of a process is going."""

    state: SourceState
    reason: str
    frames: int
    fps: float
    frame_age_s: float | None
    width: int
    height: int


class SupervisorLink:
    """Sends progress to the supervisor, and learns from it whether there will be a successor.

    Parameters
    ----------
    connection : socket.socket
        Of a kind that preserves message boundaries.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._next_message_ns = 0
        self._superseded = False
        self._reading = threading.Lock()

    @classmethod
    def from_standard_input(cls) -> Self:
        """Move the socket away from standard input, where a source such as ``/dev/stdin`` would read it."""
        connection = socket.socket(fileno=os.dup(0))
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        os.close(empty)
        return cls(connection)

    def receive_job(self) -> dict[str, Any] | None:
        """Wait for the job; None if the supervisor is gone."""
        job = self._connection.recv(LARGEST_MESSAGE)
        poll = select.poll()
        poll.register(self._connection, 0)
        gone = not job or poll.poll(0)
        return None if gone else json.loads(job)

    @property
    def superseded(self) -> bool:
        """Whether the supervisor announced a successor."""
        with self._reading:
            with contextlib.suppress(OSError):
                self._superseded |= self._connection.recv(64, socket.MSG_DONTWAIT) == SUCCESSOR_FOLLOWS
            return self._superseded

    def started(self) -> None:
        """Send that the work begins."""
        self._send(kind="started")

    @property
    def due(self) -> bool:
        """Whether it is time for the next message of progress: about twice a second."""
        return time.monotonic_ns() >= self._next_message_ns

    def progress(self, now: Progress) -> None:
        """Send the progress. A process that sends nothing for too long counts as hanging."""
        # After other states the next message may follow immediately.
        interval_ns = MESSAGE_INTERVAL_NS if now.state is SourceState.STREAMING else 0
        self._next_message_ns = time.monotonic_ns() + interval_ns
        self._send(kind="progress", **asdict(now))

    def ended(self, error: str, *, finished: bool) -> None:
        """Send why the work is over: an error, which is empty if there was none, and whether it is finished."""
        # A supervisor that did not learn of the end would start a finished source again. A stop has nothing to add.
        self._send(wait=finished or bool(error), kind="ended", finished=finished, error=error)

    def _send(self, *, wait: bool = False, **message: Any) -> None:
        try:
            # A supervisor that is stopped by SIGSTOP must not hold up a child that works, or that a signal stopped.
            self._connection.send(json.dumps(message).encode(), 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        except OSError:
            # The supervisor is gone. Linux kills this process then; elsewhere it has to stop on its own.
            signal.raise_signal(signal.SIGTERM)

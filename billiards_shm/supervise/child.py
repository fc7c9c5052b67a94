"""A capture process that a supervisor started, as ``python -m billiards_shm.supervise.child NAME``.

Its standard input is a socket of the supervisor's: what to capture comes that way, so that passwords in URLs stand in
no command line and no environment, and signs of life go back.
"""

import contextlib
import ctypes
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from typing import Any, Final

from billiards_shm.capture.observers import TakeSnapshot
from billiards_shm.capture.process import run_capture
from billiards_shm.config.model import Settings
from billiards_shm.errors import BilliardsShmError
from billiards_shm.service.exit_codes import EXIT_OK, exit_code_of
from billiards_shm.service.logs import configure_logging

__all__ = ["LARGEST_MESSAGE", "SUCCESSOR_FOLLOWS", "SupervisorLink", "main"]

LARGEST_MESSAGE: Final = 1 << 17
SUCCESSOR_FOLLOWS: Final = b"successor"
"""Sent before the signal that ends a child which will be replaced: readers are to wait for the next one."""
MESSAGE_INTERVAL_NS: Final = 500_000_000
_PR_SET_PDEATHSIG: Final = 1
_TOLD: Final = (
    "state", "reason", "frames_captured", "frames_written", "frames_dropped", "fps", "frame_age_s", "width", "height",
    "reconnects",
)  # fmt: skip

_log = logging.getLogger(__name__)


class SupervisorLink:
    """Tells the supervisor that the loop gets on, and learns from it what a stop is for.

    Parameters
    ----------
    connection : socket.socket
        Keeps messages apart.
    """

    insistent = False
    """The supervisor decides when it has been enough; the service manager's signal may come besides its own."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._snapshot: TakeSnapshot | None = None
        self._next_message_ns = 0
        self._superseded = False
        self._reading = threading.Lock()

    def receive_order(self) -> dict[str, Any] | None:
        """Wait for what is to be captured; None if the supervisor is gone."""
        order = self._connection.recv(LARGEST_MESSAGE)
        poll = select.poll()
        poll.register(self._connection, 0)
        gone = not order or poll.poll(0)
        return None if gone else json.loads(order)

    @property
    def superseded(self) -> bool:
        """Whether the supervisor said that a successor follows."""
        with self._reading:
            with contextlib.suppress(OSError):
                self._superseded |= self._connection.recv(64, socket.MSG_DONTWAIT) == SUCCESSOR_FOLLOWS
            return self._superseded

    def started(self, snapshot: TakeSnapshot) -> None:
        """Tell that the loop begins."""
        self._snapshot = snapshot
        self._tell(kind="started")

    def progress(self) -> None:
        """Tell how it goes, about twice a second."""
        now = time.monotonic_ns()
        if now >= self._next_message_ns and self._snapshot is not None:
            snapshot = self._snapshot()
            # What is not normal is told when it changes.
            self._next_message_ns = now + (MESSAGE_INTERVAL_NS if snapshot.state == "streaming" else 0)
            self._tell(kind="progress", **{name: getattr(snapshot, name) for name in _TOLD})

    def stopping(self) -> None:
        """Nothing: the supervisor asked for it."""

    def ended(self, error: str, *, finished: bool) -> None:
        """Tell why the loop is over."""
        if self._snapshot is not None:
            self._next_message_ns = 0
            self.progress()
        self._tell(kind="ended", finished=finished, error=error)

    def _tell(self, **message: Any) -> None:
        try:
            # A supervisor that is stopped does not stop its children.
            self._connection.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        except OSError:
            # It is gone; where the kernel does not see to it, we do.
            signal.raise_signal(signal.SIGTERM)


def main() -> int:
    """Capture what the supervisor says, until it says otherwise; give the exit code."""
    _die_with_supervisor()
    link = SupervisorLink(_take_standard_input())
    order = link.receive_order()
    if order is None:
        return EXIT_OK
    settings = Settings(**order["settings"])
    configure_logging(settings.logging.level, settings.logging.as_json, source=settings.video.shared_memory_name)
    try:
        return run_capture(settings, frames=order["frames"], observer=link)
    except BilliardsShmError as error:
        _log.error("%s", error)
        link.ended(str(error), finished=False)
        return exit_code_of(error)


def _die_with_supervisor() -> None:
    """Have the kernel kill us when the supervisor is killed: what it cannot stop any more shall not stay behind.

    A kill leaves the segment for the next supervisor's child to take over, and readers wait for that one.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _take_standard_input() -> socket.socket:
    """Take the socket away from standard input, where a source such as ``/dev/stdin`` would find it."""
    connection = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return connection


if __name__ == "__main__":
    sys.exit(main())

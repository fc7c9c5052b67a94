"""A capture process that a supervisor starts, as ``python -m billiards_shm.supervise.child NAME``.

Its standard input is a socket to the supervisor. What to capture comes that way, so that passwords in URLs stand in no
command line and no environment. Messages about progress go back.
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

from billiards_shm import SourceState
from billiards_shm.capture.observers import TakeSnapshot
from billiards_shm.capture.process import run_capture
from billiards_shm.config.model import Settings
from billiards_shm.errors import BilliardsShmError
from billiards_shm.service.exit_codes import EXIT_OK, exit_code_of
from billiards_shm.service.logs import configure_logging

__all__ = ["LARGEST_MESSAGE", "SUCCESSOR_FOLLOWS", "SupervisorLink", "main"]

LARGEST_MESSAGE: Final = 1 << 17
SUCCESSOR_FOLLOWS: Final = b"successor"
"""Sent before the signal that ends a child which will be replaced. Its readers wait for the successor."""
MESSAGE_INTERVAL_NS: Final = 500_000_000
_PR_SET_PDEATHSIG: Final = 1
_PROGRESS_FIELDS: Final = (
    "state", "reason", "frames_captured", "frames_written", "frames_dropped", "fps", "frame_age_s", "width", "height",
    "reconnects",
)  # fmt: skip

_log = logging.getLogger(__name__)


class SupervisorLink:
    """Sends progress to the supervisor, and learns from it whether a successor follows.

    Parameters
    ----------
    connection : socket.socket
        Of a kind that preserves message boundaries.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._snapshot: TakeSnapshot | None = None
        self._next_message_ns = 0
        self._superseded = False
        self._reading = threading.Lock()

    def receive_job(self) -> dict[str, Any] | None:
        """Wait for what to capture; None if the supervisor is gone."""
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

    def started(self, snapshot: TakeSnapshot) -> None:
        """Send that the loop starts."""
        self._snapshot = snapshot
        self._send(kind="started")

    def progress(self) -> None:
        """Send the progress, about twice a second."""
        now = time.monotonic_ns()
        if now >= self._next_message_ns and self._snapshot is not None:
            snapshot = self._snapshot()
            # Other states are sent at once.
            self._next_message_ns = now + (MESSAGE_INTERVAL_NS if snapshot.state is SourceState.STREAMING else 0)
            self._send(kind="progress", **{name: getattr(snapshot, name) for name in _PROGRESS_FIELDS})

    def stopping(self) -> None:
        """The supervisor asked for the stop, so it is not told."""

    def ended(self, error: str, *, finished: bool) -> None:
        """Send why the loop is over."""
        if self._snapshot is not None:
            self._next_message_ns = 0
            self.progress()
        self._send(kind="ended", finished=finished, error=error)

    def _send(self, **message: Any) -> None:
        try:
            # A supervisor that is stopped by SIGSTOP does not hold up its children.
            self._connection.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        except OSError:
            # The supervisor is gone. Linux kills this process then; elsewhere it has to stop by itself.
            signal.raise_signal(signal.SIGTERM)


def main() -> int:
    """Capture what the supervisor sends, until it stops this process; give the exit code."""
    _die_with_supervisor()
    link = SupervisorLink(_take_standard_input())
    job = link.receive_job()
    if job is None:
        return EXIT_OK
    settings = Settings(**job["settings"])
    configure_logging(settings.logging.level, settings.logging.as_json, source=settings.video.shared_memory_name)
    try:
        return run_capture(settings, frames=job["frames"], observer=link)
    except BilliardsShmError as error:
        _log.error("%s", error)
        link.ended(str(error), finished=False)
        return exit_code_of(error)


def _die_with_supervisor() -> None:
    """Let the kernel kill this process when its supervisor dies, which can no longer stop it.

    The segment stays. A child of the next supervisor takes it over, and readers wait for that one.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _take_standard_input() -> socket.socket:
    """Move the socket away from standard input, where a source such as ``/dev/stdin`` would read it."""
    connection = socket.socket(fileno=os.dup(0))
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return connection


if __name__ == "__main__":
    sys.exit(main())

"""A process as its supervisor sees it: start, messages, exit."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final, Self

from billiards_shm.service.exit_codes import EXIT_OK
from billiards_shm.supervise.link import LARGEST_MESSAGE, SUCCESSOR_FOLLOWS

__all__ = ["ChildProcess", "describe_end"]

_LOG_BYTES: Final = 65536


class ChildProcess:
    """One run of ``billiards_shm.supervise.child``. No method blocks.

    Parameters
    ----------
    name : str
        Of the segment; process lists show it.
    kind : str
        Of the task.
    job : dict
        What the child has to do.
    now : float
        Monotonic seconds.
    on_log : callable, optional
        Called with each line that the process writes to standard error. By default it inherits this process's.

    Raises
    ------
    OSError
        The limit on processes or descriptors is reached.
    """

    def __init__(
        self, name: str, kind: str, job: dict[str, Any], now: float, on_log: Callable[[str], None] | None = None
    ) -> None:
        self.progress: dict[str, Any] = {}
        """The last message of kind "progress"; empty before the first."""
        self.message_at = now
        """When the last message arrived, or the process was started."""
        self.first_frame_at: float | None = None
        self.end_message: dict[str, Any] = {}
        """The message of kind "ended"; empty before it."""
        self.killed = False
        self._on_log = on_log
        self._partial_line = b""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "billiards_shm.supervise.child", kind, name],
                    stdin=theirs.fileno(),
                    stderr=subprocess.PIPE if on_log is not None else None,
                    # Ctrl+C signals the whole terminal. Only the supervisor stops its children.
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                raise
        self._connection: socket.socket | None = ours
        if self._process.stderr is not None:
            os.set_blocking(self._process.stderr.fileno(), False)
        with contextlib.suppress(OSError):
            ours.send(json.dumps(job).encode())

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def frames(self) -> int:
        """Frames that it has handled, according to its last message."""
        return int(self.progress.get("frames", 0))

    @property
    def worked_sec(self) -> float:
        """How long it has handled frames."""
        return 0.0 if self.first_frame_at is None else self.message_at - self.first_frame_at

    def descriptors(self) -> dict[int, Callable[[float], Any]]:
        """Descriptors to poll, each with the function to call with the time when it is readable."""
        found: dict[int, Callable[[float], Any]] = {}
        if self._connection is not None:
            found[self._connection.fileno()] = self.read_messages
        if self._process.stderr is not None and not self._process.stderr.closed:
            found[self._process.stderr.fileno()] = self._read_log
        return found

    def read_messages(self, now: float) -> None:
        """Read the messages that have arrived."""
        while (message := self._receive()) is not None:
            if message["kind"] == "ended":
                self.end_message = message
                continue
            self.message_at = now
            if message["kind"] == "progress":
                self.progress = message
                if self.first_frame_at is None and self.frames:
                    self.first_frame_at = now

    def exit_code(self, now: float) -> int | None:
        """The exit code, or minus the signal that killed it; None while it runs."""
        code = self._process.poll()
        if code is not None:
            self.read_messages(now)
            self._read_log(now)
        return code

    def terminate(self, *, superseded: bool = False) -> None:
        """Send SIGTERM; with `superseded` it leaves the segment open, for a successor to take over."""
        if superseded and self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.send(SUCCESSOR_FOLLOWS, socket.MSG_DONTWAIT)
        self._process.send_signal(signal.SIGTERM)
        # A process that is stopped by SIGSTOP handles SIGTERM only when it continues.
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.killed = True
        self._process.kill()

    def close(self) -> None:
        """Close the connections."""
        for channel in (self._connection, self._process.stderr):
            if channel is not None:
                channel.close()
        self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _receive(self) -> dict[str, Any] | None:
        if self._connection is None:
            return None
        try:
            data = self._connection.recv(LARGEST_MESSAGE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if data:
            message: dict[str, Any] = json.loads(data)
            return message
        self._connection.close()
        self._connection = None
        return None

    def _read_log(self, now: float) -> None:
        pipe = self._process.stderr
        while pipe is not None and self._on_log is not None and not pipe.closed:
            try:
                data = os.read(pipe.fileno(), _LOG_BYTES)
            except BlockingIOError:
                return
            *lines, self._partial_line = (self._partial_line + data).split(b"\n")
            if not data:
                pipe.close()
                lines = [self._partial_line] if self._partial_line else []
            for line in lines:
                self._on_log(line.decode(errors="replace"))


def describe_end(code: int) -> str:
    """Describe an exit code, or a signal if it is negative."""
    if code >= 0:
        return "ended" if code == EXIT_OK else f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"

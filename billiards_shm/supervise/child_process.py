"""A capture process as its supervisor has it: started, listened to, ended."""

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
from billiards_shm.supervise.child import LARGEST_MESSAGE, SUCCESSOR_FOLLOWS

__all__ = ["ChildProcess", "describe_end"]

_LOG_PIECE: Final = 65536


class ChildProcess:
    """One run of ``billiards_shm.supervise.child``, which never makes its supervisor wait.

    Parameters
    ----------
    name : str
        Of the segment; what process lists show.
    order : dict
        What the child captures: ``settings`` and ``frames``.
    now : float
        Monotonic seconds.
    on_log : callable, optional
        Is given each line that the process writes to standard error, which otherwise goes where ours does.

    Raises
    ------
    OSError
        There can be no further process, or no further descriptor.
    """

    def __init__(
        self, name: str, order: dict[str, Any], now: float, on_log: Callable[[str], None] | None = None
    ) -> None:
        self.told: dict[str, Any] = {}
        """Its last word on how it gets on; empty before the first."""
        self.told_at = now
        """When it last said anything, or was started."""
        self.first_frame_at: float | None = None
        self.last_words: dict[str, Any] = {}
        self.killed = False
        self._on_log = on_log
        self._begun_line = b""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "billiards_shm.supervise.child", name],
                    stdin=theirs.fileno(),
                    stderr=subprocess.PIPE if on_log is not None else None,
                    # Ctrl+C reaches the whole terminal; how the children end is the supervisor's to say.
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                raise
        self._connection: socket.socket | None = ours
        if self._process.stderr is not None:
            os.set_blocking(self._process.stderr.fileno(), False)
        with contextlib.suppress(OSError):
            ours.send(json.dumps(order).encode())

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def frames(self) -> int:
        """Frames that it has captured, as it last said."""
        return int(self.told.get("frames_captured", 0))

    @property
    def worked_sec(self) -> float:
        """For how long it has given frames."""
        return 0.0 if self.first_frame_at is None else self.told_at - self.first_frame_at

    def channels(self) -> dict[int, Callable[[float], Any]]:
        """Descriptors to listen to, and what to call, with the time, when there is something."""
        found: dict[int, Callable[[float], Any]] = {}
        if self._connection is not None:
            found[self._connection.fileno()] = self.listen
        if self._process.stderr is not None and not self._process.stderr.closed:
            found[self._process.stderr.fileno()] = self._read_log
        return found

    def listen(self, now: float) -> None:
        """Take in what it said."""
        while (message := self._receive()) is not None:
            if message["kind"] == "ended":
                self.last_words = message
                continue
            self.told_at = now
            if message["kind"] == "progress":
                self.told = message
                if self.first_frame_at is None and self.frames:
                    self.first_frame_at = now

    def ended(self, now: float) -> int | None:
        """The exit code, or minus the signal that killed it; None while it lives."""
        code = self._process.poll()
        if code is not None:
            self.listen(now)
            self._read_log(now)
        return code

    def terminate(self, *, superseded: bool = False) -> None:
        """Ask it to end; if it is `superseded`, without closing the segment, which a successor will take over."""
        if superseded and self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.send(SUCCESSOR_FOLLOWS, socket.MSG_DONTWAIT)
        self._process.send_signal(signal.SIGTERM)
        # One that was stopped hears of it only then.
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it, as far as the kernel can."""
        self.killed = True
        self._process.kill()

    def close(self) -> None:
        """Let go of the connections."""
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
                data = os.read(pipe.fileno(), _LOG_PIECE)
            except BlockingIOError:
                return
            *lines, self._begun_line = (self._begun_line + data).split(b"\n")
            if not data:
                pipe.close()
                lines = [self._begun_line] if self._begun_line else []
            for line in lines:
                self._on_log(line.decode(errors="replace"))


def describe_end(code: int) -> str:
    """Say what an exit code means, or a signal if it is negative."""
    if code >= 0:
        return "ended" if code == EXIT_OK else f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"

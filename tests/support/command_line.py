"""The real console script, started as users start it: piped, or on a terminal; and its commands without a process."""

import codecs
import contextlib
import fcntl
import io
import os
import pty
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from billiards_shm.__main__ import main

SCRIPT = shutil.which("billiards-shm", path=str(Path(sys.executable).parent)) or "billiards-shm"

_UNWANTED = ("VIDEO_FILE", "LOG_LEVEL", "NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS", "LINES")
_started: list[subprocess.Popen[str]] = []


def environment(**more: str) -> dict[str, str]:
    """The tests' own environment, without variables about configuration and colours."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BILLIARDS_SHM", "_BILLIARDS_SHM")) and name not in _UNWANTED
    }
    return {**kept, **more}


def run(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end; `more` are environment variables."""
    return subprocess.run(
        [SCRIPT, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(**more),
        timeout=60,
        check=False,
    )


def call(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """Like `run`, without a process: for commands that look, print something, and end."""
    out, errors = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, environment(**more), clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        code = main([*map(str, arguments)])
    return subprocess.CompletedProcess([*arguments], code, out.getvalue(), errors.getvalue())


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a piece of Python to its end."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
    )


def start(*arguments: object, **more: str) -> subprocess.Popen[str]:
    """Start the program with its output piped."""
    process = subprocess.Popen(
        [SCRIPT, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**more),
    )
    _started.append(process)
    return process


def end_started() -> None:
    """Kill what a test that failed halfway left running."""
    for process in _started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    _started.clear()


class Terminal:
    """The program on its own terminal, and what it has drawn so far."""

    def __init__(self, *arguments: object, **more: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.process = subprocess.Popen(
            [SCRIPT, *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            text=True,
            env=environment(**{"TERM": "xterm-256color", **more}),
            start_new_session=True,
        )
        _started.append(self.process)
        os.close(slave)
        # A signal that arrives while Python waits for a full terminal can lose the rest of that write.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.text = ""

    def read_until(self, found: Callable[[str], object], seconds: float = 60.0) -> None:
        """Read what it draws until `found` returns true."""
        deadline = time.monotonic() + seconds
        while not found(self.text) and self._read(deadline - time.monotonic()):
            pass
        assert found(self.text), self.text

    def end(self, number: int) -> int:
        """Send a signal, read the output to the end, return the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Read the output to the end, return the exit code."""
        while self._read(30.0):
            pass
        os.close(self._master)
        return self.process.wait(30)

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(seconds, 0))
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux returns EIO once no process has the terminal open
            return False
        self.text += self._decoder.decode(data)
        return bool(data)

"""Python child processes of a test: they print a line when something is done, and continue when told to."""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

PRELUDE = """
import gc, os, signal, sys, time
import numpy as np
from billiards_shm import *
from segments_under_test import *

def say(*words):
    print(*words, flush=True)

def told():
    return sys.stdin.readline().strip()

def write_and_wait(name):
    writer = SharedMemoryFrameWriter(name, SHAPE)
    writer.write_frame(picture(1))
    say("written")
    told()

"""


def _is_readable(pipe: IO[bytes], seconds: float) -> bool:
    """Whether there is something to read within that time."""
    if sys.platform == "win32":  # where pipes cannot be watched: the test's own limit applies
        return True
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        return bool(selector.select(seconds))


class Child:
    """Runs `code` with what PRELUDE offers; `arguments` are its ``sys.argv[1:]``. Killed at the end of the block."""

    def __init__(
        self, code: str, *arguments: object, prelude: str = PRELUDE, python: str | Path = sys.executable
    ) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the child
        self._said = b""
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "OPENBLAS_NUM_THREADS": "1",  # Python 3.12 and later warn of a fork in a process that has threads
        }
        self.process = subprocess.Popen(
            # -P: the installed package, not one in the directory where the tests were started.
            [python, "-P", "-W", "error", "-c", prelude + textwrap.dedent(code), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._errors.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "replace")

    def says(self, seconds: float = 60.0) -> str:
        """The next line it prints."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._said:
            left = deadline - time.monotonic()
            assert left > 0, f"the child said nothing for {seconds} s; so far {self._said!r}; stderr: {self.stderr}"
            if _is_readable(self.process.stdout, left):
                more = os.read(self.process.stdout.fileno(), 65536)
                assert more, f"the child ended with {self.process.wait()}; stderr: {self.stderr}"
                self._said += more
        line, _, self._said = self._said.partition(b"\n")
        return line.decode().rstrip("\r")  # of Windows

    def tell(self, line: str = "go") -> None:
        """Send a line; the child continues."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL; when this returns, the process no longer exists."""
        self.process.kill()
        self.process.wait()

    def interrupt(self) -> None:
        """Ctrl+C."""
        self.process.send_signal(signal.SIGINT)

    @property
    def sleeps(self) -> bool:
        """Whether its main thread waits in the kernel."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"

    def ends(self, seconds: float = 60.0) -> int:
        """Its exit code; negative: the signal that killed it."""
        return self.process.wait(seconds)

    def ends_well(self, seconds: float = 60.0) -> None:
        """Exit code 0, and nothing on stderr."""
        code = self.ends(seconds)
        assert (code, self.stderr) == (0, ""), f"exit code {code}; stderr: {self.stderr}"


def run(code: str, *arguments: object, prelude: str = PRELUDE, seconds: float = 60.0) -> str:
    """What `code` prints; it has to succeed."""
    with Child(code, *arguments, prelude=prelude) as child:
        assert child.process.stdin is not None
        assert child.process.stdout is not None
        child.process.stdin.close()
        printed = child.process.stdout.read().decode()
        child.ends_well(seconds)
    return printed

"""`billiards-shm run` under test: its configuration, what it says, its children, and readers of its segments."""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from command_line import SCRIPT, environment
from segments_under_test import wait_until

from billiards_shm import SegmentNotFoundError, SegmentStatus, inspect_segment, remove_stale_segments

DEMO: dict[str, Any] = {"device_id": "demo", "resolution": [64, 48], "fps": 50}
SHORT_HANG_SEC = 6.0
"""A hang timeout for tests that wait for it. On a busy machine a healthy process may be silent for two seconds."""


class SupervisedRun:
    """One supervisor with the test's own sources; killed, with its children, at the end of the block.

    `sources` maps names to cameras.
    """

    def __init__(
        self, folder: Path, sources: dict[str, dict[str, Any]], *, hang_timeout: float = 20.0, timeout: float = 10.0
    ) -> None:
        self.names = list(sources)
        self.folder = folder
        self.log = folder / f"run-{len(list(folder.glob('run-*.log')))}.log"
        self.config = folder / f"{self.log.stem}.json"
        self.config.write_text(
            json.dumps(
                {
                    "video": {
                        "process": {"hang_timeout": hang_timeout, "shutdown_timeout": timeout},
                        "sources": [{"name": name, "camera": camera} for name, camera in sources.items()],
                    },
                    "logging": {"stats_interval_sec": 1.0},
                }
            )
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str] = ("run",), **more: str) -> Self:
        """Start it; `more` goes into the environment."""
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [SCRIPT, *command, "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=environment(**more),
            )
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        wait_until(lambda: not any(alive(name) for name in self.names), "the end of the children")
        remove_stale_segments(self.names)
        if exc is not None:
            print(self.said())

    @property
    def supervisor(self) -> psutil.Process:
        assert self.process is not None
        return psutil.Process(self.process.pid)

    def said(self) -> str:
        return self.log.read_text()

    def says(self, *words: str) -> None:
        """Wait for a line that contains all the words."""
        wait_until(
            lambda: any(all(word in line for word in words) for line in self.said().splitlines()),
            f"a line with {words}",
        )

    def children(self) -> list[psutil.Process]:
        return self.supervisor.children()

    def streams(self, *names: str) -> None:
        """Wait until the named sources, else all, have published a frame."""
        for name in names or self.names:
            wait_until(lambda name=name: published(name), f"a frame of {name}")

    def end(self, number: int = signal.SIGTERM, seconds: float = 60.0) -> int:
        """Send a signal, return the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def ends(self, seconds: float = 60.0) -> int:
        assert self.process is not None
        return self.process.wait(seconds)


def published(name: str) -> int:
    """Frames that the current writer has published; 0 if there is none."""
    try:
        info = inspect_segment(name)
    except SegmentNotFoundError:
        return 0
    return info.published if info.status is SegmentStatus.LIVE else 0


def writer_of(name: str) -> int:
    """The capturing process."""
    return inspect_segment(name).writer_pid


def alive(name: str) -> bool:
    try:
        return inspect_segment(name).status is SegmentStatus.LIVE
    except SegmentNotFoundError:
        return False


def replaced(name: str, before: int) -> int:
    """Wait until a process other than `before` captures; return it."""
    wait_until(lambda: published(name) and writer_of(name) != before, f"a new process for {name}")
    return writer_of(name)


def gone(pid: int) -> bool:
    """Whether a process has ended and was reaped."""
    return not psutil.pid_exists(pid)


def send(pid: int, number: int) -> None:
    os.kill(pid, number)

"""Signals, in one place: a stop is asked for here, and forced here if the source does not return."""

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final, Self

__all__ = ["Shutdown"]

SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)
GRACE_SEC: Final = 0.05
"""How long a loop that is not stuck may take to end by itself."""
_ENDED: Final = b"\0"
_log = logging.getLogger(__name__)


class Shutdown:
    """Turns SIGTERM, SIGINT and SIGHUP into a clean stop, while it is entered.

    Python runs signal handlers between two of its instructions, hence not while OpenCV waits for a frame. The C
    runtime's part of the handler, however, writes the signal's number to a file descriptor at once, and a thread
    sleeps on that. It costs nothing until then.

    A first signal sets `requested`. If the loop is still not done a moment later, `release` is called from the thread,
    so that readers learn of the end; after `timeout` seconds the process ends, with exit code 0 as that stop was
    asked for and nothing is left behind. A second signal ends it at once, with 128 + its number.

    Parameters
    ----------
    timeout : float
        Seconds from the signal to the forced end.
    release : callable
        Closes the segment; called from another thread, perhaps while the loop still runs.
    insistent : bool
        Whether a second signal ends the process at once; if not, it says nothing new.
    """

    def __init__(self, timeout: float, release: Callable[[], None], *, insistent: bool = True) -> None:
        self.requested = threading.Event()
        self.signal_number: int | None = None
        self._timeout = timeout
        self._release = release
        self._insistent = insistent
        self._previous: dict[int, Any] = {}

    @property
    def signal_name(self) -> str | None:
        """Name of the first signal, None before."""
        return None if self.signal_number is None else signal.Signals(self.signal_number).name

    def wait(self, seconds: float) -> bool:
        """Sleep, but not beyond a signal; True if there was one."""
        return self.requested.wait(seconds)

    def __enter__(self) -> Self:
        self._listening, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        self._previous_wakeup = signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            # `nohup` ignores SIGHUP for us. Shells ignore SIGINT for background jobs too, but nobody asks them to.
            if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT:
                self._previous[number] = signal.signal(number, _do_nothing)
        self._watch_thread = threading.Thread(target=self._watch, name="billiards-shm-signals", daemon=True)
        self._watch_thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._previous_wakeup)
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        with contextlib.suppress(OSError):
            self._wakeup.send(_ENDED)
        self._watch_thread.join()
        self._listening.close()
        self._wakeup.close()

    def _watch(self) -> None:
        number = self._next_signal(None)
        if number is None:
            return
        self.signal_number = number
        self.requested.set()
        grace = min(GRACE_SEC, self._timeout)
        try:
            if self._ends_within(grace):
                return
        except TimeoutError:
            self._release()
        try:
            self._ends_within(self._timeout - grace)
        except TimeoutError:
            self._end(0, f"the source did not return within {self._timeout:g} s: ending without it")

    def _ends_within(self, seconds: float) -> bool:
        """Wait for the loop's end; a second signal, if it counts, ends the process. `TimeoutError` when time is up."""
        until = time.monotonic() + seconds
        while True:
            number = self._next_signal(until - time.monotonic())
            if number is None:
                return True
            if self._insistent:
                self._end(128 + number, f"{signal.Signals(number).name} again: ending at once")

    def _next_signal(self, seconds: float | None) -> int | None:
        """Wait for one of our signals; None when the loop has ended, `TimeoutError` when the time is up."""
        self._listening.settimeout(seconds if seconds is None else max(seconds, 0.001))
        while True:
            received = self._listening.recv(1)
            if received in (_ENDED, b""):
                return None
            # Every signal that has a Python handler comes this way, also those of others.
            if received[0] in SIGNALS:
                return received[0]

    def _end(self, code: int, why: str) -> None:
        with contextlib.suppress(Exception):
            self._release()
        _last_words(why)
        os._exit(code)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Exist: only signals that have a Python handler reach the wakeup descriptor."""


def _last_words(text: str) -> None:
    """Log a line without logging's locks and without waiting: the main thread may hold the one, the pipe be full."""
    with contextlib.suppress(Exception):
        handlers = logging.getLogger().handlers
        formatter = (handlers[0].formatter if handlers else None) or logging.Formatter()
        line = formatter.format(_log.makeRecord(_log.name, logging.WARNING, __file__, 0, text, (), None))
        descriptor = sys.stderr.fileno()
        if select.select([], [descriptor], [], 0)[1]:
            os.write(descriptor, line.encode() + b"\n")

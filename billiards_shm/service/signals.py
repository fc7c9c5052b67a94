"""Signals that request a stop, taken in one place for capture, run, serve and watch."""

import atexit
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any, Final, Self

from billiards_shm.service.logs import log_without_waiting

__all__ = ["SAME_STOP_SEC", "StopRequest", "StopSignals"]

STOP_SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)
SAME_STOP_SEC: Final = 0.5
"""Signals this soon after the first belong to it: `timeout`, shells and service managers send two for one stop."""
_CANCEL: Final = b"\0"

_log = logging.getLogger(__name__)


class StopSignals:
    """Receives the signals that request a stop, while it is entered, in the main thread.

    The first one is the request. Those within half a second of it belong to it. A later one asks the process to end
    at once, with 128 + its number.

    Python runs its signal handlers between two instructions, so not while C code waits for a frame. But the C part of a
    handler writes the signal's number to a socket immediately. `receive` reads that socket, in any thread.

    A process that was asked to stop is about to end. So its handlers stay installed after the block, and then only a
    second request has an effect. Without a request, the former handlers are restored.

    Parameters
    ----------
    also : sequence of int
        Other signals that make `fileno` readable. `receive` skips them.
    """

    def __init__(self, *, also: Sequence[int] = ()) -> None:
        self.first: signal.Signals | None = None
        """The request; None before it."""
        self._first_at = 0.0
        self._also = also
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)
        self._previous_wakeup = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        for number in (*STOP_SIGNALS, *self._also):
            # `nohup` sets SIGHUP to be ignored on purpose. Shells do so with SIGINT for every background job.
            if signal.getsignal(number) is not signal.SIG_IGN or signal.Signals(number).name != "SIGHUP":
                self._previous[number] = signal.signal(number, _do_nothing)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._previous_wakeup)
        for number, handler in self._previous.items():
            if self.first is None or number not in STOP_SIGNALS:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            else:
                signal.signal(number, self._end_if_second)
        if self.first is not None:
            # At shutdown the interpreter resets its handlers, and a signal would end it with a failure.
            atexit.register(_ignore, [number for number in self._previous if number in STOP_SIGNALS])
        self._reading.close()
        self._writing.close()

    def fileno(self) -> int:
        """The descriptor that is readable when a signal has arrived."""
        return self._reading.fileno()

    def receive(self, timeout: float | None = None) -> signal.Signals | None:
        """Wait for the first request, or for a second one.

        Parameters
        ----------
        timeout : float or None
            Seconds; None: until there is one.

        Returns
        -------
        signal.Signals or None
            None when the time is over, or after `cancel`.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            self._reading.settimeout(None if until is None else max(0.0, until - time.monotonic()))
            try:
                data = self._reading.recv(1)
            except (TimeoutError, BlockingIOError):
                return None
            if data in (_CANCEL, b""):
                return None
            # Every signal that has a Python handler arrives here, including those of other code.
            if data[0] not in STOP_SIGNALS:
                continue
            if self.first is None:
                self.first, self._first_at = signal.Signals(data[0]), time.monotonic()
                return self.first
            if self._is_second():
                return signal.Signals(data[0])

    def cancel(self) -> None:
        """Make a `receive` that is waiting in another thread return."""
        with contextlib.suppress(OSError):
            self._writing.send(_CANCEL)

    def _is_second(self) -> bool:
        return time.monotonic() - self._first_at > SAME_STOP_SEC

    def _end_if_second(self, number: int, frame: FrameType | None) -> None:
        if self._is_second():
            end_at_once(signal.Signals(number))


class StopRequest:
    """A stop that a signal requests. A thread notices it even while the main thread is busy.

    The thread sleeps until a signal arrives. A second request ends the process from within the thread.

    Parameters
    ----------
    on_stop : callable, optional
        Called in the thread when a stop is requested.
    """

    def __init__(self, on_stop: Callable[[], object] = lambda: None) -> None:
        self.over = threading.Event()
        """Set when the block is left."""
        self._requested = threading.Event()
        self._signals = StopSignals()
        self._on_stop = on_stop
        self._thread = threading.Thread(target=self._receive, name="billiards-shm-signals", daemon=True)

    def wait(self, seconds: float) -> bool:
        """Sleep until the time is over or a stop is requested; True if it is requested."""
        # The loop only asks, for every frame; `wait` would create a lock each time.
        return self._requested.wait(seconds) if seconds > 0 else self._requested.is_set()

    @property
    def signal_name(self) -> str | None:
        """Name of the signal that requested the stop; None before."""
        return None if self._signals.first is None else self._signals.first.name

    def __enter__(self) -> Self:
        self._signals.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.over.set()
        self._signals.cancel()
        self._thread.join()
        self._signals.__exit__(exc_type, exc, traceback)

    def _receive(self) -> None:
        if self._signals.receive() is None:
            return
        self._requested.set()
        self._on_stop()
        second = self._signals.receive()
        if second is not None:
            end_at_once(second)


def end_at_once(second: signal.Signals) -> None:
    """End the process because of a second request."""
    log_without_waiting(_log, logging.WARNING, f"{second.name} again: ending at once")
    os._exit(128 + second)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Only signals that have a Python handler are written to the socket."""


def _ignore(numbers: Sequence[int]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)

"""Observers of a capture process: the service manager, or the supervisor that started it."""

import time
from collections.abc import Callable
from typing import Final, Protocol

from billiards_shm.capture.stats import StatisticsSnapshot
from billiards_shm.service.systemd import ServiceNotifier

__all__ = ["CaptureObserver", "ServiceObserver", "TakeSnapshot"]

STATUS_INTERVAL_NS: Final = 1_000_000_000

TakeSnapshot = Callable[[], StatisticsSnapshot]


class CaptureObserver(Protocol):
    """Learns, within the capture process, what it does."""

    @property
    def superseded(self) -> bool:
        """Whether a successor will take the segment over. Then the segment must not be closed."""

    def started(self, snapshot: TakeSnapshot) -> None:
        """The loop starts; `snapshot` returns its statistics, for later calls of `progress`."""

    def progress(self) -> None:
        """A frame was captured, or an attempt to reopen the source or a second of waiting is over."""

    def stopping(self) -> None:
        """The process is about to end; may be called from another thread, and more than once."""

    def ended(self, error: str, *, finished: bool) -> None:
        """The loop is over.

        Parameters
        ----------
        error : str
            What went wrong; empty if nothing did.
        finished : bool
            Whether the source is finished, rather than stopped by a signal.
        """


class ServiceObserver:
    """Notifies the service manager, if there is one.

    Parameters
    ----------
    notifier : ServiceNotifier
    """

    superseded = False

    def __init__(self, notifier: ServiceNotifier) -> None:
        self._notifier = notifier
        self._snapshot: TakeSnapshot | None = None
        self._next_status_ns = 0

    def started(self, snapshot: TakeSnapshot) -> None:
        """Keep `snapshot` for the status line."""
        self._snapshot = snapshot
        self._notifier.status("opening the source")

    def progress(self) -> None:
        """Ping the watchdog. The first call is the first frame: the service is ready, and readers find the segment."""
        self._notifier.ready()
        self._notifier.alive()
        now = time.monotonic_ns()
        if now >= self._next_status_ns and self._snapshot is not None:
            self._next_status_ns = now + STATUS_INTERVAL_NS
            self._notifier.status(_status_line(self._snapshot()))

    def stopping(self) -> None:
        """Notify that the process is about to end."""
        self._notifier.stopping()

    def ended(self, error: str, *, finished: bool) -> None:
        """Notify of the end, with the error if there was one."""
        if error:
            self._notifier.status(error)
        self._notifier.stopping()


def _status_line(snapshot: StatisticsSnapshot) -> str:
    trouble = f" ({snapshot.reason})" if snapshot.reason else ""
    return (
        f"{snapshot.name}: {snapshot.state}{trouble}, {snapshot.width}x{snapshot.height} at {snapshot.fps:.1f} fps, "
        f"frame {snapshot.write_sequence}, {snapshot.frames_dropped} dropped, {snapshot.reconnects} reconnects"
    )

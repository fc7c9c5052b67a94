"""Who else learns how a capture process fares: the service manager, or the supervisor that started it."""

import time
from collections.abc import Callable
from typing import Final, Protocol

from billiards_shm.capture.stats import StatisticsSnapshot
from billiards_shm.service.systemd import ServiceNotifier

__all__ = ["CaptureObserver", "ServiceObserver", "TakeSnapshot"]

STATUS_INTERVAL_NS: Final = 1_000_000_000

TakeSnapshot = Callable[[], StatisticsSnapshot]


class CaptureObserver(Protocol):
    """Is told of a capture process's life, from within it."""

    @property
    def insistent(self) -> bool:
        """Whether a second signal ends the process at once."""

    @property
    def superseded(self) -> bool:
        """Whether a successor is to take the segment over, which therefore is not to be closed."""

    def started(self, snapshot: TakeSnapshot) -> None:
        """Note that the loop begins; `snapshot` gives its statistics, for calls of `progress` to use."""

    def progress(self) -> None:
        """Note that a frame was captured, or that a bounded attempt or wait is over."""

    def stopping(self) -> None:
        """Note that the process ends; may be called from another thread, and more than once."""

    def ended(self, error: str, *, finished: bool) -> None:
        """Note that the loop is over.

        Parameters
        ----------
        error : str
            What went wrong; empty if nothing did.
        finished : bool
            Whether it was done, and not only asked to stop.
        """


class ServiceObserver:
    """Tells the service manager, if there is one.

    Parameters
    ----------
    notifier : ServiceNotifier
    """

    insistent = True
    superseded = False

    def __init__(self, notifier: ServiceNotifier) -> None:
        self._notifier = notifier
        self._snapshot: TakeSnapshot | None = None
        self._next_status_ns = 0

    def started(self, snapshot: TakeSnapshot) -> None:
        """Note where the statistics are to be had."""
        self._snapshot = snapshot
        self._notifier.status("opening the source")

    def progress(self) -> None:
        """Keep the watchdog quiet. The first time is the first frame: from now on readers find the segment."""
        self._notifier.ready()
        self._notifier.alive()
        now = time.monotonic_ns()
        if now >= self._next_status_ns and self._snapshot is not None:
            self._next_status_ns = now + STATUS_INTERVAL_NS
            self._notifier.status(_in_a_line(self._snapshot()))

    def stopping(self) -> None:
        """Tell that the process ends."""
        self._notifier.stopping()

    def ended(self, error: str, *, finished: bool) -> None:
        """Tell why, if something went wrong."""
        if error:
            self._notifier.status(error)
        self._notifier.stopping()


def _in_a_line(snapshot: StatisticsSnapshot) -> str:
    trouble = f" ({snapshot.reason})" if snapshot.reason else ""
    return (
        f"{snapshot.name}: {snapshot.state}{trouble}, {snapshot.width}x{snapshot.height} at {snapshot.fps:.1f} fps, "
        f"frame {snapshot.write_sequence}, {snapshot.frames_dropped} dropped, {snapshot.reconnects} reconnects"
    )

"""Reports the source's state to readers, even while the loop hangs in a grab or waits for a server."""

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Protocol, Self

from billiards_shm import SourceState
from billiards_shm.capture.stats import CaptureStatistics
from billiards_shm.errors import BilliardsShmError
from billiards_shm.sources.protocol import Reason
from billiards_shm.statistics import REPORTED

__all__ = ["Reporting", "SourceStatus"]

STALL_CHECK_SEC: Final = 0.25
REPORT_INTERVAL_NS: Final = 500_000_000
PLACEHOLDER_INTERVAL_NS: Final = 1_000_000_000
_NS_PER_MS: Final = 1e6
_NS_PER_SEC: Final = 1e9

_log = logging.getLogger(__name__)


class Reporting(Protocol):
    """Reports the state of the source to readers."""

    def report(self, **news: Any) -> None:
        """Report to readers; may be called from another thread."""


class SourceStatus:
    """Reports the state of the source, the reason and the counts to readers.

    While it is entered, a thread checks four times a second whether the loop has been in one grab for too long. That
    is a stall. The thread reports it in the loop's place, and publishes placeholders. A sleeping thread costs the loop
    nothing, and any thread may report to the segment.

    Parameters
    ----------
    publisher : Reporting
    statistics : CaptureStatistics
    placeholder : callable or None
        Called with state and reason to draw a placeholder; returns what publishes it.
    """

    def __init__(
        self,
        publisher: Reporting,
        statistics: CaptureStatistics,
        placeholder: Callable[[SourceState, str], Callable[[], None]] | None = None,
    ) -> None:
        self.state = SourceState.OPENING
        self.reason = ""
        self.backend = ""
        self._publisher = publisher
        self._statistics = statistics
        self._placeholder = placeholder
        self._lock = threading.Lock()
        self._grab_started_ns: int | None = None
        self._frame_comes = False
        self.next_report_ns = 0
        self._next_placeholder_ns = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, name="billiards-shm-stalls", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        assert self._thread is not None
        self._thread.join()

    @property
    def stalls(self) -> int:
        """Stalls so far, including one that is going on."""
        return self._statistics.stalls + (self.state is SourceState.STALLED and self._grab_started_ns is not None)

    def set_state(self, state: SourceState, reason: str = "") -> None:
        """Set the state of the source, and report it to readers."""
        with self._lock:
            if (state, reason) != (self.state, self.reason):
                self._next_placeholder_ns = 0
            self.state, self.reason = state, reason
            self._frame_comes = False
            self._report(time.monotonic_ns())

    def report(self, now_ns: int) -> None:
        """Report to readers, if a report is due."""
        if now_ns >= self.next_report_ns:
            with self._lock:
                self._report(now_ns)

    def grab_started(self, now_ns: int) -> None:
        """Note when a grab started."""
        self._frame_comes = False
        self._grab_started_ns = now_ns

    def grab_ended(self) -> None:
        """Note that the grab is over."""
        self._grab_started_ns = None

    def frame_comes(self) -> None:
        """Publish no placeholder from here on until the next grab or state: the loop publishes a frame."""
        self._frame_comes = True
        if self.state is not SourceState.STREAMING:
            with self._lock:
                pass  # a placeholder that is being published comes before the frame

    def _report(self, now_ns: int) -> None:
        self.next_report_ns = now_ns + REPORT_INTERVAL_NS
        counts = self._statistics
        self._publisher.report(
            state=self.state,
            reason=self.reason,
            backend=self.backend,
            fps=counts.capture_rate.rate(now_ns),
            clock_offset_ms=None if counts.clock_offset_ns is None else counts.clock_offset_ns / _NS_PER_MS,
            **{name: getattr(counts, name) for name in REPORTED} | {"stalls": self.stalls},
        )

    # In the thread.

    def _watch(self) -> None:
        told = ""
        while not self._ended.wait(STALL_CHECK_SEC):
            try:
                self._check_for_stall(time.monotonic_ns())
            except BilliardsShmError as error:
                # A lost name stays lost while the loop is in a grab that does not return.
                if str(error) != told:
                    told = str(error)
                    _log.warning("The state of the source could not be passed on to readers: %s", error)

    def _check_for_stall(self, now_ns: int) -> None:
        with self._lock:
            began_ns = self._grab_started_ns
            silent_ns = 0 if began_ns is None else now_ns - began_ns
            if self.state is SourceState.STREAMING and silent_ns > self._statistics.stall_after_ns:
                self.state = SourceState.STALLED
                self.reason = Reason.TIMEOUT.because(f"no frame for more than {silent_ns / _NS_PER_SEC:.1f} s")
                self.next_report_ns = self._next_placeholder_ns = 0
                _log.warning("The source has stalled: %s", self.reason)
            away = self.state in (SourceState.STALLED, SourceState.RECONNECTING)
            state, reason = self.state, self.reason
            # The loop reports as long as it runs.
            if away and now_ns >= self.next_report_ns:
                self._report(now_ns)
        if away and self._placeholder is not None and now_ns >= self._next_placeholder_ns:
            # While it is drawn, which takes milliseconds, the source may come back.
            publish = self._placeholder(state, reason)
            with self._lock:
                if (self.state, self.reason) == (state, reason) and not self._frame_comes:
                    self._next_placeholder_ns = now_ns + PLACEHOLDER_INTERVAL_NS
                    publish()

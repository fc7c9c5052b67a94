"""Several sources, each captured by a process of its own, started again when it dies or hangs."""

import logging
import os
import select
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any, Final, Self

from billiards_shm import BilliardsShmError, WriterExistsError, _core
from billiards_shm.config.address import SourceAddress
from billiards_shm.config.model import Settings, SourceConfig
from billiards_shm.errors import ConfigurationError
from billiards_shm.service.exit_codes import EXIT_FAILURE, EXIT_OK, EXIT_SOME_FAILED
from billiards_shm.service.shutdown import SIGNALS
from billiards_shm.service.systemd import ServiceNotifier
from billiards_shm.supervise.source import SourceReport, SupervisedSource, SupervisedState

__all__ = ["Supervisor", "check_sources", "summary"]

TAKEN_PATIENCE_SEC: Final = 3.0
"""For names that the children of a supervisor which was just killed still have."""
REPORT_INTERVAL_SEC: Final = 0.5
LONGEST_NAP_SEC: Final = 5.0
LAST_WAIT_SEC: Final = 2.0
"""For processes that were killed at the end, before they are left to the kernel."""

_log = logging.getLogger(__name__)


class Supervisor:
    """Keeps every source captured until it is asked to stop, or none has anything more to give.

    One thread, which sleeps until a signal, a word of a child, or a moment that one of them waits for. A source's
    failures touch no other source.

    Parameters
    ----------
    settings : Settings
        What the sources share: slots, process, logging.
    sources : sequence of SourceConfig
    frames : int, optional
        Of each source.
    on_reports : callable, optional
        Is given how every source is, about twice a second.
    on_log : callable, optional
        Is given each line that the children log, which otherwise goes to standard error directly.
    notifier : ServiceNotifier, optional
    origin : str
        Where the settings came from, for the log.

    Raises
    ------
    ConfigurationError
        There is no source, or two would write into one segment, or have one port for their metrics.
    """

    def __init__(
        self,
        settings: Settings,
        sources: Sequence[SourceConfig],
        *,
        frames: int | None = None,
        on_reports: Callable[[Sequence[SourceReport]], None] | None = None,
        on_log: Callable[[str], None] | None = None,
        notifier: ServiceNotifier | None = None,
        origin: str = "",
    ) -> None:
        check_sources(sources)
        port = settings.video.process.metrics_port
        if port and len(sources) > 1:
            raise ConfigurationError(
                f"video.process.metrics_port is {port}, one port for {len(sources)} processes: leave it out; "
                "`billiards-shm serve` has the metrics of all segments"
            )
        _compare_timeouts(settings.video.process.hang_timeout, sources)
        self._origin = origin
        self._timeout = settings.video.process.shutdown_timeout
        self._sources = [SupervisedSource(settings, source, frames=frames, on_log=on_log) for source in sources]
        self._on_reports = on_reports
        self._notifier = notifier or ServiceNotifier()
        self._stopped_by: int | None = None
        self._kill_at: float | None = None
        self._next_report = 0.0
        self._summary_interval = settings.logging.stats_interval_sec

    def run(self) -> int:
        """Supervise. To be called from the main thread, which alone receives signals, and whose end is the children's.

        Returns
        -------
        int
            The exit code. 0: a signal asked for the end, or every source is finished. Otherwise every source has come
            to an end and some failed for good: 5 if others worked, else the code that the first of them ended with.
            128 + signal: a second signal.

        Raises
        ------
        WriterExistsError
            Other processes have all the names.
        """
        if self._origin:
            _log.info("Configuration: %s", self._origin)
        _log.info("Supervising %d sources: %s", len(self._sources), ", ".join(each.name for each in self._sources))
        began = time.monotonic()
        self._next_summary = began + self._summary_interval
        with _Inbox() as inbox:
            try:
                while not all(source.over for source in self._sources):
                    self._round(inbox)
                    self._check_names(time.monotonic() - began)
                    if self._given_up(time.monotonic()):
                        break
            finally:
                self._end_all()
        self._notifier.stopping()
        return self._result()

    # One round.

    def _round(self, inbox: "_Inbox") -> None:
        self._listen(inbox)
        now = time.monotonic()
        for number in inbox.take():
            self._signalled(number, now)
        for source in self._sources:
            source.reap(now)
        _bury_orphans({source.pid for source in self._sources})
        for source in self._sources:
            source.look(now)
        self._tell(now)

    def _listen(self, inbox: "_Inbox") -> None:
        """Sleep until there is something to do, and read what came."""
        poll = select.poll()
        poll.register(inbox.fileno(), select.POLLIN)
        readers: dict[int, Callable[[float], None]] = {}
        for source in self._sources:
            readers.update(source.channels())
        for descriptor in readers:
            poll.register(descriptor, select.POLLIN)
        ready = poll.poll(self._nap() * 1000)
        # After the sleep: a supervisor that was stopped for long would else take its children for silent.
        now = time.monotonic()
        for descriptor, _ in ready:
            if descriptor in readers:
                readers[descriptor](now)

    def _nap(self) -> float:
        moments = [source.due for source in self._sources]
        moments += [self._next_summary, self._next_report if self._on_reports else None, self._kill_at]
        nap = min(moment for moment in moments if moment is not None) - time.monotonic()
        longest = min(LONGEST_NAP_SEC, self._notifier.ping_interval_sec or LONGEST_NAP_SEC)
        return max(0.0, min(nap, longest))

    def _signalled(self, number: int, now: float) -> None:
        if number not in SIGNALS:
            return
        name = signal.Signals(number).name
        if self._stopped_by is None:
            _log.info("%s: stopping %d processes", name, sum(source.pid is not None for source in self._sources))
            self._stopped_by, self._kill_at = number, now + self._timeout + LAST_WAIT_SEC
            self._notifier.stopping()
            for source in self._sources:
                source.stop(now, self._timeout)
        else:
            _log.warning("%s again: ending at once", name)
            self._stopped_by = -number
            self._kill_at = now + LAST_WAIT_SEC
            for source in self._sources:
                source.kill(now)

    def _check_names(self, elapsed: float) -> None:
        """Give up if others have all names, and keep them."""
        taken = [source for source in self._sources if source.taken_by is not None]
        if elapsed < TAKEN_PATIENCE_SEC or len(taken) < len(self._sources):
            return
        names = ", ".join(f"{source.name} (process {source.taken_by})" for source in taken)
        raise WriterExistsError(f"other processes capture under all of these names: {names}; stop them first")

    def _given_up(self, now: float) -> bool:
        """Whether what is left cannot be ended by anybody but the kernel."""
        return self._kill_at is not None and now >= self._kill_at

    def _end_all(self) -> None:
        """Leave no process behind, however the loop ended."""
        now = time.monotonic()
        for source in self._sources:
            source.kill(now)
        until = now + LAST_WAIT_SEC
        while time.monotonic() < until and any(source.pid is not None for source in self._sources):
            time.sleep(0.01)
            for source in self._sources:
                source.reap(time.monotonic())

    # What others learn.

    def _tell(self, now: float) -> None:
        # A round was made, in which every child was judged: those that do nothing are being ended.
        self._notifier.alive()
        if all(source.settled or source.over for source in self._sources):
            self._notifier.ready()
        if self._on_reports is not None and now >= self._next_report:
            self._next_report = now + REPORT_INTERVAL_SEC
            self._show(self.reports())
        if now >= self._next_summary:
            self._next_summary = max(self._next_summary, now - self._summary_interval) + self._summary_interval
            _log.info("%s", summary(self.reports()))
        if self._stopped_by is None:
            self._notifier.status(summary(self.reports(), briefly=True))

    def reports(self) -> list[SourceReport]:
        """How every source is, in the order of the configuration."""
        now = time.monotonic()
        return [source.report(now) for source in self._sources]

    def _show(self, reports: Sequence[SourceReport]) -> None:
        assert self._on_reports is not None
        try:
            self._on_reports(reports)
        except Exception as error:
            # A display that failed, most often because its terminal is gone, is no reason to stop.
            self._on_reports = None
            _log.warning("No more live table: %s: %s", type(error).__name__, error)

    def _result(self) -> int:
        left = [f"{source.name} (process {source.pid})" for source in self._sources if source.pid is not None]
        if left:
            _log.error("Left behind, as they could not be ended: %s", ", ".join(left))
            return EXIT_FAILURE
        if self._stopped_by is not None:
            _log.info("All %d sources are stopped", len(self._sources))
            return EXIT_OK if self._stopped_by > 0 else 128 - self._stopped_by
        failed = [source for source in self._sources if source.state is SupervisedState.FAILED]
        every = len(self._sources)
        _log.info("%d of %d sources are finished, %d failed", every - len(failed), every, len(failed))
        if not failed:
            return EXIT_OK
        return EXIT_SOME_FAILED if any(source.worked for source in self._sources) else failed[0].exit_code


class _Inbox:
    """Signals, as something to listen to."""

    def __enter__(self) -> Self:
        self._arrived: deque[int] = deque()
        self._reading, self._writing = socket.socketpair()
        self._reading.setblocking(False)
        self._writing.setblocking(False)
        self._previous_wakeup = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        self._previous: dict[int, Any] = {}
        for number in (*SIGNALS, signal.SIGCHLD):
            # `nohup` ignores SIGHUP for us. Shells ignore SIGINT for background jobs too, but nobody asks them to.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._previous_wakeup)
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._reading.close()
        self._writing.close()

    def fileno(self) -> int:
        """What becomes readable when a signal came."""
        return self._reading.fileno()

    def take(self) -> list[int]:
        """Signals since the last call."""
        try:
            while self._reading.recv(4096):
                pass
        except BlockingIOError:
            pass
        taken = []
        while self._arrived:
            taken.append(self._arrived.popleft())
        return taken

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._arrived.append(number)


def _bury_orphans(own: set[int | None]) -> None:
    """Reap children that are not ours to wait for: the first process of a container gets everybody's orphans."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        # One of ours that ended since it was looked at would be found again and again; the next round has it.
        if found is None or found.si_pid in own:
            return
        os.waitpid(found.si_pid, 0)


def check_sources(sources: Sequence[SourceConfig]) -> None:
    """Look for what cannot work however often it is tried.

    Raises
    ------
    ConfigurationError
        There is no source, or two would write into one segment: says which two.
    """
    if not sources:
        raise ConfigurationError(
            "video.sources is []; `run` captures what it lists: "
            '[{"name": "table_1", "camera": {"device_id": 0}}, ...]; `capture` captures vision.camera'
        )
    seen: dict[str, int] = {}
    problems = []
    for index, source in enumerate(sources):
        try:
            earlier = seen.setdefault(os.path.realpath(_core.object_path(source.name)), index)
        except BilliardsShmError as error:
            problems.append(f"video.sources[{index}].name: {error}")
            continue
        if earlier != index:
            both = " and ".join(
                f"video.sources[{each}].name is {sources[each].name!r} "
                f"(of {SourceAddress.parse(sources[each].camera.device_id)})"
                for each in (earlier, index)
            )
            problems.append(f"{both}, which is one segment; each source needs one of its own")
    for source in sources:
        address = SourceAddress.parse(source.camera.device_id)
        if address.descriptor is not None:
            problems.append(
                f"{source.name}: {address} belongs to this process, and each source gets a process of its own: "
                "use a named pipe (mkfifo), or `capture` without --supervise"
            )
    if problems:
        raise ConfigurationError("\n".join(problems))


def _compare_timeouts(hang_timeout: float, sources: Sequence[SourceConfig]) -> None:
    """Warn of sources that may rightly be silent for longer than it takes to count as hanging."""
    for source in sources:
        camera = source.camera
        longest = max(("open_timeout_sec", "read_timeout_sec"), key=lambda key: float(getattr(camera, key)))
        if getattr(camera, longest) >= hang_timeout and SourceAddress.parse(camera.device_id).live:
            _log.warning(
                "%s: its %s is %g, but it counts as hanging after %g s without progress (video.process.hang_timeout)",
                *(source.name, longest, getattr(camera, longest), hang_timeout),
            )


_OTHERWISE: Final = {
    SupervisedState.STARTING: "starting",
    SupervisedState.RECONNECTING: "reconnecting",
    SupervisedState.HUNG: "hung",
    SupervisedState.WAITING: "waiting to be started again",
    SupervisedState.FINISHED: "finished",
    SupervisedState.FAILED: "failed for good",
}


def summary(reports: Sequence[SourceReport], *, briefly: bool = False) -> str:
    """Say in a line how many of the sources do what, and what is wrong with the others.

    Parameters
    ----------
    reports : sequence of SourceReport
    briefly : bool
        Without what changes from second to second.
    """
    counts = Counter(report.state for report in reports)
    parts = [f"{counts[SupervisedState.STREAMING]} of {len(reports)} sources capture"]
    parts += [f"{counts[state]} {words}" for state, words in _OTHERWISE.items() if counts[state]]
    troubles = [f"{report.name}: {_trouble(report, briefly)}" for report in reports if report.reason]
    return "; ".join([", ".join(parts), *troubles])


def _trouble(report: SourceReport, briefly: bool) -> str:
    if briefly or report.next_start_s is None:
        return report.reason
    return f"{report.reason}, again in {report.next_start_s:.0f} s"

"""Keeps several tasks running, each in its own process, which is restarted when it dies or hangs."""

import logging
import os
import select
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from billiards_shm import BilliardsShmError, WriterExistsError, _core
from billiards_shm.config.address import SourceAddress
from billiards_shm.config.model import MirroredConfig, Settings, SourceConfig
from billiards_shm.errors import ConfigurationError
from billiards_shm.mirror.keys import Wanted
from billiards_shm.record.files import check_file
from billiards_shm.service.exit_codes import EXIT_FAILURE, EXIT_OK, EXIT_SOME_FAILED
from billiards_shm.service.signals import StopSignals
from billiards_shm.service.systemd import ServiceNotifier
from billiards_shm.supervise.process import ProcessReport, SupervisedProcess
from billiards_shm.supervise.state import SupervisedState
from billiards_shm.supervise.tasks import CaptureTask, ReceiveTask, RecordTask, SendTask, Task

__all__ = ["Supervisor", "check_sources", "summary"]

NAMES_TAKEN_SEC: Final = 3.0
"""How long all names may be taken at first. Children of a supervisor that was just killed keep theirs for a moment."""
TABLE_INTERVAL_SEC: Final = 0.5
LONGEST_SLEEP_SEC: Final = 5.0
KILL_WAIT_SEC: Final = 2.0
"""How long processes that were killed may take to end, before they are left to the kernel."""

_log = logging.getLogger(__name__)


class Supervisor:
    """Keeps every source captured until a signal requests a stop, or all sources are finished or failed.

    Other tasks, such as recording them, end with the sources.

    It has one thread, which sleeps until a signal, a message of a child, or the next deadline. A failure of one source
    affects no other.

    Parameters
    ----------
    settings : Settings
        What the sources share: slots, process, logging.
    sources : sequence of SourceConfig
    mirror : bool
        Whether to offer and copy segments as `mirror` says.
    frames : int, optional
        Stop each source after this many frames.
    on_reports : callable, optional
        Called with a report on every source, about twice a second, until it raises.
    on_log : callable, optional
        Called with each line that a child logs. By default children log to standard error themselves.
    notifier : ServiceNotifier, optional
    origin : str
        Where the settings came from, for the log.

    Raises
    ------
    ConfigurationError
        There is no source; two sources share one segment; several sources share one port for their metrics.
    """

    def __init__(
        self,
        settings: Settings,
        sources: Sequence[SourceConfig],
        *,
        mirror: bool = False,
        frames: int | None = None,
        on_reports: Callable[[Sequence[ProcessReport]], None] | None = None,
        on_log: Callable[[str], None] | None = None,
        notifier: ServiceNotifier | None = None,
        origin: str = "",
    ) -> None:
        received = settings.mirror.receive if mirror else ()
        check_sources(sources, received)
        port = settings.video.process.metrics_port
        processes = len(sources) + len(received)
        if port and processes > 1:
            raise ConfigurationError(
                f"video.process.metrics_port is {port}, one port for {processes} processes: leave it out; "
                "`billiards-shm serve` has the metrics of all segments"
            )
        _compare_timeouts(settings.video.process.hang_timeout, sources)
        self._origin = origin
        self._timeout = settings.video.process.shutdown_timeout
        tasks: list[Task] = [CaptureTask(settings, source, frames) for source in sources]
        tasks += [ReceiveTask(settings, each) for each in received]
        tasks += [SendTask(settings)] if mirror and settings.mirror.send else []
        tasks += [RecordTask(settings, source, source.record) for source in sources if source.record is not None]
        self._processes = [SupervisedProcess(task, settings.video.process, on_log=on_log) for task in tasks]
        self._sources = [process for process in self._processes if not process.task.beside_sources]
        self._update_table = on_reports
        self._notifier = notifier or ServiceNotifier()
        self._stopped_by: signal.Signals | None = None
        self._killed_by: signal.Signals | None = None
        self._refused: WriterExistsError | None = None
        self._give_up_at: float | None = None
        self._next_table = 0.0
        self._summary_interval = settings.logging.stats_interval_sec

    def run(self) -> int:
        """Supervise. Call it from the main thread: only that receives signals, and children die with it.

        Returns
        -------
        int
            The exit code. 0: stopped by a signal, or every source is finished. 128 + signal: ended by a second signal.
            Otherwise some sources failed for good: 5 if others worked, else the exit code of the first that failed.

        Raises
        ------
        WriterExistsError
            Other processes have had all of the names from the start.
        """
        if self._origin:
            _log.info("Configuration: %s", self._origin)
        _log.info(
            "Supervising %s: %s", _counted(len(self._sources), "source"), ", ".join(each.name for each in self._sources)
        )
        started = time.monotonic()
        self._next_summary = started + self._summary_interval
        with StopSignals(also=(signal.SIGCHLD,)) as signals:
            try:
                while not all(process.over for process in self._processes):
                    self._run_once(signals)
                    self._end_with_sources()
                    self._check_names(time.monotonic() - started)
                    if self._give_up_at is not None and time.monotonic() >= self._give_up_at:
                        break
            finally:
                self._kill_all()
        self._notifier.stopping()
        if self._refused is not None:
            raise self._refused
        return self._exit_code()

    # One round.

    def _run_once(self, signals: StopSignals) -> None:
        self._wait_for_events(signals)
        now = time.monotonic()
        while (number := signals.receive(0)) is not None:
            self._handle_signal(number, now)
        for process in self._processes:
            process.check_exit(now)
        _reap_orphans({process.pid for process in self._processes})
        for process in self._processes:
            process.update(now)
        self._report(now)

    def _wait_for_events(self, signals: StopSignals) -> None:
        """Sleep until a signal, a message or a deadline, and read the messages."""
        poll = select.poll()
        poll.register(signals.fileno(), select.POLLIN)
        readers: dict[int, Callable[[float], None]] = {}
        for process in self._processes:
            readers.update(process.descriptors())
        for descriptor in readers:
            poll.register(descriptor, select.POLLIN)
        ready = poll.poll(self._seconds_to_deadline() * 1000)
        # Take the time after the sleep: otherwise, after a long stop of the supervisor, all children seem to hang.
        now = time.monotonic()
        for descriptor, _ in ready:
            if descriptor in readers:
                readers[descriptor](now)

    def _seconds_to_deadline(self) -> float:
        deadlines = [process.deadline for process in self._processes]
        deadlines += [self._next_summary, self._next_table if self._update_table else None, self._give_up_at]
        seconds = min(deadline for deadline in deadlines if deadline is not None) - time.monotonic()
        longest = min(LONGEST_SLEEP_SEC, self._notifier.ping_interval_sec or LONGEST_SLEEP_SEC)
        return max(0.0, min(seconds, longest))

    def _handle_signal(self, number: signal.Signals, now: float) -> None:
        if self._stopped_by is None:
            running = sum(process.pid is not None for process in self._processes)
            _log.info("%s: stopping %s", number.name, _counted(running, "process"))
            self._stopped_by = number
            self._stop_all(now)
        else:
            _log.warning("%s again: ending at once", number.name)
            self._killed_by, self._give_up_at = number, now + KILL_WAIT_SEC
            for process in self._processes:
                process.kill(now)

    def _stop_all(self, now: float) -> None:
        self._give_up_at = now + self._timeout + KILL_WAIT_SEC
        self._notifier.stopping()
        for process in self._processes:
            process.stop(now, self._timeout)

    def _end_with_sources(self) -> None:
        """Stop the other tasks once the sources are over."""
        if all(source.over for source in self._sources):
            now = time.monotonic()
            for process in self._processes:
                if process.state is not SupervisedState.STOPPING:
                    process.stop(now, self._timeout)

    def _check_names(self, elapsed: float) -> None:
        """Give up if other processes have held all names from the start.

        If a name is lost later, it is waited for.
        """
        if self._give_up_at is not None or any(source.has_worked for source in self._sources):
            return
        taken = [source for source in self._sources if source.name_taken_by is not None]
        if elapsed < NAMES_TAKEN_SEC or len(taken) < len(self._sources):
            return
        names = ", ".join(f"{source.name} (process {source.name_taken_by})" for source in taken)
        text = f"other processes capture under all of these names: {names}; stop them first"
        self._refused = WriterExistsError(text)
        self._stop_all(time.monotonic())

    def _kill_all(self) -> None:
        """End all processes, even if the loop failed."""
        now = time.monotonic()
        for process in self._processes:
            process.kill(now)
        until = now + KILL_WAIT_SEC
        while time.monotonic() < until and any(process.pid is not None for process in self._processes):
            time.sleep(0.01)
            for process in self._processes:
                process.check_exit(time.monotonic())

    # Reports.

    def _report(self, now: float) -> None:
        # All children were checked in this round, and those that hang are being ended: the supervisor works.
        self._notifier.alive()
        if all(source.first_attempt_done or source.over for source in self._sources):
            self._notifier.ready()
        if self._update_table is not None and now >= self._next_table:
            self._next_table = now + TABLE_INTERVAL_SEC
            self._draw_table(self._update_table)
        if now >= self._next_summary:
            self._next_summary = max(self._next_summary, now - self._summary_interval) + self._summary_interval
            _log.info("%s", summary(self.reports()))
        if self._stopped_by is None:
            self._notifier.status(summary(self.reports(), briefly=True))

    def reports(self) -> list[ProcessReport]:
        """A report on every task: the sources in the order of the configuration, then the others."""
        now = time.monotonic()
        return [process.report(now) for process in self._processes]

    def _draw_table(self, update: Callable[[Sequence[ProcessReport]], None]) -> None:
        try:
            update(self.reports())
        except Exception as error:
            # A table fails when its terminal is gone. Supervision goes on.
            self._update_table = None
            _log.warning("Live table stopped: %s: %s", type(error).__name__, error)

    def _exit_code(self) -> int:
        left = [f"{process.name} (process {process.pid})" for process in self._processes if process.pid is not None]
        if left:
            _log.error("These processes were killed but still run: %s", ", ".join(left))
            return EXIT_FAILURE
        if self._stopped_by is not None:
            _log.info("%s stopped", _counted(len(self._sources), "source"))
            return EXIT_OK if self._killed_by is None else 128 + self._killed_by
        failed = [process for process in self._processes if process.state is SupervisedState.FAILED]
        every = len(self._sources)
        lost = sum(source.state is SupervisedState.FAILED for source in self._sources)
        _log.info("%d of %d sources are finished, %d failed", every - lost, every, lost)
        if not failed:
            return EXIT_OK
        return EXIT_SOME_FAILED if any(source.has_worked for source in self._sources) else failed[0].exit_code


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def _reap_orphans(own: set[int | None]) -> None:
    """Reap children that are not sources: the first process of a container becomes the parent of all orphans."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        # A source's process that ended just now would be found each time. The next round handles it.
        if found is None or found.si_pid in own:
            return
        os.waitpid(found.si_pid, 0)


def check_sources(sources: Sequence[SourceConfig], received: Sequence[MirroredConfig] = ()) -> None:
    """Look for errors of the configuration that no restart would fix.

    Raises
    ------
    ConfigurationError
        There is no source, or two sources share one segment; copies of segments of other hosts count too.
    """
    if not sources and not received:
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
            problems.append(f"{both}, which is the same segment; each source needs its own")
    problems += _problems_of_copies(received, set(seen))
    for source in sources:
        address = SourceAddress.parse(source.camera.device_id)
        if address.descriptor is not None:
            problems.append(
                f"{source.name}: {address} belongs to this process, but each source gets its own process: "
                "use a named pipe (mkfifo), or `capture` without --supervise"
            )
    problems += _problems_of_recordings(sources)
    if problems:
        raise ConfigurationError("\n".join(problems))


def _problems_of_copies(received: Sequence[MirroredConfig], taken: set[str]) -> Iterator[str]:
    """What is wrong with the names of copies; segments at the `taken` paths are captured."""
    for index, mirrored in enumerate(received):
        name = mirrored.name or Wanted.parse(mirrored.origin).segment
        place = f"mirror.receive[{index}] ({mirrored.origin})"
        try:
            path = os.path.realpath(_core.object_path(name))
        except BilliardsShmError as error:
            yield f"{place}: {error}"
            continue
        if path in taken:
            yield f"{place}: {name!r} is the name of another source; give the copy its own `name`"
        taken.add(path)


def _problems_of_recordings(sources: Sequence[SourceConfig]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for source in sources:
        if source.record is None or source.record.file is None:
            continue
        file = Path(source.record.file)
        other = seen.setdefault(os.path.realpath(file), source.name)
        if other != source.name:
            yield f"{other} and {source.name} are both recorded to {file}; each source needs its own file"
        try:
            check_file(file, overwrite=True)  # each start makes a new one
        except ConfigurationError as error:
            yield f"{source.name}: record.file: {error}"


def _compare_timeouts(hang_timeout: float, sources: Sequence[SourceConfig]) -> None:
    """Warn of sources whose own timeouts are longer than the time after which they count as hanging."""
    for source in sources:
        camera = source.camera
        longest = max(("open_timeout_sec", "read_timeout_sec"), key=lambda key: float(getattr(camera, key)))
        if getattr(camera, longest) >= hang_timeout and SourceAddress.parse(camera.device_id).live:
            _log.warning(
                "%s: its %s is %g, but it counts as hanging after %g s without progress (video.process.hang_timeout)",
                *(source.name, longest, getattr(camera, longest), hang_timeout),
            )


_OTHER_STATES: Final = {
    SupervisedState.STARTING: "starting",
    SupervisedState.RECONNECTING: "reconnecting",
    SupervisedState.HUNG: "hung",
    SupervisedState.WAITING: "waiting to be started again",
    SupervisedState.FINISHED: "finished",
    SupervisedState.FAILED: "failed for good",
}


def summary(reports: Sequence[ProcessReport], *, briefly: bool = False) -> str:
    """Sum up in one line how many sources capture, what else is running, and what is wrong with the others.

    Parameters
    ----------
    reports : sequence of ProcessReport
    briefly : bool
        Without the times, which change every second.
    """
    kinds = Counter(report.kind for report in reports)
    busy = Counter(report.kind for report in reports if report.state is SupervisedState.STREAMING)
    counts = Counter(report.state for report in reports)
    sources = kinds.pop("capture", 0)
    parts = [f"{busy['capture']} of {sources} sources capture"] if sources or not kinds else []
    parts += [f"{busy[kind]} of {several} {kind}" for kind, several in kinds.items()]
    parts += [f"{counts[state]} {words}" for state, words in _OTHER_STATES.items() if counts[state]]
    troubles = [f"{report.name}: {_trouble(report, briefly)}" for report in reports if report.reason]
    return "; ".join([", ".join(parts), *troubles])


def _trouble(report: ProcessReport, briefly: bool) -> str:
    if briefly or report.next_start_s is None:
        return report.reason
    return f"{report.reason}, again in {report.next_start_s:.0f} s"

"""One supervised process: started, watched, and restarted when it ends or hangs."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from billiards_shm import SourceState
from billiards_shm.config.model import ProcessConfig
from billiards_shm.service.exit_codes import EXIT_OK, EXIT_SHARED_MEMORY, EXIT_USAGE
from billiards_shm.supervise.child_process import ChildProcess, describe_end
from billiards_shm.supervise.restart import RESTARTS_IN_WINDOW, WINDOW_SEC, RestartPolicy
from billiards_shm.supervise.state import SupervisedState
from billiards_shm.supervise.tasks import Task

__all__ = ["ProcessReport", "SupervisedProcess"]

STARTUP_SEC: Final = 30.0
"""Time for the first message of a new process, added to the hang timeout: a loaded machine imports slowly."""
PROGRESS_CHECK_SEC: Final = 1.0
"""Between two checks of the segment of a process that sends no messages."""
TERM_GRACE_SEC: Final = 2.0
"""Between SIGTERM and SIGKILL to a process that hangs."""
KILL_GRACE_SEC: Final = 5.0
"""How long the kernel may take to end a process that was killed."""

_log = logging.getLogger(__name__)


_OVER: Final = (SupervisedState.STOPPED, SupervisedState.FINISHED, SupervisedState.FAILED)
_ENDING: Final = (SupervisedState.HUNG, SupervisedState.STOPPING)


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """The state of one task at one moment."""

    name: str
    kind: str
    source: str
    state: SupervisedState
    reason: str
    pid: int | None
    fps: float
    frame_age_s: float | None
    width: int
    height: int
    frames: int
    restarts: int
    next_start_s: float | None


class SupervisedProcess:
    """Keeps one task running in its own process.

    Nothing here waits. The supervisor calls the methods with the monotonic time in seconds: those in `descriptors`
    when one is readable, `check_exit` and `update` in every round, no later than `deadline`.

    Parameters
    ----------
    task : Task
    config : ProcessConfig
        When a process counts as hanging, and how long it may take to stop.
    on_log : callable, optional
        Called with each line that the process writes to standard error. By default it inherits this process's.
    """

    def __init__(
        self,
        task: Task,
        config: ProcessConfig,
        *,
        on_log: Callable[[str], None] | None = None,
    ) -> None:
        self.name: Final = task.label
        self.task: Final = task
        self.state = SupervisedState.WAITING
        self.reason = ""
        self.restarts = 0
        self.exit_code = EXIT_OK
        self.deadline: float | None = 0.0
        """When `update` next has something to do, if nothing happens earlier."""
        self.name_taken_by: int | None = None
        """Process that had the name at the last attempt to start."""
        self.has_worked = False
        """Whether there was ever a frame."""
        self.first_attempt_done = False
        """Whether the first attempt has led to a frame, or failed."""
        self._frames_before = 0
        self._on_log = on_log
        self._policy = RestartPolicy()
        self._child: ChildProcess | None = None
        self._message_at = 0.0
        self._captured: int | None = None
        self._hang_timeout = config.hang_timeout
        self._shutdown_timeout = config.shutdown_timeout

    @property
    def pid(self) -> int | None:
        """Process id; None if there is no process."""
        return None if self._child is None else self._child.pid

    @property
    def over(self) -> bool:
        """Whether it is stopped, finished or failed."""
        return self.state in _OVER

    def descriptors(self) -> dict[int, Callable[[float], Any]]:
        """Descriptors to poll, each with what to call when it is readable."""
        return {} if self._child is None else self._child.descriptors()

    def report(self, now: float) -> ProcessReport:
        """Report the current state."""
        child = self._child
        progress = child.progress if child is not None else {}
        age = progress.get("frame_age_s")
        waiting = self.state is SupervisedState.WAITING and self.deadline is not None
        return ProcessReport(
            name=self.name,
            kind=self.task.kind,
            source=self.task.source,
            state=self.state,
            reason=self.reason,
            pid=self.pid,
            fps=progress.get("fps", 0.0) if self.state is SupervisedState.STREAMING else 0.0,
            frame_age_s=None if age is None or child is None else age + now - child.message_at,
            width=progress.get("width", 0),
            height=progress.get("height", 0),
            frames=self._frames_before + progress.get("frames", 0),
            restarts=self.restarts,
            next_start_s=max(0.0, self.deadline - now) if waiting and self.deadline is not None else None,
        )

    # Called by the supervisor.

    def update(self, now: float) -> None:
        """Apply the process's messages, and do what is due."""
        if self._child is not None and self.state not in _ENDING:
            self._apply_messages(self._child)
        if self.deadline is None or now < self.deadline:
            return
        if self._child is None:
            self._start(now)
        elif self.state in _ENDING:
            self._enforce_deadlines(self._child, now)
        else:
            self._check_progress(self._child, now)

    def stop(self, now: float, timeout: float) -> None:
        """Stop the process within `timeout` seconds, and start no other."""
        if self.over:
            return
        if self._child is None:
            self._stopped(EXIT_OK)
            return
        self.state, self.reason = SupervisedState.STOPPING, ""
        self.deadline = now + timeout
        self._child.terminate()

    def kill(self, now: float) -> None:
        """Kill the process, and start no other."""
        if self._child is not None:
            self.state, self.deadline = SupervisedState.STOPPING, now
            self._enforce_deadlines(self._child, now)

    def check_exit(self, now: float) -> None:
        """If the process has ended, decide by its exit code what to do."""
        child = self._child
        code = None if child is None else child.exit_code(now)
        if child is None or code is None:
            return
        self._apply_messages(child)
        self._child = None
        child.close()
        self.first_attempt_done = True
        self._frames_before += child.frames
        error = str(child.end_message.get("error", ""))
        if self.state is SupervisedState.STOPPING:
            self._stopped(code)
        elif code == EXIT_OK and child.end_message.get("finished"):
            self.state, self.deadline, self.reason = SupervisedState.FINISHED, None, ""
            _log.info("%s: finished after %d frames", self.name, self._frames_before)
        elif code == EXIT_USAGE:
            self.state, self.deadline, self.exit_code = SupervisedState.FAILED, None, code
            self.reason = error or "its configuration is wrong"
            _log.error("%s: failed for good: %s", self.name, self.reason)
        else:
            self.exit_code = code if code > 0 else 128 - code
            why = self.reason if self.state is SupervisedState.HUNG else describe_end(code)
            self._restart_later(now, ": ".join(filter(None, (why, error))), child.worked_sec)

    # Starting.

    def _start(self, now: float) -> None:
        self.name_taken_by = self.task.taken_by()
        if self.name_taken_by is not None:
            self.exit_code, self.first_attempt_done = EXIT_SHARED_MEMORY, True
            self._restart_later(now, f"the name is taken by process {self.name_taken_by}", 0.0)
            return
        try:
            job = {"label": self.name, **self.task.job(self._frames_before)}
            self._child = ChildProcess(self.task.name, self.task.kind, job, now, self._on_log)
        except OSError as error:
            self._restart_later(now, f"its process could not be started: {error.strerror}", 0.0)
            return
        self.state, self.reason = SupervisedState.STARTING, ""
        self._message_at, self._captured = now, None
        self.deadline = now + self._hang_timeout + STARTUP_SEC
        _log.info("%s: started process %d", self.name, self._child.pid)

    def _restart_later(self, now: float, why: str, worked_sec: float) -> None:
        """Start the next process after a delay."""
        delay = self._policy.next_delay(now, worked_sec)
        self.state, self.reason, self.deadline = SupervisedState.WAITING, why, now + delay
        self.restarts += 1
        limit = f" (at most {RESTARTS_IN_WINDOW} times in {WINDOW_SEC:g} s)" if self._policy.limited else ""
        _log.warning("%s: %s; starting it again in %.1f s%s", self.name, why, delay, limit)

    # Watching.

    def _apply_messages(self, child: ChildProcess) -> None:
        """Apply the process's last message."""
        if child.frames:
            self.has_worked = self.first_attempt_done = True
        if child.message_at == self._message_at or self.state in _ENDING:
            return
        self._message_at, self._captured = child.message_at, None
        self.deadline = child.message_at + self._hang_timeout
        if child.progress:
            self._source_state_changed(SourceState(child.progress["state"]), child.progress["reason"])

    def _source_state_changed(self, state: SourceState, reason: str) -> None:
        if state is SourceState.OPENING:
            return
        if state is not SourceState.STREAMING:
            self.state, self.reason = SupervisedState.RECONNECTING, reason
            return
        if self.state is not SupervisedState.STREAMING:
            _log.info("%s: %ss", self.task.name, self.task.kind)
        self.state, self.reason = SupervisedState.STREAMING, ""

    def _check_progress(self, child: ChildProcess, now: float) -> None:
        """Check its segment before a silent process is ended: messages may be lost, frames are not."""
        captured = self.task.captured(child.pid)
        if captured is not None and captured != self._captured:
            self._captured, self.deadline = captured, now + min(PROGRESS_CHECK_SEC, self._hang_timeout)
            return
        silent = now - child.message_at
        self.state, self.reason = SupervisedState.HUNG, f"no progress for {silent:.1f} s"
        _log.warning("%s: process %d hangs: %s; ending it", self.name, child.pid, self.reason)
        self.deadline = now + min(TERM_GRACE_SEC, self._shutdown_timeout)
        # Readers wait for the next process.
        child.terminate(superseded=True)

    # Ending.

    def _enforce_deadlines(self, child: ChildProcess, now: float) -> None:
        """Kill a process that did not end in time."""
        if not child.killed:
            _log.warning("%s: process %d did not end: killing it", self.name, child.pid)
            child.kill()
            self.deadline = now + KILL_GRACE_SEC
            return
        self.reason = "was killed but still runs: it hangs in the kernel, usually in a driver"
        _log.error("%s: process %d %s", self.name, child.pid, self.reason)
        self.deadline = None

    def _stopped(self, code: int) -> None:
        self.state, self.deadline, self.reason = SupervisedState.STOPPED, None, ""
        _log.info("%s: stopped%s", self.name, "" if code == EXIT_OK else f" ({describe_end(code)})")
        self.task.stopped()

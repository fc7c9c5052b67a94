"""One supervised source: what is done when its process ends or hangs."""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from billiards_shm import BilliardsShmError, SegmentStatus, inspect_segment, remove_stale_segments
from billiards_shm.config.address import SourceAddress
from billiards_shm.config.model import Settings, SourceConfig
from billiards_shm.service.exit_codes import EXIT_OK, EXIT_SHARED_MEMORY, EXIT_USAGE
from billiards_shm.supervise.child_process import ChildProcess, describe_end
from billiards_shm.supervise.restart import RESTARTS_IN_WINDOW, WINDOW_SEC, RestartPolicy

__all__ = ["SourceReport", "SupervisedSource", "SupervisedState"]

STARTUP_SEC: Final = 30.0
"""Until a new process says its first word: a loaded machine takes its time to import OpenCV."""
SECOND_LOOK_SEC: Final = 1.0
"""Between two looks at the segment of a process that says nothing."""
TERM_GRACE_SEC: Final = 2.0
"""Between asking a process that hangs to end, and killing it."""
KILL_GRACE_SEC: Final = 5.0
"""What the kernel may take to end a process that was killed."""
CHILD_SHARE: Final = 0.8
"""Of the shutdown timeout: within it a child whose source does not return ends by itself."""

_log = logging.getLogger(__name__)


class SupervisedState(StrEnum):
    """Of one supervised source."""

    STARTING = "starting"
    STREAMING = "streaming"
    RECONNECTING = "reconnecting"
    HUNG = "hung"
    """Is being ended, to be started anew."""
    WAITING = "waiting"
    """Until its next start."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    FINISHED = "finished"
    """Done, as a file without loop is at its end."""
    FAILED = "failed"
    """For good: starting it again would change nothing."""


_OVER: Final = (SupervisedState.STOPPED, SupervisedState.FINISHED, SupervisedState.FAILED)
_ENDING: Final = (SupervisedState.HUNG, SupervisedState.STOPPING)


@dataclass(frozen=True, slots=True)
class SourceReport:
    """How one source is at one moment."""

    name: str
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


class SupervisedSource:
    """Keeps one source captured by a process of its own.

    Nothing here waits: the supervisor calls, with the monotonic time in seconds, what `channels` say, and `reap` and
    `look` when time has passed.

    Parameters
    ----------
    settings : Settings
        For everything but name and camera.
    source : SourceConfig
    frames : int, optional
        Finish after so many frames.
    on_log : callable, optional
        Is given each line that the process writes to standard error, which otherwise goes where ours does.
    """

    def __init__(
        self,
        settings: Settings,
        source: SourceConfig,
        *,
        frames: int | None = None,
        on_log: Callable[[str], None] | None = None,
    ) -> None:
        self.name = source.name
        self.state = SupervisedState.WAITING
        self.reason = ""
        self.restarts = 0
        self.exit_code = EXIT_OK
        self.due: float | None = 0.0
        """When `look` has to be called at the latest."""
        self.taken_by: int | None = None
        """Process that has the name, seen at the last attempt to start."""
        self.worked = False
        """Whether it ever gave a frame."""
        self.settled = False
        """Whether the first attempt came to a result."""
        self._settings = settings
        self._source = source
        self._frames_left = frames
        self._frames_before = 0
        self._on_log = on_log
        self._policy = RestartPolicy()
        self._child: ChildProcess | None = None
        self._heard_at = 0.0
        self._published: int | None = None
        self._hang_timeout = settings.video.process.hang_timeout

    @property
    def pid(self) -> int | None:
        """Of the process, if there is one."""
        return None if self._child is None else self._child.pid

    @property
    def over(self) -> bool:
        """Whether there is nothing more to come."""
        return self.state in _OVER

    def channels(self) -> dict[int, Callable[[float], Any]]:
        """Descriptors to listen to, and what to call, with the time, when there is something."""
        return {} if self._child is None else self._child.channels()

    def report(self, now: float) -> SourceReport:
        """Say how it is."""
        child, told = self._child, self._child.told if self._child is not None else {}
        age = told.get("frame_age_s")
        waiting = self.state is SupervisedState.WAITING and self.due is not None
        return SourceReport(
            name=self.name,
            source=str(SourceAddress.parse(self._source.camera.device_id)),
            state=self.state,
            reason=self.reason,
            pid=self.pid,
            fps=told.get("fps", 0.0) if self.state is SupervisedState.STREAMING else 0.0,
            frame_age_s=None if age is None or child is None else age + now - child.told_at,
            width=told.get("width", 0),
            height=told.get("height", 0),
            frames=self._frames_before + told.get("frames_captured", 0),
            restarts=self.restarts,
            next_start_s=max(0.0, self.due - now) if waiting and self.due is not None else None,
        )

    # What is done.

    def look(self, now: float) -> None:
        """Take in what the process said, and do what is due."""
        if self._child is not None and self.state not in _ENDING:
            self._read_reports(self._child)
        if self.due is None or now < self.due:
            return
        if self._child is None:
            self._start(now)
        elif self.state in _ENDING:
            self._enforce_deadlines(self._child, now)
        else:
            self._check_progress(self._child, now)

    def stop(self, now: float, timeout: float) -> None:
        """End the process, within `timeout` seconds, and start no other."""
        if self.over:
            return
        if self._child is None:
            self._stopped(EXIT_OK)
            return
        self.state, self.reason = SupervisedState.STOPPING, ""
        self.due = now + timeout
        self._child.terminate()

    def kill(self, now: float) -> None:
        """End the process at once, and start no other."""
        if self._child is not None:
            self.state, self.due = SupervisedState.STOPPING, now
            self._enforce_deadlines(self._child, now)

    def reap(self, now: float) -> None:
        """See what is to be done if the process has ended."""
        child = self._child
        code = None if child is None else child.ended(now)
        if child is None or code is None:
            return
        self._read_reports(child)
        self._child = None
        child.close()
        self.settled = True
        self._frames_before += child.frames
        if self._frames_left is not None:
            self._frames_left = max(1, self._frames_left - child.frames)
        error = str(child.last_words.get("error", ""))
        if self.state is SupervisedState.STOPPING:
            self._stopped(code)
        elif code == EXIT_OK and child.last_words.get("finished"):
            self.state, self.due, self.reason = SupervisedState.FINISHED, None, ""
            _log.info("%s: finished after %d frames", self.name, self._frames_before)
        elif code == EXIT_USAGE:
            self.state, self.due, self.exit_code = SupervisedState.FAILED, None, code
            self.reason = error or "its configuration is wrong"
            _log.error("%s: failed for good: %s", self.name, self.reason)
        else:
            self.exit_code = code if code > 0 else 128 - code
            why = self.reason if self.state is SupervisedState.HUNG else describe_end(code)
            self._wait(now, ": ".join(filter(None, (why, error))), child.worked_sec)

    # Starting.

    def _start(self, now: float) -> None:
        self.taken_by = _living_writer(self.name)
        if self.taken_by is not None:
            self.exit_code, self.settled = EXIT_SHARED_MEMORY, True
            self._wait(now, f"the name is taken by process {self.taken_by}", 0.0)
            return
        try:
            self._child = ChildProcess(self.name, self._order(), now, self._on_log)
        except OSError as error:
            self._wait(now, f"cannot be started: {error.strerror}", 0.0)
            return
        self.state, self.reason = SupervisedState.STARTING, ""
        self._heard_at, self._published = now, None
        self.due = now + self._hang_timeout + STARTUP_SEC
        _log.info("%s: started process %d", self.name, self._child.pid)

    def _order(self) -> dict[str, Any]:
        video = self._settings.video
        # Within its share a child whose source does not return ends by itself, before it is killed.
        process = {"shutdown_timeout": video.process.shutdown_timeout * CHILD_SHARE}
        changed = {
            "shared_memory_name": self.name,
            "sources": (),
            "process": video.process.model_copy(update=process),
        }
        vision = {"camera": self._source.camera}
        settings = self._settings.model_copy(
            update={
                "video": video.model_copy(update=changed),
                "vision": self._settings.vision.model_copy(update=vision),
            }
        )
        return {"settings": settings.model_dump(mode="json", by_alias=True), "frames": self._frames_left}

    def _wait(self, now: float, why: str, worked_sec: float) -> None:
        """Start the next process in a while."""
        delay = self._policy.next_delay(now, worked_sec)
        self.state, self.reason, self.due = SupervisedState.WAITING, why, now + delay
        self.restarts += 1
        limit = f" (at most {RESTARTS_IN_WINDOW} times in {WINDOW_SEC:g} s)" if self._policy.limited else ""
        _log.warning("%s: %s; starting it again in %.1f s%s", self.name, why, delay, limit)

    # Watching.

    def _read_reports(self, child: ChildProcess) -> None:
        """Learn from what the process said last."""
        if child.frames:
            self.worked = self.settled = True
        if child.told_at == self._heard_at or self.state in _ENDING:
            return
        self._heard_at, self._published = child.told_at, None
        self.due = child.told_at + self._hang_timeout
        if child.told:
            self._log_state_change(child.told["state"], child.told["reason"])

    def _log_state_change(self, state: str, reason: str) -> None:
        if state == "opening":
            return
        if state != "streaming":
            self.state, self.reason = SupervisedState.RECONNECTING, reason
            return
        if self.state is not SupervisedState.STREAMING:
            _log.info("%s: captures", self.name)
        self.state, self.reason = SupervisedState.STREAMING, ""

    def _check_progress(self, child: ChildProcess, now: float) -> None:
        """Ask the segment before a silent process is ended: messages may have been lost, frames are not."""
        published = None
        with contextlib.suppress(BilliardsShmError):
            info = inspect_segment(self.name)
            published = info.published if info.writer_pid == child.pid else None
        if published is not None and published != self._published:
            self._published, self.due = published, now + min(SECOND_LOOK_SEC, self._hang_timeout)
            return
        silent = now - child.told_at
        self.state, self.reason = SupervisedState.HUNG, f"no progress for {silent:.1f} s"
        _log.warning("%s: process %d hangs: %s; ending it", self.name, child.pid, self.reason)
        self.due = now + min(TERM_GRACE_SEC, self._settings.video.process.shutdown_timeout)
        # Readers shall wait for the next.
        child.terminate(superseded=True)

    # Ending.

    def _enforce_deadlines(self, child: ChildProcess, now: float) -> None:
        """Kill what did not end when it was asked to."""
        if not child.killed:
            _log.warning("%s: process %d did not end: killing it", self.name, child.pid)
            child.kill()
            self.due = now + KILL_GRACE_SEC
            return
        self.reason = "was killed and does not end: it hangs in the kernel, most often in a driver"
        _log.error("%s: process %d %s", self.name, child.pid, self.reason)
        self.due = None

    def _stopped(self, code: int) -> None:
        self.state, self.due, self.reason = SupervisedState.STOPPED, None, ""
        _log.info("%s: stopped%s", self.name, "" if code == EXIT_OK else f" ({describe_end(code)})")
        # Nobody will come to take over what a process left that could not close it.
        with contextlib.suppress(BilliardsShmError):
            remove_stale_segments([self.name])


def _living_writer(name: str) -> int | None:
    """Process that has the name already, in its own container's counting; None: nobody."""
    try:
        info = inspect_segment(name)
    except BilliardsShmError:
        # The child says what is wrong with the name, better than we could.
        return None
    return info.writer_pid if info.status is SegmentStatus.LIVE else None

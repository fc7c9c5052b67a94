"""A process that a supervisor starts, as ``python -m billiards_shm.supervise.child KIND NAME``.

Its standard input is a socket to the supervisor. It gets its job through that, so that passwords in URLs appear in no
command line and no environment. It sends messages about its progress back.
"""

import ctypes
import errno
import logging
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from billiards_shm import SourceState
from billiards_shm.capture.observers import TakeSnapshot
from billiards_shm.config.model import Settings
from billiards_shm.errors import BilliardsShmError
from billiards_shm.service.exit_codes import EXIT_OK, EXIT_USAGE, exit_code_of, text_of
from billiards_shm.service.logs import configure_logging
from billiards_shm.supervise.link import Progress, SupervisorLink

__all__ = ["RUNNERS", "main"]

_PR_SET_PDEATHSIG: Final = 1

_log = logging.getLogger(__name__)


class _CaptureObserver:
    """Sends the progress of a capture process."""

    def __init__(self, link: SupervisorLink) -> None:
        self._link = link
        self._snapshot: TakeSnapshot | None = None

    @property
    def superseded(self) -> bool:
        """Whether the supervisor announced a successor."""
        return self._link.superseded

    def started(self, snapshot: TakeSnapshot) -> None:
        """Send that the loop starts."""
        self._snapshot = snapshot
        self._link.started()

    def progress(self) -> None:
        """Send the progress, if that is due."""
        if self._link.due:
            self._send_progress()

    def stopping(self) -> None:
        """The supervisor asked for the stop, so nothing is sent to it."""

    def ended(self, error: str, *, finished: bool) -> None:
        """Send why the loop is over."""
        self._send_progress()
        self._link.ended(error, finished=finished)

    def _send_progress(self) -> None:
        if self._snapshot is not None:
            now = self._snapshot()
            self._link.progress(
                Progress(now.state, now.reason, now.frames_captured, now.fps, now.frame_age_s, now.width, now.height)
            )


def _capture(settings: Settings, job: dict[str, Any], link: SupervisorLink) -> int:
    from billiards_shm.capture.process import run_capture

    return run_capture(settings, frames=job["frames"], observer=_CaptureObserver(link))


def _record(settings: Settings, job: dict[str, Any], link: SupervisorLink) -> int:
    from billiards_shm.record.files import FolderError
    from billiards_shm.record.process import run_recording
    from billiards_shm.record.recorder import RecordingSnapshot, statistics_log

    log = statistics_log(settings.logging.stats_interval_sec)

    def report(now: RecordingSnapshot) -> None:
        log(now)
        if link.due:
            link.progress(Progress(now.state, now.reason, now.frames, now.fps, now.frame_age_s, now.width, now.height))

    link.started()
    try:
        run_recording(settings.video.shared_memory_name, settings.record, dated=True, on_progress=report)
    except FolderError as error:
        # It was there when the supervisor started: a missing disk, rather than a wrong configuration.
        raise OSError(errno.ENOENT, str(error)) from error
    link.ended("", finished=False)
    return EXIT_OK


def _receive(settings: Settings, job: dict[str, Any], link: SupervisorLink) -> int:
    from billiards_shm.mirror.process import run_receive

    return run_receive(settings, settings.mirror.receive[0], observer=_CaptureObserver(link))


def _send(settings: Settings, job: dict[str, Any], link: SupervisorLink) -> int:
    from billiards_shm.mirror.process import run_send

    def report(frames: int) -> None:
        if link.due:
            link.progress(Progress(SourceState.STREAMING, "", frames, 0.0, None, 0, 0))

    link.started()
    code = run_send(settings, settings.mirror.send, on_progress=report)
    link.ended("", finished=False)
    return code


RUNNERS: Final[dict[str, Callable[[Settings, dict[str, Any], SupervisorLink], int]]] = {
    "capture": _capture,
    "record": _record,
    "receive": _receive,
    "send": _send,
}
"""For each kind of task, the function that does it and returns the exit code. Each imports only what it needs."""


def main() -> int:
    """Do the job that the supervisor sends, until it stops this process; return the exit code."""
    _die_with_supervisor()
    link = SupervisorLink.from_standard_input()
    job = link.receive_job()
    if job is None:
        return EXIT_OK
    kind = sys.argv[1]
    settings = Settings(**job["settings"])
    configure_logging(settings.logging.level, settings.logging.as_json, source=job["label"])
    try:
        return RUNNERS[kind](settings, job, link)
    except (BilliardsShmError, OSError, ImportError) as error:
        text = text_of(error)
        _log.error("%s", text)
        link.ended(text, finished=False)
        # The next process would lack the package, too.
        return EXIT_USAGE if isinstance(error, ImportError) else exit_code_of(error)


def _die_with_supervisor() -> None:
    """Let the kernel kill this process when its supervisor dies and can no longer stop it.

    The segment stays. A child of the next supervisor takes it over, and readers wait for that one.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())

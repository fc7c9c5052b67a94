"""The capture process, from settings to exit code."""

import contextlib
import gc
import logging
import os
import signal
from collections.abc import Callable, Iterator
from typing import Final

from billiards_shm.capture.loop import CaptureLoop
from billiards_shm.capture.observers import CaptureObserver, ServiceObserver
from billiards_shm.capture.profile import FrameProfile
from billiards_shm.capture.stats import StatisticsSnapshot
from billiards_shm.config.model import CameraConfig, Settings, native_name
from billiards_shm.errors import BilliardsShmError, ConfigurationError, WriterExistsError
from billiards_shm.monitor.health import living_writer
from billiards_shm.service.exit_codes import EXIT_FAILURE, EXIT_OK, exit_code_of
from billiards_shm.service.logs import log_without_waiting
from billiards_shm.service.signals import StopRequest
from billiards_shm.service.systemd import ServiceNotifier
from billiards_shm.sources.open import open_source
from billiards_shm.sources.protocol import FrameSource, Image

__all__ = ["run_capture"]

CLOSE_AFTER_SEC: Final = 0.05
"""How long a loop may take to end by itself, after a stop was requested, before the segment is closed without it."""
END_AFTER_SEC: Final = 0.1
"""How long it may take after that, before the process ends without it."""

_log = logging.getLogger(__name__)


def run_capture(
    settings: Settings,
    *,
    frames: int | None = None,
    on_statistics: Callable[[StatisticsSnapshot], None] | None = None,
    origin: str = "",
    profile: FrameProfile | None = None,
    observer: CaptureObserver | None = None,
) -> int:
    """Capture one source until it ends or a signal requests a stop.

    Call it from the main thread, because only that can set signal handlers. After a stop was requested, a source that
    does not return within 0.15 s ends the process from within, with exit code 0, and so does a second signal, with
    128 + its number.

    Parameters
    ----------
    settings : Settings
    frames : int, optional
        Stop after this many frames.
    on_statistics : callable, optional
        Called with the statistics about four times a second, in this thread, until it raises.
    origin : str
        Where the settings came from, for the log.
    profile : FrameProfile, optional
        Measures where the time of each frame goes; its percentiles are logged at the end.
    observer : CaptureObserver, optional
        Learns of progress and end; by default the service manager, if there is one.

    Returns
    -------
    int
        The exit code: 0 a clean stop, 1 anything not named here, 2 wrong configuration, 3 the source never opened,
        4 shared memory.

    Raises
    ------
    ConfigurationError
        The port of the metrics cannot be listened at.
    """
    if origin:
        _log.info("Configuration: %s", origin)
    if settings.video.sources:
        _log.warning("video.sources is for the command `run`; this process captures only vision.camera")
    camera = settings.vision.camera
    if observer is None:
        observer = ServiceObserver(ServiceNotifier.from_environment())
    _reap_as_first_process()
    stop = StopRequest(lambda: _end_without_source(stop, loop, observer))
    loop = CaptureLoop(
        settings,
        stop,
        _opening(camera, profile),
        frames=frames,
        on_statistics=on_statistics,
        on_progress=observer.progress,
        draw_placeholder=draw_placeholder,
    )
    loop.statistics.on_written = profile.published if profile is not None else None
    with _metrics(settings), stop:
        observer.started(loop.reporter.snapshot)
        try:
            code, failure = _run(loop, _names(settings))
        finally:
            _close(loop, observer)
    if stop.signal_name is not None:
        _log.info("Stopped by %s", stop.signal_name)
    if loop.statistics.written:
        loop.reporter.log_statistics()
    if profile is not None:
        _log.info("%s", profile.line(), extra=profile.fields())
    observer.ended(failure, finished=code == EXIT_OK and stop.signal_name is None)
    # An interpreter that shuts down collects garbage among all it has imported, which takes most of the time of a
    # stop. What is frozen is left out.
    gc.freeze()
    return code


def _close(loop: CaptureLoop, observer: CaptureObserver) -> None:
    observer.stopping()
    if observer.superseded:
        # A segment that is closed ends its readers. One whose writer is dead makes them wait for the successor.
        os._exit(EXIT_FAILURE)
    loop.close()


def _end_without_source(stop: StopRequest, loop: CaptureLoop, observer: CaptureObserver) -> None:
    """End the process if the source does not return: an opening or a grab may block for seconds."""
    if stop.over.wait(CLOSE_AFTER_SEC):
        return
    _close(loop, observer)
    if stop.over.wait(END_AFTER_SEC):
        return
    log_without_waiting(_log, logging.INFO, f"Stopped by {stop.signal_name}, without waiting for the source")
    if loop.statistics.written:
        snapshot = loop.reporter.snapshot()
        log_without_waiting(_log, logging.INFO, snapshot.line(), snapshot.fields())
    os._exit(EXIT_OK)


def _opening(camera: CameraConfig, profile: FrameProfile | None) -> Callable[[], FrameSource]:
    if profile is None:
        return lambda: open_source(camera)
    return lambda: profile.watching(open_source(camera))


def draw_placeholder(image: Image, lines: list[str]) -> None:
    """Write lines of text into an image, with OpenCV."""
    from billiards_shm.sources.conversion import placeholder

    placeholder(image, lines)


def _names(settings: Settings) -> list[str]:
    """Of the segments."""
    name = settings.video.shared_memory_name
    return [name, native_name(name)] if settings.vision.camera.publish == "both" else [name]


def _run(loop: CaptureLoop, names: list[str]) -> tuple[int, str]:
    """Run the loop; give the exit code and the error, which is empty if there was none."""
    try:
        # Before the source is opened, which may take seconds and disturb the camera of the other process.
        for name in names:
            writer = living_writer(name)
            if writer is not None:
                raise WriterExistsError(
                    f"{name!r} belongs to a living writer (process {writer}): stop it, or choose another name"
                )
        loop.run()
    except BilliardsShmError as error:
        failure = " ".join(str(error).split())
        _log.error("%s", failure)
        return exit_code_of(error), failure
    except Exception as error:
        _log.exception("Capturing failed")
        return EXIT_FAILURE, f"{type(error).__name__}: {error}"
    return EXIT_OK, ""


def _reap_as_first_process() -> None:
    """Let the kernel reap orphans, which the first process of a container gets as children."""
    if os.getpid() != 1:
        return
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # Reap those that ended before.
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


@contextlib.contextmanager
def _metrics(settings: Settings) -> Iterator[None]:
    """Serve the metrics of this process's segment, if the configuration asks for that."""
    process = settings.video.process
    with contextlib.ExitStack() as stack:
        if process.metrics_port is not None:
            try:
                from billiards_shm.monitor.metrics import metrics_server

                name = settings.video.shared_memory_name
                stack.enter_context(metrics_server(name, process.metrics_host, process.metrics_port))
            except ModuleNotFoundError as error:
                raise ConfigurationError(f"metrics need {error.name}: pip install 'billiards-shm[serve]'") from error
            except (OSError, ValueError) as error:
                place = f"{process.metrics_host} port {process.metrics_port}"
                reason = error.strerror if isinstance(error, OSError) else error
                raise ConfigurationError(f"cannot listen for metrics at {place}: {reason}") from error
        yield

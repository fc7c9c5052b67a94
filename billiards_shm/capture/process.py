"""The capture process, from settings to exit code."""

import contextlib
import gc
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from billiards_shm.capture.loop import CaptureLoop
from billiards_shm.capture.observers import CaptureObserver, ServiceObserver
from billiards_shm.capture.profile import FrameProfile
from billiards_shm.capture.reporter import CaptureReporter
from billiards_shm.capture.stats import CaptureStatistics, StatisticsSnapshot
from billiards_shm.config.model import CameraConfig, Settings, segment_names
from billiards_shm.errors import BilliardsShmError, ConfigurationError, WriterExistsError
from billiards_shm.monitor.health import living_writer
from billiards_shm.service.exit_codes import EXIT_FAILURE, EXIT_OK, exit_code_of
from billiards_shm.service.logs import log_without_waiting
from billiards_shm.service.signals import StopRequest
from billiards_shm.service.systemd import ServiceNotifier
from billiards_shm.sources.open import open_source
from billiards_shm.sources.protocol import FrameSource, Image

__all__ = ["Loop", "run_capture", "run_loop"]

CLOSE_AFTER_SEC: Final = 0.05
"""How long a loop may take to end after a stop was requested. Then the segment is closed without it."""
END_AFTER_SEC: Final = 0.1
"""How long it may take after that. Then the process ends without it."""

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
        The metrics server cannot listen on its port.
    """
    if settings.video.sources:
        _log.warning("video.sources is for the command `run`; this process captures only vision.camera")
    camera = settings.vision.camera

    def make_loop(stop: StopRequest, on_progress: Callable[[], None]) -> CaptureLoop:
        loop = CaptureLoop(
            settings,
            stop,
            _opening(camera, profile),
            frames=frames,
            on_statistics=on_statistics,
            on_progress=on_progress,
            draw_placeholder=draw_placeholder,
        )
        loop.statistics.on_written = profile.published if profile is not None else None
        return loop

    code = run_loop(settings, make_loop, _names(settings), observer=observer, origin=origin)
    if profile is not None:
        _log.info("%s", profile.line(), extra=profile.fields())
    return code


class Loop(Protocol):
    """Publishes frames until it is stopped."""

    reporter: CaptureReporter
    statistics: CaptureStatistics

    def run(self) -> None:
        """Publish frames until a stop is requested, or there are no more."""

    def close(self) -> None:
        """Close the segments; may be called from another thread, and more than once."""


def run_loop(
    settings: Settings,
    make_loop: Callable[[StopRequest, Callable[[], None]], Loop],
    names: Sequence[str],
    *,
    observer: CaptureObserver | None = None,
    origin: str = "",
) -> int:
    """Run a loop until it ends or a signal requests a stop, as `run_capture` does.

    Parameters
    ----------
    settings : Settings
    make_loop : callable
        Makes the loop. Its arguments are the stop request and the function to call when the loop makes progress.
    names : sequence of str
        Of the segments that it will write.
    observer : CaptureObserver, optional
        Learns of progress and end; by default the service manager, if there is one.
    origin : str
        Where the settings came from, for the log.

    Returns
    -------
    int
        The exit code.
    """
    if origin:
        _log.info("Configuration: %s", origin)
    if observer is None:
        observer = ServiceObserver(ServiceNotifier.from_environment())
    _reap_as_first_process()
    stop = StopRequest(lambda: _end_without_source(stop, loop, observer))
    loop = make_loop(stop, observer.progress)
    with _metrics(settings), stop:
        observer.started(loop.reporter.snapshot)
        try:
            code, failure = _run(loop, names)
        finally:
            _close(loop, observer)
    if stop.signal_name is not None:
        _log.info("Stopped by %s", stop.signal_name)
    if loop.statistics.written:
        loop.reporter.log_statistics()
    observer.ended(failure, finished=code == EXIT_OK and stop.signal_name is None)
    # At shutdown the interpreter collects garbage among everything it has imported, which takes most of the time of a
    # stop. Frozen objects are left out.
    gc.freeze()
    return code


def _close(loop: Loop, observer: CaptureObserver) -> None:
    observer.stopping()
    if observer.superseded:
        # A segment that is closed ends its readers. One whose writer is dead makes them wait for the successor.
        os._exit(EXIT_FAILURE)
    loop.close()


def _end_without_source(stop: StopRequest, loop: Loop, observer: CaptureObserver) -> None:
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
    """Names of the segments."""
    return segment_names(settings.video.shared_memory_name, settings.vision.camera.publish)


def _run(loop: Loop, names: Sequence[str]) -> tuple[int, str]:
    """Run the loop; return the exit code and the error, empty if there was none."""
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
    """Let the kernel reap orphans, which become children of the first process of a container."""
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
                text = f"cannot listen for metrics at {process.metrics_host} port {process.metrics_port}: "
                if isinstance(error, OSError):
                    # Not a ConfigurationError, after which `run` would not try again: the port may soon be free.
                    raise OSError(error.errno, f"{text}{error.strerror}") from error
                raise ConfigurationError(f"{text}{error}") from error
        yield

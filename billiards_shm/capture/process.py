"""The capture process, from settings to exit code."""

import contextlib
import gc
import logging
import os
import signal
from collections.abc import Callable, Iterator

from billiards_shm.capture.loop import CaptureLoop
from billiards_shm.capture.observers import CaptureObserver, ServiceObserver
from billiards_shm.capture.profile import FrameProfile
from billiards_shm.capture.stats import StatisticsSnapshot
from billiards_shm.config.model import CameraConfig, Settings
from billiards_shm.errors import BilliardsShmError, ConfigurationError
from billiards_shm.service.exit_codes import EXIT_FAILURE, EXIT_OK, exit_code_of
from billiards_shm.service.shutdown import Shutdown
from billiards_shm.service.systemd import ServiceNotifier
from billiards_shm.sources.open import open_source
from billiards_shm.sources.protocol import FrameSource, Image

__all__ = ["run_capture"]

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
    """Capture one source until it ends or a signal comes.

    To be called from the main thread, which alone can receive signals. A source that cannot be interrupted, and a
    second signal, end the process from within.

    Parameters
    ----------
    settings : Settings
    frames : int, optional
        End after so many frames.
    on_statistics : callable, optional
        Is given the statistics about four times a second, in this thread; if it raises, it is not called again.
    origin : str
        Where the settings came from, for the log.
    profile : FrameProfile, optional
        Is told where the time of each frame goes; its percentiles are logged at the end.
    observer : CaptureObserver, optional
        Is told of progress and end; the service manager, if there is one, unless said otherwise.

    Returns
    -------
    int
        The exit code: 0 a clean stop, 1 anything not named here, 2 wrong configuration, 3 the source never opened,
        4 shared memory.

    Raises
    ------
    ConfigurationError
        If the port of the metrics cannot be listened at.
    """
    if origin:
        _log.info("Configuration: %s", origin)
    if settings.video.sources:
        _log.warning("video.sources is for the command `run`; this process captures vision.camera only")
    camera = settings.vision.camera
    if observer is None:
        observer = ServiceObserver(ServiceNotifier.from_environment())
    _reap_as_first_process()
    # The loop is made before signals are taken, as their end closes it.
    loop: CaptureLoop | None = None

    def release() -> None:
        observer.stopping()
        if observer.superseded:
            # Whoever reads waits for the successor, as after a death; a segment that is closed would be the end.
            os._exit(EXIT_FAILURE)
        if loop is not None:
            loop.close()

    with (
        _metrics(settings),
        Shutdown(settings.video.process.shutdown_timeout, release, insistent=observer.insistent) as shutdown,
    ):
        loop = CaptureLoop(
            settings,
            shutdown,
            _opening(camera, profile),
            frames=frames,
            on_statistics=on_statistics,
            draw_placeholder=draw_placeholder,
            on_progress=observer.progress,
        )
        loop.statistics.on_written = profile.published if profile is not None else None
        observer.started(loop.reporter.snapshot)
        try:
            code, failure = _run(loop)
        finally:
            release()
        if shutdown.signal_name is not None:
            _log.info("Stopped by %s", shutdown.signal_name)
        if loop.statistics.written:
            loop.reporter.log_statistics()
        _log_profile(profile)
        observer.ended(failure, finished=code == EXIT_OK and shutdown.signal_name is None)
    # An interpreter that ends looks for garbage among all it has ever imported, which takes most of the time that a
    # stop takes. What is frozen is not looked at.
    gc.freeze()
    return code


def _opening(camera: CameraConfig, profile: FrameProfile | None) -> Callable[[], FrameSource]:
    if profile is None:
        return lambda: open_source(camera)
    return lambda: profile.watching(open_source(camera))


def _log_profile(profile: FrameProfile | None) -> None:
    if profile is not None:
        _log.info("%s", profile.line(), extra=profile.fields())


def draw_placeholder(image: Image, lines: list[str]) -> None:
    """Write lines of text into a picture. Only sources that OpenCV opened are ever away, so it is there."""
    from billiards_shm.sources.conversion import placeholder

    placeholder(image, lines)


def _run(loop: CaptureLoop) -> tuple[int, str]:
    """Run the loop; give the exit code, and what went wrong if anything did."""
    try:
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
    """In a container of our own, other processes' orphans become our children: let the kernel bury them."""
    if os.getpid() != 1:
        return
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # Those that ended before.
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


@contextlib.contextmanager
def _metrics(settings: Settings) -> Iterator[None]:
    """Serve the metrics of this process's segment, if that is asked for."""
    process = settings.video.process
    with contextlib.ExitStack() as stack:
        if process.metrics_port is not None:
            try:
                from billiards_shm.monitor.metrics import metrics_server

                name = settings.video.shared_memory_name
                stack.enter_context(metrics_server(name, process.metrics_host, process.metrics_port))
            except ModuleNotFoundError as error:
                raise ConfigurationError(f"metrics need {error.name}: pip install 'billiards-shm[serve]'") from error
            except OSError as error:
                place = f"{process.metrics_host} port {process.metrics_port}"
                raise ConfigurationError(f"cannot listen for metrics at {place}: {error.strerror}") from error
        yield

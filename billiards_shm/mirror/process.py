"""The processes of both ends, from settings to exit code."""

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from billiards_shm import (
    SegmentFormatError,
    SegmentNotFoundError,
    SegmentPermissionError,
    SegmentStatus,
    inspect_segment,
    list_segments,
)
from billiards_shm.capture.observers import CaptureObserver
from billiards_shm.capture.process import run_loop
from billiards_shm.capture.stats import StatisticsSnapshot
from billiards_shm.config.model import MirroredConfig, Settings
from billiards_shm.mirror.codecs import decodable
from billiards_shm.mirror.keys import EVERY_SEGMENT, Origin, Wanted, host_id, host_name
from billiards_shm.mirror.network import Offers, ask_description, open_session, read_description
from billiards_shm.mirror.receiver import BACKEND, MirrorLoop
from billiards_shm.mirror.sender import SegmentSender
from billiards_shm.mirror.wire import Codec
from billiards_shm.service.exit_codes import EXIT_OK
from billiards_shm.service.signals import StopRequest
from billiards_shm.service.systemd import ServiceNotifier

__all__ = ["look_around", "receive_settings", "run_receive", "run_send"]

UPDATE_SEC: Final = 0.2
"""How often the list of segments is refreshed."""
MOST_ANSWERS: Final = 32
"""Threads that answer. Over a slow link, an answer keeps its thread busy."""

_log = logging.getLogger(__name__)


def run_send(
    settings: Settings,
    names: Sequence[str],
    *,
    origin: str = "",
    on_progress: Callable[[int], None] = lambda frames: None,
) -> int:
    """Offer segments to other hosts until a signal requests a stop.

    Parameters
    ----------
    settings : Settings
    names : sequence of str
        Empty: all that exist, except copies of other hosts' segments.
    origin : str
        Where the settings came from, for the log.
    on_progress : callable
        Called several times a second, with the number of frames sent.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    ConfigurationError
        Zenoh does not accept its configuration.
    """
    if origin:
        _log.info("Configuration: %s", origin)
    host = settings.mirror.host_name or host_name()
    notifier = ServiceNotifier.from_environment()
    senders: dict[str, SegmentSender] = {}
    stop = StopRequest()
    with (
        stop,
        ThreadPoolExecutor(MOST_ANSWERS, "answer") as pool,
        open_session(settings.mirror) as session,
    ):
        identity = host_id(host)
        _log.info("This host is %s (id %s)", host, identity)
        _check_opencv()
        notifier.ready()
        next_report = time.monotonic() + settings.logging.stats_interval_sec
        try:
            while not stop.wait(UPDATE_SEC):
                _update(senders, names, lambda name: SegmentSender(session, Origin(host, identity, name), pool))
                notifier.alive()
                on_progress(sum(sender.statistics.frames for sender in senders.values()))
                if time.monotonic() >= next_report:
                    next_report += settings.logging.stats_interval_sec
                    for sender in senders.values():
                        sender.log_statistics()
        finally:
            notifier.stopping()
            for sender in senders.values():
                sender.close()
    _log.info("Stopped by %s", stop.signal_name)
    return EXIT_OK


def _check_opencv() -> None:
    if Codec.JPEG not in decodable():
        _log.warning("Without OpenCV, frames are sent raw, or as captured: pip install 'billiards-shm[headless]'")


def _update(senders: dict[str, SegmentSender], names: Sequence[str], make: Callable[[str], SegmentSender]) -> None:
    """Offer what exists now: the named segments, or all."""
    for name in names or _local_names():
        if name not in senders:
            senders[name] = make(name)
            if not senders[name].update():
                _log.info("%s does not exist yet: it will be offered when it does", name)
    for name, sender in list(senders.items()):
        sender.update()
        if sender.is_spent and name not in names:
            senders.pop(name).close()


def _local_names() -> list[str]:
    """Segments of this host with a living writer. Copies are left to the host they come from."""
    return [
        info.name
        for info in list_segments()
        if info.status is SegmentStatus.LIVE and not info.backend.startswith(BACKEND)
    ]


def _check_name(name: str) -> None:
    """Raise SegmentNameError if the name is not valid here: other hosts may name their segments freely."""
    with contextlib.suppress(SegmentNotFoundError, SegmentFormatError, SegmentPermissionError):
        inspect_segment(name)


def receive_settings(settings: Settings, source: MirroredConfig) -> Settings:
    """Settings of the process that copies a segment, with the copy's name and history."""
    name = source.name or Wanted.parse(source.origin).segment
    video = settings.video.model_copy(update={"shared_memory_name": name, "history": source.history, "sources": ()})
    return settings.model_copy(update={"video": video})


def run_receive(
    settings: Settings,
    source: MirroredConfig,
    *,
    frames: int | None = None,
    on_statistics: Callable[[StatisticsSnapshot], None] | None = None,
    origin: str = "",
    observer: CaptureObserver | None = None,
) -> int:
    """Copy a segment of another host until a signal requests a stop.

    Parameters
    ----------
    settings : Settings
    source : MirroredConfig
    frames : int, optional
        Stop after this many frames.
    on_statistics, origin, observer
        As for `run_capture`.

    Returns
    -------
    int
        The exit code, as of `run_capture`.
    """
    settings = receive_settings(settings, source)
    _check_name(settings.video.shared_memory_name)
    if source.codec in ("auto", "mjpg"):
        _check_opencv()

    def make_loop(stop: Any, on_progress: Callable[[], None]) -> MirrorLoop:
        return MirrorLoop(settings, source, stop, on_progress, frames=frames, on_statistics=on_statistics)

    names = [settings.video.shared_memory_name]
    return run_loop(settings, make_loop, names, observer=observer, origin=origin)


def look_around(settings: Settings, seconds: float) -> list[dict[str, Any]]:
    """Look for `seconds` at which segments hosts offer; return what they report about each."""
    with open_session(settings.mirror) as session, Offers(session, EVERY_SEGMENT) as offers:
        time.sleep(seconds)
        origins = sorted(offers.now(), key=lambda each: (each.host, each.id, each.segment))
        asked = [(origin, ask_description(session, origin)) for origin in origins]
        return [read_description(origin, replies) for origin, replies in asked]

"""What a capture process reports: its source and statistics, to the log, to a display and to readers."""

import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from billiards_shm import SourceState
from billiards_shm.capture.capture_time import is_right
from billiards_shm.capture.stats import CaptureStatistics, StatisticsSnapshot
from billiards_shm.capture.status import SourceStatus
from billiards_shm.config.address import SourceAddress
from billiards_shm.config.model import Settings
from billiards_shm.sources.protocol import ASSUMED_FPS, Delivery, SourceDetails

__all__ = ["CaptureReporter"]

DISPLAY_INTERVAL_NS: Final = 250_000_000
DAMAGE_INTERVAL_NS: Final = 10_000_000_000
SLOW_SHARE: Final = 0.7
"""There is a warning if a camera is below this share of the rate that its driver names."""
_NS_PER_MS: Final = 1e6
_NS_PER_SEC: Final = 1_000_000_000

_log = logging.getLogger(__name__)


class Published(Protocol):
    """What was published."""

    @property
    def begun(self) -> bool:
        """Whether there was a frame, so that the segment exists."""

    @property
    def sequence(self) -> int:
        """Number of the last frame, 0 before the first."""

    @property
    def picture_size(self) -> tuple[int, int]:
        """Width and height of the last picture; zeros before the first."""

    @property
    def backed_bytes(self) -> int:
        """Memory that it takes."""


class CaptureReporter:
    """Reports what is due whenever the loop calls it.

    Parameters
    ----------
    settings : Settings
    statistics : CaptureStatistics
    publisher : Published
    status : SourceStatus
        Reports to readers.
    on_statistics : callable, optional
        A display, which is called with the statistics about four times a second until it fails.
    address : object, optional
        What the source is called; by default as `vision.camera` names it.
    """

    def __init__(
        self,
        settings: Settings,
        statistics: CaptureStatistics,
        publisher: Published,
        status: SourceStatus,
        on_statistics: Callable[[StatisticsSnapshot], None] | None = None,
        address: object = None,
    ) -> None:
        self._name = settings.video.shared_memory_name
        self._camera = settings.vision.camera
        self._address = SourceAddress.parse(self._camera.device_id) if address is None else address
        self._statistics = statistics
        self._publisher = publisher
        self._status = status
        self._display = on_statistics
        self._details: SourceDetails | None = None
        self._warned_of_slow_camera = False
        self._warned_of_wrong_clock = False
        self._unreadable_told = 0
        self._damaged_told = 0
        self._next_damage_ns = 0
        self.flaw = ""
        """What was wrong with the last frame that could not be decoded; empty if that is not known."""
        self._log_interval_ns = round(settings.logging.stats_interval_sec * _NS_PER_SEC)
        now = time.monotonic_ns()
        self._next_log_ns = now + self._log_interval_ns
        self._next_display_ns = now
        self.next_report_ns = now
        """When the next report is due."""

    def report_due(self, now_ns: int) -> None:
        """Report what is due."""
        if now_ns < self.next_report_ns:
            return
        self._status.report(now_ns)
        if now_ns >= self._next_damage_ns:
            self.warn_of_damage(now_ns)
        if now_ns >= self._next_log_ns:
            self._next_log_ns = max(self._next_log_ns, now_ns - self._log_interval_ns) + self._log_interval_ns
            self.log_statistics()
            self._warn_of_slow_camera(now_ns)
            self._warn_of_wrong_clock()
        if self._display is not None and now_ns >= self._next_display_ns:
            self._next_display_ns = now_ns + DISPLAY_INTERVAL_NS
            self._update_display(self._display)
        self.next_report_ns = min(self._status.next_report_ns, self._next_log_ns)
        if self._display is not None:
            self.next_report_ns = min(self.next_report_ns, self._next_display_ns)

    def source_opened(self, details: SourceDetails) -> None:
        """Log what an opened source reports about itself, unless it reported the same before."""
        if details == self._details:
            return
        self._details = details
        if not self._publisher.begun:
            _log.info("Camera initialized successfully")
        _log.info("Source: %s (%s)", self._address, details)
        if details.delivery is Delivery.RECORDED and not details.fps and self._camera.playback_fps is None:
            _log.info("%s does not name its frame rate: played at %g fps", self._address, ASSUMED_FPS)
        asked, given = details.requested, details.negotiated
        if asked is not None and given is not None:
            differs = (asked.width, asked.height) != (given.width, given.height) or abs(asked.fps - given.fps) > 0.1
            if differs or (asked.fourcc and asked.fourcc != given.fourcc):
                _log.warning("%s was asked for %s but delivers %s", self._address, asked, given)
        for warning in details.warnings:
            _log.warning("%s: %s", self._address, warning)

    def warn_of_damage(self, now_ns: int) -> None:
        """Log how many frames could not be decoded, or only in parts, since this was logged last, if any."""
        unreadable = self._statistics.unreadable - self._unreadable_told
        damaged = self._statistics.damaged - self._damaged_told
        if unreadable:
            left_out = "it is not published" if unreadable == 1 else "they are not published"
            left_out += ", or not as BGR" if self._camera.publish == "both" else ""
            left_out += f". The last one: {self.flaw}" if self.flaw else ""
            _log.warning("%s of %s could not be decoded: %s", _frames(unreadable), self._address, left_out)
        if damaged:
            _log.warning(
                "%s of %s lacked parts, which the decoder filled in: lost packets, or a damaged file",
                *(_frames(damaged), self._address),
            )
        if unreadable or damaged:
            self._unreadable_told += unreadable
            self._damaged_told += damaged
            self.flaw = ""
            self._next_damage_ns = now_ns + DAMAGE_INTERVAL_NS

    def log_statistics(self) -> None:
        """Log the line of statistics."""
        snapshot = self.snapshot()
        _log.info("%s", snapshot.line(), extra=snapshot.fields())

    def snapshot(self) -> StatisticsSnapshot:
        """The current statistics; may be called from another thread."""
        now = time.monotonic_ns()
        counts, (width, height) = self._statistics, self._publisher.picture_size
        write_p50, write_p99 = counts.latency_ms(0.50, 0.99)
        age_p50, age_p99 = counts.age_ms(0.50, 0.99)
        return StatisticsSnapshot(
            uptime_s=counts.uptime_s(now),
            frames_captured=counts.captured,
            frames_written=counts.written,
            frames_dropped=counts.dropped,
            frames_stale=counts.stale,
            frames_unreadable=counts.unreadable,
            frames_damaged=counts.damaged,
            frames_lost=counts.lost,
            clock_offset_ms=None if counts.clock_offset_ns is None else counts.clock_offset_ns / _NS_PER_MS,
            fps=counts.write_rate.rate(now),
            camera_fps=counts.capture_rate.rate(now),
            reconnects=counts.reconnects,
            stalls=self._status.stalls,
            loops=counts.loops,
            frame_age_s=counts.frame_age_s(now),
            write_sequence=self._publisher.sequence,
            write_p50_ms=write_p50,
            write_p99_ms=write_p99,
            age_p50_ms=age_p50,
            age_p99_ms=age_p99,
            source=str(self._address),
            name=self._name,
            width=width,
            height=height,
            backed_bytes=self._publisher.backed_bytes,
            state=self._status.state,
            reason=self._status.reason,
            requested=self._details.requested if self._details else None,
            negotiated=self._details.negotiated if self._details else None,
        )

    def _warn_of_slow_camera(self, now_ns: int) -> None:
        details, rate = self._details, self._statistics.capture_rate.rate(now_ns)
        # Frames that could not be decoded did arrive: they have their own warning.
        if self._warned_of_slow_camera or details is None or details.requested is None or self._statistics.unreadable:
            return
        if self._status.state is SourceState.STREAMING and 0 < rate < SLOW_SHARE * details.fps:
            self._warned_of_slow_camera = True
            _log.warning(
                "%s delivers %.1f fps, though its driver says %g: too little light, or a format that takes too long to "
                "transfer; another fourcc, such as MJPG, may help",
                *(self._address, rate, details.fps),
            )

    def _warn_of_wrong_clock(self) -> None:
        offset_ns = self._statistics.clock_offset_ns
        if offset_ns is None or is_right(offset_ns):
            self._warned_of_wrong_clock = False
        elif not self._warned_of_wrong_clock:
            self._warned_of_wrong_clock = True
            way = "ahead of" if offset_ns > 0 else "behind"
            _log.warning(
                "%s has a clock that is %.3f s %s this host's: its frames count as captured when they arrive, minus "
                "the time by which each is later than others",
                *(self._address, abs(offset_ns) / _NS_PER_SEC, way),
            )

    def _update_display(self, display: Callable[[StatisticsSnapshot], None]) -> None:
        try:
            display(self.snapshot())
        except Exception as error:
            # A display fails when its terminal is gone. Capturing goes on.
            self._display = None
            _log.warning("Live statistics stopped: %s: %s", type(error).__name__, error)


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"

"""The loop: take a frame from the source, stamp it, publish it; keep the pace, and get a lost source back."""

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

import numpy as np

from billiards_shm.capture.pace import Backoff, Pace
from billiards_shm.capture.publisher import Publisher
from billiards_shm.capture.read_failures import Ending, LiveFailurePolicy, ReadFailurePolicy, RecordingFailurePolicy
from billiards_shm.capture.staleness import StalenessFilter
from billiards_shm.capture.stats import CaptureStatistics, StatisticsSnapshot
from billiards_shm.capture.status import SourceStatus
from billiards_shm.config.address import SourceAddress, SourceKind
from billiards_shm.config.model import Settings
from billiards_shm.errors import CameraError
from billiards_shm.sources.protocol import FrameSource, Image, Reason, SourceDetails, TimedSource

__all__ = ["CaptureLoop", "StopRequest"]

DISPLAY_INTERVAL_NS: Final = 250_000_000
REST_SLICE_SEC: Final = 1.0
ASSUMED_FILE_FPS: Final = 25.0
"""For recordings that do not say, such as numbered images."""
SLOW_SHARE: Final = 0.7
"""Of the rate that a camera's driver names: what is below it is worth a warning."""
_NS_PER_SEC: Final = 1_000_000_000

_log = logging.getLogger(__name__)


class StopRequest(Protocol):
    """How the loop learns that it shall end."""

    def wait(self, seconds: float) -> bool:
        """Sleep, but not beyond a request to stop; True if there was one."""


class CaptureLoop:
    """Publishes the frames of one source.

    Parameters
    ----------
    settings : Settings
    stop : StopRequest
    open_source : callable
        Opens the source; called again whenever it was lost, and when a recording begins anew.
    frames : int, optional
        End after so many frames.
    on_statistics : callable, optional
        Is given the statistics several times a second, from within the loop.
    progress : callable, optional
        Called after each captured frame and each attempt to open a lost source again, in vain or not: whoever watches
        the process knows by it that the loop is not stuck.
    draw_placeholder : callable, optional
        Writes lines of text into a picture. With it, placeholders are published if the configuration wants them.
    """

    def __init__(
        self,
        settings: Settings,
        stop: StopRequest,
        open_source: Callable[[], FrameSource],
        *,
        frames: int | None = None,
        on_statistics: Callable[[StatisticsSnapshot], None] | None = None,
        progress: Callable[[], None] | None = None,
        draw_placeholder: Callable[[Image, list[str]], None] | None = None,
    ) -> None:
        self._settings = settings
        self._camera = settings.vision.camera
        self._address = SourceAddress.parse(self._camera.device_id)
        self._stop = stop
        self._open_source = open_source
        self._frames = frames
        self._on_statistics = on_statistics
        self._progress = progress or _nothing
        self._draw_placeholder = draw_placeholder
        self._paced_fps: float | None = None
        self._pace: Pace | None = None
        self._backoff = Backoff(self._camera.reconnect_delay_sec, self._camera.reconnect_max_delay_sec)
        self._details: SourceDetails | None = None
        self._lost = False
        self._slow_told = False
        now = time.monotonic_ns()
        self.statistics = CaptureStatistics(now)
        self._publisher = Publisher(settings.video, self.statistics, self._camera.frozen_after_sec)
        wanted = self._camera.placeholder and draw_placeholder is not None
        self._status = SourceStatus(self._publisher, self.statistics, self._publish_placeholder if wanted else None)
        self._stats_interval_ns = round(settings.logging.stats_interval_sec * _NS_PER_SEC)
        self._next_stats_ns = now + self._stats_interval_ns
        self._next_display_ns = now
        self._next_tick_ns = now

    def run(self) -> None:
        """Publish frames until a stop is asked for, a recording has ended, or there were frames enough.

        Raises
        ------
        CameraError
            If the source could not be opened, or gave no frame, the first time; later, if the configuration limits the
            attempts to get it back.
        BilliardsShmError
            If the segment could not be created.
        """
        # Recordings and the demo are never waited for.
        with self._status if self._address.live else contextlib.nullcontext():
            try:
                self._run()
            except CameraError:
                # The signal that asks for a stop also interrupts whoever waits for a file or server to open.
                if not self._stop.wait(0):
                    raise

    def _run(self) -> None:
        source: FrameSource | None = self._open_source()
        while source is not None:
            captured_before = self.statistics.captured
            try:
                self._begin(source)
                ending, reason = self._stream(source)
            except CameraError as error:
                # The source is open and of no use: its frames are too small to be cropped.
                if not self._publisher.begun:
                    raise
                ending, reason = Ending.LOST, str(error)
            except Exception:
                # A stop closes the segment, perhaps under our hands.
                if not self._publisher.closed or not self._stop.wait(0):
                    raise
                break
            finally:
                source.release()
            if ending is Ending.STOPPED:
                break
            if not self._publisher.begun:
                raise CameraError(f"cannot open {self._address}: it gave no frame ({reason})")
            if ending is Ending.EXHAUSTED and not self._camera.loop_video:
                self._status.say("ended")
                _log.info("End of %s", self._address)
                break
            source = self._next_source(ending, reason, gave_frames=self.statistics.captured > captured_before)

    def close(self) -> None:
        """Close the segment; may be called from another thread, and more than once."""
        self._publisher.close()

    def snapshot(self) -> StatisticsSnapshot:
        """Give the statistics as they are now."""
        now = time.monotonic_ns()
        counts, shape = self.statistics, self._publisher.shape
        write_p50, write_p99 = counts.latency_ms(0.50, 0.99)
        age_p50, age_p99 = counts.age_ms(0.50, 0.99)
        return StatisticsSnapshot(
            uptime_s=counts.uptime_s(now),
            frames_captured=counts.captured,
            frames_written=counts.written,
            frames_dropped=counts.dropped,
            frames_stale=counts.stale,
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
            name=self._settings.video.shared_memory_name,
            width=shape[1] if shape else 0,
            height=shape[0] if shape else 0,
            backed_bytes=self._publisher.backed_bytes,
            state=self._status.state,
            reason=self._status.reason,
            requested=self._details.requested if self._details else None,
            negotiated=self._details.negotiated if self._details else None,
        )

    def log_statistics(self) -> None:
        """Log the line of statistics."""
        snapshot = self.snapshot()
        _log.info("%s", snapshot.line(), extra=snapshot.fields())

    # Sources.

    def _begin(self, source: FrameSource) -> None:
        details = source.details
        self._status.backend = details.backend
        fps: float | None = None
        if self._address.kind is SourceKind.DEMO:
            fps = details.fps
        elif self._address.recorded:
            fps = self._camera.playback_fps
            if fps is None:
                fps = details.fps or ASSUMED_FILE_FPS
        if fps != self._paced_fps:
            self._paced_fps = fps
            self._pace = Pace(fps) if fps else None
        if details != self._details:
            self._details = details
            self._log_details(details)

    def _log_details(self, details: SourceDetails) -> None:
        if not self._publisher.begun:
            _log.info("Camera initialized successfully")
        _log.info("Source: %s (%s)", self._address, details)
        if self._address.recorded and not details.fps:
            _log.info("%s does not say how fast it is: played at %g fps", self._address, ASSUMED_FILE_FPS)
        asked, given = details.requested, details.negotiated
        if asked is not None and given is not None:
            differs = (asked.width, asked.height) != (given.width, given.height) or abs(asked.fps - given.fps) > 0.1
            if differs or (asked.fourcc and asked.fourcc != given.fourcc):
                _log.warning("%s was asked for %s and gives %s", self._address, asked, given)
        for refusal in details.refused:
            _log.warning("%s: %s", self._address, refusal)

    def _warn_of_slow_camera(self, now_ns: int) -> None:
        """Say once that a camera does not do what its driver says."""
        details, rate = self._details, self.statistics.capture_rate.rate(now_ns)
        if self._slow_told or details is None or details.requested is None or self._status.state != "streaming":
            return
        if 0 < rate < SLOW_SHARE * details.fps:
            self._slow_told = True
            _log.warning(
                "%s gives %.1f fps, though its driver says %g: too little light, or a format that takes too long to "
                "transfer; another fourcc, such as MJPG, may help",
                *(self._address, rate, details.fps),
            )

    def _next_source(self, ending: Ending, reason: str, *, gave_frames: bool) -> FrameSource | None:
        """Open the source again, at once if it is a recording that begins anew; None if a stop came first."""
        if ending is Ending.EXHAUSTED and gave_frames:
            self.statistics.loops += 1
            try:
                return self._open_source()
            except CameraError as error:
                reason = self._reason_of(error)
        _log.warning("Lost %s: %s", self._address, reason)
        self._lost = True
        while True:
            self._status.say("reconnecting", reason)
            self._check_attempts(reason)
            if self._rest(self._backoff.next_delay()):
                return None
            try:
                return self._open_source()
            except CameraError as error:
                reason = self._reason_of(error)
                _log.warning("%s; trying again", error)
            finally:
                self._progress()

    def _check_attempts(self, reason: str) -> None:
        limit = self._camera.reconnect_attempts if self._camera.auto_reconnect else 0
        if limit is not None and self._backoff.attempts >= limit:
            after = f"after {limit} attempts" if limit else "and auto_reconnect is off"
            raise CameraError(f"lost {self._address} {after}: {reason}")

    def _reason_of(self, error: CameraError) -> str:
        """What readers are told, who know already which source it is and that it is away."""
        return str(error).removeprefix(f"cannot open {self._address}: ")

    # Frames.

    def _stream(self, source: FrameSource) -> tuple[Ending, str]:
        """Publish the frames of an open source until there are no more; say why there are none."""
        failures, staleness = self._follow(source)
        while not self._wait_for_turn():
            began_ns = time.monotonic_ns()
            grabbed = self._grab(source, staleness, began_ns)
            captured_ns = time.monotonic_ns()
            if grabbed and staleness is not None and staleness.stale(captured_ns) and self._publisher.begun:
                self.statistics.stale += 1
                continue
            lag_ns = None if staleness is None else staleness.lag_ns
            if grabbed and self._publisher.publish(source, captured_ns, lag_ns):
                failures.frame(captured_ns)
                if self._enough():
                    break
                if self._publisher.frozen:
                    return self._freeze()
                continue
            over = failures.nothing(source, grabbed, began_ns, captured_ns)
            if over is not None:
                if failures.damaged and self.statistics.loops == 0:
                    _log.warning("%d frames of %s could not be decoded", failures.damaged, self._address)
                return over
            if self._address.live and self._pause(self._settings.video.process.main_loop_sleep):
                break
        return Ending.STOPPED, ""

    def _follow(self, source: FrameSource) -> tuple[ReadFailurePolicy, StalenessFilter | None]:
        if not self._address.live:
            return RecordingFailurePolicy(), None
        now = time.monotonic_ns()
        failures = LiveFailurePolicy(self._address, self._camera.read_timeout_sec, now, self.statistics)
        monotonic = source.details.backend == "V4L2"
        return failures, StalenessFilter(source, monotonic=monotonic) if isinstance(source, TimedSource) else None

    def _grab(self, source: FrameSource, staleness: StalenessFilter | None, now_ns: int) -> bool:
        if staleness is not None:
            staleness.begin(now_ns)
        self._status.grab_begins(now_ns)
        grabbed = source.grab()
        self._status.grab_ends()
        # What FFmpeg still has after a timeout is the past.
        timeout_ns = self._camera.read_timeout_sec * _NS_PER_SEC
        return grabbed and not (self._address.live and time.monotonic_ns() - now_ns >= timeout_ns)

    def _freeze(self) -> tuple[Ending, str]:
        self.statistics.stalls += 1
        reason = Reason.FROZEN.because(f"identical frames for {self._camera.frozen_after_sec:g} s or more")
        self._status.say("stalled", reason)
        return Ending.LOST, reason

    def _wait_for_turn(self) -> bool:
        """Wait until the next frame is due; True if a stop was asked for."""
        now = time.monotonic_ns()
        due = now if self._pace is None else self._pace.due_ns(now)
        return self._rest((due - now) / _NS_PER_SEC)

    def _enough(self) -> bool:
        """Do what is to be done after a frame; True if it was the last one asked for."""
        self._progress()
        if self._pace is not None:
            self._pace.frame_done()
        if self._status.state != "streaming":
            if self._lost:
                self._lost = False
                self.statistics.reconnects += 1
                _log.info("%s is back", self._address)
            self._status.say("streaming")
            self._backoff.reset()
        return self._frames is not None and self.statistics.captured >= self._frames

    # What others learn.

    def _publish_placeholder(self, state: str, reason: str) -> None:
        assert self._draw_placeholder is not None
        if self._publisher.shape:
            image = np.empty(self._publisher.shape, np.uint8)
            age = self.statistics.frame_age_s(time.monotonic_ns()) or 0.0
            self._draw_placeholder(image, ["NO PICTURE", str(self._address), reason, f"{state} for {age:.0f} s"])
            self._publisher.publish_placeholder(image)

    def _rest(self, seconds: float) -> bool:
        """Pause on purpose: whoever watches learns that even a long one is no standstill."""
        until_ns = time.monotonic_ns() + round(seconds * _NS_PER_SEC)
        while (left := (until_ns - time.monotonic_ns()) / _NS_PER_SEC) > REST_SLICE_SEC:
            if self._pause(REST_SLICE_SEC):
                return True
            self._progress()
        return self._pause(max(0.0, left))

    def _pause(self, seconds: float) -> bool:
        """Wait, telling the statistics meanwhile; True if a stop was asked for."""
        until_ns = time.monotonic_ns() + round(seconds * _NS_PER_SEC)
        while True:
            now = time.monotonic_ns()
            self._tick(now)
            left_ns = min(until_ns, self._next_tick_ns) - now
            if self._stop.wait(max(0, left_ns) / _NS_PER_SEC):
                return True
            if time.monotonic_ns() >= until_ns:
                return False

    def _tick(self, now_ns: int) -> None:
        if now_ns < self._next_tick_ns:
            return
        self._status.report(now_ns)
        if now_ns >= self._next_stats_ns:
            self._next_stats_ns = max(self._next_stats_ns, now_ns - self._stats_interval_ns) + self._stats_interval_ns
            self.log_statistics()
            self._warn_of_slow_camera(now_ns)
        if self._on_statistics is not None and now_ns >= self._next_display_ns:
            self._next_display_ns = now_ns + DISPLAY_INTERVAL_NS
            self._show()
        self._next_tick_ns = min(self._status.next_report_ns, self._next_stats_ns)
        if self._on_statistics is not None:
            self._next_tick_ns = min(self._next_tick_ns, self._next_display_ns)

    def _show(self) -> None:
        assert self._on_statistics is not None
        try:
            self._on_statistics(self.snapshot())
        except Exception as error:
            # A display that failed, most often because its terminal is gone, is no reason to stop capturing.
            self._on_statistics = None
            _log.warning("No more live statistics: %s: %s", type(error).__name__, error)


def _nothing() -> None:
    """Stand in for a callback that nobody gave."""

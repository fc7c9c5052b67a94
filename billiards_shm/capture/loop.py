"""The capture loop: open the source, grab a frame, publish it, keep the pace, reopen a source that was lost."""

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from billiards_shm import SourceState
from billiards_shm.capture.capture_time import CaptureTime, SourceClock
from billiards_shm.capture.pace import Backoff, Pace, RecordedPace
from billiards_shm.capture.placeholders import PlaceholderPublisher
from billiards_shm.capture.publisher import Publisher
from billiards_shm.capture.read_failures import (
    Ending,
    LiveFailurePolicy,
    ReadFailurePolicy,
    RecordingFailurePolicy,
    StreamEnd,
)
from billiards_shm.capture.reporter import CaptureReporter
from billiards_shm.capture.staleness import StalenessFilter
from billiards_shm.capture.stats import CaptureStatistics, StatisticsSnapshot
from billiards_shm.capture.status import SourceStatus
from billiards_shm.config.address import SourceAddress, SourceKind
from billiards_shm.config.model import Settings
from billiards_shm.errors import CameraError, DamagedSourceError
from billiards_shm.sources.protocol import (
    ASSUMED_FPS,
    CheckedSource,
    Delivery,
    FrameSource,
    Image,
    NativeSource,
    Reason,
    RecordedSource,
    SourceDetails,
    SourceLostError,
    SourceReopenError,
    TimedSource,
)

__all__ = ["CaptureLoop", "StopEvent"]

PROGRESS_INTERVAL_NS: Final = 1_000_000_000
LONGEST_GAP_OF_RECORDINGS_SEC: Final = 10.0
LONGEST_GAP_OF_BURSTS_SEC: Final = 1.0
"""Do not wait for segments that a playlist has dropped in the meantime."""
_RECORDED_NOW: Final = Reason.END_OF_STREAM.because(
    "it was live, but is a recording now: start the capture again to play it"
)
_NS_PER_SEC: Final = 1_000_000_000

_log = logging.getLogger(__name__)


class StopEvent(Protocol):
    """How the loop learns that it has to stop."""

    def wait(self, seconds: float) -> bool:
        """Sleep until the time is over or a stop is requested; True if it is requested."""


class CaptureLoop:
    """Publishes the frames of one source.

    Parameters
    ----------
    settings : Settings
    stop : StopEvent
    open_source : callable
        Opens the source. Called again when the source was lost, and for each pass of a recording that loops.
    frames : int, optional
        Stop after this many frames.
    on_statistics : callable, optional
        Called with the statistics about four times a second, from within the loop.
    on_progress : callable, optional
        Called after each frame, after each attempt to reopen a lost source, and every second of a wait. A loop that
        does not call it is stuck.
    draw_placeholder : callable, optional
        Writes lines of text into an image. With it, placeholders are published if the configuration asks for them.
    """

    def __init__(
        self,
        settings: Settings,
        stop: StopEvent,
        open_source: Callable[[], FrameSource],
        *,
        frames: int | None = None,
        on_statistics: Callable[[StatisticsSnapshot], None] | None = None,
        on_progress: Callable[[], None] = lambda: None,
        draw_placeholder: Callable[[Image, list[str]], None] | None = None,
    ) -> None:
        self._camera = settings.vision.camera
        self._address = SourceAddress.parse(self._camera.device_id)
        self._stop = stop
        self._open_source = open_source
        self._frames = frames
        self._on_progress = on_progress
        self._idle_sec = settings.video.process.main_loop_sleep
        self._pace: Pace | None = None
        self._recorded = False
        self._frozen_sec = 0.0
        self._backoff = Backoff(self._camera.reconnect_delay_sec, self._camera.reconnect_max_delay_sec)
        self.statistics = CaptureStatistics(time.monotonic_ns())
        self._publisher = Publisher(settings.video, self.statistics, self._camera.publish)
        placeholders = None
        if self._camera.placeholder and draw_placeholder is not None:
            placeholders = PlaceholderPublisher(self._publisher, self.statistics, self._address, draw_placeholder)
        self._status = SourceStatus(self._publisher, self.statistics, placeholders)
        self.reporter = CaptureReporter(settings, self.statistics, self._publisher, self._status, on_statistics)

    def run(self) -> None:
        """Publish frames until a stop is requested, a recording has ended, or enough frames were published.

        Raises
        ------
        CameraError
            The first time, the source could not be opened or delivered no frame; or it was lost, and the configuration
            limits the attempts to reopen it.
        BilliardsShmError
            The segment could not be created.
        """
        # Recordings and the demo never stall.
        with self._status if self._address.live else contextlib.nullcontext():
            try:
                self._capture()
            except CameraError:
                # The signal that requests a stop also interrupts the opening of a file or a connection.
                if not self._stop.wait(0):
                    raise

    def close(self) -> None:
        """Close the segment; may be called from another thread, and more than once."""
        self._publisher.close()

    def _capture(self) -> None:
        source: FrameSource | None = self._open_source()
        while source is not None:
            captured_before = self.statistics.captured
            end = self._publish_until_end(source)
            if end.kind is Ending.STOPPED:
                return
            if end.kind is Ending.BROKEN:
                raise DamagedSourceError(f"{self._address}: {end.reason}")
            if not self._publisher.begun:
                raise CameraError(f"cannot open {self._address}: it delivered no frame ({end.reason})")
            if end.kind is Ending.EXHAUSTED and not (self._camera.loop_video and self._address.repeats):
                self._status.set_state(SourceState.ENDED)
                _log.info("End of %s", self._address)
                return
            if end.kind is Ending.REOPENED:
                _log.info("Opening %s again: %s", self._address, end.reason)
                self._status.set_state(SourceState.OPENING, end.reason)
                source = self._open_at_once()
            elif end.kind is Ending.EXHAUSTED and self.statistics.captured > captured_before:
                self.statistics.loops += 1
                source = self._open_at_once()
            else:
                source = self._reconnect(end.reason)

    # Open.

    def _open_at_once(self) -> FrameSource | None:
        """Open a source again that is not lost; None if a stop is requested."""
        try:
            return self._open_again()
        except CameraError as error:
            return self._reconnect(self._reason_of(error))

    def _reconnect(self, reason: str) -> FrameSource | None:
        """Open a lost source again, with growing delays between the attempts; None if a stop is requested."""
        happened = f"Lost {self._address}: {reason}"
        while True:
            self._status.set_state(SourceState.RECONNECTING, reason)
            self._check_attempts(reason)
            delay = self._backoff.next_delay()
            _log.warning("%s; trying again in %.1f s", happened, delay)
            if self._wait(delay):
                return None
            try:
                return self._open_again()
            except CameraError as error:
                reason, happened = self._reason_of(error), str(error)
            finally:
                self._on_progress()

    def _open_again(self) -> FrameSource:
        source = self._open_source()
        if source.details.delivery is Delivery.RECORDED and not self._recorded:
            # A playlist that has ended in the meantime would be played from its beginning, as if it were live.
            source.release()
            raise CameraError(f"cannot open {self._address}: {_RECORDED_NOW}")
        return source

    def _check_attempts(self, reason: str) -> None:
        limit = self._camera.reconnect_attempts if self._camera.auto_reconnect else 0
        if limit is not None and self._backoff.attempts >= limit:
            after = f"after {limit} attempts" if limit else "and auto_reconnect is off"
            raise CameraError(f"lost {self._address} {after}: {reason}")

    def _reason_of(self, error: CameraError) -> str:
        """The reason without the source, which readers know."""
        return str(error).removeprefix(f"cannot open {self._address}: ")

    def _source_opened(self, details: SourceDetails) -> None:
        self._status.backend = details.backend
        self._recorded = details.delivery is Delivery.RECORDED
        self._frozen_sec = self._camera.frozen_after_sec(recorded=self._recorded)
        self._publisher.watch_for_frozen(self._frozen_sec)
        pace = self._pace_for(details)
        # A recording that loops keeps its pace.
        if pace is None or self._pace is None or pace.fps != self._pace.fps:
            self._pace = pace
        self.reporter.source_opened(details)

    def _pace_for(self, details: SourceDetails) -> Pace | None:
        """What paces the frames; None: the source does, or frames are read as fast as possible."""
        fps = details.fps or ASSUMED_FPS
        if details.delivery is Delivery.LIVE:
            return None
        if details.delivery is Delivery.BURSTS:
            return Pace(fps, LONGEST_GAP_OF_BURSTS_SEC)
        if self._camera.as_recorded:
            return RecordedPace(fps)
        wanted = None if self._address.kind is SourceKind.DEMO else self._camera.playback_fps
        if wanted is None:
            return Pace(fps, LONGEST_GAP_OF_RECORDINGS_SEC)
        return Pace(wanted) if wanted else None

    # Grab and publish.

    def _publish_until_end(self, source: FrameSource) -> StreamEnd:
        """Publish the frames of an open source, and release it."""
        try:
            self._source_opened(source.details)
            return self._publish_frames(source)
        except SourceReopenError as error:
            return StreamEnd(Ending.REOPENED, str(error))
        except SourceLostError as error:
            return StreamEnd(Ending.LOST, str(error))
        except CameraError as error:
            # The source is open, but its frames cannot be used: they are too small for the crop.
            if not self._publisher.begun:
                raise
            return StreamEnd(Ending.LOST, str(error))
        except Exception:
            # A stop may close the segment while a frame is being published.
            if not self._publisher.closed or not self._stop.wait(0):
                raise
            return StreamEnd(Ending.STOPPED)
        finally:
            source.release()
            self.reporter.warn_of_damage(time.monotonic_ns())

    def _publish_frames(self, source: FrameSource) -> StreamEnd:
        failures, staleness = self._policies_for(source)
        checked = source if isinstance(source, CheckedSource) else None
        clock = SourceClock.of(source)
        while not self._wait(0):
            started_ns = time.monotonic_ns()
            grabbed = self._grab(source, staleness, started_ns)
            grabbed_ns = captured_ns = time.monotonic_ns()
            when = self._capture_time(clock if grabbed else None, grabbed_ns)
            if grabbed and staleness is not None and staleness.stale(grabbed_ns) and self._publisher.begun:
                self.statistics.stale += 1
                continue
            if grabbed and self._pace is not None:
                due = self._wait_until_due(self._pace, source)
                if due is None:
                    break
                captured_ns, when = due
            lag_ns = _lag_ns(staleness, captured_ns, when)
            if grabbed and self._publish(source, captured_ns, lag_ns, when):
                failures.read_succeeded(captured_ns)
                self.statistics.damaged += checked is not None and checked.damaged
                self._frame_published()
                if self._frames is not None and self.statistics.captured >= self._frames:
                    _log.info("Stopped after %d frames, as asked", self._frames)
                    break
                if self._publisher.frozen:
                    return self._source_froze()
                continue
            end = failures.read_failed(source, grabbed, started_ns, grabbed_ns)
            if end is not None:
                return end
            if not self._recorded and self._wait(self._idle_sec):
                break
        return StreamEnd(Ending.STOPPED)

    def _policies_for(self, source: FrameSource) -> tuple[ReadFailurePolicy, StalenessFilter | None]:
        if self._recorded:
            return RecordingFailurePolicy(self.statistics), None
        failures = LiveFailurePolicy(self._address, self._camera.read_timeout_sec, time.monotonic_ns(), self.statistics)
        if source.details.delivery is not Delivery.LIVE or not isinstance(source, TimedSource):
            return failures, None
        return failures, StalenessFilter(source, monotonic=source.details.backend == "V4L2")

    def _grab(self, source: FrameSource, staleness: StalenessFilter | None, now_ns: int) -> bool:
        if staleness is not None:
            staleness.grab_started(now_ns)
        self._status.grab_started(now_ns)
        grabbed = source.grab()
        self._status.grab_ended()
        # After a timeout FFmpeg may still return frames that it had buffered: they are old.
        timeout_ns = self._camera.read_timeout_sec * _NS_PER_SEC
        return grabbed and not (not self._recorded and time.monotonic_ns() - now_ns >= timeout_ns)

    def _publish(self, source: FrameSource, captured_ns: int, lag_ns: int | None, when: CaptureTime) -> bool:
        self._status.frame_comes()
        published = self._publisher.publish(source, captured_ns, lag_ns, when)
        if not published and isinstance(source, NativeSource):
            self.reporter.flaw = source.flaw
        return published

    def _capture_time(self, clock: SourceClock | None, grabbed_ns: int) -> CaptureTime:
        if clock is None:
            return CaptureTime(grabbed_ns)
        when = clock.capture_time(grabbed_ns)
        self.statistics.clock_offset_ns = clock.offset_ns
        self.statistics.lost += clock.lost_frames()
        return when

    def _frame_published(self) -> None:
        self._on_progress()
        if self._status.state is SourceState.STREAMING:
            return
        if self._status.state is SourceState.RECONNECTING:
            self.statistics.reconnects += 1
            _log.info("%s is back", self._address)
        self._status.set_state(SourceState.STREAMING)
        self._backoff.reset()

    def _source_froze(self) -> StreamEnd:
        self.statistics.stalls += 1
        reason = Reason.FROZEN.because(f"identical frames for {self._frozen_sec:g} s or more")
        self._status.set_state(SourceState.STALLED, reason)
        return StreamEnd(Ending.LOST, reason)

    # Pace.

    def _wait_until_due(self, pace: Pace, source: FrameSource) -> tuple[int, CaptureTime] | None:
        """Wait until the grabbed frame is due; return the time now and the due time. None: a stop is requested."""
        now = time.monotonic_ns()
        due_ns = self._due_ns(pace, source, now)
        if self._wait((due_ns - now) / _NS_PER_SEC):
            return None
        now = time.monotonic_ns()
        return now, CaptureTime(min(due_ns, now), "file") if self._recorded else CaptureTime(now)

    def _due_ns(self, pace: Pace, source: FrameSource, now: int) -> int:
        """When the grabbed frame is due."""
        if isinstance(pace, RecordedPace) and isinstance(source, RecordedSource) and source.recorded is not None:
            return pace.recorded_due_ns(now, source.recorded)
        return pace.due_ns(now, source.timestamp_ms if isinstance(source, TimedSource) else None)

    def _wait(self, seconds: float) -> bool:
        """Wait, reporting in the meantime; True if a stop is requested."""
        now = time.monotonic_ns()
        until_ns = now + round(seconds * _NS_PER_SEC)
        progress_ns = now + PROGRESS_INTERVAL_NS
        while True:
            self.reporter.report_due(now)
            if now >= progress_ns:
                self._on_progress()
                progress_ns = now + PROGRESS_INTERVAL_NS
            left_ns = min(until_ns, progress_ns, self.reporter.next_report_ns) - now
            if self._stop.wait(max(0, left_ns) / _NS_PER_SEC):
                return True
            now = time.monotonic_ns()
            if now >= until_ns:
                return False


def _lag_ns(staleness: StalenessFilter | None, arrived_ns: int, when: CaptureTime) -> int | None:
    """How long a frame had been waiting to be grabbed; None for a recording, whose frames have no age."""
    if staleness is None:
        return None
    return staleness.lag_ns if when.clock == "arrival" else arrived_ns - when.ns

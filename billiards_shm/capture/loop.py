"""The loop: take a frame from the source, stamp it, publish it; keep the pace, and get a lost source back."""

import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from billiards_shm import LoanedSlot, SharedMemoryFrameWriter
from billiards_shm.capture.model import Settings
from billiards_shm.capture.pace import Backoff, Pace
from billiards_shm.capture.patience import Ending, LivePatience, Patience, RecordingPatience
from billiards_shm.capture.sources import FrameSource, Image, SourceAddress, SourceKind
from billiards_shm.capture.stats import CaptureStatistics, StatisticsSnapshot
from billiards_shm.errors import CameraError, SharedMemoryFullError

__all__ = ["CaptureLoop", "StopRequest"]

REPORT_INTERVAL_NS: Final = 500_000_000
DISPLAY_INTERVAL_NS: Final = 250_000_000
ASSUMED_FILE_FPS: Final = 25.0
"""For recordings that do not say, such as numbered images."""
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
    ) -> None:
        self._settings = settings
        self._camera = settings.vision.camera
        self._address = SourceAddress.parse(self._camera.device_id)
        self._stop = stop
        self._open_source = open_source
        self._frames = frames
        self._on_statistics = on_statistics
        self._progress = progress or _nothing
        self._writer: SharedMemoryFrameWriter | None = None
        self._shape: tuple[int, ...] = ()
        self._backend = ""
        self._paced_fps: float | None = None
        self._pace: Pace | None = None
        self._backoff = Backoff()
        self._state = "opening"
        self._reason = ""
        self._lost = False
        now = time.monotonic_ns()
        self.statistics = CaptureStatistics(now)
        self._stats_interval_ns = round(settings.logging.stats_interval_sec * _NS_PER_SEC)
        self._next_stats_ns = now + self._stats_interval_ns
        self._next_report_ns = now
        self._next_display_ns = now
        self._next_tick_ns = now

    def run(self) -> None:
        """Publish frames until a stop is asked for, a recording has ended, or there were frames enough.

        Raises
        ------
        CameraError
            If the source could not be opened, or gave no frame, the first time. Later it is tried for ever.
        BilliardsShmError
            If the segment could not be created.
        """
        source: FrameSource | None = self._open_source()
        while source is not None:
            captured_before = self.statistics.captured
            try:
                self._begin(source)
                ending, reason = self._stream(source)
            except Exception:
                # A stop closes the segment, perhaps under our hands.
                if self._writer is None or not self._writer.closed or not self._stop.wait(0):
                    raise
                break
            finally:
                source.release()
            if ending is Ending.STOPPED:
                break
            if self._writer is None:
                raise CameraError(f"cannot open {self._address}: it gave no frame ({reason})")
            if ending is Ending.EXHAUSTED and not self._camera.loop_video:
                self._say("ended", "")
                _log.info("End of %s", self._address)
                break
            source = self._next_source(ending, reason, gave_frames=self.statistics.captured > captured_before)

    def close(self) -> None:
        """Close the segment; may be called from another thread, and more than once."""
        if self._writer is not None:
            self._writer.close()

    def snapshot(self) -> StatisticsSnapshot:
        """Give the statistics as they are now."""
        now = time.monotonic_ns()
        counts, writer = self.statistics, self._writer
        p50, p99 = counts.latency_ms(0.50, 0.99)
        return StatisticsSnapshot(
            uptime_s=counts.uptime_s(now),
            frames_captured=counts.captured,
            frames_written=counts.written,
            frames_dropped=counts.dropped,
            fps=counts.write_rate.rate(now),
            camera_fps=counts.capture_rate.rate(now),
            reconnects=counts.reconnects,
            stalls=counts.stalls,
            loops=counts.loops,
            frame_age_s=counts.frame_age_s(now),
            write_sequence=writer.sequence if writer is not None else 0,
            write_p50_ms=p50,
            write_p99_ms=p99,
            source=str(self._address),
            name=self._settings.video.shared_memory_name,
            width=self._shape[1] if self._shape else 0,
            height=self._shape[0] if self._shape else 0,
            backed_bytes=writer.statistics.backed_bytes if writer is not None else 0,
            state=self._state,
            reason=self._reason,
        )

    def log_statistics(self) -> None:
        """Log the line of statistics."""
        snapshot = self.snapshot()
        _log.info("%s", snapshot.line(), extra=snapshot.fields())

    # Sources.

    def _begin(self, source: FrameSource) -> None:
        details = source.details
        self._backend = details.backend
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
        if self._writer is None:
            _log.info("Camera initialized successfully")
            _log.info("Source: %s (%s)", self._address, details)
            if self._address.kind in (SourceKind.CAMERA, SourceKind.DEVICE):
                self._compare_with_request(details.width, details.height, details.fps)
            elif self._address.recorded and not details.fps:
                _log.info("%s does not say how fast it is: played at %g fps", self._address, ASSUMED_FILE_FPS)

    def _compare_with_request(self, width: int, height: int, fps: float) -> None:
        asked_width, asked_height = self._camera.resolution
        if (width, height) != (asked_width, asked_height) or abs(fps - self._camera.fps) > 0.1:
            _log.warning(
                "The camera was asked for %dx%d at %g fps and gives %dx%d at %g fps",
                *(asked_width, asked_height, self._camera.fps, width, height, fps),
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
            delay = self._backoff.next_delay()
            self._say("reconnecting", reason)
            if self._pause(delay):
                return None
            try:
                return self._open_source()
            except CameraError as error:
                reason = self._reason_of(error)
                _log.warning("%s; trying again", error)
            finally:
                self._progress()

    def _reason_of(self, error: CameraError) -> str:
        """What readers are told, who know already which source it is and that it is away."""
        return str(error).removeprefix(f"cannot open {self._address}: ")

    # Frames.

    def _stream(self, source: FrameSource) -> tuple[Ending, str]:
        """Publish the frames of an open source until there are no more; say why there are none."""
        patience: Patience = RecordingPatience()
        if self._address.live:
            patience = LivePatience(time.monotonic_ns(), self.statistics)
        while not self._wait_for_turn():
            began_ns = time.monotonic_ns()
            grabbed = source.grab()
            captured_ns = time.monotonic_ns()
            if grabbed and self._publish(source, captured_ns):
                patience.frame(captured_ns)
                if self._enough():
                    break
                continue
            over = patience.nothing(source, grabbed, began_ns, captured_ns)
            if over is not None:
                if patience.damaged and self.statistics.loops == 0:
                    _log.warning("%d frames of %s could not be decoded", patience.damaged, self._address)
                return over
            if self._address.live and self._pause(self._settings.video.process.main_loop_sleep):
                break
        return Ending.STOPPED, ""

    def _wait_for_turn(self) -> bool:
        """Wait until the next frame is due; True if a stop was asked for."""
        now = time.monotonic_ns()
        due = now if self._pace is None else self._pace.due_ns(now)
        return self._pause((due - now) / _NS_PER_SEC)

    def _enough(self) -> bool:
        """Do what is to be done after a frame; True if it was the last one asked for."""
        self._progress()
        if self._pace is not None:
            self._pace.frame_done()
        if self._state != "streaming":
            self._say("streaming", "")
            self._backoff.reset()
            if self._lost:
                self._lost = False
                self.statistics.reconnects += 1
                _log.info("%s is back", self._address)
        return self._frames is not None and self.statistics.captured >= self._frames

    def _publish(self, source: FrameSource, captured_ns: int) -> bool:
        """Bring the grabbed frame into shared memory; False if it could not be decoded."""
        position_ms = source.position_ms
        started_ns = time.monotonic_ns()
        slot = self._loan(captured_ns, position_ms)
        if slot is None:
            image = source.retrieve(None)
        else:
            lent_ns = time.monotonic_ns()
            # Leaving this block by an exception gives the slot back.
            with slot:
                target = slot.array
                image = source.retrieve(target)
                if image is target:
                    self.statistics.frame_captured(captured_ns)
                    decoded_ns = time.monotonic_ns()
                    slot.publish()
                    now = time.monotonic_ns()
                    self.statistics.frame_written(now, lent_ns - started_ns + now - decoded_ns)
                    return True
                slot.cancel()
        if image is None:
            return False
        # There was no slot, or one of another shape, so the source put the frame somewhere else.
        self.statistics.frame_captured(captured_ns)
        if self._writer is None:
            self._create_writer(image)
        self._copy(image, captured_ns, position_ms)
        return True

    def _loan(self, captured_ns: int, position_ms: float | None) -> LoanedSlot | None:
        """Borrow a slot for a frame of the last one's shape; None before the first, and if there is no memory."""
        if self._writer is None:
            return None
        try:
            return self._writer.loan(self._shape, capture_time_ns=captured_ns, position_ms=position_ms)
        except SharedMemoryFullError:
            # The frame takes the other way: copied, it is counted as dropped and warned of by the writer.
            return None

    def _copy(self, image: Image, captured_ns: int, position_ms: float | None) -> None:
        assert self._writer is not None
        if image.shape != self._shape:
            _log.info("Frames are now %dx%d", image.shape[1], image.shape[0])
            self._shape = image.shape
        started_ns = time.monotonic_ns()
        if self._writer.write_frame(image, capture_time_ns=captured_ns, position_ms=position_ms):
            now = time.monotonic_ns()
            self.statistics.frame_written(now, now - started_ns)
        else:
            self.statistics.dropped += 1

    def _create_writer(self, image: Image) -> None:
        height, width, channels = image.shape
        _log.info("First frame received: %dx%d, channels=%d", width, height, channels)
        video = self._settings.video
        self._writer = SharedMemoryFrameWriter(video.shared_memory_name, image.shape, slots=video.slots)
        self._shape = image.shape
        _log.info(
            "Shared memory writer initialized: %s (%.1f MB)",
            video.shared_memory_name,
            self._writer.statistics.backed_bytes / 1e6,
        )

    # What others learn.

    def _say(self, state: str, reason: str) -> None:
        """Tell readers how the source is."""
        self._state, self._reason = state, reason
        self._report(time.monotonic_ns())

    def _report(self, now_ns: int) -> None:
        if self._writer is None or self._writer.closed:
            return
        counts = self.statistics
        try:
            self._writer.update_source(
                state=self._state,
                reason=self._reason,
                backend=self._backend,
                fps=counts.capture_rate.rate(now_ns),
                captured=counts.captured,
                reconnects=counts.reconnects,
                stalls=counts.stalls,
                loops=counts.loops,
            )
        except ValueError:
            if not self._writer.closed:
                raise

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
        if now_ns >= self._next_report_ns:
            self._next_report_ns = now_ns + REPORT_INTERVAL_NS
            self._report(now_ns)
        if now_ns >= self._next_stats_ns:
            self._next_stats_ns = max(self._next_stats_ns, now_ns - self._stats_interval_ns) + self._stats_interval_ns
            self.log_statistics()
        if self._on_statistics is not None and now_ns >= self._next_display_ns:
            self._next_display_ns = now_ns + DISPLAY_INTERVAL_NS
            self._show()
        self._next_tick_ns = min(self._next_report_ns, self._next_stats_ns)
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

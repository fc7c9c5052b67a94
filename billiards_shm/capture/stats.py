"""What the capture process counts and measures, and the line of statistics."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from billiards_shm import SourceState
from billiards_shm.sources.protocol import VideoFormat

__all__ = ["CaptureStatistics", "RateWindow", "StatisticsSnapshot", "percentile"]

RATE_WINDOW_NS: Final = 5_000_000_000
RATE_WINDOW_FRAMES: Final = 600
LATENCY_WINDOW_FRAMES: Final = 1000
STALL_NS: Final = 2_000_000_000
"""A live source that is silent for longer has stalled ..."""
STALL_FRAMES: Final = 5
"""... unless its frames arrive so slowly that fewer than these are missing."""
_NS_PER_MS: Final = 1e6
_NS_PER_SEC: Final = 1e9


@dataclass(frozen=True, slots=True)
class StatisticsSnapshot:
    """The state of one capture process at one moment."""

    uptime_s: float
    frames_captured: int
    """Frames that the source delivered and that could be decoded."""
    frames_written: int
    frames_dropped: int
    """Frames captured but not written, because there was no shared memory for them."""
    fps: float
    """Frames written per second, over the last seconds; 0.0 when none arrive."""
    camera_fps: float
    """Frames captured per second, over the last seconds."""
    reconnects: int
    stalls: int
    loops: int
    frame_age_s: float | None
    """Since the last captured frame; None before the first."""
    write_sequence: int
    write_p50_ms: float
    """Time to claim a slot and publish it, without the decoding in between; 0.0 before the first frame."""
    write_p99_ms: float
    source: str
    name: str
    width: int
    height: int
    backed_bytes: int
    state: SourceState
    reason: str
    frames_unreadable: int = 0
    """Frames that the source delivered but that could not be decoded."""
    frames_damaged: int = 0
    """Frames that were published with parts that the decoder filled in, because they were missing."""
    frames_stale: int = 0
    """Frames of a live source that were skipped because a newer one was waiting."""
    frames_lost: int = 0
    """Frames that a camera's driver lost, estimated from the times of the others."""
    clock_offset_ms: float | None = None
    """How far the clock of the driver or sender is ahead of this host's when its least late frame arrives."""
    age_p50_ms: float = 0.0
    """Age of a live source's frames when readers get them: since they were captured, if that is known from the source's
    clock, otherwise since they could be grabbed; 0.0 for other sources, and before the first frame."""
    age_p99_ms: float = 0.0
    requested: VideoFormat | None = None
    """What a camera was asked for."""
    negotiated: VideoFormat | None = None
    """What the source said that it delivers, before frames are turned and cropped."""

    def line(self) -> str:
        """The statistics as the log has them."""
        live = ""
        if self.age_p99_ms or self.frames_stale:
            live = f", age_p50={self.age_p50_ms:.1f}ms, age_p99={self.age_p99_ms:.1f}ms, stale={self.frames_stale}"
        clock = "" if self.clock_offset_ms is None else f", clock_offset={self.clock_offset_ms:.1f}ms"
        lost = f", lost=~{self.frames_lost}" if self.frames_lost else ""
        unreadable = f", unreadable={self.frames_unreadable}" if self.frames_unreadable else ""
        damaged = f", damaged={self.frames_damaged}" if self.frames_damaged else ""
        state = "" if self.state is SourceState.STREAMING else f", state={self.state}"
        state += f" ({self.reason})" if state and self.reason else ""
        age = "none" if self.frame_age_s is None else f"{self.frame_age_s:.3f}s"
        return (
            f"Stats: uptime={self.uptime_s:.1f}s, frames_captured={self.frames_captured}, "
            f"frames_written={self.frames_written}, fps={self.fps:.1f}, camera_fps={self.camera_fps:.1f}, "
            f"dropped={self.frames_dropped}, reconnects={self.reconnects}, stalls={self.stalls}, "
            f"loops={self.loops}, frame_age={age}, write_sequence={self.write_sequence}, "
            f"write_p50={self.write_p50_ms:.2f}ms, write_p99={self.write_p99_ms:.2f}ms"
            f"{unreadable}{damaged}{lost}{live}{clock}{state}"
        )

    def fields(self) -> dict[str, Any]:
        """The statistics as named values, for JSON logs; `name` is called `segment` there."""
        values = asdict(self)
        values["segment"] = values.pop("name")
        return values


class RateWindow:
    """Events per second over the last seconds."""

    def __init__(self) -> None:
        self._times: deque[int] = deque(maxlen=RATE_WINDOW_FRAMES)

    def add(self, now_ns: int) -> None:
        """Note an event."""
        self._times.append(now_ns)

    def rate(self, now_ns: int) -> float:
        """Events per second; falls to 0.0 when there are none, however regular they were before."""
        times = self._times
        # The last two are always kept, so that rare events have a rate, too.
        while len(times) > 2 and times[0] < now_ns - RATE_WINDOW_NS:
            times.popleft()
        if len(times) < 2:
            return 0.0
        intervals = len(times) - 1
        span = times[-1] - times[0]
        silence = now_ns - times[-1]
        if span <= 0 or silence > max(RATE_WINDOW_NS, 2 * span / intervals):
            return 0.0
        if silence > 2 * span / intervals:
            span += silence
        return intervals * _NS_PER_SEC / span


class CaptureStatistics:
    """Counters of the capture loop. All durations are monotonic.

    Parameters
    ----------
    now_ns : int
        CLOCK_MONOTONIC when the process began.
    """

    def __init__(self, now_ns: int) -> None:
        self.started_ns = now_ns
        self.captured = 0
        self.written = 0
        self.dropped = 0
        self.reconnects = 0
        self.stalls = 0
        self.loops = 0
        self.last_capture_ns: int | None = None
        self.capture_rate = RateWindow()
        self.write_rate = RateWindow()
        self.stale = 0
        self.unreadable = 0
        self.damaged = 0
        self.lost = 0
        self.clock_offset_ns: int | None = None
        """How far the clock of the driver or sender is ahead of this host's; None if there is none."""
        self._latencies: deque[int] = deque(maxlen=LATENCY_WINDOW_FRAMES)
        self._ages: deque[int] = deque(maxlen=LATENCY_WINDOW_FRAMES)
        self._interval_ns = 0
        self.rejected = 0
        """Answers of other hosts that could not be read."""
        self.link_bytes = 0
        self.link_missed = 0
        self.link_age_us = 0
        self.link_trip_us = 0
        self.link_error_us = 0
        self.on_written: Callable[[int, int], None] | None = None
        """Called for each published frame with when it was published and how long that took without decoding, in ns."""

    def frame_captured(self, captured_ns: int) -> None:
        """Count a frame that the source delivered."""
        self.captured += 1
        if self.last_capture_ns is not None:
            interval = min(captured_ns - self.last_capture_ns, self.stall_after_ns)
            self._interval_ns += (interval - self._interval_ns) // 8
        self.last_capture_ns = captured_ns
        self.capture_rate.add(captured_ns)

    def frame_written(self, now_ns: int, latency_ns: int) -> None:
        """Count a frame that was published."""
        self.written += 1
        self.write_rate.add(now_ns)
        self._latencies.append(latency_ns)
        if self.on_written is not None:
            self.on_written(now_ns, latency_ns)

    def frame_aged(self, age_ns: int) -> None:
        """Note how old a frame was when it was published."""
        self._ages.append(age_ns)

    @property
    def stall_after_ns(self) -> int:
        """How long a live source may be silent before that is a stall."""
        return max(STALL_NS, STALL_FRAMES * self._interval_ns)

    def age_ms(self, *shares: float) -> tuple[float, ...]:
        """Percentiles of the age at publication over the last frames."""
        ordered = sorted(self._ages)
        return tuple(percentile(ordered, share) / _NS_PER_MS for share in shares)

    def latency_ms(self, *shares: float) -> tuple[float, ...]:
        """Percentiles of the write latency over the last frames; 0.5 is the median."""
        ordered = sorted(self._latencies)
        return tuple(percentile(ordered, share) / _NS_PER_MS for share in shares)

    def frame_age_s(self, now_ns: int) -> float | None:
        """Seconds since the last captured frame, None before the first."""
        return None if self.last_capture_ns is None else max(0, now_ns - self.last_capture_ns) / _NS_PER_SEC

    def uptime_s(self, now_ns: int) -> float:
        """Seconds since the process began."""
        return (now_ns - self.started_ns) / _NS_PER_SEC


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value of the nearest rank, one that occurred; 0.0 if there are none."""
    return float(ordered[min(int(share * len(ordered)), len(ordered) - 1)]) if ordered else 0.0

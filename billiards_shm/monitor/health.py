"""Watched segments as they come and go, and whether each is healthy."""

import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from billiards_shm.errors import BilliardsShmError, SegmentNotFoundError
from billiards_shm.monitor.rates import RateMeter, latency_bound
from billiards_shm.segments import SegmentInfo, inspect_segment, list_segments
from billiards_shm.statistics import SegmentStatistics, statistics_of
from billiards_shm.status import SegmentStatus, SourceState

__all__ = [
    "REFRESH_INTERVAL_S",
    "HealthMonitor",
    "HealthState",
    "SegmentHealth",
    "evaluate_health",
    "living_writer",
]

REFRESH_INTERVAL_S: Final = 0.2
"""Segments are inspected at most this often; calls in between get the last result."""

REMEMBERED_S: Final = 600.0
"""How long a segment is still reported after it is gone, unless it was asked for by name."""

REMEMBERED_NAMES: Final = 256
"""How many segments are reported, unless more of them exist."""


class HealthState(StrEnum):
    """Health of one segment."""

    LIVE = "live"
    """The only healthy state: a writer lives, and its newest captured frame is new enough."""
    WAITING = "waiting"
    """There is no frame yet."""
    STALLED = "stalled"
    """The newest captured frame is too old."""
    DEAD = "dead"
    """The writer died."""
    CLOSED = "closed"
    """The writer closed the segment."""
    GONE = "gone"
    """There is no segment."""
    UNREADABLE = "unreadable"
    """The object under the name cannot be read."""


_BEFORE_THE_END: Final = (HealthState.LIVE, HealthState.WAITING, HealthState.STALLED, HealthState.CLOSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentHealth(SegmentStatistics):
    """One watched segment at one moment. The defaults are those of a segment that is gone."""

    name: str
    state: HealthState
    reason: str
    """Why, in a sentence."""
    ended: bool = False
    """Whether the writer closed the segment: it is closed, or it is gone and was not seen dead or unreadable before."""
    status: SegmentStatus = SegmentStatus.DETACHED
    source_state: SourceState = SourceState.UNKNOWN
    source_reason: str = ""
    backend: str = ""
    width: int | None = None
    height: int | None = None
    pixel_format: str | None = None
    clock: str | None = None
    """What the newest frame's capture time was taken from."""
    clock_offset_ms: float | None = None
    """How far that clock is ahead of this host's, if it was compared."""
    fps: float = 0.0
    """Frames published per second, over the last seconds."""
    last_frame_age: float | None = None
    """Seconds since the newest captured frame."""
    write_p50_ms: float | None = None
    write_p99_ms: float | None = None
    sequence: int = 0
    readers: int = 0
    shared_memory_bytes: int = 0
    """Bytes with memory behind them."""

    @property
    def healthy(self) -> bool:
        """Whether the segment is live."""
        return self.state is HealthState.LIVE

    def as_dict(self) -> dict[str, Any]:
        """All attributes by name, for JSON."""
        first = {"name": self.name, "state": self.state, "healthy": self.healthy, "reason": self.reason}
        return first | asdict(self)


def evaluate_health(info: SegmentInfo | None, max_frame_age: float, error: str = "") -> tuple[HealthState, str]:
    """Tell whether a segment is healthy, from its writer's status and the age of the newest captured frame.

    Parameters
    ----------
    info : SegmentInfo or None
        None: there is no segment, or it cannot be read.
    max_frame_age : float
        Seconds.
    error : str
        Why the segment cannot be read.

    Returns
    -------
    state : HealthState
    reason : str
    """
    if info is None:
        return (HealthState.UNREADABLE, error) if error else (HealthState.GONE, "there is no segment of this name")
    age = info.last_frame_age
    newest = "it never had a frame" if age is None else f"its newest frame is {_duration(age)} old"
    if info.status is SegmentStatus.DEAD:
        return HealthState.DEAD, f"the writer died without closing it; {newest}"
    if info.status is not SegmentStatus.LIVE:
        return HealthState.CLOSED, f"the writer closed it; {newest}"
    source = "" if info.source_state is SourceState.UNKNOWN else f"; the source is {info.source_state}"
    if source and info.source_reason:
        source += f": {info.source_reason}"
    if age is None:
        return HealthState.WAITING, f"no frame yet{source}"
    if age > max_frame_age:
        return HealthState.STALLED, f"{newest}, more than the {max_frame_age:g} s allowed{source}"
    return HealthState.LIVE, f"{newest}{source}"


def living_writer(name: str) -> int | None:
    """Id, in its own container, of the process that writes to a segment; None if there is none, or it is unknown."""
    try:
        info = inspect_segment(name)
    except BilliardsShmError:
        return None
    return info.writer_pid if info.status is SegmentStatus.LIVE else None


def _duration(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


class HealthMonitor:
    """Inspects the watched segments on demand. Threads may share it.

    Parameters
    ----------
    names : sequence of str or None
        Names or paths; None: every segment of this machine, including those that appear later.
    max_frame_age : float
        How many seconds old the newest captured frame may be.
    trusted_owners : iterable, optional
        As for a reader.
    on_refresh : callable, optional
        Called after each inspection with the names that are reported; others are forgotten. Any thread may call it.
    """

    def __init__(
        self,
        names: Sequence[str] | None,
        max_frame_age: float,
        trusted_owners: Iterable[int | str] | None = None,
        on_refresh: Callable[[Collection[str]], None] = lambda names: None,
    ) -> None:
        self.names = None if names is None else tuple(dict.fromkeys(names))
        self._max_frame_age = max_frame_age
        self._owners = None if trusted_owners is None else tuple(trusted_owners)
        self._on_refresh = on_refresh
        self._lock = threading.Lock()
        self._refreshed_at = -math.inf
        self._infos: dict[str, SegmentInfo | None] = {}
        self._health: dict[str, SegmentHealth] = {}
        self._rates: dict[str, RateMeter] = {}
        self._last_seen: dict[str, float] = {}
        self._last_state: dict[str, HealthState] = {}

    def health(self) -> dict[str, SegmentHealth]:
        """Health of every watched segment by name, including those that are gone."""
        with self._lock:
            self._refresh()
            return self._health

    def infos(self) -> dict[str, SegmentInfo | None]:
        """Every watched segment that exists, by name; None for one that was named and does not exist."""
        with self._lock:
            self._refresh()
            return self._infos

    def is_watched(self, name: str) -> bool:
        """Whether `name` is one of the watched segments. Check this before any use of a name from outside."""
        return name in self.names if self.names is not None else name in self.health()

    def is_ready(self, segments: Mapping[str, SegmentHealth]) -> bool:
        """Whether all named segments are healthy; without names: all that exist, and at least one does."""
        expected = [
            health for health in segments.values() if self.names is not None or health.state is not HealthState.GONE
        ]
        return bool(expected) and all(health.healthy for health in expected)

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._refreshed_at < REFRESH_INTERVAL_S:
            return
        self._refreshed_at = now
        errors: dict[str, str] = {}
        if self.names is None:
            found: dict[str, SegmentInfo | None] = {
                info.name: info for info in list_segments(trusted_owners=self._owners)
            }
            self._remember(found, now)
        else:
            found = {name: self._inspect(name, errors) for name in self.names}
        self._infos = found
        names = self._last_seen if self.names is None else found
        self._health = {name: self._evaluate(name, found.get(name), errors.get(name, "")) for name in sorted(names)}
        self._on_refresh(self._health.keys())

    def _inspect(self, name: str, errors: dict[str, str]) -> SegmentInfo | None:
        try:
            return inspect_segment(name, trusted_owners=self._owners)
        except SegmentNotFoundError:
            return None
        except BilliardsShmError as error:
            errors[name] = str(error)
            return None

    def _remember(self, found: Collection[str], now: float) -> None:
        """Keep the names of segments for a while after they are gone, so that they are reported as gone."""
        self._last_seen.update(dict.fromkeys(found, now))
        recent = sorted(self._last_seen.items(), key=lambda item: item[1])[-max(REMEMBERED_NAMES, len(found)) :]
        self._last_seen = {name: seen for name, seen in recent if now - seen < REMEMBERED_S}
        self._rates = {name: rate for name, rate in self._rates.items() if name in self._last_seen}
        self._last_state = {name: state for name, state in self._last_state.items() if name in self._last_seen}

    def _evaluate(self, name: str, info: SegmentInfo | None, error: str) -> SegmentHealth:
        state, reason = evaluate_health(info, self._max_frame_age, error)
        if state is not HealthState.GONE:
            self._last_state[name] = state
        # A writer that dies leaves its segment behind; one that closes it removes the name.
        last = self._last_state.get(name, HealthState.GONE)
        ended = state is HealthState.CLOSED or (state is HealthState.GONE and last in _BEFORE_THE_END)
        if info is None:
            self._rates.pop(name, None)
            return SegmentHealth(name=name, state=state, reason=reason, ended=ended)
        rate = self._rates.setdefault(name, RateMeter()).update(info)
        size = info.picture_size or (None, None)
        median, tail = (latency_bound(info.write_latency_buckets, share) for share in (0.5, 0.99))
        return SegmentHealth(
            name=name,
            state=state,
            reason=reason,
            ended=ended,
            status=info.status,
            source_state=info.source_state,
            source_reason=info.source_reason,
            backend=info.backend,
            width=size[0],
            height=size[1],
            pixel_format=info.pixel_format,
            clock=info.clock,
            clock_offset_ms=info.clock_offset_ms,
            fps=0.0 if info.status is not SegmentStatus.LIVE else info.fps if rate is None else rate,
            last_frame_age=info.last_frame_age,
            write_p50_ms=None if median is None else median * 1e3,
            write_p99_ms=None if tail is None else tail * 1e3,
            sequence=info.sequence,
            readers=len(info.readers),
            shared_memory_bytes=info.backed_bytes,
            **statistics_of(info),
        )

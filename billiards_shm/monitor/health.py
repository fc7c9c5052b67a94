"""The segments that a server watches, as they come and go, and whether each is well."""

import math
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from billiards_shm import (
    BilliardsShmError,
    SegmentInfo,
    SegmentNotFoundError,
    SegmentStatus,
    inspect_segment,
    list_segments,
)
from billiards_shm.monitor.rates import RateMeter, latency_bound

__all__ = ["LOOK_INTERVAL_S", "HealthMonitor", "SegmentHealth", "judge"]

LOOK_INTERVAL_S: Final = 0.2
"""A look is good for so long; who asks sooner gets the same one."""

REMEMBERED_S: Final = 600.0
"""A segment that nobody named and that is gone is spoken of for so long."""

REMEMBERED_NAMES: Final = 256


@dataclass(frozen=True, slots=True)
class SegmentHealth:
    """One watched segment at one moment."""

    name: str
    state: str
    """live, waiting (no frame yet), stalled, dead, closed, gone or unreadable."""
    healthy: bool
    reason: str
    """Why, in a sentence."""
    status: SegmentStatus
    source_state: str
    source_reason: str
    backend: str
    width: int | None
    height: int | None
    pixel_format: str | None
    fps: float
    """Frames published per second over the last seconds."""
    last_frame_age: float | None
    """Seconds since the newest captured frame."""
    write_p50_ms: float | None
    write_p99_ms: float | None
    sequence: int
    captured: int
    published: int
    dropped: int
    reconnects: int
    stalls: int
    loops: int
    readers: int
    shared_memory_bytes: int
    """That have memory behind them now."""


def judge(info: SegmentInfo | None, max_frame_age: float, trouble: str = "") -> tuple[str, bool, str]:
    """Say whether a segment is well: by its writer's status and the age of the newest captured frame.

    Parameters
    ----------
    info : SegmentInfo or None
        None: there is no segment, or it cannot be read.
    max_frame_age : float
        Seconds.
    trouble : str
        Why it cannot be read.

    Returns
    -------
    state : str
        As in `SegmentHealth`.
    healthy : bool
    reason : str
    """
    if info is None:
        return ("unreadable", False, trouble) if trouble else ("gone", False, "there is no segment of this name")
    age = info.last_frame_age
    newest = "it never had a frame" if age is None else f"its newest frame is {_seconds(age)} old"
    if info.status is SegmentStatus.DEAD:
        return "dead", False, f"the writer died without closing it; {newest}"
    if info.status is not SegmentStatus.LIVE:
        return "closed", False, f"the writer closed it; {newest}"
    source = f"; the source is {info.source_state}" if info.source_state != "unknown" else ""
    if source and info.source_reason:
        source += f": {info.source_reason}"
    if age is None:
        return "waiting", False, f"no frame yet{source}"
    if age > max_frame_age:
        return "stalled", False, f"{newest}, more than the {max_frame_age:g} s allowed{source}"
    return "live", True, f"{newest}{source}"


def _seconds(age: float) -> str:
    return f"{age * 1e3:.0f} ms" if age < 1 else f"{age:.1f} s"


class HealthMonitor:
    """Looks at the watched segments when asked to; may be asked by several threads.

    Parameters
    ----------
    names : sequence of str or None
        Names or paths; None: every segment of this machine, also those that appear later.
    max_frame_age : float
        Seconds that the newest captured frame may be old.
    trusted_owners : iterable, optional
        As for a reader.
    """

    def __init__(
        self,
        names: Sequence[str] | None,
        max_frame_age: float,
        trusted_owners: Iterable[int | str] | None = None,
    ) -> None:
        self.names = None if names is None else tuple(dict.fromkeys(names))
        self._max_frame_age = max_frame_age
        self._owners = None if trusted_owners is None else tuple(trusted_owners)
        self._lock = threading.Lock()
        self._looked_at = -math.inf
        self._infos: dict[str, SegmentInfo | None] = {}
        self._observations: dict[str, SegmentHealth] = {}
        self._rates: dict[str, RateMeter] = {}
        self._last_seen: dict[str, float] = {}

    def look(self) -> dict[str, SegmentHealth]:
        """Observe every watched segment, those that are gone included; by name."""
        with self._lock:
            self._refresh()
            return self._observations

    def infos(self) -> dict[str, SegmentInfo | None]:
        """Inspect every watched segment that is there, or was named."""
        with self._lock:
            self._refresh()
            return self._infos

    def watches(self, name: str) -> bool:
        """Whether `name` is one of the watched segments. No name gets as far as the file system before."""
        return name in self.names if self.names is not None else name in self.look()

    @property
    def ready(self) -> bool:
        """Whether all is well: every named segment, or every one there is, and there is one."""
        observations = self.look().values()
        present = [one for one in observations if self.names is not None or one.state != "gone"]
        return bool(present) and all(one.healthy for one in present)

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < LOOK_INTERVAL_S:
            return
        self._looked_at = now
        troubles: dict[str, str] = {}
        if self.names is None:
            found: dict[str, SegmentInfo | None] = {
                info.name: info for info in list_segments(trusted_owners=self._owners)
            }
            self._remember(found, now)
        else:
            found = {name: self._inspect(name, troubles) for name in self.names}
        self._infos = found
        names = self._last_seen if self.names is None else found
        self._observations = {
            name: self._observe(name, found.get(name), troubles.get(name, "")) for name in sorted(names)
        }

    def _inspect(self, name: str, troubles: dict[str, str]) -> SegmentInfo | None:
        try:
            return inspect_segment(name, trusted_owners=self._owners)
        except SegmentNotFoundError:
            return None
        except BilliardsShmError as error:
            troubles[name] = str(error)
            return None

    def _remember(self, found: Iterable[str], now: float) -> None:
        """Keep names of segments that are gone for a while, so that it can be said that they are."""
        self._last_seen.update(dict.fromkeys(found, now))
        recent = sorted(self._last_seen.items(), key=lambda item: item[1])[-REMEMBERED_NAMES:]
        self._last_seen = {name: seen for name, seen in recent if now - seen < REMEMBERED_S}
        self._rates = {name: rate for name, rate in self._rates.items() if name in self._last_seen}

    def _observe(self, name: str, info: SegmentInfo | None, trouble: str) -> SegmentHealth:
        state, healthy, reason = judge(info, self._max_frame_age, trouble)
        if info is None:
            self._rates.pop(name, None)
            return SegmentHealth(name, state, healthy, reason, SegmentStatus.DETACHED, **_NOTHING)
        rate = self._rates.setdefault(name, RateMeter()).update(info)
        median, tail = (latency_bound(info.write_latency_buckets, share) for share in (0.5, 0.99))
        return SegmentHealth(
            name,
            state,
            healthy,
            reason,
            info.status,
            source_state=str(info.source_state),
            source_reason=info.source_reason,
            backend=info.backend,
            width=info.width,
            height=info.height,
            pixel_format=info.pixel_format,
            fps=0.0 if info.status is not SegmentStatus.LIVE else info.fps if rate is None else rate,
            last_frame_age=info.last_frame_age,
            write_p50_ms=None if median is None else median * 1e3,
            write_p99_ms=None if tail is None else tail * 1e3,
            sequence=info.sequence,
            captured=info.captured,
            published=info.published,
            dropped=info.dropped,
            reconnects=info.reconnects,
            stalls=info.stalls,
            loops=info.loops,
            readers=len(info.readers),
            shared_memory_bytes=info.backed_bytes,
        )


_NOTHING: Final[dict[str, Any]] = (
    dict.fromkeys(("width", "height", "pixel_format", "last_frame_age", "write_p50_ms", "write_p99_ms"))
    | dict.fromkeys(("source_state", "source_reason", "backend"), "")
    | dict.fromkeys(("sequence", "captured", "published", "dropped", "reconnects", "stalls", "loops", "readers"), 0)
    | {"fps": 0.0, "shared_memory_bytes": 0}
)

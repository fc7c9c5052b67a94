"""State shared by the addresses of one application: segments, feeds, clients, and threads for slow work."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

from fastapi import HTTPException

from billiards_shm.monitor.health import REFRESH_INTERVAL_S, HealthMonitor
from billiards_shm.serve.clients import Clients
from billiards_shm.serve.feed import Feed
from billiards_shm.serve.metrics import ServerMetrics
from billiards_shm.serve.replay import Rings

__all__ = ["AppState"]

WAITING_SNAPSHOTS: Final = 8
WAITING_CLIPS: Final = 4

_Result = TypeVar("_Result")


class AppState:
    """State shared by the routes of one application."""

    def __init__(
        self,
        names: Sequence[str] | None,
        max_clients: int,
        max_frame_age: float,
        owners: tuple[int | str, ...] | None,
    ) -> None:
        self.monitor = HealthMonitor(names, max_frame_age, owners, self._forget_others)
        self.clients = Clients(max_clients)
        self.metrics = ServerMetrics(self.monitor, self.clients)
        self.owners = owners
        # Threads start when there is work. Snapshots and clips may be slow and must not delay streams.
        self._encoders = ThreadPoolExecutor(max(2, (os.cpu_count() or 2) - 1), "billiards-shm-encode")
        self.snapshots = WorkQueue("snapshots", WAITING_SNAPSHOTS)
        self.clips = WorkQueue("clips", WAITING_CLIPS)
        self._feeds: dict[str, Feed] = {}
        self._rings = Rings()
        self._kept: set[str] = set()
        """Segments about which there may be something in memory."""

    async def feed(self, name: str) -> Feed:
        """Return the feed of a watched segment; 404 for any other."""
        await self.require_watched(name)
        feed = self._feeds.get(name)
        if feed is None:
            feed = Feed(name, self._encoders, partial(self.metrics.encoded, name), self.owners)
            self._feeds[name] = feed
        return feed

    async def require_watched(self, name: str) -> None:
        """Answer 404 if a segment is not watched. Call this before any use of a name from a request."""
        for pause in (REFRESH_INTERVAL_S, 0):
            if await asyncio.to_thread(self.monitor.is_watched, name):
                return
            if self.monitor.names is None:
                await asyncio.sleep(pause)  # it may have appeared since the last refresh
        raise HTTPException(404, f"no segment {name!r} is shown here: /api/segments lists them")

    def _forget_others(self, reported: Collection[str]) -> None:
        """Drop what is in memory about segments that are no longer reported and have no clients, in any thread."""
        kept = {*reported, *(client.name for client in self.clients), ""}  # clients of all segments have no name
        for name in self._kept - kept:
            self._feeds.pop(name, None)
            self._rings.forget(name)
            self.clients.forget(name)
            self.metrics.forget(name)
        self._kept = kept

    async def describe_segments(self) -> list[dict[str, Any]]:
        """Return health and statistics of every watched segment, for JSON."""
        viewers = Counter(client.name for client in self.clients)

        def described() -> list[dict[str, Any]]:
            return [
                segment.as_dict() | {"clients": viewers[segment.name], "replay": self._rings.has(segment.name)}
                for segment in self.monitor.health().values()
            ]

        return await asyncio.to_thread(described)


class WorkQueue:
    """Slow work, one piece at a time, in a thread that starts when there is some; 503 when too many wait."""

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = most
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, f"billiards-shm-{what}")

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue, which each piece of work needs. Keep it for as long as the result uses resources."""
        if self._waiting >= self._most:
            raise HTTPException(503, f"too many {self._what} at once", {"Retry-After": "1"})
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def run(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

"""The connected clients: counted, limited, and disconnected when the server stops."""

import asyncio
import itertools
import signal
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from billiards_shm.serve.feed import JpegFrame

__all__ = ["Client", "Clients", "TooManyClientsError"]

_STOP_CHECK_INTERVAL_S: Final = 0.05


class TooManyClientsError(Exception):
    """No further client is allowed; the message says how many are connected."""


@dataclass(eq=False, slots=True)
class Client:
    """One stream, WebSocket or event stream."""

    number: int
    kind: str
    """mjpeg, websocket or events."""
    name: str
    """Name of the segment; empty: all segments."""
    address: str
    frames: int = 0
    skipped: int = 0
    """Frames since its first one that were not sent to it: it asked for fewer (`fps`), or was too slow."""
    bytes_sent: int = 0
    connected_at: float = field(default_factory=time.monotonic)
    dismissed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client of another address needs its place."""
    _last: tuple[int, int] | None = None

    @property
    def serial(self) -> int:
        """Serial number of the last frame sent to it; 0: none yet."""
        return self._last[0] if self._last is not None else 0

    def sent(self, frame: JpegFrame, size: int) -> None:
        """Count a frame sent as `size` bytes."""
        self.frames += 1
        self.bytes_sent += size
        if self._last is not None:
            serial, missed = self._last
            self.skipped += frame.serial - serial - 1 + frame.missed - missed
        self._last = frame.serial, frame.missed

    def as_dict(self) -> dict[str, Any]:
        """All fields, in JSON types."""
        return {
            "id": self.number,
            "kind": self.kind,
            "name": self.name,
            "address": self.address,
            "frames": self.frames,
            "skipped": self.skipped,
            "bytes": self.bytes_sent,
            "seconds": round(time.monotonic() - self.connected_at, 3),
        }


class Clients:
    """The connected clients of one application.

    Parameters
    ----------
    limit : int
        Clients that may be connected at a time.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._connected: dict[int, Client] = {}
        self._numbers = itertools.count(1)
        self._totals: Counter[tuple[str, str, str]] = Counter()
        # Otherwise a client that leaves while another thread sums would be missing, and counters must not decrease.
        self._leaving = threading.Lock()
        self._stop_watch: asyncio.Task[None] | None = None
        self._stopped: asyncio.Event | None = None

    def __iter__(self) -> Iterator[Client]:
        return iter(list(self._connected.values()))

    def __len__(self) -> int:
        return len(self._connected)

    @contextmanager
    def join(self, kind: str, name: str, address: str) -> Iterator[Client]:
        """Count a client while the block runs.

        If all places are taken, and another address has at least two more than this one, the newest client of that
        address is dismissed. So one address cannot shut out the others.

        Raises
        ------
        TooManyClientsError
            `limit` clients are connected.
        """
        staying = [client for client in self._connected.values() if not client.dismissed.is_set()]
        if len(staying) >= self.limit:
            places = Counter(client.address for client in staying)
            greediest, most = places.most_common(1)[0]
            if most < places[address] + 2:
                raise TooManyClientsError(
                    f"{self.limit} clients are connected, and no more are allowed (--max-clients)"
                )
            [client for client in staying if client.address == greediest][-1].dismissed.set()
        client = Client(next(self._numbers), kind, name, address)
        self._connected[client.number] = client
        if self._stop_watch is None:
            self._stopped = asyncio.Event()
            self._stop_watch = asyncio.get_running_loop().create_task(self._watch_for_stop(self._stopped))
        try:
            yield client
        finally:
            with self._leaving:
                del self._connected[client.number]
                self._add(self._totals, client)
            if not self._connected:
                self._stop_watch.cancel()
                self._stop_watch = None

    def totals(self) -> Counter[tuple[str, str, str]]:
        """Frames, skipped frames and bytes, by kind of client and name of segment, including clients that have left."""
        with self._leaving:
            totals = self._totals.copy()
            for client in self:
                self._add(totals, client)
        return totals

    def forget(self, name: str) -> None:
        """Drop the totals of a segment. Any thread may call this."""
        with self._leaving:
            for key in [key for key in self._totals if key[2] == name]:
                del self._totals[key]

    @staticmethod
    def _add(totals: "Counter[tuple[str, str, str]]", client: Client) -> None:
        totals["frames", client.kind, client.name] += client.frames
        totals["skipped", client.kind, client.name] += client.skipped
        totals["bytes", client.kind, client.name] += client.bytes_sent

    async def serve(self, client: Client, *running: Coroutine[Any, Any, None]) -> None:
        """Run the coroutines that serve one client, until one of them ends, it is dismissed, or the server stops."""
        assert self._stopped is not None
        ends = client.dismissed.wait(), self._stopped.wait()
        tasks = [asyncio.ensure_future(coroutine) for coroutine in (*running, *ends)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        try:
            for task in done:
                task.result()
        finally:
            # The traceback of a task's exception refers to this stack frame, and would keep the task and itself alive.
            del tasks, task, done

    def stop(self) -> None:
        """Disconnect every client."""
        if self._stopped is not None:
            self._stopped.set()

    async def _watch_for_stop(self, stopped: asyncio.Event) -> None:
        while not _server_is_stopping():
            await asyncio.sleep(_STOP_CHECK_INTERVAL_S)
        stopped.set()


def _server_is_stopping() -> bool:
    """Ask uvicorn's server, found by its handler of SIGTERM.

    uvicorn notifies applications only after all responses have ended, but streams do not end on their own. This also
    works for an application that is mounted in another one.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return bool(getattr(server, "should_exit", False))

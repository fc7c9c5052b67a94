"""Who watches now: counted, limited, and told when the server stops."""

import asyncio
import itertools
import signal
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from billiards_shm.serve.feed import EncodedFrame

__all__ = ["Client", "Clients", "TooManyClientsError"]

_LOOK_INTERVAL_S: Final = 0.05


class TooManyClientsError(Exception):
    """There are as many clients as are allowed; the message says how many."""


@dataclass(eq=False, slots=True)
class Client:
    """One connection that lasts."""

    number: int
    kind: str
    """mjpeg, websocket or events."""
    name: str
    """Of the segment; empty for all."""
    address: str
    frames: int = 0
    skipped: int = 0
    """Frames published since its first one that it was not sent, by its own wish (`fps`) or for being slow."""
    bytes_sent: int = 0
    begun: float = field(default_factory=time.monotonic)
    _last: tuple[int, int] | None = None

    @property
    def serial(self) -> int:
        """Of the last picture it was sent; 0: none yet."""
        return self._last[0] if self._last is not None else 0

    def sent(self, picture: EncodedFrame, size: int) -> None:
        """Count a picture that is on its way, with what is around it."""
        self.frames += 1
        self.bytes_sent += size
        if self._last is not None:
            serial, missed = self._last
            self.skipped += picture.serial - serial - 1 + picture.missed - missed
        self._last = picture.serial, picture.missed

    def as_dict(self) -> dict[str, Any]:
        """All that is to be known of it, in types that JSON knows."""
        return {
            "id": self.number,
            "kind": self.kind,
            "name": self.name,
            "address": self.address,
            "frames": self.frames,
            "skipped": self.skipped,
            "bytes": self.bytes_sent,
            "seconds": round(time.monotonic() - self.begun, 3),
        }


class Clients:
    """The connections that last, of one application.

    Parameters
    ----------
    limit : int
        How many there may be.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._here: dict[int, Client] = {}
        self._numbers = itertools.count(1)
        self._totals: Counter[tuple[str, str, str]] = Counter()
        self._watching: asyncio.Task[None] | None = None
        self._stopped: asyncio.Event | None = None

    def __iter__(self) -> Iterator[Client]:
        return iter(list(self._here.values()))

    def __len__(self) -> int:
        return len(self._here)

    @contextmanager
    def join(self, kind: str, name: str, address: str) -> Iterator[Client]:
        """Count a client while the block runs.

        Raises
        ------
        TooManyClientsError
            There are enough.
        """
        if len(self._here) >= self.limit:
            raise TooManyClientsError(f"{self.limit} clients are connected, and no more are allowed (--max-clients)")
        client = Client(next(self._numbers), kind, name, address)
        self._here[client.number] = client
        if self._watching is None:
            self._stopped = asyncio.Event()
            self._watching = asyncio.get_running_loop().create_task(self._watch(self._stopped))
        try:
            yield client
        finally:
            del self._here[client.number]
            self._add(self._totals, client)
            if not self._here:
                self._watching.cancel()
                self._watching = None

    def totals(self) -> Counter[tuple[str, str, str]]:
        """Frames, skipped frames and bytes of all clients ever, by kind and name of the segment."""
        totals = self._totals.copy()
        for client in self:
            self._add(totals, client)
        return totals

    @staticmethod
    def _add(totals: "Counter[tuple[str, str, str]]", client: Client) -> None:
        totals["frames", client.kind, client.name] += client.frames
        totals["skipped", client.kind, client.name] += client.skipped
        totals["bytes", client.kind, client.name] += client.bytes_sent

    async def serve(self, *running: Coroutine[Any, Any, None]) -> None:
        """Run what serves one client that has joined, until the first of it ends or the server stops."""
        assert self._stopped is not None
        tasks = [asyncio.ensure_future(coroutine) for coroutine in (*running, self._stopped.wait())]
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
            # The traceback of what a task raised has this frame, and so would hold the task that holds it.
            del tasks, task, done

    def stop(self) -> None:
        """Let every client go."""
        if self._stopped is not None:
            self._stopped.set()

    async def _watch(self, stopped: asyncio.Event) -> None:
        while not _server_is_stopping():
            await asyncio.sleep(_LOOK_INTERVAL_S)
        stopped.set()


def _server_is_stopping() -> bool:
    """Ask uvicorn's server, which takes SIGTERM by one of its methods.

    It tells applications of its stop only after all responses have ended, and these have no end of their own. Asked
    like this it also works for an application that is mounted in somebody else's.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return bool(getattr(server, "should_exit", False))

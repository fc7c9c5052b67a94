"""Both ends of a mirror in the test's own process, on an endpoint that no other test uses."""

import contextlib
import itertools
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import zenoh
from stops import Stop

from billiards_shm.config.model import MirrorConfig, MirroredConfig, Settings
from billiards_shm.mirror.keys import Origin
from billiards_shm.mirror.network import open_session
from billiards_shm.mirror.process import receive_settings
from billiards_shm.mirror.receiver import MirrorLoop
from billiards_shm.mirror.sender import SegmentSender

HOST = "kitchen"
ID = "0123abcd"

_numbers = itertools.count(1)


def network(folder: Path, role: str) -> MirrorConfig:
    """A configuration that finds peers with the same folder, and nothing else."""
    file = folder / f"{role}-{next(_numbers)}.json5"
    endpoint = f"unixsock-stream/{folder}/zenoh"
    file.write_text(
        json.dumps(
            {
                "mode": "peer",
                "scouting": {"multicast": {"enabled": False}},
                "listen": {"endpoints": [endpoint] if role == "listen" else []},
                "connect": {
                    "endpoints": [endpoint] if role == "connect" else [],
                    "timeout_ms": -1,
                    "exit_on_failure": False,
                    "retry": {"period_init_ms": 20, "period_max_ms": 100, "period_increase_factor": 2},
                },
                "transport": {"link": {"tx": {"lease": 1000}}},
            }
        )
    )
    return MirrorConfig(zenoh_config=str(file))


class Sender:
    """Offers segments until the block ends."""

    def __init__(self, session: zenoh.Session, pool: ThreadPoolExecutor) -> None:
        self._session = session
        self._pool = pool
        self.senders: list[SegmentSender] = []

    def offer(self, name: str, host: str = HOST, identity: str = ID) -> SegmentSender:
        sender = SegmentSender(self._session, Origin(host, identity, name), self._pool)
        sender.update()
        self.senders.append(sender)
        return sender


@contextlib.contextmanager
def sending(folder: Path, *names: str) -> Iterator[Sender]:
    """A sender that offers existing segments."""
    with ThreadPoolExecutor(8) as pool, open_session(network(folder, "listen")) as session:
        made = Sender(session, pool)
        try:
            for name in names:
                made.offer(name)
            yield made
        finally:
            for sender in made.senders:
                sender.close()


class Receiver:
    """A loop that copies a segment, in a thread."""

    def __init__(self, folder: Path, origin: str, name: str, **more: Any) -> None:
        source = MirroredConfig(origin=origin, name=name, **more)
        settings = receive_settings(Settings(mirror=network(folder, "connect")), source)
        self._stop = Stop()
        self.progress = 0
        self.loop = MirrorLoop(settings, source, self._stop, self._count)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _count(self) -> None:
        self.progress += 1

    def _run(self) -> None:
        try:
            self.loop.run()
        except BaseException as error:
            self.error = error

    def wait(self) -> BaseException | None:
        """Wait for its end, and return its error, if any."""
        self._thread.join()
        return self.error

    def close(self) -> None:
        self._stop.request()
        self.loop.close()
        self._thread.join()


@contextlib.contextmanager
def receiving(folder: Path, origin: str, name: str, **more: Any) -> Iterator[MirrorLoop]:
    """A receiver, which has to end without an error."""
    receiver = Receiver(folder, origin, name, **more)
    try:
        yield receiver.loop
    finally:
        receiver.close()
        assert receiver.error is None, receiver.error

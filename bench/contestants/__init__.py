"""Ways to pass frames between processes, each in its own module with a `Publisher` and a `Subscriber`.

A rival that is not installed is reported as missing, never left out silently.
"""

import importlib
import importlib.util
from dataclasses import dataclass
from multiprocessing.context import SpawnContext
from typing import Any, Protocol

from bench.sizes import Picture, Shape


class Publisher(Protocol):
    """The side that has the pictures."""

    def __init__(self, where: str, shape: Shape, shared: Any) -> None:
        """`where`: a unique name for this pair, letters and digits; `shared`: what the module's `share` made."""

    def write(self, picture: Picture) -> None:
        """Publish an array, the fastest way."""

    def publish(self, picture: Picture) -> int:
        """The same; returns the monotonic ns just before readers can see it, if possible with the pixels in place."""

    def close(self) -> None: ...


class Subscriber(Protocol):
    """The side that waits for them."""

    def __init__(self, where: str, shape: Shape, shared: Any) -> None: ...

    def receive(self, timeout: float) -> tuple[int, Picture] | None:
        """The next picture, and the monotonic time in ns when it was in hand; None after the timeout."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Contestant:
    """One way to pass frames."""

    key: str
    title: str
    module: str
    requires: str | None = None

    @property
    def missing(self) -> str | None:
        """Why it cannot take part, or None."""
        if self.requires is None or importlib.util.find_spec(self.requires) is not None:
            return None
        return f"{self.requires} is not installed: pip install 'billiards-shm[bench]'"

    def share(self, context: SpawnContext) -> Any:
        """What both sides have to be given when their processes start."""
        return importlib.import_module(self.module).share(context)

    def publisher(self, where: str, shape: Shape, shared: Any) -> Publisher:
        made: Publisher = importlib.import_module(self.module).Publisher(where, shape, shared)
        return made

    def subscriber(self, where: str, shape: Shape, shared: Any) -> Subscriber:
        made: Subscriber = importlib.import_module(self.module).Subscriber(where, shape, shared)
        return made


OURS = Contestant("billiards_shm", "billiards_shm", "bench.contestants.billiards")
OURS_IN_PLACE = Contestant(
    "billiards_shm_in_place", "billiards_shm, pixels in place", "bench.contestants.billiards_in_place"
)
FUTEX = Contestant("futex", "bare futex (floor)", "bench.contestants.futex")
FUTEX_AFTER_COPY = Contestant("futex_after_copy", "bare futex after a copy", "bench.contestants.futex_after_copy")
WAKES_ONLY = (FUTEX, FUTEX_AFTER_COPY, OURS_IN_PLACE)  # they move no pixels between processes
ICEORYX2 = Contestant("iceoryx2", "iceoryx2", "bench.contestants.iceoryx", "iceoryx2")
RIVALS = (
    ICEORYX2,
    Contestant("zenoh", "eclipse-zenoh, shared memory", "bench.contestants.zenoh_shm", "zenoh"),
    Contestant("pyzmq", "pyzmq, ipc", "bench.contestants.zeromq", "zmq"),
    Contestant("shm_lock", "multiprocessing.shared_memory, lock", "bench.contestants.shm_lock"),
    Contestant("shm_poll", "multiprocessing.shared_memory, polled", "bench.contestants.shm_poll"),
    Contestant("queue", "multiprocessing.Queue", "bench.contestants.mp_queue"),
)
CONTESTANTS = (*WAKES_ONLY, OURS, *RIVALS)

"""From process to process: how long until a sleeping reader has the picture, and until it has read every pixel.

One picture at a time: the next one goes out when the reader has finished with the last and had time to fall asleep.
Rounds of all contestants alternate (A B C A B C), so noise hits all of them alike.
"""

import ctypes
import random
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from time import monotonic, monotonic_ns, sleep
from types import SimpleNamespace, TracebackType
from typing import Any, Literal, Self

import numpy as np

from bench.contestants import ICEORYX2, OURS, WAKES_ONLY, Contestant
from bench.samples import Distribution
from bench.sizes import Picture, Shape, noise, own_name
from bench.worker import CONTEXT, Worker, WorkerError

Mode = Literal["wake", "write"]
GAP_S = (0.001, 0.003)  # random, or it would fall into step with a polling reader
LOOK_S = 0.0003
LOST_AFTER_S = 2.0
WARM_UP_FRAMES = 3

# ---------------------------------------------------------------- in the publisher's process


def open_publisher(state: SimpleNamespace, contestant: Contestant, where: str, shape: Shape) -> None:
    state.picture = noise(shape)
    state.number = state.done.value = 0
    state.publisher = contestant.publisher(where, shape, state.shared)


def close_publisher(state: SimpleNamespace) -> None:
    state.publisher.close()
    del state.publisher


def publish_round(state: SimpleNamespace, frames: int, mode: Mode) -> list[tuple[int, int, int, int]]:
    """For each frame that arrived: its number, and when it was started, about to be visible, and published."""
    stamps = []
    state.over.value = False
    for _ in range(frames):
        state.number += 1
        stamp = publish_one(state, mode)
        if arrived(state, LOST_AFTER_S):
            stamps.append(stamp)
        sleep(random.uniform(*GAP_S))
    state.over.value = True
    return stamps


def publish_one(state: SimpleNamespace, mode: Mode) -> tuple[int, int, int, int]:
    mark(state.picture, state.number)
    begin = monotonic_ns()
    if mode == "write":
        state.publisher.write(state.picture)
        visible = begin
    else:
        visible = state.publisher.publish(state.picture)
    return state.number, begin, visible, monotonic_ns()


def arrived(state: SimpleNamespace, seconds: float) -> bool:
    """Whether the reader is done with the frame just published."""
    deadline = monotonic() + seconds
    while state.done.value < state.number:
        if monotonic() > deadline:
            return False
        sleep(LOOK_S)
    return True


def connect(state: SimpleNamespace) -> int:
    """Publish until frames arrive: some contestants need a while to connect. Returns the last one's number."""
    state.over.value = False
    arrivals, deadline = 0, monotonic() + 20
    while arrivals < WARM_UP_FRAMES:
        if monotonic() > deadline:
            raise TimeoutError(f"only {arrivals} frames arrived within 20 s, expected {WARM_UP_FRAMES}")
        state.number += 1
        publish_one(state, "wake")
        arrivals += arrived(state, 0.3)
    state.over.value = True
    return int(state.number)


def mark(picture: Picture, number: int) -> None:
    """The frame's number is its first eight bytes."""
    picture.reshape(-1)[:8].view(np.uint64)[0] = number


def number_of(picture: Picture) -> int:
    return int(picture.reshape(-1)[:8].view(np.uint64)[0])


# ---------------------------------------------------------------- in the reader's process


def open_subscriber(state: SimpleNamespace, contestant: Contestant, where: str, shape: Shape) -> None:
    state.subscriber = contestant.subscriber(where, shape, state.shared)


def close_subscriber(state: SimpleNamespace) -> None:
    state.subscriber.close()
    del state.subscriber


def read_round(state: SimpleNamespace, until: int, mode: Mode) -> list[tuple[int, int, int]]:
    """For each frame: its number, when it was in hand, and when every pixel had been read."""
    stamps = []
    while state.done.value < until:
        got = state.subscriber.receive(0.2)
        if got is None:
            if state.over.value:  # the last frame was lost
                break
            continue
        in_hand, picture = got
        number = number_of(picture)
        if mode == "write":
            picture.reshape(-1).view(np.uint64).sum()
        stamps.append((number, in_hand, monotonic_ns()))
        del got, picture
        state.done.value = number
    return stamps


# ---------------------------------------------------------------- in the controlling process


@dataclass
class Samples:
    """Nanoseconds, by round. `write`: array to published; `wake`: visible to in hand; `handle`: array to in hand at the
    reader; `pixels`: array to all pixels read there."""

    write: list[list[int]] = field(default_factory=list)
    wake: list[list[int]] = field(default_factory=list)
    handle: list[list[int]] = field(default_factory=list)
    pixels: list[list[int]] = field(default_factory=list)
    sent: int = 0
    lost: int = 0

    def add(
        self, mode: Mode, sent: int, published: list[tuple[int, int, int, int]], read: list[tuple[int, int, int]]
    ) -> None:
        """Add a round: the publisher's notes and the reader's notes, joined by frame number."""
        seen = {number: (in_hand, finished) for number, in_hand, finished in read}
        joined = [(*stamps, *seen[number]) for number, *stamps in published if number in seen]
        self.sent += sent
        self.lost += sent - len(joined)
        if mode == "wake":
            self.wake.append([in_hand - visible for _, visible, _, in_hand, _ in joined])
            return
        self.write.append([published - begin for begin, _, published, _, _ in joined])
        self.handle.append([in_hand - begin for begin, _, _, in_hand, _ in joined])
        self.pixels.append([finished - begin for begin, _, _, _, finished in joined])

    def as_dict(self) -> dict[str, Any]:
        """Distributions, as dicts for JSON; those without samples are left out."""
        found = {name: getattr(self, name) for name in ("write", "wake", "handle", "pixels")}
        return {name: Distribution.of(rounds).as_dict() for name, rounds in found.items() if any(rounds)} | {
            "sent": self.sent,
            "lost": self.lost,
        }


class Pair:
    """A publisher and a reader of one contestant, each in its own process."""

    def __init__(self, contestant: Contestant) -> None:
        self.contestant = contestant
        self._where = own_name(contestant.key)
        self._sizes = 0
        self._number = 0
        # Kept, because semaphores vanish with the last object of the process that made them.
        self._shared = {
            "shared": contestant.share(CONTEXT),
            "done": CONTEXT.RawValue(ctypes.c_uint64, 0),
            "over": CONTEXT.RawValue(ctypes.c_bool, False),
        }
        self.publisher = Worker(**self._shared)
        self.reader = Worker(**self._shared)

    def next_name(self) -> str:
        """A name for a new channel."""
        self._sizes += 1
        return f"{self._where}_{self._sizes}"

    def open(self, shape: Shape) -> None:
        """Create the channel, and publish until frames arrive."""
        where = self.next_name()
        self.publisher.call(open_publisher, self.contestant, where, shape)
        self.reader.call(open_subscriber, self.contestant, where, shape)
        self.reader.begin(read_round, 2**62, "wake")
        self._number = self.publisher.call(connect)
        self.reader.result()

    def round(self, frames: int, mode: Mode, samples: Samples) -> None:
        """Send some frames, one after another."""
        self._number += frames
        self.reader.begin(read_round, self._number, mode)
        published = self.publisher.call(publish_round, frames, mode)
        samples.add(mode, frames, published, self.reader.result())

    def close_size(self) -> None:
        """Close the channel; keep the processes."""
        self.reader.call(close_subscriber)
        self.publisher.call(close_publisher)

    def close(self) -> None:
        """End the processes, too."""
        self.reader.close()
        self.publisher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass
class Latencies:
    """For one size: each contestant's samples, or why it could not take part or failed."""

    samples: dict[str, Samples] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def modes_of(contestant: Contestant) -> tuple[Mode, ...]:
    """Where no pixels move, there are none to read."""
    return ("wake",) if contestant in WAKES_ONLY else ("wake", "write")


def frames_of(contestant: Contestant, frames: int) -> int:
    """If a frame takes milliseconds, a fifth of the frames is enough."""
    return frames if contestant in (*WAKES_ONLY, OURS, ICEORYX2) else max(3, frames // 5)


def measure(pairs: Iterable[Pair], shape: Shape, rounds: int, frames: int) -> Latencies:
    """All contestants in turn, `rounds` times `frames` frames in each mode."""
    found = Latencies()
    taking_part: list[Pair] = []
    with ExitStack() as opened:
        for pair in pairs:
            if attempt(pair, found, pair.open, shape):
                taking_part.append(pair)
                opened.callback(close_quietly, pair)
                found.samples[pair.contestant.key] = Samples()
        for _ in range(rounds):
            for pair in taking_part:
                for mode in modes_of(pair.contestant):
                    if pair.contestant.key not in found.failed:
                        count = frames_of(pair.contestant, frames)
                        attempt(pair, found, pair.round, count, mode, found.samples[pair.contestant.key])
    return found


def attempt(pair: Pair, found: Latencies, step: Callable[..., None], *arguments: Any) -> bool:
    """Whether it worked; if not, the report will say why."""
    try:
        step(*arguments)
    except WorkerError as error:
        found.failed[pair.contestant.key] = str(error).strip().splitlines()[-1]
        return False
    return True


def close_quietly(pair: Pair) -> None:
    """A rival that fails while closing has still been measured."""
    with suppress(WorkerError):
        pair.close_size()

"""The first wakes of a reader: each slot's first frame compared with later ones.

The publisher has been running for a while when the reader attaches and falls asleep. Each start has a new segment and a
new reader; contestants alternate.
"""

from dataclasses import dataclass, field
from time import sleep
from types import SimpleNamespace
from typing import Any

import numpy as np

from bench import latency
from bench.latency import Pair
from bench.sizes import Shape

FIRST = 3  # one slot each: three have memory at the start
FRAMES_BEFORE = 6
SLEEP_S = 0.01  # before each frame: the longer the sleep, the slower the wake, whatever the frame


def publish_before(state: SimpleNamespace) -> None:
    """The publisher's own first lap."""
    for _ in range(FRAMES_BEFORE):
        state.publisher.publish(state.picture)
        sleep(0.002)


def publish_evenly(state: SimpleNamespace, frames: int) -> list[tuple[int, int]]:
    """For each frame that arrived: its number, and when it was about to be seen."""
    stamps = []
    state.over.value = False
    for _ in range(frames):
        sleep(SLEEP_S)
        state.number += 1
        number, _, visible, _ = latency.publish_one(state, "wake")
        if latency.arrived(state, latency.LOST_AFTER_S):
            stamps.append((number, visible))
    state.over.value = True
    return stamps


def read_what_is_there(state: SimpleNamespace) -> None:
    """Skip the newest frame: no reader slept before it."""
    while state.subscriber.receive(0.01):
        pass


@dataclass
class Wakes:
    """Nanoseconds from visible to in hand, in order, of several starts."""

    starts: list[list[int]] = field(default_factory=list)

    @property
    def first(self) -> list[float]:
        """The median of each first wake, over the starts."""
        return [float(np.median([one[number] for one in self.starts])) for number in range(FIRST)]

    @property
    def later(self) -> float:
        """The median of all later wakes."""
        return float(np.median(np.concatenate([one[FIRST:] for one in self.starts])))

    @property
    def ratio(self) -> float:
        """The slowest of the first wakes, relative to a later one."""
        return max(self.first) / self.later

    @property
    def p99(self) -> float:
        """The median of the starts' 99th percentiles."""
        return float(np.median([np.quantile(one, 0.99) for one in self.starts]))

    def as_dict(self) -> dict[str, Any]:
        """As a dict for JSON."""
        return {"first_ns": self.first, "later_ns": self.later, "p99_ns": self.p99}


def start(pair: Pair, shape: Shape, frames: int) -> list[int]:
    """One start; wakes whose frame was lost are left out."""
    where = pair.next_name()
    pair.publisher.call(latency.open_publisher, pair.contestant, where, shape)
    pair.publisher.call(publish_before)
    pair.reader.call(latency.open_subscriber, pair.contestant, where, shape)
    pair.reader.call(read_what_is_there)
    pair.reader.begin(latency.read_round, frames, "wake")
    published = pair.publisher.call(publish_evenly, frames)
    in_hand = {number: at for number, at, _ in pair.reader.result()}
    pair.close_size()
    return [in_hand[number] - visible for number, visible in published if number in in_hand]


def measure(pairs: list[Pair], shape: Shape, starts: int, frames: int) -> dict[str, Wakes]:
    """By contestant."""
    found = {pair.contestant.key: Wakes() for pair in pairs}
    for _ in range(starts):
        for pair in pairs:
            found[pair.contestant.key].starts.append(start(pair, shape, frames))
    return found

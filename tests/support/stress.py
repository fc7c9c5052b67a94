"""One writer and a dozen readers that are stopped, continued and killed at random, and check every frame they get.

`python tests/support/stress.py NAME --seconds 600` runs it by hand; test_torn_frames.py, for seconds or for a minute.
The last line printed is JSON. Everything random comes from the seed, which is printed too; only the scheduler has none.
"""

import argparse
import asyncio
import contextlib
import ctypes
import gc
import heapq
import json
import mmap
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from segment_layout import CONTROL, DESCRIPTORS_AT, PIN_BYTES, PIXELS, PUBLICATION_AT, opened
from segments_under_test import path_of

from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter, remove_stale_segments

LINE = 64
# Whole lines, on both sides of the size at which copies start to bypass the cache.
SHAPES = [(96, 128, 3), (120, 160, 4), (240, 320, 3), (480, 640, 3), (480, 640), (720, 1280, 3)]
SLOTS = (4, 8, 16)  # tokens for some, for most and for all
KINDS = ["lease"] * 3 + ["copy"] * 3 + ["observer"] * 3 + ["async"] * 3
PLANTS = ("unpinned", "cleared pins")
NOBODY = 65534

# Each process counts in its own row of shared memory, which survives killed processes.
COLUMNS = ("frames", "reads", "verified", "copies", "retries", "torn", "dropped", "broken", "replaced", "unordered")
Row = npt.NDArray[np.int64]


# ---------------------------------------------------------------- pictures


@cache
def lines_of_frame_zero(size: int) -> npt.NDArray[np.uint64]:
    """Eight words a line; no two lines of a frame are alike."""
    words = np.arange(size // 8, dtype=np.uint64)
    return (words // np.uint64(8) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) ^ words


@cache
def _scratch(size: int) -> npt.NDArray[np.uint64]:
    return np.empty(size // 8, np.uint64)


def key_of(number: int) -> np.uint64:
    """What makes frame `number` unique: it is added to each of its words."""
    return np.uint64(number * 0xD1342543DE82EF95 % 2**64)


def draw(frame: npt.NDArray[np.uint8], number: int) -> None:
    words = frame.reshape(-1).view(np.uint64)
    np.add(lines_of_frame_zero(frame.nbytes), key_of(number), out=words)


def wrong_lines(frame: npt.NDArray[np.uint8], number: int) -> int:
    """How many of the frame's lines are not those of frame `number`. Every byte is looked at."""
    keys = np.subtract(frame.reshape(-1).view(np.uint64), lines_of_frame_zero(frame.nbytes), out=_scratch(frame.nbytes))
    right = keys == key_of(number)
    return 0 if right.all() else int((~right.reshape(-1, LINE // 8).all(axis=1)).sum())


# ---------------------------------------------------------------- processes


class Worker:
    """The base of every stress process: its counters, its dice, and whether it should end."""

    def __init__(self, name: str, row: Row, stop: npt.NDArray[np.int64], dice: random.Random, kind: str) -> None:
        self.name, self.kind, self.dice = name, kind, dice
        self._row, self._stop = row, stop

    @property
    def told_to_end(self) -> bool:
        return bool(self._stop[0])

    def count(self, column: str, by: int = 1) -> None:
        self._row[COLUMNS.index(column)] += by

    def check(self, frame: npt.NDArray[np.uint8], number: int, when: str) -> None:
        wrong = wrong_lines(frame, number)
        self.count("verified")
        if wrong:
            self.count("torn")
            print(
                f"torn {when}: frame {number} of {frame.shape} has {wrong} wrong lines of {frame.nbytes // LINE}",
                f"({self.kind} reader)",
                file=sys.stderr,
                flush=True,
            )


def write(worker: Worker) -> None:
    """Write and loan, as fast as possible, in changing sizes."""
    pictures = {shape: np.empty(shape, np.uint8) for shape in SHAPES}
    mode = 0o644 if os.geteuid() == 0 else 0o600
    with SharedMemoryFrameWriter(worker.name, SHAPES[0], slots=worker.dice.choice(SLOTS), mode=mode) as writer:
        known = writer.statistics
        next_shape_at = 0.0
        while not worker.told_to_end:
            now = time.monotonic()
            if now >= next_shape_at:
                shape = worker.dice.choice(SHAPES)
                next_shape_at = now + worker.dice.uniform(0.2, 2.0)
            number = writer.sequence + 1
            if number % 3:
                picture = pictures[shape]
                draw(picture, number)
                sequence = writer.write_frame(picture)
            else:
                with writer.loan(shape) as slot:
                    draw(slot.array, number)
                    if worker.dice.random() < 0.05:
                        slot.array[:] = 0  # a picture that no reader must ever see
                        slot.cancel()
                sequence = slot.sequence or number
            assert sequence == number, f"frame {number} was published as {sequence}"
            worker.count("frames")
            statistics = writer.statistics
            worker.count("dropped", statistics.dropped - known.dropped)
            worker.count("broken", statistics.leases_broken - known.leases_broken)
            worker.count("replaced", statistics.replacements - known.replacements)
            known = statistics


class Holder:
    """Takes the frames of one reader, keeps some for a while, and checks each again before releasing it."""

    def __init__(self, worker: Worker, reader: SharedMemoryFrameReader) -> None:
        self.worker, self.reader = worker, reader
        self._held: list[tuple[float, Any, int]] = []
        self._last = self._retries = 0

    def take(self, frame: Any, metadata: Any) -> None:
        worker = self.worker
        worker.count("reads")
        worker.count("copies", not metadata.zero_copy)
        worker.count("unordered", metadata.sequence <= self._last)
        assert metadata.zero_copy == (not frame.flags.writeable)
        assert worker.kind != "observer" or not metadata.zero_copy
        self._last = metadata.sequence
        worker.check(frame, metadata.sequence, "when it arrived")
        if worker.dice.random() < 0.5:
            until = time.monotonic() + worker.dice.choice((0.001, 0.02, 0.3)) * worker.dice.random()
            self._held.append((until, frame, metadata.sequence))

    def let_go(self, *, everything: bool = False) -> None:
        now = time.monotonic()
        for until, frame, number in self._held:
            if everything or until <= now:
                self.worker.check(frame, number, "while it was held")
        self._held = [] if everything else [held for held in self._held if held[0] > now]
        retries = self.reader.statistics.retries
        self.worker.count("retries", retries - self._retries)
        self._retries = retries


@contextlib.contextmanager
def holding(worker: Worker, **options: Any) -> Iterator[Holder]:
    with SharedMemoryFrameReader(worker.name, **options) as reader:
        holder = Holder(worker, reader)
        yield holder
        holder.let_go(everything=True)


def read(worker: Worker) -> None:
    options: dict[str, dict[str, Any]] = {
        "lease": {"max_leases": worker.dice.randint(1, 3)},
        "copy": {"copy": True},
        "observer": {},
    }
    if worker.kind == "observer":
        become_observer()
    with holding(worker, **options[worker.kind]) as holder:
        while not worker.told_to_end:
            frame, metadata = holder.reader.read_frame(timeout=worker.dice.choice((0.0, 0.01, 0.1)))
            if frame is not None:
                holder.take(frame, metadata)
            frame = None
            holder.let_go()


def read_async(worker: Worker) -> None:
    """Two readers in one event loop: one leases, one copies."""

    async def follow(**options: Any) -> None:
        with holding(worker, **options) as holder:
            frames = holder.reader.frames(follow=True, timeout=0.05)
            while not worker.told_to_end:
                with contextlib.suppress(TimeoutError):
                    async for frame, metadata in frames:
                        holder.take(frame, metadata)
                        del frame
                        await asyncio.sleep(worker.dice.choice((0, 0, 0.005)))
                        holder.let_go()
                        if worker.told_to_end:
                            break
                holder.let_go()

    async def both() -> None:
        await asyncio.gather(follow(), follow(copy=True))

    asyncio.run(both())


def become_observer() -> None:
    """Become a user who may read the object but not write it."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    die_with_parent()  # another user starts without it


# ---------------------------------------------------------------- planted bugs


def _objects(worker: Worker) -> Iterator[tuple[mmap.mmap, int]]:
    """The object that has the name, mapped, again and again; and how many slots it has."""
    while not worker.told_to_end:
        try:
            with opened(path_of(worker.name)) as segment:
                size, count = segment.identity["total_bytes"], segment.identity["slot_count"]
                with mmap.mmap(segment.file, size) as memory:
                    yield memory, count
        except FileNotFoundError:
            time.sleep(0.01)


def read_unpinned(worker: Worker) -> None:
    """What a reader without pins would do: look up the newest frame, and look at it a little later."""
    for memory, count in _objects(worker):
        publication = np.frombuffer(memory, np.uint64, 1, PUBLICATION_AT)
        pixels = np.frombuffer(memory, np.uint8, -1, PIXELS).reshape(count, -1)
        before = int(publication[0])
        if before:
            slot = before & 63
            at = DESCRIPTORS_AT + slot * 128 + 8 + 40
            size = int(np.frombuffer(memory, np.uint64, 1, at)[0])
            time.sleep(0.002)
            worker.count("reads")
            worker.check(pixels[slot, :size], before >> 6, "without a pin")
        del publication, pixels


def clear_pins(worker: Worker) -> None:
    """What a reader that clears the bits of others would do."""
    for memory, count in _objects(worker):
        for slot in range(count):
            at = CONTROL + slot * PIN_BYTES
            memory[at : at + 8] = bytes(8)
        time.sleep(0.001)


# ---------------------------------------------------------------- the process that stops and kills


@dataclass(eq=False)
class Place:
    """One role: one process at a time has it."""

    kind: str
    body: Callable[[Worker], None]
    row: Row
    pid: int = 0
    started: int = 0
    stopped: bool = False


@dataclass
class Result:
    """The result of the whole run."""

    seed: int
    seconds: float
    readers: int = 0
    observers: int = 0
    kills: int = 0
    writer_kills: int = 0
    stops: int = 0
    failures: list[str] = field(default_factory=list)
    frames: int = 0
    reads: int = 0
    verified: int = 0
    copies: int = 0
    retries: int = 0
    torn: int = 0
    dropped: int = 0
    broken: int = 0
    replaced: int = 0
    unordered: int = 0
    idle: list[str] = field(default_factory=list)
    """Kinds of readers that read nothing."""


class Stress:
    """Starts the processes, and makes sure that none of them has an easy time."""

    def __init__(self, name: str, seconds: float, seed: int, plant: str | None) -> None:
        kinds = KINDS if os.geteuid() == 0 else ["copy" if kind == "observer" else kind for kind in KINDS]
        bodies: list[tuple[str, Callable[[Worker], None]]] = [("writer", write)]
        bodies += [(kind, read_async if kind == "async" else read) for kind in kinds]
        if plant == "unpinned":
            bodies.append(("unpinned", read_unpinned))
        elif plant == "cleared pins":
            bodies.append(("clearing", clear_pins))
        width = len(COLUMNS)
        shared = np.frombuffer(mmap.mmap(-1, 8 * width * (len(bodies) + 1)), np.int64).reshape(-1, width)
        self._stop = shared[-1]
        self._places = [Place(kind, body, row) for (kind, body), row in zip(bodies, shared, strict=False)]
        self._dice = random.Random(seed)
        self._name = name
        self._planted = plant is not None
        self.result = Result(seed, seconds, len(kinds), kinds.count("observer"))

    def run(self) -> Result:
        for place in self._places:
            self._start(place)
        deadline = time.monotonic() + self.result.seconds
        self._torment(deadline)
        self._end()
        self._sum_up()
        return self.result

    def _start(self, place: Place) -> None:
        place.started += 1
        dice = random.Random(f"{self.result.seed}-{self._places.index(place)}-{place.started}")
        place.pid = os.fork()
        if place.pid == 0:
            code = 1
            try:
                die_with_parent()
                worker = Worker(self._name, place.row, self._stop, dice, place.kind)
                place.body(worker)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)

    def _torment(self, deadline: float) -> None:
        continuations: list[tuple[float, int, int]] = []  # when, which place, which of its processes
        next_at = time.monotonic() + 0.3
        while not self.result.failures and not self._plant_found():
            if (now := time.monotonic()) > deadline and (self._did_everything() or now > deadline + 60):
                break
            while continuations and continuations[0][0] <= now:
                _, index, started = heapq.heappop(continuations)
                place = self._places[index]
                if place.started == started:
                    os.kill(place.pid, signal.SIGCONT)
                    place.stopped = False
            if now >= next_at:
                next_at = now + self._dice.uniform(0.002, 0.05)
                index = 0 if self._dice.random() < 0.15 else self._dice.randrange(1, 1 + self.result.readers)
                place = self._places[index]
                if self._dice.random() < 0.3:
                    self._kill(place)
                elif not place.stopped:
                    os.kill(place.pid, signal.SIGSTOP)
                    place.stopped = True
                    self.result.stops += 1
                    until = now + self._dice.choice((0.005, 0.05, 0.4)) * self._dice.random()
                    heapq.heappush(continuations, (until, index, place.started))
            self._look_for_failures()
            time.sleep(0.002)

    def _did_everything(self) -> bool:
        """Whether the run has done everything it should; on a busy machine that may take longer than planned."""
        counted = [self._sum("replaced"), self._sum("copies"), self.result.writer_kills, self.result.stops]
        return all(counted) and not self._idle()

    def _sum(self, column: str) -> int:
        return int(sum(place.row[COLUMNS.index(column)] for place in self._places))

    def _idle(self) -> list[str]:
        """Kinds of readers that have read nothing."""
        reads: Counter[str] = Counter()
        for place in self._places:
            reads[place.kind] += int(place.row[COLUMNS.index("reads")])
        return sorted(kind for kind in reads if not reads[kind] and kind not in ("writer", "clearing"))

    def _plant_found(self) -> bool:
        return self._planted and any(place.row[COLUMNS.index("torn")] for place in self._places)

    def _kill(self, place: Place) -> None:
        os.kill(place.pid, signal.SIGKILL)
        self._reap(place, expected=signal.SIGKILL)
        place.stopped = False
        self.result.kills += 1
        self.result.writer_kills += place.kind == "writer"
        self._start(place)

    def _look_for_failures(self) -> None:
        for place in self._places:
            pid, status = os.waitpid(place.pid, os.WNOHANG)
            if pid:
                self.result.failures.append(f"{place.kind} ended with {os.waitstatus_to_exitcode(status)}")
                place.pid = 0

    def _reap(self, place: Place, expected: int) -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(place.pid, 0)[1])
        if code != -expected:
            self.result.failures.append(f"{place.kind} ended with {code}, not with {-expected}")

    def _end(self) -> None:
        living = [place for place in self._places if place.pid]
        for place in living:
            os.kill(place.pid, signal.SIGCONT)
        self._stop[0] = 1
        deadline = time.monotonic() + 60
        for place in reversed(living):  # the writer last: its end is a clean one
            while not (ended := os.waitpid(place.pid, os.WNOHANG))[0] and time.monotonic() < deadline:
                time.sleep(0.002)
            if not ended[0]:
                self.result.failures.append(f"{place.kind} does not end")
                os.kill(place.pid, signal.SIGKILL)
                os.waitpid(place.pid, 0)
            elif code := os.waitstatus_to_exitcode(ended[1]):
                self.result.failures.append(f"{place.kind} ended with {code}")
        remove_stale_segments([self._name])

    def _sum_up(self) -> None:
        for column in COLUMNS:
            setattr(self.result, column, self._sum(column))
        self.result.idle = self._idle()


def die_with_parent() -> None:
    """Leave nothing behind, even if the parent process is itself killed."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--plant", choices=PLANTS, default=None, help="plant a bug; end when it is found")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    gc.collect()
    result = Stress(options.name, options.seconds, seed, options.plant).run()
    print(json.dumps(asdict(result)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The cost of single calls that move no pixels: loan and publish, and reading. No reader waits.

Calls take half a microsecond, so the clock itself is measured in turn with them, and subtracted.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from time import perf_counter_ns
from types import SimpleNamespace

import numpy as np

from bench.contestants import ICEORYX2
from bench.sizes import Shape, own_name
from bench.writes import Once, Rounds, take_turns
from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter

CLOCK = "the clock"
VIEW = "numpy.frombuffer(...).reshape(...)"
LOAN = "loan and publish"
NEW = "read_frame, a new frame"
NOTHING = "read_frame, nothing new"
COPY = "read_frame(copy=True)"
ICEORYX2_SEND = "iceoryx2, loan and send"
ICEORYX2_NEW = "iceoryx2, receive an array"


def timed_after(prepare: Callable[[], object], work: Callable[[], object]) -> Once:
    """Time `work` alone, including the release of what it returned."""

    def once() -> int:
        prepare()
        begin = perf_counter_ns()
        work()
        return perf_counter_ns() - begin

    return once


def nothing() -> None:
    """No preparation."""


@contextmanager
def our_calls(shape: Shape, name: str) -> Iterator[dict[str, Once]]:
    with SharedMemoryFrameWriter(name, shape) as writer, SharedMemoryFrameReader(name) as reader:

        def lend() -> None:
            with writer.loan():
                pass

        def read_a_copy() -> object:
            return reader.read_frame(copy=True)

        memory = bytearray(int(np.prod(shape)))
        yield {
            VIEW: timed_after(nothing, lambda: np.frombuffer(memory, np.uint8).reshape(shape)),
            LOAN: timed_after(nothing, lend),
            NEW: timed_after(lend, reader.read_frame),
            NOTHING: timed_after(nothing, reader.read_frame),
            COPY: timed_after(lend, read_a_copy),
        }


@contextmanager
def iceoryx2_calls(shape: Shape, name: str) -> Iterator[dict[str, Once]]:
    from bench.contestants import iceoryx

    publisher = iceoryx.Publisher(f"{name}_iox", shape, None)
    subscriber = iceoryx.Subscriber(f"{name}_iox", shape, None)

    def send() -> None:
        publisher.send(publisher.lend())

    yield {ICEORYX2_SEND: timed_after(subscriber.poll, send), ICEORYX2_NEW: timed_after(send, subscriber.poll)}
    subscriber.close()
    publisher.close()


def measure(shapes: Mapping[str, Shape], rounds: int, calls: int, rivals: bool = True) -> dict[str, Rounds]:
    """Nanoseconds of each call, less the clock's own, by size and round; all calls of all sizes in turn."""
    subjects = {(CLOCK, ""): timed_after(nothing, nothing)}
    copies = {}
    with ExitStack() as stack:
        for size, shape in shapes.items():
            name = own_name(f"calls_{size}")
            subjects |= {(call, size): once for call, once in stack.enter_context(our_calls(shape, name)).items()}
            copies[COPY, size] = subjects.pop((COPY, size))
            if rivals and not ICEORYX2.missing:
                made = stack.enter_context(iceoryx2_calls(shape, name))
                subjects |= {(call, size): once for call, once in made.items()}
        found = take_turns(subjects, rounds, calls) | take_turns(copies, rounds, max(10, calls // 50))
    clocks = [float(np.median(one)) for one in found.pop((CLOCK, ""))]
    by_size: dict[str, Rounds] = {size: {} for size in shapes}
    for (call, size), all_rounds in found.items():
        by_size[size][call] = [
            [max(0, int(took - clock)) for took in one] for one, clock in zip(all_rounds, clocks, strict=True)
        ]
    return by_size


def measure_in_worker(
    state: SimpleNamespace, shapes: Mapping[str, Shape], rounds: int, calls: int, rivals: bool
) -> dict[str, Rounds]:
    """As a worker's job."""
    return measure(shapes, rounds, calls, rivals)

"""Writing in one process: `write_frame` against the bare copy kernels, into the same shared memory, and rivals.

No reader waits for the frames; a reader in this process holds the newest one, as a reader would.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from time import perf_counter_ns
from types import SimpleNamespace
from typing import TypeVar

import numpy as np

from bench import floors
from bench.contestants import ICEORYX2
from bench.sizes import Picture, Shape, noise, own_name
from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter

Once = Callable[[], int]  # does it once; returns the nanoseconds it took
Rounds = dict[str, list[list[int]]]
Name = TypeVar("Name", str, tuple[str, str])
WARM_UP = 3
WRITE_FRAME = "write_frame"
COPYTO = "numpy.copyto, private memory"
ICEORYX2_WRITE = "iceoryx2, loan, copy, send"


def timed(work: Callable[[], object]) -> int:
    """The nanoseconds that it takes."""
    begin = perf_counter_ns()
    work()
    return perf_counter_ns() - begin


@contextmanager
def our_subjects(
    picture: Picture, name: str, writer_class: type[SharedMemoryFrameWriter] = SharedMemoryFrameWriter
) -> Iterator[dict[str, Once]]:
    """`write_frame`, and each kernel into a slot of the same segment."""
    with writer_class(name, picture.shape) as writer, SharedMemoryFrameReader(name) as reader:
        held: list[object] = []

        def write() -> int:
            took = timed(lambda: writer.write_frame(picture))
            held[:] = reader.read_frame()
            return took

        def kernel(which: str) -> Once:
            def copy() -> int:
                with writer.loan() as slot:
                    took = floors.copy_ns(which, slot.array, picture)
                held[:] = reader.read_frame()
                return took

            return copy

        yield {WRITE_FRAME: write} | {which: kernel(which) for which in floors.kernels()}
        held.clear()


@contextmanager
def private_copy(picture: Picture, name: str) -> Iterator[dict[str, Once]]:
    """A copy into three arrays in turn, like three slots."""
    slots = [noise(picture.shape) for _ in range(3)]

    def copy() -> int:
        slots.append(slots.pop(0))
        return timed(lambda: np.copyto(slots[0], picture))

    yield {COPYTO: copy}


@contextmanager
def iceoryx2_subject(picture: Picture, name: str) -> Iterator[dict[str, Once]]:
    """Loan, copy and send, without the event that wakes; its subscriber holds the newest sample."""
    import ctypes

    from bench.contestants import iceoryx

    publisher = iceoryx.Publisher(f"{name}_iox", picture.shape, None)
    subscriber = iceoryx.Subscriber(f"{name}_iox", picture.shape, None)

    def lend_copy_send() -> None:
        sample = publisher.lend()
        ctypes.memmove(sample.payload_ptr, picture.ctypes.data, picture.nbytes)
        publisher.send(sample)

    def write() -> int:
        took = timed(lend_copy_send)
        subscriber.poll()
        return took

    yield {ICEORYX2_WRITE: write}
    subscriber.close()
    publisher.close()


def measure_beside_kernels(
    shape: Shape,
    rounds: int,
    frames: int,
    writer_class: type[SharedMemoryFrameWriter] = SharedMemoryFrameWriter,
) -> Rounds:
    """Nanoseconds of a writer and of the kernels alone."""
    picture = noise(shape)
    with our_subjects(picture, own_name(f"write_{picture.nbytes}"), writer_class) as subjects:
        return take_turns(subjects, rounds, frames)


def measure(shape: Shape, rounds: int, frames: int, rivals: bool = True) -> Rounds:
    """Nanoseconds of every subject, round by round, all subjects in turn."""
    picture = noise(shape)
    name = own_name(f"write_{picture.nbytes}")
    makers: list[Callable[[Picture, str], AbstractContextManager[dict[str, Once]]]] = [our_subjects, private_copy]
    if rivals and not ICEORYX2.missing:
        makers.append(iceoryx2_subject)
    with ExitStack() as stack:
        subjects: dict[str, Once] = {}
        for maker in makers:
            subjects |= stack.enter_context(maker(picture, name))
        return take_turns(subjects, rounds, frames)


def take_turns(subjects: dict[Name, Once], rounds: int, frames: int) -> dict[Name, list[list[int]]]:
    """Alternate A B C A B C; the first few calls of each turn do not count."""
    found: dict[Name, list[list[int]]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, once in subjects.items():
            for _ in range(WARM_UP):
                once()
            found[name].append([once() for _ in range(frames)])
    return found


def measure_in_worker(state: SimpleNamespace, shape: Shape, rounds: int, frames: int, rivals: bool) -> Rounds:
    """As a worker's job."""
    return measure(shape, rounds, frames, rivals)


def is_kernel(name: str) -> bool:
    """Whether a subject is one of the floors."""
    return name in floors.kernels()

"""What readers cost the writer: attached but not waiting, and ten that wait for every 4K frame at 30 fps."""

import ctypes
import resource
from contextlib import ExitStack
from time import monotonic, sleep, thread_time_ns
from types import SimpleNamespace
from typing import Any

import numpy as np

from bench.calls import nothing, timed_after
from bench.contestants import ICEORYX2
from bench.samples import Distribution
from bench.sizes import SIZES, Shape, noise, own_name
from bench.worker import CONTEXT, Worker
from bench.writes import Once, Rounds, take_turns
from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter

COUNTS = (0, 1, 10, 50)
SMALL: Shape = (64, 64, 3)
READERS = 10
SLOTS = 22
FPS = 30

# ---------------------------------------------------------------- attached, not waiting


def open_writers(state: SimpleNamespace, name: str, rivals: bool) -> None:
    """A segment, and a service, for each number of readers."""
    state.opened = ExitStack()
    state.subjects = {}
    for count in COUNTS:
        writer = state.opened.enter_context(SharedMemoryFrameWriter(f"{name}_{count}", SMALL))
        state.subjects[f"billiards_shm {count}"] = timed_after(nothing, lender(writer))
        if rivals:
            state.subjects[f"iceoryx2 {count}"] = iceoryx2_sender(state.opened, f"{name}_{count}", count)


def lender(writer: SharedMemoryFrameWriter) -> Any:
    def lend() -> None:
        with writer.loan():
            pass

    return lend


def iceoryx2_sender(opened: ExitStack, name: str, subscribers: int) -> Once:
    from bench.contestants import iceoryx

    publisher = iceoryx.Publisher(name, SMALL, None, max(1, subscribers))
    opened.callback(publisher.close)
    return timed_after(nothing, lambda: publisher.send(publisher.lend()))


def attach_readers(state: SimpleNamespace, name: str, rivals: bool) -> None:
    state.opened = ExitStack()
    for count in COUNTS:
        for _ in range(count):
            state.opened.enter_context(SharedMemoryFrameReader(f"{name}_{count}")).attach()
            if rivals:
                from bench.contestants import iceoryx

                state.opened.callback(iceoryx.Subscriber(f"{name}_{count}", SMALL, None, count).close)


def close_opened(state: SimpleNamespace) -> None:
    state.subjects = None
    state.opened.close()


def publish_to_them(state: SimpleNamespace, rounds: int, calls: int) -> Rounds:
    return take_turns(state.subjects, rounds, calls)


def measure_attached(rounds: int, calls: int, rivals: bool = True) -> dict[str, dict[str, Any]]:
    """The cost of loan and publish, by contestant and by number of readers in another process."""
    name, rivals = own_name("attached"), rivals and not ICEORYX2.missing
    with Worker() as publisher, Worker() as readers:
        publisher.call(open_writers, name, rivals)
        readers.call(attach_readers, name, rivals)
        found: Rounds = publisher.call(publish_to_them, rounds, calls)
        readers.call(close_opened)
        publisher.call(close_opened)
    table: dict[str, dict[str, Any]] = {}
    for key, samples in found.items():
        contestant, count = key.split()
        table.setdefault(contestant, {})[count] = Distribution.of(samples).as_dict()
    return table


# ---------------------------------------------------------------- ten that wait, at 30 fps


def open_writer(state: SimpleNamespace, names: tuple[str, ...], shape: Shape) -> None:
    state.picture = noise(shape)
    state.writers = {name: SharedMemoryFrameWriter(name, shape, slots=SLOTS) for name in names}


def close_writers(state: SimpleNamespace) -> None:
    for writer in state.writers.values():
        writer.close()


def write_at_30_fps(state: SimpleNamespace, name: str, seconds: float) -> dict[str, Any]:
    """CPU of this process, and exact CPU of this thread for the two halves of every frame."""
    writer, filled, published = state.writers[name], [], []
    before = resource.getrusage(resource.RUSAGE_SELF)
    begin = due = monotonic()
    while monotonic() < begin + seconds:
        start = thread_time_ns()
        slot = writer.loan()
        np.copyto(slot.array, state.picture)
        full = thread_time_ns()
        slot.publish()
        filled.append(full - start)
        published.append(thread_time_ns() - full)
        due += 1 / FPS
        sleep(max(0.0, due - monotonic()))
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "filled": filled,
        "published": published,
        "user_s": after.ru_utime - before.ru_utime,
        "system_s": after.ru_stime - before.ru_stime,
    }


def read_until_told(state: SimpleNamespace, name: str) -> int:
    """Hold the newest frame, look at one pixel of it, wait for the next. Returns how many there were."""
    frames = 0
    with SharedMemoryFrameReader(name) as reader:
        while not state.over.value:
            frame, _ = reader.read_frame(timeout=0.1)
            if frame is not None:
                frames += int(frame[0, 0, 0]) >= 0
    return frames


def measure_thirty_fps(rounds: int, seconds: float, shape: Shape = SIZES["4k"]) -> dict[str, Any]:
    """The writer's CPU per frame with ten waiting readers, and with none, in turn."""
    base = own_name("thirty")
    found: dict[str, list[dict[str, Any]]] = {"none": [], "ten": []}
    over = CONTEXT.RawValue(ctypes.c_bool, False)
    with ExitStack() as stack:
        writer = stack.enter_context(Worker())
        readers = [stack.enter_context(Worker(over=over)) for _ in range(READERS)]
        writer.call(open_writer, tuple(f"{base}_{who}" for who in found), shape)
        for who in found:
            writer.call(write_at_30_fps, f"{base}_{who}", 0.3)  # warm
        for _ in range(rounds):
            found["none"].append(writer.call(write_at_30_fps, f"{base}_none", seconds))
            over.value = False
            for reader in readers:
                reader.begin(read_until_told, f"{base}_ten")
            sleep(0.3)
            found["ten"].append(writer.call(write_at_30_fps, f"{base}_ten", seconds))
            over.value = True
            seen = [reader.result() for reader in readers]
            found["ten"][-1]["seen"] = min(seen)
        writer.call(close_writers)
    return {who: summary(all_rounds) for who, all_rounds in found.items()}


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Per frame. `fill` is loan and copy, which never enters the kernel; `publish` is that with its wake."""
    frames = sum(len(one["filled"]) for one in rounds)
    return {
        "frames": frames,
        "fill": Distribution.of([one["filled"] for one in rounds]).as_dict(),
        "publish": Distribution.of([one["published"] for one in rounds]).as_dict(),
        "user_ns": sum(one["user_s"] for one in rounds) * 1e9 / frames,
        "system_ns": sum(one["system_s"] for one in rounds) * 1e9 / frames,
        "seen": min((one["seen"] for one in rounds if "seen" in one), default=None),
    }

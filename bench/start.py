"""The first frames after a start: page faults and time of each, in the writer and in a reader of every pixel."""

import resource
from time import perf_counter_ns
from types import SimpleNamespace
from typing import Any

import numpy as np

from bench.sizes import Shape, noise, own_name
from bench.worker import Worker
from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter

FRAMES = 10
LATER = 20


def faults() -> int:
    """Minor page faults of this thread so far."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt


def open_writer(state: SimpleNamespace, name: str, shape: Shape) -> None:
    state.picture = noise(shape)
    faults()
    perf_counter_ns()
    state.writer = SharedMemoryFrameWriter(name, shape)


def write(state: SimpleNamespace) -> tuple[int, int]:
    """Page faults and nanoseconds."""
    before, begin = faults(), perf_counter_ns()
    state.writer.write_frame(state.picture)
    took = perf_counter_ns() - begin
    return faults() - before, took


def open_reader(state: SimpleNamespace, name: str) -> None:
    np.zeros(8, np.uint64).sum()
    state.reader = SharedMemoryFrameReader(name)
    state.reader.attach()


def read(state: SimpleNamespace) -> tuple[int, int]:
    before, begin = faults(), perf_counter_ns()
    frame, _ = state.reader.read_frame(timeout=1)
    frame.reshape(-1).view(np.uint64).sum()
    took = perf_counter_ns() - begin
    return faults() - before, took


def measure(shape: Shape) -> dict[str, Any]:
    """Lists with one entry per frame; `later` is the median time of the frames after that."""
    name = own_name("start")
    with Worker() as writer, Worker() as reader:
        writer.call(open_writer, name, shape)
        reader.call(open_reader, name)
        written, seen = [], []
        for _ in range(FRAMES + LATER):
            written.append(writer.call(write))
            seen.append(reader.call(read))
    return {
        who: {
            "faults": [count for count, _ in all_frames[:FRAMES]],
            "ns": [took for _, took in all_frames[:FRAMES]],
            "later_ns": float(np.median([took for _, took in all_frames[FRAMES:]])),
        }
        for who, all_frames in (("writer", written), ("reader", seen))
    }

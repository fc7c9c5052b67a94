"""A process that streams through memory on the last processor, as a neighbour with bad cache manners would."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from time import sleep
from types import SimpleNamespace

import numpy as np

from bench.worker import CONTEXT, Worker

BLOCK_BYTES = 64 << 20


def stream(state: SimpleNamespace) -> None:
    """Copy one large block to another, again and again, until told to stop."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    source, destination = np.ones(BLOCK_BYTES, np.uint8), np.empty(BLOCK_BYTES, np.uint8)
    while not state.over.value:
        np.copyto(destination, source)
        state.blocks.value += 1


@contextmanager
def streaming() -> Iterator[None]:
    """Memory pressure for the length of the block. RuntimeError: there was none."""
    over, blocks = CONTEXT.RawValue(ctypes.c_bool, False), CONTEXT.RawValue(ctypes.c_uint64, 0)
    with Worker(over=over, blocks=blocks) as worker:
        worker.begin(stream)
        while blocks.value < 2:
            sleep(0.01)
        before = blocks.value
        try:
            yield
        finally:
            over.value = True
            worker.result()
        if blocks.value == before:
            raise RuntimeError("the process that should have streamed through memory copied nothing")


def use_first_processor(state: SimpleNamespace) -> None:
    """As a worker's job: run on the processor that is not the busy one."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

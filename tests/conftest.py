"""A segment name of its own for each test, a writer and a reader under it, and the check that nothing stays behind."""

import itertools
import os
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from segments_under_test import SHAPE

from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter, remove_stale_segments

# What is built and shipped is examined with the tools of the extra `dev`, which README's command does not install.
collect_ignore = (
    []
    if find_spec("auditwheel")
    else [f"packaging/test_{name}.py" for name in ("arm_wheel", "containers", "packaging", "reference", "wheel")]
)

SHARED_MEMORY = Path("/dev/shm")
PREFIX = f"test-{os.getpid()}-"
_numbers = itertools.count(1)


def _temporaries() -> set[str]:
    return {path.name for path in SHARED_MEMORY.glob(".bshm-*~")}


def _left(before: set[str]) -> set[str]:
    return {path.name for path in SHARED_MEMORY.glob(f"{PREFIX}*")} | (_temporaries() - before)


@pytest.fixture
def segment_name() -> str:
    """A name that nobody else uses. What is left under it at the end of the test is an error of the test."""
    return f"{PREFIX}{next(_numbers)}"


@pytest.fixture
def name(segment_name: str) -> Iterator[str]:
    """Such a name, for writers that get killed: their segment is removed afterwards."""
    yield segment_name
    remove_stale_segments([segment_name])


@pytest.fixture
def writer(segment_name: str) -> Iterator[SharedMemoryFrameWriter]:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as made:
        yield made


@pytest.fixture
def reader(segment_name: str, writer: SharedMemoryFrameWriter) -> Iterator[SharedMemoryFrameReader]:
    with SharedMemoryFrameReader(segment_name) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_stays_in_shared_memory() -> Iterator[None]:
    before = _temporaries()
    yield
    deadline = time.monotonic() + 2  # processes that were killed, and temporaries of others, go in their own time
    while (left := _left(before)) and time.monotonic() < deadline:
        time.sleep(0.01)
    for name in left:
        (SHARED_MEMORY / name).unlink(missing_ok=True)
    assert not left, f"left in shared memory: {', '.join(sorted(left))}"

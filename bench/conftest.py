"""Frames, segments and the machine's description for every benchmark."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import machine
from bench.sizes import SIZES, Picture, noise, own_name
from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter

# Processes that benchmarks start import `bench`, too. Last in the path, because the installed package is measured.
sys.path.append(str(Path(__file__).parents[1]))


def pytest_xdist_auto_num_workers() -> int:
    """No parallel tests: benchmarks have the machine to themselves."""
    return 0


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Describe the machine: figures mean nothing without it."""
    machine_info |= machine.describe()


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]) -> None:
    """How busy the machine was: kept apart from `machine_info`, which has to be equal in runs that are compared."""
    output_json |= machine.describe_moment()


@pytest.fixture(params=SIZES, scope="module")
def picture(request: pytest.FixtureRequest) -> Picture:
    """A picture of noise, touched, in private memory."""
    return noise(SIZES[request.param])


@pytest.fixture
def writer(picture: Picture) -> Iterator[SharedMemoryFrameWriter]:
    """A writer that has used each slot once."""
    with SharedMemoryFrameWriter(own_name("transport"), picture.shape) as made:
        for _ in range(3):
            made.write_frame(picture)
        yield made


@pytest.fixture
def reader(writer: SharedMemoryFrameWriter) -> Iterator[SharedMemoryFrameReader]:
    """A reader that has mapped every slot."""
    with SharedMemoryFrameReader(writer.name) as made:
        made.attach()
        for _ in range(3):
            with writer.loan():
                pass
            made.read_frame()
        yield made

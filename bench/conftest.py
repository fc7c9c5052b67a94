"""Frames, segments and the machine's description for every benchmark."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import machine
from bench.sizes import SIZES, Picture, noise, own_name
from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter

# Processes that benchmarks start import `bench`, too. Last in the path, for what is installed is what is measured.
sys.path.append(str(Path(__file__).parents[1]))


def pytest_xdist_auto_num_workers() -> int:
    """None: what is measured has the machine to itself."""
    return 0


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Say what was measured on: figures mean nothing without it."""
    machine_info |= machine.describe()


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]) -> None:
    """How busy the machine was: apart from `machine_info`, which has to be the same where runs are compared."""
    output_json |= machine.describe_moment()


@pytest.fixture(params=SIZES, scope="module")
def picture(request: pytest.FixtureRequest) -> Picture:
    """A picture of noise, touched, in private memory."""
    return noise(SIZES[request.param])


@pytest.fixture
def writer(picture: Picture) -> Iterator[SharedMemoryFrameWriter]:
    """A writer that has been once around its slots."""
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

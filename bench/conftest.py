"""Frames, segments and the machine's description for every benchmark."""

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import billiards_shm
from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter

Picture = npt.NDArray[np.uint8]

SIZES = {"vga": (480, 640, 3), "1080p": (1080, 1920, 3), "4k": (2160, 3840, 3)}


def cpu_name() -> str:
    """The processor, as the kernel calls it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Say what was measured on: figures mean nothing without it."""
    machine_info |= {
        "cpu_name": cpu_name(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "numpy": np.__version__,
        "billiards_shm": billiards_shm.__version__,
    }


@pytest.fixture(params=SIZES, scope="module")
def picture(request: pytest.FixtureRequest) -> Picture:
    """A picture of noise, touched, in private memory."""
    return np.random.default_rng(1).integers(0, 256, SIZES[request.param], dtype=np.uint8)


@pytest.fixture
def writer(picture: Picture) -> Iterator[SharedMemoryFrameWriter]:
    """A writer that has been once around its slots."""
    with SharedMemoryFrameWriter(f"bench_{os.getpid()}", picture.shape) as made:
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

"""Helpers of many tests: pictures that show their number, waiting for a condition, and a look at the own process."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter

SHAPE = (24, 32, 3)
LARGER = (48, 64, 3)

DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "complex64", "complex128",
)  # fmt: skip

SHARED_MEMORY = Path("/dev/shm")

PATIENCE_SEC = 100.0
"""After this time nothing more will happen: longer than anything takes on a very busy machine."""

Found = TypeVar("Found")


def picture(number: int, shape: tuple[int, ...] = SHAPE, dtype: npt.DTypeLike = "uint8") -> npt.NDArray[Any]:
    """A frame that is unique to its number, with no two rows alike."""
    dtype = np.dtype(dtype)
    items = (np.arange(np.prod(shape), dtype=np.uint64) * 2654435761 + np.uint64(number * 40503)) >> np.uint64(7)
    if dtype.kind == "b":
        return (items % 3 == number % 3).reshape(shape)
    if dtype.kind in "fc":
        values = (items % 251).astype(dtype).reshape(shape)
        return values * dtype.type(1 - 2j) if dtype.kind == "c" else values
    return items.astype(dtype).reshape(shape)


def flat(number: int, shape: tuple[int, ...] = SHAPE) -> npt.NDArray[np.uint8]:
    """One value everywhere, so that a torn frame shows."""
    return np.full(shape, number % 251, np.uint8)


def wait_until(condition: Callable[[], Found], what: str = "the condition") -> Found:
    """The first true value of `condition`."""
    deadline = time.monotonic() + PATIENCE_SEC
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not become true within {PATIENCE_SEC} s"
        time.sleep(0.002)
    return found


def new_frame(reader: SharedMemoryFrameReader, **options: Any) -> tuple[npt.NDArray[Any], Any]:
    """The next frame, which has to arrive."""
    frame, metadata = reader.read_frame(timeout=PATIENCE_SEC, **options)
    assert frame is not None, f"no frame arrived within {PATIENCE_SEC} s"
    return frame, metadata


def sees(frame: npt.NDArray[Any], number: int, dtype: npt.DTypeLike = "uint8") -> bool:
    """Whether `frame` is `picture(number)`, to the last bit."""
    expected = picture(number, frame.shape, dtype)
    return frame.dtype == expected.dtype and frame.tobytes() == expected.tobytes()


def path_of(name: str) -> Path:
    """The file behind a name of shared memory."""
    return SHARED_MEMORY / name


def descriptors() -> int:
    """Files that this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def sleeps_or_has_ended(thread: threading.Thread) -> bool:
    """Whether a thread of this process waits in the kernel, or is over."""
    try:
        return Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(")")[2].split()[0] == "S"
    except (FileNotFoundError, ProcessLookupError):
        return True


def mappings(of: str) -> int:
    """Mappings of this process whose file has `of` in its path, removed ones too."""
    return sum(of in line for line in Path("/proc/self/maps").read_text().splitlines())


# Targets of processes: the start methods of multiprocessing look them up by module and name.


def write_until_told(name: str, first: int, count: int, connection: Any) -> None:
    """Write pictures, say so, and hold the segment until told."""
    with SharedMemoryFrameWriter(name, SHAPE) as writer:
        for number in range(first, first + count):
            writer.write_frame(picture(number))
        connection.send(writer.sequence)
        connection.recv()


def read_one(name: str, connection: Any) -> None:
    """Send the number and pixels of the newest frame."""
    with SharedMemoryFrameReader(name) as reader:
        frame, metadata = new_frame(reader)
        connection.send((metadata.sequence, metadata.zero_copy, frame.tobytes()))

"""The Python calls that instructions.py counts: each public call, followed by a callgrind dump with its name.

    valgrind ... python -m bench.counted NAME LIBRARY ROUNDS

LIBRARY is requests.c, built. The cost of calling it is counted too, as "empty"; instructions.py subtracts it.
"""

import ctypes
import gc
import sys
import time
from typing import TYPE_CHECKING

import numpy as np

from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPE = (64, 64, 3)


def main(name: str, library: str, rounds: int) -> None:
    """Each call `rounds` times, in turn."""
    callgrind = ctypes.PyDLL(library)
    begin, end = callgrind.count_begin, callgrind.count_end
    end.argtypes = [ctypes.c_char_p]
    picture = np.zeros(SHAPE, np.uint8)
    with SharedMemoryFrameWriter(name, SHAPE) as writer, SharedMemoryFrameReader(name) as reader:

        def lend() -> None:
            with writer.loan():
                pass

        def read() -> None:
            reader.read_frame()

        def settle() -> None:
            """Do here what a reader checks ten times a second, so the next call does not."""
            time.sleep(0.11)
            reader.read_frame()

        def write() -> None:
            writer.write_frame(picture)

        calls: dict[bytes, Callable[[], None]] = {
            b"empty": lambda: None,
            b"publish": lend,
            b"read_new": read,
            b"settle": settle,
            b"read_nothing": read,
            b"write": write,
        }
        gc.disable()
        for _ in range(rounds):
            for label, call in calls.items():
                begin()
                call()
                end(label)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

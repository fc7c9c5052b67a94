"""The floors of floors.c, built with the system's compiler and called through ctypes."""

import atexit
import ctypes
import os
import shlex
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy.typing as npt

SOURCE = Path(__file__).with_name("floors.c")
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O3", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
BUILT = "BENCH_FLOORS_LIBRARY"


def compiler() -> list[str]:
    """The command that builds C here."""
    return shlex.split(os.environ.get("CC", "cc"))


def build() -> str:
    """Compile floors.c into a file that is deleted with this process; its children find the file by the environment."""
    directory = tempfile.TemporaryDirectory(prefix="bench-floors-")
    atexit.register(directory.cleanup)
    built = str(Path(directory.name) / "floors.so")
    subprocess.run([*compiler(), *FLAGS, "-o", built, str(SOURCE)], check=True)
    os.environ[BUILT] = built
    return built


@cache
def library() -> ctypes.CDLL:
    """floors.c, loaded; built first if no earlier process has done so."""
    loaded = ctypes.CDLL(os.environ.get(BUILT) or build())
    loaded.floor_kernel_name.restype = ctypes.c_char_p
    loaded.floor_copy_ns.argtypes = [ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    loaded.floor_copy_ns.restype = ctypes.c_int64
    loaded.floor_wake.argtypes = [ctypes.c_void_p]
    loaded.floor_wake.restype = ctypes.c_int64
    loaded.floor_wait.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int64]
    loaded.floor_wait.restype = ctypes.c_int64
    return loaded


@cache
def kernels() -> dict[str, int]:
    """The copy kernels that this processor supports, by name."""
    found: dict[str, int] = {}
    number = 0
    while (name := library().floor_kernel_name(number)) is not None:
        if name:
            found[name.decode()] = number
        number += 1
    return found


def copy_ns(kernel: str, destination: npt.NDArray[Any], source: npt.NDArray[Any]) -> int:
    """Nanoseconds that kernel takes to copy `source`. Both contiguous, the destination aligned to 64 bytes."""
    if destination.nbytes != source.nbytes or source.nbytes % 64 or destination.ctypes.data % 64:
        raise ValueError(f"{destination.nbytes} and {source.nbytes} bytes: they have to be equal, and a multiple of 64")
    return int(library().floor_copy_ns(kernels()[kernel], destination.ctypes.data, source.ctypes.data, source.nbytes))

"""The machine, and how quiet it was: figures mean nothing without that."""

import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.floors import compiler

VERSIONS = (
    "billiards-shm", "numpy", "opencv-python-headless", "opencv-python", "iceoryx2", "pyzmq", "eclipse-zenoh",
)  # fmt: skip


def cpu_name() -> str:
    """The processor, as the kernel names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def is_virtual() -> bool:
    """Whether the kernel runs under a hypervisor."""
    return "hypervisor" in Path("/proc/cpuinfo").read_text()


def compiler_version() -> str:
    """The first line of its version text."""
    done = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


def versions() -> dict[str, str]:
    """Versions of the installed packages that take part."""
    found = {}
    for name in VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe() -> dict[str, Any]:
    """What a figure depends on that does not change."""
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "virtual": is_virtual(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "compiler": compiler_version(),
        "versions": versions(),
    }


def describe_moment() -> dict[str, Any]:
    """What a figure depends on that changes."""
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), "load_average": os.getloadavg()}


def busy_and_total_ticks() -> tuple[int, int]:
    """Of all processors since boot: not idle, and all; time that the hypervisor took counts as not idle."""
    fields = [int(number) for number in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return sum(fields) - idle, sum(fields)


@dataclass
class Quietness:
    """How much of the machine others used, measured while no benchmark ran."""

    shares: list[float] = field(default_factory=list)
    _before: tuple[int, int] = field(default_factory=busy_and_total_ticks)

    def begin(self) -> None:
        """From now on no benchmark runs."""
        self._before = busy_and_total_ticks()

    def end(self) -> None:
        """Until now no benchmark ran."""
        busy, total = busy_and_total_ticks()
        if total > self._before[1]:
            self.shares.append((busy - self._before[0]) / (total - self._before[1]))

    @property
    def worst(self) -> float:
        """The largest share of all processors that others used in any interval, 0 to 1."""
        return max(self.shares, default=0.0)

    @property
    def quiet(self) -> bool:
        """Whether others used less than a twentieth of the machine each time."""
        return self.worst < 0.05

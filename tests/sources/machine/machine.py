"""Shared by all checks in the virtual machine: a capture process, and its output."""

import contextlib
import json
import multiprocessing
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Emulated, these imports take as long as a check, so capture processes are forked with them loaded.
import billiards_shm.capture.process
import billiards_shm.sources.camera  # noqa: F401
from billiards_shm import SegmentInfo, SharedMemoryFrameReader, inspect_segment
from billiards_shm.__main__ import main

NAME = "camera"
LOG = Path("/tmp/log")


def shell(command: str) -> None:
    subprocess.run(command, shell=True, check=True)


def until(condition: Callable[[], bool], seconds: float = 60.0) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds} s; log:\n{said()}"
        time.sleep(0.05)
    return time.monotonic() - began


def said() -> str:
    return LOG.read_text()


def info() -> SegmentInfo:
    return inspect_segment(NAME)


def state(name: str, reason: str = "") -> bool:
    return str(info().source_state) == name and info().source_reason.startswith(reason)


def command(*arguments: str, log: Path = LOG) -> multiprocessing.context.ForkProcess:
    """The command line, in a process with a log."""

    def run() -> None:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        raise SystemExit(main(arguments))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


@contextlib.contextmanager
def capturing(source: str = "0", **camera: Any) -> Iterator[SharedMemoryFrameReader]:
    camera = {"resolution": [640, 360], "fps": 25, "reconnect_delay_sec": 0.2, "reconnect_max_delay_sec": 1} | camera
    config = {"vision": {"camera": camera}, "logging": {"stats_interval_sec": 2}}
    Path("/tmp/config.json").write_text(json.dumps(config))
    process = command("capture", source, "--name", NAME, "--config", "/tmp/config.json")
    try:
        with SharedMemoryFrameReader(NAME) as reader:
            reader.attach(timeout=60)
            yield reader
        process.terminate()
        process.join(30)
        assert process.exitcode == 0, process.exitcode
    except BaseException:
        print(said())
        raise
    finally:
        process.kill()
        process.join()
    assert not Path("/dev/shm", NAME).exists()


def run_checks(names: dict[str, Any]) -> None:
    """Run the functions whose names begin with check_, in the order of their definition."""
    for name, check in list(names.items()):
        if name.startswith("check_"):
            began = time.monotonic()
            check()
            print(f"{name}: passed in {time.monotonic() - began:.0f} s", flush=True)

"""Signals that request a stop: one rule for capture, run, serve and watch."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from child_processes import Child
from command_line import end_started, run_python, start
from segments_under_test import wait_until
from supervised_runs import DEMO, SupervisedRun, published

from billiards_shm import SharedMemoryFrameWriter, remove_stale_segments
from billiards_shm.service.signals import SAME_STOP_SEC, STOP_SIGNALS, StopRequest

SMALL = ("--resolution", "64x48", "--fps", "50")


@pytest.fixture(autouse=True)
def _no_process_left(segment_name: str) -> Iterator[None]:
    yield
    end_started()
    remove_stale_segments([segment_name])


def signal_again_and_again(process: subprocess.Popen[str] | subprocess.Popen[bytes], *numbers: int) -> int:
    """Send signals without a pause until the process ends, or the time of the first stop is over; return how many."""
    sent = 0
    first = time.monotonic()
    # The process counts from when it receives the first signal, which is later.
    while process.poll() is None and time.monotonic() - first < SAME_STOP_SEC - 0.4:
        for number in numbers:
            process.send_signal(number)
            sent += 1
            time.sleep(0.001)
    return sent


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(signal.SIGTERM,), (signal.SIGINT, signal.SIGTERM)], ids=["equal", "different"])
@pytest.mark.parametrize("command", ["capture", "run", "serve", "watch"])
def test_signals_that_follow_immediately_belong_to_the_first(
    tmp_path: Path, segment_name: str, command: str, numbers: tuple[int, ...]
) -> None:
    supervised = SupervisedRun(tmp_path, {segment_name: DEMO})
    arguments = {
        "capture": ("demo", "--name", segment_name, *SMALL),
        "run": ("--config", supervised.config),
        "serve": (segment_name, "--port", "0"),
        "watch": (segment_name, "--interval", "0.02"),
    }[command]
    with contextlib.ExitStack() as stack:
        if command == "watch":
            stack.enter_context(SharedMemoryFrameWriter(segment_name, (8, 8, 3)))
        process = start(command, *arguments)
        if command in ("capture", "run"):
            wait_until(lambda: published(segment_name))
        else:
            output = process.stdout if command == "watch" else process.stderr
            assert output is not None
            assert output.readline()
            # Its output in the meantime is irrelevant, and must not fill the pipe.
            threading.Thread(target=output.read, daemon=True).start()
        sent = signal_again_and_again(process, *numbers)
        print(f"{sent} signals to {command}")
        assert process.wait(30) == 0
    assert not Path("/dev/shm", segment_name).exists()


@pytest.mark.slow
def test_a_second_signal_ends_the_server_immediately(segment_name: str) -> None:
    code = """
import asyncio, sys
from billiards_shm.cli import main
from billiards_shm.serve import server
async def never_ends(self, sockets=None):
    print("stopping", flush=True)
    await asyncio.sleep(60)
server._UvicornServer.shutdown = never_ends
main.run(["serve", "--host", "127.0.0.1", "--port", "0"])
"""
    assert second_signal(code, "serve") == 128 + signal.SIGINT


def test_a_second_signal_ends_a_watch_that_is_stuck(segment_name: str) -> None:
    code = f"""
import sys, time
from billiards_shm import SharedMemoryFrameWriter
from billiards_shm.cli import main, segments
def stuck(name):
    print("stopping", flush=True)
    time.sleep(60)
segments._inspect_if_there = stuck
with SharedMemoryFrameWriter({segment_name!r}, (8, 8, 3)):
    main.run(["watch", {segment_name!r}, "--interval", "0.02"])
"""
    assert second_signal(code, "watch") == 128 + signal.SIGINT


def second_signal(code: str, command: str) -> int:
    """Run code that hangs in its stop, or before it; send two signals; return the exit code."""
    with Child(code, prelude="") as child:
        assert child.process.stdout is not None
        if command == "serve":
            wait_until(lambda: listens(child.process.pid))
            child.process.terminate()
        while b"stopping" not in child.process.stdout.readline():
            pass
        if command == "watch":
            child.process.terminate()
        time.sleep(SAME_STOP_SEC + 0.3)
        child.process.send_signal(signal.SIGINT)
        return child.process.wait(30)


def listens(pid: int) -> bool:
    return bool(psutil.Process(pid).net_connections("tcp"))


def test_without_a_request_the_former_signal_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    threads = threading.active_count()
    with StopRequest() as stop:
        assert not stop.wait(0)
        assert stop.signal_name is None
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads


AFTER_A_STOP = """
import os, signal, sys, time
from billiards_shm.service.signals import SAME_STOP_SEC, StopRequest
with StopRequest() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.wait(30)
    assert stop.signal_name == "SIGTERM"
os.kill(os.getpid(), signal.SIGTERM)
print("goes on", flush=True)
time.sleep(SAME_STOP_SEC + 0.1)
if sys.argv[1] == "second":
    os.kill(os.getpid(), signal.SIGINT)

class Late:
    # Deleted when the interpreter clears its modules, after it has reset its signal handlers.
    kill, pid, number = os.kill, os.getpid(), signal.SIGTERM
    def __del__(self):
        self.kill(self.pid, self.number)
        print("still there", file=out, flush=True)

out = sys.stdout
sys.late = Late()
"""


def test_after_a_stop_only_a_second_request_has_an_effect_until_the_process_has_ended() -> None:
    done = run_python(AFTER_A_STOP, "once")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "goes on"), done.stderr
    done = run_python(AFTER_A_STOP, "second")
    assert (done.returncode, done.stdout.splitlines()) == (128 + signal.SIGINT, ["goes on"]), done.stderr


def test_other_signals_do_not_stop_it() -> None:
    seen: list[int] = []
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            wait_until(lambda: seen)
            assert not stop.wait(0.05)
    finally:
        signal.signal(signal.SIGUSR1, previous)

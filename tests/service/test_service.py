"""Under systemd and as the first process of a container: notifications, reaped processes, and how it ends."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_line import SCRIPT, end_started, environment, start
from documentation import in_language
from segments_under_test import wait_until
from supervised_runs import DEMO, SupervisedRun, published, send, writer_of

from billiards_shm import remove_stale_segments
from billiards_shm.service.systemd import ServiceNotifier

SMALL = ("--resolution", "64x48", "--fps", "50")


class ServiceManager:
    """The socket that systemd would listen on."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.heard: list[str] = []

    def read(self) -> list[str]:
        """Everything received so far."""
        self.socket.setblocking(False)
        while True:
            try:
                self.heard += self.socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return self.heard

    def hears(self, word: str) -> None:
        """Wait for a message."""
        wait_until(lambda: any(word in line for line in self.read()), f"{word} from the service")

    def count(self, word: str) -> int:
        return self.read().count(word)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServiceManager]:
    made = ServiceManager(
        str(tmp_path / "notify") if request.param == "path" else f"@test-{os.getpid()}-{time.time_ns()}"
    )
    yield made
    made.socket.close()


@pytest.fixture(autouse=True)
def _no_process_left(segment_name: str) -> Iterator[None]:
    yield
    end_started()
    remove_stale_segments([segment_name])


# The messages.


def test_each_message_is_sent_once_and_a_ping_at_a_quarter_of_the_time(manager: ServiceManager) -> None:
    variables = {
        "NOTIFY_SOCKET": manager.address,
        "WATCHDOG_USEC": "400000",
        "WATCHDOG_PID": str(os.getpid()),
        "A": "1",
    }
    notifier = ServiceNotifier.from_environment(variables)
    assert variables == {"A": "1"}  # children must not inherit it
    assert notifier.ping_interval_sec == pytest.approx(0.1)
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < 0.35:
        notifier.alive()
        notifier.ready()
        notifier.status("4 of 4\nsources")
    notifier.stopping()
    notifier.stopping()
    notifier.close()
    notifier.status("too late")
    assert 1 <= manager.read().count("WATCHDOG=1") <= passed / 0.1 + 1
    assert [line for line in manager.read() if line != "WATCHDOG=1"] == [
        "READY=1",
        "STATUS=4 of 4 sources",
        "STOPPING=1",
    ]


@pytest.mark.parametrize(
    ("variables", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "4000000"}, 1.0),
        ({"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "1"}, None),  # meant for another process
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_only_if_it_watches_this_process(
    manager: ServiceManager, variables: dict[str, str], interval: float | None
) -> None:
    notifier = ServiceNotifier.from_environment({"NOTIFY_SOCKET": manager.address, **variables})
    assert notifier.ping_interval_sec == interval
    notifier.alive()
    notifier.close()
    assert manager.count("WATCHDOG=1") == (interval is not None)


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "/no/listener", "@no-listener"])
def test_without_a_manager_nothing_happens(address: str) -> None:
    notifier = ServiceNotifier.from_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1"})
    notifier.ready()
    notifier.alive()
    notifier.status("well")
    notifier.stopping()
    notifier.close()


def test_a_manager_that_does_not_read_delays_nobody(manager: ServiceManager) -> None:
    notifier = ServiceNotifier(manager.address)
    for number in range(5000):
        notifier.status(f"frame {number}")
    notifier.close()
    assert 0 < len(manager.read()) < 5000


# One capture process.


@pytest.mark.slow
def test_a_capture_process_is_ready_at_its_first_frame_and_lives_by_its_frames(
    manager: ServiceManager, segment_name: str
) -> None:
    process = start(
        *("capture", "demo", "--name", segment_name, *SMALL),
        NOTIFY_SOCKET=manager.address,
        WATCHDOG_USEC="800000",
    )
    manager.hears("READY=1")
    assert published(segment_name)
    manager.hears("STATUS=" + segment_name)
    wait_until(lambda: manager.count("WATCHDOG=1") >= 3)
    # Only the watchdog notices a process that exists but does nothing.
    send(process.pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    before = manager.count("WATCHDOG=1")
    time.sleep(0.6)
    assert manager.count("WATCHDOG=1") == before
    send(process.pid, signal.SIGCONT)
    wait_until(lambda: manager.count("WATCHDOG=1") > before)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert manager.count("READY=1") == manager.count("STOPPING=1") == 1


@pytest.mark.slow
def test_a_source_that_does_not_return_starves_the_watchdog_and_a_reconnecting_one_does_not(
    tmp_path: Path, segment_name: str
) -> None:
    manager = ServiceManager(str(tmp_path / "notify"))
    code = SOURCE_THAT_PAUSES.format(name=segment_name)
    variables = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "400000"}
    with subprocess.Popen([SCRIPT_PYTHON, "-c", code], stdin=subprocess.PIPE, env=environment(**variables)) as process:
        manager.hears("READY=1")
        # The source is gone, and each attempt to get it back ends.
        manager.hears("STATUS=" + segment_name + ": reconnecting (gone)")
        before = manager.count("WATCHDOG=1")
        wait_until(lambda: manager.count("WATCHDOG=1") > before)
        # From now on an attempt does not end.
        assert process.stdin is not None
        process.stdin.close()
        wait_until(lambda: starved(manager))
        process.kill()
    manager.socket.close()


def starved(manager: ServiceManager) -> bool:
    before = manager.count("WATCHDOG=1")
    time.sleep(1.5)
    return manager.count("WATCHDOG=1") == before


SCRIPT_PYTHON = str(Path(SCRIPT).parent / "python")

# Three frames, then attempts that fail; once standard input is closed, an attempt that does not return.
SOURCE_THAT_PAUSES = """
import select, sys, time
import numpy as np
from billiards_shm.capture import process
from billiards_shm.config.load import load_settings
from billiards_shm.sources.protocol import (SourceDetails)
from billiards_shm.errors import CameraError

class Source:
    details = SourceDetails("TEST", 64, 48, 0.0)
    position_ms = frames_left = None
    grabbed = 0
    def grab(self):
        self.grabbed += 1
        time.sleep(0.01)
        return self.grabbed < 4
    def retrieve(self, target):
        return np.zeros((48, 64, 3), np.uint8)
    def release(self):
        pass

opened = []
def open_source(camera):
    if select.select([sys.stdin], [], [], 0)[0]:
        time.sleep(60)
    opened.append(1)
    if len(opened) > 1:
        raise CameraError("gone")
    return Source()

process.open_source = open_source
keys = {{"video.shared_memory_name": "{name}", "vision.camera.reconnect_max_delay_sec": 0.2}}
settings, _ = load_settings(None, keys, {{}})
process.run_capture(settings)
"""


# Several.


def test_a_supervisor_is_ready_when_every_source_was_tried_and_reports_how_many_capture(
    tmp_path: Path, segment_name: str
) -> None:
    manager = ServiceManager(str(tmp_path / "notify"))
    names = [f"{segment_name}-{letter}" for letter in "ab"]
    cameras: dict[str, dict[str, Any]] = {names[0]: DEMO, names[1]: {"device_id": "/missing.mp4"}}
    with SupervisedRun(tmp_path, cameras) as supervised:
        supervised.start(NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="800000")
        manager.hears("READY=1")
        assert published(names[0])
        supervised.says(names[1], "exit code 3")
        manager.hears("STATUS=1 of 2 sources capture, 1 waiting to be started again; " + names[1])
        wait_until(lambda: manager.count("WATCHDOG=1") >= 3)
        for process in supervised.children():
            assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & process.environ().keys()
        assert supervised.end() == 0
        assert manager.count("READY=1") == manager.count("STOPPING=1") == 1
    manager.socket.close()


@pytest.mark.slow
def test_all_processes_get_the_signal_together_as_by_default_and_still_end_cleanly(
    tmp_path: Path, segment_name: str
) -> None:
    names = [f"{segment_name}-{letter}" for letter in "ab"]
    with socket.create_server(("127.0.0.1", 0)) as server:  # never answers
        hangs = {"device_id": f"http://127.0.0.1:{server.getsockname()[1]}/video", "open_timeout_sec": 20.0}
        with SupervisedRun(tmp_path, {names[0]: DEMO, names[1]: hangs}) as supervised:
            supervised.start().streams(names[0])
            server.settimeout(40)
            with server.accept()[0]:
                for process in supervised.children():
                    process.terminate()
                # To the children, the supervisor's signal is the second.
                assert supervised.end() == 0
            assert "ending at once" not in supervised.said()
            assert "killing it" not in supervised.said()


@pytest.mark.slow
def test_systemd_accepts_the_example_unit(tmp_path: Path) -> None:
    unit = in_language("ini")[0].code
    assert "Type=notify" in unit
    assert "WatchdogSec=" in unit
    command = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    assert len(command) == 1
    program = command[0].partition("=")[2].split()[0]
    # Where it is installed is up to the user.
    (tmp_path / "billiards-shm.service").write_text(unit.replace(program, SCRIPT))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "billiards-shm.service")],
        capture_output=True,
        text=True,
        check=False,
        env=environment(SYSTEMD_LOG_LEVEL="warning"),
    )
    about_ours = [line for line in done.stderr.splitlines() if "billiards-shm" in line]
    assert (done.returncode, about_ours) == (0, [])


# Process 1.


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "capture"])
def test_the_first_process_of_a_container_reaps_orphans_and_ends_by_a_signal(
    tmp_path: Path, segment_name: str, command: str
) -> None:
    # The orphan's parent ends immediately, so process 1 adopts the orphan, which ends half a second later.
    script = 'sh -c "sleep 0.5 & echo orphan" && exec "$@"'
    namespace = ["unshare", *(["--map-root-user"] if os.getuid() else []), "--pid", "--fork", "--mount-proc"]
    supervised = SupervisedRun(tmp_path, {segment_name: DEMO})
    program = {
        "run": [SCRIPT, "run", "--config", str(supervised.config)],
        "capture": [SCRIPT, "capture", "demo", "--name", segment_name, *SMALL],
    }[command]
    with supervised.log.open("w") as log:
        outer = subprocess.Popen(
            [*namespace, "sh", "-c", script, "sh", *program], stdout=log, stderr=log, env=environment()
        )
    try:
        wait_until(lambda: published(segment_name))
        (first,) = psutil.Process(outer.pid).children()
        assert first.cmdline()[1:] == program
        # Seen from inside, the supervisor is 1 and its child is not.
        assert (writer_of(segment_name) == 1) is (command == "capture")
        wait_until(lambda: not [each for each in first.children() if each.name() == "sleep"])
        assert psutil.STATUS_ZOMBIE not in [each.status() for each in first.children()]
        first.terminate()
        assert outer.wait(30) == 0, supervised.said()
    finally:
        if outer.poll() is None:
            for process in psutil.Process(outer.pid).children():
                process.kill()
            outer.wait()
    assert not published(segment_name)

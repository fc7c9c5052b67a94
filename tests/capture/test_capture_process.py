"""The capture process from outside: start, signals, exit codes, and what it leaves behind."""

import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from segments_under_test import wait_until
from videos import make_clip

from billiards_shm import (
    SegmentStatus,
    SharedMemoryFrameReader,
    SharedMemoryFrameWriter,
    SourceState,
    WriterExistsError,
    inspect_segment,
)
from billiards_shm.capture.process import run_capture
from billiards_shm.config.load import load_settings
from billiards_shm.service.signals import SAME_STOP_SEC
from billiards_shm.sources.demo.table import DemoTable, read_counter

SHARED_MEMORY = Path("/dev/shm")

# What the command does, without its options and displays. {before} is the test's own code.
PROGRAM = """
import json, signal, sys, threading, time
from billiards_shm.config.load import load_settings
from billiards_shm.service.logs import configure_logging
from billiards_shm.capture import process
arguments = json.loads(sys.argv[1])
on_statistics = None
{before}
settings, origin = load_settings(None, arguments, {{}})
configure_logging(settings.logging.level, settings.logging.as_json)
sys.exit(process.run_capture(settings, on_statistics=on_statistics, origin=origin))
"""

# A source that delivers three frames and then does not return.
STUCK = """
import numpy as np
from billiards_shm.sources.protocol import (SourceDetails)
class Stuck:
    details = SourceDetails("STUCK", 64, 48, 0.0)
    position_ms = None
    frames_left = None
    grabbed = 0
    def grab(self):
        self.grabbed += 1
        if self.grabbed > 3:
            print("stuck", flush=True)
            end = time.monotonic() + 60
            while time.monotonic() < end:
                time.sleep(end - time.monotonic())
        return True
    def retrieve(self, target):
        return np.zeros((48, 64, 3), np.uint8)
    def release(self):
        pass
process.open_source = lambda camera: Stuck()
"""

# A source that delivers three frames and is then lost.
LOST = """
from billiards_shm.sources.protocol import SourceLostError
""" + STUCK.replace('print("stuck", flush=True)', 'raise SourceLostError("it is gone")')


class Capture:
    """A capture process, its segment, and its output."""

    def __init__(self, folder: Path, device_id: str, before: str = "", **streams: Any) -> None:
        self.name = f"test_process_{uuid.uuid4().hex[:12]}"
        self.path = SHARED_MEMORY / self.name
        self.log = folder / f"{self.name}.log"
        self.settings: dict[str, Any] = {
            "video.shared_memory_name": self.name,
            "vision.camera.device_id": device_id,
            "vision.camera.resolution": "320x180",
        }
        self._before = before
        self._streams = streams
        self._folder = folder
        self.process: subprocess.Popen[str] | None = None

    def start(self, **overrides: Any) -> subprocess.Popen[str]:
        self.settings |= {key.replace("__", "."): value for key, value in overrides.items()}
        program = [sys.executable, "-c", PROGRAM.format(before=self._before), json.dumps(self.settings)]
        self._let_go()
        with self.log.open("w") as log:
            streams = {"stdout": subprocess.PIPE, "stderr": log} | self._streams
            self.process = subprocess.Popen(program, text=True, cwd=self._folder, **streams)
        return self.process

    def reader(self) -> SharedMemoryFrameReader:
        reader = SharedMemoryFrameReader(self.name)
        reader.attach(timeout=20)
        return reader

    def wait(self, timeout: float = 40.0) -> int:
        assert self.process is not None
        return self.process.wait(timeout)

    def said(self) -> str:
        return self.log.read_text()

    def _let_go(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()

    def clean_up(self) -> None:
        self._let_go()
        self.path.unlink(missing_ok=True)


@pytest.fixture
def capture(tmp_path: Path) -> Iterator[Callable[..., Capture]]:
    made: list[Capture] = []

    def make(device_id: Any = "demo", before: str = "", **streams: Any) -> Capture:
        made.append(Capture(tmp_path, str(device_id), before, **streams))
        return made[-1]

    yield make
    for one in made:
        one.clean_up()


def assert_one_error_line(text: str, *parts: str) -> None:
    """One line at level ERROR, only information besides, no traceback."""
    assert "Traceback" not in text
    errors = [line for line in text.splitlines() if " ERROR " in line]
    assert len(errors) == 1, text
    for part in parts:
        assert part in errors[0]


# Start.


def test_the_log_lines_of_the_start_are_unchanged(capture: Callable[..., Capture]) -> None:
    one = capture()
    process = one.start()
    with one.reader() as reader:
        reader.read_frame(timeout=20)
    process.terminate()
    assert one.wait() == 0
    said = one.said()
    assert "Configuration: " in said
    assert "Camera initialized successfully" in said
    assert "First frame received: 320x180, channels=3" in said
    assert f"Shared memory writer initialized: {one.name} (" in said
    assert "Stopped by SIGTERM" in said
    assert "Stats: uptime=" in said.splitlines()[-1]


def test_json_logs_are_json_to_the_last_line(capture: Callable[..., Capture]) -> None:
    one = capture()
    process = one.start(logging__json=True, logging__stats_interval_sec=0.2)
    wait_until(lambda: one.said().count("Stats: ") >= 2)
    process.terminate()
    assert one.wait() == 0
    records = [json.loads(line) for line in one.said().splitlines()]
    assert records[-1]["message"].startswith("Stats: ")
    assert records[-1]["frames_written"] == records[-1]["write_sequence"] > 0


def test_the_capture_package_imports_neither_opencv_nor_the_commands_dependencies() -> None:
    code = (
        "import sys, billiards_shm.capture.process\n"
        "print([name for name in ('cv2', 'click', 'rich', 'fastapi') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_demo_needs_no_opencv(capture: Callable[..., Capture]) -> None:
    one = capture(before="sys.modules['cv2'] = None")
    one.start()
    with one.reader() as reader:
        frame, metadata = reader.read_frame(timeout=20)
        assert frame is not None
        assert metadata is not None
        assert read_counter(frame) == metadata.sequence


@pytest.mark.parametrize(
    ("source", "missing", "options", "parts"),
    [
        (0, ["cv2"], {}, ("OpenCV cannot be imported", "pip install 'billiards-shm[headless]'")),
        ("clip.mp4", ["cv2", "av"], {}, ("OpenCV cannot be imported", "pip install 'billiards-shm[headless]'")),
        (
            "clip.mp4",
            ["av"],
            {"vision__camera__backend": "av"},
            ("PyAV cannot be imported", "pip install 'billiards-shm[av]'"),
        ),
    ],
    ids=["camera", "file", "backend av"],
)
def test_an_engine_that_is_missing_is_an_error_that_says_what_to_install(
    capture: Callable[..., Capture], source: object, missing: list[str], options: dict[str, str], parts: tuple[str, ...]
) -> None:
    one = capture(source, before="; ".join(f"sys.modules[{name!r}] = None" for name in missing))
    one.start(**options)
    assert one.wait() == 3
    assert_one_error_line(one.said(), *parts)


@pytest.mark.parametrize(("missing", "engine"), [("cv2", "AV"), ("av", "FFMPEG")])
def test_one_engine_is_enough_for_a_file(
    capture: Callable[..., Capture], tmp_path: Path, missing: str, engine: str
) -> None:
    one = capture(make_clip(tmp_path / "clip.avi", 5), before=f"sys.modules[{missing!r}] = None")
    one.start()
    with one.reader() as reader:
        frame, _ = reader.read_frame(timeout=20)
        assert frame is not None
        wait_until(lambda: inspect_segment(one.name).backend == engine)  # reported after the first frame


# Signals.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_a_clean_stop(capture: Callable[..., Capture], number: signal.Signals) -> None:
    one = capture()
    process = one.start()
    with one.reader() as reader:
        assert reader.read_frame(timeout=20)[0] is not None
        process.send_signal(number)
        assert one.wait() == 0
        assert not one.path.exists()
        assert reader.status == SegmentStatus.CLOSED
    assert "Traceback" not in one.said()


def test_a_stop_does_not_wait_for_the_next_frame(capture: Callable[..., Capture], tmp_path: Path) -> None:
    one = capture(make_clip(tmp_path / "clip.mp4", 25))
    process = one.start(vision__camera__playback_fps=0.01, video__process__shutdown_timeout=600)
    with one.reader() as reader:
        assert reader.read_frame(timeout=20)[0] is not None
        process.terminate()
        assert one.wait() == 0  # the next frame would be due after 100 s
        assert reader.read_frame() == (None, None)
        assert reader.status == SegmentStatus.CLOSED


def test_a_signal_before_the_first_frame_is_a_clean_stop(capture: Callable[..., Capture]) -> None:
    one = capture(before=STUCK.replace("self.grabbed > 3", "True"))
    process = one.start()
    assert process.stdout is not None
    assert process.stdout.readline() == "stuck\n"
    process.terminate()
    assert one.wait() == 0
    assert not one.path.exists()


def test_a_source_that_does_not_return_does_not_delay_a_stop(capture: Callable[..., Capture]) -> None:
    one = capture("0", before=STUCK)
    process = one.start()
    with one.reader() as reader:
        assert process.stdout is not None
        assert process.stdout.readline() == "stuck\n"
        process.terminate()
        # The grab itself would take a minute.
        assert one.wait() == 0
        reader.read_frame()
        assert reader.status == SegmentStatus.CLOSED
    assert not one.path.exists()
    *_, stopped, statistics = one.said().splitlines()
    assert stopped.endswith("Stopped by SIGTERM, without waiting for the source")
    assert "Stats: uptime=" in statistics
    assert "frames_captured=3, frames_written=3" in statistics


def test_an_opening_that_does_not_return_does_not_delay_a_stop(capture: Callable[..., Capture]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # never answers
        one = capture(f"http://127.0.0.1:{server.getsockname()[1]}/video")
        process = one.start(vision__camera__open_timeout_sec=60)
        server.settimeout(20)
        with server.accept()[0]:
            process.terminate()
            assert one.wait() == 0
    assert one.said().endswith("Stopped by SIGTERM, without waiting for the source\n")


# The pipe behind standard error is full, so the process waits in its last lines.
SLOW_STOP = "process.CLOSE_AFTER_SEC = process.END_AFTER_SEC = 60"


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_immediately(capture: Callable[..., Capture], second: signal.Signals) -> None:
    reading, writing = os.pipe()
    size = fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    one = capture(before=SLOW_STOP, stderr=writing)
    process = one.start()
    try:
        with one.reader() as reader:
            assert reader.read_frame(timeout=20)[0] is not None
        waiting = int.from_bytes(fcntl.ioctl(reading, termios.FIONREAD, bytes(4)), sys.byteorder)
        os.write(writing, bytes(size - waiting))
        process.terminate()
        wait_until(lambda: not one.path.exists())
        time.sleep(SAME_STOP_SEC + 0.1)
        assert process.poll() is None
        process.send_signal(second)
        assert one.wait() == 128 + second
    finally:
        os.close(writing)
        os.close(reading)


def test_a_hung_server_does_not_keep_the_process(capture: Callable[..., Capture]) -> None:
    with hanging_stream() as url:
        one = capture(url)
        # OpenCV itself would wait a minute for the next frame.
        process = one.start(vision__camera__read_timeout_sec=60)
        with one.reader() as reader:
            wait_until(lambda: (reader.last_frame_age or 0) > 0.3)
            process.terminate()
            assert one.wait() == 0
        assert not one.path.exists()


@contextlib.contextmanager
def hanging_stream() -> Iterator[str]:
    """A Motion JPEG stream over HTTP that hangs after a second or two."""
    table = DemoTable(160, 120, 30)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with contextlib.suppress(OSError):
                    stream(connection)
                connections.append(connection)

    def stream(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
        for _ in range(40):
            table.grab()
            jpeg = cv2.imencode(".jpg", table.retrieve(None))[1].tobytes()
            header = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            connection.sendall(header.encode() + jpeg + b"\r\n")
            time.sleep(0.01)

    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/stream.mjpg"
    for connection in connections:
        connection.close()


def test_a_hangup_that_was_ignored_from_the_start_stays_ignored(capture: Callable[..., Capture]) -> None:
    # As `nohup` does.
    one = capture(before="import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    process = one.start()
    with one.reader() as reader:
        assert reader.read_frame(timeout=20)[0] is not None
        process.send_signal(signal.SIGHUP)
        for _ in range(5):
            assert reader.read_frame(timeout=20)[0] is not None
    process.terminate()
    assert one.wait() == 0
    assert "Stopped by SIGTERM" in one.said()


def test_it_runs_inside_another_program(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    name = f"test_process_{uuid.uuid4().hex[:12]}"
    overrides = {"video.shared_memory_name": name, "vision.camera.device_id": "demo", "vision.camera.fps": 200}
    settings, origin = load_settings(None, overrides, {})
    assert run_capture(settings, frames=5, origin=origin) == 0
    assert not (SHARED_MEMORY / name).exists()
    assert "Stopped after 5 frames, as asked" in caplog.messages


# Bad input.


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "directory",
        "text",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("empty", "cut off", "noise")),
    ],
)
def test_a_source_that_cannot_be_opened_is_exit_3_and_one_line(
    capture: Callable[..., Capture], tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "clip.mp4"
    match kind:
        case "directory":
            path.mkdir()
        case "empty":
            path.touch()
        case "text":
            path.write_text("no video at all\n" * 100)
        case "cut off":
            make_clip(path, 30)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
        case "noise":
            path.write_bytes(np.random.default_rng(1).bytes(100_000))
    one = capture(path)
    one.start()
    assert one.wait() == 3
    assert_one_error_line(one.said(), f"cannot open {path}: ")
    assert not one.path.exists()


def test_a_demo_too_small_is_exit_3_and_one_line(capture: Callable[..., Capture]) -> None:
    one = capture()
    one.start(vision__camera__resolution="32x24")
    assert one.wait() == 3
    assert_one_error_line(one.said(), "32x24 is too small")


def test_a_file_without_loop_is_exit_0_at_its_end(capture: Callable[..., Capture], tmp_path: Path) -> None:
    one = capture(make_clip(tmp_path / "clip.avi", 10))
    one.start(vision__camera__loop_video=False, vision__camera__playback_fps=0)
    assert one.wait() == 0
    assert "frames_captured=10, frames_written=10" in one.said()
    assert not one.path.exists()


def test_a_second_writer_is_exit_4_and_the_first_goes_on(capture: Callable[..., Capture]) -> None:
    first = capture()
    first.start()
    with first.reader() as reader:
        assert reader.read_frame(timeout=20)[0] is not None
        # Opening the source of the second would take a minute.
        second = capture(before="process.open_source = lambda camera: time.sleep(60)")
        second.start(video__shared_memory_name=first.name)
        assert second.wait() == 4
        assert first.process is not None
        assert_one_error_line(second.said(), first.name, f"process {first.process.pid}", "stop it, or choose another")
        _, before = reader.read_frame(timeout=5)
        _, after = reader.read_frame(timeout=5)
        assert before is not None
        assert after is not None
        assert after.sequence > before.sequence
        assert after.generation == before.generation


def test_a_foreign_file_under_the_name_is_exit_4_and_stays(capture: Callable[..., Capture]) -> None:
    one = capture()
    one.path.write_bytes(b"somebody else's data")
    one.start()
    assert one.wait() == 4
    assert_one_error_line(one.said(), one.name)
    assert one.path.read_bytes() == b"somebody else's data"


def take_the_name(name: str) -> SharedMemoryFrameWriter:
    """Remove the segment under a name, as `rm` does, and be the first to take the name again."""
    while True:
        (SHARED_MEMORY / name).unlink(missing_ok=True)
        with contextlib.suppress(WriterExistsError):
            return SharedMemoryFrameWriter(name, (8, 8, 3))


@pytest.mark.slow
def test_a_process_that_loses_its_name_is_exit_4_and_says_who_has_it(capture: Callable[..., Capture]) -> None:
    one = capture()
    one.start()
    with one.reader() as reader:
        assert reader.read_frame(timeout=20)[0] is not None
    with take_the_name(one.name) as other:
        assert one.wait() == 4
        assert_one_error_line(one.said(), one.name, f"process {os.getpid()}", "stop it, or choose another name")
        other.write_frame(np.zeros((8, 8, 3), np.uint8))
        assert inspect_segment(one.name).writer_pid == os.getpid()
        assert inspect_segment(one.name).status is SegmentStatus.LIVE


def test_a_process_that_loses_its_name_while_its_source_is_away_is_exit_4_too(capture: Callable[..., Capture]) -> None:
    """It keeps reporting the state of its source, and a report is refused like a frame."""
    one = capture("0", before=LOST)
    one.start(vision__camera__reconnect_delay_sec=60, vision__camera__reconnect_max_delay_sec=60)
    with one.reader() as reader:
        wait_until(lambda: reader.source_state is SourceState.RECONNECTING, "the loss of the source")
    with take_the_name(one.name):
        assert one.wait() == 4
        assert_one_error_line(one.said(), one.name, f"process {os.getpid()}")
        assert inspect_segment(one.name).writer_pid == os.getpid()


def test_a_process_whose_name_went_to_a_foreign_file_is_exit_4_and_leaves_it(capture: Callable[..., Capture]) -> None:
    one = capture()
    one.start()
    with one.reader() as reader:
        assert reader.read_frame(timeout=20)[0] is not None
    foreign = one.path.with_name(f"{one.name}-foreign")
    foreign.write_bytes(b"somebody else's data")
    foreign.rename(one.path)
    assert one.wait() == 4
    assert_one_error_line(one.said(), one.name, "not a billiards_shm segment")
    assert one.path.read_bytes() == b"somebody else's data"


@pytest.mark.slow
def test_too_little_shared_memory_is_exit_4_and_leaves_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    arguments = {
        "video.shared_memory_name": f"{small}/segment",
        "vision.camera.device_id": "demo",
        "vision.camera.resolution": "3840x2160",
    }
    script = f'mount -t tmpfs -o size=32m none "{small}" || exit 99; "$@"; code=$?; ls -A "{small}" >&2; exit $code'
    program = [sys.executable, "-c", PROGRAM.format(before=""), json.dumps(arguments)]
    private = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    done = subprocess.run([*private, *program], capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert_one_error_line(done.stderr)
    # The listing comes last, and is empty.
    assert " ERROR " in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_something_unforeseen_is_exit_1_with_a_traceback_and_no_segment(capture: Callable[..., Capture]) -> None:
    one = capture("0", before=STUCK.replace('print("stuck", flush=True)', "1 / 0"))
    one.start()
    assert one.wait() == 1
    assert "ZeroDivisionError" in one.said()
    assert not one.path.exists()


# Closed streams.


def test_a_closed_standard_output_does_not_stop_the_frames(capture: Callable[..., Capture]) -> None:
    one = capture(before="on_statistics = lambda snapshot: print(snapshot.fps, flush=True)")
    process = one.start()
    with one.reader() as reader:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        wait_until(lambda: "Live statistics stopped: BrokenPipeError" in one.said())
        assert reader.read_frame(timeout=5)[0] is not None
        process.terminate()
        assert one.wait() == 0


def test_a_closed_standard_error_does_not_stop_the_frames(capture: Callable[..., Capture]) -> None:
    reading, writing = os.pipe()
    one = capture(stderr=writing)
    process = one.start(logging__stats_interval_sec=0.1)
    os.close(writing)
    os.close(reading)
    with one.reader() as reader:
        for _ in range(10):
            assert reader.read_frame(timeout=20)[0] is not None
        process.terminate()
        assert one.wait() == 0
    assert not one.path.exists()


# Several processes.


def test_readers_follow_a_capture_process_that_was_killed_and_started_again(capture: Callable[..., Capture]) -> None:
    one = capture()
    process = one.start()
    with one.reader() as reader:
        _, last = reader.read_frame(timeout=20)
        process.kill()
        process.wait()
        one.start()
        assert last is not None
        for _ in range(5):
            frame, metadata = reader.read_frame(timeout=20)
            assert frame is not None
            assert metadata is not None
            assert metadata.sequence > last.sequence
            last = metadata


def test_a_source_list_is_pointed_out_as_not_captured(capture: Callable[..., Capture]) -> None:
    one = capture()
    process = one.start(video__sources=[{"name": "other", "camera": {"device_id": "demo"}}])
    with one.reader() as reader:
        reader.read_frame(timeout=20)
    process.terminate()
    assert one.wait() == 0
    assert "video.sources is for the command `run`" in one.said()


def test_every_frame_of_the_demo_reaches_a_reader_in_another_process(capture: Callable[..., Capture]) -> None:
    one = capture()
    one.start(vision__camera__fps=60)
    with one.reader() as reader:
        metadata = None
        for _ in range(60):
            frame, metadata = reader.read_frame(timeout=20)
            assert frame is not None
            assert metadata is not None
            assert read_counter(frame) == metadata.sequence
        assert metadata is not None
        assert metadata.position_ms == pytest.approx((metadata.sequence - 1) * 1000 / 60)


def test_it_uses_the_memory_of_three_frames(capture: Callable[..., Capture]) -> None:
    one = capture()
    one.start(vision__camera__resolution="1920x1080")
    with one.reader() as reader:
        assert reader.read_frame(timeout=20)[0] is not None
        used = one.path.stat().st_blocks * 512
    assert 3 * 1920 * 1080 * 3 <= used <= 3 * 1920 * 1080 * 3 + 512 * 1024


def test_a_writer_of_another_program_can_take_the_name_after_a_stop(capture: Callable[..., Capture]) -> None:
    one = capture()
    process = one.start()
    with one.reader() as reader:
        reader.read_frame(timeout=20)
    process.terminate()
    assert one.wait() == 0
    with SharedMemoryFrameWriter(one.name, (48, 64, 3)) as writer:
        assert writer.write_frame(np.zeros((48, 64, 3), np.uint8)) == 1

"""`billiards-shm run` and `capture --supervise`: processes that die, hang or refuse, while others go on."""

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from command_line import Terminal, call, end_started, run, start
from segments_under_test import wait_until
from supervised_runs import DEMO, SHORT_HANG_SEC, SupervisedRun, gone, published, replaced, send, writer_of
from videos import make_clip

from billiards_shm import (
    SegmentNotFoundError,
    SharedMemoryFrameWriter,
    WriterExistsError,
    inspect_segment,
    remove_stale_segments,
)
from billiards_shm.service.signals import SAME_STOP_SEC

# Loaded as `sitecustomize` by every Python below: the capture process of the named source receives no signal
# except SIGKILL, like one that hangs in a driver.
HEARS_NOTHING = """
import signal, sys
if {name!r} in sys.orig_argv:
    signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGTERM, signal.SIGINT, signal.SIGHUP}})
"""


@pytest.fixture
def names(segment_name: str) -> list[str]:
    return [f"{segment_name}-{letter}" for letter in "abcd"]


@pytest.fixture(autouse=True)
def _no_process_left(names: list[str]) -> Iterator[None]:
    yield
    end_started()
    remove_stale_segments(names)


def no_segment(name: str) -> bool:
    try:
        inspect_segment(name)
    except SegmentNotFoundError:
        return True
    return False


# One among others.


@pytest.mark.slow
def test_a_source_that_is_killed_again_and_again_does_not_disturb_the_others(tmp_path: Path, names: list[str]) -> None:
    with SupervisedRun(tmp_path, dict.fromkeys(names[:3], DEMO)) as supervised:
        supervised.start().streams()
        others = {name: writer_of(name) for name in names[1:3]}
        before = {name: published(name) for name in others}
        pid = writer_of(names[0])
        for _ in range(3):
            send(pid, signal.SIGKILL)
            pid = replaced(names[0], pid)
        for name, writer in others.items():
            assert writer_of(name) == writer
            assert published(name) > before[name] + 50
        assert supervised.said().count(f"{names[0]}: killed by SIGKILL; starting it again in ") == 3
        assert supervised.end() == 0
        assert "3 sources stopped" in supervised.said()


@pytest.mark.slow
def test_a_source_that_cannot_be_opened_is_tried_again_while_others_capture(tmp_path: Path, names: list[str]) -> None:
    video = tmp_path / "later.avi"
    cameras = {names[0]: DEMO, names[1]: {"device_id": str(video)}}
    with SupervisedRun(tmp_path, cameras) as supervised:
        supervised.start().streams(names[0])
        supervised.says(names[1], "exit code 3", "no such file", "starting it again in")
        supervised.says("1 of 2 sources capture", names[1], "no such file")
        make_clip(tmp_path / "made.avi", 50).rename(video)
        supervised.streams(names[1])
        supervised.says("2 of 2 sources capture")
        assert supervised.end() == 0


@pytest.mark.slow
def test_a_process_that_is_terminated_is_started_again(tmp_path: Path, names: list[str]) -> None:
    with SupervisedRun(tmp_path, {names[0]: DEMO}) as supervised:
        supervised.start().streams()
        pid = writer_of(names[0])
        send(pid, signal.SIGTERM)
        replaced(names[0], pid)


# Processes that hang.


@pytest.mark.slow
def test_a_stopped_process_is_ended_and_started_again(tmp_path: Path, names: list[str]) -> None:
    with SupervisedRun(tmp_path, dict.fromkeys(names[:2], DEMO), hang_timeout=SHORT_HANG_SEC) as supervised:
        supervised.start().streams()
        pid, other = writer_of(names[0]), writer_of(names[1])
        sequence = inspect_segment(names[0]).sequence
        send(pid, signal.SIGSTOP)
        replaced(names[0], pid)
        supervised.says(names[0], f"process {pid} hangs", "no progress for")
        assert gone(pid)
        # It was continued so that it could receive the request to stop: that is no reason to kill it.
        assert f"process {pid} did not end" not in supervised.said()
        # The segment was not closed, but passed on.
        assert inspect_segment(names[0]).sequence > sequence
        assert writer_of(names[1]) == other
        assert supervised.end() == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pipe", "server"])
def test_a_source_that_never_returns_is_ended_and_started_again(tmp_path: Path, names: list[str], kind: str) -> None:
    """A pipe without a writer, and a server that accepts and never answers, with very long timeouts."""
    os.mkfifo(tmp_path / "pipe.ts")
    with socket.create_server(("127.0.0.1", 0)) as server:
        device = {"pipe": str(tmp_path / "pipe.ts"), "server": f"http://127.0.0.1:{server.getsockname()[1]}/video"}
        cameras = {
            names[0]: {"device_id": device[kind], "open_timeout_sec": 600.0, "read_timeout_sec": 600.0},
            names[1]: DEMO,
        }
        with SupervisedRun(tmp_path, cameras, hang_timeout=SHORT_HANG_SEC) as supervised:
            supervised.start().streams(names[1])
            other = writer_of(names[1])
            supervised.says(names[0], "hangs: no progress for")
            supervised.says(names[0], "no progress for", "starting it again in")
            wait_until(lambda: supervised.said().count(f"{names[0]}: started process") >= 2)
            assert writer_of(names[1]) == other
            assert len(supervised.children()) == 2
            # A hanging one is still there while it is being ended.
            assert supervised.end() == 0
            assert no_segment(names[1])
            warned = f"{names[0]}: its open_timeout_sec is 600, but it counts as hanging after {SHORT_HANG_SEC:g} s"
            assert (warned in supervised.said()) is (kind == "server")


@pytest.mark.slow
def test_a_process_that_ignores_everything_is_killed_at_the_timeout(tmp_path: Path, names: list[str]) -> None:
    with SupervisedRun(tmp_path, dict.fromkeys(names[:2], DEMO), timeout=1.0) as supervised:
        (tmp_path / "sitecustomize.py").write_text(HEARS_NOTHING.format(name=names[0]))
        supervised.start(PYTHONPATH=str(tmp_path)).streams()
        pids = [process.pid for process in supervised.children()]
        hangs = writer_of(names[0])
        assert supervised.end() == 0
        assert f"{names[0]}: process {hangs} did not end: killing it" in supervised.said()
        assert all(gone(pid) for pid in pids)
        assert no_segment(names[0])
        assert no_segment(names[1])


# The end.


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGINT, signal.SIGHUP))]
)
def test_a_signal_ends_all_and_leaves_nothing(tmp_path: Path, names: list[str], number: signal.Signals) -> None:
    cameras = {names[0]: DEMO, names[1]: DEMO, names[2]: {"device_id": "/missing.mp4"}}
    with SupervisedRun(tmp_path, cameras) as supervised:
        supervised.start().streams(*names[:2])
        pids = [process.pid for process in supervised.children()]
        # In a session without the terminal: Ctrl+C reaches only the supervisor.
        assert all(os.getsid(pid) == pid for pid in pids)
        assert supervised.end(number) == 0
        assert all(gone(pid) for pid in pids)
        assert all(no_segment(name) for name in names)
        assert f"{number.name}: stopping" in supervised.said()
        assert "Traceback" not in supervised.said()


@pytest.mark.slow
def test_a_second_signal_ends_everything_immediately(tmp_path: Path, names: list[str]) -> None:
    with SupervisedRun(tmp_path, dict.fromkeys(names[:2], DEMO), timeout=60.0) as supervised:
        (tmp_path / "sitecustomize.py").write_text(HEARS_NOTHING.format(name=names[0]))
        supervised.start(PYTHONPATH=str(tmp_path)).streams()
        pids = [process.pid for process in supervised.children()]
        send(supervised.supervisor.pid, signal.SIGINT)
        supervised.says("SIGINT: stopping 2 processes")
        time.sleep(SAME_STOP_SEC + 0.1)
        send(supervised.supervisor.pid, signal.SIGTERM)
        assert supervised.ends() == 128 + signal.SIGTERM
        assert "SIGTERM again: ending at once" in supervised.said()
        assert all(gone(pid) for pid in pids)
        assert supervised.said().count("did not end: killing it") == 1
        assert all(no_segment(name) for name in names[:2])


@pytest.mark.slow
def test_when_the_supervisor_is_killed_its_children_end_and_the_next_one_takes_over(
    tmp_path: Path, names: list[str]
) -> None:
    cameras = dict.fromkeys(names[:2], DEMO)
    with SupervisedRun(tmp_path, cameras) as first:
        first.start().streams()
        pids = [process.pid for process in first.children()]
        writers = [writer_of(name) for name in names[:2]]
        sequence = inspect_segment(names[0]).sequence
        first.supervisor.kill()
        assert first.ends() == -signal.SIGKILL
        with SupervisedRun(tmp_path, cameras) as second:
            second.start()
            for name, pid in zip(names, writers, strict=False):
                assert replaced(name, pid) not in pids
            assert inspect_segment(names[0]).sequence > sequence
            assert second.end() == 0
        assert all(gone(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE for pid in pids)


@pytest.mark.slow
def test_sources_that_are_finished_are_not_started_again(tmp_path: Path, names: list[str]) -> None:
    clips = {name: make_clip(tmp_path / f"{name}.avi", 20) for name in names[:2]}
    cameras = {name: {"device_id": str(clip), "loop_video": False} for name, clip in clips.items()}
    with SupervisedRun(tmp_path, cameras) as supervised:
        assert supervised.start().ends() == 0
        for name in names[:2]:
            assert f"{name}: finished after 20 frames" in supervised.said()
        assert "2 of 2 sources are finished, 0 failed" in supervised.said()


@pytest.mark.slow
@pytest.mark.parametrize("other", ["finishes", "is wrong too"])
def test_a_source_with_a_wrong_configuration_is_not_started_again_and_counts_as_failed(
    tmp_path: Path, names: list[str], other: str
) -> None:
    wrong = [f"{name}-wrong" for name in names[:2]]
    # Only on some file systems can a name be wrong that the supervisor could not refuse itself.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif any(word.endswith('-wrong') for word in sys.orig_argv):\n    os._exit(2)\n"
    )
    clip = make_clip(tmp_path / "clip.avi", 20)
    cameras = {wrong[0]: DEMO}
    cameras |= {names[2]: {"device_id": str(clip), "loop_video": False}} if other == "finishes" else {wrong[1]: DEMO}
    with SupervisedRun(tmp_path, cameras) as supervised:
        assert supervised.start(PYTHONPATH=str(tmp_path)).ends() == (5 if other == "finishes" else 2)
        assert supervised.said().count("started process") == 2
        assert f"{wrong[0]}: failed for good: " in supervised.said()
        assert f"{'1' if other == 'finishes' else '0'} of 2 sources are finished, " in supervised.said()


@pytest.mark.slow
def test_a_metrics_port_that_is_taken_is_waited_for(tmp_path: Path, names: list[str]) -> None:
    with SupervisedRun(tmp_path, {names[0]: DEMO}) as supervised:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            content = json.loads(supervised.config.read_text())
            content["video"]["process"]["metrics_port"] = taken.getsockname()[1]
            supervised.config.write_text(json.dumps(content))
            supervised.start().says("cannot listen for metrics", "starting it again")
        supervised.streams()
        assert supervised.end() == 0


# Names.


@pytest.mark.slow
def test_a_second_supervisor_says_which_names_are_taken(tmp_path: Path, names: list[str]) -> None:
    cameras = dict.fromkeys(names[:2], DEMO)
    with SupervisedRun(tmp_path, cameras) as first:
        first.start().streams()
        writers = {name: writer_of(name) for name in cameras}
        second = SupervisedRun(tmp_path, cameras).start()
        assert second.ends() == 4
        (error,) = [line for line in second.said().splitlines() if line.startswith("billiards-shm: error: ")]
        for name, writer in writers.items():
            assert f"{name} (process {writer})" in error
            assert writer_of(name) == writer
        assert first.end() == 0


@pytest.mark.slow
def test_a_second_supervisor_stops_its_recorders_too(tmp_path: Path, names: list[str]) -> None:
    with SupervisedRun(tmp_path, {names[0]: DEMO}) as first:
        first.start().streams()
        second = SupervisedRun(tmp_path, {names[0]: DEMO})
        content = json.loads(second.config.read_text())
        content["video"]["sources"][0]["record"] = {"file": str(tmp_path / "twice.mkv")}
        second.config.write_text(json.dumps(content))
        assert second.start().ends() == 4
        assert f"{names[0]} record: stopped" in second.said()
        assert "killing it" not in second.said()
        assert first.end() == 0


@pytest.mark.slow
def test_a_taken_name_does_not_delay_other_sources(tmp_path: Path, names: list[str]) -> None:
    with SupervisedRun(tmp_path, dict.fromkeys(names[:2], DEMO)) as supervised:
        with SharedMemoryFrameWriter(names[0], (8, 8, 3)):
            supervised.start().streams(names[1])
            supervised.says(names[0], f"the name is taken by process {os.getpid()}")
        replaced(names[0], os.getpid())
        assert supervised.end() == 0


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "capture --supervise"])
def test_a_lost_name_is_waited_for(tmp_path: Path, names: list[str], command: str) -> None:
    """The process that lost it ends. The next one is started when the name is free, not before."""
    with SupervisedRun(tmp_path, {names[0]: DEMO}) as supervised:
        if command == "run":
            supervised.start()
        else:
            settings = {"video": {"shared_memory_name": names[0]}, "vision": {"camera": DEMO}}
            supervised.config.write_text(json.dumps(settings))
            supervised.start(command=["capture", "--supervise"])
        supervised.streams()
        first = writer_of(names[0])
        other = None
        while other is None:
            Path("/dev/shm", names[0]).unlink(missing_ok=True)
            with contextlib.suppress(WriterExistsError):
                other = SharedMemoryFrameWriter(names[0], (8, 8, 3))
        with other:
            supervised.says(names[0], "exit code 4", f"process {os.getpid()}")
            supervised.says(names[0], f"the name is taken by process {os.getpid()}")
            assert supervised.said().count("started process") == 1
            other.write_frame(np.zeros((8, 8, 3), np.uint8))
            assert writer_of(names[0]) == os.getpid()
        assert replaced(names[0], os.getpid()) != first
        assert supervised.said().count("started process") == 2
        assert supervised.end() == 0


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ([], ["video.sources is []"]),
        ([("a b", "demo")], ["video.sources[0].name", "a b"]),
        ([("/tmp/x/", "demo")], ["video.sources[0].name", "/tmp/x/"]),
        ([("a", "demo"), ("b", "0"), ("a", "x.mp4")], ["[0] and [2] are both called 'a'", "demo", "x.mp4"]),
        (
            [("a", "demo"), ("/dev/shm/a", "x.mp4")],
            ["[0].name is 'a' (of demo)", "[1].name is '/dev/shm/a' (of x.mp4)"],
        ),
    ],
)
def test_a_wrong_list_of_sources_is_an_error_before_anything_starts(
    tmp_path: Path, sources: list[tuple[str, str]], words: list[str]
) -> None:
    content = [{"name": name, "camera": {"device_id": device}} for name, device in sources]
    (tmp_path / "wrong.json").write_text(json.dumps({"video": {"sources": content}}))
    result = call("run", "--config", tmp_path / "wrong.json")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    for word in words:
        assert word in line


def test_one_metrics_port_for_several_processes_is_an_error(tmp_path: Path, names: list[str]) -> None:
    content = {
        "sources": [{"name": name, "camera": {"device_id": "demo"}} for name in names[:2]],
        "process": {"metrics_port": 9464},
    }
    (tmp_path / "wrong.json").write_text(json.dumps({"video": content}))
    result = call("run", "--config", tmp_path / "wrong.json")
    assert result.returncode == 2
    assert "metrics_port is 9464, one port for 2 processes" in result.stderr
    assert "billiards-shm serve" in result.stderr


# What is shown and what is not.


def test_a_password_is_in_no_command_line_and_no_environment(tmp_path: Path, names: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # never answers, so that there is a process to look at
        waits = f"http://user:hidden-word@127.0.0.1:{server.getsockname()[1]}/video"
        refused = "rtsp://user:hidden-word@127.0.0.1:9/stream"
        cameras = {names[0]: {"device_id": waits, "open_timeout_sec": 20.0}, names[1]: {"device_id": refused}}
        with SupervisedRun(tmp_path, cameras) as supervised:
            supervised.start()
            server.settimeout(40)
            with server.accept()[0]:
                children = supervised.children()
                assert [each for each in children if names[0] in each.cmdline()]
                for process in [supervised.supervisor, *children]:
                    for part in ("cmdline", "environ"):
                        assert b"hidden-word" not in Path(f"/proc/{process.pid}/{part}").read_bytes()
                supervised.says(names[1], "user:***@", "starting it again in")
            assert "hidden-word" not in supervised.said()


def test_files_in_the_working_directory_are_not_imported_as_modules(tmp_path: Path, names: list[str]) -> None:
    for module in ("numpy", "json", "billiards_shm"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('imported from the working directory')")
    with SupervisedRun(tmp_path, {names[0]: DEMO}) as supervised:
        supervised.start().streams()


def test_json_logs_say_which_source_a_line_belongs_to(tmp_path: Path, names: list[str]) -> None:
    with SupervisedRun(tmp_path, dict.fromkeys(names[:2], DEMO)) as supervised:
        supervised.start(BILLIARDS_SHM__LOGGING__JSON="true").streams()
        assert supervised.end() == 0
        records = [json.loads(line) for line in supervised.said().splitlines()]
    assert {record.get("supervised") for record in records} == {None, *names[:2]}


@pytest.mark.slow
def test_a_terminal_shows_a_live_table_and_the_log_above(tmp_path: Path, names: list[str]) -> None:
    supervised = SupervisedRun(tmp_path, {names[0]: DEMO, names[1]: {"device_id": "/missing.mp4"}})
    terminal = Terminal("run", "--config", supervised.config)
    terminal.read_until(lambda text: "1 of 2 sources capture" in text and "waiting" in text)
    terminal.read_until(lambda text: "streaming" in text and "First frame received" in text)
    for column in ("NAME", "STATE", "RESTARTS", "REASON"):
        assert column in terminal.text
    assert "\x1b[1A" in terminal.text  # the cursor goes up to draw again
    assert terminal.end(signal.SIGINT) == 0
    assert "Traceback" not in terminal.text
    assert terminal.text.rfind("\x1b[?25h") > terminal.text.rfind("\x1b[?25l")


@pytest.mark.slow
def test_a_narrow_terminal_shows_the_state_and_the_reason(tmp_path: Path, names: list[str]) -> None:
    supervised = SupervisedRun(tmp_path, {names[0]: {"device_id": "/missing.mp4"}})
    terminal = Terminal("run", "--config", supervised.config, COLUMNS="50")
    terminal.read_until(lambda text: "waiting " in text.rpartition("REASON")[2] and "exit code 3" in text)
    for column in ("RESTARTS", "PID"):
        assert column not in terminal.text
    assert terminal.end(signal.SIGINT) == 0


# One source.


def test_one_source_is_supervised_on_request(tmp_path: Path, names: list[str]) -> None:
    process = start("capture", "demo", "--supervise", "--name", names[0], "--resolution", "64x48")
    wait_until(lambda: published(names[0]))
    pid = writer_of(names[0])
    assert pid != process.pid
    send(pid, signal.SIGKILL)
    replaced(names[0], pid)
    process.terminate()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert f"{names[0]}: killed by SIGKILL" in said
    assert no_segment(names[0])


def test_a_supervised_source_ends_after_the_frames_asked_for(names: list[str]) -> None:
    result = run("capture", "demo", "--supervise", "--name", names[0], "--resolution", "64x48", "--frames", "20")
    assert result.returncode == 0, result.stderr
    assert f"{names[0]}: finished after 20 frames" in result.stderr

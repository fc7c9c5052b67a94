"""`billiards-shm capture`: options, configuration, exit codes and what it shows, through the real program."""

import grp
import json
import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import Terminal, call, end_started, run, run_python, start
from segments_under_test import wait_until

from billiards_shm import (
    SegmentNotFoundError,
    SharedMemoryFrameReader,
    SharedMemoryFrameWriter,
    inspect_segment,
)

SMALL = ("--resolution", "64x48", "--fps", "100")


def error_line(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that says what is wrong."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("billiards-shm: error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]


def sequence_of(name: str) -> int:
    """The number of the newest frame; 0 while there is none."""
    try:
        return inspect_segment(name).sequence
    except SegmentNotFoundError:
        return 0


@pytest.fixture(autouse=True)
def _no_process_left() -> Iterator[None]:
    yield
    end_started()


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def capture(name: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the program and wait for its first frame; it is stopped when the test ends."""
    processes: list[subprocess.Popen[str]] = []

    def start_and_wait(*arguments: str, **more: str) -> subprocess.Popen[str]:
        process = start(*arguments, **more)
        processes.append(process)
        wait_until(lambda: sequence_of(name) or process.poll() is not None)
        assert process.poll() is None, process.communicate()[1]
        return process

    yield start_and_wait
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)


def test_frames_of_the_demo_reach_a_reader(name: str, capture: Callable[..., object]) -> None:
    capture("capture", "demo", "--name", name, *SMALL)
    with SharedMemoryFrameReader(name) as reader:
        frame, first = reader.read_frame(timeout=10)
        assert frame is not None
        assert first is not None
        assert (frame.shape, first.pixel_format) == ((48, 64, 3), "BGR24")
        _, second = reader.read_frame(timeout=10)
        assert second is not None
        assert second.sequence > first.sequence


def test_a_number_of_frames_ends_it_cleanly(name: str) -> None:
    result = run("capture", "demo", "--name", name, *SMALL, "--frames", "20")
    assert result.returncode == 0, result.stderr
    assert "frames_written=20" in result.stderr
    with pytest.raises(SegmentNotFoundError):
        inspect_segment(name)


@pytest.mark.parametrize("group", [str(os.getgid()), grp.getgrgid(os.getgid()).gr_name])
def test_mode_and_group_are_as_requested(name: str, capture: Callable[..., subprocess.Popen[str]], group: str) -> None:
    capture("capture", "demo", "--name", name, *SMALL, "--mode", "0640", "--group", group)
    found = Path("/dev/shm", name).stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o640, os.getgid())


def test_a_group_that_does_not_exist_is_exit_2(name: str) -> None:
    result = run("capture", "demo", "--name", name, "--group", "no-such-group")
    assert result.returncode == 2
    assert "video.group: group 'no-such-group': there is no such group" in error_line(result)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(name: str, capture: Callable[..., subprocess.Popen[str]], number: int) -> None:
    process = capture("capture", "demo", "--name", name, *SMALL)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    with pytest.raises(SegmentNotFoundError):
        inspect_segment(name)


def test_options_reach_the_segment(name: str, capture: Callable[..., object]) -> None:
    capture("capture", "demo", "--name", name, "--resolution", "80x60", "--slots", "5")
    info = inspect_segment(name)
    assert (info.width, info.height, info.slots) == (80, 60, 5)


def test_the_name_may_be_a_path(tmp_path: Path) -> None:
    path = str(tmp_path / "table.shm")
    result = run("capture", "demo", "--name", path, *SMALL, "--frames", "3")
    assert result.returncode == 0, result.stderr
    assert not Path(path).exists()


def write_config(path: Path, name: str, **camera: object) -> Path:
    settings = {"resolution": [64, 48], "device_id": "demo", **camera}
    path.write_text(json.dumps({"video": {"shared_memory_name": name}, "vision": {"camera": settings}}))
    return path


def test_without_a_command_it_captures_what_the_configuration_says(
    name: str, capture: Callable[..., object], tmp_path: Path
) -> None:
    write_config(tmp_path / "config.json", name)
    capture()
    assert inspect_segment(name).width == 64


def test_without_a_command_it_captures_what_the_environment_says(name: str, capture: Callable[..., object]) -> None:
    capture(
        VIDEO_FILE="demo",
        BILLIARDS_SHM__VIDEO__SHARED_MEMORY_NAME=name,
        BILLIARDS_SHM__VISION__CAMERA__RESOLUTION="[64, 48]",
    )
    assert inspect_segment(name).width == 64


@pytest.mark.parametrize("order", [pytest.param("before", marks=pytest.mark.slow), "after", "alone"])
def test_the_configuration_file_may_be_named_before_or_after_the_command(
    name: str, capture: Callable[..., object], tmp_path: Path, order: str
) -> None:
    config = ["--config", str(write_config(tmp_path / "other.json", name))]
    capture(*{"before": [*config, "capture"], "after": ["capture", *config], "alone": config}[order])
    assert inspect_segment(name).width == 64


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    name: str, capture: Callable[..., object], tmp_path: Path
) -> None:
    config = write_config(tmp_path / "other.json", f"{name}_file", device_id=99)
    capture(
        "capture",
        "demo",
        "--config",
        str(config),
        "--name",
        name,
        VIDEO_FILE="/missing.mp4",
        BILLIARDS_SHM__VIDEO__SHARED_MEMORY_NAME=f"{name}_environment",
        BILLIARDS_SHM__VIDEO__SLOTS="6",
    )
    info = inspect_segment(name)
    assert (info.slots, info.width) == (6, 64)


@pytest.mark.parametrize("order", ["before", pytest.param("after", marks=pytest.mark.slow)])
def test_the_log_level_may_be_given_before_or_after_the_command(name: str, order: str) -> None:
    level = ["--log-level", "warning"]
    command = ["capture", "demo", "--name", name, *SMALL, "--frames", "2"]
    result = run(*(level + command if order == "before" else command + level))
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--slots", "2"], ["--slots", "2", "3 to 62"]),
        (["--slots", "many"], ["--slots", "many"]),
        (["--fps", "-1"], ["--fps", "-1"]),
        (["--resolution", "wide"], ["--resolution", "wide"]),
        (["--backend", "magic"], ["--backend", "magic", "v4l2"]),
        (["--name", "no spaces"], ["--name", "no spaces"]),
        (["--stats-interval", "0"], ["--stats-interval"]),
        (["--frames", "0"], ["--frames"]),
        (["--loops"], ["--loops", "--loop"]),
    ],
)
def test_a_wrong_value_is_one_line_and_exit_code_2(arguments: list[str], words: list[str]) -> None:
    result = call("capture", "demo", *arguments)
    assert result.returncode == 2
    for word in words:
        assert word in error_line(result)


def test_a_wrong_key_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "wrong.json").write_text('{"video": {"slot": 8}}')
    result = call("capture", "demo", "--config", "wrong.json")
    assert result.returncode == 2
    assert "wrong.json" in error_line(result)
    result = call("capture", "demo", BILLIARDS_SHM__VIDEO__SLOT="8")
    assert result.returncode == 2
    assert "BILLIARDS_SHM__VIDEO__SLOT" in error_line(result)


def test_several_wrong_values_get_one_line_each() -> None:
    result = call("capture", "demo", "--slots", "2", "--resolution", "wide")
    assert result.returncode == 2
    assert sorted(line.partition(" option ")[2][:7] for line in result.stderr.splitlines()) == [
        "--resol",
        "--slots",
    ]


def test_a_missing_source_is_exit_code_3(name: str) -> None:
    result = run("capture", "/missing/video.mp4", "--name", name)
    assert result.returncode == 3
    assert "/missing/video.mp4" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_name_in_use_is_exit_code_4(name: str) -> None:
    with SharedMemoryFrameWriter(name, (8, 8, 3)) as writer:
        result = run("capture", "demo", "--name", name, *SMALL)
        assert result.returncode == 4
        assert name in result.stderr
        assert str(os.getpid()) in result.stderr
        assert "Traceback" not in result.stderr
        assert writer.write_frame(np.zeros((8, 8, 3), np.uint8)) == 1


def test_every_key_of_the_configuration_can_be_given() -> None:
    from billiards_shm.config.load import configuration_keys

    of_command = {name: call(name, "--help", COLUMNS="1000").stdout for name in ("capture", "serve", "record")}
    elsewhere = ("serve", "record", "mirror")
    for key in configuration_keys():
        section = key.path.partition(".")[0]
        if section in of_command or section not in elsewhere:
            assert key.option in of_command[section if section in elsewhere else "capture"]
        assert section not in elsewhere or f"[{key.path}:" not in of_command["capture"]


def test_piped_output_is_plain_lines(name: str) -> None:
    result = run("capture", "demo", "--name", name, *SMALL, "--frames", "50", "--stats-interval", "0.2")
    assert result.returncode == 0
    assert result.stdout == ""
    assert result.stderr.count("Stats: ") >= 2
    assert "\x1b" not in result.stderr


def test_json_logs_are_one_object_per_line(name: str) -> None:
    result = run("capture", "demo", "--name", name, *SMALL, "--frames", "5", "--json-logs")
    assert result.returncode == 0
    assert [type(json.loads(line)) for line in result.stderr.splitlines()] == [dict] * result.stderr.count("\n")
    assert result.stderr


def test_a_terminal_shows_statistics_in_place_and_the_log_above(name: str) -> None:
    terminal = Terminal("capture", "demo", "--name", name, *SMALL)
    terminal.read_until(lambda text: "Camera initialized successfully" in text and text.count("uptime") >= 3)
    assert terminal.end(signal.SIGINT) == 0
    assert "\x1b[1A" in terminal.text  # the cursor goes up to draw again
    assert "Traceback" not in terminal.text
    # However the process ends, the cursor must not remain hidden.
    assert terminal.text.rfind("\x1b[?25h") > terminal.text.rfind("\x1b[?25l")


def test_a_killed_capture_leaves_the_cursor_visible(name: str) -> None:
    terminal = Terminal("capture", "demo", "--name", name, *SMALL)
    # Not while it creates its segment: anything left at that point is removed by the next process.
    terminal.read_until(lambda text: "uptime" in text.partition("writer initialized")[2])
    assert terminal.end(signal.SIGKILL) == -signal.SIGKILL
    assert terminal.text.rfind("\x1b[?25h") >= terminal.text.rfind("\x1b[?25l")


def test_json_logs_on_a_terminal_stay_json(name: str) -> None:
    terminal = Terminal("capture", "demo", "--name", name, *SMALL, "--json-logs")
    terminal.read_until(lambda text: "Camera initialized" in text)
    assert terminal.end(signal.SIGTERM) == 0
    for line in terminal.text.splitlines():
        json.loads(line)


def test_without_opencv_one_line_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['cv2'] = None\n"
        "from billiards_shm.__main__ import main; sys.exit(main(['capture', '0']))"
    )
    result = run_python(code)
    assert result.returncode == 3
    (line,) = [line for line in result.stderr.splitlines() if " ERROR " in line]
    assert "pip install 'billiards-shm[headless]'" in line
    assert "Traceback" not in result.stderr

"""The command line as users run it: its output, its errors, and its exit codes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from command_line import SCRIPT, Terminal, call, end_started, environment, run, run_python, start
from segment_layout import opened, set_frame_age
from segments_under_test import path_of, wait_until

from billiards_shm import (
    SharedMemoryFrameReader,
    SharedMemoryFrameWriter,
    inspect_segment,
    list_segments,
    remove_stale_segments,
)
from billiards_shm.config.defaults import MAX_FRAME_AGE_SEC
from billiards_shm.monitor.health import HealthMonitor
from billiards_shm.statistics import STATISTICS

COMMANDS = ("capture", "list", "inspect", "watch", "snapshot", "clean")
SHAPE = (48, 64, 3)


def assert_fails(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One line on standard error, with the program's name and the words, and the exit code."""
    assert result.returncode == code, result.stderr
    assert result.stderr.startswith("billiards-shm: error: "), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def leave_dead_segment(name: str, value: int = 7) -> None:
    """A segment with one frame, whose writer was killed."""
    code = (
        "import os, sys, signal, numpy as np; from billiards_shm import SharedMemoryFrameWriter as W;"
        "w = W(sys.argv[1], (48, 64, 3)); w.write_frame(np.full((48, 64, 3), int(sys.argv[2]), np.uint8));"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, name, str(value)], check=False)


@pytest.fixture(autouse=True)
def _no_process_left() -> Iterator[None]:
    yield
    end_started()


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty directory, so that no stray config.json is found."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def writer(name: str) -> Iterator[SharedMemoryFrameWriter]:
    with SharedMemoryFrameWriter(name, SHAPE) as opened:
        opened.write_frame(np.full(SHAPE, 7, np.uint8))
        set_frame_age(path_of(name), -3600)  # an hour ahead, so never too old, however slow the machine is
        yield opened


# The program as a whole.


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples(command: str) -> None:
    result = call(command, "--help")
    assert result.returncode == 0
    assert f"  billiards-shm {command}" in result.stdout.partition("Examples:")[2]
    assert result.stderr == ""


def test_help_shows_allowed_values_and_the_default() -> None:
    text = " ".join(run("record", "--help").stdout.split())
    assert "--keep DURATION" in text
    assert "Allowed: a size such as 500MB or 20GB. [record.ring_size: 500000000]" in text
    assert "[mirror.connect: empty]" in " ".join(run("mirror", "send", "--help").stdout.split())
    assert "--rotation [0|90|180|270]" in run("capture", "--help").stdout


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_the_commands_and_exit_codes(flag: str) -> None:
    result = run(flag)
    assert result.returncode == 0
    for command in COMMANDS:
        assert f"\n  {command} " in result.stdout
    assert "Exit codes" in result.stdout


def test_version_is_the_version_of_the_package() -> None:
    assert call("--version").stdout.split()[-1] == version("billiards_shm")


def test_the_module_is_the_same_program() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "billiards_shm", "--help"],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert result.stdout == run("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], ["frobnicate", "billiards-shm --help"]),
        (["list", "--jsom"], ["--jsom", "--json", "billiards-shm list --help"]),
        (["inspect"], ["NAME"]),
        (["watch", "x", "--interval", "never"], ["--interval", "never"]),
        (["watch", "x", "--count", "0"], ["--count"]),
        (["snapshot", "x", "y.png", "--quality", "101"], ["--quality", "100"]),
        (["--log-level", "LOUD", "list"], ["--log-level", "LOUD"]),
        (["--config", "nowhere.json", "list"], ["nowhere.json"]),
        (["mirror"], ["Missing command", "billiards-shm mirror --help"]),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], words: list[str]) -> None:
    assert_fails(call(*arguments), 2, *words)


@pytest.mark.parametrize("command", [["list"], ["clean", "nothing_of_this_name"]])
def test_common_options_may_come_before_or_after_the_command(command: list[str], tmp_path: Path) -> None:
    config = tmp_path / "other.json"
    config.write_text("{}")
    options = ["--config", str(config), "--log-level", "error"]
    before, after = call(*options, *command), call(*command, *options)
    assert before.returncode == after.returncode == (0 if command == ["list"] else 4)


@pytest.mark.parametrize("place", [0, 2])
def test_only_debug_shows_a_traceback(name: str, place: int) -> None:
    arguments = ["inspect", name]
    assert "Traceback" not in call(*arguments).stderr
    arguments[place:place] = ["--log-level", "debug"]
    result = call(*arguments)
    assert result.returncode == 4
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("billiards-shm: error: ")


@pytest.mark.parametrize("command", [["list"], ["inspect"], ["clean"], ["watch", "--count", "1"]])
def test_quick_commands_import_no_heavy_library(name: str, command: list[str]) -> None:
    leave_dead_segment(name)
    arguments = command if command == ["list"] else [*command, name]
    code = (
        "import sys; from billiards_shm.__main__ import main; code = main(sys.argv[1:]);"
        "print(*{'cv2', 'pydantic', 'rich'} & set(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    result = run_python(code, *arguments)
    assert result.returncode == 0
    assert result.stderr.splitlines()[-1] == ""


@pytest.mark.parametrize("missing", ["click", "pydantic"])
def test_without_the_extra_one_line_says_what_to_install(missing: str) -> None:
    code = (
        f"import sys; sys.modules['{missing}'] = None\n"
        "from billiards_shm.__main__ import main; sys.exit(main(['capture', 'demo']))"
    )
    result = run_python(code)
    assert_fails(result, 1, missing, "pip install", "[cli]")


def test_a_full_disk_is_one_line_and_exit_code_1(writer: SharedMemoryFrameWriter) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [SCRIPT, "list"], stdout=full, stderr=subprocess.PIPE, text=True, env=environment(), check=False
        )
    assert_fails(result, 1, "No space left")


def test_a_reader_of_the_output_may_leave(writer: SharedMemoryFrameWriter, name: str) -> None:
    process = start("watch", name, "--interval", "0.02")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(30) == 0


# list


def test_list_shows_one_line_per_segment(writer: SharedMemoryFrameWriter, name: str) -> None:
    result = run("list")
    assert result.returncode == 0
    header, *rows = result.stdout.splitlines()
    assert header.split() == [
        "NAME",
        "STATUS",
        "FRAME",
        "FPS",
        "AGE",
        "READERS",
        "MEMORY",
        "FRAMES",
        "DROPPED",
    ]
    row = next(row for row in rows if row.startswith(name))
    assert row.split()[1:4] == ["live", "64x48", "BGR24"]
    assert "\x1b" not in result.stdout


def test_list_as_json_is_one_object_per_line(writer: SharedMemoryFrameWriter, name: str) -> None:
    result = call("list", "--json")
    assert result.returncode == 0
    segment = next(segment for segment in json_lines(result.stdout) if segment["name"] == name)
    assert (segment["status"], segment["width"], segment["height"], segment["published"]) == (
        "live",
        64,
        48,
        1,
    )
    assert segment["writer_pid"] == os.getpid()


def test_list_counts_readers(writer: SharedMemoryFrameWriter, name: str) -> None:
    with SharedMemoryFrameReader(name) as reader:
        frame, _ = reader.read_frame()
        assert frame is not None
        segment = next(line for line in json_lines(call("list", "--json").stdout) if line["name"] == name)
    assert [entry["pid"] for entry in segment["readers"]] == [os.getpid()]


def test_list_takes_paths_too(tmp_path: Path) -> None:
    path = str(tmp_path / "table.shm")
    assert path not in call("list").stdout
    with SharedMemoryFrameWriter(path, SHAPE):
        assert path in call("list", path).stdout
        assert path in [segment["name"] for segment in json_lines(call("list", "--json", path).stdout)]


def test_list_shows_the_others_when_a_path_is_missing(
    writer: SharedMemoryFrameWriter, name: str, tmp_path: Path
) -> None:
    missing = str(tmp_path / "missing.shm")
    result = call("list", missing)
    assert name in result.stdout
    assert_fails(result, 4, missing)


def test_list_refuses_anything_but_a_path(name: str) -> None:
    assert_fails(call("list", name), 2, name, "inspect")


@pytest.mark.parametrize("source", ["unknown", "streaming", "stalled", "reconnecting"])
def test_all_commands_call_a_segment_stalled_as_the_page_does(
    writer: SharedMemoryFrameWriter, name: str, source: str
) -> None:
    writer.write_frame(np.zeros(SHAPE, np.uint8))
    set_frame_age(path_of(name), 10)
    if source != "unknown":
        writer.update_source(state=source, reason="no signal" if source == "reconnecting" else "")
    monitor = HealthMonitor([name], MAX_FRAME_AGE_SEC)
    page = monitor.health()[name]
    status = "stalled (reconnecting)" if source == "reconnecting" else "stalled"
    assert re.search(rf"^{re.escape(name)}  +{re.escape(status)}  ", call("list").stdout, re.MULTILINE)
    inspected, watched = call("inspect", name).stdout, call("watch", name, "--count", "1").stdout
    assert re.search(rf"^ +status +{re.escape(status)}$", inspected, re.MULTILINE)
    assert re.search(r"^ +health +its newest frame is 1.* s old, more than the 3 s", inspected, re.MULTILINE)
    assert f"{name} {status} 64x48" in watched
    assert "more than the 3 s allowed" in watched
    for command in (["list"], ["inspect", name], ["watch", name, "--count", "1"]):
        shown = next(line for line in json_lines(call(*command, "--json").stdout) if line["name"] == name)
        assert (shown["status"], shown["state"], shown["healthy"]) == ("live", "stalled", False) == (
            page.status, page.state, page.healthy,
        )  # fmt: skip
        assert shown["reason"].startswith("its newest frame is ")


def test_list_names_the_trouble_of_a_source(writer: SharedMemoryFrameWriter, name: str) -> None:
    writer.update_source(state="reconnecting", reason="no signal")
    assert re.search(rf"^{re.escape(name)}\s+live \(reconnecting\)", call("list").stdout, re.MULTILINE)
    assert "no signal" in call("inspect", name).stdout
    assert "no signal" in call("watch", name, "--count", "1").stdout


# inspect


def test_inspect_shows_everything(writer: SharedMemoryFrameWriter, name: str) -> None:
    writer.update_source(backend="demo", reconnects=3)
    with SharedMemoryFrameReader(name) as reader:
        frame, _ = reader.read_frame()
        result = run("inspect", name)
        del frame
    assert result.returncode == 0
    assert result.stdout.splitlines()[0] == name
    shown = dict(re.split("  +", line.strip(), maxsplit=1) for line in result.stdout.splitlines()[1:])
    assert shown["status"] == "live"
    assert "64x48 BGR24" in shown["frame"]
    assert "3 reconnects" in shown["incidents"]
    assert f"pid {os.getpid()}" in shown["writer"]
    assert f"pid {os.getpid()}" in shown["reader"]
    assert "1 frames" in shown["reader"]


def test_inspect_and_watch_show_statistics_as_the_table_says(writer: SharedMemoryFrameWriter, name: str) -> None:
    values = {statistic: 1_000_000 * number for number, statistic in enumerate(STATISTICS, 1)}
    with opened(path_of(name)) as segment:
        for statistic, value in values.items():
            segment.statistics[statistic] = value
    shown = dict(re.split("  +", line.strip(), maxsplit=1) for line in run("inspect", name).stdout.splitlines()[1:])
    watched = run("watch", name, "--count", "1").stdout
    for statistic, row in STATISTICS.items():
        millions = f"{values[statistic] / 1e6:.1f}"
        text = {"": str(values[statistic]), "bytes": f"{millions} MB", "us": f"{millions} s"}[row.unit]
        label = row.label or statistic
        assert not row.line or f"{text} {label}" in shown[row.line], statistic
        assert (f" {label}={text}" in watched) == row.prominent, statistic


def test_inspect_as_json_is_one_object(writer: SharedMemoryFrameWriter, name: str) -> None:
    (segment,) = json_lines(call("inspect", name, "--json").stdout)
    assert segment["name"] == name
    assert segment["generation"] == writer.generation
    assert segment["dtype"] == "uint8"
    assert segment["sequence"] == 1


def test_inspect_takes_a_path(tmp_path: Path) -> None:
    path = str(tmp_path / "table.shm")
    with SharedMemoryFrameWriter(path, SHAPE):
        (segment,) = json_lines(call("inspect", path, "--json").stdout)
    assert segment["status"] == "live"


def test_inspect_shows_a_dead_writers_segment(name: str) -> None:
    leave_dead_segment(name)
    (segment,) = json_lines(call("inspect", name, "--json").stdout)
    assert segment["status"] == "dead"


@pytest.mark.parametrize("command", [["inspect"], ["watch"], ["clean"]])
def test_a_missing_segment_is_exit_code_4(command: list[str], name: str) -> None:
    assert_fails(call(*command, name), 4, name)


def test_a_missing_segment_is_exit_code_4_for_snapshot(name: str, tmp_path: Path) -> None:
    assert_fails(call("snapshot", name, tmp_path / "x.png", "--timeout", "0.1"), 4, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", ["with space", "/leading_slash", "", "x" * 65])
def test_an_invalid_name_is_exit_code_2(wrong: str) -> None:
    assert_fails(call("inspect", wrong), 2)


@pytest.mark.parametrize("command", ["inspect", "watch", "clean"])
def test_a_foreign_file_is_refused_and_left_alone(command: str, name: str) -> None:
    foreign = Path("/dev/shm") / name
    foreign.write_bytes(b"not a segment" * 20_000)
    try:
        assert_fails(call(command, name), 4, name)
        assert foreign.read_bytes() == b"not a segment" * 20_000
    finally:
        foreign.unlink()


def test_escape_sequences_in_a_segment_do_not_reach_the_terminal(writer: SharedMemoryFrameWriter, name: str) -> None:
    writer.update_source(state="stalled", reason="\x1b]0;owned\x07")
    for command in (["inspect", name], ["watch", name, "--count", "1"]):
        output = call(*command).stdout
        assert "?]0;owned?" in output
        assert not {"\x1b", "\x07"} & set(output)


# watch


def test_watch_prints_one_line_per_look_when_piped(writer: SharedMemoryFrameWriter, name: str) -> None:
    result = call("watch", name, "--interval", "0.02", "--count", "3")
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    assert all(f"{name} live 64x48 BGR24 sequence=1 " in line for line in lines)
    assert "\x1b" not in result.stdout


def test_watch_follows_the_writer_across_restarts(name: str) -> None:
    first = SharedMemoryFrameWriter(name, SHAPE)
    process = start("watch", name, "--json", "--interval", "0.02")

    def wait_for(status: str) -> dict[str, Any]:
        assert process.stdout is not None
        for line in process.stdout:
            look: dict[str, Any] = json.loads(line)
            if look["status"] == status:
                return look
        raise AssertionError(f"ended before {status}: {process.communicate()[1]}")

    assert wait_for("live")["generation"] == first.generation
    first.close()
    assert wait_for("detached") == {
        "name": name,
        "status": "detached",
        "state": "gone",
        "healthy": False,
        "reason": "there is no segment of this name",
    }
    with SharedMemoryFrameWriter(name, SHAPE) as second:
        assert wait_for("live")["generation"] == second.generation
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_watch_quietly(writer: SharedMemoryFrameWriter, name: str, number: int) -> None:
    process = start("watch", name, "--interval", "60")
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")


def test_watch_draws_in_place_on_a_terminal(writer: SharedMemoryFrameWriter, name: str) -> None:
    terminal = Terminal("watch", name, "--interval", "0.05")
    terminal.read_until(lambda text: text.count(name) >= 3)
    writer.write_frame(np.zeros(SHAPE, np.uint8))
    terminal.read_until(lambda text: "2 published" in text)
    assert terminal.end(signal.SIGINT) == 0
    assert "\x1b[1A" in terminal.text  # the cursor goes up to draw again
    assert "Traceback" not in terminal.text


def test_a_dumb_terminal_gets_lines(writer: SharedMemoryFrameWriter, name: str) -> None:
    terminal = Terminal("watch", name, "--interval", "0.02", "--count", "2", TERM="dumb")
    assert terminal.wait() == 0
    assert "\x1b" not in terminal.text
    assert terminal.text.count(f"{name} live") == 2


def test_colours_are_for_terminals_and_can_be_refused(writer: SharedMemoryFrameWriter) -> None:
    coloured, plain = Terminal("list"), Terminal("list", NO_COLOR="1")
    assert (coloured.wait(), plain.wait()) == (0, 0)
    assert "\x1b[32mlive" in coloured.text
    assert "\x1b" not in plain.text


# snapshot


def test_snapshot_waits_as_long_as_the_configuration_says(name: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    result = call("snapshot", name, tmp_path / "x.png", BILLIARDS_SHM__VIDEO__SHARED_MEMORY_ATTACH_TIMEOUT_SEC="0.3")
    assert_fails(result, 4, name)
    assert time.monotonic() - begun >= 0.3


@pytest.fixture
def gradient() -> npt.NDArray[Any]:
    """A picture in which a swapped channel, a shifted row and a lossy step would show."""
    rows, columns = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    return np.stack([rows * 5, columns * 3, (rows * 7 + columns * 11) % 256], axis=-1).astype(np.uint8)


def test_snapshot_as_png_is_exact(writer: SharedMemoryFrameWriter, name: str, gradient: npt.NDArray[Any]) -> None:
    writer.write_frame(gradient)
    result = run("snapshot", name, "table.png")
    assert result.returncode == 0
    assert "table.png" in result.stdout
    assert "frame 2" in result.stdout
    np.testing.assert_array_equal(cv2.imread("table.png", cv2.IMREAD_UNCHANGED), gradient)
    assert [path.name for path in Path().iterdir()] == ["table.png"]


@pytest.mark.parametrize("file", ["table.jpg", "table.JPEG"])
def test_snapshot_as_jpeg_is_close(
    writer: SharedMemoryFrameWriter, name: str, gradient: npt.NDArray[Any], file: str
) -> None:
    smooth = gradient.copy()
    smooth[..., 2] = 100
    writer.write_frame(smooth)
    assert call("snapshot", name, file, "--quality", "100").returncode == 0
    difference = np.abs(cv2.imread(file).astype(int) - smooth)
    assert difference.mean() < 4


def test_a_lower_quality_makes_a_smaller_jpeg(
    writer: SharedMemoryFrameWriter, name: str, gradient: npt.NDArray[Any]
) -> None:
    writer.write_frame(gradient)
    assert call("snapshot", name, "high.jpg", "--quality", "95").returncode == 0
    assert call("snapshot", name, "low.jpg", "--quality", "10").returncode == 0
    assert Path("low.jpg").stat().st_size < Path("high.jpg").stat().st_size / 2


def test_snapshot_works_on_a_dead_writers_segment(name: str) -> None:
    leave_dead_segment(name, value=9)
    assert call("snapshot", name, "last.png").returncode == 0
    assert (cv2.imread("last.png") == 9).all()


def test_snapshot_waits_for_a_first_frame(name: str, gradient: npt.NDArray[Any]) -> None:
    with SharedMemoryFrameWriter(name, SHAPE) as writer:
        process = start("snapshot", name, "first.png", "--timeout", "30")
        wait_until(lambda: inspect_segment(name).readers, "a reader")
        writer.write_frame(gradient)
        process.communicate(timeout=30)
    assert process.returncode == 0
    np.testing.assert_array_equal(cv2.imread("first.png"), gradient)


def test_snapshot_gives_up_when_no_frame_arrives(name: str, tmp_path: Path) -> None:
    with SharedMemoryFrameWriter(name, SHAPE):
        assert_fails(call("snapshot", name, "x.png", "--timeout", "0.1"), 1, name, "0.1 s")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["table.gif", "table", ".png"])
def test_snapshot_refuses_other_extensions(writer: SharedMemoryFrameWriter, name: str, file: str) -> None:
    assert_fails(call("snapshot", name, file), 2, file, ".png", ".jpg", ".jpeg")


def test_snapshot_needs_a_directory_that_exists(writer: SharedMemoryFrameWriter, name: str, tmp_path: Path) -> None:
    assert_fails(call("snapshot", name, "missing/table.png"), 2, "missing")
    (tmp_path / "directory.png").mkdir()
    assert_fails(call("snapshot", name, "directory.png"), 2, "directory.png")


def test_a_snapshot_that_cannot_be_written_names_the_file(writer: SharedMemoryFrameWriter, name: str) -> None:
    result = call("snapshot", name, "/proc/table.png")
    assert_fails(result, 1, "/proc/table.png")


def test_a_snapshot_that_fails_leaves_the_old_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "table.png").write_bytes(b"old")
    with SharedMemoryFrameWriter(name, (48, 64, 5), pixel_format="RAW") as writer:
        writer.write_frame(np.zeros((48, 64, 5), np.uint8))
        assert_fails(call("snapshot", name, "table.png"), 1, "RAW")
    assert (tmp_path / "table.png").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["table.png"]


def test_a_snapshot_has_the_permissions_of_any_new_file(writer: SharedMemoryFrameWriter, name: str) -> None:
    before = os.umask(0o027)
    try:
        assert call("snapshot", name, "table.png").returncode == 0
    finally:
        os.umask(before)
    assert Path("table.png").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(("options", "start_of_file"), [([], b"\x89PNG"), (["--format", "jpg"], b"\xff\xd8\xff")])
def test_snapshot_to_standard_output_is_the_image_alone(
    writer: SharedMemoryFrameWriter, name: str, options: list[str], start_of_file: bytes
) -> None:
    done = subprocess.run([SCRIPT, "snapshot", name, "-", *options], capture_output=True, env=environment(), check=True)
    assert done.stdout.startswith(start_of_file)
    image = cv2.imdecode(np.frombuffer(done.stdout, np.uint8), cv2.IMREAD_UNCHANGED)
    assert abs(image.astype(int) - 7).max() <= 1
    assert done.stderr.decode() == "-: frame 1, 64x48 BGR24\n"
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("table.png", "--format", "jpg"), ("--format", "FILE -")),
        (("table.png", "--count", "2"), ("--count", "--every")),
        (("table.png", "--every", "nan"), ("--every", "nan")),
        (("table.png", "--every", "inf"), ("--every", "inf")),
        (("table.png", "--timeout", "1e300"), ("--timeout", "1e+300")),
    ],
)
def test_nonsensical_options_of_snapshot_are_refused(
    name: str, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_fails(call("snapshot", name, *arguments), 2, *words)


def test_an_image_is_not_written_to_a_terminal(writer: SharedMemoryFrameWriter, name: str) -> None:
    terminal = Terminal("snapshot", name, "-")
    assert terminal.wait() == 2
    assert "standard output is a terminal" in terminal.text
    assert "PNG" not in terminal.text


def frames_in(process: subprocess.Popen[str]) -> Iterator[str]:
    """The file of each snapshot, as it is written."""
    assert process.stdout is not None
    for line in process.stdout:
        yield line.partition(":")[0]


def test_a_time_lapse_continues_the_file_numbers_and_skips_frames_that_are_not_new(
    writer: SharedMemoryFrameWriter, name: str
) -> None:
    Path("100%-01.png").touch()
    process = start("snapshot", name, "100%%-%02d.png", "--every", "0.02")
    files = frames_in(process)
    assert next(files) == "100%-02.png"
    for value in (20, 30):
        # The previous frame is not written again in the meantime.
        time.sleep(0.1)
        writer.write_frame(np.full(SHAPE, value, np.uint8))
        assert next(files) == f"100%-{value // 10 + 1:02d}.png"
    process.terminate()
    assert (process.wait(30), [*files]) == (0, [])
    assert [int(cv2.imread(f"100%-0{number}.png")[0, 0, 0]) for number in (2, 3, 4)] == [7, 20, 30]
    assert Path("100%-01.png").stat().st_size == 0


@pytest.mark.parametrize(
    ("pattern", "there", "first"),
    [
        ("n-%05d.png", "n-00003.png n-00005.png", "n-00006.png"),
        ("n-%d.png", "n-9.png n-10.png n-011.png m-12.png n-13.jpg", "n-11.png"),
        ("%02d.png", "99.png 100.png 0101.png", "101.png"),
        ("%4d.png", "0007.png", "0008.png"),
        ("%d-%d.png", "1-1.png 2-5.png", "6-6.png"),
        ("%d%%.png", "0%.png", "1%.png"),
    ],
)
def test_a_time_lapse_begins_after_the_highest_number_and_overwrites_nothing(
    writer: SharedMemoryFrameWriter, name: str, pattern: str, there: str, first: str
) -> None:
    for file in there.split():
        Path(file).touch()
    done = call("snapshot", name, pattern, "--every", "0.02", "--count", "1")
    assert done.stdout.startswith(f"{first}: frame ")
    assert {path.name for path in Path().iterdir() if path.stat().st_size} == {first}
    assert {path.name for path in Path().iterdir()} == {first, *there.split()}


def test_a_time_lapse_goes_on_with_the_next_writer_and_ends_after_a_count(name: str) -> None:
    with SharedMemoryFrameWriter(name, SHAPE) as first:
        first.write_frame(np.full(SHAPE, 1, np.uint8))
        process = start("snapshot", name, "newest.png", "--every", "0.02", "--count", "2")
        files = frames_in(process)
        assert next(files) == "newest.png"
    with SharedMemoryFrameWriter(name, SHAPE) as second:
        second.write_frame(np.full(SHAPE, 2, np.uint8))
        assert next(files) == "newest.png"
        assert process.wait(30) == 0
    assert (cv2.imread("newest.png") == 2).all()
    assert [path.name for path in Path().iterdir()] == ["newest.png"]


def encoded(frame: npt.NDArray[Any], pixel_format: str, extension: str = ".png") -> npt.NDArray[Any]:
    import cv2

    from billiards_shm.images import encode_image

    data = np.frombuffer(encode_image(frame, pixel_format, extension, 95), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image


def test_every_lossless_format_is_unchanged_in_a_png(gradient: npt.NDArray[Any]) -> None:
    gray = gradient[..., 2]
    deep = gray.astype(np.uint16) * 257 + 3
    with_alpha = np.dstack([gradient, gray])
    np.testing.assert_array_equal(encoded(gradient, "BGR24"), gradient)
    np.testing.assert_array_equal(encoded(gradient[..., ::-1], "RGB24"), gradient)
    np.testing.assert_array_equal(encoded(with_alpha, "BGRA32"), with_alpha)
    np.testing.assert_array_equal(encoded(gray, "GRAY8"), gray)
    np.testing.assert_array_equal(encoded(deep, "GRAY16"), deep)
    assert encoded(deep, "GRAY16", ".jpg").dtype == np.uint8
    assert encoded(with_alpha, "BGRA32", ".jpg").shape == SHAPE


def test_luma_and_chroma_formats_keep_their_colours() -> None:
    # BT.601, studio range: Y 81, U 90, V 240 is pure red.
    luma, u, v = 81, 90, 240
    yuyv = np.empty((48, 64, 2), np.uint8)
    yuyv[..., 0] = luma
    yuyv[:, 0::2, 1], yuyv[:, 1::2, 1] = u, v
    nv12 = np.empty((72, 64), np.uint8)
    nv12[:48] = luma
    nv12[48:, 0::2], nv12[48:, 1::2] = u, v
    i420 = np.concatenate([np.full(48 * 64, luma), np.full(24 * 32, u), np.full(24 * 32, v)])
    frames = {
        "YUYV": yuyv,
        "UYVY": yuyv[..., ::-1].copy(),
        "NV12": nv12,
        "I420": i420.astype(np.uint8).reshape(72, 64),
        "P010": nv12.astype(np.uint16) << 8 | 0xC0,
    }
    for pixel_format, frame in frames.items():
        image = encoded(frame, pixel_format)
        assert image.shape == SHAPE
        assert np.abs(image.astype(int) - (0, 0, 255)).max() <= 3


def test_a_jpeg_frame_is_passed_on_or_decoded(gradient: npt.NDArray[Any]) -> None:
    from billiards_shm.images import encode_image

    data = cv2.imencode(".jpg", gradient)[1].reshape(1, -1)
    assert encode_image(data, "MJPG", ".jpg") == data.tobytes()
    np.testing.assert_array_equal(encoded(data, "MJPG"), cv2.imdecode(data, cv2.IMREAD_COLOR))


def test_a_jpeg_frame_without_its_tables_becomes_a_file_with_them(gradient: npt.NDArray[Any]) -> None:
    data: bytes = cv2.imencode(".jpg", gradient)[1].tobytes()
    bare = bytearray()
    rest = data
    while (at := rest.find(b"\xff\xc4")) >= 0:
        length = int.from_bytes(rest[at + 2 : at + 4], "big")
        bare += rest[:at]
        rest = rest[at + 2 + length :]
    bare += rest
    image = encoded(np.frombuffer(bare, np.uint8).reshape(1, -1), "MJPG", ".jpg")
    assert np.abs(image.astype(int) - cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)).mean() < 3


@pytest.mark.parametrize(
    ("frame", "pixel_format", "words"),
    [
        (np.zeros((4, 4), np.uint8), "RAW", "RAW"),
        (np.zeros((4, 4, 3), np.float32), "BGR24", "float32"),
        (np.zeros((4, 5, 2), np.uint8), "YUYV", r"\(4, 5, 2\)"),
        (np.zeros((5, 4), np.uint8), "NV12", r"\(5, 4\)"),
        (np.zeros((1, 99), np.uint8), "MJPG", "JPEG"),
        (np.frombuffer(b"\xff\xd8 and nothing more", np.uint8).reshape(1, -1), "MJPG", "JPEG"),
        (np.zeros((4, 4, 3), np.uint8), "PNM", "PNM"),
    ],
)
def test_a_frame_that_cannot_be_encoded_is_reported_with_the_reason(
    frame: npt.NDArray[Any], pixel_format: str, words: str
) -> None:
    from billiards_shm.images import encode_image

    with pytest.raises(ValueError, match=words):
        encode_image(frame, pixel_format, ".png")


# clean


CLEAN_ALL = """
import os, signal, subprocess, sys
import cv2
import numpy as np
from billiards_shm import SharedMemoryFrameWriter, list_segments

name, script = sys.argv[1:]
if os.fork() == 0:
    dead = SharedMemoryFrameWriter(f"{name}_dead", (48, 64, 3))
    dead.write_frame(np.zeros((48, 64, 3), np.uint8))
    os.kill(os.getpid(), signal.SIGKILL)
os.wait()
with SharedMemoryFrameWriter(name, (48, 64, 3)):
    subprocess.run([script, "clean"], check=True)
    print(*(info.name for info in list_segments()))
"""


@pytest.mark.slow
def test_clean_removes_segments_of_dead_writers_and_nothing_else(name: str) -> None:
    # With its own /dev/shm, because other tests have dead writers too.
    private = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs none /dev/shm && exec "$@"', "sh"]
    command = [*private, sys.executable, "-c", CLEAN_ALL, name, SCRIPT]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert (result.returncode, result.stderr) == (0, "")
    removed, left = result.stdout.splitlines()[-2:]
    assert removed == f"removed {name}_dead"
    assert name in left.split()
    assert f"{name}_dead" not in left.split()


def test_clean_of_one_name_spares_the_others(name: str) -> None:
    other = f"{name}_other"
    leave_dead_segment(name)
    leave_dead_segment(other)
    result = run("clean", name)
    assert (result.returncode, result.stdout) == (0, f"removed {name}\n")
    assert other in [info.name for info in list_segments()]
    remove_stale_segments([other])


def test_clean_as_json_is_one_object_per_segment(name: str) -> None:
    leave_dead_segment(name)
    assert json_lines(call("clean", name, "--json").stdout) == [{"name": name, "removed": True}]


def test_clean_refuses_the_segment_of_a_living_writer(writer: SharedMemoryFrameWriter, name: str) -> None:
    assert_fails(call("clean", name), 4, name, str(os.getpid()))
    assert name in [info.name for info in list_segments()]


def test_clean_removes_what_it_can_and_reports_the_rest(writer: SharedMemoryFrameWriter, name: str) -> None:
    dead, missing = f"{name}_dead", f"{name}_missing"
    leave_dead_segment(dead)
    result = call("clean", name, missing, dead)
    assert (result.returncode, result.stdout) == (4, f"removed {dead}\n")
    errors = result.stderr.splitlines()
    assert len(errors) == 2
    assert any(missing in line for line in errors)


def test_clean_takes_a_path(tmp_path: Path) -> None:
    path = str(tmp_path / "table.shm")
    leave_dead_segment(path)
    assert call("clean", path).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_readers_keep_their_frames_across_clean(name: str) -> None:
    leave_dead_segment(name)
    with SharedMemoryFrameReader(name) as reader:
        frame, _ = reader.read_frame()
        assert run("clean", name).returncode == 0
        assert frame is not None
        assert (frame == 7).all()


# Completion


def complete(*words: str) -> list[str]:
    """The shell's completions for the last word."""
    result = run(
        _BILLIARDS_SHM_COMPLETE="bash_complete",
        COMP_WORDS=" ".join(["billiards-shm", *words]),
        COMP_CWORD=str(len(words)),
    )
    assert result.stderr == ""
    return [line.partition(",")[2] for line in result.stdout.splitlines()]


def test_commands_complete() -> None:
    assert complete("in") == ["inspect"]


@pytest.mark.parametrize("command", ["inspect", "watch", "snapshot", "clean"])
def test_names_complete(writer: SharedMemoryFrameWriter, name: str, command: str) -> None:
    assert complete(command, name) == [name]


def test_options_of_the_configuration_complete() -> None:
    assert "--slots" in complete("capture", "--sl")
    assert "gstreamer" in complete("capture", "--backend", "g")


def test_sources_complete() -> None:
    assert "demo" in complete("capture", "de")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_printed(shell: str) -> None:
    result = run(_BILLIARDS_SHM_COMPLETE=f"{shell}_source")
    assert result.returncode == 0
    assert "billiards-shm" in result.stdout
    if shutil.which(shell):
        check = subprocess.run([shell, "-n"], input=result.stdout, text=True, capture_output=True, check=False)
        assert (check.returncode, check.stderr) == (0, "")


def test_completion_works_in_bash(writer: SharedMemoryFrameWriter, name: str) -> None:
    script = (
        'eval "$(_BILLIARDS_SHM_COMPLETE=bash_source billiards-shm)"\n'
        'COMP_WORDS=(billiards-shm inspect "$1"); COMP_CWORD=2\n'
        '_billiards_shm_completion billiards-shm "$1" inspect\n'
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    path = f"{Path(SCRIPT).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", "-c", script, "bash", name],
        capture_output=True,
        text=True,
        env=environment(PATH=path),
        check=False,
    )
    assert result.stdout.split() == [name]


# Closed standard streams


ALL_CLOSED = "<&- >&- 2>&-"


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ALL_CLOSED])
def test_commands_work_without_standard_streams(name: str, writer: SharedMemoryFrameWriter, closed: str) -> None:
    before = inspect_segment(name).published
    captured = f"{name}_captured"
    capture = ("capture", "demo", "--name", captured, "--resolution", "64x48", "--frames", "20")
    commands = [capture, ("list",), ("--version",), ("clean", captured)]
    if closed == ALL_CLOSED:
        once = ("watch", name, "--count", "1")
        commands += [(*capture, "--supervise"), ("inspect", name), once, ("snapshot", name, "table.png")]
    for arguments in commands:
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", SCRIPT, *arguments],
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
        )
        code = 4 if arguments[0] == "clean" else 0
        assert done.returncode == code, (arguments, done.stderr)
        assert ("error" in done.stderr) == (code != 0 and "2>&-" not in closed), (arguments, done.stderr)
    # Output must not land in a file opened since then, such as the segment's.
    assert inspect_segment(name).published == before
    if closed == ALL_CLOSED:
        assert cv2.imread("table.png").shape == SHAPE


@pytest.mark.parametrize(
    "closed", [pytest.param("<&-", marks=pytest.mark.slow), pytest.param(">&-", marks=pytest.mark.slow), "<&- >&-"]
)
def test_the_server_works_without_standard_streams(name: str, writer: SharedMemoryFrameWriter, closed: str) -> None:
    program = ["sh", "-c", f'exec "$@" {closed}', "sh", SCRIPT, "serve", name, "--port", "0"]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stderr is not None
        assert "Serving" in process.stderr.readline()
        process.terminate()
        assert process.wait(30) == 0

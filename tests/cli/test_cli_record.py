"""`billiards-shm record`: its output, its exit codes, and what it refuses before it begins."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import recordings
from command_line import Terminal, call, end_started, run
from segments_under_test import picture

from billiards_shm import SharedMemoryFrameWriter, inspect_segment

SHAPE = (48, 64, 3)


@pytest.fixture(autouse=True)
def _no_process_left() -> Iterator[None]:
    yield
    end_started()


@pytest.fixture
def source(segment_name: str) -> Iterator[SharedMemoryFrameWriter]:
    """A segment that gets frames until the test ends, each once every reader has the one before: none can miss one."""
    over = threading.Event()

    def write(writer: SharedMemoryFrameWriter) -> None:
        while not over.wait(0.005):
            if all(reader.last_sequence == writer.sequence for reader in inspect_segment(segment_name).readers):
                writer.write_frame(picture(writer.sequence, SHAPE))

    with SharedMemoryFrameWriter(segment_name, SHAPE, history=16) as writer:
        writer.write_frame(picture(0, SHAPE))
        thread = threading.Thread(target=write, args=(writer,))
        thread.start()
        yield writer
        over.set()
        thread.join()


def test_it_records_the_requested_frames_and_reports_them(tmp_path: Path, source: SharedMemoryFrameWriter) -> None:
    file = tmp_path / "table.mkv"
    done = call("record", source.name, file, "--frames", "20")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{file}: 20 frames, 0 missed, 0.")
    assert len(recordings.packets(file)) == len(recordings.lines(file)) == 20
    assert "frames are 64x48 BGR24, recorded as h264" in done.stderr


def test_a_file_that_exists_is_refused_and_replaced_on_demand(tmp_path: Path, source: SharedMemoryFrameWriter) -> None:
    file = tmp_path / "table.mkv"
    file.write_text("precious")
    refused = call("record", source.name, file, "--frames", "3")
    assert refused.returncode == 2
    assert refused.stderr == f"billiards-shm: error: {file} exists: choose another name, or --overwrite\n"
    assert file.read_text() == "precious"
    assert call("record", source.name, file, "--frames", "3", "--overwrite").returncode == 0
    assert len(recordings.packets(file)) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["table.avi"], 2, 'record.file is "table.avi"; allowed: a name that ends in .mkv or .mp4'),
        (["nowhere/table.mkv"], 2, "nowhere/table.mkv: there is no folder 'nowhere'"),
        (["table.mkv", "--codec", "vp9"], 2, "'vp9' is not one of 'auto', 'copy', 'h264'"),
        (["table.mkv", "--codec", "h264_videotoolbox"], 2, "codec 'h264_videotoolbox' is not in this build of FFmpeg"),
        (["table.mkv", "--segment", "soon"], 2, "allowed: a time such as 90s, 10min, 24h or 7d, or null"),
        (["table.mkv", "--max-size", "3 apples"], 2, "allowed: a size such as 500MB or 20GB, or null"),
        (["table.mp4", "--codec", "copy", "--frames", "1"], 2, "a .mp4 file cannot hold BGR24 frames unchanged"),
        ([], 2, "nowhere to record to: give FILE, --ring, or record.file in the configuration"),
    ],
)
def test_bad_input_gets_one_line_and_no_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: SharedMemoryFrameWriter,
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("record", source.name, *arguments)
    assert done.returncode == code
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("billiards-shm: error: ")]
    assert said in line
    assert done.stderr.splitlines()[-1] == line
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_writable_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: SharedMemoryFrameWriter
) -> None:
    monkeypatch.setattr("billiards_shm.record.files.os.access", lambda path, mode: False)
    done = call("record", source.name, tmp_path / "table.mkv")
    assert done.returncode == 2
    assert f"the folder '{tmp_path}' is not writable" in done.stderr


def test_a_missing_segment_is_exit_4(tmp_path: Path, segment_name: str) -> None:
    done = call("record", segment_name, tmp_path / "table.mkv", "--timeout", "0.01")
    assert done.returncode == 4
    assert f"no segment '{segment_name}'" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_segment_without_history_is_warned_about_in_one_log_line(tmp_path: Path, segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.write_frame(picture(0, SHAPE))
        done = run("record", segment_name, tmp_path / "table.mkv", "--frames", "1")
    assert done.returncode == 0
    (line,) = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert f" WARNING  '{segment_name}' keeps no history, so frames can be missed" in line


def test_a_terminal_shows_progress_and_a_signal_ends_it_cleanly(
    tmp_path: Path, source: SharedMemoryFrameWriter
) -> None:
    file = tmp_path / "table.mkv"
    terminal = Terminal("record", source.name, file)
    terminal.read_until(lambda text: "0 missed, 0 damaged" in text and "64x48 BGR24" in text)
    assert terminal.end(signal.SIGINT) == 0
    assert " 0 missed, " in terminal.text.splitlines()[-1]
    assert recordings.frames_by_ffprobe(file) == len(recordings.lines(file)) > 0

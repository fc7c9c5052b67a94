"""A recording has the packets and times it was given, plays when it is cut off, and is refused before it begins."""

import errno
import io
import math
import os
import resource
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
import recordings

from billiards_shm import ConfigurationError
from billiards_shm.encoder import EncodedFrame, StreamFormat
from billiards_shm.record import muxer
from billiards_shm.record.files import check_file
from billiards_shm.record.muxer import RecordingFile
from billiards_shm.sources.names import frames_file

MJPEG = StreamFormat("mjpeg", 64, 48)


def encoded(number: int, time_us: int, data: bytes | None = None) -> EncodedFrame:
    """A frame whose bytes hold its number; nothing decodes them."""
    return EncodedFrame(
        data=data or b"\xff\xd8" + str(number).encode() * 100,
        key=True,
        time_us=time_us,
        sequence=number,
        capture_time_ns=10**15 + time_us * 1000 + 7,
        wall_time_ns=1_700_000_000_123_456_000 + time_us * 1000,
        position_ms=None if number % 2 else number / 3,
    )


def write_all(output: RecordingFile, frames: Iterable[EncodedFrame]) -> None:
    for frame in frames:
        output.write(frame)


def record(path: Path, frames: list[EncodedFrame]) -> None:
    with RecordingFile(path, MJPEG, title="table_1") as output:
        write_all(output, frames)


@pytest.mark.parametrize(("suffix", "exact_to_s"), [(".mkv", 0.000501), (".mp4", 0.00001)])
def test_packets_and_times_are_as_given(tmp_path: Path, suffix: str, exact_to_s: float) -> None:
    path = tmp_path / f"10:30 table{suffix}"
    times_us = [5_000_000 + number * 33_333 + number % 3 * 4_111 for number in range(100)] + [90_000_000]
    frames = [encoded(number, time_us) for number, time_us in enumerate(times_us)]
    record(path, frames)
    found = recordings.packets(path)
    assert [bytes(packet) for packet in found] == [frame.data for frame in frames]
    for second, time_us in zip(recordings.seconds(path), times_us, strict=True):
        assert second == pytest.approx((time_us - times_us[0]) / 1e6, abs=exact_to_s)
    assert recordings.lines(path) == [
        {"sequence": each.sequence, "capture_time_ns": each.capture_time_ns, "position_ms": each.position_ms}
        for each in frames
    ]


def test_a_position_that_is_not_a_number_is_none(tmp_path: Path) -> None:
    path = tmp_path / "table.mkv"
    record(path, [encoded(1, 0)._replace(position_ms=math.inf), encoded(2, 40_000)._replace(position_ms=math.nan)])
    assert [line["position_ms"] for line in recordings.lines(path)] == [None, None]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_frames_closer_together_than_the_containers_times_still_follow_one_another(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    record(path, [encoded(number, number) for number in range(10)] + [encoded(10, 1_000_000)])
    seconds = recordings.seconds(path)
    assert seconds == sorted(set(seconds))
    assert seconds[-1] == 1


def test_mp4_holds_gaps_up_to_a_limit_and_refuses_longer_ones(tmp_path: Path) -> None:
    """FFmpeg's muxer would give every frame after a longer one the time of its predecessor plus one tick."""
    path = tmp_path / "table.mp4"
    longest_us = muxer.CONTAINERS[".mp4"].longest_step / 90000 * 1e6
    times_us = [0, 40_000, 40_000 + math.floor(longest_us), 80_000 + math.floor(longest_us)]
    with RecordingFile(path, MJPEG) as output:
        write_all(output, (encoded(number, time_us) for number, time_us in enumerate(times_us)))
        with pytest.raises(OSError, match="it cannot hold a gap of 23861 s"):
            output.write(encoded(4, times_us[-1] + math.ceil(longest_us) + 12))
    assert recordings.seconds(path) == pytest.approx([time_us / 1e6 for time_us in times_us], abs=0.00001)
    assert len(recordings.lines(path)) == 4


def test_matroska_holds_gaps_of_months(tmp_path: Path) -> None:
    path = tmp_path / "table.mkv"
    seconds = [0.0, 0.04, 1e7, 1e7 + 0.04]
    record(path, [encoded(number, round(second * 1e6)) for number, second in enumerate(seconds)])
    assert recordings.seconds(path) == pytest.approx(seconds, abs=0.000501)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_the_metadata_says_when_it_began(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    record(path, [encoded(1, 0), encoded(2, 40_000)])
    metadata = recordings.metadata(path)
    assert metadata["title"] == "table_1"
    assert metadata["creation_time"].startswith("2023-11-14T22:13:20.")


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_all_but_the_last_quarter_second_can_be_read_from_a_file_that_was_never_closed(
    tmp_path: Path, suffix: str
) -> None:
    path, copied = tmp_path / f"table{suffix}", tmp_path / f"copied{suffix}"
    with RecordingFile(path, MJPEG) as output:
        for number in range(100):
            output.write(encoded(number, number * 20_000))
            if number >= 14 and number % 10 == 0:
                shutil.copy(path, copied)
                assert len(recordings.packets(copied)) >= number - 14
                assert len(recordings.lines(path)) == number + 1


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_writing_to_the_disk_lets_other_threads_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """FFmpeg's own writing of the beginning and the end holds Python's lock."""
    written = 0

    def write(file: io.FileIO, data: bytes) -> int:
        nonlocal written
        other = threading.Thread(target=lambda: None)
        other.start()
        other.join(40)
        assert not other.is_alive()
        written += len(data)
        return os.write(file.fileno(), data)

    monkeypatch.setattr(muxer._File, "write", write)
    path = tmp_path / f"table{suffix}"
    with RecordingFile(path, MJPEG) as output:
        write_all(output, (encoded(number, number * 20_000) for number in range(100)))
        before = written
    assert path.stat().st_size <= written
    assert 10_000 < before < written


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_full_disk_is_an_error_and_the_written_part_can_be_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    output = RecordingFile(path, MJPEG)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(OSError) as raised:
            write_all(output, (encoded(number, number * 20_000, os.urandom(5000)) for number in range(1000)))
        with pytest.raises(OSError):
            output.close()
        output.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.errno == errno.EFBIG
    # The last fragment is cut off.
    assert 1_000_000 / 5000 - 27 <= len(recordings.packets(path)) <= output.frames
    assert len(recordings.lines(path)) == output.frames


def test_a_file_that_is_removed_during_a_recording_ends_it_and_one_that_is_renamed_does_not(tmp_path: Path) -> None:
    path, renamed = tmp_path / "table.mkv", tmp_path / "other.mkv"
    with RecordingFile(path, MJPEG) as output:
        write_all(output, [encoded(number, number * 100_000) for number in range(20)])
        path.rename(renamed)
        write_all(output, [encoded(number, number * 100_000) for number in range(20, 40)])
        renamed.unlink()
        with pytest.raises(FileNotFoundError, match="the file was removed"):
            write_all(output, [encoded(number, number * 100_000) for number in range(40, 60)])
    assert 40 <= output.frames <= 50


def test_a_line_that_does_not_fit_is_left_out_entirely(tmp_path: Path) -> None:
    path = tmp_path / "table.mkv"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    output = RecordingFile(path, MJPEG)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OSError):
            write_all(output, (encoded(number, number, b"1") for number in range(100)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    output.close()
    assert len(recordings.lines(path)) == output.frames > 1


def test_raw_frames_go_only_into_matroska(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"a \.mp4 file cannot hold NV12 frames unchanged; an \.mkv file can"):
        RecordingFile(tmp_path / "table.mp4", StreamFormat("rawvideo", 64, 48, "NV12"))
    assert not list(tmp_path.iterdir())
    with RecordingFile(tmp_path / "table.mkv", StreamFormat("rawvideo", 64, 48, "NV12")) as output:
        output.write(encoded(1, 0, bytes(64 * 72)))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("table.avi", r"table\.avi must end in \.mkv or \.mp4"),
        ("missing/table.mkv", "there is no folder"),
        ("there.mkv", r"there\.mkv exists: choose another name, or --overwrite"),
        ("lines.mkv", r"lines\.mkv\.frames\.jsonl exists"),
    ],
)
def test_impossible_recordings_are_refused_before_they_are_created(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "there.mkv").write_text("precious")
    frames_file(tmp_path / "lines.mkv").write_text("precious")
    with pytest.raises(ConfigurationError, match=said):
        RecordingFile(tmp_path / name, MJPEG)
    assert (tmp_path / "there.mkv").read_text() == frames_file(tmp_path / "lines.mkv").read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_exists_is_overwritten_on_demand_but_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "table.mkv"
    path.write_text("old" * 10_000)
    with RecordingFile(path, MJPEG, overwrite=True) as output:
        output.write(encoded(1, 0))
    assert len(recordings.packets(path)) == 1
    (tmp_path / "folder.mkv").mkdir()
    with pytest.raises(ConfigurationError, match="is not a file that can be overwritten"):
        check_file(tmp_path / "folder.mkv", overwrite=True)

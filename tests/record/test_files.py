"""Files of a recording have the time of their first frame in their names, and the oldest are removed first."""

import os
from pathlib import Path

import pytest

from billiards_shm import ConfigurationError
from billiards_shm.record.files import RecordingFiles, check_file
from billiards_shm.sources.names import frames_file

HOUR_NS = 3_600_000_000_000


def made(files: RecordingFiles, wall_time_ns: int, size: int, age_sec: float = 0.0) -> Path:
    """A file of the recording, as left behind."""
    path = files.next(wall_time_ns)
    path.write_bytes(bytes(size))
    frames_file(path).write_text("{}\n")
    os.utime(path, (1_000_000 - age_sec, 1_000_000 - age_sec))
    return path


def test_dated_names_rise_with_the_times_and_only_the_first_may_be_undated() -> None:
    files = RecordingFiles(Path("night.mkv"), dated=False)
    names = [files.next(1_764_370_000_123_456_789 + number * HOUR_NS).name for number in range(3)]
    assert names == ["night.mkv", "night-20251128T234640.123Z.mkv", "night-20251129T004640.123Z.mkv"]
    assert RecordingFiles(Path("night.mp4"), dated=True).next(0).name == "night-19700101T000000.000Z.mp4"


def test_a_name_that_is_taken_is_not_used_again(tmp_path: Path) -> None:
    files = RecordingFiles(tmp_path / "night.mkv", dated=True)
    names = [made(files, 999_000_000, 1).name for _ in range(3)]
    assert names == [f"night-19700101T00000{second}Z.mkv" for second in ("0.999", "1.000", "1.001")]


def test_files_that_ended_too_long_ago_are_removed_with_their_lines(tmp_path: Path) -> None:
    files = RecordingFiles(tmp_path / "night.mkv", dated=True, keep_sec=3600)
    old, young, current = (made(files, number * HOUR_NS, 10, age) for number, age in enumerate((3601, 3599, 9999)))
    assert files.remove_old(current, 1_000_000, 0) == [old]
    assert sorted(tmp_path.iterdir()) == sorted([young, current, frames_file(young), frames_file(current)])


@pytest.mark.parametrize("limits", [{"keep_sec": 3600}, {"max_bytes": 4000}], ids=["age", "size"])
@pytest.mark.parametrize("jump_sec", [10**9, -(10**5)])
def test_setting_the_clock_makes_no_file_older_or_younger(
    tmp_path: Path, limits: dict[str, int], jump_sec: int
) -> None:
    files = RecordingFiles(tmp_path / "night.mkv", dated=True, **limits)
    now, paths, removed = 1_000_000, [], []
    for uptime in range(0, 8 * 1500, 1500):
        now = 1_000_000 + uptime + (jump_sec if uptime > 3000 else 0)
        if paths:
            os.utime(paths[-1], (now, now))  # the last write to it, just before
        paths.append(files.next(now * 10**9))
        paths[-1].write_bytes(bytes(1400))
        removed += files.remove_old(paths[-1], now, uptime)
        left = 4 if "keep_sec" in limits else 3  # with the current one
        assert removed == paths[:-left], uptime


def test_the_oldest_are_removed_until_the_rest_and_a_full_current_one_fit(tmp_path: Path) -> None:
    files = RecordingFiles(tmp_path / "night.mkv", dated=True, max_bytes=4000)
    first, second, third, current = (made(files, number * HOUR_NS, 1400) for number in range(4))
    assert files.largest_file == 1000
    assert files.remove_old(current, 1_000_000, 0) == [first]
    assert second.exists()
    assert third.exists()


def test_without_limits_everything_is_kept(tmp_path: Path) -> None:
    files = RecordingFiles(tmp_path / "night.mkv", dated=True)
    paths = [made(files, number * HOUR_NS, 10_000, 10**6) for number in range(3)]
    assert not files.remove_old(paths[-1], 1_000_000, 0)
    assert files.largest_file == float("inf")


@pytest.mark.parametrize(
    "name",
    [
        "night.mkv",
        "night-20251128T234640.123Z.mp4",
        "nights-20251128T234640.123Z.mkv",
        "night-20251128T234640.123Z.mkv.bak",
        "night-best.mkv",
        "x-night-20251128T234640.123Z.mkv",
    ],
)
def test_files_that_only_look_alike_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bytes(100))
    os.utime(tmp_path / name, (0, 0))
    files = RecordingFiles(tmp_path / "night.mkv", dated=True, keep_sec=1, max_bytes=10)
    assert not files.remove_old(files.next(HOUR_NS), 1_000_000, 0)
    assert (tmp_path / name).exists()


def test_files_that_cannot_be_removed_are_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = RecordingFiles(tmp_path / "night.mkv", dated=True, keep_sec=1)
    first, second = (made(files, number * HOUR_NS, 10, 3600) for number in range(2))
    frames_file(first).unlink()
    frames_file(first).mkdir()
    (tmp_path / "night-20200101T000000.000Z.mkv").mkdir()
    (tmp_path / "night-20200101T000000.001Z.mkv").symlink_to("nowhere")
    assert files.remove_old(tmp_path / "night-now.mkv", 1_000_000, 0) == [second]
    assert files.remove_old(tmp_path / "night-now.mkv", 1_000_000, 0) == []
    assert first.exists()
    assert caplog.text.count(f"{first} cannot be removed: Is a directory") == 1


def test_a_file_that_may_not_be_overwritten_is_reported_before_the_recording_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.mkv"
    monkeypatch.setattr(os, "access", lambda each, mode: each != path or path.stat().st_mode & 0o200)  # root may write
    path.touch(0o600)
    check_file(path, overwrite=True)
    path.chmod(0o400)
    with pytest.raises(ConfigurationError, match=r"table\.mkv may not be overwritten"):
        check_file(path, overwrite=True)

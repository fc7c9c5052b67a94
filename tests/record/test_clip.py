"""A clip as a file: its frames, times and lines; encoded only where the container wants it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import recordings

from billiards_shm import ConfigurationError
from billiards_shm.encoder import EncodedFrame
from billiards_shm.record.clip import needs_encoding, write_clip
from billiards_shm.record.control import RecorderError


def cut_off(frames: list[EncodedFrame]) -> Iterator[EncodedFrame]:
    """The packets of a clip whose recorder ends halfway."""
    yield from frames[:3]
    raise RecorderError("it went away")


@pytest.mark.parametrize(
    ("codec", "suffix", "encodes"),
    [("h264", ".mkv", False), ("h264", ".mp4", False), ("copy", ".mkv", False), ("copy", ".mp4", True)],
)
def test_times_are_exact_to_a_millisecond_and_frames_are_encoded_only_for_mp4(
    tmp_path: Path, codec: str, suffix: str, encodes: bool
) -> None:
    clip = recordings.clip(40, codec=codec)
    path = tmp_path / f"clip{suffix}"
    assert needs_encoding(clip.stream, path) == encodes
    output = write_clip(*clip, path, title="table_1")
    assert (output.frames, round(output.duration_s, 3)) == (40, round(clip.seconds, 3))
    first_us = clip.frames[0].time_us
    errors_ms = [
        abs(shown * 1000 - (frame.time_us - first_us) / 1000)
        for shown, frame in zip(recordings.seconds(path), clip.frames, strict=True)
    ]
    print(f"times: {max(errors_ms):.3f} ms off at most")
    assert max(errors_ms) <= 1.0
    assert [line["sequence"] for line in recordings.lines(path)] == [frame.sequence for frame in clip.frames]
    if clip.stream.codec == "mjpeg" and not encodes:
        assert [bytes(packet) for packet in recordings.packets(path)] == [frame.data for frame in clip.frames]
    pictures = recordings.pictures(path)
    assert len(pictures) == 40
    expected = recordings.pictures(write_clip(*recordings.clip(40), tmp_path / "expected.mkv").path)
    assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(pictures, expected, strict=True)) < 6


def test_a_clip_begins_anywhere_in_the_stream(tmp_path: Path) -> None:
    whole = recordings.clip(40)
    first = max(number for number, frame in enumerate(whole.frames) if frame.key)
    assert first > 0
    clip = whole._replace(frames=whole.frames[first:])
    path = write_clip(*clip, tmp_path / "clip.mkv").path
    assert recordings.seconds(path)[0] == 0.0
    assert len(recordings.pictures(path)) == 40 - first


def test_a_file_that_exists_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="exists: choose another name, or --overwrite"):
        write_clip(*recordings.clip(2), path)
    assert path.read_text() == "precious"
    write_clip(*recordings.clip(2), path, overwrite=True)
    assert len(recordings.packets(path)) == 2
    assert len(recordings.lines(path)) == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_is_replaced_only_by_a_whole_clip(tmp_path: Path) -> None:
    clip, path = recordings.clip(5), tmp_path / "clip.mkv"
    path.write_text("precious")
    with pytest.raises(RecorderError, match="it went away"):
        write_clip(clip.stream, cut_off(clip.frames), path, overwrite=True)
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    path, link = tmp_path / "clip.mkv", tmp_path / "link.mkv"
    path.write_text("old")
    link.symlink_to(path)
    write_clip(*recordings.clip(2), link, overwrite=True)
    assert link.is_symlink()
    assert len(recordings.packets(path)) == 2


def test_a_damaged_jpeg_is_left_out_and_the_others_keep_their_times(tmp_path: Path) -> None:
    clip = recordings.clip(10, codec="copy")
    bad = clip.frames[4]
    table = bad.data.index(b"\xff\xc4") + 5  # the number of codes of each length; more than possible
    clip.frames[4] = bad._replace(data=bad.data[:table] + b"\xff" * 16 + bad.data[table + 16 :])
    path = write_clip(*clip, tmp_path / "clip.mp4").path
    good = [frame for frame in clip.frames if frame.sequence != bad.sequence]
    assert [line["sequence"] for line in recordings.lines(path)] == [frame.sequence for frame in good]
    expected = [(frame.time_us - good[0].time_us) / 1e6 for frame in good]
    assert recordings.seconds(path) == pytest.approx(expected, abs=1e-4)


def test_a_clip_that_does_not_arrive_whole_leaves_no_file(tmp_path: Path) -> None:
    clip = recordings.clip(5)
    with pytest.raises(RecorderError, match="it went away"):
        write_clip(clip.stream, cut_off(clip.frames), tmp_path / "clip.mkv")
    assert not list(tmp_path.iterdir())

"""Recordings of every kind: each frame once, in order, and pixel for pixel what plain OpenCV decodes."""

import shutil
import time
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from capture_runs import published, settings_for
from real_sources import CaptureProcess, ffmpeg
from videos import RECORDING, decode_all, make_clip, turn_clip

from billiards_shm import CameraError
from billiards_shm.capture.process import open_source
from billiards_shm.sources.demo.table import read_counter

X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")


def pattern(size: str, rate: int, frames: int) -> tuple[object, ...]:
    return ("-f", "lavfi", "-i", f"testsrc2=size={size}:rate={rate}", "-frames:v", frames)


def fingerprints(frames: list[np.ndarray]) -> list[int]:
    return [zlib.crc32(np.ascontiguousarray(frame)) for frame in frames]


def fingerprints_of(path: Path, failures: int = 3) -> list[int]:
    """What plain OpenCV decodes, continuing after failures."""
    capture = cv2.VideoCapture(str(path))
    found = []
    failed = 0
    while failed < failures:
        good, frame = capture.read()
        failed = 0 if good else failed + 1
        if good:
            found.append(zlib.crc32(frame))
    return found


def captured(name: str, path: Path, **camera: Any) -> list[tuple[int, np.ndarray]]:
    return published(name, settings_for(name, str(path), **({"playback_fps": 0, "loop_video": False} | camera)))


def check_all(name: str, path: Path) -> list[np.ndarray]:
    """Check that every frame arrives, numbered from 1, as OpenCV decodes it."""
    found = captured(name, path)
    frames = [frame for _, frame in found]
    assert fingerprints(frames) == fingerprints_of(path)
    assert [sequence for sequence, _ in found] == list(range(1, len(found) + 1))
    return frames


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "rate", "frames"),
    [("1920x1080", 30, 30), ("3840x2160", 24, 6), ("640x360", 120, 120)],
    ids=["1080p30", "4K24", "120 fps"],
)
def test_every_frame_of_h264_is_as_opencv_decodes_it(
    segment_name: str, tmp_path: Path, size: str, rate: int, frames: int
) -> None:
    path = tmp_path / "clip.mp4"
    ffmpeg(*pattern(size, rate, frames), *X264, path)
    assert len(check_all(segment_name, path)) == frames
    source = open_source(settings_for("x", str(path)).vision.camera)
    assert source.details.fps == rate
    assert source.details.negotiated is not None
    assert source.details.negotiated.fourcc == "h264"
    source.release()


def test_a_recording_loses_no_frame_and_keeps_the_positions(segment_name: str) -> None:
    frames = check_all(segment_name, RECORDING)
    assert [read_counter(frame) for frame in frames] == [number for number in range(2, 101) if number % 3 != 1]
    source = open_source(settings_for("x", str(RECORDING)).vision.camera)
    positions = []
    while source.grab():
        positions.append(source.position_ms)
    source.release()
    assert sorted(set(np.diff(np.round(positions, 3)))) == pytest.approx([40, 80])


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_video_of_a_phone_held_upright_is_shown_upright(segment_name: str, tmp_path: Path, degrees: int) -> None:
    path = Path(shutil.copy(RECORDING, tmp_path))
    frames = check_all(segment_name, turn_clip(path, degrees))
    assert frames[0].shape == ((180, 320, 3) if degrees == 180 else (320, 180, 3))


def test_a_recording_is_turned_and_cropped_as_configured(segment_name: str) -> None:
    found = captured(segment_name, RECORDING, rotation=90, flip="horizontal", crop="10,20,100,80")
    frames = [np.rot90(frame, -1)[:, ::-1][20:100, 10:110] for frame in decode_all(RECORDING)]
    assert fingerprints([frame for _, frame in found]) == fingerprints(frames)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["ts", "avi", "mp4"])
def test_every_whole_frame_of_a_truncated_file_arrives(segment_name: str, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip.{suffix}"
    # A fragmented MP4 is what remains of one that was being recorded.
    options = ("-movflags", "frag_keyframe+empty_moov", "-g", 5) if suffix == "mp4" else ("-g", 5)
    ffmpeg(*pattern("320x180", 25, 50), *X264, *options, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    # A part of the last one is missing, and what FFmpeg paints there varies.
    found = fingerprints([frame for _, frame in captured(segment_name, path)])
    assert found[:-1] == fingerprints_of(path)[:-1]
    assert 20 < len(found) < 50


@pytest.mark.slow
def test_all_good_frames_of_a_partly_corrupt_file_arrive(segment_name: str, tmp_path: Path) -> None:
    whole = tmp_path / "whole.ts"
    raw = make_clip(tmp_path / "raw.avi", 60)
    ffmpeg("-i", raw, *X264, "-g", 10, "-bf", 0, whole)
    content = bytearray(whole.read_bytes())
    middle = len(content) // 2 // 188 * 188
    content[middle : middle + 6 * 188] = np.random.default_rng(3).bytes(6 * 188)
    corrupt = tmp_path / "corrupt.ts"
    corrupt.write_bytes(content)

    frames = [frame for _, frame in captured(segment_name, corrupt)]
    assert len(frames) >= len(fingerprints_of(corrupt)) - 1
    good = dict(enumerate(fingerprints(decode_all(whole)), 1))
    arrived = {}
    for frame in frames:
        try:
            arrived[read_counter(frame)] = zlib.crc32(np.ascontiguousarray(frame))
        except ValueError:
            continue  # a frame too damaged to read its number
    untouched = [number for number in good if arrived.get(number) == good[number]]
    # The damage hits one group of ten frames, or two.
    assert len(untouched) >= 40
    assert {1, 20, 41, 60} <= set(untouched)
    assert len(untouched) < 60


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["m4a", "wav", "ts"])
def test_a_file_that_has_only_sound_is_an_error_that_says_it_cannot_be_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"sound.{suffix}"
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", path)
    with pytest.raises(CameraError, match=r"unreadable: not a video that (OpenCV|PyAV) can read$"):
        open_source(settings_for("x", str(path)).vision.camera)


# Pace.


@pytest.mark.slow
@pytest.mark.parametrize("rate", [24, 120])
def test_a_file_is_played_at_its_own_rate_and_no_frame_is_left_out(tmp_path: Path, rate: int) -> None:
    path = make_clip(tmp_path / "clip.avi", rate, fps=rate)
    with CaptureProcess(tmp_path, str(path), loop_video=False) as capture:
        began = time.monotonic()
        first = None
        while capture.process.poll() is None:
            frame, metadata = capture.reader.read_frame(timeout=0.1)
            if frame is not None and metadata is not None:
                first = first or metadata
                last = metadata
        assert capture.ends() == 0
        assert time.monotonic() - began >= 0.9
        assert f"frames_captured={rate}, frames_written={rate}" in capture.said
        assert first is not None
        # From the first frame to the last, on the clock of the process itself.
        played = (last.capture_time_ns - first.capture_time_ns) / 1e9
        assert played >= 0.9 * (last.sequence - first.sequence) / rate

"""A recorder writes every frame with its time, begins a new file where it has to, and counts what it missed."""

import errno
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import recordings
from jpegs import as_frame, jpeg
from segments_under_test import picture, wait_until
from stops import Stop

from billiards_shm import (
    ConfigurationError,
    FrameShapeError,
    SegmentNotFoundError,
    SharedMemoryFrameReader,
    SharedMemoryFrameWriter,
    SourceState,
)
from billiards_shm.config.model import RecordConfig
from billiards_shm.encoder import open_encoder
from billiards_shm.record import recorder as module
from billiards_shm.record.muxer import RecordingFile
from billiards_shm.record.process import run_recording
from billiards_shm.record.recorder import Recorder, RecordingSnapshot

SHAPE = (48, 64, 3)


class Recording:
    """A recorder in its own thread, for a segment that the test writes."""

    def __init__(self, name: str, file: Path, **options: Any) -> None:
        self.folder = file.parent
        self.file = file
        self.stop = Stop()
        self.error: BaseException | None = None
        self.snapshots: list[RecordingSnapshot] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.recorder = Recorder(
            name,
            RecordConfig(file=str(file), **options),
            self.stop,
            on_progress=self._see,  # type: ignore[arg-type]
        )
        self._reader = SharedMemoryFrameReader(name)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def has(self, frames: int) -> None:
        """Wait until it has processed that many frames."""
        wait_until(lambda: self.error or self.recorder.snapshot().frames >= frames, f"frame {frames}")

    def ends(self) -> RecordingSnapshot:
        self.may_go_on.set()
        self._thread.join(40)
        assert not self._thread.is_alive()
        return self.recorder.snapshot()

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.suffix == self.file.suffix)

    def _run(self) -> None:
        try:
            with self._reader:
                self.recorder.run(self._reader)
        except BaseException as error:
            self.error = error

    def _see(self, snapshot: RecordingSnapshot) -> None:
        self.snapshots.append(snapshot)
        self.may_go_on.wait(40)


@pytest.fixture
def writer(segment_name: str) -> Iterator[SharedMemoryFrameWriter]:
    with SharedMemoryFrameWriter(segment_name, SHAPE, slots=3, history=59) as made:
        yield made


def sequences(path: Path) -> list[int]:
    return [line["sequence"] for line in recordings.lines(path)]


def capture_times(count: int) -> list[int]:
    """Irregular ones."""
    return [10**12 + number * 33_333_333 + number % 3 * 7_654_321 for number in range(count)]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_every_frame_is_in_the_file_with_the_time_of_its_capture(
    tmp_path: Path, writer: SharedMemoryFrameWriter, suffix: str
) -> None:
    times = capture_times(50)
    writer.write_frame(picture(0, SHAPE), capture_time_ns=times[0], position_ms=0.25)
    recording = Recording(writer.name, tmp_path / f"table{suffix}")
    recording.has(1)
    for number, time_ns in enumerate(times[1:], 1):
        writer.write_frame(picture(number, SHAPE), capture_time_ns=time_ns)
    writer.close()
    last = recording.ends()
    assert recording.error is None
    assert (last.frames, last.missed, last.files) == (50, 0, 1)
    assert recordings.lines(recording.file) == [
        {"sequence": number, "capture_time_ns": time_ns, "position_ms": 0.25 if number == 1 else None}
        for number, time_ns in enumerate(times, 1)
    ]
    for second, time_ns in zip(recordings.seconds(recording.file), times, strict=True):
        assert second == pytest.approx((time_ns - times[0]) / 1e9, abs=0.001)
    assert len(recordings.pictures(recording.file)) == 50


def test_mjpg_goes_into_matroska_unchanged_and_into_mp4_as_h264(tmp_path: Path, segment_name: str) -> None:
    frames = [as_frame(jpeg(np.full(SHAPE, number * 20, np.uint8))) for number in range(10)]
    with SharedMemoryFrameWriter(segment_name, (1, 4000), pixel_format="MJPG", history=20) as writer:
        writer.write_frame(frames[0])
        both = [Recording(segment_name, tmp_path / f"table{suffix}") for suffix in (".mkv", ".mp4")]
        for recording in both:
            recording.has(1)
        for frame in frames[1:]:
            writer.write_frame(frame)
    for recording in both:
        recording.ends()
    matroska, mp4 = both
    assert [bytes(packet) for packet in recordings.packets(matroska.file)] == [frame.tobytes() for frame in frames]
    assert [int(image.mean().round(-1)) for image in recordings.pictures(mp4.file)] == list(range(0, 200, 20))
    assert sequences(matroska.file) == sequences(mp4.file) == list(range(1, 11))


def test_frames_with_another_size_or_format_go_into_a_new_file(tmp_path: Path, writer: SharedMemoryFrameWriter) -> None:
    smaller = np.zeros((24, 32, 3), np.uint8)
    writer.write_frame(picture(0, SHAPE))
    recording = Recording(writer.name, tmp_path / "table.mkv")
    recording.has(1)
    for frame, pixel_format in [(smaller, None), (smaller, None), (smaller, "RGB24"), (picture(4, SHAPE), None)]:
        writer.write_frame(frame, pixel_format=pixel_format)
    writer.close()
    assert recording.ends().files == 4
    first, *dated = sorted(recording.files(), key=lambda path: sequences(path)[0])
    assert first == recording.file
    assert [sequences(path) for path in (first, *dated)] == [[1], [2, 3], [4], [5]]
    assert [recordings.pictures(path)[0].shape[:2] for path in (first, *dated)] == [
        (48, 64), (24, 32), (24, 32), (48, 64)
    ]  # fmt: skip
    assert all(path.name.startswith("table-20") for path in dated)


def test_files_of_a_given_length_follow_without_gaps_and_each_plays_from_its_start(
    tmp_path: Path, writer: SharedMemoryFrameWriter
) -> None:
    times = [10**12 + number * 50_000_000 for number in range(55)]
    writer.write_frame(picture(0, SHAPE), capture_time_ns=times[0])
    recording = Recording(writer.name, tmp_path / "table.mkv", segment="1s", key_interval_sec=60)
    recording.has(1)
    for number, time_ns in enumerate(times[1:], 1):
        writer.write_frame(picture(number, SHAPE), capture_time_ns=time_ns)
    writer.close()
    assert recording.ends().files == 3
    assert [sequences(path) for path in recording.files()] == [
        list(range(1, 21)), list(range(21, 41)), list(range(41, 56))
    ]  # fmt: skip
    assert [len(recordings.pictures(path)) for path in recording.files()] == [20, 20, 15]
    assert all(recordings.packets(path)[0].is_keyframe for path in recording.files())


def test_frames_that_left_the_window_are_counted_exactly(tmp_path: Path, segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE, history=2) as writer:
        writer.write_frame(picture(0, SHAPE))
        recording = Recording(segment_name, tmp_path / "table.mkv")
        recording.has(1)
        recording.may_go_on.clear()
        seen = len(recording.snapshots)
        wait_until(lambda: len(recording.snapshots) > seen, "the recorder being held up")
        for number in range(1, 11):
            writer.write_frame(picture(number, SHAPE))
        recording.may_go_on.set()
        recording.has(4)
    last = recording.ends()
    assert (last.frames, last.missed) == (4, 7)
    assert sequences(recording.file) == [1, 9, 10, 11]


@pytest.mark.parametrize(("after_gap", "files"), [("same", [[1, 2, 1, 2]]), ("new", [[1, 2], [1, 2]])])
def test_a_source_that_was_away_goes_on_in_the_same_file_or_in_a_new_one(
    tmp_path: Path, segment_name: str, monkeypatch: pytest.MonkeyPatch, after_gap: str, files: list[list[int]]
) -> None:
    monkeypatch.setattr(module, "MAX_FRAME_AGE_SEC", 0.3)
    with SharedMemoryFrameWriter(segment_name, SHAPE, history=8) as writer:
        writer.write_frame(picture(0, SHAPE))
        recording = Recording(segment_name, tmp_path / "table.mkv", after_gap=after_gap, follow=True)
        recording.has(1)
        writer.write_frame(picture(1, SHAPE))
        recording.has(2)
    wait_until(lambda: recording.snapshots[-1].state == "stalled", "the recorder noticing")
    assert "no frame for" in recording.snapshots[-1].reason
    with SharedMemoryFrameWriter(segment_name, SHAPE, history=8) as writer:
        writer.write_frame(picture(2, SHAPE))
        recording.has(3)
        writer.write_frame(picture(3, SHAPE))
        recording.has(4)
        recording.stop.request()
        recording.ends()
    assert [sequences(path) for path in sorted(recording.files(), key=sequences)] == files


class LongAgo:
    """A reader whose frames were published at given seconds; then the writer closes."""

    def __init__(self, seconds: list[float]) -> None:
        self._seconds = seconds

    def frames(self, **options: object) -> Iterator[tuple[np.ndarray, Any]]:
        for number, second in enumerate(self._seconds, 1):
            time_ns = round(second * 1e9)
            yield (
                picture(number, SHAPE),
                SimpleNamespace(
                    pixel_format="BGR24",
                    sequence=number,
                    skipped=0,
                    online=True,
                    capture_time_ns=time_ns,
                    publish_time_ns=time_ns,
                    wall_time_ns=1_700_000_000 * 10**9 + time_ns,
                    position_ms=None,
                ),
            )


@pytest.mark.parametrize(
    ("suffix", "gap_s", "files"),
    [
        (".mp4", 5.9 * 3600, [[1, 2, 3, 4]]),
        (".mp4", 6.1 * 3600, [[1, 2], [3, 4]]),
        (".mp4", 1e6, [[1, 2], [3, 4]]),
        (".mkv", 1e6, [[1, 2, 3, 4]]),
    ],
)
def test_a_gap_that_a_file_cannot_hold_begins_a_new_one(
    tmp_path: Path, segment_name: str, suffix: str, gap_s: float, files: list[list[int]]
) -> None:
    seconds = [1, 1.04, 1 + gap_s, 1.04 + gap_s]
    recorder = Recorder(segment_name, RecordConfig(file=str(tmp_path / f"table{suffix}")), Stop())  # type: ignore[arg-type]
    recorder.run(LongAgo(seconds))  # type: ignore[arg-type]
    found = sorted((path for path in tmp_path.iterdir() if path.suffix == suffix), key=sequences)
    assert [sequences(path) for path in found] == files
    for path, numbers in zip(found, files, strict=True):
        expected = [seconds[number - 1] - seconds[numbers[0] - 1] for number in numbers]
        assert recordings.seconds(path) == pytest.approx(expected, abs=0.001)


def test_a_stop_comes_after_the_frames_published_before_it(tmp_path: Path, writer: SharedMemoryFrameWriter) -> None:
    writer.write_frame(picture(0, SHAPE))
    recording = Recording(writer.name, tmp_path / "table.mkv")
    recording.has(1)
    recording.may_go_on.clear()
    seen = len(recording.snapshots)
    wait_until(lambda: len(recording.snapshots) > seen, "the recorder being held up")
    for number in range(1, 31):
        writer.write_frame(picture(number, SHAPE))
    recording.stop.request()
    assert recording.ends().frames == 31


@pytest.mark.parametrize("method", ["__init__", "write", "close"])
def test_an_unresponsive_disk_costs_no_frame(
    tmp_path: Path, segment_name: str, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    answers = threading.Event()
    usual = getattr(RecordingFile, method)

    def waits(*arguments: Any, **options: Any) -> None:
        assert answers.wait(40)
        usual(*arguments, **options)

    monkeypatch.setattr(RecordingFile, method, waits)
    with SharedMemoryFrameWriter(segment_name, SHAPE, history=1) as writer:
        writer.write_frame(picture(0, SHAPE))
        recording = Recording(segment_name, tmp_path / "table.mkv")
        for number in range(1, 20):
            recording.has(number)
            writer.write_frame(picture(number, SHAPE if number < 10 else (24, 32, 3)))
        recording.has(20)
        answers.set()
    last = recording.ends()
    assert recording.error is None
    assert (last.frames, last.missed, last.files) == (20, 0, 2)
    assert [sequences(path) for path in recording.files()] == [list(range(11, 21)), list(range(1, 11))]


def test_frames_held_back_by_an_encoder_reach_the_file_in_the_end(
    tmp_path: Path, writer: SharedMemoryFrameWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*arguments: Any) -> Any:
        encoder = open_encoder(*arguments)
        encode, held = encoder.encode, []
        monkeypatch.setattr(encoder, "encode", lambda *frame, **key: held.extend(encode(*frame, **key)) or [])
        monkeypatch.setattr(encoder, "flush", lambda: held)
        return encoder

    monkeypatch.setattr(module, "open_encoder", late)
    writer.write_frame(picture(0, SHAPE))
    recording = Recording(writer.name, tmp_path / "table.mkv")
    wait_until(lambda: recording.recorder.snapshot().picture, "the first frame")
    writer.write_frame(picture(1, SHAPE))
    writer.close()
    assert recording.ends().frames == 2
    assert recording.error is None
    assert sequences(recording.file) == [1, 2]


def test_placeholders_are_left_out(tmp_path: Path, writer: SharedMemoryFrameWriter) -> None:
    writer.write_frame(picture(0, SHAPE))
    recording = Recording(writer.name, tmp_path / "table.mkv")
    recording.has(1)
    for number in range(1, 7):
        writer.write_frame(picture(number, SHAPE), online=number % 2 == 0)
    writer.close()
    last = recording.ends()
    assert (last.frames, last.missed) == (4, 0)
    assert sequences(recording.file) == [1, 3, 5, 7]


@pytest.mark.parametrize("codec", ["copy", "h264"])
def test_a_damaged_jpeg_is_left_out_and_counted(tmp_path: Path, segment_name: str, codec: str) -> None:
    good = as_frame(jpeg(np.zeros(SHAPE, np.uint8)))
    with SharedMemoryFrameWriter(segment_name, (1, 4000), pixel_format="MJPG", history=20) as writer:
        writer.write_frame(np.zeros((1, 9), np.uint8))
        recording = Recording(segment_name, tmp_path / "table.mkv", codec=codec)
        wait_until(lambda: recording.recorder.snapshot().damaged, "the damaged frame")
        for frame in (good, np.zeros((1, 9), np.uint8), good):
            writer.write_frame(frame)
        recording.has(2)
    last = recording.ends()
    assert (last.frames, last.damaged, last.missed) == (2, 2, 0)
    assert sequences(recording.file) == [2, 4]


def test_a_clock_that_jumps_leaves_times_that_rise(tmp_path: Path, writer: SharedMemoryFrameWriter) -> None:
    steps = [0, 40, 40, -3_600_000, 40, 40, 7_200_000, 40]
    times = [10**16 + sum(steps[: number + 1]) * 1_000_000 for number in range(len(steps))]
    writer.write_frame(picture(0, SHAPE), capture_time_ns=times[0])
    recording = Recording(writer.name, tmp_path / "table.mp4")
    recording.has(1)
    for number, time_ns in enumerate(times[1:], 1):
        writer.write_frame(picture(number, SHAPE), capture_time_ns=time_ns)
    writer.close()
    recording.ends()
    seconds = recordings.seconds(recording.file)
    assert seconds == sorted(set(seconds))
    assert seconds[-1] < 60
    assert [line["capture_time_ns"] for line in recordings.lines(recording.file)] == times


def test_frames_that_cannot_be_recorded_are_an_error_that_says_why(tmp_path: Path, segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, (4, 4), dtype="float32", pixel_format="RAW", history=2) as writer:
        writer.write_frame(np.zeros((4, 4), np.float32))
        recording = Recording(segment_name, tmp_path / "table.mkv")
        recording.ends()
    assert isinstance(recording.error, FrameShapeError)
    assert "RAW does not say what the pixels are" in str(recording.error)
    assert not recording.files()


def test_a_folder_that_vanishes_is_an_error_that_names_the_file(
    tmp_path: Path, writer: SharedMemoryFrameWriter
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    recording = Recording(writer.name, folder / "table.mkv")
    folder.rmdir()
    writer.write_frame(picture(0, SHAPE))
    recording.ends()
    assert isinstance(recording.error, ConfigurationError | OSError)
    assert "folder" in str(recording.error)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"file": "missing/table.mkv"}, "there is no folder 'missing'"),
        ({"codec": "h264_videotoolbox"}, "h264_videotoo"),
    ],
)
def test_impossible_recordings_are_refused_before_they_begin(
    tmp_path: Path, segment_name: str, options: dict[str, str], said: str
) -> None:
    config = RecordConfig(**{"file": str(tmp_path / "table.mkv"), **options})
    with pytest.raises(ConfigurationError, match=said):
        Recorder(segment_name, config, Stop())  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_progress_is_reported_even_without_frames(tmp_path: Path, segment_name: str) -> None:
    recording = Recording(segment_name, tmp_path / "table.mkv", follow=True)
    wait_until(lambda: recording.snapshots, "a snapshot")
    assert recording.snapshots[0].state == "opening"
    assert recording.snapshots[0].reason == "no frame yet"
    begun = time.monotonic()
    recording.stop.request()
    recording.ends()
    assert time.monotonic() - begun < 20
    assert not recording.files()


def test_a_writer_may_declare_any_rate(tmp_path: Path, writer: SharedMemoryFrameWriter) -> None:
    writer.update_source(state="streaming", fps=1e12)
    writer.write_frame(picture(1, SHAPE))
    recording = Recording(writer.name, tmp_path / "table.mkv")
    recording.has(1)
    recording.stop.request()
    assert recording.ends().frames == 1
    assert recording.error is None


def test_a_file_without_frames_is_not_left_behind(
    tmp_path: Path, writer: SharedMemoryFrameWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(file: RecordingFile, frame: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RecordingFile, "write", write)
    recording = Recording(writer.name, tmp_path / "table.mkv")
    while recording.error is None:
        writer.write_frame(picture(1, SHAPE))
        time.sleep(0.01)
    recording.ends()
    assert str(recording.error).endswith(f"No space left on device: nothing was recorded: '{tmp_path}/table.mkv'")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_file_whose_end_does_not_fit_ends_the_recording(
    tmp_path: Path, writer: SharedMemoryFrameWriter, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    close = RecordingFile.close

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_and_close(file: RecordingFile) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.path.stat().st_size, limits[1]))
        try:
            close(file)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(RecordingFile, "close", fill_and_close)
    recording = Recording(writer.name, tmp_path / f"table{suffix}")
    writer.write_frame(picture(0, SHAPE))
    recording.has(1)
    writer.write_frame(picture(1, (24, 32, 3)))
    recording.ends()
    assert isinstance(recording.error, OSError)
    assert "File too large: the recording stopped after 1 frames" in str(recording.error)
    assert recording.files() == [recording.file]


def test_a_stop_while_it_waits_for_the_segment_ends_it_immediately(
    tmp_path: Path, segment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attach(reader: SharedMemoryFrameReader, timeout: float) -> None:
        signal.raise_signal(signal.SIGTERM)
        raise SegmentNotFoundError("not yet")

    monkeypatch.setattr(SharedMemoryFrameReader, "attach", attach)
    last = run_recording(segment_name, RecordConfig(file=str(tmp_path / "table.mkv")), timeout=600)
    assert last.frames == 0
    assert not list(tmp_path.iterdir())


def test_a_recorder_whose_file_was_ended_still_sees_frames_arrive(
    tmp_path: Path, writer: SharedMemoryFrameWriter
) -> None:
    recording = Recording(writer.name, tmp_path / "table.mkv")
    recording.recorder._answer({"request": "stop"})
    assert writer.write_frame(picture(1, SHAPE))
    wait_until(lambda: recording.recorder.snapshot().state is SourceState.STREAMING, "a frame that is seen")
    recording.stop.request()
    assert (recording.ends().frames, recording.files()) == (0, [])

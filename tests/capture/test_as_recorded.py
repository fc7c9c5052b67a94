"""A recording played as it was: numbers, times and positions; and lines that are missing, short or damaged."""

import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pytest
import recordings
from capture_runs import settings_for
from encoding import encode
from jpegs import jpeg
from segments_under_test import picture
from stops import Stop

from billiards_shm import (
    CameraError,
    ConfigurationError,
    FrameMetadata,
    SharedMemoryFrameReader,
    SharedMemoryFrameWriter,
)
from billiards_shm.capture.loop import CaptureLoop
from billiards_shm.capture.pace import RecordedPace
from billiards_shm.capture.process import open_source
from billiards_shm.config.load import load_settings
from billiards_shm.config.model import CameraConfig
from billiards_shm.encoder import EncodedFrame, EncoderOptions, StreamFormat, Timeline, open_encoder
from billiards_shm.record.muxer import RecordingFile
from billiards_shm.sources.demo.table import read_counter
from billiards_shm.sources.protocol import RecordedFrame
from billiards_shm.sources.recording import Recording

GAPS_MS = (16.683334, 16.7, 33.1, 2.25, 60.0)
"""Milliseconds between the frames of a recording; containers keep whole milliseconds."""
FIRST_NS = 7_654_321_012_345


def captured() -> list[dict[str, Any]]:
    """What was recorded about each frame: numbers with gaps, times to the nanosecond."""
    time_ns, found = FIRST_NS, []
    for number, gap_ms in enumerate((0.0, *GAPS_MS)):
        time_ns += round(gap_ms * 1e6)
        found.append({"sequence": 40 + 3 * number, "capture_time_ns": time_ns, "position_ms": 5.5 * number})
    found[2]["position_ms"] = None
    return found


def recorded(folder: Path, ending: str = ".mkv", *, codec: str = "libx264", pixel_format: str = "yuv420p") -> Path:
    """A recording with its lines."""
    lines = captured()
    times = [round((line["capture_time_ns"] - FIRST_NS) / 1e6) for line in lines]
    path = encode(folder / f"recorded{ending}", codec, pixel_format, frames=len(lines), times=times)
    write_lines(path, "".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_lines(path: Path, text: str) -> None:
    path.with_name(f"{path.name}.frames.jsonl").write_text(text)


def played(name: str, path: Path, frames: int | None = None, **camera: Any) -> list[tuple[Any, FrameMetadata]]:
    """Every frame that a capture publishes."""
    settings = settings_for(
        name, str(path), as_recorded=True, **{"loop_video": False, "video.history": 50, "video.slots": 4} | camera
    )
    loop = CaptureLoop(settings, Stop(), lambda: open_source(settings.vision.camera), frames=frames)
    with SharedMemoryFrameReader(name) as reader:
        try:
            loop.run()
            last = reader.latest_frame()[1]
            assert last is not None
            found = [reader.read_frame(sequence=number + 1, copy=True) for number in range(last.sequence)]
        finally:
            loop.close()
    return [(frame, metadata) for frame, metadata in found if metadata is not None]


def told(found: list[tuple[Any, FrameMetadata]]) -> list[tuple[Any, ...]]:
    return [
        (metadata.source_sequence, metadata.capture_time_ns - found[0][1].capture_time_ns, metadata.position_ms)
        for _, metadata in found
    ]


def as_noted(count: int | None = None) -> list[tuple[Any, ...]]:
    return [(line["sequence"], line["capture_time_ns"] - FIRST_NS, line["position_ms"]) for line in captured()[:count]]


@pytest.mark.parametrize(
    ("ending", "codec", "pixel_format", "camera"),
    [
        (".mkv", "libx264", "yuv420p", {}),
        (".mp4", "libx264", "yuv420p", {"publish": "native"}),
        (".mkv", "mjpeg", "yuvj420p", {"publish": "native"}),
    ],
)
def test_frames_have_the_numbers_times_and_positions_that_they_had(
    segment_name: str, tmp_path: Path, ending: str, codec: str, pixel_format: str, camera: dict[str, Any]
) -> None:
    path = recorded(tmp_path, ending, codec=codec, pixel_format=pixel_format)
    found = played(segment_name, path, **camera)
    assert told(found) == as_noted()
    assert [metadata.sequence for _, metadata in found] == [1, 2, 3, 4, 5, 6], "its own numbers rise as always"
    for _, metadata in found:
        assert metadata.capture_time_ns <= metadata.publish_time_ns, "never in the future"


def test_the_pictures_match_their_numbers(segment_name: str, tmp_path: Path) -> None:
    path = recorded(tmp_path)
    settings = settings_for(segment_name, str(path))
    source = open_source(settings.vision.camera)
    assert not isinstance(source, Recording)
    for frame, _ in played(segment_name, path):
        assert source.grab()
        assert np.array_equal(source.retrieve(None), frame)
    source.release()


def test_both_frames_of_a_grab_have_its_number(segment_name: str, tmp_path: Path) -> None:
    settings = settings_for(segment_name, str(recorded(tmp_path)), as_recorded=True, publish="both")
    loop = CaptureLoop(settings, Stop(), lambda: open_source(settings.vision.camera), frames=1)
    try:
        loop.run()
        for name in (segment_name, f"{segment_name}.native"):
            with SharedMemoryFrameReader(name) as reader:
                metadata = reader.latest_frame()[1]
                assert metadata is not None
                assert metadata.source_sequence == 40
    finally:
        loop.close()


def test_a_recording_that_loops_begins_again_one_period_after_its_end(segment_name: str, tmp_path: Path) -> None:
    found = played(segment_name, recorded(tmp_path), frames=9, loop_video=True)
    assert [metadata.source_sequence for _, metadata in found[6:]] == [40, 43, 46]
    times = [metadata.capture_time_ns for _, metadata in found]
    assert [time - times[6] for time in times[6:]] == [time for _, time, _ in as_noted(3)]
    assert 0 < times[6] - times[5] <= 1_000_000_000


def due_ms(frames: list[tuple[int, float]]) -> list[float]:
    """When frames with these places in the recording and times in milliseconds are due, after the first one."""
    pace = RecordedPace(50.0)
    return [pace.recorded_due_ns(0, RecordedFrame(at, 1, round(ms * 1e6))) / 1e6 for at, ms in frames]


def test_deadlines_keep_their_differences_however_late_the_loop_is() -> None:
    pace = RecordedPace(50.0)
    frames = [RecordedFrame(number, 1, at) for number, at in enumerate([5, 1005, 10**15])]
    due = [pace.recorded_due_ns(now, frame) for now, frame in zip([10**9, 10**12, 0], frames, strict=True)]
    assert due == [10**9, 10**9 + 1000, 10**9 + 10**15 - 5]


def test_a_frame_captured_before_its_predecessor_is_due_with_it_and_shifts_no_other() -> None:
    captured_ms = [0.0, 33.3, 66.7, 64.7, 100.0, 133.3]
    assert due_ms(list(enumerate(captured_ms))) == [0.0, 33.3, 66.7, 66.7, 100.0, 133.3]


@pytest.mark.parametrize(
    ("captured_ms", "again_ms"),
    [([7.0], [20.0]), ([7.0, 40.0], [53.0, 86.0]), ([7.0, 7.0], [20.0, 20.0]), ([7.0, 2.0, 40.0], [53.0, 53.0, 86.0])],
    ids=["one frame", "two", "of the same time", "one captured before its predecessor"],
)
def test_a_recording_begins_again_one_period_after_its_last_frame(
    captured_ms: list[float], again_ms: list[float]
) -> None:
    assert due_ms(2 * list(enumerate(captured_ms)))[len(captured_ms) :] == again_ms


def test_frames_that_cannot_be_decoded_shift_no_number(segment_name: str, tmp_path: Path) -> None:
    path = recorded(tmp_path, codec="mjpeg", pixel_format="yuvj420p")
    data = bytearray(path.read_bytes())
    at = -1
    for _ in range(3):
        at = data.index(b"\xff\xd8\xff", at + 1)
    data[at : at + 800] = bytes(800)  # its header
    path.write_bytes(data)
    found = played(segment_name, path)
    expected = as_noted()
    del expected[2]
    assert told(found) == expected


@pytest.mark.parametrize("codec", ["copy", "h264"])
def test_a_recording_by_record_is_played_as_it_was(segment_name: str, tmp_path: Path, codec: str) -> None:
    """Frames closer together than the file's times can resolve, and a clock that jumps back."""
    path = tmp_path / "recorded.mkv"
    times_ms = [0.0, 0.2, 0.4, 0.6, 33.0, 66.4, -5000.0, -4967.0, -4934.0, -4900.5]
    with SharedMemoryFrameWriter(segment_name, (48, 64, 3), history=len(times_ms)) as writer:
        for number, time_ms in enumerate(times_ms):
            writer.write_frame(picture(number, (48, 64, 3)), capture_time_ns=FIRST_NS + round(time_ms * 1e6))
        with SharedMemoryFrameReader(segment_name) as reader:
            frames = [reader.read_frame(sequence=number + 1) for number in range(len(times_ms))]
        assert frames[0][0] is not None
        encoder = open_encoder(EncoderOptions(codec), *frames[0])
        with RecordingFile(path, encoder.format) as output:
            for frame in frames:
                for encoded in encoder.encode(*frame):
                    output.write(encoded)
        del frame, frames
    found = told(played(f"{segment_name}-again", path))
    assert [time for _, time, _ in found[:6]] == [round(time_ms * 1e6) for time_ms in times_ms[:6]]
    assert [number for number, _, _ in found] == list(range(1, 11))


def test_more_lines_than_frames_are_left_alone(segment_name: str, tmp_path: Path) -> None:
    """After the recorder was killed."""
    path = recorded(tmp_path)
    lines = path.with_name(f"{path.name}.frames.jsonl")
    lines.write_text(
        lines.read_text() + '{"sequence": 99, "capture_time_ns": 8000000000000, "position_ms": null}\n{"se'
    )
    assert told(played(segment_name, path)) == as_noted()


def test_lines_that_end_too_early_end_the_playback_with_a_warning(
    segment_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = recorded(tmp_path)
    write_lines(path, "".join(json.dumps(line) + "\n" for line in captured()[:4]))
    assert told(played(segment_name, path)) == as_noted(4)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    ending = "use the one that was written with the recording, or leave out as_recorded"
    assert said == [f"{path}: recorded.mkv.frames.jsonl ends after 4 frames, but the recording goes on: {ending}"]


def frames_of(times_ns: list[int], publish_step_ms: Callable[[int], float] = lambda number: 1) -> list[EncodedFrame]:
    """JPEGs captured at these times; `publish_step_ms` is how long after its predecessor each was published."""
    data = jpeg(picture(1, (48, 64, 3)))
    timeline, published_ns, found = Timeline(), 10**9, []
    for number, time_ns in enumerate(times_ns, 1):
        published_ns += round(publish_step_ms(number) * 1e6)
        found.append(EncodedFrame(data, True, timeline.time_us(time_ns, published_ns), number, time_ns, 10**18, None))
    return found


def read_through(path: Path) -> list[int]:
    """The capture times of all frames."""
    source = Recording(CameraConfig(device_id=str(path), as_recorded=True, backend="av", loop_video=False))
    try:
        return [source.recorded.capture_time_ns for _ in iter(source.grab, False) if source.recorded is not None]
    finally:
        source.release()


TIMES_NS = [10**12 + number * 16_666_667 for number in range(40)]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize(
    "lines",
    [
        lambda lines: lines[:20] + lines[21:],
        lambda lines: [{**line, "capture_time_ns": number * 40_000_000} for number, line in enumerate(lines)],
        lambda lines: [{**line, "capture_time_ns": 5} for line in lines],
    ],
    ids=["one missing", "of another recording", "all the same"],
)
def test_lines_with_other_times_than_the_frames_are_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, lines: Any
) -> None:
    path = tmp_path / f"recorded{suffix}"
    with RecordingFile(path, StreamFormat("mjpeg", 64, 48)) as output:
        for frame in frames_of(TIMES_NS):
            output.write(frame)
    write_lines(path, "".join(json.dumps(line) + "\n" for line in lines(recordings.lines(path))))
    read_through(path)
    assert caplog.text.count("numbers may be those of other frames") == 1


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize(
    "times_ns",
    [
        [10**12 + number // 8 * 133_333_333 + number % 8 * 20_000 for number in range(80)],
        [10**12 + number // 4 * 40_000_000 for number in range(80)],
        [time_ns - (number == 7) * 500_000_000 for number, time_ns in enumerate(TIMES_NS)],
        [time_ns - (number > 7) * 10**12 + (number > 20) * 10**15 for number, time_ns in enumerate(TIMES_NS)],
        [time_ns + (number > 7) * 50 * 10**9 for number, time_ns in enumerate(TIMES_NS)],
    ],
    ids=["bursts", "repeated", "a step back", "a clock that is set", "a source that was away"],
)
def test_capture_times_that_a_file_cannot_represent_cause_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, times_ns: list[int]
) -> None:
    path = tmp_path / f"recorded{suffix}"
    with RecordingFile(path, StreamFormat("mjpeg", 64, 48)) as output:
        for frame in frames_of(times_ns):
            output.write(frame)
    assert len(read_through(path)) == len(times_ns)
    assert caplog.text == ""


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize(
    ("captured_ms", "published_ms", "played_ms"),
    [
        (33, 33, 33),
        (600_033, 33, 33),
        (-1_033, 33, 33),
        (-600_000, 33, 33),
        (700_000, 100_000, 100_000),
        (600_033, 600_000, 600_033),
        (59_000, 33, 59_000),
        (-7, 33, -7),
    ],
    ids=[
        "as usual",
        "set forward",
        "set back a little",
        "set back",
        "set while the source was away",
        "the source was away",
        "a little forward",
        "a step back",
    ],
)
def test_where_the_clock_was_set_the_times_are_those_of_the_file(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    suffix: str,
    captured_ms: int,
    published_ms: int,
    played_ms: int,
) -> None:
    path = tmp_path / f"recorded{suffix}"
    steps_ms = [33, 33, captured_ms, 33, 33]
    times_ns = [10**12 + sum(steps_ms[:number]) * 10**6 for number in range(len(steps_ms) + 1)]
    with RecordingFile(path, StreamFormat("mjpeg", 64, 48)) as output:
        for frame in frames_of(times_ns, lambda number: published_ms if number == 4 else 33):
            output.write(frame)
    played_ns = read_through(path)
    assert [(later - time) / 1e6 for time, later in pairwise(played_ns)] == pytest.approx(
        [33, 33, played_ms, 33, 33], abs=0.02
    ), "MP4 has steps of 0.011 ms"
    assert caplog.text == ""


def test_frames_from_before_this_host_was_started_are_played_too(tmp_path: Path, segment_name: str) -> None:
    path = tmp_path / "recorded.mkv"
    with RecordingFile(path, StreamFormat("mjpeg", 64, 48)) as output:
        for frame in frames_of([time_ns - TIMES_NS[1] for time_ns in TIMES_NS[:4]]):
            output.write(frame)
    assert recordings.lines(path)[0]["capture_time_ns"] < 0
    times = [metadata.capture_time_ns for _, metadata in played(segment_name, path)]
    assert [time_ns - times[0] for time_ns in times] == [time_ns - TIMES_NS[0] for time_ns in TIMES_NS[:4]]


LINE = '{"sequence": 1, "capture_time_ns": 5, "position_ms": null}\n'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "not found: there is no recorded.mkv.frames.jsonl next to it"),
        ("", "unreadable: recorded.mkv.frames.jsonl is empty"),
        ('{"sequence": 1', "unreadable: line 1 of recorded.mkv.frames.jsonl does not describe a frame"),
        (f"{LINE}no JSON\n", "unreadable: line 2 of recorded.mkv.frames.jsonl does not describe a frame"),
        (f"{LINE}[1, 2]\n", "line 2 of"),
        (f'{LINE}{{"sequence": 2}}\n', "line 2 of"),
        (LINE.replace("1", "true"), "line 1 of"),
        (LINE.replace("1", "-1"), "line 1 of"),
        (LINE.replace("1", "1e400"), "line 1 of"),
        (LINE.replace("1", "9" * 30), "line 1 of"),
        (LINE.replace("5", "-" + "9" * 30), "line 1 of"),
        (LINE.replace("5", "9" * 30), "line 1 of"),
        (LINE.replace("null", '"x"'), "line 1 of"),
        ("[" * 100_000, "line 1 of"),
        ("\0" * 5000, "line 1 of"),
        ("\udcff\n", "line 1 of"),
    ],
)
def test_unusable_lines_are_reported_in_one_line(tmp_path: Path, text: str | None, reason: str) -> None:
    path = recorded(tmp_path)
    lines = path.with_name(f"{path.name}.frames.jsonl")
    if text is None:
        lines.unlink()
    else:
        lines.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CameraError) as caught:
        open_source(settings_for("unused", str(path), as_recorded=True).vision.camera)
    said = str(caught.value)
    assert said.startswith(f"cannot open {path}: ")
    assert reason in said
    assert said.endswith("use the one that was written with the recording, or leave out as_recorded")
    assert "\n" not in said


def test_unreadable_lines_are_reported_too(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    lines = path.with_name(f"{path.name}.frames.jsonl")
    for make in (Path.mkdir, os.mkfifo):  # opening the second would wait for a writer
        lines.rmdir() if lines.is_dir() else lines.unlink()
        make(lines)
        with pytest.raises(CameraError, match=r"unreadable: recorded.mkv.frames.jsonl is not a file: use the one that"):
            open_source(settings_for("unused", str(path), as_recorded=True).vision.camera)


def test_only_a_file_can_be_played_as_recorded() -> None:
    for device in ("rtsp://127.0.0.1:1/stream", "/dev/video9"):
        with pytest.raises(CameraError, match="as_recorded plays a file that `record` wrote; this is not one"):
            open_source(settings_for("unused", device, as_recorded=True).vision.camera)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"playback_fps": 0}, "playback_fps is 0, but the recording has its own times: leave one of the two out"),
        ({"backend": "ffmpeg"}, "backend is ffmpeg, but this needs av: leave one of the two out"),
    ],
)
def test_conflicting_options_are_reported(other: dict[str, Any], reason: str) -> None:
    camera = {f"vision.camera.{key}": value for key, value in {"as_recorded": True, **other}.items()}
    with pytest.raises(ConfigurationError, match=reason):
        load_settings(None, camera, {})


@pytest.mark.slow
def test_a_live_recording_is_captured_again_as_it_was(segment_name: str, tmp_path: Path) -> None:
    file = tmp_path / "table.mkv"
    live, again = f"{segment_name}-live", f"{segment_name}-again"
    camera = ("--fps", "50", "--resolution", "320x240", "--history", "32")
    source = command_line.start("capture", "demo", "--name", live, *camera)
    with SharedMemoryFrameReader(live) as reader:
        reader.attach(timeout=40.0)
    done = command_line.run("record", live, file, "--frames", "100", "--codec", "copy")
    assert done.returncode == 0, done.stderr
    source.terminate()
    source.wait(40)
    lines = recordings.lines(file)
    assert len(lines) == 100
    played = command_line.start("capture", file, "--as-recorded", "--no-loop", "--name", again, "--history", "32")
    found = []
    with SharedMemoryFrameReader(again) as reader:
        reader.attach(timeout=40.0)
        for frame, metadata in reader.frames(every=True, timeout=40.0):
            assert read_counter(frame) == metadata.source_sequence, "the number that is drawn into it"
            found.append(metadata)
    assert played.wait(40) == 0
    assert found[-1].sequence == len(lines)
    read = [lines[metadata.sequence - 1] for metadata in found]  # on a busy machine not all of them
    assert [metadata.source_sequence for metadata in found] == [line["sequence"] for line in read]
    first_ns = found[0].capture_time_ns - read[0]["capture_time_ns"]
    assert [metadata.capture_time_ns - first_ns for metadata in found] == [line["capture_time_ns"] for line in read]


def test_the_command_says_in_one_line_that_the_lines_are_missing(tmp_path: Path, segment_name: str) -> None:
    path = recorded(tmp_path)
    path.with_name(f"{path.name}.frames.jsonl").unlink()
    done = command_line.run("capture", path, "--as-recorded", "--name", segment_name)
    assert done.returncode == 3
    (said,) = [line for line in done.stderr.splitlines() if "ERROR" in line]
    assert said.endswith(
        f"cannot open {path}: not found: there is no recorded.mkv.frames.jsonl next to it: "
        "use the one that was written with the recording, or leave out as_recorded"
    )

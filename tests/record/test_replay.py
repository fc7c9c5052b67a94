"""A recorder's ring, queried by the command line and by programs; recordings that end and begin again on request."""

import itertools
import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import pytest
import recordings
from command_line import call
from jpegs import as_frame, jpeg
from segments_under_test import picture, wait_until
from stops import Stop

from billiards_shm import ConfigurationError, SharedMemoryFrameReader, SharedMemoryFrameWriter, inspect_segment
from billiards_shm.cli.options import Seconds
from billiards_shm.config.model import RecordConfig
from billiards_shm.record.control import RecorderError, ask, fetched_clip
from billiards_shm.record.recorder import Recorder

SHAPE = (48, 64, 3)
STEP_NS = 40_000_000


class Recorded:
    """A segment that the test writes, and a recorder for it."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self._ends = ExitStack()
        self.writer = self._ends.enter_context(SharedMemoryFrameWriter(name, (120, 160, 3), history=30))
        self._numbers = itertools.count(1)
        self.stop = Stop()
        self.recorder = Recorder(name, RecordConfig(**options), self.stop)  # type: ignore[arg-type]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self.write(1)  # the first one that it reads is the newest

    def _run(self) -> None:
        with SharedMemoryFrameReader(self.name) as reader:
            self.recorder.run(reader)

    def write(self, count: int, shape: tuple[int, ...] = SHAPE, **options: Any) -> None:
        """Write frames, and wait until the recorder has them."""
        for number in itertools.islice(self._numbers, count):
            image = picture(number, shape)
            if "pixel_format" in options:
                image = as_frame(jpeg(image))
            assert self.writer.write_frame(image, capture_time_ns=10**12 + number * STEP_NS, **options) == number
            wait_until(lambda number=number: self.recorder.snapshot().frames >= number)  # type: ignore[misc]

    def __enter__(self) -> "Recorded":
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop.request()
        self._thread.join(40)
        assert not self._thread.is_alive()
        self._ends.close()


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    yield
    assert list(folder.iterdir()) == [], "no socket is left"


def numbers(path: Path) -> list[int]:
    """The numbers of a recording's frames, which has to have them all."""
    lines = recordings.lines(path)
    first_ns = lines[0]["capture_time_ns"]
    for shown, line in zip(recordings.seconds(path), lines, strict=True):
        assert abs(shown - (line["capture_time_ns"] - first_ns) / 1e9) <= 0.001
    return [line["sequence"] for line in lines]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_the_last_seconds_are_written_to_a_file(segment_name: str, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"goal{suffix}"
    with Recorded(segment_name, ring=30) as recorded:
        recorded.write(60)
        done = call("replay", segment_name, file, "--last", "1.2")
    assert (done.returncode, done.stderr) == (0, "")
    found = numbers(file)
    assert found == list(range(found[0], 62))
    assert 1.2 <= (61 - found[0]) * STEP_NS / 1e9 < 1.2 + 0.5 + 1e-9
    assert done.stdout == f"{file}: {recordings.seconds(file)[-1]:.1f} s, {len(found)} frames, " + done.stdout[-7:]
    assert len(recordings.pictures(file)) == len(found)


def test_mjpg_frames_are_kept_unchanged(segment_name: str, tmp_path: Path) -> None:
    with Recorded(segment_name, ring=30, file=str(tmp_path / "all.mkv")) as recorded:
        recorded.write(20, pixel_format="MJPG")
        assert call("replay", segment_name, tmp_path / "goal.mkv", "--last", "0.2").returncode == 0
        encoded = call("replay", segment_name, tmp_path / "goal.mp4", "--last", "0.2")
        assert encoded.stderr == f"{tmp_path / 'goal.mp4'}: encoding 6 frames; .mkv takes them unchanged\n"
        kept = [bytes(packet) for packet in recordings.packets(tmp_path / "goal.mkv")]
        assert kept == [jpeg(picture(number, SHAPE)) for number in range(16, 22)]
        assert numbers(tmp_path / "goal.mkv") == numbers(tmp_path / "goal.mp4") == list(range(16, 22))
    (file,) = tmp_path.glob("all-*.mkv")
    assert numbers(file) == list(range(2, 22)), "a file next to the ring has them too"


@pytest.mark.slow
def test_the_ring_starts_over_when_frames_get_another_size(segment_name: str) -> None:
    with Recorded(segment_name, ring=30) as recorded:
        recorded.write(5)
        recorded.write(3, (96, 128, 3))
        with fetched_clip(segment_name, 100) as clip:
            assert (clip.stream.width, clip.stream.height) == (128, 96)
            assert [frame.sequence for frame in clip.frames] == [7, 8, 9]


def test_the_file_is_ended_and_begun_on_request_and_the_ring_goes_on(segment_name: str, tmp_path: Path) -> None:
    file = tmp_path / "match.mkv"
    with Recorded(segment_name, ring=30, file=str(file)) as recorded:
        recorded.write(4)
        assert ask(segment_name, request="state") == {"ring": 4 * STEP_NS / 1e9, "recording": True}
        assert ask(segment_name, request="stop") == {"recording": False}
        assert ask(segment_name, request="state")["recording"] is False
        wait_until(lambda: recorded.recorder.snapshot().file == "")
        recorded.write(4)
        assert numbers(file)[-1] == 5
        assert ask(segment_name, request="start") == {"recording": True}
        recorded.write(4)
        with fetched_clip(segment_name, 100) as clip:
            assert [frame.sequence for frame in clip.frames][1:] == list(range(2, 14))
    (again,) = tmp_path.glob("match-*.mkv")
    assert numbers(again) == list(range(10, 14))
    assert len(recordings.pictures(again)) == 4, "it begins where decoding can"


def test_without_a_ring_there_is_no_clip_and_frames_after_a_stop_are_not_encoded(
    segment_name: str, tmp_path: Path
) -> None:
    file = tmp_path / "match.mkv"
    with Recorded(segment_name, file=str(file)) as recorded:
        recorded.write(2)
        ask(segment_name, request="stop")
        wait_until(lambda: recorded.recorder.snapshot().file == "")
        recorded.writer.write_frame(picture(4, SHAPE))
        wait_until(lambda: inspect_segment(segment_name).readers[0].last_sequence == 4)
        assert recorded.recorder.snapshot().frames == 3
        with pytest.raises(RecorderError, match=r"is recorded without a ring: give 'record' --ring 30s"):
            fetched_clip(segment_name, 1.0).__enter__()
    assert numbers(file)[-1] == 3


def test_impossible_requests_are_reported(segment_name: str, tmp_path: Path) -> None:
    with Recorded(segment_name, ring=30):
        with pytest.raises(RecorderError, match="is kept only in a ring: give 'record' a FILE, too"):
            ask(segment_name, request="start")
        clips = ({"request": "clip", "last": last} for last in (-1, "x", None, 1e9, float("nan"), 10**400))
        for request in ({"request": "dance"}, {}, *clips):
            with pytest.raises(
                RecorderError, match=r"a request is clip \(with last, up to 1e9 seconds\), state, start or stop"
            ):
                ask(segment_name, **request)


def test_there_is_nothing_before_the_first_frame(segment_name: str) -> None:
    stop = Stop()
    recorder = Recorder(segment_name, RecordConfig(ring=30, follow=True), stop)  # type: ignore[arg-type]
    reader = SharedMemoryFrameReader(segment_name)
    thread = threading.Thread(target=recorder.run, args=(reader,))
    thread.start()
    try:
        wait_until(lambda: answers(segment_name) == f"there is no frame of '{segment_name}' in the ring yet")
    finally:
        stop.request()
        thread.join()
        reader.close()


def answers(name: str) -> str:
    with pytest.raises(RecorderError) as caught:
        ask(name, request="clip", last=1)
    return str(caught.value)


def test_the_log_says_that_a_ring_is_kept(segment_name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Recorded(segment_name, ring=30) as recorded:
        recorded.write(1)
    (said,) = [message for message in caplog.messages if "in memory" in message]
    assert said.startswith(f"{segment_name}: keeping the last 30 s in ")


def test_one_ring_is_kept_per_segment_and_others_can_record_too(segment_name: str, tmp_path: Path) -> None:
    with Recorded(segment_name, ring=30) as recorded, SharedMemoryFrameReader(segment_name) as reader:
        recorded.write(1)
        with pytest.raises(ConfigurationError, match=f"another process records '{segment_name}' and answers at"):
            Recorder(segment_name, RecordConfig(ring=30), Stop()).run(reader)  # type: ignore[arg-type]
        file = tmp_path / "beside.mkv"
        Recorder(segment_name, RecordConfig(file=str(file)), Stop(), frames=1).run(reader)  # type: ignore[arg-type]
        assert len(recordings.lines(file)) == 1
        assert ask(segment_name, request="clip", last=1)["frames"] == 2


def test_the_native_frames_of_a_source_that_publishes_both_are_found(segment_name: str, tmp_path: Path) -> None:
    with Recorded(f"{segment_name}.native", ring=30):
        done = call("replay", segment_name, tmp_path / "goal.mkv")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10.0), ("1e1", 10.0), ("10s", 10.0), ("1.5min", 90.0), ("10x", None), ("-1s", None), ("nan", None)],
)
def test_seconds_may_have_a_unit(text: str, seconds: float | None) -> None:
    if seconds is None:
        with pytest.raises(click.BadParameter):
            Seconds(min=0).convert(text, None, None)
    else:
        assert Seconds(min=0).convert(text, None, None) == seconds


@pytest.mark.parametrize(
    ("file", "code", "said"),
    [
        (
            *("goal.mkv", 4),
            (
                "no ring of '{name}' is kept: start 'billiards-shm record {name} --ring 30s' first; looked for its "
                "socket in {folder}/run and /dev/shm, as XDG_RUNTIME_DIR says"
            ),
        ),
        ("there.mkv", 2, "there.mkv exists: choose another name, or --overwrite"),
        ("goal.avi", 2, "goal.avi must end in .mkv or .mp4"),
        ("nowhere/goal.mkv", 2, "nowhere/goal.mkv: there is no folder 'nowhere'"),
    ],
)
def test_bad_input_gets_one_line_and_no_file(
    segment_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.mkv").touch()
    done = call("replay", segment_name, file)
    assert done.returncode == code
    assert done.stderr == f"billiards-shm: error: {said.format(name=segment_name, folder=tmp_path)}\n"
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["run", "there.mkv"]

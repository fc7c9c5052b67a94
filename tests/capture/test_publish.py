"""What is published: BGR, frames as the source delivers them, or both, where BGR is made only while it is read."""

import logging
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from capture_runs import published, settings_for
from encoding import encode
from jpegs import as_frame, jpeg
from segment_layout import set_frame_age
from segments_under_test import path_of

from billiards_shm import (
    ConfigurationError,
    SharedMemoryFrameReader,
    WriterExistsError,
    inspect_segment,
    list_segments,
)
from billiards_shm.capture.capture_time import CaptureTime
from billiards_shm.capture.process import _names, _run
from billiards_shm.capture.publisher import FRESH_NS, Publisher
from billiards_shm.capture.stats import CaptureStatistics
from billiards_shm.config.defaults import MAX_FRAME_AGE_SEC
from billiards_shm.config.load import load_settings
from billiards_shm.config.model import VideoConfig
from billiards_shm.monitor.health import HealthState, evaluate_health
from billiards_shm.sources.protocol import Image, SourceDetails

HEIGHT, WIDTH = 48, 64
FRAME_NS = 33_000_000


@dataclass
class Scripted:
    """A source of native frames, which counts the requested conversions."""

    native_format: str
    frames: list[Image]
    bgr_shape: tuple[int, ...] = (HEIGHT, WIDTH, 3)
    details: SourceDetails = field(default_factory=lambda: SourceDetails("SCRIPT", WIDTH, HEIGHT, 30.0))
    position_ms: float | None = 40.0
    frames_left: int | None = None
    converted: int = 0
    landed: list[bool] = field(default_factory=list)
    current: Image | None = None
    flaw: str = ""

    def grab(self) -> bool:
        self.current = self.frames.pop(0)
        return True

    def retrieve_native(self, target: Image | None) -> Image | None:
        frame = self.current
        if frame is None or target is None or target.shape != frame.shape or target.dtype != frame.dtype:
            return frame
        np.copyto(target, frame)
        return target

    def retrieve(self, target: Image | None) -> Image | None:
        self.converted += 1
        assert self.current is not None
        self.landed.append(target is not None)
        image = target if target is not None else np.empty(self.bgr_shape, np.uint8)
        image[:] = self.current.flat[-1]
        return image

    def release(self) -> None:
        self.frames = []


class Run:
    """Publishes scripted frames, at its own times."""

    def __init__(self, name: str, publish: str, source: Any) -> None:
        self.source = source
        self.statistics = CaptureStatistics(time.monotonic_ns())
        self.publisher = Publisher(VideoConfig(shared_memory_name=name), self.statistics, publish)
        self.now_ns = time.monotonic_ns()

    def next(self, after_ns: int = FRAME_NS, when: CaptureTime | None = None) -> bool:
        self.now_ns += after_ns
        self.source.grab()
        return self.publisher.publish(self.source, self.now_ns, when=when)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *exc: object) -> None:
        self.publisher.close()


def frame(number: int, shape: tuple[int, ...] = (HEIGHT * 3 // 2, WIDTH), dtype: str = "uint8") -> Image:
    return np.full(shape, number, dtype)


@pytest.mark.parametrize(
    ("pixel_format", "shape", "dtype"),
    [
        ("NV12", (HEIGHT * 3 // 2, WIDTH), "uint8"),
        ("YUYV", (HEIGHT, WIDTH, 2), "uint8"),
        ("GRAY8", (HEIGHT, WIDTH), "uint8"),
        ("P010", (HEIGHT * 3 // 2, WIDTH), "uint16"),
        ("BAYER_RGGB8", (HEIGHT, WIDTH), "uint8"),
        ("BGR24", (HEIGHT, WIDTH, 3), "uint8"),
    ],
)
def test_native_frames_are_published_unchanged(
    segment_name: str, pixel_format: str, shape: tuple[int, ...], dtype: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    source = Scripted(pixel_format, [frame(number, shape, dtype) for number in range(1, 5)])
    with Run(segment_name, "native", source) as run, SharedMemoryFrameReader(segment_name) as reader:
        for number in range(1, 5):
            assert run.next()
            found, metadata = reader.read_frame(timeout=5)
            np.testing.assert_array_equal(found, frame(number, shape, dtype))
            assert metadata is not None
            assert (metadata.pixel_format, metadata.sequence) == (pixel_format, number)
            assert (metadata.capture_time_ns, metadata.position_ms) == (run.now_ns, 40.0)
        assert run.publisher.picture_size == (WIDTH, HEIGHT)
        assert source.converted == 0
        (first,) = [message for message in caplog.messages if message.startswith("First frame received: ")]
        assert first.endswith(f", {pixel_format}") == (pixel_format != "BGR24")
        assert run.statistics.captured == run.statistics.written == 4


def test_an_unpublished_frame_does_not_delay_the_time_of_others(segment_name: str) -> None:
    """A damaged frame has the time of its arrival; in a recording, later frames may have been due before that."""
    source = Scripted("GRAY8", [frame(1), None, frame(2)])  # type: ignore[list-item]
    with Run(segment_name, "native", source) as run, SharedMemoryFrameReader(segment_name) as reader:
        assert run.next()
        assert not run.next(10 * FRAME_NS)
        due = CaptureTime(run.now_ns - 8 * FRAME_NS, "file")
        assert run.next(0, due)
        _, metadata = reader.read_frame(timeout=5)
        assert metadata is not None
        assert (metadata.capture_time_ns, metadata.clock) == due


def test_jpegs_of_any_length_fit_and_the_segment_is_small(segment_name: str) -> None:
    rng = np.random.default_rng(7)
    smooth = cv2.resize(rng.integers(0, 256, (9, 16, 3), np.uint8), (1920, 1080), interpolation=cv2.INTER_CUBIC)
    frames = [as_frame(jpeg(smooth, quality)) for quality in (50, 90, 20, 95)]
    with (
        Run(segment_name, "native", Scripted("MJPG", list(frames))) as run,
        SharedMemoryFrameReader(segment_name) as reader,
    ):
        for sent in frames:
            assert run.next()
            found, metadata = reader.read_frame(timeout=5)
            np.testing.assert_array_equal(found, sent)
            assert metadata is not None
            assert metadata.pixel_format == "MJPG"
        info = inspect_segment(segment_name)
        assert run.publisher.picture_size == (1920, 1080)
        print(f"{info.backed_bytes} bytes for 1080p")
        assert info.backed_bytes < 3 * 1920 * 1080 * 3 / 8


def test_a_jpeg_whose_size_is_absurd_does_not_size_the_segment(segment_name: str) -> None:
    """Damaged ones are published only on request (`keep_damaged`)."""
    data = jpeg(np.zeros((16, 16, 3), np.uint8))
    place = data.index(b"\xff\xc0") + 5
    absurd = as_frame(data[:place] + b"\xff" * 4 + data[place + 4 :])
    with Run(segment_name, "native", Scripted("MJPG", [absurd])) as run:
        assert run.next()
        assert inspect_segment(segment_name).slot_capacity < 200 * absurd.size


def test_a_whole_jpeg_that_cannot_be_decoded_is_counted_when_it_is_converted_to_bgr(segment_name: str) -> None:
    class Undecodable(Scripted):
        def retrieve(self, target: Image | None) -> Image | None:
            assert self.current is not None
            return None if self.current[0, -1] else super().retrieve(target)

    good, bad = as_frame(jpeg(np.zeros((HEIGHT, WIDTH, 3), np.uint8)) + b"\0"), as_frame(b"\xff\xd8\xff\xff")
    source = Undecodable("MJPG", [good, bad, good, bad, good])
    with (
        Run(segment_name, "both", source) as run,
        SharedMemoryFrameReader(segment_name) as bgr_reader,
        SharedMemoryFrameReader(f"{segment_name}.native") as native_reader,
    ):
        assert run.next()
        assert bgr_reader.read_frame(timeout=5)[1] is not None
        seen = []
        for _ in range(4):
            assert run.next()
            _, native = native_reader.read_frame(timeout=5)
            assert native is not None
            _, bgr = bgr_reader.read_frame()
            seen.append((native.source_sequence, None if bgr is None else bgr.source_sequence))
        assert seen == [(2, None), (3, 3), (4, None), (5, 5)]
        assert run.statistics.unreadable == 2
        assert run.statistics.captured == 5


def test_a_jpeg_that_is_larger_than_the_segment_replaces_it(segment_name: str) -> None:
    small, large = as_frame(jpeg(np.zeros((16, 16, 3), np.uint8))), frame(200, (1, 200_000))
    with (
        Run(segment_name, "native", Scripted("MJPG", [small, large])) as run,
        SharedMemoryFrameReader(segment_name) as reader,
    ):
        assert run.next()
        first = reader.read_frame(timeout=5)[1]
        assert run.next()
        found, second = reader.read_frame(timeout=5)
        np.testing.assert_array_equal(found, large)
        assert first is not None
        assert second is not None
        assert second.generation != first.generation
        assert second.sequence == 2


def test_a_format_that_changes_is_named_with_each_frame(segment_name: str) -> None:
    source = Scripted("NV12", [frame(1), frame(2, (HEIGHT, WIDTH, 2)), as_frame(jpeg(frame(3, (HEIGHT, WIDTH, 3))))])
    with Run(segment_name, "native", source) as run, SharedMemoryFrameReader(segment_name) as reader:
        for pixel_format in ("NV12", "UYVY", "MJPG"):
            source.native_format = pixel_format
            assert run.next()
            metadata = reader.read_frame(timeout=5)[1]
            assert metadata is not None
            assert metadata.pixel_format == pixel_format
            assert run.publisher.picture_size == (WIDTH, HEIGHT)


def test_a_source_that_learns_its_format_from_the_frame_has_its_size(segment_name: str) -> None:
    class Converted(Scripted):
        def retrieve_native(self, target: Image | None) -> Image | None:
            self.native_format = "BGR24"
            return super().retrieve_native(target)

    with (
        Run(segment_name, "native", Converted("NV12", [frame(1, (HEIGHT, WIDTH, 3))])) as run,
        SharedMemoryFrameReader(segment_name) as reader,
    ):
        assert run.next()
        metadata = reader.read_frame(timeout=5)[1]
        assert metadata is not None
        assert metadata.pixel_format == "BGR24"
        assert run.publisher.picture_size == (WIDTH, HEIGHT)


def test_a_damaged_frame_is_not_published(segment_name: str) -> None:
    source: Any = Scripted("MJPG", [as_frame(jpeg(frame(1, (16, 16, 3)))), None])  # type: ignore[list-item]
    with Run(segment_name, "native", source) as run:
        assert run.next()
        assert not run.next()
        assert run.publisher.sequence == 1


@pytest.mark.parametrize("pixel_format", ["NV12", "MJPG", "BGR24"])
@pytest.mark.parametrize("clock", ["driver", "sender", "file", "arrival"])
@pytest.mark.parametrize("publish", ["native", "both", "bgr"])
def test_every_frame_has_its_capture_time_and_its_clock(
    segment_name: str, pixel_format: str, clock: str, publish: str
) -> None:
    names = [segment_name] if publish != "both" else [segment_name, f"{segment_name}.native"]
    content = {
        "NV12": frame(7),
        "MJPG": as_frame(jpeg(frame(7, (HEIGHT, WIDTH, 3)))),
        "BGR24": frame(7, (HEIGHT, WIDTH, 3)),
    }[pixel_format]
    source = Scripted(pixel_format, [content] * 4)
    readers = [SharedMemoryFrameReader(name) for name in names]
    with Run(segment_name, publish, source) as run:
        run.now_ns -= 1_000_000_000
        for number in range(4):
            taken = run.now_ns + 5_000_000 + number
            assert run.next(when=CaptureTime(taken, clock))
            for reader in readers:
                _, metadata = reader.read_frame(timeout=5)
                assert metadata is not None
                assert (metadata.capture_time_ns, metadata.clock) == (taken, clock)
        assert run.statistics.last_capture_ns == run.now_ns, "the age goes by arrival"
        run.publisher.placeholder(lambda width, height: np.zeros((height, width, 3), np.uint8))()
        for reader in readers:
            _, metadata = reader.read_frame(timeout=5)
            assert metadata is not None
            assert (metadata.online, metadata.clock) == (False, "arrival")
            assert taken <= metadata.capture_time_ns <= metadata.publish_time_ns
            reader.close()


def test_times_never_go_back_where_the_clock_changes_or_after_a_placeholder(segment_name: str) -> None:
    source = Scripted("NV12", [frame(number) for number in range(1, 6)])
    found = []
    with Run(segment_name, "native", source) as run, SharedMemoryFrameReader(segment_name) as reader:

        def note() -> None:
            _, metadata = reader.read_frame(timeout=5)
            assert metadata is not None
            found.append(metadata.capture_time_ns)

        run.now_ns -= 1_000_000_000
        run.next()
        note()
        run.next(5_000_000, CaptureTime(run.now_ns - 35_000_000, "sender"))
        note()
        run.now_ns = time.monotonic_ns()
        run.publisher.placeholder(lambda width, height: np.zeros((height, width, 3), np.uint8))()
        note()
        run.next(1000, CaptureTime(run.now_ns - 35_000_000, "sender"))
        note()
        caught_up = time.monotonic_ns()
        run.next(when=CaptureTime(caught_up, "sender"))
        note()
    assert found == sorted(found)
    assert found[-1] == caught_up


# Both.


def test_both_come_from_one_grab_and_have_its_time(segment_name: str) -> None:
    source = Scripted("NV12", [frame(number) for number in range(1, 8)])
    with Run(segment_name, "both", source) as run:
        assert run.next()
        with (
            SharedMemoryFrameReader(segment_name) as bgr_reader,
            SharedMemoryFrameReader(f"{segment_name}.native") as native_reader,
        ):
            for _ in range(5):
                assert run.next()
                bgr, about_bgr = bgr_reader.read_frame(timeout=5)
                native, about_native = native_reader.read_frame(timeout=5)
                assert bgr is not None
                assert native is not None
                assert about_bgr is not None
                assert about_native is not None
                assert (about_bgr.pixel_format, about_native.pixel_format) == ("BGR24", "NV12")
                assert about_bgr.capture_time_ns == about_native.capture_time_ns == run.now_ns
                assert about_bgr.source_sequence == about_native.source_sequence == run.statistics.captured
                assert about_bgr.position_ms == about_native.position_ms
                assert bgr.shape == (HEIGHT, WIDTH, 3)
                assert bgr[0, 0, 0] == native[0, 0]
            assert source.landed == [False] + [True] * 5, "BGR is made in its slot"


def test_bgr_without_readers_is_healthy_while_a_frame_per_second_arrives(segment_name: str) -> None:
    with Run(segment_name, "both", Scripted("NV12", [frame(1)])) as run:
        assert run.next()
        set_frame_age(path_of(segment_name), FRESH_NS / 1e9 + 1)  # a frame was too new; the next is one second later
        assert evaluate_health(inspect_segment(segment_name), MAX_FRAME_AGE_SEC)[0] is HealthState.LIVE


def test_bgr_is_made_only_while_it_is_read_or_too_old(segment_name: str) -> None:
    source = Scripted("NV12", [frame(number) for number in range(1, 100)])
    native_reader = SharedMemoryFrameReader(f"{segment_name}.native")
    with Run(segment_name, "both", source) as run, native_reader:
        assert run.next()
        assert source.converted == 1, "the first one, so that there is a segment"
        for _ in range(5):
            assert run.next()
        native_reader.attach()
        assert run.next()
        assert source.converted == 1, "those who read native frames want no BGR"
        reader = SharedMemoryFrameReader(segment_name)
        newest, _ = reader.read_frame()
        assert newest is not None, "a reader that comes has the last one at once"
        for converted in range(2, 5):
            assert run.next()
            assert source.converted == converted
            assert reader.read_frame()[0] is not None
        del newest  # a frame that is held keeps its reader's lock
        reader.close()
        for _ in range(5):
            assert run.next()
        assert source.converted == 4
        assert run.next(FRESH_NS)
        assert source.converted == 5, "once a second without readers"
        assert run.next()
        assert source.converted == 5


def test_a_killed_reader_creates_no_demand(segment_name: str) -> None:
    from child_processes import Child

    source = Scripted("NV12", [frame(number) for number in range(1, 50)])
    with Run(segment_name, "both", source) as run:
        assert run.next()
        code = "reader = SharedMemoryFrameReader(sys.argv[1])\nreader.attach()\nsay('attached')\ntold()"
        with Child(code, segment_name) as child:
            assert child.says() == "attached"
            assert run.next()
            assert source.converted == 2
        assert run.next()
        assert source.converted == 2


def test_a_source_that_delivers_bgr_is_published_twice(segment_name: str) -> None:
    @dataclass
    class Bgr:
        position_ms: float | None = None
        number: int = 0

        def grab(self) -> bool:
            self.number += 1
            return True

        def retrieve(self, target: Image | None) -> Image:
            image = np.empty((HEIGHT, WIDTH, 3), np.uint8) if target is None else target
            image[:] = self.number
            return image

    with Run(segment_name, "both", Bgr()) as run:
        assert run.next()
        with (
            SharedMemoryFrameReader(segment_name) as bgr,
            SharedMemoryFrameReader(f"{segment_name}.native") as native,
        ):
            for number in (2, 3, 4):
                assert run.next()
                for reader in (bgr, native):
                    found, metadata = reader.read_frame(timeout=5)
                    assert found is not None
                    assert metadata is not None
                    assert metadata.pixel_format == "BGR24"
                    assert found[0, 0, 0] == number


def test_both_end_together_and_both_report_the_state_of_the_source(segment_name: str) -> None:
    with Run(segment_name, "both", Scripted("NV12", [frame(1)])) as run:
        assert run.next()
        run.publisher.report(state="streaming", reason="", backend="SCRIPT", fps=30.0, captured=1)
        names = {segment_name, f"{segment_name}.native"}
        infos = {info.name: info for info in list_segments() if info.name in names}
        assert infos.keys() == names
        assert {str(info.source_state) for info in infos.values()} == {"streaming"}
        assert {info.fps for info in infos.values()} == {30.0}
        assert run.publisher.backed_bytes == sum(info.backed_bytes for info in infos.values())
    assert not [info for info in list_segments() if info.name in names]


@pytest.mark.parametrize("publish", ["native", "both"])
@pytest.mark.parametrize(("pixel_format", "shown_as"), [("NV12", "GRAY8"), ("MJPG", "MJPG"), ("BGR24", "BGR24")])
def test_a_placeholder_fits_into_the_segment(segment_name: str, publish: str, pixel_format: str, shown_as: str) -> None:
    first = {
        "NV12": frame(1),
        "BGR24": frame(1, (HEIGHT, WIDTH, 3)),
        "MJPG": as_frame(jpeg(frame(1, (HEIGHT, WIDTH, 3)))),
    }[pixel_format]
    native = segment_name if publish == "native" else f"{segment_name}.native"
    with (
        Run(segment_name, publish, Scripted(pixel_format, [first])) as run,
        SharedMemoryFrameReader(native) as reader,
    ):
        assert run.next()
        before = reader.read_frame(timeout=5)[1]
        run.publisher.placeholder(lambda width, height: frame(80, (height, width, 3)))()
        found, metadata = reader.read_frame(timeout=5, format="BGR24")
        assert found is not None
        assert metadata is not None
        assert before is not None
        assert not metadata.online
        assert metadata.generation == before.generation, "the segment is not replaced"
        assert found.shape == (HEIGHT, WIDTH, 3)
        assert np.abs(found.astype(int) - 80).max() < 5
        assert inspect_segment(native).pixel_format == shown_as
        if publish == "both":
            with SharedMemoryFrameReader(segment_name) as bgr_reader:
                shown, about = bgr_reader.read_frame(timeout=5)
                assert about is not None
                assert shown is not None
                assert (about.online, about.pixel_format, shown[0, 0, 0]) == (False, "BGR24", 80)


def test_a_placeholder_has_the_size_of_the_frames_it_stands_for(segment_name: str) -> None:
    source = Scripted("NV12", [frame(1)], bgr_shape=(WIDTH, HEIGHT // 2, 3))
    with (
        Run(segment_name, "both", source) as run,
        SharedMemoryFrameReader(segment_name) as bgr_reader,
        SharedMemoryFrameReader(f"{segment_name}.native") as native_reader,
    ):
        assert run.next()
        run.publisher.placeholder(lambda width, height: frame(80, (height, width, 3)))()
        for reader, shape in ((bgr_reader, source.bgr_shape), (native_reader, (HEIGHT, WIDTH))):
            found, metadata = reader.read_frame(timeout=5)
            assert found is not None
            assert metadata is not None
            assert not metadata.online
            assert found.shape == shape, "BGR is turned and cropped, native frames are not"


@pytest.mark.parametrize("pixel_format", ["NV12", "MJPG"])
def test_a_placeholder_of_native_frames_needs_no_opencv(
    segment_name: str, monkeypatch: pytest.MonkeyPatch, pixel_format: str
) -> None:
    first = {"NV12": frame(1), "MJPG": as_frame(jpeg(frame(1, (HEIGHT, WIDTH, 3))))}[pixel_format]
    with (
        Run(segment_name, "native", Scripted(pixel_format, [first])) as run,
        SharedMemoryFrameReader(segment_name) as reader,
    ):
        assert run.next()
        monkeypatch.setitem(sys.modules, "cv2", None)
        monkeypatch.delitem(sys.modules, "billiards_shm.images", raising=False)
        run.publisher.placeholder(lambda width, height: frame(80, (height, width, 3)))()
        found, metadata = reader.read_frame(timeout=5)
        assert metadata is not None
        assert (metadata.online, metadata.pixel_format) == (False, "GRAY8")
        np.testing.assert_array_equal(found, frame(80, (HEIGHT, WIDTH)))


# Configuration.


def load(**camera: str) -> Any:
    return load_settings(None, {}, {f"BILLIARDS_SHM__VISION__CAMERA__{key.upper()}": camera[key] for key in camera})[0]


@pytest.mark.parametrize(
    ("keys", "publish"),
    [
        ({}, "bgr"),
        ({"publish": "both"}, "both"),
        ({"convert_rgb": "false"}, "native"),
        ({"convert_rgb": "true"}, "bgr"),
        ({"convert_rgb": "false", "publish": "bgr"}, "bgr"),
        ({"convert_rgb": "true", "publish": "native"}, "native"),
    ],
)
def test_publish_counts_before_its_older_name(keys: dict[str, str], publish: str) -> None:
    assert load(**keys).vision.camera.publish == publish


@pytest.mark.parametrize(("key", "value"), [("rotation", "90"), ("flip", "both"), ("crop", "1,2,3,4")])
@pytest.mark.parametrize("native", [{"publish": "native"}, {"convert_rgb": "false"}])
def test_options_that_change_the_picture_are_refused_for_native_frames(
    native: dict[str, str], key: str, value: str
) -> None:
    variable = f"environment variable BILLIARDS_SHM__VISION__CAMERA__{key.upper()}"
    with pytest.raises(ConfigurationError, match=f"^{variable}: vision.camera.{key} is .*{value}.*; publish is native"):
        load(**native, **{key: value})
    assert load(publish="both", **{key: value}).vision.camera.publish == "both"


def test_a_name_that_has_no_room_for_native_is_refused(segment_name: str) -> None:
    name = segment_name[:20].ljust(58, "x")
    with pytest.raises(ConfigurationError, match=f"{name}.*publish is both.*at most 57 characters"):
        Run(name, "both", None)
    sources = '[{"name": "%s", "camera": {"device_id": 0, "publish": "both"}}]'
    with pytest.raises(ConfigurationError, match="at most 57 characters"):
        load_settings(None, {}, {"BILLIARDS_SHM__VIDEO__SOURCES": sources % name})
    assert load_settings(None, {}, {"BILLIARDS_SHM__VIDEO__SOURCES": sources % name[:57]})


def test_a_second_source_cannot_have_the_name_of_native_frames() -> None:
    other = '{"name": "a.native", "camera": {"device_id": 1}}'
    sources = f'[{other}, {{"name": "a", "camera": {{"device_id": 0, "publish": "both"}}}}]'
    with pytest.raises(ConfigurationError, match=r"\[1\] publishes both and needs 'a.native'"):
        load_settings(None, {}, {"BILLIARDS_SHM__VIDEO__SOURCES": sources})


def test_a_native_name_that_is_taken_is_noticed_before_the_source_is_opened(segment_name: str) -> None:
    settings = settings_for(segment_name, "demo", publish="both")
    assert _names(settings) == [segment_name, f"{segment_name}.native"]

    class NotRun:
        def run(self) -> None:
            raise AssertionError("the source would be opened")

    with Run(f"{segment_name}.native", "native", Scripted("NV12", [frame(1)])) as other:
        assert other.next()
        code, failure = _run(NotRun(), _names(settings))  # type: ignore[arg-type]
        assert "belongs to a living writer" in failure
        assert code == 4
        assert issubclass(WriterExistsError, FileExistsError)


# Real files, through the loop.


def test_a_video_is_published_in_its_decoded_format(segment_name: str, tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip.mp4", "libx264", "yuv420p", frames=6)
    keys = {"loop_video": False, "playback_fps": 50.0, "backend": "av"}
    bgr = published(segment_name, settings_for(segment_name, str(clip), **keys))
    native = published(segment_name, settings_for(segment_name, str(clip), publish="native", **keys))
    assert len(native) == len(bgr) == 6
    for (_, ours), (_, theirs) in zip(native, bgr, strict=True):
        assert ours.shape == (360, 320)
        assert np.abs(cv2.cvtColor(ours, cv2.COLOR_YUV2BGR_I420).astype(int) - theirs).mean() < 4


def test_a_video_in_both_forms(segment_name: str, tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip.avi", "mjpeg", "yuvj420p", frames=6, q=2)
    keys = {"loop_video": False, "playback_fps": 50.0, "backend": "av", "publish": "both", "rotation": 90}
    found = published(segment_name, settings_for(segment_name, str(clip), **keys))
    assert len(found) >= 5, "all but perhaps one that came before the reader"
    assert {image.shape for _, image in found} == {(320, 240, 3)}, "BGR is turned"

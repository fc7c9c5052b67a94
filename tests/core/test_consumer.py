"""VideoConsumer does on shared frames what cv2.VideoCapture does on a camera."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from segments_under_test import wait_until

from billiards_shm import SharedMemoryFrameWriter, VideoConsumer, inspect_segment

# OpenCV's numbers, repeated here, because the module's own constants are under test.
POS_MSEC, POS_FRAMES, WIDTH, HEIGHT, FPS, FOURCC, FRAME_COUNT = 0, 1, 3, 4, 5, 6, 7
CONVERT_RGB, BUFFERSIZE, OPEN_TIMEOUT_MSEC, READ_TIMEOUT_MSEC = 16, 38, 53, 54

SHAPE = (48, 64, 3)


def picture(number: int, shape: tuple[int, ...] = SHAPE) -> npt.NDArray[Any]:
    """A frame whose every pixel shows its number."""
    return np.full(shape, number % 256, np.uint8)


@pytest.fixture
def writer(name: str) -> Iterator[SharedMemoryFrameWriter]:
    with SharedMemoryFrameWriter(name, SHAPE) as opened:
        yield opened


@pytest.fixture
def consumer(name: str, writer: SharedMemoryFrameWriter) -> Iterator[VideoConsumer]:
    with VideoConsumer(name, timeout=5.0) as opened:
        yield opened


def test_read_returns_the_frame_that_was_written(writer: SharedMemoryFrameWriter, consumer: VideoConsumer) -> None:
    writer.write_frame(picture(7))
    ok, frame = consumer.read()
    assert ok is True
    assert frame is not None
    np.testing.assert_array_equal(frame, picture(7))


def test_frames_are_the_callers_own_to_draw_into(writer: SharedMemoryFrameWriter, consumer: VideoConsumer) -> None:
    writer.write_frame(picture(1))
    _, first = consumer.read()
    assert first is not None
    assert first.flags.writeable
    assert first.flags.owndata
    first[:] = 99
    writer.write_frame(picture(2))
    _, second = consumer.read()
    np.testing.assert_array_equal(second, picture(2))
    assert first[0, 0, 0] == 99


def test_without_copying_frames_are_read_only_views_that_never_change(
    name: str, writer: SharedMemoryFrameWriter
) -> None:
    with VideoConsumer(name, copy=False) as consumer:
        writer.write_frame(picture(1))
        _, first = consumer.read()
        assert first is not None
        assert not first.flags.writeable
        assert not first.flags.owndata
        for number in range(2, 20):
            writer.write_frame(picture(number))
        np.testing.assert_array_equal(first, picture(1))
    np.testing.assert_array_equal(first, picture(1))


def test_a_frame_is_returned_once(name: str, writer: SharedMemoryFrameWriter) -> None:
    with VideoConsumer(name, timeout=0.05) as consumer:
        writer.write_frame(picture(1))
        assert consumer.read()[0]
        assert consumer.read() == (False, None)


def test_a_slow_loop_gets_the_newest_frame(writer: SharedMemoryFrameWriter, consumer: VideoConsumer) -> None:
    for number in range(1, 6):
        writer.write_frame(picture(number))
    _, frame = consumer.read()
    np.testing.assert_array_equal(frame, picture(5))
    assert consumer.get(POS_FRAMES) == 5


def test_read_waits_for_the_next_frame(writer: SharedMemoryFrameWriter, consumer: VideoConsumer) -> None:
    writer.write_frame(picture(1))
    assert consumer.read()[0]
    later = threading.Timer(0.1, writer.write_frame, [picture(2)])
    later.start()
    ok, frame = consumer.read()
    later.join()
    assert ok
    np.testing.assert_array_equal(frame, picture(2))


def test_the_size_waits_for_the_first_frame_and_leaves_it_to_be_read(
    writer: SharedMemoryFrameWriter, consumer: VideoConsumer
) -> None:
    later = threading.Timer(0.1, writer.write_frame, [picture(1)])
    later.start()
    assert (consumer.get(WIDTH), consumer.get(HEIGHT)) == (64, 48)
    later.join()
    ok, frame = consumer.read()
    assert ok
    np.testing.assert_array_equal(frame, picture(1))


def test_read_gives_up_after_the_timeout(name: str, writer: SharedMemoryFrameWriter) -> None:
    with VideoConsumer(name, timeout=0.2) as consumer:
        begin = time.monotonic()
        assert consumer.read() == (False, None)
        assert time.monotonic() - begin > 0.15
        assert consumer.isOpened()


def test_a_segment_that_does_not_exist_is_not_opened(name: str) -> None:
    begin = time.monotonic()
    consumer = VideoConsumer(name, timeout=0.2)
    assert time.monotonic() - begin > 0.15
    assert not consumer.isOpened()
    assert consumer.read() == (False, None)
    assert consumer.open(name) is False


def test_opening_waits_for_a_segment_to_appear(name: str) -> None:
    writers: list[SharedMemoryFrameWriter] = []

    def start() -> None:
        writers.append(SharedMemoryFrameWriter(name, SHAPE))
        writers[0].write_frame(picture(3))

    later = threading.Timer(0.2, start)
    later.start()
    try:
        with VideoConsumer(name, timeout=10.0) as consumer:
            assert consumer.isOpened()
            ok, frame = consumer.read()
            assert ok
            np.testing.assert_array_equal(frame, picture(3))
    finally:
        later.join()
        writers[0].close()


@pytest.mark.parametrize("wrong", ["no spaces", "/leading_slash", "", "x" * 100])
def test_an_invalid_name_is_not_opened_and_logged(wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    assert not VideoConsumer(wrong, timeout=0.1).isOpened()
    assert len(caplog.records) == 1
    assert caplog.records[0].name == "billiards_shm.consumer"


def test_why_opening_fails_is_logged_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    consumer = VideoConsumer(name, timeout=0)
    consumer.open(name)
    consumer.open(name)
    assert [name in record.getMessage() for record in caplog.records] == [True]


def test_without_a_name_nothing_is_opened_until_open(name: str, writer: SharedMemoryFrameWriter) -> None:
    consumer = VideoConsumer()
    assert not consumer.isOpened()
    assert consumer.read() == (False, None)
    assert consumer.open(name)
    writer.write_frame(picture(1))
    assert consumer.read()[0]
    consumer.release()


def test_open_takes_what_opencv_takes(name: str, writer: SharedMemoryFrameWriter) -> None:
    consumer = VideoConsumer()
    assert consumer.open(name, 1900, [OPEN_TIMEOUT_MSEC, 1000])
    consumer.release()


def test_opening_again_moves_to_the_other_segment(
    name: str, writer: SharedMemoryFrameWriter, consumer: VideoConsumer
) -> None:
    other = f"{name}_b"
    with SharedMemoryFrameWriter(other, (8, 8, 3)) as second:
        second.write_frame(picture(9, (8, 8, 3)))
        assert consumer.open(other)
        _, frame = consumer.read()
        assert frame is not None
        assert frame.shape == (8, 8, 3)
        consumer.release()


def test_everything_fails_quietly_after_release(writer: SharedMemoryFrameWriter, consumer: VideoConsumer) -> None:
    writer.write_frame(picture(1))
    _, kept = consumer.read()
    consumer.release()
    consumer.release()
    assert consumer.isOpened() is False
    assert consumer.grab() is False
    assert consumer.retrieve() == (False, None)
    assert consumer.read() == (False, None)
    assert consumer.get(WIDTH) == 0.0
    assert consumer.set(READ_TIMEOUT_MSEC, 10) is False
    assert consumer.getBackendName() == "SHARED_MEMORY"
    np.testing.assert_array_equal(kept, picture(1))


def test_release_unpins_what_was_grabbed(name: str, writer: SharedMemoryFrameWriter, consumer: VideoConsumer) -> None:
    writer.write_frame(picture(1))
    assert consumer.grab()
    assert sum(reader.leases for reader in inspect_segment(name).readers) == 1
    consumer.release()
    assert sum(reader.leases for reader in inspect_segment(name).readers) == 0


def test_grab_then_retrieve_is_read(writer: SharedMemoryFrameWriter, consumer: VideoConsumer) -> None:
    writer.write_frame(picture(4))
    assert consumer.grab() is True
    ok, frame = consumer.retrieve()
    assert ok is True
    np.testing.assert_array_equal(frame, picture(4))


def test_retrieve_returns_the_grabbed_frame_although_newer_ones_arrived(
    writer: SharedMemoryFrameWriter, consumer: VideoConsumer
) -> None:
    writer.write_frame(picture(1))
    assert consumer.grab()
    for number in range(2, 30):
        writer.write_frame(picture(number))
    _, frame = consumer.retrieve()
    np.testing.assert_array_equal(frame, picture(1))


def test_retrieve_returns_the_same_frame_again_in_another_array(
    writer: SharedMemoryFrameWriter, consumer: VideoConsumer
) -> None:
    writer.write_frame(picture(5))
    _, first = consumer.read()
    assert first is not None
    first[:] = 0
    ok, second = consumer.retrieve()
    assert ok
    np.testing.assert_array_equal(second, picture(5))


def test_retrieve_without_a_grab_fails(consumer: VideoConsumer) -> None:
    assert consumer.retrieve() == (False, None)


def test_retrieve_after_a_failed_grab_fails(name: str, writer: SharedMemoryFrameWriter) -> None:
    with VideoConsumer(name, timeout=0.05) as consumer:
        writer.write_frame(picture(1))
        assert consumer.grab()
        assert not consumer.grab()
        assert consumer.retrieve() == (False, None)


@pytest.mark.parametrize("method", ["read", "retrieve"])
def test_a_fitting_destination_is_filled_and_returned(
    writer: SharedMemoryFrameWriter, consumer: VideoConsumer, method: str
) -> None:
    writer.write_frame(picture(6))
    image = np.zeros(SHAPE, np.uint8)
    if method == "retrieve":
        assert consumer.grab()
    ok, result = getattr(consumer, method)(image)
    assert ok
    assert result is image
    np.testing.assert_array_equal(image, picture(6))


@pytest.mark.parametrize(
    "image", [np.zeros((2, 2, 3), np.uint8), np.zeros(SHAPE, np.float32), np.zeros(SHAPE[:2], np.uint8)]
)
def test_a_destination_that_does_not_fit_is_left_alone(
    writer: SharedMemoryFrameWriter, consumer: VideoConsumer, image: npt.NDArray[Any]
) -> None:
    writer.write_frame(picture(6))
    ok, result = consumer.read(image)
    assert ok
    assert result is not image
    assert not image.any()
    np.testing.assert_array_equal(result, picture(6))


def test_an_invalid_destination_is_the_callers_mistake(
    writer: SharedMemoryFrameWriter, consumer: VideoConsumer
) -> None:
    writer.write_frame(picture(1))
    read_only = np.zeros(SHAPE, np.uint8)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        consumer.read(read_only)
    with pytest.raises(TypeError, match="str"):
        consumer.read("image")  # type: ignore[arg-type]
    assert consumer.read()[0]  # the mistakes lose no frame


def test_size_is_known_before_a_frame_is_read_and_does_not_use_it_up(
    name: str, writer: SharedMemoryFrameWriter
) -> None:
    with VideoConsumer(name, timeout=0.05) as consumer:
        assert (consumer.get(WIDTH), consumer.get(POS_FRAMES), consumer.get(POS_MSEC)) == (0.0, 0.0, 0.0)
    with VideoConsumer(name, timeout=5.0) as consumer:
        writer.write_frame(picture(1))
        assert (consumer.get(WIDTH), consumer.get(HEIGHT)) == (64.0, 48.0)
        assert consumer.read()[0]
        assert consumer.get(POS_FRAMES) == 1.0


def test_size_follows_the_frames(writer: SharedMemoryFrameWriter, consumer: VideoConsumer) -> None:
    writer.write_frame(picture(1))
    consumer.read()
    writer.write_frame(picture(2, (20, 30, 3)))
    consumer.read()
    assert (consumer.get(WIDTH), consumer.get(HEIGHT)) == (30.0, 20.0)


def test_position_is_the_one_in_the_source_or_else_the_time_of_capture(
    writer: SharedMemoryFrameWriter, consumer: VideoConsumer
) -> None:
    writer.write_frame(picture(1), position_ms=1234.5)
    consumer.read()
    assert consumer.get(POS_MSEC) == 1234.5
    writer.write_frame(picture(2), capture_time_ns=5_000_000_000)
    consumer.read()
    assert consumer.get(POS_MSEC) == 5000.0


def test_fps_is_what_the_writer_measured(writer: SharedMemoryFrameWriter, consumer: VideoConsumer) -> None:
    writer.update_source(fps=23.976)
    writer.write_frame(picture(1))
    assert consumer.get(FPS) == pytest.approx(23.976, abs=0.01)


@pytest.mark.parametrize(
    ("pixel_format", "shape", "code"),
    [
        ("BGR24", SHAPE, b"BGR3"),
        ("GRAY8", SHAPE[:2], b"GREY"),
        ("YUYV", (48, 64, 2), b"YUYV"),
        ("RAW", (48, 64, 5), b"\0\0\0\0"),
    ],
)
def test_fourcc_names_the_pixel_format(name: str, pixel_format: str, shape: tuple[int, ...], code: bytes) -> None:
    with (
        SharedMemoryFrameWriter(name, shape, pixel_format=pixel_format) as writer,
        VideoConsumer(name) as consumer,
    ):
        writer.write_frame(picture(1, shape))
        consumer.read()
        assert int(consumer.get(FOURCC)).to_bytes(4, "little") == code
        assert consumer.get(CONVERT_RGB) == float(pixel_format != "RAW")


def test_unknown_properties_are_zero(writer: SharedMemoryFrameWriter, consumer: VideoConsumer) -> None:
    writer.write_frame(picture(1))
    consumer.read()
    assert consumer.get(FRAME_COUNT) == 0.0
    assert consumer.get(9999) == 0.0
    assert consumer.get(-1) == 0.0


@pytest.mark.parametrize("prop", [WIDTH, HEIGHT, FPS, FOURCC, POS_FRAMES, BUFFERSIZE, 9999])
def test_camera_properties_cannot_be_set(consumer: VideoConsumer, prop: int) -> None:
    assert consumer.set(prop, 1) is False


def test_the_timeouts_can_be_set(writer: SharedMemoryFrameWriter, consumer: VideoConsumer) -> None:
    assert consumer.set(READ_TIMEOUT_MSEC, 50)
    assert consumer.set(OPEN_TIMEOUT_MSEC, 70)
    assert not consumer.set(READ_TIMEOUT_MSEC, -1)
    assert (consumer.get(READ_TIMEOUT_MSEC), consumer.get(OPEN_TIMEOUT_MSEC)) == (50.0, 70.0)
    assert not consumer.grab()


def test_iteration_ends_when_no_frame_arrives(name: str, writer: SharedMemoryFrameWriter) -> None:
    with VideoConsumer(name, timeout=0.1) as consumer:
        seen = []
        writer.write_frame(picture(0))
        for frame in consumer:
            seen.append(int(frame[0, 0, 0]))
            if len(seen) < 5:
                writer.write_frame(picture(len(seen)))
        assert seen == [0, 1, 2, 3, 4]
        assert consumer.isOpened()


def test_read_fails_immediately_when_a_recording_has_ended(name: str) -> None:
    with SharedMemoryFrameWriter(name, SHAPE) as writer, VideoConsumer(name, timeout=None) as consumer:
        writer.write_frame(picture(1))
        writer.update_source(state="ended")
        writer.close()
        ok, frame = consumer.read()
        assert ok
        np.testing.assert_array_equal(frame, picture(1))
        for _ in range(10):  # waiting for any of them would last forever
            assert consumer.read() == (False, None)
            assert not consumer.grab()
        assert consumer.isOpened()
        with SharedMemoryFrameWriter(name, SHAPE) as again:
            again.write_frame(picture(2))
            assert consumer.read()[0]


def test_a_waiting_read_notices_the_end(name: str) -> None:
    with SharedMemoryFrameWriter(name, SHAPE) as writer, VideoConsumer(name, timeout=None) as consumer:
        writer.write_frame(picture(1))
        assert consumer.read()[0]
        results: list[tuple[bool, object]] = []
        waiting = threading.Thread(target=lambda: results.append(consumer.read()), daemon=True)
        waiting.start()
        writer.update_source(state="ended")
        # Only closing counts: until then a recording may start over.
        waiting.join(0.3)
        assert waiting.is_alive()
        writer.close()
        waiting.join(20)
        assert results == [(False, None)]


@pytest.mark.parametrize("state", ["streaming", "reconnecting", "opening"])
def test_any_other_end_is_waited_for(name: str, state: str) -> None:
    with SharedMemoryFrameWriter(name, SHAPE) as writer, VideoConsumer(name, timeout=0.3) as consumer:
        writer.write_frame(picture(1))
        writer.update_source(state=state)
        writer.close()
        assert consumer.read()[0]
        begin = time.monotonic()
        assert consumer.read() == (False, None)
        assert time.monotonic() - begin >= 0.3


def test_frames_go_on_after_a_clean_restart_of_the_writer(name: str) -> None:
    with SharedMemoryFrameWriter(name, SHAPE) as first:
        first.write_frame(picture(1))
        consumer = VideoConsumer(name, timeout=10.0)
        assert consumer.read()[0]
    assert consumer.isOpened()
    with SharedMemoryFrameWriter(name, (10, 20, 3)) as second:
        second.write_frame(picture(2, (10, 20, 3)))
        ok, frame = consumer.read()
        assert ok
        assert frame is not None
        assert frame.shape == (10, 20, 3)
        assert consumer.get(WIDTH) == 20.0
        consumer.release()


WRITE_UNTIL_KILLED = """
import sys, time
import numpy as np
from billiards_shm import SharedMemoryFrameWriter

writer = SharedMemoryFrameWriter(sys.argv[1], (48, 64, 3))
while True:
    writer.write_frame(np.full((48, 64, 3), int(sys.argv[2]), np.uint8))
    print(writer.sequence, flush=True)
    time.sleep(0.01)
"""


def test_frames_go_on_after_the_writer_was_killed(name: str) -> None:
    def start(value: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE_UNTIL_KILLED, name, str(value)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline()
        return process

    def stop(process: subprocess.Popen[str]) -> None:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()

    process = start(1)
    try:
        with VideoConsumer(name, timeout=10.0) as consumer:
            ok, frame = consumer.read()
            assert ok
            assert frame is not None
            assert frame[0, 0, 0] == 1
            before = consumer.get(POS_FRAMES)
            stop(process)
            process = start(2)

            def newest_is_of_the_second_writer() -> bool:
                ok, frame = consumer.read()
                return ok and frame is not None and frame[0, 0, 0] == 2

            wait_until(newest_is_of_the_second_writer)
            assert consumer.get(POS_FRAMES) > before
    finally:
        stop(process)


def test_a_dead_writers_last_frame_can_be_read(name: str) -> None:
    code = (
        "import os, sys, signal, numpy as np; from billiards_shm import SharedMemoryFrameWriter as W;"
        "w = W(sys.argv[1], (48, 64, 3)); w.write_frame(np.full((48, 64, 3), 8, np.uint8));"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, name], check=False)
    with VideoConsumer(name, timeout=1.0) as consumer:
        ok, frame = consumer.read()
        assert ok
        np.testing.assert_array_equal(frame, picture(8))


def test_opencv_is_not_imported() -> None:
    code = "import sys, billiards_shm.consumer; sys.exit('cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_surface_is_the_same_as_opencvs() -> None:
    import cv2

    theirs = {method for method in dir(cv2.VideoCapture) if not method.startswith("_")}
    # Exception mode and waiting on several captures at once are not offered.
    assert theirs - set(dir(VideoConsumer)) == {"getExceptionMode", "setExceptionMode", "waitAny"}


def test_the_property_numbers_are_the_same_as_opencvs() -> None:
    import cv2

    from billiards_shm import consumer

    own = {word: value for word, value in vars(consumer).items() if word.startswith("CAP_PROP_")}
    assert own == {word: getattr(cv2, word) for word in own}

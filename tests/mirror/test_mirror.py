"""A segment of one host, copied on another: both ends on loopback."""

import contextlib
import itertools
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zenoh
from mirrors import HOST, ID, Receiver, network, receiving, sending
from segments_under_test import SHAPE, new_frame, picture, sees, wait_until
from stops import Stop

from billiards_shm import (
    CameraError,
    ConfigurationError,
    SharedMemoryFrameReader,
    SharedMemoryFrameWriter,
    SourceState,
)
from billiards_shm.config.model import MirrorConfig, MirroredConfig, Settings
from billiards_shm.images import encode_image
from billiards_shm.mirror import keys, video
from billiards_shm.mirror.clock import RemoteClock
from billiards_shm.mirror.forms import AnswerPayload, Forms
from billiards_shm.mirror.keys import Origin, host_id
from billiards_shm.mirror.network import open_session
from billiards_shm.mirror.process import receive_settings
from billiards_shm.mirror.receiver import LONGEST_READING_NS, REJECTED_PAUSE_SEC, MirrorLoop
from billiards_shm.mirror.sender import MOST_JOBS, SegmentSender
from billiards_shm.mirror.wire import Answer, Codec, FrameHeader, Kind, Request, SentFrame, WireError, unpack_frames

Frame = npt.NDArray[Any]


@pytest.fixture
def copy(segment_name: str) -> str:
    return f"{segment_name}.copy"


def smooth(number: int, height: int = 120, width: int = 160) -> Frame:
    """A picture like a camera's, which codecs preserve."""
    y, x = np.mgrid[:height, :width]
    return np.stack(
        [(x + 3 * number) % 256, (y + x // 2 + number) % 256, np.full_like(x, (40 * number) % 256)], axis=-1
    ).astype(np.uint8)


def psnr(one: Frame, other: Frame) -> float:
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return float(20 * np.log10(255 / np.sqrt(error)))


@contextlib.contextmanager
def written_all_the_while(writer: SharedMemoryFrameWriter, make: Callable[[int], Frame]) -> Iterator[None]:
    """Write a picture every 10 ms."""
    ended = threading.Event()

    def write() -> None:
        for number in itertools.count(writer.sequence + 1):
            writer.write_frame(make(number))
            if ended.wait(0.01):
                return

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture
def source(segment_name: str) -> Iterator[SharedMemoryFrameWriter]:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.update_source(state="streaming")
        writer.write_frame(picture(1))
        yield writer


# Frames.


@pytest.mark.parametrize(
    ("pixel_format", "frame"),
    [
        ("BGR24", picture(3)),
        ("GRAY8", picture(3, (24, 32))),
        ("GRAY16", picture(3, (24, 32), "uint16")),
        ("NV12", picture(3, (36, 32))),
        ("RAW", picture(3, (5, 7), "float64")),
        ("MJPG", np.frombuffer(encode_image(smooth(3), "BGR24", ".jpg"), np.uint8).reshape(1, -1)),
    ],
)
def test_a_frame_arrives_unchanged_with_its_metadata(
    segment_name: str, copy: str, tmp_path: Path, pixel_format: str, frame: Frame
) -> None:
    with SharedMemoryFrameWriter(segment_name, frame.shape, dtype=frame.dtype, pixel_format=pixel_format) as writer:
        number = writer.write_frame(frame, position_ms=12.5, wall_time_ns=1_700_000_000_000_000_000)
        with (
            sending(tmp_path, segment_name),
            receiving(tmp_path, segment_name, copy, codec="mjpg" if pixel_format == "MJPG" else "raw"),
            SharedMemoryFrameReader(copy) as reader,
        ):
            there, metadata = new_frame(reader)
            assert there.dtype == frame.dtype
            np.testing.assert_array_equal(there, frame)
    assert metadata.pixel_format == pixel_format
    assert metadata.source_sequence == number
    assert metadata.sequence == 1
    assert metadata.position_ms == 12.5
    assert metadata.wall_time_ns == 1_700_000_000_000_000_000
    assert metadata.online
    assert metadata.clock == "remote"


@pytest.mark.parametrize(("codec", "least_db"), [("jpeg", 35), ("h264", 30)])
@pytest.mark.parametrize("pixel_format", ["BGR24", "GRAY8", "MJPG"])
def test_an_encoded_frame_looks_the_same(
    segment_name: str, copy: str, tmp_path: Path, codec: str, least_db: float, pixel_format: str
) -> None:
    def make(number: int) -> Frame:
        image = smooth(number)
        if pixel_format == "GRAY8":
            return np.ascontiguousarray(image[..., 1])
        if pixel_format == "MJPG":
            return np.frombuffer(encode_image(image, "BGR24", ".jpg"), np.uint8).reshape(1, -1)
        return image

    capacity = (1, 100_000) if pixel_format == "MJPG" else make(1).shape
    with SharedMemoryFrameWriter(segment_name, capacity, pixel_format=pixel_format) as writer:
        writer.write_frame(make(1))
        with (
            sending(tmp_path, segment_name),
            receiving(tmp_path, segment_name, copy, codec=codec),
            SharedMemoryFrameReader(copy) as reader,
        ):
            for number in range(1, 8):
                frame, metadata = new_frame(reader, format="GRAY8" if pixel_format == "GRAY8" else "BGR24")
                expected = smooth(metadata.source_sequence)
                shown = expected[..., 1] if pixel_format == "GRAY8" else expected
                assert frame.shape == shown.shape
                assert psnr(frame, shown) > least_db
                writer.write_frame(make(number + 1))


@pytest.mark.slow
def test_a_width_makes_frames_smaller_at_the_origin(segment_name: str, copy: str, tmp_path: Path) -> None:
    with SharedMemoryFrameWriter(segment_name, (120, 160, 3)) as writer:
        writer.write_frame(smooth(1))
        for codec in ("raw", "jpeg", "h264"):
            with (
                sending(tmp_path, segment_name) as sender,
                receiving(tmp_path, segment_name, copy, codec=codec, width=80),
                SharedMemoryFrameReader(copy) as reader,
            ):
                frame, _ = new_frame(reader)
                assert frame.shape == (60, 80, 3)
                assert sender.senders[0].statistics.sent_bytes < 120 * 160 * 3


def test_numbers_of_the_copy_rise_and_the_origins_come_along(
    source: SharedMemoryFrameWriter, copy: str, tmp_path: Path
) -> None:
    with (
        sending(tmp_path, source.name),
        receiving(tmp_path, source.name, copy, codec="raw"),
        SharedMemoryFrameReader(copy) as reader,
    ):
        for number in range(1, 30):
            frame, metadata = new_frame(reader)
            assert metadata.sequence == number
            assert sees(frame, metadata.source_sequence)
            assert metadata.source_sequence == number
            source.write_frame(picture(number + 1))


def test_a_placeholder_and_the_time_of_capture_come_along(
    source: SharedMemoryFrameWriter, copy: str, tmp_path: Path
) -> None:
    captured_ns = time.monotonic_ns()  # of the second picture; the first is older
    with (
        sending(tmp_path, source.name),
        receiving(tmp_path, source.name, copy, codec="raw") as loop,
        SharedMemoryFrameReader(copy) as reader,
    ):
        new_frame(reader)
        source.write_frame(picture(2), capture_time_ns=captured_ns)
        _, metadata = new_frame(reader)
        # Both ends share a clock here, so any difference is the reported error.
        error_us = loop.statistics.link_error_us
        assert error_us > 0
        assert abs(metadata.capture_time_ns - captured_ns) <= error_us * 1000 + 1000
        source.write_frame(picture(3), online=False)
        _, metadata = new_frame(reader)
        assert not metadata.online


def test_a_copy_that_is_copied_passes_on_how_wrong_its_times_can_be(
    source: SharedMemoryFrameWriter, copy: str, tmp_path: Path
) -> None:
    error_us = 5000
    source.update_source(link_error_us=error_us)
    with (
        sending(tmp_path, source.name),
        receiving(tmp_path, source.name, copy) as loop,
        SharedMemoryFrameReader(copy) as reader,
    ):
        new_frame(reader)
        assert loop.statistics.link_error_us > error_us


# Demand.


def test_no_frame_is_requested_right_after_the_last_one_arrived(
    source: SharedMemoryFrameWriter, copy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured, asked = {1: time.monotonic_ns()}, {}
    take = SegmentSender._take

    def note(sender: SegmentSender, pending: Any) -> None:
        asked.setdefault(pending.request.after, pending.received_ns)
        take(sender, pending)

    monkeypatch.setattr(SegmentSender, "_take", note)
    with (
        sending(tmp_path, source.name),
        receiving(tmp_path, source.name, copy, codec="raw"),
        SharedMemoryFrameReader(copy) as reader,
    ):
        for number in range(2, 20):
            new_frame(reader)
            time.sleep(0.05)
            captured[number] = time.monotonic_ns()
            source.write_frame(picture(number), capture_time_ns=captured[number])
    waits = [asked[number] - captured[number] for number in sorted(captured.keys() & asked.keys())[3:]]
    print(f"asked {np.round(np.array(waits) / 1e6, 1)} ms after the capture of the last frame")
    assert np.median(waits) > 0.9 * LONGEST_READING_NS


@pytest.mark.slow
@pytest.mark.parametrize("history", [0, 10])
def test_nothing_is_read_or_encoded_at_the_origin_while_there_are_no_requests(
    source: SharedMemoryFrameWriter, copy: str, tmp_path: Path, history: int
) -> None:
    with sending(tmp_path, source.name) as sender, written_all_the_while(source, picture):
        assert not source.has_readers
        with (
            receiving(tmp_path, source.name, copy, codec="jpeg", history=history),
            SharedMemoryFrameReader(copy) as reader,
        ):
            new_frame(reader)
            assert source.has_readers
        encoded = sender.senders[0].encoded
        assert encoded
        wait_until(lambda: not source.has_readers, "no reader at the origin")
        assert sender.senders[0].encoded == encoded


@pytest.mark.slow
def test_a_copy_without_a_reader_is_fetched_once_a_second_and_immediately_when_one_attaches(
    source: SharedMemoryFrameWriter, copy: str, tmp_path: Path
) -> None:
    with (
        sending(tmp_path, source.name),
        receiving(tmp_path, source.name, copy, codec="raw") as loop,
        written_all_the_while(source, picture),
    ):
        wait_until(lambda: loop.statistics.captured >= 3)
        idle = source.sequence
        assert idle / loop.statistics.captured > 10
        with SharedMemoryFrameReader(copy) as reader:
            before, metadata = new_frame(reader)
            del before
            # The frame after the last idle one is one of the next few, not one a second later.
            _, following = new_frame(reader)
            assert following.source_sequence - metadata.source_sequence < 100
            counted = loop.statistics.captured
            wait_until(lambda: loop.statistics.captured > counted + 50)


def test_a_frame_is_encoded_once_for_all_receivers_of_one_form(
    source: SharedMemoryFrameWriter, copy: str, tmp_path: Path
) -> None:
    names = [f"{copy}{number}" for number in range(3)]
    with (
        sending(tmp_path, source.name) as sender,
        receiving(tmp_path, source.name, names[0], codec="jpeg"),
        receiving(tmp_path, source.name, names[1], codec="jpeg"),
        receiving(tmp_path, source.name, names[2], codec="jpeg"),
        SharedMemoryFrameReader(names[0]) as one,
        SharedMemoryFrameReader(names[1]) as two,
        SharedMemoryFrameReader(names[2]) as three,
    ):
        counts = sender.senders[0].statistics
        for reader in (one, two, three):
            new_frame(reader)
        for number in range(2, 30):
            source.write_frame(picture(number))
            for reader in (one, two, three):
                _, metadata = new_frame(reader)
                assert metadata.source_sequence == number
        assert sender.senders[0].encoded == 29
        assert counts.frames == 3 * 29


def test_receivers_of_h264_share_units_and_each_decodes(segment_name: str, copy: str, tmp_path: Path) -> None:
    with SharedMemoryFrameWriter(segment_name, (120, 160, 3)) as writer:
        writer.write_frame(smooth(1))
        with (
            sending(tmp_path, segment_name) as sender,
            receiving(tmp_path, segment_name, f"{copy}1", codec="h264"),
            receiving(tmp_path, segment_name, f"{copy}2", codec="h264", fps=10) as slow,
            SharedMemoryFrameReader(f"{copy}1") as fast_reader,
            SharedMemoryFrameReader(f"{copy}2") as slow_reader,
            written_all_the_while(writer, smooth),
        ):
            for _ in range(10):
                for reader in (fast_reader, slow_reader):
                    frame, metadata = new_frame(reader)
                    # Another picture, or one decoded without the one before it, is below 15.
                    assert psnr(frame, smooth(metadata.source_sequence)) > 25
            assert not slow.statistics.unreadable
            counts = sender.senders[0].statistics
            assert sender.senders[0].encoded < counts.frames + 2


def test_a_receiver_of_h264_that_has_to_wait_for_a_key_frame_gets_one(
    segment_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = Origin(HOST, ID, segment_name)
    passed_over = threading.Event()
    encode = Forms.encode

    def note(forms: Forms, *arguments: Any) -> AnswerPayload | None:
        encoded = encode(forms, *arguments)
        if encoded is None:
            passed_over.set()
        return encoded

    def ask(after: int) -> zenoh.Reply:
        generation = bytes.fromhex(writer.generation) if after else bytes(16)
        request = Request(
            Kind.FRAMES, codec=Codec.H264, key_frame=not after, wait_ms=800, generation=generation, after=after
        )
        return client.get(origin.key, payload=request.pack(), timeout=40.0)

    def units(replies: Any) -> list[tuple[int, bool]]:
        (reply,) = replies
        return [(sent.header.sequence, sent.header.key) for sent in unpack_frames(reply.ok.payload.to_bytes())]

    monkeypatch.setattr(Forms, "encode", note)
    monkeypatch.setattr(video, "KEY_INTERVAL_NS", 10**18)
    with (
        SharedMemoryFrameWriter(segment_name, (120, 160, 3)) as writer,
        sending(tmp_path, segment_name),
        open_session(network(tmp_path, "connect")) as client,
    ):
        last = video.MOST_UNITS + 3
        writer.write_frame(smooth(1))
        wait_until(lambda: list(ask(0)))
        for number in range(2, last + 1):  # of a receiver that gets all of them
            writer.write_frame(smooth(number))
            assert units(ask(number - 1)) == [(number, False)]
        late = ask(1)
        assert passed_over.wait(40)
        monkeypatch.setattr(video, "KEY_INTERVAL_NS", 0)
        writer.write_frame(smooth(last + 1))
        # Too slow here to be in time, it is answered without a frame, and asks again.
        assert (units(late) or units(ask(1))) == [(last + 1, True)]


def test_a_receiver_of_h264_gets_the_frame_after_one_that_does_not_decode(
    segment_name: str, copy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = video.VideoDecoder.decode

    def refuse_the_sixth(decoder: video.VideoDecoder, sent: SentFrame) -> Any:
        if sent.header.sequence == 6:
            decoder.reset()
            raise WireError("frame 6 does not decode")
        return decode(decoder, sent)

    monkeypatch.setattr(video.VideoDecoder, "decode", refuse_the_sixth)
    monkeypatch.setattr(video, "KEY_INTERVAL_NS", 0)
    with (
        SharedMemoryFrameWriter(segment_name, (120, 160, 3)) as writer,
        sending(tmp_path, segment_name),
        receiving(tmp_path, segment_name, copy, codec="h264") as loop,
        SharedMemoryFrameReader(copy) as reader,
    ):
        for number in range(1, 10):
            writer.write_frame(smooth(number))
            if number == 6:
                wait_until(lambda: loop.statistics.unreadable)
                continue
            frame, metadata = new_frame(reader)
            assert metadata.source_sequence == number
            assert psnr(frame, smooth(number)) > 25
        assert (loop.statistics.unreadable, loop.statistics.rejected) == (1, 0)


def test_a_receiver_that_returns_to_h264_gets_the_next_frame(
    segment_name: str, copy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "KEY_INTERVAL_NS", 0)
    with (
        SharedMemoryFrameWriter(segment_name, (120, 160, 3)) as writer,
        sending(tmp_path, segment_name),
        receiving(tmp_path, segment_name, copy, codec="h264") as loop,
        SharedMemoryFrameReader(copy) as reader,
    ):
        for number in range(1, 13):
            writer.write_frame(smooth(number))
            frame, metadata = new_frame(reader)
            assert metadata.source_sequence == number
            assert psnr(frame, smooth(number)) > 25
            if number == 4:
                loop._choice.codec = Codec.JPEG
            if number == 8:
                assert loop._status.backend == "Zenoh jpeg"
                loop._choice.codec = Codec.H264
        assert loop._status.backend == "Zenoh h264"
        assert loop.statistics.rejected == 0


@pytest.mark.parametrize("beside", [{}, {"every": True}], ids=["the newest", "every frame"])
def test_a_receiver_of_h264_that_wants_every_frame_misses_none_beside_another_that_starts(
    segment_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: dict[str, bool]
) -> None:
    monkeypatch.setattr(video, "KEY_INTERVAL_NS", 0)
    origin = Origin(HOST, ID, segment_name)

    def ask(**more: Any) -> list[SentFrame]:
        request = Request(Kind.FRAMES, codec=Codec.H264, wait_ms=800, **more)
        frames: list[SentFrame] = []
        for reply in client.get(origin.key, payload=request.pack(), timeout=40.0):
            frames += unpack_frames(reply.ok.payload.to_bytes())
        return frames

    with (
        SharedMemoryFrameWriter(segment_name, (120, 160, 3), history=10) as writer,
        sending(tmp_path, segment_name),
        open_session(network(tmp_path, "connect")) as client,
    ):
        generation = bytes.fromhex(writer.generation)
        writer.write_frame(smooth(1))
        found = wait_until(lambda: ask(every=True, key_frame=True))
        for number in range(2, 8):
            writer.write_frame(smooth(number))
        assert wait_until(lambda: ask(key_frame=True, **beside))
        while found[-1].header.sequence < 7:
            found += ask(every=True, generation=generation, after=found[-1].header.sequence)
    assert [sent.header.sequence for sent in found] == list(range(1, 8))
    decoder = video.VideoDecoder()
    for sent in found:
        assert psnr(video.picture(decoder.decode(sent), sent.header), smooth(sent.header.sequence)) > 25


@pytest.mark.parametrize("without", ["sender", "receiver"])
@pytest.mark.parametrize("pixel_format", ["BGR24", "MJPG"])
def test_without_opencv_frames_are_sent_raw_or_as_captured(
    segment_name: str, copy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: str, pixel_format: str
) -> None:
    frame = smooth(1)
    if pixel_format == "MJPG":
        frame = np.frombuffer(encode_image(frame, "BGR24", ".jpg"), np.uint8).reshape(1, -1)
    if without == "receiver":
        monkeypatch.setitem(sys.modules, "cv2", None)
    with (
        SharedMemoryFrameWriter(segment_name, frame.shape, pixel_format=pixel_format) as writer,
        sending(tmp_path, segment_name),
        receiving(tmp_path, segment_name, copy, codec="auto") as loop,
        SharedMemoryFrameReader(copy) as reader,
    ):
        assert loop._choice.codec is (Codec.JPEG if without == "sender" else Codec.RAW)
        monkeypatch.setitem(sys.modules, "cv2", None)
        writer.write_frame(frame)
        received, metadata = new_frame(reader)
        assert metadata.pixel_format == pixel_format
        assert np.array_equal(received, frame)


def test_without_opencv_a_smaller_frame_is_refused_and_both_ends_say_why(
    source: SharedMemoryFrameWriter,
    copy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.delitem(sys.modules, "billiards_shm.images")
    with sending(tmp_path, source.name) as sender, receiving(tmp_path, source.name, copy, codec="raw", width=16):
        wait_until(lambda: sender.senders[0].statistics.failed > 3)
        wait_until(lambda: "it refused the request: this command needs OpenCV: pip install" in caplog.text)
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert sum(line.startswith(f"Frames of {source.name} cannot be sent as requested: ") for line in lines) == 1


def test_codecs_that_cannot_be_decoded_here_are_refused(
    copy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for codec, module, extra in (("jpeg", "cv2", "headless"), ("h264", "av", "av")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ConfigurationError, match=rf"codec {codec} needs .*\[{extra}\]"):
            Receiver(tmp_path, "table_1", copy, codec=codec)


def test_an_unexpected_error_is_logged_once(
    source: SharedMemoryFrameWriter,
    copy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = []

    def fail(*arguments: Any) -> None:
        failures.append(arguments)
        raise RuntimeError("a bug")

    monkeypatch.setattr(Forms, "encode", fail)
    with sending(tmp_path, source.name), receiving(tmp_path, source.name, copy, codec="raw"):
        wait_until(lambda: len(failures) > 2)
    assert caplog.text.count("RuntimeError('a bug')") == 1
    assert "Traceback" not in caplog.text


# The choice of the codec.


@pytest.mark.parametrize("asked", [Codec.JPEG, Codec.H264])
@pytest.mark.parametrize("pixel_format", ["GRAY16", "P010"])
def test_auto_keeps_16_bits(
    segment_name: str, copy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Codec, pixel_format: str
) -> None:
    frame = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
    with (
        SharedMemoryFrameWriter(segment_name, frame.shape, dtype=np.uint16, pixel_format=pixel_format) as writer,
        sending(tmp_path, segment_name),
        receiving(tmp_path, segment_name, copy) as loop,
        SharedMemoryFrameReader(copy) as reader,
    ):
        loop._choice.codec = asked
        writer.write_frame(frame)
        received, metadata = new_frame(reader)
        assert metadata.pixel_format == pixel_format
        assert np.array_equal(received, frame)


@pytest.mark.parametrize(
    ("height", "width", "scaled", "shape"),
    [(121, 160, None, (121, 160, 3)), (120, 161, None, (120, 161, 3)), (100, 132, 33, (25, 33, 3))],
)
def test_auto_never_crops_odd_sizes(
    segment_name: str, copy: str, tmp_path: Path, height: int, width: int, scaled: int | None, shape: tuple[int, ...]
) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, (height, width, 3)) as writer,
        sending(tmp_path, segment_name),
        receiving(tmp_path, segment_name, copy, width=scaled) as loop,
        SharedMemoryFrameReader(copy) as reader,
    ):
        loop._choice.codec = Codec.H264
        writer.write_frame(smooth(1, height, width))
        assert new_frame(reader)[0].shape == shape


def test_the_log_says_what_auto_has_chosen_although_frames_do_not_show_how_fast_the_link_is(
    source: SharedMemoryFrameWriter, copy: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    said = re.compile(rf"{source.name} is fetched as (raw|jpeg|h264): link \d+ Mbit/s, about \d+\.\d ms a frame")
    with (
        sending(tmp_path, source.name),
        receiving(tmp_path, source.name, copy),
        SharedMemoryFrameReader(copy) as reader,
        written_all_the_while(source, picture),
    ):
        new_frame(reader)
        wait_until(lambda: reader.read_frame() and said.search(caplog.text), "the choice")


# Loss.


def test_the_state_of_the_source_comes_along(source: SharedMemoryFrameWriter, copy: str, tmp_path: Path) -> None:
    with (
        sending(tmp_path, source.name),
        receiving(tmp_path, source.name, copy, codec="raw"),
        SharedMemoryFrameReader(copy) as reader,
    ):
        new_frame(reader)
        wait_until(lambda: reader.source_state is SourceState.STREAMING)
        source.update_source(state="reconnecting", reason="timeout: no frame within 5.0 s")
        wait_until(lambda: reader.source_state is SourceState.RECONNECTING)
        assert reader.source_reason == "timeout: no frame within 5.0 s"
        source.update_source(state="streaming", reason="")
        source.write_frame(picture(2))
        wait_until(lambda: reader.source_state is SourceState.STREAMING)
        assert reader.source_reason == ""


def test_a_sender_that_ends_and_comes_back(source: SharedMemoryFrameWriter, copy: str, tmp_path: Path) -> None:
    with receiving(tmp_path, source.name, copy, codec="raw") as loop, SharedMemoryFrameReader(copy) as reader:
        with sending(tmp_path, source.name):
            new_frame(reader)
        wait_until(lambda: reader.source_state is SourceState.RECONNECTING)
        assert reader.source_reason == f"not found: {HOST} no longer offers {source.name}"
        source.write_frame(picture(2))
        with sending(tmp_path, source.name):
            frame, metadata = new_frame(reader)
            assert sees(frame, 2)
            assert metadata.sequence == 2
            wait_until(lambda: reader.source_state is SourceState.STREAMING)
        assert loop.statistics.reconnects == 1


def test_an_origin_that_is_closed_and_starts_again(segment_name: str, copy: str, tmp_path: Path) -> None:
    with sending(tmp_path) as sender:
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            writer.write_frame(picture(1))
            offered = sender.offer(segment_name)
            receiver = Receiver(tmp_path, segment_name, copy, codec="raw")
            reader = SharedMemoryFrameReader(copy)
            new_frame(reader)
        wait_until(lambda: reader.source_state is SourceState.RECONNECTING)
        assert reader.source_reason.startswith("end of stream: ")
        assert not offered.update()
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            writer.write_frame(picture(7))
            assert offered.update()
            frame, metadata = new_frame(reader)
            assert sees(frame, 7)
            assert (metadata.sequence, metadata.source_sequence) == (2, 1)
        reader.close()
        receiver.close()
        assert receiver.error is None


def test_a_copy_with_a_history_gets_every_frame_that_is_still_there_and_counts_the_others(
    segment_name: str, copy: str, tmp_path: Path
) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE, history=10) as writer:
        writer.write_frame(picture(1))
        receiver = Receiver(tmp_path, segment_name, copy, codec="raw", history=12)
        with SharedMemoryFrameReader(copy) as reader:
            with sending(tmp_path, segment_name):
                new_frame(reader)
            wait_until(lambda: reader.source_state is SourceState.RECONNECTING)
            for number in range(2, 20):
                writer.write_frame(picture(number))
            with sending(tmp_path, segment_name):
                numbers = [reader.read_next(40.0)[1].source_sequence for _ in range(11)]
        receiver.close()
    assert receiver.progress > 0
    assert numbers == list(range(9, 20))
    assert receiver.loop.statistics.link_missed == 7


def test_frames_that_are_missing_between_those_of_an_answer_are_counted(copy: str) -> None:
    source = MirroredConfig(origin="table_1", name=copy, history=4)
    loop = MirrorLoop(receive_settings(Settings(), source), source, Stop(), lambda: None)
    header = FrameHeader(1, 1, 1, 1, None, (4, 4, 3), np.dtype("uint8"), "BGR24", online=True)
    answer = Answer(0, 1, 1, generation=b"a" * 16)
    try:
        for numbers in ((1,), (3, 4, 7)):
            frames = [SentFrame(replace(header, sequence=number), bytes(48)) for number in numbers]
            loop._take_frames(RemoteClock(), answer, frames, time.monotonic_ns())
    finally:
        loop.close()
    assert loop.statistics.link_missed == 3


def test_a_copy_with_a_history_gets_what_is_left_of_a_segment_that_was_closed_and_then_the_next_one(
    segment_name: str, tmp_path: Path
) -> None:
    origin = Origin(HOST, ID, segment_name)
    generation, after = bytes(16), 0

    def ask() -> int:
        """The number of the frame that arrives; 0 if none does."""
        nonlocal generation, after
        request = Request(Kind.FRAMES, every=True, wait_ms=800, generation=generation, after=after)
        for reply in client.get(origin.key, payload=request.pack(), timeout=40.0):
            for sent in unpack_frames(reply.ok.payload.to_bytes()):
                generation = Answer.unpack(reply.ok.attachment.to_bytes()).generation
                after = sent.header.sequence
                return after
        return 0

    with sending(tmp_path, segment_name), open_session(network(tmp_path, "connect")) as client:
        for _ in range(2):
            with SharedMemoryFrameWriter(segment_name, SHAPE, history=10) as writer:
                writer.write_frame(picture(1))
                wait_until(lambda: ask() and generation.hex() == writer.generation)
                first = after
                for number in range(2, 8):
                    writer.write_frame(picture(number))
            assert [wait_until(ask) for _ in range(6)] == list(range(first + 1, first + 7))


# Which segment is meant.


def test_a_segment_that_no_host_offers_is_not_found_and_offered_ones_are_named(
    source: SharedMemoryFrameWriter, copy: str, tmp_path: Path
) -> None:
    with sending(tmp_path, source.name):
        receiver = Receiver(tmp_path, "other@attic", copy, open_timeout_sec=1.0)
        error = receiver.wait()
    assert receiver.progress == 0  # which a service manager would mistake for a segment
    assert isinstance(error, CameraError)
    assert str(error) == (
        f"cannot open other@attic: not found: no host offers it (offered are {source.name}@{ID} (of {HOST}))"
    )


def test_two_hosts_with_one_name_are_distinguished(source: SharedMemoryFrameWriter, copy: str, tmp_path: Path) -> None:
    with sending(tmp_path, source.name) as sender:
        sender.offer(source.name, identity="99990000")
        error = Receiver(tmp_path, f"{source.name}@{HOST}", copy).wait()
        assert isinstance(error, ConfigurationError)
        assert f"{source.name}@{ID} (of {HOST}), {source.name}@99990000 (of {HOST}); say which" in str(error)
        with receiving(tmp_path, f"{source.name}@99990000", copy), SharedMemoryFrameReader(copy) as reader:
            new_frame(reader)
        assert not sender.senders[0].statistics.frames


def test_a_segment_that_is_a_path(tmp_path: Path) -> None:
    name = str(tmp_path / "a*b ?#$ä@c")
    with SharedMemoryFrameWriter(name, SHAPE) as writer:
        writer.write_frame(picture(1))
        with (
            sending(tmp_path, name),
            receiving(tmp_path, f"{name}@{HOST}", str(tmp_path / "copy"), codec="raw"),
            SharedMemoryFrameReader(str(tmp_path / "copy")) as reader,
        ):
            assert sees(new_frame(reader)[0], 1)


@pytest.mark.parametrize("text", ["a", "a.b-c_d", "/dev/shm/x y", "ä/*?#$@", "%2F", "…", "/tmp/\udcff"])
def test_a_key_returns_what_it_was_made_of(text: str) -> None:
    origin = Origin(text, text, text)
    assert Origin.of_key(origin.key) == origin
    assert not set("*$#?") & set(origin.key)
    zenoh.KeyExpr(origin.key)


@pytest.mark.parametrize(
    "key", ["billiards_shm/1/a/b", "billiards_shm/2/a/b/c", "x/billiards_shm/1/a/b/c", "billiards_shm/1/a/b/%"]
)
def test_other_keys_are_not_ours(key: str) -> None:
    assert Origin.of_key(key) is None


def test_the_id_of_a_host_stays_and_is_that_of_its_machine_and_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = itertools.count(1)
    monkeypatch.setattr(uuid, "getnode", lambda: next(numbers))  # as where no interface has an address
    file = tmp_path / "machine-id"
    monkeypatch.setattr(keys, "MACHINE_ID", file, raising=False)
    file.write_text("3d1219c7c4c5404aaa1f6d2a48adfda4\n")
    first = host_id("kitchen")
    assert host_id("kitchen") == first
    assert host_id("cellar") != first
    file.write_text("3d1219c7c4c5404aaa1f6d2a48adfda5\n")
    assert host_id("kitchen") != first


@pytest.mark.parametrize("text", [None, "", "uninitialized\n"])
def test_a_host_without_a_machine_id_is_known_by_its_network_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    file = tmp_path / "machine-id"
    monkeypatch.setattr(keys, "MACHINE_ID", file, raising=False)
    if text is not None:
        file.write_text(text)
    ids = []
    for address in (1, 1, 2):
        monkeypatch.setattr(uuid, "getnode", lambda address=address: address)
        ids.append(host_id("kitchen"))
    assert ids[0] == ids[1] != ids[2]


# What others send.


def foreign_answers() -> list[tuple[bytes, bytes | None]]:
    """Payload and attachment of malformed answers."""
    good = Answer(nonce=0, received_ns=1, sent_ns=2)
    return [
        (b"", None),
        (b"x" * 100, b"y" * 100),
        (b"", good.pack()),
        (b"", good.pack() + b"x"),
        (b"x" * 1000, good.pack()),
    ]


@pytest.mark.slow
def test_answers_of_a_foreign_publisher_are_refused_counted_and_named(
    source: SharedMemoryFrameWriter, copy: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    origin = Origin(HOST, ID, source.name)
    answers = itertools.cycle(foreign_answers())

    with open_session(network(tmp_path, "listen")) as session:

        def answer(query: zenoh.Query) -> None:
            payload, attachment = next(answers)
            threading.Thread(target=reply, args=(query, payload, attachment)).start()

        def reply(query: zenoh.Query, payload: bytes, attachment: bytes | None) -> None:
            with query:
                query.reply(origin.key, payload, attachment=attachment)

        with (
            session.declare_queryable(origin.key, answer),
            session.liveliness().declare_token(origin.key),
            receiving(tmp_path, source.name, copy) as loop,
        ):
            wait_until(lambda: loop.statistics.rejected >= 10)
            assert loop.statistics.captured == 0
    assert "Refused an answer" in caplog.text


def test_a_sender_that_has_no_place_for_a_receiver_is_not_asked_again_immediately(
    source: SharedMemoryFrameWriter, copy: str, tmp_path: Path
) -> None:
    origin = Origin(HOST, ID, source.name)
    asked: list[int] = []

    def answer(query: zenoh.Query) -> None:
        request = Request.unpack(query.payload.to_bytes())
        if request.kind is Kind.FRAMES:
            asked.append(time.monotonic_ns())
        with query:
            query.reply(origin.key, b"", attachment=Answer(request.nonce, 1, 2).pack())

    with (
        open_session(network(tmp_path, "listen")) as session,
        session.declare_queryable(origin.key, answer),
        session.liveliness().declare_token(origin.key),
        receiving(tmp_path, source.name, copy),
    ):
        wait_until(lambda: len(asked) > 5)
    assert np.diff(asked).min() > 0.9 * REJECTED_PAUSE_SEC * 1e9


def test_a_copy_that_is_offered_to_others_is_not_mistaken_for_its_origin(tmp_path: Path) -> None:
    source = MirroredConfig(origin="table_1")
    settings = receive_settings(Settings(mirror=MirrorConfig(host_name=HOST)), source)
    itself, other = Origin(HOST, host_id(HOST), "table_1"), Origin("hall", ID, "table_1")

    class Known:
        def now(self) -> list[Origin]:
            return [itself, other]

    assert MirrorLoop(settings, source, Stop(), lambda: None)._matching(Known()) == [other]


def test_malformed_requests_are_refused_and_the_others_answered(
    source: SharedMemoryFrameWriter, tmp_path: Path
) -> None:
    origin = Origin(HOST, ID, source.name)
    with sending(tmp_path, source.name) as sender, open_session(network(tmp_path, "connect")) as session:
        wait_until(lambda: list(session.get(origin.key, payload=b"", timeout=1.0)))
        for data in (b"", b"x" * 48, Request.pack(Request(0))[:-1]):  # type: ignore[arg-type]
            (reply,) = session.get(origin.key, payload=data, timeout=5.0)
            assert reply.err is not None
        assert sender.senders[0].statistics.rejected >= 4
        (reply,) = session.get(origin.key, payload=Request(0, codec=Codec.RAW).pack(), timeout=5.0)  # type: ignore[arg-type]
        assert reply.ok is not None


class HeldUp(Executor):
    """A pool whose threads are all busy until `run`."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], object]] = []

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        self.jobs.append(lambda: function(*arguments, **options))
        return Future()

    def run(self) -> None:
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            job()


def test_a_flood_of_requests_is_bounded(tmp_path: Path, segment_name: str) -> None:
    pool = HeldUp()
    origin = Origin(HOST, ID, segment_name)
    request = Request(Kind.CLOCK).pack()
    with open_session(network(tmp_path, "listen")) as session, open_session(network(tmp_path, "connect")) as client:
        sender = SegmentSender(session, origin, pool)
        wait_until(lambda: [client.get(origin.key, payload=request), pool.jobs][1])
        asked = [client.get(origin.key, payload=request) for _ in range(MOST_JOBS + 20)]
        wait_until(lambda: sender.statistics.rejected >= 20)
        assert len(pool.jobs) == MOST_JOBS
        pool.run()
        assert sum(reply.ok is not None for replies in asked for reply in replies) >= MOST_JOBS - 20
        answer = client.get(origin.key, payload=request)
        replies: list[zenoh.Reply | None] = []

        def comes() -> bool:
            pool.run()  # requests of the flood may arrive until now
            replies.append(answer.try_recv())
            return replies[-1] is not None

        wait_until(comes)
        assert replies[-1] is not None
        assert replies[-1].ok is not None
        sender.close()


def test_a_slow_answer_delays_no_other_receiver(
    source: SharedMemoryFrameWriter, copy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_up: list[int] = []
    freed = threading.Event()
    reply = SegmentSender._reply

    def reply_slowly(sender: SegmentSender, pending: Any, answer: Answer, *payload: Any) -> None:
        if not held_up and threading.current_thread().name.startswith("read"):
            held_up.append(pending.request.width)
            freed.wait()
        reply(sender, pending, answer, *payload)

    widths = (0, 16)
    with contextlib.ExitStack() as stack:
        stack.enter_context(sending(tmp_path, source.name))
        readers = {}
        for width in widths:
            more = {"width": width} if width else {}
            stack.enter_context(receiving(tmp_path, source.name, f"{copy}{width}", codec="raw", **more))
            readers[width] = stack.enter_context(SharedMemoryFrameReader(f"{copy}{width}"))
            new_frame(readers[width])
        monkeypatch.setattr(SegmentSender, "_reply", reply_slowly)
        stack.enter_context(written_all_the_while(source, picture))
        stack.callback(freed.set)
        wait_until(lambda: held_up)
        (other,) = set(widths) - set(held_up)
        now = time.monotonic_ns()
        for _ in range(20):
            _, metadata = new_frame(readers[other])
        assert metadata.capture_time_ns > now


def test_a_rate_gets_the_newest_frame_and_not_one_read_for_others(
    source: SharedMemoryFrameWriter, tmp_path: Path
) -> None:
    origin = Origin(HOST, ID, source.name)

    def ask(**more: Any) -> int:
        request = Request(Kind.FRAMES, nonce=1, wait_ms=500, **more)
        while True:
            for reply in client.get(origin.key, payload=request.pack(), timeout=1.0):
                if reply.ok is not None:
                    return Answer.unpack(reply.ok.attachment.to_bytes()).sequence

    with sending(tmp_path, source.name), open_session(network(tmp_path, "connect")) as client:
        assert ask(fps=20.0) == 1
        source.write_frame(picture(2))
        assert ask() == 2
        source.write_frame(picture(3))
        time.sleep(0.1)  # until another is due
        assert ask(fps=20.0) == 3


def test_a_rate_is_kept_and_receivers_with_one_rate_share_frames(
    source: SharedMemoryFrameWriter, copy: str, tmp_path: Path
) -> None:
    with (
        sending(tmp_path, source.name) as sender,
        receiving(tmp_path, source.name, f"{copy}1", codec="jpeg", fps=10),
        receiving(tmp_path, source.name, f"{copy}2", codec="jpeg", fps=10),
        SharedMemoryFrameReader(f"{copy}1") as one,
        SharedMemoryFrameReader(f"{copy}2") as two,
        written_all_the_while(source, picture),
    ):
        times = []
        for _ in range(12):
            for reader in (one, two):
                _, metadata = new_frame(reader)
                times.append(metadata.wall_time_ns)
        frames = sorted(set(times))
        assert np.median(np.diff(frames[2:])) > 0.08e9
        counts = sender.senders[0].statistics
        assert sender.senders[0].encoded < 0.8 * counts.frames

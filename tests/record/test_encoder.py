"""Frames of every pixel format become H.264 that shows the same, or stay unchanged; their times rise."""

from itertools import pairwise

import av
import cv2
import numpy as np
import pytest
from jpegs import as_frame, jpeg

from billiards_shm import ConfigurationError, FrameShapeError, SharedMemoryFrameReader, SharedMemoryFrameWriter
from billiards_shm.encoder import (
    COPY,
    RAW_FORMATS,
    DamagedFrameError,
    Encoder,
    EncoderOptions,
    Timeline,
    check_codec,
    open_encoder,
)
from billiards_shm.images import convert
from billiards_shm.pixel_formats import PIXEL_FORMATS

WIDTH, HEIGHT = 322, 242
ENCODED = [name for name in PIXEL_FORMATS if name != "RAW"]


def picture(first: int = 0) -> np.ndarray:
    """Soft colours, which survive coarse chroma and strong compression."""
    small = np.random.default_rng(first).integers(60, 200, (3, 4, 3), np.uint8)
    return cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def frame_of(name: str, image: np.ndarray) -> np.ndarray:
    """An array in a pixel format that shows roughly that picture, in gray if the format has no colour."""
    row = PIXEL_FORMATS[name]
    if name == "MJPG":
        return as_frame(jpeg(image, 95))
    if row.chroma:
        planes = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420).reshape(-1)
        luma, u, v = np.split(planes, [WIDTH * HEIGHT, WIDTH * HEIGHT * 5 // 4])
        chroma = {"u": u, "v": v, "uv": np.stack([u, v], -1), "vu": np.stack([v, u], -1)}
        array = np.concatenate([luma, *(chroma[each].reshape(-1) for each in row.chroma)]).reshape(-1, WIDTH)
        return array.astype(np.uint16) << 8 if row.dtype == "uint16" else array
    if name.startswith("BAYER"):
        return image[..., 0].copy()
    code = {"YUYV": "YUV_YUYV", "UYVY": "YUV_UYVY", "BGRA32": "BGRA", "RGB24": "RGB", "GRAY8": "GRAY", "GRAY16": "GRAY"}
    if name not in code:
        return image
    array = cv2.cvtColor(image, getattr(cv2, f"COLOR_BGR2{code[name]}"))
    return array.astype(np.uint16) << 8 if name == "GRAY16" else array


def shown(data: list[bytes]) -> list[np.ndarray]:
    decoder = av.CodecContext.create("h264", "r")
    decoded = [frame for each in data for frame in decoder.decode(av.Packet(each))] + decoder.decode(None)
    return [frame.to_ndarray(format="bgr24") for frame in decoded]


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other).mean())


@pytest.mark.parametrize("name", ENCODED)
def test_h264_shows_what_the_frame_shows(segment_name: str, name: str) -> None:
    array = frame_of(name, picture())
    with SharedMemoryFrameWriter(segment_name, array.shape, dtype=array.dtype, pixel_format=name) as writer:
        writer.write_frame(array)
        with SharedMemoryFrameReader(segment_name) as reader:
            frame, metadata = reader.read_frame()
            encoder = open_encoder(EncoderOptions(crf=10), frame, metadata)
            (encoded,) = encoder.encode(frame, metadata)
            expected = convert(frame, name, "BGR24")
    assert (encoder.format.codec, encoder.format.width, encoder.format.height) == ("h264", WIDTH, HEIGHT)
    assert encoded.key
    assert (encoded.sequence, encoded.capture_time_ns) == (1, metadata.capture_time_ns)
    (image,) = shown([encoded.data])
    assert difference(image, expected) < 5 < difference(image, picture(1))


@pytest.mark.parametrize("height", [2, 50, 52])
@pytest.mark.parametrize("name", [name for name in ENCODED if PIXEL_FORMATS[name].chroma])
def test_the_planes_of_any_height_are_found(segment_name: str, name: str, height: int) -> None:
    row = PIXEL_FORMATS[name]
    planes = np.full(row.array_shape(64, height), 128, np.uint8)
    planes[:height] = 40
    array = planes.astype(np.uint16) << 8 if row.dtype == "uint16" else planes
    with SharedMemoryFrameWriter(segment_name, array.shape, dtype=array.dtype, pixel_format=name) as writer:
        writer.write_frame(array)
        with SharedMemoryFrameReader(segment_name) as reader:
            frame, metadata = reader.read_frame()
            encoded = open_encoder(EncoderOptions(crf=1), frame, metadata).encode(frame, metadata)
    decoder = av.CodecContext.create("h264", "r")
    (decoded,) = decoder.decode(av.Packet(encoded[0].data)) + decoder.decode(None)
    seen = decoded.to_ndarray(format="yuv420p")
    assert abs(seen[:height].astype(int) - 40).max() <= 2
    assert abs(seen[height:].astype(int) - 128).max() <= 2


@pytest.mark.parametrize("name", ["MJPG", *sorted(RAW_FORMATS)])
def test_a_copy_is_the_bytes_of_the_frame(segment_name: str, name: str) -> None:
    array = frame_of(name, picture())
    with SharedMemoryFrameWriter(segment_name, array.shape, dtype=array.dtype, pixel_format=name) as writer:
        writer.write_frame(array)
        with SharedMemoryFrameReader(segment_name) as reader:
            frame, metadata = reader.read_frame()
            encoder = open_encoder(EncoderOptions(codec=COPY), frame, metadata)
            (encoded,) = encoder.encode(frame, metadata)
    assert encoded.data == array.tobytes()
    assert encoded.key
    assert (encoder.format.width, encoder.format.height) == (WIDTH, HEIGHT)


@pytest.fixture
def frames(segment_name: str):
    """Write a frame and read it back."""
    with (
        SharedMemoryFrameWriter(segment_name, (*picture().shape[:2], 3)) as writer,
        SharedMemoryFrameReader(segment_name, copy=True) as reader,
    ):

        def written(image: np.ndarray, capture_ms: float = 0.0, pixel_format: str | None = None):
            writer.write_frame(image, capture_time_ns=round(capture_ms * 1e6) + 1, pixel_format=pixel_format)
            return reader.read_frame()

        yield written


def keys(encoder: Encoder, frames, times_ms: list[float], forced: frozenset[int] = frozenset()) -> list[int]:
    found = []
    for number, time_ms in enumerate(times_ms):
        (encoded,) = encoder.encode(*frames(picture(), time_ms), key=number in forced)
        found += [number] if encoded.key else []
    return found


def test_decoding_can_start_as_often_as_requested_by_frame_times_and_where_forced(frames) -> None:
    encoder = open_encoder(EncoderOptions(key_interval_s=0.5, fps=1000), *frames(picture()))
    assert keys(encoder, frames, [0, 100, 200, 499, 500, 600, 700, 800, 1100, 1200], frozenset({6})) == [0, 3, 6, 8]
    assert keys(encoder, frames, [1201, 1599, 1601, 2400]) == [1, 3]


def test_the_encoders_own_count_adds_no_key_frames_to_the_timed_ones(frames) -> None:
    encoder = open_encoder(EncoderOptions(key_interval_s=0.5, fps=20), *frames(picture()))
    assert keys(encoder, frames, [49.9 * number for number in range(40)]) == [0, 9, 18, 27, 36]


@pytest.mark.parametrize("fps", [2, 5, 15, 25, 30])
def test_key_frames_are_no_further_apart_than_requested_although_frames_come_irregularly(frames, fps: int) -> None:
    """Unless the frames themselves are further apart."""
    rng = np.random.default_rng(fps)
    times_ms = [1000 / fps * (number + rng.uniform(-0.2, 0.2)) for number in range(4 * fps + 20)]
    encoder = open_encoder(EncoderOptions(key_interval_s=0.5, fps=fps), *frames(picture(), times_ms[0]))
    found = keys(encoder, frames, times_ms)
    apart_ms = {number: times_ms[later] - times_ms[number] for number, later in pairwise(found) if later > number + 1}
    assert max(apart_ms.values(), default=0) <= 500


def test_a_key_frame_is_decoded_without_those_before_it(frames) -> None:
    encoder = open_encoder(EncoderOptions(), *frames(picture()))
    encoded = [encoder.encode(*frames(picture(number), number), key=number == 3)[0] for number in range(5)]
    images = shown([each.data for each in encoded[3:]])
    assert [difference(image, picture(number)) < 5 for number, image in zip((3, 4), images, strict=True)] == [True] * 2


def test_an_encoder_takes_only_frames_of_its_format_and_size(frames) -> None:
    found = frames(picture())
    encoder = open_encoder(EncoderOptions(), *found)
    assert encoder.takes(*found)
    assert not encoder.takes(*frames(picture()[:100].copy()))
    assert not encoder.takes(*frames(picture(), pixel_format="RGB24"))


def test_an_odd_size_loses_its_last_row_and_column(frames) -> None:
    image = picture()[:101, :111].copy()
    encoder = open_encoder(EncoderOptions(crf=10), *frames(image))
    (encoded,) = encoder.encode(*frames(image))
    (decoded,) = shown([encoded.data])
    assert decoded.shape == (100, 110, 3)
    assert difference(decoded, image[:100, :110]) < 5


def test_the_requested_bitrate_is_roughly_kept(frames) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    encoder = open_encoder(EncoderOptions(bitrate=200_000, fps=10), *frames(noise))
    encoded = [encoder.encode(*frames(np.roll(noise, 7 * number, 1), number * 100))[0] for number in range(60)]
    assert sum(len(each.data) for each in encoded[20:]) * 8 / 4 < 400_000


@pytest.mark.parametrize(
    ("array", "pixel_format", "codec", "said"),
    [
        (np.zeros((4, 4), np.float32), "RAW", "h264", "RAW does not say what the pixels are"),
        (np.zeros((4, 4), np.float32), "RAW", COPY, "a file cannot hold RAW"),
        (np.zeros((1, 4, 3), np.uint8), "BGR24", "h264", "frames of 4x1 cannot be encoded"),
        (np.zeros((1, 9), np.uint8), "MJPG", "h264", "frame 1 is not a JPEG"),
    ],
)
def test_a_frame_that_cannot_be_encoded_is_an_error_that_says_why(
    segment_name: str, array: np.ndarray, pixel_format: str, codec: str, said: str
) -> None:
    with SharedMemoryFrameWriter(segment_name, array.shape, dtype=array.dtype, pixel_format=pixel_format) as writer:
        writer.write_frame(array)
        with SharedMemoryFrameReader(segment_name) as reader:
            found = reader.read_frame()
            with pytest.raises(FrameShapeError, match=said):
                open_encoder(EncoderOptions(codec=codec), *found)
            del found


@pytest.mark.parametrize(
    ("codec", "said"),
    [
        ("vp9", "codec 'vp9' is unknown; allowed are h264, "),
        ("h264_amf", "codec 'h264_amf' does not work here"),
        ("h264_videotoolbox", "codec 'h264_videotoolbox' is not in this build"),
    ],
)
def test_a_codec_that_does_not_work_here_is_an_error_before_there_are_frames(codec: str, said: str) -> None:
    check_codec(EncoderOptions())
    check_codec(EncoderOptions(codec=COPY))
    with pytest.raises(ConfigurationError, match=said):
        check_codec(EncoderOptions(codec=codec))


def times(steps_ms: list[tuple[float, float]]) -> list[float]:
    """The timeline's result for steps of the capture clock and of the publication clock."""
    timeline, captured, published, found = Timeline(), 10**12, 10**12, []
    for capture_step, publish_step in [(0, 0), *steps_ms]:
        captured += round(capture_step * 1e6)
        published += round(publish_step * 1e6)
        found.append(timeline.time_us(captured, published) / 1000)
    return found


def test_times_are_the_capture_times() -> None:
    assert times([(33.333, 40), (16.667, 1), (3000, 3000)]) == [0, 33.333, 50, 3050]


def test_a_small_step_back_is_a_microsecond_and_later_times_are_exact_again() -> None:
    assert times([(30, 30), (-5, 30), (10, 30), (30, 30)]) == [0, 30, 30.001, 35, 65]


def test_frames_of_the_same_time_follow_one_another() -> None:
    assert times([(0, 30), (0, 30), (40, 30)]) == [0, 0.001, 0.002, 40]


def test_a_clock_that_jumps_is_followed_from_where_it_was() -> None:
    back = times([(30, 30), (-3_600_000, 33), (30, 30)])
    forth = times([(30, 30), (86_400_000, 33), (30, 30)])
    assert back == forth == [0, 30, 63, 93]


def test_a_source_that_was_away_leaves_a_gap_of_that_length() -> None:
    assert times([(30, 30), (86_400_000, 86_400_010), (30, 30)]) == [0, 30, 86_400_030, 86_400_060]


def test_a_clock_that_jumps_while_nothing_is_published_still_rises() -> None:
    assert times([(30, 30), (-5000, 0), (30, 30)]) == [0, 30, 30.001, 60.001]


@pytest.mark.parametrize("size", [(0, 64), (65000, 65000)])
def test_a_jpeg_with_an_impossible_size_is_damaged(segment_name: str, size: tuple[int, int]) -> None:
    data = jpeg(picture())
    place = data.index(b"\xff\xc0") + 5
    array = as_frame(data[:place] + b"".join(each.to_bytes(2, "big") for each in size) + data[place + 4 :])
    with SharedMemoryFrameWriter(segment_name, array.shape, pixel_format="MJPG") as writer:
        writer.write_frame(array)
        with SharedMemoryFrameReader(segment_name) as reader:
            frame, metadata = reader.read_frame()
            with pytest.raises(DamagedFrameError, match=f"is a JPEG of {size[1]}x{size[0]} in {len(data)} bytes"):
                open_encoder(EncoderOptions(), frame, metadata)


def test_a_size_that_the_encoder_does_not_accept_is_reported(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, (16, 17000, 3)) as writer:
        writer.write_frame(np.zeros((16, 17000, 3), np.uint8))
        with SharedMemoryFrameReader(segment_name) as reader:
            frame, metadata = reader.read_frame()
            with pytest.raises(ConfigurationError, match="frames of 17000x16 cannot be encoded by 'libx264'"):
                open_encoder(EncoderOptions(), frame, metadata)

"""Frames of every format converted to another: as OpenCV does it, and as planes without a copy."""

import sys
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from child_processes import run
from segment_layout import opened
from segments_under_test import path_of

from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter, VideoConsumer, inspect_segment, planes
from billiards_shm.images import convert
from billiards_shm.pixel_formats import PIXEL_FORMATS, format_named, size_text

Array = npt.NDArray[Any]
RNG = np.random.default_rng(3)
HEIGHT, WIDTH = 54, 70
"""Even, but not multiples of four: U of I420 ends in the middle of a row of the array."""
ODD = (53, 71)


def noise(*shape: int, dtype: str = "uint8") -> Array:
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype)


def picture(height: int = HEIGHT, width: int = WIDTH) -> Array:
    return cv2.resize(noise(5, 7, 3), (width, height), interpolation=cv2.INTER_CUBIC)


def jpeg(image: Array) -> Array:
    return cv2.imencode(".jpg", image)[1].reshape(1, -1)


def high(frame: Array) -> Array:
    """The upper eight bits of sixteen."""
    return (frame >> 8).astype(np.uint8)


Conversion = Callable[[Array], Array]


def by(code: int) -> Conversion:
    return lambda frame: cv2.cvtColor(frame, code)


def luma(frame: Array) -> Array:
    return frame[: frame.shape[0] * 2 // 3]


# A frame of each format, and how OpenCV converts it to BGR, RGB and gray. Repeated here, not taken from the table.
CASES: dict[str, tuple[Array, Conversion, Conversion, Conversion]] = {
    "BGR24": (noise(*ODD, 3), np.copy, by(cv2.COLOR_BGR2RGB), by(cv2.COLOR_BGR2GRAY)),
    "RGB24": (noise(*ODD, 3), by(cv2.COLOR_RGB2BGR), np.copy, by(cv2.COLOR_RGB2GRAY)),
    "BGRA32": (noise(*ODD, 4), by(cv2.COLOR_BGRA2BGR), by(cv2.COLOR_BGRA2RGB), by(cv2.COLOR_BGRA2GRAY)),
    "GRAY8": (noise(*ODD), by(cv2.COLOR_GRAY2BGR), by(cv2.COLOR_GRAY2RGB), np.copy),
    "GRAY16": (
        noise(*ODD, dtype="uint16"),
        lambda frame: cv2.cvtColor(high(frame), cv2.COLOR_GRAY2BGR),
        lambda frame: cv2.cvtColor(high(frame), cv2.COLOR_GRAY2RGB),
        high,
    ),
    "YUYV": (
        noise(ODD[0], WIDTH, 2),
        by(cv2.COLOR_YUV2BGR_YUYV),
        by(cv2.COLOR_YUV2RGB_YUYV),
        by(cv2.COLOR_YUV2GRAY_YUYV),
    ),
    "UYVY": (
        noise(ODD[0], WIDTH, 2),
        by(cv2.COLOR_YUV2BGR_UYVY),
        by(cv2.COLOR_YUV2RGB_UYVY),
        by(cv2.COLOR_YUV2GRAY_UYVY),
    ),
    "NV12": (noise(HEIGHT * 3 // 2, WIDTH), by(cv2.COLOR_YUV2BGR_NV12), by(cv2.COLOR_YUV2RGB_NV12), luma),
    "NV21": (noise(HEIGHT * 3 // 2, WIDTH), by(cv2.COLOR_YUV2BGR_NV21), by(cv2.COLOR_YUV2RGB_NV21), luma),
    "I420": (noise(HEIGHT * 3 // 2, WIDTH), by(cv2.COLOR_YUV2BGR_I420), by(cv2.COLOR_YUV2RGB_I420), luma),
    "YV12": (noise(HEIGHT * 3 // 2, WIDTH), by(cv2.COLOR_YUV2BGR_YV12), by(cv2.COLOR_YUV2RGB_YV12), luma),
    "P010": (
        noise(HEIGHT * 3 // 2, WIDTH, dtype="uint16"),
        lambda frame: cv2.cvtColor(high(frame), cv2.COLOR_YUV2BGR_NV12),
        lambda frame: cv2.cvtColor(high(frame), cv2.COLOR_YUV2RGB_NV12),
        lambda frame: luma(high(frame)),
    ),
    # OpenCV named the orders after the second row and column; the self-explanatory names are newer.
    "BAYER_RGGB8": (noise(*ODD), *map(by, (cv2.COLOR_BayerBG2BGR, cv2.COLOR_BayerBG2RGB, cv2.COLOR_BayerBG2GRAY))),
    "BAYER_BGGR8": (noise(*ODD), *map(by, (cv2.COLOR_BayerRG2BGR, cv2.COLOR_BayerRG2RGB, cv2.COLOR_BayerRG2GRAY))),
    "BAYER_GRBG8": (noise(*ODD), *map(by, (cv2.COLOR_BayerGB2BGR, cv2.COLOR_BayerGB2RGB, cv2.COLOR_BayerGB2GRAY))),
    "BAYER_GBRG8": (noise(*ODD), *map(by, (cv2.COLOR_BayerGR2BGR, cv2.COLOR_BayerGR2RGB, cv2.COLOR_BayerGR2GRAY))),
    "MJPG": (
        jpeg(picture(*ODD)),
        lambda frame: cv2.imdecode(frame, cv2.IMREAD_COLOR),
        lambda frame: cv2.imdecode(frame, cv2.IMREAD_COLOR)[..., ::-1],
        lambda frame: cv2.imdecode(frame, cv2.IMREAD_GRAYSCALE),
    ),
}
TARGETS = ("BGR24", "RGB24", "GRAY8")
PLANAR = ("NV12", "NV21", "I420", "YV12", "P010")


def written(name: str, pixel_format: str, frame: Array) -> SharedMemoryFrameWriter:
    writer = SharedMemoryFrameWriter(name, frame.shape, dtype=frame.dtype, pixel_format=pixel_format)
    writer.write_frame(frame, capture_time_ns=4711, position_ms=5.0)
    return writer


def padded(frame: Array) -> Array:
    """The same pixels, with a gap after each row."""
    wide = np.zeros((frame.shape[0], frame.shape[1] + 26, *frame.shape[2:]), frame.dtype)
    wide[:, : frame.shape[1]] = frame
    return wide[:, : frame.shape[1]]


def test_every_format_that_can_be_converted_is_among_these() -> None:
    assert [*CASES, "RAW"] == list(PIXEL_FORMATS)
    assert [name for name, row in PIXEL_FORMATS.items() if row.chroma] == list(PLANAR)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("pixel_format", CASES)
def test_a_reader_gets_the_format_it_asks_for_as_opencv_makes_it(name: str, pixel_format: str, target: str) -> None:
    frame, *conversions = CASES[pixel_format]
    truth = conversions[TARGETS.index(target)](frame)
    with written(name, pixel_format, frame), SharedMemoryFrameReader(name) as reader:
        _, published = reader.latest_frame()
        found, metadata = reader.latest_frame(format=target)
        assert found is not None
        assert metadata is not None
        assert published is not None
        np.testing.assert_array_equal(found, truth)
        assert (metadata.pixel_format, metadata.dtype) == (target, np.uint8)
        assert (metadata.height, metadata.width) == found.shape[:2]
        assert metadata.channels == (1 if target == "GRAY8" else 3)
        assert (metadata.sequence, metadata.capture_time_ns, metadata.position_ms) == (1, 4711, 5.0)
        assert metadata.generation == published.generation
        assert metadata.zero_copy == (not found.flags.writeable)
        own, about_own = reader.latest_frame(format=target, copy=True)
        np.testing.assert_array_equal(own, truth)
        assert own is not None
        assert own.flags.writeable
        assert about_own is not None
        assert not about_own.zero_copy


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("pixel_format", [name for name in CASES if name != "MJPG"])
def test_padded_rows_make_no_difference(pixel_format: str, target: str) -> None:
    frame, *conversions = CASES[pixel_format]
    truth = conversions[TARGETS.index(target)](frame)
    np.testing.assert_array_equal(convert(padded(frame), pixel_format, target), truth)
    out = padded(np.zeros_like(truth))
    if pixel_format != target:
        assert convert(padded(frame), pixel_format, target, out) is out
        np.testing.assert_array_equal(out, truth)


@pytest.mark.parametrize("pixel_format", ["NV12", "NV21", "I420", "YV12"])
def test_gray_of_a_planar_format_is_its_luma_plane_without_a_copy(name: str, pixel_format: str) -> None:
    frame = CASES[pixel_format][0]
    with written(name, pixel_format, frame), SharedMemoryFrameReader(name) as reader:
        gray, metadata = reader.read_frame(format="GRAY8")
        assert gray is not None
        assert metadata is not None
        assert metadata.zero_copy
        assert not gray.flags.writeable
        assert np.shares_memory(gray, reader.latest_frame()[0])
        np.testing.assert_array_equal(gray, frame[:HEIGHT])


def test_a_frame_that_has_the_format_is_returned_unchanged(name: str) -> None:
    with written(name, "BGR24", picture()), SharedMemoryFrameReader(name) as reader:
        frame, metadata = reader.read_frame(format="BGR24")
        assert metadata is not None
        assert metadata.zero_copy
        assert np.shares_memory(frame, reader.latest_frame()[0])


def test_reading_converted_frames_uses_them_up_and_holds_no_slot(name: str) -> None:
    with (
        written(name, "NV12", CASES["NV12"][0]) as writer,
        SharedMemoryFrameReader(name, max_leases=1) as reader,
    ):
        first, _ = reader.read_frame(format="BGR24")
        assert first is not None
        assert reader.read_frame(format="BGR24") == (None, None)
        writer.write_frame(CASES["NV12"][0])
        second, metadata = reader.read_frame()
        assert second is not None
        assert metadata is not None
        assert metadata.zero_copy, "the lease is free"


def test_raw_frames_cannot_be_converted(name: str) -> None:
    with written(name, "RAW", noise(8, 8, 5)), SharedMemoryFrameReader(name) as reader:
        with pytest.raises(ValueError, match=r"RAW.*BGR24"):
            reader.read_frame(format="BGR24")
        assert reader.latest_frame()[0] is not None


@pytest.mark.parametrize(
    ("pixel_format", "frame"),
    [
        ("NV12", noise(50, 64)),
        ("I420", noise(54, 63)),
        ("YUYV", noise(8, 7, 2)),
        ("MJPG", noise(1, 99)),
        ("MJPG", jpeg(picture())[:, :200]),
    ],
)
def test_a_frame_that_does_not_fit_its_format_is_a_clear_error(name: str, pixel_format: str, frame: Array) -> None:
    words = rf"{pixel_format}.*\({frame.shape[0]}, {frame.shape[1]}"
    with (
        written(name, pixel_format, frame),
        SharedMemoryFrameReader(name) as reader,
        pytest.raises(ValueError, match=words),
    ):
        reader.read_frame(format="BGR24")


def test_a_format_that_the_array_cannot_have_is_not_believed(name: str) -> None:
    with (
        written(name, "BGR24", picture()),
        SharedMemoryFrameReader(name) as reader,
        opened(path_of(name)) as segment,
    ):
        descriptor = segment.descriptor(segment.latest[1])
        for fourcc in ("NV12", "GREY", "Y16 ", "MJPG"):
            descriptor["fourcc"] = int.from_bytes(fourcc.encode(), "little")
            metadata = reader.latest_frame()[1]
            assert metadata is not None
            assert metadata.pixel_format == "RAW"
            assert inspect_segment(name).pixel_format == "RAW"
            with pytest.raises(ValueError, match="RAW"):
                reader.latest_frame(format="GRAY8")


@pytest.mark.parametrize("wanted", ["NV12", "bgr24", "", 3])
def test_an_unsupported_target_format_is_refused_before_a_frame_is_used_up(name: str, wanted: Any) -> None:
    with written(name, "BGR24", picture()), SharedMemoryFrameReader(name) as reader:
        for read in (reader.read_frame, reader.latest_frame):
            with pytest.raises(ValueError, match="BGR24, RGB24, GRAY8"):
                read(format=wanted)
        assert reader.read_frame()[0] is not None


def test_without_opencv_an_error_names_what_to_install_and_what_needs_no_opencv_works(name: str) -> None:
    printed = run(
        f"""
        import logging
        sys.modules["cv2"] = None
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        with SharedMemoryFrameWriter({name!r}, (54, 64), pixel_format="NV12") as writer:
            writer.write_frame(np.zeros((54, 64), np.uint8))
            with SharedMemoryFrameReader({name!r}) as reader:
                print(reader.latest_frame(format="GRAY8")[0].shape)
                try:
                    reader.latest_frame(format="BGR24")
                except ImportError as error:
                    print(error)
            print(VideoConsumer({name!r}).read())
        """
    ).splitlines()
    assert printed[0] == "(36, 64)"
    assert printed[1].startswith("converting a NV12 frame to BGR24 needs OpenCV")
    assert printed[1].endswith("pip install 'billiards-shm[headless]'")
    assert printed[2].startswith("NV12 frames need OpenCV")
    assert printed[3:] == ["(False, None)"]


# Planes.


@pytest.mark.parametrize("pixel_format", PLANAR)
def test_planes_are_views_of_their_part_of_the_frame(name: str, pixel_format: str) -> None:
    frame = CASES[pixel_format][0]
    flat, luma_size = frame.reshape(-1), HEIGHT * WIDTH
    quarter = luma_size // 4
    first, second = flat[luma_size : luma_size + quarter], flat[luma_size + quarter :]
    if pixel_format in ("NV12", "NV21", "P010"):
        first, second = flat[luma_size::2], flat[luma_size + 1 :: 2]
    u, v = (second, first) if pixel_format in ("NV21", "YV12") else (first, second)
    with written(name, pixel_format, frame), SharedMemoryFrameReader(name) as reader:
        read, metadata = reader.read_frame()
        assert read is not None
        assert metadata is not None
        y, *chroma = planes(read, metadata)
        for plane in (y, *chroma):
            assert np.shares_memory(plane, read)
            assert not plane.flags.writeable
        np.testing.assert_array_equal(y, frame[:HEIGHT])
        found_u, found_v = chroma if len(chroma) == 2 else (chroma[0][..., 0], chroma[0][..., 1])
        np.testing.assert_array_equal(found_u, u.reshape(HEIGHT // 2, WIDTH // 2))
        np.testing.assert_array_equal(found_v, v.reshape(HEIGHT // 2, WIDTH // 2))
        gap = padded(read)
        if len(chroma) == 1:
            for plane, other in zip(planes(gap, metadata), (y, *chroma), strict=True):
                assert np.shares_memory(plane, gap)
                np.testing.assert_array_equal(plane, other)
        else:
            with pytest.raises(ValueError, match="padded"):
                planes(gap, metadata)


def test_planes_hold_the_frame(name: str) -> None:
    with written(name, "I420", CASES["I420"][0]) as writer, SharedMemoryFrameReader(name) as reader:
        frame, metadata = reader.read_frame()
        assert frame is not None
        assert metadata is not None
        _, u, _ = planes(frame, metadata)
        before = u.copy()
        del frame
        for number in range(20):
            writer.write_frame(np.full_like(CASES["I420"][0], number))
        np.testing.assert_array_equal(u, before)


@pytest.mark.parametrize(
    ("pixel_format", "frame", "words"),
    [
        ("BGR24", noise(8, 8, 3), "a BGR24 frame has no planes.*NV12.*I420"),
        ("MJPG", jpeg(picture()), "a MJPG frame has no planes"),
        ("NV12", noise(50, 64), r"\(50, 64\) does not fit NV12"),
        ("I420", noise(54, 63), r"\(54, 63\) does not fit I420"),
    ],
)
def test_a_frame_without_planes_is_a_clear_error(name: str, pixel_format: str, frame: Array, words: str) -> None:
    with written(name, pixel_format, frame), SharedMemoryFrameReader(name) as reader:
        read, metadata = reader.read_frame()
        assert read is not None
        assert metadata is not None
        with pytest.raises(ValueError, match=words):
            planes(read, metadata)


# VideoConsumer.

WIDTH_PROPERTY, HEIGHT_PROPERTY, CONVERT_RGB = 3, 4, 16


@pytest.mark.parametrize("pixel_format", CASES)
def test_a_consumer_gets_bgr_of_whatever_is_published(name: str, pixel_format: str) -> None:
    frame, to_bgr, *_ = CASES[pixel_format]
    truth = to_bgr(frame)
    with written(name, pixel_format, frame) as writer, VideoConsumer(name) as consumer:
        size = (truth.shape[1], truth.shape[0])
        assert (consumer.get(WIDTH_PROPERTY), consumer.get(HEIGHT_PROPERTY)) == size
        ok, first = consumer.read()
        assert ok
        np.testing.assert_array_equal(first, truth)
        assert first is not None
        assert first.flags.writeable
        first[:] = 0
        np.testing.assert_array_equal(consumer.retrieve()[1], truth)
        assert (consumer.get(WIDTH_PROPERTY), consumer.get(HEIGHT_PROPERTY)) == size
        assert consumer.get(CONVERT_RGB) == 1
        mine = np.zeros_like(truth)
        assert consumer.retrieve(mine)[1] is mine
        np.testing.assert_array_equal(mine, truth)
        writer.write_frame(frame)
        assert consumer.read(mine)[1] is mine


def test_a_consumer_without_copies_gets_one_conversion_of_each_frame(name: str) -> None:
    with written(name, "NV12", CASES["NV12"][0]) as writer, VideoConsumer(name, copy=False) as consumer:
        _, first = consumer.read()
        assert first is not None
        assert not first.flags.writeable
        assert consumer.retrieve()[1] is first
        writer.write_frame(CASES["NV12"][0])
        _, second = consumer.read()
        assert second is not None
        assert second is not first


def test_a_consumer_says_that_a_frame_cannot_be_converted_and_goes_on(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with written(name, "MJPG", noise(1, 99)) as writer, VideoConsumer(name) as consumer:
        assert consumer.get(WIDTH_PROPERTY) == 0
        assert consumer.read() == (False, None)
        assert "JPEG" in caplog.text
        writer.write_frame(jpeg(picture()))
        assert consumer.read()[0]


def test_raw_frames_reach_a_consumer_unchanged(name: str) -> None:
    frame = noise(8, 8, 5)
    with written(name, "RAW", frame), VideoConsumer(name) as consumer:
        np.testing.assert_array_equal(consumer.read()[1], frame)
        assert consumer.get(CONVERT_RGB) == 0


# The table.


def test_names_of_v4l2_ffmpeg_and_gstreamer_lead_to_the_format() -> None:
    known = {
        "NV12": ("NV12", "nv12"),
        "I420": ("YU12", "yuv420p", "I420"),
        "YUYV": ("YUYV", "yuyv422", "YUY2"),
        "GRAY8": ("GREY", "gray", "GRAY8"),
        "GRAY16": ("Y16", "gray16le", "GRAY16_LE"),
        "P010": ("P010", "p010le", "P010_10LE"),
        "BAYER_RGGB8": ("RGGB", "bayer_rggb8", "rggb"),
        "BAYER_BGGR8": ("BA81", "bayer_bggr8", "bggr"),
        "MJPG": ("MJPG", "mjpeg", "image/jpeg", "JPEG"),
    }
    for expected, names in known.items():
        for one in names:
            row = format_named(one)
            assert row is not None
            assert row.name == expected
    assert format_named("H264") is None
    assert format_named("RAW") is None


def test_no_name_belongs_to_two_formats() -> None:
    names = [one for row in PIXEL_FORMATS.values() for one in row.names]
    assert len(names) == len(set(names))


def test_ffmpeg_knows_the_names_that_the_table_gives_it() -> None:
    av = pytest.importorskip("av")
    for row in PIXEL_FORMATS.values():
        if row.name == "MJPG":
            assert av.Codec(row.ffmpeg, "r").name == "mjpeg"
        elif row.ffmpeg:
            av.VideoFormat(row.ffmpeg)


@pytest.mark.parametrize("pixel_format", [name for name in CASES if name != "MJPG"])
def test_sizes_of_pictures_and_shapes_of_arrays_belong_together(pixel_format: str) -> None:
    frame, to_bgr, *_ = CASES[pixel_format]
    row = PIXEL_FORMATS[pixel_format]
    height, width = to_bgr(frame).shape[:2]
    assert row.picture_size(*frame.shape[:2]) == (width, height)
    assert row.array_shape(width, height) == frame.shape
    assert size_text(pixel_format, *frame.shape[:2]) == f"{width}x{height} {pixel_format}"


def test_a_frame_without_a_size_is_described_by_its_bytes() -> None:
    assert size_text("MJPG", 1, 1234) == "MJPG of 1234 bytes"
    assert PIXEL_FORMATS["NV12"].array_shape(71, 54) is None
    assert PIXEL_FORMATS["YUYV"].array_shape(71, 54) is None


def test_the_modules_that_need_no_opencv_load_without_it() -> None:
    assert "cv2" in sys.modules
    run("import sys\nsys.modules['cv2'] = None\nimport billiards_shm, billiards_shm.jpeg, billiards_shm.planes")

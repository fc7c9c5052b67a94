"""Writing: every picture arrives bit for bit, and anything else is refused with both shapes named."""

import gc
import os
import pickle
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from child_processes import Child, run
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_layout import opened
from segments_under_test import (
    DTYPES,
    LARGER,
    SHAPE,
    descriptors,
    flat,
    mappings,
    new_frame,
    path_of,
    picture,
    sees,
    wait_until,
)

from billiards_shm import (
    BilliardsShmError,
    FrameShapeError,
    LoanError,
    SegmentStatus,
    SharedMemoryFrameReader,
    SharedMemoryFrameWriter,
    SourceState,
    WriterExistsError,
    inspect_segment,
)
from billiards_shm.pixel_formats import PIXEL_FORMATS
from billiards_shm.status import CLOCKS


def arrives(writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader, frame: Any) -> None:
    """Whatever is written is read back, as numpy sees it, as a view and as a copy."""
    expected = np.ascontiguousarray(frame, dtype=np.asarray(frame).dtype.newbyteorder("="))
    sequence = writer.write_frame(frame)
    assert sequence > 0
    for options in ({}, {"copy": True}):
        found, metadata = reader.latest_frame(**options)
        assert found is not None
        assert metadata.sequence == sequence
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert found.tobytes() == expected.tobytes()


# ---------------------------------------------------------------- what is a picture


def test_frames_are_numbered_from_one(writer: SharedMemoryFrameWriter) -> None:
    assert writer.sequence == 0
    assert [writer.write_frame(picture(number)) for number in range(1, 6)] == [1, 2, 3, 4, 5]
    assert writer.sequence == 5
    assert writer.statistics.published == 5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(24, 32), (24, 32, 1), (24, 32, 3), (1, 1), (1, 7, 5), (7, 1, 2)])
def test_every_dtype_and_shape_arrives(segment_name: str, dtype: str, shape: tuple[int, ...]) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, shape, dtype=dtype) as writer,
        SharedMemoryFrameReader(segment_name) as reader,
    ):
        arrives(writer, reader, picture(1, shape, dtype))
        metadata = reader.latest_frame()[1]
        assert metadata.dtype == np.dtype(dtype)
        assert (metadata.height, metadata.width) == shape[:2]
        assert metadata.channels == (shape[2] if len(shape) == 3 else 1)
        assert writer.statistics.replacements == 0


FORMATS = [
    ("BGR24", (24, 32, 3), "uint8"),
    ("RGB24", (24, 32, 3), "uint8"),
    ("BGRA32", (24, 32, 4), "uint8"),
    ("GRAY8", (24, 32), "uint8"),
    ("GRAY8", (24, 32, 1), "uint8"),
    ("GRAY16", (24, 32), "uint16"),
    ("YUYV", (24, 32, 2), "uint8"),
    ("UYVY", (24, 32, 2), "uint8"),
    ("NV12", (36, 32), "uint8"),
    ("I420", (36, 32), "uint8"),
    ("P010", (36, 32), "uint16"),
    ("MJPG", (1, 4711), "uint8"),
    ("RAW", (24, 32, 3), "float32"),
    ("RAW", (24, 32, 7), "uint8"),
    ("RAW", (24, 32, 3), "uint8"),
    ("RAW", (24, 32), "uint16"),
]


@pytest.mark.parametrize(("pixel_format", "shape", "dtype"), FORMATS)
def test_a_frame_carries_the_pixel_format_that_its_writer_declared(
    segment_name: str, pixel_format: str, shape: tuple[int, ...], dtype: str
) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, shape, dtype=dtype, pixel_format=pixel_format) as writer,
        SharedMemoryFrameReader(segment_name) as reader,
    ):
        arrives(writer, reader, picture(1, shape, dtype))
        assert reader.latest_frame()[1].pixel_format == pixel_format
        with writer.loan() as slot:
            slot.array[:] = picture(2, shape, dtype)
        assert reader.latest_frame()[1].pixel_format == pixel_format
        assert inspect_segment(segment_name).pixel_format == pixel_format


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((8, 8, 3), "uint8", "BGR24"),
        ((8, 8, 4), "uint8", "BGRA32"),
        ((8, 8), "uint8", "GRAY8"),
        ((8, 8), "uint16", "GRAY16"),
        ((8, 8, 5), "uint8", "RAW"),
        ((8, 8), "float32", "RAW"),
        ((8, 8, 3), "int8", "RAW"),
    ],
)
def test_a_frame_that_cannot_have_the_declared_format_is_labelled_by_its_shape(
    segment_name: str, shape: tuple[int, ...], dtype: str, expected: str
) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, (16, 16, 2), pixel_format="YUYV") as writer,
        SharedMemoryFrameReader(segment_name) as reader,
    ):
        writer.write_frame(picture(1, shape, dtype))
        assert new_frame(reader)[1].pixel_format == expected


def large(number: int) -> npt.NDArray[Any]:
    """Large enough that crops of it use the streaming copy."""
    return picture(number, (1100, 1940, 3))


@pytest.mark.parametrize("make", [lambda: picture(1, (40, 60, 3)), lambda: large(1)], ids=["small", "large"])
@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(lambda a: a, id="as it is"),
        pytest.param(lambda a: a[5:-7, 9:-3], id="a crop: padded rows"),
        pytest.param(lambda a: a[1:-1, 1:-2, :], id="a crop at odd addresses"),
        pytest.param(lambda a: a[::2], id="every second row"),
        pytest.param(lambda a: a[::-1], id="upside down"),
        pytest.param(lambda a: a[::-1, 3:-5], id="a crop upside down"),
        pytest.param(lambda a: a[:, ::-1], id="mirrored"),
        pytest.param(lambda a: a[..., ::-1], id="RGB for BGR"),
        pytest.param(lambda a: a[:, ::2], id="every second column"),
        pytest.param(lambda a: a.transpose(1, 0, 2), id="transposed"),
        pytest.param(lambda a: a[..., 1], id="one channel"),
        pytest.param(lambda a: a[..., :2], id="two channels"),
        pytest.param(lambda a: a[..., 1:2], id="one channel, kept"),
        pytest.param(lambda a: a[:, 5:6], id="one column"),
        pytest.param(lambda a: a[7:8], id="one row"),
        pytest.param(lambda a: np.asfortranarray(a), id="Fortran order"),
        pytest.param(lambda a: np.broadcast_to(a[:1], a.shape), id="the same row again and again"),
        pytest.param(lambda a: np.broadcast_to(a[:1, :1], a.shape), id="the same pixel again and again"),
        pytest.param(lambda a: a.astype(">u2"), id="big endian"),
        pytest.param(lambda a: a.astype("<u2"), id="little endian"),
        pytest.param(lambda a: a.astype(">f4")[::-1, ::2], id="big endian, strided"),
        pytest.param(lambda a: a > 100, id="bool"),
    ],
)
def test_sources_of_every_layout_arrive(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader, make: Any, cut: Any
) -> None:
    source = cut(make())
    before = source.copy()
    arrives(writer, reader, source)
    np.testing.assert_array_equal(source, before)


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(memoryview, id="memoryview"),
        pytest.param(lambda a: memoryview(a)[3:9], id="slice of a memoryview"),
        pytest.param(lambda a: memoryview(a.tobytes()).cast("B", a.shape), id="bytes, cast"),
        pytest.param(lambda a: memoryview(bytearray(a.tobytes())).cast("B", a.shape), id="bytearray, cast"),
        pytest.param(lambda a: np.asmatrix(a[..., 0]), id="matrix"),
        pytest.param(lambda a: np.ma.masked_array(a), id="masked array"),
    ],
)
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_buffers_other_than_arrays_arrive(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader, wrap: Any
) -> None:
    arrives(writer, reader, wrap(picture(1)))


@pytest.mark.slow
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 40),
    channels=st.sampled_from([None, 1, 2, 3, 4, 5]),
    dtype=st.sampled_from(DTYPES),
    rows=st.slices(9),
    columns=st.slices(40),
    leases=st.sampled_from([0, 2]),
)
@settings(max_examples=150)
def test_any_slice_of_any_picture_arrives_or_is_refused_for_being_empty(
    height: int, width: int, channels: int | None, dtype: str, rows: slice, columns: slice, leases: int
) -> None:
    shape = (height, width) if channels is None else (height, width, channels)
    source = picture(3, shape, dtype)[rows, columns]
    name = f"test-{os.getpid()}-slices"
    with (
        SharedMemoryFrameWriter(name, (9, 40, 5), dtype="complex128") as writer,
        SharedMemoryFrameReader(name, max_leases=leases) as reader,
    ):
        if 0 in source.shape:
            with pytest.raises(FrameShapeError):
                writer.write_frame(source)
        else:
            arrives(writer, reader, source)


# ---------------------------------------------------------------- what is not a picture

NOT_PICTURES = [
    pytest.param([[1, 2], [3, 4]], "list", id="list"),
    pytest.param(None, "None", id="None"),
    pytest.param(5, "int", id="number"),
    pytest.param("frame", "str", id="text"),
    pytest.param(b"frame", "bytes", id="bytes"),
    pytest.param(bytearray(5), "bytearray", id="bytearray"),
    pytest.param(np.uint8(5), r"\(\)", id="numpy scalar"),
    pytest.param(np.array(5, np.uint8), r"\(\)", id="0-d"),
    pytest.param(np.zeros(5, np.uint8), r"\(5,\)", id="1-d"),
    pytest.param(np.zeros((2, 2, 2, 2), np.uint8), r"\(2, 2, 2, 2\)", id="4-d"),
    pytest.param(np.zeros((0, 5), np.uint8), r"\(0, 5\)", id="no rows"),
    pytest.param(np.zeros((5, 0, 3), np.uint8), r"\(5, 0, 3\)", id="no columns"),
    pytest.param(np.zeros((5, 5, 0), np.uint8), r"\(5, 5, 0\)", id="no channels"),
    pytest.param(np.zeros((4, 4), object), r"\(4, 4\).*object", id="objects"),
    pytest.param(np.zeros((4, 4), "datetime64[ns]"), r"\(4, 4\).*datetime64", id="datetimes"),
    pytest.param(np.zeros((4, 4), "timedelta64[s]"), r"\(4, 4\).*timedelta64", id="timedeltas"),
    pytest.param(np.zeros((4, 4), [("a", "u1"), ("b", "f4")]), r"\(4, 4\)", id="structured"),
    pytest.param(np.zeros((4, 4), [("é", "u1")]), r"\(4, 4\)", id="structured, field named é"),
    pytest.param(np.zeros((4, 4), "S3"), r"\(4, 4\)", id="byte strings"),
    pytest.param(np.zeros((4, 4), "U3"), r"\(4, 4\)", id="texts"),
    pytest.param(np.zeros((4, 4), "V3"), r"\(4, 4\)", id="void"),
    pytest.param(np.zeros((4, 4), np.longdouble), r"\(4, 4\).*(longdouble|float128)", id="long double"),
    pytest.param(np.zeros((4, 4), np.clongdouble), r"\(4, 4\).*(clongdouble|complex256)", id="complex long double"),
    pytest.param(memoryview(b"12345"), r"\(5,\)", id="flat memoryview"),
]


@pytest.mark.parametrize(("thing", "found"), NOT_PICTURES)
def test_anything_but_a_picture_is_refused_and_both_shapes_are_named(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader, thing: Any, found: str
) -> None:
    writer.write_frame(picture(1))
    references = sys.getrefcount(thing)
    with pytest.raises(FrameShapeError, match=found) as caught:
        writer.write_frame(thing)
    assert str(SHAPE) in str(caught.value)
    assert "uint8" in str(caught.value)
    del caught
    gc.collect()
    if isinstance(thing, np.ndarray):
        assert sys.getrefcount(thing) == references, "no buffer is left exported"
    assert writer.sequence == 1
    assert writer.write_frame(picture(2)) == 2
    assert sees(new_frame(reader)[0], 2)


def test_a_refused_array_is_not_kept_exported(writer: SharedMemoryFrameWriter) -> None:
    storage = bytearray(64)
    for dtype in ("u1", "V4", [("é", "u1")]):
        shape = (64,) if dtype == "u1" else (2, 2)
        frame = np.frombuffer(storage, dtype, count=np.prod(shape)).reshape(shape)
        with pytest.raises(FrameShapeError):
            writer.write_frame(frame)
        del frame
    gc.collect()
    storage.append(0)  # BufferError if anyone still held it


@pytest.mark.parametrize(
    "options",
    [
        {"capture_time_ns": 1.5},
        {"capture_time_ns": "now"},
        {"capture_time_ns": 2**63},
        {"position_ms": "3"},
    ],
)
def test_invalid_times_raise_and_publish_nothing(writer: SharedMemoryFrameWriter, options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, OverflowError)):
        writer.write_frame(picture(1), **options)
    with pytest.raises((TypeError, OverflowError)):
        writer.loan(**options)
    assert writer.write_frame(picture(1)) == 1


def test_a_time_of_the_wall_clock_is_refused_and_the_right_one_named(writer: SharedMemoryFrameWriter) -> None:
    now = time.time_ns()
    what = f"capture_time_ns={now}: expected nanoseconds of CLOCK_MONOTONIC, as time.monotonic_ns"
    with pytest.raises(ValueError, match=what):
        writer.write_frame(picture(1), capture_time_ns=now)
    with pytest.raises(ValueError, match=what):
        writer.loan(capture_time_ns=now)
    with writer.loan() as slot:
        with pytest.raises(ValueError, match=what):
            slot.publish(capture_time_ns=now)
        slot.cancel()
    assert writer.write_frame(picture(1)) == 1


# ---------------------------------------------------------------- construction


@pytest.mark.parametrize(
    "shape",
    [(), (5,), 5, (2, 2, 2, 2), (0, 5), (5, 0), (5, 5, 0), (-1, 5), (5.0, 5), ("a", "b"), (2**31, 5), (2**40, 1)],
)
def test_a_writer_of_an_impossible_shape_is_refused(segment_name: str, shape: Any) -> None:
    with pytest.raises(FrameShapeError, match="expected"):
        SharedMemoryFrameWriter(segment_name, shape)
    assert not path_of(segment_name).exists()


@pytest.mark.parametrize("shape", [(2**31 - 1, 2**31 - 1), (2**31 - 1,) * 3, (2**20, 2**20 + 1)])
def test_a_writer_beyond_a_tebibyte_is_refused(segment_name: str, writer: SharedMemoryFrameWriter, shape: Any) -> None:
    with pytest.raises(FrameShapeError, match="TiB"):
        SharedMemoryFrameWriter(segment_name + "-b", shape)
    with pytest.raises(FrameShapeError, match="TiB"):
        writer.loan(shape)


@pytest.mark.parametrize("dtype", ["object", "S3", "U3", "V3", "datetime64[s]", "longdouble", [("a", "u1")]])
def test_a_writer_of_an_impossible_dtype_is_refused(segment_name: str, dtype: Any) -> None:
    with pytest.raises(FrameShapeError, match="dtype"):
        SharedMemoryFrameWriter(segment_name, SHAPE, dtype=dtype)
    assert not path_of(segment_name).exists()


@pytest.mark.parametrize("slots", [-1, 0, 1, 2, 63, 64, 1000, 3.0, "8", None])
def test_slots_beyond_3_to_62_are_refused_and_the_limits_named(segment_name: str, slots: Any) -> None:
    with pytest.raises(ValueError, match="3 to 62"):
        SharedMemoryFrameWriter(segment_name, SHAPE, slots=slots)
    assert not path_of(segment_name).exists()


@pytest.mark.parametrize("mode", [0o1777, -1, 0o4000, "600", None])
def test_a_mode_that_is_more_than_permission_bits_is_refused(segment_name: str, mode: Any) -> None:
    with pytest.raises(ValueError, match="mode"):
        SharedMemoryFrameWriter(segment_name, SHAPE, mode=mode)
    assert not path_of(segment_name).exists()


def test_a_frame_may_have_another_format_than_its_writer(segment_name: str) -> None:
    yuyv = picture(1, (16, 16, 2))
    with (
        SharedMemoryFrameWriter(segment_name, (1, 1000), pixel_format="MJPG") as writer,
        SharedMemoryFrameReader(segment_name) as reader,
    ):
        for declared, expected in ((None, "RAW"), ("YUYV", "YUYV"), ("UYVY", "UYVY"), ("NV12", "RAW"), ("RAW", "RAW")):
            writer.write_frame(yuyv, pixel_format=declared)
            assert new_frame(reader)[1].pixel_format == expected
            with writer.loan(yuyv.shape, pixel_format=declared):
                pass
            assert new_frame(reader)[1].pixel_format == expected
        with writer.loan(pixel_format="GRAY8"):
            pass
        assert new_frame(reader)[1].pixel_format == "GRAY8"
        for refused in (writer.write_frame, writer.loan):
            with pytest.raises(ValueError, match="BGR42"):
                refused(yuyv if refused == writer.write_frame else yuyv.shape, pixel_format="BGR42")


def test_a_writer_knows_whether_it_has_readers(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        assert not writer.has_readers
        reader = SharedMemoryFrameReader(segment_name)
        assert not writer.has_readers, "it has not attached"
        reader.attach()
        assert writer.has_readers
        observer = SharedMemoryFrameReader(segment_name, max_leases=0)
        observer.attach()
        reader.close()
        assert writer.has_readers
        observer.close()
        assert not writer.has_readers
        inspect_segment(segment_name)
        assert not writer.has_readers
        child = Child(
            "reader = SharedMemoryFrameReader(sys.argv[1])\nreader.attach()\nsay('attached')\ntold()", segment_name
        )
        with child:
            assert child.says() == "attached"
            assert writer.has_readers
        wait_until(lambda: not writer.has_readers, "the killed reader's locks are gone")
    assert not writer.has_readers


def test_an_unknown_pixel_format_is_refused_and_the_known_are_named(segment_name: str) -> None:
    with pytest.raises(ValueError, match="BGR42.*" + ".*".join(PIXEL_FORMATS)):
        SharedMemoryFrameWriter(segment_name, SHAPE, pixel_format="BGR42")


@pytest.mark.parametrize("slots", [3, 4, 8, 61, 62])
def test_with_any_number_of_slots_no_frame_is_ever_dropped_for_readers_that_hold_all_they_can(
    segment_name: str, slots: int
) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, (4, 4), slots=slots) as writer,
        SharedMemoryFrameReader(segment_name, max_leases=60) as reader,
    ):
        held = []
        for number in range(1, 2 * slots + 1):
            assert writer.write_frame(picture(number, (4, 4))) == number
            view, metadata = new_frame(reader)
            assert metadata.zero_copy == (number <= slots - 2)
            held.append(view)
        for number in range(2 * slots + 1, 2 * slots + 200):
            assert writer.write_frame(picture(number, (4, 4))) == number
        assert all(sees(view, number) for number, view in enumerate(held, 1))
        assert writer.statistics.backed_slots == slots
        assert writer.statistics.dropped == writer.statistics.leases_broken == 0


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o660, 0o644, 0o400])
def test_the_object_has_exactly_the_mode_asked_for_whatever_the_umask(segment_name: str, mode: int) -> None:
    umask = os.umask(0o077)
    try:
        with SharedMemoryFrameWriter(segment_name, SHAPE, mode=mode) as writer:
            assert path_of(segment_name).stat().st_mode & 0o7777 == mode
            assert inspect_segment(segment_name).mode == mode
            if mode & 0o200 or os.geteuid() == 0:
                writer.write_frame(picture(1, LARGER))
                assert path_of(segment_name).stat().st_mode & 0o7777 == mode, "the successor too"
    finally:
        os.umask(umask)


def test_a_segment_is_private_by_default(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    assert path_of(segment_name).stat().st_mode & 0o7777 == 0o600


# ---------------------------------------------------------------- loans


def test_leaving_the_block_publishes_what_was_drawn(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    with writer.loan() as slot:
        assert slot.sequence == 0
        assert slot.array.shape == SHAPE
        assert slot.array.dtype == np.uint8
        assert slot.array.flags.writeable
        assert slot.array.flags.c_contiguous
        slot.array[:] = picture(1)
        assert reader.read_frame() == (None, None)
    assert slot.sequence == 1 == writer.sequence
    assert sees(new_frame(reader)[0], 1)


def test_the_array_of_a_slot_is_the_same_object_every_time(writer: SharedMemoryFrameWriter) -> None:
    with writer.loan() as slot:
        array = slot.array
        assert slot.array is array
    assert slot.array is array


def test_an_array_is_in_shared_memory_and_not_a_copy(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    with writer.loan() as slot:
        slot.array[:] = picture(9)
        with opened(path_of(segment_name)) as segment:
            assert any(segment.pixels(place, picture(9).nbytes) == picture(9).tobytes() for place in range(3))


def test_cancel_publishes_nothing_and_uses_up_no_number(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    for _ in range(20):
        with writer.loan() as slot:
            slot.array[:] = 255
            slot.cancel()
            slot.cancel()
        assert slot.sequence == 0
    assert reader.read_frame() == (None, None)
    assert writer.write_frame(picture(1)) == 1
    assert writer.statistics.published == 1


def test_an_exception_in_the_block_publishes_nothing_and_propagates(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    with pytest.raises(ZeroDivisionError), writer.loan() as slot:
        slot.array[:] = 1 // 0
    assert reader.read_frame() == (None, None)
    assert writer.write_frame(picture(1)) == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_whatever_ends_the_block_returns_the_slot(writer: SharedMemoryFrameWriter, kind: type) -> None:
    with pytest.raises(kind), writer.loan():
        raise kind
    assert writer.write_frame(picture(1)) == 1


def test_after_publishing_the_array_is_read_only(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    with writer.loan() as slot:
        array = slot.array
        array[:] = picture(1)
    with pytest.raises(ValueError):
        array[0] = 0
    assert memoryview(slot).readonly
    assert not np.asarray(slot).flags.writeable
    assert sees(new_frame(reader)[0], 1)


def test_after_cancelling_the_array_is_read_only(writer: SharedMemoryFrameWriter) -> None:
    slot = writer.loan()
    array = slot.array
    slot.cancel()
    with pytest.raises(ValueError):
        array[0] = 0


def test_a_slot_published_by_hand_is_not_published_again(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    with writer.loan() as slot:
        slot.array[:] = picture(1)
        assert slot.publish(capture_time_ns=77, position_ms=8.5, online=False, clock="driver", source_sequence=3) == 1
        with pytest.raises(LoanError):
            slot.publish()
    assert writer.sequence == 1
    metadata = new_frame(reader)[1]
    assert (metadata.capture_time_ns, metadata.position_ms, metadata.online) == (77, 8.5, False)
    assert (metadata.clock, metadata.source_sequence) == ("driver", 3)


def test_a_published_or_cancelled_slot_has_no_array_any_more(writer: SharedMemoryFrameWriter) -> None:
    for end in ("publish", "cancel"):
        slot = writer.loan()
        getattr(slot, end)()
        with pytest.raises(LoanError, match="published or cancelled"):
            slot.array  # noqa: B018
        with pytest.raises(LoanError, match="published or cancelled"):
            slot.publish()


def test_there_is_one_loan_at_a_time_and_no_writing_during_it(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    with writer.loan() as slot:
        with pytest.raises(LoanError, match=segment_name):
            writer.loan()
        with pytest.raises(LoanError, match=segment_name):
            writer.write_frame(picture(1))
        with pytest.raises(LoanError, match=segment_name):
            writer.write_frame(picture(1, LARGER))
        slot.array[:] = picture(1)
    assert sees(new_frame(reader)[0], 1), "the loan was not disturbed"
    assert writer.write_frame(picture(2)) == 2


def test_a_dropped_slot_is_returned(writer: SharedMemoryFrameWriter) -> None:
    for _ in range(10):
        writer.loan()
    assert writer.write_frame(picture(1)) == 1


def test_a_slot_whose_array_lives_on_is_still_lent(writer: SharedMemoryFrameWriter) -> None:
    array = writer.loan().array
    with pytest.raises(LoanError):
        writer.loan()
    array[:] = 1
    del array
    writer.loan().cancel()


def test_a_slot_dropped_in_a_reference_cycle_is_returned(writer: SharedMemoryFrameWriter) -> None:
    cycle: list[object] = [writer.loan()]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert writer.write_frame(picture(1)) == 1


def test_a_slot_held_by_a_caught_exception_is_returned(writer: SharedMemoryFrameWriter) -> None:
    def fail() -> None:
        slot = writer.loan()
        kept: list[BaseException] = []
        try:
            slot.array[:] = 1 // 0
        except ZeroDivisionError as error:
            kept.append(error)  # the usual cycle: error -> traceback -> frame -> kept -> error

    fail()
    gc.collect()
    assert writer.write_frame(picture(1)) == 1


@pytest.mark.parametrize(
    ("shape", "dtype"), [((10, 20), "uint8"), ((24, 32, 3), "uint8"), ((4, 4, 3), "float32"), ((96, 128, 3), "uint16")]
)
def test_a_loan_may_have_any_geometry(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader, shape: tuple[int, ...], dtype: str
) -> None:
    with writer.loan(shape, dtype=dtype) as slot:
        slot.array[:] = picture(1, shape, dtype)
    frame = new_frame(reader)[0]
    assert frame.shape == shape
    assert sees(frame, 1, dtype)


@pytest.mark.parametrize("shape", [(), (5,), (0, 5), (1, 2, 3, 4), (-1, 5), ("a", 5)])
def test_a_loan_of_an_impossible_shape_is_refused_and_nothing_is_lent(
    writer: SharedMemoryFrameWriter, shape: tuple[Any, ...]
) -> None:
    with pytest.raises(FrameShapeError):
        writer.loan(shape)
    with pytest.raises(FrameShapeError):
        writer.loan(dtype="datetime64[s]")
    assert writer.write_frame(picture(1)) == 1


def test_closing_the_writer_cancels_the_loan_and_the_array_stays_harmless(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    view = new_frame(reader)[0]
    slot = writer.loan()
    array = slot.array
    writer.close()
    array[:] = 255
    assert sees(view, 1)
    with pytest.raises(ValueError, match="closed"):
        slot.publish()
    slot.cancel()
    assert reader.read_frame() == (None, None)
    del slot, array, view
    reader.close()
    assert mappings(segment_name) == 0


def test_a_loan_from_a_closed_writer_does_not_publish_at_the_end_of_its_block(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    reader.attach()
    slot = writer.loan()
    writer.close()
    with pytest.raises(ValueError, match="closed"), slot:
        pass
    assert reader.read_frame() == (None, None)


def test_a_loan_keeps_its_writer_alive(segment_name: str) -> None:
    slot = SharedMemoryFrameWriter(segment_name, SHAPE).loan()
    gc.collect()
    slot.array[:] = picture(1)
    assert slot.publish() == 1
    with SharedMemoryFrameReader(segment_name) as reader:
        assert sees(new_frame(reader)[0], 1)
    del slot
    assert not path_of(segment_name).exists()


@pytest.mark.parametrize(
    ("options", "pixel_format"),
    [
        ({"shape": (10, 12, 3)}, "BGR24"),
        ({"shape": (10, 12)}, "GRAY8"),
        ({"shape": (10, 12), "dtype": "uint16"}, "GRAY16"),
        ({"dtype": "bool"}, "RAW"),
        ({"shape": (10, 12, 3), "pixel_format": "RGB24"}, "RGB24"),
        ({"pixel_format": "RGB24"}, "RGB24"),
    ],
)
def test_a_loan_has_the_format_of_its_shape(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader, options: dict[str, Any], pixel_format: str
) -> None:
    with writer.loan(**options) as slot:
        slot.array[...] = 0
    assert new_frame(reader)[1].pixel_format == pixel_format


# ---------------------------------------------------------------- times and placeholders


def test_a_frame_is_stamped_with_both_clocks(writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader) -> None:
    monotonic, wall = time.monotonic_ns(), time.time_ns()
    writer.write_frame(picture(1))
    metadata = new_frame(reader)[1]
    assert monotonic <= metadata.capture_time_ns <= metadata.publish_time_ns <= time.monotonic_ns()
    assert wall <= metadata.wall_time_ns <= time.time_ns()
    assert metadata.position_ms is None
    assert metadata.online


def test_times_given_by_the_source_are_kept(writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader) -> None:
    writer.write_frame(picture(1), capture_time_ns=12345, position_ms=33.25)
    metadata = new_frame(reader)[1]
    assert (metadata.capture_time_ns, metadata.position_ms) == (12345, 33.25)
    assert metadata.publish_time_ns > 12345
    writer.write_frame(picture(1), wall_time_ns=1_600_000_000_000_000_001)
    assert new_frame(reader)[1].wall_time_ns == 1_600_000_000_000_000_001
    with writer.loan(capture_time_ns=23456, position_ms=0.0) as slot:
        slot.array[:] = 0
    metadata = new_frame(reader)[1]
    assert (metadata.capture_time_ns, metadata.position_ms) == (23456, 0.0)


def test_a_frame_says_which_clock_its_time_is_from_and_its_number_at_the_source(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    metadata = new_frame(reader)[1]
    assert (metadata.clock, metadata.source_sequence) == ("arrival", None)
    assert set(CLOCKS) == {"driver", "sender", "file", "remote", "arrival"}
    for number, clock in enumerate(CLOCKS):
        writer.write_frame(picture(1), clock=clock, source_sequence=number, online=number % 2 == 0)
        metadata = new_frame(reader)[1]
        assert (metadata.clock, metadata.source_sequence, metadata.online) == (clock, number, number % 2 == 0)
        assert pickle.loads(pickle.dumps(metadata)) == metadata
    with writer.loan(clock="file", source_sequence=2**64 - 1) as slot:
        slot.publish(online=False)  # leaves the others unchanged
    metadata = new_frame(reader)[1]
    assert (metadata.clock, metadata.source_sequence, metadata.online) == ("file", 2**64 - 1, False)
    for lent, published in [("driver", "sender"), ("file", "remote"), ("remote", "arrival")]:
        with writer.loan(clock=lent, source_sequence=1, online=False) as slot:
            slot.publish(clock=published, source_sequence=2, online=True)  # takes their place
        _, metadata = new_frame(reader)
        assert (metadata.clock, metadata.source_sequence, metadata.online) == (published, 2, True)
    with pytest.raises(ValueError, match="clock='ntp': expected one of arrival, driver, sender, file, remote"):
        writer.write_frame(picture(1), clock="ntp")  # type: ignore[arg-type]
    for wrong in (-1, 2**64):
        with pytest.raises(ValueError, match="source_sequence"):
            writer.write_frame(picture(1), source_sequence=wrong)


def test_a_clock_of_a_later_version_is_taken_for_arrival(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1), clock="file")
    with opened(path_of(segment_name)) as segment:
        segment.descriptor(segment.latest[1])["flags"] = 7 << 8
    assert new_frame(reader)[1].clock == "arrival"


def test_placeholders_say_so_and_do_not_count_as_captured(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1), online=False)
    assert not new_frame(reader)[1].online
    assert reader.last_frame_age is None
    with writer.loan(online=False) as slot:
        slot.array[:] = 0
    assert not new_frame(reader)[1].online
    assert inspect_segment(segment_name).last_frame_age is None
    before = time.monotonic_ns()
    writer.write_frame(picture(3))
    after = time.monotonic_ns()
    assert new_frame(reader)[1].online
    writer.write_frame(picture(4), online=False)
    asked = time.monotonic_ns()
    age = reader.last_frame_age
    assert age is not None
    assert (asked - after) / 1e9 <= age <= (time.monotonic_ns() - before) / 1e9


# ---------------------------------------------------------------- growing and replacing


def test_a_larger_frame_replaces_the_segment_and_the_numbers_go_on(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    generation = writer.generation
    writer.write_frame(picture(1))
    assert sees(new_frame(reader)[0], 1)
    assert writer.write_frame(picture(2, LARGER)) == 2
    assert writer.generation != generation
    frame, metadata = new_frame(reader)
    assert sees(frame, 2)
    assert frame.shape == LARGER
    assert (metadata.sequence, metadata.skipped, metadata.generation) == (2, 0, writer.generation)
    assert writer.statistics.replacements == 1
    assert writer.statistics.published == 2
    assert writer.statistics.bytes_written == picture(1).nbytes + picture(2, LARGER).nbytes


def test_the_last_frame_before_a_replacement_is_not_lost(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    reader.attach()
    writer.write_frame(picture(1))
    writer.write_frame(picture(2, LARGER))
    assert sees(new_frame(reader)[0], 1)
    frame, metadata = new_frame(reader)
    assert sees(frame, 2)
    assert metadata.skipped == 0


def test_frames_that_fit_replace_nothing_whatever_their_shape(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    for number, (shape, dtype) in enumerate(
        [((1, 24 * 32 * 3), "uint8"), ((24 * 32 * 3, 1), "uint8"), ((2, 2, 2), "float64"), ((24, 16, 3), "uint16")], 1
    ):
        writer.write_frame(picture(number, shape, dtype))
        frame = new_frame(reader)[0]
        assert frame.shape == shape
        assert sees(frame, number, dtype)
    assert writer.statistics.replacements == 0


def test_resizing_up_and_down_keeps_the_largest_segment(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    for number in range(1, 31):
        shape = (SHAPE, LARGER, (8, 8, 3))[number % 3]
        writer.write_frame(picture(number, shape))
        frame, metadata = new_frame(reader)
        assert frame.shape == shape
        assert metadata.sequence == number
        assert sees(frame, number)
    assert writer.statistics.replacements == 1


def test_slots_mode_and_reports_about_the_source_pass_on_to_the_successor(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, (4, 4), slots=5, mode=0o640) as writer:
        writer.update_source(
            state="reconnecting",
            reason="unplugged",
            backend="V4L2",
            fps=12.5,
            captured=7,
            reconnects=3,
            stalls=2,
            loops=1,
        )
        before = inspect_segment(segment_name)
        writer.write_frame(picture(1, LARGER))
        after = inspect_segment(segment_name)
    for field in (
        "slots",
        "mode",
        "source_state",
        "source_reason",
        "backend",
        "captured",
        "reconnects",
        "stalls",
        "loops",
    ):
        assert getattr(after, field) == getattr(before, field), field
    assert after.fps == 12.5
    assert after.source_state is SourceState.RECONNECTING


def test_a_long_reason_passes_on_to_the_successor_without_half_a_character(
    segment_name: str, writer: SharedMemoryFrameWriter
) -> None:
    writer.update_source(reason="x" + "é" * 100, backend="y" + "é" * 100)
    before = inspect_segment(segment_name)
    assert before.source_reason == "x" + "é" * 63
    assert before.backend == "y" + "é" * 15
    writer.write_frame(picture(1, LARGER))
    after = inspect_segment(segment_name)
    assert (after.source_reason, after.backend) == (before.source_reason, before.backend)


def test_the_age_of_the_last_captured_frame_survives_a_replacement_by_a_placeholder(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    before = time.monotonic_ns()
    writer.write_frame(picture(1))
    after = time.monotonic_ns()
    new_frame(reader)
    writer.write_frame(picture(2, LARGER), online=False)
    assert new_frame(reader)[1].sequence == 2
    asked = time.monotonic_ns()
    age = reader.last_frame_age
    assert age is not None, "a frame was captured"
    assert (asked - after) / 1e9 <= age <= (time.monotonic_ns() - before) / 1e9
    assert inspect_segment(segment_name).last_frame_age is not None


def test_a_writer_whose_name_was_removed_makes_a_new_generation_within_a_second_of_writing(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    new_frame(reader)
    generation = writer.generation
    path_of(segment_name).unlink()
    number = 1

    def back() -> bool:
        nonlocal number
        number = writer.write_frame(picture(number + 1))
        time.sleep(0.01)
        return path_of(segment_name).exists()

    wait_until(back)
    assert number < 150, "writes 10 ms apart, or more on a busy machine"
    assert writer.generation != generation
    assert writer.statistics.replacements == 1
    wait_until(lambda: (found := reader.read_frame()[1]) is not None and found.generation == writer.generation)
    assert writer.write_frame(picture(number + 1)) == number + 1
    frame, metadata = new_frame(reader)
    assert metadata.sequence == number + 1
    assert sees(frame, number + 1)
    with SharedMemoryFrameReader(segment_name) as late:
        assert new_frame(late)[1].sequence == number + 1


def test_a_source_without_frames_does_not_keep_a_removed_name_removed(
    segment_name: str, writer: SharedMemoryFrameWriter
) -> None:
    writer.write_frame(picture(1))
    path_of(segment_name).unlink()

    def back() -> bool:
        writer.update_source(state="stalled", reason="no frame for a while")
        time.sleep(0.01)
        return path_of(segment_name).exists()

    wait_until(back)
    assert inspect_segment(segment_name).source_reason == "no frame for a while"


def test_a_file_that_another_process_put_under_a_removed_name_is_not_touched(
    segment_name: str, writer: SharedMemoryFrameWriter
) -> None:
    path_of(segment_name).unlink()
    path_of(segment_name).write_bytes(b"mine")
    with pytest.raises(BilliardsShmError, match=segment_name):
        wait_until(lambda: writer.write_frame(picture(1)) == 0)
    writer.close()
    assert path_of(segment_name).read_bytes() == b"mine"
    path_of(segment_name).unlink()


def test_a_writer_that_lost_its_name_to_another_is_refused_for_good_even_if_it_only_reports(
    segment_name: str, writer: SharedMemoryFrameWriter
) -> None:
    def refusal() -> str:
        try:
            writer.update_source(state="stalled", reason="no frame for a while")
        except WriterExistsError as error:
            return str(error)
        return ""

    writer.write_frame(picture(1))
    path_of(segment_name).unlink()
    with SharedMemoryFrameWriter(segment_name, SHAPE) as other:
        assert f"process {os.getpid()}" in wait_until(refusal)
        assert other.write_frame(picture(9)) == 1
        assert inspect_segment(segment_name).source_reason == ""
    uses = [
        refusal,
        lambda: writer.write_frame(picture(2)),
        writer.loan,
        lambda: writer.write_frame(picture(2, LARGER)),
    ]
    assert uses.pop(0)()
    for use in uses:  # although the name is free now
        with pytest.raises(WriterExistsError, match=segment_name):
            use()
    assert not path_of(segment_name).exists()
    assert writer.sequence == 1
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.update_source(state="streaming")


# ---------------------------------------------------------------- what is reported about the source


def test_update_source_changes_only_what_is_given(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    reader.attach()
    assert (reader.source_state, reader.source_reason) == (SourceState.UNKNOWN, "")
    writer.update_source(state="stalled", reason="no frame for 3 s", reconnects=2)
    writer.update_source(loops=4)
    assert (reader.source_state, reader.source_reason) == (SourceState.STALLED, "no frame for 3 s")
    found = inspect_segment(segment_name)
    assert (found.reconnects, found.loops, found.stalls) == (2, 4, 0)
    writer.update_source(state=SourceState.STREAMING, reason="")
    assert (reader.source_state, reader.source_reason) == (SourceState.STREAMING, "")


@pytest.mark.parametrize("state", list(SourceState))
def test_every_state_of_the_source_arrives(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader, state: SourceState
) -> None:
    reader.attach()
    writer.update_source(state=state, reason=f"because {state}")
    assert reader.source_state is state
    assert reader.source_reason == f"because {state}"


@pytest.mark.parametrize(
    "options",
    [{"state": "broken"}, {"fps": float("nan")}, {"captured": "1"}, {"reason": 5}, {"captured": -5}, {"fps": -3}],
)
def test_update_source_refuses_nonsense(writer: SharedMemoryFrameWriter, options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError, AttributeError)):
        writer.update_source(**options)
    writer.update_source(reason="still working")


def test_a_report_is_read_in_one_piece_while_it_changes(segment_name: str) -> None:
    code = """
    import select
    with SharedMemoryFrameWriter(sys.argv[1], SHAPE) as writer:
        writer.update_source(reason="a" * 128)
        say("open")
        while not select.select([sys.stdin], [], [], 0)[0]:
            for letter in "abcdefgh" * 20:
                writer.update_source(reason=letter * 128)
    """
    with Child(code, segment_name) as child, SharedMemoryFrameReader(segment_name) as reader:
        child.says()
        reader.attach()
        found = {reader.source_reason for _ in range(30000)}
        child.tell()
        child.ends_well()
    assert len(found) > 1, "it changed in between"
    assert found <= {letter * 128 for letter in "abcdefgh"}, "half of one, half of the next"


# ---------------------------------------------------------------- closing


def test_closing_removes_the_name_and_says_so_to_readers(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    reader.attach()
    assert not writer.closed
    writer.close()
    assert writer.closed
    assert not path_of(segment_name).exists()
    assert reader.status is SegmentStatus.CLOSED
    writer.close()


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda writer: writer.write_frame(picture(1)), id="write_frame"),
        pytest.param(lambda writer: writer.write_frame(picture(1, LARGER)), id="write_frame, larger"),
        pytest.param(lambda writer: writer.loan(), id="loan"),
        pytest.param(lambda writer: writer.update_source(reason="x"), id="update_source"),
    ],
)
def test_use_after_close_is_a_value_error(segment_name: str, writer: SharedMemoryFrameWriter, use: Any) -> None:
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        use(writer)
    assert not path_of(segment_name).exists()


def test_numbers_are_still_available_after_closing(writer: SharedMemoryFrameWriter) -> None:
    writer.write_frame(picture(1))
    writer.write_frame(picture(2))
    generation = writer.generation
    writer.close()
    assert writer.sequence == 2
    assert writer.generation == generation
    assert writer.statistics.published == 2
    assert "closed" in repr(writer)


def test_closing_does_not_remove_a_name_that_others_use_now(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    path_of(segment_name).unlink()
    with SharedMemoryFrameWriter(segment_name, SHAPE) as other:
        writer.close()
        assert inspect_segment(segment_name).generation == other.generation


def test_a_writer_that_is_dropped_closes(segment_name: str) -> None:
    writer = SharedMemoryFrameWriter(segment_name, SHAPE)
    assert path_of(segment_name).exists()
    del writer
    assert not path_of(segment_name).exists()


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param("pass", id="end of the program"),
        pytest.param("sys.exit(0)", id="sys.exit"),
        pytest.param(
            "import threading; threading.Thread(target=writer.write_frame, args=[picture(2)]).start()", id="threads"
        ),
        pytest.param(
            "import threading; wait = threading.Event().wait\n"
            "        threading.Thread(target=lambda writer: wait(), args=[writer], daemon=True).start()",
            id="a thread that never ends holds it",
        ),
        pytest.param("slot = writer.loan(); array = slot.array", id="a loan is open"),
        pytest.param("import atexit; atexit.register(writer.close)", id="closed by another exit handler"),
    ],
)
def test_an_interpreter_that_ends_leaves_nothing(segment_name: str, ending: str) -> None:
    run(
        f"""
        writer = SharedMemoryFrameWriter(sys.argv[1], SHAPE)
        writer.write_frame(picture(1))
        kept = [writer]
        kept.append(kept)
        {ending}
        """,
        segment_name,
    )
    assert not path_of(segment_name).exists()


def test_an_exception_that_ends_the_interpreter_leaves_nothing(segment_name: str) -> None:
    with Child("writer = SharedMemoryFrameWriter(sys.argv[1], SHAPE); 1 / 0", segment_name) as child:
        assert child.ends() == 1
        assert child.stderr.rstrip().endswith("ZeroDivisionError: division by zero")
    assert not path_of(segment_name).exists()


def test_a_writer_is_made_once(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    with pytest.raises(ValueError, match="created already"):
        writer.__init__(segment_name, SHAPE)  # type: ignore[misc]
    assert writer.write_frame(picture(1)) == 1


def test_a_writer_that_was_never_made_raises_and_does_not_crash() -> None:
    writer = SharedMemoryFrameWriter.__new__(SharedMemoryFrameWriter)
    for use in (lambda: writer.write_frame(picture(1)), writer.loan, writer.update_source):
        with pytest.raises(ValueError, match="never created"):
            use()
    assert writer.sequence == 0
    writer.close()
    repr(writer)


# ---------------------------------------------------------------- threads


def test_threads_may_write_at_the_same_time_and_every_number_is_used_once(segment_name: str) -> None:
    shape = (64, 64, 3)
    with (
        SharedMemoryFrameWriter(segment_name, shape) as writer,
        SharedMemoryFrameReader(segment_name) as reader,
        ThreadPoolExecutor(5) as pool,
    ):
        stop = threading.Event()

        def verify() -> int:
            seen = 0
            while not stop.is_set():
                frame, _ = reader.read_frame(timeout=0.05, copy=seen % 2 == 0)
                if frame is not None:
                    seen += 1
                    assert (frame == frame[0, 0, 0]).all(), "torn"
            return seen

        verifying = pool.submit(verify)
        written = [pool.submit(lambda: [writer.write_frame(flat(i, shape)) for i in range(300)]) for _ in range(4)]
        numbers = [number for job in written for number in job.result()]
        stop.set()
        assert verifying.result() > 0
    assert sorted(numbers) == list(range(1, 1201))
    assert all(job.result() == sorted(job.result()) for job in written)


def test_closing_while_threads_write_ends_them_with_value_error(segment_name: str) -> None:
    files = descriptors()
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, ThreadPoolExecutor(3) as pool:

        def write() -> str:
            try:
                while True:
                    writer.write_frame(picture(1))
            except ValueError as error:
                return str(error)

        jobs = [pool.submit(write) for _ in range(3)]
        wait_until(lambda: writer.sequence > 50)
        writer.close()
        assert all("closed" in job.result(40) for job in jobs)
    assert not path_of(segment_name).exists()
    assert descriptors() == files


def test_threads_may_loan_in_turn(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    def loan() -> int:
        published = 0
        while published < 50:
            try:
                with writer.loan() as slot:
                    slot.array[:] = 1
                published += 1
            except LoanError:
                time.sleep(0)
        return published

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(lambda _: loan(), range(3))) == 150
    assert writer.sequence == 150

"""A view never changes and never dangles, whatever happens to writers and other readers."""

import copy
import ctypes
import gc
import itertools
import math
import pickle
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from child_processes import Child, run
from segment_layout import opened
from segments_under_test import (
    LARGER,
    SHAPE,
    descriptors,
    flat,
    mappings,
    new_frame,
    path_of,
    picture,
    sees,
)

from billiards_shm import (
    Frame,
    SharedMemoryFrameReader,
    SharedMemoryFrameWriter,
    _core,
    inspect_segment,
    remove_stale_segments,
)


def leases(name: str) -> int:
    return sum(reader.leases for reader in inspect_segment(name).readers)


# ---------------------------------------------------------------- what a view survives


def test_a_pinned_view_never_changes_while_thousands_of_frames_are_written(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    view, metadata = new_frame(reader)
    assert metadata.zero_copy
    for number in range(2, 5002):
        writer.write_frame(flat(number))
        if number % 250 == 0:
            assert sees(view, 1)
    assert sees(view, 1)
    assert view.base.obj.intact


def test_every_held_view_keeps_its_own_frame(segment_name: str) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, SHAPE, slots=62) as writer,
        SharedMemoryFrameReader(segment_name, max_leases=60) as reader,
    ):
        views = []
        for number in range(1, 61):
            writer.write_frame(picture(number))
            view, metadata = new_frame(reader)
            assert metadata.zero_copy, "62 slots are 60 leases"
            views.append(view)
        for number in range(61, 261):
            writer.write_frame(picture(number))
        assert all(sees(view, number) for number, view in enumerate(views, 1))
        assert leases(segment_name) == 60


def test_a_view_outlives_the_reader(writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader) -> None:
    writer.write_frame(picture(1))
    view = new_frame(reader)[0]
    reader.close()
    for number in range(2, 100):
        writer.write_frame(picture(number))
    assert sees(view, 1)


def test_a_view_outlives_the_garbage_collected_reader(writer: SharedMemoryFrameWriter, segment_name: str) -> None:
    writer.write_frame(picture(1))
    view = new_frame(SharedMemoryFrameReader(segment_name))[0]
    gc.collect()
    for number in range(2, 100):
        writer.write_frame(picture(number))
    assert sees(view, 1)


def test_a_view_outlives_the_writer_and_the_name(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    view = new_frame(reader)[0]
    writer.close()
    assert not path_of(segment_name).exists()
    assert sees(view, 1)
    reader.close()
    assert sees(view, 1)


def test_a_view_outlives_an_unlink_by_another_process(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    view = new_frame(reader)[0]
    path_of(segment_name).unlink()
    for number in range(2, 50):
        writer.write_frame(picture(number))
    assert sees(view, 1)


def test_a_view_outlives_a_replaced_segment(writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader) -> None:
    writer.write_frame(picture(1))
    small = new_frame(reader)[0]
    for number in range(2, 50):
        writer.write_frame(picture(number, LARGER))
    large, metadata = new_frame(reader)
    assert sees(small, 1)
    assert sees(large, 49)
    assert metadata.zero_copy
    writer.write_frame(picture(50, (96, 128, 3)))
    assert sees(small, 1)
    assert sees(large, 49)


def test_a_view_outlives_a_killed_writer_and_the_takeover(segment_name: str) -> None:
    with Child("write_and_wait(sys.argv[1])", segment_name) as child, SharedMemoryFrameReader(segment_name) as reader:
        child.says()
        view = new_frame(reader)[0]
        child.kill()
        assert sees(view, 1)
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            for number in range(2, 50):
                writer.write_frame(picture(number))
            assert sees(new_frame(reader)[0], 49)
            assert sees(view, 1)


def test_a_view_outlives_clean_and_a_new_writer_of_the_name(segment_name: str) -> None:
    with Child("write_and_wait(sys.argv[1])", segment_name) as child, SharedMemoryFrameReader(segment_name) as reader:
        child.says()
        view = new_frame(reader)[0]
        child.kill()
        assert remove_stale_segments([segment_name]) == [segment_name]
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            writer.write_frame(picture(7))
            assert sees(new_frame(reader)[0], 7)
            assert sees(view, 1)


def content(thing: Any) -> bytes:
    """The bytes seen through whatever was derived from a frame."""
    if isinstance(thing, Iterator):
        return b"".join(row.tobytes() for row in thing)
    return np.asarray(thing).tobytes()


@pytest.mark.parametrize(
    "derive",
    [
        pytest.param(lambda view: view[3:7], id="rows"),
        pytest.param(lambda view: view[:, ::-2], id="every second column, backwards"),
        pytest.param(lambda view: view[..., 1], id="one channel"),
        pytest.param(lambda view: view.reshape(-1), id="reshape"),
        pytest.param(lambda view: view.transpose(2, 0, 1), id="transpose"),
        pytest.param(lambda view: view.view(np.int8), id="another dtype"),
        pytest.param(lambda view: view[3:7].reshape(-1)[5:20], id="slice of reshape of slice"),
        pytest.param(lambda view: np.asarray(view)[1:], id="np.asarray"),
        pytest.param(lambda view: np.lib.stride_tricks.sliding_window_view(view, (2, 2, 3)), id="windows"),
        pytest.param(lambda view: memoryview(view), id="memoryview"),
        pytest.param(lambda view: memoryview(view)[4:9], id="slice of memoryview"),
        pytest.param(lambda view: np.frombuffer(memoryview(view).cast("B"), np.uint8), id="frombuffer"),
        pytest.param(lambda view: memoryview(view) if view.base is None else view.base, id="the memoryview behind it"),
        pytest.param(lambda view: view.base.obj, id="the frame object"),
        pytest.param(lambda view: iter(view), id="iterator over rows"),
    ],
)
def test_anything_that_looks_into_the_frame_holds_the_pin(
    segment_name: str,
    writer: SharedMemoryFrameWriter,
    reader: SharedMemoryFrameReader,
    derive: Callable[[npt.NDArray[Any]], Any],
) -> None:
    writer.write_frame(picture(1))
    view = new_frame(reader)[0]
    held = derive(view)
    expected = picture(1).tobytes() if isinstance(held, Frame) else content(derive(picture(1)))
    del view
    gc.collect()
    reader.close()
    assert leases(segment_name) == 1
    for number in range(2, 40):
        writer.write_frame(picture(number))
    assert content(held) == expected
    del held
    assert leases(segment_name) == 0


def test_the_pin_goes_with_the_last_view_and_not_before(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    view = new_frame(reader)[0]
    crop = view[2:5]
    red = crop[..., 2]
    assert leases(segment_name) == 1
    del view
    assert leases(segment_name) == 1
    del crop
    assert leases(segment_name) == 1
    del red
    assert leases(segment_name) == 0


def test_a_copy_holds_no_pin(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    view = new_frame(reader)[0]
    own = view.copy()
    del view
    assert leases(segment_name) == 0
    own[:] = 0
    assert sees(reader.latest_frame()[0], 1)


def test_views_in_a_reference_cycle_are_released_by_the_garbage_collector(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    cycle: list[object] = [new_frame(reader)[0]]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert leases(segment_name) == 0


def test_a_view_may_be_dropped_by_another_thread(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    held = [new_frame(reader)[0]]
    dropping = threading.Thread(target=held.clear)
    dropping.start()
    dropping.join()
    assert leases(segment_name) == 0


def test_files_and_mappings_of_a_closed_segment_go_with_its_last_view(segment_name: str) -> None:
    files = descriptors()
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, SharedMemoryFrameReader(segment_name) as reader:
        writer.write_frame(picture(1))
        view = new_frame(reader)[0]
    assert mappings(segment_name) > 0, "the view needs one"
    assert sees(view, 1)
    del view
    assert mappings(segment_name) == 0
    assert descriptors() == files


def test_a_thousand_attachments_leave_no_file_mapping_or_thread(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.write_frame(picture(1))
        files, maps, threads = descriptors(), mappings(segment_name), threading.active_count()
        for _ in range(1000):
            with SharedMemoryFrameReader(segment_name) as reader:
                assert new_frame(reader)[1].sequence == 1
        assert (descriptors(), mappings(segment_name), threading.active_count()) == (files, maps, threads)
        assert inspect_segment(segment_name).readers == ()


def test_a_hundred_writers_leave_no_file_or_mapping(segment_name: str) -> None:
    files = descriptors()
    for _ in range(100):
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            writer.write_frame(picture(1))
            writer.write_frame(picture(2, LARGER))
    assert (descriptors(), mappings(segment_name)) == (files, 0)


def test_a_failed_attachment_leaves_no_file_or_mapping(segment_name: str) -> None:
    path_of(segment_name).write_bytes(b"BILLISHM" + bytes(65536))
    files = descriptors()
    reader = SharedMemoryFrameReader(segment_name)
    for _ in range(50):
        with pytest.raises(ValueError):
            reader.attach(timeout=0)
    assert (descriptors(), mappings(segment_name)) == (files, 0)
    path_of(segment_name).unlink()


# A waiting reader prepares its result before it sleeps, for a frame like the last one in each slot.
ANY_GEOMETRY = [
    ((24, 32, 3), "uint8"),
    ((24, 32, 3), "int8"),
    ((32, 24, 3), "uint8"),
    ((48, 48), "uint8"),
    ((24, 32, 3), "uint8"),
    ((16, 24, 3), "uint16"),
    ((12, 24, 4), "uint16"),
    ((48, 64, 3), "uint8"),  # another segment
    ((24, 32, 3), "float32"),
    ((24, 32, 3), "uint8"),
]


@pytest.mark.parametrize("held", [0, 1])
def test_after_a_wait_each_frame_has_its_own_geometry_from_its_own_slot(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader, held: int
) -> None:
    views: list[tuple[npt.NDArray[Any], int, tuple[int, ...], str]] = []
    random = np.random.default_rng(held)
    for number in range(1, 301):
        shape, dtype = ANY_GEOMETRY[random.integers(len(ANY_GEOMETRY)) if number % 10 == 0 else 0]
        assert reader.read_frame(timeout=0.0001) == (None, None)
        writer.write_frame(picture(number, shape, dtype))
        frame, metadata = new_frame(reader)
        assert (frame.shape, frame.dtype, metadata.sequence) == (shape, np.dtype(dtype), number)
        assert (metadata.width, metadata.height, metadata.dtype) == (shape[1], shape[0], frame.dtype)
        assert frame.base.obj.intact
        views = [*views, (frame, number, shape, dtype)][-held:] if held else []
        del frame
        assert all(np.array_equal(view, picture(*which)) for view, *which in views)


@pytest.mark.parametrize(
    "other",
    [
        {"row_stride": 128},
        {"width": 16},
        {"height": 12},
        {"channels": 2},
        {"item_size": 2},
        {"kind": ord("i")},
        {"ndim": 2},
    ],
    ids=lambda other: next(iter(other)),
)
def test_after_a_wait_frames_of_a_writer_that_pads_have_their_own_geometry(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader, other: dict[str, int]
) -> None:
    usual = {"row_stride": 96, "width": 24, "height": 10, "channels": 1, "item_size": 1, "kind": ord("u"), "ndim": 3}
    content = np.arange(math.prod(SHAPE)).astype(np.uint8)
    with opened(path_of(segment_name)) as segment:
        for number in range(1, 13):
            writer.write_frame(content.reshape(SHAPE))
            geometry = usual | (other if number % 4 > 1 else {})  # each slot has both, one after another
            descriptor = segment.descriptor(segment.latest[1])
            for field, value in geometry.items():
                descriptor[field] = value
            frame, metadata = new_frame(reader)
            shape = (geometry["height"], geometry["width"], geometry["channels"])[: geometry["ndim"]]
            dtype = np.dtype(f"{chr(geometry['kind'])}{geometry['item_size']}")
            assert (frame.shape, frame.dtype, frame.strides[0]) == (shape, dtype, geometry["row_stride"])
            assert (metadata.channels, metadata.dtype) == (geometry["channels"], dtype)
            at = (frame.shape[0] - 1) * geometry["row_stride"]
            row = content[at : at + frame[-1].nbytes].view(dtype)
            assert np.array_equal(frame[-1].reshape(-1), row)
            del frame
            assert reader.read_frame(timeout=0.0001) == (None, None)


def test_a_prepared_result_pins_nothing_and_goes_with_the_reader(
    segment_name: str, writer: SharedMemoryFrameWriter
) -> None:
    def frames() -> int:
        gc.collect()
        return sum(isinstance(one, Frame) for one in gc.get_objects()) + sum(
            isinstance(one, memoryview) and isinstance(one.obj, Frame) for one in gc.get_objects()
        )

    before = frames()
    reader = SharedMemoryFrameReader(segment_name)
    for number in range(1, 20):
        writer.write_frame(picture(number))
        new_frame(reader)
        assert reader.read_frame(timeout=0.0001) == (None, None)
        assert leases(segment_name) == 0
    assert frames() > before
    reader.close()
    assert frames() == before


def test_a_prepared_result_may_be_looked_at_after_its_segment_is_gone(segment_name: str) -> None:
    """gc.DEBUG_LEAK and gc.get_objects() find it: its memory is gone, but its addresses are not reused."""
    code = """
    class Camera:  # an object with a cycle in it
        def __init__(self):
            self.reader = SharedMemoryFrameReader(sys.argv[1])
            self.callback = self.read

        def read(self):
            return self.reader.read_frame(timeout=0.01)

    def restart(number):
        global writer
        writer.close()
        writer = SharedMemoryFrameWriter(sys.argv[1], (480, 640, 3))
        writer.write_frame(picture(number, (480, 640, 3)))

    writer = SharedMemoryFrameWriter(sys.argv[1], (480, 640, 3))
    writer.write_frame(picture(1, (480, 640, 3)))
    camera = Camera()
    new_frame(camera.reader)
    assert camera.read() == (None, None)
    pairs = [one for one in gc.get_objects() if isinstance(one, tuple) and len(one) == 2]
    made = [pair for pair in pairs if isinstance(pair[0], np.ndarray)]
    del pairs
    assert len(made) == 3  # for each slot that has memory
    restart(2)
    assert sees(new_frame(camera.reader)[0], 2)
    assert camera.read() == (None, None)
    assert mappings(sys.argv[1]) > 0
    assert not any(array.any() or not repr(metadata) for array, metadata in made)
    del made
    writer.close()
    writer = SharedMemoryFrameWriter(sys.argv[1], (480, 640, 3))  # which has no frame yet
    camera.read()
    gc.set_debug(gc.DEBUG_SAVEALL)
    del camera
    gc.collect()
    assert "array(" in str(gc.garbage)
    assert str(gc.get_objects())
    """
    run(code, segment_name)


def test_threads_that_wait_with_one_reader_never_share_an_array(
    segment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_asarray(frame: Frame) -> npt.NDArray[Any]:
        array = np.asarray(frame)
        time.sleep(0.0005)  # the others get here in the meantime
        return array

    monkeypatch.setattr(_core, "np", SimpleNamespace(**vars(np) | {"asarray": slow_asarray}))
    taken: list[int] = []
    with (
        SharedMemoryFrameWriter(segment_name, SHAPE, slots=8) as writer,
        SharedMemoryFrameReader(segment_name, max_leases=6) as reader,
    ):

        def take() -> None:
            last = 0
            while last < 1000 and (found := reader.read_frame(timeout=2.0))[0] is not None:
                frame, metadata = found
                last = metadata.sequence
                assert sees(frame, last)
                assert reader.latest_frame()[0] is not frame
                taken.append(last)

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        # The last frame may be taken by `latest_frame` alone, so there are more until each thread has enough.
        for number in itertools.count(1):
            if not any(thread.is_alive() for thread in threads):
                break
            writer.write_frame(picture(number))
            time.sleep(0.0002)
    assert len(taken) == len(set(taken))
    assert max(taken) >= 1000


def test_a_frame_without_memory_for_its_result_is_released_and_the_next_one_arrives(
    segment_name: str,
    writer: SharedMemoryFrameWriter,
    reader: SharedMemoryFrameReader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(frame: Frame) -> None:
        raise MemoryError

    for number in (1, 3):  # each in a slot that this reader has not seen
        writer.write_frame(picture(number))
        with monkeypatch.context() as patch:
            patch.setattr(_core, "np", SimpleNamespace(asarray=fail))
            with pytest.raises(MemoryError):
                reader.read_frame()
        assert leases(segment_name) == 0
        assert reader.read_frame(timeout=0.0001) == (None, None)
        writer.write_frame(picture(number + 1))
        frame, metadata = new_frame(reader)
        assert sees(frame, number + 1)
        assert metadata.zero_copy
        del frame


# ---------------------------------------------------------------- read-only means read-only


def test_writing_into_a_view_raises_value_error(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    view = new_frame(reader)[0]
    with pytest.raises(ValueError):
        view[0, 0, 0] = 1
    with pytest.raises(ValueError):
        view += 1
    with pytest.raises(ValueError):
        view.fill(0)
    with pytest.raises(ValueError):
        np.add(view, 1, out=view)
    with pytest.raises(TypeError):
        memoryview(view)[0, 0, 0] = 1
    assert sees(view, 1)


@pytest.mark.parametrize("part", [slice(None), slice(2, 5)])
def test_a_view_cannot_be_made_writable(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader, part: slice
) -> None:
    writer.write_frame(picture(1))
    frame = new_frame(reader)[0]
    view = frame[part]
    with pytest.raises(ValueError):
        view.setflags(write=True)
    with pytest.raises(ValueError):
        view.flags.writeable = True
    for array in (np.frombuffer(memoryview(view), np.uint8), np.asarray(frame.base.obj), np.asarray(frame.base)):
        with pytest.raises(ValueError):
            array.setflags(write=True)


def test_a_request_for_a_writable_buffer_is_refused_with_advice_to_copy(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    frame = new_frame(reader)[0].base.obj
    with pytest.raises((BufferError, TypeError)):
        (ctypes.c_ubyte * 10).from_buffer(frame)
    with pytest.raises(BufferError, match="copy"):
        request_buffer(frame, BUFFER_WRITABLE)


# The C API of buffers, which numpy's own arrays use; memoryview requests less than a C consumer may.
BUFFER_SIMPLE, BUFFER_WRITABLE, BUFFER_FORMAT, BUFFER_ND, BUFFER_STRIDES = 0x0, 0x1, 0x4, 0x8, 0x18
BUFFER_C_CONTIGUOUS, BUFFER_F_CONTIGUOUS, BUFFER_ANY_CONTIGUOUS = 0x38, 0x58, 0x98
BUFFER_FULL_READ_ONLY = 0x11C


class PyBuffer(ctypes.Structure):
    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.POINTER(ctypes.c_ssize_t)),
        ("strides", ctypes.POINTER(ctypes.c_ssize_t)),
        ("suboffsets", ctypes.POINTER(ctypes.c_ssize_t)),
        ("internal", ctypes.c_void_p),
    )


def request_buffer(exporter: object, flags: int) -> tuple[Any, ...]:
    """What a C consumer gets."""
    view = PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(exporter), ctypes.byref(view), ctypes.c_int(flags))
    shape = tuple(view.shape[: view.ndim]) if view.shape else None
    strides = tuple(view.strides[: view.ndim]) if view.strides else None
    found = (view.len, view.itemsize, view.readonly, view.format, shape, strides)
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))
    return found


@pytest.mark.parametrize(
    "flags",
    [
        BUFFER_SIMPLE,
        BUFFER_FORMAT,
        BUFFER_ND,
        BUFFER_STRIDES,
        BUFFER_C_CONTIGUOUS,
        BUFFER_ANY_CONTIGUOUS,
        BUFFER_C_CONTIGUOUS | BUFFER_FORMAT,
        BUFFER_FULL_READ_ONLY,
    ],
)
def test_a_frame_exports_its_memory_as_a_read_only_array_of_numpy_does(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader, flags: int
) -> None:
    array = picture(1)
    array.setflags(write=False)
    writer.write_frame(array)
    assert request_buffer(new_frame(reader)[0].base.obj, flags) == request_buffer(array, flags)


def test_a_frame_refuses_a_request_for_fortran_order_as_numpy_does(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    with pytest.raises((BufferError, ValueError)):
        request_buffer(picture(1), BUFFER_F_CONTIGUOUS)
    frame = new_frame(reader)[0].base.obj
    with pytest.raises(BufferError):
        request_buffer(frame, BUFFER_F_CONTIGUOUS)


@pytest.mark.parametrize(("options", "zero_copy"), [({}, True), ({"max_leases": 0}, False), ({"copy": True}, False)])
def test_rows_padded_by_another_writer_are_read_without_their_padding(
    segment_name: str, writer: SharedMemoryFrameWriter, options: dict[str, Any], zero_copy: bool
) -> None:
    padded = publish_padded(segment_name, writer)
    with SharedMemoryFrameReader(segment_name, **options) as reader:
        frame, metadata = new_frame(reader)
        assert metadata.zero_copy == zero_copy
        np.testing.assert_array_equal(frame, padded)
        assert frame.tobytes() == padded.tobytes()


@pytest.mark.parametrize("flags", [BUFFER_SIMPLE, BUFFER_ND, BUFFER_C_CONTIGUOUS, BUFFER_ANY_CONTIGUOUS])
def test_padded_rows_are_not_passed_off_as_contiguous(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader, flags: int
) -> None:
    publish_padded(segment_name, writer)
    frame = new_frame(reader)[0].base.obj
    with pytest.raises(BufferError):
        request_buffer(frame, flags)


def publish_padded(name: str, writer: SharedMemoryFrameWriter) -> npt.NDArray[Any]:
    """Publish a frame with padded rows; this library's writer makes none."""
    writer.write_frame(picture(1, (24, 32, 3)))
    with opened(path_of(name)) as segment:
        segment.descriptor(segment.latest[1])["width"] = 30
    return picture(1, (24, 32, 3))[:, :30]


# ---------------------------------------------------------------- copies


def test_pickling_gives_an_independent_copy(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    view, metadata = new_frame(reader)
    others = []
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        other, told = pickle.loads(pickle.dumps((view, metadata), protocol))
        assert told == metadata
        assert sees(other, 1)
        assert not np.shares_memory(other, view)
        others.append(other)
    del view
    reader.close()
    assert leases(segment_name) == 0
    for number in range(2, 10):
        writer.write_frame(picture(number))
    assert all(sees(other, 1) for other in others)


def test_pickling_out_of_band_keeps_the_frame_read_only(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    view = new_frame(reader)[0]
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(view, protocol=5, buffer_callback=buffers.append)
    again = pickle.loads(data, buffers=buffers)
    del view, buffers
    for number in range(2, 30):
        writer.write_frame(picture(number))
    assert sees(again, 1)
    with pytest.raises(ValueError):
        again[0, 0, 0] = 1


def test_copy_and_deepcopy_give_independent_arrays(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    view = new_frame(reader)[0]
    others = [copy.copy(view), copy.deepcopy(view), np.array(view), view.copy()]
    del view
    assert leases(segment_name) == 0
    for other in others:
        other[:] = 0


def test_neither_frame_nor_reader_nor_writer_can_be_pickled(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    advice = {
        new_frame(reader)[0].base.obj: "pickle the array",
        reader: "create one with the same name where you need it",
        writer: "a name has one writer",
    }
    with writer.loan() as slot:
        advice[slot] = "pickle the array"
        for thing, words in advice.items():
            for use in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(TypeError, match=words):
                    use(thing)


# ---------------------------------------------------------------- leases used up


def test_when_the_readers_leases_are_used_up_a_read_copies_and_says_so(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    views = []
    for number in (1, 2):
        writer.write_frame(picture(number))
        view, metadata = new_frame(reader)
        assert metadata.zero_copy
        views.append(view)
    writer.write_frame(picture(3))
    third, metadata = new_frame(reader)
    assert not metadata.zero_copy
    assert third.flags.writeable
    assert third.flags.owndata
    assert leases(segment_name) == 2
    third[:] = 0
    del views[0], view
    writer.write_frame(picture(4))
    fourth, metadata = new_frame(reader)
    assert metadata.zero_copy, "a lease is free again"
    assert sees(fourth, 4)
    assert sees(views[0], 2)


def test_a_reader_with_no_leases_copies_always(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    with SharedMemoryFrameReader(segment_name, max_leases=0) as reader:
        for number in range(1, 20):
            writer.write_frame(picture(number))
            frame, metadata = new_frame(reader)
            assert sees(frame, number)
            assert not metadata.zero_copy
            assert frame.flags.writeable
        assert reader.statistics.copies == 19
        assert leases(segment_name) == 0


def test_when_the_segments_leases_are_used_up_other_readers_copy(segment_name: str) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, SHAPE, slots=3) as writer,
        SharedMemoryFrameReader(segment_name) as first,
        SharedMemoryFrameReader(segment_name) as second,
    ):
        writer.write_frame(picture(1))
        held, metadata = new_frame(first)
        assert metadata.zero_copy
        copied, metadata = new_frame(second)
        assert not metadata.zero_copy
        assert sees(copied, 1)
        for number in range(2, 50):
            assert writer.write_frame(picture(number)) == number
        assert sees(held, 1)
        assert sees(copied, 1)


def test_a_lease_given_back_by_one_reader_serves_the_next(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE, slots=3) as writer:
        for number in range(1, 6):
            writer.write_frame(picture(number))
            with SharedMemoryFrameReader(segment_name) as reader:
                assert new_frame(reader)[1].zero_copy
                gc.collect()


def test_a_strict_triple_buffer_in_a_for_loop_leases_every_second_frame(segment_name: str) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, SHAPE, slots=3) as writer,
        SharedMemoryFrameReader(segment_name) as reader,
    ):
        frame, kinds = None, []
        for number in range(1, 9):
            writer.write_frame(picture(number))
            frame, metadata = new_frame(reader)
            assert sees(frame, number)
            kinds.append(metadata.zero_copy)
        assert kinds == [True, False] * 4


def test_the_same_frame_twice_shares_the_pin(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    first = new_frame(reader)[0]
    again = [reader.latest_frame() for _ in range(10)]
    assert all(metadata.zero_copy for _, metadata in again)
    assert {frame.__array_interface__["data"] for frame, _ in again} == {first.__array_interface__["data"]}
    assert leases(segment_name) == 1
    writer.write_frame(picture(2))
    second, metadata = new_frame(reader)
    assert metadata.zero_copy, "eleven views of one frame are one lease"
    del first
    assert leases(segment_name) == 2
    for number in range(3, 30):
        writer.write_frame(picture(number))
    assert all(sees(frame, 1) for frame, _ in again)
    assert sees(second, 2)
    del again
    assert leases(segment_name) == 1


def test_a_frame_returned_as_a_view_can_be_written_back(
    writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    for number in range(2, 50):
        view = new_frame(reader)[0]
        assert writer.write_frame(view) == number
        assert sees(view, 1)


# ---------------------------------------------------------------- closing, in every order


@pytest.mark.parametrize("order", ["wrv", "wvr", "rwv", "rvw", "vwr", "vrw"])
@pytest.mark.parametrize("collect", [False, True])
def test_closing_in_any_order_raises_nothing_and_leaks_nothing(segment_name: str, order: str, collect: bool) -> None:
    files = descriptors()
    things: dict[str, Any] = {"w": SharedMemoryFrameWriter(segment_name, SHAPE)}
    things["r"] = SharedMemoryFrameReader(segment_name)
    things["w"].write_frame(picture(1))
    things["v"] = new_frame(things["r"])[0]
    assert sees(things["v"], 1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for letter in order:
            thing = things.pop(letter)
            if letter != "v" and not collect:
                thing.close()
                thing.close()
            del thing
            gc.collect()
            if "v" in things:
                assert sees(things["v"], 1)
    assert said == []
    assert not path_of(segment_name).exists()
    assert (descriptors(), mappings(segment_name)) == (files, 0)


def test_an_interpreter_that_ends_with_everything_open_prints_nothing(segment_name: str) -> None:
    printed = run(
        """
        name = sys.argv[1]
        writer = SharedMemoryFrameWriter(name, SHAPE)
        reader = SharedMemoryFrameReader(name)
        other = SharedMemoryFrameReader(name)
        writer.write_frame(picture(1))
        view = reader.read_frame(timeout=5)[0]
        crop = view[3:5]
        latest = other.latest_frame()[0]
        writer.write_frame(picture(2, LARGER))
        slot = writer.loan()
        array = slot.array
        iterator = iter(reader)
        larger = next(iterator)[0]
        cycle = [reader, writer, view, slot]
        cycle.append(cycle)
        from multiprocessing import resource_tracker
        say(resource_tracker._resource_tracker._fd, "multiprocessing.shared_memory" in sys.modules)
        """,
        segment_name,
    )
    assert printed.split() == ["None", "False"], "Python's resource tracker never hears of it"
    assert not path_of(segment_name).exists()


def test_a_reader_that_exits_leaves_the_living_segment_alone(
    segment_name: str, writer: SharedMemoryFrameWriter, reader: SharedMemoryFrameReader
) -> None:
    writer.write_frame(picture(1))
    for _ in range(2):
        run("view = new_frame(SharedMemoryFrameReader(sys.argv[1]))[0]; assert sees(view, 1)", segment_name)
    assert path_of(segment_name).exists()
    assert writer.write_frame(picture(2)) == 2
    assert sees(new_frame(reader)[0], 2)


def test_views_die_quietly_after_the_module_globals_are_gone(segment_name: str) -> None:
    run(
        """
        class Late:
            def __init__(self, *held):
                self.held = held
            def __del__(self):
                assert self.held[0].sum() == total
                del self.held
        import builtins
        writer = SharedMemoryFrameWriter(sys.argv[1], SHAPE)
        writer.write_frame(picture(1))
        total = int(picture(1).sum())
        reader = SharedMemoryFrameReader(sys.argv[1])
        builtins.kept_beyond_the_modules = Late(new_frame(reader)[0], reader, writer)
        """,
        segment_name,
    )
    assert not path_of(segment_name).exists()

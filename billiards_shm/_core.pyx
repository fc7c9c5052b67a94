"""Frames, writer and reader in Python: wraps csrc/, where the protocol is."""

import atexit
import errno
import math
import operator
import os
import weakref

import numpy as np

from billiards_shm import errors as _errors
from billiards_shm.owners import resolve_group as _resolve_group
from billiards_shm.owners import resolve_owners as _resolve_owners
from billiards_shm.pixel_formats import PIXEL_FORMATS as _PIXEL_FORMATS
from billiards_shm.statistics import REPORTED as _REPORTED
from billiards_shm.statistics import STATISTICS as _STATISTICS
from billiards_shm.statistics import WriterStatistics as _WriterStatistics
from billiards_shm.status import CLOCKS as _CLOCKS
from billiards_shm.status import SegmentStatus, SourceState

cimport cython
from cpython.buffer cimport (
    PyBUF_ANY_CONTIGUOUS,
    PyBUF_C_CONTIGUOUS,
    PyBUF_F_CONTIGUOUS,
    PyBUF_FORMAT,
    PyBUF_ND,
    PyBUF_STRIDES,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_CheckBuffer,
    PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport NAN, isnan
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from billiards_shm cimport _abi

ABI_VERSION = (_abi.BSHM_ABI_MAJOR, _abi.BSHM_ABI_MINOR)
MIN_SLOTS = _abi.BSHM_MIN_SLOTS
MAX_SLOTS = _abi.BSHM_MAX_SLOTS

cdef int COPY_ATTEMPTS = _abi.BSHM_READ_ATTEMPTS

# ---------------------------------------------------------------- errors

_ERROR_OF_CODE = {
    _abi.BSHM_E_NAME: _errors.SegmentNameError,
    _abi.BSHM_E_NOT_FOUND: _errors.SegmentNotFoundError,
    _abi.BSHM_E_FORMAT: _errors.SegmentFormatError,
    _abi.BSHM_E_EXISTS: _errors.WriterExistsError,
    _abi.BSHM_E_FULL: _errors.SharedMemoryFullError,
    _abi.BSHM_E_PERMISSION: _errors.SegmentPermissionError,
    _abi.BSHM_E_SHAPE: _errors.FrameShapeError,
    _abi.BSHM_E_LOAN: _errors.LoanError,
    _abi.BSHM_E_CLOSED: ValueError,
    _abi.BSHM_E_ARGUMENT: ValueError,
    _abi.BSHM_E_MEMORY: MemoryError,
    _abi.BSHM_E_SYSTEM: _errors.SegmentSystemError,
}


_ERRNO_OF_CODE = {  # for exceptions that are OSErrors too
    _abi.BSHM_E_NOT_FOUND: errno.ENOENT,
    _abi.BSHM_E_EXISTS: errno.EEXIST,
    _abi.BSHM_E_FULL: errno.ENOSPC,
    _abi.BSHM_E_PERMISSION: errno.EACCES,
}


def _error_of(int code, str message, int system_errno):
    """The exception for an error code of the core; no other place makes one."""
    error = _ERROR_OF_CODE.get(code, _errors.BilliardsShmError)(message)
    if isinstance(error, OSError):
        error.errno = system_errno or _ERRNO_OF_CODE.get(code)
    return error


cdef object _exception(_abi.bshm_error *error):
    return _error_of(error.code, (<bytes> error.message).decode("utf-8", "replace"), error.system_errno)


# ---------------------------------------------------------------- pixel formats, states, dtypes

# V4L2's code for the same layout.
_FOURCC_CODE = {name: row.code for name, row in _PIXEL_FORMATS.items()}
_PIXEL_FORMAT_OF_CODE = {code: name for name, code in _FOURCC_CODE.items()}


def _layouts_of(row):
    """Layouts that a frame of the format can have: dimensions, channels, kind and size of an item."""
    dtype = np.dtype(row.dtype or "V")
    return [(number, row.channels, dtype.kind, dtype.itemsize)
            for number in ((row.dimensions,) if row.dimensions else (2, 3))]


_LAYOUTS = {name: _layouts_of(row) for name, row in _PIXEL_FORMATS.items()}
_CODE_SUGGESTED_BY_LAYOUT = {
    layout: row.code for name, row in _PIXEL_FORMATS.items() if row.suggested_by_shape for layout in _LAYOUTS[name]
}

_SOURCE_STATES = tuple(SourceState)
_STATUSES = {
    _abi.BSHM_STATUS_DETACHED: SegmentStatus.DETACHED,
    _abi.BSHM_STATUS_LIVE: SegmentStatus.LIVE,
    _abi.BSHM_STATUS_CLOSED: SegmentStatus.CLOSED,
    _abi.BSHM_STATUS_DEAD: SegmentStatus.DEAD,
}

# By kind and size of an item: its PEP 3118 format, and its dtype, made once.
_FORMATS = {
    ("b", 1): b"?", ("i", 1): b"b", ("i", 2): b"h", ("i", 4): b"i", ("i", 8): b"q",
    ("u", 1): b"B", ("u", 2): b"H", ("u", 4): b"I", ("u", 8): b"Q",
    ("f", 2): b"e", ("f", 4): b"f", ("f", 8): b"d", ("c", 8): b"Zf", ("c", 16): b"Zd",
}
_DTYPES = {key: np.dtype(f"{key[0]}{key[1]}") for key in _FORMATS}

cdef bytes _BYTES_FORMAT = _FORMATS["u", 1]  # most frames have it
_KINDS = {"?": "b", "e": "f", "f": "f", "d": "f", "Zf": "c", "Zd": "c",
          "b": "i", "h": "i", "i": "i", "l": "i", "q": "i", "n": "i",
          "B": "u", "H": "u", "I": "u", "L": "u", "Q": "u", "N": "u"}


cdef object _dtype_of(const _abi.bshm_frame_info *info):
    return _DTYPES[chr(info.kind), info.item_size]


cdef tuple _shape_of(const _abi.bshm_frame_info *info):
    if info.ndim == 2:
        return (info.height, info.width)
    return (info.height, info.width, info.channels)


cdef uint32_t _fourcc_for(str declared, const _abi.bshm_frame_info *info):
    """The declared format if it fits the frame, else one that fits its shape."""
    cdef tuple layout = (info.ndim, info.channels, chr(info.kind), info.item_size)
    if declared == "RAW" or layout in _LAYOUTS[declared]:
        return _FOURCC_CODE[declared]
    return _CODE_SUGGESTED_BY_LAYOUT.get(layout, _FOURCC_CODE["RAW"])


cdef str _format_of(const _abi.bshm_frame_info *info):
    """RAW: a code that is not known here, or one of other arrays, as a corrupt segment may have it."""
    name = _PIXEL_FORMAT_OF_CODE.get(info.fourcc, "RAW")
    fits = (info.ndim, info.channels, chr(info.kind), info.item_size) in _LAYOUTS[name]
    return name if fits else "RAW"


cdef str _hex(const uint8_t *generation):
    return (<const char *> generation)[:16].hex()


cdef str _text(const char *text):
    return (<bytes> text).decode("utf-8", "replace")


cdef class _Owners:
    """User ids in memory that the core reads during a call."""

    cdef _abi.bshm_owners owners
    cdef uint32_t *uids

    def __cinit__(self, owners):
        uids = _resolve_owners(owners)
        self.uids = <uint32_t *> malloc(sizeof(uint32_t) * (len(uids) + 1))
        if self.uids == NULL:
            raise MemoryError
        for i, uid in enumerate(uids):
            self.uids[i] = uid
        self.owners.uids = self.uids
        self.owners.count = len(uids)

    def __dealloc__(self):
        free(self.uids)


# ---------------------------------------------------------------- metadata

@cython.final
cdef class FrameMetadata:
    """What is known about one frame; immutable, hashable, picklable.

    Attributes
    ----------
    sequence : int
        Number of the frame, from 1. It keeps rising when the segment is replaced or a new writer takes over.
    skipped : int
        Frames that this reader missed since the one before.
    capture_time_ns, publish_time_ns : int
        When it was captured and when it was published, in nanoseconds of CLOCK_MONOTONIC (``time.monotonic_ns()``).
    wall_time_ns : int
        When it was published, in nanoseconds of the wall clock (``time.time_ns()``).
    position_ms : float or None
        Position in the source, milliseconds.
    width, height, channels : int
        Size in pixels, and items per pixel.
    dtype : numpy.dtype
        Of the array's items.
    pixel_format : str
        Such as BGR24; RAW if it is none that this version knows.
    generation : str
        Which segment it came from: 32 hexadecimal digits, random.
    zero_copy : bool
        True: the array lies in shared memory. False: it is a copy that belongs to you.
    online : bool
        False: a placeholder, published while the source is away.
    clock : str
        What ``capture_time_ns`` was taken from: ``driver`` (the camera driver's time of the buffer), ``sender`` (the
        clock of the camera or server that sent it), ``file`` (the times in a recording), ``remote`` (another host's
        segment), or ``arrival`` (when it reached the process that captures).
    source_sequence : int or None
        The number that the frame had where it came from; None if it had none.
    """

    cdef _abi.bshm_frame_info info
    cdef uint8_t _generation[16]
    cdef readonly unsigned long long skipped
    cdef readonly bint zero_copy

    def __init__(self):
        raise TypeError("FrameMetadata is created by reading a frame")

    cdef void fill(self, const _abi.bshm_frame *frame, bint zero_copy) noexcept:
        """Set the values, before the object is given away."""
        self.info = frame.info
        memcpy(self._generation, frame.generation, 16)
        self.skipped = frame.skipped
        self.zero_copy = zero_copy

    @property
    def sequence(self):
        return self.info.sequence

    @property
    def capture_time_ns(self):
        return self.info.capture_ns

    @property
    def publish_time_ns(self):
        return self.info.publish_ns

    @property
    def wall_time_ns(self):
        return self.info.wall_ns

    @property
    def position_ms(self):
        return None if isnan(self.info.position_ms) else self.info.position_ms

    @property
    def width(self):
        return self.info.width

    @property
    def height(self):
        return self.info.height

    @property
    def channels(self):
        return self.info.channels

    @property
    def dtype(self):
        return _dtype_of(&self.info)

    @property
    def pixel_format(self):
        return _format_of(&self.info)

    @property
    def generation(self):
        return _hex(self._generation)

    @property
    def online(self):
        return not self.info.flags & _abi.BSHM_FRAME_PLACEHOLDER

    @property
    def clock(self):
        cdef uint32_t clock = (self.info.flags & _abi.BSHM_FRAME_CLOCK) >> _abi.BSHM_CLOCK_SHIFT
        return _CLOCKS[clock] if clock < <uint32_t> len(_CLOCKS) else "arrival"

    @property
    def source_sequence(self):
        return self.info.source_sequence if self.info.flags & _abi.BSHM_FRAME_SOURCE_SEQUENCE else None

    def as_dict(self):
        """All attributes by name."""
        return {name: getattr(self, name) for name in _METADATA_FIELDS}

    def __repr__(self):
        return f"FrameMetadata({', '.join(f'{name}={value!r}' for name, value in self.as_dict().items())})"

    def __eq__(self, other):
        if not isinstance(other, FrameMetadata):
            return NotImplemented
        return self.as_dict() == other.as_dict()

    def __hash__(self):
        return hash((self.generation, self.sequence, self.skipped, self.zero_copy))

    def __reduce__(self):
        state = (<const char *> &self.info)[:sizeof(_abi.bshm_frame_info)]
        return _metadata_from_bytes, (state, (<const char *> self._generation)[:16], self.skipped, self.zero_copy)


_METADATA_FIELDS = (
    "sequence", "skipped", "capture_time_ns", "publish_time_ns", "wall_time_ns", "position_ms", "width", "height",
    "channels", "dtype", "pixel_format", "generation", "zero_copy", "online", "clock", "source_sequence",
)


def _metadata_from_bytes(bytes info, bytes generation, skipped, zero_copy):
    """Unpickle a `FrameMetadata`."""
    cdef FrameMetadata metadata = FrameMetadata.__new__(FrameMetadata)
    if len(info) != sizeof(_abi.bshm_frame_info) or len(generation) != 16:
        raise ValueError("this metadata was pickled by another version of billiards_shm")
    memcpy(&metadata.info, <const char *> info, sizeof(_abi.bshm_frame_info))
    memcpy(metadata._generation, <const char *> generation, 16)
    if (chr(metadata.info.kind), metadata.info.item_size) not in _FORMATS:
        raise ValueError("this metadata was pickled by another version of billiards_shm")
    metadata.skipped = skipped
    metadata.zero_copy = zero_copy
    return metadata


cdef FrameMetadata _metadata_of(const _abi.bshm_frame *frame, bint zero_copy):
    cdef FrameMetadata metadata = FrameMetadata.__new__(FrameMetadata)
    metadata.fill(frame, zero_copy)
    return metadata


# ---------------------------------------------------------------- arrays over memory

cdef class _PixelBuffer:
    """The geometry of a frame in memory, as the buffer protocol takes it. Subclasses own the memory."""

    cdef Py_ssize_t shape[3]
    cdef Py_ssize_t strides[3]
    cdef bytes format

    cdef void describe(self, const _abi.bshm_frame_info *info):
        self.shape[0] = info.height
        self.shape[1] = info.width
        self.shape[2] = info.channels
        self.strides[0] = <Py_ssize_t> info.row_stride
        self.strides[1] = info.channels * info.item_size
        self.strides[2] = info.item_size
        if info.kind == c"u" and info.item_size == 1:
            self.format = _BYTES_FORMAT
        else:
            self.format = _FORMATS[chr(info.kind), info.item_size]

    cdef int fill(self, Py_buffer *view, int flags, void *pixels, const _abi.bshm_frame_info *info,
                  bint readonly) except -1:
        cdef Py_ssize_t row_bytes = self.shape[1] * self.strides[1]
        cdef bint padded = self.strides[0] != row_bytes
        if readonly and flags & PyBUF_WRITABLE:
            raise BufferError("frames in shared memory are read-only: make a copy (copy=True, or frame.copy())")
        cdef bint contiguous = (flags & PyBUF_C_CONTIGUOUS == PyBUF_C_CONTIGUOUS
                                or flags & PyBUF_ANY_CONTIGUOUS == PyBUF_ANY_CONTIGUOUS
                                or flags & PyBUF_STRIDES != PyBUF_STRIDES)
        if padded and contiguous:
            raise BufferError("rows of this frame are padded: ask for a strided buffer, or make a copy")
        if flags & PyBUF_F_CONTIGUOUS == PyBUF_F_CONTIGUOUS:
            raise BufferError("frames are stored row by row: ask for C order, or make a copy in Fortran order")
        view.buf = pixels
        view.itemsize = info.item_size
        view.len = self.shape[0] * row_bytes
        view.readonly = readonly
        view.ndim = info.ndim
        view.format = <char *> self.format if flags & PyBUF_FORMAT else NULL
        view.shape = self.shape if flags & PyBUF_ND else NULL
        view.strides = self.strides if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
        view.suboffsets = NULL
        view.internal = NULL
        return 0


@cython.final
cdef class Frame(_PixelBuffer):
    """One pinned frame: the object behind a zero-copy view, ``view.base.obj``.

    **Lifetime.** The pixels stay as they are until the last view of them is gone, even after reader and writer are
    closed. The view holds this object; this object holds the pin, the mapping, and the lock that makes the pin count.
    Do not use it in a forked child.
    """

    cdef _abi.bshm_frame frame
    cdef _abi.bshm_attachment *addresses  # of the array, which may have been made before its frame was there

    def __init__(self):
        raise TypeError("frames are created by a reader")

    def __dealloc__(self):
        _abi.bshm_frame_release(&self.frame)
        _abi.bshm_addresses_release(self.addresses)

    @property
    def intact(self):
        """False only if another process overrode the pin: an attack, or a bug worth reporting."""
        return bool(_abi.bshm_frame_intact(&self.frame))

    def __getbuffer__(self, Py_buffer *view, int flags):
        self.fill(view, flags, <void *> self.frame.pixels, &self.frame.info, True)
        view.obj = self

    def __releasebuffer__(self, Py_buffer *view):
        pass


@cython.final
cdef class _PreparedFrame:
    """The array and the metadata that `read_frame` will return for the next frame in a slot, made in advance.

    Making them takes half a microsecond, but 20 us just after a sleep, when the code is in no cache any more: as long
    as the wake-up itself. So a reader makes them before it sleeps, for the geometry of the slot's last frame.

    The garbage collector knows the array, and so others may find it and look at it: nothing is pinned there, but its
    addresses are held.
    """

    cdef _abi.bshm_frame like  # the frame that `pair` was made for: address and geometry. Holds the addresses only
    cdef Frame frame
    cdef FrameMetadata metadata
    cdef tuple pair  # None: not prepared. Its array is not used before it is delivered

    def __dealloc__(self):
        _abi.bshm_addresses_release(self.like.attachment)

    cdef int prepare(self, const _abi.bshm_frame *like) except -1:
        cdef Frame frame = Frame.__new__(Frame)
        cdef FrameMetadata metadata = FrameMetadata.__new__(FrameMetadata)
        cdef _abi.bshm_attachment *former = NULL
        frame.addresses = _abi.bshm_addresses_hold(like.attachment)
        frame.frame.pixels = like.pixels
        frame.frame.info = like.info
        frame.describe(&frame.frame.info)
        metadata.info = like.info  # for a debugger that finds it before it is delivered
        pair = (np.asarray(frame), metadata)
        self.frame = frame  # nothing before this changes `self`: other threads may have run here meanwhile
        self.metadata = metadata
        self.pair = pair
        if self.like.attachment != like.attachment:
            former = self.like.attachment
            self.like.attachment = _abi.bshm_addresses_hold(like.attachment)
            _abi.bshm_addresses_release(former)
        self.like.pixels = like.pixels
        self.like.info = like.info
        return 0

    cdef int prepare_again(self) except -1:
        cdef _abi.bshm_frame like
        with cython.critical_section(self):
            if self.pair is None:
                like = self.like
                self.prepare(&like)
        return 0

    cdef bint fits(self, const _abi.bshm_frame *frame) noexcept:
        cdef const _abi.bshm_frame_info *info = &frame.info
        if self.pair is None:
            return False
        cdef const _abi.bshm_frame_info *here = &self.frame.frame.info
        return (self.frame.frame.pixels == frame.pixels and here.row_stride == info.row_stride
                and here.width == info.width and here.height == info.height and here.channels == info.channels
                and here.ndim == info.ndim and here.kind == info.kind and here.item_size == info.item_size)

    cdef tuple deliver(self, _abi.bshm_frame *frame):
        """Return the prepared pair; its array takes over the pin of `frame`."""
        cdef tuple pair
        with cython.critical_section(self):
            while not self.fits(frame):
                self.prepare(frame)
            self.frame.frame = frame[0]
            frame.attachment = NULL
            self.metadata.fill(&self.frame.frame, True)
            pair = self.pair
            self.frame = self.metadata = self.pair = None
        return pair


@cython.no_gc_clear  # a slot in a garbage cycle needs its writer until it is given back
@cython.final
cdef class LoanedSlot(_PixelBuffer):
    """A slot lent for writing. Leaving its ``with`` block publishes it; an exception or `cancel` does not.

    **Lifetime.** You may write to `array` until the slot is published or cancelled. Then it becomes read-only. A slice
    that you took earlier does not; writing into it would change a picture that others are looking at.
    """

    cdef _abi.bshm_loan lent
    cdef SharedMemoryFrameWriter writer
    cdef object _array  # a weak reference: the array refers to this object
    cdef unsigned long long _sequence

    def __init__(self):
        raise TypeError("slots are created by SharedMemoryFrameWriter.loan()")

    def __dealloc__(self):
        if self.writer is not None:
            if self.lent.open:
                _abi.bshm_writer_cancel(self.writer._writer, &self.lent)
            _abi.bshm_loan_release(&self.lent)

    @property
    def array(self):
        """Writable view of the slot, shape (height, width[, channels]); the same object for as long as it is held."""
        array = self._array() if self._array is not None else None
        if array is None:
            self._check_open()
            array = np.asarray(self)
            self._array = weakref.ref(array)
        return array

    @property
    def sequence(self):
        """The frame's sequence number; 0 until it is published."""
        return self._sequence

    def publish(self, *, capture_time_ns=None, position_ms=None, online=None, clock=None, source_sequence=None):
        """Publish now, and return the sequence number. Takes what was not known when the slot was lent.

        Raises
        ------
        LoanError
            It was published or cancelled already.
        ValueError
            The writer was closed in the meantime.
        """
        cdef _abi.bshm_error error
        cdef uint64_t sequence = 0
        cdef int rc
        self._check_open()
        _set_origin(&self.lent.info, capture_time_ns, position_ms, online, clock, source_sequence)
        with nogil:
            rc = _abi.bshm_writer_publish(self.writer._writer, &self.lent, &sequence, &error)
        self._seal()
        if rc < 0:
            raise _exception(&error)
        self._sequence = sequence
        return self._sequence

    def cancel(self):
        """Give the slot back unpublished; it uses no sequence number. May be called again, and after publishing."""
        if self.lent.open:
            with nogil:
                _abi.bshm_writer_cancel(self.writer._writer, &self.lent)
            self._seal()

    cdef int _check_open(self) except -1:
        if not self.lent.open:
            raise _errors.LoanError("this slot was published or cancelled already: take a new loan")
        return 0

    cdef object _seal(self):
        self.lent.open = 0
        array = self._array() if self._array is not None else None
        if array is not None:
            array.flags.writeable = False

    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc, traceback):
        if exc_type is not None:
            self.cancel()
        elif self.lent.open:
            self.publish()

    def __getbuffer__(self, Py_buffer *view, int flags):
        self.fill(view, flags, self.lent.pixels, &self.lent.info, not self.lent.open)
        view.obj = self

    def __releasebuffer__(self, Py_buffer *view):
        pass


# ---------------------------------------------------------------- writer

cdef dict _statistics_of(const _abi.bshm_statistics *copy):
    """All statistics by name, and the latency buckets."""
    cdef const _abi.bshm_shared64 *words = <const _abi.bshm_shared64 *> copy
    found = {name: words[<size_t> row.word].shared for name, row in _STATISTICS.items()}
    found["write_latency_buckets"] = tuple(copy.write_ns_log2[i].shared for i in range(_abi.BSHM_LATENCY_BUCKETS))
    return found


cdef int _set_geometry(_abi.bshm_frame_info *info, object shape, object dtype) except -1:
    """Fill `info` from a shape and a dtype. Raises for what does not fit its integers; the core checks the rest."""
    shape = tuple(shape) if not isinstance(shape, int) else (shape,)
    dtype = np.dtype(dtype)
    if len(shape) not in (2, 3) or not all(isinstance(n, (int, np.integer)) and 0 < n < 2**31 for n in shape):
        raise _errors.FrameShapeError(
            f"shape {shape!r}: expected (height, width) or (height, width, channels), each at least 1")
    if (dtype.kind, dtype.itemsize) not in _FORMATS:
        raise _errors.FrameShapeError(
            f"dtype {dtype}: expected bool, int8 to int64, uint8 to uint64, float16 to float64 or complex")
    memset(info, 0, sizeof(_abi.bshm_frame_info))
    info.ndim = len(shape)
    info.height = shape[0]
    info.width = shape[1]
    info.channels = shape[2] if len(shape) == 3 else 1
    info.kind = ord(dtype.kind)
    info.item_size = dtype.itemsize
    info.position_ms = NAN
    return 0


cdef int _set_origin(_abi.bshm_frame_info *info, object capture_time_ns, object position_ms, object online,
                     object clock, object source_sequence) except -1:
    """When and from where the frame comes. What is None stays as it is."""
    if capture_time_ns is not None:
        info.capture_ns = operator.index(capture_time_ns)
    if position_ms is not None:
        info.position_ms = position_ms
    if online is not None:
        info.flags &= ~<uint32_t> _abi.BSHM_FRAME_PLACEHOLDER
        if not online:
            info.flags |= _abi.BSHM_FRAME_PLACEHOLDER
    if clock is not None:
        if clock not in _CLOCKS:
            raise ValueError(f"clock={clock!r}: expected one of {', '.join(_CLOCKS)}")
        info.flags &= ~<uint32_t> _abi.BSHM_FRAME_CLOCK
        info.flags |= <uint32_t> _CLOCKS.index(clock) << _abi.BSHM_CLOCK_SHIFT
    if source_sequence is not None:
        if not 0 <= operator.index(source_sequence) < 2**64:
            raise ValueError(f"source_sequence={source_sequence!r}: expected 0 to 2**64 - 1")
        info.source_sequence = source_sequence
        info.flags |= _abi.BSHM_FRAME_SOURCE_SEQUENCE
    return 0


cdef object _bad_pixel_format(object pixel_format):
    return ValueError(f"pixel_format {pixel_format!r}: expected one of {', '.join(_PIXEL_FORMATS)}")


_open_writers = weakref.WeakSet()


@atexit.register
def _close_writers():
    """Close the writers that are still open, so that a process that exits normally leaves no segment behind."""
    for writer in list(_open_writers):
        writer.close()


cdef class SharedMemoryFrameWriter:
    """Publishes frames under a name. A name has one writer.

    Parameters
    ----------
    name
        Letters, digits, ``.``, ``_``, ``-``, at most 64. A name with a slash is the path of a file, best on a tmpfs.
    shape
        (height, width) or (height, width, channels) of the largest frame you expect. Smaller frames and other dtypes
        may follow. A larger frame replaces the segment, and readers follow by themselves.
    dtype
        Type of the items: any bool, integer, floating or complex type of a fixed size.
    pixel_format
        Such as BGR24, GRAY16, NV12, or RAW for any other. A frame that cannot have it, because of its channels or
        dtype, is labelled by its shape instead.
    slots
        3 to 62. Three have memory from the start, further ones when readers hold that many frames. All readers
        together can hold ``slots - 2`` frames; beyond that they get copies.
    history
        How many frames before the newest are kept, so that readers can have them too: `read_next`,
        ``frames(every=True)``, ``read_frame(sequence=...)``, `frame_at`. Each takes a slot more, with memory from the
        start; at most 62 slots in all.
    mode
        Permission bits of the file. 0o640 lets the group read, with copies; 0o660 lets it hold leases, too.
    group
        Name or number of the group that these bits are for, one of yours. None: the group of any file you create.
    trusted_owners
        Owners to trust besides you and root: their dead segments may be taken over. None: as the environment variable
        BILLIARDS_SHM_TRUSTED_OWNERS says.

    Raises
    ------
    SegmentNameError, WriterExistsError, SegmentFormatError, SegmentPermissionError, FrameShapeError
        Nothing that exists is touched.
    SharedMemoryFullError
        The message names the bytes needed; nothing is left behind.

    Notes
    -----
    Several threads may use a writer, one frame at a time. A forked child cannot use its parent's writer: `ValueError`.
    The interpreter closes its writers when it exits.
    """

    cdef _abi.bshm_writer *_writer
    cdef readonly str name
    cdef _abi.bshm_frame_info _usual  # the geometry that the writer was created for
    cdef tuple shape
    cdef object dtype
    cdef str pixel_format
    cdef bint _closed
    cdef bint _warned
    cdef object __weakref__

    def __cinit__(self):
        self._writer = NULL
        self._closed = True

    def __init__(self, name, shape, *, dtype="uint8", pixel_format="BGR24", slots=8, history=0, mode=0o600,
                 group=None, trusted_owners=None):
        cdef _abi.bshm_writer_options options
        cdef _abi.bshm_error error
        cdef bytes encoded = _encode_name(name)
        cdef const char *c_name = encoded
        cdef _Owners owners = _Owners(trusted_owners)
        cdef int rc
        if self._writer != NULL:
            raise ValueError(f"the writer of {self.name!r} was created already: create another")
        if pixel_format not in _FOURCC_CODE:
            raise _bad_pixel_format(pixel_format)
        if not isinstance(slots, int) or not MIN_SLOTS <= slots <= MAX_SLOTS:
            raise ValueError(f"slots={slots!r}: expected an integer from {MIN_SLOTS} to {MAX_SLOTS}")
        if not isinstance(history, int) or not 0 <= history <= MAX_SLOTS - slots:
            raise ValueError(f"history={history!r}: expected an integer from 0 to {MAX_SLOTS - slots} beside {slots=}")
        if not isinstance(mode, int) or mode & ~0o777:
            raise ValueError(f"mode={mode!r}: expected permission bits from 0 to 0o777")
        _set_geometry(&self._usual, shape, dtype)
        self._usual.fourcc = _fourcc_for(pixel_format, &self._usual)
        self.name = os.fspath(name)
        self.dtype = np.dtype(dtype)
        self.shape = _shape_of(&self._usual)
        self.pixel_format = pixel_format
        options.slot_capacity = min(math.prod(self.shape) * self.dtype.itemsize, 2**63)  # more is refused by the core
        options.slots = slots
        options.history = history
        options.mode = mode
        options.set_group = group is not None
        options.group = _resolve_group(group) if group is not None else 0
        options.trusted = owners.owners
        with nogil:
            rc = _abi.bshm_writer_create(&self._writer, c_name, &options, &error)
        if rc < 0:
            raise _exception(&error)
        self._closed = False
        _open_writers.add(self)

    def __dealloc__(self):
        _abi.bshm_writer_free(self._writer)

    @property
    def sequence(self):
        """Number of the last frame published; 0 before the first, unless it continues a dead writer's count."""
        return self._counters().sequence

    @property
    def generation(self):
        """The segment that is written to now: 32 hexadecimal digits."""
        cdef _abi.bshm_writer_counters counters = self._counters()
        return _hex(counters.generation)

    @property
    def closed(self):
        """Whether `close` was called."""
        return self._closed

    @property
    def statistics(self):
        """A `WriterStatistics`."""
        cdef _abi.bshm_writer_counters counters = self._counters()
        return _WriterStatistics(
            replacements=counters.replacements, backed_bytes=counters.backed_bytes, total_bytes=counters.total_bytes,
            **_statistics_of(&counters.statistics))

    @property
    def has_readers(self):
        """Whether a reader is attached to the segment, asked of the kernel now."""
        cdef int found = 0
        if self._writer != NULL:
            with nogil:
                found = _abi.bshm_writer_has_readers(self._writer)
        return found == 1

    cdef _abi.bshm_writer_counters _counters(self):
        cdef _abi.bshm_writer_counters counters
        memset(&counters, 0, sizeof(counters))
        if self._writer != NULL:
            with nogil:
                _abi.bshm_writer_get_counters(self._writer, &counters)
        return counters

    cdef int _check_created(self) except -1:
        if self._writer == NULL:
            raise ValueError("the writer was never created: call __init__")
        return 0

    cdef str _format_or_usual(self, object pixel_format):
        if pixel_format is None:
            return self.pixel_format
        if pixel_format not in _FOURCC_CODE:
            raise _bad_pixel_format(pixel_format)
        return pixel_format

    def write_frame(self, frame, *, capture_time_ns=None, position_ms=None, online=True, pixel_format=None, clock=None,
                    source_sequence=None):
        """Copy `frame` into shared memory and publish it, without the GIL.

        Parameters
        ----------
        frame
            Array of shape (height, width) or (height, width, channels). Rows may lie apart (a crop) or upside down.
            Other strides, and a foreign byte order, are made contiguous and native first.
        capture_time_ns
            When it was captured, in nanoseconds of CLOCK_MONOTONIC; None: now.
        position_ms
            Position in the source, in milliseconds.
        online
            False marks a placeholder.
        pixel_format
            Of this frame; None: as the writer was made.
        clock
            What ``capture_time_ns`` comes from: driver, sender, file, remote or arrival (None); see `FrameMetadata`.
        source_sequence
            The number that the frame had where it came from; None: it had none.

        Returns
        -------
        int
            The sequence number, from 1. 0: the frame was dropped, because there was no memory for another slot
            (`statistics.dropped` counts these, and the first one warns).

        Raises
        ------
        FrameShapeError
            Not a picture. The message has its shape and the writer's.
        LoanError
            A slot is lent.
        SharedMemoryFullError
            The frame is larger than the segment allows, and there is no room for a larger segment.
        ValueError
            The writer is closed, or belongs to the parent process.
        """
        cdef _abi.bshm_frame_info info
        cdef _abi.bshm_error error
        cdef Py_buffer view
        cdef uint64_t sequence = 0
        cdef int rc
        self._check_created()
        declared = self._format_or_usual(pixel_format)
        self._get_pixels(frame, &view, &info)
        info.fourcc = _fourcc_for(declared, &info)
        try:
            _set_origin(&info, capture_time_ns, position_ms, online, clock, source_sequence)
            with nogil:
                rc = _abi.bshm_writer_write(self._writer, &info, view.buf, view.strides[0], &sequence, &error)
        finally:
            PyBuffer_Release(&view)
        if rc < 0:
            raise _exception(&error)
        if rc == _abi.BSHM_DROPPED:
            self._warn_dropped(&error)
        return sequence

    cdef int _get_pixels(self, object frame, Py_buffer *view, _abi.bshm_frame_info *info) except -1:
        """Fill `view` with a buffer whose rows are contiguous, and `info` with its geometry. The caller releases it."""
        if not PyObject_CheckBuffer(frame):
            raise self._shape_error(frame)
        if self._try_pixels(frame, view, info):
            return 0
        if not isinstance(frame, np.ndarray) or frame.ndim not in (2, 3) or 0 in frame.shape:
            raise self._shape_error(frame)
        if (frame.dtype.kind, frame.dtype.itemsize) not in _FORMATS:
            raise self._shape_error(frame)
        # A frame in another memory layout or byte order.
        if not self._try_pixels(np.ascontiguousarray(frame, dtype=frame.dtype.newbyteorder("=")), view, info):
            raise self._shape_error(frame)
        return 0

    cdef bint _try_pixels(self, object source, Py_buffer *view, _abi.bshm_frame_info *info) except -1:
        """True: `view` is filled, and `info` describes it."""
        try:
            PyObject_GetBuffer(source, view, PyBUF_STRIDES | PyBUF_FORMAT)
        except (BufferError, ValueError):  # a dtype without a buffer format
            return False
        if self._describe(view, info):
            return True
        PyBuffer_Release(view)
        return False

    cdef bint _describe(self, Py_buffer *view, _abi.bshm_frame_info *info):
        """False: not a frame, or its rows are not contiguous."""
        cdef Py_ssize_t channels
        if view.ndim not in (2, 3) or view.len == 0:
            return False
        format = view.format.decode("utf-8", "replace") if view.format != NULL else "B"
        kind = _KINDS.get(format.lstrip("@=<") if np.little_endian else format.lstrip("@=>"))
        channels = view.shape[2] if view.ndim == 3 else 1
        if kind is None or (kind, view.itemsize) not in _FORMATS:
            return False
        if max(view.shape[0], view.shape[1], channels) >= 2**31:
            return False
        if view.ndim == 3 and channels > 1 and view.strides[2] != view.itemsize:
            return False
        if view.shape[1] > 1 and view.strides[1] != channels * view.itemsize:
            return False
        memset(info, 0, sizeof(_abi.bshm_frame_info))
        info.ndim = view.ndim
        info.height = <uint32_t> view.shape[0]
        info.width = <uint32_t> view.shape[1]
        info.channels = <uint32_t> channels
        info.kind = ord(kind)
        info.item_size = <uint32_t> view.itemsize
        info.position_ms = NAN
        return True

    cdef object _shape_error(self, frame):
        found = f"a {type(frame).__name__}"
        if hasattr(frame, "shape"):
            found = f"an array of shape {frame.shape} and dtype {getattr(frame, 'dtype', '?')}"
        return _errors.FrameShapeError(
            f"{found} is not a frame for {self.name!r}: expected an array of shape (height, width) or (height, width, "
            f"channels) and a numeric dtype, such as {self.shape} of {self.dtype}")

    cdef object _warn_dropped(self, _abi.bshm_error *error):
        if not self._warned:
            self._warned = True
            import warnings

            # 1 is the caller: compiled functions have no stack frames.
            warnings.warn(f"a frame of {self.name!r} was dropped: {_text(error.message)}", RuntimeWarning, stacklevel=1)

    def loan(self, shape=None, *, dtype=None, capture_time_ns=None, position_ms=None, online=True, pixel_format=None,
             clock=None, source_sequence=None):
        """Lend a slot to draw into, without a copy.

        Parameters
        ----------
        shape, dtype
            Of the frame; None: those of the writer.
        capture_time_ns, position_ms, online, pixel_format, clock, source_sequence
            As in `write_frame`. `LoanedSlot.publish` takes them, too.

        Returns
        -------
        LoanedSlot
            Publishes on leaving its ``with`` block.

        Raises
        ------
        LoanError
            A slot is lent already.
        SharedMemoryFullError
            There is no memory for another slot (the frame counts as dropped), or no room for a larger segment.
        FrameShapeError, ValueError
            As in `write_frame`.
        """
        cdef LoanedSlot slot = LoanedSlot.__new__(LoanedSlot)
        cdef _abi.bshm_frame_info info
        cdef _abi.bshm_error error
        cdef int rc
        self._check_created()
        if shape is None and dtype is None:
            info = self._usual
        else:
            _set_geometry(&info, self.shape if shape is None else shape, self.dtype if dtype is None else dtype)
            info.fourcc = _fourcc_for(self.pixel_format, &info)
        if pixel_format is not None:
            info.fourcc = _fourcc_for(self._format_or_usual(pixel_format), &info)
        _set_origin(&info, capture_time_ns, position_ms, online, clock, source_sequence)
        slot.writer = self
        with nogil:
            rc = _abi.bshm_writer_loan(self._writer, &info, &slot.lent, &error)
        if rc != _abi.BSHM_OK:
            raise _exception(&error)
        slot.describe(&slot.lent.info)
        return slot

    def update_source(self, *, state=None, reason=None, backend=None, fps=None, **counters):
        """Tell readers and ``inspect`` how the source is. What is None or missing stays as it was.

        Parameters
        ----------
        state
            A `SourceState`.
        reason, backend
            Text; the first 128 and 32 bytes are kept.
        fps
            Measured frames per second.
        **counters
            Totals so far: ``captured``, ``unreadable``, ``reconnects``, ``stalls``, ``loops``; see `SegmentInfo`.
        """
        cdef _abi.bshm_source_report report
        cdef _abi.bshm_error error
        cdef bytes reason_bytes
        cdef bytes backend_bytes
        cdef int rc
        cdef _abi.bshm_shared64 *words = <_abi.bshm_shared64 *> &report.statistics
        self._check_created()
        _abi.bshm_source_report_init(&report)
        for name, total in counters.items():
            if name not in _REPORTED:
                raise TypeError(f"update_source() has no argument {name!r}: expected one of {', '.join(_REPORTED)}")
            if total is not None:
                if total < 0:
                    raise ValueError(f"{name}={total!r}: expected 0 or more")
                words[<size_t> _REPORTED[name].word].shared = total
        if fps is not None:
            if not fps >= 0:
                raise ValueError(f"fps={fps!r}: expected 0 or more")
            report.statistics.fps_millihertz.shared = round(fps * 1000)
        if state is not None:
            report.statistics.source_state.shared = _SOURCE_STATES.index(SourceState(state))
        if reason is not None:
            reason_bytes = reason.replace("\0", " ").encode("utf-8", "replace")
            report.reason = reason_bytes
        if backend is not None:
            backend_bytes = backend.replace("\0", " ").encode("utf-8", "replace")
            report.backend = backend_bytes
        with nogil:
            rc = _abi.bshm_writer_report(self._writer, &report, &error)
        if rc < 0:
            raise _exception(&error)

    def close(self):
        """Tell readers that this was the end, and remove the name. Frames they hold stay. May be called again."""
        if self._writer != NULL:
            with nogil:
                _abi.bshm_writer_close(self._writer)
        self._closed = True
        _open_writers.discard(self)

    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc, traceback):
        self.close()

    def __repr__(self):
        state = "closed" if self._closed else f"sequence {self.sequence}"
        return f"<SharedMemoryFrameWriter {self.name!r}, {state}>"


cdef bytes _encode_name(object name):
    cdef bytes encoded
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        raise _errors.SegmentNameError(f"name {name!r} cannot be encoded: use valid text") from None
    if b"\0" in encoded:
        raise _errors.SegmentNameError(f"name {name!r} contains a NUL character: leave it out")
    return encoded


# ---------------------------------------------------------------- reader

@cython.final
cdef class ReaderStatistics:
    """Counters of one reader, a snapshot.

    Attributes
    ----------
    frames : int
        Frames returned.
    skipped : int
        Frames that were published and that it did not see.
    copies : int
        Frames returned as copies, because you asked or because no lease was free.
    retries : int
        Attempts that were repeated because a newer frame came in between.
    """

    cdef readonly unsigned long long frames, skipped, copies, retries

    def __init__(self):
        raise TypeError("statistics are created by SharedMemoryFrameReader.statistics")

    def as_dict(self):
        """All attributes by name."""
        return {"frames": self.frames, "skipped": self.skipped, "copies": self.copies, "retries": self.retries}

    def __repr__(self):
        return f"ReaderStatistics({', '.join(f'{name}={value!r}' for name, value in self.as_dict().items())})"


cdef object _bad_timeout(object timeout):
    return ValueError(f"timeout={timeout!r}: expected seconds, 0 or more, or None")


cdef int64_t _deadline_of(object timeout) except? -1:
    """The end of a timeout in seconds, CLOCK_MONOTONIC ns; None: never."""
    if timeout is None:
        return 2**62
    if not timeout >= 0:
        raise _bad_timeout(timeout)
    return _abi.bshm_now_ns() + <int64_t> min(timeout * 1e9, 2.0**61)


cdef object _source_state_of(const _abi.bshm_statistics *statistics):
    cdef uint64_t state = statistics.source_state.shared
    return _SOURCE_STATES[state] if state < <size_t> len(_SOURCE_STATES) else SourceState.UNKNOWN


cdef object _age(int64_t then_ns):
    """Seconds since then; None: never. In floating point, since a segment may have any number there."""
    return max(0.0, (<double> _abi.bshm_now_ns() - <double> then_ns) / 1e9) if then_ns else None


_TARGETS = ("BGR24", "RGB24", "GRAY8")


cdef int _check_target(object wanted) except -1:
    if wanted not in _TARGETS:
        raise ValueError(f"format={wanted!r}: expected one of {', '.join(_TARGETS)}, or None")
    return 0


cdef tuple _in_format(tuple found, str wanted, bint own):
    """A frame and its metadata, converted if it has another format."""
    cdef FrameMetadata given = found[1]
    cdef bint zero_copy = False
    if given is None:
        return found
    frame = found[0]
    row = _PIXEL_FORMATS[given.pixel_format]
    if row.name == wanted:
        if not (own and given.zero_copy):
            return found
        array = frame.copy()
    elif wanted == "GRAY8" and row.chroma and row.dtype == "uint8":
        array = frame[:frame.shape[0] * 2 // 3]
        zero_copy = given.zero_copy and not own
        if own:
            array = array.copy()
    else:
        try:
            from billiards_shm.images import convert  # here: it needs OpenCV
        except ImportError as error:
            raise ImportError(
                f"converting a {row.name} frame to {wanted} needs OpenCV ({error}): "
                "pip install 'billiards-shm[headless]'") from error
        array = convert(frame, row.name, wanted)
    return array, _metadata_of_array(given, array, wanted, zero_copy)


cdef FrameMetadata _metadata_of_array(FrameMetadata given, object array, str pixel_format, bint zero_copy):
    """The metadata of a frame, with the geometry of another array that was made of it."""
    cdef FrameMetadata metadata = FrameMetadata.__new__(FrameMetadata)
    cdef _abi.bshm_frame_info geometry
    _set_geometry(&geometry, array.shape, array.dtype)
    metadata.info = given.info
    metadata.info.ndim = geometry.ndim
    metadata.info.height = geometry.height
    metadata.info.width = geometry.width
    metadata.info.channels = geometry.channels
    metadata.info.kind = geometry.kind
    metadata.info.item_size = geometry.item_size
    metadata.info.row_stride = <uint64_t> array.strides[0]
    metadata.info.payload_bytes = <uint64_t> array.strides[0] * geometry.height
    metadata.info.fourcc = _FOURCC_CODE[pixel_format]
    memcpy(metadata._generation, given._generation, 16)
    metadata.skipped = given.skipped
    metadata.zero_copy = zero_copy
    return metadata


cdef enum:  # which frame of the window is taken
    _NEWEST
    _NEXT
    _NUMBER
    _NEAREST


cdef class SegmentReader:
    """Reads the newest frame under a name: `billiards_shm.SharedMemoryFrameReader` without iteration."""

    cdef _abi.bshm_reader *_reader
    cdef readonly str name
    cdef bint _copy
    cdef bint _closed
    cdef bint _history_known
    cdef list _prepared  # by slot: a _PreparedFrame, or None before the slot's first frame
    cdef int _ahead  # the slots below this one are prepared, or were
    cdef int _delivered_slot  # slot of the last frame, whose next one is not prepared yet; -1: none
    cdef uint8_t _generation[16]  # of the segment that `_prepared` belongs to
    cdef object __weakref__

    def __cinit__(self):
        self._reader = NULL
        self._closed = True
        self._prepared = [None] * MAX_SLOTS
        self._delivered_slot = -1

    def __init__(self, name, *, max_leases=2, copy=False, trusted_owners=None):
        cdef _abi.bshm_reader_options options
        cdef _abi.bshm_error error
        cdef bytes encoded = _encode_name(name)
        cdef const char *c_name = encoded
        cdef _Owners owners = _Owners(trusted_owners)
        if self._reader != NULL:
            raise ValueError(f"the reader of {self.name!r} was created already: create another")
        if not isinstance(max_leases, int) or not 0 <= max_leases <= MAX_SLOTS - 2:
            raise ValueError(f"max_leases={max_leases!r}: expected an integer from 0 to {MAX_SLOTS - 2}")
        self.name = os.fspath(name)
        self._copy = copy
        options.max_leases = max_leases
        options.trusted = owners.owners
        if _abi.bshm_reader_create(&self._reader, c_name, &options, &error) < 0:
            raise _exception(&error)
        self._closed = False

    def __dealloc__(self):
        _abi.bshm_reader_free(self._reader)

    @property
    def closed(self):
        """Whether `close` was called."""
        return self._closed

    @property
    def status(self):
        """A `SegmentStatus`, asked of the kernel now."""
        if self._reader == NULL:
            return SegmentStatus.DETACHED
        return _STATUSES[_abi.bshm_reader_status(self._reader)]

    cdef bint _source(self, _abi.bshm_source_view *view):
        cdef int attached = _abi.BSHM_NOTHING
        if self._reader != NULL:
            with nogil:
                attached = _abi.bshm_reader_source(self._reader, view)
        return attached == _abi.BSHM_ATTACHED

    @property
    def source_state(self):
        """What the capture process says about its source: a `SourceState`."""
        cdef _abi.bshm_source_view view
        return _source_state_of(&view.statistics) if self._source(&view) else SourceState.UNKNOWN

    @property
    def source_reason(self):
        """Why the source is in that state; empty if there is nothing to say."""
        cdef _abi.bshm_source_view view
        return _text(view.reason) if self._source(&view) else ""

    @property
    def last_frame_age(self):
        """Seconds since the last captured frame (placeholders do not count), or None if there was none."""
        cdef _abi.bshm_source_view view
        return _age(<int64_t> view.statistics.last_capture_ns.shared) if self._source(&view) else None

    @property
    def statistics(self):
        """A `ReaderStatistics`."""
        cdef _abi.bshm_reader_counters counters
        cdef ReaderStatistics statistics = ReaderStatistics.__new__(ReaderStatistics)
        if self._reader != NULL:
            _abi.bshm_reader_get_counters(self._reader, &counters)
            statistics.frames = counters.frames
            statistics.skipped = counters.skipped
            statistics.copies = counters.copies
            statistics.retries = counters.retries
        return statistics

    cdef int _check_created(self) except -1:
        if self._reader == NULL:
            raise ValueError("the reader was never created: call __init__")
        return 0

    def attach(self, timeout=5.0):
        """Attach to the segment, waiting for it to appear. Reads do this by themselves.

        Parameters
        ----------
        timeout
            Seconds to wait; None: no limit.

        Raises
        ------
        SegmentNotFoundError
            The time is up.
        SegmentFormatError, SegmentPermissionError
            The object under the name cannot be read.
        ValueError
            The reader is closed.
        """
        cdef _abi.bshm_error error
        cdef int64_t deadline = _deadline_of(timeout)
        cdef int64_t left
        cdef int rc
        self._check_created()
        while True:
            with nogil:
                rc = _abi.bshm_reader_attach(self._reader, &error)
            if rc == _abi.BSHM_OK:
                return
            left = deadline - _abi.bshm_now_ns()
            if rc != _abi.BSHM_E_NOT_FOUND or left <= 0:
                raise _exception(&error)
            with nogil:
                _abi.bshm_reader_wait(self._reader, left)
            PyErr_CheckSignals()

    def read_frame(self, timeout=0.0, *, copy=None, format=None, sequence=None):
        """The newest frame that this reader has not seen; or the one with the number `sequence`.

        Parameters
        ----------
        timeout
            Seconds to wait for one. 0: do not wait. None: wait until there is one, even if there is no segment yet.
        copy
            True: a writable array of your own. False: zero-copy if a lease is free. None: as the reader was made.
        format
            BGR24, RGB24 or GRAY8: what the frame is converted to, by OpenCV, into an array of your own. None: as it
            was published. A frame that has the format already is not converted, and GRAY8 of NV12, NV21, I420 and YV12
            is a view of their Y plane.
        sequence
            The number of a frame in the window: the newest one and the history before it (`history` of the writer). It
            does not count as seen. There is no waiting for it.

        Returns
        -------
        frame : numpy.ndarray or None
            Shape (height, width) or (height, width, channels). Read-only if zero-copy.
        metadata : FrameMetadata or None
            Both None: nothing new, not in the window, or no segment. They describe the array, also a converted one.

        Raises
        ------
        SegmentFormatError, SegmentPermissionError
            The object under the name cannot be read.
        ValueError
            The reader is closed; or the frame cannot be converted, as one that is RAW.
        ImportError
            The frame has to be converted, and OpenCV is not installed.

        Notes
        -----
        **Lifetime.** A zero-copy frame never changes. It is pinned until the last view of it is gone, whatever happens
        to reader and writer. A reader pins at most `max_leases` frames; while you hold that many, further ones come as
        copies.
        """
        cdef bint own = self._copy if copy is None else copy
        cdef object found
        self._check_created()
        if timeout is not None and not timeout >= 0:
            raise _bad_timeout(timeout)
        if format is not None or sequence is not None:
            return self._read_otherwise(timeout, own, format, sequence)
        found = self._take(_NEWEST, 0, 0, own)
        if found is not None:
            return found
        return self._wait_for(_NEWEST, timeout, own)

    cdef object _read_otherwise(self, object timeout, bint own, object format, object sequence):
        """`read_frame` in a format, or by number."""
        if format is not None:
            _check_target(format)
            return _in_format(self.read_frame(timeout, copy=False, sequence=sequence), format, own)
        if timeout != 0:
            raise ValueError(f"timeout={timeout!r}: a frame asked for by its number is not waited for")
        return self._look_up(_NUMBER, max(0, min(operator.index(sequence), 2**62)), own)

    cdef object _wait_for(self, int which, object timeout, bint own):
        cdef int64_t deadline = _deadline_of(timeout)
        cdef int64_t left
        while True:
            left = deadline - _abi.bshm_now_ns()
            if left <= 0:
                return None, None
            PyErr_CheckSignals()
            self._wait(left)
            found = self._take(which, 0, 0, own)
            if found is not None:
                return found

    cdef object _look_up(self, int which, int64_t what, bint own):
        found = self._take(which, what, 0, own)
        return (None, None) if found is None else found

    def read_next(self, timeout=0.0, *, copy=None, format=None):
        """The next frame after the last one that this reader had, as long as it is in the window.

        The window is the newest frame and the history before it (`history` of the writer). A frame that fell out of it
        is counted in ``metadata.skipped``. The first is the newest frame.

        Parameters, returns, raises and lifetime as in `read_frame`. Without a history it does what `read_frame` does,
        and warns once.
        """
        cdef bint own = self._copy if copy is None else copy
        self._check_created()
        if timeout is not None and not timeout >= 0:
            raise _bad_timeout(timeout)
        if format is not None:
            _check_target(format)
            return _in_format(self.read_next(timeout, copy=False), format, own)
        found = self._take(_NEXT, 0, 0, own)
        if found is None:
            found = self._wait_for(_NEXT, timeout, own)
        self._warn_without_history(1)
        return found

    def frame_at(self, capture_time_ns, *, copy=None, format=None):
        """The frame in the window that was captured nearest to a time, the earlier of two. Never waits.

        Parameters
        ----------
        capture_time_ns
            Nanoseconds of CLOCK_MONOTONIC.

        Other parameters, returns, raises and lifetime as in `read_frame`. Both None: the window has no frame, or all of
        them were captured later. The frame does not count as seen.
        """
        cdef bint own = self._copy if copy is None else copy
        self._check_created()
        if format is not None:
            _check_target(format)
            return _in_format(self.frame_at(capture_time_ns, copy=False), format, own)
        return self._look_up(_NEAREST, max(-2**62, min(operator.index(capture_time_ns), 2**62)), own)

    cdef int _warn_without_history(self, int stacklevel) except -1:
        """Once, as soon as there is a segment."""
        cdef int history
        if self._history_known:
            return 0
        history = _abi.bshm_reader_history(self._reader)
        self._history_known = history >= 0
        if history == 0:
            import warnings

            warnings.warn(
                f"{self.name!r} keeps no history, so frames can be missed: its writer needs history=N (--history N)",
                RuntimeWarning, stacklevel=stacklevel)
        return 0

    def latest_frame(self, *, copy=None, format=None):
        """The newest frame, even if this reader has seen it. Never waits.

        Parameters, returns, raises and lifetime as in `read_frame`.
        """
        cdef bint own = self._copy if copy is None else copy
        self._check_created()
        if format is not None:
            _check_target(format)
            return _in_format(self.latest_frame(copy=False), format, own)
        found = self._take(_NEWEST, 0, _abi.BSHM_ACQUIRE_SEEN, own)
        return (None, None) if found is None else found

    cdef int _wait(self, int64_t nanoseconds) except -1:
        cdef int slot = self._delivered_slot
        cdef _PreparedFrame prepared
        if slot >= 0:  # prepare this slot's next frame
            self._delivered_slot = -1
            prepared = self._prepared[slot]
            if prepared is not None:
                prepared.prepare_again()
                self._prepare_ahead(prepared)
        with nogil:
            _abi.bshm_reader_wait(self._reader, nanoseconds)
        return 0

    cdef int _prepare_ahead(self, _PreparedFrame delivered) except -1:
        """Prepare the first frames of the slots that had none yet, like the one that was delivered."""
        cdef _PreparedFrame ahead
        cdef _abi.bshm_frame like
        cdef int slot
        with cython.critical_section(delivered):
            like = delivered.like
            _abi.bshm_addresses_hold(like.attachment)  # another thread may let go of the delivered one
        try:
            for slot in range(self._ahead, MAX_SLOTS):
                self._ahead = slot
                if self._prepared[slot] is not None:
                    continue
                with nogil:
                    like.pixels = _abi.bshm_reader_map_ahead(self._reader, like.attachment, slot)
                if like.pixels == NULL:
                    break
                ahead = _PreparedFrame.__new__(_PreparedFrame)
                ahead.prepare(&like)
                self._prepared[slot] = ahead
        finally:
            _abi.bshm_addresses_release(like.attachment)
        return 0

    def _poll(self, bint follow, bint every=False):
        """`read_frame`, or `read_next`, without waiting. Not `follow`: stay with a closed segment. For iteration."""
        self._check_created()
        found = self._take(_NEXT if every else _NEWEST, 0, 0 if follow else _abi.BSHM_ACQUIRE_STAY, self._copy)
        if every:
            self._warn_without_history(3)
        return found

    def _ended(self):
        """Whether the segment was closed and its last frame was read. For iteration."""
        self._check_created()
        return _abi.bshm_reader_ended(self._reader) == 1

    def _wait_once(self, double seconds):
        """Sleep until there may be a new frame, for at most `seconds`, at most a tenth of a second."""
        self._check_created()
        self._wait(<int64_t> (min(seconds, 1.0) * 1e9))

    cdef object _take(self, int which, int64_t what, uint32_t flags, bint copy):
        cdef _abi.bshm_frame frame
        cdef _abi.bshm_error error
        cdef int rc
        if copy:
            flags |= _abi.BSHM_ACQUIRE_COPY
        for _ in range(COPY_ATTEMPTS):
            if which == _NEWEST:
                rc = _abi.bshm_reader_acquire(self._reader, flags, &frame, &error)
            elif which == _NEXT:
                rc = _abi.bshm_reader_acquire_next(self._reader, flags, &frame, &error)
            elif which == _NUMBER:
                rc = _abi.bshm_reader_acquire_number(self._reader, <uint64_t> what, flags, &frame, &error)
            else:
                rc = _abi.bshm_reader_acquire_nearest(self._reader, what, flags, &frame, &error)
            if rc < 0:
                raise _exception(&error)
            if rc == _abi.BSHM_NOTHING:
                return None
            try:
                found = self._copied(&frame) if frame.to_copy else self._pinned(&frame)
            finally:
                _abi.bshm_frame_release(&frame)
            if found is not None:
                return found
        return None

    cdef tuple _pinned(self, _abi.bshm_frame *frame):
        """The frame as a view of shared memory, which takes over the pin."""
        cdef _PreparedFrame prepared
        cdef tuple pair
        if memcmp(self._generation, frame.generation, 16) != 0:
            memcpy(self._generation, frame.generation, 16)
            self._forget_prepared()
        prepared = self._prepared[frame.slot]
        if prepared is None:
            prepared = self._prepared[frame.slot] = _PreparedFrame.__new__(_PreparedFrame)
        pair = prepared.deliver(frame)
        self._delivered_slot = frame.slot
        return pair

    cdef int _forget_prepared(self) except -1:
        cdef int slot
        self._delivered_slot = -1
        self._ahead = 0
        for slot in range(MAX_SLOTS):
            self._prepared[slot] = None
        return 0

    cdef tuple _copied(self, _abi.bshm_frame *frame):
        """A copy of the frame, or None if a newer one overwrote it during the copy."""
        cdef Py_buffer view
        cdef int rc
        array = np.empty(_shape_of(&frame.info), _dtype_of(&frame.info))
        PyObject_GetBuffer(array, &view, PyBUF_WRITABLE)
        with nogil:
            rc = _abi.bshm_frame_copy(frame, view.buf, <uint64_t> view.len)
        PyBuffer_Release(&view)
        if rc == _abi.BSHM_OK:
            return array, _metadata_of(frame, False)
        _abi.bshm_reader_give_back(self._reader, frame)
        return None

    def close(self):
        """Detach. Frames that you hold stay as they are. May be called again."""
        if self._reader != NULL:
            _abi.bshm_reader_close(self._reader)
        self._forget_prepared()
        self._closed = True

    def __repr__(self):
        return f"<{type(self).__name__} {self.name!r}, {'closed' if self._closed else self.status}>"


# ---------------------------------------------------------------- inspection and cleaning

def inspect(name, trusted_owners=None):
    """The fields of a `SegmentInfo`, as a dict."""
    cdef _Owners owners = _Owners(trusted_owners)
    cdef bytes encoded = _encode_name(name)
    cdef const char *c_name = encoded
    cdef _abi.bshm_error error
    cdef _abi.bshm_inspection *found = <_abi.bshm_inspection *> malloc(sizeof(_abi.bshm_inspection))
    cdef int rc
    if found == NULL:
        raise MemoryError
    try:
        with nogil:
            rc = _abi.bshm_inspect(c_name, &owners.owners, found, &error)
        if rc < 0:
            raise _exception(&error)
        return _inspection(os.fspath(name), found)
    finally:
        free(found)


cdef dict _inspection(str name, const _abi.bshm_inspection *found):
    cdef const _abi.bshm_source_view *source = &found.source
    cdef const _abi.bshm_statistics *statistics = &source.statistics
    cdef const _abi.bshm_frame_info *frame = &found.frame
    cdef const _abi.bshm_reader_view *reader
    readers = []
    for i in range(found.reader_count):
        reader = &found.readers[i]
        readers.append({
            "pid": reader.pid or None,
            "name": _text(reader.process_name),
            "kind": "lease" if reader.kind == 1 else "observer",
            "frames": reader.frames,
            "skipped": reader.skipped,
            "copies": reader.copies,
            "last_sequence": reader.last_sequence,
            "attached_wall_ns": reader.attached_wall_ns,
            "leases": reader.leases,
        })
    return {
        "name": name,
        "status": _STATUSES[found.status],
        "generation": _hex(found.identity.generation),
        "abi": (found.identity.abi_major, found.identity.abi_minor),
        "writer_pid": found.identity.writer_pid,
        "owner": found.owner_uid,
        "group": None if found.group_gid == 0xFFFFFFFF else found.group_gid,
        "mode": found.mode,
        "total_bytes": found.identity.total_bytes,
        "backed_bytes": found.identity.pixels_offset + statistics.backed_slots.shared * found.identity.slot_stride,
        "allocated_bytes": found.allocated_bytes,
        "slots": found.identity.token_count + 2,
        "history": found.identity.history,
        "slot_capacity": found.identity.slot_capacity,
        "created_wall_ns": found.identity.created_wall_ns,
        "sequence": found.latest_sequence,
        "fps": statistics.fps_millihertz.shared / 1000,
        "last_frame_age": _age(<int64_t> statistics.last_capture_ns.shared),
        "heartbeat_age": _age(<int64_t> statistics.heartbeat_ns.shared),
        "source_state": _source_state_of(statistics),
        "source_reason": _text(source.reason),
        "backend": _text(source.backend),
        "width": frame.width if found.has_frame else None,
        "height": frame.height if found.has_frame else None,
        "channels": frame.channels if found.has_frame else None,
        "dtype": _dtype_of(frame) if found.has_frame else None,
        "pixel_format": _format_of(frame) if found.has_frame else None,
        "readers": tuple(readers),
    } | _statistics_of(statistics)


def remove_stale(name, trusted_owners=None):
    """Remove the segment if its writer is dead. True: removed."""
    cdef _Owners owners = _Owners(trusted_owners)
    cdef bytes encoded = _encode_name(name)
    cdef const char *c_name = encoded
    cdef _abi.bshm_error error
    cdef int rc
    with nogil:
        rc = _abi.bshm_remove_stale(c_name, &owners.owners, &error)
    if rc < 0:
        raise _exception(&error)
    return rc == _abi.BSHM_REMOVED


def remove_stale_temporary(path):
    """Remove a temporary of a writer that died, if it is older than ten seconds. True: removed."""
    cdef bytes encoded = os.fsencode(path)
    cdef const char *c_path = encoded
    cdef _abi.bshm_error error
    cdef int rc
    with nogil:
        rc = _abi.bshm_remove_stale_temporary(c_path, &error)
    if rc < 0:
        raise _exception(&error)
    return rc == _abi.BSHM_REMOVED


def object_path(name):
    """The path of the file that `name` leads to."""
    cdef bytes encoded = _encode_name(name)
    cdef const char *c_name = encoded
    cdef char path[4096]
    cdef _abi.bshm_error error
    if _abi.bshm_object_path(c_name, path, sizeof(path), &error) < 0:
        raise _exception(&error)
    return os.fsdecode(<bytes> path)


def object_directory():
    """The directory of names without a slash."""
    return os.fsdecode(<bytes> _abi.bshm_object_directory())

"""`SharedMemoryFrameWriter`, and the slots it lends."""

import atexit
import math
import operator
import os
import weakref

import numpy as np

from billiards_shm import errors as _errors
from billiards_shm.owners import resolve_group as _resolve_group
from billiards_shm.statistics import REPORTED as _REPORTED
from billiards_shm.statistics import WriterStatistics as _WriterStatistics
from billiards_shm.status import SourceState

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer
from libc.math cimport NAN
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

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
        may follow. A larger frame replaces the segment, and readers follow.
    dtype
        Type of the items: any bool, integer, floating or complex type of a fixed size.
    pixel_format
        Such as BGR24, GRAY16, NV12, or RAW for anything else. A frame that cannot have it, because of its channels or
        dtype, is labelled by its shape instead.
    slots
        3 to 62. Three have memory from the start, further ones when readers hold that many frames. All readers
        together can hold ``slots - 2`` frames; beyond that they get copies.
    history
        How many frames before the newest are kept, so that readers can get them too: `read_next`,
        ``frames(every=True)``, ``read_frame(sequence=...)``, `frame_at`. Each takes one more slot, with memory from the
        start; at most 62 slots in all.
    mode
        Permission bits of the file. 0o640 lets the group read, with copies; 0o660 lets it hold leases, too.
    group
        Name or number of one of your groups, which these bits apply to. None: the group of any file you create.
    trusted_owners
        Owners to trust besides you and root: their dead segments may be taken over. None: those in the environment
        variable BILLIARDS_SHM_TRUSTED_OWNERS.

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
            raise ValueError(f"history={history!r}: expected an integer from 0 to {MAX_SLOTS - slots} with {slots=}")
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
        """Whether a reader is attached to the segment, as the kernel reports it now."""
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
                    source_sequence=None, wall_time_ns=None):
        """Copy `frame` into shared memory and publish it, without the GIL.

        Parameters
        ----------
        frame
            Array of shape (height, width) or (height, width, channels). Rows may be apart (a crop) or upside down.
            Frames with other strides or a foreign byte order are made contiguous and native first.
        capture_time_ns
            When it was captured, in nanoseconds of CLOCK_MONOTONIC (``time.monotonic_ns()``); None: now.
        position_ms
            Position in the source, in milliseconds.
        online
            False marks a placeholder.
        pixel_format
            Of this frame; None: as the writer was created.
        clock
            What ``capture_time_ns`` comes from: driver, sender, file, remote or arrival (None); see `FrameMetadata`.
        source_sequence
            The number that the frame had at its origin; None: it had none.
        wall_time_ns
            When it was published at its origin, in nanoseconds since 1970; None: now.

        Returns
        -------
        int
            The sequence number, from 1. 0: the frame was dropped, because there was no memory for another slot
            (`statistics.dropped` counts these, and the first one warns).

        Raises
        ------
        FrameShapeError
            Not a picture. The message names its shape and the writer's.
        LoanError
            A slot is lent.
        SharedMemoryFullError
            The frame is larger than the segment allows, and there is no room for a larger segment.
        ValueError
            ``capture_time_ns`` is a time of the wall clock; the writer is closed, or belongs to the parent process.
        """
        cdef _abi.bshm_frame_info info
        cdef _abi.bshm_error error
        cdef Py_buffer view
        cdef uint64_t sequence = 0
        cdef int rc
        self._check_created()
        declared = self._format_or_usual(pixel_format)
        self._get_pixels(frame, &view, &info)
        try:
            info.fourcc = _fourcc_for(declared, &info)
            _set_origin(&info, capture_time_ns, position_ms, online, clock, source_sequence)
            if wall_time_ns is not None:
                info.wall_ns = operator.index(wall_time_ns)
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
            A slot is already lent.
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

    def update_source(self, *, state=None, reason=None, backend=None, fps=None, clock_offset_ms=None, **counters):
        """Report the state of the source to readers and ``inspect``. Values that are None or missing stay unchanged.

        Parameters
        ----------
        state
            A `SourceState`.
        reason, backend
            Text; the first 128 and 32 bytes are kept.
        fps
            Measured frames per second.
        clock_offset_ms
            How far the clock that capture times are taken from is ahead of this host's; see `SegmentInfo`.
        **counters
            Statistics that the source counts, each with its value so far, such as ``captured=100``. `SegmentInfo`
            describes them all. The `TypeError` for any other name lists those that are taken.
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
        if clock_offset_ms is not None:
            # In memory 0 means unknown; in a report all ones mean that the word stays unchanged.
            offset_ns = round(clock_offset_ms * 1e6)
            report.statistics.clock_offset_ns.shared = <uint64_t> <int64_t> (1 if offset_ns in (0, -1) else offset_ns)
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
        """Tell readers that this was the end, and remove the name. Frames they hold stay valid. May be called again."""
        self._closed = True  # before other threads find it closed
        if self._writer != NULL:
            with nogil:
                _abi.bshm_writer_close(self._writer)
        _open_writers.discard(self)

    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc, traceback):
        self.close()

    def __reduce__(self):
        raise TypeError("a writer cannot be pickled or copied: a name has one writer")

    def __repr__(self):
        state = "closed" if self._closed else f"sequence {self.sequence}"
        return f"<SharedMemoryFrameWriter {self.name!r}, {state}>"

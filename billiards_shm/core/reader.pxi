"""`SegmentReader`: the calls that read one name."""

import operator
import os

import numpy as np

from billiards_shm.status import SegmentStatus, SourceState

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

cdef int COPY_ATTEMPTS = _abi.BSHM_READ_ATTEMPTS


@cython.final
cdef class ReaderStatistics:
    """A snapshot of the counters of one reader.

    Attributes
    ----------
    frames : int
        Frames returned.
    skipped : int
        Published frames that it did not see.
    copies : int
        Frames returned as copies, because you asked for one or because no lease was free.
    retries : int
        Attempts that were repeated because a newer frame arrived in between.
    """

    cdef readonly unsigned long long frames, skipped, copies, retries

    def __init__(self):
        raise TypeError("statistics are created by SharedMemoryFrameReader.statistics")

    def as_dict(self):
        """All attributes by name."""
        return {"frames": self.frames, "skipped": self.skipped, "copies": self.copies, "retries": self.retries}

    def __repr__(self):
        return f"ReaderStatistics({', '.join(f'{name}={value!r}' for name, value in self.as_dict().items())})"


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
        """A `SegmentStatus`, as the kernel reports it now."""
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
        """State of the source, as the capture process reports it: a `SourceState`."""
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
        """Attach to the segment, waiting for it to appear. This is optional: reads attach, too.

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
            True: your own writable array. False: zero-copy if a lease is free. None: as the reader was created.
        format
            BGR24, RGB24 or GRAY8: OpenCV converts the frame to it, into your own array. None: as it was published. A
            frame that already has the format is not converted, and GRAY8 of NV12, NV21, I420 and YV12 is a view of
            their Y plane.
        sequence
            The number of a frame in the window: the newest one and the history before it (`history` of the writer). It
            does not count as seen, and is not waited for.

        Returns
        -------
        frame : numpy.ndarray or None
            Shape (height, width) or (height, width, channels). Read-only if zero-copy.
        metadata : FrameMetadata or None
            Both None: nothing new, not in the window, or no segment. Metadata describes the array, even if converted.

        Raises
        ------
        SegmentFormatError, SegmentPermissionError
            The object under the name cannot be read.
        ValueError
            The reader is closed; or the frame cannot be converted, such as a RAW frame.
        ImportError
            The frame has to be converted, and OpenCV is not installed.

        Notes
        -----
        **Lifetime.** A zero-copy frame never changes. It is pinned until the last view of it is gone, even if reader
        and writer are closed first. A reader pins at most `max_leases` frames; while you hold that many, further ones
        are copies.
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
            raise ValueError(f"timeout={timeout!r}: a frame requested by its number is not waited for")
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
            _abi.bshm_addresses_hold(like.attachment)  # another thread may release the delivered one
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

    def _ends(self):
        """How many segments it has left that were closed. For iteration, while which other calls may move on."""
        cdef _abi.bshm_reader_counters counters
        self._check_created()
        _abi.bshm_reader_get_counters(self._reader, &counters)
        return counters.ends

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
        """Detach. Frames that you hold stay valid. May be called again."""
        if self._reader != NULL:
            _abi.bshm_reader_close(self._reader)
        self._forget_prepared()
        self._closed = True

    def __reduce__(self):
        raise TypeError("a reader cannot be pickled or copied: create one with the same name where you need it")

    def __repr__(self):
        return f"<{type(self).__name__} {self.name!r}, {'closed' if self._closed else self.status}>"

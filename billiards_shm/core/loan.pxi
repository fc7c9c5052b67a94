"""`LoanedSlot`: a slot to draw into."""

import weakref

import numpy as np

from billiards_shm import errors as _errors

cimport cython
from libc.stdint cimport uint64_t


@cython.no_gc_clear  # a slot in a garbage cycle needs its writer until it is returned
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
        """Publish now, and return the sequence number. Takes values that were not known when the slot was lent.

        Raises
        ------
        LoanError
            It was already published or cancelled.
        ValueError
            The writer was closed in the meantime; or ``capture_time_ns`` is a time of the wall clock.
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
        """Return the slot unpublished; it uses no sequence number. May be called again, and after publishing."""
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

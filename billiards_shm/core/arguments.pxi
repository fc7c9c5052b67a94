"""Names, owners, timeouts and text, as the core takes and returns them."""

import os

from billiards_shm import errors as _errors
from billiards_shm.owners import resolve_owners as _resolve_owners

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc

cdef bytes _encode_name(object name):
    cdef bytes encoded
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        raise _errors.SegmentNameError(f"name {name!r} cannot be encoded: use valid text") from None
    except TypeError:
        raise TypeError(f"name={name!r}: expected the name of a segment, or the path of its file") from None
    if b"\0" in encoded:
        raise _errors.SegmentNameError(f"name {name!r} contains a NUL character: leave it out")
    return encoded


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


cdef object _bad_timeout(object timeout):
    return ValueError(f"timeout={timeout!r}: expected seconds, 0 or more, or None")


cdef int64_t _deadline_of(object timeout) except? -1:
    """The end of a timeout in seconds, CLOCK_MONOTONIC ns; None: never."""
    if timeout is None:
        return 2**62
    if not timeout >= 0:
        raise _bad_timeout(timeout)
    return _abi.bshm_now_ns() + <int64_t> min(timeout * 1e9, 2.0**61)


cdef str _hex(const uint8_t *generation):
    return (<const char *> generation)[:16].hex()


cdef str _text(const char *text):
    return (<bytes> text).decode("utf-8", "replace")

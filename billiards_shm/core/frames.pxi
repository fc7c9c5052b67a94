"""Arrays over shared memory: the buffer protocol, and the frame that holds a pin."""

import numpy as np

cimport cython
from cpython.buffer cimport (
    PyBUF_ANY_CONTIGUOUS,
    PyBUF_C_CONTIGUOUS,
    PyBUF_F_CONTIGUOUS,
    PyBUF_FORMAT,
    PyBUF_ND,
    PyBUF_STRIDES,
    PyBUF_WRITABLE,
)

cdef class _PixelBuffer:
    """The geometry of a frame in memory, as the buffer protocol takes it. Subclasses own the memory."""

    cdef Py_ssize_t shape[3]
    cdef Py_ssize_t strides[3]
    cdef bytes format

    def __reduce__(self):
        raise TypeError("a slot of shared memory cannot be pickled or copied: pickle the array, which becomes a copy")

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

    **Lifetime.** The pixels do not change until the last view of them is gone, even after reader and writer are
    closed. The view holds this object; this object holds the pin, the mapping, and the lock that makes the pin count.
    Do not use it in a forked child.
    """

    cdef _abi.bshm_frame frame
    cdef _abi.bshm_attachment *addresses  # of the array, which may have been made before its frame arrived

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

    Making them takes half a microsecond, but 20 us just after a sleep, when the code is no longer in any cache: as long
    as the wake-up itself. So a reader makes them before it sleeps, for the geometry of the slot's last frame.

    The garbage collector knows the array, so other code may find it and look at it: nothing is pinned there, but its
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
        self.frame = frame  # nothing before this changes `self`: other threads may have run here in between
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

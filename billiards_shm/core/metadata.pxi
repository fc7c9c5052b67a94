"""`FrameMetadata`, made from a frame that was read."""

cimport cython
from libc.math cimport isnan
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy


@cython.final
cdef class FrameMetadata:
    """What is known about one frame; immutable, hashable, picklable.

    Attributes
    ----------
    sequence : int
        Number of the frame, from 1. It keeps rising when the segment is replaced or a new writer takes over.
    skipped : int
        Frames that this reader missed since its previous one.
    capture_time_ns, publish_time_ns : int
        When it was captured and when it was published, in nanoseconds of CLOCK_MONOTONIC (``time.monotonic_ns()``).
    wall_time_ns : int
        When it was published, in nanoseconds of the wall clock (``time.time_ns()``).
    position_ms : float or None
        Position in the source, milliseconds.
    width, height, channels : int
        Size in pixels, and items per pixel.
    dtype : numpy.dtype
        Type of the array's items.
    pixel_format : str
        Such as BGR24; RAW if this version does not know it.
    generation : str
        Which segment it came from: 32 hexadecimal digits, random.
    zero_copy : bool
        True: the array is in shared memory. False: it is a copy that belongs to you.
    online : bool
        False: a placeholder, published while the source is away.
    clock : str
        What ``capture_time_ns`` was taken from: ``driver`` (the camera driver's time of the buffer), ``sender`` (the
        clock of the camera or server that sent it), ``file`` (the times in a recording), ``remote`` (another host's
        segment), or ``arrival`` (when it reached the capture process).
    source_sequence : int or None
        The number that the frame had at its origin; None if it had none.
    """

    cdef _abi.bshm_frame_info info
    cdef uint8_t _generation[16]
    cdef readonly unsigned long long skipped
    cdef readonly bint zero_copy

    def __init__(self):
        raise TypeError("FrameMetadata is created by reading a frame")

    cdef void fill(self, const _abi.bshm_frame *frame, bint zero_copy) noexcept:
        """Set the values, before the object is handed out."""
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
        return _clock_of(&self.info)

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


cdef FrameMetadata _metadata_of_array(FrameMetadata given, object array, str pixel_format, bint zero_copy):
    """The metadata of a frame, with the geometry of another array that was made from it."""
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

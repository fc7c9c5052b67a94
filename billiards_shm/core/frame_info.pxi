"""Geometry, pixel format and origin of a frame: `bshm_frame_info`, to Python and from it."""

import operator

import numpy as np

from billiards_shm import errors as _errors
from billiards_shm.pixel_formats import PIXEL_FORMATS as _PIXEL_FORMATS
from billiards_shm.status import CLOCKS as _CLOCKS

from libc.math cimport NAN
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

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


# By kind and size of an item: its PEP 3118 format, and its dtype, made once.
_FORMATS = {
    ("b", 1): b"?", ("i", 1): b"b", ("i", 2): b"h", ("i", 4): b"i", ("i", 8): b"q",
    ("u", 1): b"B", ("u", 2): b"H", ("u", 4): b"I", ("u", 8): b"Q",
    ("f", 2): b"e", ("f", 4): b"f", ("f", 8): b"d", ("c", 8): b"Zf", ("c", 16): b"Zd",
}
_DTYPES = {key: np.dtype(f"{key[0]}{key[1]}") for key in _FORMATS}

# CLOCK_MONOTONIC counts from the start of the host: no host has run for 36 years. 1970 is longer ago.
cdef int64_t _WALL_CLOCK_NS = 2**60

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
    """RAW: a code that is not known here, or one that does not fit the array, as in a corrupt segment."""
    name = _PIXEL_FORMAT_OF_CODE.get(info.fourcc, "RAW")
    fits = (info.ndim, info.channels, chr(info.kind), info.item_size) in _LAYOUTS[name]
    return name if fits else "RAW"


cdef object _bad_pixel_format(object pixel_format):
    return ValueError(f"pixel_format {pixel_format!r}: expected one of {', '.join(_PIXEL_FORMATS)}")


cdef int _set_geometry(_abi.bshm_frame_info *info, object shape, object dtype) except -1:
    """Fill `info` from a shape and a dtype. Raises if they do not fit its integers; the core checks the rest."""
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


cdef str _clock_of(const _abi.bshm_frame_info *info):
    cdef uint32_t clock = (info.flags & _abi.BSHM_FRAME_CLOCK) >> _abi.BSHM_CLOCK_SHIFT
    return _CLOCKS[clock] if clock < <uint32_t> len(_CLOCKS) else "arrival"


cdef int64_t _capture_ns(object capture_time_ns) except? -1:
    cdef int64_t found = operator.index(capture_time_ns)
    if found >= _WALL_CLOCK_NS:
        raise ValueError(
            f"capture_time_ns={found}: expected nanoseconds of CLOCK_MONOTONIC, as time.monotonic_ns() returns; "
            f"this looks like a time of the wall clock")
    return found


cdef int _set_origin(_abi.bshm_frame_info *info, object capture_time_ns, object position_ms, object online,
                     object clock, object source_sequence) except -1:
    """When and where the frame comes from. None leaves a value unchanged."""
    if capture_time_ns is not None:
        info.capture_ns = _capture_ns(capture_time_ns)
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

"""Frames in the format that a reader asked for."""

from billiards_shm.pixel_formats import PIXEL_FORMATS as _PIXEL_FORMATS

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

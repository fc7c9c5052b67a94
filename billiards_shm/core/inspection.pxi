"""What `inspect_segment` and `remove_stale_segments` need from the core."""

import os

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc


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
        "clock": _clock_of(frame) if found.has_frame else None,
        "clock_offset_ms": _clock_offset_of(found),
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
    """The directory for names without a slash."""
    return os.fsdecode(<bytes> _abi.bshm_object_directory())

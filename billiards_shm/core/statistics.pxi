"""State, statistics and ages from a segment's header."""

from billiards_shm.statistics import STATISTICS as _STATISTICS
from billiards_shm.status import SegmentStatus, SourceState

from libc.stdint cimport int64_t, uint64_t

_SOURCE_STATES = tuple(SourceState)
_STATUSES = {
    _abi.BSHM_STATUS_DETACHED: SegmentStatus.DETACHED,
    _abi.BSHM_STATUS_LIVE: SegmentStatus.LIVE,
    _abi.BSHM_STATUS_CLOSED: SegmentStatus.CLOSED,
    _abi.BSHM_STATUS_DEAD: SegmentStatus.DEAD,
}


cdef dict _statistics_of(const _abi.bshm_statistics *copy):
    """All statistics by name, and the latency buckets."""
    cdef const _abi.bshm_shared64 *words = <const _abi.bshm_shared64 *> copy
    found = {name: words[<size_t> row.word].shared for name, row in _STATISTICS.items()}
    found["write_latency_buckets"] = tuple(copy.write_ns_log2[i].shared for i in range(_abi.BSHM_LATENCY_BUCKETS))
    return found


cdef object _source_state_of(const _abi.bshm_statistics *statistics):
    cdef uint64_t state = statistics.source_state.shared
    return _SOURCE_STATES[state] if state < <size_t> len(_SOURCE_STATES) else SourceState.UNKNOWN


cdef object _age(int64_t then_ns):
    """Seconds since then; None: never. In floating point, since a segment may have any number there."""
    return max(0.0, (<double> _abi.bshm_now_ns() - <double> then_ns) / 1e9) if then_ns else None


cdef object _clock_offset_of(const _abi.bshm_inspection *found):
    """Milliseconds; None if capture times are not taken from a clock that was compared with this host's."""
    cdef int64_t offset_ns = <int64_t> found.source.statistics.clock_offset_ns.shared
    if not offset_ns or not found.has_frame or _clock_of(&found.frame) not in ("driver", "sender"):
        return None
    return offset_ns / 1e6

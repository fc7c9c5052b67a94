"""Frames, writer and reader in Python: wraps csrc/, where the protocol is.

One extension module, because the core's lists of what a forked child inherits must exist once per process. Its source
is split into files by subject. They share one namespace, and each imports what it needs from other modules.
"""

from billiards_shm cimport _abi

ABI_VERSION = (_abi.BSHM_ABI_MAJOR, _abi.BSHM_ABI_MINOR)
MIN_SLOTS = _abi.BSHM_MIN_SLOTS
MAX_SLOTS = _abi.BSHM_MAX_SLOTS

include "core/errors.pxi"  # exceptions for the core's codes
include "core/arguments.pxi"  # names, owners, timeouts
include "core/frame_info.pxi"  # geometry, pixel format and origin of a frame
include "core/statistics.pxi"  # states, counters, ages
include "core/metadata.pxi"  # FrameMetadata
include "core/frames.pxi"  # Frame: an array that holds a pin
include "core/loan.pxi"  # LoanedSlot
include "core/writer.pxi"  # SharedMemoryFrameWriter
include "core/conversion.pxi"  # read_frame(format=...)
include "core/reader.pxi"  # SegmentReader, ReaderStatistics
include "core/inspection.pxi"  # inspect, remove_stale

"""One process owns the camera, many look: frames in shared memory that never tear.

>>> from billiards_shm import SharedMemoryFrameReader
>>> with SharedMemoryFrameReader("billiards_video") as reader:      # doctest: +SKIP
...     for frame, metadata in reader:
...         print(metadata.sequence, frame.shape)
"""

# The code that Cython generates imports it too, and does not check that this worked: the process would die of SIGSEGV
# where this line raises an ImportError.
import inspect as _inspect  # noqa: F401

try:
    from billiards_shm._core import (
        Frame,
        FrameMetadata,
        LoanedSlot,
        ReaderStatistics,
        SharedMemoryFrameWriter,
    )
except ModuleNotFoundError as error:
    if error.name != "billiards_shm._core":
        raise
    raise ImportError(
        f"{__path__[0]} was not built: run `pip install -e .` next to its setup.py, or start Python elsewhere"
    ) from None
from billiards_shm.consumer import VideoConsumer
from billiards_shm.errors import (
    BilliardsShmError,
    CameraError,
    ConfigurationError,
    DamagedSourceError,
    FrameShapeError,
    LoanError,
    SegmentFormatError,
    SegmentNameError,
    SegmentNotFoundError,
    SegmentPermissionError,
    SegmentSystemError,
    SharedMemoryFullError,
    WriterExistsError,
)
from billiards_shm.frame_sets import FrameSet, FrameSets
from billiards_shm.include import get_include
from billiards_shm.planes import planes
from billiards_shm.reader import FrameIterator, SharedMemoryFrameReader
from billiards_shm.segments import ReaderInfo, SegmentInfo, inspect_segment, list_segments, remove_stale_segments
from billiards_shm.statistics import WriterStatistics
from billiards_shm.status import SegmentStatus, SourceState

__version__ = "0.1.0"

__all__ = [
    "BilliardsShmError",
    "CameraError",
    "ConfigurationError",
    "DamagedSourceError",
    "Frame",
    "FrameIterator",
    "FrameMetadata",
    "FrameSet",
    "FrameSets",
    "FrameShapeError",
    "LoanError",
    "LoanedSlot",
    "ReaderInfo",
    "ReaderStatistics",
    "SegmentFormatError",
    "SegmentInfo",
    "SegmentNameError",
    "SegmentNotFoundError",
    "SegmentPermissionError",
    "SegmentStatus",
    "SegmentSystemError",
    "SharedMemoryFrameReader",
    "SharedMemoryFrameWriter",
    "SharedMemoryFullError",
    "SourceState",
    "VideoConsumer",
    "WriterExistsError",
    "WriterStatistics",
    "get_include",
    "inspect_segment",
    "list_segments",
    "planes",
    "remove_stale_segments",
]

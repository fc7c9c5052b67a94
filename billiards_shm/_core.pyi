"""Types of the compiled transport core. The public names are re-exported by ``billiards_shm``."""

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, Self, final

import numpy as np
import numpy.typing as npt
from typing_extensions import disjoint_base

from billiards_shm.statistics import WriterStatistics
from billiards_shm.status import Clock, SegmentStatus, SourceState

ABI_VERSION: Final[tuple[int, int]]
MIN_SLOTS: Final[int]
MAX_SLOTS: Final[int]

@final
class FrameMetadata:
    """What is known about one frame; immutable, hashable, picklable."""

    @property
    def sequence(self) -> int: ...
    @property
    def skipped(self) -> int: ...
    @property
    def capture_time_ns(self) -> int: ...
    @property
    def publish_time_ns(self) -> int: ...
    @property
    def wall_time_ns(self) -> int: ...
    @property
    def position_ms(self) -> float | None: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def pixel_format(self) -> str: ...
    @property
    def generation(self) -> str: ...
    @property
    def zero_copy(self) -> bool: ...
    @property
    def online(self) -> bool: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def source_sequence(self) -> int | None: ...
    def as_dict(self) -> dict[str, Any]: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Frame:
    """One pinned frame: the object behind a zero-copy view (``view.base.obj``)."""

    @property
    def intact(self) -> bool: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class LoanedSlot:
    """A slot of shared memory lent for writing; a context manager that publishes on leaving the block."""

    @property
    def array(self) -> npt.NDArray[Any]: ...
    @property
    def sequence(self) -> int: ...
    def publish(
        self,
        *,
        capture_time_ns: int | None = None,
        position_ms: float | None = None,
        online: bool | None = None,
        clock: Clock | None = None,
        source_sequence: int | None = None,
    ) -> int: ...
    def cancel(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@disjoint_base
class SharedMemoryFrameWriter:
    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        dtype: npt.DTypeLike = "uint8",
        pixel_format: str = "BGR24",
        slots: int = 8,
        history: int = 0,
        mode: int = 0o600,
        group: int | str | None = None,
        trusted_owners: Iterable[int | str] | None = None,
    ) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def sequence(self) -> int: ...
    @property
    def generation(self) -> str: ...
    @property
    def closed(self) -> bool: ...
    @property
    def statistics(self) -> WriterStatistics: ...
    @property
    def has_readers(self) -> bool: ...
    def write_frame(
        self,
        frame: Any,
        *,
        capture_time_ns: int | None = None,
        position_ms: float | None = None,
        online: bool = True,
        pixel_format: str | None = None,
        clock: Clock | None = None,
        source_sequence: int | None = None,
        wall_time_ns: int | None = None,
    ) -> int: ...
    def loan(
        self,
        shape: tuple[int, ...] | None = None,
        *,
        dtype: npt.DTypeLike | None = None,
        capture_time_ns: int | None = None,
        position_ms: float | None = None,
        online: bool = True,
        pixel_format: str | None = None,
        clock: Clock | None = None,
        source_sequence: int | None = None,
    ) -> LoanedSlot: ...
    def update_source(
        self,
        *,
        state: str | None = None,
        reason: str | None = None,
        backend: str | None = None,
        fps: float | None = None,
        clock_offset_ms: float | None = None,
        **counters: int | None,
    ) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

@final
class ReaderStatistics:
    """A snapshot of the counters of one reader."""

    @property
    def frames(self) -> int: ...
    @property
    def skipped(self) -> int: ...
    @property
    def copies(self) -> int: ...
    @property
    def retries(self) -> int: ...
    def as_dict(self) -> dict[str, int]: ...

@disjoint_base
class SegmentReader:
    """Everything a reader does except iterate; `billiards_shm.SharedMemoryFrameReader` adds that."""

    def __init__(
        self,
        name: str,
        *,
        max_leases: int = 2,
        copy: bool = False,
        trusted_owners: Iterable[int | str] | None = None,
    ) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def closed(self) -> bool: ...
    @property
    def status(self) -> SegmentStatus: ...
    @property
    def source_state(self) -> SourceState: ...
    @property
    def source_reason(self) -> str: ...
    @property
    def last_frame_age(self) -> float | None: ...
    @property
    def statistics(self) -> ReaderStatistics: ...
    def attach(self, timeout: float | None = 5.0) -> None: ...
    def read_frame(
        self,
        timeout: float | None = 0.0,
        *,
        copy: bool | None = None,
        format: str | None = None,
        sequence: int | None = None,
    ) -> tuple[npt.NDArray[Any], FrameMetadata] | tuple[None, None]: ...
    def read_next(
        self,
        timeout: float | None = 0.0,
        *,
        copy: bool | None = None,
        format: str | None = None,
    ) -> tuple[npt.NDArray[Any], FrameMetadata] | tuple[None, None]: ...
    def frame_at(
        self,
        capture_time_ns: int,
        *,
        copy: bool | None = None,
        format: str | None = None,
    ) -> tuple[npt.NDArray[Any], FrameMetadata] | tuple[None, None]: ...
    def latest_frame(
        self,
        *,
        copy: bool | None = None,
        format: str | None = None,
    ) -> tuple[npt.NDArray[Any], FrameMetadata] | tuple[None, None]: ...
    def close(self) -> None: ...
    def _poll(self, follow: bool, every: bool = False) -> tuple[npt.NDArray[Any], FrameMetadata] | None: ...
    def _ended(self) -> bool: ...
    def _ends(self) -> int: ...
    def _wait_once(self, seconds: float) -> None: ...

def inspect(name: str, trusted_owners: Iterable[int | str] | None = None) -> dict[str, Any]: ...
def remove_stale(name: str, trusted_owners: Iterable[int | str] | None = None) -> bool: ...
def remove_stale_temporary(path: str) -> bool: ...
def object_path(name: str) -> str: ...
def object_directory() -> str: ...

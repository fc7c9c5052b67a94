"""Segments seen from outside: list, inspect, remove what dead writers left."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from billiards_shm import _core
from billiards_shm.errors import BilliardsShmError, SegmentNotFoundError
from billiards_shm.pixel_formats import PIXEL_FORMATS
from billiards_shm.statistics import SegmentStatistics, documented
from billiards_shm.status import SegmentStatus, SourceState

__all__ = ["ReaderInfo", "SegmentInfo", "inspect_segment", "list_segments", "remove_stale_segments"]

_TEMPORARY_PATTERN = ".bshm-" + "[0-9a-f]" * 16 + "~"


@dataclasses.dataclass(frozen=True, slots=True)
class ReaderInfo:
    """One reader that is attached now."""

    pid: int | None
    """Process number in the reader's own container; None for an observer."""
    name: str
    """Name of its process."""
    kind: str
    """"lease", or "observer" (may read the object, but not lock it)."""
    frames: int
    """Frames it has read."""
    skipped: int
    """Published frames that it did not read."""
    copies: int
    """How many of the frames it read were copies."""
    last_sequence: int
    """Number of the last frame it read."""
    attached_wall_ns: int
    """When it attached, in nanoseconds since 1970."""
    leases: int
    """Slots that it holds pinned now."""


@documented
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SegmentInfo(SegmentStatistics):
    """What is known about a segment without attaching to it.

    Sizes are in bytes, ages in seconds, and names ending in ``_ns`` are nanoseconds since 1970. The reference describes
    every attribute; the statistics are below.
    """

    name: str
    """Name of the segment, or the path that you gave."""
    path: str
    """Path of the file; a name's file lies in the directory of shared memory."""
    status: SegmentStatus
    """Whether its writer lives, as the kernel says."""
    generation: str
    """32 hexadecimal digits, unique to this segment."""
    abi: tuple[int, int]
    """Major and minor version of the layout."""
    writer_pid: int
    """Process number in the writer's own container."""
    owner: int
    """User id."""
    group: int | None
    """Group id; None where files have no group."""
    mode: int
    """Permissions of the file."""
    total_bytes: int
    """Size with memory for every slot."""
    backed_bytes: int
    """Size with the slots that have memory now."""
    allocated_bytes: int
    """Memory in use, as the file system counts it."""
    slots: int
    """Frames that it can hold, besides the history."""
    history: int
    """Frames before the newest that are kept."""
    slot_capacity: int
    """Bytes of the largest possible frame."""
    created_wall_ns: int
    """When it was created, in nanoseconds since 1970."""
    sequence: int
    """Number of the newest frame; 0: none yet."""
    fps: float
    """Frames per second, as measured by the capture process; 0 when no frame arrived for two seconds."""
    last_frame_age: float | None
    """Seconds since the last captured frame."""
    heartbeat_age: float | None
    """Seconds since the writer last did anything."""
    source_state: SourceState
    """State of the source, as the capture process reports it."""
    source_reason: str
    """Why the source is in that state; empty if all is well."""
    backend: str
    """The backend that reads the source."""
    width: int | None
    """Width of the newest frame's array; None: there is no frame yet."""
    height: int | None
    """Height of the newest frame's array. In some pixel formats the picture's height differs: see `picture_size`."""
    channels: int | None
    """Items per pixel of the newest frame."""
    dtype: np.dtype[Any] | None
    """Type of the newest frame's items."""
    pixel_format: str | None
    """Pixel format of the newest frame."""
    clock: str | None
    """What the newest frame's capture time was taken from; see ``FrameMetadata.clock``."""
    clock_offset_ms: float | None
    """How far the clock of the driver or sender was ahead of this host's when its least late frame arrived.

    A correct clock is behind by the time that the transport takes, such as -40. None: there is no such clock.
    """
    write_latency_buckets: tuple[int, ...]
    """Item i counts the writes that took less than 2**i ns, and at least half of that."""
    readers: tuple[ReaderInfo, ...]
    """The readers that are attached now."""

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """Width and height of the newest picture; None: there is no frame yet, or only its bytes show it (MJPG)."""
        if not self.width or not self.height:
            return None
        return PIXEL_FORMATS[self.pixel_format or "RAW"].picture_size(self.height, self.width)

    def as_dict(self) -> dict[str, Any]:
        """All attributes, in types that JSON has."""
        return (
            {"name": self.name, "path": self.path}
            | dataclasses.asdict(self)
            | {
                "status": str(self.status),
                "source_state": str(self.source_state),
                "dtype": None if self.dtype is None else self.dtype.name,
            }
        )


# A rate that was measured before the frames stopped says nothing about now.
_FPS_STALE_S = 2.0


def inspect_segment(name: str, *, trusted_owners: Iterable[int | str] | None = None) -> SegmentInfo:
    """Look at a segment without attaching to it.

    Parameters
    ----------
    name
        Its name, or the path of its file.
    trusted_owners
        As for a reader.

    Returns
    -------
    SegmentInfo
        A snapshot; inspect again for a newer one.

    Raises
    ------
    SegmentNotFoundError, SegmentFormatError, SegmentPermissionError, SegmentNameError
        There is no such segment, or it cannot be read.
    """
    found = _core.inspect(name, trusted_owners)
    found["readers"] = tuple(ReaderInfo(**reader) for reader in found["readers"])
    age = found["last_frame_age"]
    if age is None or age > _FPS_STALE_S or found["status"] is not SegmentStatus.LIVE:
        found["fps"] = 0.0
    return SegmentInfo(path=_core.object_path(name), **found)


def list_segments(paths: Iterable[str] = (), *, trusted_owners: Iterable[int | str] | None = None) -> list[SegmentInfo]:
    """List the segments in this machine's shared memory by name, then those at `paths`.

    Parameters
    ----------
    paths
        Names or paths of further ones.
    trusted_owners
        As for a reader.

    Returns
    -------
    list of SegmentInfo
        Files that are not segments are left out, and so are segments that you may not read or do not trust.
    """
    names = [*sorted(object_names()), *_several(paths)]
    found = []
    for name in names:
        try:
            found.append(inspect_segment(name, trusted_owners=trusted_owners))
        except BilliardsShmError:  # not ours, not readable, or gone since the directory was read
            continue
    return found


def _several(names: Iterable[str]) -> Iterable[str]:
    if isinstance(names, str):
        raise TypeError(f"names must be a list: [{names!r}]")
    return names


def object_names() -> list[str]:
    """Names of the files in this machine's shared memory; not all of them are segments."""
    directory = Path(_core.object_directory())
    return [entry.name for entry in directory.iterdir() if entry.is_file()] if directory.is_dir() else []


def remove_stale_segments(
    names: Iterable[str] | None = None, *, trusted_owners: Iterable[int | str] | None = None
) -> list[str]:
    """Remove segments whose writer is dead, and temporary files of writers that died while creating one.

    Parameters
    ----------
    names
        Names or paths; None: every segment in this machine's shared memory. Segments of living writers always stay.
    trusted_owners
        As for a reader.

    Returns
    -------
    list of str
        What was removed.

    Raises
    ------
    SegmentFormatError, SegmentPermissionError, SegmentNameError
        One of `names` cannot be removed. Without `names`, such segments are left alone.
    """
    removed = []
    directories = {Path(_core.object_directory())}
    for name in object_names() if names is None else _several(names):
        try:
            directories.add(Path(_core.object_path(name)).parent)
            if _core.remove_stale(name, trusted_owners):
                removed.append(name)
        except SegmentNotFoundError:
            pass
        except BilliardsShmError:
            if names is not None:
                raise
    temporaries = [str(path) for directory in directories for path in directory.glob(_TEMPORARY_PATTERN)]
    return removed + [path for path in temporaries if _core.remove_stale_temporary(path)]

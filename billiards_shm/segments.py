"""Segments seen from outside: list, inspect, remove what dead writers left."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from billiards_shm import _core
from billiards_shm.errors import BilliardsShmError, SegmentNotFoundError
from billiards_shm.statistics import SegmentStatistics, documented
from billiards_shm.status import SegmentStatus, SourceState

__all__ = ["ReaderInfo", "SegmentInfo", "inspect_segment", "list_segments", "remove_stale_segments"]

_TEMPORARY_PATTERN = ".bshm-" + "[0-9a-f]" * 16 + "~"


@dataclasses.dataclass(frozen=True, slots=True)
class ReaderInfo:
    """One reader that is attached now."""

    pid: int | None
    """As the reader gave it, in its own container; None for an observer."""
    name: str
    """Of its process."""
    kind: str
    """"lease", or "observer" (may read the object, but not lock it)."""
    frames: int
    """Read so far."""
    skipped: int
    """Published, and not looked at."""
    copies: int
    """Of the frames read, those that it copied."""
    last_sequence: int
    """Number of the frame that it read last."""
    attached_wall_ns: int
    """Nanoseconds since 1970."""
    leases: int
    """Slots it holds pinned now."""


@documented
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SegmentInfo(SegmentStatistics):
    """What can be known of a segment without attaching to it."""

    name: str
    """As the writer was given it."""
    path: str
    """Of the file, which for a name lies in the directory of shared memory."""
    status: SegmentStatus
    """Whether its writer lives, asked of the kernel."""
    generation: str
    """32 hexadecimal digits that no other segment has."""
    abi: tuple[int, int]
    """Major and minor version of the layout."""
    writer_pid: int
    """As the writer gave it, in its own container."""
    owner: int
    """User id."""
    mode: int
    """Permissions of the file."""
    total_bytes: int
    """With every slot backed."""
    backed_bytes: int
    """With the slots that are backed now."""
    allocated_bytes: int
    """As the file system counts."""
    slots: int
    """Frames that it can hold."""
    slot_capacity: int
    """Bytes of the largest frame."""
    created_wall_ns: int
    """Nanoseconds since 1970."""
    sequence: int
    """Of the newest frame; 0: none yet."""
    fps: float
    """As the capture process measured it last; 0 when no frame came for two seconds."""
    last_frame_age: float | None
    """Seconds since the last captured frame."""
    heartbeat_age: float | None
    """Seconds since the writer last did anything."""
    source_state: SourceState
    """What the capture process says of its source."""
    source_reason: str
    """Why, if that is not all well."""
    backend: str
    """What the source is read with."""
    width: int | None
    """Pixels, of the newest frame; None: there is none yet."""
    height: int | None
    """Pixels, likewise."""
    channels: int | None
    """Likewise."""
    dtype: np.dtype[Any] | None
    """Likewise."""
    pixel_format: str | None
    """Likewise."""
    write_latency_buckets: tuple[int, ...]
    """Item i counts the writes that took less than 2**i ns, and not less than half of that."""
    readers: tuple[ReaderInfo, ...]
    """Those that are attached now."""

    def as_dict(self) -> dict[str, Any]:
        """All of it in types that JSON knows."""
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

    Raises
    ------
    SegmentNotFoundError, SegmentFormatError, SegmentPermissionError, SegmentNameError
        There is none, or it cannot be read.
    """
    found = _core.inspect(name, trusted_owners)
    found["readers"] = tuple(ReaderInfo(**reader) for reader in found["readers"])
    age = found["last_frame_age"]
    if age is None or age > _FPS_STALE_S or found["status"] is not SegmentStatus.LIVE:
        found["fps"] = 0.0
    return SegmentInfo(path=_core.object_path(name), **found)


def list_segments(paths: Iterable[str] = (), *, trusted_owners: Iterable[int | str] | None = None) -> list[SegmentInfo]:
    """All segments of this machine's shared memory that may be read, by name, then those of `paths`.

    Files that are no segments, and segments of other users, are left out.
    """
    names = [*sorted(_candidate_names()), *_several(paths)]
    found = []
    for name in names:
        try:
            found.append(inspect_segment(name, trusted_owners=trusted_owners))
        except BilliardsShmError:  # not ours, not readable, or gone since the directory was read
            continue
    return found


def _several(names: Iterable[str]) -> Iterable[str]:
    if isinstance(names, str):
        raise TypeError(f"names are expected, a list of them: [{names!r}]")
    return names


def _candidate_names() -> list[str]:
    directory = Path(_core.object_directory())
    return [entry.name for entry in directory.iterdir() if entry.is_file()] if directory.is_dir() else []


def remove_stale_segments(
    names: Iterable[str] | None = None, *, trusted_owners: Iterable[int | str] | None = None
) -> list[str]:
    """Remove segments whose writer is dead, and what creators that died left behind.

    Parameters
    ----------
    names
        Names or paths; None: every segment of this machine's shared memory. The living are spared either way.
    trusted_owners
        As for a reader.

    Returns
    -------
    list of str
        What was removed.

    Raises
    ------
    SegmentFormatError, SegmentPermissionError, SegmentNameError
        One of `names` is not to be removed. Without `names` what is not ours is passed over.
    """
    removed = []
    directories = {Path(_core.object_directory())}
    for name in _candidate_names() if names is None else _several(names):
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

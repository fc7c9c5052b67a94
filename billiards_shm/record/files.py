"""The files of a recording: their names, whether they can be written, and which ones are removed."""

import contextlib
import logging
import os
import re
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from billiards_shm.config.record import ENDINGS
from billiards_shm.errors import ConfigurationError
from billiards_shm.sources.names import frames_file

__all__ = ["FolderError", "RecordingFiles", "check_file", "remove_recording"]

_log = logging.getLogger(__name__)

_TIME: Final = "%Y%m%dT%H%M%S"
_TIME_PATTERN: Final = "[0-9]{8}T[0-9]{6}[.][0-9]{3}Z"


class FolderError(ConfigurationError):
    """The folder is missing, or not writable. This may change, for instance when a disk is mounted again."""


def check_file(path: Path, *, overwrite: bool = False) -> None:
    """Check that a recording is possible, before anything is written.

    Raises
    ------
    FolderError
        The folder is missing, or not writable.
    ConfigurationError
        The ending is unknown, or the file exists.
    """
    if path.suffix.lower() not in ENDINGS:
        raise ConfigurationError(f"{path} must end in {' or '.join(ENDINGS)}")
    if not path.parent.is_dir():
        raise FolderError(f"{path}: there is no folder {str(path.parent)!r}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise FolderError(f"{path}: the folder {str(path.parent)!r} is not writable")
    for each in (path, frames_file(path)):
        if os.path.lexists(each) and not overwrite:
            raise ConfigurationError(f"{each} exists: choose another name, or --overwrite")
        if os.path.lexists(each) and not each.is_file():
            raise ConfigurationError(f"{each} is not a file that can be overwritten")
        if each.exists() and not os.access(each, os.W_OK):
            raise ConfigurationError(f"{each} may not be overwritten: its permissions do not allow it")


def remove_recording(path: Path) -> None:
    """Remove a file and the lines next to it, if they exist."""
    frames_file(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


class RecordingFiles:
    """The names of one recording's files.

    Parameters
    ----------
    path
        As the user gave it.
    dated
        Whether the first file has the time of its first frame in its name, as later ones have.
    keep_sec, max_bytes
        What is kept; None: all.
    """

    def __init__(self, path: Path, *, dated: bool, keep_sec: float | None = None, max_bytes: int | None = None) -> None:
        self._path = path
        self._dated = dated
        self._keep_sec = keep_sec
        self._max_bytes = max_bytes
        self._kept: set[Path] = set()
        """Files that could not be removed, which is reported once for each."""
        self._current: Path | None = None
        self._clock_at_end: dict[Path, float] = {}
        """Files of this run, in order: how far the wall clock was ahead of the clock that is never set."""
        self._pattern = re.compile(f"{re.escape(path.stem)}-{_TIME_PATTERN}{re.escape(path.suffix)}")

    @property
    def largest_file(self) -> float:
        """Bytes after which a new file has to begin, so that enough can be removed."""
        return float("inf") if self._max_bytes is None else self._max_bytes / 4

    def next(self, wall_time_ns: int) -> Path:
        """The name of the next file, whose first frame has this time. It is always a new name."""
        if not self._dated:
            self._dated = True
            return self._path
        while True:
            path = self._named(wall_time_ns // 1_000_000)
            if not os.path.lexists(path):
                return path
            wall_time_ns += 1_000_000

    def _named(self, wall_time_ms: int) -> Path:
        seconds, milliseconds = divmod(wall_time_ms, 1000)
        time = datetime.fromtimestamp(seconds, UTC).strftime(_TIME)
        return self._path.with_name(f"{self._path.stem}-{time}.{milliseconds:03d}Z{self._path.suffix}")

    def remove_old(self, current: Path, now: float, uptime: float) -> list[Path]:
        """Remove recordings that do not have to be kept, with their lines; return those removed.

        Setting the wall clock during this run makes none of its files older or younger.

        Parameters
        ----------
        current
            The file that is being written, which stays.
        now
            Seconds of the wall clock.
        uptime
            Seconds of a clock that is never set.
        """
        if self._keep_sec is None and self._max_bytes is None:
            return []
        clock = now - uptime
        if self._current is not None:
            self._clock_at_end[self._current] = clock
        self._current = current
        names = sorted(path for path in self._path.parent.iterdir() if self._pattern.fullmatch(path.name))
        own = [path for path in self._clock_at_end if path in names]
        names = [path for path in names if path not in own] + own
        found = {path: about for path in names if path != current and (about := _stat(path)) is not None}
        too_old = [
            path
            for path, about in found.items()
            if self._keep_sec is not None
            and now - about.st_mtime - (clock - self._clock_at_end.get(path, clock)) > self._keep_sec
        ]
        if self._max_bytes is not None:
            sizes = {path: _size(path, about) for path, about in found.items() if path not in too_old}
            # The current one will grow to its full size.
            size = sum(sizes.values()) + self.largest_file
            for path, taken in sizes.items():
                if size <= self._max_bytes:
                    break
                too_old.append(path)
                size -= taken
        return [path for path in too_old if self._removed(path)]

    def _removed(self, path: Path) -> bool:
        """Remove a recording. A file that cannot be removed stays, and the current recording goes on."""
        try:
            remove_recording(path)
        except OSError as error:
            if path not in self._kept:
                self._kept.add(path)
                _log.warning("%s cannot be removed: %s", path, error.strerror)
            return False
        self._clock_at_end.pop(path, None)
        return True


def _stat(path: Path) -> os.stat_result | None:
    """The file's status; None if it is gone, or not a regular file."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return found if stat.S_ISREG(found.st_mode) else None
    return None


def _size(path: Path, found: os.stat_result) -> int:
    lines = _stat(frames_file(path))
    return found.st_size + (lines.st_size if lines is not None else 0)

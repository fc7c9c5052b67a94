"""A file that `record` wrote, played as recorded: with the numbers, times and positions of ``FILE.frames.jsonl``."""

import json
import logging
from array import array
from math import nan
from pathlib import Path
from typing import Any, Final

from billiards_shm.config.address import SourceAddress, SourceKind
from billiards_shm.config.model import CameraConfig
from billiards_shm.errors import CameraError
from billiards_shm.sources.names import frames_file
from billiards_shm.sources.protocol import Reason, RecordedFrame
from billiards_shm.sources.video import Video

__all__ = ["Recording"]

_LONGEST_LINE: Final = 1000
_SAME_MS: Final = 1.5
"""Containers keep whole milliseconds."""
_MOST_LOST: Final = 1000
_SET_BACK_MS: Final = -1_000.0
_SET_FORWARD_MS: Final = 60_000.0
"""A clock that jumps by more than this was set, and the file's times do not follow it."""
_OTHERWISE: Final = "use the one that was written with the recording, or leave out as_recorded"

_log = logging.getLogger(__name__)


class Recording(Video):
    """An open recording, whose k-th frame has the k-th line.

    Parameters
    ----------
    config : CameraConfig

    Raises
    ------
    CameraError
        The recording cannot be opened, or its lines cannot be read; says what and why in one line.
    """

    def __init__(self, config: CameraConfig) -> None:
        address = SourceAddress.parse(config.device_id)
        if address.kind is not SourceKind.FILE:
            raise CameraError(f"cannot open {address}: as_recorded plays a file that `record` wrote; this is not one")
        self._lines = _Lines(address, frames_file(Path(str(address.place))))
        self._index = -1
        self._known = False
        super().__init__(config)

    @property
    def recorded(self) -> RecordedFrame | None:
        """Number and time of the grabbed frame; None if it cannot be decoded."""
        return self._lines.frame(self._index) if self._known else None

    @property
    def position_ms(self) -> float | None:
        """Position that the frame had when it was recorded."""
        return self._lines.position_ms(self._index) if self._known else None

    def grab(self) -> bool:
        """Go on to the next frame and its line; False at the end of either."""
        self._known = False
        if not super().grab():
            return False
        if self._jpeg is None and self._frame is None:
            return True
        self._index = self._lines.index_of(super().position_ms, self._index + 1)
        self._known = self._index < len(self._lines)
        if not self._known:
            self._ended = True
            _log.warning(
                "%s: %s ends after %d frames, but the recording goes on: %s",
                self._address,
                self._lines.name,
                len(self._lines),
                _OTHERWISE,
            )
        return self._known


class _Lines:
    """What was noted about each frame, read all at once: 24 bytes a frame."""

    def __init__(self, address: SourceAddress, path: Path) -> None:
        self.name = path.name
        self._numbers = array("Q")
        self._times_ns = array("q")
        self._positions_ms = array("d")
        self._last_ms = 0.0  # of the last frame, in the file
        self._last_ns: int | None = None
        self._set_ns = 0  # how far the clock was set forward since the first frame
        self._fits = True
        self._ahead_ms = 0.0
        try:
            if path.is_file() or not path.exists():
                with path.open("rb") as file:
                    while line := file.readline(_LONGEST_LINE):
                        self._add(line)
        except FileNotFoundError:
            reason = Reason.NOT_FOUND.because(f"there is no {self.name} next to it")
        except OSError as error:
            reason = Reason.UNREADABLE.because(f"{self.name}: {error.strerror}")
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            # A writer that was cut off leaves the last line without an end.
            if not line.endswith(b"\n") and len(line) < _LONGEST_LINE and len(self):
                return
            reason = Reason.UNREADABLE.because(f"line {len(self) + 1} of {self.name} does not describe a frame")
        else:
            if len(self):
                return
            empty = "is empty" if path.is_file() else "is not a file"  # opening a pipe would wait for its writer
            reason = Reason.UNREADABLE.because(f"{self.name} {empty}")
        raise CameraError(f"cannot open {address}: {reason}: {_OTHERWISE}")

    def _add(self, line: bytes) -> None:
        fields: Any = json.loads(line)
        number, time_ns, position_ms = fields["sequence"], fields["capture_time_ns"], fields["position_ms"]
        if type(number) is not int or type(time_ns) is not int or number < 1:
            raise ValueError(line)
        position_ms = nan if position_ms is None else float(position_ms)
        self._positions_ms.append(position_ms)
        self._times_ns.append(time_ns)
        self._numbers.append(number)

    def __len__(self) -> int:
        return len(self._numbers)

    def frame(self, index: int) -> RecordedFrame:
        return RecordedFrame(index, self._numbers[index], self._times_ns[index] - self._set_ns)

    def position_ms(self, index: int) -> float | None:
        position = self._positions_ms[index]
        return None if position != position else position

    def index_of(self, file_ms: float | None, following: int) -> int:
        """The line of a frame at this time in the file: the following one, unless frames in between are damaged."""
        found = following if file_ms is None else self._after_damage(file_ms, following)
        if file_ms is not None and found < len(self):
            if self._last_ns is not None:
                self._step(file_ms - self._last_ms, (self._times_ns[found] - self._last_ns) / 1e6, found)
            self._last_ms, self._last_ns = file_ms, self._times_ns[found]
        return found

    def _step(self, in_file_ms: float, in_lines_ms: float, index: int) -> None:
        """Follow the file where the clock was set. Warn once if lines are missing, or those of another recording."""
        if in_lines_ms < _SET_BACK_MS or in_lines_ms - in_file_ms > _SET_FORWARD_MS:
            self._set_ns += round((in_lines_ms - in_file_ms) * 1e6)
            self._ahead_ms = 0.0
            return
        # Frames closer together than a file's times can express are later in it, until a gap makes up for that.
        self._ahead_ms += in_file_ms - in_lines_ms
        too_late = in_lines_ms >= 0 and in_file_ms - in_lines_ms > 1 + _SAME_MS
        if self._fits and (too_late or self._ahead_ms < -_SAME_MS):
            self._fits = False
            _log.warning(
                "line %d of %s is %.1f ms after the one before it, but the frame is %.1f ms; numbers may be those of "
                "other frames: %s",
                *(index + 1, self.name, in_lines_ms, in_file_ms, _OTHERWISE),
            )

    def _after_damage(self, file_ms: float, following: int) -> int:
        """The first line that is as far after the last one as the frame is in the file; otherwise the next one."""
        last_ns = before_ns = self._times_ns[0] if self._last_ns is None else self._last_ns
        for index in range(following, min(following + _MOST_LOST, len(self))):
            time_ns = self._times_ns[index]
            if time_ns < before_ns:  # the clock was set, and the file's times went on
                break
            if abs((time_ns - last_ns) / 1e6 - (file_ms - self._last_ms)) <= _SAME_MS:
                return index
            before_ns = time_ns
        return following

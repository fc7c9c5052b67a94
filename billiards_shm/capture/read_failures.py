"""How many failed reads end a source: a damaged frame, the end of a file and a lost camera look alike."""

from enum import Enum
from typing import Final, NamedTuple, Protocol

from billiards_shm.capture.stats import CaptureStatistics
from billiards_shm.config.address import SourceAddress, SourceKind
from billiards_shm.sources.protocol import FrameSource, Reason

__all__ = ["Ending", "LiveFailurePolicy", "ReadFailurePolicy", "RecordingFailurePolicy", "StreamEnd"]

FAILING_SEC: Final = 1.0
"""How long a live source may fail before it is opened again."""
FIRST_FRAME_SEC: Final = 10.0
"""The same before its first frame: cameras and servers are slow to start."""
MOST_UNREADABLE: Final = 10
"""This many frames in a row that cannot be decoded end a source."""
_UNKNOWN_FRAMES_LEFT: Final = 64
_MOST_BAD_FRAMES: Final = 1000
_NS_PER_SEC: Final = 1e9


class Ending(Enum):
    """Why an open source delivers no more frames."""

    STOPPED = "stopped"
    EXHAUSTED = "exhausted"
    LOST = "lost"
    REOPENED = "reopened"
    BROKEN = "broken"


class StreamEnd(NamedTuple):
    """The end of an open source's frames."""

    kind: Ending
    reason: str = ""


class ReadFailurePolicy(Protocol):
    """Decides, for one open source, whether a failed read is its end."""

    def read_succeeded(self, captured_ns: int) -> None:
        """Count a frame."""

    def read_failed(self, source: FrameSource, grabbed: bool, started_ns: int, now_ns: int) -> StreamEnd | None:
        """Count a failure; return the end of the source if this is it.

        Parameters
        ----------
        source : FrameSource
        grabbed : bool
            Whether something was grabbed, which could not be decoded.
        started_ns, now_ns : int
            When the read started and ended.
        """


class RecordingFailurePolicy:
    """For recordings, where a damaged frame and the end look alike.

    With OpenCV, only later reads tell them apart. No more frames can be damaged than are left, so more failures in a
    row than that are the end.

    Parameters
    ----------
    statistics : CaptureStatistics
    """

    def __init__(self, statistics: CaptureStatistics) -> None:
        self._statistics = statistics
        self._failures = 0
        self._unreadable = 0

    def read_succeeded(self, captured_ns: int) -> None:
        """Count a frame."""
        self._statistics.unreadable += self._failures
        self._failures = self._unreadable = 0

    def read_failed(self, source: FrameSource, grabbed: bool, started_ns: int, now_ns: int) -> StreamEnd | None:
        """Count a failure; return the end of the source if this is it."""
        if grabbed:
            self._statistics.unreadable += 1
            self._unreadable += 1
            return _broken(Ending.BROKEN) if self._unreadable >= MOST_UNREADABLE else None
        self._failures += 1
        left = source.frames_left
        if self._failures <= min(_UNKNOWN_FRAMES_LEFT if left is None else left, _MOST_BAD_FRAMES):
            return None
        return StreamEnd(Ending.EXHAUSTED, Reason.DECODE_ERRORS.because("nothing in it could be decoded"))


class LiveFailurePolicy:
    """For cameras and streams, which are given time; their stalls are counted in the statistics.

    Parameters
    ----------
    address : SourceAddress
    read_timeout_sec : float
        How long one read may block.
    now_ns : int
        When the source was opened.
    statistics : CaptureStatistics
    """

    def __init__(
        self, address: SourceAddress, read_timeout_sec: float, now_ns: int, statistics: CaptureStatistics
    ) -> None:
        self._unreadable = 0
        self._address = address
        self._read_timeout_sec = read_timeout_sec
        self._last_ns = now_ns
        self._begun = False
        self._statistics = statistics
        self._stall_after_ns = statistics.stall_after_ns

    def read_succeeded(self, captured_ns: int) -> None:
        """Count a frame."""
        if self._begun and captured_ns - self._last_ns > self._stall_after_ns:
            self._statistics.stalls += 1
        # The statistics have this frame already: the next gap, too, is judged by the frames before it.
        self._stall_after_ns = self._statistics.stall_after_ns
        self._unreadable = 0
        self._last_ns = captured_ns
        self._begun = True

    def read_failed(self, source: FrameSource, grabbed: bool, started_ns: int, now_ns: int) -> StreamEnd | None:
        """Count a failure; return the end of the source if this is it."""
        blocked_sec = (now_ns - started_ns) / _NS_PER_SEC
        if blocked_sec > 0.9 * self._read_timeout_sec:
            self._statistics.stalls += 1
            return StreamEnd(Ending.LOST, Reason.TIMEOUT.because(f"no frame within {blocked_sec:.1f} s"))
        if grabbed:
            self._statistics.unreadable += 1
            self._unreadable += 1
            return _broken(Ending.LOST) if self._unreadable >= MOST_UNREADABLE else None
        allowed_sec = FAILING_SEC if self._begun else FIRST_FRAME_SEC
        if (now_ns - self._last_ns) / _NS_PER_SEC <= allowed_sec:
            return None
        return StreamEnd(Ending.LOST, self._reason())

    def _reason(self) -> str:
        if self._address.kind in (SourceKind.CAMERA, SourceKind.DEVICE):
            return Reason.NO_SIGNAL.because("the camera delivers no frames")
        return Reason.END_OF_STREAM.because("the server ended it, or is gone")


def _broken(kind: Ending) -> StreamEnd:
    return StreamEnd(kind, Reason.DECODE_ERRORS.because(f"{MOST_UNREADABLE} frames in a row cannot be decoded"))

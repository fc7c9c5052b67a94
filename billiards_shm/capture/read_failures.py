"""When a source that gives no frame is at its end, and when it is only between two frames."""

from enum import Enum
from typing import Final, Protocol

from billiards_shm.capture.stats import CaptureStatistics
from billiards_shm.config.address import SourceAddress, SourceKind
from billiards_shm.sources.protocol import FrameSource, Reason

__all__ = ["Ending", "LiveFailurePolicy", "ReadFailurePolicy", "RecordingFailurePolicy"]

FAILING_SEC: Final = 1.0
"""How long a live source may fail before it is opened anew."""
FIRST_FRAME_SEC: Final = 10.0
"""The same before its first frame: cameras and servers take their time to start."""
_UNKNOWN_FRAMES_LEFT: Final = 64
_MOST_BAD_FRAMES: Final = 1000
_NS_PER_SEC: Final = 1e9


class Ending(Enum):
    """Why the frames of an open source come no more."""

    STOPPED = "stopped"
    EXHAUSTED = "exhausted"
    LOST = "lost"


class ReadFailurePolicy(Protocol):
    """Judges the attempts to take a frame from one open source."""

    damaged: int
    """Attempts in vain after which there were frames again."""

    def frame(self, captured_ns: int) -> None:
        """Note that there was a frame."""

    def nothing(self, source: FrameSource, grabbed: bool, began_ns: int, now_ns: int) -> tuple[Ending, str] | None:
        """Note that there was none; say why the source is over, if it is.

        Parameters
        ----------
        source : FrameSource
        grabbed : bool
            Whether there was something, which could not be decoded.
        began_ns, now_ns : int
            When the attempt began and ended.
        """


class RecordingFailurePolicy:
    """For recordings, where a damaged frame and the end look alike.

    There cannot be more damaged frames than frames are left: so many failures in a row are the end.
    """

    def __init__(self) -> None:
        self.damaged = 0
        self._failures = 0

    def frame(self, captured_ns: int) -> None:
        """Note that there was a frame."""
        self.damaged += self._failures
        self._failures = 0

    def nothing(self, source: FrameSource, grabbed: bool, began_ns: int, now_ns: int) -> tuple[Ending, str] | None:
        """Note that there was none; say why the source is over, if it is."""
        self._failures += 1
        left = source.frames_left
        if self._failures <= min(_UNKNOWN_FRAMES_LEFT if left is None else left, _MOST_BAD_FRAMES):
            return None
        return Ending.EXHAUSTED, Reason.DECODE_ERRORS.because("nothing in it could be decoded")


class LiveFailurePolicy:
    """For cameras and streams, which are given time; how long they are silent is counted in the statistics.

    Parameters
    ----------
    address : SourceAddress
    read_timeout_sec : float
        How long one attempt may block.
    now_ns : int
        When the source was opened.
    statistics : CaptureStatistics
    """

    def __init__(
        self, address: SourceAddress, read_timeout_sec: float, now_ns: int, statistics: CaptureStatistics
    ) -> None:
        self.damaged = 0
        self._failures = 0
        self._address = address
        self._read_timeout_sec = read_timeout_sec
        self._last_ns = now_ns
        self._begun = False
        self._statistics = statistics

    def frame(self, captured_ns: int) -> None:
        """Note that there was a frame."""
        if self._begun and captured_ns - self._last_ns > self._statistics.stall_after_ns:
            self._statistics.stalls += 1
        self.damaged += self._failures
        self._failures = 0
        self._last_ns = captured_ns
        self._begun = True

    def nothing(self, source: FrameSource, grabbed: bool, began_ns: int, now_ns: int) -> tuple[Ending, str] | None:
        """Note that there was none; say why the source is over, if it is."""
        self._failures += 1
        blocked_sec = (now_ns - began_ns) / _NS_PER_SEC
        if blocked_sec > 0.9 * self._read_timeout_sec:
            self._statistics.stalls += 1
            return Ending.LOST, Reason.TIMEOUT.because(f"no frame within {blocked_sec:.1f} s")
        allowed_sec = FAILING_SEC if self._begun else FIRST_FRAME_SEC
        if (now_ns - self._last_ns) / _NS_PER_SEC <= allowed_sec:
            return None
        return Ending.LOST, self._why_nothing(grabbed)

    def _why_nothing(self, grabbed: bool) -> str:
        if grabbed:
            return Reason.DECODE_ERRORS.because(f"{self._failures} frames in a row")
        if self._address.kind in (SourceKind.CAMERA, SourceKind.DEVICE):
            return Reason.NO_SIGNAL.because("the camera gives no frames")
        return Reason.END_OF_STREAM.because("the server has ended it, or is gone")

"""Records one segment in this process."""

import contextlib
import time
from collections.abc import Callable

from billiards_shm import SegmentNotFoundError, SharedMemoryFrameReader
from billiards_shm.config.model import RecordConfig
from billiards_shm.record.recorder import WAIT_SEC, Recorder, RecordingSnapshot
from billiards_shm.service.signals import StopRequest

__all__ = ["run_recording"]


def run_recording(
    name: str,
    config: RecordConfig,
    *,
    dated: bool = False,
    frames: int | None = None,
    timeout: float | None = None,
    on_progress: Callable[[RecordingSnapshot], None] = lambda snapshot: None,
) -> RecordingSnapshot:
    """Record until a signal requests a stop, the writer closes, or there are enough frames.

    Parameters
    ----------
    name, config, dated, frames, on_progress
        As for `Recorder`.
    timeout
        Seconds to wait for the segment; None: no limit.

    Returns
    -------
    RecordingSnapshot
        The last one.

    Raises
    ------
    SegmentNotFoundError
        No segment appears within `timeout`.
    ConfigurationError, FrameShapeError, OSError
        As for `Recorder`, and its `Recorder.run`.
    """
    with StopRequest() as stop:
        recorder = Recorder(name, config, stop, dated=dated, frames=frames, on_progress=on_progress)
        with SharedMemoryFrameReader(name) as reader:
            if _attach(reader, stop, timeout):
                recorder.run(reader)
        return recorder.snapshot()


def _attach(reader: SharedMemoryFrameReader, stop: StopRequest, timeout: float | None) -> bool:
    """Wait for the segment; iterating over its frames does that too, but forever. False: a stop was requested."""
    if timeout is None:
        return True
    until = time.monotonic() + timeout
    while not stop.wait(0):
        left = until - time.monotonic()
        if left <= WAIT_SEC:
            reader.attach(timeout=max(0.0, left))
            return True
        with contextlib.suppress(SegmentNotFoundError):
            reader.attach(timeout=WAIT_SEC)
            return True
    return False

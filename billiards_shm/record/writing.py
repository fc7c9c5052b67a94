"""A thread that writes a recording, so that a slow disk does not hold up the frames."""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from billiards_shm.encoder import EncodedFrame, StreamFormat
from billiards_shm.record.files import remove_recording
from billiards_shm.record.muxer import RecordingFile

__all__ = ["WritingThread"]

LARGEST_QUEUE: Final = 128_000_000
"""Bytes that may wait. Beyond this the caller waits, too."""

_log = logging.getLogger(__name__)


class WritingThread:
    """Writes the files of a recording, one after the other, in its own thread; opening and closing take time, too.

    Parameters
    ----------
    name
        Of the segment, for the log.
    open_file
        Opens the file that begins with a frame; called in that thread.
    """

    def __init__(self, name: str, open_file: Callable[[StreamFormat, EncodedFrame], RecordingFile]) -> None:
        self.files = 0
        """Files that were opened."""
        self._name = name
        self._open_file = open_file
        self._output: RecordingFile | None = None
        self._queue: deque[tuple[StreamFormat | None, EncodedFrame | None]] = deque()
        """A stream begins a file. Without a frame, the file ends."""
        self._waiting_bytes = 0
        self._closing = False
        self._error: Exception | None = None
        self._longest_s = 0.0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="billiards-shm-writing", daemon=True)
        self._thread.start()

    @property
    def file(self) -> RecordingFile | None:
        """The file that is being written. Only the thread may change it."""
        return self._output

    def take_longest_write_s(self) -> float:
        """The longest time that writing a frame took, since the last call."""
        longest, self._longest_s = self._longest_s, 0.0
        return longest

    def write(self, frame: EncodedFrame, stream: StreamFormat | None = None) -> None:
        """Queue a frame to be written.

        Parameters
        ----------
        frame
        stream
            The stream that the frame begins: it goes into a new file.

        Raises
        ------
        OSError, ConfigurationError
            As for `check`.
        """
        self._give(stream, frame)

    def end_file(self) -> None:
        """Queue the end of the file. May be called again.

        Raises
        ------
        OSError, ConfigurationError
            As for `check`.
        """
        self._give(None, None)

    def check(self) -> None:
        """Check that earlier frames could be written.

        Raises
        ------
        OSError, ConfigurationError
            They could not. The file that they belonged to is closed, and plays.
        """
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Write what is waiting, and the end. May be called again.

        Raises
        ------
        OSError, ConfigurationError
            As for `check`.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self.check()

    def _give(self, stream: StreamFormat | None, frame: EncodedFrame | None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._waiting_bytes <= LARGEST_QUEUE)
            self.check()
            self._queue.append((stream, frame))
            self._waiting_bytes += _size(frame)
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._queue or self._closing)
                    if not self._queue:
                        break
                    stream, frame = self._queue.popleft()
                began = time.perf_counter()
                self._do(stream, frame)
                self._longest_s = max(self._longest_s, time.perf_counter() - began)
                with self._changed:
                    self._waiting_bytes -= _size(frame)
                    self._changed.notify_all()
            self._end_file()
        except Exception as error:
            with self._changed:
                self._error = self._stopped_by(error) if isinstance(error, OSError) else error
                self._changed.notify_all()

    def _do(self, stream: StreamFormat | None, frame: EncodedFrame | None) -> None:
        if stream is not None or frame is None:
            self._end_file()
        if stream is not None and frame is not None:
            self._output = self._open_file(stream, frame)
            self.files += 1
        if frame is not None:
            assert self._output is not None
            self._output.write(frame)

    def _end_file(self) -> None:
        if self._output is None:
            return
        self._output.close()
        output, self._output = self._output, None
        _log.info(
            "%s: %s has %d frames, %.1f s, %.1f MB",
            *(self._name, output.path, output.frames, output.duration_s, output.bytes / 1e6),
        )

    def _stopped_by(self, error: OSError) -> OSError:
        """Close a file that can no longer be written; return the error that says how far it got."""
        output, self._output = self._output, None
        if output is None:
            return error
        with contextlib.suppress(OSError):
            output.close()
        if output.frames:
            got_to = f"the recording stopped after {output.frames} frames ({output.duration_s:.1f} s)"
            if output.path.exists():
                got_to += "; all but the last quarter of a second plays"
        else:
            got_to = "nothing was recorded"
            with contextlib.suppress(OSError):
                remove_recording(output.path)
        return OSError(error.errno, f"{error.strerror}: {got_to}", str(output.path))


def _size(frame: EncodedFrame | None) -> int:
    return 0 if frame is None else len(frame.data)

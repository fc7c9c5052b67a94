"""The reader, with iteration: plain and asynchronous."""

import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy.typing as npt

from billiards_shm._core import FrameMetadata, SegmentReader
from billiards_shm.errors import SegmentNotFoundError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["FrameIterator", "SharedMemoryFrameReader"]

_Read = tuple[npt.NDArray[Any], FrameMetadata]

# A wait ends after this time, to check for the end of the segment, the timeout and a cancelled task.
_SLICE_S = 0.1


class SharedMemoryFrameReader(SegmentReader):
    """Reads the newest frames published under a name.

    Parameters
    ----------
    name
        Name of the segment, or the path of its file.
    max_leases
        Zero-copy frames that you can hold at a time. While you hold that many, further ones are copies.
    copy
        True: every frame is your own writable array.
    trusted_owners
        Owners to trust besides you and root. None: those in the environment variable BILLIARDS_SHM_TRUSTED_OWNERS.

    Raises
    ------
    SegmentNameError
        The name is not valid for a segment. Nothing else can fail here: the constructor touches no segment.

    Notes
    -----
    Threads may share a reader; each frame goes to one of them. A forked child may use it; it attaches again there.

    **Lifetime.** A frame is pinned until its last view is gone, even if reader and writer are closed first::

        frame, metadata = reader.read_frame(timeout=1.0)
        crop = frame[10:20]
        del frame; reader.close()
        crop.mean()              # OK: the crop holds the pin
        crop[0] = 0              # ERROR: ValueError, read-only
        crop = crop.copy()       # OK: your own memory, and the slot is free again
    """

    def frames(self, *, follow: bool = False, every: bool = False, timeout: float | None = None) -> "FrameIterator":
        """Iterate over frames as they arrive, with ``for`` or ``async for``.

        Parameters
        ----------
        follow
            False: the iteration ends when the writer closes cleanly. True: it waits for the next writer of the name.
        every
            True: every frame that is still in the window, one after the other, like `read_next`; the writer has to keep
            a history. False: the newest frame each time.
        timeout
            Seconds to wait for each frame; None: no limit.

        Returns
        -------
        FrameIterator
            Yields ``(frame, metadata)``. It waits for a segment, moves to its successors, and survives dead writers.

        Raises
        ------
        TimeoutError
            Raised by the iteration: no frame arrived within `timeout`.
        """
        return FrameIterator(self, follow=follow, every=every, timeout=timeout)

    def __iter__(self) -> Iterator[_Read]:
        return iter(self.frames())

    def __aiter__(self) -> AsyncIterator[_Read]:
        return aiter(self.frames())

    def __enter__(self) -> Self:
        with contextlib.suppress(SegmentNotFoundError):
            self.attach(timeout=0)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class FrameIterator:
    """Frames of one reader, one after the other; see `SharedMemoryFrameReader.frames`."""

    def __init__(self, reader: SharedMemoryFrameReader, *, follow: bool, every: bool, timeout: float | None) -> None:
        self._waiter: ThreadPoolExecutor | None = None
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout={timeout!r}: expected seconds, 0 or more, or None")
        self._reader = reader
        self._follow = follow
        self._every = every
        self._timeout = timeout
        # An end before the iteration began does not end it: it waits for the next writer. None: not checked yet.
        self._outlasts_end: bool | None = None
        # Of the reader, when the iteration began: other calls may move it from a closed segment to the next one.
        self._ends = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _Read:
        deadline = self._deadline()
        while True:
            found = self._look()
            if found is not None:
                return found
            if self._is_over():
                raise StopIteration
            self._reader._wait_once(self._slice(deadline))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Read:
        # Imported here, because they would take most of the import time of this package.
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        deadline = self._deadline()
        while True:
            found = self._look()
            if found is not None:
                return found
            if self._is_over():
                self._end_waiter()
                raise StopAsyncIteration
            # Its own thread: the loop's default pool has only a few, and every reader would occupy one.
            if self._waiter is None:
                self._waiter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="billiards-shm-wait")
            await asyncio.get_running_loop().run_in_executor(
                self._waiter, self._reader._wait_once, self._slice(deadline)
            )

    def _look(self) -> _Read | None:
        if self._outlasts_end is None:
            self._outlasts_end = self._reader._ended()
            self._ends = self._reader._ends()
        elif self._reader._ends() != self._ends and self._is_over():
            return None  # not a frame of the next writer
        found = self._reader._poll(self._follow or self._outlasts_end, self._every)
        if self._outlasts_end:
            self._outlasts_end = found is None and self._reader._ended()
            self._ends = self._reader._ends()
        return found

    def _is_over(self) -> bool:
        """Whether the writer closed cleanly, and its last frame was delivered."""
        ends = not self._follow and not self._outlasts_end
        return ends and (self._reader._ended() or self._reader._ends() != self._ends)

    def _deadline(self) -> float | None:
        return None if self._timeout is None else time.monotonic() + self._timeout

    def _slice(self, deadline: float | None) -> float:
        if deadline is None:
            return _SLICE_S
        left = deadline - time.monotonic()
        if left <= 0:
            self._end_waiter()
            raise TimeoutError(f"no frame of {self._reader.name!r} within {self._timeout} s")
        return min(left, _SLICE_S)

    def _end_waiter(self) -> None:
        if self._waiter is not None:
            self._waiter.shutdown(wait=False)
            self._waiter = None

    def __del__(self) -> None:
        self._end_waiter()

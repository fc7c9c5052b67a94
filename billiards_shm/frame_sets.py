"""Frames of several names that were captured at about the same time."""

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy.typing as npt

from billiards_shm._core import MAX_SLOTS, FrameMetadata
from billiards_shm.reader import SharedMemoryFrameReader

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["FrameSet", "FrameSets"]

# A wait ends after this time, to check for the ends of segments, the timeout and a cancelled task.
_SLICE_NS = 100_000_000
# How many numbers of unmatched frames a set lists, for each name. All are counted.
_NUMBERS = 64


class FrameSet(dict[str, tuple[npt.NDArray[Any], FrameMetadata]]):
    """Frames of one moment: ``{name: (frame, metadata)}``.

    Attributes
    ----------
    span_ns
        Nanoseconds from the earliest capture to the latest.
    unmatched
        By name: numbers of the frames since the previous set that are in no set, at most the last 64.
    """

    def __init__(
        self, frames: dict[str, tuple[npt.NDArray[Any], FrameMetadata]], unmatched: dict[str, tuple[int, ...]]
    ) -> None:
        super().__init__(frames)
        times = [metadata.capture_time_ns for _, metadata in frames.values()]
        self.span_ns = max(times) - min(times)
        self.unmatched = unmatched


class FrameSets:
    """Iterates over sets of frames that were captured at the same time, with ``for`` or ``async for``.

    Parameters
    ----------
    names
        Names of segments, or paths of their files.
    tolerance_ms
        The frames of a set were captured within this many milliseconds of each other. More than half the time between
        two frames makes no sense.
    follow
        False: the iteration ends when one of the writers closes cleanly. True: it waits for the next writer.
    timeout
        Seconds to wait for each set; None: no limit.
    copy
        True: every frame is your own writable array.
    max_leases
        Sets that you can hold at a time without copies.
    trusted_owners
        As for `SharedMemoryFrameReader`.

    Raises
    ------
    TimeoutError
        Raised by the iteration: no set within `timeout`. You can go on iterating.
    SegmentNameError
        A name is not valid for a segment.

    Notes
    -----
    A set has one frame of each name, and a frame is in at most one set. Of the available frames, those nearest to each
    other are taken; a set waits for a later frame as long as that one could be nearer. Names may have different
    rates; then frames of the faster ones are left over. `unmatched` counts them. Placeholders are in no set.

    Frames wait for each other in the windows of their writers, so give the writers a history (``history=``,
    ``--history``) that spans the longest delay of one source behind another. Nothing is pinned while they wait; a
    frame that leaves its window is lost to the set.

    **Lifetime.** As in `SharedMemoryFrameReader`, for each frame: one is pinned for each name while you hold a set.
    """

    def __init__(
        self,
        names: Iterable[str],
        *,
        tolerance_ms: float = 8.0,
        follow: bool = False,
        timeout: float | None = None,
        copy: bool = False,
        max_leases: int = 2,
        trusted_owners: Iterable[int | str] | None = None,
    ) -> None:
        self._waiter: ThreadPoolExecutor | None = None
        names = [names] if isinstance(names, str) else list(names)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"names={names!r}: expected one or more, each once")
        if not 0 <= tolerance_ms < math.inf:
            raise ValueError(f"tolerance_ms={tolerance_ms!r}: expected milliseconds, 0 or more")
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout={timeout!r}: expected seconds, 0 or more, or None")
        owners = None if trusted_owners is None else list(trusted_owners)
        self._copy = copy
        self._timeout = timeout
        self._readers = {
            name: SharedMemoryFrameReader(name, max_leases=max_leases, trusted_owners=owners) for name in names
        }
        self._frames = {name: reader.frames(follow=follow, every=True) for name, reader in self._readers.items()}
        self._matcher = Matcher(names, int(tolerance_ms * 1e6))

    @property
    def unmatched(self) -> dict[str, int]:
        """By name: frames so far that are in no set."""
        return {name: stream.unmatched for name, stream in self._matcher.streams.items()}

    @property
    def skipped(self) -> dict[str, int]:
        """By name: frames so far that had left the window before they could be looked at."""
        return {name: stream.skipped for name, stream in self._matcher.streams.items()}

    def close(self) -> None:
        """Detach from all segments. Frames that you hold stay valid. May be called again."""
        for reader in self._readers.values():
            reader.close()
        self._end_waiter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[FrameSet]:
        return self

    def __next__(self) -> FrameSet:
        begun = time.monotonic()
        while (found := self._look()) is None:
            if self._matcher.is_over:
                raise StopIteration
            name, seconds = self._awaited(begun)
            self._readers[name]._wait_once(seconds)
        return found

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FrameSet:
        # As in `FrameIterator`: imported late, and with its own thread.
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        begun = time.monotonic()
        while (found := self._look()) is None:
            if self._matcher.is_over:
                self._end_waiter()
                raise StopAsyncIteration
            name, seconds = self._awaited(begun)
            if self._waiter is None:
                self._waiter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="billiards-shm-wait")
            await asyncio.get_running_loop().run_in_executor(self._waiter, self._readers[name]._wait_once, seconds)
        return found

    def _look(self) -> FrameSet | None:
        """The next set; None: something has to arrive first."""
        while not self._matcher.is_over:
            chosen = self._matcher.match(time.monotonic_ns())
            if chosen is not None:
                found = self._taken(chosen)
                if found is not None:
                    return found
            elif not any(self._read(name) for name in self._matcher.awaited):  # after each, look again
                return None
        return None

    def _read(self, name: str) -> bool:
        """Read the next frame of a name, and release it. True: a frame arrived, or the end."""
        frames = self._frames[name]
        found = frames._look()
        if found is not None:
            self._matcher.add(name, found[1], time.monotonic_ns())
            return True
        return frames._is_over() and self._matcher.end(name)

    def _taken(self, chosen: "dict[str, Seen]") -> FrameSet | None:
        """The set, pinned; None: one of its frames has left its window in the meantime."""
        frames = {}
        for name, seen in chosen.items():
            frame, metadata = self._readers[name].read_frame(sequence=seen.sequence, copy=self._copy)
            # Compare the time, too: a writer that was closed and made again counts from 1.
            if frame is None or metadata is None or metadata.capture_time_ns != seen.time_ns:
                self._matcher.lose(name, seen)
                return None
            frames[name] = (frame, metadata)
        return FrameSet(frames, self._matcher.take(chosen))

    def _awaited(self, begun: float) -> tuple[str, float]:
        """The name to wait for, and for how many seconds."""
        seconds = self._matcher.wait_ns(time.monotonic_ns()) / 1e9
        if self._timeout is not None:
            left = begun + self._timeout - time.monotonic()
            if left <= 0:
                self._end_waiter()
                raise TimeoutError(
                    f"no set of frames within {self._timeout} s: waiting for {' and '.join(self._matcher.awaited)}; "
                    f"unmatched so far: {self.unmatched}"
                )
            seconds = min(seconds, left)
        return self._matcher.awaited[0], seconds

    def _end_waiter(self) -> None:
        if self._waiter is not None:
            self._waiter.shutdown(wait=False)
            self._waiter = None

    def __del__(self) -> None:
        self._end_waiter()


class Seen(NamedTuple):
    """A frame that was read and released."""

    sequence: int
    time_ns: int
    seen_ns: int


class _Stream:
    """The frames of one name that may still become part of a set."""

    def __init__(self) -> None:
        self.pending: deque[Seen] = deque()
        self.ended = False
        self.unmatched = 0
        self.skipped = 0
        self.numbers: deque[int] = deque(maxlen=_NUMBERS)
        self._last: FrameMetadata | None = None
        self._shortest_ns = 0  # between two frames, so far, of one generation

    def add(self, metadata: FrameMetadata, now_ns: int) -> None:
        last, self._last = self._last, metadata
        self.skipped += metadata.skipped
        if last is None or last.generation != metadata.generation:
            self._shortest_ns = 0
        elif not metadata.skipped:
            passed = max(0, metadata.capture_time_ns - last.capture_time_ns)
            self._shortest_ns = min(self._shortest_ns or passed, passed)
        if metadata.online:
            self.pending.append(Seen(metadata.sequence, metadata.capture_time_ns, now_ns))

    def drop(self) -> None:
        self.numbers.append(self.pending.popleft().sequence)
        self.unmatched += 1

    def settled_in_ns(self, pivot_ns: int, tolerance_ns: int, now_ns: int) -> int:
        """How long to wait for a frame that could be nearer to `pivot_ns` than what is pending; 0: not at all."""
        last = self.pending[-1]
        # No window is as long as MAX_SLOTS: if that many frames are not later, the clock stands still.
        if self.ended or last.time_ns >= pivot_ns or len(self.pending) >= MAX_SLOTS:
            return 0
        left_ns = pivot_ns + tolerance_ns - last.time_ns
        if self._shortest_ns > left_ns:
            return 0
        # A frame that takes as long to arrive as the last one, and a little longer, would be there by then.
        return max(0, last.seen_ns + left_ns + tolerance_ns - now_ns)


class Matcher:
    """Finds the sets from numbers and times alone."""

    def __init__(self, names: Iterable[str], tolerance_ns: int) -> None:
        self.streams = {name: _Stream() for name in names}
        self.awaited: list[str] = list(self.streams)
        self._tolerance_ns = tolerance_ns
        self._settled_at_ns: int | None = None  # None: when a frame arrives

    @property
    def is_over(self) -> bool:
        """Whether a name has ended and has no frame left."""
        return any(stream.ended and not stream.pending for stream in self.streams.values())

    def add(self, name: str, metadata: FrameMetadata, now_ns: int) -> None:
        self.streams[name].add(metadata, now_ns)

    def end(self, name: str) -> bool:
        """No more frames of this name will arrive. True: this was not known yet."""
        known, self.streams[name].ended = self.streams[name].ended, True
        return not known

    def lose(self, name: str, seen: Seen) -> None:
        """A chosen frame is gone, and so are those before it."""
        stream = self.streams[name]
        # Not by their numbers: a writer that was closed and made again counts from 1.
        while stream.pending[0] is not seen:
            stream.drop()
        stream.drop()

    def take(self, chosen: dict[str, Seen]) -> dict[str, tuple[int, ...]]:
        """The set was made. Returns the numbers of the frames that were left over since the previous one."""
        unmatched = {}
        for name, seen in chosen.items():
            stream = self.streams[name]
            while stream.pending[0] is not seen:
                stream.drop()
            stream.pending.popleft()
            unmatched[name] = tuple(stream.numbers)
            stream.numbers.clear()
        return unmatched

    def wait_ns(self, now_ns: int) -> int:
        """How long to wait for a frame of `awaited`."""
        return _SLICE_NS if self._settled_at_ns is None else max(0, min(_SLICE_NS, self._settled_at_ns - now_ns))

    def match(self, now_ns: int) -> dict[str, Seen] | None:
        """The next set; None: a frame of each name in `awaited` has to arrive first.

        Each set is built around the latest of the names' first frames: frames that are too early for that one are too
        early for all that follow.
        """
        streams = self.streams.values()
        while all(stream.pending for stream in streams):
            pivot_ns = max(stream.pending[0].time_ns for stream in streams)
            early = [stream for stream in streams if stream.pending[0].time_ns < pivot_ns - self._tolerance_ns]
            if early:
                for stream in early:
                    stream.drop()
                continue
            waits = {
                name: wait_ns
                for name, stream in self.streams.items()
                if (wait_ns := stream.settled_in_ns(pivot_ns, self._tolerance_ns, now_ns))
            }
            if waits:
                self.awaited = list(waits)
                self._settled_at_ns = now_ns + min(waits.values())
                return None
            return self._nearest(pivot_ns)
        self.awaited = [name for name, stream in self.streams.items() if not stream.pending]
        self._settled_at_ns = None
        return None

    def _nearest(self, pivot_ns: int) -> dict[str, Seen]:
        """The set with the shortest span around the frame captured at `pivot_ns`."""
        later = {}
        chosen = {}
        for name, stream in self.streams.items():
            for seen in stream.pending:
                if seen.time_ns > pivot_ns:
                    later[name] = seen
                    break
                chosen[name] = seen

        def span(frames: dict[str, Seen]) -> int:
            times = [seen.time_ns for seen in frames.values()]
            return max(times) - min(times)

        # Only the earliest frame is worth exchanging for a later one: no other exchange makes the span shorter.
        best = dict(chosen)
        for name in sorted(chosen, key=lambda name: chosen[name].time_ns):
            if chosen[name].time_ns == pivot_ns or name not in later:
                break
            chosen[name] = later[name]
            best = min(best, dict(chosen), key=span)
        # Within that span, the nearest to the pivot.
        end_ns = max(seen.time_ns for seen in best.values())
        for name, seen in later.items():
            if seen.time_ns <= end_ns and seen.time_ns - pivot_ns < pivot_ns - best[name].time_ns:
                best[name] = seen
        return best

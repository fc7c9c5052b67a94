"""Answers requests for frames of one segment, each with the newest one as soon as that is newer than the receiver's.

A frame is encoded once for all receivers of one form. Nothing is read or encoded while no one asks. Zenoh's own threads
are never blocked: a request is answered by a thread of the pool, or by the one that has read the frame, which then does
not have to wake another. In the meantime another can read, because an answer takes as long as its link.
"""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import zenoh

from billiards_shm import (
    BilliardsShmError,
    SegmentNotFoundError,
    SegmentStatus,
    SharedMemoryFrameReader,
    SourceState,
    inspect_segment,
)
from billiards_shm.mirror.complaints import Complaints
from billiards_shm.mirror.forms import Forms, OriginFrame
from billiards_shm.mirror.keys import Origin
from billiards_shm.mirror.wire import LARGEST_PROBE_KIB, Answer, Kind, Request, WireError
from billiards_shm.service.exit_codes import text_of

__all__ = ["SegmentSender", "SenderStatistics"]

IDLE_SEC: Final = 3.0
"""How long after the last request the segment is released."""
LINGER_SEC: Final = 3.0
"""How long requests are answered after the segment is gone. Receivers without a reader ask once a second."""
LONGEST_WAIT_SEC: Final = 0.25
"""Longest sleep of the reading thread."""
READING_THREADS: Final = 2
"""One can read while another is still answering."""
LONGEST_WAIT_MS: Final = 800
"""Longest wait of a request for a frame: Zenoh drops it after a second."""
MOST_PENDING: Final = 256
"""Requests of one segment that wait for a frame."""
MOST_JOBS: Final = 4 * MOST_PENDING
"""Answers of one segment that wait for a thread. Further requests are dropped: the receiver asks again."""
MOST_RATES: Final = 16
"""Rates at which frames are picked for receivers that want fewer."""
LONGEST_HISTORY: Final = 64
"""More frames than any segment can keep."""
_NS_PER_MS: Final = 1_000_000
_NS_PER_SEC: Final = 1_000_000_000

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class SenderStatistics:
    """What one segment's sender has done."""

    frames: int = 0
    """Frames sent."""
    sent_bytes: int = 0
    rejected: int = 0
    """Malformed requests."""
    failed: int = 0
    """Frames that could not be encoded."""


class _Pending(NamedTuple):
    """A request that has not been answered yet."""

    query: zenoh.Query
    request: Request
    received_ns: int
    after: tuple[bytes, int]
    """Generation and number of a frame: only a later one will do. The receiver need not have this one."""

    @property
    def deadline_ns(self) -> int:
        return self.received_ns + min(self.request.wait_ms, LONGEST_WAIT_MS) * _NS_PER_MS


@dataclass(slots=True)
class _Paced:
    """The newest frame of a rate, the same for all receivers that want this rate."""

    newest: OriginFrame | None = None
    due_ns: int = 0

    def offer(self, newest: OriginFrame | None, fps: float) -> None:
        """Take a frame, if one is due."""
        now = time.monotonic_ns()
        if newest is not None and newest is not self.newest and now >= self.due_ns:
            period_ns = round(_NS_PER_SEC / fps)
            self.due_ns = max(self.due_ns + period_ns, now + period_ns // 2)
            self.newest = newest


class SegmentSender:
    """Offers one segment, and answers the requests for its frames.

    Parameters
    ----------
    session : zenoh.Session
    origin : Origin
    pool : concurrent.futures.Executor
        Threads that encode and answer.
    """

    def __init__(self, session: zenoh.Session, origin: Origin, pool: Executor) -> None:
        self.origin = origin
        self.statistics = SenderStatistics()
        self._session = session
        self._pool = pool
        self._jobs = threading.BoundedSemaphore(MOST_JOBS)
        self._changed = threading.Condition()
        self._pending: list[_Pending] = []
        self._newest: OriginFrame | None = None
        self._status = SegmentStatus.DETACHED
        self._state = SourceState.UNKNOWN
        self._reason = ""
        self._clock_error_us = 0
        self._forms = Forms()
        self._paced: dict[float, _Paced] = {}
        self._asked_ns = 0
        self._present_at = 0.0
        self._ended = False
        self._token: zenoh.LivelinessToken | None = None
        self._complain = Complaints(_log)
        self._logged_frames = 0
        self._window_lock = threading.Lock()
        self._window = SharedMemoryFrameReader(origin.segment)
        self._window_generation = b""
        self._reader = SharedMemoryFrameReader(origin.segment)
        self._reads = False
        self._has_newest = False  # while a thread waits for the next one
        self._answers_here = threading.Semaphore(READING_THREADS - 1)
        self._queryable = session.declare_queryable(origin.key, self._receive)
        self._threads = [
            threading.Thread(target=self._read, name=f"read {origin.segment}", daemon=True)
            for _ in range(READING_THREADS)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def encoded(self) -> int:
        """Frames that were encoded, which may be fewer than were sent: receivers share them."""
        return self._forms.encoded

    @property
    def is_spent(self) -> bool:
        """Whether the segment has been gone long enough for all its receivers to ask why."""
        return self._token is None and time.monotonic() - self._present_at > LINGER_SEC

    def update(self) -> bool:
        """Offer the segment if it exists, and withdraw the offer if not; return whether it exists."""
        present = False
        with contextlib.suppress(BilliardsShmError):
            info = inspect_segment(self.origin.segment)
            present = info.status is SegmentStatus.LIVE
            self._clock_error_us = info.link_error_us
        if present and self._token is None:
            self._token = self._session.liveliness().declare_token(self.origin.key)
            _log.info("Offers %s as %s", self.origin.segment, self.origin)
        if present:
            self._present_at = time.monotonic()
        elif self._token is not None:
            _log.info("%s is gone: no longer offered", self.origin.segment)
            self._take_back()
        return present

    def close(self) -> None:
        """Withdraw the offer and end the threads."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        for pending in self._pending:
            self._submit(self._answer_without_frame, pending)
        self._reader.close()
        self._close_window()
        # In this order: a receiver that sees the offer is gone asks once more, and must not wait for an answer then.
        self._queryable.undeclare()
        self._take_back()

    def log_statistics(self) -> None:
        """Log what was sent, if anything was sent since the last time."""
        counts = self.statistics
        if counts.frames != self._logged_frames:
            self._logged_frames = counts.frames
            _log.info(
                "%s: sent %d frames, %.1f MB; encoded %d; refused %d requests; %d frames could not be encoded",
                *(self.origin.segment, counts.frames, counts.sent_bytes / 1e6, self.encoded),
                *(counts.rejected, counts.failed),
            )

    def _take_back(self) -> None:
        if self._token is not None:
            self._token.undeclare()
            self._token = None

    # In a thread of Zenoh, which must not be blocked.

    def _receive(self, query: zenoh.Query) -> None:
        received_ns = time.monotonic_ns()
        try:
            request = Request.unpack(query.payload.to_bytes() if query.payload is not None else b"")
        except WireError as error:
            self.statistics.rejected += 1
            self._complain(f"Refused a request for {self.origin.segment}: {error}")
            self._submit(_refuse, query, str(error))
            return
        pending = _Pending(query, request, received_ns, (request.generation, request.after))
        match request.kind:
            case Kind.CLOCK:
                self._submit(self._answer_clock, pending)
            case Kind.DESCRIPTION:
                self._submit(self._describe, query)
            case _:
                self._take(pending)

    def _take(self, pending: _Pending) -> None:
        """Answer a request, now if there is a frame for it, else when there is one."""
        with self._changed:
            self._asked_ns = time.monotonic_ns()
            newest = self._frame_for(pending) if self._has_newest else None
            if newest is not None:
                self._submit(self._answer, newest, pending)
            elif not self._ended and len(self._pending) < MOST_PENDING:
                self._pending.append(pending)
                if not self._reads:
                    self._changed.notify()
            else:
                self._submit(self._answer_without_frame, pending)

    def _frame_for(self, pending: _Pending) -> OriginFrame | None:
        """The newest frame at the requested rate, if it is one that will do."""
        newest, fps = self._newest, pending.request.fps
        if fps:
            paced = self._paced.setdefault(fps, _Paced())
            paced.offer(newest, fps)
            newest = paced.newest
            while len(self._paced) > MOST_RATES:
                del self._paced[next(iter(self._paced))]
        if newest is None:
            return None
        # Another generation continues the count, or starts at 1 if the segment was removed.
        generation, after = pending.after
        is_news = newest.generation != generation or newest.metadata.sequence > after
        return newest if is_news else None

    def _submit(self, function: Callable[..., None], *arguments: Any) -> None:
        # A request without an answer times out.
        if not self._jobs.acquire(blocking=False):
            self.statistics.rejected += 1
            self._complain(f"Refused a request for {self.origin.segment}: {MOST_JOBS} are being answered")
            return
        try:
            self._pool.submit(self._run, self._jobs, function, *arguments)
        except RuntimeError:  # the pool is closed: the process ends
            self._jobs.release()

    def _run(self, place: threading.Semaphore, function: Callable[..., None], *arguments: Any) -> None:
        """Run a job, and free its place; its errors are logged, because no one waits for its result."""
        try:
            function(*arguments)
        except Exception as error:
            self._complain(f"A request for {self.origin.segment} could not be answered: {error!r}")
            _log.debug("Because of", exc_info=True)
        finally:
            place.release()

    # In the threads that read, one at a time.

    def _read(self) -> None:
        while self._begin_to_read():
            self._read_and_answer()  # its frame is released when it returns

    def _begin_to_read(self) -> bool:
        """Wait for a request while no other thread reads; False if the sender ends."""
        with self._changed:
            while not self._changed.wait_for(self._is_wanted, IDLE_SEC):
                if not self._reads and time.monotonic_ns() - self._asked_ns >= IDLE_SEC * _NS_PER_SEC:
                    self._forget()
            self._reads = not self._ended
            return self._reads

    def _is_wanted(self) -> bool:
        return self._ended or (bool(self._pending) and not self._reads)

    def _forget(self) -> None:
        self._reader.close()
        self._reader = SharedMemoryFrameReader(self.origin.segment)
        self._close_window()
        self._newest = None
        self._forms.clear()
        self._paced.clear()

    def _read_and_answer(self) -> None:
        ready = self._read_once()
        # Never in all of these threads: then no thread would read.
        here = bool(ready) and self._answers_here.acquire(blocking=False)
        for newest, pending in ready[here:]:
            self._submit(self._answer, newest, pending)
        if here:
            self._run(self._answers_here, self._answer, *ready[0])

    def _read_once(self) -> list[tuple[OriginFrame, _Pending]]:
        """Read the newest frame, or wait for it; return the requests to answer with one."""
        ready = self._look(0.0)
        if not ready:
            with self._changed:
                now = time.monotonic_ns()
                seconds = (min((pending.deadline_ns for pending in self._pending), default=now) - now) / _NS_PER_SEC
                self._has_newest = True
            ready = self._look(max(0.0, min(LONGEST_WAIT_SEC, seconds)))
        with self._changed:
            self._reads = self._has_newest = False
            if ready and self._pending:  # this thread answers first
                self._changed.notify()
        return ready

    def _look(self, seconds: float) -> list[tuple[OriginFrame, _Pending]]:
        was_live = self._status is SegmentStatus.LIVE
        try:
            frame, metadata = self._reader.read_frame(timeout=seconds)
            self._status, self._state = self._reader.status, self._reader.source_state
            self._reason = self._reader.source_reason
        except BilliardsShmError as error:
            self._status, self._state, self._reason = SegmentStatus.DETACHED, SourceState.UNKNOWN, str(error)
            frame = metadata = None
            time.sleep(seconds)
        ready, waiting = [], []
        with self._changed:
            if frame is not None and metadata is not None:
                self._newest = OriginFrame(frame, metadata, bytes.fromhex(metadata.generation))
            now = time.monotonic_ns()
            has_ended = was_live and self._status is not SegmentStatus.LIVE  # receivers are told immediately
            for pending in self._pending:
                newest = self._frame_for(pending)
                if newest is not None:
                    ready.append((newest, pending))
                elif has_ended or now >= pending.deadline_ns:
                    self._submit(self._answer_without_frame, pending)
                else:
                    waiting.append(pending)
            self._pending = waiting
        return ready

    # In a thread of the pool, or in one that reads.

    def _answer(self, newest: OriginFrame, pending: _Pending) -> None:
        frame = newest

        def following(after: tuple[bytes, int] = pending.after, /) -> OriginFrame:
            nonlocal frame
            if pending.request.every:
                frame = self._oldest_news(newest, *after)
            return frame

        try:
            encoded = self._forms.encode(newest, pending.request, following)
            passed_over = newest
        except ImportError as error:
            self.statistics.failed += 1
            self._complain(f"Frames of {self.origin.segment} cannot be sent as requested: {text_of(error)}")
            _refuse(pending.query, text_of(error))
            return
        except (ValueError, BilliardsShmError) as error:
            self.statistics.failed += 1
            self._complain(f"Frame {frame.metadata.sequence} of {self.origin.segment} cannot be sent: {error}")
            encoded, passed_over = None, frame
        if encoded is None:
            # A later frame will do. The request stays: its number is that of the last frame that the receiver has.
            self._take(pending._replace(after=(passed_over.generation, passed_over.metadata.sequence)))
            return
        self.statistics.frames += 1
        self.statistics.sent_bytes += encoded.length
        answer = self._make_answer(pending, newest, codec=encoded.codec, encode_us=encoded.took_us)
        with pending.query:
            self._reply(pending, answer, encoded.payload)

    def _oldest_news(self, newest: OriginFrame, generation: bytes, after: int) -> OriginFrame:
        """The first frame after a given one that is still in the window."""
        with self._window_lock, contextlib.suppress(SegmentNotFoundError):
            # Before a frame of it is needed: what is attached can be read after its writer has closed it.
            self._attach_window(newest.generation)
            if newest.generation != generation or newest.metadata.sequence == after + 1:
                return newest
            first = max(after + 1, newest.metadata.sequence - LONGEST_HISTORY)
            for number in range(first, newest.metadata.sequence):
                frame, metadata = self._window.read_frame(sequence=number, copy=True)
                if frame is not None and metadata is not None and metadata.generation == newest.metadata.generation:
                    return OriginFrame(frame, metadata, newest.generation)
        return newest

    def _attach_window(self, generation: bytes) -> None:
        """Attach the window's reader to the segment, unless it is attached to that generation of it."""
        if self._window_generation != generation:
            self._window.close()
            self._window = SharedMemoryFrameReader(self.origin.segment)
            self._window.attach(0.0)
            self._window_generation = generation

    def _close_window(self) -> None:
        with self._window_lock:
            self._window.close()
            self._window_generation = b""

    def _answer_clock(self, pending: _Pending) -> None:
        self._answer_without_frame(pending, bytes(min(pending.request.width, LARGEST_PROBE_KIB) << 10))

    def _answer_without_frame(self, pending: _Pending, payload: bytes = b"") -> None:
        with pending.query:
            self._reply(pending, self._make_answer(pending, self._newest), payload)

    def _make_answer(self, pending: _Pending, newest: OriginFrame | None, **more: Any) -> Answer:
        return Answer(
            nonce=pending.request.nonce,
            received_ns=pending.received_ns,
            sent_ns=time.monotonic_ns(),
            status=self._status,
            state=self._state,
            reason=self._reason,
            clock_error_us=self._clock_error_us,
            generation=bytes(16) if newest is None else newest.generation,
            sequence=0 if newest is None else newest.metadata.sequence,
            **more,
        )

    def _reply(self, pending: _Pending, answer: Answer, payload: zenoh.ZBytes | bytes = b"") -> None:
        # A link that is lost in the meantime is not the sender's error.
        with contextlib.suppress(zenoh.ZError):
            pending.query.reply(self.origin.key, payload, attachment=answer.pack(), express=True)

    def _describe(self, query: zenoh.Query) -> None:
        with query:
            found: dict[str, Any] = {}
            with contextlib.suppress(BilliardsShmError):
                info = inspect_segment(self.origin.segment)
                found |= {
                    "status": str(info.status),
                    "state": str(info.source_state),
                    "pixel_format": info.pixel_format,
                    "width": info.width,
                    "height": info.height,
                    "fps": info.fps,
                    "frame_age": info.last_frame_age,
                }
            with contextlib.suppress(zenoh.ZError):
                query.reply(self.origin.key, json.dumps(found), express=True)


def _refuse(query: zenoh.Query, reason: str) -> None:
    with query, contextlib.suppress(zenoh.ZError):
        query.reply_err(reason)

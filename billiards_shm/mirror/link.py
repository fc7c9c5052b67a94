"""The link to the host of a segment: requests and answers, one at a time, and the time at that host."""

import contextlib
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any, Final

import zenoh

from billiards_shm.capture.stats import CaptureStatistics
from billiards_shm.mirror.choice import CodecChoice
from billiards_shm.mirror.clock import RemoteClock
from billiards_shm.mirror.complaints import Complaints
from billiards_shm.mirror.keys import Origin
from billiards_shm.mirror.wire import (
    LARGEST_ANSWER_BYTES,
    Answer,
    Kind,
    Request,
    SentFrame,
    WireError,
    unpack_frames,
)

__all__ = ["Link"]

GET_TIMEOUT_SEC: Final = 1.0
"""How long an answer may take at first; a sender that has no frame says so before that."""
LONGEST_TIMEOUT_SEC: Final = 30.0
"""How long one may take over a slow link: the time is doubled with each request that is not answered in time."""
SPARE: Final = 2.0
"""After an answer that took longer than at first allowed, the next may take so many times as long."""
CHECK_SEC: Final = 0.02
"""How often to look for an answer that may take longer than usual."""
FIRST_TRIPS: Final = 5
"""Round trips that measure the clock before the first frame."""
TRIP_INTERVAL_NS: Final = 1_000_000_000
PROBE_TRIPS: Final = 10
"""Where frames are too small to show how fast the link is, the first of so many round trips measures it."""
MOST_ANSWERS_WAITING: Final = 4
"""Answers to one request. There is only one, unless other hosts answer, too."""

_log = logging.getLogger(__name__)


class Link:
    """Asks the host of one segment, and follows its clock. Answers from other hosts are refused and counted.

    Parameters
    ----------
    session : zenoh.Session
    origin : Origin
    statistics : CaptureStatistics
        Counts what arrives.
    cancellation : zenoh.CancellationToken
        Ends a waiting request.
    pause : callable
        Called again and again while an answer takes long: it waits so many seconds, and returns whether to stop.
    """

    def __init__(
        self,
        session: zenoh.Session,
        origin: Origin,
        statistics: CaptureStatistics,
        cancellation: zenoh.CancellationToken,
        pause: Callable[[float], bool],
    ) -> None:
        self.origin = origin
        self.clock = RemoteClock()
        self._session = session
        self._statistics = statistics
        self._cancellation = cancellation
        self._pause = pause
        self._timeout_sec = GET_TIMEOUT_SEC
        self._complain = Complaints(_log)
        self._sender: str | None = None
        self._next_trip_ns = 0
        self._trips = 0

    def forget_sender(self) -> None:
        """Accept the next host that answers: the current one is lost."""
        self._sender = None

    def ask(self, request: Request) -> tuple[Answer, list[SentFrame], int] | None:
        """The answer to a request, its frames, and when it arrived; None if there is no answer that can be trusted."""
        asked_ns = time.monotonic_ns()
        try:
            replies = self._send(request)
        except zenoh.ZError:  # a stop is requested
            return None
        while (reply := self._next(replies)) is not None:
            arrived_ns = time.monotonic_ns()
            if _is_timeout(reply):
                # It may still be on its way. The next one then has to wait for its bytes, too.
                self._timeout_sec = min(2 * self._timeout_sec, LONGEST_TIMEOUT_SEC)
                continue
            try:
                answer, frames = self._read(reply, request)
            except WireError as error:
                self._statistics.rejected += 1
                self._statistics.unreadable += 1
                self._complain(f"Refused an answer for {self.origin} of {reply.replier_id}: {error}")
                continue
            took_sec = (arrived_ns - asked_ns) / 1e9
            is_slow = took_sec > GET_TIMEOUT_SEC
            self._timeout_sec = min(SPARE * took_sec, LONGEST_TIMEOUT_SEC) if is_slow else GET_TIMEOUT_SEC
            return answer, frames, arrived_ns
        return None

    def _next(self, replies: Any) -> zenoh.Reply | None:
        """Wait for the next reply; None if there are no more, or a stop is requested."""
        reply: zenoh.Reply | None = None
        with contextlib.suppress(zenoh.ZError):
            if self._timeout_sec <= GET_TIMEOUT_SEC:
                reply = replies.recv()
            else:
                while (reply := replies.try_recv()) is None and not self._pause(CHECK_SEC):
                    pass
        return reply

    def _send(self, request: Request, **more: Any) -> Any:
        return self._session.get(
            self.origin.key,
            payload=request.pack(),
            timeout=self._timeout_sec,
            # Ask everyone who answers for this key. Otherwise one that claims to have everything is asked alone.
            target=zenoh.QueryTarget.ALL,
            consolidation=zenoh.ConsolidationMode.NONE,
            express=True,
            cancellation_token=self._cancellation,
            **{"handler": zenoh.handlers.FifoChannel(MOST_ANSWERS_WAITING), **more},
        )

    def _read(self, reply: zenoh.Reply, request: Request) -> tuple[Answer, list[SentFrame]]:
        sample = reply.ok
        if sample is None:
            assert reply.err is not None
            raise WireError(f"it refused the request: {reply.err.payload.to_bytes()[:200].decode(errors='replace')}")
        if sample.attachment is None or len(sample.payload) > LARGEST_ANSWER_BYTES:
            raise WireError(f"{len(sample.payload)} bytes that are not an answer")
        answer = Answer.unpack(sample.attachment.to_bytes())
        if answer.nonce != request.nonce:
            raise WireError("it answers another request")
        # Only the host that has answered so far counts, until it is lost.
        sender = str(reply.replier_id.zid) if reply.replier_id is not None else ""
        if self._sender not in (None, sender):
            raise WireError(f"it is not from {self._sender}, which has answered so far")
        self._sender = sender
        payload = sample.payload.to_bytes()
        self._statistics.link_bytes += len(payload)
        frames = unpack_frames(payload) if request.kind is Kind.FRAMES else []
        if frames and answer.generation == request.generation and frames[0].header.sequence <= request.after:
            raise WireError(f"frame {frames[0].header.sequence}, which is not newer than {request.after}")
        return answer, frames

    def keep_time(self, choice: CodecChoice) -> None:
        """Measure the other host's clock: several times before the first frame, then once a second, next to the frames.

        Where the choice of the codec needs it, the link is measured along the way.
        """
        if not self.clock.known:
            for _ in range(FIRST_TRIPS):
                if not self._measure_trip():
                    return
        elif time.monotonic_ns() >= self._next_trip_ns:
            self._statistics.link_age_us = round(self._statistics.age_ms(0.5)[0] * 1000)
            self._start_trip(choice)

    def _measure_trip(self) -> bool:
        """Measure a round trip; False if no answer arrived."""
        request = Request(Kind.CLOCK, nonce=secrets.randbits(64))
        sent_ns = time.monotonic_ns()
        found = self.ask(request)
        if found is not None:
            answer, _, arrived_ns = found
            self._trip_ended(sent_ns, answer, arrived_ns)
        return found is not None

    def _start_trip(self, choice: CodecChoice) -> None:
        self._next_trip_ns = time.monotonic_ns() + TRIP_INTERVAL_NS
        self._trips += 1
        probe = choice.probe_kib if self._trips % PROBE_TRIPS == 1 else 0
        request = Request(Kind.CLOCK, nonce=secrets.randbits(64), width=probe)
        sent_ns = time.monotonic_ns()

        def came(reply: zenoh.Reply) -> None:
            arrived_ns = time.monotonic_ns()
            with contextlib.suppress(WireError):
                answer, _ = self._read(reply, request)
                if probe:
                    trip_ns = (arrived_ns - sent_ns) - (answer.sent_ns - answer.received_ns)
                    choice.add_probe(probe << 10, trip_ns - self.clock.round_trip_ns)
                else:
                    self._trip_ended(sent_ns, answer, arrived_ns)

        with contextlib.suppress(zenoh.ZError):
            self._send(request, handler=came, priority=zenoh.Priority.REAL_TIME)

    def _trip_ended(self, sent_ns: int, answer: Answer, arrived_ns: int) -> None:
        self.clock.add(sent_ns, answer.received_ns, answer.sent_ns, arrived_ns)
        self._statistics.link_error_us = self.clock.error_ns(arrived_ns) // 1000 + answer.clock_error_us
        self._statistics.link_trip_us = self.clock.round_trip_ns // 1000


def _is_timeout(reply: zenoh.Reply) -> bool:
    """Whether it is Zenoh that says so, and no host."""
    return reply.err is not None and reply.err.payload.to_bytes() == b"Timeout"

"""Limits of HTTP connections: their number, the size of requests, and the time to send them."""

import asyncio
import logging
import time
from typing import ClassVar, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

__all__ = ["LimitedProtocol", "LogLimit", "allowed_connections"]

_log = logging.getLogger(__name__)

MAX_HEAD_BYTES: Final = 16 * 1024
"""Request line and headers."""

MAX_BODY_BYTES: Final = 64 * 1024
"""No request of this server needs more than the form of the login page."""

MAX_WAITING_REQUESTS: Final = 16
"""Requests that a client may send before the previous answer is complete."""

REQUEST_TIMEOUT_S: Final = 10.0
"""Time from the connection, or the first byte of a further request, to the end of the headers; then for the body."""

# How much larger a body may be in transit, in the smallest chunks.
_CHUNKED: Final = 8
# How much a refused client may still send before it has read the answer.
_REFUSED_S: Final = 1.0
_REFUSED_BYTES: Final = 1 << 20

_SHORT_CONNECTIONS: Final = 1000
_DESCRIPTORS: Final = 65536
# For segments, and for connections that are accepted before the first of them is handled.
_RESERVED_DESCRIPTORS: Final = 128
_LOG_INTERVAL_S: Final = 60.0


def allowed_connections(max_clients: int) -> int:
    """Raise this process's soft limit of descriptors, and return the number of connections to allow."""
    wanted = max_clients + _SHORT_CONNECTIONS
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _DESCRIPTORS:
        soft = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(soft - _RESERVED_DESCRIPTORS, soft // 2))


class LimitedProtocol(HttpToolsProtocol):
    """HTTP with limits. A frame is chosen only when the kernel has taken all of the previous one."""

    connection_limit: ClassVar[int] = _SHORT_CONNECTIONS

    waiting_since: float | None = None
    """Since when no request has been waiting for an answer, by the loop's clock; None: one is."""

    # The request being answered. uvicorn's `cycle` is the last one received, which may wait for it.
    _answered: RequestResponseCycle | None = None
    _timer: asyncio.TimerHandle | None = None
    _in_head = False
    _head_bytes = 0
    _body_bytes = 0
    _raw_body_bytes = 0
    _refused = False
    _discarded_bytes = 0

    @classmethod
    def with_limit(cls, connections: int) -> "type[LimitedProtocol]":
        """Return this class with another connection limit."""
        return type(cls.__name__, (cls,), {"connection_limit": connections})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, and close another if there are too many."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)
        self._await_head()
        if len(self.connections) > self.connection_limit:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timer, and tell the request being answered."""
        self._stop_timer()
        self._disconnect_answered()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received data, and refuse headers that are too large."""
        if self._refused:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > _REFUSED_BYTES:
                self.transport.abort()
            return
        was_in_head = self._in_head
        super().data_received(data)
        # The parser only reports complete headers.
        if was_in_head and self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431)
        elif self._timer is not None:
            # Chunk sizes and headers after a body count, too.
            self._raw_body_bytes += len(data)
            if self._raw_body_bytes > _CHUNKED * MAX_BODY_BYTES:
                self._refuse(413)

    def on_message_begin(self) -> None:
        """Start to measure the size and time of a request."""
        super().on_message_begin()
        self._head_bytes = self._body_bytes = self._raw_body_bytes = 0
        if not self._in_head and not self._refused:
            self._await_head()

    def on_headers_complete(self) -> None:
        """Start to answer, unless the request is or will be too large."""
        if self._refused:
            return
        self._in_head = False
        self._stop_timer()
        self.waiting_since = None
        size = len(self.url) + sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)
        length = next((value for name, value in self.headers if name == b"content-length"), b"0")
        if size > MAX_HEAD_BYTES:
            self._refuse(431)
        elif int(length) > MAX_BODY_BYTES:
            self._refuse(413)
        elif len(self.pipeline) >= MAX_WAITING_REQUESTS:
            self.transport.abort()
        else:
            waits = self._answered is not None and not self._answered.response_complete
            super().on_headers_complete()
            if waits:
                # uvicorn would read nothing until the previous answer is complete, and miss the end of the connection.
                self.flow.resume_reading()
            else:
                self._answered = self.cycle
            if int(length) or any(name == b"transfer-encoding" for name, _ in self.headers):
                self._start_timer()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to the WebSocket protocol."""
        if self._answered is not None and not self._answered.response_complete:
            # The answer would continue between the messages, and not notice the end of the connection.
            self.transport.abort()
        elif not self._refused:
            self._stop_timer()
            super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Answer data that is not HTTP."""
        if not self._refused:
            super().send_400_response(msg)

    def on_body(self, body: bytes) -> None:
        """Limit a body of unannounced length."""
        self._body_bytes += len(body)
        if self._body_bytes > MAX_BODY_BYTES and not self._refused:
            self._refuse(413)
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        if self._refused:
            return
        if self._timer is not None:
            self._stop_timer()
            self.waiting_since = self.loop.time() if self.cycle.response_complete else None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Continue with the next request, or start waiting for one."""
        if self.pipeline:
            self._answered = self.pipeline[-1][0]
        super().on_response_complete()
        if self.cycle.response_complete:
            self.waiting_since = self.loop.time()

    def _await_head(self) -> None:
        self._in_head = True
        self._start_timer()

    def _start_timer(self) -> None:
        self._stop_timer()
        self.waiting_since = self.loop.time()
        self._timer = self.loop.call_later(REQUEST_TIMEOUT_S, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _make_room(self) -> None:
        """Close the connection that has been idle the longest, or refuse this one."""
        _log.warning("%d connections are open, which is the limit: closing idle ones", self.connection_limit)
        idle = [
            connection
            for connection in self.connections
            if isinstance(connection, LimitedProtocol) and connection.waiting_since is not None
        ]
        oldest = min(idle, key=lambda connection: connection.waiting_since or 0.0)
        if oldest is self:
            self._refuse(503)
        else:
            self.connections.discard(oldest)
            oldest.transport.abort()

    def _disconnect_answered(self) -> bool:
        """Tell the request being answered that its client is gone; True: its answer has begun."""
        cycle = self._answered
        if cycle is None or cycle.response_complete:
            return False
        cycle.disconnected = True
        cycle.message_event.set()
        return cycle.response_started

    def _refuse(self, status: int) -> None:
        """Answer without the application, and read no more."""
        self._refused = True
        self._in_head = False
        self._stop_timer()
        self.waiting_since = self.loop.time()
        if self._disconnect_answered():
            self.transport.abort()
            return
        self.transport.write(STATUS_LINE[status] + b"content-length: 0\r\nconnection: close\r\n\r\n")
        # Anything more from the client is read and discarded. Otherwise a reset could overtake the answer.
        self.transport.write_eof()
        self.loop.call_later(_REFUSED_S, self.transport.abort)


class LogLimit(logging.Filter):
    """Logs one kind of problem from one line of code a few times per minute; otherwise clients could fill the disk.

    Parameters
    ----------
    lines : int
        How many times.
    """

    def __init__(self, lines: int = 1) -> None:
        super().__init__()
        self._lines = lines
        self._passed: dict[tuple[str, int, type[BaseException] | None], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log this record. The first one of a minute says how many were suppressed."""
        kind = record.exc_info[0] if record.exc_info else None
        key = record.pathname, record.lineno, kind
        now = time.monotonic()
        began, count = self._passed.get(key, (-_LOG_INTERVAL_S, 0))
        if now - began < _LOG_INTERVAL_S:
            self._passed[key] = began, count + 1
            return count < self._lines
        self._passed[key] = now, 1
        if count > self._lines:
            record.msg = f"{record.getMessage()} (and {count - self._lines} more in the last {now - began:.0f} s)"
            record.args = ()
        return True

"""Streams: MJPEG, JPEG over WebSocket with back-pressure, statistics as server-sent events."""

import asyncio
import contextlib
import json
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from billiards_shm.serve.clients import Client, Clients, TooManyClientsError
from billiards_shm.serve.feed import BOUNDARY, Feed, JpegFrame, PreviewFormat, capture_wall_ns

__all__ = ["EventStream", "MjpegStream", "RateLimit", "close_websocket", "send_over_websocket"]

FIRST_FRAME_S: Final = 0.5
"""How long an MJPEG response waits before it sends its status, which depends on whether a frame can be encoded."""

# The second tells nginx not to buffer; otherwise it would hold back frames and events, to send many at a time.
_NO_BUFFERING: Final = ((b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))
_TRY_AGAIN_LATER: Final = 1013
_GOING_AWAY: Final = 1001
_UNSUPPORTED: Final = 1003

# In front of each JPEG on a WebSocket: sequence, capture time (ms since 1970), age when sent and last round trip (ms).
_FRAME_HEADER: Final = struct.Struct("!4d")


class RateLimit:
    """Limits a client to the frames per second it asked for."""

    def __init__(self, fps: float | None) -> None:
        self._interval = 0.0 if fps is None else 1 / fps
        self._due = 0.0

    async def wait(self) -> None:
        """Wait until the next frame is due."""
        if not self._interval:
            return
        now = time.monotonic()
        if self._due > now:
            await asyncio.sleep(self._due - now)
        # A little early: after a frame that is just missed, the next one arrives a whole interval of the source later.
        self._due = max(self._due + self._interval, now + self._interval * 0.9)


class _StreamingResponse(Response):
    """A response without an end: it lasts until the client leaves or the server stops."""

    def __init__(self, clients: Clients, kind: str, name: str) -> None:
        super().__init__()
        self._clients = clients
        self._kind = kind
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await send({"type": "http.response.start", "status": 200, "headers": self._head()})
            await send({"type": "http.response.body"})
            return
        address = scope["client"][0] if scope.get("client") else ""
        started = False

        async def send_noted(message: Message) -> None:
            nonlocal started
            await send(message)
            started = True

        try:
            with self._clients.join(self._kind, self._name, address) as client:
                await self._clients.serve(client, self._stream(client, send_noted), _wait_for_disconnect(receive))
        except TooManyClientsError as error:
            await _refusal(str(error))(scope, receive, send)
        except ValueError as error:
            await JSONResponse({"detail": str(error)}, 415)(scope, receive, send)
        else:
            with contextlib.suppress(OSError):
                if started:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                else:
                    await _refusal("the stream ended before it had a frame")(scope, receive, send)

    def _head(self) -> list[tuple[bytes, bytes]]:
        raise NotImplementedError

    async def _stream(self, client: Client, send: Send) -> None:
        raise NotImplementedError


def _refusal(why: str) -> Response:
    return JSONResponse({"detail": why}, 503, {"Retry-After": "5"})


async def _wait_for_disconnect(receive: Receive) -> None:
    """Wait until the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass


class MjpegStream(_StreamingResponse):
    """JPEGs as ``multipart/x-mixed-replace``, which browsers show as they arrive.

    Parameters
    ----------
    feed : Feed
    preview : PreviewFormat
    fps : float or None
        Frames per second at most; None: all frames.
    clients : Clients
    """

    def __init__(self, feed: Feed, preview: PreviewFormat, fps: float | None, clients: Clients) -> None:
        super().__init__(clients, "mjpeg", feed.name)
        self._feed = feed
        self._preview = preview
        self._rate_limit = RateLimit(fps)

    def _head(self) -> list[tuple[bytes, bytes]]:
        return [(b"content-type", b"multipart/x-mixed-replace; boundary=" + BOUNDARY), *_NO_BUFFERING]

    async def _stream(self, client: Client, send: Send) -> None:
        with self._feed.subscribed(self._preview) as preview:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_FRAME_S):  # Python 3.11's wait_for can lose a cancellation
                    await self._feed.newest_frame(preview)
            await send({"type": "http.response.start", "status": 200, "headers": self._head()})
            await send(_body_chunk(b"--" + BOUNDARY + b"\r\n"))
            while True:
                await self._rate_limit.wait()
                # Returns once the last frame has been sent. Only then is the next one chosen.
                await send(_body_chunk(b""))
                try:
                    frame = await self._feed.newest_frame(preview, client.serial)
                except ValueError:  # not a frame that can be an image; it is too late for another status
                    return
                await send(_body_chunk(frame.part))
                client.sent(frame, len(frame.part))


def _body_chunk(body: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": True}


class EventStream(_StreamingResponse):
    """Statistics as server-sent events, one per interval.

    Parameters
    ----------
    events : callable
        Returns the data of the next event, for JSON.
    interval : float
        Seconds.
    clients : Clients
    """

    def __init__(self, events: Callable[[], Awaitable[Any]], interval: float, clients: Clients) -> None:
        super().__init__(clients, "events", "")
        self._events = events
        self._interval = interval

    def _head(self) -> list[tuple[bytes, bytes]]:
        return [(b"content-type", b"text/event-stream; charset=utf-8"), *_NO_BUFFERING]

    async def _stream(self, client: Client, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._head()})
        async for text in self._texts():
            body = text.encode()
            await send(_body_chunk(body))
            client.bytes_sent += len(body)

    async def _texts(self) -> AsyncIterator[str]:
        yield "retry: 1000\n\n"
        while True:
            yield f"event: segments\ndata: {json.dumps(await self._events(), allow_nan=False)}\n\n"
            await asyncio.sleep(self._interval)


async def send_over_websocket(
    socket: WebSocket, feed: Feed, preview: PreviewFormat, fps: float | None, window: int, clients: Clients
) -> None:
    """Send each frame as one binary message: a header of four doubles (big endian), then the JPEG.

    The client acknowledges each frame with a message of any content. At most `window` frames are sent without
    acknowledgement, so no buffer on the way fills with frames that the client cannot take in time.

    Parameters
    ----------
    socket : starlette.websockets.WebSocket
        Not yet accepted.
    feed : Feed
    preview : PreviewFormat
    fps : float or None
        Frames per second at most.
    window : int
        Most frames sent and not acknowledged.
    clients : Clients
    """
    await socket.accept()
    address = socket.client.host if socket.client is not None else ""
    send_window = _SendWindow(window)
    code, reason = _GOING_AWAY, "the server stops"
    try:
        with clients.join("websocket", feed.name, address) as client, feed.subscribed(preview) as available:
            await clients.serve(
                client,
                _send_frames(socket, feed, available, RateLimit(fps), send_window, client),
                _receive_acknowledgements(socket, send_window),
            )
            if client.dismissed.is_set():
                code, reason = _TRY_AGAIN_LATER, "another client needs this place"
    except TooManyClientsError as error:
        code, reason = _TRY_AGAIN_LATER, str(error)
    except ValueError as error:
        code, reason = _UNSUPPORTED, str(error)
    except (WebSocketDisconnect, OSError):
        return
    await close_websocket(socket, code, reason)


async def close_websocket(socket: WebSocket, code: int, reason: str) -> None:
    """Close it, unless the client has left. A close message has room for 123 bytes of the reason."""
    with contextlib.suppress(RuntimeError, OSError, WebSocketDisconnect):
        await socket.close(code, reason.encode()[:123].decode(errors="ignore"))


class _SendWindow:
    """Frames that were sent and not acknowledged yet."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._sent: deque[float] = deque()
        self._room = asyncio.Event()
        self._room.set()
        self.round_trip_s = 0.0

    async def room(self) -> None:
        """Wait until another frame may be sent."""
        await self._room.wait()

    def sent(self) -> None:
        """Count a frame."""
        self._sent.append(time.monotonic())
        if len(self._sent) >= self._window:
            self._room.clear()

    def acknowledged(self) -> None:
        """Count an acknowledgement. One without a frame has no effect."""
        if self._sent:
            self.round_trip_s = time.monotonic() - self._sent.popleft()
            self._room.set()


async def _send_frames(
    socket: WebSocket,
    feed: Feed,
    preview: PreviewFormat,
    rate_limit: RateLimit,
    send_window: _SendWindow,
    client: Client,
) -> None:
    while True:
        await send_window.room()
        await rate_limit.wait()
        frame = await feed.newest_frame(preview, client.serial)
        message = _message(frame, send_window.round_trip_s)
        send_window.sent()
        try:
            await socket.send_bytes(message)
        except RuntimeError:  # uvicorn has answered the client's close, but the application does not know yet
            raise WebSocketDisconnect from None
        client.sent(frame, len(message))


def _message(frame: JpegFrame, round_trip_s: float) -> bytes:
    captured_ms = capture_wall_ns(frame.metadata) / 1e6
    header = _FRAME_HEADER.pack(frame.metadata.sequence, captured_ms, frame.age_s * 1e3, round_trip_s * 1e3)
    return header + frame.jpeg


async def _receive_acknowledgements(socket: WebSocket, send_window: _SendWindow) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        send_window.acknowledged()
    raise WebSocketDisconnect

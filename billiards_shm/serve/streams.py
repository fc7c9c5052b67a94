"""What lasts: MJPEG, JPEG over WebSocket with back-pressure, statistics as server-sent events."""

import asyncio
import contextlib
import json
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from billiards_shm.serve.clients import Client, Clients, TooManyClientsError
from billiards_shm.serve.feed import BOUNDARY, EncodedFrame, Feed, PreviewFormat, capture_wall_ns

__all__ = ["EventStream", "MjpegStream", "RateLimit", "send_over_websocket"]

FIRST_PICTURE_S: Final = 0.5
"""An MJPEG response waits so long with its status, for a frame that cannot be encoded to show."""

# The second tells nginx, which would keep pictures and events back to send many at once.
_NO_BUFFERS: Final = ((b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))
_TRY_AGAIN_LATER: Final = 1013
_GOING_AWAY: Final = 1001
_UNSUPPORTED: Final = 1003

# In front of each JPEG on a WebSocket: sequence, capture time (ms since 1970), age when sent and last round trip (ms).
_FRAME_HEADER: Final = struct.Struct("!4d")


class RateLimit:
    """Holds a client to so many frames per second as it asked for."""

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
        # A little early: frames come in the source's own rhythm, and one that is just missed is missed for long.
        self._due = max(self._due + self._interval, now + self._interval * 0.9)


class _StreamingResponse(Response):
    """A response that goes on until its client or the server ends it."""

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
        try:
            with self._clients.join(self._kind, self._name, address) as client:
                await self._clients.serve(self._stream(client, send), _wait_for_disconnect(receive))
        except TooManyClientsError as error:
            refusal = JSONResponse({"detail": str(error)}, 503, {"Retry-After": "5"})
            await refusal(scope, receive, send)
        except ValueError as error:
            await JSONResponse({"detail": str(error)}, 415)(scope, receive, send)
        else:
            with contextlib.suppress(OSError):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _head(self) -> list[tuple[bytes, bytes]]:
        raise NotImplementedError

    async def _stream(self, client: Client, send: Send) -> None:
        raise NotImplementedError


async def _wait_for_disconnect(receive: Receive) -> None:
    """Wait until the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


class MjpegStream(_StreamingResponse):
    """Pictures as ``multipart/x-mixed-replace``, which browsers show as they come.

    Parameters
    ----------
    feed : Feed
    form : PreviewFormat
    fps : float or None
        At most; None: all there are.
    clients : Clients
    """

    def __init__(self, feed: Feed, form: PreviewFormat, fps: float | None, clients: Clients) -> None:
        super().__init__(clients, "mjpeg", feed.name)
        self._feed = feed
        self._form = form
        self._pace = RateLimit(fps)

    def _head(self) -> list[tuple[bytes, bytes]]:
        return [(b"content-type", b"multipart/x-mixed-replace; boundary=" + BOUNDARY), *_NO_BUFFERS]

    async def _stream(self, client: Client, send: Send) -> None:
        with self._feed.subscribed(self._form) as form:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_PICTURE_S):  # Python 3.11's wait_for can lose a cancellation
                    await self._feed.picture(form)
            await send({"type": "http.response.start", "status": 200, "headers": self._head()})
            await send(_body_chunk(b"--" + BOUNDARY + b"\r\n"))
            while True:
                await self._pace.wait()
                # Waits until the last picture has left: the next one is chosen only then.
                await send(_body_chunk(b""))
                try:
                    picture = await self._feed.picture(form, client.serial)
                except ValueError:  # a frame of a kind that is no image; too late for another status
                    return
                await send(_body_chunk(picture.part))
                client.sent(picture, len(picture.part))


def _body_chunk(body: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": True}


class EventStream(_StreamingResponse):
    """Statistics as server-sent events, one each interval.

    Parameters
    ----------
    events : callable
        Gives the next event's data, an object for JSON.
    interval : float
        Seconds.
    clients : Clients
    """

    def __init__(self, events: Callable[[], Awaitable[Any]], interval: float, clients: Clients) -> None:
        super().__init__(clients, "events", "")
        self._events = events
        self._interval = interval

    def _head(self) -> list[tuple[bytes, bytes]]:
        return [(b"content-type", b"text/event-stream; charset=utf-8"), *_NO_BUFFERS]

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
    socket: WebSocket, feed: Feed, form: PreviewFormat, fps: float | None, window: int, clients: Clients
) -> None:
    """Send each picture as one binary message, a header of four doubles (big endian) and the JPEG.

    The client answers each with a message of any content. No more than `window` are under way at a time: what the
    client cannot take is never sent, in whatever buffer there may be between.

    Parameters
    ----------
    socket : starlette.websockets.WebSocket
        Not yet accepted.
    feed : Feed
    form : PreviewFormat
    fps : float or None
        At most.
    window : int
        Pictures under way.
    clients : Clients
    """
    await socket.accept()
    address = socket.client.host if socket.client is not None else ""
    unacknowledged = _SendWindow(window)
    code, reason = _GOING_AWAY, "the server stops"
    try:
        with clients.join("websocket", feed.name, address) as client, feed.subscribed(form) as served_form:
            await clients.serve(
                _send_pictures(socket, feed, served_form, RateLimit(fps), unacknowledged, client),
                _take_answers(socket, unacknowledged),
            )
    except TooManyClientsError as error:
        code, reason = _TRY_AGAIN_LATER, str(error)
    except ValueError as error:
        code, reason = _UNSUPPORTED, str(error)
    except (WebSocketDisconnect, OSError):
        return
    # The reason of a close frame has 123 bytes at most.
    with contextlib.suppress(RuntimeError, OSError):
        await socket.close(code, reason.encode()[:120].decode(errors="ignore"))


class _SendWindow:
    """Pictures that were sent and are not answered yet."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._sent: deque[float] = deque()
        self._room = asyncio.Event()
        self._room.set()
        self.round_trip_s = 0.0

    async def room(self) -> None:
        """Wait until another may be sent."""
        await self._room.wait()

    def add(self) -> None:
        self._sent.append(time.monotonic())
        if len(self._sent) >= self._window:
            self._room.clear()

    def answered(self) -> None:
        """Take an answer; one to nothing gives no credit."""
        if self._sent:
            self.round_trip_s = time.monotonic() - self._sent.popleft()
            self._room.set()


async def _send_pictures(
    socket: WebSocket,
    feed: Feed,
    form: PreviewFormat,
    rate_limit: RateLimit,
    unacknowledged: _SendWindow,
    client: Client,
) -> None:
    while True:
        await unacknowledged.room()
        await rate_limit.wait()
        picture = await feed.picture(form, client.serial)
        message = _message(picture, unacknowledged.round_trip_s)
        unacknowledged.add()
        await socket.send_bytes(message)
        client.sent(picture, len(message))


def _message(picture: EncodedFrame, round_trip_s: float) -> bytes:
    captured_ms = capture_wall_ns(picture.metadata) / 1e6
    header = _FRAME_HEADER.pack(picture.metadata.sequence, captured_ms, picture.age_s * 1e3, round_trip_s * 1e3)
    return header + picture.jpeg


async def _take_answers(socket: WebSocket, unacknowledged: _SendWindow) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        unacknowledged.answered()
    raise WebSocketDisconnect

"""The application: which address gives what."""

import asyncio
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from typing import Annotated, Any, Final, Literal, TypeVar

from fastapi import FastAPI, HTTPException, Path, Query, Request, Response, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse

from billiards_shm import BilliardsShmError, SegmentNotFoundError, SharedMemoryFrameReader, inspect_segment
from billiards_shm.images import encode_image, encode_preview
from billiards_shm.monitor.health import LOOK_INTERVAL_S, HealthMonitor, SegmentHealth
from billiards_shm.serve.access import Access, Guard
from billiards_shm.serve.clients import Clients
from billiards_shm.serve.feed import Feed, PreviewFormat, capture_wall_ns
from billiards_shm.serve.metrics import ServerMetrics
from billiards_shm.serve.streams import EventStream, MjpegStream, send_over_websocket

__all__ = ["create_app"]

DEFAULT_QUALITY: Final = 80
_WAITING_SNAPSHOTS: Final = 8
_ASSETS: Final = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "plot.js": "text/javascript",
    "stream.js": "text/javascript",
}

_Result = TypeVar("_Result")

Name = Annotated[str, Path(description="Of the segment", max_length=4096)]
Fps = Annotated[
    float | None, Query(gt=0, le=240, allow_inf_nan=False, description="At most so many frames a second; else all")
]
Quality = Annotated[int, Query(ge=1, le=95, description="Of the JPEG")]
Width = Annotated[int | None, Query(ge=16, le=7680, description="Made smaller if wider than so many pixels")]
Interval = Annotated[float, Query(ge=0.2, le=60, allow_inf_nan=False, description="Seconds between events")]
Window = Annotated[int, Query(ge=1, le=16, description="Frames sent ahead of the client's answers")]


def create_app(
    names: Sequence[str] | None = None,
    *,
    token: str | None = None,
    max_clients: int = 64,
    max_frame_age: float = 3.0,
    allowed_hosts: Iterable[str] | None = None,
    trusted_owners: Iterable[int | str] | None = None,
) -> FastAPI:
    """Make the application, to be served by itself or mounted in another.

    Parameters
    ----------
    names : sequence of str, optional
        Segments to show, by name or path; None: every one of this machine, also those that appear later.
    token : str, optional
        What a client has to know for everything but ``/healthz``.
    max_clients : int
        Streams, WebSockets and event streams at a time.
    max_frame_age : float
        Seconds; a segment whose newest captured frame is older is not well.
    allowed_hosts : iterable of str, optional
        Names that requests may be addressed to, besides addresses, `localhost` and the machine's own; None: any, which
        is for applications that see to it themselves. With a token it does not matter.
    trusted_owners : iterable, optional
        As for a reader.

    Returns
    -------
    fastapi.FastAPI
        Needs no lifespan, which mounted applications do not get: it reads a segment while somebody watches.

    Raises
    ------
    ValueError
        The token is empty.
    """
    if isinstance(names, str):
        raise TypeError(f"names are expected, a list of them: [{names!r}]")
    app = FastAPI(
        title="billiards_shm",
        summary="Frames in shared memory, for people to look at",
        docs_url=None,  # these load scripts from elsewhere
        redoc_url=None,
    )
    access = Access(token)
    app.add_middleware(Guard, access=access, hosts=allowed_hosts)
    owners = None if trusted_owners is None else tuple(trusted_owners)
    server = _AppState(names, max_clients, max_frame_age, owners)
    app.state.clients = server.clients
    _add_pages(app, access)
    _add_health(app, server)
    _add_statistics(app, server)
    _add_pictures(app, server)
    return app


class _AppState:
    """What the routes of one application share."""

    def __init__(
        self,
        names: Sequence[str] | None,
        max_clients: int,
        max_frame_age: float,
        owners: tuple[int | str, ...] | None,
    ) -> None:
        self.observer = HealthMonitor(names, max_frame_age, owners)
        self.clients = Clients(max_clients)
        self.metrics = ServerMetrics(self.observer, self.clients)
        self.owners = owners
        # Both start their threads with the first piece of work. Snapshots may be slow, and are not to delay streams.
        self._encoders = ThreadPoolExecutor(max(2, (os.cpu_count() or 2) - 1), "billiards-shm-encode")
        self._snapshots = ThreadPoolExecutor(1, "billiards-shm-snapshot")
        self._waiting_snapshots = 0
        self._feeds: dict[str, Feed] = {}

    async def feed(self, name: str) -> Feed:
        """The feed of a watched segment; 404 for any other."""
        await self.check(name)
        if name not in self._feeds:
            self._feeds[name] = Feed(name, self._encoders, partial(self.metrics.encoded, name), self.owners)
        return self._feeds[name]

    async def check(self, name: str) -> None:
        """See that a segment is watched, before anything is done under its name."""
        for pause in (LOOK_INTERVAL_S, 0):
            if await asyncio.to_thread(self.observer.watches, name):
                return
            if self.observer.names is None:
                await asyncio.sleep(pause)  # it may have appeared since the last look
        raise HTTPException(404, f"no segment {name!r} is shown here: /api/segments lists them")

    async def observe(self) -> list[dict[str, Any]]:
        """Every watched segment as JSON has it."""
        observations = await asyncio.to_thread(self.observer.look)
        return [self.described(one) for one in observations.values()]

    def described(self, one: SegmentHealth) -> dict[str, Any]:
        """One segment as JSON has it."""
        watching = sum(client.name == one.name for client in self.clients)
        return dataclasses.asdict(one) | {"clients": watching}

    async def in_snapshot_thread(self, work: Callable[[], _Result]) -> _Result:
        """Do what may take long, one at a time, and refuse when too many wait."""
        if self._waiting_snapshots >= _WAITING_SNAPSHOTS:
            raise HTTPException(503, "too many snapshots are asked for at once", {"Retry-After": "1"})
        self._waiting_snapshots += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._snapshots, work)
        finally:
            self._waiting_snapshots -= 1


def _add_pages(app: FastAPI, access: Access) -> None:
    directory = files("billiards_shm.serve") / "page"
    assets = {name: (directory / name).read_bytes() for name in (*_ASSETS, "index.html", "login.html")}

    def asset(name: str, media_type: str, request: Request) -> Response:
        tag = f'"{hashlib.sha256(assets[name]).hexdigest()[:16]}"'
        headers = {"Cache-Control": "no-cache", "ETag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(assets[name], media_type=media_type, headers=headers)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return asset("index.html", "text/html", request)

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str, request: Request) -> Response:
        if name not in _ASSETS:
            raise HTTPException(404, "no such file")
        return asset(name, _ASSETS[name], request)

    @app.get("/login", include_in_schema=False)
    async def login_page(request: Request) -> Response:
        return asset("login.html", "text/html", request)

    @app.post("/login", include_in_schema=False)
    async def log_in(request: Request) -> Response:
        return await access.log_in(request)


def _add_health(app: FastAPI, server: _AppState) -> None:
    @app.get("/healthz", tags=["health"])
    async def process_health() -> dict[str, str]:
        """Say that this process answers, which says nothing of any picture."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], responses={503: {"description": "One of the segments is not well"}})
    async def readiness() -> Response:
        """Say whether every watched segment is well, by the age of its newest captured frame."""
        ready = await asyncio.to_thread(lambda: server.observer.ready)
        segments = {one.name: _health(one) for one in server.observer.look().values()}
        body: dict[str, Any] = {"ready": ready, "segments": segments}
        if not segments:
            body["reason"] = "there is no segment"
        return JSONResponse(body, 200 if ready else 503)

    @app.get("/health/{name:path}", tags=["health"], responses={503: {"description": "It is not well; says why"}})
    async def health(name: Name) -> Response:
        """Say whether one segment is well, by its writer's status and the age of its newest captured frame."""
        await server.check(name)
        one = server.observer.look().get(name)
        if one is None:
            raise HTTPException(404, f"{name!r} is gone")
        return JSONResponse({"name": name, **_health(one)}, 200 if one.healthy else 503)

    @app.get("/metrics", tags=["health"], response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        """Give the metrics for Prometheus."""
        text, content_type = await asyncio.to_thread(server.metrics.text, request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type})


def _health(one: SegmentHealth) -> dict[str, Any]:
    age = one.last_frame_age
    return {
        "healthy": one.healthy,
        "state": one.state,
        "reason": one.reason,
        "last_frame_age": None if age is None else round(age, 4),
    }


def _add_statistics(app: FastAPI, server: _AppState) -> None:
    @app.get("/api/segments", tags=["statistics"])
    async def segments() -> list[dict[str, Any]]:
        """List the watched segments with their state and figures."""
        return await server.observe()

    @app.get("/api/segments/{name:path}", tags=["statistics"])
    async def segment(name: Name) -> dict[str, Any]:
        """Give everything about one segment; `segment` is what ``billiards-shm inspect --json`` shows."""
        await server.check(name)
        described = {one["name"]: one for one in await server.observe()}
        if name not in described:
            raise HTTPException(404, f"{name!r} is gone")
        try:
            full = (await asyncio.to_thread(inspect_segment, name, trusted_owners=server.owners)).as_dict()
        except BilliardsShmError:
            full = None
        return described[name] | {"segment": full}

    @app.get("/api/events", tags=["statistics"])
    async def events(interval: Interval = 1.0) -> Response:
        """Send what ``/api/segments`` gives again and again, as server-sent events named `segments`."""
        return EventStream(server.observe, interval, server.clients)

    @app.get("/api/clients", tags=["statistics"])
    async def clients() -> list[dict[str, Any]]:
        """List who is connected, with frames sent and skipped."""
        return [client.as_dict() for client in server.clients]


def _add_pictures(app: FastAPI, server: _AppState) -> None:
    @app.head("/stream/{name:path}.mjpg", include_in_schema=False)
    @app.get("/stream/{name:path}.mjpg", tags=["pictures"])
    async def mjpeg(name: Name, fps: Fps = None, quality: Quality = DEFAULT_QUALITY, width: Width = None) -> Response:
        """Stream frames as MJPEG (``multipart/x-mixed-replace``)."""
        return MjpegStream(await server.feed(name), PreviewFormat(width, quality), fps, server.clients)

    @app.websocket("/ws/{name:path}")
    async def websocket(
        socket: WebSocket,
        name: Name,
        fps: Fps = None,
        quality: Quality = DEFAULT_QUALITY,
        width: Width = None,
        window: Window = 2,
    ) -> None:
        try:
            feed = await server.feed(name)
        except HTTPException as error:
            await socket.accept()
            await socket.close(1008, error.detail[:120])
            return
        await send_over_websocket(socket, feed, PreviewFormat(width, quality), fps, window, server.clients)

    @app.get("/snapshot/{name:path}.{extension}", tags=["pictures"])
    async def snapshot(
        name: Name,
        extension: Literal["jpg", "png"],
        quality: Annotated[int, Query(ge=1, le=100)] = 90,
        width: Width = None,
    ) -> Response:
        """Give the newest frame, with its number, capture time and age in headers. PNG keeps every bit."""
        await server.check(name)
        return await server.in_snapshot_thread(partial(_snapshot, name, extension, quality, width, server.owners))


def _snapshot(
    name: str, extension: str, quality: int, width: int | None, owners: tuple[int | str, ...] | None
) -> Response:
    with SharedMemoryFrameReader(name, trusted_owners=owners) as reader:
        try:
            frame, metadata = reader.latest_frame()
            age = reader.last_frame_age
        except SegmentNotFoundError:
            frame = metadata = None
        except BilliardsShmError as error:
            raise HTTPException(503, str(error)) from error
        if frame is None or metadata is None:
            raise HTTPException(503, f"{name} has no frame: {reader.status}", {"Retry-After": "1"})
        try:
            if extension == "jpg":
                image = encode_preview(frame, metadata.pixel_format, width, quality)
            elif width is not None:
                raise HTTPException(422, "width is for JPEG: a PNG is the frame as it is")
            else:
                image = encode_image(frame, metadata.pixel_format, ".png")
        except ValueError as error:
            raise HTTPException(415, str(error)) from error
    captured = datetime.fromtimestamp(capture_wall_ns(metadata) / 1e9, UTC)
    headers = {
        "Cache-Control": "no-store",
        "X-Frame-Sequence": str(metadata.sequence),
        "X-Frame-Capture-Time": captured.isoformat(timespec="microseconds"),
        "X-Frame-Age": f"{age or 0:.6f}",
        "X-Frame-Online": "true" if metadata.online else "false",
    }
    return Response(image, media_type="image/png" if extension == "png" else "image/jpeg", headers=headers)

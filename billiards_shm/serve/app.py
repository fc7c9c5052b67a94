"""The application: the answer of each address."""

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from html import escape
from importlib.resources import files
from pathlib import PurePath
from typing import Annotated, Any, Final, Literal

from fastapi import FastAPI, Header, HTTPException, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from billiards_shm import BilliardsShmError, inspect_segment
from billiards_shm.monitor.health import SegmentHealth
from billiards_shm.serve.access import Access
from billiards_shm.serve.guard import AllowedOrigins, Guard
from billiards_shm.serve.metrics import OPENMETRICS
from billiards_shm.serve.openapi import answers, content, describe_access
from billiards_shm.serve.parameters import (
    Action,
    Fps,
    Interval,
    LastSeconds,
    LiveFormat,
    MaxAge,
    Name,
    SnapshotFormat,
    Window,
)
from billiards_shm.serve.replay import CLIP_HEADERS, ask_recorder, check_ring, take_clip
from billiards_shm.serve.snapshot import SNAPSHOT_HEADERS, take_snapshot
from billiards_shm.serve.state import AppState
from billiards_shm.serve.streams import EventStream, MjpegStream, close_websocket, send_over_websocket
from billiards_shm.statistics import STATISTICS

__all__ = ["create_app"]

_MEDIA_TYPES: Final = {".css": "text/css", ".js": "text/javascript"}


class _Route(APIRoute):
    """Answers HEAD wherever it answers GET. The OpenAPI description lists only GET."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD" and "GET" in (self.methods or ()):
            await self.app(scope, receive, send)
        else:
            await super().handle(scope, receive, send)


def create_app(
    names: Sequence[str] | None = None,
    *,
    token: str | None = None,
    max_clients: int = 64,
    max_frame_age: float = 3.0,
    allowed_hosts: Iterable[str] | None = None,
    allowed_origins: Iterable[str] = (),
    trusted_owners: Iterable[int | str] | None = None,
) -> FastAPI:
    """Create the application, to serve alone or mount in another one.

    Parameters
    ----------
    names : sequence of str, optional
        Segments to show, by name or path; None: every segment of this machine, including those that appear later.
    token : str, optional
        Secret that clients must send for everything except ``/healthz`` and the login page.
    max_clients : int
        Streams, WebSockets and event streams at a time.
    max_frame_age : float
        Seconds; a segment whose newest captured frame is older is unhealthy.
    allowed_hosts : iterable of str, optional
        Host names that requests may be addressed to, besides addresses, `localhost` and the machine's own name; None:
        any, for applications that check the host themselves. With a token, it has no effect.
    allowed_origins : iterable of str, optional
        Sites whose pages may embed images and pages of this server, such as ``https://shop.example``; ``*``: all.
    trusted_owners : iterable, optional
        As for a reader.

    Returns
    -------
    fastapi.FastAPI
        Needs no lifespan, which mounted applications do not get: it reads a segment only while it has viewers.

    Raises
    ------
    ValueError
        The token is empty, or one of `allowed_origins` is not an origin.
    """
    if isinstance(names, str):
        raise TypeError(f"names must be a list: [{names!r}]")
    if isinstance(allowed_origins, str):
        raise TypeError(f"allowed_origins must be a list: [{allowed_origins!r}]")
    app = FastAPI(
        title="billiards_shm",
        summary="Live images, health and metrics of frames in shared memory",
        docs_url=None,  # these pages load scripts from other servers
        redoc_url=None,
        redirect_slashes=False,  # it would lead to the host named in the request, and out of a proxy's prefix
    )
    app.router.route_class = _Route
    app.add_exception_handler(RequestValidationError, _tell_what_is_wrong)
    access = Access(token)
    origins = AllowedOrigins(allowed_origins)
    app.add_middleware(Guard, access=access, hosts=allowed_hosts, origins=origins)
    if origins:
        # Added last, so it runs before the guard: browsers send preflight requests without the token.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins.all,
            allow_methods=("GET", "HEAD"),
            allow_headers=("Authorization", "If-None-Match"),
            expose_headers=(*SNAPSHOT_HEADERS, *CLIP_HEADERS),
        )
    describe_access(app, needs_token=access.needs_token)
    owners = None if trusted_owners is None else tuple(trusted_owners)
    server = AppState(names, max_clients, max_frame_age, owners)
    app.state.clients, app.state.monitor = server.clients, server.monitor
    _add_pages(app, access)
    _add_health(app, server)
    _add_statistics(app, server)
    _add_images(app, server)
    _add_recordings(app, server, access)
    return app


async def _tell_what_is_wrong(_: Request, error: Exception) -> Response:
    """Say what is wrong with a request without repeating it: JSON has no NaN, and UTF-8 no half of a surrogate pair."""
    assert isinstance(error, RequestValidationError)
    detail = [{key: problem[key] for key in ("type", "loc", "msg")} for problem in error.errors()]
    return JSONResponse({"detail": detail}, 422)


def _add_pages(app: FastAPI, access: Access) -> None:
    assets = {file.name: file.read_bytes() for file in (files("billiards_shm.serve") / "page").iterdir()}
    assets["index.html"] = assets["index.html"].replace(b"<!-- statistics -->", _statistics_html().encode())
    if access.needs_token:
        assets["index.html"] = assets["index.html"].replace(b'action="logout" hidden', b'action="logout"')

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
        media_type = _MEDIA_TYPES.get(PurePath(name).suffix)
        if media_type is None or name not in assets:
            raise HTTPException(404, "no such file")
        return asset(name, media_type, request)

    @app.get("/login", include_in_schema=False)
    async def login_page(request: Request) -> Response:
        return asset("login.html", "text/html", request)

    @app.post("/login", include_in_schema=False)
    async def log_in(request: Request) -> Response:
        return await access.log_in(request)

    @app.post("/logout", include_in_schema=False)
    async def log_out(request: Request) -> Response:
        return access.log_out(request)


def _statistics_html() -> str:
    """The prominent statistics, for the cards of the page, and the ones only for copies."""
    return "\n      ".join(
        f"<div{' data-of-copies hidden' if row.of_copies else ''}>"
        f'<dt title="{escape(row.description)}">{"link " if row.of_copies else ""}{escape(row.label or name)}</dt>'
        f'<dd data-statistic="{name}" data-unit="{row.unit}"></dd></div>'
        for name, row in STATISTICS.items()
        if row.prominent or row.of_copies
    )


def _add_health(app: FastAPI, server: AppState) -> None:
    @app.get("/healthz", tags=["health"])
    async def process_health() -> dict[str, str]:
        """Answer 200 while this process runs, whatever the state of the segments."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], responses={503: {"description": "A segment is unhealthy"}})
    async def readiness() -> Response:
        """Answer 200 if every watched segment is healthy: a living writer, and a recent captured frame."""
        segments = await asyncio.to_thread(server.monitor.health)
        ready = server.monitor.is_ready(segments)
        body: dict[str, Any] = {"ready": ready, "segments": {name: _brief(found) for name, found in segments.items()}}
        if not segments:
            body["reason"] = "there is no segment"
        return JSONResponse(body, 200 if ready else 503)

    @app.get(
        "/health/{name:path}",
        tags=["health"],
        responses=answers(404) | {503: {"description": "Unhealthy; `reason` says why"}},
    )
    async def health(name: Name) -> Response:
        """Answer 200 if one segment is healthy: a living writer, and a recent captured frame."""
        await server.require_watched(name)
        found = (await asyncio.to_thread(server.monitor.health)).get(name)
        if found is None:
            raise HTTPException(404, f"{name!r} is gone")
        return JSONResponse({"name": name, **_brief(found)}, 200 if found.healthy else 503)

    @app.get("/metrics", tags=["health"], response_class=Response, responses=content("text/plain", OPENMETRICS))
    async def metrics(request: Request) -> Response:
        """Return the metrics for Prometheus."""
        text, content_type = await server.metrics.text(request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type})


def _brief(health: SegmentHealth) -> dict[str, Any]:
    age = health.last_frame_age
    return {
        "healthy": health.healthy,
        "state": health.state,
        "reason": health.reason,
        "last_frame_age": None if age is None else round(age, 4),
    }


def _add_statistics(app: FastAPI, server: AppState) -> None:
    @app.get("/api/segments", tags=["statistics"])
    async def segments() -> list[dict[str, Any]]:
        """List the watched segments with their health and statistics."""
        return await server.describe_segments()

    @app.get("/api/segments/{name:path}", tags=["statistics"], responses=answers(404))
    async def segment(name: Name) -> dict[str, Any]:
        """Return everything about one segment; `segment` is what ``billiards-shm inspect --json`` shows."""
        await server.require_watched(name)
        described = {segment["name"]: segment for segment in await server.describe_segments()}
        if name not in described:
            raise HTTPException(404, f"{name!r} is gone")
        try:
            full = (await asyncio.to_thread(inspect_segment, name, trusted_owners=server.owners)).as_dict()
        except BilliardsShmError:
            full = None
        return described[name] | {"segment": full}

    @app.get(
        "/api/events",
        tags=["statistics"],
        response_class=Response,
        responses=content("text/event-stream") | answers(503),
    )
    async def events(interval: Interval = 1.0) -> Response:
        """Send what ``/api/segments`` returns once per interval, as server-sent events named `segments`."""
        return EventStream(server.describe_segments, interval, server.clients)

    @app.get("/api/clients", tags=["statistics"])
    async def clients() -> list[dict[str, Any]]:
        """List the connected clients, with frames sent and skipped."""
        return [client.as_dict() for client in server.clients]


def _add_images(app: FastAPI, server: AppState) -> None:
    @app.get(
        "/stream/{name:path}.mjpg",
        tags=["images"],
        response_class=Response,
        responses=content("multipart/x-mixed-replace") | answers(404, 415, 503),
    )
    async def mjpeg(name: Name, preview: LiveFormat, fps: Fps = None) -> Response:
        """Stream frames as MJPEG (``multipart/x-mixed-replace``)."""
        return MjpegStream(await server.feed(name), preview, fps, server.clients)

    @app.websocket("/ws/{name:path}")
    async def websocket(
        socket: WebSocket,
        name: Name,
        preview: LiveFormat,
        fps: Fps = None,
        window: Window = 2,
    ) -> None:
        try:
            feed = await server.feed(name)
        except HTTPException as error:
            await socket.accept()
            await close_websocket(socket, 1008, error.detail)
            return
        await send_over_websocket(socket, feed, preview, fps, window, server.clients)

    @app.get(
        "/snapshot/{name:path}.{extension}",
        tags=["images"],
        response_class=Response,
        responses=content("image/jpeg", "image/png") | answers(304, 404, 415, 503),
    )
    async def snapshot(
        name: Name,
        extension: Literal["jpg", "png"],
        preview: SnapshotFormat,
        max_age: MaxAge = None,
        if_none_match: Annotated[str, Header(description="ETags of snapshots that you have")] = "",
    ) -> Response:
        """Return the newest frame; number, capture time and age are in headers. PNG keeps every bit."""
        changes = {"width": preview.width is not None, "overlay": preview.time, "text": bool(preview.text)}
        if extension == "png" and any(changes.values()):
            problem = {"type": "jpeg_only", "msg": "works with JPEG only: a PNG is the unchanged frame"}
            raise RequestValidationError([{**problem, "loc": ("query", key)} for key in changes if changes[key]])
        await server.require_watched(name)
        work = partial(
            take_snapshot,
            name,
            extension,
            preview=preview,
            max_age=max_age,
            if_none_match=if_none_match,
            owners=server.owners,
        )
        with server.snapshots.place():
            answer = await server.snapshots.run(work)
        if isinstance(answer, HTTPException):
            raise answer
        return answer


def _add_recordings(app: FastAPI, server: AppState, access: Access) -> None:
    @app.get(
        "/replay/{name:path}.mp4",
        tags=["recordings"],
        response_class=Response,
        responses=content("video/mp4") | answers(404, 503),
    )
    async def replay(name: Name, request: Request, last: LastSeconds = 10.0) -> Response:
        """Return the last seconds as an MP4, from the ring of ``billiards-shm record NAME --ring``."""
        await server.require_watched(name)
        with ExitStack() as place:
            place.enter_context(server.clips.place())
            if request.method == "HEAD":
                trouble = await server.clips.run(partial(check_ring, name))
                if trouble is not None:
                    raise trouble
                found = Response(media_type="video/mp4", headers={"Cache-Control": "no-store"})
                del found.headers["Content-Length"]  # unknown until the clip is made
                return found
            answer = await server.clips.run(partial(take_clip, name, last))
            if isinstance(answer, HTTPException):
                raise answer
            answer.place = place.pop_all()
        return answer

    @app.post("/api/record/{name:path}", tags=["recordings"], responses=answers(400, 403, 404, 409, 503))
    async def record(name: Name, action: Action, request: Request) -> dict[str, Any]:
        """Tell the recorder of a segment to begin or end its file. Needs the token."""
        # The guard's result: wrong tokens from the same address may have arrived since, so a second check could differ.
        if not access.needs_token or request.state.grant.signed:
            raise HTTPException(403, "only the token of the server (serve.token) lets you begin and end recordings")
        await server.require_watched(name)
        answer = await asyncio.to_thread(ask_recorder, name, action)
        if isinstance(answer, HTTPException):
            raise answer
        return answer

"""The layer in front of the application: checks of host, origin and access, and security headers for browsers."""

import asyncio
import contextlib
import ipaddress
import math
import re
import socket
import time
from collections.abc import Iterable
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from billiards_shm.serve.access import Access, Grant, TooManyWrongTokensError, path_of

__all__ = ["AllowedOrigins", "Guard"]

# Pages load only from this server; data: is their icon, blob: a clip that they fetched.
_CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src blob:; "
    "connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors "
)
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": with that, browsers do not say which site a form is from.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


_ORIGIN: Final = re.compile(r"https?://[^\s/?#,;'\"]+")


class AllowedOrigins:
    """Sites whose pages may embed images and pages of this server.

    Parameters
    ----------
    origins : iterable of str
        Such as ``https://shop.example`` or ``http://10.0.0.5:8123``; ``*``: every site.

    Raises
    ------
    ValueError
        One of them is not an origin.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        self.all = tuple(origin.strip().rstrip("/").lower() for origin in origins if origin.strip())
        for origin in self.all:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is not an origin: write https://HOST, with :PORT if it has one, or *")

    def __bool__(self) -> bool:
        return bool(self.all)

    def __contains__(self, origin: str) -> bool:
        return "*" in self.all or origin.lower() in self.all

    @property
    def frame_ancestors(self) -> str:
        """The value of `frame-ancestors` in the content security policy."""
        return " ".join(("'self'", *self.all)) if self.all else "'none'"

    def embed(self, headers: Headers) -> bool:
        """Whether a page of these sites sent the request. Requests for images have no `Origin`, but a referrer."""
        scheme, _, rest = headers.get("referer", "").partition("://")
        return headers.get("origin", f"{scheme}://{rest.partition('/')[0]}") in self


class Guard:
    """ASGI middleware that refuses requests without access, and adds security headers to responses.

    Parameters
    ----------
    app : ASGI application
    access : Access
    hosts : iterable of str or None
        Host names that requests may be addressed to, besides addresses and `localhost`. Otherwise, without a token, a
        page of another site could point its own name at this server and read everything (DNS rebinding). None: any
        name.
    origins : AllowedOrigins
    """

    def __init__(self, app: ASGIApp, access: Access, hosts: Iterable[str] | None, origins: AllowedOrigins) -> None:
        self._app = app
        self._access = access
        self._origins = origins
        # Browsers that support frame-ancestors ignore X-Frame-Options, which cannot name sites.
        self._headers = _HEADERS if origins else _HEADERS | {"X-Frame-Options": "DENY"}
        own = (socket.gethostname(), socket.gethostname() + ".local")
        self._hosts = None if hosts is None else {name.lower() for name in (*hosts, *own)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        grant = self._admit(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                # A signed address is for pages of any site: the access comes from the address, not from the browser.
                embedded = self._origins.embed(Headers(scope=scope)) or (isinstance(grant, Grant) and grant.signed)
                headers.setdefault("Cross-Origin-Resource-Policy", "cross-origin" if embedded else "same-origin")
                # Not on images: browsers would apply it to the viewer in which they show an image.
                if headers.get("content-type", "").startswith("text/html"):
                    headers["Content-Security-Policy"] = _CONTENT_POLICY + self._origins.frame_ancestors
            await send(message)

        if isinstance(grant, Grant):
            scope.setdefault("state", {})["grant"] = grant
            limited = _TimeLimit(scope["type"], grant.until, receive)
            await self._app(scope, limited.receive, send_with_headers)
            if limited.expired and scope["type"] == "websocket":
                with contextlib.suppress(OSError, RuntimeError):
                    await send({"type": "websocket.close", "code": 1008, "reason": "the access has expired"})
        elif scope["type"] == "http":
            await grant(scope, receive, send_with_headers)
        else:
            await _refuse_websocket(receive, send)

    def _admit(self, scope: Scope) -> Grant | Response:
        """Return the access of a request, or the answer that refuses it."""
        path = path_of(scope)
        headers = Headers(scope=scope)
        if path == "/healthz":
            return Grant()
        if not self._is_allowed_host(headers.get("host", "")):
            unknown = (
                f"this server is not {headers.get('host')!r}: use its IP address, or start it with --allowed-hosts"
            )
            return JSONResponse({"detail": unknown}, 421)
        if not _same_origin(headers):
            if scope["type"] == "websocket" and headers["origin"] not in self._origins:
                return JSONResponse({"detail": "pages of other sites may not connect"}, 403)
            if scope.get("method") == "POST":
                return JSONResponse({"detail": "pages of other sites may not send this"}, 403)
        if path in ("/login", "/logout") or path.startswith("/static/"):
            return Grant()
        try:
            grant = self._access.grant(scope)
        except TooManyWrongTokensError as error:
            return JSONResponse({"detail": str(error)}, 429, {"Retry-After": str(error.wait_s)})
        if grant is not None:
            return grant
        if path in ("", "/") and scope.get("method") in ("GET", "HEAD"):
            return RedirectResponse("login", 303)
        return _unauthorized(headers, signed=b"signature=" in scope["query_string"])

    def _is_allowed_host(self, host: str) -> bool:
        if self._hosts is None or self._access.needs_token:
            return True
        name = _without_port(host).lower()
        if name == "localhost" or name.endswith(".localhost") or name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


class _TimeLimit:
    """Tells the application that the client has left once the time is up.

    Parameters
    ----------
    kind : str
        http or websocket.
    until : float
        Seconds since 1970.
    receive : ASGI receive callable
    """

    def __init__(self, kind: str, until: float, receive: Receive) -> None:
        self.expired = False
        self._kind = kind
        self._until = until
        self._receive = receive
        self.receive = receive if until == math.inf else self._receive_until

    async def _receive_until(self) -> Message:
        try:
            async with asyncio.timeout(self._until - time.time()):
                return await self._receive()
        except TimeoutError:
            self.expired = True
            return {"type": f"{self._kind}.disconnect", "code": 1008}


def _unauthorized(headers: Headers, *, signed: bool) -> Response:
    if signed:
        wanted = "this signed address has expired, or was changed, or the server has a new token: sign it again"
    else:
        send = "send it as 'Authorization: Bearer TOKEN' or as a password, or log in at /login"
        wanted = f"the token is missing or wrong: {send}"
    response = JSONResponse({"detail": wanted}, 401)
    # Browsers ask for a password when they see Basic. That is right for a typed address, but not while a page fetches
    # something.
    if not headers.get("user-agent", "").startswith("Mozilla/") or "text/html" in headers.get("accept", ""):
        response.headers.append("WWW-Authenticate", 'Basic realm="billiards_shm", charset="UTF-8"')
    response.headers.append("WWW-Authenticate", "Bearer")
    return response


def _without_port(host: str) -> str:
    return host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host


def _same_origin(headers: Headers) -> bool:
    """Whether no other site's page sent the request. Any page can open a WebSocket; the browser names its origin."""
    origin = headers.get("origin")
    if origin is None:
        return True
    host = origin.partition("://")[2].lower()  # empty if the origin is "null"
    return host != "" and host == headers.get("host", "").lower()


async def _refuse_websocket(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 1008})

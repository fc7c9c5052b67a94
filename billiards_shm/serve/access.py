"""Access control: the token, allowed hosts and origins, and security headers for browsers."""

import asyncio
import hashlib
import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Access", "AllowedOrigins", "Guard"]

COOKIE: Final = "billiards_shm"
_COOKIE_SECONDS: Final = 30 * 24 * 3600
_WRONG_TOKEN_DELAY_S: Final = 0.5
_LONGEST_FORM: Final = 4096

# Pages load only what this server serves. blob: is an image that came over the WebSocket.
_CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors "
)
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
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


class Access:
    """Checks the token, and the cookie that stands for it.

    Parameters
    ----------
    token : str or None
        None: access needs no token.
    """

    def __init__(self, token: str | None) -> None:
        if token is not None and not token.strip():
            raise ValueError("the token is empty: choose one that cannot be guessed, or give none")
        self._token = None if token is None else token.strip().encode()

    @property
    def needs_token(self) -> bool:
        """Whether clients must send a token."""
        return self._token is not None

    @property
    def _cookie(self) -> bytes:
        # The cookie does not reveal the token, and a new token invalidates old cookies.
        assert self._token is not None
        return hmac.digest(self._token, b"billiards_shm session", hashlib.sha256).hex().encode()

    def is_token(self, offered: bytes) -> bool:
        """Whether this is the token. The comparison takes the same time wherever they differ."""
        return self._token is not None and hmac.compare_digest(offered, self._token)

    def allows(self, headers: Headers) -> bool:
        """Whether a request with these headers has access."""
        if self._token is None:
            return True
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(credentials.strip().encode()):
            return True
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return morsel is not None and hmac.compare_digest(morsel.value.encode(), self._cookie)

    async def log_in(self, request: Request) -> Response:
        """Answer the form of the login page: set a cookie if the token is right."""
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _LONGEST_FORM:
                return JSONResponse({"detail": "the form is too long"}, 413)
        offered = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].strip().encode()
        if not self.is_token(offered):
            await asyncio.sleep(_WRONG_TOKEN_DELAY_S)
            return RedirectResponse("login#wrong", 303)
        response = RedirectResponse("./", 303)
        response.set_cookie(
            COOKIE,
            self._cookie.decode(),
            max_age=_COOKIE_SECONDS,
            path=request.scope.get("root_path", "") or "/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return response


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
        # Browsers that know frame-ancestors ignore X-Frame-Options, which cannot name sites.
        self._headers = _HEADERS if origins else _HEADERS | {"X-Frame-Options": "DENY"}
        own = (socket.gethostname(), socket.gethostname() + ".local")
        self._hosts = None if hosts is None else {name.lower() for name in (*hosts, *own)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                embedded = self._origins.embed(Headers(scope=scope))
                headers.setdefault("Cross-Origin-Resource-Policy", "cross-origin" if embedded else "same-origin")
                # Not on images: browsers would apply it to the viewer that they show an image in.
                if headers.get("content-type", "").startswith("text/html"):
                    headers["Content-Security-Policy"] = _CONTENT_POLICY + self._origins.frame_ancestors
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send_with_headers)
        elif scope["type"] == "http":
            await refusal(scope, receive, send_with_headers)
        else:
            await _refuse_websocket(receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        headers = Headers(scope=scope)
        if path == "/healthz":
            return None
        if not self._is_allowed_host(headers.get("host", "")):
            unknown = (
                f"this server is not {headers.get('host')!r}: use its IP address, or start it with --allowed-hosts"
            )
            return JSONResponse({"detail": unknown}, 421)
        if scope["type"] == "websocket" and not (_same_origin(headers) or headers["origin"] in self._origins):
            return JSONResponse({"detail": "pages of other sites may not connect"}, 403)
        if path == "/login" or path.startswith("/static/") or self._access.allows(headers):
            return None
        if path in ("", "/") and scope.get("method") in ("GET", "HEAD"):
            return RedirectResponse("login", 303)
        wanted = "the token is missing or wrong: send 'Authorization: Bearer TOKEN', or log in at /login"
        return JSONResponse({"detail": wanted}, 401, {"WWW-Authenticate": "Bearer"})

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


def _without_port(host: str) -> str:
    return host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host


def _same_origin(headers: Headers) -> bool:
    """Whether no other site's page sent the request. Any page may open a WebSocket; the browser names its origin."""
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2].lower() == headers.get("host", "").lower()


async def _refuse_websocket(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 1008})

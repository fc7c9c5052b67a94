"""Who has access: by the token, by the cookie that stands for it, or by a signed address."""

import base64
import hashlib
import hmac
import itertools
import logging
import math
import re
import time
from collections.abc import Iterator
from typing import Final, NamedTuple
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import Scope

from billiards_shm.serve.connections import LogLimit
from billiards_shm.serve.signed_urls import signed_until
from billiards_shm.serve.wrong_tokens import WrongTokens

__all__ = ["Access", "Grant", "TooManyWrongTokensError", "path_of"]

_log = logging.getLogger(__name__)
_log.addFilter(LogLimit(lines=20))

_COOKIE_SECONDS: Final = 30 * 24 * 3600
_LONGEST_FORM: Final = 4096
# Several prefixes of one host may use the same cookie name.
_MOST_COOKIES: Final = 8
_TIME: Final = re.compile("[0-9]{1,12}")


class Grant(NamedTuple):
    """Access of a request."""

    until: float = math.inf
    """Seconds since 1970."""
    signed: bool = False
    """Whether it comes from a signed address."""


class TooManyWrongTokensError(Exception):
    """Tokens from this address are refused unchecked for a while."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = math.ceil(wait_s)
        super().__init__(f"too many wrong tokens came from your address: try again in {self.wait_s} s")


class Access:
    """Checks the token, the cookie that stands for it, and signed addresses.

    Parameters
    ----------
    token : str or None
        None: access needs no token.
    """

    def __init__(self, token: str | None) -> None:
        if token is not None and not token.strip():
            raise ValueError("the token is empty: choose one that cannot be guessed, or leave it out")
        self._token = None if token is None else token.strip().encode()
        self._wrong_tokens = WrongTokens()

    @property
    def needs_token(self) -> bool:
        """Whether clients must send a token."""
        return self._token is not None

    def grant(self, scope: Scope) -> Grant | None:
        """Return the access of a request; None: it has none.

        Raises
        ------
        TooManyWrongTokensError
            The request has a token, but too many wrong ones came from its address.
        """
        if self._token is None:
            return Grant()
        headers = Headers(scope=scope)
        cookies = itertools.islice(_cookies(headers, _cookie_name(scope)), _MOST_COOKIES)
        until = max(map(self._cookie_until, cookies), default=0.0)
        if until > time.time():
            return Grant(until)
        signed = signed_until(path_of(scope), scope["query_string"].decode("latin-1"), self._token)
        if signed is not None:
            return Grant(signed, signed=True)
        offered = _offered_token(headers)
        return Grant() if offered is not None and self._is_token(offered, scope, "a header") else None

    def _is_token(self, offered: bytes, scope: Scope, where: str) -> bool:
        """Whether this is the token. The comparison takes the same time, wherever they differ."""
        assert self._token is not None
        address = scope["client"][0] if scope.get("client") else ""
        if wait_s := self._wrong_tokens.wait_s(address):
            raise TooManyWrongTokensError(wait_s)
        if hmac.compare_digest(offered.strip(), self._token):
            return True
        if self._wrong_tokens.count(address, offered):
            _log.warning("Wrong token from %.64r, in %s", address, where)
        return False

    def _cookie(self, expires: str) -> str:
        # It does not reveal the token, and a new token invalidates old cookies.
        assert self._token is not None
        text = f"billiards_shm session\n{expires}".encode()
        return f"{expires}.{hmac.digest(self._token, text, hashlib.sha256).hex()}"

    def _cookie_until(self, value: str) -> float:
        expires = value.partition(".")[0]
        if not _TIME.fullmatch(expires) or not hmac.compare_digest(value.encode(), self._cookie(expires).encode()):
            return 0.0
        return float(expires)

    async def log_in(self, request: Request) -> Response:
        """Answer the form of the login page: set a cookie if the token is right."""
        body = b""
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > _LONGEST_FORM:
                    return JSONResponse({"detail": "the form is too long"}, 413)
        except ClientDisconnect:
            return Response(status_code=400)
        if self._token is None:
            return RedirectResponse("./", 303)
        offered = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].encode()
        try:
            if not self._is_token(offered, request.scope, "the login form"):
                return RedirectResponse("login#wrong", 303)
        except TooManyWrongTokensError:
            return RedirectResponse("login#wait", 303)
        response = RedirectResponse("./", 303)
        value = self._cookie(str(int(time.time()) + _COOKIE_SECONDS))
        self._set_cookie(response, request, value, _COOKIE_SECONDS)
        return response

    def log_out(self, request: Request) -> Response:
        """Remove the cookie from the browser."""
        response = RedirectResponse("login", 303)
        self._set_cookie(response, request, "", 0)
        return response

    def _set_cookie(self, response: Response, request: Request, value: str, max_age: int) -> None:
        response.set_cookie(
            _cookie_name(request.scope),
            value,
            max_age=max_age,
            # Without a path, browsers send it to addresses next to the login page, even below a prefix that only a
            # proxy knows.
            path=None,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )


def path_of(scope: Scope) -> str:
    """The decoded path, without the prefix where the application is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _cookie_name(scope: Scope) -> str:
    """A separate name for each port and prefix: browsers send the cookies of a host to all of its ports."""
    port = re.search(r":([0-9]{1,5})$", Headers(scope=scope).get("host", ""))
    name = f"billiards_shm_{port[1] if port else ''}{scope.get('root_path', '')}"
    return re.sub("[^A-Za-z0-9]", "_", name).rstrip("_")


def _cookies(headers: Headers, name: str) -> Iterator[str]:
    """The values of all cookies with one name. Other servers on the host may set any cookies."""
    for header in headers.getlist("cookie"):
        for cookie in header.split(";"):
            found, _, value = cookie.strip().partition("=")
            if found == name:
                yield value


def _offered_token(headers: Headers) -> bytes | None:
    """The token of a Bearer header, or the password of HTTP Basic."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    # Headers are always decoded as Latin-1.
    offered = credentials.strip().encode("latin-1")
    if scheme.lower() == "bearer":
        return offered
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(offered, validate=True).partition(b":")[2]
        except ValueError:
            return None
    return None

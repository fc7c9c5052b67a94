"""The OpenAPI description besides parameters: status codes, content types, and how to get access."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

__all__ = ["answers", "content", "describe_access"]

_MEANINGS: Final = {
    304: "The client has this frame",
    400: "The body cannot be read",
    401: "The token is missing or wrong",
    403: "It needs the token; a signed address is not enough",
    404: "No segment with this name is shown, or nothing records it",
    409: "The recorder cannot do that; `detail` says why",
    415: "The frame cannot be turned into an image",
    421: "The request was addressed to a host name that is not this server's",
    429: "Too many wrong tokens came from this address",
    431: "Request line and headers are too large",
    503: "There is no frame, it is too old, or there are too many clients; `detail` says which",
}
_ACCESS: Final = {
    "password": {"type": "http", "scheme": "basic", "description": "The token, with any user name"},
    "token": {"type": "http", "scheme": "bearer"},
    "signature": {
        "type": "apiKey",
        "in": "query",
        "name": "signature",
        "description": "Of a signed address, with `expires`",
    },
}
_OPEN: Final = "/healthz"


def answers(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Status codes besides 200 and 422."""
    return {code: {"description": _MEANINGS[code]} for code in codes}


def content(*media_types: str) -> dict[int | str, dict[str, Any]]:
    """The content of a successful answer."""
    return {200: {"description": "Successful Response", "content": {media_type: {} for media_type in media_types}}}


def describe_access(app: FastAPI, *, needs_token: bool) -> None:
    """Describe the answers of the guard in front of the application."""
    codes = (401, 429, 431) if needs_token else (421, 431)

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            described = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
            for path, operations in described["paths"].items():
                for operation in operations.values():
                    guarded = (431,) if path == _OPEN else codes
                    operation["responses"] |= {str(code): found for code, found in answers(*guarded).items()}
                    if needs_token:
                        operation["security"] = [] if path == _OPEN else [{name: []} for name in _ACCESS]
            if needs_token:
                described["components"]["securitySchemes"] = _ACCESS
            app.openapi_schema = described
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]

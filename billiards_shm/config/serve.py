"""The configuration of the HTTP server."""

import ipaddress
import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from billiards_shm.config.defaults import MAX_FRAME_AGE_SEC
from billiards_shm.config.section import HOST_ALLOWED, Section

__all__ = ["ServeConfig"]


def _proxies(value: str) -> str:
    for proxy in filter(None, (part.strip() for part in value.split(","))):
        if proxy != "*":
            ipaddress.ip_network(proxy)  # ValueError, which names it
    return value


def _webhook(value: str) -> str:
    parts = urlsplit(value)
    if not re.fullmatch(r"https?://[!-~]+", value, re.IGNORECASE) or not parts.hostname or parts.port == 0:
        raise ValueError("it is not an http or https URL")
    return value


class ServeConfig(Section):
    """The HTTP server."""

    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen on",
        json_schema_extra={"allowed": HOST_ALLOWED},
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0: any free port")
    token: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Secret that clients need for every address but `/healthz`; null: no secret",
        json_schema_extra={"allowed": "a text that is hard to guess, or null", "textual": True},
    )
    max_clients: int = Field(
        default=64, ge=1, le=10000, description="How many streams and event streams may be open at a time"
    )
    max_frame_age: float = Field(
        default=MAX_FRAME_AGE_SEC,
        gt=0,
        le=86400,
        description="Age in seconds of the newest captured frame above which a segment is unhealthy",
    )
    allowed_hosts: str = Field(
        default="",
        description="Host names the server answers to, besides IP addresses and the machine's own name",
        json_schema_extra={"allowed": "host names separated by commas"},
    )
    allowed_origins: str = Field(
        default="",
        pattern=r"^(\*|https?://[^\s/,;]+(\s*,\s*https?://[^\s/,;]+)*)?$",
        description="Sites whose pages may embed the pictures and the page",
        json_schema_extra={"allowed": "origins (`https://HOST` or `https://HOST:PORT`) separated by commas; `*`: all"},
    )
    trusted_proxies: Annotated[str, AfterValidator(_proxies)] = Field(
        default="127.0.0.1,::1",
        description="Proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed",
        json_schema_extra={"allowed": "addresses and networks (`10.0.0.0/8`) separated by commas; `*`: all"},
    )
    webhook: Annotated[str, AfterValidator(_webhook)] | None = Field(
        default=None,
        description="Address that gets a POST when a source stalls, is lost, or is back; null: none",
        json_schema_extra={"allowed": "an `http://` or `https://` URL, or null", "textual": True},
    )

"""Zenoh keys of segments: ``billiards_shm/1/HOST/ID/SEGMENT``, and users' names for a segment of another host."""

import socket
import uuid
from dataclasses import dataclass
from hashlib import blake2s
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote, unquote

__all__ = ["Origin", "Wanted", "host_id", "host_name"]

PREFIX: Final = "billiards_shm/1"
EVERY_SEGMENT: Final = f"{PREFIX}/*/*/*"
MACHINE_ID: Final = Path("/etc/machine-id")
_PLAIN_CHUNKS: Final = 3
_PATHS: Final = "surrogateescape"
"""Paths may have bytes that are not text."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A segment that a host offers."""

    host: str
    id: str
    """Distinguishes hosts with the same name; stays the same when the host restarts."""
    segment: str

    @property
    def key(self) -> str:
        """Its key; characters that keys cannot have are percent-encoded."""
        return "/".join((PREFIX, *map(_quoted, (self.host, self.id, self.segment))))

    @classmethod
    def of_key(cls, key: str) -> Self | None:
        """Read a key; None if it is not ours."""
        prefix, *parts = key.rsplit("/", _PLAIN_CHUNKS)
        if prefix != PREFIX or len(parts) != _PLAIN_CHUNKS:
            return None
        origin = cls(*(unquote(part, errors=_PATHS) for part in parts))
        return origin if origin.key == key else None

    def __str__(self) -> str:
        return f"{self.segment}@{self.host}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A segment of another host as users name it: ``NAME``, ``NAME@HOST`` or ``NAME@ID``."""

    segment: str
    host: str
    """Name or id of the host; empty: any host that offers the segment."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what was typed. A path may have an ``@``: after the last one, text with a slash is not a host."""
        segment, at, host = text.rpartition("@")
        return cls(segment, host) if at and segment and "/" not in host else cls(text, "")

    @property
    def pattern(self) -> str:
        """Keys to look at."""
        return f"{PREFIX}/*/*/{_quoted(self.segment)}"

    def matches(self, origin: Origin) -> bool:
        """Whether an offered segment is the wanted one."""
        return origin.segment == self.segment and self.host in ("", origin.host, origin.id)

    def __str__(self) -> str:
        return f"{self.segment}@{self.host}" if self.host else self.segment


def _quoted(text: str) -> str:
    return quote(text, safe="", errors=_PATHS)


def host_name() -> str:
    """Name of this machine."""
    return socket.gethostname() or "localhost"


def host_id(host: str) -> str:
    """Eight digits for this machine, from its name and its machine id, which they do not reveal."""
    try:
        machine = MACHINE_ID.read_text(errors=_PATHS).strip()
    except OSError:
        machine = ""
    if machine in ("", "uninitialized"):  # as in images of containers
        machine = f"{uuid.getnode():x}"  # random in each process where no interface has an address
    return blake2s(f"{host}/{machine}".encode(errors=_PATHS), digest_size=4).hexdigest()

"""The Zenoh session: its configuration, and which segments of which hosts are offered."""

import contextlib
import json
import logging
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import zenoh

from billiards_shm.config.model import MirrorConfig
from billiards_shm.errors import ConfigurationError
from billiards_shm.mirror.keys import Origin
from billiards_shm.mirror.wire import LARGEST_ANSWER_BYTES, Kind, Request

__all__ = ["Offers", "ask_description", "described", "open_session", "read_description"]

LEASE_MS: Final = 2000
"""How long a link may be silent before it counts as lost. Zenoh's default of 10 s is long for a picture."""
RETRY: Final = {"period_init_ms": 200, "period_max_ms": 2000, "period_increase_factor": 2}
DESCRIPTION_SEC: Final = 1.0
DESCRIBED: Final[dict[str, tuple[type, ...]]] = {
    "status": (str,),
    "state": (str,),
    "pixel_format": (str,),
    "width": (int,),
    "height": (int,),
    "fps": (int, float),
    "frame_age": (int, float),
}
"""What a host reports about a segment, with the types of the values."""
_PLACE_IN_SOURCE: Final = re.compile(r" at /\S+\.rs:\d+\.?")

_log = logging.getLogger(__name__)


def open_session(config: MirrorConfig) -> zenoh.Session:
    """Open a session, as a peer that finds others by multicast unless the configuration says otherwise.

    Raises
    ------
    ConfigurationError
        Zenoh does not accept the configuration, or cannot listen at an endpoint.
    """
    try:
        return zenoh.open(_zenoh_config(config))
    except zenoh.ZError as error:
        # Zenoh's messages name a place in its source, which does not help users.
        text = _PLACE_IN_SOURCE.sub("", " ".join(str(error).split()))
        raise ConfigurationError(f"Zenoh could not be started: {text}") from error


def _zenoh_config(config: MirrorConfig) -> zenoh.Config:
    made = zenoh.Config()
    if config.zenoh_config is not None:
        if not Path(config.zenoh_config).is_file():
            raise ConfigurationError(f"mirror.zenoh_config: there is no file {config.zenoh_config}")
        made = zenoh.Config.from_file(config.zenoh_config)
    preferred = {
        "transport/link/tx/lease": LEASE_MS,
        "connect/retry": RETRY,
        "connect/timeout_ms": -1,
        "connect/exit_on_failure": False,
    }
    # Settings of the file win: ours only replace values that are still Zenoh's defaults.
    default = zenoh.Config()
    values: dict[str, Any] = {
        key: value for key, value in preferred.items() if made.get_json(key) == default.get_json(key)
    }
    # Otherwise a killed process leaves its files in shared memory.
    values["transport/shared_memory/enabled"] = False
    # Anyone who can reach this host could make it use this much memory; Zenoh's default is 1 GB.
    values["transport/link/rx/max_message_size"] = LARGEST_ANSWER_BYTES
    for key, endpoints in (("listen/endpoints", config.listen), ("connect/endpoints", config.connect)):
        if endpoints:
            values[key] = [endpoint.strip() for endpoint in endpoints.split(",") if endpoint.strip()]
    for key, value in values.items():
        made.insert_json5(key, json.dumps(value))
    return made


class Offers:
    """The segments offered now, according to their liveliness tokens.

    Parameters
    ----------
    session : zenoh.Session
    pattern : str
        Keys to look at.
    """

    def __init__(self, session: zenoh.Session, pattern: str) -> None:
        self._origins: dict[str, Origin] = {}
        self._changed = threading.Condition()
        self._subscriber = session.liveliness().declare_subscriber(pattern, self._notice, history=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._subscriber.undeclare()

    def now(self) -> list[Origin]:
        """What is offered."""
        with self._changed:
            return list(self._origins.values())

    def has(self, origin: Origin) -> bool:
        """Whether it is offered."""
        with self._changed:
            return origin.key in self._origins

    def wait(self, seconds: float) -> None:
        """Wait until something changes."""
        with self._changed:
            self._changed.wait(seconds)

    def _notice(self, sample: zenoh.Sample) -> None:
        key = str(sample.key_expr)
        origin = Origin.of_key(key)
        with self._changed:
            if origin is None:
                return
            if sample.kind == zenoh.SampleKind.PUT:  # not the same object
                self._origins[key] = origin
            else:
                self._origins.pop(key, None)
            self._changed.notify_all()


def described(origins: Iterable[Origin]) -> str:
    """Origins for a message, by name and id."""
    return ", ".join(sorted(f"{origin.segment}@{origin.id} (of {origin.host})" for origin in origins))


def ask_description(session: zenoh.Session, origin: Origin) -> Any:
    """Ask a host what a segment is; `read_description` waits for the answer."""
    return session.get(
        origin.key,
        payload=Request(Kind.DESCRIPTION).pack(),
        timeout=DESCRIPTION_SEC,
        consolidation=zenoh.ConsolidationMode.NONE,
    )


def read_description(origin: Origin, replies: Any) -> dict[str, Any]:
    """What a host reports about its segment: the values of `DESCRIBED` that exist and have the right type."""
    found: dict[str, Any] = {"name": origin.segment, "host": origin.host, "id": origin.id}
    with contextlib.suppress(zenoh.ZError, ValueError, RecursionError):
        sample = replies.recv().ok
        said = json.loads(sample.payload.to_bytes()) if sample is not None and len(sample.payload) < 4096 else None
        if isinstance(said, dict):
            found |= {key: said[key] for key, kinds in DESCRIBED.items() if isinstance(said.get(key), kinds)}
    return found

"""The webhook: a POST when the state of a segment changes."""

import base64
import http.client
import json
import logging
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Self
from urllib.parse import unquote, urlsplit

from billiards_shm.monitor.health import HealthState, SegmentHealth

__all__ = ["Webhook"]

_log = logging.getLogger(__name__)

WATCH_INTERVAL_S: Final = 0.5
TIMEOUT_S: Final = 10.0
"""How long the receiver may be silent."""
FIRST_RETRY_S: Final = 1.0
LONGEST_RETRY_S: Final = 60.0
GIVE_UP_S: Final = 3600.0
"""Age at which an event that could not be delivered is discarded."""
MAX_WAITING: Final = 256
"""Events that wait to be delivered. The oldest are discarded, because newer ones are more relevant."""

_TRY_AGAIN: Final = (408, 425, 429)


class _RefusedError(Exception):
    """An answer that rejects the event for good."""


class _Event(NamedTuple):
    body: dict[str, Any]
    at: float


class Webhook:
    """Posts ``{name, state, previous, reason, time}`` as JSON for each change, in order, from its own threads.

    The states at the start are not posted. A segment that appears later was `gone` before.

    Parameters
    ----------
    url : str
        An http or https URL. A user and a password in it are sent as HTTP Basic. Only its host is logged.
    health : callable
        Returns the health of every watched segment, by name.
    """

    def __init__(self, url: str, health: Callable[[], Mapping[str, SegmentHealth]]) -> None:
        parts = urlsplit(url)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        # Without a port, http.client would mistake the end of an IPv6 address for one.
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._tls else 80)
        self._target = parts._replace(scheme="", netloc="", fragment="", path=parts.path or "/").geturl()
        self._headers = {"Content-Type": "application/json", "User-Agent": "billiards-shm"}
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
        self._health = health
        self._states: dict[str, HealthState] | None = None
        self._waiting: deque[_Event] = deque(maxlen=MAX_WAITING)
        self._delivering = False
        self._arrival = threading.Event()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"billiards-shm-webhook-{work.__name__.strip('_')}", daemon=True)
            for work in (self._watch, self._deliver_all)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        # A delivery in progress ends with the process: a silent receiver must not delay the stop.
        self._stop.set()
        self._arrival.set()
        if left := len(self._waiting) + self._delivering:
            _log.warning("Changes of state that were not delivered to the webhook: %d", left)

    def _watch(self) -> None:
        while True:
            try:
                self._compare(self._health())
            except Exception:
                _log.exception("The states of the segments could not be read for the webhook")
            if self._stop.wait(WATCH_INTERVAL_S):
                return

    def _compare(self, segments: Mapping[str, SegmentHealth]) -> None:
        """Queue an event for each changed state."""
        states = {name: segment.state for name, segment in segments.items()}
        known, self._states = self._states, states
        if known is None:
            return
        for name, segment in segments.items():
            previous = known.get(name, HealthState.GONE)
            if segment.state is not previous:
                now = datetime.now(UTC).isoformat(timespec="milliseconds")
                body = {"name": name, "state": segment.state, "previous": previous, "reason": segment.reason}
                self._queue({**body, "time": now})

    def _queue(self, body: dict[str, Any]) -> None:
        if len(self._waiting) == MAX_WAITING:
            _log.warning("The webhook has %d changes to deliver: the oldest one is discarded", MAX_WAITING)
        self._waiting.append(_Event(body, time.monotonic()))
        self._arrival.set()

    def _deliver_all(self) -> None:
        while True:
            self._arrival.wait()
            self._arrival.clear()
            while not self._stop.is_set():
                try:
                    event = self._waiting.popleft()
                except IndexError:
                    break
                self._delivering = True
                self._delivering = not self._deliver(event)
            if self._stop.is_set():
                return

    def _deliver(self, event: _Event) -> bool:
        """Post one event, again and again until it is accepted, refused or too old; False: the server stopped first."""
        pause = FIRST_RETRY_S
        while True:
            try:
                self._post(json.dumps(event.body).encode())
            except _RefusedError as refusal:
                _log.warning("The webhook at %s refused a change of %s: %s", self._host, event.body["name"], refusal)
                return True
            except (OSError, http.client.HTTPException) as error:
                problem = getattr(error, "strerror", None) or str(error) or type(error).__name__
            except Exception:
                _log.exception("A change could not be posted to the webhook at %s", self._host)
                return True
            else:
                if pause > FIRST_RETRY_S:
                    _log.info("The webhook at %s is back", self._host)
                return True
            if time.monotonic() - event.at > GIVE_UP_S:
                _log.warning("A change of %s was not delivered: the webhook was away for too long", event.body["name"])
                return True
            if pause == FIRST_RETRY_S:
                _log.warning("The webhook at %s cannot be reached (%s): trying again", self._host, problem)
            if self._stop.wait(pause):
                return False
            pause = min(pause * 2, LONGEST_RETRY_S)

    def _post(self, body: bytes) -> None:
        connection = (
            http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
            if self._tls is None
            else http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT_S, context=self._tls)
        )
        try:
            connection.request("POST", self._target, body, self._headers)
            status = connection.getresponse().status  # the rest of the answer is ignored
        finally:
            connection.close()
        if status >= 500 or status in _TRY_AGAIN:
            raise OSError(f"it answers {status}")
        if status >= 300:
            raise _RefusedError(f"it answers {status}")

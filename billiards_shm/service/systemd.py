"""Notifies systemd of a service: ready, status, watchdog, stopping.

The protocol is one datagram of ``KEY=value`` lines (sd_notify(3)). The packages for it need libsystemd and a compiler,
or are unmaintained.
"""

import logging
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final, Self

__all__ = ["ServiceNotifier"]

_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")

_log = logging.getLogger(__name__)


class ServiceNotifier:
    """Notifies the service manager. Without one, every method does nothing.

    Parameters
    ----------
    address : str
        Path of the manager's socket, with a leading ``@`` for an abstract one; empty: no manager.
    watchdog_sec : float or None
        Seconds without a ping after which the manager ends the service; None: no watchdog.
    """

    def __init__(self, address: str = "", watchdog_sec: float | None = None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        self._ready = False
        self._stopping = False
        self._status = ""
        # The manager ends the service only after three lost or late pings.
        self._ping_interval_ns = None if watchdog_sec is None else round(watchdog_sec / 4 * 1e9)
        self._next_ping_ns = 0
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            # A manager that does not read must not hold up the service.
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] | None = None) -> Self:
        """Read the variables of the manager, and remove them: child processes must not inherit them."""
        variables = os.environ if environ is None else environ
        address, watchdog, pid = (variables.pop(name, "") for name in _VARIABLES)
        if address and not address.startswith(("/", "@")):
            _log.warning("NOTIFY_SOCKET is %r, which is neither a path nor an abstract socket: ignored", address)
            address = ""
        watched = watchdog.isdecimal() and int(watchdog) > 0 and pid in ("", str(os.getpid()))
        return cls(address, int(watchdog) / 1e6 if address and watched else None)

    @property
    def ping_interval_sec(self) -> float | None:
        """How often `alive` must be called; None: no watchdog."""
        return None if self._ping_interval_ns is None else self._ping_interval_ns / 1e9

    def ready(self) -> None:
        """Notify, once, that the service is ready."""
        if not self._ready:
            self._ready = True
            self._send("READY=1")

    def status(self, text: str) -> None:
        """Set the status line of ``systemctl status``."""
        text = " ".join(text.split())
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def alive(self) -> None:
        """Ping the watchdog, if a ping is due. Call it after each piece of work."""
        if self._ping_interval_ns is None:
            return
        now = time.monotonic_ns()
        if now >= self._next_ping_ns:
            self._next_ping_ns = now + self._ping_interval_ns
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Notify, once, that the service is stopping."""
        if not self._stopping:
            self._stopping = True
            self._send("STOPPING=1")

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(text.encode(errors="replace"), self._address)
        except OSError as error:
            _log.debug("The service manager did not get %s: %s", text, error)

"""What systemd is told of a service: that it is ready, how it is, that it lives, that it stops.

The protocol is one datagram of ``KEY=value`` lines (sd_notify(3)); the packages for it are wrappers of libsystemd that
need a compiler, or unmaintained.
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
    """Tells the service manager; without one every method does nothing.

    Parameters
    ----------
    address : str
        Path of the manager's socket, with a leading ``@`` for an abstract one; empty: there is no manager.
    watchdog_sec : float or None
        Seconds without a ping after which the manager ends the service; None: it does not watch.
    """

    def __init__(self, address: str = "", watchdog_sec: float | None = None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        self._ready = False
        self._stopping = False
        self._status = ""
        # Three pings may be lost or late before the manager loses patience.
        self._ping_interval_ns = None if watchdog_sec is None else round(watchdog_sec / 4 * 1e9)
        self._next_ping_ns = 0
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            # A manager that does not read is no reason to wait.
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] | None = None) -> Self:
        """Read what the manager said, and take it out of the environment: it was not meant for child processes."""
        variables = os.environ if environ is None else environ
        address, watchdog, pid = (variables.pop(name, "") for name in _VARIABLES)
        if address and not address.startswith(("/", "@")):
            _log.warning("NOTIFY_SOCKET is %r, which is neither a path nor an abstract socket: left alone", address)
            address = ""
        watched = watchdog.isdecimal() and int(watchdog) > 0 and pid in ("", str(os.getpid()))
        return cls(address, int(watchdog) / 1e6 if address and watched else None)

    @property
    def ping_interval_sec(self) -> float | None:
        """How often `alive` has to be called; None: nobody watches."""
        return None if self._ping_interval_ns is None else self._ping_interval_ns / 1e9

    def ready(self) -> None:
        """Tell, once, that the service does what it is for."""
        if not self._ready:
            self._ready = True
            self._send("READY=1")

    def status(self, text: str) -> None:
        """Tell in a line, for ``systemctl status``, how the service is."""
        text = " ".join(text.split())
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def alive(self) -> None:
        """Keep the watchdog quiet: to be called when something has got done, as often as one likes."""
        if self._ping_interval_ns is None:
            return
        now = time.monotonic_ns()
        if now >= self._next_ping_ns:
            self._next_ping_ns = now + self._ping_interval_ns
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Tell, once, that the service ends because it was asked to, or is done."""
        if not self._stopping:
            self._stopping = True
            self._send("STOPPING=1")

    def close(self) -> None:
        """Tell nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(text.encode(errors="replace"), self._address)
        except OSError as error:
            _log.debug("The service manager was not told %s: %s", text, error)

"""The server process: sockets, signals, exit."""

import asyncio
import errno
import gc
import ipaddress
import logging
import socket
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import uvicorn

from billiards_shm.config.model import ServeConfig
from billiards_shm.serve.app import create_app
from billiards_shm.serve.connections import LimitedProtocol, LogLimit, allowed_connections
from billiards_shm.serve.webhook import Webhook
from billiards_shm.service.signals import StopRequest

__all__ = ["listen", "run_server"]

_log = logging.getLogger(__name__)

GRACE_S: Final = 0.25
"""How long connections may take to end at a stop. Only clients that do not read take that long."""

NOT_YET_SENT_BYTES: Final = 32 * 1024
"""Data of a connection that may wait in the kernel before it is sent; more would be old by the time it is sent.

The send buffer itself has no limit: over long distances, speed needs much data that is sent and not yet acknowledged.
"""

NO_PROGRESS_S: Final = 60
"""A connection is closed when its client takes no data for this long."""


class _UvicornServer(uvicorn.Server):
    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        # `StopRequest` handles the signals. uvicorn would raise them again when it ends.
        return nullcontext()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(GRACE_S, self._abort_connections)
        await super().shutdown(sockets)

    def _abort_connections(self) -> None:
        """Close connections whose clients do not read. The other streams have ended by now."""
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()


def listen(host: str, port: int) -> socket.socket:
    """Open the listening socket. Its connections buffer little, so slow clients do not get old frames.

    Raises
    ------
    OSError
        There is no such address, or another process listens there.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            # Connections inherit these.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_YET_SENT_BYTES)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, NO_PROGRESS_S * 1000)
            listener.bind(address)
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise OSError(error.errno, f"cannot listen at {host} port {port}: {error.strerror}") from error
    except ValueError as error:
        raise OSError(errno.EINVAL, f"cannot listen at {host!r}, which is not a host name: {error}") from error
    return listener


def _with_mapped(proxies: str) -> list[str]:
    """Add the names of IPv4 addresses on a socket that listens for IPv6."""
    found = [proxy.strip() for proxy in proxies.split(",")]
    if "*" in found:
        return ["*"]
    networks = [ipaddress.ip_network(proxy) for proxy in found if proxy]
    mapped = [f"::ffff:{net.network_address}/{96 + net.prefixlen}" for net in networks if net.version == 4]
    return [*map(str, networks), *mapped]


def run_server(names: Sequence[str] | None, settings: ServeConfig) -> int:
    """Serve until a signal requests a stop.

    Call it from the main thread, because only that can set signal handlers. A second signal ends the process.

    Parameters
    ----------
    names : sequence of str or None
        As for `create_app`.
    settings : ServeConfig

    Returns
    -------
    int
        The exit code, 0.

    Raises
    ------
    OSError
        The port cannot be opened.
    """
    app = create_app(
        names,
        token=settings.token,
        max_clients=settings.max_clients,
        max_frame_age=settings.max_frame_age,
        allowed_hosts=[name.strip() for name in settings.allowed_hosts.split(",")],
        allowed_origins=settings.allowed_origins.split(","),
    )
    listener = listen(settings.host, settings.port)
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        http=LimitedProtocol.with_limit(allowed_connections(settings.max_clients)),
        backlog=64,  # asyncio accepts this many before it handles the first
        ws="websockets-sansio",
        ws_max_size=4096,
        ws_per_message_deflate=False,  # JPEGs do not get smaller
        timeout_graceful_shutdown=1,
        timeout_keep_alive=30,
        forwarded_allow_ips=_with_mapped(settings.trusted_proxies),
    )
    limit = LogLimit()
    for logger in ("uvicorn.error", "asyncio", "billiards_shm.serve.connections"):
        logging.getLogger(logger).addFilter(limit)
    server = _UvicornServer(config)

    async def serve() -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            # uvicorn waits for responses to end, and streams do not end on their own. So end them before the
            # grace period.
            loop.call_soon_threadsafe(app.state.clients.stop)
            server.should_exit = True

        # Inside the loop, because on some systems loops replace the descriptor for signals when they start.
        with StopRequest(stop):
            bound = listener.getsockname()
            shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
            _log.info("Serving %s at http://%s:%d/", ", ".join(names) if names else "all segments", shown, bound[1])
            if settings.token is None and not ipaddress.ip_address(bound[0]).is_loopback:
                _log.warning("Everyone who can reach this address can see the images; --token prevents that")
            await server.serve([listener])

    with nullcontext() if settings.webhook is None else Webhook(settings.webhook, app.state.monitor.health):
        asyncio.run(serve())
    _log.info("Stopped")
    gc.freeze()  # saves a garbage collection at exit
    return 0

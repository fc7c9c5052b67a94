"""A proxy between browser and server that treats WebSockets, pictures and bandwidth as bad networks do."""

import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self

from serving import Address

_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_BAD_GATEWAY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass
class Proxy:
    """Passes bytes on, in both directions, and does what its attributes say."""

    server_port: int
    websockets: bool = True
    """False: refused, as by a proxy that does not know Upgrade."""
    frozen: bool = False
    """True: WebSockets stay open, and nothing comes through them."""
    ends_websockets: bool = False
    """True: they are closed as soon as they are open."""
    bytes_a_second: float = float("inf")
    """Bandwidth towards the browser, for all connections together."""
    refused: int = 0
    """WebSockets that were refused or closed."""
    _listener: socket.socket = field(default_factory=socket.socket)
    _open: set[socket.socket] = field(default_factory=set)
    _bandwidth: threading.Lock = field(default_factory=threading.Lock)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(300))

    def __enter__(self) -> Self:
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(128)
        self.address = Address(self._listener.getsockname()[1])
        self._pool.submit(self._accept)
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._pool.shutdown()

    def cut(self) -> None:
        """Close every connection."""
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._pool.submit(self._connect, self._listener.accept()[0])

    def _connect(self, browser: socket.socket) -> None:
        self._open.add(browser)
        with contextlib.suppress(OSError), browser:
            head = b""
            while b"\r\n\r\n" not in head:
                data = browser.recv(65536)
                if not data:
                    return
                head += data
            # Browsers open a WebSocket over a separate connection.
            is_websocket = head.startswith(b"GET /ws/")
            if is_websocket and not self.websockets:
                self.refused += 1
                browser.sendall(_NOT_FOUND)
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.server_port))
            except OSError:
                browser.sendall(_BAD_GATEWAY)
                return
            self._open.add(server)
            with server:
                server.sendall(head)
                upwards = self._pool.submit(self._pass_on, browser, server, False, False)
                self._pass_on(server, browser, is_websocket, True)
                upwards.result()
            self._open.discard(server)
        self._open.discard(browser)

    def _pass_on(self, source: socket.socket, target: socket.socket, is_websocket: bool, is_slow: bool) -> None:
        with contextlib.suppress(OSError):
            # Small pieces: what the kernel accepts in one go is sent in one go.
            while data := source.recv(4096 if self.bytes_a_second < 1e9 else 65536):
                if is_websocket and self.frozen:
                    continue
                if is_websocket and self.ends_websockets:
                    head, end, _ = data.partition(b"\r\n\r\n")
                    target.sendall(head + end)
                    self.refused += 1
                    break
                if is_slow and self.bytes_a_second < 1e9:
                    with self._bandwidth:
                        time.sleep(len(data) / self.bytes_a_second)
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

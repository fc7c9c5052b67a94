"""Servers and clients for the tests of `serve`: over real sockets, in a thread of the test or as users start it."""

import http.client
import json
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import command_line
import cv2
import numpy as np
import numpy.typing as npt
import uvicorn
from segments_under_test import wait_until

from billiards_shm import SharedMemoryFrameWriter
from billiards_shm.serve.connections import LimitedProtocol
from billiards_shm.serve.server import _UvicornServer, listen
from billiards_shm.sources.demo.table import DemoTable


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def image(self) -> npt.NDArray[Any]:
        image = cv2.imdecode(np.frombuffer(self.body, np.uint8), cv2.IMREAD_UNCHANGED)
        assert image is not None
        return image


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    port: int
    host: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None

    def url(self, path: str, scheme: str = "http") -> str:
        return f"{scheme}{'s' if self.tls else ''}://{self.host}:{self.port}{path}"

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        connection = socket.create_connection((self.host, self.port), timeout=30)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        return self.tls.wrap_socket(connection, server_hostname=self.host) if self.tls else connection

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        connection.sock = self.connect()
        try:
            connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
            response = connection.getresponse()
            found = {name.lower(): ", ".join(response.headers.get_all(name, [])) for name in response.headers}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, **headers)

    def stream(self, path: str) -> "Mjpeg":
        return Mjpeg(self, path)


@contextmanager
def served(app: Any, *, connections: int = 1000) -> Iterator[Address]:
    """Serve an application from a thread while the block runs."""
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        http=LimitedProtocol.with_limit(connections),
        ws="websockets-sansio",
        timeout_graceful_shutdown=1,
        lifespan="auto",
    )
    server = _UvicornServer(config)  # which ends connections that do not read
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: server.started, "the start of the server")
        yield Address(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()
        assert not thread.is_alive()


class ServeProcess:
    """``billiards-shm serve`` on its own port."""

    def __init__(self, *arguments: object, **environment: str) -> None:
        self.process = command_line.start("serve", *arguments, "--port", 0, **environment)
        assert self.process.stderr is not None
        self.log = ""
        while not (found := re.search(r"at http://[^\s]*:(\d+)/", self.log)):
            line = self.process.stderr.readline()
            assert line, self.log
            self.log += line
        self.address = Address(int(found[1]))
        wait_until(self._answers, "the first answer")

    def _answers(self) -> bool:
        try:
            return self.address.get("/healthz").status == 200
        except OSError:
            return False

    def signal(self, number: int) -> int:
        """Send a signal; return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        assert self.process.stderr is not None
        self.log += self.process.stderr.read()
        self.process.communicate()


class Mjpeg:
    """An MJPEG client that parses the stream strictly."""

    def __init__(self, address: Address, path: str, *, receive_buffer: int | None = None) -> None:
        self.socket = address.connect(receive_buffer)
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {address.host}\r\n\r\n".encode())
        self._file = self.socket.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        self.headers = dict(self._header_lines())
        self._chunk = 0

    def _header_lines(self) -> Iterator[tuple[str, str]]:
        while line := self._file.readline().rstrip(b"\r\n"):
            name, _, value = line.decode().partition(": ")
            yield name.lower(), value

    def _read(self, count: int) -> bytes:
        """Read bytes of the body; its chunks have nothing to do with the parts."""
        data = b""
        while len(data) < count:
            if not self._chunk:
                self._chunk = int(self._file.readline(), 16)
                if not self._chunk:
                    raise EOFError
            piece = self._file.read(min(count - len(data), self._chunk))
            assert piece, "the connection was closed within a part"
            data += piece
            self._chunk -= len(piece)
            if not self._chunk:
                assert self._file.readline() == b"\r\n"
        return data

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            line += self._read(1)
        return line[:-2]

    def part(self) -> Answer:
        """The next part: its headers and its JPEG."""
        boundary = self.headers["content-type"].partition("boundary=")[2]
        line = self._line()
        while not line:
            line = self._line()
        assert line == b"--" + boundary.encode()
        headers = {}
        while line := self._line():
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        return Answer(200, headers, self._read(int(headers["content-length"])))

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass
class Filming:
    """Publishes pictures of the demo from a thread: number n under sequence n, as long as it is not restarted."""

    name: str
    size: tuple[int, int] = (320, 180)
    fps: float = 50.0
    published: int = 0
    paused: bool = False
    _resting: threading.Event = field(default_factory=threading.Event)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        wait_until(lambda: self.published, "the first frame")
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def pause(self) -> None:
        """When this returns, `published` does not change until `paused` is cleared."""
        self._resting.clear()
        self.paused = True
        assert self._resting.wait(60)

    def _run(self) -> None:
        table, size = DemoTable(*self.size, 30), self.size
        with SharedMemoryFrameWriter(self.name, (self.size[1], self.size[0], 3)) as writer:
            while not self._stop.wait(1 / self.fps):
                if self.paused:
                    self._resting.set()
                    continue
                if self.size != size:
                    size = self.size
                    table = DemoTable(*size, 30, first=self.published + 1)
                table.grab()
                self.published = writer.write_frame(table.retrieve(None))

"""Clients that send too much, too slowly, or in too great numbers."""

import logging
import resource
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace

import command_line
import psutil
import pytest
from segments_under_test import picture, wait_until
from serving import Address, Filming, Mjpeg, ServeProcess, served

from billiards_shm import SharedMemoryFrameWriter, inspect_segment
from billiards_shm.serve import connections, create_app
from billiards_shm.serve.connections import MAX_BODY_BYTES, MAX_HEAD_BYTES, MAX_WAITING_REQUESTS, LogLimit


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    yield
    command_line.end_started()


@pytest.fixture(scope="module")
def server() -> Iterator[Address]:
    with served(create_app([])) as server:
        yield server


def opened(server: Address, sent: bytes = b"") -> socket.socket:
    client = socket.create_connection((server.host, server.port), timeout=30)
    client.sendall(sent)
    return client


def status_of(client: socket.socket) -> int:
    return int(client.makefile("rb").readline().split()[1])


def is_ended(client: socket.socket) -> bool:
    """Wait for the server to end a connection; False if it answers instead."""
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def is_answered(client: socket.socket) -> bool:
    answer = b""
    while b'"ok"' not in answer:
        received = client.recv(4096)
        if not received:
            return False
        answer += received
    return True


# Too much.


@pytest.mark.parametrize("size", [MAX_HEAD_BYTES, 10 * MAX_HEAD_BYTES])
@pytest.mark.parametrize("end", [b"\r\n\r\n", b""], ids=["complete", "endless"])
def test_headers_that_are_too_large_are_refused(server: Address, size: int, end: bytes) -> None:
    with opened(server, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-More: " + b"x" * size + end) as client:
        assert status_of(client) == 431


def test_many_headers_and_long_addresses_count_too(server: Address) -> None:
    many = b"".join(b"X-%d: 0123456789\r\n" % number for number in range(1000))
    for request in (b"GET / HTTP/1.1\r\n" + many + b"\r\n", b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\n\r\n"):
        with opened(server, request) as client:
            assert status_of(client) == 431


def test_headers_without_an_end_are_not_kept(server: Address) -> None:
    with opened(server, b"GET / HTTP/1.1\r\nX-More: ") as client:
        sent = 0
        with suppress(ConnectionError):
            while sent < 10**9:
                sent += client.send(b"x" * 65536)
    print(f"{sent / 1e6:.1f} MB were taken by the kernel and the server before the end")
    assert sent < 10**9


def test_requests_before_the_answer_are_answered_in_turn_up_to_a_number(server: Address) -> None:
    get = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with opened(server, get * MAX_WAITING_REQUESTS) as client:
        answers = client.makefile("rb")
        for _ in range(MAX_WAITING_REQUESTS):
            assert answers.readline().split()[1] == b"200"
            while answers.readline() != b"\r\n":
                pass
            answers.read(len(b'{"status":"ok"}'))
    with opened(server, get * (MAX_WAITING_REQUESTS + 2)) as client, suppress(ConnectionError):
        assert client.makefile("rb").read().count(b"200 OK") <= MAX_WAITING_REQUESTS + 1


@pytest.mark.slow
def test_a_request_that_is_too_large_behind_a_stream_ends_the_stream(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, (48, 64, 3)) as writer, served(create_app([segment_name])) as server:
        writer.write_frame(picture(1, (48, 64, 3)))
        get = f"GET /stream/{segment_name}.mjpg HTTP/1.1\r\nHost: localhost\r\n".encode()
        with opened(server, get + b"\r\n") as client:
            assert status_of(client) == 200
            client.sendall(get + b"\r\n" + get + b"X: " + b"x" * 2 * MAX_HEAD_BYTES)
            while not is_ended(client):
                pass
        wait_until(lambda: not server.get("/api/clients").json)


UPGRADE = (
    "Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def test_a_websocket_requested_behind_a_stream_ends_the_stream(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, (48, 64, 3)) as writer, served(create_app([segment_name])) as server:
        writer.write_frame(picture(1, (48, 64, 3)))
        with opened(server, f"GET /stream/{segment_name}.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()) as client:
            assert status_of(client) == 200
            client.sendall(f"GET /ws/{segment_name} HTTP/1.1\r\n{UPGRADE}".encode())
        wait_until(lambda: not server.get("/api/clients").json)


def test_headers_below_the_limit_are_read(server: Address) -> None:
    assert server.get("/healthz", X_More="x" * (MAX_HEAD_BYTES - 500)).status == 200


def test_bodies_that_are_too_large_are_refused(server: Address) -> None:
    announced = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    with opened(server, announced % (MAX_BODY_BYTES + 1)) as client:
        assert status_of(client) == 413
    chunked = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with opened(server, chunked) as client:
        sent = 0
        with suppress(ConnectionError):
            while sent < 10**9:
                client.sendall(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
                sent += 0x8000
    assert sent < 10**9
    assert server.request("POST", "/login", b"token=x").status == 303


def test_nothing_is_answered_after_a_refusal(server: Address) -> None:
    large = b"GET /healthz HTTP/1.1\r\nX-More: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n"
    with opened(server, large + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nno HTTP at all\r\n\r\n") as client:
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert answer.count(b"HTTP/1.1") == 1


# Too slowly.


def test_headers_that_never_end_close_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_S", 0.3)
    with served(create_app([])) as server:
        for half in (b"", b"GET", b"GET / HTTP/1.1\r\nHost: loc"):
            with opened(server, half) as client:
                assert is_ended(client), half
        with opened(server, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") as client:
            answer = b""
            while b'"ok"' not in answer:
                answer += client.recv(4096)
            client.sendall(b"GET / HT")
            assert is_ended(client), "in a further request"


HALF_BODIES = [
    b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\ntoken=",
    b"POST /login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n",
]


@pytest.mark.parametrize("half", HALF_BODIES, ids=["length", "chunked", "get"])
def test_bodies_that_never_end_close_the_connection(half: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_S", 0.3)
    with served(create_app([], token="secret")) as server, opened(server, half) as client, suppress(ConnectionError):
        while client.recv(4096):
            pass


@pytest.mark.parametrize("half", HALF_BODIES, ids=["length", "chunked", "get"])
def test_connections_whose_bodies_do_not_arrive_make_room(half: bytes) -> None:
    with served(create_app([], token="secret"), connections=4) as server, ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(opened(server, half))
        assert server.get("/healthz").status == 200


def test_data_after_a_chunked_body_is_limited(server: Address) -> None:
    with opened(server, HALF_BODIES[1] + b"0\r\n") as client:
        sent = 0
        with suppress(ConnectionError):
            while sent < 10**9:
                client.sendall(b"X-More: " + b"x" * 65536 + b"\r\n")
                sent += 65536
    assert sent < 10**9


def test_a_body_may_be_slow_as_long_as_it_keeps_arriving(server: Address) -> None:
    with opened(server, HALF_BODIES[1]) as client:
        client.sendall(b"1\r\na\r\n" * 1000 + b"0\r\n\r\n")
        assert status_of(client) == 303
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert is_answered(client)


# Too many.


def test_the_connection_that_is_idle_for_longest_makes_room(segment_name: str) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, (48, 64, 3)) as writer,
        served(create_app([segment_name]), connections=4) as server,
        ExitStack() as stack,
    ):
        writer.write_frame(picture(1, (48, 64, 3)))
        stream = stack.enter_context(server.stream(f"/stream/{segment_name}.mjpg"))
        stream.part()
        idle = [stack.enter_context(opened(server, b"GET / HTTP")) for _ in range(3)]
        for number in range(3):
            with opened(server, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") as client:
                assert status_of(client) == 200
                if number == 0:
                    assert is_ended(idle[0])
        writer.write_frame(picture(2, (48, 64, 3)))
        assert stream.part().headers["x-frame-sequence"] == "2"


def test_a_server_whose_connections_are_all_busy_says_so(segment_name: str) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, (48, 64, 3)) as writer,
        served(create_app([segment_name]), connections=2) as server,
        ExitStack() as stack,
    ):
        writer.write_frame(picture(1, (48, 64, 3)))
        streams = [stack.enter_context(server.stream(f"/stream/{segment_name}.mjpg")) for _ in range(2)]
        for stream in streams:
            stream.part()
        with opened(server, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") as client:
            assert status_of(client) == 503


# Many hostile clients at once, and one that wants its pictures.

NEVER_READ, SLOW, RESET = 200, 1500, 300
MAX_GROWTH_BYTES = 150_000_000


class Watched:
    """A server with a viewer, and the resources that the server uses."""

    def __init__(self, running: ServeProcess, viewer: Mjpeg) -> None:
        self.address = running.address
        self._viewer = viewer
        self._seen: list[int] = []
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        self._process = psutil.Process(running.process.pid)
        self.keeps_pictures_coming()
        self._descriptors, self._memory = self._process.num_fds(), self._process.memory_info().rss

    def _watch(self) -> None:
        with suppress(EOFError, OSError, ValueError):  # until it is stopped
            while True:
                self._seen.append(int(self._viewer.part().headers["x-frame-sequence"]))

    def stop(self) -> None:
        self._viewer.socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def keeps_pictures_coming(self) -> None:
        """Some pictures may be missed, because the hostile clients keep this machine busy."""
        so_far = len(self._seen)
        wait_until(lambda: len(self._seen) >= so_far + 25)
        numbers = self._seen[so_far // 2 :]
        print(f"the viewer got {len(numbers)} of {numbers[-1] - numbers[0] + 1} pictures; {self.used()}")
        assert numbers[-1] - numbers[0] < 4 * len(numbers)

    def used(self) -> str:
        return f"{self._process.num_fds()} descriptors, {self._process.memory_info().rss / 1e6:.0f} MB"

    def keeps_little(self) -> None:
        assert self._process.memory_info().rss - self._memory < MAX_GROWTH_BYTES, self.used()

    def lets_go(self) -> None:
        wait_until(lambda: self._process.num_fds() <= self._descriptors, "the end of the connections")
        wait_until(lambda: len(self.address.get("/api/clients").json) == 1)
        self.keeps_little()
        self.keeps_pictures_coming()


@pytest.fixture
def watched(segment_name: str) -> Iterator[Watched]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, SLOW + 500), hard))
    try:
        with (
            Filming(segment_name, size=(1280, 720), fps=25),
            ServeProcess(segment_name, "--max-clients", 300) as running,
            running.address.stream(f"/stream/{segment_name}.mjpg") as viewer,
        ):
            watched = Watched(running, viewer)
            try:
                yield watched
            finally:
                watched.stop()
            assert running.process.poll() is None
        assert len(running.log.splitlines()) < 10, running.log
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
def test_clients_that_never_read_cost_others_nothing(watched: Watched, segment_name: str) -> None:
    request = f"GET /stream/{segment_name}.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with ExitStack() as stack:
        for _ in range(NEVER_READ):
            stack.enter_context(opened(watched.address, request))
        wait_until(lambda: len(watched.address.get("/api/clients").json) == 1 + NEVER_READ)
        watched.keeps_pictures_coming()
        watched.keeps_little()
    watched.lets_go()


@pytest.mark.slow
def test_clients_that_send_headers_slowly_cost_others_nothing(watched: Watched) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(opened(watched.address, b"GET / HTTP/1.1\r\n")) for _ in range(SLOW)]
        for _ in range(4):
            for client in slow:
                with suppress(OSError):  # it was closed
                    client.sendall(b"X-More: a\r\n")
            watched.keeps_pictures_coming()
        watched.keeps_little()
        for client in slow:
            assert is_ended(client)
    watched.lets_go()


@pytest.mark.slow
def test_connections_that_are_reset_leave_nothing_behind(watched: Watched, segment_name: str) -> None:
    paths = (f"/stream/{segment_name}.mjpg", f"/snapshot/{segment_name}.png", "/api/events", "/metrics")
    for number in range(RESET):
        request = f"GET {paths[number % len(paths)]} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        client = opened(watched.address, request)
        if number % 2:
            client.recv(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() resets
        client.close()
    watched.keeps_pictures_coming()
    watched.lets_go()
    wait_until(lambda: len(inspect_segment(segment_name).readers) <= 1)


def limited(tmp_path: Path, option: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the program with that many descriptors."""
    script = tmp_path / "limited"
    script.write_text(f'#!/bin/sh\nulimit {option} {count}\nexec "{command_line.SCRIPT}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(command_line, "SCRIPT", str(script))


@pytest.mark.slow
def test_more_half_sent_requests_than_descriptors_lock_nobody_out_and_fill_no_log(
    tmp_path: Path, segment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(tmp_path, "-n", 256, monkeypatch)
    with ServeProcess(segment_name) as running, ExitStack() as stack:
        for _ in range(300):
            with suppress(ConnectionError):
                stack.enter_context(opened(running.address, b"GET / HTTP/1.1\r\nHost:"))
        for _ in range(20):
            assert running.address.get("/healthz").status == 200
        with suppress(ConnectionError):
            for _ in range(50):
                opened(running.address, b"no HTTP\r\n\r\n").close()
        assert running.address.get("/healthz").status == 200
    lines = running.log.splitlines()
    assert len(lines) < 10, running.log
    assert "closing idle ones" in running.log


def test_the_soft_limit_of_descriptors_is_raised(
    tmp_path: Path, segment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(tmp_path, "-Sn", 200, monkeypatch)
    with ServeProcess(segment_name) as running:
        soft, hard = resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)
    assert soft == (65536 if hard == resource.RLIM_INFINITY else min(hard, 65536))


def test_a_line_of_log_is_repeated_once_a_minute_with_a_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(connections, "time", SimpleNamespace(monotonic=lambda: now))  # the servers' loops keep theirs
    limit, three = LogLimit(), LogLimit(lines=3)

    def passes(line: int, error: BaseException | None = None, limit: LogLimit = limit) -> str | None:
        kind = (type(error), error, None) if error else None
        record = logging.LogRecord("n", logging.WARNING, "file", line, "from %s", ("here",), kind)
        return record.getMessage() if limit.filter(record) else None

    assert passes(1) == "from here"
    assert passes(2) == "from here", "another line"
    assert passes(1, ValueError()) == "from here", "another kind"
    assert [passes(1) for _ in range(5)] == [None] * 5
    now += 61
    assert passes(1) == "from here (and 5 more in the last 61 s)"
    assert passes(1) is None
    assert [passes(1, limit=three) for _ in range(5)] == ["from here"] * 3 + [None] * 2
    now += 61
    assert passes(1, limit=three) == "from here (and 2 more in the last 61 s)"

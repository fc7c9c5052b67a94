"""Clients that send too much, too slowly, or in too great numbers."""

import logging
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace

import command_line
import pytest
from segments_under_test import picture
from serving import Address, ServeProcess, served

from billiards_shm import SharedMemoryFrameWriter
from billiards_shm.serve import connections, create_app
from billiards_shm.serve.connections import MAX_BODY_BYTES, MAX_HEAD_BYTES, LogLimit


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


def test_headers_that_do_not_come_to_an_end_end_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 0.3)
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


def limited(tmp_path: Path, option: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the program started with so many descriptors."""
    script = tmp_path / "limited"
    script.write_text(f'#!/bin/sh\nulimit {option} {count}\nexec "{command_line.SCRIPT}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(command_line, "SCRIPT", str(script))


def test_more_half_sent_requests_than_descriptors_keep_nobody_out_and_fill_no_log(
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
    monkeypatch.setattr(connections, "time", SimpleNamespace(monotonic=lambda: now))  # the loops of servers need theirs
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

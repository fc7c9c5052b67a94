"""Moving pictures: many clients at the cost of one, and a slow client delays no other."""

import asyncio
import gc
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import command_line
import numpy as np
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from segments_under_test import picture, wait_until
from serving import Address, Answer, Filming, Mjpeg, ServeProcess, served
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter, inspect_segment
from billiards_shm.serve import create_app
from billiards_shm.serve.clients import Clients
from billiards_shm.serve.feed import MAX_OTHER_FORMATS, PAGE_WIDTHS, Feed, JpegFrame, PreviewFormat
from billiards_shm.serve.streams import MjpegStream
from billiards_shm.sources.demo.table import read_counter

HEADER = struct.Struct("!4d")
LARGE = (1280, 720)
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    yield
    command_line.end_started()


@pytest.fixture
def filming(segment_name: str) -> Iterator[Filming]:
    with Filming(segment_name) as filming:
        yield filming


@pytest.fixture
def server(segment_name: str) -> Iterator[Address]:
    with served(create_app([segment_name])) as server:
        yield server


def metric(server: Address, figure: str, /, **labels: str) -> float:
    """The sum of the samples of that name that have these labels."""
    text = server.get("/metrics").body.decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"billiards_shm_{figure}" and labels.items() <= sample.labels.items()
    )


def shows_its_number(part: Answer) -> int:
    """The number of a part; its header and its picture have to agree."""
    number = int(part.headers["x-frame-sequence"])
    assert read_counter(part.image) == number
    assert datetime.fromisoformat(part.headers["x-frame-capture-time"]).tzinfo is UTC
    return number


# MJPEG.


def test_a_stream_consists_of_whole_pictures_in_order(server: Address, filming: Filming) -> None:
    with server.stream(f"/stream/{filming.name}.mjpg") as stream:
        assert stream.status == 200
        assert stream.headers["content-type"].startswith("multipart/x-mixed-replace; boundary=")
        assert stream.headers["cache-control"] == "no-store"
        assert stream.headers["x-accel-buffering"] == "no", "nginx must hold nothing back"
        numbers = [shows_its_number(stream.part()) for _ in range(20)]
    assert numbers == sorted(set(numbers))


def test_a_late_client_gets_the_last_picture_of_an_idle_source(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, (48, 64, 3)) as writer, served(create_app([segment_name])) as server:
        writer.write_frame(picture(1, (48, 64, 3)))
        with server.stream(f"/stream/{segment_name}.mjpg") as stream:
            assert stream.part().headers["x-frame-sequence"] == "1"


def test_width_and_quality_are_as_requested(server: Address, filming: Filming) -> None:
    with server.stream(f"/stream/{filming.name}.mjpg?width=160&quality=95") as stream:
        fine = stream.part()
    with server.stream(f"/stream/{filming.name}.mjpg?width=160&quality=20") as stream:
        coarse = stream.part()
    assert fine.image.shape == coarse.image.shape == (90, 160, 3)
    assert len(coarse.body) < len(fine.body) / 2


def test_fps_is_a_limit(server: Address, filming: Filming) -> None:
    with server.stream(f"/stream/{filming.name}.mjpg?fps=5") as stream:
        first = shows_its_number(stream.part())
        begun = time.monotonic()
        for _ in range(5):
            last = shows_its_number(stream.part())
        took = time.monotonic() - begun
    assert took > 0.85, "five frames at 5 fps take a second"
    assert last - first > 5, "and they are new ones"


def test_the_stream_goes_on_when_the_resolution_changes(server: Address, filming: Filming) -> None:
    with server.stream(f"/stream/{filming.name}.mjpg") as stream:
        for size in ((320, 180), (640, 360), (200, 150), (1280, 720)):
            filming.size = size
            wait_until(lambda size=size: shape_of(stream) == (size[1], size[0]), f"a frame of {size}")


def shape_of(stream: Mjpeg) -> tuple[int, ...]:
    part = stream.part()
    shows_its_number(part)
    return part.image.shape[:2]


def test_the_stream_outlasts_its_writers(segment_name: str, server: Address) -> None:
    with server.stream(f"/stream/{segment_name}.mjpg") as stream:
        for _ in range(3):
            with Filming(segment_name):
                for _ in range(3):
                    shows_its_number(stream.part())


def test_head_returns_the_type_without_a_picture(server: Address, segment_name: str) -> None:
    answer = server.request("HEAD", f"/stream/{segment_name}.mjpg")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-type"].startswith("multipart/x-mixed-replace")


@pytest.mark.slow
def test_curl_and_ffmpeg_are_clients(server: Address, filming: Filming, tmp_path: Path) -> None:
    url = server.url(f"/stream/{filming.name}.mjpg")
    curl = subprocess.run(["curl", "-s", "-m", "1", url], capture_output=True, timeout=30, check=False)
    assert curl.returncode == 28, "only its time limit ended it"
    assert curl.stdout.count(b"\xff\xd8\xff") > 5
    command = ["ffmpeg", "-v", "error", "-f", "mpjpeg", "-i", url, "-frames:v", "10", str(tmp_path / "%02d.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    import cv2

    numbers = [read_counter(cv2.imread(str(path))) for path in sorted(tmp_path.glob("*.png"))]
    assert len(numbers) == 10
    assert numbers == sorted(set(numbers))


# One encoding for all.


def test_fifty_clients_at_once_cost_one_encoding_per_frame(segment_name: str) -> None:
    with ExitStack() as stack:
        filming = stack.enter_context(Filming(segment_name, fps=20))
        server = stack.enter_context(served(create_app([segment_name])))
        streams = [stack.enter_context(server.stream(f"/stream/{segment_name}.mjpg")) for _ in range(50)]
        assert metric(server, "clients", kind="mjpeg") == 50
        with ThreadPoolExecutor(50) as pool:
            seen = list(pool.map(lambda stream: [shows_its_number(stream.part()) for _ in range(15)], streams))
        encoded = metric(server, "encode_seconds_count", name=segment_name)
        sent = metric(server, "client_frames_total", name=segment_name)
        published = filming.published
    for numbers in seen:
        assert numbers == sorted(set(numbers))
    assert sent >= 50 * 15
    assert encoded <= published
    print(f"{published} published, {encoded:g} encoded, {sent:g} sent")


def test_a_form_wider_than_the_frame_is_not_a_separate_form(server: Address, filming: Filming) -> None:
    with ExitStack() as stack:
        for width in ("", "?width=320", "?width=640", "?width=7680"):
            stream = stack.enter_context(server.stream(f"/stream/{filming.name}.mjpg{width}"))
            for _ in range(10):
                assert stream.part().image.shape == (180, 320, 3)
        assert metric(server, "encode_seconds_count") <= filming.published


def test_nothing_is_read_or_encoded_while_nobody_watches(server: Address, filming: Filming) -> None:
    with server.stream(f"/stream/{filming.name}.mjpg") as stream:
        stream.part()
        wait_until(lambda: metric(server, "readers") == 1)
    wait_until(lambda: metric(server, "readers") == 0)
    encoded, published = metric(server, "encode_seconds_count"), filming.published
    wait_until(lambda: filming.published > published + 20)
    assert metric(server, "encode_seconds_count") == encoded


def test_a_client_that_requests_many_forms_leaves_the_others_theirs(server: Address, filming: Filming) -> None:
    path = f"/stream/{filming.name}.mjpg"
    with ExitStack() as stack:
        for quality in range(10, 10 + MAX_OTHER_FORMATS):
            stack.enter_context(server.stream(f"{path}?width=16&quality={quality}")).part()
        page = stack.enter_context(server.stream(f"{path}?width=320"))
        assert page.part().image.shape == (180, 320, 3)
        nearest = stack.enter_context(server.stream(f"{path}?width=200&quality=20"))
        assert nearest.part().image.shape == (180, 320, 3), "the page's next width"
        there_already = stack.enter_context(server.stream(f"{path}?width=16&quality=10"))
        assert there_already.part().image.shape == (9, 16, 3)
    wait_until(lambda: metric(server, "clients") == 0)
    with server.stream(f"{path}?width=200&quality=20") as stream:
        assert stream.part().image.shape == (112, 200, 3)


def test_forms_that_are_no_longer_requested_leave_no_picture(segment_name: str) -> None:
    def pictures() -> int:
        gc.collect()
        return sum(isinstance(found, JpegFrame) for found in gc.get_objects())

    async def ask_for_many() -> int:
        feed = Feed(segment_name, encoders, lambda seconds: None)
        with feed.subscribed(PreviewFormat(320, 80)):
            for quality in range(1, 21):
                with feed.subscribed(PreviewFormat(7680, quality)) as preview:
                    await feed.newest_frame(preview)
            return pictures()

    before = pictures()
    with SharedMemoryFrameWriter(segment_name, (24, 32, 3)) as writer, ThreadPoolExecutor(1) as encoders:
        writer.write_frame(picture(1, (24, 32, 3)))
        assert asyncio.run(ask_for_many()) <= before + 1


def test_the_permanent_forms_are_the_ones_of_the_page() -> None:
    script = (files("billiards_shm.serve") / "page" / "picture.js").read_text()
    assert f"const WIDTHS = {list(PAGE_WIDTHS)};" in script


# Viewers that leave.


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def leave_mjpeg(server: Address, name: str) -> None:
    with server.stream(f"/stream/{name}.mjpg") as stream:
        stream.part()


def abort_mjpeg(server: Address, name: str) -> None:
    with server.stream(f"/stream/{name}.mjpg") as stream:
        stream.part()
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def leave_mjpeg_unread(server: Address, name: str) -> None:
    frames = metric(server, "client_frames_total")
    with idle_client(server, name):
        wait_until(lambda: metric(server, "client_frames_total") > frames)


def leave_with_requests_behind_the_stream(server: Address, name: str) -> None:
    """Leave before the server has answered a further request on the same connection."""
    get = f"GET /stream/{name}.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with server.connect() as connection:
        connection.sendall(get * 3)
        assert connection.recv(100)


def leave_websocket(server: Address, name: str) -> None:
    with connect(server.url(f"/ws/{name}", "ws")) as websocket:
        websocket_frame(websocket)


def abort_websocket(server: Address, name: str) -> None:
    with connect(server.url(f"/ws/{name}", "ws")) as websocket:
        websocket_frame(websocket)
        websocket.socket.shutdown(socket.SHUT_RDWR)  # no closing handshake


def leave_websocket_unanswered(server: Address, name: str) -> None:
    with connect(server.url(f"/ws/{name}?window=1", "ws")) as websocket:
        websocket_frame(websocket)
        websocket.send("1")


def leave_events(server: Address, name: str) -> None:
    with socket.create_connection((server.host, server.port)) as events:
        events.sendall(b"GET /api/events?interval=0.2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert events.recv(100)


def take_snapshots(server: Address, name: str) -> None:
    for extension in ("jpg", "png", "jpg?width=16", "png?width=16", "jpg?overlay=time"):
        server.get(f"/snapshot/{name}.{extension}")


VIEWERS = [
    leave_mjpeg, abort_mjpeg, leave_mjpeg_unread, leave_with_requests_behind_the_stream, leave_websocket,
    abort_websocket, leave_websocket_unanswered, leave_events, take_snapshots,
]  # fmt: skip


def no_lease_is_left(name: str) -> None:
    """Check that the server has released every frame: it has no reader, and another reader can have all leases."""
    wait_until(lambda: not inspect_segment(name).readers, "the end of every reader")
    slots = inspect_segment(name).slots
    held = []
    with SharedMemoryFrameReader(name, max_leases=slots - 2) as reader:
        while len(held) < slots - 2:
            frame, metadata = reader.read_frame(timeout=20)
            assert metadata is not None
            assert metadata.zero_copy, f"{len(held)} of {slots - 2} leases were available"
            held.append(frame)


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("view", VIEWERS)
def test_a_viewer_that_leaves_leaves_no_lease(
    server: Address, filming: Filming, view: Callable[[Address, str], None]
) -> None:
    for _ in range(8):
        view(server, filming.name)
    wait_until(lambda: not server.get("/api/clients").json)
    no_lease_is_left(filming.name)


@pytest.mark.usefixtures("no_garbage_collection")
def test_frames_that_cannot_be_encoded_leave_no_lease(segment_name: str) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, (4, 4), dtype="float32", pixel_format="RAW") as writer,
        served(create_app([segment_name])) as server,
    ):
        writer.write_frame(np.zeros((4, 4), "float32"))
        for _ in range(8):
            assert server.get(f"/stream/{segment_name}.mjpg").status == 415
            assert server.get(f"/snapshot/{segment_name}.jpg").status == 415
            assert reason_of(server, segment_name) == (1003, "RAW")
        wait_until(lambda: not inspect_segment(segment_name).readers, "the end of every reader")


def test_a_viewer_of_an_idle_source_that_leaves_with_pending_requests_is_noticed(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, (48, 64, 3)) as writer, served(create_app([segment_name])) as server:
        writer.write_frame(picture(1, (48, 64, 3)))
        leave_with_requests_behind_the_stream(server, segment_name)
        wait_until(lambda: not server.get("/api/clients").json)


@pytest.mark.usefixtures("no_garbage_collection")
def test_a_viewer_that_leaves_before_the_first_picture_leaves_no_lease(segment_name: str) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, (48, 64, 3)) as writer,
        served(create_app([segment_name])) as server,
    ):
        for number in range(8):
            with ExitStack() as stack:
                stack.enter_context(idle_client(server, segment_name))
                stack.enter_context(connect(server.url(f"/ws/{segment_name}", "ws")))
                wait_until(lambda: len(server.get("/api/clients").json) == 2)
                if number >= 4:
                    writer.write_frame(picture(number, (48, 64, 3)))
            wait_until(lambda: not server.get("/api/clients").json)
        wait_until(lambda: not inspect_segment(segment_name).readers, "the end of every reader")


@pytest.mark.usefixtures("no_garbage_collection")
def test_a_server_that_stops_leaves_no_lease(segment_name: str, filming: Filming) -> None:
    for _ in range(2):
        with ExitStack() as stack, served(create_app([segment_name])) as server:
            clients_of_every_kind(server, segment_name, stack)
        no_lease_is_left(segment_name)


# Clients that are slow, stopped, or too many.


def test_clients_are_limited_and_informed(segment_name: str, filming: Filming) -> None:
    with served(create_app([segment_name], max_clients=2)) as server, ExitStack() as stack:
        path = f"/stream/{segment_name}.mjpg"
        streams = [stack.enter_context(server.stream(path)) for _ in range(2)]
        for refused in (server.get(path), server.get("/api/events")):
            assert refused.status == 503
            assert refused.headers["retry-after"]
            assert "2 clients" in refused.json["detail"]
        with connect(server.url(f"/ws/{segment_name}", "ws")) as websocket, pytest.raises(ConnectionClosed) as closed:
            websocket.recv(10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013
        assert server.get("/readyz").status == 200, "questions that end are answered"
        streams[0].close()
        wait_until(lambda: len(server.get("/api/clients").json) == 1)
        with server.stream(path) as stream:
            stream.part()


def is_closed(socket: ClientConnection) -> bool:
    """Read one message, or find that there are no more."""
    try:
        socket.recv(20)
    except ConnectionClosed:
        return True
    return False


def test_a_client_that_leaves_while_its_frames_are_added_up_is_still_counted() -> None:
    class Slow(Counter[tuple[str, str, str]]):
        def copy(self) -> Counter[tuple[str, str, str]]:
            copy = Counter(self)
            added_up.set()
            left.wait(0.2)  # the whole time if the client has to wait, as it should
            return copy

    added_up, left = threading.Event(), threading.Event()

    async def leave_meanwhile() -> int:
        clients = Clients(2)
        clients._totals = Slow()
        with clients.join("mjpeg", "a", ""):
            with clients.join("mjpeg", "b", "") as client:
                client.frames = 7
                adding = asyncio.create_task(asyncio.to_thread(clients.totals))
                await asyncio.to_thread(added_up.wait)
            left.set()
            return (await adding)["frames", "mjpeg", "b"]

    assert asyncio.run(leave_meanwhile()) == 7


def test_one_address_does_not_shut_out_others(segment_name: str, filming: Filming) -> None:
    with served(create_app([segment_name], max_clients=4)) as server, ExitStack() as stack:
        path = f"/stream/{segment_name}.mjpg"
        first = stack.enter_context(server.stream(path))
        websockets = [stack.enter_context(connect(server.url(f"/ws/{segment_name}", "ws"))) for _ in range(3)]
        for websocket in websockets:
            websocket_frame(websocket)
        wait_until(lambda: len(server.get("/api/clients").json) == 4)
        for newest in (websockets[2], websockets[1]):
            other = socket.create_connection((server.host, server.port), 30, source_address=("127.0.0.2", 0))
            stack.enter_context(other)
            other.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert b" 200 OK" in other.recv(100)
            wait_until(lambda newest=newest: is_closed(newest))
            assert (newest.close_code, newest.close_reason) == (1013, "another client needs this place")
        wait_until(lambda: len(server.get("/api/clients").json) == 4)
        assert server.get(path).status == 503, "both have their share"
        third = socket.create_connection((server.host, server.port), 30, source_address=("127.0.0.3", 0))
        stack.enter_context(third)
        third.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert b" 200 OK" in third.recv(100)
        wait_until(lambda: len(server.get("/api/clients").json) == 4)
        shares = Counter(one["address"] for one in server.get("/api/clients").json)
        assert sorted(shares.values()) == [1, 1, 2]
        first.part()


def test_a_websocket_that_is_reset_while_it_is_closed_is_not_an_error(
    segment_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        Filming(segment_name, LARGE, fps=20),
        served(create_app([segment_name], max_clients=2)) as server,
        server.stream(f"/stream/{segment_name}.mjpg"),
    ):
        wait_until(lambda: len(server.get("/api/clients").json) == 1)
        with idle_client(server, segment_name, "ws/{}?window=16", UPGRADE) as idle:
            wait_until(lambda: len(server.get("/api/clients").json) == 2)
            time.sleep(1)  # nothing shows that its buffers are full
            with socket.create_connection((server.host, server.port), 30, source_address=("127.0.0.2", 0)) as other:
                other.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert b" 200 OK" in other.recv(100)
            idle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert "Exception" not in caplog.text


@pytest.mark.slow
def test_a_slow_client_gets_the_newest_frame_when_it_reads_and_its_skipped_frames_are_counted(
    segment_name: str,
) -> None:
    with ExitStack() as stack:
        filming = stack.enter_context(Filming(segment_name, LARGE, fps=30))
        server = stack.enter_context(ServeProcess(segment_name)).address
        path = f"/stream/{segment_name}.mjpg?quality=95"
        slow = stack.enter_context(Mjpeg(server, path, receive_buffer=65536))
        gaps = []
        last = int(slow.part().headers["x-frame-sequence"])
        for _ in range(12):
            time.sleep(0.25)
            number = shows_its_number(slow.part())
            gaps.append(number - last - 1)
            last = number
        skipped = client(server, 1)["skipped"]
        filming.pause()
        old = 0
        while shows_its_number(slow.part()) < filming.published:
            old += 1
    print(f"gaps {gaps}, {old} old frames at the end")
    assert skipped >= sum(gaps) > 12
    assert old < 5, "frames under way when it stopped reading"


@pytest.mark.slow
def test_a_client_stopped_by_sigstop_costs_no_memory_and_delays_nobody_and_continues_with_new_frames(
    segment_name: str, tmp_path: Path
) -> None:
    with Filming(segment_name, LARGE, fps=30) as filming, ServeProcess(segment_name) as running:
        server = running.address
        process = psutil.Process(running.process.pid)
        with (tmp_path / "stream").open("wb") as file, server.stream(f"/stream/{segment_name}.mjpg") as other:
            url = server.url(f"/stream/{segment_name}.mjpg?quality=95")
            with subprocess.Popen(["curl", "-sN", url], stdout=file) as curl:
                wait_until(lambda: Path(file.name).stat().st_size > 10**6)
                curl.send_signal(signal.SIGSTOP)
                for _ in range(30):
                    other.part()
                before, encoded = process.memory_info().rss, metric(server, "encode_seconds_count")
                rate_before = frames_a_second(other, 3)
                wait_until(lambda: filming.published > encoded + 250)
                assert frames_a_second(other, 3) > rate_before * 0.7
                grown = process.memory_info().rss - before
                stopped = next(one for one in server.get("/api/clients").json if one["id"] == 2)
                curl.send_signal(signal.SIGCONT)
                wait_until(lambda: client(server, 2)["frames"] > stopped["frames"] + 5)
                assert client(server, 2)["skipped"] > 50
                curl.kill()
    print(f"{grown / 1e6:.1f} MB grown, client {stopped}")
    assert grown < 20e6, "an unbounded buffer would hold some 30 MB more"


def client(server: Address, number: int) -> Any:
    return next(one for one in server.get("/api/clients").json if one["id"] == number)


def frames_a_second(stream: Mjpeg, seconds: float) -> float:
    begun, count = time.monotonic(), 0
    while time.monotonic() < begun + seconds:
        stream.part()
        count += 1
    return count / seconds


def idle_client(server: Address, name: str, path: str = "stream/{}.mjpg", headers: str = "") -> socket.socket:
    """Asks for a stream and never reads it."""
    idle = socket.create_connection((server.host, server.port))
    idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    idle.sendall(f"GET /{path.format(name)} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
    return idle


def test_a_client_that_never_reads_leaves_the_others_their_frames(segment_name: str) -> None:
    with Filming(segment_name, LARGE, fps=20), served(create_app([segment_name])) as server, ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(idle_client(server, segment_name))
        wait_until(lambda: metric(server, "clients", kind="mjpeg") == 10)
        stream = stack.enter_context(server.stream(f"/stream/{segment_name}.mjpg"))
        stream.part()
        encoded = metric(server, "encode_seconds_count")
        for _ in range(40):
            shows_its_number(stream.part())
        encoded = metric(server, "encode_seconds_count") - encoded
        held = metric(server, "client_frames_total") - 41
    print(f"40 of {encoded:g} frames encoded came to who reads; {held:g} were sent to who does not")
    assert encoded < 60
    assert held < 10 * 25


@pytest.mark.slow
def test_little_waits_in_the_kernel_for_a_client_that_does_not_read(server: Address, filming: Filming) -> None:
    with idle_client(server, filming.name):
        wait_until(lambda: server.get("/api/clients").json)
        before = filming.published
        wait_until(lambda: filming.published > before + 200)  # more than a megabyte
        taken = client(server, 1)
    frame = taken["bytes"] / taken["frames"]
    print(f"{taken['bytes']} bytes were taken, in {taken['frames']} frames")
    assert taken["bytes"] < 65536 + 2 * frame


@pytest.mark.slow
def test_a_client_that_reads_nothing_for_a_long_time_is_dropped(
    segment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billiards_shm.serve.server.NO_PROGRESS_S", 1)
    with ExitStack() as stack:
        stack.enter_context(Filming(segment_name, LARGE, fps=20))
        server = stack.enter_context(served(create_app([segment_name])))
        stack.enter_context(idle_client(server, segment_name))
        wait_until(lambda: server.get("/api/clients").json)
        wait_until(lambda: not server.get("/api/clients").json)


# WebSocket.


def websocket_frame(socket: ClientConnection) -> tuple[int, Answer]:
    message = socket.recv(20)
    assert isinstance(message, bytes)
    sequence, captured_ms, age_ms, _ = HEADER.unpack_from(message)
    assert abs(captured_ms / 1e3 - time.time()) < 60
    assert 0 <= age_ms < 60_000
    return int(sequence), Answer(200, {}, message[HEADER.size :])


@pytest.mark.slow
def test_a_websocket_sends_no_more_than_is_answered(server: Address, filming: Filming) -> None:
    with connect(server.url(f"/ws/{filming.name}?window=3", "ws")) as socket:
        for _ in range(3):
            number, part = websocket_frame(socket)
            assert read_counter(part.image) == number
        with pytest.raises(TimeoutError):
            socket.recv(0.5)
        third = number
        wait_until(lambda: filming.published > third + 5)
        socket.send("1")
        number, part = websocket_frame(socket)
        assert number > third + 1, "a new one, not the first of those published in between"
        with pytest.raises(TimeoutError):
            socket.recv(0.3)
        filming.pause()
        with suppress(TimeoutError):
            while True:  # until there is nothing new
                socket.send("1")
                socket.recv(0.5)
        for _ in range(50):
            socket.send("an answer to nothing, except the first few")
        time.sleep(1)  # nothing shows that they were received
        filming.paused = False
        for _ in range(3):
            websocket_frame(socket)
        with pytest.raises(TimeoutError):
            socket.recv(0.3)


def test_a_websocket_reports_why_there_is_nothing(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, (4, 4), dtype="float32", pixel_format="RAW") as writer:
        writer.write_frame(np.zeros((4, 4), "float32"))
        with served(create_app([segment_name])) as server:
            assert reason_of(server, segment_name) == (1003, "RAW")
            assert reason_of(server, "unknown") == (1008, "no segment")
            with pytest.raises(InvalidStatus, match="403"), connect(server.url(f"/ws/{segment_name}?width=1", "ws")):
                pass


def test_a_reason_that_is_too_long_for_a_websocket_is_cut(server: Address) -> None:
    assert reason_of(server, quote("\N{EM DASH}" * 100)) == (1008, "no segment")


def reason_of(server: Address, name: str) -> tuple[int, str]:
    with connect(server.url(f"/ws/{name}", "ws")) as socket, pytest.raises(ConnectionClosed) as closed:
        socket.recv(10)
    assert closed.value.rcvd is not None
    found = re.search("RAW|no segment", closed.value.rcvd.reason)
    assert found is not None, closed.value.rcvd.reason
    return closed.value.rcvd.code, found[0]


# Events.


def test_events_repeat_the_statistics(server: Address, filming: Filming) -> None:
    import http.client
    import json

    connection = http.client.HTTPConnection(server.host, server.port, timeout=20)
    connection.request("GET", "/api/events?interval=0.2")
    response = connection.getresponse()
    assert response.getheader("content-type") == "text/event-stream; charset=utf-8"
    seen: list[Any] = []
    while len(seen) < 4:
        line = response.readline().decode()
        if line.startswith("data: "):
            [one] = json.loads(line.removeprefix("data: "))
            seen.append(one)
    connection.close()
    assert [one["name"] for one in seen] == [filming.name] * 4
    assert seen[0]["sequence"] < seen[-1]["sequence"]


# Ends.


def clients_of_every_kind(server: Address, name: str, stack: ExitStack) -> None:
    stack.enter_context(server.stream(f"/stream/{name}.mjpg")).part()
    websocket_frame(stack.enter_context(connect(server.url(f"/ws/{name}", "ws"))))
    events = stack.enter_context(socket.create_connection((server.host, server.port)))
    events.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    stack.enter_context(idle_client(server, name))
    wait_until(lambda: len(server.get("/api/clients").json) == 4)


def read_on(stream: Mjpeg) -> None:
    while True:
        stream.part()


def test_a_stop_ends_streams_between_two_pictures(segment_name: str) -> None:
    with Filming(segment_name) as filming, ServeProcess(segment_name) as running:
        with running.address.stream(f"/stream/{segment_name}.mjpg") as stream:
            stream.part()
            filming.pause()
            running.process.send_signal(signal.SIGTERM)
            with pytest.raises(EOFError):  # the last chunk arrived, and no sudden end of the connection
                read_on(stream)
        assert running.process.wait(60) == 0


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT])
def test_a_stop_does_not_wait_for_its_clients(segment_name: str, number: int) -> None:
    with Filming(segment_name, LARGE, fps=20), ServeProcess(segment_name) as running, ExitStack() as stack:
        clients_of_every_kind(running.address, segment_name, stack)
        assert running.signal(number) == 0
    assert "ERROR" not in running.log, running.log


@pytest.mark.parametrize("end", ["stop", "dismissal"])
def test_a_stream_that_ends_before_its_first_picture_is_503(
    segment_name: str, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr("billiards_shm.serve.streams.FIRST_FRAME_S", 600)
    clients = Clients(2)
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def stream_that_ends() -> None:
        with ThreadPoolExecutor(1) as encoders, clients.join("events", "", "10.0.0.1"):
            feed = Feed(segment_name, encoders, lambda seconds: None)
            stream = MjpegStream(feed, PreviewFormat(None, 80), None, clients)
            scope = {"type": "http", "method": "GET", "client": ("10.0.0.1", 1), "headers": []}
            running = asyncio.create_task(stream(scope, receive, send))
            while len(clients) < 2:
                await asyncio.sleep(0)
            if end == "stop":
                clients.stop()
            else:
                with clients.join("events", "", "10.0.0.2"):
                    pass
            await running

    asyncio.run(stream_that_ends())
    start, body = sent
    assert (start["type"], start["status"]) == ("http.response.start", 503)
    assert b"retry-after" in dict(start["headers"])
    assert json.loads(body["body"]) == {"detail": "the stream ended before it had a frame"}


def test_a_port_that_is_taken_is_an_error_in_one_line(segment_name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command_line.run("serve", segment_name, "--port", port)
    assert done.returncode == 1
    expected = f"billiards-shm: error: cannot listen at 127.0.0.1 port {port}: Address already in use\n"
    assert done.stderr.splitlines(keepends=True)[-1] == expected


@pytest.mark.parametrize("host", ["a\0b", pytest.param("x" * 64, marks=pytest.mark.slow), "no.such.host.invalid"])
def test_an_invalid_host_is_an_error_in_one_line(tmp_path: Path, segment_name: str, host: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"serve": {"host": host, "port": 0}}))
    done = command_line.run("serve", segment_name, "--config", tmp_path / "config.json")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("billiards-shm: error: cannot listen at ")
    assert "Traceback" not in done.stderr
    assert "Errno" not in done.stderr


def test_serving_everyone_without_a_token_causes_a_warning_and_the_environments_token_is_used(
    segment_name: str,
) -> None:
    with ServeProcess(segment_name, "--host", "0.0.0.0") as running:
        running.signal(signal.SIGTERM)
    assert "--token prevents that" in running.log
    with ServeProcess(segment_name, BILLIARDS_SHM__SERVE__TOKEN="12345") as running:
        assert running.address.get("/readyz").status == 401
        assert running.address.get("/readyz", Authorization="Bearer 12345").status == 503
        running.signal(signal.SIGTERM)
    assert "12345" not in running.log


# Other servers.

PARENT = """
import asyncio, socket, sys, threading
import uvicorn
from fastapi import FastAPI
from billiards_shm.serve import create_app

app = FastAPI()
app.mount("/video", create_app([sys.argv[1]]))
listener = socket.create_server(("127.0.0.1", 0))
print(f"at http://127.0.0.1:{listener.getsockname()[1]}/", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=600)).run(sockets=[listener])
"""


@pytest.mark.slow
def test_streams_of_a_mounted_application_end_when_the_server_around_it_is_stopped(segment_name: str) -> None:
    with (
        Filming(segment_name),
        subprocess.Popen([sys.executable, "-c", PARENT, segment_name], stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        found = re.search(r":(\d+)/", process.stdout.readline())
        assert found is not None
        server = Address(int(found[1]))
        wait_until(lambda: server_answers(server))
        with server.stream(f"/video/stream/{segment_name}.mjpg") as stream:
            stream.part()
            process.terminate()
            process.wait(60)


def server_answers(server: Address) -> bool:
    try:
        return server.get("/video/healthz").status == 200
    except OSError:
        return False


@pytest.mark.slow
def test_capture_serves_metrics_even_before_its_first_frame(segment_name: str, tmp_path: Path) -> None:
    fifo = tmp_path / "nothing.mjpeg"
    os.mkfifo(fifo)  # a source that keeps its process waiting for a first frame
    holder = threading.Thread(target=lambda: fifo.open("wb").close(), daemon=True)
    for source, frames in ((str(fifo), False), ("demo", True)):
        process = command_line.start("capture", source, "--name", segment_name, "--metrics-port", "0")
        assert process.stderr is not None
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)/metrics", process.stderr.readline())):
            pass
        server = Address(int(found[1]))
        published = lambda server=server: metric(server, "frames_published_total", name=segment_name)  # noqa: E731
        if frames:
            wait_until(lambda published=published: published() > 5)
            assert metric(server, "up", name=segment_name) == 1
        else:
            assert published() == 0
            assert "last_frame_age_seconds{" not in server.get("/metrics").body.decode()
            holder.start()
        process.terminate()
        assert process.wait(30) in ((0,) if frames else (0, 3))


def test_a_metrics_port_that_is_taken_is_an_error_in_one_line(segment_name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command_line.run("capture", "demo", "--name", segment_name, "--metrics-port", port, "--frames", 1)
    assert done.returncode == 1
    assert f"cannot listen for metrics at 127.0.0.1 port {port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr

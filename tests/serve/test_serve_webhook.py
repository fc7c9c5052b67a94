"""The webhook: a listening receiver learns of every change, and one that does not listen delays nothing."""

import base64
import json
import logging
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import command_line
import documentation
import pytest
from segment_layout import set_frame_age
from segments_under_test import path_of, picture, wait_until
from serving import Filming, ServeProcess

from billiards_shm import SharedMemoryFrameWriter
from billiards_shm.monitor.health import HealthState, SegmentHealth
from billiards_shm.serve import webhook
from billiards_shm.serve.webhook import Webhook

SHAPE = (24, 32, 3)


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    yield
    command_line.end_started()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "WATCH_INTERVAL_S", 0.01)
    monkeypatch.setattr(webhook, "FIRST_RETRY_S", 0.05)
    monkeypatch.setattr(webhook, "TIMEOUT_S", webhook.TIMEOUT_S)  # which `Receiver` changes


class Receiver:
    """A server that keeps what is posted to it. It sends the given answers in turn, then 204; 0 means no answer at all.

    Only unanswered requests have a short timeout: on a busy machine any other may take long, and would be sent
    twice.
    """

    def __init__(self, *answers: int, port: int = 0) -> None:
        self.answers = [*answers]
        self.posted: list[dict[str, Any]] = []
        self.taken: list[dict[str, Any]] = []
        self.requests: list[tuple[str, Mapping[str, str]]] = []
        self._leave = threading.Event()
        self._usual_timeout_s = webhook.TIMEOUT_S
        self._set_timeout()
        receiver = self

        class Answering(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                receiver.posted.append(body)
                receiver.requests.append((self.path, dict(self.headers)))
                status = receiver.answers.pop(0) if receiver.answers else 204
                receiver._set_timeout()
                if not status:
                    receiver._leave.wait(60)
                    return
                if status < 300:
                    receiver.taken.append(body)
                self.send_response(status)
                self.send_header("Location", f"http://127.0.0.1:{receiver.port}/elsewhere")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Answering)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def _set_timeout(self) -> None:
        """Set the timeout for the next request."""
        webhook.TIMEOUT_S = 1.0 if self.answers[:1] == [0] else self._usual_timeout_s  # type: ignore[misc]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def changes(self) -> list[tuple[str, str, str]]:
        return [(body["name"], body["previous"], body["state"]) for body in self.taken]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._leave.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Segments:
    """Health of segments as the test sets it. Each change lasts until the webhook has seen it."""

    def __init__(self, *names: str) -> None:
        self._health = {name: self._segment(name, HealthState.LIVE) for name in names}
        self._looks = 0

    @staticmethod
    def _segment(name: str, state: HealthState) -> SegmentHealth:
        return SegmentHealth(name=name, state=state, reason=f"it is {state}")

    def __call__(self) -> Mapping[str, SegmentHealth]:
        self._looks += 1
        return dict(self._health)

    def seen(self) -> None:
        looks = self._looks
        wait_until(lambda: self._looks > looks + 1)

    def set(self, name: str, state: HealthState) -> None:
        self.seen()
        self._health[name] = self._segment(name, state)
        self.seen()


@pytest.mark.slow
def test_a_receiver_learns_of_segments_that_stall_are_lost_and_are_back(segment_name: str) -> None:
    [shown] = [block for block in documentation.in_language("json") if not block.label]
    first, second = f"{segment_name}-1", f"{segment_name}-2"
    with Receiver() as receiver, SharedMemoryFrameWriter(second, SHAPE) as other:
        begun = datetime.now().astimezone()
        with ServeProcess(first, second, "--webhook", receiver.url, "--max-frame-age", 1) as running:
            known = lambda: {one["name"]: one["state"] for one in running.address.get("/api/segments").json}  # noqa: E731
            wait_until(lambda: known() == {first: "gone", second: "waiting"})
            with SharedMemoryFrameWriter(first, SHAPE) as writer:
                writer.write_frame(picture(1))
                set_frame_age(path_of(first), -2)
                wait_until(lambda: (first, "gone", "live") in receiver.changes())
                wait_until(lambda: (first, "live", "stalled") in receiver.changes())
                writer.write_frame(picture(2))
                set_frame_age(path_of(first), -600)
                wait_until(lambda: (first, "stalled", "live") in receiver.changes())
            other.write_frame(picture(1))
            set_frame_age(path_of(second), -600)
            wait_until(lambda: (second, "waiting", "live") in receiver.changes())
            wait_until(lambda: len([one for one in receiver.taken if one["name"] == first]) >= 4)
            assert running.signal(signal.SIGTERM) == 0
    for body in receiver.taken:
        assert set(body) == set(json.loads(shown.code)) == {"name", "state", "previous", "reason", "time"}
        assert timedelta() <= datetime.fromisoformat(body["time"]) - begun < timedelta(minutes=5)
    stalled = next(body for body in receiver.taken if body["state"] == "stalled")
    assert "more than the 1 s allowed" in stalled["reason"]
    states = [body["state"] for body in receiver.taken if body["name"] == first]
    before = [body["previous"] for body in receiver.taken if body["name"] == first]
    assert before[1:] == states[:-1], "each change begins where the one before it ended"


def test_changes_arrive_in_order_at_a_receiver_that_fails_and_hangs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    segments = Segments("a", "b")
    with Receiver(500, 0, 503, 429, 200, 502) as receiver, Webhook(receiver.url, segments):
        segments.set("a", HealthState.STALLED)
        segments.set("b", HealthState.DEAD)
        segments.set("a", HealthState.LIVE)
        wait_until(lambda: len(receiver.taken) == 3 and caplog.text.count("is back") == 2)
    assert receiver.changes() == [("a", "live", "stalled"), ("b", "live", "dead"), ("a", "stalled", "live")]
    assert len(receiver.posted) == 8
    messages = [record.getMessage() for record in caplog.records]
    # The stop may come before the last delivery has ended, and report it.
    assert [message for message in messages if "webhook at" in message] == [
        "The webhook at 127.0.0.1 cannot be reached (it answers 500): trying again",
        "The webhook at 127.0.0.1 is back",
        "The webhook at 127.0.0.1 cannot be reached (it answers 502): trying again",
        "The webhook at 127.0.0.1 is back",
    ]


def test_events_from_before_the_receiver_appeared_are_posted_when_it_does(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    segments = Segments("a")
    with Webhook(f"http://127.0.0.1:{port}/", segments):
        segments.set("a", HealthState.STALLED)
        wait_until(lambda: "Connection refused" in caplog.text)
        segments.set("new", HealthState.WAITING)
        with Receiver(port=port) as receiver:
            wait_until(lambda: len(receiver.taken) == 2)
    assert receiver.changes() == [("a", "live", "stalled"), ("new", "gone", "waiting")]


def test_a_refused_event_does_not_delay_the_next(caplog: pytest.LogCaptureFixture) -> None:
    segments = Segments("a")
    with Receiver(404, 302) as receiver, Webhook(receiver.url, segments):
        for state in (HealthState.STALLED, HealthState.LIVE, HealthState.CLOSED):
            segments.set("a", state)
        wait_until(lambda: receiver.taken)
    assert receiver.changes() == [("a", "live", "closed")]
    assert [path for path, _ in receiver.requests] == ["/hook"] * 3, "a redirection is not followed"
    assert caplog.text.count("refused a change of a") == 2


def test_events_that_are_too_old_or_too_many_are_discarded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(webhook, "MAX_WAITING", 3)
    segments = Segments("a")
    with Receiver(0) as receiver, Webhook(receiver.url, segments):
        for _ in range(4):
            segments.set("a", HealthState.STALLED)
            segments.set("a", HealthState.LIVE)
        wait_until(lambda: len(receiver.taken) == 4)
        assert "the oldest one is discarded" in caplog.text
        monkeypatch.setattr(webhook, "GIVE_UP_S", 0)
        receiver.answers.append(500)
        segments.set("a", HealthState.DEAD)
        segments.set("a", HealthState.CLOSED)
        wait_until(lambda: len(receiver.taken) == 5)
    assert receiver.changes()[-2:] == [("a", "stalled", "live"), ("a", "dead", "closed")]


def test_a_receiver_that_hangs_delays_neither_viewers_nor_the_stop(segment_name: str) -> None:
    other = f"{segment_name}-other"
    with (
        Receiver(0) as receiver,
        Filming(segment_name),
        ServeProcess(segment_name, other, "--webhook", receiver.url) as running,
        running.address.stream(f"/stream/{segment_name}.mjpg") as stream,
        SharedMemoryFrameWriter(other, SHAPE) as writer,
    ):
        writer.write_frame(picture(1))
        wait_until(lambda: receiver.posted)
        for _ in range(20):
            stream.part()
        assert not receiver.taken, "it still hangs"
        assert running.signal(signal.SIGTERM) == 0
        assert not receiver.taken
    assert "not delivered to the webhook: 1" in running.log


@pytest.mark.slow
def test_user_and_password_are_sent_and_nothing_but_the_host_is_logged(segment_name: str) -> None:
    with Receiver(500) as receiver:
        url = f"http://me:hun%40ter2@127.0.0.1:{receiver.port}/services/T0PSECRET?key=QWERTY"
        with (
            ServeProcess(segment_name, BILLIARDS_SHM__SERVE__WEBHOOK=url) as running,
            SharedMemoryFrameWriter(segment_name, SHAPE),
        ):
            wait_until(lambda: receiver.taken)
            assert running.signal(signal.SIGTERM) == 0
    (path, headers), *_ = receiver.requests
    assert path == "/services/T0PSECRET?key=QWERTY"
    assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == b"me:hun@ter2"
    assert headers["Content-Type"] == "application/json"
    assert "webhook at 127.0.0.1" in running.log
    for secret in ("hun", "ter2", "T0PSECRET", "QWERTY"):
        assert secret not in running.log


@pytest.mark.parametrize(("scheme", "port"), [("http", 80), ("https", 443)])
def test_an_ipv6_address_needs_no_port(scheme: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], *more: object) -> socket.socket:
        asked_for.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(ConnectionRefusedError):
        Webhook(f"{scheme}://[2001:db8::1]/", dict)._post(b"")
    assert asked_for == [("2001:db8::1", port)]


@pytest.mark.parametrize(
    "scheme", ["ftp://", "file:///etc/", "gopher://", "", "//", "http://", "http://x:99999/", "https:// "]
)
def test_anything_but_http_is_refused_at_the_start_without_being_shown(segment_name: str, scheme: str) -> None:
    done = command_line.call("serve", segment_name, BILLIARDS_SHM__SERVE__WEBHOOK=f"{scheme}?hunter2")
    assert done.returncode == 2
    assert "BILLIARDS_SHM__SERVE__WEBHOOK" in done.stderr
    assert "http://" in done.stderr
    assert "hunter2" not in done.stderr

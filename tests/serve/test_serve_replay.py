"""Clips of the last seconds over HTTP, and recordings that are started and stopped remotely."""

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import recordings
from segments_under_test import SHAPE, picture, wait_until
from serving import Address, served

from billiards_shm import SharedMemoryFrameWriter
from billiards_shm.record.control import Answer, ControlSocket, RecorderError
from billiards_shm.record.ring import Clip
from billiards_shm.serve import create_app, replay, sign_url
from billiards_shm.serve.state import WAITING_CLIPS
from billiards_shm.serve.wrong_tokens import WrongTokens

TOKEN = {"Authorization": "Bearer secret"}


class Recorder:
    """A stand-in for a recorder."""

    def __init__(self, clip: Clip | None) -> None:
        self.clip = clip
        self.ring_s: float | None = 5.0
        self.requests: list[Mapping[str, Any]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def answer(self, request: Mapping[str, Any]) -> Answer:
        if request["request"] == "state":
            return {"ring": self.ring_s}, None
        self.requests.append(request)
        self.may_answer.wait(40.0)
        if request["request"] == "stop":
            raise RecorderError("nothing is recorded")
        if request["request"] == "start":
            return {"recording": True, "file": "table_1.mkv"}, None
        if self.clip is None:
            raise RecorderError("there is no frame yet")
        return {}, self.clip


@contextmanager
def recording(name: str, clip: Clip | None) -> Iterator[Recorder]:
    recorder = Recorder(clip)
    with (
        SharedMemoryFrameWriter(name, SHAPE) as writer,
        ControlSocket(name, recorder.answer),
    ):
        writer.write_frame(picture(1))
        yield recorder


@pytest.fixture
def server(segment_name: str) -> Iterator[Address]:
    with served(create_app([segment_name])) as found:
        yield found


@pytest.mark.parametrize("codec", ["h264", "copy"])
def test_the_last_seconds_come_as_an_mp4_that_browsers_play(
    server: Address, segment_name: str, tmp_path: Path, codec: str
) -> None:
    clip = recordings.clip(20, codec=codec)
    with recording(segment_name, clip) as recorder:
        answer = server.get(f"/replay/{segment_name}.mp4?last=7.5")
        assert answer.status == 200
        assert answer.headers["content-type"] == "video/mp4"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-clip-frames"] == "20"
        assert float(answer.headers["x-clip-seconds"]) == pytest.approx(clip.seconds, abs=1e-6)
        assert recorder.requests[0].items() >= {"request": "clip", "last": 7.5}.items()
    path = tmp_path / "clip.mp4"
    path.write_bytes(answer.body)
    assert {packet.stream.codec_context.name for packet in recordings.packets(path)} == {"h264"}
    assert len(recordings.pictures(path)) == 20


def test_the_list_says_where_there_is_a_ring(
    server: Address, segment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_STATE_EVERY_S", 0.0)

    def said() -> list[bool]:
        return [one["replay"] for one in server.get("/api/segments").json]

    with SharedMemoryFrameWriter(segment_name, SHAPE):
        assert said() == [False]
    with recording(segment_name, None) as recorder:
        wait_until(lambda: said() == [True])
        recorder.ring_s = None
        wait_until(lambda: said() == [False])
        recorder.ring_s = 0.0
        wait_until(lambda: said() == [True])
    wait_until(lambda: said() == [False])


def test_recorders_are_asked_for_their_ring_once_a_second_for_all_clients(
    segment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_STATE_EVERY_S", 3600.0)
    asked: list[object] = []

    def answer(request: Mapping[str, Any]) -> Answer:
        asked.append(request)
        return {"ring": 5.0}, None

    rings = replay.Rings()
    with ControlSocket(segment_name, answer):
        assert [rings.has(segment_name) for _ in range(10)] == [True] * 10
    assert asked == [{"request": "state"}]


def test_recorders_that_do_not_answer_keep_one_client_waiting(
    segment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_STATE_S", 40.0)
    asked, told = threading.Event(), threading.Event()

    def answer(request: Mapping[str, Any]) -> Answer:
        asked.set()
        told.wait(40.0)
        return {"ring": 5.0}, None

    rings = replay.Rings()
    with ControlSocket(segment_name, answer):
        waiting = threading.Thread(target=lambda: rings.has(segment_name))
        waiting.start()
        assert asked.wait(40.0)
        assert not rings.has(segment_name)
        told.set()
        waiting.join()
        assert rings.has(segment_name)


def test_a_recorder_that_does_not_answer_immediately_offers_nothing(
    segment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_STATE_S", 0.1)
    told = threading.Event()
    with ControlSocket(segment_name, lambda request: ({"ring": 5.0} if told.wait(40.0) else {}, None)):
        assert not replay.Rings().has(segment_name)
        told.set()


def test_head_reports_whether_there_is_a_clip_and_makes_none(server: Address, segment_name: str) -> None:
    path = f"/replay/{segment_name}.mp4"
    with SharedMemoryFrameWriter(segment_name, SHAPE):
        assert server.request("HEAD", path).status == 404
    with recording(segment_name, recordings.clip(2)) as recorder:
        answer = server.request("HEAD", path)
        assert (answer.status, answer.headers["content-type"], answer.body) == (200, "video/mp4", b"")
        assert "content-length" not in answer.headers, "it is not known yet"
        assert recorder.requests == []
        assert server.get(path).status == 200


def test_a_missing_clip_is_reported(server: Address, segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE):
        answer = server.get(f"/replay/{segment_name}.mp4")
        assert answer.status == 404
        assert "--ring" in answer.json["detail"]
    with recording(segment_name, None) as recorder:
        answer = server.get(f"/replay/{segment_name}.mp4")
        assert (answer.status, answer.json["detail"]) == (503, "there is no frame yet")
        recorder.ring_s = None
        answer = server.get(f"/replay/{segment_name}.mp4")
        assert (answer.status, "retry-after" in answer.headers) == (404, False)
        assert "is recorded without a ring" in answer.json["detail"]
    assert server.get(f"/replay/{segment_name}-other.mp4").status == 404
    for last in ("-1", "121", "nan", "inf", "x"):
        assert server.get(f"/replay/{segment_name}.mp4?last={last}").status == 422


def test_clips_are_made_one_after_another_and_too_many_are_refused(server: Address, segment_name: str) -> None:
    path = f"/replay/{segment_name}.mp4"
    with recording(segment_name, recordings.clip(2)) as recorder:
        recorder.may_answer.clear()
        statuses: list[int] = []
        asking = [
            threading.Thread(target=lambda: statuses.append(server.get(path).status)) for _ in range(WAITING_CLIPS + 2)
        ]
        for each in asking:
            each.start()
        wait_until(lambda: statuses == [503, 503] and len(recorder.requests) > 0)
        assert len(recorder.requests) == 1
        recorder.may_answer.set()
        for each in asking:
            each.join()
        assert statuses[2:] == [200] * WAITING_CLIPS


def test_clients_that_do_not_read_keep_their_places_until_they_are_gone_or_too_slow(
    server: Address, segment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/replay/{segment_name}.mp4"
    clip = recordings.clip(20)
    filler = b"\0\0\0\1\x0c" + b"\xff" * 1_000_000 + b"\x80"  # data that decoders skip
    long = clip._replace(frames=[frame._replace(data=frame.data + filler) for frame in clip.frames])
    with recording(segment_name, long), ExitStack() as clients:
        for _ in range(WAITING_CLIPS):
            client = clients.enter_context(socket.create_connection((server.host, server.port), 40))
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert client.recv(15) == b"HTTP/1.1 200 OK"
        refused = server.get(path)
        assert (refused.status, refused.json["detail"]) == (503, "too many clips at once")
        clients.close()
        wait_until(lambda: server.get(path).status == 200, "a place")

        monkeypatch.setattr("billiards_shm.serve.replay._PART_S", 0.05)
        for _ in range(WAITING_CLIPS):
            client = clients.enter_context(socket.create_connection((server.host, server.port), 40))
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert client.recv(15) == b"HTTP/1.1 200 OK"
        wait_until(lambda: server.get(path).status == 200, "a place of a client that reads nothing")


def record(server: Address, name: str, body: bytes = b'{"action": "start"}', **headers: str) -> Any:
    return server.request("POST", f"/api/record/{name}", body, Content_Type="application/json", **headers)


def test_recordings_are_started_and_stopped_only_with_the_token(segment_name: str) -> None:
    with recording(segment_name, None) as recorder, served(create_app([segment_name], token="secret")) as server:
        answer = record(server, segment_name, **TOKEN)
        assert answer.status == 200
        assert answer.json == {"name": segment_name, "recording": True, "file": "table_1.mkv"}
        answer = record(server, segment_name, b'{"action": "stop"}', **TOKEN)
        assert (answer.status, answer.json["detail"]) == (409, "nothing is recorded")
        assert [request["request"] for request in recorder.requests] == ["start", "stop"]

        assert record(server, segment_name).status == 401
        signed = sign_url(f"/api/record/{segment_name}", "secret").removeprefix(f"/api/record/{segment_name}")
        assert record(server, segment_name + signed).status == 403
        assert record(server, segment_name, Origin="http://elsewhere.example", **TOKEN).status == 403
        actions = (b'"dance"', b'["start"]', b"NaN", b"-Infinity", b"1e999", b'"\\ud800"', b"[" * 5000)
        bodies = [b'{"action": ' + action + b"}" for action in actions]
        for body in (b"", b"[]", b"{}", b"NaN", b"\xff" * 50, *bodies):
            assert record(server, segment_name, body, **TOKEN).status in (400, 422), body
        assert server.request("GET", f"/api/record/{segment_name}", **TOKEN).status == 405
        assert len(recorder.requests) == 2
    with SharedMemoryFrameWriter(segment_name, SHAPE), served(create_app([segment_name], token="secret")) as server:
        assert record(server, segment_name, **TOKEN).status == 404
        assert record(server, "other", **TOKEN).status == 404


def test_wrong_tokens_of_others_do_not_affect_an_accepted_request(
    segment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def wait_s(self: WrongTokens, address: str) -> float:
        looks.append(address)
        return 0.0 if len(looks) == 1 else 60.0

    monkeypatch.setattr(WrongTokens, "wait_s", wait_s)
    with recording(segment_name, None), served(create_app([segment_name], token="secret")) as server:
        assert record(server, segment_name, **TOKEN).status == 200
    assert len(looks) == 1


def test_without_a_token_no_recording_is_touched(server: Address, segment_name: str) -> None:
    with recording(segment_name, None) as recorder:
        answer = record(server, segment_name)
        assert answer.status == 403
        assert "serve.token" in answer.json["detail"]
        assert recorder.requests == []

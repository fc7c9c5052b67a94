"""Passwords and tokens of sources: in no log, error, command, page or process list."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import command_line
import cv2
import numpy as np
import pytest
from segments_under_test import wait_until
from serving import ServeProcess
from supervised_runs import SupervisedRun

from billiards_shm import inspect_segment

PASSWORD = "Hun/Ter?2@X"
QUOTED = "Hun%2FTer%3F2%40X"
TOKEN = "QWERTY_token_98"
PIECES = ("Hun", "Ter", "2@X", "2%40X", "QWERTY", "token_98")


def assert_hidden(text: str) -> None:
    assert not [piece for piece in PIECES if piece in text], text


SOURCES = [
    f"rtsp://admin:{PASSWORD}@127.0.0.1:1/s",
    f"rtsp://admin:{QUOTED}@127.0.0.1:1/s?token={TOKEN}",
    "rtsp://admin:Hun/Ter2@127.0.0.1:1/s",
    "rtsp://admin:12/Ter@127.0.0.1:1/s",
    f"http://{TOKEN}@127.0.0.1:1/s",
    f"http://127.0.0.1:1/videostream.cgi?user=admin&pwd={TOKEN}",
    f"HTTP://127.0.0.1:1/x?a={TOKEN};b=Hun Ter",
    f"rtsp://admin:Hun [Ter]2@127.0.0.1:1/s?{TOKEN}",
    f"srt://127.0.0.1:1?mode=caller&passphrase={TOKEN}",
    f"rtspsrc location=rtsp://admin:{QUOTED}@127.0.0.1:1/s user-pw={TOKEN} ! appsink",
    f"admin:{PASSWORD}@127.0.0.1/s",
    f"127.0.0.1/video.cgi?user=admin&pwd={TOKEN}",
    f"file:///gone/video.mp4?token={TOKEN}",
]


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_a_source_that_cannot_be_opened_is_named_without_its_secrets(source: str, segment_name: str) -> None:
    log = ("--log-level", "DEBUG", "--json-logs") if SOURCES.index(source) % 2 else ()
    done = command_line.run("capture", *log, "--open-timeout-sec", 1, "--name", segment_name, VIDEO_FILE=source)
    assert done.returncode == 3
    assert "cannot open" in done.stderr or "backend gstreamer" in done.stderr
    assert_hidden(done.stdout + done.stderr)
    for line in done.stderr.splitlines() if log else ():
        json.loads(line)


@pytest.mark.parametrize(
    "configuration",
    [
        {"vision": {"camera": {"device_id": [f"rtsp://admin:{PASSWORD}@host/"]}}},
        pytest.param({"vision": {"camera": {"backend": f"http://host/x?key={TOKEN}"}}}, marks=pytest.mark.slow),
        pytest.param({"vision": {"camera": {"password": TOKEN}}}, marks=pytest.mark.slow),
        {"vision": {"camera": {"user": {"password": "Hun Ter", "token": TOKEN}}}},
        {"vision": f"rtsp://admin:{PASSWORD}@host/"},
        {"serve": {"token": [TOKEN]}},
        {"serve": {"api_token": TOKEN}},
    ],
)
def test_a_wrong_configuration_is_reported_without_its_secrets(tmp_path: Path, configuration: object) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(configuration))
    done = command_line.run("--log-level", "DEBUG", "--config", path, "capture")
    assert done.returncode == 2
    assert "wrong.json: " in done.stderr
    assert_hidden(done.stdout + done.stderr)


def test_wrong_usage_is_reported_without_its_secrets() -> None:
    for extra in f"rtsp://admin:{PASSWORD}@host/", f"--nope=http://host/x?pwd={TOKEN}":
        done = command_line.run("--log-level", "DEBUG", "capture", "demo", extra)
        assert done.returncode == 2
        assert_hidden(done.stdout + done.stderr)


# A camera that delivers pictures, and then none.


class MjpegCamera:
    """Serves pictures over HTTP, to those who know the token, until it is closed."""

    def __init__(self) -> None:
        image = cv2.imencode(".jpg", np.full((48, 64, 3), 99, np.uint8))[1].tobytes()
        part = b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(image), image)
        closed = self._closed = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if f"token={TOKEN}" not in self.path:
                    self.send_error(403)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=x")
                self.end_headers()
                while not closed.wait(0.02):
                    self.wfile.write(part)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://admin:{QUOTED}@127.0.0.1:{self._server.server_port}/video.mjpg?token={TOKEN}"

    def close(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


@pytest.fixture
def camera() -> Iterator[MjpegCamera]:
    serving = MjpegCamera()
    yield serving
    serving.close()


def test_a_lost_source_is_never_shown_with_its_secrets(tmp_path: Path, segment_name: str, camera: MjpegCamera) -> None:
    source = {"device_id": camera.url, "reconnect_delay_sec": 0.1, "placeholder": True}
    with SupervisedRun(tmp_path, {segment_name: source}) as run:
        run.start()
        run.streams()
        for process in [run.supervisor, *run.children()]:
            assert_hidden(" ".join(process.cmdline()))
            assert_hidden(str(process.environ()))
        camera.close()
        wait_until(lambda: inspect_segment(segment_name).source_reason, "the reason")
        shown = [
            command_line.run(*command).stdout
            for command in (
                ("inspect", segment_name),
                ("inspect", segment_name, "--json"),
                ("list",),
                ("list", "--json"),
                ("watch", segment_name, "--count", 1),
            )
        ]
        assert all(segment_name in text for text in shown)
        assert "connection refused" in shown[0]
        with ServeProcess(segment_name) as server:
            paths = "/", "/metrics", "/api/segments", f"/health/{segment_name}", "/readyz"
            shown += [server.address.get(path).body.decode() for path in paths]
        assert run.end() == 0
        shown += [run.said(), server.log]
    for text in shown:
        assert_hidden(text)
    assert "http://admin:***@127.0.0.1:" in run.said()

"""Recordings behind URLs, from servers of every kind: which ones are recordings, and each frame once to the end."""

import contextlib
import itertools
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from capture_runs import published, settings_for
from encoding import encode
from engines import ENGINES, open_with

from billiards_shm import CameraError
from billiards_shm.sources.demo.table import read_counter
from billiards_shm.sources.protocol import CheckedSource, Delivery, FrameSource, SourceLostError

FRAMES = 30
PAUSED_FRAMES = 100
"""Half of them are more than several threads decode at the same time."""
TS_PACKET = 188
LONG = 1 << 22
FILES: dict[str, dict[str, Any]] = {
    "end.mp4": {},  # its index is at the end
    "start.mp4": {"container": {"movflags": "faststart"}},
    "fragments.mp4": {"container": {"movflags": "frag_keyframe+empty_moov"}, "g": 10},
    "clip.mkv": {},
    "clip.ts": {},
    "clip.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
}
SERVERS = ["ranges", "length", "chunks", "nothing"]
"""What a server's answers offer: ranges, their length, or only their end."""
GOES_ON = threading.Event()
"""Ends the pause that the answers of ``/pauses/NAME`` make before their second half."""


class Handler(BaseHTTPRequestHandler):
    """Serves ``/HOW/NAME`` from a folder; `HOW` is one of `SERVERS`."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def do_GET(self) -> None:
        _, how, name = self.path.split("/")
        content = (self.folder / name).read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if how == "ranges" and wanted:
            start, end = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
            self.send_response(206 if start <= end else 416)
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
            content = content[start : end + 1]
        else:
            self.send_response(200)
        if how in ("ranges", "length", "pauses"):
            self.send_header("Content-Length", str(len(content)))
        elif how == "chunks":
            self.send_header("Transfer-Encoding", "chunked")
            content = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts_of(content)) + b"0\r\n\r\n"
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        if how == "pauses":
            self.wfile.write(content[: len(content) // 2])
            GOES_ON.wait()
            return
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


def parts_of(content: bytes, size: int = 3000) -> Iterator[bytes]:
    return (content[start : start + size] for start in range(0, len(content), size))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    for name, options in FILES.items():
        encode(folder / name, **({"codec": "libx264", "pixel_format": "yuv420p", "frames": FRAMES} | options))
    # More than FFmpeg keeps in its buffer, so it has to request the beginning again.
    content = (folder / "end.mp4").read_bytes()
    index = content.rindex(b"moov") - 4
    unused = (LONG + 8).to_bytes(4, "big") + b"free" + bytes(LONG)
    (folder / "long.mp4").write_bytes(content[:index] + unused + content[index:])
    whole = (folder / "clip.ts").read_bytes()
    packets = [whole[start : start + TS_PACKET] for start in range(0, len(whole), TS_PACKET)]
    (folder / "lossy.ts").write_bytes(b"".join(packets[:40] + packets[41:]))
    for name in ("paused.mp4", "paused.mkv"):
        options = {"container": {"movflags": "faststart"}} if name == "paused.mp4" else {}
        encode(folder / name, "libx264", "yuv420p", frames=PAUSED_FRAMES, **options)
    cv2.imwrite(str(folder / "picture.jpg"), np.full((48, 64, 3), 99, np.uint8))
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Serving", (Handler,), {"folder": folder})) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        GOES_ON.set()
        server.shutdown()
        thread.join()


def numbers_of(source: FrameSource) -> Iterator[int]:
    try:
        while source.grab():
            image = source.retrieve(None)
            assert image is not None
            yield read_counter(image)
    finally:
        source.release()


EVERY_KIND = [
    (name, how, engine) for name, how, engine in itertools.product(FILES, SERVERS, ENGINES) if name != "clip.ts"
]


@pytest.mark.parametrize(("name", "how", "engine"), EVERY_KIND)
def test_a_file_with_a_duration_is_a_recording_whatever_the_server_says(
    address: str, name: str, how: str, engine: str
) -> None:
    source = open_with(engine, f"{address}/{how}/{name}")
    assert source.details.delivery is Delivery.RECORDED
    assert source.details.fps == 25
    assert list(numbers_of(source)) == list(range(1, FRAMES + 1))
    assert engine == "OpenCV" or source.frames_left == 0


@pytest.mark.parametrize(
    ("how", "engine", "recorded"),
    [
        ("ranges", "PyAV", True),
        ("ranges", "OpenCV", True),
        ("length", "PyAV", True),
        ("length", "OpenCV", False),  # which does not send the answer's length
        ("chunks", "PyAV", False),
        ("chunks", "OpenCV", False),
        ("nothing", "PyAV", False),
        ("nothing", "OpenCV", False),
    ],
)
def test_a_file_without_a_duration_is_a_recording_if_the_answer_has_a_length(
    address: str, how: str, engine: str, recorded: bool
) -> None:
    source = open_with(engine, f"{address}/{how}/clip.ts")
    assert (source.details.delivery is Delivery.RECORDED) is recorded
    numbers = numbers_of(source)
    assert list(itertools.islice(numbers, FRAMES)) == list(range(1, FRAMES + 1))
    if recorded or engine == "OpenCV":
        assert next(numbers, None) is None
    else:
        with pytest.raises(SourceLostError, match=r"^end of stream: the server ended it$"):
            next(numbers)


def test_an_index_at_the_end_of_a_long_file_needs_a_server_with_range_requests(address: str) -> None:
    assert list(numbers_of(open_with("PyAV", f"{address}/ranges/long.mp4"))) == list(range(1, FRAMES + 1))
    for how in ("length", "chunks", "nothing"):
        with pytest.raises(CameraError, match=f"^cannot open {address}/{how}/long.mp4: unreadable: .*faststart"):
            open_with("PyAV", f"{address}/{how}/long.mp4")


@pytest.mark.parametrize("name", ["paused.mp4", "paused.mkv"])
def test_a_server_that_pauses_for_too_long_is_no_end_of_a_recording(address: str, name: str) -> None:
    source = open_with("PyAV", f"{address}/pauses/{name}", read_timeout_sec=1.0)
    assert source.details.delivery is Delivery.RECORDED
    numbers: list[int] = []
    with pytest.raises(SourceLostError, match=r"^timeout: no data within 1 s$"):
        numbers.extend(numbers_of(source))
    assert numbers == list(range(1, len(numbers) + 1))
    assert 0 < len(numbers) < PAUSED_FRAMES


def test_one_picture_is_a_recording_of_one_frame_that_is_fetched_again(address: str, segment_name: str) -> None:
    settings = settings_for(segment_name, f"{address}/length/picture.jpg", backend="av", playback_fps=50)
    found = published(segment_name, settings, frames=4)
    assert [sequence for sequence, _ in found][-1] == 4
    assert all((frame == 99).all() for _, frame in found)


@pytest.mark.parametrize(("name", "damaged"), [("clip.ts", False), ("lossy.ts", True)])
def test_frames_that_lack_lost_packets_are_reported_as_damaged(address: str, name: str, damaged: bool) -> None:
    source = open_with("PyAV", f"{address}/nothing/{name}")
    assert isinstance(source, CheckedSource)
    found = []
    with contextlib.suppress(SourceLostError):
        while source.grab():
            found.append(source.damaged)
    source.release()
    assert any(found) is damaged
    assert len(found) >= FRAMES - 1

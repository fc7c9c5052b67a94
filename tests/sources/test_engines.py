"""Both engines that read files and URLs: the same pictures, the same errors, the same places for frames."""

import contextlib
import os
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from encoding import encode
from engines import BACKENDS, ENGINES, open_with, read_all
from tools import needs
from videos import FPS, SIZE, damage_clip, decode_all, make_clip, make_images, turn_clip

from billiards_shm import CameraError
from billiards_shm.sources.demo.table import read_counter
from billiards_shm.sources.diagnosis import reason_for_url
from billiards_shm.sources.protocol import Delivery


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# Files.


@pytest.mark.parametrize("name", ["clip.avi", "clip.mp4"])
def test_the_frames_of_a_clip_are_as_opencv_decodes_them(engine: str, tmp_path: Path, name: str) -> None:
    clip = make_clip(tmp_path / name, 20)
    camera = open_with(engine, clip)
    assert (camera.details.width, camera.details.height) == SIZE
    assert camera.details.fps == FPS
    assert camera.details.frame_count == 20
    assert camera.details.backend == {"OpenCV": "FFMPEG", "PyAV": "AV"}[engine]
    assert camera.details.delivery is Delivery.RECORDED
    frames = list(read_all(camera))
    assert [read_counter(frame) for frame in frames] == list(range(1, 21))
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(frames, decode_all(clip), strict=True))


def test_positions_rise_by_the_duration_of_a_frame(engine: str, tmp_path: Path) -> None:
    camera = open_with(engine, make_clip(tmp_path / "clip.avi", 4))
    positions = []
    while camera.grab():
        camera.retrieve(None)
        positions.append(camera.position_ms)
    assert positions == pytest.approx([0, 40, 80, 120])


def test_a_recording_knows_how_many_frames_are_left(engine: str, tmp_path: Path) -> None:
    camera = open_with(engine, make_clip(tmp_path / "clip.avi", 3))
    left = [camera.frames_left]
    while camera.grab():
        left.append(camera.frames_left)
    assert left == [3, 2, 1, 0]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_clip_is_shown_upright_and_lands_in_the_slot(engine: str, tmp_path: Path, degrees: int) -> None:
    clip = turn_clip(make_clip(tmp_path / "phone.mp4", 5), degrees)
    upright = decode_all(clip)
    camera = open_with(engine, clip)
    assert upright[0].shape == (camera.details.height, camera.details.width, 3)
    frames = list(read_all(camera))
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(frames, upright, strict=True))
    if degrees != 180:
        assert (camera.details.height, camera.details.width) == SIZE


def test_memory_of_another_shape_stays_untouched(engine: str, tmp_path: Path) -> None:
    camera = open_with(engine, make_clip(tmp_path / "clip.avi", 1))
    slot = np.zeros((10, 10, 3), np.uint8)
    assert camera.grab()
    image = camera.retrieve(slot)
    assert image is not None
    assert image is not slot
    assert not slot.any()


def test_frames_land_in_memory_with_padded_rows(engine: str, tmp_path: Path) -> None:
    camera = open_with(engine, make_clip(tmp_path / "clip.avi", 1))
    padded = np.zeros((SIZE[1], SIZE[0] + 16, 3), np.uint8)
    slot = padded[:, : SIZE[0]]
    assert camera.grab()
    assert camera.retrieve(slot) is slot
    assert read_counter(slot) == 1
    assert not padded[:, SIZE[0] :].any()


def test_damaged_frames_are_left_out_and_the_others_arrive(engine: str, tmp_path: Path) -> None:
    camera = open_with(engine, damage_clip(make_clip(tmp_path / "clip.avi", 20), 5, 11, 12))
    numbers = [read_counter(frame) for frame in read_all(camera)]
    assert numbers == [number for number in range(1, 21) if number not in (5, 11, 12)]


def test_numbered_images_are_not_for_ffmpeg_which_would_guess(engine: str, tmp_path: Path) -> None:
    with pytest.raises(CameraError, match=r"numbered images need backend images or auto$"):
        open_with(engine, make_images(tmp_path / "images", range(1, 4)), backend=BACKENDS[engine])


# What cannot be opened.


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi"])
def test_a_missing_file_is_an_error_that_says_so(engine: str, tmp_path: Path, name: str) -> None:
    with pytest.raises(CameraError, match=rf"^cannot open {tmp_path}/{name}: not found: no such file or directory$"):
        open_with(engine, tmp_path / name)


@pytest.mark.parametrize(
    ("name", "hint"), [("demmo", True), ("Demo", True), ("dmo", True), ("clip", False), ("demo.mp4", False)]
)
def test_a_name_similar_to_demo_gets_a_hint(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hint: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CameraError, match=f"^cannot open {name}: not found: no such file or directory") as caught:
        open_with(engine, Path(name))
    assert str(caught.value).endswith("; did you mean demo?") is hint


def test_a_directory_is_an_error_that_says_so(engine: str, tmp_path: Path) -> None:
    with pytest.raises(CameraError, match=r"is a directory$"):
        open_with(engine, tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "file is empty"),
        (b"just a text, renamed\n" * 50, "file is text, not video"),
        (bytes(5000), "file holds nothing but zeros"),
        (bytes(range(256)) * 20, "not a video that {engine} can read"),
    ],
)
def test_a_file_that_is_not_a_video_is_an_error_that_says_what_it_is(
    engine: str, tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(CameraError, match=f"{reason.format(engine=engine)}$"):
        open_with(engine, path)


def test_a_raw_video_whose_bytes_could_be_text_is_played(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "dark.y4m"
    path.write_bytes(b"YUV4MPEG2 W64 H96 F25:1 Ip A1:1 C420jpeg\n" + 3 * (b"FRAME\n" + b"<" * (64 * 96 * 3 // 2)))
    assert [frame.shape for frame in read_all(open_with(engine, path))] == [(96, 64, 3)] * 3


def test_a_file_that_was_cut_off_is_an_error_that_says_so(engine: str, tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", 30)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CameraError, match="file is cut off"):
        open_with(engine, path)


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A directory of a user who may not read everything: root becomes `nobody` for the test."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        if user == 0:
            Path(folder).chmod(0o777)
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            os.seteuid(user)


def test_an_unreadable_file_is_an_error_that_says_so(engine: str, unprivileged: Path) -> None:
    path = unprivileged / "clip.mp4"
    path.write_bytes(b"content")
    path.chmod(0)
    with pytest.raises(CameraError, match=r"permission denied$"):
        open_with(engine, path)


# URLs.


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def answer(server: socket.socket, text: bytes | Callable[[bytes], bytes]) -> threading.Thread:
    """Answer every connection with the same text, or with a function's reply to the request, until it is closed."""

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except ssl.SSLError:
                continue
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                request = connection.recv(4096)
                connection.sendall(text(request) if callable(text) else text)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with key and certificate."""
    needs("openssl")
    folder = tmp_path_factory.mktemp("certificate")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=camera"
    subprocess.run([*command.split(), "-keyout", "key", "-out", "crt"], cwd=folder, check=True, capture_output=True)
    both = folder / "both"
    both.write_bytes((folder / "key").read_bytes() + (folder / "crt").read_bytes())
    return both


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return port_of(listening)


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_an_unreachable_server_is_an_error_that_says_so_without_the_password(engine: str, scheme: str) -> None:
    port = free_port()
    expected = (
        rf"^cannot open {scheme}://me:\*\*\*@127.0.0.1:{port}/x: not found: 127.0.0.1:{port}: connection refused$"
    )
    with pytest.raises(CameraError, match=expected):
        open_with(engine, f"{scheme}://me:secret@127.0.0.1:{port}/x")


@pytest.mark.parametrize("host", ["a..b", "x" * 70])
def test_an_impossible_host_name_is_an_error_that_says_so(engine: str, host: str) -> None:
    with pytest.raises(CameraError, match=f"not found: there is no host {host}$"):
        open_with(engine, f"http://me:secret@{host}/x")


@pytest.mark.parametrize(
    ("status", "reason"),
    [(b"401 Unauthorized", "permission: "), (b"404 Not Found", "not found: "), (b"503 Busy", "busy: ")],
)
@pytest.mark.parametrize(("scheme", "protocol"), [("rtsp", b"RTSP/1.0"), ("http", b"HTTP/1.1")])
def test_a_server_that_refuses_is_an_error_with_its_reason(
    server: socket.socket, scheme: str, protocol: bytes, status: bytes, reason: str
) -> None:
    answer(server, protocol + b" " + status + b"\r\nCSeq: 1\r\nContent-Length: 0\r\n\r\n")
    assert reason_for_url(f"{scheme}://127.0.0.1:{port_of(server)}/x?y=1", 2.0, "OpenCV").startswith(reason)


def test_a_server_without_the_stream_is_not_reported_as_refusing_the_user(
    server: socket.socket,
) -> None:
    def refusing(request: bytes) -> bytes:
        status = b"404 Not Found" if b"Authorization: Basic" in request else b"401 Unauthorized"
        challenge = b'WWW-Authenticate: Basic realm="x"\r\n'
        return b"HTTP/1.1 " + status + b"\r\n" + challenge + b"Content-Length: 0\r\nConnection: close\r\n\r\n"

    answer(server, refusing)
    with pytest.raises(CameraError, match=r"not found: 127\.0\.0\.1:\d+: there is no such stream \(status 404\)$"):
        open_with("PyAV", f"http://me:secret@127.0.0.1:{port_of(server)}/x")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "reason"),
    [(b"401 Unauthorized", "permission: "), (b"503 Busy", "busy: "), (b"418 Teapot", "unreadable: ")],
)
@pytest.mark.parametrize(("scheme", "protocol"), [("rtsps", b"RTSP/1.0"), ("https", b"HTTP/1.1")])
def test_a_server_behind_tls_that_refuses_is_an_error_with_its_reason(
    server: socket.socket, certificate: Path, scheme: str, protocol: bytes, status: bytes, reason: str
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with context.wrap_socket(server, server_side=True) as secure:
        answer(secure, protocol + b" " + status + b"\r\nCSeq: 1\r\nContent-Length: 0\r\n\r\n")
        found = reason_for_url(f"{scheme}://127.0.0.1:{port_of(secure)}/x?y=1", 5.0, "OpenCV")
    assert found.startswith(reason)
    assert f"(status {status[:3].decode()})" in found


@pytest.mark.slow
def test_a_refusal_behind_tls_is_reported_with_its_reason(
    engine: str, server: socket.socket, certificate: Path
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with context.wrap_socket(server, server_side=True) as secure:
        answer(secure, b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        with pytest.raises(CameraError, match=r"permission: 127\.0\.0\.1:\d+: forbidden \(status 403\)$"):
            open_with(engine, f"https://127.0.0.1:{port_of(secure)}/x")


def test_a_server_without_tls_is_an_error_that_says_so(engine: str, server: socket.socket) -> None:
    answer(server, b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(CameraError, match=r"unreadable: 127\.0\.0\.1:\d+: no TLS \("):
        open_with(engine, f"https://127.0.0.1:{port_of(server)}/x")


def test_a_server_that_sends_something_else_is_an_error(engine: str, server: socket.socket) -> None:
    answer(server, b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
    with pytest.raises(CameraError, match=f"answers, but with no stream that {engine} can read$"):
        open_with(engine, f"http://127.0.0.1:{port_of(server)}/")


def test_a_server_that_never_answers_is_a_timeout(server: socket.socket) -> None:
    assert reason_for_url(f"rtsp://127.0.0.1:{port_of(server)}/x", 0.1, "OpenCV").startswith("timeout: ")


@pytest.mark.slow
def test_a_server_that_keeps_sending_without_a_frame_is_a_timeout(
    engine: str, server: socket.socket, tmp_path: Path
) -> None:
    video = encode(tmp_path / "clip.ts", "libx264", "yuv420p", (64, 48), frames=60, g=1, bf=0).read_bytes()
    padding = b"\x47\x1f\xff\x10" + bytes(184)
    done = threading.Event()

    def serve() -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(4096)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n" + video)
            while not done.wait(0.02):
                connection.sendall(padding)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        source = open_with(engine, f"http://127.0.0.1:{port_of(server)}/live.ts", read_timeout_sec=0.5)
        frames = 0
        while source.grab():
            frames += 1
        assert 40 <= frames <= 60
        assert thread.is_alive(), "it was the time that was up"
        source.release()
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("rtsp://127.0.0.1:port/", "not found: not a URL: "),
        ("udp://127.0.0.1:9999", "no signal: "),
        ("strange://host/x", "unreadable: nothing there"),
    ],
)
def test_unusable_addresses_have_a_reason_too(url: str, reason: str) -> None:
    assert reason_for_url(url, 0.1, "OpenCV").startswith(reason)

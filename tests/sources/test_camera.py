"""OpenCV's sources: what is opened, what is said of what cannot be, and frames that land where they are wanted."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from videos import FPS, SIZE, damage_clip, decode_all, make_clip, make_images, turn_clip

from billiards_shm import CameraError
from billiards_shm.config.address import SourceAddress, SourceKind
from billiards_shm.config.model import CameraConfig
from billiards_shm.sources import camera as camera_module
from billiards_shm.sources.camera import Camera, available_backends
from billiards_shm.sources.demo.table import read_counter
from billiards_shm.sources.diagnosis import reason_for_url
from billiards_shm.sources.protocol import VideoFormat


def open_camera(device_id: int | str | Path, backend: str = "auto") -> Camera:
    device = device_id if isinstance(device_id, int) else str(device_id)
    return Camera(CameraConfig.model_validate({"device_id": device, "backend": backend}))


def read_all(camera: Camera, failures: int = 3) -> Iterator[np.ndarray]:
    """Read until several attempts in a row have failed, each frame into memory of the last one's shape."""
    slot: np.ndarray | None = None
    failed = 0
    while failed < failures:
        image = camera.retrieve(slot) if camera.grab() else None
        if image is None:
            failed += 1
            continue
        failed = 0
        assert slot is None or image is slot, "the frame was not put where it was wanted"
        slot = np.zeros_like(image)
        yield image


# Files.


@pytest.mark.parametrize("name", ["clip.avi", "clip.mp4"])
def test_a_clip_gives_its_frames_as_opencv_decodes_them(tmp_path: Path, name: str) -> None:
    clip = make_clip(tmp_path / name, 20)
    camera = open_camera(clip)
    assert (camera.details.width, camera.details.height) == SIZE
    assert camera.details.fps == FPS
    assert camera.details.frame_count == 20
    assert camera.details.backend == "FFMPEG"
    frames = list(read_all(camera))
    assert [read_counter(frame) for frame in frames] == list(range(1, 21))
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(frames, decode_all(clip), strict=True))


def test_positions_rise_by_the_duration_of_a_frame(tmp_path: Path) -> None:
    camera = open_camera(make_clip(tmp_path / "clip.avi", 4))
    positions = []
    while camera.grab():
        camera.retrieve(None)
        positions.append(camera.position_ms)
    assert positions == pytest.approx([0, 40, 80, 120])


def test_a_recording_tells_how_many_frames_are_left(tmp_path: Path) -> None:
    camera = open_camera(make_clip(tmp_path / "clip.avi", 3))
    left = [camera.frames_left]
    while camera.grab():
        left.append(camera.frames_left)
    assert left == [3, 2, 1, 0]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_clip_is_shown_upright_and_lands_in_the_slot(tmp_path: Path, degrees: int) -> None:
    clip = turn_clip(make_clip(tmp_path / "phone.mp4", 5), degrees)
    upright = decode_all(clip)
    camera = open_camera(clip)
    assert upright[0].shape == (camera.details.height, camera.details.width, 3)
    frames = list(read_all(camera))
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(frames, upright, strict=True))
    if degrees != 180:
        assert (camera.details.height, camera.details.width) == SIZE


def test_memory_of_another_shape_stays_untouched(tmp_path: Path) -> None:
    camera = open_camera(make_clip(tmp_path / "clip.avi", 1))
    slot = np.zeros((10, 10, 3), np.uint8)
    assert camera.grab()
    image = camera.retrieve(slot)
    assert image is not None
    assert image is not slot
    assert not slot.any()


def test_frames_land_in_memory_with_padded_rows(tmp_path: Path) -> None:
    camera = open_camera(make_clip(tmp_path / "clip.avi", 1))
    padded = np.zeros((SIZE[1], SIZE[0] + 16, 3), np.uint8)
    slot = padded[:, : SIZE[0]]
    assert camera.grab()
    assert camera.retrieve(slot) is slot
    assert read_counter(slot) == 1
    assert not padded[:, SIZE[0] :].any()


def test_damaged_frames_are_left_out_and_the_others_come(tmp_path: Path) -> None:
    camera = open_camera(damage_clip(make_clip(tmp_path / "clip.avi", 20), 5, 11, 12))
    numbers = [read_counter(frame) for frame in read_all(camera)]
    assert numbers == [number for number in range(1, 21) if number not in (5, 11, 12)]


def test_the_backend_can_be_named(tmp_path: Path) -> None:
    assert open_camera(make_clip(tmp_path / "clip.avi", 1), "ffmpeg").details.backend == "FFMPEG"


def test_numbered_images_are_not_for_ffmpeg_which_would_guess(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match=r"numbered images are for the backends images and auto$"):
        open_camera(make_images(tmp_path / "images", range(1, 4)), "ffmpeg")


@pytest.mark.parametrize(
    ("pipeline", "name"),
    [
        ("v4l2src ! video/x-raw,format=NV12,width=640 ! appsink", "NV12"),
        ("v4l2src ! video/x-raw,format=YUY2 ! videoconvert ! video/x-raw, format = (string) BGR ! appsink", ""),
        ('videotestsrc ! video/x-raw,format="UYVY" ! appsink', "UYVY"),
        ("videotestsrc ! appsink", ""),
    ],
)
def test_a_pipeline_says_itself_what_it_brings(pipeline: str, name: str) -> None:
    assert camera_module._format_of_pipeline(pipeline) == name


# What cannot be opened.


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi"])
def test_a_missing_file_is_an_error_that_says_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(CameraError, match=rf"^cannot open {tmp_path}/{name}: not found: no such file or directory$"):
        open_camera(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "hint"), [("demmo", True), ("Demo", True), ("dmo", True), ("clip", False), ("demo.mp4", False)]
)
def test_a_name_like_that_of_the_demo_gets_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hint: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CameraError, match=f"^cannot open {name}: not found: no such file or directory") as caught:
        open_camera(Path(name))
    assert str(caught.value).endswith("; did you mean demo?") is hint


def test_a_directory_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match=r"is a directory$"):
        open_camera(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "file is empty"),
        (b"just a text, renamed\n" * 50, "file is text, not video"),
        (bytes(5000), "file holds nothing but zeros"),
        (bytes(range(256)) * 20, "not a video that OpenCV can read"),
    ],
)
def test_a_file_that_is_no_video_is_an_error_that_says_what_it_is(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(CameraError, match=rf"{reason}$"):
        open_camera(path)


def test_a_file_that_was_cut_off_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", 30)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CameraError, match="file is cut off"):
        open_camera(path)


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A directory of a user who may not read everything: root is `nobody` meanwhile."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        if user == 0:
            Path(folder).chmod(0o777)
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            os.seteuid(user)


def test_an_unreadable_file_is_an_error_that_says_so(unprivileged: Path) -> None:
    path = unprivileged / "clip.mp4"
    path.write_bytes(b"content")
    path.chmod(0)
    with pytest.raises(CameraError, match=r"permission denied$"):
        open_camera(path)


@pytest.mark.parametrize("device", [63, "/dev/video63", "/dev/v4l/by-id/usb-none-video-index0"])
def test_a_missing_camera_is_an_error_that_names_those_there_are(device: int | str) -> None:
    with pytest.raises(CameraError, match=r"no device /dev/v.* \(there is: "):
        open_camera(device)


def test_a_stable_name_is_followed_anew_at_each_attempt(tmp_path: Path) -> None:
    link = tmp_path / "usb-table-video-index0"
    # It stands below /dev, where tests make no files.
    address = SourceAddress(SourceKind.DEVICE, str(link))
    for number in (62, 63):
        link.unlink(missing_ok=True)
        link.symlink_to(f"/dev/video{number}")
        with pytest.raises(CameraError, match=f"not found: no device /dev/video{number} "):
            camera_module._check_place(address)
    link.unlink()
    link.symlink_to("/dev/null")
    assert camera_module._check_place(address) == "/dev/null"


@pytest.mark.parametrize("fps", [0.0, -1.0, 2000.0, 180000.0, float("nan"), float("inf")])
def test_a_rate_that_no_camera_has_is_an_unknown_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fps: float
) -> None:
    monkeypatch.setattr(camera_module, "negotiated", lambda capture: VideoFormat(*SIZE, fps))
    assert open_camera(make_clip(tmp_path / "clip.avi", 1)).details.fps == 0.0


def test_a_device_that_is_no_camera_is_an_error() -> None:
    with pytest.raises(CameraError, match=r"^cannot open /dev/null: unreadable: not a device that gives pictures$"):
        open_camera("/dev/null")


def test_a_backend_that_opencv_lacks_is_an_error_that_names_those_it_has(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.avi", 1)
    missing = {"v4l2", "dshow", "msmf", "avfoundation", "gstreamer", "ffmpeg"} - set(available_backends())
    assert missing
    for backend in missing:
        with pytest.raises(CameraError, match=rf"^backend {backend} is not in this OpenCV .*ffmpeg"):
            open_camera(clip, backend)


def test_a_pipeline_needs_gstreamer_and_says_so() -> None:
    with pytest.raises(CameraError, match="backend gstreamer is not in this OpenCV"):
        open_camera("videotestsrc ! videoconvert ! appsink")


def test_opencv_and_ffmpeg_print_nothing_when_a_source_fails(tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(bytes(range(256)) * 20)
    damaged = damage_clip(make_clip(tmp_path / "damaged.avi", 5), 2)
    code = f"""
from billiards_shm.sources.camera import Camera, CameraError
from billiards_shm.config.model import CameraConfig
from billiards_shm.config.address import SourceAddress, SourceKind
from billiards_shm.sources.protocol import (VideoFormat)
for device in {str(bad)!r}, "rtsp://127.0.0.1:1/x", "/dev/null":
    try:
        Camera(CameraConfig(device_id=device))
    except CameraError:
        pass
    else:
        raise AssertionError(device)
camera = Camera(CameraConfig(device_id={str(damaged)!r}))
frames = 0
for attempt in range(6):
    frames += camera.grab() and camera.retrieve(None) is not None
assert frames == 4
"""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# URLs.


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def answer(server: socket.socket, text: bytes) -> threading.Thread:
    """Answer every connection with the same text, until the server is closed."""

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(text)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return port_of(listening)


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_server_that_is_not_there_is_an_error_that_says_so_without_the_password(scheme: str) -> None:
    port = free_port()
    expected = (
        rf"^cannot open {scheme}://me:\*\*\*@127.0.0.1:{port}/x: not found: 127.0.0.1:{port}: connection refused$"
    )
    with pytest.raises(CameraError, match=expected):
        open_camera(f"{scheme}://me:secret@127.0.0.1:{port}/x")


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


def test_a_server_that_sends_something_else_is_an_error(server: socket.socket) -> None:
    answer(server, b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
    with pytest.raises(CameraError, match=r"answers, but with no stream that OpenCV can read$"):
        open_camera(f"http://127.0.0.1:{port_of(server)}/")


def test_a_server_that_never_answers_is_a_timeout(server: socket.socket) -> None:
    assert reason_for_url(f"rtsp://127.0.0.1:{port_of(server)}/x", 0.1, "OpenCV").startswith("timeout: ")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("rtsp://127.0.0.1:port/", "not found: not a URL: "),
        ("udp://127.0.0.1:9999", "no signal: "),
        ("strange://host/x", "unreadable: nothing there"),
    ],
)
def test_addresses_that_lead_nowhere_have_a_reason_too(url: str, reason: str) -> None:
    assert reason_for_url(url, 0.1, "OpenCV").startswith(reason)

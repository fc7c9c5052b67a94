"""OpenCV's sources: what is opened, the errors if it cannot be, and frames that land where they should."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from encoding import encode
from engines import open_with, read_all
from videos import SIZE, damage_clip, make_clip

from billiards_shm import CameraError
from billiards_shm.config.address import SourceAddress, SourceKind
from billiards_shm.config.model import CameraConfig
from billiards_shm.sources import camera as camera_module
from billiards_shm.sources.camera import Camera, available_backends
from billiards_shm.sources.interlaced import converts_interlaced
from billiards_shm.sources.protocol import VideoFormat


def open_camera(device_id: int | str | Path, backend: str = "auto") -> Camera:
    device = device_id if isinstance(device_id, int) else str(device_id)
    return Camera(CameraConfig.model_validate({"device_id": device, "backend": backend}))


def test_the_backend_can_be_named(tmp_path: Path) -> None:
    assert open_camera(make_clip(tmp_path / "clip.avi", 1), "ffmpeg").details.backend == "FFMPEG"


@pytest.mark.parametrize(
    ("pipeline", "name"),
    [
        ("v4l2src ! video/x-raw,format=NV12,width=640 ! appsink", "NV12"),
        ("v4l2src ! video/x-raw,format=YUY2 ! videoconvert ! video/x-raw, format = (string) BGR ! appsink", ""),
        ('videotestsrc ! video/x-raw,format="UYVY" ! appsink', "UYVY"),
        ("videotestsrc ! appsink", ""),
        ("v4l2src ! image/jpeg,width=1280 ! appsink drop=true", "MJPG"),
        ("v4l2src ! image/jpeg ! queue max-size-buffers=1 ! appsink", "MJPG"),
        ("videotestsrc ! video/x-raw,format=I420 ! jpegenc quality=90 ! appsink", "MJPG"),
        ("v4l2src ! image/jpeg ! jpegdec ! videoconvert ! video/x-raw,format=NV12 ! appsink", "NV12"),
        ("v4l2src ! image/jpeg ! jpegdec ! videoconvert ! appsink", ""),
    ],
)
def test_a_pipeline_states_its_own_format(pipeline: str, name: str) -> None:
    assert camera_module._format_of_pipeline(pipeline) == name


@pytest.mark.parametrize("device", [63, "/dev/video63", "/dev/v4l/by-id/usb-none-video-index0"])
def test_a_missing_camera_is_an_error_that_names_the_existing_ones(device: int | str) -> None:
    with pytest.raises(CameraError, match=r"no device /dev/v.* \(available: "):
        open_camera(device)


def test_a_stable_name_is_followed_again_at_each_attempt(tmp_path: Path) -> None:
    link = tmp_path / "usb-table-video-index0"
    # It is below /dev, where tests create no files.
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
def test_an_impossible_rate_counts_as_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fps: float) -> None:
    monkeypatch.setattr(camera_module, "negotiated", lambda capture: VideoFormat(*SIZE, fps))
    assert open_camera(make_clip(tmp_path / "clip.avi", 1)).details.fps == 0.0


def test_a_device_that_is_not_a_camera_is_an_error() -> None:
    with pytest.raises(CameraError, match=r"^cannot open /dev/null: unreadable: not a device that delivers images$"):
        open_camera("/dev/null")


def test_a_backend_that_opencv_lacks_is_an_error_that_names_the_available_ones(tmp_path: Path) -> None:
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


# Interlaced video.


def test_an_opencv_that_cannot_convert_interlaced_video_causes_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_clip(tmp_path / "clip.avi", 1)
    for converts in (True, False):
        monkeypatch.setattr(camera_module, "converts_interlaced", lambda converts=converts: converts)
        warnings = open_camera(clip).details.warnings
        assert [("interlaced" in text, "pip install 'billiards-shm[av]'" in text) for text in warnings] == (
            [] if converts else [(True, True)]
        )


def test_the_probe_matches_what_opencv_makes_of_an_interlaced_file(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.ts", "mpeg2video", "yuv420p", interlaced=True)
    ours = next(iter(read_all(open_with("PyAV", path))))
    # In a new process: where OpenCV does not convert, its picture is whatever the memory held before.
    code = "import cv2, sys; cv2.imwrite(sys.argv[2], cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG).read()[1])"
    subprocess.run([sys.executable, "-c", code, path, tmp_path / "first.png"], check=True)
    theirs = cv2.imread(str(tmp_path / "first.png"))
    difference = np.abs(ours.astype(int) - theirs).mean()
    print(f"OpenCV {cv2.__version__}: {difference:.1f} levels from what PyAV gives")
    assert converts_interlaced() is bool(difference < 10)

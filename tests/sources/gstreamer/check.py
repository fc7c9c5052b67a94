"""Checks of the capture process with an OpenCV that has GStreamer."""

import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from real_sources import CaptureProcess, Clip, RtspServer, ffmpeg

from billiards_shm.config.model import CameraConfig
from billiards_shm.sources.camera import Camera, available_backends

TEST = "videotestsrc is-live=true pattern=smpte"
SIZE = "width=320,height=240,framerate=25/1"
BGR = f"{TEST} ! video/x-raw,{SIZE} ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1"


def check_a_pipeline_is_captured(folder: Path) -> None:
    with CaptureProcess(folder, BGR, frozen_timeout_sec=0) as capture:
        shapes = {capture.frame()[0].shape for _ in range(30)}
        assert shapes == {(240, 320, 3)}
        assert capture.info.backend == "GSTREAMER"


def check_frames_land_in_the_slot(folder: Path) -> None:
    camera = Camera(CameraConfig(device_id=BGR))
    assert camera.grab()
    first = camera.retrieve(None)
    assert first is not None
    slot = np.zeros_like(first)
    assert camera.grab()
    print("  in the slot:", camera.retrieve(slot) is slot, camera.details)
    camera.release()


def check_raw_formats_show_the_same_picture(folder: Path) -> None:
    pictures = {}
    for gst_format in ("BGR", "YUY2", "UYVY", "NV12", "I420"):
        pipeline = f"{TEST} ! video/x-raw,format={gst_format},{SIZE} ! appsink drop=true max-buffers=1"
        camera = Camera(CameraConfig(device_id=pipeline))
        assert camera.grab()
        pictures[gst_format] = camera.retrieve(None)
        camera.release()
    for gst_format, picture in pictures.items():
        assert picture is not None
        assert picture.shape == (240, 320, 3), gst_format
        # The noise in the test picture's corner is never the same.
        assert np.median(np.abs(picture.astype(int) - pictures["BGR"])) <= 4, gst_format


def check_a_file_is_decoded_with_every_frame(folder: Path) -> None:
    clip = folder / "clip.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=320x240:rate=25", "-frames:v", 50, "-c:v", "libx264", clip)
    camera = Camera(CameraConfig(device_id=str(clip), backend="gstreamer"))
    frames = 0
    while camera.grab():
        assert camera.retrieve(None) is not None
        frames += 1
    print("  frames of 50:", frames, camera.details)
    assert frames == 50


def check_a_server_that_is_killed_is_found_again(folder: Path) -> None:
    clip = Clip(folder, (320, 180))
    with RtspServer(clip) as server:
        pipeline = (
            f"rtspsrc location={server.url} protocols=tcp latency=0 ! rtph264depay ! h264parse ! avdec_h264 ! "
            "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1"
        )
        with CaptureProcess(folder, pipeline) as capture:
            capture.frame()
            capture.until("streaming")
            server.kill()
            print(f"  noticed after {capture.until('reconnecting'):.1f} s: {capture.info.source_reason}")
            server.start()
            print(f"  back after {capture.recovers():.1f} s")


assert "gstreamer" in available_backends(), f"OpenCV {cv2.__version__} has {available_backends()}"
print(f"OpenCV {cv2.__version__}, numpy {np.__version__}")
for check in [value for name, value in list(globals().items()) if name.startswith("check_")]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        check(Path(temporary))
    print(f"{check.__name__}: passed in {time.monotonic() - began:.0f} s", flush=True)

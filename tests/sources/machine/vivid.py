"""Checks in the virtual machine: the capture process on the virtual camera `vivid`."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from machine import NAME, capturing, info, run_checks, said, shell, state, until

from billiards_shm import SharedMemoryFrameReader


def load(device: int = 0) -> None:
    # One node, for capturing; its only input is a webcam.
    shell(f"modprobe vivid n_devs=1 node_types=0x1 num_inputs=1 input_types=0 vid_cap_nr={device}")
    until(lambda: Path(f"/dev/video{device}").exists())


def frames(reader: SharedMemoryFrameReader, count: int, pixel_format: str = "BGR24") -> list[np.ndarray]:
    """Frames that are published in a format, as BGR."""
    found = []
    for _ in range(count):
        frame, metadata = reader.read_frame(timeout=60, copy=True, format="BGR24")
        assert frame is not None, said()
        assert metadata is not None
        # It is unknown while the newest frame is replaced.
        until(lambda: info().pixel_format == pixel_format)
        found.append(frame)
    return found


def check_frames() -> None:
    with capturing() as reader:
        got = frames(reader, 30)
        assert got[0].shape == (360, 640, 3)
        assert got[0].std() > 10
        assert any(not np.array_equal(got[0], frame) for frame in got[1:])
        assert info().backend == "V4L2"
        until(lambda: info().fps > 1)
        print(f"  {info().fps:.1f} fps; {[line for line in said().splitlines() if 'Source:' in line]}")
    print("  " + [line for line in said().splitlines() if "Stats: " in line][-1])


def check_frames_land_in_the_slot() -> None:
    code = (
        "from billiards_shm.sources.camera import Camera\n"
        "from billiards_shm.config.model import CameraConfig\n"
        "import numpy as np, time\n"
        "for keys in ({}, {'fourcc': 'YUYV', 'publish': 'native'}, {'fourcc': 'NV12', 'publish': 'both'},\n"
        "             {'rotation': 90}, {'crop': (10, 20, 100, 80), 'flip': 'both'}):\n"
        "    camera = Camera(CameraConfig(device_id=0, resolution=(640, 360), **keys))\n"
        "    assert camera.grab()\n"
        "    first = camera.retrieve(None)\n"
        "    slot = np.zeros_like(first)\n"
        "    assert camera.grab() and camera.retrieve(slot) is slot and slot.any(), keys\n"
        "    age = time.monotonic() - camera.timestamp_ms / 1000\n"
        # vivid stamps frames with when they are due, which may be a frame ahead.
        "    assert -0.1 < age < 5, age\n"
        "    print(' ', keys, slot.shape, camera.details, camera.details.warnings, f'frame age {age:.3f} s')\n"
        "    camera.release()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


LUMA = np.array([0.114, 0.587, 0.299])
"""The weights of blue, green and red in gray. The driver's gray goes from 16 to 235, so it differs by up to 20."""


def check_native_formats_show_the_same_picture() -> None:
    with capturing(fourcc="YUYV") as reader:
        reference = np.median(frames(reader, 5), axis=0)
    for fourcc, pixel_format in (
        ("YUYV", "YUYV"),
        ("UYVY", "UYVY"),
        ("NV12", "NV12"),
        ("NV21", "NV21"),
        ("YU12", "I420"),
        ("YV12", "YV12"),
        ("GREY", "GRAY8"),
        ("BA81", "BAYER_BGGR8"),
        ("RGGB", "BAYER_RGGB8"),
        ("RGB3", "RGB24"),
    ):
        with capturing(fourcc=fourcc, publish="native") as reader:
            picture = np.median(frames(reader, 5, pixel_format), axis=0)
            assert "publish: asked for" not in said(), said()
            assert f" {fourcc}, V4L2" in said(), said()
        # The pattern has a clock and a moving bar. Gray has no colours.
        expected = reference if fourcc != "GREY" else (reference @ LUMA)[..., None]
        difference = np.median(np.abs(picture - expected))
        print(f"  {fourcc}: differs by {difference:g}")
        assert difference <= (4 if fourcc != "GREY" else 20), fourcc


def check_both_are_from_one_grab() -> None:
    with capturing(fourcc="NV12", publish="both") as reader, SharedMemoryFrameReader(f"{NAME}.native") as native:
        paired = 0
        for _ in range(20):
            _, bgr = reader.read_frame(timeout=60)
            _, raw = native.latest_frame()
            assert bgr is not None
            assert raw is not None
            assert (bgr.pixel_format, raw.pixel_format) == ("BGR24", "NV12")
            paired += bgr.source_sequence == raw.source_sequence and bgr.capture_time_ns == raw.capture_time_ns
        print(f"  {paired} of 20 read together")
        assert paired


def check_settings() -> None:
    with capturing(brightness=200, contrast=90, gain=50, focus=3) as reader:
        frames(reader, 2)
        shown = subprocess.run(["v4l2-ctl", "-C", "brightness,contrast"], capture_output=True, text=True, check=True)
        assert shown.stdout.split() == ["brightness:", "200", "contrast:", "90"], shown.stdout
        assert "focus: asked for 3, the driver has no such setting" in said()
    with capturing(resolution=[1234, 567], fourcc="H264") as reader:
        frames(reader, 2)
        warned = [line for line in said().splitlines() if " was asked for 1234x567 at 25 fps H264 but " in line]
        assert len(warned) == 1, said()
        print("  " + warned[0])


def check_dropped_buffers() -> None:
    with capturing() as reader:
        frames(reader, 25)
        before = info().fps
        shell("v4l2-ctl -c percentage_of_dropped_buffers=50")
        time.sleep(3)
        lost, there = info().lost, info().sequence
        time.sleep(6)
        during, lost, there = info().fps, info().lost - lost, info().sequence - there
        print(f"  {before:.1f} fps, with half of the buffers dropped {during:.1f}; {lost} lost and {there} received")
        assert during < 0.8 * before
        assert 0.7 * there < lost < 1.4 * there
        assert state("streaming")
        shell("v4l2-ctl -c percentage_of_dropped_buffers=0")
        assert info().reconnects == 0


def check_disconnect_and_return() -> None:
    path = Path("/dev/v4l/by-id/usb-table-video-index0")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/dev/video0")
    with capturing(str(path), placeholder=True) as reader:
        _, last = reader.read_frame(timeout=60)
        until(lambda: state("streaming"))
        shell("v4l2-ctl -c disconnect=1")
        # vivid is back as soon as it is opened again.
        until(lambda: info().reconnects == 1 and state("streaming"))
        path.unlink()
        shell("v4l2-ctl -c disconnect=1")
        noticed = until(lambda: state("reconnecting", "not found: "))
        print(f"  noticed after {noticed:.1f} s: {info().source_reason}")
        until(lambda: not reader.latest_frame()[1].online)  # type: ignore[union-attr]
        shell("rmmod vivid")
        # When plugged in again, it has another number.
        load(device=5)
        path.symlink_to("/dev/video5")
        back = until(lambda: state("streaming"))
        frame, metadata = reader.read_frame(timeout=60)
        assert frame is not None
        assert metadata is not None
        assert last is not None
        assert metadata.sequence > last.sequence
        assert info().reconnects == 2
        print(f"  back after {back:.1f} s, as {os.path.realpath(path)}")


def check_busy() -> None:
    with capturing("5") as reader:
        frames(reader, 1)
        second = subprocess.run(
            [sys.executable, "-m", "billiards_shm", "capture", "5", "--name", "second"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode == 3
        assert "busy: another process has this camera" in second.stderr, second.stderr


def check_latency() -> None:
    with capturing("5") as reader:
        frames(reader, 10)
        ages = []
        for _ in range(20):
            _, metadata = reader.read_frame(timeout=60)
            assert metadata is not None
            assert metadata.clock == "driver"
            ages.append((time.monotonic_ns() - metadata.capture_time_ns) / 1e6)
        print(f"  a frame is {statistics.median(ages):.1f} ms old when a reader has it")


load()
run_checks(globals())

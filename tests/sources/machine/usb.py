"""Checks in the virtual machine: the capture process on a USB camera that delivers Motion JPEG."""

import contextlib
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from jpegs import jpeg, without_tables
from machine import NAME, capturing, info, run_checks, said, shell, state, until

from billiards_shm import SharedMemoryFrameReader
from billiards_shm.jpeg import STANDARD_TABLES

JPEGS = Path("/tmp/jpegs")
DEVICE = Path("/dev/video0")


@contextlib.contextmanager
def plugged_in(fps: int, size: tuple[int, int] = (640, 360)) -> Iterator[None]:
    shell("modprobe -a uvcvideo vhci_hcd")
    command = [sys.executable, "/opt/usb_camera.py", JPEGS, *size, fps]
    camera = subprocess.Popen(list(map(str, command)))
    try:
        until(DEVICE.exists)
        yield
    finally:
        camera.kill()
        camera.wait(30)
        until(lambda: not DEVICE.exists())


def picture(number: int, width: int, height: int) -> np.ndarray:
    """A picture as detailed as a camera's: its JPEG takes 0.15 bytes per pixel."""
    noise = np.random.default_rng(number).integers(0, 256, (height // 12, width // 12, 3), np.uint8)
    return cv2.resize(noise, (width, height))


def send(jpegs: list[bytes]) -> dict[bytes, int]:
    """Set what the camera sends from the next start of its stream on; return which frame is which."""
    shutil.rmtree(JPEGS, ignore_errors=True)
    JPEGS.mkdir()
    for number, data in enumerate(jpegs):
        Path(JPEGS, f"{number:02}.jpg").write_bytes(data)
    return {data: number for number, data in enumerate(jpegs)}


SMALL = [jpeg(picture(number, 640, 360), 75) for number in range(8)]
FULL_HD = [jpeg(picture(number, 1920, 1080), 75) for number in range(8)]


def bare(frame: np.ndarray) -> bytes:
    """The bytes of an MJPG frame without the tables that were added."""
    data = frame.tobytes()
    assert data.count(STANDARD_TABLES) == 1
    return data.replace(STANDARD_TABLES, b"")


def check_native_frames_are_the_camera_s_bytes() -> None:
    for what, size, jpegs in (
        ("with tables", (1920, 1080), FULL_HD),
        ("without tables", (1920, 1080), [without_tables(data) for data in FULL_HD]),
        ("without tables", (640, 360), [without_tables(data) for data in SMALL]),
    ):
        number_of = send(jpegs)
        with plugged_in(5, size), capturing(publish="native", fourcc="MJPG", resolution=size, fps=5) as reader:
            shown = []
            for _ in range(20):
                frame, metadata = reader.read_frame(timeout=60, copy=True)
                assert frame is not None, said()
                assert metadata is not None
                assert metadata.pixel_format == "MJPG"
                shown.append(number_of[frame.tobytes() if what == "with tables" else bare(frame)])
                assert cv2.imdecode(frame, cv2.IMREAD_COLOR).shape == (size[1], size[0], 3)
            assert f"{size[0]}x{size[1]} at 5 fps MJPG, V4L2" in said(), said()
        in_turn = sum((after - before) % len(jpegs) == 1 for before, after in pairwise(shown))
        print(f"  {size[0]}x{size[1]} {what}: 20 frames as sent, {in_turn} of 19 follow the one before")


def check_both_are_of_one_jpeg() -> None:
    number_of = send([without_tables(data) for data in SMALL])
    with (
        plugged_in(5),
        capturing(publish="both", fourcc="MJPG", fps=5) as reader,
        SharedMemoryFrameReader(f"{NAME}.native") as native,
    ):
        paired = 0
        for _ in range(10):
            image, bgr = reader.read_frame(timeout=60, copy=True)
            data, raw = native.latest_frame(copy=True)
            assert bgr is not None
            assert raw is not None
            assert (bgr.pixel_format, raw.pixel_format) == ("BGR24", "MJPG")
            if bgr.source_sequence == raw.source_sequence:
                assert bgr.capture_time_ns == raw.capture_time_ns
                assert bare(data) in number_of
                assert np.array_equal(image, cv2.imdecode(data, cv2.IMREAD_COLOR))
                paired += 1
        print(f"  {paired} of 10 read together")
        assert paired


def check_bgr_is_the_decoded_picture() -> None:
    send([without_tables(data) for data in SMALL])
    pictures = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in SMALL]
    with plugged_in(5), capturing(fourcc="MJPG", fps=5) as reader:
        for _ in range(10):
            image, _ = reader.read_frame(timeout=60, copy=True)
            assert any(np.array_equal(image, each) for each in pictures), said()


def check_damaged_jpegs_are_counted_and_dropped() -> None:
    cut_off, noise = SMALL[1][: len(SMALL[1]) // 2], bytes(range(1, 256)) * 40
    wrong_length = SMALL[3][:4] + b"\xff\xff" + SMALL[3][6:]
    sent = [SMALL[0], cut_off, SMALL[2], noise, SMALL[4], wrong_length, SMALL[6], SMALL[7][:-2]]
    number_of = send(sent)
    for publish in ("native", "both", "bgr"):
        if publish == "bgr":
            number_of = {
                cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).tobytes(): number
                for data, number in number_of.items()
                if number in (0, 2, 4, 6)
            }
        with plugged_in(10), capturing(publish=publish, fourcc="MJPG", fps=10):
            name = f"{NAME}.native" if publish == "both" else NAME
            with SharedMemoryFrameReader(name) as frames:
                frames.attach(timeout=60)
                seen = set()
                for _ in range(20):
                    frame, _ = frames.read_frame(timeout=60, copy=True)
                    assert frame is not None
                    seen.add(number_of[frame.tobytes()])
                assert seen == {0, 2, 4, 6}, seen
            until(lambda: "could not be decoded" in said())
            counted = info()
            print(f"  {publish}: {counted.unreadable} damaged of {counted.unreadable + counted.sequence}")
            assert counted.unreadable
            assert state("streaming")
            assert counted.reconnects == 0


def check_frames_have_the_time_of_the_driver() -> None:
    number_of = send(SMALL)
    with plugged_in(5), capturing(publish="native", fourcc="MJPG", fps=5) as reader:
        read = []
        for _ in range(20):
            frame, metadata = reader.read_frame(timeout=60, copy=True)
            assert frame is not None
            assert metadata is not None
            assert metadata.clock == "driver"
            read.append((metadata.capture_time_ns, metadata.publish_time_ns, number_of[frame.tobytes()]))
    sent = [(int(began), name) for began, _, name in map(str.split, Path(JPEGS, "sent").read_text().splitlines())]
    since = []
    for captured_ns, published_ns, number in read:
        # The driver stamps a frame when its first bytes arrive: it is the last one that the camera had begun.
        began_ns, name = max(row for row in sent if row[0] <= captured_ns)
        assert name == f"{number:02}.jpg"
        assert captured_ns < published_ns
        since.append((captured_ns - began_ns, published_ns - began_ns))
    captured, published = (statistics.median(each) / 1e6 for each in zip(*since, strict=True))
    print(f"  captured {captured:.2f} ms after the camera began to send, published after {published:.2f} (medians)")


def check_lost_frames_are_estimated() -> None:
    send([b"" if number in (2, 3, 6) else data for number, data in enumerate(SMALL)])
    with plugged_in(5), capturing(publish="native", fourcc="MJPG", fps=5):
        # By then the usual time between two frames is known.
        until(lambda: info().sequence > 40)
        lost, there = info().lost, info().sequence
        until(lambda: info().sequence > there + 40)
        lost, there = info().lost - lost, info().sequence - there
        print(f"  {lost} lost of {lost + there}, of which 3 of 8 are")
        assert abs(lost - 3 / 5 * there) <= 5


def check_unplugged_and_back() -> None:
    send([without_tables(data) for data in SMALL])
    with contextlib.ExitStack() as camera:
        camera.enter_context(plugged_in(10))
        with capturing("/dev/video0", publish="native", fourcc="MJPG", fps=10) as reader:
            _, before = reader.read_frame(timeout=60)
            assert before is not None
            camera.close()
            noticed = until(lambda: state("reconnecting"))
            print(f"  noticed after {noticed:.1f} s: {info().source_reason}")
            with plugged_in(10):
                until(lambda: state("streaming") and info().reconnects == 1)
                _, after = reader.read_frame(timeout=60)
                assert after is not None
                assert after.sequence > before.sequence


if __name__ == "__main__":
    run_checks(globals())

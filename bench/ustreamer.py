"""From a Motion JPEG camera to ten viewers: capture and serve compared with ustreamer, in turn.

    python -m bench.ustreamer                needs Debian's ustreamer, gcc and curl; two minutes

The camera is camera.c, which both preload: 1080p at 30 fps, JPEGs of 300 kB. Viewers are not counted; what the
first of them gets is compared with what the camera delivered. CPU is as the kernel accounts it, in steps of 10
ms: compare within one run. Prints Markdown.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from bench.capture import cpu_seconds
from bench.machine import cpu_name
from bench.native import FPS, VIEWERS, port_of
from billiards_shm import SharedMemoryFrameReader

DEVICE = "/dev/camera-of-bench"
NAME = f"bench_ustreamer_{os.getpid()}"
USTREAMER_PORT = 8099


def make_camera(folder: Path) -> tuple[dict[str, str], set[bytes]]:
    """The environment in which a program finds the camera, and what it delivers."""
    library = folder / "camera.so"
    command = ["gcc", "-O2", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("camera.c")]
    subprocess.run([str(each) for each in command], check=True)
    rng = np.random.default_rng(1)
    jpegs = []
    for number in range(FPS):
        picture = cv2.resize(rng.integers(0, 256, (90, 160, 3), np.uint8), (1920, 1080))
        jpegs.append(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 75])[1].tobytes())
        (folder / f"{number}.jpg").write_bytes(jpegs[-1])
    camera = {"LD_PRELOAD": str(library), "CAMERA": DEVICE, "CAMERA_JPEGS": str(folder)}
    return os.environ | camera, set(jpegs)


@contextmanager
def started(command: list[object], environ: dict[str, str]) -> Iterator[int]:
    """A process that ends with the block."""
    arguments = list(map(str, command))
    process = subprocess.Popen(arguments, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def ustreamer(camera: dict[str, str]) -> Iterator[tuple[str, list[int]]]:
    """The URL of its stream, and the process."""
    options = ["-r", "1920x1080", "-m", "JPEG", "-c", "HW", "--host", "127.0.0.1", "--log-level", "0"]
    with started(["ustreamer", "-d", DEVICE, "-f", FPS, "-p", USTREAMER_PORT, *options], camera) as pid:
        yield f"http://127.0.0.1:{port_of(pid)}/stream", [pid]


@contextmanager
def capture_and_serve(camera: dict[str, str]) -> Iterator[tuple[str, list[int]]]:
    """The URL of the stream, and both processes."""
    program = [sys.executable, "-m", "billiards_shm"]
    options = ["--publish", "native", "--fourcc", "MJPG", "--resolution", "1920x1080"]
    with (
        started([*program, "capture", DEVICE, "--name", NAME, *options], camera) as capture,
        SharedMemoryFrameReader(NAME) as reader,
    ):
        reader.attach(timeout=60)
        with started([*program, "serve", NAME, "--port", 0, "--json-logs"], dict(os.environ)) as server:
            yield f"http://127.0.0.1:{port_of(server)}/stream/{NAME}.mjpg?quality=90", [capture, server]


def to_viewers(url: str, processes: list[int], seconds: float, kept: Path) -> float:
    """CPU milliseconds per camera frame, with ten viewers; what the first of them gets is kept."""
    time.sleep(2)  # the start is over
    files = [kept, *[Path(os.devnull)] * (VIEWERS - 1)]
    viewers = [subprocess.Popen(["curl", "-sN", "-o", file, url]) for file in files]
    try:
        time.sleep(1)
        used = sum(map(cpu_seconds, processes))
        time.sleep(seconds)
        return (sum(map(cpu_seconds, processes)) - used) / (seconds * FPS) * 1e3
    finally:
        for viewer in viewers:
            viewer.kill()
            viewer.wait()


def jpegs_in(stream: bytes) -> list[bytes]:
    """The parts of a stream that arrived complete."""
    parts = []
    place = stream.find(b"Content-Length: ")
    while place >= 0:
        begin = stream.index(b"\r\n\r\n", place) + 4
        size = int(stream[place : stream.index(b"\r\n", place)].split()[1])
        parts.append(stream[begin : begin + size])
        place = stream.find(b"Content-Length: ", begin + size)
    return parts[:-1]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Measure capture and serve against ustreamer.")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="of both in turn")
    options = parser.parse_args()
    found: dict[str, list[float]] = {}
    same: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        camera, jpegs = make_camera(folder)
        for _ in range(options.rounds):
            for through in (capture_and_serve, ustreamer):
                with through(camera) as (url, processes):
                    cpu = to_viewers(url, processes, options.seconds, folder / "stream")
                seen = jpegs_in((folder / "stream").read_bytes())
                found.setdefault(through.__name__, []).append(cpu)
                same.setdefault(through.__name__, []).append(sum(jpeg in jpegs for jpeg in seen) / len(seen))
    print(f"{cpu_name()}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()};")
    print(f"ms of CPU a frame, median of {options.rounds} rounds of {options.seconds:g} s in turn\n")
    print("| through | CPU a frame | least, most | frames as the camera's, least |\n|---|---|---|---|")
    for name, each in found.items():
        print(f"| {name} | {statistics.median(each):.2f} | {min(each):.2f}, {max(each):.2f} | {min(same[name]):.0%} |")


if __name__ == "__main__":
    main()

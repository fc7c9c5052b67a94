"""What native frames save: CPU a frame of capture, and from source to viewers, against BGR in the same run.

    python -m bench.native                   1080p Motion JPEG at 30 fps, 4K H.264 at 24 fps; three minutes

The Motion JPEG comes over HTTP, as from a network camera, from a process that is not counted; so are the viewers.
Frames differ from one another, and their JPEGs take 300 kB. CPU is as the kernel accounts it, in steps of
10 ms: compare within one run. Prints Markdown; --json FILE stores the figures.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from bench.capture import cpu_seconds, make_clip
from bench.machine import cpu_name
from billiards_shm import SharedMemoryFrameReader, inspect_segment

VIEWERS = 10
FPS = 30


def serve_jpegs() -> None:
    """A network camera: prints its port, and sends 1080p JPEGs at 30 fps to every client."""
    import cv2

    rng = np.random.default_rng(1)
    jpegs = []
    for _ in range(FPS):
        picture = cv2.resize(rng.integers(0, 256, (90, 160, 3), np.uint8), (1920, 1080))
        jpegs.append(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 75])[1].tobytes())

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            begun = time.monotonic()
            with contextlib.suppress(OSError):
                for number in range(10**9):
                    jpeg = jpegs[number % len(jpegs)]
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
                    time.sleep(max(0.0, begun + (number + 1) / FPS - time.monotonic()))

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    print(server.server_port, flush=True)
    server.serve_forever()


@contextlib.contextmanager
def running(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the block."""
    command = [sys.executable, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


@contextlib.contextmanager
def network_camera() -> Iterator[str]:
    """The URL of the camera, in its own process."""
    with running("-m", "bench.native", "--camera") as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/video.mjpg"


@contextlib.contextmanager
def capturing(source: object, name: str, *options: str) -> Iterator[int]:
    """A capture process, once it has published a frame: its process id."""
    with running("-m", "billiards_shm", "capture", source, "--name", name, *options) as process:
        with SharedMemoryFrameReader(name) as reader:
            reader.attach(timeout=60)
        yield process.pid


def cpu_ms_a_frame(name: str, seconds: float, *processes: int) -> float:
    """CPU of all the processes, per frame published under the name."""
    time.sleep(2)  # the start is over
    frames, used = inspect_segment(name).sequence, sum(map(cpu_seconds, processes))
    time.sleep(seconds)
    frames = inspect_segment(name).sequence - frames
    return (sum(map(cpu_seconds, processes)) - used) / frames * 1e3


def capture(source: object, seconds: float, *options: str) -> tuple[float, float]:
    """CPU milliseconds per frame, and megabytes of shared memory."""
    name = f"bench_native_{os.getpid()}"
    with capturing(source, name, *options) as pid:
        return cpu_ms_a_frame(name, seconds, pid), inspect_segment(name).allocated_bytes / 1e6


def to_viewers(source: object, seconds: float, *options: str) -> float:
    """CPU milliseconds per frame of capture and server together, with ten viewers of MJPEG at full size."""
    name = f"bench_native_{os.getpid()}"
    with (
        capturing(source, name, *options) as pid,
        running("-m", "billiards_shm", "serve", name, "--port", "0", "--json-logs") as server,
    ):
        port = port_of(server.pid)
        viewers = [
            subprocess.Popen(
                ["curl", "-sN", "-o", os.devnull, f"http://127.0.0.1:{port}/stream/{name}.mjpg?quality=90"]
            )
            for _ in range(VIEWERS)
        ]
        try:
            return cpu_ms_a_frame(name, seconds, pid, server.pid)
        finally:
            for viewer in viewers:
                viewer.kill()
                viewer.wait()


def port_of(pid: int) -> int:
    """The port that a process listens on, once it does."""
    import psutil

    while True:
        for connection in psutil.Process(pid).net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                return int(connection.laddr.port)
        time.sleep(0.05)


def measure(seconds: float, rounds: int) -> dict[str, dict[str, float]]:
    """Every figure, the forms in turn in each round: the medians."""
    found: dict[str, dict[str, list[float]]] = {}

    def note(what: str, form: str, value: float) -> None:
        found.setdefault(what, {}).setdefault(form, []).append(value)

    with tempfile.TemporaryDirectory() as directory, network_camera() as camera:
        clip = make_clip(Path(directory), 3840, 2160, 24, 10)
        for _ in range(rounds):
            for form in ("native", "bgr"):
                cpu, memory = capture(camera, seconds, "--publish", form)
                note("1080p MJPG, capture", form, cpu)
                note("1080p MJPG, shared memory, MB", form, memory)
                note("1080p MJPG, to ten viewers", form, to_viewers(camera, seconds, "--publish", form))
            for form, options in {
                "native": ("--publish", "native", "--backend", "av"),
                "bgr": ("--backend", "av"),
                "bgr, OpenCV": ("--backend", "ffmpeg"),
            }.items():
                note("4K H.264, capture", form, capture(clip, seconds, *options)[0])
    return {what: {form: statistics.median(each) for form, each in forms.items()} for what, forms in found.items()}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Measure what native frames save.")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2, help="of all forms in turn")
    parser.add_argument("--json", type=Path, help="where to store the figures")
    parser.add_argument("--camera", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.camera:
        serve_jpegs()
        return
    found: dict[str, Any] = measure(options.seconds, options.rounds)
    print(f"{cpu_name()}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()};")
    print(f"ms of CPU a frame, median of {options.rounds} rounds of {options.seconds:g} s\n")
    columns = ("native", "bgr", "bgr, OpenCV")
    print(f"| what | {' | '.join(columns)} |\n|---|---|---|---|")
    for what, forms in found.items():
        print(f"| {what} | {' | '.join(f'{forms[form]:.2f}' if form in forms else '' for form in columns)} |")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

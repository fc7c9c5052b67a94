"""From a USB camera to ten viewers, through ustreamer and through capture and serve: CPU per frame, in turn."""

import contextlib
import os
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from jpegs import without_tables
from machine import NAME, capturing, command, info, run_checks, until
from usb import FULL_HD, JPEGS, plugged_in, send

import billiards_shm.serve.app  # noqa: F401

FPS = 3
ROUNDS = 3
SECONDS = 15
VIEWERS = 10
SEEN = Path("/tmp/seen")
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def frames_sent() -> int:
    return len(Path(JPEGS, "sent").read_text().splitlines())


def answers(url: str) -> bool:
    host, _, port = url.split("/")[2].partition(":")
    with contextlib.suppress(OSError):
        socket.create_connection((host, int(port))).close()
        return True
    return False


@contextlib.contextmanager
def viewers(url: str) -> Iterator[None]:
    """Ten viewers of a stream; what the first of them gets is kept."""
    until(lambda: answers(url))
    started = [
        subprocess.Popen(["curl", "-sN", "-o", SEEN if number == 0 else os.devnull, url]) for number in range(VIEWERS)
    ]
    try:
        yield
        assert all(viewer.poll() is None for viewer in started)
    finally:
        for viewer in started:
            viewer.kill()
            viewer.wait()


def measured(*processes: int) -> float:
    """CPU milliseconds per frame that the camera sends."""
    time.sleep(2)
    frames, used = frames_sent(), sum(map(cpu_seconds, processes))
    time.sleep(SECONDS)
    return (sum(map(cpu_seconds, processes)) - used) / (frames_sent() - frames) * 1e3


def seen_as_sent(number_of: dict[bytes, int]) -> str:
    """How many whole JPEGs the first viewer got that are identical to the camera's except for the tables."""
    data, jpegs = SEEN.read_bytes(), []
    place = data.find(b"Content-Length: ")
    while place >= 0:
        begin = data.index(b"\r\n\r\n", place) + 4
        jpegs.append(data[begin : begin + int(data[place + 16 : data.index(b"\r\n", place)])])
        place = data.find(b"Content-Length: ", begin + len(jpegs[-1]))
    whole = jpegs[:-1]
    # While it waits for the camera, ustreamer sends its own picture.
    same = sum(without_tables(jpeg) in number_of for jpeg in whole)
    return f"{same} of {len(whole)} frames seen are the camera's, which sent {frames_sent()}"


def through_ustreamer() -> float:
    options = f"-d /dev/video0 -r 1920x1080 -m JPEG -c HW -f {FPS} --host 127.0.0.1 -p 8080 --log-level 0"
    with Path("/tmp/ustreamer.log").open("w") as log:
        streamer = subprocess.Popen(["ustreamer", *options.split()], stderr=log, stdout=log)
    try:
        with viewers("http://127.0.0.1:8080/stream"):
            return measured(streamer.pid)
    finally:
        streamer.kill()
        streamer.wait()


def through_capture_and_serve() -> float:
    with capturing(publish="native", fourcc="MJPG", resolution=[1920, 1080], fps=FPS) as reader:
        assert reader.read_frame(timeout=60)[0] is not None
        server = command("serve", NAME, "--port", "8081", log=Path("/tmp/serve.log"))
        try:
            with viewers(f"http://127.0.0.1:8081/stream/{NAME}.mjpg?quality=90"):
                return measured(info().writer_pid, server.pid)
        finally:
            server.terminate()
            server.join()


def check_ten_viewers() -> None:
    number_of = send([without_tables(data) for data in FULL_HD])
    found: dict[str, list[float]] = {}
    with plugged_in(FPS, (1920, 1080)):
        for _ in range(ROUNDS):
            for through in (through_ustreamer, through_capture_and_serve):
                cpu = through()
                found.setdefault(through.__name__, []).append(cpu)
                print(f"  {through.__name__}: {cpu:.2f} ms a frame; {seen_as_sent(number_of)}", flush=True)
    for name, each in found.items():
        print(f"  median {name}: {statistics.median(each):.2f} ms a frame")


run_checks({"check_ten_viewers": check_ten_viewers})

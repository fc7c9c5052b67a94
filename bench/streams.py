"""Live streams: the time from a server sending a frame to its picture being published, and the error of capture times.

    python -m bench.streams                  RTSP by GStreamer's server, MPEG-TS over HTTP, 720p at 25 fps
    python -m bench.streams --rounds 5 --seconds 20

A frame's number is drawn into its picture, and the server notes when it sent each. Encoding is left out. A demuxer
that learns where a frame ends from the beginning of the next one adds the time between two frames, in every engine. The
RTSP server needs the system's Python with GStreamer's bindings. Prints a Markdown table; --json FILE stores them.
"""

import argparse
import io
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import av

from bench.machine import cores, cpu_name
from bench.samples import Distribution
from billiards_shm import FrameMetadata, SharedMemoryFrameReader
from billiards_shm.sources.demo.table import DemoTable, read_counter

FPS: Final = 25
SIZE: Final = (1280, 720)
SETTLED_FRAMES: Final = 50
"""Frames after the first that are not counted: those buffered while the stream was opened arrive late."""
ENGINES: Final = {
    "PyAV": ("av", {}),
    "OpenCV": ("ffmpeg", {}),
    "OpenCV, two threads": ("ffmpeg", {"OPENCV_FFMPEG_THREADS": "2"}),
}

RTSP_SERVER: Final = r"""
import struct, sys, threading, time
import gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
port, path, fps = sys.argv[1], sys.argv[2], int(sys.argv[3])
data, units = open(path, "rb").read(), []
while data:
    size, = struct.unpack_from("<I", data)
    units.append(data[4:4 + size])
    data = data[4 + size:]
Gst.init(None)
server = GstRtspServer.RTSPServer(service=port)
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch('( appsrc name=units is-live=true do-timestamp=true format=time '
                   'caps="video/x-h264,stream-format=byte-stream,alignment=au" ! rtph264pay name=pay0 pt=96 )')
def feed(factory, media):
    units_of = media.get_element().get_by_name("units")
    def push():
        due = time.monotonic()
        for number, unit in enumerate(units, 1):
            time.sleep(max(0.0, due - time.monotonic()))
            due += 1 / fps
            print(number, time.monotonic_ns(), flush=True)
            if units_of.emit("push-buffer", Gst.Buffer.new_wrapped(unit)) != Gst.FlowReturn.OK:
                return
    threading.Thread(target=push, daemon=True).start()
factory.connect("media-configure", feed)
server.get_mount_points().add_factory("/live", factory)
server.attach(None)
print("serving", flush=True)
GLib.MainLoop().run()
"""

Sent = dict[int, int]


def encode(frames: int, container: str) -> list[bytes]:
    """Numbered frames in H.264 as cameras send it: for each, its bytes in a container, without any later ones."""
    target = io.BytesIO()
    found = []
    with av.open(target, "w", format=container, options={"flush_packets": "1"}) as output:
        options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(FPS), "x264-params": "threads=1"}
        stream = output.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        table = DemoTable(*SIZE, FPS)
        for number in range(frames):
            table.grab()
            frame = av.VideoFrame.from_ndarray(table.retrieve(None), "bgr24")
            frame.pts = number
            output.mux(stream.encode(frame))
            found.append(target.getvalue())
            target.seek(0)
            target.truncate()
    return found


@contextmanager
def http_server(units: list[bytes], sent: Sent) -> Iterator[str]:
    """MPEG-TS over HTTP, to one client."""

    def serve() -> None:
        try:
            connection, _ = server.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.recv(4096)
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")
                due = time.monotonic()
                for number, unit in enumerate(units, 1):
                    time.sleep(max(0.0, due - time.monotonic()))
                    due += 1 / FPS
                    sent[number] = time.monotonic_ns()
                    connection.sendall(unit)
        except OSError:
            return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/live"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def rtsp_server(units: list[bytes], sent: Sent) -> Iterator[str]:
    """H.264 by RTSP over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.NamedTemporaryFile() as file:
        for unit in units:
            file.write(len(unit).to_bytes(4, "little") + unit)
        file.flush()
        command = ["/usr/bin/python3", "-c", RTSP_SERVER, str(port), file.name, str(FPS)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "serving\n"
            lines = process.stdout

            def note() -> None:
                for line in lines:
                    number, when = map(int, line.split())
                    sent[number] = when

            thread = threading.Thread(target=note)
            thread.start()
            try:
                yield f"rtsp://127.0.0.1:{port}/live"
            finally:
                process.kill()
                thread.join()


STREAMS: Final[dict[str, tuple[Callable[..., Any], str]]] = {
    "RTSP": (rtsp_server, "h264"),
    "MPEG-TS over HTTP": (http_server, "mpegts"),
}


def measure(stream: str, units: list[bytes], engine: str, name: str) -> tuple[list[int], list[int]]:
    """Nanoseconds from sending to publishing, and from sending to the capture time, of every frame that a reader got.

    Errors of capture times are of the frames that carry the sender's time, or of all frames if none does.
    """
    backend, environment = ENGINES[engine]
    sent: Sent = {}
    published: dict[int, FrameMetadata] = {}
    with STREAMS[stream][0](units, sent) as url:
        command = [sys.executable, "-m", "billiards_shm", "capture", url, "--name", name, "--backend", backend]
        process = subprocess.Popen(
            command, stderr=subprocess.DEVNULL, cwd=tempfile.gettempdir(), env=os.environ | environment
        )
        try:
            with SharedMemoryFrameReader(name) as reader:
                reader.attach(timeout=30)
                while max(published, default=0) < len(units) - 2 * FPS:
                    frame, metadata = reader.read_frame(timeout=30)
                    if frame is None or metadata is None:
                        raise RuntimeError(f"{url}: no frame within 30 s")
                    published.setdefault(read_counter(frame), metadata)
                    del frame
        finally:
            process.terminate()
            process.wait(30)
    counted = sorted(published)[SETTLED_FRAMES:]
    clocks = {published[number].clock for number in counted}
    timed = [number for number in counted if published[number].clock == "sender" or "sender" not in clocks]
    return (
        [published[number].publish_time_ns - sent[number] for number in counted],
        [abs(published[number].capture_time_ns - sent[number]) for number in timed],
    )


def main() -> None:
    """Measure all engines in turn, and print the table."""
    parser = argparse.ArgumentParser(description="Measure the latency of live streams.")
    parser.add_argument("--seconds", type=int, default=12, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2, help="of all engines in turn")
    parser.add_argument("--json", type=Path, help="where to store the figures")
    options = parser.parse_args()
    figures: dict[str, dict[str, Any]] = {}
    for stream, (_, container) in STREAMS.items():
        units = encode(options.seconds * FPS, container)
        latencies: dict[str, list[list[int]]] = {engine: [] for engine in ENGINES}
        errors: dict[str, list[list[int]]] = {engine: [] for engine in ENGINES}
        for number in range(options.rounds):
            for engine in ENGINES:
                latency, error = measure(stream, units, engine, f"bench_streams_{os.getpid()}_{number}")
                latencies[engine].append(latency)
                errors[engine].append(error)
        figures[stream] = {
            engine: Distribution.of(latencies[engine]).as_dict()
            | {"capture_time_error": Distribution.of(errors[engine]).as_dict()}
            for engine in ENGINES
        }
    print(f"{cpu_name()}, {cores()} cores, Linux {platform.release()}; load {os.getloadavg()[0]:.1f}; ", end="")
    print(f"H.264, {SIZE[0]}x{SIZE[1]} at {FPS} fps, {options.rounds} rounds of {options.seconds} s\n")
    print("| sent to published | engine | p50 | p99 | error of capture times p50 | p99 | frames |")
    print("|---|---|---|---|---|---|---|")
    for stream, engines in figures.items():
        for engine, found in engines.items():
            rows = (found, found["capture_time_error"])
            times = " | ".join(f"{row[key] / 1e6:.1f} ms" for row in rows for key in ("p50", "p99"))
            print(f"| {stream} | {engine} | {times} | {found['count']} |")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

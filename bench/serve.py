"""The server, measured from outside: the picture's age at the client, CPU for one and many clients, a stopped client.

    python bench/serve.py                    1080p at 30 fps; 1, 10 and 50 clients; a minute and a half
    python bench/serve.py --scrapes 187      one client, without and with that many requests per second for /metrics
    python bench/serve.py --encoders         what encoding one frame costs, with each installed library

The age is taken when the whole JPEG is there. The frame's number is in the picture itself (`capture demo` draws
it), and another reader knows when it was captured. Clients are separate processes. On two cores, 50 of
them leave the server little; compare within one run. Prints Markdown; --json FILE stores the figures.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np

from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter
from billiards_shm.sources.demo.table import DemoTable

SLOW_LINK: Final = 1_500_000
CLIENTS: Final = Path(__file__).with_name("serve_clients.py")


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start a client."""
    return subprocess.Popen([sys.executable, CLIENTS, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> Any:
    """Wait for a client and return what it found."""
    out, _ = process.communicate(timeout=300)
    if process.returncode:
        raise RuntimeError(f"{process.args!r} failed")
    return json.loads(out.splitlines()[-1])


class Recorder:
    """Records when each frame was captured."""

    def __init__(self, name: str) -> None:
        self.captured_ns: dict[int, int] = {}
        self._reader = SharedMemoryFrameReader(name)
        self._reader.attach(timeout=30)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            metadata = self._reader.read_frame(timeout=0.5)[1]
            if metadata is not None:
                self.captured_ns[metadata.sequence] = metadata.capture_time_ns

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def ages_ms(self, seen: list[list[int]]) -> list[float]:
        """Ages of the frames that a client saw."""
        return [(at - self.captured_ns[number]) / 1e6 for number, at in seen if number in self.captured_ns]


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Memory of a process, in MB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1e3


class Server:
    """The capture process, the server and the recorder."""

    def __init__(self, name: str, size: str, fps: float, processes: contextlib.ExitStack, idle: int = 0) -> None:
        self.name = name
        program = [sys.executable, "-m", "billiards_shm"]
        capture = [*program, "capture", "demo", "--name", name, "--resolution", size, "--fps", str(fps)]
        processes.enter_context(running(capture))
        self.recorder = Recorder(name)
        processes.callback(self.recorder.stop)
        names = [name, *(f"{name}_{number}" for number in range(idle))]
        for other in names[1:]:
            processes.enter_context(SharedMemoryFrameWriter(other, (48, 64, 3))).write_frame(
                np.zeros((48, 64, 3), "u1")
            )
        process = processes.enter_context(running([*program, "serve", *names, "--port", "0", "--max-clients", "200"]))
        assert process.stderr is not None
        found = None
        while found is None:
            found = re.search(r"at http://[^\s]*:(\d+)/", process.stderr.readline())
        self.pid, self.port = process.pid, int(found[1])

    def measure(self, clients: int, seconds: float, path: str | None = None) -> dict[str, Any]:
        """Let MJPEG clients read for a while."""
        path = path or f"/stream/{self.name}.mjpg"
        client = start("--client", "mjpeg", self.port, path, clients, seconds + 2)
        time.sleep(2)
        begun, cpu = time.monotonic(), cpu_seconds(self.pid)
        time.sleep(seconds - 0.5)
        cpu = (cpu_seconds(self.pid) - cpu) / (time.monotonic() - begun)
        return {**self.judge(finish(client), seconds + 2, clients), "cpu": cpu}

    def measure_scraped(self, rate: float, seconds: float) -> dict[str, dict[str, Any]]:
        """One client, without and with requests for the metrics, alternating, half of the time each."""
        found: dict[str, list[dict[str, Any]]] = {"without": [], "with": []}
        for label in ("without", "with") * 2:
            scraper = start("--scrape", self.port, rate if label == "with" else 0.01, seconds / 2 + 2)
            row = self.measure(1, seconds / 2)
            found[label].append({**row, "rate": finish(scraper)["rate"]})
        return {
            label: {key: statistics.mean(row[key] for row in rows) for key in rows[0]} for label, rows in found.items()
        }

    def judge(self, found: dict[str, Any], seconds: float, clients: int) -> dict[str, Any]:
        """Percentiles of the ages, and rates."""
        settled = found["seen"][len(found["seen"]) // 5 :]  # without the time it takes to connect
        ages = sorted(self.recorder.ages_ms(settled))
        return {
            "clients": clients,
            "p50": ages[len(ages) // 2],
            "p99": ages[int(len(ages) * 0.99)],
            "fps": len(found["seen"]) / seconds / clients,
            "mb_per_s": found["bytes"] / seconds / 1e6,
            "part_bytes": found["bytes"] / max(1, len(found["seen"])),
            "verified": found["verified"],
        }

    def measure_stopped_client(self, seconds: float) -> dict[str, Any]:
        """Ten clients; then an eleventh is stopped halfway, and continued."""
        path = f"/stream/{self.name}.mjpg"
        others = start("--client", "mjpeg", self.port, path, 10, 3 * seconds + 3)
        victim = start("--client", "mjpeg", self.port, path, 1, 3 * seconds + 3)
        time.sleep(2)
        marks = [time.monotonic_ns()]
        memory = [rss_mb(self.pid)]
        for action in (None, signal.SIGSTOP, signal.SIGCONT):
            if action is not None:
                victim.send_signal(action)
            time.sleep(seconds)
            marks.append(time.monotonic_ns())
            memory.append(rss_mb(self.pid))
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/clients") as answer:
            skipped = [one["skipped"] for one in json.load(answer)]
        found = finish(others)
        finish(victim)
        result: dict[str, Any] = {"skipped_by_the_stopped": max(skipped), "memory_mb": memory}
        for label, begin, end in zip(("before", "stopped", "continued"), marks, marks[1:], strict=False):
            ages = sorted(self.recorder.ages_ms([one for one in found["seen"] if begin <= one[1] < end]))
            result[label] = {"p50": ages[len(ages) // 2], "p99": ages[int(len(ages) * 0.99)], "frames": len(ages)}
        return result

    def measure_kinds(self, seconds: float, port: int) -> dict[str, dict[str, Any]]:
        """One MJPEG and one WebSocket client through the same port."""
        mjpeg = start("--client", "mjpeg", port, f"/stream/{self.name}.mjpg", 1, seconds)
        found = {"mjpeg": self.judge(finish(mjpeg), seconds, 1)}
        for window in (1, 2, 4):
            path = f"/ws/{self.name}?window={window}"
            found[f"websocket, {window} under way"] = self.judge(
                finish(start("--client", "websocket", port, path, 1, seconds)), seconds, 1
            )
        return found


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process with its log piped, until the end of the block."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tempfile.gettempdir()) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=30)


@contextmanager
def slow_link(port: int, bytes_per_s: int) -> Iterator[int]:
    """A port that forwards to `port` and lets that many bytes per second come back."""
    listener = socket.create_server(("127.0.0.1", 0))

    def forward(source: socket.socket, target: socket.socket, rate: int | None) -> None:
        begun, passed = time.monotonic(), 0
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                target.sendall(data)
                passed += len(data)
                if rate is not None:
                    time.sleep(max(0.0, begun + passed / rate - time.monotonic()))
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
                far = socket.create_connection(("127.0.0.1", port))
                threading.Thread(target=forward, args=(near, far, None), daemon=True).start()
                threading.Thread(target=forward, args=(far, near, bytes_per_s), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


def cost_of_bytes(size: int, clients: int, fps: float, seconds: float) -> float:
    """CPU, in cores, that sending alone costs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sender = start("--send", port, size, clients, fps, seconds)
    assert sender.stdout is not None
    sender.stdout.readline()
    drained = start("--drain", port, clients)
    cost = float(finish(sender)["cpu"])
    drained.communicate(timeout=30)
    return cost


def cpu_name() -> str:
    """The processor, as the kernel names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def measure_server(options: argparse.Namespace) -> dict[str, Any]:
    """Everything about the server, in one run."""
    with contextlib.ExitStack() as processes:
        server = Server(f"bench_serve_{os.getpid()}", options.size, options.fps, processes)
        figures: dict[str, Any] = {"clients": [server.measure(count, options.seconds) for count in (1, 10, 50)]}
        one, ten = figures["clients"][:2]
        figures["cost_of_bytes"] = cost_of_bytes(round(one["part_bytes"]), 9, ten["fps"], options.seconds)
        figures["stopped"] = server.measure_stopped_client(options.seconds / 2)
        figures["kinds"] = server.measure_kinds(options.seconds / 2, server.port)
        with slow_link(server.port, SLOW_LINK) as port:
            figures["slow"] = server.measure_kinds(options.seconds / 2, port)
    return figures


def measure_scrapes(options: argparse.Namespace) -> dict[str, Any]:
    """What requests for the metrics do to a client."""
    with contextlib.ExitStack() as processes:
        server = Server(f"bench_serve_{os.getpid()}", options.size, options.fps, processes, options.idle)
        return server.measure_scraped(options.scrapes, options.seconds)


def print_server(figures: dict[str, Any], options: argparse.Namespace) -> None:
    """The figures as Markdown."""
    print(f"{cpu_name()}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()};")
    print(f"{options.size} at {options.fps:g} fps, quality 80, {options.seconds:g} s each\n")
    print("| MJPEG clients | age p50 | age p99 | fps each | server CPU | sent |\n|---|---|---|---|---|---|")
    for row in figures["clients"]:
        print(
            f"| {row['clients']} | {row['p50']:.1f} ms | {row['p99']:.1f} ms | {row['fps']:.1f} | "
            f"{row['cpu'] * 100:.0f} % of a core | {row['mb_per_s']:.1f} MB/s |"
        )
    one, ten = figures["clients"][:2]
    bound = 1.3 * one["cpu"] + figures["cost_of_bytes"]
    print(
        f"\nten clients: {ten['cpu'] * 100:.1f} % of a core; 1.3 x one + {figures['cost_of_bytes'] * 100:.1f} % for the"
    )
    print(f"bytes of the nine others, sent by a bare loop, is {bound * 100:.1f} %")
    print("\n| an eleventh client is | p50 of the ten | p99 | frames | server memory |\n|---|---|---|---|---|")
    for label, memory in zip(("before", "stopped", "continued"), figures["stopped"]["memory_mb"][1:], strict=True):
        row = figures["stopped"][label]
        print(f"| {label} | {row['p50']:.1f} ms | {row['p99']:.1f} ms | {row['frames']} | {memory:.0f} MB |")
    print(f"\nframes that the stopped one was not sent: {figures['stopped']['skipped_by_the_stopped']}")
    print(
        f"\n| one client | p50 | p99 | fps | p50 at {SLOW_LINK / 1e6:g} MB/s | p99 | fps |\n"
        "|---|---|---|---|---|---|---|"
    )
    for kind, row in figures["kinds"].items():
        slow = figures["slow"][kind]
        print(
            f"| {kind} | {row['p50']:.1f} ms | {row['p99']:.1f} ms | {row['fps']:.1f} | "
            f"{slow['p50']:.0f} ms | {slow['p99']:.0f} ms | {slow['fps']:.1f} |"
        )


def encoders(width: int, height: int) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Each installed way to encode a frame."""
    import cv2

    table = DemoTable(width, height, 30, first=100)
    table.grab()
    frame = table.retrieve(None)
    yield "cv2.imencode", lambda: cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
    with contextlib.suppress(ImportError):
        import simplejpeg

        yield "simplejpeg", lambda: bytes(simplejpeg.encode_jpeg(frame, 80, "BGR", "420", False))
    with contextlib.suppress(ImportError, RuntimeError):
        import turbojpeg

        turbo = turbojpeg.TurboJPEG()
        yield "PyTurboJPEG", lambda: bytes(turbo.encode(frame, 80, jpeg_subsample=turbojpeg.TJSAMP_420))
    with contextlib.suppress(ImportError):
        from aiortc.codecs.h264 import H264Encoder
        from aiortc.codecs.vpx import Vp8Encoder
        from av import VideoFrame

        for label, encoder in (("aiortc, VP8", Vp8Encoder()), ("aiortc, H.264", H264Encoder())):
            times = iter(range(0, 10**9, 3000))

            def encode(encoder: Any = encoder, times: Iterator[int] = times) -> bytes:
                table.grab()
                picture = VideoFrame.from_ndarray(table.retrieve(None), format="bgr24").reformat(format="yuv420p")
                picture.pts, picture.time_base = next(times), Fraction(1, 90000)
                return b"".join(encoder.encode(picture)[0])

            yield f"{label}, drawing included", encode


def measure_encoders(options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds a frame and bytes, by library, in turn."""
    width, height = map(int, options.size.split("x"))
    ways = list(encoders(width, height))
    times: dict[str, list[float]] = {label: [] for label, _ in ways}
    sizes: dict[str, int] = {}
    for _ in range(30):
        for label, encode in ways:
            begun = time.process_time()
            sizes[label] = len(encode())
            times[label].append((time.process_time() - begun) * 1e3)
    return {label: {"ms": statistics.median(times[label]), "bytes": sizes[label]} for label, _ in ways}


def print_encoders(figures: dict[str, Any]) -> None:
    """The figures as Markdown."""
    print("| encoder | CPU a frame | bytes |\n|---|---|---|")
    for label, row in figures.items():
        print(f"| {label} | {row['ms']:.1f} ms | {row['bytes']} |")


def print_scrapes(figures: dict[str, Any]) -> None:
    """The figures as Markdown."""
    print("| metrics a second | frames a second | age p50 | age p99 | server CPU |\n|---|---|---|---|---|")
    for row in figures.values():
        print(
            f"| {row['rate']:.0f} | {row['fps']:.1f} | {row['p50']:.1f} ms | {row['p99']:.1f} ms | "
            f"{row['cpu'] * 100:.0f} % of a core |"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the server from outside.")
    parser.add_argument("--size", default="1920x1080")
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--encoders", action="store_true", help="measure encoders instead")
    parser.add_argument(
        "--scrapes", type=float, metavar="RATE", help="measure what requests for the metrics do instead"
    )
    parser.add_argument("--idle", type=int, default=0, help="further segments, with --scrapes")
    parser.add_argument("--json", type=Path, help="where to store the figures")
    options = parser.parse_args()
    if options.scrapes:
        figures = measure_scrapes(options)
        print_scrapes(figures)
    elif options.encoders:
        figures = measure_encoders(options)
        print_encoders(figures)
    else:
        figures = measure_server(options)
        print_server(figures, options)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

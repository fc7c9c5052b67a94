"""Real servers and a real capture process, for tests that kill, stop and restart them."""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil
from videos import decode_all, make_clip

from billiards_shm import FrameMetadata, SegmentInfo, SharedMemoryFrameReader, inspect_segment
from billiards_shm.sources.demo.table import read_counter

SYSTEM_PYTHON = "/usr/bin/python3"
SHARED_MEMORY = Path("/dev/shm")
_numbers = itertools.count(1)


def settled(condition: Callable[[], bool], seconds: float = 60.0) -> float:
    """Wait until a condition holds, and return how long that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - began


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def ffmpeg(*arguments: object) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, arguments)], check=True)


class Clip:
    """Numbered frames in H.264, what plain OpenCV decodes them to, and the same for a minute."""

    def __init__(self, folder: Path, size: tuple[int, int], frames: int = 50, fps: float = 25.0) -> None:
        self.size = size
        self.frames = frames
        name = f"{size[0]}x{size[1]}"
        raw = make_clip(folder / f"{name}.avi", frames, size, fps)
        self.path = folder / f"{name}.mp4"
        ffmpeg("-i", raw, "-c:v", "libx264", "-preset", "ultrafast", "-g", 10, "-pix_fmt", "yuv420p", self.path)
        raw.unlink()
        self.long = folder / f"{name}-long.mp4"
        ffmpeg("-stream_loop", 30, "-i", self.path, "-c", "copy", self.long)
        self.decoded = decode_all(self.path)
        assert [read_counter(frame) for frame in self.decoded] == list(range(1, frames + 1))

    def check(self, frame: np.ndarray) -> int:
        """The frame's number; its pixels have to be those that plain OpenCV decodes from the file."""
        number = read_counter(frame)
        assert np.array_equal(frame, self.decoded[number - 1]), f"frame {number} is not as OpenCV decodes it"
        return number


class Server:
    """A process that serves a stream; killed at the end of the block."""

    url: str

    def __init__(self, command: list[str], ready: str | None = None) -> None:
        self._command = command
        self._ready = ready
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        assert self.process is None
        self.process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if self._ready else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if self._ready:
            assert self.process.stdout is not None
            assert self.process.stdout.readline().strip() == self._ready

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def hang(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def serve(self, clip: Clip) -> None:
        """Serve another clip after the next start."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()


class RtspServer(Server):
    """GStreamer's RTSP server."""

    def __init__(self, clip: Clip) -> None:
        self.port = free_port()
        self.url = f"rtsp://127.0.0.1:{self.port}/table"
        super().__init__(self._serving(clip), "serving")

    def serve(self, clip: Clip) -> None:
        self._command = self._serving(clip)

    def _serving(self, clip: Clip) -> list[str]:
        return [SYSTEM_PYTHON, str(Path(__file__).with_name("rtsp_server.py")), str(self.port), str(clip.long)]


class RtspClock(Server):
    """GStreamer's RTSP server, with its own time drawn into each picture.

    Parameters
    ----------
    ahead_sec : int
        How far its wall clock is ahead.
    """

    def __init__(self, ahead_sec: int = 0) -> None:
        port = free_port()
        self._clock = WrongClock(port, ahead_sec)
        self.url = self._clock.url
        command = [SYSTEM_PYTHON, str(Path(__file__).with_name("rtsp_server.py")), str(port), "clock"]
        super().__init__(command, "serving")

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(exc_type, exc, traceback)
        self._clock.close()

    @staticmethod
    def taken_ns(frame: np.ndarray) -> int:
        """When a frame was taken, by CLOCK_MONOTONIC, as shown in its picture."""
        bits = frame[15::30, 20::40, 1] > 127
        return int.from_bytes(np.packbits(bits).tobytes(), "big")


class WrongClock:
    """An RTSP server's host with a wrong wall clock: forwards TCP, changing only the time in sender reports."""

    def __init__(self, port: int, ahead_sec: int) -> None:
        self._port = port
        self._ahead_sec = ahead_sec
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"rtsp://127.0.0.1:{self._listening.getsockname()[1]}/table"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                for pump, source, target in ((self._ask, client, server), (self._answer, server, client)):
                    threading.Thread(target=pump, args=(source, target), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError), client, server:
            while data := client.recv(65536):
                server.sendall(data)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError), server.makefile("rb") as stream, client:
            while first := stream.read(1):
                if first == b"$":  # a packet between answers: channel and length; RTCP uses the odd channels
                    head = stream.read(3)
                    packet = bytearray(stream.read(int.from_bytes(head[1:], "big")))
                    if head[0] % 2 and packet[1] == 200:  # seconds since 1900, after the header and the sender's number
                        seconds = int.from_bytes(packet[8:12], "big") + self._ahead_sec
                        packet[8:12] = seconds.to_bytes(4, "big")
                    client.sendall(first + head + packet)
                    continue
                lines = [first + stream.readline()]
                while lines[-1].strip():
                    lines.append(stream.readline())
                lengths = [int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:")]
                client.sendall(b"".join(lines) + stream.read(sum(lengths)))


class HttpServer(Server):
    """FFmpeg's HTTP server, which serves one client and ends when it leaves; `muxer` is ``mpegts`` or ``mpjpeg``."""

    def __init__(self, clip: Clip, muxer: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/table"
        self._muxer = muxer
        super().__init__(self._serving(clip))

    def serve(self, clip: Clip) -> None:
        self._command = self._serving(clip)

    def _serving(self, clip: Clip) -> list[str]:
        command = ["ffmpeg", "-v", "error", "-nostdin", "-re", "-stream_loop", "-1", "-i", str(clip.path)]
        if self._muxer == "mpegts":
            command += ["-c", "copy", "-content_type", "video/mp2t"]
        else:
            command += ["-c:v", "mjpeg", "-q:v", "3", "-content_type", "multipart/x-mixed-replace;boundary=ffmpeg"]
        return [*command, "-f", self._muxer, "-listen", "1", self.url]


class CaptureProcess:
    """`billiards-shm capture`, its segment and its log; it has to leave nothing behind."""

    def __init__(self, folder: Path, source: str, **camera: Any) -> None:
        self.name = f"test-{os.getpid()}-real-{next(_numbers)}-{uuid.uuid4().hex[:6]}"
        self.log = folder / f"{self.name}.log"
        settings = {"reconnect_delay_sec": 0.1, "reconnect_max_delay_sec": 0.5, **camera}
        config = folder / f"{self.name}.json"
        config.write_text(json.dumps({"vision": {"camera": settings}}))
        command = [sys.executable, "-m", "billiards_shm", "capture", source, "--name", self.name, "--config", config]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log, stdin=subprocess.DEVNULL)
        self.reader = SharedMemoryFrameReader(self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.reader.close()
        if self.process.poll() is None:
            children = psutil.Process(self.process.pid).children(recursive=True)
            self.process.terminate()
            try:
                code = self.process.wait(20)
            finally:
                self.process.kill()
                self.process.wait()
            if exc is None:
                assert code == 0, self.said
                assert not any(child.is_running() for child in children)
        left = SHARED_MEMORY / self.name
        was_left = left.exists()
        left.unlink(missing_ok=True)
        if exc is None:
            assert not was_left
            assert "Traceback" not in self.said, self.said
        else:
            print(self.said)

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def info(self) -> SegmentInfo:
        return inspect_segment(self.name)

    def frame(self, seconds: float = 60.0) -> tuple[np.ndarray, FrameMetadata]:
        """The newest frame not yet seen."""
        frame, metadata = self.reader.read_frame(timeout=seconds)
        assert frame is not None, f"no frame within {seconds} s: {self.said}"
        assert metadata is not None
        return frame, metadata

    def until(self, state: str, reason: str = "", seconds: float = 60.0) -> float:
        """Wait until readers see this; return the seconds it took."""

        def is_so() -> bool:
            info = self.info
            return str(info.source_state) == state and info.source_reason.startswith(reason)

        return settled(is_so, seconds)

    def recovers(self, seconds: float = 60.0) -> float:
        """Wait for a frame that was captured from now on; return the seconds it took."""
        began = time.monotonic_ns()
        while True:
            _, metadata = self.frame(seconds)
            if metadata.online and metadata.capture_time_ns > began:
                return (time.monotonic_ns() - began) / 1e9

    def ends(self, seconds: float = 60.0) -> int:
        return self.process.wait(seconds)

    def descriptors(self) -> int:
        return psutil.Process(self.process.pid).num_fds()


class HlsServer(Server):
    """FFmpeg writes one-second segments as they are produced, and Python's HTTP server serves them."""

    def __init__(self, clip: Clip, folder: Path) -> None:
        self._folder = folder
        handler = partial(QuietFileHandler, directory=str(folder))
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._http.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/live.m3u8"
        segments = ("-f", "hls", "-hls_time", "1", "-hls_list_size", "4", "-hls_flags", "delete_segments")
        playing = ("ffmpeg", "-v", "error", "-nostdin", "-y", "-re", "-i", str(clip.long), "-c", "copy")
        super().__init__([*playing, *segments, str(folder / "live.m3u8")])

    def start(self) -> None:
        for old in self._folder.iterdir():
            old.unlink()
        super().start()
        settled(lambda: len(list(self._folder.glob("live*.ts"))) > 2)

    def end(self) -> None:
        """End the playlist, as FFmpeg does when asked to stop."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait()
        self.process = None

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(exc_type, exc, traceback)
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class QuietFileHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


class UdpSender(Server):
    """FFmpeg sends MPEG-TS over UDP, whether or not anyone receives it."""

    def __init__(self, clip: Clip) -> None:
        self.url = f"udp://127.0.0.1:{free_port()}"
        sent = f"{self.url}?pkt_size=1316"
        playing = ("ffmpeg", "-v", "error", "-nostdin", "-re", "-i", str(clip.long), "-c", "copy")
        super().__init__([*playing, "-f", "mpegts", sent])

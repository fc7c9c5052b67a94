"""The processes that `bench/mirror.py` runs on its hosts, and the frames they play: ``python -m bench.far ROLE ...``.

A picture shows its number, whatever happened to it on the way. Each role prints its findings, in JSON, when it ends;
`read` also reports its first frame.
"""

import itertools
import json
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter, inspect_segment

WIDTH, HEIGHT, FPS = 1920, 1080, 30
PICTURES: Final = 90
"""Different pictures, played in turn: a number identifies a frame for three seconds."""
KEY: Final = "bench/frames"
PORT: Final = 7447
_HEAD: Final = struct.Struct("<QQ")

Image: TypeAlias = npt.NDArray[np.uint8]


def make_pictures(folder: Path) -> None:
    """A table with moving balls, under grain that makes JPEGs as large as a camera's: 230 kB."""
    import cv2

    from billiards_shm.sources.demo.table import DemoTable

    grain = np.random.default_rng(1).integers(0, 30, (HEIGHT, WIDTH, 1), np.uint8)
    grain = cv2.GaussianBlur(grain, (3, 3), 0).reshape(HEIGHT, WIDTH, 1)
    grain[int(HEIGHT * 0.95) :] = 0  # where the number goes
    table = DemoTable(WIDTH, HEIGHT, FPS, first=0)
    raw = np.lib.format.open_memmap(folder / "raw.npy", "w+", np.uint8, (PICTURES, HEIGHT, WIDTH, 3))
    for number in range(PICTURES):
        table.grab()
        raw[number] = cv2.add(table.retrieve(None), np.broadcast_to(grain, (HEIGHT, WIDTH, 3)))
        jpeg = cv2.imencode(".jpg", raw[number], [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
        (folder / f"{number}.jpg").write_bytes(jpeg.tobytes())


def jpegs(folder: Path) -> list[bytes]:
    """The pictures as JPEGs, as from a camera."""
    return [(folder / f"{number}.jpg").read_bytes() for number in range(PICTURES)]


def ticks() -> Iterator[tuple[int, int]]:
    """The number, from 0, and the time of each frame, when it is due, until SIGTERM."""
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    begun = time.monotonic_ns()
    for number in itertools.count():
        due = begun + number * 10**9 // FPS
        time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
        if stop:
            return
        yield number, time.monotonic_ns()


def say(**found: Any) -> None:
    """Print what the role has found."""
    print(json.dumps(found), flush=True)


# A camera's capture process, and a reader of its segment or of a copy.


def play(folder: Path, name: str, form: str) -> None:
    """Publish the pictures at their rate; `form` is `mjpg` or `bgr`."""
    frames: Any = np.load(folder / "raw.npy", mmap_mode="r")
    shape: tuple[int, ...] = (HEIGHT, WIDTH, 3)
    if form == "mjpg":
        frames = [np.frombuffer(jpeg, np.uint8).reshape(1, -1) for jpeg in jpegs(folder)]
        shape = (1, max(frame.shape[1] for frame in frames))
    captured = []
    with SharedMemoryFrameWriter(name, shape, pixel_format="MJPG" if form == "mjpg" else "BGR24") as writer:
        for number, now in ticks():
            writer.write_frame(frames[number % PICTURES], capture_time_ns=now)
            captured.append(now)
    say(captured=captured)


def read(name: str, seconds: float) -> None:
    """Each frame as a BGR array: its number at the origin, its capture time as reported here, when it was in hand."""
    seen: list[tuple[int, int | None, int]] = []
    with SharedMemoryFrameReader(name) as reader:
        reader.attach(timeout=60)
        is_bgr = inspect_segment(name).pixel_format == "BGR24"
        while not is_over(seen, seconds):
            _, metadata = reader.read_frame(timeout=0.1, format=None if is_bgr else "BGR24")
            if metadata is not None:
                if not seen:
                    say(begun=True)
                seen.append((metadata.source_sequence or 0, metadata.capture_time_ns, now()))
    say(seen=seen)


def is_over(seen: list[Any], seconds: float) -> bool:
    """Whether that much time has passed since the first frame."""
    return bool(seen) and now() > seen[0][2] + seconds * 1e9


def now() -> int:
    """The clock of capture times."""
    return time.monotonic_ns()


# Zenoh without anything around it: the newest frame on request, one request outstanding.


def session(listen: str = "", connect: str = "") -> Any:
    """A peer with default settings except for shared memory, which leaves files behind."""
    import zenoh

    config = zenoh.Config()
    for key, value in (
        ("listen/endpoints", [listen] if listen else []),
        ("connect/endpoints", [connect] if connect else []),
        ("scouting/multicast/enabled", False),
        ("transport/shared_memory/enabled", False),
    ):
        config.insert_json5(key, json.dumps(value))
    return zenoh.open(config)


def send_bare(folder: Path, form: str) -> None:
    """Answer requests for a frame newer than one."""
    frames: Any = jpegs(folder) if form == "mjpg" else np.load(folder / "raw.npy", mmap_mode="r")
    waiting: list[Any] = []
    newest: list[tuple[int, int]] = []
    changed = threading.Condition()

    def take(query: Any) -> None:
        with changed:
            waiting.append((query, int.from_bytes(query.payload.to_bytes(), "little")))
            changed.notify()

    def answer() -> None:
        while True:
            with changed:
                changed.wait_for(lambda: waiting and newest and newest[0][0] > waiting[0][1])
                (query, _), (number, captured) = waiting.pop(0), newest[0]
            frame = frames[(number - 1) % PICTURES]
            data = frame if isinstance(frame, bytes) else frame.tobytes()
            with query:
                query.reply(KEY, data, attachment=_HEAD.pack(number, captured), express=True)

    with session(listen=f"tcp/0.0.0.0:{PORT}") as opened:
        queryable = opened.declare_queryable(KEY, take)
        threading.Thread(target=answer, daemon=True).start()
        for number, captured in ticks():
            with changed:
                newest[:] = [(number + 1, captured)]
                changed.notify()
        queryable.undeclare()
    say()


def receive_bare(address: str, form: str, seconds: float) -> None:
    """Ask for one frame after another."""
    import zenoh

    from billiards_shm.images import convert  # with the same decoder as the readers of a mirror

    seen: list[tuple[int, int | None, int]] = []
    after = 0
    with session(connect=f"tcp/{address}:{PORT}") as opened:
        while not is_over(seen, seconds):
            replies = opened.get(
                KEY,
                payload=after.to_bytes(8, "little"),
                timeout=1.0,
                express=True,
                consolidation=zenoh.ConsolidationMode.NONE,
            )
            came = False
            for reply in replies:
                if reply.ok is None:
                    continue
                data = reply.ok.payload.to_bytes()
                after, captured = _HEAD.unpack(reply.ok.attachment.to_bytes())
                if form == "mjpg":
                    convert(np.frombuffer(data, np.uint8).reshape(1, -1), "MJPG", "BGR24")
                else:
                    np.frombuffer(data, np.uint8).reshape(HEIGHT, WIDTH, 3)
                seen.append((after, captured, now()))
                came = True
            if not came:
                time.sleep(0.05)  # there is no queryable yet
    say(seen=seen)


# What people use without this package: FFmpeg, H.264 over UDP, with every option for low latency.


def send_udp(folder: Path, address: str) -> None:
    """Feed JPEGs to FFmpeg as a camera would."""
    command = [
        *("ffmpeg", "-v", "error", "-f", "mjpeg", "-framerate", str(FPS), "-probesize", "32", "-fflags", "nobuffer"),
        *("-flags", "low_delay", "-i", "-", "-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency"),
        *("-pix_fmt", "yuv420p", "-g", "30", "-flush_packets", "1", "-f", "mpegts"),
        f"udp://{address}:{PORT}?pkt_size=1316",
    ]
    played = jpegs(folder)
    captured = []
    with subprocess.Popen(command, stdin=subprocess.PIPE) as ffmpeg:
        assert ffmpeg.stdin is not None
        for number, at in ticks():
            captured.append(at)
            ffmpeg.stdin.write(played[number % PICTURES])
            ffmpeg.stdin.flush()
    say(captured=captured)


def receive_udp(seconds: float) -> None:
    """Decode the stream with FFmpeg's libraries, and read each picture's number."""
    import av

    from billiards_shm.sources.demo.table import read_counter

    options = {"fflags": "nobuffer", "flags": "low_delay", "probesize": "32768", "analyzeduration": "0"}
    seen: list[tuple[int, int | None, int]] = []
    with av.open(f"udp://0.0.0.0:{PORT}?fifo_size=1000000&overrun_nonfatal=1", options=options, timeout=30) as opened:
        stream = opened.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in opened.decode(stream):
            image = frame.to_ndarray(format="bgr24")
            at = now()
            try:
                seen.append((read_counter(image), None, at))
            except ValueError:
                continue  # packets were lost
            if is_over(seen, seconds):
                break
    say(seen=seen)


def main(role: str, *arguments: str) -> None:
    """Play a role."""
    match role, arguments:
        case "play", (folder, name, form):
            play(Path(folder), name, form)
        case "read", (name, seconds):
            read(name, float(seconds))
        case "send-bare", (folder, form):
            send_bare(Path(folder), form)
        case "receive-bare", (address, form, seconds):
            receive_bare(address, form, float(seconds))
        case "send-udp", (folder, address):
            send_udp(Path(folder), address)
        case "receive-udp", (seconds,):
            receive_udp(float(seconds))
        case _:
            sys.exit(f"no role {role} with {len(arguments)} arguments")


if __name__ == "__main__":
    main(*sys.argv[1:])

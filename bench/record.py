"""What recording costs: CPU per frame of `record`, 1080p, compared with a bare PyAV encode loop in the same run.

    python -m bench.record                   Motion JPEG unchanged, H.264 of NV12; about two minutes
    python -m bench.record --frames 108000   an hour of Motion JPEG, as fast as it is recorded: what is missed, memory

This process, which is not counted, publishes the frames at 30 fps. They all differ; their JPEGs take 300 kB.
The bare loop encodes the same frames with the same settings at the same pace, and writes the same kind of file. It has
them in its own memory, as arrays; or it reads them from the segment, one after the other. CPU is as the kernel
accounts it, in steps of 10 ms: compare within one run.
Prints Markdown; --json FILE stores the figures.

With --frames the file gets all of them: an hour takes 32 GB for some minutes, in TMPDIR. --size makes other frames.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.capture import cpu_seconds, private_bytes
from bench.machine import cpu_name
from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter, inspect_segment

WIDTH, HEIGHT, FPS = 1920, 1080, 30
HISTORY, AHEAD = 16, 8
"""Frames that the segment keeps, and how many may be published before they are recorded."""
MJPG, H264 = "MJPG unchanged", "H.264 ultrafast of NV12"
BARE, BARE_READER = "the same, bare PyAV loop over its own arrays", "the same, bare PyAV loop over a reader's frames"


def pictures(size: tuple[int, int] = (WIDTH, HEIGHT)) -> list[npt.NDArray[np.uint8]]:
    """A second of BGR pictures, soft as those of cameras, that move."""
    import cv2

    rng = np.random.default_rng(1)
    still = cv2.resize(rng.integers(0, 256, (90, 160, 3), np.uint8), size)
    return [np.roll(still, 8 * number, axis=1) for number in range(FPS)]


def jpegs(size: tuple[int, int] = (WIDTH, HEIGHT)) -> list[npt.NDArray[np.uint8]]:
    """The pictures as MJPG frames."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, 75]
    return [cv2.imencode(".jpg", picture, options)[1].reshape(1, -1) for picture in pictures(size)]


def nv12() -> list[npt.NDArray[np.uint8]]:
    """The pictures as NV12 frames."""
    import cv2

    found = []
    for picture in pictures():
        planes = cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420).reshape(-1)
        luma, u, v = np.split(planes, [WIDTH * HEIGHT, WIDTH * HEIGHT * 5 // 4])
        found.append(np.concatenate([luma, np.stack([u, v], -1).reshape(-1)]).reshape(-1, WIDTH))
    return found


def paced() -> Iterator[npt.NDArray[np.uint8]]:
    """The frames, at their pace, in memory of this process."""
    frames = nv12()
    begun = time.monotonic()
    for number in range(10**9):
        yield frames[number % len(frames)]
        time.sleep(max(0.0, begun + (number + 1) / FPS - time.monotonic()))


def published(name: str) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the frames of a segment."""
    with SharedMemoryFrameReader(name) as reader:
        for frame, _ in reader.frames(every=True):
            yield frame


def encode_bare(file: str, frames: Iterator[npt.NDArray[np.uint8]]) -> None:
    """Encode until a signal arrives, as a program that has the frames would; print each frame's number."""
    import av
    from av.codec.context import Flags

    with av.open(file, "w") as output:
        stream: Any = output.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "nv12"
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "23"}
        stream.codec_context.gop_size = 2 * FPS
        stream.codec_context.flags |= Flags.global_header
        for number, array in enumerate(frames):
            frame = av.VideoFrame.from_numpy_buffer(array, "nv12")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            output.mux(stream.encode(frame))
            print(number, flush=True)


class Source:
    """Publishes frames at their pace."""

    def __init__(self, name: str, frames: Sequence[npt.NDArray[np.uint8]], pixel_format: str) -> None:
        self._over = threading.Event()
        self._frames = frames
        shape = (1, max(frame.size for frame in frames)) if pixel_format == "MJPG" else frames[0].shape
        self._writer = SharedMemoryFrameWriter(name, shape, pixel_format=pixel_format, history=HISTORY)
        self._thread = threading.Thread(target=self._publish)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()
        self._writer.close()

    def _publish(self) -> None:
        begun = time.monotonic()
        number = 0
        while not self._over.wait(max(0.0, begun + number / FPS - time.monotonic())):
            self._writer.write_frame(self._frames[number % len(self._frames)])
            number += 1


def recorded(frames: Sequence[npt.NDArray[np.uint8]], pixel_format: str, seconds: float) -> tuple[float, int]:
    """CPU milliseconds per frame of `record`, and how many frames it missed."""
    name = f"bench_record_{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder, Source(name, frames, pixel_format):
        command = [sys.executable, "-m", "billiards_shm", "record", name, f"{folder}/table.mkv"]
        with SharedMemoryFrameReader(name) as reader:
            reader.attach(timeout=60)
        recorder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        lines = Path(folder, "table.mkv.frames.jsonl")
        while not lines.exists():
            time.sleep(0.05)
        cpu = per_frame(recorder.pid, seconds, lambda: inspect_segment(name).sequence)
        recorder.send_signal(signal.SIGINT)
        said, _ = recorder.communicate(timeout=60)
    return cpu, missed_in(said)


def missed_in(said: str) -> int:
    """How many frames were missed, from the last line of `record`."""
    return int(said.split(" missed")[0].split()[-1])


def record_all(count: int, size: tuple[int, int]) -> str:
    """Publish JPEGs as fast as they are recorded, by their capture times at `FPS`.

    Returns a line: how many frames were missed, and the private memory of `record`.
    """
    name = f"bench_record_{os.getpid()}"
    frames = jpegs(size)
    shape = (1, max(frame.size for frame in frames))
    memory: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        SharedMemoryFrameWriter(name, shape, pixel_format="MJPG", history=HISTORY) as writer,
    ):
        file = Path(folder, "table.mkv")
        command = [sys.executable, "-m", "billiards_shm", "record", name, str(file)]
        recorder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        begun, begun_ns = time.monotonic(), time.monotonic_ns() - count * 10**9 // FPS
        newest = 0
        for number in range(1, count + 1):
            writer.write_frame(frames[number % len(frames)], capture_time_ns=begun_ns + number * 10**9 // FPS)
            while newest < (number if number in (1, count) else number - AHEAD) and recorder.poll() is None:
                time.sleep(0.0005)
                newest = newest_recorded(file)
            if number % max(1, count // 100) == 0:
                memory.append(private_bytes(recorder.pid) / 1e6)
        seconds = time.monotonic() - begun
        recorder.send_signal(signal.SIGINT)
        said, _ = recorder.communicate(timeout=60)
        written = file.stat().st_size / 1e9
    return (
        f"{count} frames of {size[0]}x{size[1]}, {written:.1f} GB, in {seconds:.0f} s: {missed_in(said)} missed; "
        f"private memory of `record` {memory[0]:.1f} MB after a hundredth of them, {memory[-1]:.1f} at the end, "
        f"{max(memory):.1f} at most"
    )


def newest_recorded(file: Path) -> int:
    """The number of the last frame that is in a recording; 0 if there is none yet."""
    try:
        with Path(f"{file}.frames.jsonl").open("rb") as lines:
            lines.seek(max(0, lines.seek(0, os.SEEK_END) - 1000))
            last = lines.read().rpartition(b"\n")[0].rpartition(b"\n")[2]
    except FileNotFoundError:
        return 0
    return int(json.loads(last)["sequence"]) if last else 0


def bare(seconds: float, name: str = "") -> float:
    """CPU milliseconds per frame of the bare loop, over its own frames or those of a segment."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench.record", "--bare", f"{folder}/table.mkv", "--of", name]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        newest = [int(process.stdout.readline())]
        done = process.stdout

        def follow() -> None:
            for line in done:
                newest[0] = int(line)

        thread = threading.Thread(target=follow)
        thread.start()
        cpu = per_frame(process.pid, seconds, lambda: newest[0])
        process.kill()
        process.wait()
        thread.join()
    return cpu


def per_frame(pid: int, seconds: float, frames: Callable[[], int]) -> float:
    """CPU milliseconds that a process uses per frame."""
    time.sleep(2)  # the start is over
    first, used = frames(), cpu_seconds(pid)
    time.sleep(seconds)
    return (cpu_seconds(pid) - used) / (frames() - first) * 1e3


def measure(seconds: float, rounds: int) -> dict[str, float]:
    """Every figure, in turn in each round: the medians. Missed frames are an error."""
    found: dict[str, list[float]] = {MJPG: [], H264: [], BARE: [], BARE_READER: []}
    as_jpegs, as_nv12 = jpegs(), nv12()
    for _ in range(rounds):
        for what, frames, pixel_format in ((MJPG, as_jpegs, "MJPG"), (H264, as_nv12, "NV12")):
            cpu, missed = recorded(frames, pixel_format, seconds)
            if missed:
                print(f"{what}: {missed} frames were missed", file=sys.stderr)
            found[what].append(cpu)
        found[BARE].append(bare(seconds))
        name = f"bench_record_{os.getpid()}"
        with Source(name, as_nv12, "NV12"):
            found[BARE_READER].append(bare(seconds, name))
    return {what: statistics.median(each) for what, each in found.items()}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Measure what recording costs.")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of all in turn")
    parser.add_argument("--frames", type=int, help="record so many JPEGs as fast as possible instead")
    parser.add_argument("--size", default=f"{WIDTH}x{HEIGHT}", help="of these frames")
    parser.add_argument("--json", type=Path, help="where to store the figures")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    parser.add_argument("--of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        encode_bare(options.bare, published(options.of) if options.of else paced())
        return
    print(f"{cpu_name()}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()};")
    if options.frames:
        width, height = map(int, options.size.split("x"))
        print(record_all(options.frames, (width, height)))
        return
    found = measure(options.seconds, options.rounds)
    print(f"1080p at {FPS} fps, ms of CPU a frame, median of {options.rounds} rounds of {options.seconds:g} s\n")
    print("| what | ms |\n|---|---|")
    for what, figure in found.items():
        print(f"| {what} | {figure:.2f} |")
    ratios = [f"{found[H264] / found[each]:.2f}" for each in (BARE, BARE_READER)]
    print(f"\nH.264 takes {ratios[0]} and {ratios[1]} of the bare loops")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

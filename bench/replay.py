"""How long a clip of the last ten seconds takes, from the request to the file: 1080p60, MJPG unchanged, H.264 of NV12.

    python -m bench.replay [--times 10]

The recorder is a separate process, still recording; this process publishes the frames, JPEGs of about 300 kB.
*request* is the wait of a program or server that already runs; *command* is ``billiards-shm replay``, including the
start of Python. Prints Markdown, and how far off the times in the file are.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.machine import cpu_name
from bench.record import jpegs, nv12
from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter
from billiards_shm.record.clip import write_clip
from billiards_shm.record.control import RecorderError, fetched_clip

FPS, LAST_S = 60, 10.0


def publish(name: str, frames: Sequence[npt.NDArray[np.uint8]], pixel_format: str, over: threading.Event) -> None:
    """Publish frames at their pace. A late one is not made up for, as with cameras."""
    shape = (1, max(frame.size for frame in frames)) if pixel_format == "MJPG" else frames[0].shape
    with SharedMemoryFrameWriter(name, shape, pixel_format=pixel_format, history=24) as writer:
        due, number = time.monotonic(), 0
        while not over.wait(max(0.0, due - time.monotonic())):
            writer.write_frame(frames[number % len(frames)])
            due, number = max(due, time.monotonic()) + 1 / FPS, number + 1


def timed(do: Callable[[], object], times: int) -> str:
    """Median and longest time, in seconds."""
    took = []
    for _ in range(times):
        begun = time.perf_counter()
        do()
        took.append(time.perf_counter() - begun)
        time.sleep(0.5)
    return f"{statistics.median(took):.2f} s, at most {max(took):.2f}"


def times_off_ms(file: Path) -> float:
    """The largest difference between a time in the file and its capture time."""
    import av

    lines = [json.loads(line) for line in file.with_name(f"{file.name}.frames.jsonl").read_text().splitlines()]
    with av.open(str(file)) as container:
        packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
        shown: list[float] = [float(packet.pts * packet.time_base) for packet in packets]  # type: ignore[operator]
    captured = [(line["capture_time_ns"] - lines[0]["capture_time_ns"]) / 1e6 for line in lines]
    return float(max(abs(at * 1e3 - when) for at, when in zip(shown, captured, strict=True)))


def decoded_by_ffprobe(file: Path) -> str:
    """How many frames ffprobe decodes."""
    if shutil.which("ffprobe") is None:
        return "ffprobe is missing"
    options = ["-v", "error", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"]
    done = subprocess.run(["ffprobe", *options, file], capture_output=True, text=True, check=True)
    return done.stdout.strip().strip(",") + (f", with {done.stderr}" if done.stderr else "")


def measure(frames: Sequence[npt.NDArray[np.uint8]], pixel_format: str, suffix: str, times: int) -> str:
    """A row of the table."""
    name = f"bench_replay_{os.getpid()}"
    over = threading.Event()
    source = threading.Thread(target=publish, args=(name, frames, pixel_format, over))
    source.start()
    command: list[Any] = [sys.executable, "-m", "billiards_shm", "record", name, "--ring", "15s"]
    with tempfile.TemporaryDirectory() as folder, SharedMemoryFrameReader(name) as reader:
        reader.attach(timeout=60)
        recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        file = Path(folder, f"clip{suffix}")

        def request() -> None:
            with fetched_clip(name, LAST_S) as clip:
                write_clip(clip.stream, clip.frames, file, overwrite=True)

        try:
            time.sleep(LAST_S + 3)
            as_request = timed(request, times)
            off_ms, count = times_off_ms(file), decoded_by_ffprobe(file)
            replay = [sys.executable, "-m", "billiards_shm", "replay", name, str(file), "--overwrite"]
            as_command = timed(lambda: subprocess.run(replay, check=True, stdout=subprocess.DEVNULL), times)
            size = file.stat().st_size / 1e6
        except RecorderError as error:
            as_request, as_command, off_ms, count, size = str(error), "", 0.0, "", 0.0
        finally:
            recorder.terminate()
            recorder.wait()
            over.set()
            source.join()
    return f"| {pixel_format}, {suffix} | {size:.0f} MB | {as_request} | {as_command} | {off_ms:.2f} ms | {count} |"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    times = parser.parse_args().times
    print(f"{cpu_name()}, {os.cpu_count()} processors; clips of {LAST_S:g} s of 1080p{FPS}\n")
    print("| ring and file | size | request | command | times off | frames that ffprobe decodes |")
    print("|---|---|---|---|---|---|")
    for frames, pixel_format, suffix in (
        (nv12(), "NV12", ".mp4"),
        (nv12(), "NV12", ".mkv"),
        (jpegs(), "MJPG", ".mkv"),
    ):
        print(measure(frames, pixel_format, suffix, times), flush=True)


if __name__ == "__main__":
    main()

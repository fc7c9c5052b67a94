"""The capture process as a whole, measured from outside: rate, write latency, CPU beyond decoding, memory, start, stop.

    python -m bench.capture                  a 4K clip at 24 fps, made with ffmpeg or OpenCV
    python -m bench.capture match.mp4

CPU is compared with a bare loop of ``grab`` and ``retrieve`` at the same pace, in turn with it, in the same run. Prints
a Markdown table; --json FILE stores the figures.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.machine import cpu_name
from billiards_shm import SharedMemoryFrameReader, inspect_segment

BARE_LOOP = """
import resource, sys, time, cv2
path, fps, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
capture, image, frames = cv2.VideoCapture(path), None, 0
if capture.grab():
    image = capture.retrieve()[1]
before = resource.getrusage(resource.RUSAGE_SELF)
begin = due = time.monotonic()
while time.monotonic() < begin + seconds:
    if not capture.grab():
        capture = cv2.VideoCapture(path)
        continue
    image = capture.retrieve(image)[1]
    frames += 1
    due += 1 / fps
    time.sleep(max(0.0, due - time.monotonic()))
after = resource.getrusage(resource.RUSAGE_SELF)
print((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / frames)
"""


def make_clip(directory: Path, width: int, height: int, fps: int, seconds: int) -> Path:
    """A moving test picture: H.264 by ffmpeg if installed, else Motion JPEG by OpenCV."""
    path = directory / f"clip_{width}x{height}_{fps}.mp4"
    if ffmpeg := shutil.which("ffmpeg"):
        source = f"testsrc2=size={width}x{height}:rate={fps}:duration={seconds}"
        command = [
            ffmpeg,
            "-v",
            "error",
            "-y",
            "-f",
            "lavfi",
            "-i",
            source,
            "-pix_fmt",
            "yuv420p",
            "-preset",
            "veryfast",
        ]
        subprocess.run([*command, str(path)], check=True)
        return path
    import cv2
    import numpy as np

    path = path.with_suffix(".avi")
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (width, height))
    for number in range(fps * seconds):
        video.write(np.full((height, width, 3), (number * 7) % 256, np.uint8))
    video.release()
    return path


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def private_bytes(pid: int) -> int:
    """The process's private memory."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


def measure_capture(path: Path, name: str, seconds: float, *options: str) -> dict[str, Any]:
    """Run the capture process on `path` and measure it from outside."""
    command = [sys.executable, "-m", "billiards_shm", "capture", str(path), "--name", name, "--loop", *options]
    started = time.monotonic_ns()
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=tempfile.gettempdir()) as process:
        with SharedMemoryFrameReader(name) as reader:
            reader.attach(timeout=30)
            first = reader.read_frame(timeout=30)[1]  # the frame itself would stay pinned
            if first is None:
                raise RuntimeError("no frame within 30 s")
            start_s = (first.publish_time_ns - started) / 1e9
            before, begin, cpu_before = first.sequence, time.monotonic(), cpu_seconds(process.pid)
            newest, skipped, ages = first, 0, []
            while time.monotonic() < begin + seconds:
                frame, metadata = reader.read_frame(timeout=1)
                if frame is not None and metadata is not None:
                    ages.append((time.monotonic_ns() - metadata.publish_time_ns) / 1e6)
                    newest, skipped = metadata, skipped + metadata.skipped
            elapsed = time.monotonic() - begin
            cpu = cpu_seconds(process.pid) - cpu_before
            frames = newest.sequence - before
            buckets = inspect_segment(name).write_latency_buckets
            shared, private = inspect_segment(name).allocated_bytes, private_bytes(process.pid)
            del frame
        stopped = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=30)
        stop_ms = (time.monotonic() - stopped) * 1e3
    return {
        "size": f"{newest.width}x{newest.height}",
        "frames": frames,
        "skipped": skipped,
        "fps": frames / elapsed,
        "write_p50_ms": bucket_quantile(buckets, 0.50),
        "write_p99_ms": bucket_quantile(buckets, 0.99),
        "wake_p50_ms": statistics.median(ages),
        "cpu_s_per_frame": cpu / frames,
        "shared_mb": shared / 1e6,
        "private_mb": private / 1e6,
        "start_s": start_s,
        "stop_ms": stop_ms,
        "exit_code": code,
    }


def bucket_quantile(buckets: tuple[int, ...], quantile: float) -> float:
    """Upper bound in ms of the power-of-two bucket that the quantile lies in."""
    left = quantile * sum(buckets)
    for exponent, count in enumerate(buckets):
        left -= count
        if left <= 0:
            return float(2**exponent) / 1e6
    return float("inf")


def measure_bare_loop(path: Path, fps: float, seconds: float) -> float:
    """CPU seconds per frame of a loop that discards its frames."""
    command = [sys.executable, "-c", BARE_LOOP, str(path), str(fps), str(seconds)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(video: Path, fps: float, seconds: float, rounds: int) -> tuple[str, dict[str, float]]:
    """Capture and the bare loop, in turn. The size of the frames, and the median of every figure."""
    found = []
    for number in range(rounds):
        ours = measure_capture(video.resolve(), f"bench_capture_{os.getpid()}_{number}", seconds)
        ours["bare_cpu_s_per_frame"] = measure_bare_loop(video, fps, seconds)
        found.append(ours)
    size = str(found[0]["size"])
    return size, {key: statistics.median(one[key] for one in found) for key in found[0] if key != "size"}


def main() -> None:
    """Measure in turn and print the table."""
    parser = argparse.ArgumentParser(description="Measure the capture process from outside.")
    parser.add_argument("video", nargs="?", type=Path, help="video file; default: a 4K clip at 24 fps, made here")
    parser.add_argument("--fps", type=float, default=24.0, help="pace of the bare loop; default: the video's own")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2, help="of capture and bare loop in turn")
    parser.add_argument("--json", type=Path, help="where to store the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        video = options.video or make_clip(Path(directory), 3840, 2160, 24, 10)
        size, median = measure(video, options.fps, options.seconds, options.rounds)
    beyond = median["cpu_s_per_frame"] - median["bare_cpu_s_per_frame"]
    print(f"{cpu_name()}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}; ")
    print(f"{size} at {options.fps:g} fps, median of {options.rounds} rounds of {options.seconds:g} s\n")
    print("| what | measured |\n|---|---|")
    print(f"| frame rate | {median['fps']:.1f} fps, {median['skipped']:.0f} of {median['frames']:.0f} frames skipped |")
    print(
        f"| write (claim and publish) | p50 < {median['write_p50_ms']:.3f} ms, p99 < {median['write_p99_ms']:.3f} ms |"
    )
    print(f"| publish to reader holding the array, p50 | {median['wake_p50_ms']:.3f} ms |")
    print(f"| CPU a frame, capture | {median['cpu_s_per_frame'] * 1e3:.2f} ms |")
    print(f"| CPU a frame, bare grab and retrieve | {median['bare_cpu_s_per_frame'] * 1e3:.2f} ms |")
    print(f"| CPU beyond decoding | {beyond * options.fps * 100:.1f} % of a core |")
    print(f"| shared memory | {median['shared_mb']:.1f} MB |")
    print(f"| private memory | {median['private_mb']:.1f} MB |")
    print(f"| start to first frame published | {median['start_s']:.2f} s |")
    print(f"| SIGTERM to process gone | {median['stop_ms']:.0f} ms |")
    if options.json:
        options.json.write_text(json.dumps({"size": size, **median}, indent=1))


if __name__ == "__main__":
    main()

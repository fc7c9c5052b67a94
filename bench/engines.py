"""The capture process with each engine that reads files: CPU per BGR frame of the whole process, in turn in one run.

    python -m bench.engines                  1080p30 in H.264 and in Motion JPEG, made with ffmpeg
    python -m bench.engines match.mp4

Files are played at their own rate. The engines choose the number of decoding threads. Prints a Markdown table.
"""

import argparse
import os
import platform
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from bench.capture import make_clip, measure_capture
from bench.machine import cores, cpu_name

ENGINES: Final = {"PyAV": "av", "OpenCV": "ffmpeg"}


def make_clips(folder: Path) -> list[Path]:
    """The same pictures in H.264 and in Motion JPEG."""
    h264 = make_clip(folder, 1920, 1080, 30, 10)
    mjpeg = folder / "clip.avi"
    command = ["ffmpeg", "-v", "error", "-i", str(h264), "-c:v", "mjpeg", "-q:v", "4", str(mjpeg)]
    subprocess.run(command, check=True)
    return [h264, mjpeg]


def measure(clip: Path, rounds: int, seconds: float) -> dict[str, list[float]]:
    """CPU milliseconds per frame for each engine, by round."""
    found: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for number in range(rounds):
        for engine, backend in ENGINES.items():
            name = f"bench_engines_{os.getpid()}_{number}"
            found[engine].append(measure_capture(clip, name, seconds, "--backend", backend)["cpu_s_per_frame"] * 1e3)
    return found


def main() -> None:
    """Measure both engines in turn, and print the table."""
    parser = argparse.ArgumentParser(description="Compare the engines that read files.")
    parser.add_argument("video", nargs="*", type=Path, help="video files; default: clips made here")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of both engines in turn")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clips = options.video or make_clips(Path(folder))
        measured = {clip.name: measure(clip.resolve(), options.rounds, options.seconds) for clip in clips}
    print(f"{cpu_name()}, {cores()} cores, Linux {platform.release()}; load {os.getloadavg()[0]:.1f}; ", end="")
    print(f"{options.rounds} rounds of {options.seconds:g} s, medians\n")
    print(f"| CPU a frame | {' | '.join(ENGINES)} | ratio of the rounds |\n|---|---|---|---|")
    for clip, engines in measured.items():
        medians = " | ".join(f"{statistics.median(rounds):.2f} ms" for rounds in engines.values())
        ratio = statistics.median(ours / theirs for ours, theirs in zip(*engines.values(), strict=True))
        print(f"| {clip} | {medians} | {ratio:.2f} |")


if __name__ == "__main__":
    main()

"""How many frames a reader of every frame misses while other processes are busy.

    python -m bench.every [--history 8] [--frames 3600] [--fps 60] [--busy 4]

A writer process publishes 1080p frames at a fixed rate; this process reads them in turn. The busy loops compete with
both for the processors. Like a camera, a writer that is late does not catch up; the last line shows its longest
pause.
"""

import argparse
import os
import subprocess
import sys

from bench.sizes import own_name
from billiards_shm import SharedMemoryFrameReader

WRITER = """
import sys, time
import numpy as np
from billiards_shm import SharedMemoryFrameWriter
name, history, frames, fps = sys.argv[1], *map(int, sys.argv[2:])
image = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
with SharedMemoryFrameWriter(name, image.shape, history=history) as writer:
    sys.stdin.readline()
    due = time.monotonic()
    for _ in range(frames):
        due = max(due + 1 / fps, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
        writer.write_frame(image)
    sys.stdin.readline()
"""


def main() -> None:
    """Run once, and print how many frames were missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in (("--history", 8), ("--frames", 3600), ("--fps", 60), ("--busy", 4)):
        parser.add_argument(option, type=int, default=default)
    asked = parser.parse_args()
    name = own_name("every")
    numbers = map(str, (asked.history, asked.frames, asked.fps))
    writer = subprocess.Popen([sys.executable, "-c", WRITER, name, *numbers], stdin=subprocess.PIPE)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(asked.busy)]
    assert writer.stdin is not None
    read, longest_ns, last_ns = 0, 0, None
    try:
        with SharedMemoryFrameReader(name) as reader:
            reader.attach(timeout=30.0)
            writer.stdin.write(b"go\n")
            writer.stdin.flush()
            last = 0
            while last < asked.frames:
                _, metadata = reader.read_next(timeout=30.0)
                assert metadata is not None, "no frame came within 30 s"
                read, last = read + 1, metadata.sequence
                if last_ns is not None:
                    longest_ns = max(longest_ns, metadata.publish_time_ns - last_ns)
                last_ns = metadata.publish_time_ns
            missed = asked.frames - read
        print(
            f"{os.cpu_count()} processors, {asked.busy} busy loops, 1080p at {asked.fps} fps, history {asked.history}:"
        )
        print(
            f"    read {read} of {asked.frames}, missed {missed}, longest pause of the writer {longest_ns / 1e6:.0f} ms"
        )
    finally:
        for process in busy:
            process.kill()
            process.wait()
        writer.stdin.close()
        writer.wait()


if __name__ == "__main__":
    main()

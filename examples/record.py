"""Records a source to a video file. However slow the disk is, the capture process does not notice.

    python examples/record.py NAME FILE [--frames N]

FILE ends in .avi or .mp4. Frames that come while one is being encoded are missed, and counted.
"""

import argparse

import cv2

from billiards_shm import SharedMemoryFrameReader, inspect_segment


def record(name: str, file: str, frames: int) -> tuple[int, int]:
    """Write `frames` frames; return how many were written and how many were missed."""
    fourcc = cv2.VideoWriter.fourcc(*("MJPG" if file.endswith(".avi") else "mp4v"))
    written = missed = 0
    with SharedMemoryFrameReader(name) as reader:
        reader.attach(timeout=5.0)
        output: cv2.VideoWriter | None = None
        try:
            for frame, metadata in reader:
                if metadata.pixel_format != "BGR24":
                    raise SystemExit(f"{name} is {metadata.pixel_format}, but BGR24 is expected: convert it first")
                if output is None:
                    rate = inspect_segment(name).fps or 30.0
                    output = cv2.VideoWriter(file, fourcc, rate, (metadata.width, metadata.height))
                    if not output.isOpened():
                        raise SystemExit(f"OpenCV cannot write {file!r}")
                output.write(frame)
                missed += metadata.skipped if written else 0
                written += 1
                if written == frames:
                    break
        finally:
            if output is not None:
                output.release()
    return written, missed


def main() -> None:
    """Record, and print the result."""
    parser = argparse.ArgumentParser(description="Record a source to a file")
    parser.add_argument("name")
    parser.add_argument("file")
    parser.add_argument("--frames", type=int, default=300)
    arguments = parser.parse_args()
    written, missed = record(arguments.name, arguments.file, arguments.frames)
    print(f"{arguments.file}: {written} frames, {missed} missed")


if __name__ == "__main__":
    main()

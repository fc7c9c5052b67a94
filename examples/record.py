"""Records a source to a video file. However slow the disk is, the capture process does not notice.

    python examples/record.py NAME FILE [--frames N]

FILE ends in .avi or .mp4. Frames of any pixel format but RAW are converted. Those that come while one is being encoded
are missed, and counted. The recording ends when the source does, and when the size of its frames changes.
"""

import argparse

import cv2

from billiards_shm import SharedMemoryFrameReader, inspect_segment
from billiards_shm.images import convert


def record(name: str, file: str, frames: int) -> tuple[int, int]:
    """Write `frames` frames; return how many were written and how many were missed."""
    fourcc = cv2.VideoWriter.fourcc(*("MJPG" if file.endswith(".avi") else "mp4v"))
    written = missed = 0
    with SharedMemoryFrameReader(name) as reader:
        reader.attach(timeout=5.0)
        output: cv2.VideoWriter | None = None
        size = (0, 0)
        try:
            for frame, metadata in reader:
                try:
                    picture = convert(frame, metadata.pixel_format, "BGR24")
                except ValueError as error:
                    raise SystemExit(f"{name}: {error}") from error
                height, width = picture.shape[:2]
                if output is None:
                    size = (width, height)
                    output = cv2.VideoWriter(file, fourcc, inspect_segment(name).fps or 30.0, size)
                    if not output.isOpened():
                        raise SystemExit(f"OpenCV cannot write {file!r}")
                if (width, height) != size:
                    # OpenCV would leave the frame out without a word.
                    print(f"{name} is now {width}x{height}, and the file {size[0]}x{size[1]}: the recording ends")
                    break
                output.write(picture)
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

"""A program written for ``cv2.VideoCapture`` that now shares the camera: one line is different.

python examples/opencv_consumer.py [NAME] [--frames N]
"""

import argparse

import cv2

from billiards_shm import VideoConsumer


def main() -> None:
    """Count edges in each frame."""
    parser = argparse.ArgumentParser(description="Edges in each frame")
    parser.add_argument("name", nargs="?", default="billiards_video")
    parser.add_argument("--frames", type=int, default=100)
    arguments = parser.parse_args()

    capture = VideoConsumer(arguments.name)  # was: cv2.VideoCapture(0)
    if not capture.isOpened():
        raise SystemExit(f"nothing is captured under {arguments.name!r}: billiards-shm capture demo")
    for _ in range(arguments.frames):
        good, frame = capture.read()
        if not good or frame is None:
            break
        edges = cv2.Canny(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), 100, 200)
        print(f"{frame.shape[1]}x{frame.shape[0]}: {cv2.countNonZero(edges)} pixels on edges")
    capture.release()


if __name__ == "__main__":
    main()

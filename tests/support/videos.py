"""Clips for tests, made with OpenCV alone. Every frame carries its number, from 1, for `read_counter`."""

from pathlib import Path

import cv2
import numpy as np
from repository import TESTS

from billiards_shm.sources.demo.table import DemoTable

SIZE = (160, 120)
# H.264 with B-frames and sound; 66 frames that are 40 and 80 ms apart in turns, as phones record. Made from
# `make_clip(path, 100, (320, 180))` by `ffmpeg -i PATH -f lavfi -i sine=sample_rate=8000 -shortest
# -vf select='mod(n,3)',settb=1/1000 -vsync vfr -c:v libx264 -preset slow -crf 26 -pix_fmt yuv420p -c:a aac -b:a 16k`.
RECORDING = TESTS / "sources" / "recording.mp4"
FPS = 25.0
_IDENTITY = [1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30]
_ROTATIONS = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


def make_clip(path: Path, frames: int, size: tuple[int, int] = SIZE, fps: float = FPS, first: int = 1) -> Path:
    """Record numbered frames: Motion JPEG in .avi, MPEG-4 in .mp4."""
    codec = cv2.VideoWriter_fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, fps, size)
    assert writer.isOpened(), f"this OpenCV cannot write {path.suffix}"
    table = DemoTable(*size, fps, first=first)
    for _ in range(frames):
        table.grab()
        writer.write(table.retrieve(None))
    writer.release()
    return path


def make_images(folder: Path, numbers: range, size: tuple[int, int] = SIZE) -> str:
    """Write numbered PNG files and return their file name pattern; a file's number is its frame's."""
    folder.mkdir()
    table = DemoTable(*size, FPS, first=numbers.start)
    for number in numbers:
        table.grab()
        cv2.imwrite(str(folder / f"frame_{number:04d}.png"), table.retrieve(None))
    return str(folder / "frame_%04d.png")


def turn_clip(path: Path, degrees: int) -> Path:
    """Mark an .mp4 to be rotated by players, as phones do."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    entries = [int.from_bytes(content[matrix + 4 * i :][:4], "big", signed=True) for i in range(9)]
    assert entries == _IDENTITY, "the display matrix is not where it was"
    a, b, c, d = (value << 16 for value in _ROTATIONS[degrees])
    for i, value in enumerate((a, b, 0, c, d, 0, 0, 0, 1 << 30)):
        content[matrix + 4 * i : matrix + 4 * i + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(content)
    return path


def damage_clip(path: Path, *numbers: int) -> Path:
    """Blank the given frames of an .avi, so that they cannot be decoded."""
    content = bytearray(path.read_bytes())
    frames = []
    position = content.index(b"movi")
    while (position := content.find(b"00dc", position + 4)) >= 0 and content[position + 8 :][:2] == b"\xff\xd8":
        frames.append((position + 8, int.from_bytes(content[position + 4 :][:4], "little")))
    for number in numbers:
        start, length = frames[number - 1]
        content[start : start + length] = bytes(length)
    path.write_bytes(content)
    return path


def decode_all(path: Path | str) -> list[np.ndarray]:
    """What OpenCV itself decodes a clip to."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        good, frame = capture.read()
        if not good:
            return frames
        frames.append(frame)

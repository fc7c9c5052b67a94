"""A clip as a file: unchanged, or encoded where the container cannot hold it."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from billiards_shm.encoder import (
    DamagedFrameError,
    EncodedFrame,
    EncoderOptions,
    StreamFormat,
    Timeline,
    open_encoder,
)
from billiards_shm.pixel_formats import PIXEL_FORMATS
from billiards_shm.record.files import check_file, remove_recording
from billiards_shm.record.muxer import RecordingFile
from billiards_shm.sources.names import frames_file

__all__ = ["needs_encoding", "write_clip"]


class _Published(NamedTuple):
    """The metadata of a frame that the encoder needs."""

    pixel_format: str
    sequence: int
    capture_time_ns: int
    publish_time_ns: int
    wall_time_ns: int
    position_ms: float | None


class _GivenTimes(Timeline):
    """The times that the frames of a clip already have: `_frame` passes them as times of publication."""

    def time_us(self, capture_time_ns: int, publish_time_ns: int) -> int:
        return publish_time_ns // 1000


def needs_encoding(stream: StreamFormat, path: Path) -> bool:
    """Whether a clip has to be encoded, because browsers and other players take MP4 only with H.264."""
    return path.suffix.lower() == ".mp4" and stream.codec != "h264"


def write_clip(
    stream: StreamFormat, frames: Iterable[EncodedFrame], path: Path, *, overwrite: bool = False, title: str = ""
) -> RecordingFile:
    """Write a clip, and its ``FILE.frames.jsonl``; return the closed file. No partial clip is left behind.

    Existing files are replaced when the new ones are complete.

    Raises
    ------
    ConfigurationError
        As for `RecordingFile`.
    FrameShapeError
        The frames cannot be encoded, as MP4 requires.
    OSError
        It cannot be written.
    """
    if needs_encoding(stream, path):
        stream, frames = _encoded(stream, list(frames))
    if not overwrite:
        return _written(stream, frames, path, title)
    check_file(path, overwrite=True)
    path = path.resolve()  # a link stays
    with TemporaryDirectory(prefix=".replay-", dir=path.parent) as folder:
        output = _written(stream, frames, Path(folder) / path.name, title)
        frames_file(output.path).replace(frames_file(path))
        output.path.replace(path)
    return output


def _written(stream: StreamFormat, frames: Iterable[EncodedFrame], path: Path, title: str) -> RecordingFile:
    output = RecordingFile(path, stream, title=title)
    try:
        with output:
            for frame in frames:
                output.write(frame)
    except BaseException:
        remove_recording(path)
        raise
    return output


def _encoded(stream: StreamFormat, frames: list[EncodedFrame]) -> tuple[StreamFormat, Iterator[EncodedFrame]]:
    encoder = open_encoder(EncoderOptions(), *_frame(stream, frames[0]), _GivenTimes())

    def encode() -> Iterator[EncodedFrame]:
        for frame in frames:
            # A ring takes JPEGs undecoded, so this is the first to decode them.
            with contextlib.suppress(DamagedFrameError):
                yield from encoder.encode(*_frame(stream, frame))
        yield from encoder.flush()

    return encoder.format, encode()


def _frame(stream: StreamFormat, frame: EncodedFrame) -> tuple[Any, Any]:
    """Array and metadata, as readers return them."""
    name = stream.pixel_format or "MJPG"
    data = np.frombuffer(frame.data, np.uint8)
    shape = None if name == "MJPG" else PIXEL_FORMATS[name].array_shape(stream.width, stream.height)
    position_ms = frame.position_ms
    times = (frame.capture_time_ns, frame.time_us * 1000, frame.wall_time_ns)
    return data.reshape(shape or (1, -1)), _Published(name, frame.sequence, *times, position_ms)

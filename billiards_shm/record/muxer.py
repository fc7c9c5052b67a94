"""A video file that plays after SIGKILL, and next to it a text file with the number and time of every frame."""

import contextlib
import errno
import io
import json
import math
import os
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import av

from billiards_shm.encoder import EncodedFrame, StreamFormat
from billiards_shm.errors import ConfigurationError
from billiards_shm.pixel_formats import PIXEL_FORMATS
from billiards_shm.record.files import check_file
from billiards_shm.sources.names import frames_file

__all__ = ["CONTAINERS", "RecordingFile"]


class Container(NamedTuple):
    """A kind of file."""

    format: str
    """FFmpeg's name."""
    ticks: int
    """Resolution of its times, in steps per second."""
    options: dict[str, str]
    """FFmpeg's options. A killed process loses what FFmpeg holds back: a quarter of a second."""
    longest_step: float = math.inf
    """Most ticks from one frame to the next. After more, FFmpeg would give all later frames wrong times."""

    @property
    def longest_gap_s(self) -> float:
        """Seconds without a frame after which the same file can go on. The next frame's time is not yet known."""
        return 0.9 * self.longest_step / self.ticks


CONTAINERS: Final = {
    ".mkv": Container("matroska", 1000, {"cluster_time_limit": "250", "allow_raw_vfw": "1"}),
    # In fragments while it is written; at the end it gets the index of an ordinary MP4.
    ".mp4": Container(
        "mp4",
        90000,
        {
            "movflags": "hybrid_fragmented+default_base_moof",
            "frag_duration": "250000",
            "video_track_timescale": "90000",
        },
        2**31 - 2,
    ),
}
"""By the ending of the file's name."""
_BUFFER_BYTES: Final = 1 << 18
_LOOK_US: Final = 1_000_000
"""How often a recording checks that its file still has its name. A removed one would fill the disk unseen."""


class RecordingFile:
    """A file of one stream, written frame by frame, and its ``FILE.frames.jsonl``.

    The line of a frame is written right after its picture, unbuffered. So after SIGKILL the first lines are those of
    the frames in the file, and lines of frames that did not get into it may follow.

    Parameters
    ----------
    path
        Ends in one of `CONTAINERS`.
    stream
        What the encoder produces.
    overwrite
        Whether files that exist are replaced.
    title
        For the file's metadata.

    Raises
    ------
    ConfigurationError
        It exists, or the container cannot hold such a stream.
    OSError
        It cannot be written.
    """

    def __init__(self, path: Path, stream: StreamFormat, *, overwrite: bool = False, title: str = "") -> None:
        self.path: Final = path
        self.frames = 0
        self.bytes = 0
        """Bytes of the packets; the container adds some."""
        self.duration_s = 0.0
        """From the first frame to the last."""
        check_file(path, overwrite=overwrite)
        self._container = CONTAINERS[path.suffix.lower()]
        self._base_us: int | None = None
        self._last_tick = -1
        self._next_look_us = _LOOK_US
        with contextlib.ExitStack() as undo:
            self._lines = _JsonLines(frames_file(path), overwrite=overwrite)
            undo.callback(frames_file(path).unlink)
            undo.callback(self._lines.close)
            self._file = _File(str(path), "wb" if overwrite else "xb")
            undo.callback(path.unlink)
            undo.callback(self._file.close)
            options = {**self._container.options, "flush_packets": "1"}
            self._output = av.open(self._file, "w", self._container.format, options, buffer_size=_BUFFER_BYTES)
            self._output.metadata["title"] = title
            self._stream = self._add(stream)
            undo.pop_all()

    def write(self, frame: EncodedFrame) -> None:
        """Append a frame; the first one has to be one with `key`.

        Raises
        ------
        OSError
            It cannot be written, most often because the disk is full. What was written before stays readable. Or the
            file was removed. Or the frame is so long after the last one that the container has no time for it.
        """
        if self._base_us is None:
            self._base_us = frame.time_us
            started = datetime.fromtimestamp(frame.wall_time_ns / 1e9, UTC)
            self._output.metadata["creation_time"] = started.isoformat(timespec="microseconds")
        since_first_us = frame.time_us - self._base_us
        if since_first_us >= self._next_look_us:
            self._next_look_us = since_first_us + _LOOK_US
            if os.fstat(self._file.fileno()).st_nlink == 0:
                raise OSError(errno.ENOENT, "the file was removed", str(self.path))
        # Frames closer together than a container's times can express get times that still rise.
        tick = max(self._last_tick + 1, round(since_first_us * self._container.ticks / 1e6))
        if tick - self._last_tick > self._container.longest_step:
            gap_s = (tick - self._last_tick) / self._container.ticks
            raise OSError(errno.EOVERFLOW, f"it cannot hold a gap of {gap_s:.0f} s", str(self.path))
        self._last_tick = tick
        packet = av.Packet(frame.data)
        packet.stream = self._stream
        packet.time_base = Fraction(1, self._container.ticks)
        packet.pts = packet.dts = self._last_tick
        packet.is_keyframe = frame.key
        self._output.mux_one(packet)
        position_ms = frame.position_ms
        if position_ms is not None and not math.isfinite(position_ms):
            position_ms = None  # JSON has no infinity
        self._lines.write(sequence=frame.sequence, capture_time_ns=frame.capture_time_ns, position_ms=position_ms)
        self.frames += 1
        self.bytes += len(frame.data)
        self.duration_s = since_first_us / 1e6

    def close(self) -> None:
        """Write the end. May be called again.

        Raises
        ------
        OSError
            There is no room for it. The file plays without it.
        """
        self._lines.close()
        try:
            self._output.close()
        finally:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _add(self, stream: StreamFormat) -> Any:
        ticks = Fraction(1, self._container.ticks)
        try:
            if stream.codec != "rawvideo":
                size = {"width": stream.width, "height": stream.height}
                return self._output.add_mux_stream(stream.codec, time_base=ticks, **size)
            added = self._output.add_stream("rawvideo", round(stream.fps) or None)
        except ValueError as error:
            raise ConfigurationError(
                f"{self.path}: a {self.path.suffix} file cannot hold {stream.pixel_format or stream.codec} frames "
                "unchanged; an .mkv file can"
            ) from error
        row = PIXEL_FORMATS[stream.pixel_format]
        added.width, added.height, added.time_base = stream.width, stream.height, ticks
        added.pix_fmt = row.ffmpeg or "yuv420p"
        if not row.ffmpeg:
            added.codec_context.codec_tag = row.fourcc
        return added


class _File(io.FileIO):
    """What FFmpeg writes to. If FFmpeg opened the file, all of Python would stop while the disk opens or closes it."""

    def write(self, data: Any) -> int:
        """Write all of it. An error is returned as its negative number: FFmpeg fails with that from then on."""
        left = memoryview(data)
        try:
            while left:
                left = left[super().write(left) :]
        except OSError as error:
            return -(error.errno or errno.EIO)
        return len(data)


class _JsonLines:
    """A file of JSON lines, each written whole and unbuffered, or not at all."""

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        how = os.O_TRUNC if overwrite else os.O_EXCL
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o666)
        self._length = 0
        self._closed = False

    def write(self, **fields: object) -> None:
        line = json.dumps(fields).encode() + b"\n"
        try:
            done = os.write(self._descriptor, line)
            if done < len(line):
                os.write(self._descriptor, line[done:])  # OSError, which says what is wrong
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._length)
            raise
        self._length += len(line)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self._descriptor)

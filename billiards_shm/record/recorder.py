"""Records a segment: every frame into a file, and into a new file when needed."""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt

from billiards_shm import BilliardsShmError, FrameMetadata, SharedMemoryFrameReader, SourceState, inspect_segment
from billiards_shm.config.defaults import MAX_FRAME_AGE_SEC
from billiards_shm.config.model import RecordConfig
from billiards_shm.encoder import (
    COPY,
    DamagedFrameError,
    EncodedFrame,
    Encoder,
    EncoderOptions,
    StreamFormat,
    Timeline,
    check_codec,
    open_encoder,
)
from billiards_shm.errors import ConfigurationError
from billiards_shm.pixel_formats import size_text
from billiards_shm.record.control import Answer, ControlSocket, RecorderError
from billiards_shm.record.files import RecordingFiles, check_file
from billiards_shm.record.muxer import CONTAINERS, RecordingFile
from billiards_shm.record.ring import KEY_INTERVAL_S, Ring
from billiards_shm.record.writing import WritingThread
from billiards_shm.service.signals import StopRequest

__all__ = ["WAIT_SEC", "Recorder", "RecordingSnapshot", "statistics_log"]

WAIT_SEC: Final = 0.2
"""How long to wait for a frame before checking for a stop."""
SNAPSHOT_INTERVAL_SEC: Final = 0.5
LONGEST_CLIP_SEC: Final = 1e9
FASTEST_FPS: Final = 1000.0
"""A writer may declare any rate, but encoders have a limit."""
USUAL_FPS: Final = 30.0
"""For sources that do not report their rate."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecordingSnapshot:
    """The state of a recording at one moment."""

    name: str
    state: SourceState
    reason: str
    file: str
    """The file that is being written; empty before the first frame."""
    files: int
    frames: int
    missed: int
    """Frames that were published while this recording ran but are not in it: they were overwritten too soon."""
    damaged: int
    """JPEGs that were left out."""
    bytes: int
    ring_s: float | None
    """Seconds that are kept in memory; None: no ring was requested."""
    duration_s: float
    """From the first frame to the last, of the file that is being written."""
    fps: float
    encode_ms: float
    """Mean time to encode a frame, or to copy it."""
    write_ms: float
    """Longest time to write a frame, since the snapshot before."""
    frame_age_s: float | None
    """Since the last frame arrived; None before the first."""
    picture: str
    """Its size and format."""
    width: int
    height: int

    def line(self) -> str:
        """The line as the log has it."""
        age = "none" if self.frame_age_s is None else f"{self.frame_age_s:.3f}s"
        ring = "" if self.ring_s is None else f"ring={self.ring_s:.1f}s, "
        return (
            f"Stats: frames={self.frames}, missed={self.missed}, damaged={self.damaged}, bytes={self.bytes}, "
            f"files={self.files}, {ring}fps={self.fps:.1f}, encode={self.encode_ms:.2f}ms, "
            f"write_max={self.write_ms:.2f}ms, frame_age={age}" + (f", file={self.file}" if self.file else "")
        )


class Recorder:
    """Records the frames of a segment until a stop is requested, the writer closes, or there are enough frames.

    While it runs it takes requests through a `ControlSocket`: for clips of its ring, and to end and begin its file.

    Parameters
    ----------
    name
        Of the segment.
    config
        With a file, a ring, or both.
    stop
        Requests the stop. Frames published before it are still recorded.
    dated
        Whether each file has a time in its name; a recording that is started again needs that.
    frames
        Stop after this many.
    on_progress
        Called about twice a second, whether frames arrive or not.

    Raises
    ------
    ConfigurationError
        The file exists or cannot be written, or the codec does not work here.
    """

    def __init__(
        self,
        name: str,
        config: RecordConfig,
        stop: StopRequest,
        *,
        dated: bool = False,
        frames: int | None = None,
        on_progress: Callable[[RecordingSnapshot], None] = lambda snapshot: None,
    ) -> None:
        self._name = name
        self._config = config
        self._stop = stop
        self._frames_wanted = frames
        self._on_progress = on_progress
        self._ring = None if config.ring is None else Ring(config.ring, config.ring_size)
        self._files: RecordingFiles | None = None
        dated = dated or config.segment_sec is not None
        if config.file is not None:
            self._path = Path(config.file)
            check_file(self._path, overwrite=config.overwrite or dated)
            self._files = RecordingFiles(self._path, dated=dated, keep_sec=config.keep, max_bytes=config.max_size)
            gap_s = CONTAINERS[self._path.suffix.lower()].longest_gap_s
            self._longest_gap_s = MAX_FRAME_AGE_SEC if config.after_gap == "new" else gap_s
        self._to_file = self._files is not None
        """Whether frames are wanted in a file; requests change it, from threads of the control socket."""
        self._options = EncoderOptions(
            codec="h264" if config.codec == "auto" else config.codec,
            crf=config.crf,
            bitrate=config.bitrate,
            preset=config.preset,
            key_interval_s=min(KEY_INTERVAL_S, config.key_interval_sec) if self._ring else config.key_interval_sec,
        )
        check_codec(self._options)
        self._timeline = Timeline()
        self._encoder: Encoder | None = None
        self._output: WritingThread | None = None
        self._writes = False
        """Whether a file is begun."""
        self._begin_new = False
        """Whether the next frame that decoding can start at begins a new file."""
        self._last: FrameMetadata | None = None
        self._last_us = self._step_us = self._file_began_us = self._file_bytes = 0
        self._count = _Counters()
        self._rate = _Rate()
        self._next_snapshot = 0.0
        self._picture = ("", 0, 0)

    def run(self, reader: SharedMemoryFrameReader) -> None:
        """Record.

        Raises
        ------
        FrameShapeError, ConfigurationError
            Frames of this format cannot be recorded this way; or there is already a ring of this segment.
        OSError
            A file cannot be written, most often because the disk is full. It is closed, and plays.
        """
        with contextlib.ExitStack() as ends:
            try:
                ends.enter_context(ControlSocket(self._name, self._answer))
            except ConfigurationError as error:
                if self._ring is not None:
                    raise
                _log.info("%s: `replay` and `serve` cannot reach this recorder: %s", self._name, error)
            ends.callback(self._report, at_once=True)
            if self._files is not None:
                self._output = WritingThread(self._name, self._open_file)
                ends.callback(self._output.close)
            self._read(reader)

    def _read(self, reader: SharedMemoryFrameReader) -> None:
        iterator = reader.frames(every=True, follow=self._config.follow, timeout=WAIT_SEC)
        try:
            while not self._enough():
                if self._stop.wait(0):
                    self._record_rest(reader, time.monotonic_ns())
                    break
                try:
                    self._record(*next(iterator))
                except TimeoutError:
                    pass
                except StopIteration:
                    break
                if not self._to_file:
                    self._end_file()
                if self._output is not None:
                    self._output.check()
                self._report()
        finally:
            self._end_stream()

    def snapshot(self) -> RecordingSnapshot:
        """The current state."""
        count, last = self._count, self._last
        age = None if last is None else (time.monotonic_ns() - last.publish_time_ns) / 1e9
        away = _state(age) is not SourceState.STREAMING
        picture, width, height = self._picture
        file = None if self._output is None else self._output.file
        return RecordingSnapshot(
            name=self._name,
            state=_state(age),
            reason=("no frame yet" if age is None else f"no frame for {age:.0f} s") if away else "",
            file="" if file is None else str(file.path),
            files=0 if self._output is None else self._output.files,
            frames=count.frames,
            missed=count.missed,
            damaged=count.damaged,
            bytes=count.bytes,
            ring_s=None if self._ring is None else self._ring.kept_s,
            duration_s=0.0 if file is None else file.duration_s,
            fps=0.0 if away else self._rate.per_second(count.frames),
            encode_ms=count.encode_s / count.frames * 1e3 if count.frames else 0.0,
            write_ms=0.0 if self._output is None else self._output.take_longest_write_s() * 1e3,
            frame_age_s=age,
            picture=picture,
            width=width,
            height=height,
        )

    def _answer(self, request: Mapping[str, Any]) -> Answer:
        """Answer a request, in a thread of the control socket."""
        match request:
            case {"request": "clip", "last": int() | float() as last_s, **rest} if 0 <= last_s < LONGEST_CLIP_SEC:
                max_bytes = rest.get("max_bytes")
                if self._ring is None:
                    raise RecorderError(f"{self._name!r} is recorded without a ring: give 'record' --ring 30s")
                clip = self._ring.clip(last_s, max_bytes if isinstance(max_bytes, int) else None)
                if clip is None:
                    raise RecorderError(f"there is no frame of {self._name!r} in the ring yet")
                return {"seconds": clip.seconds}, clip
            case {"request": "state"}:
                return {"ring": None if self._ring is None else self._ring.kept_s, "recording": self._to_file}, None
            case {"request": "start" | "stop" as action}:
                if self._files is None:
                    raise RecorderError(f"{self._name!r} is kept only in a ring: give 'record' a FILE, too")
                self._to_file = action == "start"
                return {"recording": self._to_file}, None
        raise RecorderError("a request is clip (with last, up to 1e9 seconds), state, start or stop")

    def _enough(self) -> bool:
        return self._frames_wanted is not None and self._count.frames >= self._frames_wanted

    def _record_rest(self, reader: SharedMemoryFrameReader, until_ns: int) -> None:
        """Record the frames that were published before the stop."""
        while not self._enough():
            frame, metadata = reader.read_next()
            if frame is None or metadata is None or metadata.publish_time_ns > until_ns:
                return
            self._record(frame, metadata)

    def _record(self, frame: npt.NDArray[Any], metadata: FrameMetadata) -> None:
        if self._last is not None:
            self._count.missed += metadata.skipped
        if not metadata.online:
            return
        try:
            if self._to_file or self._ring is not None:
                self._encode(frame, metadata)
        except DamagedFrameError as error:
            if not self._count.damaged:
                _log.warning("%s: %s; such frames are left out, and counted", self._name, error)
            self._count.damaged += 1
        self._last = metadata

    def _encode(self, frame: npt.NDArray[Any], metadata: FrameMetadata) -> None:
        if self._encoder is not None and not self._encoder.takes(frame, metadata):
            self._end_stream()
        if self._encoder is None:
            self._encoder = open_encoder(self._options_for(metadata), frame, metadata, self._timeline)
            stream = self._encoder.format
            self._picture = (_text(frame, metadata), stream.width, stream.height)
            _log.info("%s: frames are %s, recorded as %s", self._name, self._picture[0], stream.codec)
            if self._ring is not None:
                self._ring.begin(stream)
                _log.info("%s: keeping the last %g s in memory, for `replay`", self._name, self._ring.seconds)
        self._begin_new |= self._is_file_over(metadata)
        began = time.perf_counter()
        encoded = self._encoder.encode(frame, metadata, key=self._begin_new or (self._to_file and not self._writes))
        self._count.encode_s += time.perf_counter() - began
        for each in encoded:
            self._keep(each)

    def _options_for(self, metadata: FrameMetadata) -> EncoderOptions:
        codec = self._options.codec
        if self._config.codec == "auto" and metadata.pixel_format == "MJPG" and self._takes_jpegs:
            codec = COPY
        fps = 0.0
        with contextlib.suppress(BilliardsShmError):
            fps = min(inspect_segment(self._name).fps, FASTEST_FPS)
        return replace(self._options, codec=codec, fps=fps or USUAL_FPS)

    def _is_file_over(self, metadata: FrameMetadata) -> bool:
        """Whether this frame should begin a new file."""
        if not self._writes or self._last is None:
            return False
        gap_s = (metadata.publish_time_ns - self._last.publish_time_ns) / 1e9
        if gap_s > self._longest_gap_s:
            return True
        # The frame's time is not known before it is encoded: about as far after the last as that after its predecessor.
        length_s = (self._last_us + self._step_us - self._file_began_us) / 1e6
        if self._config.segment_sec is not None and length_s >= self._config.segment_sec:
            return True
        return self._files is not None and self._file_bytes >= self._files.largest_file

    @property
    def _takes_jpegs(self) -> bool:
        return self._files is None or self._path.suffix.lower() == ".mkv"

    def _keep(self, encoded: EncodedFrame) -> None:
        if self._ring is not None:
            self._ring.add(encoded)
        if self._to_file and (self._writes or encoded.key):
            self._write(encoded)
        self._count.frames += 1
        self._count.bytes += len(encoded.data)
        self._step_us, self._last_us = encoded.time_us - self._last_us, encoded.time_us

    def _write(self, encoded: EncodedFrame) -> None:
        assert self._output is not None
        assert self._encoder is not None
        if self._writes and not (self._begin_new and encoded.key):
            self._output.write(encoded)
        else:
            self._output.write(encoded, self._encoder.format)
            self._writes, self._begin_new = True, False
            self._file_began_us = self._last_us = encoded.time_us
            self._file_bytes = 0
        self._file_bytes += len(encoded.data)

    def _open_file(self, stream: StreamFormat, first: EncodedFrame) -> RecordingFile:
        """Open the next file, and remove old ones, in the thread that writes."""
        assert self._files is not None
        path = self._files.next(first.wall_time_ns)
        overwrite = self._config.overwrite and path == self._path
        file = RecordingFile(path, stream, overwrite=overwrite, title=self._name)
        _log.info("%s: recording to %s", self._name, path)
        for removed in self._files.remove_old(path, time.time(), time.monotonic()):
            _log.info("%s: removed %s", self._name, removed)
        return file

    def _end_stream(self) -> None:
        """Write what the encoder holds back, and end the file: all of its frames have one format."""
        if self._encoder is not None:
            self._begin_new = False
            for each in self._encoder.flush():
                self._keep(each)
            self._encoder = None
        self._end_file()

    def _end_file(self) -> None:
        if self._writes and self._output is not None:
            self._writes = False
            self._output.end_file()

    def _report(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if at_once or now >= self._next_snapshot:
            self._next_snapshot = now + SNAPSHOT_INTERVAL_SEC
            self._on_progress(self.snapshot())


def statistics_log(interval_sec: float) -> Callable[[RecordingSnapshot], None]:
    """Logs a line of statistics at intervals."""
    due = time.monotonic() + interval_sec

    def log(snapshot: RecordingSnapshot) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due += interval_sec
            _log.info("%s: %s", snapshot.name, snapshot.line())

    return log


@dataclass(slots=True)
class _Counters:
    frames: int = 0
    missed: int = 0
    damaged: int = 0
    bytes: int = 0
    encode_s: float = 0.0


class _Rate:
    """Frames per second, between two calls."""

    def __init__(self) -> None:
        self._frames = 0
        self._at = time.monotonic()
        self._last = 0.0

    def per_second(self, frames: int) -> float:
        now = time.monotonic()
        if now - self._at >= SNAPSHOT_INTERVAL_SEC / 2:
            self._last = (frames - self._frames) / (now - self._at)
            self._frames, self._at = frames, now
        return self._last


def _state(age_s: float | None) -> SourceState:
    if age_s is None:
        return SourceState.OPENING
    return SourceState.STREAMING if age_s <= MAX_FRAME_AGE_SEC else SourceState.STALLED


def _text(frame: npt.NDArray[Any], metadata: FrameMetadata) -> str:
    return size_text(metadata.pixel_format, frame.shape[0], frame.shape[1])

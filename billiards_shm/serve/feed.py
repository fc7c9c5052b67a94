"""The frames of one segment, each encoded once per size and quality for all viewers."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import numpy.typing as npt

from billiards_shm import BilliardsShmError, FrameMetadata, SharedMemoryFrameReader
from billiards_shm.images import Previews

__all__ = [
    "BOUNDARY",
    "DEFAULT_QUALITY",
    "PAGE_WIDTHS",
    "Feed",
    "JpegFrame",
    "PreviewFormat",
    "capture_time_text",
    "capture_wall_ns",
    "drawn_time",
]

_log = logging.getLogger(__name__)

DEFAULT_QUALITY: Final = 80

PAGE_WIDTHS: Final = (320, 640, 960, 1280, 1920)
"""Widths that the page requests, besides full size. They are always available."""

MAX_OTHER_FORMATS: Final = 8
"""Limit of other sizes and qualities per segment at a time: the cost is per format, not per viewer."""

_RETRY_S: Final = 0.5
# For the newest frame, and older ones that are still being encoded.
_LEASES: Final = 3


class PreviewFormat(NamedTuple):
    """Size and quality of the images that a viewer gets."""

    width: int | None
    """Pixels; None: the frame's own width. A frame is never enlarged."""
    quality: int
    """1 to 100."""
    text: str = ""
    """Drawn into the picture, in ASCII."""
    time: bool = False
    """Whether the capture time is drawn into the picture."""

    @property
    def nearest_of_page(self) -> "PreviewFormat":
        """The nearest format that is always available: not narrower, with the page's quality, and without a text."""
        wide_enough = (width for width in PAGE_WIDTHS if self.width is not None and width >= self.width)
        return PreviewFormat(next(wide_enough, None), DEFAULT_QUALITY, time=self.time)

    def encode(self, previews: Previews, metadata: FrameMetadata) -> bytes:
        """Encode a frame as a JPEG of this format. For errors see `Previews.encode`."""
        lines = [self.text, drawn_time(metadata) if self.time else ""]
        return previews.encode(self.width, self.quality, [line for line in lines if line])


@dataclass(frozen=True, slots=True)
class JpegFrame:
    """One frame as a JPEG."""

    serial: int
    """Number of the frame in this feed, from 1. It keeps rising when a new writer takes over."""
    missed: int
    """Frames published since the feed started that it has not read."""
    metadata: FrameMetadata
    jpeg: bytes
    part: bytes
    """A part of an MJPEG stream, with the delimiter after it: browsers show a part when they receive that."""

    @property
    def age_s(self) -> float:
        """Seconds since it was captured."""
        return max(0.0, (time.monotonic_ns() - self.metadata.capture_time_ns) / 1e9)


BOUNDARY: Final = b"billiards-shm-frame"


def _jpeg_frame(serial: int, missed: int, metadata: FrameMetadata, jpeg: bytes) -> JpegFrame:
    header = (
        f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\nX-Frame-Sequence: {metadata.sequence}\r\n"
        f"X-Frame-Capture-Time: {capture_time_text(metadata)}\r\n\r\n"
    )
    part = b"".join((header.encode(), jpeg, b"\r\n--", BOUNDARY, b"\r\n"))
    return JpegFrame(serial, missed, metadata, jpeg, part)


def capture_wall_ns(metadata: FrameMetadata) -> int:
    """When a frame was captured, by the wall clock. Metadata only have the publication time by that clock."""
    return metadata.wall_time_ns - max(0, metadata.publish_time_ns - metadata.capture_time_ns)


def capture_time_text(metadata: FrameMetadata) -> str:
    """When a frame was captured, in UTC, in the format of ISO 8601."""
    return datetime.fromtimestamp(capture_wall_ns(metadata) / 1e9, UTC).isoformat(timespec="microseconds")


def drawn_time(metadata: FrameMetadata) -> str:
    """When a frame was captured, as it is drawn into pictures: in UTC, to the millisecond."""
    return f"{capture_time_text(metadata)[:23].replace('T', ' ')}Z"


class _HeldFrame(NamedTuple):
    serial: int
    missed: int
    previews: Previews
    metadata: FrameMetadata


class _Encoding(NamedTuple):
    serial: int
    result: "asyncio.Future[JpegFrame | str]"
    """A string says why the frame cannot be encoded."""


class Feed:
    """Reads a segment while it has viewers, and encodes the frames they ask for.

    A viewer asks for a frame newer than its last one. So a slow viewer gets the newest frame when it asks again, and a
    viewer that does not ask costs nothing.

    Parameters
    ----------
    name : str
        The segment.
    encoders : concurrent.futures.Executor
        Runs the encoding.
    on_encoded : callable
        Called with the seconds each encoding took.
    trusted_owners : iterable, optional
        As for a reader.
    """

    def __init__(
        self,
        name: str,
        encoders: Executor,
        on_encoded: Callable[[float], None],
        trusted_owners: Iterable[int | str] | None = None,
    ) -> None:
        self.name = name
        self._encoders = encoders
        self._on_encoded = on_encoded
        self._owners = trusted_owners
        self._formats: Counter[PreviewFormat] = Counter()
        self._reading: asyncio.Task[None] | None = None
        self._held: _HeldFrame | None = None
        self._arrival: asyncio.Future[None] | None = None
        self._encodings: dict[PreviewFormat, _Encoding] = {}
        self._serial = 0
        self._missed = 0

    @contextmanager
    def subscribed(self, wanted: PreviewFormat) -> Iterator[PreviewFormat]:
        """Read the segment while the block runs. Yields the format to ask for.

        That is `wanted`, or the nearest format of the page if too many other formats are in use.
        """
        preview = wanted if self._is_available(wanted) else wanted.nearest_of_page
        self._formats[preview] += 1
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read())
        try:
            yield preview
        finally:
            self._formats[preview] -= 1
            if not self._formats[preview]:
                del self._formats[preview]
                for encoded in (preview, preview._replace(width=None)):  # the second if the frame is not wider
                    self._encodings.pop(encoded, None)
            if not self._formats:
                self._stop_reading()

    def _is_available(self, preview: PreviewFormat) -> bool:
        others = sum(used != used.nearest_of_page for used in self._formats)
        return preview in self._formats or preview == preview.nearest_of_page or others < MAX_OTHER_FORMATS

    def _stop_reading(self) -> None:
        """Release reader and frames when the last viewer has left."""
        assert self._reading is not None
        self._reading.cancel()
        self._reading = self._held = self._arrival = None
        for encoding in self._encodings.values():
            encoding.result.cancel()  # one that has not started never starts
        self._encodings.clear()

    async def newest_frame(self, preview: PreviewFormat, after: int = 0) -> JpegFrame:
        """Return the newest frame, waiting for one whose serial number is above `after`.

        Call it within `subscribed`, with the format it yields.

        Raises
        ------
        ValueError
            The frame cannot be turned into an image; the message says why.
        """
        # No variable here may hold a frame: when a viewer leaves, the traceback of the exception keeps all variables.
        while (result := self._encode_newest(preview, after)) is None:
            if self._arrival is None:
                self._arrival = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._arrival)
        encoded = await asyncio.shield(result)
        if isinstance(encoded, str):
            raise ValueError(encoded)
        return encoded

    def _encode_newest(self, preview: PreviewFormat, after: int) -> "asyncio.Future[JpegFrame | str] | None":
        """Start or join the encoding of a frame newer than `after`; None: there is no such frame yet."""
        held = self._held
        if held is None or held.serial <= after:
            return None
        if preview.width is not None and preview.width >= held.previews.width > 0:
            preview = preview._replace(width=None)
        encoding = self._encodings.get(preview)
        # Join an encoding that is running, or done for the newest frame, if its frame is new to this viewer.
        if encoding is None or encoding.serial <= after or (encoding.result.done() and encoding.serial < held.serial):
            result = asyncio.get_running_loop().run_in_executor(self._encoders, self._encode, held, preview)
            encoding = self._encodings[preview] = _Encoding(held.serial, result)
        return encoding.result

    def _encode(self, held: _HeldFrame, preview: PreviewFormat) -> JpegFrame | str:
        """Encode, or return why that failed. The traceback of an exception would hold the frame."""
        started = time.perf_counter()
        try:
            jpeg = preview.encode(held.previews, held.metadata)
        except ValueError as error:
            return str(error)
        except Exception:
            _log.exception("A frame of %s could not be encoded", self.name)
            return "the frame could not be encoded; the server's log says why"
        self._on_encoded(time.perf_counter() - started)
        return _jpeg_frame(held.serial, held.missed, held.metadata, jpeg)

    async def _read(self) -> None:
        """Hold the newest frame, across writers, until cancelled."""
        with SharedMemoryFrameReader(self.name, max_leases=_LEASES, trusted_owners=self._owners) as reader:
            while True:
                try:
                    async for frame, metadata in reader.frames(follow=True):
                        self._hold(frame, metadata)
                        del frame
                except BilliardsShmError:
                    pass  # the object under the name cannot be read now; `/health` says so
                except Exception:
                    _log.exception("Reading %s failed; trying again", self.name)
                await asyncio.sleep(_RETRY_S)

    def _hold(self, frame: npt.NDArray[Any], metadata: FrameMetadata) -> None:
        self._serial += 1
        # Frames published before the first one are not missed by any viewer.
        self._missed += metadata.skipped if self._held is not None else 0
        self._held = _HeldFrame(self._serial, self._missed, Previews(frame, metadata.pixel_format), metadata)
        if self._arrival is not None:
            if not self._arrival.done():
                self._arrival.set_result(None)
            self._arrival = None

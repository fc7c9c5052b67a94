"""One segment's frames, each encoded once for everybody who wants it in that form."""

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
from billiards_shm.images import encode_preview

__all__ = [
    "BOUNDARY",
    "DEFAULT_QUALITY",
    "PAGE_WIDTHS",
    "EncodedFrame",
    "Feed",
    "PreviewFormat",
    "capture_time_text",
    "capture_wall_ns",
]

_log = logging.getLogger(__name__)

DEFAULT_QUALITY: Final = 80

PAGE_WIDTHS: Final = (320, 640, 960, 1280, 1920)
"""What the page asks for, besides full size. These forms are always there: no choice of others takes them away."""

MAX_OTHER_FORMS: Final = 8
"""Other sizes and qualities of one segment that are encoded at a time: each costs what all its viewers cost."""

_RETRY_S: Final = 0.5
# The newest frame, and older ones that are still being encoded.
_LEASES: Final = 3


class PreviewFormat(NamedTuple):
    """What a picture is to be like."""

    width: int | None
    """Pixels; None: that of the frame. Nothing is made larger than it is."""
    quality: int
    """1 to 100."""

    @property
    def standard(self) -> "PreviewFormat":
        """The nearest that the page asks for: no narrower, at the page's quality."""
        if self.width is None:
            return PreviewFormat(None, DEFAULT_QUALITY)
        return PreviewFormat(next((width for width in PAGE_WIDTHS if width >= self.width), None), DEFAULT_QUALITY)


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """One frame as a JPEG."""

    serial: int
    """Counts the frames of the feed, also across writers, from 1."""
    missed: int
    """Frames published since the feed began that it never saw."""
    metadata: FrameMetadata
    jpeg: bytes
    part: bytes
    """As a part of an MJPEG stream, with the delimiter behind it: browsers show a part once they see that."""

    @property
    def age_s(self) -> float:
        """Seconds since it was captured."""
        return max(0.0, (time.monotonic_ns() - self.metadata.capture_time_ns) / 1e9)


BOUNDARY: Final = b"billiards-shm-frame"


def _picture(serial: int, missed: int, metadata: FrameMetadata, jpeg: bytes) -> EncodedFrame:
    header = (
        f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\nX-Frame-Sequence: {metadata.sequence}\r\n"
        f"X-Frame-Capture-Time: {capture_time_text(metadata)}\r\n\r\n"
    )
    part = b"".join((header.encode(), jpeg, b"\r\n--", BOUNDARY, b"\r\n"))
    return EncodedFrame(serial, missed, metadata, jpeg, part)


def capture_wall_ns(metadata: FrameMetadata) -> int:
    """When a frame was captured, by the wall clock; metadata have that of its publication."""
    return metadata.wall_time_ns - max(0, metadata.publish_time_ns - metadata.capture_time_ns)


def capture_time_text(metadata: FrameMetadata) -> str:
    """When a frame was captured, as ISO 8601 has it, in UTC."""
    return datetime.fromtimestamp(capture_wall_ns(metadata) / 1e9, UTC).isoformat(timespec="microseconds")


class _Held(NamedTuple):
    serial: int
    missed: int
    frame: npt.NDArray[Any]
    metadata: FrameMetadata


class _Encoding(NamedTuple):
    serial: int
    done: "asyncio.Future[EncodedFrame | str]"
    """A text says why there is no picture."""


class Feed:
    """Reads a segment while somebody attends, and encodes what they ask for.

    Viewers ask for a picture that is newer than their last. So a slow one gets the newest when it asks again, and who
    does not ask costs nothing.

    Parameters
    ----------
    name : str
        The segment.
    encoders : concurrent.futures.Executor
        Where encoding is done.
    on_encoded : callable
        Is given the seconds that an encoding took.
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
        self._forms: Counter[PreviewFormat] = Counter()
        self._reading: asyncio.Task[None] | None = None
        self._held: _Held | None = None
        self._arrival: asyncio.Future[None] | None = None
        self._encodings: dict[PreviewFormat, _Encoding] = {}
        self._serial = 0
        self._missed = 0

    @contextmanager
    def subscribed(self, wanted: PreviewFormat) -> Iterator[PreviewFormat]:
        """Read the segment while the block runs, and let pictures of the form that is given be asked for.

        That is `wanted`, or the nearest form of the page when there are many other forms already.
        """
        form = wanted if self._may_have(wanted) else wanted.standard
        self._forms[form] += 1
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read())
        try:
            yield form
        finally:
            self._forms[form] -= 1
            if not self._forms[form]:
                del self._forms[form]
                self._encodings.pop(form, None)
            if not self._forms:
                self._rest()

    def _may_have(self, form: PreviewFormat) -> bool:
        others = sum(one != one.standard for one in self._forms)
        return form in self._forms or form == form.standard or others < MAX_OTHER_FORMS

    def _rest(self) -> None:
        """Let go of reader and frames: nobody watches."""
        assert self._reading is not None
        self._reading.cancel()
        self._reading = self._held = self._arrival = None
        for encoding in self._encodings.values():
            encoding.done.cancel()  # one that has not begun never will
        self._encodings.clear()

    async def picture(self, form: PreviewFormat, after: int = 0) -> EncodedFrame:
        """Give the newest picture, waiting for one whose serial number is beyond `after`.

        To be called within `subscribed`, with the form that it gave.

        Raises
        ------
        ValueError
            The frame cannot be made into an image; the message says why.
        """
        # No frame in here: a viewer that leaves ends this by an exception, whose traceback holds every variable.
        while (done := self._encode_newest(form, after)) is None:
            if self._arrival is None:
                self._arrival = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._arrival)
        picture = await asyncio.shield(done)
        if isinstance(picture, str):
            raise ValueError(picture)
        return picture

    def _encode_newest(self, form: PreviewFormat, after: int) -> "asyncio.Future[EncodedFrame | str] | None":
        """Begin or join an encoding that is beyond `after`; None: there is no such frame yet."""
        held = self._held
        if held is None or held.serial <= after:
            return None
        if form.width is not None and form.width >= held.metadata.width:
            form = form._replace(width=None)
        encoding = self._encodings.get(form)
        # One that is under way, or done, and new to this viewer is as good as any that could begin now.
        if encoding is None or encoding.serial <= after or (encoding.done.done() and encoding.serial < held.serial):
            done = asyncio.get_running_loop().run_in_executor(self._encoders, self._encode, held, form)
            encoding = self._encodings[form] = _Encoding(held.serial, done)
        return encoding.done

    def _encode(self, held: _Held, form: PreviewFormat) -> EncodedFrame | str:
        """Make a picture, or tell why there is none: an exception's traceback would hold the frame."""
        begun = time.perf_counter()
        try:
            jpeg = encode_preview(held.frame, held.metadata.pixel_format, form.width, form.quality)
        except ValueError as error:
            return str(error)
        except Exception:
            _log.exception("A frame of %s could not be encoded", self.name)
            return "the frame could not be encoded; the server's log says why"
        self._on_encoded(time.perf_counter() - begun)
        return _picture(held.serial, held.missed, held.metadata, jpeg)

    async def _read(self) -> None:
        """Hold the newest frame, across writers, until cancelled."""
        with SharedMemoryFrameReader(self.name, max_leases=_LEASES, trusted_owners=self._owners) as reader:
            while True:
                try:
                    async for frame, metadata in reader.frames(follow=True):
                        self._hold(frame, metadata)
                        del frame
                except BilliardsShmError:
                    pass  # what has the name cannot be read; that may change, and `/health` says it
                except Exception:
                    _log.exception("Reading %s failed; it is tried again", self.name)
                await asyncio.sleep(_RETRY_S)

    def _hold(self, frame: npt.NDArray[Any], metadata: FrameMetadata) -> None:
        self._serial += 1
        # The first of a reader has skipped nothing that anybody waited for.
        self._missed += metadata.skipped if self._held is not None else 0
        self._held = _Held(self._serial, self._missed, frame, metadata)
        if self._arrival is not None:
            if not self._arrival.done():
                self._arrival.set_result(None)
            self._arrival = None

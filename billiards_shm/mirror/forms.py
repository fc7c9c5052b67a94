"""Frames of one segment, encoded for sending: once for all receivers of the same form.

That is codec and size. With H.264, whose frames need those before them, receivers that want every frame have a form of
their own: the others would move its encoder past frames that they lack.
"""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy.typing as npt
import zenoh

from billiards_shm import FrameMetadata
from billiards_shm.mirror.codecs import encode, possible_codec
from billiards_shm.mirror.wire import Codec, Request, pack_frames

if TYPE_CHECKING:
    from billiards_shm.mirror.video import VideoForm

__all__ = ["AnswerPayload", "Following", "Forms", "OriginFrame"]

MOST_FORMS: Final = 16
KEPT_FRAMES: Final = 3
"""Encoded frames that each form keeps: receivers may be a frame apart."""


class OriginFrame(NamedTuple):
    """A frame of the segment."""

    frame: npt.NDArray[Any]
    metadata: FrameMetadata
    generation: bytes


class Following(Protocol):
    """Chooses what is encoded for a request."""

    def __call__(self, after: tuple[bytes, int] = ..., /) -> OriginFrame:
        """The frame after one of a generation and number, by default after the one that the receiver has."""


class AnswerPayload(NamedTuple):
    """The frames of an answer: one, or the units of H.264 up to it."""

    payload: zenoh.ZBytes
    length: int
    codec: Codec
    took_us: int
    """Time to encode it, if it was encoded for this answer."""


@dataclass(slots=True)
class _Form:
    """Frames of one form, all of one generation."""

    codec: Codec
    width: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    frames: "OrderedDict[int, AnswerPayload]" = field(default_factory=OrderedDict)
    video: "VideoForm | None" = None

    def clear(self) -> None:
        with self.lock:
            self.frames.clear()
            if self.video is not None:
                self.video.clear()


class Forms:
    """Encodes frames for requests. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forms: OrderedDict[tuple[Codec, int, bool], _Form] = OrderedDict()
        self._generation = b""
        self.encoded = 0
        """Frames that were encoded so far."""

    def clear(self) -> None:
        """Forget what was encoded."""
        with self._lock:
            for form in self._forms.values():
                form.clear()

    def encode(self, newest: OriginFrame, request: Request, following: Following) -> AnswerPayload | None:
        """Encode a frame as requested; None if it has to wait for a key frame.

        Parameters
        ----------
        newest : OriginFrame
        request : Request
        following : callable
            Returns the frame to encode.

        Raises
        ------
        ValueError, BilliardsShmError
            The frame that `following` returned last cannot be encoded.
        """
        codec = possible_codec(request, newest.frame, newest.metadata)
        form = self._form(newest.generation, codec, request)
        if codec is Codec.H264:
            return self._encode_video(form, newest, request, following)
        origin = following()
        metadata = origin.metadata
        with form.lock:
            found = form.frames.get(metadata.sequence)
            if found is None:
                started_ns = time.monotonic_ns()
                payload = pack_frames([encode(origin.frame, metadata, codec, form.width)])
                took_us = (time.monotonic_ns() - started_ns) // 1000
                found = AnswerPayload(zenoh.ZBytes(payload), len(payload), codec, took_us)
                form.frames[metadata.sequence] = found
                self._count(1)
                while len(form.frames) > KEPT_FRAMES:
                    form.frames.popitem(last=False)
            return found

    def _encode_video(
        self, form: _Form, newest: OriginFrame, request: Request, following: Following
    ) -> AnswerPayload | None:
        from billiards_shm.mirror.video import VideoForm  # needs PyAV

        with form.lock:
            if form.video is None:
                form.video = VideoForm(form.width)
        started_ns = time.monotonic_ns()
        units, encoded = form.video.units(newest, request, following)
        self._count(encoded)
        if not units:
            return None
        payload = pack_frames(units)
        took_us = (time.monotonic_ns() - started_ns) // 1000
        return AnswerPayload(zenoh.ZBytes(payload), len(payload), Codec.H264, took_us)

    def _count(self, encoded: int) -> None:
        with self._lock:
            self.encoded += encoded

    def _form(self, generation: bytes, codec: Codec, request: Request) -> _Form:
        key = (codec, request.width, request.every and codec is Codec.H264)
        with self._lock:
            if generation != self._generation:  # it may count from 1 again
                self._generation = generation
                self._forms.clear()
            form = self._forms.setdefault(key, _Form(codec, request.width))
            self._forms.move_to_end(key)
            while len(self._forms) > MOST_FORMS:
                self._forms.popitem(last=False)
            return form

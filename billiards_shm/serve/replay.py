"""The last seconds of a segment as an MP4, and remote start and stop of recordings."""

import asyncio
import contextlib
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from fastapi import HTTPException, Response
from starlette.types import Receive, Scope, Send

from billiards_shm import BilliardsShmError
from billiards_shm.record.places import is_offered

__all__ = ["CLIP_HEADERS", "LONGEST_CLIP_S", "Rings", "ask_recorder", "check_ring", "take_clip"]

LONGEST_CLIP_S: Final = 120.0
_LARGEST_CLIP: Final = 256 * 1024 * 1024
"""Bytes of frames that are held in memory for a clip."""
_PART_BYTES: Final = 1 << 16
_PART_S: Final = 30.0
"""How long a client may take to read one part."""
_STATE_S: Final = 0.5
_STATE_EVERY_S: Final = 1.0

CLIP_HEADERS: Final = ("X-Clip-Frames", "X-Clip-Seconds")
"""Headers that describe the clip."""

_log = logging.getLogger(__name__)


class ClipResponse(Response):
    """A clip that is sent from an unnamed file, so a slow client takes no memory.

    Parameters
    ----------
    file
        The response owns it from now on.
    headers
    """

    media_type = "video/mp4"

    def __init__(self, file: BinaryIO, headers: dict[str, str]) -> None:
        size = os.fstat(file.fileno()).st_size
        super().__init__(headers={"Content-Length": str(size), "Cache-Control": "no-store", **headers})
        self.place = contextlib.ExitStack()
        """Closed when the clip is sent, or its client has left or does not read."""
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the clip."""
        with self.place, self._file:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            with contextlib.suppress(TimeoutError):
                while part := self._file.read(_PART_BYTES):
                    async with asyncio.timeout(_PART_S):
                        await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})


class Rings:
    """Which segments have a ring. Recorders are asked once a second, for all clients together."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, bool]] = {}

    def has(self, name: str) -> bool:
        """Whether there is a ring of a segment; a recorder that does not answer promptly counts as having none."""
        until, found = self._known.get(name, (0.0, False))
        if time.monotonic() >= until:
            # Others use the known state: recorders that do not answer must not keep all threads waiting.
            self._known[name] = (time.monotonic() + _STATE_S + _STATE_EVERY_S, found)
            found = is_offered(name) and check_ring(name, timeout=_STATE_S) is None
            self._known[name] = (time.monotonic() + _STATE_EVERY_S, found)
        return found

    def forget(self, name: str) -> None:
        """Drop what is known of a segment. Any thread may call this."""
        self._known.pop(name, None)


def check_ring(name: str, timeout: float = 10.0) -> HTTPException | None:
    """Check whether a clip is possible, without making one; otherwise return the answer that says why not."""
    try:
        from billiards_shm.record.control import NoRecorderError, RecorderError, ask
    except ImportError as error:
        return _unavailable(error)
    try:
        if ask(name, timeout, request="state").get("ring") is not None:
            return None
    except NoRecorderError as error:
        return HTTPException(404, str(error))
    except RecorderError as error:
        return _later(error)
    return HTTPException(404, f"{name!r} is recorded without a ring: give 'record' --ring 30s")


def take_clip(name: str, last_s: float) -> ClipResponse | HTTPException:
    """Take a clip from the ring of a segment's recorder. It may have to be encoded, which takes a while.

    Returns
    -------
    ClipResponse or fastapi.HTTPException
    """
    try:
        from billiards_shm.record.clip import write_clip
        from billiards_shm.record.control import NoRecorderError, RecorderError, fetched_clip
    except ImportError as error:
        return _unavailable(error)
    trouble = check_ring(name)
    if trouble is not None:
        return trouble
    try:
        with (
            fetched_clip(name, last_s, max_bytes=_LARGEST_CLIP) as clip,
            tempfile.TemporaryDirectory(prefix="billiards-shm-") as folder,
        ):
            output = write_clip(clip.stream, clip.frames, Path(folder) / "clip.mp4", title=name)
            file = output.path.open("rb")
    except NoRecorderError as error:
        return HTTPException(404, str(error))
    except RecorderError as error:
        return _later(error)
    except (BilliardsShmError, OSError) as error:
        _log.warning("No clip of %s: %s", name, error)
        return HTTPException(503, f"the clip cannot be made: {error}")
    return ClipResponse(file, dict(zip(CLIP_HEADERS, (str(output.frames), f"{output.duration_s:.6f}"), strict=True)))


def ask_recorder(name: str, action: Literal["start", "stop"]) -> dict[str, Any] | HTTPException:
    """Begin or end the recording of a segment; return its recorder's answer."""
    try:
        from billiards_shm.record.control import NoRecorderError, RecorderError, ask
    except ImportError as error:
        return _unavailable(error)
    try:
        return {"name": name, **ask(name, request=action)}
    except NoRecorderError:
        return HTTPException(404, f"no process records {name!r}: start 'billiards-shm record' first")
    except RecorderError as error:
        return HTTPException(409, str(error))


def _later(error: BilliardsShmError) -> HTTPException:
    return HTTPException(503, str(error), {"Retry-After": "1"})


def _unavailable(error: ImportError) -> HTTPException:
    return HTTPException(503, f"this server cannot make clips ({error}): pip install 'billiards-shm[av]'")

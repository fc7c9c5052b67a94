"""The Unix socket for requests to a recorder: for a clip of its ring, to start, to stop, for its state.

A request is one line of JSON, ``{"request": "clip", "last": 10}``, and so is the answer, ``{"frames": 300, ...}`` or
``{"error": "..."}``. The frames of a clip follow it, each behind a header of `_HEADER`. One connection is one request.
At worst a client can keep a thread busy for a while.
"""

import contextlib
import json
import logging
import math
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from billiards_shm.encoder import EncodedFrame, StreamFormat
from billiards_shm.errors import BilliardsShmError, ConfigurationError
from billiards_shm.owners import resolve_owners
from billiards_shm.record.places import (
    ROOT,
    address_of,
    client_places,
    is_answered,
    peer_of,
    socket_places,
    stranger_at,
)
from billiards_shm.record.ring import Clip

__all__ = [
    "Answer",
    "ArrivingClip",
    "ControlSocket",
    "NoRecorderError",
    "RecorderError",
    "ask",
    "fetched_clip",
]

Answer = tuple[dict[str, Any], Clip | None]
"""The answer, and the clip that follows it."""

_HEADER: Final = struct.Struct("<IBqQqqd")
"""Of a frame: bytes, key, time_us, sequence, capture_time_ns, wall_time_ns, position_ms (NaN: none)."""
_LONGEST_LINE: Final = 4096
_REQUEST_S: Final = 5.0
_PROGRESS_S: Final = 5.0
_CLIP_S: Final = 60.0
_CLIENTS: Final = 8
_TOO_MANY: Final = "too many clients ask the recorder at once: try again"
_PART_BYTES: Final = 1 << 20

_log = logging.getLogger(__name__)


class RecorderError(BilliardsShmError):
    """The recorder does not do what it was asked to do."""


class NoRecorderError(RecorderError):
    """There is no recorder to ask."""


class ControlSocket:
    """Answers requests until it is closed, in its own threads.

    Parameters
    ----------
    name
        The segment that is recorded.
    answer
        Called with each request, from any thread; it has to be quick. A `RecorderError` that it raises is the answer.

    Raises
    ------
    ConfigurationError
        Another process records this segment with a socket, or no socket can be made.
    """

    def __init__(self, name: str, answer: Callable[[Mapping[str, Any]], Answer]) -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise ConfigurationError("a ring needs a Unix socket, and Python has none on this system")
        self._answer = answer
        self._clients = threading.BoundedSemaphore(_CLIENTS)
        self._clip = threading.Lock()
        self.path: Final = socket_places(name)[0]
        stranger = stranger_at(self.path)
        if stranger is not None:
            raise ConfigurationError(
                f"no socket can be made at {self.path}: the file there belongs to user {stranger}; have it removed, or "
                "set XDG_RUNTIME_DIR to your own folder, for the recorder and its clients"
            )
        if is_answered(self.path):
            raise ConfigurationError(f"another process records {name!r} and answers at {self.path}: stop it first")
        self._socket = _listening(self.path)
        self._inode = self.path.stat().st_ino
        self._thread = threading.Thread(target=self._accept, name="billiards-shm-control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering. May be called again."""
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                if self._socket.fileno() < 0 or not _is_listening(self._socket):
                    return
                time.sleep(0.1)  # no descriptor is left
                continue
            if not self._clients.acquire(blocking=False):
                client.setblocking(False)
                with client, contextlib.suppress(OSError):
                    client.sendall(_line({"error": _TOO_MANY}))
                continue
            try:
                threading.Thread(target=self._serve, args=(client,), name="billiards-shm-asked", daemon=True).start()
            except RuntimeError:  # no further thread can be started
                client.close()
                self._clients.release()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client:
                request = _read_line(client, time.monotonic() + _REQUEST_S)
                said, clip = self._answered(request)
                if clip is None:
                    _send(client, _line(said), time.monotonic() + _REQUEST_S)
                elif self._clip.acquire(timeout=_REQUEST_S):
                    try:
                        _send_clip(client, said, clip)
                    finally:
                        self._clip.release()
                else:
                    _send(client, _line({"error": "recorder is busy with another clip"}), time.monotonic() + _REQUEST_S)
        except OSError as error:
            _log.debug("A client went away: %s", error)
        finally:
            self._clients.release()

    def _answered(self, line: bytes) -> Answer:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise TypeError
        except (ValueError, TypeError, RecursionError):
            return {"error": "a request is one line of JSON, an object"}, None
        try:
            return self._answer(request)
        except RecorderError as error:
            return {"error": str(error)}, None


def ask(name: str, timeout: float = 10.0, **request: Any) -> dict[str, Any]:
    """Send the recorder of a segment any request but one for a clip.

    Raises
    ------
    RecorderError
        There is no recorder, or it refuses and says why.
    """
    with _asked(name, request, timeout) as (said, _):
        return said


class ArrivingClip(NamedTuple):
    """A clip whose frames arrive while they are iterated over; the first one has `key`."""

    stream: StreamFormat
    length: int
    frames: Iterator[EncodedFrame]


@contextlib.contextmanager
def fetched_clip(
    name: str, last_s: float, *, max_bytes: int | None = None, timeout: float = 30.0
) -> Iterator[ArrivingClip]:
    """Fetch the last seconds of a segment from the ring of its recorder.

    Parameters
    ----------
    name
        Of the segment, or the path of its file.
    last_s
        Seconds up to the newest frame. The clip begins up to half a second earlier, or later if the ring has less.
    max_bytes
        The clip is shortened if it would take more.
    timeout
        Seconds, for the whole clip.

    Raises
    ------
    RecorderError
        Nothing keeps a ring of this segment, or it is still empty. Iterating over the frames may raise it, too.
    """
    with _asked(name, {"request": "clip", "last": last_s, "max_bytes": max_bytes}, timeout) as (said, receive):
        try:
            stream = StreamFormat(*(said[key] for key in ("codec", "width", "height", "pixel_format")))
            frames = (_received(receive) for _ in range(said["frames"]))
        except (KeyError, TypeError) as error:
            raise RecorderError(f"the recorder of {name!r} gave an unexpected answer: {error}") from error
        yield ArrivingClip(stream, said["frames"], frames)


# Its place.


def _listening(path: Path) -> socket.socket:
    """Put a socket where there is none, or one left by a recorder that is gone."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        temporary.unlink(missing_ok=True)  # of a killed process that had this id
        with address_of(temporary) as address:
            made.bind(address)
        # No client can connect before it listens.
        temporary.chmod(0o600)
        made.listen(_CLIENTS)
        temporary.rename(path)
    except OSError as error:
        made.close()
        temporary.unlink(missing_ok=True)
        raise ConfigurationError(f"no socket can be made at {path}: {error.strerror or error}") from error
    return made


def _is_listening(made: socket.socket) -> bool:
    return bool(made.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


# Its messages.


def _read_line(client: socket.socket, deadline: float) -> bytes:
    line = b""
    while b"\n" not in line and len(line) < _LONGEST_LINE:
        client.settimeout(max(0.001, deadline - time.monotonic()))
        more = client.recv(_LONGEST_LINE)
        if not more:
            break
        line += more
    return line.partition(b"\n")[0]


def _line(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said).encode() + b"\n"


def _send(client: socket.socket, data: bytes, deadline: float) -> None:
    client.settimeout(max(0.001, min(_PROGRESS_S, deadline - time.monotonic())))
    client.sendall(data)


def _send_clip(client: socket.socket, said: dict[str, Any], clip: Clip) -> None:
    deadline = time.monotonic() + _CLIP_S
    stream = clip.stream
    about = {
        "codec": stream.codec,
        "width": stream.width,
        "height": stream.height,
        "pixel_format": stream.pixel_format,
        "frames": len(clip.frames),
    }
    _send(client, _line(said | about), deadline)
    for frame in clip.frames:
        position_ms = math.nan if frame.position_ms is None else frame.position_ms
        header = _HEADER.pack(
            *(len(frame.data), frame.key, frame.time_us, frame.sequence),
            *(frame.capture_time_ns, frame.wall_time_ns, position_ms),
        )
        _send(client, header, deadline)
        _send(client, frame.data, deadline)


@contextlib.contextmanager
def _asked(
    name: str, request: Mapping[str, Any], timeout: float
) -> Iterator[tuple[dict[str, Any], Callable[[int], bytes]]]:
    """Send a request; return the answer, and a function that receives a number of the bytes that follow."""
    deadline = time.monotonic() + timeout

    def receive(count: int) -> bytes:
        parts = []
        try:
            while count:
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                part = connection.recv(min(count, _PART_BYTES))
                if not part:
                    raise RecorderError(f"the recorder of {name!r} ended its answer early")
                parts.append(part)
                count -= len(part)
        except TimeoutError as error:
            raise RecorderError(f"the recorder of {name!r} did not answer within {timeout:g} s") from error
        except OSError as error:
            raise RecorderError(f"the recorder of {name!r} went away: {error.strerror or error}") from error
        return b"".join(parts)

    with _connected(name, timeout) as connection:
        with contextlib.suppress(OSError):  # what is wrong shows when the answer is read
            connection.sendall(_line(request))
        line = b""
        while not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
            line += receive(1)
        try:
            said = json.loads(line)
            if not isinstance(said, dict):
                raise TypeError("not an object")
        except (ValueError, TypeError, RecursionError) as error:
            raise RecorderError(f"the recorder of {name!r} gave an unexpected answer: {error}") from error
        if "error" in said:
            raise RecorderError(str(said["error"]))
        yield said, receive


def _received(receive: Callable[[int], bytes]) -> EncodedFrame:
    size, key, time_us, sequence, capture_ns, wall_ns, position_ms = _HEADER.unpack(receive(_HEADER.size))
    position = None if math.isnan(position_ms) else position_ms
    return EncodedFrame(receive(size), bool(key), time_us, sequence, capture_ns, wall_ns, position)


def _connected(name: str, timeout: float) -> socket.socket:
    if hasattr(socket, "AF_UNIX"):
        for path in client_places(name):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(timeout)
            try:
                with address_of(path) as address:
                    connection.connect(address)
            except (FileNotFoundError, ConnectionRefusedError):
                connection.close()
                continue
            except PermissionError as error:
                connection.close()
                raise RecorderError(
                    f"the recorder at {path} answers only its own user: run this as that user"
                ) from error
            except BlockingIOError as error:
                connection.close()
                raise RecorderError(_TOO_MANY) from error
            except OSError as error:
                connection.close()
                raise RecorderError(f"{path} cannot be reached: {error.strerror or error}") from error
            _check_owner(connection, path)
            return connection
    looked_in = " and ".join(dict.fromkeys(str(path.parent) for path in client_places(name)))
    why = "as XDG_RUNTIME_DIR says" if os.environ.get("XDG_RUNTIME_DIR") else "because XDG_RUNTIME_DIR is not set"
    raise NoRecorderError(
        f"no ring of {name!r} is kept: start 'billiards-shm record {name} --ring 30s' first; looked for its socket "
        f"in {looked_in}, {why}"
    )


def _check_owner(connection: socket.socket, path: Path) -> None:
    """Check the owner: anyone may put a socket into a world-writable folder."""
    _, uid = peer_of(connection)
    if uid is not None and uid not in (os.geteuid(), ROOT, *resolve_owners(None)):
        connection.close()
        raise RecorderError(f"{path} belongs to user {uid}, whom you do not trust: see BILLIARDS_SHM_TRUSTED_OWNERS")

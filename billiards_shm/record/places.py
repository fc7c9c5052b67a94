"""Where the socket of a recorder is, and whether there is a recorder."""

import contextlib
import hashlib
import os
import re
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from billiards_shm import _core
from billiards_shm.config.model import NATIVE_SUFFIX
from billiards_shm.errors import BilliardsShmError

__all__ = [
    "ROOT",
    "address_of",
    "client_places",
    "is_answered",
    "is_offered",
    "peer_of",
    "recording_process",
    "remove_stale_sockets",
    "socket_places",
    "stranger_at",
]

ROOT: Final = 0
_LONGEST_ADDRESS: Final = 100
_NAME: Final = re.compile(r"\.?billiards_shm-[0-9a-f]{16}\.sock")


def socket_places(name: str) -> list[Path]:
    """Where the socket for a segment may be; a new one is made at the first place."""
    segment = Path(_core.object_path(name)).absolute()
    digest = hashlib.sha256(os.fsencode(segment)).hexdigest()[:16]
    beside = segment.parent / f".billiards_shm-{digest}.sock"
    runtime = _runtime_folder()
    return [beside] if runtime is None else [runtime / f"billiards_shm-{digest}.sock", beside]


def client_places(name: str) -> list[Path]:
    """Where to ask about a segment. If a source publishes both, its native frames are recorded."""
    found = socket_places(name)
    with contextlib.suppress(BilliardsShmError):
        found += socket_places(f"{name}{NATIVE_SUFFIX}")
    return found


def is_offered(name: str) -> bool:
    """Whether there seems to be a recorder to ask. It may have died without removing its socket."""
    try:
        return any(map(_is_socket, client_places(name)))
    except BilliardsShmError:
        return False


@contextlib.contextmanager
def address_of(path: Path) -> Iterator[str]:
    """The address of a socket at this path. The kernel takes a hundred characters."""
    if len(os.fsencode(path)) <= _LONGEST_ADDRESS or not sys.platform.startswith("linux"):
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def is_answered(path: Path) -> bool:
    """Whether a process has this socket, even one that is stopped, or too busy to answer now."""
    return _answering(path) is not None


def recording_process(name: str) -> int | None:
    """Process of this user that answers for a segment; None if there is none, or the system does not report it."""
    path = socket_places(name)[0]
    return _answering(path) or None if stranger_at(path) is None else None


def stranger_at(path: Path) -> int | None:
    """The other user who owns the file at this path; None if it is your own, or there is nothing.

    In a world-writable folder such as /dev/shm anyone can take the name, and only its owner or root can free it. Root
    can put its own socket there.
    """
    try:
        uid = path.lstat().st_uid
    except OSError:
        return None
    return None if os.geteuid() in (uid, ROOT) else uid


def _answering(path: Path) -> int | None:
    """Process that has this socket; 0 if one has it, but which is unknown; None if none has."""
    if not hasattr(socket, "AF_UNIX"):
        return None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, address_of(path) as at:
            probe.settimeout(1.0)
            probe.connect(at)
            return peer_of(probe)[0]
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except OSError:
        return 0 if path.is_socket() else None


def peer_of(connection: socket.socket) -> tuple[int, int | None]:
    """Process and user at the other end; 0 and None where the system does not report them."""
    if not hasattr(socket, "SO_PEERCRED"):
        return 0, None
    pid, uid, _ = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


def remove_stale_sockets() -> list[str]:
    """Remove sockets of recorders that were killed; return their paths. Those next to files of segments stay."""
    removed = []
    for folder in filter(None, (Path(_core.object_directory()), _runtime_folder())):
        for path in folder.iterdir() if folder.is_dir() else ():
            if _NAME.fullmatch(path.name) and _is_socket(path) and not is_answered(path):
                with contextlib.suppress(OSError):
                    path.unlink()
                    removed.append(str(path))
    return removed


def _runtime_folder() -> Path | None:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(runtime) if runtime and os.access(runtime, os.W_OK | os.X_OK) else None


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return False

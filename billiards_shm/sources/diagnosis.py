"""Why a source could not be opened: engines only report that they failed."""

import errno
import os
import socket
import ssl
import stat
import struct
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import SplitResult, urlsplit

from billiards_shm.config.address import SourceAddress, SourceKind
from billiards_shm.config.secrets import has_misplaced_password
from billiards_shm.sources.protocol import Reason

__all__ = [
    "reason_for_device",
    "reason_for_file",
    "reason_for_missing_device",
    "reason_for_unopened",
    "reason_for_url",
    "system_reason",
]

_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "rtmp": 1935, "rtmps": 443, "rtsp": 554, "rtsps": 322}
_MEANINGS: Final = {
    401: (Reason.PERMISSION, "wrong user or password"),
    403: (Reason.PERMISSION, "forbidden"),
    404: (Reason.NOT_FOUND, "there is no such stream"),
    453: (Reason.BUSY, "not enough bandwidth"),
    503: (Reason.BUSY, "the service is unavailable"),
}
_NAMES: Final = {
    errno.ENOENT: Reason.NOT_FOUND,
    errno.ENODEV: Reason.NOT_FOUND,
    errno.ENXIO: Reason.NOT_FOUND,
    errno.ECONNREFUSED: Reason.NOT_FOUND,
    errno.EHOSTUNREACH: Reason.NOT_FOUND,
    errno.ENETUNREACH: Reason.NOT_FOUND,
    errno.EACCES: Reason.PERMISSION,
    errno.EPERM: Reason.PERMISSION,
    errno.EBUSY: Reason.BUSY,
    errno.ETIMEDOUT: Reason.TIMEOUT,
}
_MISPLACED: Final = "in a password, write / as %2F, ? as %3F, # as %23, @ as %40"
_NO_HOST: Final = "expected a host after ://, perhaps with a colon and a port from 0 to 65535"
_SNIFFED: Final = 4096
_WITH_TLS: Final = frozenset({"https", "rtsps"})

# From linux/videodev2.h: VIDIOC_REQBUFS takes a struct of count, type (1: capture), memory (1: mapped), and two more.
_VIDIOC_REQBUFS: Final = 0xC0145608
_REQUEST_BUFFERS: Final = struct.Struct("IIIII")


def system_reason(error: OSError, details: str | None = None) -> str:
    """Name the operating system's reason; the details are its own words unless others are given."""
    words = (error.strerror or str(error)).lower() if details is None else details
    return _NAMES.get(error.errno or 0, Reason.UNREADABLE).because(words)


def reason_for_missing_device(path: Path) -> str | None:
    """Say why a camera's device cannot even be opened, or None if it can."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except FileNotFoundError as error:
        present = ", ".join(sorted(str(device) for device in Path("/dev").glob("video*")))
        return system_reason(error, f"no device {path} (available: {present or 'no camera at all'})")
    except PermissionError as error:
        return system_reason(error, f"{path}: {(error.strerror or '').lower()}; is the user in the group video?")
    except OSError as error:
        return system_reason(error, f"{path}: {(error.strerror or '').lower()}")
    return None


def reason_for_device(path: Path) -> str:
    """Ask the driver of a device that exists, but that OpenCV could not use.

    Only one process at a time can have buffers, so requesting some shows whether another process has the camera.
    """
    if sys.platform != "linux":
        return Reason.BUSY.because("or not a device that delivers images")
    import fcntl

    try:
        device = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(device, _VIDIOC_REQBUFS, _REQUEST_BUFFERS.pack(1, 1, 1, 0, 0))
        finally:
            os.close(device)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return Reason.BUSY.because("another process has this camera")
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            return Reason.UNREADABLE.because("not a device that delivers images")
        return system_reason(error)
    return Reason.NO_SIGNAL.because("the camera is there, but offers no format that OpenCV can read")


def reason_for_file(path: Path) -> str | None:
    """Say why `path` cannot be a video, or None if it may be one.

    Parameters
    ----------
    path : pathlib.Path
        A regular file is looked into; for anything else only its existence is checked.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return Reason.UNREADABLE.because("is a directory")
        if not stat.S_ISREG(status.st_mode):
            return None
        if status.st_size == 0:
            return Reason.UNREADABLE.because("file is empty")
        with path.open("rb") as file:
            beginning = file.read(_SNIFFED)
            if not beginning.strip(b"\0"):
                return Reason.UNREADABLE.because("file holds nothing but zeros")
            if beginning.isascii() and b"\0" not in beginning and not _is_played(beginning):
                return Reason.UNREADABLE.because("file is text, not video")
            if beginning[4:8] == b"ftyp" and not _has_index(file, status.st_size):
                return Reason.UNREADABLE.because(
                    "file is cut off: this MP4's index (moov), which is usually its last part, is missing"
                )
    except FileNotFoundError as error:
        likely = len(path.parts) == 1 and not path.suffix and get_close_matches(path.name.lower(), ["demo"])
        return system_reason(error, "no such file or directory; did you mean demo?" if likely else None)
    except OSError as error:
        return system_reason(error)
    return None


def _is_played(beginning: bytes) -> bool:
    """Whether a text is of a kind that FFmpeg plays: HLS, DASH, SDP, a list of files, a dark picture of YUV4MPEG2."""
    return beginning.lstrip().startswith((b"#EXTM3U", b"<", b"v=0", b"ffconcat", b"YUV4MPEG2 "))


def _has_index(file: BinaryIO, size: int) -> bool:
    """Walk an MP4's boxes in search of ``moov``."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        kind = header[4:8]
        if kind in (b"moov", b"moof"):
            return True
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:
            break
        position += length
    return False


def reason_for_unopened(
    address: SourceAddress, seconds: float, timeout: float, engine: str, status: int | None = None
) -> str:
    """Say why an engine could not open a URL, or a file or pipe that is there.

    Parameters
    ----------
    address : SourceAddress
    seconds, timeout : float
        How long the attempt took, and may take.
    engine : str
        Its name, for when only the engine is to blame.
    status : int or None
        The status with which the server refused, if the engine reports it.
    """
    if address.kind is SourceKind.PIPE:
        return Reason.UNREADABLE.because(
            f"what arrived is not a video that {engine} can read in one pass; an MP4 whose index comes last is not one"
        )
    if address.kind is not SourceKind.URL:
        return Reason.UNREADABLE.because(f"not a video that {engine} can read")
    if seconds > 0.9 * timeout:
        return Reason.TIMEOUT.because(f"no stream within {timeout:g} s")
    return reason_for_url(str(address.place), timeout, engine, status)


def reason_for_url(url: str, timeout: float, engine: str, status: int | None = None) -> str:
    """Ask the server of a stream that could not be opened, unless its answer is known.

    Parameters
    ----------
    url : str
    timeout : float
        Seconds to wait for the connection, and again for an answer.
    engine : str
    status : int or None
        The answer that the engine got. Here the server is asked without user and password, so it may refuse more.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme.lower())
    except ValueError:
        # The exception's text would show part of a password that has a slash in it.
        return Reason.NOT_FOUND.because(f"not a URL: {_MISPLACED if has_misplaced_password(url) else _NO_HOST}")
    where = f"{parts.hostname}:{port}" if not has_misplaced_password(url) else f"{parts.hostname}"
    if parts.scheme.lower() in ("udp", "rtp", "srt"):
        return Reason.NO_SIGNAL.because(f"nothing that {engine} can read arrived")
    if not parts.hostname or port is None:
        return Reason.UNREADABLE.because(f"nothing there that {engine} can read")
    try:
        if status is None:
            status = _ask(parts, parts.hostname, port, timeout)
    except ssl.SSLError as error:
        return Reason.UNREADABLE.because(f"{where}: no TLS ({(error.reason or 'no answer').lower().replace('_', ' ')})")
    except (socket.gaierror, UnicodeError):  # the second if no host can have this name, such as one with two dots
        return Reason.NOT_FOUND.because(f"there is no host {parts.hostname}")
    except TimeoutError:
        return Reason.TIMEOUT.because(f"no answer from {where} within {timeout:g} s")
    except OSError as error:
        return system_reason(error, f"{where}: {(error.strerror or str(error)).lower()}")
    if status is not None and status >= 400:
        name, words = _MEANINGS.get(status, (Reason.UNREADABLE, "refused"))
        return name.because(f"{where}: {words} (status {status})")
    return Reason.UNREADABLE.because(f"{where} answers, but with no stream that {engine} can read")


def _ask(parts: SplitResult, host: str, port: int, timeout: float) -> int | None:
    """Request the stream and return the status of the answer; None if this protocol has no status known here."""
    with socket.create_connection((host, port), timeout) as plain:
        plain.settimeout(timeout)
        scheme = parts.scheme.lower()
        if scheme not in _WITH_TLS:
            return _request(plain, scheme, parts)
        # FFmpeg does not check certificates either; those of cameras are not signed.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with context.wrap_socket(plain, server_hostname=host) as connection:
            return _request(connection, scheme, parts)


def _request(connection: socket.socket, scheme: str, parts: SplitResult) -> int | None:
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    host = parts.netloc.rpartition("@")[2]
    if scheme in ("rtsp", "rtsps"):
        request = f"DESCRIBE {scheme}://{host}{target} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n"
    elif scheme in ("http", "https"):
        request = f"GET {target or '/'} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    else:
        return None
    connection.sendall(request.encode(errors="replace"))
    with connection.makefile("rb") as answer:
        words = answer.readline(_SNIFFED).split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None

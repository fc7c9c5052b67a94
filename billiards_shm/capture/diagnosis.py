"""Why a source could not be opened: OpenCV only says that it could not."""

import socket
import stat
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import SplitResult, urlsplit

__all__ = ["reason_for_file", "reason_for_url", "system_reason"]

_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "rtmp": 1935, "rtmps": 443, "rtsp": 554, "rtsps": 322}
_MEANINGS: Final = {
    401: "permission refused: wrong user or password",
    403: "permission refused",
    404: "not found",
    453: "busy: not enough bandwidth",
    503: "busy",
}
_SNIFFED: Final = 4096


def system_reason(error: OSError) -> str:
    """Give the operating system's reason, in lower case as it stands within a sentence."""
    return (error.strerror or str(error)).lower()


def reason_for_file(path: Path) -> str | None:
    """Say what makes it impossible that `path` is a video, or None if nothing speaks against it.

    Parameters
    ----------
    path : pathlib.Path
        A regular file is looked into; of anything else only the existence is checked.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return "is a directory"
        if not stat.S_ISREG(status.st_mode):
            return None
        if status.st_size == 0:
            return "file is empty"
        with path.open("rb") as file:
            beginning = file.read(_SNIFFED)
            if not beginning.strip(b"\0"):
                return "file holds nothing but zeros"
            if beginning.isascii() and b"\0" not in beginning and not _is_playlist(beginning):
                return "file is text, not video"
            if beginning[4:8] == b"ftyp" and not _has_index(file, status.st_size):
                return "file is cut off: this MP4's index (moov), which is usually its last part, is missing"
    except OSError as error:
        return system_reason(error)
    return None


def _is_playlist(beginning: bytes) -> bool:
    """Whether a text is one of those that FFmpeg plays: HLS, DASH, SDP, a list of files."""
    return beginning.lstrip().startswith((b"#EXTM3U", b"<", b"v=0", b"ffconcat"))


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


def reason_for_url(url: str, timeout: float) -> str:
    """Ask the server of a stream that could not be opened.

    Parameters
    ----------
    url : str
    timeout : float
        Seconds to wait for the connection, and again for an answer.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme.lower())
    except ValueError as error:
        return f"not a URL: {error}"
    if parts.scheme.lower() in ("udp", "rtp", "srt"):
        return "no signal: nothing that OpenCV can read arrived"
    if not parts.hostname or port is None:
        return "nothing there that OpenCV can read"
    try:
        with socket.create_connection((parts.hostname, port), timeout) as connection:
            connection.settimeout(timeout)
            status = _ask(connection, parts)
    except socket.gaierror:
        return f"host {parts.hostname} not found"
    except TimeoutError:
        return f"timeout: no answer from {parts.hostname}:{port} within {timeout:g} s"
    except OSError as error:
        return f"{parts.hostname}:{port}: {system_reason(error)}"
    if status is not None and status >= 400:
        return f"{parts.hostname}:{port}: {_MEANINGS.get(status, 'refused')} (status {status})"
    return f"{parts.hostname}:{port} answers, but with no stream that OpenCV can read"


def _ask(connection: socket.socket, parts: SplitResult) -> int | None:
    """Request the stream and give the status of the answer; None if this protocol has none that is known here."""
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    host = parts.netloc.rpartition("@")[2]
    scheme = parts.scheme.lower()
    if scheme == "rtsp":
        request = f"DESCRIBE rtsp://{host}{target} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n"
    elif scheme == "http":
        request = f"GET {target or '/'} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    else:
        return None
    connection.sendall(request.encode(errors="replace"))
    with connection.makefile("rb") as answer:
        words = answer.readline(_SNIFFED).split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None

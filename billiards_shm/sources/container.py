"""Opens files and URLs with PyAV's FFmpeg, MPEG-TS and the like so that their packets arrive without delay."""

import os
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import av
import av.error
from av.container import InputContainer
from av.video.stream import VideoStream

from billiards_shm.config.address import SourceAddress, SourceKind
from billiards_shm.config.model import CameraConfig
from billiards_shm.errors import CameraError
from billiards_shm.sources.access_units import LARGEST_PACKET
from billiards_shm.sources.assembler import ASSEMBLED
from billiards_shm.sources.delivery import delivery_of
from billiards_shm.sources.diagnosis import reason_for_file, reason_for_unopened
from billiards_shm.sources.names import ffmpeg_name
from billiards_shm.sources.protocol import Delivery, Reason

__all__ = ["container_delivery", "has_times", "open_container", "video_stream"]

_SEGMENTED: Final = frozenset({"hls", "dash"})
# Each of the other exceptions stands for several.
_STATUSES: Final[dict[type[BaseException], int]] = {
    av.error.HTTPUnauthorizedError: 401,
    av.error.HTTPForbiddenError: 403,
    av.error.HTTPNotFoundError: 404,
}

# Remembered, because a sender may wait for only one connection, and each opening may cost a second.
_FOR_PARSERS: Final[set[SourceAddress]] = set()
"""Sources to open with FFmpeg's parsers."""
_BYTE_STREAMS: Final = frozenset({"http", "https", "tcp", "udp", "srt"})
_SUFFIXES_OF_TS: Final = frozenset({"", ".ts", ".m2ts", ".mts"})
_WITHOUT_PARSER: Final = frozenset({"mpjpeg", "flv", "matroska,webm"})
"""Formats that know where a picture ends."""
_ASSEMBLED: Final = frozenset({"mpegts", "h264", "hevc", "jpeg_pipe"})
"""Formats whose packets `Assembler` turns into pictures."""
_NO_TIMES: Final = 0x80
"""FFmpeg's AVFMT_NOTIMESTAMPS."""
_COUNTED: Final = ("pipe", "rawvideo")
"""How the names of formats end that have no times either."""
_UNPARSED: Final = {
    "fflags": "+noparse",
    "max_packet_size": str(LARGEST_PACKET),  # of MPEG-TS
    "frame_size": "4096",  # of consecutive JPEGs: they are read in pieces of this size
}

# A file whose titles and the like are not UTF-8 is still played. PyAV 19 does the same.
_TOLERANT: Final[dict[str, Any]] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def open_container(address: SourceAddress, config: CameraConfig) -> tuple[InputContainer, bool]:
    """Open the source, and return whether it lacks the parsers that it needs: see `access_units`."""
    if _may_be_ts(address):
        container = _open_with(address, config, _UNPARSED)
        stream = container.streams.best("video")
        if isinstance(stream, VideoStream) and container_delivery(address, container) is Delivery.LIVE:
            if container.format.name in _WITHOUT_PARSER:
                return container, False
            if container.format.name in _ASSEMBLED and stream.codec_context.name in ASSEMBLED:
                return container, True
        container.close()
        _FOR_PARSERS.add(address)
    return _open_with(address, config, {}), False


def _may_be_ts(address: SourceAddress) -> bool:
    """Whether a stream may be MPEG-TS, judging by its address. FFmpeg knows only after opening it."""
    if address.kind is not SourceKind.URL or address in _FOR_PARSERS:
        return False
    try:
        parts = urlsplit(str(address.place))
    except ValueError:  # not an address at all, as FFmpeg will say
        return False
    return parts.scheme.lower() in _BYTE_STREAMS and Path(parts.path).suffix.lower() in _SUFFIXES_OF_TS


def _open_with(address: SourceAddress, config: CameraConfig, options: dict[str, str]) -> InputContainer:
    url = address.kind is SourceKind.URL
    if not address.recorded and not url:
        raise CameraError(f"cannot open {address}: backend av reads files and URLs, and this is neither")
    reason = None
    if address.kind is SourceKind.FILE:
        reason = reason_for_file(Path(str(address.place)))
    elif address.kind is SourceKind.IMAGES and "%" in str(address.place):
        reason = Reason.UNREADABLE.because("numbered images need backend images or auto")
    started = time.monotonic()
    if reason is None:
        place = ffmpeg_name(address)
        try:
            container: InputContainer = av.open(
                place,
                container_options=options | (_options_for_url(place) if url else {"pattern_type": "none"}),
                timeout=(config.open_timeout_sec, config.read_timeout_sec) if url else None,
                **_TOLERANT,
            )
            return container
        except (av.error.FFmpegError, OSError, ValueError) as error:
            seconds, status = time.monotonic() - started, _STATUSES.get(type(error))
            reason = reason_for_unopened(address, seconds, config.open_timeout_sec, "PyAV", status)
    raise CameraError(f"cannot open {address}: {reason}")


def _options_for_url(url: str) -> dict[str, str]:
    """FFmpeg's options for a protocol; OpenCV's variable for them counts here too, because users have set it."""
    text = os.environ.get("OPENCV_FFMPEG_CAPTURE_OPTIONS")
    if text is not None:
        return dict(pair.split(";", 1) for pair in text.split("|") if ";" in pair)
    return {"rtsp_transport": "tcp"} if url.lower().startswith(("rtsp:", "rtsps:")) else {}


def video_stream(address: SourceAddress, container: InputContainer) -> VideoStream:
    """Return the video stream of a source; close the source and raise CameraError if it has none."""
    stream = container.streams.best("video")
    if isinstance(stream, VideoStream) and stream.codec_context is not None:
        return stream
    container.close()
    raise CameraError(f"cannot open {address}: {Reason.UNREADABLE.because('not a video that PyAV can read')}")


def container_delivery(address: SourceAddress, container: InputContainer) -> Delivery:
    """Tell whether a source is recorded or live."""
    name = container.format.name
    segmented = name in _SEGMENTED
    # Cameras claim lengths for their endless responses: do not believe them. A playlist's length is that of its text.
    size = 0 if segmented or name == "mpjpeg" else container.size or 0
    return delivery_of(address, segmented=segmented, has_end=max(size, container.duration or 0) > 0)


def has_times(container: InputContainer) -> bool:
    """Whether the format stores the times of frames. For others, such as Motion JPEG, FFmpeg counts 25 a second."""
    return not (container.format.name.endswith(_COUNTED) or container.format.flags & _NO_TIMES)

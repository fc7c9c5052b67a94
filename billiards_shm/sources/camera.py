"""OpenCV's `VideoCapture` as a source: cameras, files, URLs and pipelines."""

import logging
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import cv2
import numpy as np

from billiards_shm.config.address import SourceAddress, SourceKind
from billiards_shm.config.model import CameraConfig
from billiards_shm.errors import CameraError
from billiards_shm.pixel_formats import PixelFormat, format_named
from billiards_shm.sources.camera_settings import ACCELERATIONS, apply_settings, fourcc_text, negotiated
from billiards_shm.sources.conversion import FrameConverter, as_bgr, completed
from billiards_shm.sources.delivery import delivery_of
from billiards_shm.sources.diagnosis import (
    reason_for_device,
    reason_for_file,
    reason_for_missing_device,
    reason_for_unopened,
)
from billiards_shm.sources.interlaced import converts_interlaced
from billiards_shm.sources.load import DecodingLoad
from billiards_shm.sources.names import ffmpeg_name
from billiards_shm.sources.protocol import Delivery, Image, Reason, SourceDetails, SourceReopenError, VideoFormat

__all__ = ["Camera", "available_backends"]

_BACKENDS: Final = {
    "v4l2": cv2.CAP_V4L2,
    "dshow": cv2.CAP_DSHOW,
    "msmf": cv2.CAP_MSMF,
    "avfoundation": cv2.CAP_AVFOUNDATION,
    "gstreamer": cv2.CAP_GSTREAMER,
    "ffmpeg": cv2.CAP_FFMPEG,
}
_REMEDIES: Final = {
    "v4l2": "on Linux, wheels from PyPI and builds with WITH_V4L have it",
    "dshow": "only Windows has DirectShow",
    "msmf": "only Windows has Media Foundation",
    "avfoundation": "only macOS has AVFoundation",
    "gstreamer": "Debian's python3-opencv and builds with WITH_GSTREAMER have it, wheels from PyPI do not",
    "ffmpeg": "wheels from PyPI and builds with WITH_FFMPEG have it",
}
_SYSTEM_CAMERAS: Final = {"linux": "v4l2", "darwin": "avfoundation", "win32": "msmf"}

# Headers say 180000 or -9e18 when they do not know.
_BELIEVABLE_FPS: Final = 1000.0
_BELIEVABLE_FRAMES: Final = 1e9
_PLAYLISTS: Final = (".m3u8", ".mpd")
_BY_RTP: Final = frozenset({"rtsp", "rtsps", "rtp"})

_MANY_THREADS: Final[set[SourceAddress]] = set()
"""Decoded by several threads: recordings behind URLs, and streams for which one thread is too slow."""
_TOO_SLOW: Final = Reason.UNREADABLE.because("one thread decodes it too slowly: reopening it with more")

_PIPELINE_JPEG: Final = re.compile(r"!\s*(?:image/jpeg|jpegenc)\b[^!]*(?:!\s*queue\b[^!]*)*!\s*appsink\b[^!]*$")
_PIPELINE_FORMAT: Final = re.compile(r"format\s*=\s*(?:\(\w+\))?\s*\"?(\w+)")

_WRONG_IF_INTERLACED: Final = (
    f"OpenCV {cv2.__version__} decodes interlaced video wrongly, and cannot tell when: "
    "pip install 'billiards-shm[av]', and leave backend on auto"
)

_DECODED_BY_OPENCV: Final = (
    "publish: asked for native, got bgr for files and streams, which OpenCV decodes; backend av has native frames"
)

_log = logging.getLogger(__name__)


def available_backends() -> list[str]:
    """Names of the backends that this OpenCV was built with, as the configuration spells them."""
    return [name for name, number in _BACKENDS.items() if cv2.videoio_registry.hasBackend(number)]


class Camera:
    """An open `cv2.VideoCapture`.

    Parameters
    ----------
    config : CameraConfig
        Source, backend, and the size and rate that a camera is asked for.

    Raises
    ------
    CameraError
        If the source cannot be opened; says what and why in one line.
    """

    def __init__(self, config: CameraConfig) -> None:
        self._address = SourceAddress.parse(config.device_id)
        _check_backend(config.backend)
        self._place = _check_place(self._address)
        self._capture, backend = _open(self._address, self._place, config)
        if _has_one_thread(self._address) and 0 < self._property(cv2.CAP_PROP_FRAME_COUNT) < _BELIEVABLE_FRAMES:
            # A recording, which several threads may decode.
            _MANY_THREADS.add(self._address)
            self._capture.release()
            self._capture, backend = _open(self._address, self._place, config)
        self._load = DecodingLoad() if backend == "FFMPEG" and _has_one_thread(self._address) else None
        self._warnings: tuple[str, ...] = ()
        self._requested: VideoFormat | None = None
        if self._address.kind in (SourceKind.CAMERA, SourceKind.DEVICE):
            self._requested = VideoFormat(*config.resolution, config.fps, config.fourcc or "")
            self._warnings = apply_settings(self._capture, config)
        if self._address.kind is SourceKind.PIPELINE:
            raw_format = _format_of_pipeline(str(self._address.place))
        else:
            raw_format = self._ask_for_raw_frames() if config.publish != "bgr" else self._ask_for_jpegs(backend)
        turn = self._stop_turning() if backend != "GSTREAMER" else 0
        self._picture = FrameConverter(config, turn, raw_format)
        self._native = format_named(raw_format)
        self._raw: Image | None = None
        self._delivered: Image | None = None
        self.flaw = ""
        if config.hardware_acceleration != "none":
            self._check_acceleration(config.hardware_acceleration)
        if backend == "FFMPEG" and not converts_interlaced():
            self._warnings += (_WRONG_IF_INTERLACED,)
        self._details = self._read_details(backend)
        self._has_times = not (self._address.kind is SourceKind.URL and _is_counted(self._address, self._details))

    @property
    def details(self) -> SourceDetails:
        """What the driver or the file's header says."""
        return self._details

    @property
    def position_ms(self) -> float | None:
        """Position of the grabbed frame in a recording."""
        if self._details.delivery is not Delivery.RECORDED:
            return None
        position = self._property(cv2.CAP_PROP_POS_MSEC)
        return position if position >= 0 else None

    @property
    def timestamp_ms(self) -> float | None:
        """When the grabbed frame was taken, on the driver's or the stream's clock; None for recordings.

        OpenCV's positions in a recording do not always rise from frame to frame, and those in Motion JPEG are counted.
        """
        if self._details.delivery is Delivery.RECORDED or not self._has_times:
            return None
        position = self._property(cv2.CAP_PROP_POS_MSEC)
        return position if position > 0 else None

    @property
    def frames_left(self) -> int | None:
        """Frames that the header promises beyond those grabbed."""
        count = self._details.frame_count
        return None if count is None else max(0, count - int(self._property(cv2.CAP_PROP_POS_FRAMES)))

    def grab(self) -> bool:
        """Take the next frame; blocks until there is one, or until the read timeout."""
        self.flaw = ""
        self._delivered = None
        if self._load is None:
            return self._capture.grab()
        began_ns = time.thread_time_ns()
        grabbed = self._capture.grab()
        position = self._property(cv2.CAP_PROP_POS_MSEC)
        self._load.add(time.thread_time_ns() - began_ns, grabbed, position / 1000 if position > 0 else None)
        if self._load.busy:
            # OpenCV cannot change the threads of an open stream.
            _MANY_THREADS.add(self._address)
            raise SourceReopenError(_TOO_SLOW)
        return grabbed

    @property
    def native_format(self) -> str:
        """What the driver or the pipeline delivers, if OpenCV returns it unconverted."""
        return "BGR24" if self._native is None else self._native.name

    def retrieve_native(self, target: Image | None) -> Image | None:
        """Return the grabbed frame as the driver delivers it; see `NativeSource.retrieve_native`."""
        named = self._native
        raw = self._retrieve(target)
        if raw is None:
            return None
        if self._native is None:
            if named is not None:
                _log.warning("%s: publish: asked for native, got bgr instead of %s", self._address, named.name)
            return as_bgr(raw, target)
        self._delivered = self._laid_out(raw, self._native)
        return self._delivered

    def _retrieve(self, target: Image | None) -> Image | None:
        """Return OpenCV's grabbed frame, which may have another format than the named one."""
        good, raw = self._capture.retrieve(target)
        # When the driver returns an empty buffer, OpenCV reports success and returns nothing.
        if not good or raw is None:
            return None
        if self._native is not None and raw.ndim == 3 and raw.shape[2] == 3 != self._native.channels:
            # For example from a pipeline that names a format, and converts it afterwards.
            self._native = None
        return raw

    def _laid_out(self, raw: Image, row: PixelFormat) -> Image | None:
        """Give a frame the shape of its format. OpenCV returns one row of bytes for formats it cannot lay out."""
        if row.name == "MJPG":
            try:
                return completed(raw)
            except ValueError as error:
                self.flaw = str(error)
                return None
        said = self._details.negotiated
        if raw.shape[0] == 1 and said is not None and said.height > 1:
            shape = row.array_shape(said.width, said.height)
            if shape is None or raw.nbytes != math.prod(shape) * np.dtype(row.dtype).itemsize:
                return None
            return np.ascontiguousarray(raw).view(row.dtype).reshape(shape)
        return raw

    def retrieve(self, target: Image | None) -> Image | None:
        """Decode the grabbed frame, into `target` if that has its shape; see `FrameSource.retrieve`."""
        if self._picture.straight:
            good, image = self._capture.retrieve(target)
            return as_bgr(image, target) if good and image is not None else None
        if self._delivered is not None:
            return self._picture.into(self._delivered, target)
        raw = self._retrieve(self._raw)
        if raw is None:
            return None
        self._raw = raw
        frame = raw if self._native is None else self._laid_out(raw, self._native)
        return None if frame is None else self._picture.into(frame, target)

    def release(self) -> None:
        """Close the device or file."""
        self._delivered = None
        self._capture.release()

    def _property(self, number: int) -> float:
        return float(self._capture.get(number))

    def _stop_turning(self) -> int:
        """Take rotated video as it is stored; return the degrees clockwise by which it has to be turned.

        A frame that OpenCV turns never lands in the caller's memory. GStreamer's backend must not be asked at all: a
        live pipeline delivers no frames afterwards.
        """
        turned = self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        orientation = self._property(cv2.CAP_PROP_ORIENTATION_META)
        return int(orientation) if turned and orientation in (90, 180, 270) else 0

    def _ask_for_raw_frames(self) -> str:
        """Take a camera's frames unconverted; return their format, or an empty text if OpenCV still converts them."""
        if self._address.kind not in (SourceKind.CAMERA, SourceKind.DEVICE):
            self._warnings += (_DECODED_BY_OPENCV,)
            return ""
        fourcc = fourcc_text(self._property(cv2.CAP_PROP_FOURCC))
        if format_named(fourcc) is not None and self._capture.set(cv2.CAP_PROP_CONVERT_RGB, 0):
            return fourcc
        named = fourcc or "a format that the driver does not name"
        self._warnings += (f"publish: asked for native, got bgr for {named}, which this package does not know",)
        return ""

    def _ask_for_jpegs(self, backend: str) -> str:
        """Take a camera's JPEGs undecoded: OpenCV fills in missing parts of one, or shows the one before."""
        # GStreamer delivers frames unconverted, and other backends do not say what they deliver.
        if backend != "V4L2" or fourcc_text(self._property(cv2.CAP_PROP_FOURCC)) not in ("MJPG", "JPEG"):
            return ""
        return "MJPG" if self._capture.set(cv2.CAP_PROP_CONVERT_RGB, 0) else ""

    def _check_acceleration(self, wanted: str) -> None:
        there = int(self._property(cv2.CAP_PROP_HW_ACCELERATION))
        if there <= 0 or (wanted != "any" and there != ACCELERATIONS[wanted]):
            names = [name for name, number in ACCELERATIONS.items() if number == max(there, 0)]
            self._warnings += (f"hardware_acceleration: asked for {wanted}, got {', '.join(names)}",)

    def _read_details(self, backend: str) -> SourceDetails:
        said = negotiated(self._capture)
        size = (said.width, said.height)
        count = self._property(cv2.CAP_PROP_FRAME_COUNT)
        counted = 0 < count < _BELIEVABLE_FRAMES
        path = urlsplit(str(self._address.place)).path.lower()
        delivery = delivery_of(self._address, segmented=path.endswith(_PLAYLISTS), has_end=counted)
        believable = math.isfinite(said.fps) and 0 < said.fps <= _BELIEVABLE_FPS
        return SourceDetails(
            backend,
            *(self._picture.size(*size) if all(size) else size),
            said.fps if believable else 0.0,
            frame_count=int(count) if counted and delivery is Delivery.RECORDED else None,
            negotiated=said,
            requested=self._requested,
            warnings=self._warnings,
            delivery=delivery,
        )


def _is_counted(address: SourceAddress, details: SourceDetails) -> bool:
    """Whether the times of a stream are numbers of frames: FFmpeg makes them up for Motion JPEG, except by RTP."""
    motion_jpeg = details.negotiated is not None and details.negotiated.fourcc == "MJPG"
    return motion_jpeg and urlsplit(str(address.place)).scheme.lower() not in _BY_RTP


# Before opening.


def _check_backend(backend: str) -> None:
    if backend == "auto" or cv2.videoio_registry.hasBackend(_BACKENDS[backend]):
        return
    has = ", ".join(available_backends())
    raise CameraError(
        f"backend {backend} is not in this OpenCV {cv2.__version__}, which has: {has}; {_REMEDIES[backend]}"
    )


def _check_place(address: SourceAddress) -> int | str:
    """Check the place before it is opened, while the operating system can still say what is wrong."""
    if address.kind is SourceKind.FILE:
        reason = reason_for_file(Path(str(address.place)))
        if reason is not None:
            raise _refuse(address, reason)
    elif address.kind is SourceKind.IMAGES and "%" in str(address.place):
        # FFmpeg would begin only at 0 to 4, and end at the first missing number.
        raise _refuse(address, Reason.UNREADABLE.because("numbered images need backend images or auto"))
    device = _device_path(address)
    if device is None:
        return ffmpeg_name(address)
    reason = reason_for_missing_device(device)
    if reason is not None:
        raise _refuse(address, reason)
    return str(device) if address.kind is SourceKind.DEVICE else address.place


def _refuse(address: SourceAddress, reason: str) -> CameraError:
    return CameraError(f"cannot open {address}: {reason}")


def _device_path(address: SourceAddress) -> Path | None:
    """Where a camera is now: a name such as /dev/v4l/by-id/... points elsewhere after it was plugged in again."""
    if address.kind is SourceKind.DEVICE:
        return Path(os.path.realpath(str(address.place)))
    if address.kind is SourceKind.CAMERA and sys.platform == "linux":
        return Path(f"/dev/video{address.place}")
    return None


def _format_of_pipeline(pipeline: str) -> str:
    """The last format that a pipeline names: GStreamer does not convert frames, and OpenCV does not report a format."""
    if _PIPELINE_JPEG.search(pipeline):
        return "MJPG"
    formats = _PIPELINE_FORMAT.findall(pipeline)
    row = format_named(formats[-1]) if formats else None
    return formats[-1] if row is not None and row.name != "BGR24" else ""


# Opening.


def _open(address: SourceAddress, place: int | str, config: CameraConfig) -> tuple[cv2.VideoCapture, str]:
    tried = [_BACKENDS[config.backend]] if config.backend != "auto" else _backends_for(address)
    started = time.monotonic()
    for number in tried:
        # A driver that cannot accelerate refuses to open at all.
        for parameters in _parameters(config, number, address):
            capture = _open_with(place, number, parameters)
            if capture is not None:
                return capture, capture.getBackendName()
    raise _refuse(address, _reason_for_unopened(address, time.monotonic() - started, config.open_timeout_sec))


def _has_one_thread(address: SourceAddress) -> bool:
    """Whether one thread decodes: true of live streams, unless it was too slow or OpenCV's variable says otherwise."""
    if address.kind is not SourceKind.URL or address in _MANY_THREADS or "OPENCV_FFMPEG_THREADS" in os.environ:
        return False
    return not urlsplit(str(address.place)).path.lower().endswith(_PLAYLISTS)


def _parameters(config: CameraConfig, backend: int, address: SourceAddress) -> list[tuple[int, ...]]:
    """Parameters that OpenCV takes only when opening, and only with a named backend; each set is tried in turn."""
    if backend != cv2.CAP_FFMPEG:
        return [()]
    # The writer of a pipe may take any amount of time.
    patient = address.kind is SourceKind.PIPE
    timeouts: tuple[int, ...] = (
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        0 if patient else round(config.open_timeout_sec * 1000),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        0 if patient else round(config.read_timeout_sec * 1000),
    )
    if _has_one_thread(address):
        timeouts += (cv2.CAP_PROP_N_THREADS, 1)
    if config.hardware_acceleration == "none":
        return [timeouts]
    # A driver that cannot accelerate refuses to open at all, and by then a pipe has lost its beginning.
    accelerated = (*timeouts, cv2.CAP_PROP_HW_ACCELERATION, ACCELERATIONS[config.hardware_acceleration])
    return [timeouts] if patient else [accelerated, timeouts]


def _open_with(place: int | str, backend: int, parameters: tuple[int, ...]) -> cv2.VideoCapture | None:
    try:
        # The two overloads differ only in the type of the first argument.
        if isinstance(place, int):
            capture = cv2.VideoCapture(place, backend, parameters)
        else:
            with _name_for_opencv(place) as name:
                capture = cv2.VideoCapture(name, backend, parameters)
    except (cv2.error, OSError) as error:
        _log.debug("OpenCV: %s", " ".join(str(error).split()))
        return None
    if capture.isOpened():
        return capture
    capture.release()
    return None


@contextmanager
def _name_for_opencv(place: str) -> Iterator[str]:
    """The name, or that of a descriptor if it is not UTF-8: OpenCV crashes on such names."""
    try:
        place.encode()
    except UnicodeEncodeError:
        with Path(place).open("rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield place


def _backends_for(address: SourceAddress) -> list[int]:
    """The backends to open a source with, best first, of those in this OpenCV."""
    match address.kind:
        case SourceKind.CAMERA | SourceKind.DEVICE:
            names = [_SYSTEM_CAMERAS.get(sys.platform, ""), "dshow"]
        case SourceKind.PIPELINE:
            names = ["gstreamer"]
            _check_backend("gstreamer")
        case _:
            names = ["ffmpeg", "gstreamer", "msmf", "avfoundation"]
    has = available_backends()
    return [_BACKENDS[name] for name in names if name in has] or [cv2.CAP_ANY]


def _reason_for_unopened(address: SourceAddress, seconds: float, timeout: float) -> str:
    match address.kind:
        case SourceKind.CAMERA | SourceKind.DEVICE:
            return reason_for_device(_device_path(address) or Path(str(address.place)))
        case SourceKind.PIPELINE:
            return Reason.UNREADABLE.because("GStreamer cannot run this pipeline")
        case _:
            return reason_for_unopened(address, seconds, timeout, "OpenCV")

"""OpenCV's sources: cameras, files, image sequences, URLs and pipelines. The only part of capturing that knows cv2."""

import errno
import logging
import os
import re
import sys
import time
from pathlib import Path
from typing import Final

# Read when cv2 is imported, and when FFmpeg is first used: what they print is no use to who runs a camera, for it says
# neither which source nor what to do. Whoever wants to read it sets the variables.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
# Seconds that V4L2 waits for a frame, which OpenCV takes from nowhere else.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "5")

import cv2
import numpy as np

from billiards_shm.capture.diagnosis import reason_for_file, reason_for_url, system_reason
from billiards_shm.capture.model import CameraConfig
from billiards_shm.capture.sources import (
    OPEN_TIMEOUT_SEC,
    READ_TIMEOUT_SEC,
    Image,
    SourceAddress,
    SourceDetails,
    SourceKind,
)
from billiards_shm.errors import CameraError

__all__ = ["Camera", "available_backends"]

_BACKENDS: Final = {
    "v4l2": cv2.CAP_V4L2,
    "dshow": cv2.CAP_DSHOW,
    "msmf": cv2.CAP_MSMF,
    "avfoundation": cv2.CAP_AVFOUNDATION,
    "gstreamer": cv2.CAP_GSTREAMER,
    "ffmpeg": cv2.CAP_FFMPEG,
    "images": cv2.CAP_IMAGES,
}
_SYSTEM_CAMERAS: Final = {"linux": "v4l2", "darwin": "avfoundation", "win32": "msmf"}

# What `CAP_PROP_ORIENTATION_META` says, and the turn that OpenCV itself would make of it.
_TURNS: Final[dict[float, int]] = {
    90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_COUNTERCLOCKWISE,
}
# Headers say 180000 or -9e18 when they do not know.
_BELIEVABLE_FPS: Final = 1000.0
_BELIEVABLE_FRAMES: Final = 1e9

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
        place = _check_place(self._address)
        self._capture, backend = _open(self._address, place, config.backend)
        if self._address.kind in (SourceKind.CAMERA, SourceKind.DEVICE):
            width, height = config.resolution
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
            self._capture.set(cv2.CAP_PROP_FPS, config.fps)
        # A frame that OpenCV turns never lands in the caller's memory, so it is asked not to.
        turned = self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        orientation = self._property(cv2.CAP_PROP_ORIENTATION_META)
        self._turn = _TURNS.get(orientation) if turned else None
        self._raw: Image | None = None
        self._details = self._read_details(backend)

    @property
    def details(self) -> SourceDetails:
        """What the driver or the file's header says."""
        return self._details

    @property
    def position_ms(self) -> float | None:
        """Position of the grabbed frame in a recording."""
        if self._address.live:
            return None
        position = self._property(cv2.CAP_PROP_POS_MSEC)
        return position if position >= 0 else None

    @property
    def frames_left(self) -> int | None:
        """Frames that the header promises beyond those grabbed."""
        count = self._details.frame_count
        return None if count is None else max(0, count - int(self._property(cv2.CAP_PROP_POS_FRAMES)))

    def grab(self) -> bool:
        """Take the next frame; blocks until there is one, or until the read timeout."""
        return self._capture.grab()

    def retrieve(self, target: Image | None) -> Image | None:
        """Decode the grabbed frame, into `target` if that has its shape; see `FrameSource.retrieve`."""
        if self._turn is None:
            good, image = self._capture.retrieve(target)
            return _as_bgr(image, target) if good else None
        good, raw = self._capture.retrieve(self._raw)
        if not good:
            return None
        self._raw = raw
        return _as_bgr(cv2.rotate(raw, self._turn, target), target)

    def release(self) -> None:
        """Close the device or file."""
        self._capture.release()

    def _property(self, number: int) -> float:
        return float(self._capture.get(number))

    def _read_details(self, backend: str) -> SourceDetails:
        width = int(self._property(cv2.CAP_PROP_FRAME_WIDTH))
        height = int(self._property(cv2.CAP_PROP_FRAME_HEIGHT))
        if self._turn in (cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_90_COUNTERCLOCKWISE):
            width, height = height, width
        fps = self._property(cv2.CAP_PROP_FPS)
        count = self._property(cv2.CAP_PROP_FRAME_COUNT)
        counted = not self._address.live and 0 < count < _BELIEVABLE_FRAMES
        return SourceDetails(
            backend=backend,
            width=width,
            height=height,
            fps=fps if 0 < fps <= _BELIEVABLE_FPS else 0.0,
            frame_count=int(count) if counted else None,
        )


def _as_bgr(image: Image, target: Image | None) -> Image:
    """Give a frame of any kind as three 8-bit channels; image sequences may mix kinds."""
    if image is target or (image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8):
        return image
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    elif image.dtype != np.uint8:
        image = cv2.normalize(image, np.empty(0), 0, 255, cv2.NORM_MINMAX, cv2.CV_8U)
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR, target)
    return cv2.cvtColor(image, cv2.COLOR_BGRA2BGR, target) if image.shape[2] == 4 else image


# Before opening.


def _check_backend(backend: str) -> None:
    if backend == "auto" or cv2.videoio_registry.hasBackend(_BACKENDS[backend]):
        return
    has = ", ".join(available_backends())
    remedy = "; Debian's python3-opencv has GStreamer, wheels from PyPI do not" if backend == "gstreamer" else ""
    raise CameraError(f"backend {backend} is not in this OpenCV {cv2.__version__}, which has: {has}{remedy}")


def _check_place(address: SourceAddress) -> int | str:
    """Look at what is to be opened while the operating system can still say what is wrong with it."""
    if address.kind is SourceKind.FILE:
        reason = reason_for_file(Path(str(address.place)))
        if reason is not None:
            raise _refuse(address, reason)
    elif address.kind is SourceKind.IMAGES:
        return str(_first_image(address, Path(str(address.place))))
    elif address.kind is SourceKind.DEVICE:
        _check_device(address, Path(str(address.place)))
    elif address.kind is SourceKind.CAMERA and sys.platform == "linux":
        _check_device(address, Path(f"/dev/video{address.place}"))
    return address.place


def _refuse(address: SourceAddress, reason: str) -> CameraError:
    return CameraError(f"cannot open {address}: {reason}")


def _check_device(address: SourceAddress, path: Path) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except FileNotFoundError:
        present = ", ".join(sorted(str(device) for device in Path("/dev").glob("video*")))
        raise _refuse(address, f"no device {path} (there is: {present or 'no camera at all'})") from None
    except OSError as error:
        remedy = "; is the user in the group video?" if error.errno == errno.EACCES else ""
        raise _refuse(address, f"{path}: {system_reason(error)}{remedy}") from None


def _first_image(address: SourceAddress, pattern: Path) -> Path:
    """Find where a numbered sequence begins; OpenCV itself only looks from 0 to 4."""
    parts = re.split(r"%0?\d*d", pattern.name)
    matching = re.compile(r"(\d+)".join(re.escape(part) for part in parts))
    try:
        names = [path.name for path in pattern.parent.iterdir()]
    except OSError as error:
        raise _refuse(address, system_reason(error)) from None
    numbered = [(int(found[1]), name) for name in names if (found := matching.fullmatch(name))]
    if not numbered:
        raise _refuse(address, "no file has such a name")
    return pattern.with_name(min(numbered)[1])


# Opening.


def _open(address: SourceAddress, place: int | str, backend: str) -> tuple[cv2.VideoCapture, str]:
    tried = [_BACKENDS[backend]] if backend != "auto" else _backends_for(address)
    started = time.monotonic()
    for number in tried:
        capture = _open_with(place, number)
        if capture is not None:
            return capture, capture.getBackendName()
    raise _refuse(address, _why(address, time.monotonic() - started))


def _open_with(place: int | str, backend: int) -> cv2.VideoCapture | None:
    parameters: list[int] = []
    if backend == cv2.CAP_FFMPEG:
        # OpenCV takes these at opening only, and only with the backend named.
        parameters = [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
            int(OPEN_TIMEOUT_SEC * 1000),
            cv2.CAP_PROP_READ_TIMEOUT_MSEC,
            int(READ_TIMEOUT_SEC * 1000),
        ]
    try:
        # The two overloads differ in the type of the first argument only.
        if isinstance(place, int):
            capture = cv2.VideoCapture(place, backend, parameters)
        else:
            capture = cv2.VideoCapture(place, backend, parameters)
    except cv2.error as error:
        _log.debug("OpenCV: %s", " ".join(str(error).split()))
        return None
    if capture.isOpened():
        return capture
    capture.release()
    return None


def _backends_for(address: SourceAddress) -> list[int]:
    """What to open a source with, best first, of what this OpenCV has."""
    match address.kind:
        case SourceKind.CAMERA | SourceKind.DEVICE:
            names = [_SYSTEM_CAMERAS.get(sys.platform, ""), "dshow"]
        case SourceKind.PIPELINE:
            names = ["gstreamer"]
            _check_backend("gstreamer")
        case SourceKind.IMAGES:
            names = ["images"]
        case _:
            names = ["ffmpeg", "gstreamer", "msmf", "avfoundation"]
    has = available_backends()
    return [_BACKENDS[name] for name in names if name in has] or [cv2.CAP_ANY]


def _why(address: SourceAddress, seconds: float) -> str:
    match address.kind:
        case SourceKind.CAMERA | SourceKind.DEVICE:
            return "busy, or not a device that gives pictures"
        case SourceKind.URL if seconds > 0.9 * OPEN_TIMEOUT_SEC:
            return f"timeout: no stream within {OPEN_TIMEOUT_SEC:g} s"
        case SourceKind.URL:
            return reason_for_url(str(address.place), OPEN_TIMEOUT_SEC)
        case SourceKind.PIPELINE:
            return "GStreamer cannot run this pipeline"
        case _:
            return "not a video that OpenCV can read"

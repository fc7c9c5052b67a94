"""Opening a source: which engine reads what the configuration names."""

import importlib.util
import logging
import math
import os

from billiards_shm.config.address import SourceAddress, SourceKind
from billiards_shm.config.model import CameraConfig
from billiards_shm.errors import CameraError
from billiards_shm.sources.protocol import FrameSource

__all__ = ["open_source"]

_log = logging.getLogger(__name__)


def open_source(camera: CameraConfig) -> FrameSource:
    """Open what the configuration names.

    Raises
    ------
    CameraError
        If that is not possible, for instance because OpenCV is missing.
    """
    address = SourceAddress.parse(camera.device_id)
    kind = address.kind
    if kind is SourceKind.DEMO:
        from billiards_shm.sources.demo.table import DemoTable

        return DemoTable(*camera.resolution, camera.fps)
    if kind is SourceKind.PIPE:
        _log.info("%s is a pipe: waiting for what another program writes into it; it can be read only once", address)
    if camera.backend == "av" or camera.as_recorded or (camera.backend == "auto" and _for_av(kind, camera)):
        return _open_with_av(camera)
    try:
        # OpenCV's driver for V4L2 takes its timeout only from here, and only when it is imported.
        os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(math.ceil(camera.read_timeout_sec)))
        from billiards_shm.sources.camera import Camera
        from billiards_shm.sources.images import ImageSequence
    except ImportError as error:
        raise CameraError(
            f"OpenCV cannot be imported ({error}): pip install 'billiards-shm[headless]', which needs no other library"
        ) from error
    if camera.backend == "images" or (camera.backend == "auto" and kind is SourceKind.IMAGES):
        return ImageSequence(camera)
    return Camera(camera)


def _for_av(kind: SourceKind, camera: CameraConfig) -> bool:
    """Whether PyAV is the better engine for a source, and installed. Only OpenCV decodes with a graphics card."""
    wanted = kind in (SourceKind.FILE, SourceKind.PIPE, SourceKind.URL) and camera.hardware_acceleration == "none"
    return wanted and importlib.util.find_spec("av") is not None


def _open_with_av(camera: CameraConfig) -> FrameSource:
    try:
        from billiards_shm.sources.recording import Recording
        from billiards_shm.sources.video import Video
    except ImportError as error:
        raise CameraError(f"PyAV cannot be imported ({error}): pip install 'billiards-shm[av]'") from error
    return Recording(camera) if camera.as_recorded else Video(camera)

"""Settings of a camera: each is set, read back, and reported if the driver chose another value."""

from typing import Final

import cv2

from billiards_shm.config.model import CameraConfig
from billiards_shm.sources.protocol import VideoFormat

__all__ = ["ACCELERATIONS", "apply_settings", "fourcc_text", "negotiated"]

ACCELERATIONS: Final = {
    "none": cv2.VIDEO_ACCELERATION_NONE,
    "any": cv2.VIDEO_ACCELERATION_ANY,
    "d3d11": cv2.VIDEO_ACCELERATION_D3D11,
    "vaapi": cv2.VIDEO_ACCELERATION_VAAPI,
    "mfx": cv2.VIDEO_ACCELERATION_MFX,
}

# Switches come before the levels they control: a driver refuses a level that it chooses itself.
_SWITCHES: Final = {
    "auto_exposure": (cv2.CAP_PROP_AUTO_EXPOSURE, "exposure"),
    "auto_white_balance": (cv2.CAP_PROP_AUTO_WB, "white_balance"),
    "autofocus": (cv2.CAP_PROP_AUTOFOCUS, "focus"),
}
_LEVELS: Final = {
    "buffer_size": cv2.CAP_PROP_BUFFERSIZE,
    "exposure": cv2.CAP_PROP_EXPOSURE,
    "gain": cv2.CAP_PROP_GAIN,
    "brightness": cv2.CAP_PROP_BRIGHTNESS,
    "contrast": cv2.CAP_PROP_CONTRAST,
    "saturation": cv2.CAP_PROP_SATURATION,
    "white_balance": cv2.CAP_PROP_WB_TEMPERATURE,
    "focus": cv2.CAP_PROP_FOCUS,
}
# In V4L2 exposure is not a switch but a menu: automatic 0, manual 1, aperture priority (webcams' automatic) 3.
_V4L2_EXPOSURE: Final = {True: (3, 0), False: (1,)}
# Drivers round: a level counts as taken if it is within a hundredth of what was asked for.
_TOLERATED: Final = 0.01


def apply_settings(capture: cv2.VideoCapture, config: CameraConfig) -> tuple[str, ...]:
    """Ask an open camera for everything that the configuration names.

    Returns
    -------
    tuple of str
        What the driver did not take, each a sentence with the requested and the actual value. Size, rate and format
        are not included: see `negotiated`.
    """
    # The format comes first because it decides which sizes and rates are available.
    if config.fourcc is not None:
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*config.fourcc))
    width, height = config.resolution
    capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
    capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
    capture.set(cv2.CAP_PROP_FPS, config.fps)
    refused = [_switch(capture, name, config) for name in _SWITCHES]
    refused += [_level(capture, name, getattr(config, name)) for name in _LEVELS]
    return tuple(text for text in refused if text is not None)


def negotiated(capture: cv2.VideoCapture) -> VideoFormat:
    """Size, rate and format as the driver says they are."""
    return VideoFormat(
        int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        float(capture.get(cv2.CAP_PROP_FPS)),
        fourcc_text(capture.get(cv2.CAP_PROP_FOURCC)),
    )


def fourcc_text(number: float) -> str:
    """The four characters that OpenCV packs into a number; empty if it is not such a code."""
    if not 0 < number < 2**32:
        return ""
    text = int(number).to_bytes(4, "little").rstrip(b"\0 ")
    return text.decode("ascii") if text.isascii() and text.decode("ascii").isprintable() else ""


def _switch(capture: cv2.VideoCapture, name: str, config: CameraConfig) -> str | None:
    number, level = _SWITCHES[name]
    on: bool | None = getattr(config, name)
    if on is None and getattr(config, level) is not None:
        on = False
    if on is None:
        return None
    values: tuple[int, ...] = (int(on),)
    if number == cv2.CAP_PROP_AUTO_EXPOSURE and capture.getBackendName() == "V4L2":
        values = _V4L2_EXPOSURE[on]
    if any(capture.set(number, value) and capture.get(number) == value for value in values):
        return None
    return f"{name}: asked for {'on' if on else 'off'}, {_actual_value(capture, number)}"


def _level(capture: cv2.VideoCapture, name: str, wanted: float | None) -> str | None:
    if wanted is None:
        return None
    number = _LEVELS[name]
    taken = capture.set(number, wanted)
    if taken and abs(capture.get(number) - wanted) <= _TOLERATED * max(1.0, abs(wanted)):
        return None
    return f"{name}: asked for {wanted:g}, {_actual_value(capture, number)}"


def _actual_value(capture: cv2.VideoCapture, number: int) -> str:
    """OpenCV returns -1 or 0 for settings that a driver does not know."""
    value = capture.get(number)
    return "the driver has no such setting" if value == -1 else f"the driver has {value:g}"

"""Settings requested from a camera whose driver accepts some of them."""

from typing import Any

import cv2
import pytest

from billiards_shm.config.model import CameraConfig
from billiards_shm.sources.camera_settings import apply_settings, fourcc_text, negotiated


class Driver:
    """A `cv2.VideoCapture` with configurable limits."""

    def __init__(self, backend: str = "V4L2", **takes: Any) -> None:
        self.backend = backend
        self.values: dict[int, float] = {}
        self.asked: list[int] = []
        self.takes = {getattr(cv2, f"CAP_PROP_{name}"): value for name, value in takes.items()}

    def set(self, number: int, value: float) -> bool:
        self.asked.append(number)
        taken = self.takes.get(number, value)
        if taken is None:
            return False
        self.values[number] = taken(value) if callable(taken) else taken
        return True

    def get(self, number: int) -> float:
        return self.values.get(number, -1.0)

    def getBackendName(self) -> str:  # noqa: N802  # OpenCV's name
        return self.backend


def config(**keys: Any) -> CameraConfig:
    return CameraConfig(**keys)


LEVELS = {
    "buffer_size": cv2.CAP_PROP_BUFFERSIZE,
    "exposure": cv2.CAP_PROP_EXPOSURE,
    "gain": cv2.CAP_PROP_GAIN,
    "brightness": cv2.CAP_PROP_BRIGHTNESS,
    "contrast": cv2.CAP_PROP_CONTRAST,
    "saturation": cv2.CAP_PROP_SATURATION,
    "white_balance": cv2.CAP_PROP_WB_TEMPERATURE,
    "focus": cv2.CAP_PROP_FOCUS,
}


@pytest.mark.parametrize("name", LEVELS)
def test_each_level_reaches_the_driver(name: str) -> None:
    driver = Driver()
    assert apply_settings(driver, config(**{name: 7})) == ()
    assert driver.values[LEVELS[name]] == 7


def test_settings_that_are_not_configured_are_left_alone() -> None:
    driver = Driver()
    assert apply_settings(driver, config()) == ()
    assert set(driver.asked) == {cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FPS}


def test_the_format_is_requested_before_the_size_because_it_decides_the_sizes() -> None:
    driver = Driver()
    apply_settings(driver, config(fourcc="MJPG"))
    assert driver.asked[0] == cv2.CAP_PROP_FOURCC
    assert negotiated(driver).fourcc == "MJPG"


def test_a_level_that_the_driver_changes_is_reported_with_both_values() -> None:
    driver = Driver(GAIN=lambda value: min(value, 3))
    assert apply_settings(driver, config(gain=5)) == ("gain: asked for 5, the driver has 3",)


def test_a_level_that_the_driver_refuses_is_reported() -> None:
    driver = Driver(FOCUS=None)
    assert apply_settings(driver, config(focus=5)) == ("focus: asked for 5, the driver has no such setting",)


def test_rounding_does_not_count_as_refusal() -> None:
    driver = Driver(BRIGHTNESS=lambda value: round(value))
    assert apply_settings(driver, config(brightness=100.4)) == ()


@pytest.mark.parametrize(
    ("backend", "switch", "number", "value"),
    [
        ("V4L2", {"auto_exposure": True}, cv2.CAP_PROP_AUTO_EXPOSURE, 3),
        ("V4L2", {"auto_exposure": False}, cv2.CAP_PROP_AUTO_EXPOSURE, 1),
        ("MSMF", {"auto_exposure": True}, cv2.CAP_PROP_AUTO_EXPOSURE, 1),
        ("MSMF", {"auto_exposure": False}, cv2.CAP_PROP_AUTO_EXPOSURE, 0),
        ("V4L2", {"auto_white_balance": True}, cv2.CAP_PROP_AUTO_WB, 1),
        ("V4L2", {"autofocus": False}, cv2.CAP_PROP_AUTOFOCUS, 0),
    ],
)
def test_switches_are_written_as_the_backend_wants_them(
    backend: str, switch: dict[str, bool], number: int, value: int
) -> None:
    driver = Driver(backend)
    assert apply_settings(driver, config(**switch)) == ()
    assert driver.values[number] == value


def test_a_camera_without_aperture_priority_is_set_to_full_automatic() -> None:
    driver = Driver(AUTO_EXPOSURE=lambda value: value if value in (0, 1) else 1)
    assert apply_settings(driver, config(auto_exposure=True)) == ()
    assert driver.values[cv2.CAP_PROP_AUTO_EXPOSURE] == 0


@pytest.mark.parametrize(
    ("level", "switch"),
    [
        ("exposure", cv2.CAP_PROP_AUTO_EXPOSURE),
        ("white_balance", cv2.CAP_PROP_AUTO_WB),
        ("focus", cv2.CAP_PROP_AUTOFOCUS),
    ],
)
def test_a_level_first_switches_off_the_automatic_that_would_choose_it(level: str, switch: int) -> None:
    driver = Driver("MSMF")
    assert apply_settings(driver, config(**{level: 10})) == ()
    assert driver.values[switch] == 0
    assert driver.asked.index(switch) < driver.asked.index(LEVELS[level])


def test_a_switch_that_the_driver_refuses_is_reported() -> None:
    driver = Driver(AUTOFOCUS=None)
    assert apply_settings(driver, config(autofocus=True)) == (
        "autofocus: asked for on, the driver has no such setting",
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (cv2.VideoWriter.fourcc(*"YUYV"), "YUYV"),
        (cv2.VideoWriter.fourcc(*"Y16 "), "Y16"),
        (-1, ""),
        (0, ""),
        (1e12, ""),
    ],
)
def test_formats_are_shown_as_four_characters_if_possible(number: float, text: str) -> None:
    assert fourcc_text(number) == text

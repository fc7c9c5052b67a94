"""Frames on their way into the slot: formats, rotations, mirrors and crops, each the same as with numpy."""

import itertools
from typing import Any

import cv2
import numpy as np
import pytest
from raw_frames import as_raw

from billiards_shm import CameraError
from billiards_shm.config.model import CameraConfig
from billiards_shm.sources.conversion import FrameConverter, placeholder

HEIGHT, WIDTH = 48, 64
RNG = np.random.default_rng(1)
PICTURE = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
SMOOTH = cv2.resize(RNG.integers(60, 190, (3, 3, 3), np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def expected(image: np.ndarray, rotation: int, flip: str, crop: tuple[int, ...] | None = None) -> np.ndarray:
    image = np.rot90(image, -(rotation // 90))
    if flip in ("horizontal", "both"):
        image = image[:, ::-1]
    if flip in ("vertical", "both"):
        image = image[::-1]
    if crop is not None:
        left, top, width, height = crop
        image = image[top : top + height, left : left + width]
    return image


def picture(turn: int = 0, raw_format: str = "", **keys: Any) -> FrameConverter:
    return FrameConverter(CameraConfig(**keys), turn, raw_format)


def slot_for(shape: tuple[int, ...]) -> np.ndarray:
    """Memory of that shape with padded rows, the worst case of a slot."""
    return np.zeros((shape[0], shape[1] + 16, 3), np.uint8)[:, : shape[1]]


@pytest.mark.parametrize(
    ("rotation", "flip", "crop"),
    list(itertools.product((0, 90, 180, 270), ("none", "horizontal", "vertical", "both"), (None, (3, 5, 20, 30)))),
)
def test_rotated_mirrored_and_cropped_pictures_land_in_the_slot(
    rotation: int, flip: str, crop: tuple[int, ...] | None
) -> None:
    ours = picture(rotation=rotation, flip=flip, crop=crop)
    theirs = expected(PICTURE, rotation, flip, crop)
    slot = slot_for(theirs.shape)
    if ours.straight:
        assert crop is None
        assert np.array_equal(theirs, PICTURE)
        return
    assert ours.into(PICTURE, slot) is slot
    assert np.array_equal(slot, theirs)
    assert ours.size(WIDTH, HEIGHT) == (theirs.shape[1], theirs.shape[0])
    without_slot = ours.into(PICTURE, None)
    assert without_slot is not None
    assert np.array_equal(without_slot, theirs)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_the_files_rotation_and_the_users_add_up(turn: int) -> None:
    upright = picture(turn, rotation=360 - turn)
    assert upright.straight
    twice = picture(turn, rotation=180).into(PICTURE, None)
    assert twice is not None
    assert np.array_equal(twice, expected(PICTURE, (turn + 180) % 360, "none"))


def test_memory_of_another_shape_stays_untouched() -> None:
    slot = np.zeros((10, 10, 3), np.uint8)
    image = picture(crop=(0, 0, 20, 20)).into(PICTURE, slot)
    assert image is not None
    assert image.shape == (20, 20, 3)
    assert not slot.any()


def test_a_crop_that_reaches_beyond_the_frame_ends_with_it() -> None:
    image = picture(crop=(60, 40, 100, 100)).into(PICTURE, None)
    assert image is not None
    assert np.array_equal(image, PICTURE[40:, 60:])


def test_a_crop_outside_the_frame_is_an_error_with_both_sizes() -> None:
    with pytest.raises(CameraError, match=r"crop \[64, 0, 10, 10\] lies outside the frames, which are 64x48"):
        picture(crop=(64, 0, 10, 10)).into(PICTURE, None)


# Raw formats.


RAW = ("YUYV", "YUY2", "UYVY", "NV12", "NV21", "I420", "YU12", "YV12", "MJPG", "GREY")
LAYS: tuple[dict[str, Any], ...] = (
    {},
    {"rotation": 90},
    {"flip": "both"},
    {"crop": (4, 6, 20, 30)},
    {"crop": (5, 7, 21, 31)},
    {"rotation": 270, "flip": "vertical", "crop": (3, 5, 20, 30)},
)


@pytest.mark.parametrize(("fourcc", "keys"), list(itertools.product(RAW, LAYS)))
def test_raw_formats_become_pictures_in_the_slot(fourcc: str, keys: dict[str, Any]) -> None:
    ours = picture(raw_format=fourcc, publish="both", **keys)
    source = SMOOTH if fourcc != "GREY" else cv2.cvtColor(cv2.cvtColor(SMOOTH, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    theirs = expected(source, keys.get("rotation", 0), keys.get("flip", "none"), keys.get("crop"))
    slot = slot_for(theirs.shape)
    assert not ours.straight
    assert ours.into(as_raw(SMOOTH, fourcc), slot) is slot
    # YUV of video has 220 levels and one colour for two or four pixels; a swapped channel would differ by far more.
    assert np.abs(slot.astype(int) - theirs).mean() < 3


def test_a_damaged_compressed_frame_is_none() -> None:
    ours = picture(raw_format="MJPG", publish="both")
    assert ours.into(np.zeros((1, 500), np.uint8), None) is None


# Placeholders.


@pytest.mark.parametrize("shape", [(48, 64, 3), (1080, 1920, 3), (720, 200, 3)])
def test_a_placeholder_has_its_lines_within_the_picture(shape: tuple[int, ...]) -> None:
    target = np.zeros(shape, np.uint8)
    placeholder(target, ["NO PICTURE", "rtsp://camera/ä", "timeout: no frame within 5.0 s", "stalled for 3 s"])
    background = target[0, 0].copy()
    written = (target != background).any(axis=2)
    assert 0.002 < written.mean() < 0.5
    edges = np.concatenate([written[0], written[-1], written[:, 0], written[:, -1]])
    assert not edges.any()

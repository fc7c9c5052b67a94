"""A picture that does not change is noticed; one that hardly changes is not mistaken for it."""

import numpy as np
import pytest

from billiards_shm.capture.frozen import LONGEST_GROWTH, FrozenPicture

SECOND = 1_000_000_000
START = 5 * SECOND
STILL = np.random.default_rng(2).integers(0, 256, (120, 160, 3), np.uint8)


def frozen_at(pictures: FrozenPicture, image: np.ndarray, seconds: float, fps: int = 10) -> list[float]:
    """Show the same frame for a while; return the seconds at which it was called frozen."""
    found = []
    for number in range(round(seconds * fps)):
        now = START + number * SECOND // fps
        if pictures.is_frozen(image, now):
            found.append((now - START) / SECOND)
    return found


def test_identical_frames_are_frozen_after_the_limit() -> None:
    assert frozen_at(FrozenPicture(3.0), STILL, 4) == [3.0]


def test_without_a_limit_nothing_is_ever_frozen() -> None:
    assert frozen_at(FrozenPicture(0.0), STILL, 100) == []


@pytest.mark.parametrize("place", [(0, 0), (0, 159), (119, 0), (60, 80), (61, 79)])
def test_a_single_flickering_pixel_is_a_live_picture(place: tuple[int, int]) -> None:
    pictures = FrozenPicture(3.0)
    other = STILL.copy()
    other[place] ^= 1
    # As a camera does: every frame is a little different from the last.
    shown = [
        pictures.is_frozen((STILL, other)[number // 7 % 2], START + number * SECOND // 10) for number in range(200)
    ]
    assert not any(shown)


def test_a_slot_with_padded_rows_is_compared_too() -> None:
    padded = np.zeros((120, 170, 3), np.uint8)
    padded[:, :160] = STILL
    pictures = FrozenPicture(2.0)
    # The change is outside the picture.
    for number in range(21):
        padded[:, 160:] = number
        frozen = pictures.is_frozen(padded[:, :160], START + number * SECOND // 10)
    assert frozen


def test_a_picture_of_another_size_is_another_picture() -> None:
    pictures = FrozenPicture(2.0)
    assert frozen_at(pictures, np.zeros((48, 64, 3), np.uint8), 1.9) == []
    assert not pictures.is_frozen(np.zeros((96, 128, 3), np.uint8), START + 3 * SECOND)


def test_a_static_scene_gets_twice_as_long_each_time_up_to_a_limit() -> None:
    times = frozen_at(FrozenPicture(1.0), STILL, 400, fps=2)
    waits = np.diff([0.0, *times])
    assert list(waits[:8]) == [1, 2, 4, 8, 16, 32, 64, 64]
    assert max(waits) == LONGEST_GROWTH


def test_after_a_change_the_first_limit_counts_again() -> None:
    pictures = FrozenPicture(1.0)
    frozen_at(pictures, STILL, 10)
    assert not pictures.is_frozen(255 - STILL, START + 20 * SECOND)
    assert not pictures.is_frozen(255 - STILL, START + 20 * SECOND + SECOND // 2)
    assert pictures.is_frozen(255 - STILL, START + 21 * SECOND)

"""The demo source: numbered pictures of a table."""

import cv2
import numpy as np
import pytest

from billiards_shm import CameraError
from billiards_shm.sources.demo.shot import BALL_RADIUS, LENGTH, SECONDS, WIDTH, Shot
from billiards_shm.sources.demo.table import SMALLEST, DemoTable, read_counter

SIZES = [(640, 360), (1920, 1080), (640, 480), (480, 640), (200, 50), (97, 131), SMALLEST]


def draw(number: int, size: tuple[int, int] = (320, 180), fps: float = 30.0) -> np.ndarray:
    table = DemoTable(*size, fps, first=number)
    table.grab()
    return table.retrieve(None)


@pytest.fixture(scope="module")
def shot() -> Shot:
    return Shot()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("number", [1, 2, 1000, 2**31 + 12345])
def test_the_number_of_a_frame_can_be_read_back_at_any_size(size: tuple[int, int], number: int) -> None:
    assert read_counter(draw(number, size)) == number


@pytest.mark.parametrize("size", [(2000, 60), (64, 2000)])
def test_the_table_is_surrounded_by_floor_however_long_the_picture(size: tuple[int, int]) -> None:
    corners = draw(1, size)[[[0], [-1]], [0, -1]]
    assert (corners < 60).all(), corners


def test_frames_are_numbered_from_one_without_gaps() -> None:
    table = DemoTable(160, 120, 30)
    numbers = []
    for _ in range(20):
        assert table.grab()
        numbers.append(read_counter(table.retrieve(None)))
    assert numbers == list(range(1, 21))


@pytest.mark.parametrize("quality", [20, 80])
@pytest.mark.parametrize("width", [1280, 640, 320])
def test_the_number_survives_scaling_and_jpeg(width: int, quality: int) -> None:
    frame = draw(0xABCDE, (1920, 1080))
    small = cv2.resize(frame, (width, width * 9 // 16), interpolation=cv2.INTER_AREA)
    done, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    assert read_counter(cv2.imdecode(encoded, cv2.IMREAD_COLOR)) == 0xABCDE
    assert read_counter(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)) == 0xABCDE


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_frame_without_a_number_is_an_error(value: int) -> None:
    with pytest.raises(ValueError, match="no readable counter"):
        read_counter(np.full((180, 320, 3), value, np.uint8))


def test_a_frame_with_a_damaged_number_is_an_error() -> None:
    frame = draw(7)
    strip = frame[int(0.962 * 180) :]
    middle = strip.shape[1] // 2
    strip[:, middle : middle + 20] = 255 - strip[:, middle : middle + 20]
    with pytest.raises(ValueError, match="no readable counter"):
        read_counter(frame)


def test_a_frame_too_small_for_a_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="too small"):
        read_counter(np.zeros((3, 10, 3), np.uint8)[:, :0])


def test_the_same_number_is_the_same_picture_whatever_came_before() -> None:
    one_after_another = DemoTable(320, 180, 30)
    for _ in range(90):
        one_after_another.grab()
        frame = one_after_another.retrieve(None)
    assert np.array_equal(frame, draw(90))


def test_the_balls_move_from_frame_to_frame() -> None:
    before, after = draw(60), draw(61)
    field = slice(30, 150)
    assert (before[field] != after[field]).any(axis=2).sum() > 100


def test_pictures_are_drawn_into_the_callers_memory() -> None:
    table = DemoTable(320, 180, 30)
    table.grab()
    padded = np.zeros((180, 336, 3), np.uint8)
    slot = padded[:, :320]
    assert table.retrieve(slot) is slot
    assert np.array_equal(slot, draw(1))
    assert not padded[:, 320:].any()


@pytest.mark.parametrize("slot", [np.zeros((180, 319, 3), np.uint8), np.zeros((180, 320, 3), np.uint16)])
def test_memory_of_another_shape_or_type_stays_untouched(slot: np.ndarray) -> None:
    table = DemoTable(320, 180, 30)
    table.grab()
    frame = table.retrieve(slot)
    assert frame is not slot
    assert not slot.any()
    assert np.array_equal(frame, draw(1))


def test_a_second_of_the_shot_has_fps_frames() -> None:
    # The same moment at two rates: only the numbers in the picture differ.
    slow, fast = draw(31, fps=30), draw(61, fps=60)
    field = slice(30, 150)
    assert np.array_equal(slow[field], fast[field])
    table = DemoTable(160, 120, 50, first=101)
    table.grab()
    assert table.position_ms == pytest.approx(2000)


def test_a_size_without_room_for_the_counter_is_refused_with_what_it_needs() -> None:
    with pytest.raises(CameraError, match="40x30 is too small, it needs at least 64x48"):
        DemoTable(40, 30, 30)


def test_balls_stay_on_the_field_and_out_of_each_other(shot: Shot) -> None:
    for moment in np.arange(0, SECONDS, 0.05):
        positions = shot.at(float(moment))
        centres = positions.centres[positions.on_table]
        assert (centres >= BALL_RADIUS - 1e-6).all()
        assert (centres <= np.array([LENGTH, WIDTH]) - BALL_RADIUS + 1e-6).all()
        apart = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1))
        np.fill_diagonal(apart, 1.0)
        # While a whole rack is pushed, balls overlap a little until the next step.
        assert apart.min() > 1.6 * BALL_RADIUS


def test_balls_turn_while_they_roll_and_only_then(shot: Shot) -> None:
    before, after = shot.at(1.0), shot.at(1.1)
    way = np.hypot(*(after.centres - before.centres).T)
    turn = np.abs(after.axes - before.axes).max(axis=(1, 2))
    on_table = before.on_table & after.on_table
    assert (turn[on_table & (way > 0.03)] > 0.1).all()
    still_before, still_after = shot.at(0.1), shot.at(0.5)
    assert np.allclose(still_before.axes, still_after.axes)


def test_the_shot_repeats_itself(shot: Shot) -> None:
    assert np.allclose(shot.at(3.3).centres, shot.at(3.3 + 5 * SECONDS).centres)

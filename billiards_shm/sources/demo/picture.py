"""What the demo looks like: the table, painted once, and the balls, painted into every frame. Colours are BGR."""

import math
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from billiards_shm.sources.demo.shot import BALL_RADIUS, LENGTH, POCKETS, WIDTH, BallPositions
from billiards_shm.sources.protocol import Image

__all__ = ["BallPainter", "TableView", "digits", "paint_table"]

# With these rails the table has the shape of a 16:9 picture.
_CUSHION: Final = 0.05
_RAIL: Final = 0.13
_OUTER_LENGTH: Final = LENGTH + 2 * (_CUSHION + _RAIL)
_OUTER_WIDTH: Final = WIDTH + 2 * (_CUSHION + _RAIL)
_POCKET_RADIUS: Final = 0.066

_FELT: Final = (92.0, 132.0, 24.0)
_CUSHION_COLOUR: Final = (70.0, 104.0, 14.0)
_WOOD: Final = (34.0, 62.0, 118.0)
_FLOOR: Final = (44.0, 40.0, 38.0)
_IVORY: Final = (214.0, 236.0, 242.0)
_COLOURS: Final = (
    (0.0, 190.0, 250.0),
    (190.0, 70.0, 20.0),
    (30.0, 30.0, 215.0),
    (130.0, 40.0, 95.0),
    (10.0, 110.0, 245.0),
    (70.0, 125.0, 15.0),
    (35.0, 25.0, 125.0),
    (24.0, 24.0, 24.0),
)
"""Of balls 1 to 8; 9 to 15 have those of 1 to 7, as a stripe."""

_FONT: Final = {
    "0": "01110 10001 10011 10101 11001 10001 01110",
    "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111",
    "3": "01110 10001 00001 00110 00001 10001 01110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "00110 01000 10000 11110 10001 10001 01110",
    "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110",
    "9": "01110 10001 10001 01111 00001 00010 01100",
    ":": "00000 00100 00100 00000 00100 00100 00000",
    ".": "00000 00000 00000 00000 00000 00110 00110",
    " ": "00000 00000 00000 00000 00000 00000 00000",
}

_Outline = tuple[int, int, int, int]
_Mask = npt.NDArray[np.bool_]
_Floats = npt.NDArray[np.float32]


@cache
def _glyph(letter: str, scale: int) -> _Mask:
    rows = [[cell == "1" for cell in row + "0"] for row in _FONT[letter].split()]
    return np.repeat(np.repeat(np.array(rows), scale, axis=0), scale, axis=1)


def digits(text: str, scale: int) -> _Mask:
    """Write digits, points, colons and blanks: a mask 7 `scale` high and 6 `scale` wide for each character."""
    return np.hstack([_glyph(letter, scale) for letter in text])


class TableView:
    """Where the table lies in the picture."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self.scale = min(width / _OUTER_LENGTH, height / _OUTER_WIDTH)
        """Pixels per metre."""
        self._left = (width - LENGTH * self.scale) / 2
        self._top = (height - WIDTH * self.scale) / 2

    def x(self, metres: float) -> float:
        """Column of a place on the playing field."""
        return self._left + metres * self.scale

    def y(self, metres: float) -> float:
        """Row of a place on the playing field."""
        return self._top + metres * self.scale


def paint_table(view: TableView) -> Image:
    """Paint the table without balls.

    Returns
    -------
    numpy.ndarray
        (height, width, 3), uint8.
    """
    picture = np.empty((view.height, view.width, 3), np.uint8)
    grain = np.random.Generator(np.random.PCG64(8)).normal(0.0, 1.0, (128, 128)).astype(np.float32)
    wood = np.cumsum(grain, axis=1)
    # From the floor inwards, each up to where the next one begins.
    layers = (
        (math.inf, _FLOOR, grain * 0.010),
        (_CUSHION + _RAIL, _WOOD, wood / np.abs(wood).max() * 0.12),
        (_CUSHION + 0.008, (20.0, 36.0, 66.0), grain * 0),
        (_CUSHION, _CUSHION_COLOUR, grain * 0.012),
        (0.012, (56.0, 84.0, 10.0), grain * 0.012),
        (0.0, _FELT, grain * 0.014),
    )
    outlines = [_outline(view, margin) for margin, _, _ in layers] + [(view.width, 0, view.height, 0)]
    for (_, colour, texture), outer, inner in zip(layers, outlines, outlines[1:], strict=False):
        _paint_between(picture, view, outer, inner, colour, texture)
    _paint_marks(picture, view)
    for x, y in POCKETS:
        x, y = x + (x - LENGTH / 2) * 0.006, y + (y - WIDTH / 2) * 0.012
        _paint_disc(picture, view, x, y, _POCKET_RADIUS + 0.014, (48.0, 66.0, 88.0))
        _paint_disc(picture, view, x, y, _POCKET_RADIUS, (10.0, 10.0, 10.0))
    return picture


def _outline(view: TableView, margin: float) -> _Outline:
    """First and last column, first and last row of the playing field with `margin` metres around it."""
    left, right = (round(min(max(view.x(x), 0), view.width)) for x in (-margin, LENGTH + margin))
    top, bottom = (round(min(max(view.y(y), 0), view.height)) for y in (-margin, WIDTH + margin))
    return left, right, top, bottom


def _paint_between(
    picture: Image,
    view: TableView,
    outer: _Outline,
    inner: _Outline,
    colour: tuple[float, float, float],
    grain: _Floats,
) -> None:
    """Paint what lies between two outlines, lit by a lamp above the middle."""
    across = (np.arange(view.width, dtype=np.float32) - view.width / 2) / view.width
    lit = (1.12 - 0.9 * across * across).astype(np.float32)
    repeated = np.tile(grain, (1, view.width // grain.shape[1] + 1))[:, : view.width]
    single = np.array(colour, np.float32)
    left, right, top, bottom = outer
    # Row by row: a picture's worth of floating-point numbers would not fit the caches.
    for row in range(top, bottom):
        place = (row - view.height / 2) / view.height
        light = lit * np.float32(1.0 - 0.7 * place * place) + repeated[row % grain.shape[0]]
        beside = inner[2] <= row < inner[3]
        for start, stop in ((left, inner[0]), (inner[1], right)) if beside else ((left, right),):
            picture[row, start:stop] = np.minimum(light[start:stop, None] * single, 255)


def _paint_marks(picture: Image, view: TableView) -> None:
    column = round(view.x(LENGTH / 4))
    thickness = max(1, round(0.004 * view.scale))
    line = picture[round(view.y(0)) : round(view.y(WIDTH)), column : column + thickness]
    line[:] = line + (255 - line) // 4
    for x in (LENGTH / 4, LENGTH * 0.72):
        _paint_disc(picture, view, x, WIDTH / 2, 0.009, (170.0, 200.0, 150.0))
    sight = _CUSHION + _RAIL * 0.22
    for eighth in range(1, 8):
        if eighth != 4:
            for y in (-sight, WIDTH + sight):
                _paint_disc(picture, view, LENGTH * eighth / 8, y, 0.009, _IVORY)
    for quarter in range(1, 4):
        for x in (-sight, LENGTH + sight):
            _paint_disc(picture, view, x, WIDTH * quarter / 4, 0.009, _IVORY)


def _paint_disc(
    picture: Image, view: TableView, x: float, y: float, radius: float, colour: tuple[float, float, float]
) -> None:
    centre_x, centre_y, pixels = view.x(x), view.y(y), radius * view.scale
    left, top = int(centre_x - pixels - 1), int(centre_y - pixels - 1)
    size = int(2 * pixels + 4)
    away_x = np.arange(left, left + size) + 0.5 - centre_x
    away_y = np.arange(top, top + size) + 0.5 - centre_y
    cover = np.clip(pixels + 0.5 - np.hypot(away_x[None, :], away_y[:, None]), 0, 1)
    _blend(picture, left, top, np.array(colour, np.float32), cover[..., None].astype(np.float32))


def _blend(picture: Image, left: int, top: int, colours: _Floats, cover: _Floats) -> None:
    """Lay `colours` over the picture where `cover` is 1, let it shine through where it is less; clip at the edges."""
    height, width = cover.shape[:2]
    first_row, first_column = max(0, -top), max(0, -left)
    rows = slice(first_row, min(height, picture.shape[0] - top))
    columns = slice(first_column, min(width, picture.shape[1] - left))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    below = picture[top + rows.start : top + rows.stop, left + columns.start : left + columns.stop]
    if colours.ndim == 3:
        colours = colours[rows, columns]
    below[:] = below + (colours - below) * cover[rows, columns]


class BallPainter:
    """Paints shaded balls with their numbers and stripes, and their shadows.

    Everything that does not depend on how a ball lies is computed once, for every quarter of a pixel that its centre
    may be off the grid, so that balls roll smoothly in small pictures too.
    """

    _PARTS: Final = 4
    _NUMBER_CELLS: Final = 32

    def __init__(self, view: TableView) -> None:
        self._view = view
        self._radius = max(BALL_RADIUS * view.scale, 1.5)
        self._size = int(2 * self._radius) + 4
        parts = [(i / self._PARTS, j / self._PARTS) for j in range(self._PARTS) for i in range(self._PARTS)]
        self._spheres = [self._sphere(x, y) for x, y in parts]
        self._shadow_size = int(2.8 * self._radius) + 4
        self._shadows = [self._shadow(x, y) for x, y in parts]
        self._palettes = [self._palette(number) for number in range(len(_COLOURS) * 2)]
        self._numbers = [self._number(number) for number in range(len(_COLOURS) * 2)]
        self._painted: dict[int, tuple[bytes, _Floats]] = {}

    def paint(self, picture: Image, balls: BallPositions) -> None:
        """Paint the balls that are on the table into a picture of it."""
        places = [self._place(*centre) for centre in balls.centres]
        half = self._shadow_size // 2
        offset = round(self._radius * 0.3)
        for number in np.flatnonzero(balls.on_table):
            column, row, part = places[number]
            self._paint_shadow(picture, column - half + offset, row - half + offset, self._shadows[part])
        half = self._size // 2
        for number in np.flatnonzero(balls.on_table):
            column, row, part = places[number]
            colours = self._ball(int(number), part, balls.axes[number].astype(np.float32))
            _blend(picture, column - half, row - half, colours, self._spheres[part][3])

    def _ball(self, number: int, part: int, axes: _Floats) -> _Floats:
        """Paint one ball; one that has not moved since the last picture is not painted again."""
        pose = bytes([part]) + (axes * 512).astype(np.int16).tobytes()
        before = self._painted.get(number)
        if before is not None and before[0] == pose:
            return before[1]
        normals, shade, shine, _ = self._spheres[part]
        lit = np.minimum(self._texture(number, normals @ axes) * shade + shine, np.float32(255))
        colours: _Floats = lit.reshape(self._size, self._size, 3)
        self._painted[number] = pose, colours
        return colours

    def _place(self, x: float, y: float) -> tuple[int, int, int]:
        column, row = self._view.x(x), self._view.y(y)
        whole_column, whole_row = int(np.floor(column)), int(np.floor(row))
        part = int((row - whole_row) * self._PARTS) * self._PARTS + int((column - whole_column) * self._PARTS)
        return whole_column, whole_row, part

    def _grid(self, size: int, x: float, y: float) -> tuple[_Floats, _Floats]:
        """Distances of pixel centres from a ball's centre, which is (x, y) right of and below the middle pixel."""
        along = np.arange(size, dtype=np.float32) - size // 2 + 0.5
        return np.meshgrid(along - np.float32(x), along - np.float32(y))

    def _sphere(self, x: float, y: float) -> tuple[_Floats, _Floats, _Floats, _Floats]:
        across, down = self._grid(self._size, x, y)
        distance = np.hypot(across, down)
        cover = np.clip(self._radius + 0.5 - distance, 0, 1)
        inside = np.minimum(distance / self._radius, 0.999)
        direction = np.stack([across, down], axis=-1) / np.maximum(distance, 1e-6)[..., None] * inside[..., None]
        up = np.sqrt(1 - inside * inside)[..., None]
        normals: _Floats = np.concatenate([direction, up], axis=-1).reshape(-1, 3).astype(np.float32)
        light = np.array([-0.38, -0.5, 0.78], np.float32)
        lit = np.maximum(normals @ (light / np.linalg.norm(light)), 0)
        shade = 0.34 + 0.78 * lit
        between = light / np.linalg.norm(light) + np.array([0, 0, 1], np.float32)
        shine = 190.0 * np.maximum(normals @ (between / np.linalg.norm(between)), 0) ** 60
        single = np.float32
        return normals, shade[:, None].astype(single), shine[:, None].astype(single), cover[..., None].astype(single)

    def _shadow(self, x: float, y: float) -> npt.NDArray[np.uint16]:
        across, down = self._grid(self._shadow_size, x, y)
        distance = np.hypot(across, down) / self._radius
        dark = 0.55 * np.clip((1.4 - distance) / 0.75, 0, 1)
        return np.asarray(256 * (1 - dark), np.uint16)[..., None]

    @staticmethod
    def _paint_shadow(picture: Image, left: int, top: int, shadow: npt.NDArray[np.uint16]) -> None:
        rows = slice(max(0, -top), min(shadow.shape[0], picture.shape[0] - top))
        columns = slice(max(0, -left), min(shadow.shape[1], picture.shape[1] - left))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        below = picture[top + rows.start : top + rows.stop, left + columns.start : left + columns.stop]
        below[:] = (below * shadow[rows, columns]) >> 8

    @staticmethod
    def _palette(number: int) -> _Floats:
        """Colours of a ball: ground, stripe, number."""
        if number == 0:
            return np.array([_IVORY, _IVORY, (40, 40, 200)], np.float32)
        colour = _COLOURS[(number - 1) % len(_COLOURS)]
        return np.array([_IVORY, colour, (16, 16, 16)], np.float32)

    def _number(self, number: int) -> _Mask:
        """What a ball shows in its white disc; the cue ball has a red dot there."""
        cells = np.zeros((self._NUMBER_CELLS, self._NUMBER_CELLS), dtype=bool)
        if number == 0:
            cells[8:24, 8:24] = True
            return cells
        text = digits(str(number), 2)[:, :-2]
        top = (cells.shape[0] - text.shape[0]) // 2
        left = (cells.shape[1] - text.shape[1]) // 2
        cells[top : top + text.shape[0], left : left + text.shape[1]] = text
        return cells

    def _texture(self, number: int, local: _Floats) -> _Floats:
        """Colours of a ball's visible points, given as unit vectors along the ball's own axes."""
        up = local[:, 2]
        striped = number > len(_COLOURS)
        # Ball 0 has no stripe, but its palette makes that one ivory too.
        kinds = (np.abs(local[:, 1]) < 0.55).astype(np.uint8) if striped else np.ones(len(local), np.uint8)
        disc = np.flatnonzero(np.abs(up) > (0.86 if number else 0.95))
        across = local[disc, 0] * np.sign(up[disc])
        cells = self._NUMBER_CELLS
        columns = np.clip((across * 0.95 + 0.5) * cells, 0, cells - 1).astype(np.intp)
        rows = np.clip((local[disc, 1] * 0.95 + 0.5) * cells, 0, cells - 1).astype(np.intp)
        kinds[disc] = self._numbers[number][rows, columns] * np.uint8(2)
        return self._palettes[number][kinds]

"""The source `demo`: a pool table with rolling balls, for use where there is no camera.

Every picture is a function of its number alone. The number appears in the picture twice: as digits for people, and for
machines as a strip of black and white cells that survives scaling and JPEG; `read_counter` reads it back.
"""

import zlib
from functools import cache
from typing import Final

import numpy as np

from billiards_shm.errors import CameraError
from billiards_shm.sources.demo.picture import BallPainter, TableView, digits, paint_table
from billiards_shm.sources.demo.shot import Shot
from billiards_shm.sources.protocol import Delivery, Image, SourceDetails

__all__ = ["SMALLEST", "DemoTable", "read_counter"]

SMALLEST: Final = (64, 48)
"""Width and height below which the cells of the counter would have no pixel of their own."""

_MARK: Final = (True, False, True, False)
_COUNTER_BITS: Final = 32
_CHECK_BITS: Final = 8
_CELLS: Final = len(_MARK) + _COUNTER_BITS + _CHECK_BITS
# The strip in shares of width and height, so that it is found in a picture of any size.
_STRIP_LEFT: Final = 0.04
_STRIP_RIGHT: Final = 0.96
_STRIP_TOP: Final = 0.962
_STRIP_BOTTOM: Final = 0.990
_BLACK: Final = 16
_WHITE: Final = 235
_PANEL: Final = (28, 24, 20)
_DIGITS_COLOUR: Final = (120, 240, 250)


class DemoTable:
    """A source that draws its frames.

    Parameters
    ----------
    width, height : int
        Size of the frames.
    fps : float
        How many frames make a second of the shot; the capture loop keeps the pace.
    first : int
        Number of the first frame.

    Raises
    ------
    CameraError
        If the size is too small for the counter.
    """

    def __init__(self, width: int, height: int, fps: float, *, first: int = 1) -> None:
        if width < SMALLEST[0] or height < SMALLEST[1]:
            raise CameraError(
                f"cannot open demo: {width}x{height} is too small, it needs at least {SMALLEST[0]}x{SMALLEST[1]}"
            )
        self._details = SourceDetails("DEMO", width, height, fps, delivery=Delivery.RECORDED)
        self._number = first - 1
        self._shot = _shot()
        view = TableView(width, height)
        self._table = paint_table(view)
        self._balls = BallPainter(view)
        self._strip_rows, self._strip_columns = _strip(width, height)
        left, right = self._strip_columns
        places = (np.arange(left, right) + 0.5 - width * _STRIP_LEFT) / (width * (_STRIP_RIGHT - _STRIP_LEFT))
        self._cell_of_column = np.clip((places * _CELLS).astype(np.intp), 0, _CELLS - 1)
        self._digit_scale = max(1, round(height / 300))
        self._paint_panel()

    @property
    def details(self) -> SourceDetails:
        """Size and rate of the frames."""
        return self._details

    @property
    def position_ms(self) -> float | None:
        """Time of the current frame, counted from frame 1."""
        return (self._number - 1) * 1000.0 / self._details.fps

    @property
    def frames_left(self) -> int | None:
        """None: there is no end."""
        return None

    def grab(self) -> bool:
        """Move on to the next frame; there always is one."""
        self._number += 1
        return True

    def retrieve(self, target: Image | None) -> Image:
        """Draw the current frame, into `target` if that has its shape; see `FrameSource.retrieve`."""
        if target is None or target.shape != self._table.shape or target.dtype != np.uint8:
            target = np.empty_like(self._table)
        np.copyto(target, self._table)
        self._balls.paint(target, self._shot.at((self._number - 1) / self._details.fps))
        self._write_number(target)
        return target

    def release(self) -> None:
        """There is nothing to release."""

    def _paint_panel(self) -> None:
        """Prepare the field for the digits, black on the table's rail."""
        scale = self._digit_scale
        text_height, text_width = digits(self._text(), scale).shape
        self._digits_top = min(3 * scale, self._details.height - text_height)
        self._digits_left = round(self._details.width * _STRIP_LEFT)
        panel = self._table[
            self._digits_top - 2 * scale : self._digits_top + text_height + 2 * scale,
            max(0, self._digits_left - 3 * scale) : self._digits_left + text_width + 2 * scale,
        ]
        panel[:] = _PANEL

    def _text(self) -> str:
        hours, rest = divmod(max(self._number - 1, 0) / self._details.fps, 3600)
        minutes, seconds = divmod(rest, 60)
        return f"{max(self._number, 0):07d} {int(hours) % 100:02d}:{int(minutes):02d}:{seconds:04.1f}"

    def _write_number(self, target: Image) -> None:
        cells = np.where(_cells_of(self._number), _WHITE, _BLACK).astype(np.uint8)
        top, bottom = self._strip_rows
        left, right = self._strip_columns
        # A whole row of pixels first: broadcasting along the three channels is ten times as slow.
        target[top:bottom, left:right] = np.repeat(cells[self._cell_of_column], 3).reshape(-1, 3)
        mask = digits(self._text(), self._digit_scale)
        field = target[self._digits_top :, self._digits_left :][: mask.shape[0], : mask.shape[1]]
        field[mask[:, : field.shape[1]]] = _DIGITS_COLOUR


def read_counter(frame: Image) -> int:
    """Read a frame's number back from the strip at its lower edge.

    Parameters
    ----------
    frame : numpy.ndarray
        A picture of `DemoTable`, (height, width) or (height, width, channels), 8-bit; it may have been scaled or
        compressed since.

    Raises
    ------
    ValueError
        If there is no readable number in it.
    """
    height, width = frame.shape[:2]
    row = min(int((_STRIP_TOP + _STRIP_BOTTOM) / 2 * height), height - 1)
    cell = (_STRIP_RIGHT - _STRIP_LEFT) * width / _CELLS
    middles = _STRIP_LEFT * width + (np.arange(_CELLS) + 0.5) * cell
    reach = int(cell / 4)
    columns = middles.astype(np.intp)[:, None] + np.arange(-reach, reach + 1)
    if width < 1 or columns.max() >= width:
        raise ValueError(f"a frame {width} wide is too small for a counter")
    levels = frame[row][columns].reshape(_CELLS, -1).mean(axis=1)
    bits = levels > (levels.min() + levels.max()) / 2
    number = int.from_bytes(np.packbits(bits[len(_MARK) : len(_MARK) + _COUNTER_BITS]).tobytes(), "big")
    if levels.max() - levels.min() < (_WHITE - _BLACK) / 3 or not np.array_equal(bits, _cells_of(number)):
        raise ValueError("there is no readable counter in this frame")
    return number


@cache
def _shot() -> Shot:
    """The shot that all tables in a process show."""
    return Shot()


def _cells_of(number: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    data = (number % 2**_COUNTER_BITS).to_bytes(_COUNTER_BITS // 8, "big")
    check = zlib.crc32(data) % 2**_CHECK_BITS
    bits = np.unpackbits(np.frombuffer(data + bytes([check]), np.uint8)).astype(bool)
    return np.concatenate([np.array(_MARK), bits])


def _strip(width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """First row and column of the strip, and those after its last."""
    top = int(_STRIP_TOP * height)
    rows = (top, max(top + 1, min(height, round(_STRIP_BOTTOM * height))))
    return rows, (int(_STRIP_LEFT * width), min(width, round(_STRIP_RIGHT * width)))

"""The shot that the demo shows over and over: a break on a pool table, computed once.

Only additions, multiplications, divisions and square roots decide where a ball goes: collisions amplify the smallest
difference, and every machine computes these operations alike, bit for bit.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["BALLS", "BALL_RADIUS", "LENGTH", "POCKETS", "SECONDS", "WIDTH", "BallPositions", "Shot"]

LENGTH: Final = 2.54
"""Length of the playing field, in metres; x goes along it."""
WIDTH: Final = 1.27
"""Width of the playing field, in metres; y goes along it."""
BALL_RADIUS: Final = 0.036
"""In metres: a quarter more than a real ball's, so that small pictures show something."""
BALLS: Final = 16
"""Number 0 is the cue ball."""
SECONDS: Final = 12.0
"""Length of the shot; then it begins again."""
POCKETS: Final = tuple((x, y) for x in (-0.01, LENGTH / 2, LENGTH + 0.01) for y in (-0.015, WIDTH + 0.015))

_CATCHING: Final = 0.082
_STEPS_PER_SECOND: Final = 240
_SAMPLES_PER_SECOND: Final = 60
_AIMING_SECONDS: Final = 0.7
_DECELERATION: Final = 0.1
_BALL_RESTITUTION: Final = 0.95
_CUSHION_RESTITUTION: Final = 0.88
_RACK: Final = (1, 9, 2, 10, 8, 3, 11, 7, 14, 4, 5, 13, 15, 6, 12)
"""Numbers of the racked balls, row by row from the apex."""

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BallPositions:
    """Where the balls are at one moment."""

    centres: _Floats
    """(balls, 2): x and y in metres."""
    axes: _Floats
    """(balls, 3, 3): the axes of each ball, which turn with it, as columns in the table's coordinates."""
    on_table: npt.NDArray[np.bool_]


class Shot:
    """Ball positions at any moment of the shot."""

    def __init__(self) -> None:
        self._centres, self._on_table = _simulate()
        self._turns = _roll(self._centres)

    def at(self, seconds: float) -> BallPositions:
        """Return the positions `seconds` after the beginning; the shot repeats itself.

        Parameters
        ----------
        seconds : float
            Not negative.
        """
        moment = seconds % SECONDS * _SAMPLES_PER_SECOND
        before = min(int(moment), len(self._centres) - 2)
        share = min(moment - before, 1.0)
        centres = self._centres[before] * (1 - share) + self._centres[before + 1] * share
        turns = self._turns[before] * (1 - share) + self._turns[before + 1] * share
        return BallPositions(centres, _as_matrices(turns), self._on_table[before + 1])


def _racked() -> _Floats:
    centres = np.zeros((BALLS, 2))
    centres[0] = LENGTH * 0.25, WIDTH * 0.5 + 0.04
    spacing = 2 * BALL_RADIUS + 0.0004
    numbers = iter(_RACK)
    for row in range(5):
        for place in range(row + 1):
            centres[next(numbers)] = (
                LENGTH * 0.72 + row * spacing * 0.8660254,
                WIDTH * 0.5 + (place - row / 2) * spacing,
            )
    return centres


def _simulate() -> tuple[_Floats, npt.NDArray[np.bool_]]:
    centres = _racked()
    velocities = np.zeros((BALLS, 2))
    on_table = np.ones(BALLS, dtype=bool)
    step = 1 / _STEPS_PER_SECOND
    steps_per_sample = _STEPS_PER_SECOND // _SAMPLES_PER_SECOND
    samples = int(SECONDS * _SAMPLES_PER_SECOND) + 1
    all_centres = np.empty((samples, BALLS, 2))
    all_on_table = np.empty((samples, BALLS), dtype=bool)
    pockets = np.array(POCKETS)
    for number in range(samples * steps_per_sample):
        if number % steps_per_sample == 0:
            all_centres[number // steps_per_sample] = centres
            all_on_table[number // steps_per_sample] = on_table
        if number == int(_AIMING_SECONDS * _STEPS_PER_SECOND):
            velocities[0] = 8.6, -0.45
        centres = centres + velocities * step
        speeds = np.sqrt(velocities[:, 0] * velocities[:, 0] + velocities[:, 1] * velocities[:, 1])
        slower = np.maximum(speeds - _DECELERATION * step, 0.0)
        velocities = velocities * (slower / np.maximum(speeds, 1e-9))[:, None]
        _bounce_off_balls(centres, velocities, on_table)
        away = centres[:, None, :] - pockets[None, :, :]
        caught = (away[..., 0] * away[..., 0] + away[..., 1] * away[..., 1] < _CATCHING * _CATCHING).any(axis=1)
        on_table = on_table & ~caught
        velocities[~on_table] = 0.0
        _bounce_off_cushions(centres, velocities)
    return all_centres, all_on_table


def _bounce_off_balls(centres: _Floats, velocities: _Floats, on_table: npt.NDArray[np.bool_]) -> None:
    between = centres[None, :, :] - centres[:, None, :]
    squares = between[..., 0] * between[..., 0] + between[..., 1] * between[..., 1]
    touching = np.triu(squares < 4 * BALL_RADIUS * BALL_RADIUS, 1)
    touching &= on_table[:, None] & on_table[None, :]
    for one, other in np.argwhere(touching):
        normal = centres[other] - centres[one]
        distance = np.sqrt(normal[0] * normal[0] + normal[1] * normal[1])
        normal = normal / np.maximum(distance, 1e-9)
        overlap = 2 * BALL_RADIUS - distance
        if overlap <= 0:
            continue
        centres[one] -= normal * (overlap / 2)
        centres[other] += normal * (overlap / 2)
        relative = velocities[one] - velocities[other]
        closing = relative[0] * normal[0] + relative[1] * normal[1]
        if closing > 0:
            impulse = normal * (closing * (1 + _BALL_RESTITUTION) / 2)
            velocities[one] -= impulse
            velocities[other] += impulse


def _bounce_off_cushions(centres: _Floats, velocities: _Floats) -> None:
    for axis, size in ((0, LENGTH), (1, WIDTH)):
        position, speed = centres[:, axis], velocities[:, axis]
        low, high = position < BALL_RADIUS, position > size - BALL_RADIUS
        position[low] = BALL_RADIUS
        position[high] = size - BALL_RADIUS
        speed[low] = np.abs(speed[low]) * _CUSHION_RESTITUTION
        speed[high] = -np.abs(speed[high]) * _CUSHION_RESTITUTION


def _roll(centres: _Floats) -> _Floats:
    """Turn every ball as far as it rolls: quaternions (samples, balls, 4)."""
    turns = np.empty((len(centres), BALLS, 4))
    # Each ball lies differently, with its number somewhere on top.
    tilt = np.linspace(-0.35, 0.35, BALLS)
    turns[0] = np.stack([np.ones(BALLS), tilt, tilt[::-1] * 0.8, tilt * 2.2], axis=1)
    turns[0] /= np.sqrt((turns[0] * turns[0]).sum(axis=1, keepdims=True))
    for sample in range(1, len(centres)):
        way = (centres[sample] - centres[sample - 1]) / (2 * BALL_RADIUS)
        # Half the angle stands for its sine: at 60 samples a second it is small enough. Normalizing corrects the rest.
        one, x, y, z = turns[sample - 1].T
        a, b = -way[:, 1], way[:, 0]
        turned = np.stack([one - a * x - b * y, x + a * one + b * z, y + b * one - a * z, z + a * y - b * x], axis=1)
        turns[sample] = turned / np.sqrt((turned * turned).sum(axis=1, keepdims=True))
    return turns


def _as_matrices(turns: npt.NDArray[Any]) -> _Floats:
    w, x, y, z = (turns / np.sqrt((turns * turns).sum(axis=1, keepdims=True))).T
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    ).transpose(2, 0, 1)

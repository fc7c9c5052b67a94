"""A summary of many measurements: a few percentiles, and the best of the rounds' medians."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

CURVE = tuple(np.round(np.concatenate([np.linspace(0, 0.99, 100), np.linspace(0.991, 1, 10)]), 4).tolist())


@dataclass(frozen=True)
class Distribution:
    """Nanoseconds. `medians` are the rounds' medians, `best_median` is the least of them: the least disturbed round."""

    count: int
    p50: float
    p99: float
    p99_9: float
    max: float
    best_median: float
    medians: tuple[float, ...]
    curve: tuple[float, ...]

    @classmethod
    def of(cls, rounds: Iterable[Sequence[int | float]]) -> Self:
        """The distribution of several rounds' samples. ValueError: no sample at all."""
        arrays = [np.asarray(one, np.float64) for one in rounds if len(one)]
        if not arrays:
            raise ValueError("no samples: expected one round with at least one")
        everything = np.concatenate(arrays)
        medians = tuple(float(np.median(one)) for one in arrays)
        p50, p99, p99_9 = np.quantile(everything, (0.5, 0.99, 0.999)).tolist()
        return cls(
            count=everything.size,
            p50=p50,
            p99=p99,
            p99_9=p99_9,
            max=float(everything.max()),
            best_median=min(medians),
            medians=medians,
            curve=tuple(np.quantile(everything, CURVE).round().tolist()),
        )

    def as_dict(self) -> dict[str, Any]:
        """As a dict for JSON."""
        return asdict(self)


def paired_ratio(ours: dict[str, Any], floor: dict[str, Any]) -> float:
    """The median of the rounds' ratios of two distributions that were measured in turn, as dicts.

    Each round of one is compared with the adjacent round of the other, so a machine that is slow
    for a while slows down both.
    """
    pairs = zip(ours["medians"], floor["medians"], strict=False)  # a round that lost every frame has no median
    return float(np.median([our_median / their_median for our_median, their_median in pairs]))

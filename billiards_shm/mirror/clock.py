"""The clock of the other host: its offset from the local clock, by the shortest round trip."""

from collections import deque
from typing import Final

__all__ = ["RemoteClock"]

WINDOW_NS: Final = 20_000_000_000
"""How long a round trip is used."""
DRIFT: Final = 50e-6
"""How far the clocks of two machines may drift apart: 50 us a second, as crystals do."""


class RemoteClock:
    """Follows the offset of a clock from round trips, as NTP does.

    A request that leaves at t0 arrives at t1 of the other clock; its answer leaves at t2 of it and arrives at t3.
    The offset is within half of the round trip around the middle. So the shortest round trip gives the best estimate;
    it ages, because clocks drift. A round trip that contradicts the others is the first of another clock.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int, int]] = deque(maxlen=256)
        self._best: tuple[int, int, int] | None = None

    @property
    def known(self) -> bool:
        """Whether there has been a round trip."""
        return self._best is not None

    def add(self, sent_ns: int, received_ns: int, answered_ns: int, arrived_ns: int) -> None:
        """Note a round trip: two times of the local clock around two of the other."""
        trip = (arrived_ns - sent_ns) - (answered_ns - received_ns)
        if trip < 0 or answered_ns < received_ns:  # from a clock that was set, or that is wrong
            return
        offset = ((received_ns - sent_ns) + (answered_ns - arrived_ns)) // 2
        sample = (sent_ns, trip, offset)
        if self._best is not None:
            apart = abs(offset - self._best[2])
            if apart > _error(sample, arrived_ns) + _error(self._best, arrived_ns):
                # Both cannot be right: the clock jumped, because the host slept or was started again.
                self._samples.clear()
        self._samples.append(sample)
        while self._samples[0][0] < arrived_ns - WINDOW_NS:
            self._samples.popleft()
        self._best = min(self._samples, key=lambda sample: _error(sample, arrived_ns))

    def to_local(self, remote_ns: int) -> int:
        """A time of the other clock, by the local one; the offset is 0 before the first round trip."""
        return remote_ns - (0 if self._best is None else self._best[2])

    def error_ns(self, now_ns: int) -> int:
        """How wrong `to_local` can be."""
        return 0 if self._best is None else round(_error(self._best, now_ns))

    @property
    def round_trip_ns(self) -> int:
        """The shortest round trip of the window."""
        return 0 if self._best is None else self._best[1]


def _error(sample: tuple[int, int, int], now_ns: int) -> float:
    sent_ns, trip, _ = sample
    return trip / 2 + (now_ns - sent_ns) * DRIFT

"""How late the least late frame of the last minute was: clocks of unknown zero are compared with that."""

from collections import deque
from typing import Final

__all__ = ["MEMORY_NS", "LeastLate"]

MEMORY_NS: Final = 60_000_000_000
"""How long the least late frame is remembered; the clocks of sources drift."""
_BUCKETS: Final = 6


class LeastLate:
    """The least delay of the last minute."""

    def __init__(self) -> None:
        self._least: deque[tuple[int, int]] = deque()

    def clear(self) -> None:
        """Begin again: the clock was set."""
        self._least.clear()

    def add(self, now_ns: int, delay_ns: int) -> int:
        """Note a delay, measured from any zero; return the least."""
        bucket = now_ns // (MEMORY_NS // _BUCKETS)
        if self._least and self._least[-1][0] == bucket:
            self._least[-1] = (bucket, min(delay_ns, self._least[-1][1]))
        else:
            self._least.append((bucket, delay_ns))
            while self._least[0][0] <= bucket - _BUCKETS:  # frames may be far apart
                self._least.popleft()
        return min(least for _, least in self._least)

"""When a process that ended is restarted."""

from collections import deque
from typing import Final

from billiards_shm.capture.pace import Backoff

__all__ = ["RESTARTS_IN_WINDOW", "WINDOW_SEC", "RestartPolicy"]

RESTARTS_IN_WINDOW: Final = 5
WINDOW_SEC: Final = 60.0
"""At most this many restarts in this many seconds."""
STEADY_SEC: Final = 10.0
"""A process that worked for this long is restarted after the shortest delay."""


class RestartPolicy:
    """Growing delays with jitter, from half a second to half a minute, and never more than 5 restarts in 60 s.

    Parameters
    ----------
    backoff : Backoff, optional
        Provides the delays, before the limit is applied.
    """

    def __init__(self, backoff: Backoff | None = None) -> None:
        self._backoff = backoff or Backoff()
        self._restarts: deque[float] = deque(maxlen=RESTARTS_IN_WINDOW)
        self.limited = False
        """Whether the limit made the last delay longer."""

    def next_delay(self, now: float, worked_sec: float) -> float:
        """Seconds to wait before the next start.

        Parameters
        ----------
        now : float
            Monotonic seconds.
        worked_sec : float
            How long the ended process had handled frames.
        """
        if worked_sec >= STEADY_SEC:
            self._backoff.reset()
        delay = self._backoff.next_delay()
        self.limited = False
        if len(self._restarts) == RESTARTS_IN_WINDOW:
            until_free = self._restarts[0] + WINDOW_SEC - now
            self.limited = until_free > delay
            delay = max(delay, until_free)
        self._restarts.append(now + delay)
        return delay

"""When a process that ended is started again."""

from collections import deque
from typing import Final

from billiards_shm.capture.pace import Backoff

__all__ = ["RESTARTS_IN_WINDOW", "WINDOW_SEC", "RestartPolicy"]

RESTARTS_IN_WINDOW: Final = 5
WINDOW_SEC: Final = 60.0
"""Not more than so many restarts within so many seconds."""
STEADY_SEC: Final = 10.0
"""Who has worked for so long starts from the shortest delay again."""


class RestartPolicy:
    """Growing delays with jitter, from half a second to half a minute, and never more than 5 restarts in 60 s.

    Parameters
    ----------
    backoff : Backoff, optional
        Gives the delays, but for the limit.
    """

    def __init__(self, backoff: Backoff | None = None) -> None:
        self._backoff = backoff or Backoff()
        self._restarts: deque[float] = deque(maxlen=RESTARTS_IN_WINDOW)
        self.limited = False
        """Whether the last delay is longer for the limit's sake."""

    def next_delay(self, now: float, worked_sec: float) -> float:
        """Seconds to wait before the next start.

        Parameters
        ----------
        now : float
            Monotonic seconds.
        worked_sec : float
            For how long the process that ended had given frames.
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

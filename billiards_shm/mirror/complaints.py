"""Warnings about other hosts, which may repeat the same fault forever, or always have a new one."""

import logging
import time
from collections import deque
from typing import Final

__all__ = ["Complaints"]

MOST: Final = 8
"""Warnings in `WITHIN_SEC`."""
WITHIN_SEC: Final = 60.0


class Complaints:
    """Logs a warning, once if it repeats, and a limited number of them; further ones are debug messages.

    Parameters
    ----------
    log : logging.Logger
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._last = ""
        self._times: deque[float] = deque([-WITHIN_SEC] * MOST, maxlen=MOST)

    def __call__(self, text: str) -> None:
        """Warn."""
        if text == self._last:
            return
        self._last = text
        now = time.monotonic()
        if now - self._times[0] < WITHIN_SEC:
            self._log.debug("%s", text)
            return
        self._times.append(now)
        self._log.warning("%s", text)

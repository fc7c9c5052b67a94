"""Stops loops in the test's own process."""

import threading


class Stop:
    """A stop that a test requests."""

    def __init__(self) -> None:
        self._requested = threading.Event()

    @property
    def requested(self) -> bool:
        return self._requested.is_set()

    def wait(self, seconds: float) -> bool:
        return self._requested.wait(seconds)

    def request(self) -> None:
        self._requested.set()

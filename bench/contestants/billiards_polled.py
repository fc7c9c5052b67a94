"""This package with a reader that never waits, so nothing is mapped ahead: planted for the guard to find."""

from time import monotonic, monotonic_ns, sleep

from bench.contestants import billiards
from bench.contestants.billiards import Publisher, share
from bench.sizes import Picture

__all__ = ["Publisher", "Subscriber", "share"]

INTERVAL_S = 0.00002


class Subscriber(billiards.Subscriber):
    def receive(self, timeout: float) -> tuple[int, Picture] | None:
        deadline = monotonic() + timeout
        while (frame := self._reader.read_frame()[0]) is None:
            if monotonic() > deadline:
                return None
            sleep(INTERVAL_S)
        return monotonic_ns(), frame

"""Which codec suits a link: the one by which a frame arrives soonest, among those that keep up with the source."""

from collections import deque
from collections.abc import Collection
from statistics import median
from typing import Final, NamedTuple

from billiards_shm.mirror.wire import Codec

__all__ = ["CodecChoice", "Transfer"]

DECIDE_NS: Final = 2_000_000_000
"""Time between two decisions: each change of the codec needs new measurements."""
GAIN: Final = 0.75
"""Another codec has to take less than this share of the time."""
BUSY: Final = 0.8
"""Each step may take this share of the time between two frames."""
LEAST_BYTES: Final = 8192
"""Smaller answers say nothing about the rate of a link."""
SHORTEST_NS: Final = 20_000
"""Shortest transfer time assumed; clocks of two hosts are compared with some error."""
_NS_PER_SEC: Final = 1_000_000_000


class _Cost(NamedTuple):
    """Assumed cost of a codec per pixel until it is measured: one core of 2020, camera pictures."""

    encode_ns: float
    decode_ns: float
    size_bytes: float


_COSTS: Final = {
    Codec.RAW: _Cost(0.3, 0.1, 3.0),
    Codec.MJPG: _Cost(0.0, 0.1, 0.15),
    Codec.JPEG: _Cost(2.5, 2.5, 0.15),
    Codec.H264: _Cost(3.0, 4.0, 0.01),
}


class Transfer(NamedTuple):
    """What it took to transfer one frame."""

    codec: Codec
    pixels: int
    raw_bytes: int
    sent_bytes: int
    encode_ns: int
    transfer_ns: int
    decode_ns: int


class CodecChoice:
    """Chooses the codec, from what the transfer of the last frames took.

    Parameters
    ----------
    wanted : Codec or None
        None: choose.
    possible : collection of Codec
        What can be decoded here.
    """

    def __init__(self, wanted: Codec | None, possible: Collection[Codec] = tuple(Codec)) -> None:
        self._wanted = wanted
        self._possible = possible
        self.codec = Codec.JPEG if wanted is None else wanted
        self.reason = ""
        """Why it was chosen, for the log; empty before the first choice."""
        self._last: deque[Transfer] = deque(maxlen=32)
        self._rates: deque[float] = deque(maxlen=32)
        self._decide_ns = 0

    @property
    def bytes_per_second(self) -> float:
        """Rate of the link during transfers; 0.0: not known."""
        rates = tuple(self._rates)  # the thread that measures round trips may add one at the same time
        return median(rates) if rates else 0.0

    def add(self, transfer: Transfer) -> None:
        """Note what a frame took."""
        if transfer.sent_bytes >= LEAST_BYTES:
            self._rates.append(transfer.sent_bytes * _NS_PER_SEC / max(transfer.transfer_ns, SHORTEST_NS))
        self._last.append(transfer)

    @property
    def needs_probe(self) -> bool:
        """Whether frames are too small to show how fast the link is, which may have become faster."""
        return self._wanted is None and self.codec is Codec.H264

    def add_probe(self, sent_bytes: int, transfer_ns: int) -> None:
        """Note how long a probe took. Two probes outweigh earlier measurements."""
        while len(self._rates) > 2:
            self._rates.popleft()
        self._rates.append(sent_bytes * _NS_PER_SEC / max(transfer_ns, SHORTEST_NS))

    def decide(self, now_ns: int, fps: float) -> bool:
        """Choose again, if it is time; True if the codec has changed.

        Parameters
        ----------
        now_ns : int
        fps : float
            Frames per second of the source; 0.0: not known.
        """
        if self._wanted is not None or now_ns < self._decide_ns or not self._rates or len(self._last) < 8:
            return False
        self._decide_ns = now_ns + DECIDE_NS
        last = self._last[-1]
        interval_ns = _NS_PER_SEC / fps if fps else float(_NS_PER_SEC)
        steps = {codec: self._steps(codec, last) for codec in self._candidates(last.codec)}
        fast = [codec for codec in steps if max(steps[codec]) <= BUSY * interval_ns]
        # The quickest of those that keep up; if none does, the one that loads the link least.
        best = min(fast, key=lambda codec: sum(steps[codec])) if fast else min(steps, key=lambda codec: steps[codec][1])
        stays = last.codec in fast or not fast
        if best in (last.codec, self.codec) or (stays and sum(steps[best]) > GAIN * sum(steps[last.codec])):
            return False
        self.codec = best
        now_ms, then_ms = (sum(steps[codec]) / 1e6 for codec in (last.codec, best))
        self.reason = (
            f"link {self.bytes_per_second * 8 / 1e6:.0f} Mbit/s, about {then_ms:.1f} ms a frame instead of "
            f"{now_ms:.1f} as {last.codec.name.lower()}"
        )
        self._last.clear()
        return True

    def _candidates(self, current: Codec) -> list[Codec]:
        # A JPEG of a camera is not smaller as raw bytes.
        candidates = [Codec.MJPG, Codec.H264] if current is Codec.MJPG else [Codec.RAW, Codec.JPEG, Codec.H264]
        return [codec for codec in candidates if codec in self._possible]

    def _steps(self, codec: Codec, last: Transfer) -> tuple[float, float, float]:
        """Nanoseconds to encode, to transfer and to decode a frame: measured, or from the table for other codecs."""
        measured = [each for each in self._last if each.codec is codec]
        if measured:
            size = median(each.sent_bytes for each in measured)
            encode, decode = (median(getattr(each, f"{what}_ns") for each in measured) for what in ("encode", "decode"))
        else:
            cost = _COSTS[codec]
            size = last.raw_bytes if codec is Codec.RAW else cost.size_bytes * last.pixels
            encode, decode = cost.encode_ns * last.pixels, cost.decode_ns * last.pixels
        return encode, size * _NS_PER_SEC / self.bytes_per_second, decode

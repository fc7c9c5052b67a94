"""Which codec suits a link: the one by which a frame arrives soonest, among those that keep up with the source."""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from statistics import median
from typing import Final, NamedTuple

from billiards_shm.mirror.wire import LARGEST_PROBE_KIB, Codec

__all__ = ["CodecChoice", "Transfer"]

DECIDE_NS: Final = 2_000_000_000
"""Time between two decisions: each change of the codec needs new measurements."""
GAIN: Final = 0.75
"""Another codec has to take less than this share of the time,"""
WORTH_NS: Final = 1_000_000
"""and so much less: for small pictures, the cost is hardly one per pixel."""
BUSY: Final = 0.8
"""Each step may take this share of the time between two frames."""
LEAST_BYTES: Final = 65536
"""Smaller answers say nothing about the rate of a link: buffers on the way may take them at once."""
PROBE_SEC: Final = 0.1
"""What a probe takes, unless the link is so slow or so fast that its size is at a limit."""
FIRST_WAIT_NS: Final = 30_000_000_000
"""How long what was measured of a codec that was left is believed, before it is tried again."""
LONGEST_WAIT_NS: Final = 3_600_000_000_000
SOON: Final = 4
"""The next wait is twice as long if the codec is left again within so many times the wait after its end."""
SHORTEST_NS: Final = 20_000
"""Shortest transfer time assumed; clocks of two hosts are compared with some error."""
_NS_PER_SEC: Final = 1_000_000_000


class _Cost(NamedTuple):
    """Cost of a codec per pixel."""

    encode_ns: float
    decode_ns: float
    size_bytes: float
    transfer_ns: float = 0.0
    """At least, however fast the link seems to be."""


_COSTS: Final = {  # assumed for codecs that have not been measured: one core of 2020, camera pictures
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


@dataclass(slots=True)
class _Left:
    """What is known of a codec that was left."""

    cost: _Cost
    wait_ns: int
    """How long that is believed."""
    until_ns: int


class CodecChoice:
    """Chooses the codec, from what the transfer of the last frames took.

    A codec that was left is judged by what it took then: otherwise one that is slower than assumed would be chosen
    again immediately. After a while that is forgotten, because the machine or the link may have been busy.

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
        begun_with = Codec.JPEG if Codec.JPEG in possible else Codec.RAW
        self.codec = begun_with if wanted is None else wanted
        self.reason = ""
        """What was chosen and why, for the log; empty before the first choice."""
        self._last: deque[Transfer] = deque(maxlen=32)
        self._left: dict[Codec, _Left] = {}
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
    def probe_kib(self) -> int:
        """Size of an answer that shows how fast the link is; 0: frames are large enough for that."""
        if self._wanted is not None or (self._last and self._last[-1].sent_bytes >= LEAST_BYTES):
            return 0
        wanted = max(LEAST_BYTES, self.bytes_per_second * PROBE_SEC)
        return min(int(wanted) >> 10, LARGEST_PROBE_KIB)

    def add_probe(self, sent_bytes: int, transfer_ns: int) -> None:
        """Note how long a probe took. Two probes outweigh earlier measurements."""
        while len(self._rates) > 2:
            self._rates.popleft()
        self._rates.append(sent_bytes * _NS_PER_SEC / max(transfer_ns, SHORTEST_NS))

    def decide(self, now_ns: int, fps: float) -> bool:
        """Choose again, if it is time; True if this is the first choice, or another one.

        Parameters
        ----------
        now_ns : int
        fps : float
            Frames per second of the source; 0.0: not known.
        """
        if self._wanted is not None or now_ns < self._decide_ns or not self._rates or len(self._last) < 8:
            return False
        self._decide_ns = now_ns + DECIDE_NS
        current = self._last[-1].codec
        sent_for = Codec.JPEG if current is Codec.MJPG else current
        if sent_for is not self.codec:
            self.reason = f"as {current.name.lower()}: the origin does not send it as {self.codec.name.lower()}"
            self._leave({self.codec}, self._measured(current), now_ns)
            self.codec = sent_for
            return True
        interval_ns = _NS_PER_SEC / fps if fps else float(_NS_PER_SEC)
        steps = {codec: self._steps(codec, now_ns) for codec in self._candidates(current)}
        fast = [codec for codec in steps if max(steps[codec]) <= BUSY * interval_ns]
        # The quickest of those that keep up; if none does, the one that loads the link least.
        best = min(fast, key=lambda codec: sum(steps[codec])) if fast else min(steps, key=lambda codec: steps[codec][1])
        stays = current in fast or not fast
        enough_ns = min(GAIN * sum(steps[current]), sum(steps[current]) - WORTH_NS)
        if stays and sum(steps[best]) > enough_ns:
            best = current
        took = {codec: f"{sum(steps[codec]) / 1e6:.1f}" for codec in (current, best)}
        link = f"link {self.bytes_per_second * 8 / 1e6:.0f} Mbit/s"
        reason = f"as {best.name.lower()}: {link}, about {took[best]} ms a frame"
        if best is not current:
            self.reason = f"{reason} instead of {took[current]} as {current.name.lower()}"
            self._leave({current, self.codec}, self._measured(current), now_ns)
            self.codec = best
            return True
        is_first = not self.reason
        self.reason = self.reason or reason
        return is_first

    def _candidates(self, current: Codec) -> list[Codec]:
        # A JPEG of a camera is not smaller as raw bytes.
        candidates = [Codec.MJPG, Codec.H264] if current is Codec.MJPG else [Codec.RAW, Codec.JPEG, Codec.H264]
        return [codec for codec in candidates if codec is current or codec in self._possible]

    def _leave(self, codecs: Collection[Codec], cost: _Cost, now_ns: int) -> None:
        """Remember what it took: for the codec as requested, and as frames came."""
        for codec in codecs:
            wait_ns, before = FIRST_WAIT_NS, self._left.get(codec)
            if before is not None and now_ns < before.until_ns + SOON * before.wait_ns:
                wait_ns = min(2 * before.wait_ns, LONGEST_WAIT_NS)
            self._left[codec] = _Left(cost, wait_ns, now_ns + wait_ns)
        self._last.clear()

    def _steps(self, codec: Codec, now_ns: int) -> tuple[float, float, float]:
        """Nanoseconds to encode, to transfer and to decode a frame."""
        last = self._last[-1]
        if codec is last.codec:
            cost = self._measured(codec)
            size_ns = 0.0
        else:
            left = self._left.get(codec)
            cost = left.cost if left is not None and now_ns < left.until_ns else _COSTS[codec]
            is_assumed_raw = codec is Codec.RAW and cost is _COSTS[codec]
            size = last.raw_bytes if is_assumed_raw else cost.size_bytes * last.pixels
            size_ns = size * _NS_PER_SEC / self.bytes_per_second
        return cost.encode_ns * last.pixels, max(size_ns, cost.transfer_ns * last.pixels), cost.decode_ns * last.pixels

    def _measured(self, codec: Codec) -> _Cost:
        """What the last frames of a codec took."""
        found = [each for each in self._last if each.codec is codec]

        def per_pixel(what: str) -> float:
            return float(median(getattr(each, what) / max(each.pixels, 1) for each in found))

        return _Cost(*map(per_pixel, ("encode_ns", "decode_ns", "sent_bytes", "transfer_ns")))

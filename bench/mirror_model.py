"""How many hosts, cameras and readers a network of mirrors carries, and what saturates first.

    python -m bench.mirror_model                                the cases of docs/mirror-figures.md
    python -m bench.mirror_model --hosts 50 --cameras 20 --copies 2 --codec mjpg --network 1000

`--cameras` is per host, `--copies` is the number of other hosts that read each camera. Each copy is a stream that
uses network and processor at both ends, as measured by `bench.mirror`. Streams share what is short as TCP and the
kernel's scheduler share it: equally, except those that something else holds back (max-min fairness). One request
is outstanding in each stream, so a saturated link carries fewer frames, and none waits: an age is the time of pickup,
transfer, coding and wakes.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

FIGURES: Final = Path(__file__).parents[1] / "docs" / "mirror.json"
FPS: Final = 30.0
TITLES: Final = {"mjpg": "MJPG as captured", "jpeg": "JPEG", "h264": "H.264"}
RESOURCES: Final = ("network out", "network in", "processor of the origin", "processor of the reader's host")

Amounts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cost:
    """The measured cost of one frame."""

    bits: float
    encode_cpu_s: float
    """CPU of the sender, once for all copies."""
    send_cpu_s: float
    """CPU of the sender, for each copy."""
    receive_cpu_s: float
    """CPU of the receiver."""
    age_s: float
    """From capture to the reader's hands, on a free link."""
    receiver_bytes: float
    """Private memory of its process."""


@dataclass(frozen=True)
class Fleet:
    """What a network has to carry."""

    hosts: int
    cameras: int
    """On each host."""
    copies: int
    """Copies of each camera, each on another host."""
    network_bits_s: float
    """Of each host, in each direction."""
    cores: float
    """Cores of each host that mirrors may use."""


@dataclass(frozen=True)
class Outcome:
    """What the network delivers."""

    fps: float
    """Rate of the slowest stream."""
    age_s: float
    """Mean age of its frames."""
    loads: dict[str, float]
    """The share of each resource that every frame would need, on the busiest host; 1 is all of it."""
    receiver_bytes: float
    """Memory of all receivers on one host."""

    @property
    def first(self) -> str:
        """The resource that saturates first as copies are added."""
        return max(self.loads, key=lambda resource: self.loads[resource])


def costs(figures: dict[str, Any]) -> dict[str, Cost]:
    """The cost of a frame with each codec, as `bench.mirror` measured it."""
    one, many = (figures["sender_cpu"][count] for count in ("1", "4"))
    # More receivers of one source add sending, but no encoding.
    send_cpu_s = max(0.0, (many - one) / 3)
    found = {}
    for codec, run in {"mjpg": "mirror, MJPG", "jpeg": "mirror, JPEG", "h264": "mirror, H.264"}.items():
        measured = figures["runs"]["free"][run]
        found[codec] = Cost(
            bits=measured["frame_bits"],
            encode_cpu_s=max(0.0, measured["sender_cpu_ms"] / 1e3 - send_cpu_s),
            send_cpu_s=send_cpu_s,
            receive_cpu_s=measured["receiver_cpu_ms"] / 1e3,
            age_s=measured["p50"] / 1e3,
            receiver_bytes=measured["receiver_bytes"],
        )
    return found


def fair_rates(use: Amounts, capacity: Amounts, most: float) -> Amounts:
    """Frames a second of each stream, raised together until a resource is used up (progressive filling).

    Parameters
    ----------
    use : array (streams, resources)
        What one frame takes from each resource.
    capacity : array (resources,)
    most : float
        Frames a second that a stream wants.
    """
    rates = np.zeros(len(use))
    growing = np.ones(len(use), bool)
    while growing.any():
        left = capacity - rates @ use
        by_growth = use[growing].sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            steps = np.where(by_growth > 0, left / by_growth, np.inf)
        step = min(float(steps.min()), most - float(rates[growing].max()))
        rates[growing] += step
        full = (capacity - rates @ use) <= 1e-9 * capacity
        growing &= ~(use[:, full] > 0).any(axis=1) & (rates < most - 1e-9)
    return rates


def streams(fleet: Fleet) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Origin and target of each stream: copies are on the hosts after a camera's own, spread evenly."""
    camera = np.arange(fleet.hosts * fleet.cameras).repeat(fleet.copies)
    origin = camera % fleet.hosts
    number = np.tile(np.arange(fleet.copies), fleet.hosts * fleet.cameras)
    # Each camera of a host starts elsewhere.
    distance = 1 + (camera // fleet.hosts * fleet.copies + number) % (fleet.hosts - 1)
    return origin, (origin + distance) % fleet.hosts


def simulate(fleet: Fleet, cost: Cost) -> Outcome:
    """The rates at which the network settles, and the ages that follow."""
    origin, target = streams(fleet)
    hosts = fleet.hosts
    use = np.zeros((len(origin), 3 * hosts))  # network out, network in, and the processor, which both ends use
    each = np.arange(len(origin))
    use[each, origin] = cost.bits
    use[each, hosts + target] = cost.bits
    use[each, 2 * hosts + origin] += cost.send_cpu_s + cost.encode_cpu_s / fleet.copies
    use[each, 2 * hosts + target] += cost.receive_cpu_s
    capacity = np.repeat([fleet.network_bits_s, fleet.network_bits_s, fleet.cores], hosts)
    rates = fair_rates(use, capacity, FPS)
    worst = int(rates.argmin())
    sending = np.bincount(origin, minlength=hosts).max()
    coming = np.bincount(target, minlength=hosts).max()
    sent_cpu_s = sending * cost.send_cpu_s + fleet.cameras * cost.encode_cpu_s
    loads = {
        RESOURCES[0]: FPS * sending * cost.bits / fleet.network_bits_s,
        RESOURCES[1]: FPS * coming * cost.bits / fleet.network_bits_s,
        RESOURCES[2]: FPS * sent_cpu_s / fleet.cores,
        RESOURCES[3]: FPS * coming * cost.receive_cpu_s / fleet.cores,
    }
    slowest = float(rates[worst])
    return Outcome(slowest, age(slowest, cost, fleet), loads, float(coming) * cost.receiver_bytes)


def age(fps: float, cost: Cost, fleet: Fleet) -> float:
    """Mean age at a rate: a stream that is held back spends the time between two frames on moving one."""
    if fps >= FPS - 1e-6:
        return cost.age_s + cost.bits / fleet.network_bits_s
    # The frame that is picked up was captured half a period earlier, on average.
    return cost.age_s + 1 / fps + 0.5 / FPS


CASES: Final = (
    ("a camera's computer at the end of 40 Mbit/s", Fleet(2, 1, 1, 40e6, 2), "mjpg"),
    ("the same", Fleet(2, 1, 1, 40e6, 2), "h264"),
    ("4 cameras on each of 3 hosts, read on the 2 others, 1 Gbit/s, 4 cores", Fleet(3, 4, 2, 1e9, 4), "mjpg"),
    ("1,000 cameras on 50 hosts, each read on one other, 1 Gbit/s, 16 cores", Fleet(50, 20, 1, 1e9, 16), "mjpg"),
    ("the same", Fleet(50, 20, 1, 1e9, 16), "h264"),
    ("the same, each read on 3 others", Fleet(50, 20, 3, 1e9, 16), "h264"),
    ("the same, at 10 Gbit/s", Fleet(50, 20, 3, 10e9, 16), "mjpg"),
    ("each of the 1,000 read on all 49 others", Fleet(50, 20, 49, 10e9, 16), "h264"),
)


def cost_rows(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    """The cost of one copy, one row per codec."""
    return [
        (
            TITLES[codec],
            f"{cost.bits * FPS / 1e6:.0f} Mbit/s",
            f"{1e9 / (cost.bits * FPS):.0f}",
            *(f"{seconds * 1e3:.1f} ms" for seconds in (cost.encode_cpu_s, cost.send_cpu_s, cost.receive_cpu_s)),
            f"{cost.receiver_bytes / 1e6:.0f} MB",
        )
        for codec, cost in costs(figures).items()
    ]


HEAD: Final = ("network", "codec", "streams", "frames per second", "age", "nearest to its limit", "receivers' memory")


def row(title: str, fleet: Fleet, codec: str, found: Outcome) -> tuple[str, ...]:
    """One line of the table."""
    return (
        title,
        TITLES[codec],
        f"{fleet.hosts * fleet.cameras * fleet.copies:,}",
        f"{found.fps:.1f}",
        f"{found.age_s * 1e3:.0f} ms",
        f"{found.first}: {found.loads[found.first] * 100:.0f} %",
        f"{found.receiver_bytes / 1e9:.1f} GB",
    )


def rows(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    """The cases."""
    known = costs(figures)
    return [row(title, fleet, codec, simulate(fleet, known[codec])) for title, fleet, codec in CASES]


def main() -> None:
    """Print the cases, or the requested one."""
    parser = argparse.ArgumentParser(description="What a network of mirrors carries.")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="of bench.mirror")
    parser.add_argument("--hosts", type=int)
    parser.add_argument("--cameras", type=int, default=1, help="on each host")
    parser.add_argument("--copies", type=int, default=1, help="on how many other hosts each camera is read")
    parser.add_argument("--network", type=float, default=1000, help="Mbit/s of each host")
    parser.add_argument("--cores", type=float, default=4, help="of each host")
    parser.add_argument("--codec", choices=TITLES, default="mjpg")
    options = parser.parse_args()
    figures = json.loads(options.figures.read_text())
    found = rows(figures)
    if options.hosts is not None:
        fleet = Fleet(options.hosts, options.cameras, options.copies, options.network * 1e6, options.cores)
        found = [row("this", fleet, options.codec, simulate(fleet, costs(figures)[options.codec]))]
    for cells in (HEAD, ("---",) * len(HEAD), *found):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

"""The targets, as a table: the target, the figure of this run, and whether it is met."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench import calls, writes
from bench.contestants import FUTEX, FUTEX_AFTER_COPY, ICEORYX2, OURS, OURS_IN_PLACE
from bench.samples import paired_ratio
from bench.suite import Results

US, MS = 1e3, 1e6


@dataclass(frozen=True)
class Row:
    """One target. `met` is None where this run cannot say."""

    what: str
    target: str
    measured: str
    met: bool | None

    def as_markdown(self) -> str:
        verdict = {True: "met", False: "**missed**", None: "not known"}[self.met]
        return f"| {self.what} | {self.target} | {self.measured} | {verdict} |"


HEAD = "| what | target | measured | |\n|---|---|---|---|"


def unknown(what: str, target: str, why: str) -> Row:
    """A row that explains why there is no figure."""
    return Row(what, target, why, None)


def fastest_kernel(found: Results) -> tuple[str, dict[str, Any]]:
    """The floor of one size: the kernel with the least p50."""
    kernels = {name: one for name, one in found.items() if writes.is_kernel(name)}
    name = min(kernels, key=lambda which: kernels[which]["p50"])
    return name, kernels[name]


def write_rows(results: Results) -> list[Row]:
    """`write_frame` against floor and rival."""
    rows = []
    for size in ("1080p", "4k"):
        found = results["writes"][size]
        ours, (name, floor) = found[writes.WRITE_FRAME], fastest_kernel(found)
        ratio = paired_ratio(ours, floor)
        rows.append(
            Row(
                f"`write_frame`, {size}, p50",
                "at most 1.05 x the fastest copy kernel",
                f"{ours['p50'] / MS:.3f} ms, {ratio:.2f} x {name} ({floor['p50'] / MS:.3f} ms)",
                ratio <= 1.05,
            )
        )
        what = f"`write_frame`, {size}, against iceoryx2's loan, copy, send, back to back"
        rows.append(beside_iceoryx2(what, 1, ours, found.get(writes.ICEORYX2_WRITE), in_ms))
        # As a camera's frames arrive and are read.
        paced = results["latency"][size]["contestants"]
        ours, theirs = paced[OURS.key]["write"], paced.get(ICEORYX2.key, {}).get("write")
        what = f"`write_frame`, {size}, against iceoryx2, 1 to 3 ms between frames, all pixels read"
        rows.append(beside_iceoryx2(what, 1, ours, theirs, in_ms))
    p99 = results["writes"]["4k"][writes.WRITE_FRAME]["p99"]
    rows.append(Row("`write_frame`, 4k, p99", "under 2 ms on a quiet machine", f"{p99 / MS:.2f} ms", p99 < 2 * MS))
    return rows


def call_rows(results: Results) -> list[Row]:
    """Loan and publish; reads."""
    rows = []
    for name, limit in ((calls.LOAN, 1500), (calls.NEW, 1500), (calls.NOTHING, 300)):
        by_size = {size: found[name]["p50"] for size, found in results["calls"].items()}
        spread = max(by_size.values()) / min(by_size.values())
        figures = ", ".join(f"{size} {took / US:.2f}" for size, took in by_size.items())
        rows.append(
            Row(
                f"{name}, p50",
                f"at most {limit / US:g} us, whatever the size",
                f"{figures} us",
                max(by_size.values()) <= limit and spread < 1.25,
            )
        )
    return rows


def wake_rows(results: Results) -> list[Row]:
    """Publish to a blocked reader: with the pixels in place, and just after copying them, when caches are cold."""
    rows = []
    for size in ("1080p", "4k"):
        found = results["latency"][size]["contestants"]
        ours, copied = found[OURS_IN_PLACE.key]["wake"], found[OURS.key]["wake"]
        bare, after = found[FUTEX.key]["wake"], found[FUTEX_AFTER_COPY.key]["wake"]
        copied_beside_bare = paired_ratio(copied, bare)
        what = f"publish to a blocked reader holding an array, {size}"
        rows += [
            beside_futex(what, "a bare futex", ours, bare),
            beside_futex(f"the same, {size}, after a copy", "a bare futex after a copy", copied, after),
            Row(
                f"the same, {size}, after a copy, against a futex without one",
                "p50 at most 2 x",
                f"{copied_beside_bare:.2f} x",
                copied_beside_bare <= 2,
            ),
            beside_iceoryx2(
                f"the same, {size}, after a copy, against iceoryx2 after one",
                0.4,
                copied,
                found.get(ICEORYX2.key, {}).get("wake"),
                in_us,
            ),
        ]
    return rows


def beside_futex(what: str, floor_is: str, ours: dict[str, Any], floor: dict[str, Any]) -> Row:
    """Against a floor."""
    p50, p99 = paired_ratio(ours, floor), ours["p99"] / floor["p99"]
    return Row(
        what,
        f"p50 at most 2 x {floor_is}, p99 at most 3 x",
        f"p50 {ours['p50'] / US:.0f} us, {p50:.2f} x; p99 {ours['p99'] / US:.0f} us, {p99:.2f} x",
        p50 <= 2 and p99 <= 3,
    )


def beside_iceoryx2(
    what: str, limit: float, ours: dict[str, Any], theirs: dict[str, Any] | None, in_unit: Callable[[float], str]
) -> Row:
    """Compare with the rival."""
    target = "never above it" if limit == 1 else f"at most {limit:g} x"
    if theirs is None:
        return unknown(what, target, "iceoryx2 was not measured")
    ratio = paired_ratio(ours, theirs)
    return Row(what, target, f"{in_unit(ours['p50'])}, {ratio:.2f} x ({in_unit(theirs['p50'])})", ratio <= limit)


def in_ms(nanoseconds: float) -> str:
    return f"{nanoseconds / MS:.3f} ms"


def in_us(nanoseconds: float) -> str:
    return f"{nanoseconds / US:.0f} us"


def reader_rows(results: Results) -> list[Row]:
    """The cost of readers."""
    counts = results["readers"]["instructions"]
    what, target = "publish with 0, 1, 10, 50 readers that do not wait", "the same instruction count"
    rows = [
        unknown(what, target, counts)
        if isinstance(counts, str)
        else Row(what, target, ", ".join(map(str, counts.values())), len(set(counts.values())) == 1)
    ]
    thirty = results["readers"]["thirty_fps"]
    none, ten = thirty["none"], thirty["ten"]
    ratio = paired_ratio(ten["fill"], none["fill"])
    rows.append(
        Row(
            "10 zero-copy readers at 30 fps, 4k, `slots=22`: the writer's user CPU",
            "within 5 % of that with none",
            f"{ten['fill']['p50'] / MS:.2f} against {none['fill']['p50'] / MS:.2f} ms a frame ({ratio - 1:+.1%});"
            f" publish with the kernel's wake: {ten['publish']['p50'] / US:.0f} against"
            f" {none['publish']['p50'] / US:.0f} us; by the kernel's ticks: user {ten['user_ns'] / MS:.2f} against"
            f" {none['user_ns'] / MS:.2f}, system {ten['system_ns'] / MS:.2f} against {none['system_ns'] / MS:.2f} ms",
            ratio <= 1.05,
        )
    )
    return rows


def start_rows(results: Results) -> list[Row]:
    """Page faults and the first lap."""
    rows = []
    for size, found in results["start"].items():
        writer = found["writer"]
        slowest = max(writer["ns"][:3]) / writer["later_ns"]
        rows.append(
            Row(
                f"first frames after start, {size}: page faults of the writer",
                "none after the first three, no slow first lap",
                f"{', '.join(map(str, writer['faults']))}; slowest of the first three {slowest:.1f} x a later one",
                sum(writer["faults"][3:]) == 0 and slowest <= 2,
            )
        )
    return rows


def lap_rows(results: Results) -> list[Row]:
    """A reader's first wakes, each in a slot that it has not read before."""
    rows = []
    for size, found in results["lap"].items():
        ours, theirs = found[OURS.key], found.get(ICEORYX2.key)
        ratio = max(ours["first_ns"]) / ours["later_ns"]
        what = f"a reader's first three wakes, {size}"
        first = ", ".join(f"{one / US:.0f}" for one in ours["first_ns"])
        rows.append(
            Row(
                what,
                "at most 1.5 x a later one",
                f"{first} us, later {ours['later_ns'] / US:.0f} us: {ratio:.2f} x",
                ratio <= 1.5,
            )
        )
        what, target = f"all wakes of a reader from its first on, {size}: p99", "at most that of iceoryx2"
        if theirs is None:
            rows.append(unknown(what, target, "iceoryx2 was not measured"))
            continue
        rows.append(
            Row(
                what,
                target,
                f"{ours['p99_ns'] / US:.0f} against {theirs['p99_ns'] / US:.0f} us",
                ours["p99_ns"] <= theirs["p99_ns"],
            )
        )
    return rows


def capture_rows(results: Results) -> list[Row]:
    """The capture process."""
    what, target = "capture of a file, CPU a frame", "at most 1.05 x a bare loop of grab and retrieve"
    found = results["capture"]
    if isinstance(found, str):
        return [unknown(what, target, found)]
    ratio = found["cpu_s_per_frame"] / found["bare_cpu_s_per_frame"]
    figures = f"{found['cpu_s_per_frame'] * 1e3:.2f} against {found['bare_cpu_s_per_frame'] * 1e3:.2f} ms"
    return [Row(f"{what}, {found['size']}", target, f"{ratio:.2f} x ({figures})", ratio <= 1.05)]


def rows(results: Results) -> list[Row]:
    """All rows."""
    return [
        *write_rows(results),
        *call_rows(results),
        *wake_rows(results),
        *reader_rows(results),
        *capture_rows(results),
        *start_rows(results),
        *lap_rows(results),
    ]


def as_markdown(all_rows: list[Row]) -> str:
    """The table of targets."""
    return "\n".join([HEAD, *(row.as_markdown() for row in all_rows)])

"""The statistics of a segment: one table, and everything that shows them follows from it.

CONTRIBUTING.md says what else to edit to add one.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal, TypeVar

__all__ = [
    "REPORTED",
    "STATISTICS",
    "SegmentStatistics",
    "Statistic",
    "WriterStatistics",
    "documented",
    "statistics_of",
]

_Record = TypeVar("_Record")


@dataclass(frozen=True, slots=True)
class Statistic:
    """One row of the table: where a statistic is stored and how it is shown."""

    word: int
    """Its place in ``bshm_statistics``, in words of 8 bytes."""
    metric: str
    """Name in Prometheus, without ``billiards_shm_`` before it and ``_total`` after it."""
    description: str
    """Shown in the reference, in the help text of the metric, and as the tooltip on the page."""
    kind: Literal["counter", "gauge"] = "counter"
    unit: Literal["", "bytes", "us"] = ""
    """Microseconds are seconds in Prometheus."""
    line: str = ""
    """The line of ``inspect`` and ``watch`` that shows it; "warning": its own line, if it is not 0; empty: none."""
    label: str = ""
    """Its name in that line and on the page; empty: the name of the field."""
    prominent: bool = False
    """Whether the page and each plain line of ``watch`` show it."""
    of_copies: bool = False
    """Whether only copies of other hosts' segments have it; elsewhere it is 0, and not shown."""
    reported: bool = False
    """Whether the capture process counts it and `update_source` takes it; otherwise the writer counts it."""


def _row(row: Statistic) -> int:
    return field(default=0, metadata={"row": row})


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentStatistics:
    """The table: what is counted in each segment."""

    captured: int = _row(
        Statistic(6, "frames_captured", "Frames from the source, without placeholders", line="frames", reported=True)
    )
    unreadable: int = _row(
        Statistic(
            35,
            "unreadable_frames",
            "Frames from the source that could not be decoded; they are not published",
            line="frames",
            prominent=True,
            reported=True,
        )
    )
    lost: int = _row(
        Statistic(
            36,
            "lost_frames",
            "Frames that the camera's driver lost, estimated from the times of the others",
            line="frames",
            label="lost (estimated)",
            reported=True,
        )
    )
    published: int = _row(
        Statistic(0, "frames_published", "Frames published into shared memory, placeholders included", line="frames")
    )
    dropped: int = _row(
        Statistic(
            1,
            "frames_dropped",
            "Frames not published because there was no shared memory for them",
            line="frames",
            prominent=True,
        )
    )
    bytes_written: int = _row(
        Statistic(
            34,
            "bytes_written",
            "Bytes of pixels published into shared memory",
            unit="bytes",
            line="frames",
            label="written",
            prominent=True,
        )
    )
    reconnects: int = _row(
        Statistic(
            7, "reconnects", "Times that a lost source came back", line="incidents", prominent=True, reported=True
        )
    )
    stalls: int = _row(
        Statistic(
            8,
            "stalls",
            "Times that the source delivered nothing for too long",
            line="incidents",
            prominent=True,
            reported=True,
        )
    )
    loops: int = _row(Statistic(9, "loops", "Times that a recording started over", line="incidents", reported=True))
    link_bytes: int = _row(
        Statistic(
            38,
            "link_received_bytes",
            "Bytes received from another host, for a segment that is a copy",
            unit="bytes",
            line="link",
            label="received",
            of_copies=True,
            reported=True,
        )
    )
    link_missed: int = _row(
        Statistic(
            39,
            "link_missed_frames",
            "Frames of another host that never arrived, where every one is wanted",
            line="link",
            label="missed",
            of_copies=True,
            reported=True,
        )
    )
    link_age_us: int = _row(
        Statistic(
            40,
            "link_age_seconds",
            "Median age of the last frames of another host when they were published here",
            kind="gauge",
            unit="us",
            line="link",
            label="age",
            of_copies=True,
            reported=True,
        )
    )
    link_trip_us: int = _row(
        Statistic(
            41,
            "link_round_trip_seconds",
            "Shortest recent round trip to another host",
            kind="gauge",
            unit="us",
            line="link",
            label="round trip",
            of_copies=True,
            reported=True,
        )
    )
    link_error_us: int = _row(
        Statistic(
            42,
            "link_clock_error_seconds",
            "How far off another host's times may be, converted to this host's clock",
            kind="gauge",
            unit="us",
            line="link",
            label="clock error",
            of_copies=True,
            reported=True,
        )
    )
    leases_broken: int = _row(
        Statistic(
            2,
            "leases_broken",
            "Frames overwritten although a reader held them; above 0 only if something forged pins",
            line="warning",
            label="leases broken: something writes into the control region",
        )
    )
    backed_slots: int = _row(Statistic(3, "backed_slots", "Slots with memory behind them", kind="gauge"))


STATISTICS: Final[dict[str, Statistic]] = {each.name: each.metadata["row"] for each in fields(SegmentStatistics)}
"""The rows by name, in the order in which they are shown."""

REPORTED: Final = {name: row for name, row in STATISTICS.items() if row.reported}
"""Those that the capture process counts."""


def statistics_of(record: SegmentStatistics) -> dict[str, int]:
    """The statistics of a record, by name."""
    return {name: getattr(record, name) for name in STATISTICS}


def documented(record: type[_Record]) -> type[_Record]:
    """Add the statistics to the docstring of a class that inherits them."""
    attributes = "".join(f"\n    {name} : int\n        {row.description}." for name, row in STATISTICS.items())
    record.__doc__ = f"{record.__doc__}\n\n    Attributes\n    ----------{attributes}\n    "
    return record


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class WriterStatistics(SegmentStatistics):
    """A snapshot of the counters of one writer, over all its segments."""

    replacements: int
    """Segments replaced by a larger one, or because their name was removed."""
    backed_bytes: int
    """Bytes of the segment that have memory behind them."""
    total_bytes: int
    """What that would be if all slots had memory."""
    write_latency_buckets: tuple[int, ...]
    """Item i counts the writes that took less than 2**i ns, and not less than half of that."""

    def as_dict(self) -> dict[str, Any]:
        """All attributes by name."""
        return asdict(self)

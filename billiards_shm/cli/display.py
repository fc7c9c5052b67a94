"""What the command line prints: segments and statistics, as plain text or drawn on a terminal."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import click

from billiards_shm import ReaderInfo, SegmentInfo, SegmentStatus, SourceState
from billiards_shm.config.defaults import MAX_FRAME_AGE_SEC
from billiards_shm.monitor.health import HealthState, evaluate_health
from billiards_shm.monitor.rates import latency_bound
from billiards_shm.pixel_formats import size_text
from billiards_shm.statistics import STATISTICS, Statistic
from billiards_shm.supervise.state import SupervisedState

if TYPE_CHECKING:
    from rich.console import RenderableType

    from billiards_shm.capture.stats import StatisticsSnapshot
    from billiards_shm.record.recorder import RecordingSnapshot

__all__ = [
    "details",
    "format_fps",
    "format_seconds",
    "health_of",
    "live_table",
    "live_view",
    "on_terminal",
    "plain_details",
    "plain_list",
    "plain_table",
    "printable",
    "recording_rows",
    "statistics_display",
    "watch_line",
    "with_health",
]

Rows = list[tuple[str, str]]

_STATES_BY_COLOUR: dict[str, tuple[SegmentStatus | SourceState | SupervisedState, ...]] = {
    "green": (SegmentStatus.LIVE, SourceState.STREAMING),
    "yellow": (
        *(SegmentStatus.CLOSED, SupervisedState.STARTING, SupervisedState.WAITING),
        *(SourceState.OPENING, SourceState.STALLED, SourceState.RECONNECTING, SourceState.ENDED),
    ),
    "red": (SegmentStatus.DEAD, SegmentStatus.DETACHED, SupervisedState.HUNG, SupervisedState.FAILED),
}
_COLOURS = {str(state): colour for colour, states in _STATES_BY_COLOUR.items() for state in states}

_LEAST_WRAPPED: Final = 24
"""Minimum width of the last column of a table, which wraps."""


# Figures.


def format_bytes(count: int | None) -> str:
    """Decimal megabytes, as in the log of the capture process."""
    if count is None:
        return "-"
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


def format_seconds(seconds: float | None) -> str:
    """A duration, in the unit that needs two or three digits."""
    if seconds is None:
        return "-"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def format_frame(info: SegmentInfo) -> str:
    """Size and format of the newest frame."""
    if not info.width or not info.height:
        return "-"
    return size_text(info.pixel_format, info.height, info.width)


def format_fps(fps: float | None) -> str:
    """Frames per second; a dash if nothing was measured yet."""
    return "-" if fps is None else f"{fps:.1f}"


def printable(text: str) -> str:
    """Make text from other processes safe to print: an escape sequence would control the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


# Segments.


def health_of(info: SegmentInfo | None) -> tuple[HealthState, str]:
    """State and reason, as on the page of `serve`."""
    return evaluate_health(info, MAX_FRAME_AGE_SEC)


def with_health(figures: dict[str, Any], info: SegmentInfo | None) -> dict[str, Any]:
    """Add the health to the figures of a segment, for JSON."""
    state, reason = health_of(info)
    return figures | {"state": state, "healthy": state is HealthState.LIVE, "reason": reason}


def status_text(info: SegmentInfo) -> str:
    """State of the segment, with the source's state if that says more."""
    state, _ = health_of(info)
    return (
        f"{state} ({info.source_state})" if _has_trouble(info) and str(info.source_state) != str(state) else str(state)
    )


def _has_trouble(info: SegmentInfo) -> bool:
    """Whether the writer reports a source that does not work."""
    return info.status is SegmentStatus.LIVE and info.source_state not in (
        SourceState.UNKNOWN,
        SourceState.STREAMING,
    )


def plain_list(infos: Iterable[SegmentInfo]) -> str:
    """One line per segment, in columns."""
    header = ("NAME", "STATUS", "FRAME", "FPS", "AGE", "READERS", "MEMORY", "FRAMES", "DROPPED")
    table = [
        (
            printable(info.name),
            status_text(info),
            format_frame(info),
            format_fps(measured_fps(info)),
            format_seconds(info.last_frame_age),
            str(len(info.readers)),
            format_bytes(info.allocated_bytes),
            str(info.published),
            str(info.dropped),
        )
        for info in infos
    ]
    return plain_table(header, table, coloured=1)


def plain_table(header: Sequence[str], table: Sequence[Sequence[str]], coloured: int | None = None) -> str:
    """Rows in columns; one column may have the colours of states."""
    table = [[printable(text) for text in row] for row in table]
    widths = [max(len(row[column]) for row in [header, *table]) for column in range(len(header))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(header, widths, strict=True)).rstrip()]
    for row in table:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        if coloured is not None:
            cells[coloured] = click.style(cells[coloured], fg=_COLOURS.get(row[coloured].split()[0]))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def details(info: SegmentInfo, fps: float | None = None) -> Rows:
    """What `inspect` and `watch` show, as label and text; `fps` as measured from outside, if known."""
    median, tail = (latency_bound(info.write_latency_buckets, share) for share in (0.5, 0.99))
    created = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(info.created_wall_ns / 1e9))
    group = "-" if info.group is None else info.group
    rows = [
        ("status", status_text(info)),
        ("health", health_of(info)[1]),
        (
            "source",
            " ".join(filter(None, (info.backend, info.source_state, info.source_reason))),
        ),
        (
            "frame",
            format_frame(info) + (f", {info.channels} x {info.dtype}" if info.dtype is not None else ""),
        ),
        ("sequence", str(info.sequence)),
        ("fps", format_fps(measured_fps(info) if fps is None else fps)),
        ("frame age", format_seconds(info.last_frame_age)),
        ("clock", _clock_text(info)),
        *_statistics_lines(info),
        (
            "write time",
            "-" if tail is None else f"p50 < {format_seconds(median)}, p99 < {format_seconds(tail)}",
        ),
        (
            "memory",
            (
                f"{format_bytes(info.allocated_bytes)} in use, {format_bytes(info.total_bytes)} at most "
                f"({info.backed_slots} of {info.slots + info.history} slots of {format_bytes(info.slot_capacity)})"
            ),
        ),
        ("writer", f"pid {info.writer_pid}, uid {info.owner}, gid {group}, mode {info.mode:04o}"),
        ("created", created),
        ("generation", f"{info.generation}, abi {'.'.join(map(str, info.abi))}"),
        ("path", str(info.path)),
    ]
    rows += _warnings(info)
    rows += [("reader", _reader_text(reader)) for reader in info.readers]
    return [(label, printable(text)) for label, text in rows]


def _clock_text(info: SegmentInfo) -> str:
    """What capture times are taken from, and how far that clock is off."""
    offset = info.clock_offset_ms
    if offset is None:
        return info.clock or "-"
    return f"{info.clock}, {abs(offset):.1f} ms {'ahead of' if offset > 0 else 'behind'} this host's at arrival"


def _statistics_lines(info: SegmentInfo) -> Rows:
    """The lines named in the table of statistics, such as "frames", each with all its statistics."""
    lines: dict[str, list[str]] = {}
    for name, row in STATISTICS.items():
        if row.line and row.line != "warning" and not (row.of_copies and not info.link_bytes):
            lines.setdefault(row.line, []).append(f"{_format_statistic(info, name, row)} {row.label or name}")
    return [(line, ", ".join(texts)) for line, texts in lines.items()]


def _warnings(info: SegmentInfo) -> Rows:
    return [
        ("warning", f"{getattr(info, name)} {row.label}")
        for name, row in STATISTICS.items()
        if row.line == "warning" and getattr(info, name)
    ]


def _format_statistic(info: SegmentInfo, name: str, row: Statistic) -> str:
    value = getattr(info, name)
    if row.unit == "us":
        return format_seconds(value / 1e6)
    return format_bytes(value) if row.unit == "bytes" else str(value)


def _reader_text(reader: ReaderInfo) -> str:
    return (
        f"pid {reader.pid or '?'} {reader.name}: {reader.kind}, {reader.frames} frames, {reader.skipped} skipped, "
        f"{reader.copies} copies, {reader.leases} held"
    )


def measured_fps(info: SegmentInfo) -> float | None:
    """Frames per second as measured by the writer; None if it does not measure."""
    return None if info.source_state is SourceState.UNKNOWN and not info.fps else info.fps


def plain_details(name: str, rows: Rows) -> str:
    """A name and its rows, one below the other."""
    width = max(len(label) for label, _ in rows)
    lines = [click.style(printable(name), bold=True)]
    for label, text in rows:
        if label == "status":
            text = click.style(text, fg=_COLOURS.get(text.split()[0]))
        lines.append(f"  {label.ljust(width)}  {text}")
    return "\n".join(lines)


def watch_line(name: str, info: SegmentInfo | None, fps: float | None) -> str:
    """One line of `watch` without a terminal; without `info` there is no segment."""
    now = time.strftime("%H:%M:%S")
    if info is None:
        return f"{now} {name} {SegmentStatus.DETACHED}"
    line = (
        f"{now} {name} {status_text(info)} {format_frame(info)} sequence={info.sequence} "
        f"fps={format_fps(measured_fps(info) if fps is None else fps)} "
        f"age={format_seconds(info.last_frame_age)} readers={len(info.readers)}"
    )
    for name, row in STATISTICS.items():
        if row.prominent:
            line += f" {row.label or name}={_format_statistic(info, name, row)}"
    state, reason = health_of(info)
    return printable(line if state is HealthState.LIVE and not _has_trouble(info) else f"{line} reason: {reason}")


# The capture process.


def statistics_rows(snapshot: "StatisticsSnapshot") -> Rows:
    """The rows of a capture process's live display."""
    rows = [
        ("source", str(snapshot.source)),
        ("state", f"{snapshot.state} {snapshot.reason}".strip()),
        ("frame", f"{snapshot.width}x{snapshot.height}" if snapshot.width else "-"),
        ("fps", f"{format_fps(snapshot.fps)} (camera {format_fps(snapshot.camera_fps)})"),
        ("frame age", format_seconds(snapshot.frame_age_s)),
        (
            "frames",
            (
                f"{snapshot.frames_captured} captured, {snapshot.frames_written} written, "
                f"{snapshot.frames_dropped} dropped, {snapshot.frames_unreadable} unreadable"
            ),
        ),
        ("incidents", f"{snapshot.reconnects} reconnects, {snapshot.stalls} stalls, {snapshot.loops} loops"),
        ("write time", f"p50 {snapshot.write_p50_ms:.2f} ms, p99 {snapshot.write_p99_ms:.2f} ms"),
        ("memory", format_bytes(snapshot.backed_bytes)),
        ("uptime", format_seconds(snapshot.uptime_s)),
    ]
    return [(label, printable(text)) for label, text in rows]


# Recordings.


def recording_rows(snapshot: "RecordingSnapshot") -> Rows:
    """The rows of a recording's live display."""
    rows = [
        ("file", f"{snapshot.file or '-'}, {format_seconds(snapshot.duration_s)}"),
        ("state", f"{snapshot.state} {snapshot.reason}".strip()),
        ("frame", snapshot.picture or "-"),
        ("fps", format_fps(snapshot.fps)),
        ("frame age", format_seconds(snapshot.frame_age_s)),
        ("frames", f"{snapshot.frames} recorded, {snapshot.missed} missed, {snapshot.damaged} damaged"),
        ("size", f"{format_bytes(snapshot.bytes)} in {snapshot.files} files"),
        *([] if snapshot.ring_s is None else [("ring", format_seconds(snapshot.ring_s))]),
        ("time a frame", f"{snapshot.encode_ms:.2f} ms to encode, at most {snapshot.write_ms:.1f} ms to write"),
    ]
    return [(label, printable(text)) for label, text in rows]


# Terminals.


def on_terminal() -> bool:
    """Whether standard output is a terminal to draw on."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


class LiveView(Protocol):
    """A part of the terminal that each call redraws."""

    def __call__(self, title: str, rows: Rows) -> None:
        """Draw."""


@contextmanager
def live_view() -> Iterator[LiveView]:
    """Draw rows in one place of the terminal.

    Each call draws in the caller's thread. A refreshing thread would compete with the capture loop for the
    interpreter.
    """
    with _live_drawing() as show:
        yield lambda title, rows: show(_panel(title, rows))


@contextmanager
def statistics_display(live: bool) -> "Iterator[Callable[[StatisticsSnapshot], None] | None]":
    """Show statistics on a terminal. Otherwise the log has them."""
    if not live:
        yield None
        return
    with live_view() as draw:
        yield lambda snapshot: draw(snapshot.name, statistics_rows(snapshot))


@contextmanager
def live_table(columns: Sequence[str]) -> Iterator[Callable[[str, Sequence[Sequence[str]]], None]]:
    """Draw a table with a title in one place of the terminal, as `live_view` does; the second column is coloured."""
    with _live_drawing() as show:
        yield lambda title, rows: show(_table(title, *_fitting(columns, rows, shutil.get_terminal_size().columns)))


@contextmanager
def _live_drawing() -> "Iterator[Callable[[RenderableType], None]]":
    from rich.console import Console
    from rich.live import Live

    console = Console()
    # The log appears above the drawing, unless it goes to a file.
    with Live(console=console, auto_refresh=False, redirect_stderr=sys.stderr.isatty()) as live:
        # rich hides the cursor. A killed process could not show it again.
        console.show_cursor(True)
        yield lambda drawing: live.update(drawing, refresh=True)


def _fitting(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Leave out columns from the right until a table fits; the first two and the last stay. The last may wrap."""
    table = [list(columns), *map(list, rows)]

    def needed() -> int:
        *fixed, last = ([len(cell) for cell in column] for column in zip(*table, strict=True))
        return sum(map(max, fixed)) + min(max(last), _LEAST_WRAPPED) + 3 * len(table[0]) + 1

    while len(table[0]) > 3 and needed() > width:
        for row in table:
            del row[-2]
    return table[0], table[1:]


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title), style="bold"), title_justify="left", expand=False)
    for column in columns:
        table.add_column(column, no_wrap=column != columns[-1])
    for row in rows:
        cells = [Text(printable(text)) for text in row]
        cells[1].stylize(_COLOURS.get(row[1].split()[0], "") if row[1] else "")
        table.add_row(*cells)
    return table


def _panel(title: str, rows: Rows) -> "RenderableType":
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for label, text in rows:
        colour = _COLOURS.get(text.split()[0], "") if label in ("status", "state") and text else ""
        # `Text` is not parsed for markup, which outside names and reasons may contain.
        grid.add_row(label, Text(text, style=colour))
    return Panel(grid, title=Text(title, style="bold"), expand=False)


def as_json_line(figures: dict[str, Any]) -> str:
    """One JSON object on one line."""
    import json

    return json.dumps(figures, allow_nan=False)

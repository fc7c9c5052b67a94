"""``billiards-shm record``: every frame of a segment into a video file."""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from billiards_shm.cli.display import live_view, on_terminal, recording_rows
from billiards_shm.cli.options import (
    ConfiguredCommand,
    Seconds,
    common_options,
    complete_names,
    load_configuration,
    overrides_from_options,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from billiards_shm.record.recorder import RecordingSnapshot

__all__ = ["record_command"]


@click.command(
    "record",
    cls=ConfiguredCommand,
    sections=("record.", "logging."),
    short_help="Record every frame to a video file.",
    epilog="""\b
Examples:
  billiards-shm record billiards_video match.mkv
  billiards-shm record billiards_video match.mp4 --crf 18 --preset veryfast
  billiards-shm record billiards_video night.mkv --segment 10min --keep 24h
  billiards-shm record billiards_video --ring 30s
  billiards-shm record billiards_video raw.mkv --codec copy --frames 300

\b
Frames that are published faster than they are encoded wait in the segment, so
its writer should keep some: capture --history 16.
Next to FILE is FILE.frames.jsonl: number and capture time of each frame.

\b
Exit codes: 0 stopped by a signal, by the end of the source, or after --frames;
1 the disk is full, or another failure; 2 usage or configuration, such as a FILE
that exists; 4 there is no such segment.
""",
)
@click.argument("name", shell_complete=complete_names)
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@click.option("--frames", type=click.IntRange(min=1), help="Stop after this many frames.")
@click.option(
    "--timeout",
    type=Seconds(min=0),
    help="Seconds to wait for the segment. With --follow, there is no limit. "
    "[video.shared_memory_attach_timeout_sec: 5.0]",
)
@common_options
@click.pass_context
def record_command(
    ctx: click.Context, /, name: str, file: str | None, frames: int | None, timeout: float | None, **options: Any
) -> None:
    """Record the frames of NAME to FILE, a .mkv or .mp4, until stopped or its source ends.

    Frames keep their capture times. FILE plays even after SIGKILL, without the last
    quarter of a second. A new file begins when the size or format of the frames changes.

    With --ring the last seconds are kept in memory, too, or instead: `replay` writes them to a file.
    """
    from billiards_shm.record.process import run_recording
    from billiards_shm.service.logs import configure_logging

    overrides = overrides_from_options(options)
    if file is not None:
        overrides["record.file"] = file
    settings, _ = load_configuration(ctx, overrides)
    config = settings.record
    if config.file is None and config.ring is None:
        raise click.UsageError("nowhere to record to: give FILE, --ring, or record.file in the configuration")
    if timeout is None and not config.follow:
        timeout = settings.video.shared_memory_attach_timeout_sec
    with _display(settings.logging.stats_interval_sec, live=on_terminal() and not settings.logging.as_json) as show:
        configure_logging(settings.logging.level, settings.logging.as_json)
        last = run_recording(name, config, frames=frames, timeout=timeout, on_progress=show)
    size = f"{last.bytes / 1e6:.1f} MB"
    files = f"{last.files} file{'' if last.files == 1 else 's'}"
    if config.file is None or (last.files == 1 and config.segment_sec is None):
        files = name if config.file is None else str(Path(config.file))
    damaged = f", {last.damaged} damaged" if last.damaged else ""
    click.echo(f"{files}: {last.frames} frames, {last.missed} missed{damaged}, {size}")


@contextmanager
def _display(interval: float, *, live: bool) -> "Iterator[Callable[[RecordingSnapshot], None]]":
    """Show progress on a terminal. Otherwise the log has it."""
    if live:
        with live_view() as draw:
            yield lambda snapshot: draw(snapshot.name, recording_rows(snapshot))
        return
    from billiards_shm.record.recorder import statistics_log

    yield statistics_log(interval)

"""``billiards-shm run`` and ``capture --supervise``: supervised sources and their table."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import click

from billiards_shm.cli.display import format_fps, format_seconds, live_table, on_terminal, printable
from billiards_shm.cli.options import ConfiguredCommand, common_options, load_configuration, overrides_from_options

if TYPE_CHECKING:
    from billiards_shm.config.model import Settings, SourceConfig
    from billiards_shm.supervise.process import ProcessReport

__all__ = ["run_command", "supervise"]

COLUMNS: Final = ("NAME", "STATE", "FRAME", "FPS", "AGE", "FRAMES", "RESTARTS", "PID", "REASON")

_Show = Callable[[Sequence["ProcessReport"]], None]


@click.command(
    "run",
    cls=ConfiguredCommand,
    sections=("video.", "logging."),
    leave_out=("video.shared_memory_", "video.process.metrics_"),
    short_help="Capture every source of the configuration.",
    epilog="""\b
Examples:
  billiards-shm run --config tables.json
  billiards-shm run --sources '[{"name": "table_1", "camera": {"device_id": 0}},
                                {"name": "table_2", "camera": {"device_id": 2}}]'

\b
A process that dies or hangs is restarted, with growing delays and at most 5
times in 60 s. The others continue.

\b
Exit codes: 0 stopped by a signal, or every source finished; 5 some sources
failed for good; if none ever captured, the exit code of the first.
""",
)
@common_options
@click.pass_context
def run_command(ctx: click.Context, /, **options: Any) -> None:
    """Capture every source of `video.sources`, each in its own process, until stopped.

    It also records the sources that have a `record` section, and offers and copies the segments that `mirror` names.
    """
    settings, origin = load_configuration(ctx, overrides_from_options(options))
    ctx.exit(_supervise(settings, settings.video.sources, None, origin, mirror=True))


def supervise(ctx: click.Context, overrides: dict[str, Any], frames: int | None) -> int:
    """Capture one source as `run` does several; return the exit code."""
    from billiards_shm.config.model import SourceConfig

    settings, origin = load_configuration(ctx, overrides)
    source = SourceConfig(name=settings.video.shared_memory_name, camera=settings.vision.camera)
    return _supervise(settings, [source], frames, origin)


def _supervise(
    settings: "Settings",
    sources: "Sequence[SourceConfig]",
    frames: int | None,
    origin: str,
    *,
    mirror: bool = False,
) -> int:
    if sys.platform != "linux":
        raise click.ClickException(
            f"supervision needs Linux, and this is {sys.platform}: start one `capture` for each source"
        )
    from billiards_shm.service.logs import configure_logging
    from billiards_shm.service.systemd import ServiceNotifier
    from billiards_shm.supervise.supervisor import Supervisor, check_sources

    check_sources(sources, settings.mirror.receive if mirror else ())
    if mirror and (settings.mirror.receive or settings.mirror.send):
        import_module("billiards_shm.mirror.process")  # an error if Zenoh is missing, before anything starts
    with _table(live=on_terminal() and not settings.logging.as_json) as show:
        configure_logging(settings.logging.level, settings.logging.as_json)
        supervisor = Supervisor(
            settings,
            sources,
            mirror=mirror,
            frames=frames,
            on_reports=show,
            # The children's lines would break a table that is drawn in place, so they are printed above it.
            on_log=_print_log_line if show is not None and sys.stderr.isatty() else None,
            notifier=ServiceNotifier.from_environment(),
            origin=origin,
        )
        return supervisor.run()


@contextmanager
def _table(live: bool) -> Iterator[_Show | None]:
    """Show the sources on a terminal. Otherwise the log has them."""
    if not live:
        yield None
        return
    from billiards_shm.supervise.supervisor import summary

    with live_table(COLUMNS) as draw:
        yield lambda reports: draw(summary(reports, briefly=True).partition(";")[0], [_row(each) for each in reports])


def _row(report: "ProcessReport") -> tuple[str, ...]:
    delay = "" if report.next_start_s is None else f" {report.next_start_s:.0f} s"
    return (
        report.name,
        f"{report.state}{delay}",
        f"{report.width}x{report.height}" if report.width else "-",
        format_fps(report.fps),
        format_seconds(report.frame_age_s),
        str(report.frames),
        str(report.restarts),
        "-" if report.pid is None else str(report.pid),
        report.reason,
    )


def _print_log_line(line: str) -> None:
    print(printable(line), file=sys.stderr)

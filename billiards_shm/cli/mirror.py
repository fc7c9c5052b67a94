"""``billiards-shm mirror``: this host's segments for others, and others' segments here."""

from typing import Any, Final

import click

from billiards_shm.cli.display import (
    as_json_line,
    format_fps,
    format_seconds,
    on_terminal,
    plain_table,
    statistics_display,
)
from billiards_shm.cli.options import (
    ConfiguredCommand,
    common_options,
    complete_names,
    entry_from_options,
    load_configuration,
    overrides_from_options,
)
from billiards_shm.pixel_formats import size_text

__all__ = ["mirror_command", "print_network"]

LOOK_SEC: Final = 1.0
"""How long `list --network` waits for hosts: multicast takes some milliseconds, a connection up to half a second."""
NETWORK_COLUMNS: Final = ("HOST", "ID", "NAME", "SOURCE", "FRAME", "FPS", "AGE")

_ENTRY = "mirror.receive[]."


@click.group("mirror", no_args_is_help=False, short_help="Segments of other hosts, here.")
def mirror_command() -> None:
    """Offer segments to other hosts, and copy theirs."""


@mirror_command.command(
    "send",
    cls=ConfiguredCommand,
    sections=("mirror.", "logging."),
    short_help="Offer segments to other hosts.",
    epilog="""\b
Examples:
  billiards-shm mirror send                   every segment there is
  billiards-shm mirror send table_1 --listen tcp/0.0.0.0:7447
""",
)
@click.argument("names", nargs=-1, shell_complete=complete_names)
@common_options
@click.pass_context
def send_command(ctx: click.Context, /, names: tuple[str, ...], **options: Any) -> None:
    """Offer the segments NAMES to other hosts, until stopped; without NAMES those of the configuration, or all."""
    from billiards_shm.mirror.process import run_send
    from billiards_shm.service.logs import configure_logging

    overrides = overrides_from_options(options) | ({"mirror.send": names} if names else {})
    settings, origin = load_configuration(ctx, overrides)
    configure_logging(settings.logging.level, settings.logging.as_json)
    ctx.exit(run_send(settings, settings.mirror.send, origin=origin))


@mirror_command.command(
    "receive",
    cls=ConfiguredCommand,
    entry=_ENTRY,
    sections=("mirror.", "video.", "logging."),
    leave_out=(
        "mirror.host_name",
        "video.shared_memory_",
        "video.sources",
        "video.history",
        "video.process.shutdown_timeout",
        "video.process.main_loop_sleep",
        "video.process.hang_timeout",
    ),
    short_help="Copy a segment of another host.",
    epilog="""\b
Examples:
  billiards-shm mirror receive table_1
  billiards-shm mirror receive table_1@kitchen --as kitchen_1 --codec h264
  billiards-shm mirror receive table_1 --connect tcp/192.168.1.5:7447
""",
)
@click.argument("origin", metavar="NAME[@HOST]")
@click.option("--frames", type=click.IntRange(min=1), help="Stop after this many frames.")
@common_options
@click.pass_context
def receive_command(ctx: click.Context, /, origin: str, frames: int | None, **options: Any) -> None:
    """Copy the segment NAME of another host into one here, until stopped.

    HOST is the name of the host, or its id; it is needed if several hosts have a segment of that name.
    """
    from billiards_shm.mirror.process import run_receive
    from billiards_shm.service.logs import configure_logging

    source = {"origin": origin, **entry_from_options(_ENTRY, options)}
    overrides = overrides_from_options(options) | {"mirror.receive": [source]}
    settings, place = load_configuration(ctx, overrides)
    with statistics_display(live=on_terminal() and not settings.logging.as_json) as on_statistics:
        configure_logging(settings.logging.level, settings.logging.as_json)
        code = run_receive(
            settings, settings.mirror.receive[0], frames=frames, on_statistics=on_statistics, origin=place
        )
    ctx.exit(code)


def print_network(ctx: click.Context, overrides: dict[str, Any], as_json: bool) -> None:
    """Print which segments hosts offer."""
    from billiards_shm.mirror.process import look_around

    settings, _ = load_configuration(ctx, {key: value for key, value in overrides.items() if value is not None})
    rows = look_around(settings, LOOK_SEC)
    if as_json:
        for row in rows:
            click.echo(as_json_line(row))
    elif rows:
        click.echo(plain_table(NETWORK_COLUMNS, [_network_row(row) for row in rows]))
    else:
        click.echo("no host offers a segment", err=True)


def _network_row(row: dict[str, Any]) -> tuple[str, ...]:
    known = "width" in row and "height" in row
    return (
        row["host"],
        row["id"],
        row["name"],
        row.get("state") or "-",
        size_text(row.get("pixel_format"), row["height"], row["width"]) if known else "-",
        format_fps(row.get("fps")),
        format_seconds(row.get("frame_age")),
    )

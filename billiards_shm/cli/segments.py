"""The commands that look at segments from outside: list, inspect, watch, clean."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import click

from billiards_shm import (
    BilliardsShmError,
    SegmentInfo,
    SegmentNotFoundError,
    SegmentPermissionError,
    SegmentStatus,
    WriterExistsError,
    inspect_segment,
    remove_stale_segments,
)
from billiards_shm.cli.display import (
    as_json_line,
    details,
    live_view,
    on_terminal,
    plain_details,
    plain_list,
    watch_line,
    with_health,
)
from billiards_shm.cli.errors import PROGRAM, report
from billiards_shm.cli.mirror import print_network
from billiards_shm.cli.options import Seconds, common_options, complete_names, json_option
from billiards_shm.monitor.rates import RateMeter
from billiards_shm.segments import object_names
from billiards_shm.service.signals import StopRequest

__all__ = ["clean_command", "inspect_command", "list_command", "watch_command"]


@click.command(
    "list",
    short_help="List segments.",
    epilog="""\b
Examples:
  billiards-shm list
  billiards-shm list /run/cameras/table_1 /run/cameras/table_2
  billiards-shm list --network
  billiards-shm list --json | jq -r 'select(.status == "dead").name'
""",
)
@click.argument("paths", nargs=-1, type=click.Path())
@click.option("--network", is_flag=True, help="List instead what hosts on the network offer with `mirror send`.")
@click.option("--connect", metavar="ENDPOINT", help="With --network: as for `mirror receive`.")
@click.option("--zenoh-config", metavar="FILE", help="With --network: as for `mirror receive`.")
@json_option
@common_options
@click.pass_context
def list_command(
    ctx: click.Context,
    paths: tuple[str, ...],
    as_json: bool,
    network: bool,
    connect: str | None,
    zenoh_config: str | None,
) -> None:
    """List the segments of this machine, and those at PATHS."""
    if network:
        print_network(ctx, {"mirror.connect": connect, "mirror.zenoh_config": zenoh_config}, as_json)
        return
    for path in paths:
        if "/" not in path:
            raise click.UsageError(
                f"{path!r} is not a path, because it has no slash; `list` shows every name, "
                f"and '{PROGRAM} inspect {path}' shows this one"
            )
    infos, failures = _inspect_each(sorted(object_names()))
    infos_at_paths, failures_at_paths = _inspect_each(paths)
    infos += infos_at_paths
    if as_json:
        for info in infos:
            click.echo(as_json_line(with_health(info.as_dict(), info)))
    elif infos:
        click.echo(plain_list(infos))
    else:
        click.echo("no segments", err=True)
    denied = sum(isinstance(error, SegmentPermissionError) for error in failures)
    if denied:
        files = "1 file" if denied == 1 else f"{denied} files"
        click.echo(
            f"not shown: {files} in shared memory that you cannot read, or whose owner you do not trust; "
            f"'{PROGRAM} inspect NAME' shows why",
            err=True,
        )
    _raise_all(failures_at_paths)


@click.command(
    "inspect",
    short_help="Show one segment in full.",
    epilog="""\b
Examples:
  billiards-shm inspect billiards_video
  billiards-shm inspect /run/cameras/table_1 --json | jq .readers
""",
)
@click.argument("name", shell_complete=complete_names)
@json_option
@common_options
def inspect_command(name: str, as_json: bool) -> None:
    """Show everything about the segment NAME: writer, source, frames, memory, readers."""
    info = inspect_segment(name)
    click.echo(as_json_line(with_health(info.as_dict(), info)) if as_json else plain_details(name, details(info)))


@click.command(
    "watch",
    short_help="Show one segment, live.",
    epilog="""\b
Examples:
  billiards-shm watch billiards_video
  billiards-shm watch billiards_video --interval 5 >> table.log
  billiards-shm watch billiards_video --json --count 10
""",
)
@click.argument("name", shell_complete=complete_names)
@click.option("--interval", type=Seconds(min=0.02), default=1.0, show_default=True, help="Seconds between two lines.")
@click.option("--count", type=click.IntRange(min=1), help="Stop after this many lines.")
@json_option
@common_options
def watch_command(name: str, interval: float, count: int | None, as_json: bool) -> None:
    """Show the segment NAME repeatedly, across restarts of its writer, until Ctrl+C.

    It inspects from outside, which neither writer nor readers notice. Without a terminal, it prints lines.
    """
    # It has to exist at the start. Later it may come and go.
    info: SegmentInfo | None = inspect_segment(name)
    with StopRequest() as stop, _watch_display(name, as_json) as show:
        meter = RateMeter()
        for number in itertools.count(1):
            show(info, meter.update(info) if info is not None else None)
            if number == count or stop.wait(interval):
                return
            info = _inspect_if_there(name)


def _inspect_if_there(name: str) -> SegmentInfo | None:
    try:
        return inspect_segment(name)
    except SegmentNotFoundError:
        return None


@contextmanager
def _watch_display(name: str, as_json: bool) -> Iterator[Callable[[SegmentInfo | None, float | None], None]]:
    """Yield the function that shows one state: as JSON, in place on a terminal, or as a line."""
    if as_json:
        gone = {"name": name, "status": str(SegmentStatus.DETACHED)}
        yield lambda info, fps: click.echo(as_json_line(with_health(info.as_dict() if info else gone, info)))
    elif on_terminal():
        with live_view() as draw:
            yield lambda info, fps: draw(
                name,
                details(info, fps) if info is not None else [("status", f"{SegmentStatus.DETACHED}, waiting")],
            )
    else:
        yield lambda info, fps: click.echo(watch_line(name, info, fps))


@click.command(
    "clean",
    short_help="Remove segments of dead writers.",
    epilog="""\b
Examples:
  billiards-shm clean                         all segments of dead writers, and
                                              sockets of dead recorders
  billiards-shm clean billiards_video
""",
)
@click.argument("names", nargs=-1, shell_complete=complete_names)
@json_option
@common_options
def clean_command(names: tuple[str, ...], as_json: bool) -> None:
    """Remove segments whose writer is dead. Those of living writers stay.

    Frames that readers hold stay valid.
    """
    found, failures = _inspect_each(names)
    removed = remove_stale_segments([info.name for info in found]) if names else _remove_all()
    for name in removed:
        click.echo(as_json_line({"name": name, "removed": True}) if as_json else f"removed {name}")
    if not removed and not names:
        click.echo("nothing to remove", err=True)
    for info in found:
        if info.name not in removed:
            failures.append(
                WriterExistsError(f"{info.name} has a living writer (pid {info.writer_pid}): stop it first")
            )
    _raise_all(failures)


def _remove_all() -> list[str]:
    from billiards_shm.record.places import remove_stale_sockets

    return remove_stale_segments() + remove_stale_sockets()


def _inspect_each(names: Iterable[str]) -> tuple[list[SegmentInfo], list[BilliardsShmError]]:
    """Inspect each; return those found, and the errors of the others."""
    found, failures = [], []
    for name in names:
        try:
            found.append(inspect_segment(name))
        except BilliardsShmError as error:
            failures.append(error)
    return found, failures


def _raise_all(failures: Sequence[BilliardsShmError]) -> None:
    """Report all failures, one per line; the last one decides the exit code."""
    for error in failures[:-1]:
        report(error)
    if failures:
        raise failures[-1]

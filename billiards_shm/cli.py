"""The commands of ``billiards-shm``, and what their errors say and exit with."""

import importlib.util
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from billiards_shm import (
    BilliardsShmError,
    SegmentInfo,
    SegmentNotFoundError,
    SegmentStatus,
    SharedMemoryFrameReader,
    WriterExistsError,
    inspect_segment,
    list_segments,
    remove_stale_segments,
)
from billiards_shm.cli_display import (
    as_json_line,
    details,
    live_view,
    on_terminal,
    plain_details,
    plain_list,
    statistics_rows,
    watch_line,
)
from billiards_shm.cli_errors import EXIT_INTERRUPTED, PROGRAM, exit_code_of, report
from billiards_shm.cli_options import (
    CommonOptions,
    ConfiguredCommand,
    common_options,
    complete_names,
    complete_sources,
    json_option,
    overrides_from_options,
)
from billiards_shm.cli_run import run_command, supervise
from billiards_shm.cli_serve import serve_command
from billiards_shm.rates import RateMeter

# pydantic, rich and OpenCV take longer to import than `list` takes to run: who needs them imports them.
if TYPE_CHECKING:
    from billiards_shm.capture.profile import FrameProfile
    from billiards_shm.capture.stats import StatisticsSnapshot

__all__ = ["command_line", "run"]


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Instead of ``sys.argv[1:]``.

    Returns
    -------
    int
        The exit code, as README lists them.
    """
    common = CommonOptions()
    try:
        # https://no-color.org; otherwise click decides by whether the output is a terminal.
        color = False if os.environ.get("NO_COLOR") else None
        code = command_line.main(arguments, PROGRAM, standalone_mode=False, obj=common, color=color)
        sys.stdout.flush()
    except BrokenPipeError:
        _let_output_go()
        return 0
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except Exception as error:
        if common.log_level == "DEBUG":
            traceback.print_exc()
        report(error)
        return exit_code_of(error)
    return int(code or 0)


# The commands.


class _Program(click.Group):
    """The commands. That nobody reads their output any more is no failure; click has it end with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _let_output_go()
            return 0


def _let_output_go() -> None:
    """Lead what is still to be written nowhere: Python flushes once more on its way out, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(
    cls=_Program,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  billiards-shm capture demo                  a camera that needs no camera
  billiards-shm watch billiards_video         what it does, live
  billiards-shm snapshot billiards_video table.png
  VIDEO_FILE=match.mp4 billiards-shm          as a service starts it
  billiards-shm --config tables.json run      every source of a configuration

\b
Exit codes: 0 clean stop, 1 other failure, 2 usage or configuration,
3 the source could not be opened, 4 shared memory, 5 some of several
sources failed; 128 + signal when a second signal ended it at once.

\b
Completion, in ~/.bashrc (zsh and fish likewise):
  eval "$(_BILLIARDS_SHM_COMPLETE=bash_source billiards-shm)"
""",
)
@click.version_option(package_name="billiards_shm", prog_name=PROGRAM)
@common_options
@click.pass_context
def command_line(ctx: click.Context) -> None:
    """Camera frames from one capture process, through shared memory, to any number of readers.

    Without a command: capture what configuration file and environment say.
    """
    if ctx.invoked_subcommand is None:
        ctx.exit(_capture(ctx, {}, None))


@command_line.command(
    cls=ConfiguredCommand,
    sections=("video.", "vision.", "logging."),
    short_help="Capture a source into shared memory.",
    epilog="""\b
Examples:
  billiards-shm capture demo --fps 60 --resolution 1280x720
  billiards-shm capture match.mp4 --loop --name table_1
  billiards-shm capture /dev/v4l/by-id/usb-Acme_Cam-video-index0 --fps 30
  billiards-shm capture rtsp://camera.local/stream --log-level DEBUG
  billiards-shm capture demo --frames 300 --json-logs 2> capture.log
  billiards-shm capture 0 --supervise

\b
Every option is a key of the configuration, shown in brackets with its
default; the command line wins over environment and file.
""",
)
@click.argument("source", required=False, shell_complete=complete_sources)
@click.option("--frames", type=click.IntRange(min=1), help="Stop after so many frames.")
@click.option("--profile", is_flag=True, help="Say at the end where each frame's time went, as p50 and p99.")
@click.option(
    "--profile-plot",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Draw it as well, to a PNG, SVG or PDF file. Needs matplotlib.",
)
@click.option("--supervise", "supervised", is_flag=True, help="Start the process again when it dies or hangs.")
@common_options
@click.pass_context
def capture(
    ctx: click.Context,
    /,
    source: str | None,
    frames: int | None,
    profile: bool,
    profile_plot: Path | None,
    supervised: bool,
    **options: Any,
) -> None:
    """Capture SOURCE into shared memory until stopped.

    SOURCE is a camera's number, a device path, a file, a URL, a GStreamer pipeline, or `demo`: balls on a
    table, drawn here. Without it: what the configuration says.
    """
    overrides = overrides_from_options(options)
    if source is not None:
        overrides["vision.camera.device_id"] = source
    if supervised:
        if profile or profile_plot is not None:
            raise click.UsageError("--profile looks into one process: not together with --supervise")
        ctx.exit(supervise(ctx, overrides, frames))
    with _profile(profile, profile_plot) as frame_profile:
        code = _capture(ctx, overrides, frames, frame_profile)
    ctx.exit(code)


command_line.add_command(run_command)
command_line.add_command(serve_command)


@contextmanager
def _profile(wanted: bool, plot: Path | None) -> "Iterator[FrameProfile | None]":
    """What is to be told where the time goes; drawn in the end, if there is a file to draw it to."""
    if not wanted and plot is None:
        yield None
        return
    from billiards_shm.capture.profile import FrameProfile

    if plot is not None:
        if importlib.util.find_spec("matplotlib") is None:
            raise click.UsageError("--profile-plot needs matplotlib, which is not installed: pip install matplotlib")
        if plot.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise click.UsageError(f"--profile-plot {plot}: a name that ends in .png, .svg or .pdf is expected")
    profile = FrameProfile()
    yield profile
    if plot is not None:
        profile.save_plot(plot)


def _capture(
    ctx: click.Context, overrides: dict[str, Any], frames: int | None, profile: "FrameProfile | None" = None
) -> int:
    """Load the configuration and run the capture process in this one."""
    from billiards_shm.capture.config import load_settings
    from billiards_shm.capture.logs import configure_logging
    from billiards_shm.capture.process import run_capture

    common = ctx.ensure_object(CommonOptions)
    if common.log_level is not None:
        overrides["logging.level"] = common.log_level
    settings, origin = load_settings(common.config, overrides)
    common.log_level = settings.logging.level
    with _statistics_display(live=on_terminal() and not settings.logging.as_json) as on_statistics:
        configure_logging(settings.logging.level, settings.logging.as_json)
        return run_capture(settings, frames=frames, on_statistics=on_statistics, origin=origin, profile=profile)


@contextmanager
def _statistics_display(live: bool) -> "Iterator[Callable[[StatisticsSnapshot], None] | None]":
    """Show statistics on a terminal; elsewhere the log has them."""
    if not live:
        yield None
        return
    with live_view() as draw:
        yield lambda snapshot: draw(snapshot.name, statistics_rows(snapshot))


@command_line.command(
    "list",
    short_help="List segments.",
    epilog="""\b
Examples:
  billiards-shm list
  billiards-shm list /run/cameras/table_1 /run/cameras/table_2
  billiards-shm list --json | jq -r 'select(.status == "dead").name'
""",
)
@click.argument("paths", nargs=-1, type=click.Path())
@json_option
@common_options
def list_command(paths: tuple[str, ...], as_json: bool) -> None:
    """List the segments of this machine, and those at PATHS."""
    for path in paths:
        if "/" not in path:
            raise click.UsageError(
                f"{path!r} is no path (those have a slash); every name is listed anyway, "
                f"and '{PROGRAM} inspect {path}' shows that one alone"
            )
    infos = list_segments(paths)
    if as_json:
        for info in infos:
            click.echo(as_json_line(info.as_dict()))
    elif infos:
        click.echo(plain_list(infos))
    else:
        click.echo("no segments", err=True)
    # What was asked for by its path and is not there is an error; the others have been shown.
    shown = {info.path for info in infos} | {info.name for info in infos}
    _raise_all(_inspect_each(path for path in paths if path not in shown)[1])


@command_line.command(
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
def inspect(name: str, as_json: bool) -> None:
    """Show everything about the segment NAME: writer, source, frames, memory, readers."""
    info = inspect_segment(name)
    click.echo(as_json_line(info.as_dict()) if as_json else plain_details(name, details(info)))


@command_line.command(
    short_help="Show one segment, live.",
    epilog="""\b
Examples:
  billiards-shm watch billiards_video
  billiards-shm watch billiards_video --interval 5 >> table.log
  billiards-shm watch billiards_video --json --count 10
""",
)
@click.argument("name", shell_complete=complete_names)
@click.option("--interval", type=click.FloatRange(min=0.02), default=1.0, show_default=True, help="Seconds between.")
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many looks.")
@json_option
@common_options
def watch(name: str, interval: float, count: int | None, as_json: bool) -> None:
    """Show the segment NAME again and again, across restarts of its writer, until Ctrl+C.

    Looks from outside: readers and writer do not notice. A line a look where the output is no terminal.
    """
    try:
        with _terminated_by_signal():
            # Only now must it exist; later it may come and go.
            info: SegmentInfo | None = inspect_segment(name)
            with _watch_display(name, as_json) as show:
                meter = RateMeter()
                looks = 0
                while True:
                    show(info, meter.update(info) if info is not None else None)
                    looks += 1
                    if looks == count:
                        return
                    time.sleep(interval)
                    info = _inspect_if_there(name)
    except KeyboardInterrupt:
        return


def _inspect_if_there(name: str) -> SegmentInfo | None:
    try:
        return inspect_segment(name)
    except SegmentNotFoundError:
        return None


@contextmanager
def _watch_display(name: str, as_json: bool) -> Iterator[Callable[[SegmentInfo | None, float | None], None]]:
    """Give what shows one look: as JSON, in place on a terminal, or as a line."""
    if as_json:
        gone = {"name": name, "status": str(SegmentStatus.DETACHED)}
        yield lambda info, fps: click.echo(as_json_line(info.as_dict() if info is not None else gone))
    elif on_terminal():
        with live_view() as draw:
            yield lambda info, fps: draw(
                name,
                details(info, fps) if info is not None else [("status", f"{SegmentStatus.DETACHED}, waiting")],
            )
    else:
        yield lambda info, fps: click.echo(watch_line(name, info, fps))


@contextmanager
def _terminated_by_signal() -> Iterator[None]:
    """Make SIGTERM what Ctrl+C is: the end of watching is no failure."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@command_line.command(
    short_help="Write the newest frame as PNG or JPEG.",
    epilog="""\b
Examples:
  billiards-shm snapshot billiards_video table.png
  billiards-shm snapshot billiards_video table.jpg --quality 80

\b
Works on the segment of a dead writer too: its last frame is still there.
PNG keeps every bit.
""",
)
@click.argument("name", shell_complete=complete_names)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--quality", type=click.IntRange(1, 100), default=95, show_default=True, help="Of a JPEG.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    help="Seconds to wait for the segment and its first frame. [video.shared_memory_attach_timeout_sec: 5.0]",
)
@common_options
@click.pass_context
def snapshot(ctx: click.Context, /, name: str, file: Path, quality: int, timeout: float | None) -> None:
    """Write the newest frame of NAME to FILE, a .png, .jpg or .jpeg."""
    from billiards_shm.serve.encoder import EXTENSIONS, encode_image

    if file.suffix.lower() not in EXTENSIONS:
        raise click.BadParameter(f"{str(file)!r} must end in {', '.join(EXTENSIONS)}", param_hint="FILE")
    if not file.parent.is_dir():
        raise click.BadParameter(f"there is no directory {str(file.parent)!r}", param_hint="FILE")
    with SharedMemoryFrameReader(name) as reader:
        if timeout is None:
            timeout = _configured_timeout(ctx)
        reader.attach(timeout=timeout)
        frame, metadata = reader.read_frame(timeout=timeout)
        if frame is None or metadata is None:
            raise TimeoutError(f"no frame in {name} within {timeout:g} s: '{PROGRAM} inspect {name}' shows its source")
        try:
            image = encode_image(frame, metadata.pixel_format, file.suffix, quality)
        except ValueError as error:
            raise click.ClickException(f"{name}: {error}") from error
    _write_atomically(file, image)
    click.echo(f"{file}: frame {metadata.sequence}, {metadata.width}x{metadata.height} {metadata.pixel_format}")


def _configured_timeout(ctx: click.Context) -> float:
    from billiards_shm.capture.config import load_settings

    settings, _ = load_settings(ctx.ensure_object(CommonOptions).config, {})
    return settings.video.shared_memory_attach_timeout_sec


def _write_atomically(file: Path, data: bytes) -> None:
    """Whoever looks at `file` finds the old content or the new, never half of it."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


@command_line.command(
    short_help="Remove what dead writers left.",
    epilog="""\b
Examples:
  billiards-shm clean                         all that dead writers left
  billiards-shm clean billiards_video
""",
)
@click.argument("names", nargs=-1, shell_complete=complete_names)
@json_option
@common_options
def clean(names: tuple[str, ...], as_json: bool) -> None:
    """Remove segments whose writer is dead; those of living writers stay.

    Frames that readers still hold remain valid.
    """
    found, failures = _inspect_each(names)
    removed = remove_stale_segments([info.name for info in found] if names else None)
    for name in removed:
        click.echo(as_json_line({"name": name, "removed": True}) if as_json else f"removed {name}")
    if not removed and not names:
        click.echo("nothing to remove", err=True)
    for info in found:
        if info.name not in removed:
            failures.append(
                WriterExistsError(f"{info.name} belongs to a living writer (pid {info.writer_pid}): stop that first")
            )
    _raise_all(failures)


def _inspect_each(names: Iterable[str]) -> tuple[list[SegmentInfo], list[BilliardsShmError]]:
    """Inspect what can be inspected; give what was found, and what went wrong with the others."""
    found, failures = [], []
    for name in names:
        try:
            found.append(inspect_segment(name))
        except BilliardsShmError as error:
            failures.append(error)
    return found, failures


def _raise_all(failures: Sequence[BilliardsShmError]) -> None:
    """Report all failures, a line each; the last decides about the exit code."""
    for error in failures[:-1]:
        report(error)
    if failures:
        raise failures[-1]

"""``billiards-shm capture``, which ``billiards-shm`` alone also runs."""

import importlib.util
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from billiards_shm.cli.display import on_terminal, statistics_display
from billiards_shm.cli.options import (
    ConfiguredCommand,
    common_options,
    complete_sources,
    load_configuration,
    overrides_from_options,
)
from billiards_shm.cli.run import supervise

# pydantic and OpenCV take longer to import than `list` takes to run, so only functions that need them import them.
if TYPE_CHECKING:
    from collections.abc import Iterator

    from billiards_shm.capture.profile import FrameProfile

__all__ = ["capture_command", "capture_configured"]


class _CaptureCommand(ConfiguredCommand):
    """Accepts a source file whose name begins with a dash."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Prefix such a file with ``./``, so it is not an option."""
        options = {name for param in self.get_params(ctx) for name in (*param.opts, *param.secondary_opts)}
        files = [arg for arg in args if arg.startswith("-") and arg not in options and Path(arg).is_file()]
        return super().parse_args(ctx, [f"./{arg}" if arg in files else arg for arg in args])


@click.command(
    "capture",
    cls=_CaptureCommand,
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
@click.option("--frames", type=click.IntRange(min=1), help="Stop after this many frames.")
@click.option("--profile", is_flag=True, help="Log at the end where each frame's time went, as p50 and p99.")
@click.option(
    "--profile-plot",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Plot the profile to a PNG, SVG or PDF file. Needs matplotlib.",
)
@click.option("--supervise", "supervised", is_flag=True, help="Restart the process when it dies or hangs.")
@common_options
@click.pass_context
def capture_command(
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

    SOURCE is, for example, a camera number, a file, a URL, or `demo`, a drawn billiard table. Without SOURCE, the
    configuration names it.
    """
    overrides = overrides_from_options(options)
    if source is not None:
        overrides["vision.camera.device_id"] = source
    if supervised:
        if profile or profile_plot is not None:
            raise click.UsageError("--profile measures one process: leave --supervise out")
        ctx.exit(supervise(ctx, overrides, frames))
    with _profile(profile, profile_plot) as frame_profile:
        code = capture_configured(ctx, overrides, frames, frame_profile)
    ctx.exit(code)


@contextmanager
def _profile(wanted: bool, plot: Path | None) -> "Iterator[FrameProfile | None]":
    """Yield the profile to fill, and plot it at the end if there is a file for the plot."""
    if not wanted and plot is None:
        yield None
        return
    from billiards_shm.capture.profile import FrameProfile

    if plot is not None:
        if importlib.util.find_spec("matplotlib") is None:
            raise click.UsageError("--profile-plot needs matplotlib, which is not installed: pip install matplotlib")
        if plot.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise click.UsageError(f"--profile-plot {plot}: the name must end in .png, .svg or .pdf")
    profile = FrameProfile()
    yield profile
    if plot is not None:
        profile.save_plot(plot)


def capture_configured(
    ctx: click.Context, overrides: dict[str, Any], frames: int | None, profile: "FrameProfile | None" = None
) -> int:
    """Load the configuration and capture in this process."""
    from billiards_shm.capture.process import run_capture
    from billiards_shm.service.logs import configure_logging

    settings, origin = load_configuration(ctx, overrides)
    with statistics_display(live=on_terminal() and not settings.logging.as_json) as on_statistics:
        configure_logging(settings.logging.level, settings.logging.as_json)
        return run_capture(settings, frames=frames, on_statistics=on_statistics, origin=origin, profile=profile)

"""``billiards-shm serve``: segments over HTTP."""

from typing import Any

import click

from billiards_shm.cli.options import (
    ConfiguredCommand,
    common_options,
    complete_names,
    duration,
    load_configuration,
    overrides_from_options,
)

__all__ = ["serve_command"]


@click.command(
    "serve",
    cls=ConfiguredCommand,
    sections=("serve.", "logging.json"),
    short_help="Show segments over HTTP.",
    epilog="""\b
Examples:
  billiards-shm serve                         every segment there is
  billiards-shm serve table_1 table_2 --port 8080
  BILLIARDS_SHM__SERVE__TOKEN=secret billiards-shm serve --host 0.0.0.0
  billiards-shm serve --sign /stream/table_1.mjpg --for 12h

\b
Serves a page at /, /stream/NAME.mjpg, /snapshot/NAME.jpg, /api/segments,
/healthz, /readyz, /health/NAME and /metrics. Other users can read a token on
the command line, but not one in the environment or in the file.
""",
)
@click.option(
    "--sign",
    metavar="PATH",
    help="Print PATH, signed with the token, and exit. Other pages can embed a signed address, as it needs no token.",
)
@click.option(
    "--for", "seconds", type=duration, default="1h", show_default=True, help="How long the signed address is valid."
)
@click.argument("names", nargs=-1, shell_complete=complete_names)
@common_options
@click.pass_context
def serve_command(
    ctx: click.Context, /, names: tuple[str, ...], sign: str | None, seconds: float, **options: Any
) -> None:
    """Show the segments NAMES, or all, to browsers and monitoring, until stopped."""
    from billiards_shm.serve import sign_url
    from billiards_shm.serve.server import run_server
    from billiards_shm.service.logs import configure_logging

    settings, _ = load_configuration(ctx, overrides_from_options(options))
    if sign is not None:
        if settings.serve.token is None:
            raise click.UsageError("There is no token to sign with: set serve.token to the server's token.")
        try:
            click.echo(sign_url(sign, settings.serve.token, seconds=seconds))
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        return
    configure_logging(settings.logging.level, settings.logging.as_json)
    ctx.exit(run_server(names or None, settings.serve))

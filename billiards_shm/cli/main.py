"""The command ``billiards-shm``: its subcommands, and how it ends."""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from billiards_shm.cli.capture import capture_command, capture_configured
from billiards_shm.cli.errors import EXIT_INTERRUPTED, PROGRAM, exit_code_of, report
from billiards_shm.cli.mirror import mirror_command
from billiards_shm.cli.options import CommonOptions, common_options
from billiards_shm.cli.record import record_command
from billiards_shm.cli.replay import replay_command
from billiards_shm.cli.run import run_command
from billiards_shm.cli.segments import clean_command, inspect_command, list_command, watch_command
from billiards_shm.cli.serve import serve_command
from billiards_shm.cli.snapshot import snapshot_command
from billiards_shm.config.secrets import without_secrets

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
        The exit code, one of those in docs/command-line.md.
    """
    common = CommonOptions()
    try:
        # https://no-color.org; otherwise click decides, by whether the output is a terminal.
        color = False if os.environ.get("NO_COLOR") else None
        code = command_line.main(arguments, PROGRAM, standalone_mode=False, obj=common, color=color)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return 0
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except Exception as error:
        if common.log_level == "DEBUG":
            print(without_secrets(traceback.format_exc()), file=sys.stderr, end="")
        report(error)
        return exit_code_of(error)
    return int(code or 0)


# The commands.


class _Program(click.Group):
    """The commands. It is not a failure if a reader of their output goes away; click would end with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _discard_output()
            return 0


def _discard_output() -> None:
    """Send what is still buffered to the null device: Python flushes at its end, and would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(
    cls=_Program,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  billiards-shm capture demo                  frames without a camera
  billiards-shm watch billiards_video         its state, live
  billiards-shm snapshot billiards_video table.png
  billiards-shm record billiards_video match.mkv
  VIDEO_FILE=match.mp4 billiards-shm          as a service starts it
  billiards-shm --config tables.json run      every source of the configuration

\b
Exit codes: 0 clean stop, 1 other failure, 2 usage or configuration,
3 the source could not be opened, 4 shared memory, 5 some of several
sources failed; 128 + signal when a second signal ended it.

\b
Completion, in ~/.bashrc (zsh and fish have their own):
  eval "$(_BILLIARDS_SHM_COMPLETE=bash_source billiards-shm)"
""",
)
@click.version_option(package_name="billiards_shm", prog_name=PROGRAM)
@common_options
@click.pass_context
def command_line(ctx: click.Context) -> None:
    """Camera frames from one capture process, through shared memory, to any number of readers.

    Without a command: `capture`, with the configuration file and the environment.
    """
    if ctx.invoked_subcommand is None:
        ctx.exit(capture_configured(ctx, {}, None))


for _command in (
    capture_command,
    run_command,
    serve_command,
    mirror_command,
    list_command,
    inspect_command,
    watch_command,
    snapshot_command,
    record_command,
    replay_command,
    clean_command,
):
    command_line.add_command(_command)

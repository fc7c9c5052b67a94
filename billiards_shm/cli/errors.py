"""Errors of the command line: the line that is printed, and the exit code."""

import signal
import sys
from typing import Final

import click

from billiards_shm import BilliardsShmError, ConfigurationError
from billiards_shm.cli.display import printable
from billiards_shm.config.secrets import without_secrets
from billiards_shm.service import exit_codes

__all__ = ["EXIT_INTERRUPTED", "PROGRAM", "exit_code_of", "report"]

PROGRAM: Final = "billiards-shm"

EXIT_INTERRUPTED: Final = 128 + signal.SIGINT


def exit_code_of(error: BaseException) -> int:
    """The exit code for an error, including those of click."""
    return error.exit_code if isinstance(error, click.ClickException) else exit_codes.exit_code_of(error)


def _describe(error: BaseException) -> str:
    """One line: what is wrong, and what to do."""
    match error:
        case click.UsageError():
            path = error.ctx.command_path if error.ctx is not None else PROGRAM
            text = f"{error.format_message().rstrip('.')} (see '{path} --help')"
        case click.ClickException():
            text = error.format_message()
        case BilliardsShmError() | OSError() | ImportError():
            text = exit_codes.text_of(error)
        case _:
            text = f"{type(error).__name__}: {error} (this should not happen; --log-level DEBUG shows where)"
    return " ".join(text.split())


def report(error: BaseException) -> None:
    """Print an error to standard error, on one line. A configuration may have several errors, one per line."""
    texts = str(error).splitlines() if isinstance(error, ConfigurationError) else [_describe(error)]
    for text in texts:
        print(f"{PROGRAM}: error: {printable(without_secrets(text))}", file=sys.stderr)

"""What an error of the command line says, in one line, and which exit code it ends with."""

import signal
import sys
from typing import Final

import click

from billiards_shm import BilliardsShmError, ConfigurationError
from billiards_shm.cli.display import printable
from billiards_shm.service import exit_codes

__all__ = ["EXIT_INTERRUPTED", "PROGRAM", "exit_code_of", "report"]

PROGRAM: Final = "billiards-shm"

EXIT_INTERRUPTED: Final = 128 + signal.SIGINT


def exit_code_of(error: BaseException) -> int:
    """The exit code that an error ends the program with, those of click included."""
    return error.exit_code if isinstance(error, click.ClickException) else exit_codes.exit_code_of(error)


def _describe(error: BaseException) -> str:
    """One line that says what went wrong and what to do."""
    match error:
        case click.UsageError():
            path = error.ctx.command_path if error.ctx is not None else PROGRAM
            text = f"{error.format_message().rstrip('.')} (see '{path} --help')"
        case click.ClickException():
            text = error.format_message()
        case ModuleNotFoundError() if error.name == "cv2":
            text = "this command needs OpenCV: pip install 'billiards-shm[headless]'"
        case ModuleNotFoundError() if error.name in ("fastapi", "starlette", "uvicorn", "prometheus_client"):
            text = f"this command needs {error.name}: pip install 'billiards-shm[serve]'"
        case ModuleNotFoundError():
            text = f"this command needs {error.name}: pip install 'billiards-shm[cli]'"
        case ImportError():
            text = f"{error}; if a library for windows is missing: pip install 'billiards-shm[headless]'"
        case BilliardsShmError() | TimeoutError():
            text = str(error)
        case OSError():
            text = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        case _:
            text = f"{type(error).__name__}: {error} (this should not happen; --log-level DEBUG shows where)"
    return " ".join(text.split())


def report(error: BaseException) -> None:
    """Say on standard error what went wrong: one line an error, of which a configuration may have several."""
    texts = str(error).splitlines() if isinstance(error, ConfigurationError) else [_describe(error)]
    for text in texts:
        print(f"{PROGRAM}: error: {printable(text)}", file=sys.stderr)

"""Log lines to standard error, as text or as JSON."""

import contextlib
import json
import logging
import os
import select
import sys
import warnings
from datetime import UTC, datetime
from typing import Any, Final

from billiards_shm.config.secrets import without_secrets

__all__ = ["configure_logging", "log_without_waiting"]

_PLAIN: Final = "%(asctime)s %(levelname)-8s {source}%(message)s"
_STANDARD_FIELDS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class PlainFormatter(logging.Formatter):
    """Lines for people. Passwords are masked, whichever module logs them."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line, or several if it has a traceback."""
        return without_secrets(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and the fields of `extra`.

    Parameters
    ----------
    supervised : str
        Name of the source in the processes of `run`.
    """

    def __init__(self, supervised: str = "") -> None:
        super().__init__()
        self._always = {"supervised": supervised} if supervised else {}

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._always,
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        fields.update((name, value) for name, value in vars(record).items() if name not in _STANDARD_FIELDS)
        shown = {name: without_secrets(value) if isinstance(value, str) else value for name, value in fields.items()}
        return json.dumps(shown, ensure_ascii=False, default=str)


def configure_logging(level: str, json: bool, source: str = "") -> None:
    """Send log lines of `level` and above, and Python's warnings, to standard error, and nowhere else.

    Parameters
    ----------
    level : str
        A name such as ``"INFO"``.
    json : bool
        Whether lines are JSON objects.
    source : str
        Each line begins with it, where several processes log to one place; in JSON it is ``supervised``.
    """
    # Without standard error, as under pythonw on Windows, there is no place to log to.
    handler: logging.Handler = logging.StreamHandler(sys.stderr) if sys.stderr is not None else logging.NullHandler()
    plain = _PLAIN.format(source=f"{source}: ".replace("%", "%%") if source else "")
    handler.setFormatter(JsonFormatter(source) if json else PlainFormatter(plain))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Python would show them with a path and a line of our source.
    warnings.showwarning = _log_warning


def _log_warning(message: Warning | str, *details: object, **more: object) -> None:
    logging.getLogger(__name__).warning("%s", message)


def log_without_waiting(logger: logging.Logger, level: int, message: str, extra: dict[str, Any] | None = None) -> None:
    """Log a last line from a thread, before the process ends.

    The main thread may hold the lock of the log's handler, and the pipe behind standard error may be full. So no lock
    is taken, and a line that would have to wait is left out.
    """
    with contextlib.suppress(Exception):
        handlers = logging.getLogger().handlers
        formatter = (handlers[0].formatter if handlers else None) or logging.Formatter()
        record = logger.makeRecord(logger.name, level, __file__, 0, message, (), None, extra=extra)
        descriptor = sys.stderr.fileno()
        if logger.isEnabledFor(level) and select.select([], [descriptor], [], 0)[1]:
            os.write(descriptor, formatter.format(record).encode() + b"\n")

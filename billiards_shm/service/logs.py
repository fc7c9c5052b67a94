"""Log lines for people, or as JSON for machines, to standard error."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

__all__ = ["configure_logging"]

_PLAIN: Final = "%(asctime)s %(levelname)-8s {source}%(message)s"
_STANDARD_FIELDS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and what was passed as `extra`.

    Parameters
    ----------
    supervised : str
        Name of the source in processes of which there are several.
    """

    def __init__(self, supervised: str = "") -> None:
        super().__init__()
        self._always = {"supervised": supervised} if supervised else {}

    def format(self, record: logging.LogRecord) -> str:
        """Make the line."""
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
        return json.dumps(fields, ensure_ascii=False, default=str)


def configure_logging(level: str, json: bool, source: str = "") -> None:
    """Send log lines of `level` and above to standard error, instead of wherever they went before.

    Parameters
    ----------
    level : str
        A name such as ``"INFO"``.
    json : bool
        Whether lines are JSON objects.
    source : str
        What each line begins with, where several processes log to one place; in JSON it is ``supervised``.
    """
    # A service may be started without standard error; then there is nobody to tell.
    handler: logging.Handler = logging.StreamHandler(sys.stderr) if sys.stderr is not None else logging.NullHandler()
    plain = _PLAIN.format(source=f"{source}: ".replace("%", "%%") if source else "")
    handler.setFormatter(JsonFormatter(source) if json else logging.Formatter(plain))
    logging.basicConfig(level=level, handlers=[handler], force=True)

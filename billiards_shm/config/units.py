"""Durations and sizes as people write them."""

import re
from typing import Any, Final

__all__ = ["BYTES_ALLOWED", "DURATION_ALLOWED", "bytes_from", "seconds_from"]

DURATION_ALLOWED: Final = "a time such as 90s, 10min, 24h or 7d"
BYTES_ALLOWED: Final = "a size such as 500MB or 20GB"
_SECONDS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES: Final = {"": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
_NUMBER: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)")


def seconds_from(value: Any) -> Any:
    """Convert a text such as 90s or 10min to seconds; other values are returned unchanged.

    Raises
    ------
    ValueError
        The text is not a duration.
    """
    return _converted(value, _SECONDS, DURATION_ALLOWED)


def bytes_from(value: Any) -> Any:
    """Convert a text such as 20GB to bytes; other values are returned unchanged.

    Raises
    ------
    ValueError
        The text is not a size.
    """
    found = _converted(value, _BYTES, BYTES_ALLOWED)
    return round(found) if isinstance(found, float) else found


def _converted(value: Any, units: dict[str, float], allowed: str) -> Any:
    if not isinstance(value, str):
        return value
    found = _NUMBER.fullmatch(value)
    if found is None or found[2] not in units:
        raise ValueError(f"{value!r} is not {allowed}")
    return float(found[1]) * units[found[2]]

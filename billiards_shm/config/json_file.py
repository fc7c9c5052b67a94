"""The configuration file: a JSON object, which may have comments."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NoReturn

from billiards_shm.errors import ConfigurationError

__all__ = ["read_json_object"]

LONGEST_NUMBER: Final = 400
_STRING_OR_COMMENT: Final = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|/\*.*?\*/', re.DOTALL)


def read_json_object(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    """Read a JSON object. Comments may stand where spaces may: from ``//`` to the end of the line, or in ``/* */``.

    Parameters
    ----------
    path : pathlib.Path
    keys : iterable of str
        The keys the object should have, for the error if it is not an object.

    Raises
    ------
    ConfigurationError
        The file cannot be read, or holds something else; says where and what.
    """
    try:
        content = _parse(_without_comments(_read(path)))
        if not isinstance(content, dict):
            _refuse(f"holds {json.dumps(content)[:40]}; allowed: a JSON object with the sections {', '.join(keys)}")
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    return content


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        _refuse(f"cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        _refuse(f"not UTF-8 at byte {error.start}; allowed: a JSON object in UTF-8")


def _without_comments(text: str) -> str:
    """Replace comments with spaces, so that every error keeps its line and column."""

    def blank(found: re.Match[str]) -> str:
        return found[0] if found[0].startswith('"') else re.sub(r"[^\n]", " ", found[0])

    return _STRING_OR_COMMENT.sub(blank, text)


def _parse(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant)
    except json.JSONDecodeError as error:
        _refuse(f"line {error.lineno}, column {error.colno}: not JSON: {error.msg}")
    except RecursionError:
        _refuse("nested too deeply")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        _refuse(f"{', '.join(repeated)}: more than once in one section; each key is allowed once")
    return dict(pairs)


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        _refuse(f"{digits[:10]}... is a number of {len(digits)} digits; allowed: at most {LONGEST_NUMBER}")
    return int(digits)


def _constant(name: str) -> NoReturn:
    _refuse(f"{name} is not JSON; allowed: a finite number")


def _refuse(text: str) -> NoReturn:
    raise ConfigurationError(text)

"""Loads the configuration from file, environment and command line, with errors that name the place."""

import difflib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from billiards_shm.config.json_file import read_json_object
from billiards_shm.config.keys import VARIABLE_PREFIX, ConfigurationKey, configuration_keys
from billiards_shm.config.model import (
    CameraConfig,
    LoggingConfig,
    ProcessConfig,
    Settings,
    SourceConfig,
    VideoConfig,
    VisionConfig,
    fps_key,
)
from billiards_shm.config.secrets import is_secret, without_secrets
from billiards_shm.config.section import ConflictError
from billiards_shm.errors import ConfigurationError

__all__ = [
    "CameraConfig",
    "ConfigurationKey",
    "LoggingConfig",
    "ProcessConfig",
    "Settings",
    "SourceConfig",
    "VideoConfig",
    "VisionConfig",
    "configuration_keys",
    "fps_key",
    "load_settings",
    "value_from_text",
]

FOUND_FILE: Final = "config.json"
"""Read from the working directory if the command line names no file."""

_SHORT_VARIABLES: Final = {"VIDEO_FILE": "vision.camera.device_id", "LOG_LEVEL": "logging.level"}
_SHOWN_VALUE: Final = 80
_LISTED_KEYS: Final = 20
"""Longest list of allowed keys in an error."""
_TRUE: Final = ("true", "yes", "on", "1")
_FALSE: Final = ("false", "no", "off", "0")

_Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class _Given:
    """A value that was set, and where."""

    value: Any
    place: str


def load_settings(
    config_file: Path | None,
    overrides: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
) -> tuple[Settings, str]:
    """Read the configuration.

    The command line wins over ``VIDEO_FILE`` and ``LOG_LEVEL``, these over ``BILLIARDS_SHM__*``, these over the file.

    Parameters
    ----------
    config_file : pathlib.Path or None
        The file to read. None: ``./config.json`` if it exists, which may have sections of other programs.
    overrides : mapping of str to object
        From the command line: dotted key, such as ``"video.slots"``, to value. Text is converted like text from the
        environment. If the source is a file, ``vision.camera.fps`` sets `playback_fps`.
    environ : mapping of str to str, optional
        Instead of ``os.environ``.

    Returns
    -------
    settings : Settings
    origin : str
        Where the settings came from, in one line for the log.

    Raises
    ------
    ConfigurationError
        One line for each error in file, environment and command line: the place, the key, the value and what is
        allowed.
    """
    given: dict[str, _Given] = {}
    problems: list[str] = []
    file = "defaults"
    changes: list[str] = []

    path = config_file
    if path is None and Path(FOUND_FILE).exists():
        path = Path(FOUND_FILE)
    if path is not None:
        content = read_json_object(path, Settings.model_fields)
        file = str(path)
        if config_file is None:
            foreign = [section for section in content if section not in Settings.model_fields]
            if foreign:
                file += f" (of other programs: {', '.join(foreign)})"
            content = {section: value for section, value in content.items() if section not in foreign}
        for key, value in _leaves(content, Settings, "", str(path), problems):
            given[key] = _Given(value, str(path))

    for variable, key, value in _from_environment(os.environ if environ is None else environ, problems):
        given[key] = _Given(value, f"environment variable {variable}")
        changes.append(variable)

    named = set(overrides)
    keys = _keys()
    for key, value in overrides.items():
        if key not in keys:
            problems.append(_unknown("command line", key, value, keys))
            continue
        place = f"{'option' if keys[key].option.startswith('-') else 'argument'} {keys[key].option}"
        typed = value_from_text(keys[key], value) if isinstance(value, str) else value
        target = key
        if key == "vision.camera.fps" and "vision.camera.playback_fps" not in named:
            target = _fps_target(given, overrides)
        given[target] = _Given(typed, place)
        changes.append(keys[key].option)

    settings = _validated(given, problems)
    return settings, f"{file}, changed by {', '.join(changes)}" if changes else file


def _keys() -> dict[str, ConfigurationKey]:
    return {key.path: key for key in configuration_keys()}


def _fps_target(given: Mapping[str, _Given], overrides: Mapping[str, Any]) -> str:
    """The key that ``--fps`` sets. The source is not validated yet."""
    key = "vision.camera.device_id"
    device = overrides.get(key, given[key].value if key in given else 0)
    return fps_key(device if isinstance(device, (int, str)) else 0)


# The file.


def _leaves(
    content: Mapping[str, Any], model: type[BaseModel], prefix: str, place: str, problems: list[str]
) -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of each leaf; an unknown key is a problem."""
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    for name, value in content.items():
        path = prefix + name
        if name not in fields:
            problems.append(_unknown(place, path, value, [prefix + known for known in fields]))
            continue
        section = fields[name].annotation
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            yield path, value
        elif isinstance(value, dict):
            yield from _leaves(value, section, f"{path}.", place, problems)
        else:
            names = ", ".join(inner.alias or key for key, inner in section.model_fields.items())
            problems.append(f"{place}: {path} is {_shown(value, path)}; allowed: an object with the keys {names}")


# The environment.


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> Iterator[tuple[str, str, Any]]:
    """Yield variable, key and value for each variable with our prefix; an unknown one is a problem."""
    keys = _keys()
    known = {key.variable: key for key in keys.values()}
    for variable in sorted(environ):
        if not variable.upper().startswith(VARIABLE_PREFIX):
            continue
        key = known.get(variable.upper())
        if key is None:
            path = variable[len(VARIABLE_PREFIX) :].lower().replace("__", ".")
            below = [name for name in known if name.startswith(f"{variable.upper()}__")]
            problems.append(_unknown(f"environment variable {variable}", path, environ[variable], below or known))
            continue
        yield variable, key.path, value_from_text(key, environ[variable])
    for variable, path in _SHORT_VARIABLES.items():
        # Empty is how container files say "not set".
        if environ.get(variable):
            yield variable, path, value_from_text(keys[path], environ[variable])


def value_from_text(key: ConfigurationKey, text: str) -> Any:
    """Convert text to the value that a JSON file would have. Other text stays unchanged, and the model refuses it."""
    if key.textual:
        return text
    if key.allowed.startswith("true or false"):
        lowered = text.strip().lower()
        if key.default is None and lowered == "null":
            return None
        return True if lowered in _TRUE else False if lowered in _FALSE else text
    if key.path.endswith(".device_id"):
        return text

    def refuse(constant: str) -> NoReturn:
        raise ValueError(constant)

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return text


# Validation.


def _validated(given: Mapping[str, _Given], problems: list[str]) -> Settings:
    nested: dict[str, Any] = {}
    for path, item in given.items():
        *sections, name = path.split(".")
        level = nested
        for section in sections:
            level = level.setdefault(section, {})
        level[name] = item.value
    settings = None
    try:
        settings = Settings(**nested)
    except ValidationError as error:
        # A union reports each of its members and a tuple each of its items: one line per key is enough.
        found = [_problem(detail, nested, given) for detail in error.errors()]
        problems.extend(dict.fromkeys(found))
    if settings is None or problems:
        raise ConfigurationError("\n".join(problems))
    return settings


def _problem(detail: ErrorDetails, nested: Any, given: Mapping[str, _Given]) -> str:
    """Describe an error of pydantic: the place, the key, the value and what is allowed."""
    location, kind = detail["loc"], detail["type"]
    keys = {key.path: key for key in configuration_keys(of_sources=True)}
    if kind == "extra_forbidden":
        path = _dotted(location)
        siblings = _dotted(location[:-1], with_numbers=False) + "."
        known = [key.removeprefix(siblings) for key in keys if key.startswith(siblings)]
        return _unknown(_place(location, given), path, _at(nested, location), known)
    for length in range(len(location), 0, -1):
        key = keys.get(_dotted(location[:length], with_numbers=False))
        if key is not None:
            break
    else:
        # A whole section, such as an entry of `video.sources` that is not an object.
        return (
            f"{_place(location, given)}: {_dotted(location)} is {_shown(_at(nested, location))}; "
            "allowed: an object with the keys that docs/configuration.md lists"
        )
    if kind == "missing" and isinstance(location[-1], str):
        return f"{_place(location, given)}: {_dotted(location)} is missing; allowed: {key.allowed}"
    if key.path != "video.sources":
        location = location[:length]
    value = _shown(_at(nested, location), _dotted(location))
    text = f"{_place(location, given)}: {_dotted(location)} is {value}; allowed: {key.allowed}"
    # Neither a list nor a value that conflicts with another one shows what is wrong.
    error = detail.get("ctx", {}).get("error")
    in_list = key.path == _dotted(location) == "video.sources" and kind == "value_error"
    return f"{text}; {error}" if in_list or isinstance(error, ConflictError) else text


def _dotted(location: _Path, *, with_numbers: bool = True) -> str:
    text = ""
    for part in location:
        text += (f"[{part}]" if with_numbers else "[]") if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _place(location: _Path, given: Mapping[str, _Given]) -> str:
    for length in range(len(location), 0, -1):
        item = given.get(".".join(str(part) for part in location[:length]))
        if item is not None:
            return item.place
    return "configuration"


def _at(nested: Any, location: _Path) -> Any:
    value = nested
    for part in location:
        try:
            value = value[part]
        except (LookupError, TypeError):
            return None
    return value


def _shown(value: Any, key: str = "") -> str:
    if is_secret(key):
        return "a secret that is not shown"
    text = without_secrets(json.dumps(value, ensure_ascii=False, default=repr))
    return text if len(text) <= _SHOWN_VALUE else f"{text[: _SHOWN_VALUE - 3]}..."


def _unknown(place: str, path: str, value: Any, known: Iterable[str]) -> str:
    """Describe the error of an unknown key; `known` are the keys that were possible."""
    by_last_word = {re.split(r"__|[.]", name)[-1].lower(): name for name in known}
    guess = difflib.get_close_matches(path.rpartition(".")[2], by_last_word, n=1)
    if guess:
        hint = f"did you mean {by_last_word[guess[0]]}?"
    elif len(by_last_word) <= _LISTED_KEYS:
        hint = f"allowed are {', '.join(by_last_word.values())}"
    else:
        hint = "docs/configuration.md lists what is allowed"
    return f"{place}: there is no key {path} (its value is {_shown(value, path)}); {hint}"

"""Every key of the configuration, with what options, variables, messages and documentation need to know about it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import NoneType
from typing import Any, Final, get_args

from pydantic import BaseModel

from billiards_shm.config.model import Settings

__all__ = ["VARIABLE_PREFIX", "ConfigurationKey", "configuration_keys"]

VARIABLE_PREFIX: Final = "BILLIARDS_SHM__"
"""Prefix of all environment variables. In the rest of the name two underscores stand for the dots of a key."""


@dataclass(frozen=True, slots=True)
class ConfigurationKey:
    """One key of the configuration, as docs/configuration.md and error messages show it."""

    path: str
    default: Any
    description: str
    allowed: str
    option: str
    textual: bool
    """Whether the value is a text. In the environment it is not written as JSON."""

    @property
    def variable(self) -> str:
        """Name of the environment variable that sets the key."""
        return VARIABLE_PREFIX + self.path.upper().replace(".", "__")


@cache
def configuration_keys(*, of_sources: bool = False) -> tuple[ConfigurationKey, ...]:
    """Every key of the configuration, in the order of the model.

    Parameters
    ----------
    of_sources : bool
        Whether to include the keys of an entry of `video.sources`, as ``video.sources[].name``. Only a file or a JSON
        text can set these.
    """
    return tuple(key for key in _keys_below(Settings, "") if of_sources or "[]" not in key.path)


def _keys_below(model: type[BaseModel], prefix: str) -> Iterator[ConfigurationKey]:
    properties = model.model_json_schema().get("properties", {})
    for name, field in model.model_fields.items():
        key = field.alias or name
        path = prefix + key
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys_below(field.annotation, f"{path}.")
            continue
        schema = properties[key]
        yield ConfigurationKey(
            path=path,
            default=schema.get("default"),
            description=field.description or "",
            allowed=schema.get("allowed") or _allowed(schema),
            option=schema.get("option") or "--" + key.replace("_", "-"),
            textual=schema.get("textual", schema.get("type") == "string"),
        )
        entries = get_args(field.annotation)
        for entry in entries:
            if isinstance(entry, type) and issubclass(entry, BaseModel):
                yield from _keys_below(entry, f"{path}." if NoneType in entries else f"{path}[].")


def _allowed(schema: dict[str, Any]) -> str:
    """Describe in words what the JSON schema of one value allows."""
    if "anyOf" in schema:
        return " or ".join(_allowed(member) for member in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"])
    kind = schema.get("type")
    if kind == "null":
        return "null"
    if kind == "boolean":
        return "true or false"
    words = "an integer" if kind == "integer" else "a number"
    if "exclusiveMinimum" in schema:
        words += f" above {schema['exclusiveMinimum']:g}"
    elif "minimum" in schema:
        words += f" from {schema['minimum']:g}"
    return f"{words} to {schema['maximum']:g}" if "maximum" in schema else words

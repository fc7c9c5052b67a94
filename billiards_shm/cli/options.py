"""Options that commands share, and one option for each key of the configuration."""

import contextlib
import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from billiards_shm import list_segments
from billiards_shm.config.units import seconds_from

if TYPE_CHECKING:
    from billiards_shm.config.load import ConfigurationKey
    from billiards_shm.config.model import Settings

__all__ = [
    "CommonOptions",
    "ConfiguredCommand",
    "Seconds",
    "common_options",
    "complete_names",
    "complete_sources",
    "duration",
    "entry_from_options",
    "json_option",
    "load_configuration",
    "options_from_model",
    "overrides_from_options",
]

_METAVARS: Final = {
    "an integer": "INTEGER",
    "a number": "NUMBER",
    "a time": "DURATION",
    "a size": "SIZE",
    "[left, top": "JSON",
}
"""By the beginning of the text on what a key allows."""

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass
class CommonOptions:
    """The values of ``--config`` and ``--log-level``, before or after the command."""

    config: Path | None = None
    log_level: str | None = None


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None:
        setattr(ctx.ensure_object(CommonOptions), param.name or "", value)


def common_options(function: _F) -> _F:
    """Give a command ``--config`` and ``--log-level``."""
    function = click.option(
        "--log-level",
        type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], case_sensitive=False),
        expose_value=False,
        callback=_remember,
        help="How much is logged. With DEBUG, errors show their traceback.",
    )(function)
    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        expose_value=False,
        callback=_remember,
        help="Configuration file, instead of ./config.json, for commands that have settings.",
    )(function)


class Seconds(click.FloatRange):
    """A finite duration, up to a year: seconds, or a number with a unit."""

    name = "seconds"

    def __init__(self, min: float) -> None:  # noqa: A002
        super().__init__(min=min, max=365 * 86400.0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Convert the text; "nan" is outside every range."""
        with contextlib.suppress(ValueError):  # click handles numbers without units
            value = seconds_from(value)
        seconds = float(super().convert(value, param, ctx))
        return self.fail(f"{value} is not a number.", param, ctx) if math.isnan(seconds) else seconds


def duration(text: str) -> float:
    """Convert a number with a unit, such as 90s, 30min, 12h or 7d, to seconds."""
    try:
        return float(seconds_from(text))
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from error


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")


def complete_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the names of segments, and paths."""
    if "/" in incomplete:
        return [CompletionItem(incomplete, type="file")]
    return [
        CompletionItem(info.name, help=str(info.status)) for info in list_segments() if info.name.startswith(incomplete)
    ]


def complete_sources(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete `demo`, devices and files."""
    known = ["demo", *(str(path) for path in sorted(Path("/dev").glob("video*")))]
    items = [CompletionItem(source) for source in known if source.startswith(incomplete)]
    return [*items, CompletionItem(incomplete, type="file")]


class ConfiguredCommand(click.Command):
    """A command with options of the configuration model, which is imported when they are needed.

    Parameters
    ----------
    sections : collection of str
        Prefixes of the keys that get an option.
    leave_out : collection of str
        Prefixes of keys among them that do not.
    entry : str
        Prefix of the keys of an entry of a list, such as ``mirror.receive[].``, which get options, too.
    """

    def __init__(
        self,
        *arguments: Any,
        sections: Collection[str],
        leave_out: Collection[str] = (),
        entry: str = "",
        **more: Any,
    ) -> None:
        super().__init__(*arguments, **more)
        self._sections = sections
        self._entry = entry
        # The log level is an option of every command.
        self._leave_out = ("logging.level", *leave_out)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own parameters and those of the model."""
        if not any("__" in (param.name or "") for param in self.params):
            if self._entry:
                self.params += [_option(key) for key in _keys_of_entry(self._entry) if key.option.startswith("--")]
            self.params += options_from_model(self._sections, leave_out=self._leave_out)
        return super().get_params(ctx)


def options_from_model(sections: Collection[str], *, leave_out: Collection[str] = ()) -> list[click.Option]:
    """Make one option for each key of the configuration model, so no option is declared twice.

    Parameters
    ----------
    sections : collection of str
        Prefixes of the keys that get an option.
    leave_out : collection of str
        Prefixes of keys among them that do not.

    Returns
    -------
    list of click.Option
        In the order of the model. A parameter's name is the key with ``__`` for the dots, as in the environment. Its
        value is the text as typed, which `load_settings` validates, or None.
    """
    # This imports pydantic, which commands without such options do not need.
    from billiards_shm.config.load import configuration_keys

    # The source is an argument, not an option.
    return [
        _option(key)
        for key in configuration_keys()
        if key.option.startswith("--")
        and key.path.startswith(tuple(sections))
        and not key.path.startswith(tuple(leave_out))
    ]


def overrides_from_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options given on the command line: dotted key to value."""
    return {name.replace("__", "."): value for name, value in values.items() if value is not None}


def entry_from_options(entry: str, values: dict[str, Any]) -> dict[str, Any]:
    """Take the options of a list entry, as made by `ConfiguredCommand`, out of the given ones."""
    from billiards_shm.config.load import value_from_text

    given = {key: values.pop(_parameter(key), None) for key in _keys_of_entry(entry)}
    return {key.path.removeprefix(entry): value_from_text(key, text) for key, text in given.items() if text is not None}


def _keys_of_entry(entry: str) -> "list[ConfigurationKey]":
    from billiards_shm.config.load import configuration_keys

    return [key for key in configuration_keys(of_sources=True) if key.path.startswith(entry)]


def _parameter(key: "ConfigurationKey") -> str:
    return key.path.replace("[]", "").replace(".", "__")


def load_configuration(ctx: click.Context, overrides: dict[str, Any]) -> "tuple[Settings, str]":
    """Load the configuration that the options name; return it and where it came from.

    Parameters
    ----------
    ctx : click.Context
    overrides : dict of str to object
        Dotted key to value; they win over file and environment.
    """
    from billiards_shm.config.load import load_settings

    common = ctx.ensure_object(CommonOptions)
    if common.log_level is not None:
        overrides["logging.level"] = common.log_level
    settings, origin = load_settings(common.config, overrides)
    common.log_level = settings.logging.level
    return settings, origin


def _option(key: "ConfigurationKey") -> click.Option:
    parameter = _parameter(key)
    default = "empty" if key.default == "" else key.default if isinstance(key.default, str) else json.dumps(key.default)
    shown = f"[{key.path}: {default}]"
    text = f"{key.description}. {shown}"
    if key.allowed.startswith("true or false"):
        switch = f"{key.option}/--no-{key.option.removeprefix('--')}"
        return click.Option([switch, parameter], default=None, help=text)
    words = key.allowed.split(", ")
    # A default that is one of the allowed words shows that the key is a choice, which can be completed.
    if str(key.default) in words:
        return click.Option([key.option, parameter], type=click.Choice(words, case_sensitive=False), help=text)
    for beginning, metavar in _METAVARS.items():
        if key.allowed.startswith(beginning):
            text = f"{key.description}. Allowed: {key.allowed}. {shown}"
            return click.Option([key.option, parameter], metavar=metavar, help=text)
    metavar = "TEXT" if not isinstance(key.default, (list, tuple)) else "WxH" if key.default else "JSON"
    return click.Option([key.option, parameter], metavar=metavar, help=text)

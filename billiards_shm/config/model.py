"""The configuration model: every key with its default, meaning and allowed values."""

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, Strict, ValidationInfo

from billiards_shm import _core
from billiards_shm.config.address import SourceAddress
from billiards_shm.config.camera import CameraConfig, ConflictError, Section
from billiards_shm.config.defaults import MAX_FRAME_AGE_SEC
from billiards_shm.errors import ConfigurationError, SegmentNameError

__all__ = [
    "VARIABLE_PREFIX",
    "CameraConfig",
    "ConfigurationKey",
    "LoggingConfig",
    "ProcessConfig",
    "ServeConfig",
    "Settings",
    "SourceConfig",
    "VideoConfig",
    "VisionConfig",
    "configuration_keys",
    "fps_key",
    "native_name",
]

VARIABLE_PREFIX: Final = "BILLIARDS_SHM__"
"""Prefix of all environment variables. In the rest of the name two underscores stand for the dots of a key."""
NATIVE_SUFFIX: Final = ".native"
"""What the name of a segment of native frames ends in, where both are published."""
# The rule itself is the core's; this is what it says.
NAME_ALLOWED: Final = (
    "letters, digits, '.', '_' and '-', at most 64 of them; or a path, which has a slash "
    "(but '/name' with a leading slash only is not one: leave the slash out)"
)
MODE_ALLOWED: Final = 'octal digits in quotes, such as "0640"'
HOST_ALLOWED: Final = "an address of this machine; 0.0.0.0 is all of them"


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _segment_name(value: str) -> str:
    _core.object_path(value)  # SegmentNameError, which is a ValueError
    return value


SegmentName = Annotated[str, AfterValidator(_segment_name)]


def _proxies(value: str) -> str:
    for proxy in filter(None, (part.strip() for part in value.split(","))):
        if proxy != "*":
            ipaddress.ip_network(proxy)  # ValueError, which names it
    return value


def _webhook(value: str) -> str:
    parts = urlsplit(value)
    if not re.fullmatch(r"https?://[!-~]+", value, re.IGNORECASE) or not parts.hostname or parts.port == 0:
        raise ValueError("it is no URL of http or https")
    return value


SegmentGroup = Annotated[int, Field(ge=0, le=2**32 - 2)] | Annotated[str, Field(min_length=1)]


class SourceConfig(Section):
    """One entry of `video.sources`: the name of a segment, and its source."""

    name: SegmentName = Field(description="Name of the segment", json_schema_extra={"allowed": NAME_ALLOWED})
    camera: CameraConfig = Field(description="The same keys as in `vision.camera`")


class ProcessConfig(Section):
    """The capture process."""

    shutdown_timeout: float = Field(
        default=10.0,
        ge=0,
        le=3600,
        description="Seconds that `run` and `--supervise` give a capture process to stop before they kill it",
    )
    main_loop_sleep: float = Field(
        default=0.001, ge=0, le=1, description="Seconds to pause after a grab that gave no frame"
    )
    hang_timeout: float = Field(
        default=30.0,
        ge=0.5,
        le=86400,
        description="Seconds without a frame or an attempt to reconnect after which `run` and `--supervise` "
        "restart a capture process",
    )
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        default=None, description="Port for Prometheus metrics; 0: any free port, null: no metrics"
    )
    metrics_host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to serve metrics at",
        json_schema_extra={"allowed": HOST_ALLOWED},
    )


def _fits_beside_slots(history: int, info: ValidationInfo) -> int:
    slots = info.data.get("slots", 0)
    if slots + history > 62:
        raise ConflictError(f"beside slots = {slots}, at most {62 - slots}")
    return history


def native_name(name: str) -> str:
    """Name of the segment of native frames beside a segment of BGR.

    Raises
    ------
    ConfigurationError
        The name is too long for that.
    """
    native = f"{name}{NATIVE_SUFFIX}"
    try:
        _core.object_path(native)
    except SegmentNameError as error:
        raise ConfigurationError(
            f"{name!r} is too long where publish is both: {error}; allowed are names to which {NATIVE_SUFFIX} can be "
            f"added, with at most {64 - len(NATIVE_SUFFIX)} characters"
        ) from None
    return native


def _names_once(sources: tuple[SourceConfig, ...]) -> tuple[SourceConfig, ...]:
    first: dict[str, int] = {}
    for index, source in enumerate(sources):
        earlier = first.setdefault(source.name, index)
        if earlier != index:
            devices = [SourceAddress.parse(sources[each].camera.device_id) for each in (earlier, index)]
            raise ValueError(
                f"[{earlier}] and [{index}] are both called {source.name!r}, of {devices[0]} and of {devices[1]}"
            )
    names = {source.name for source in sources}
    for index, source in enumerate(sources):
        if source.camera.publish == "both" and native_name(source.name) in names:
            raise ValueError(f"[{index}] publishes both, and so needs the name {native_name(source.name)!r} of another")
    return sources


class VideoConfig(Section):
    """The segment that frames are published in."""

    shared_memory_name: SegmentName = Field(
        default="billiards_video",
        description="Name of the segment; with a slash, the path of its file",
        json_schema_extra={"option": "--name", "allowed": NAME_ALLOWED},
    )
    shared_memory_attach_timeout_sec: float = Field(
        default=5.0,
        ge=0,
        le=3600,
        description="Seconds that `snapshot` waits for the segment and its first frame",
        json_schema_extra={"option": "--attach-timeout"},
    )
    slots: int = Field(
        default=8,
        ge=3,
        le=62,
        description="Frames the segment can hold; three have memory from the start, more when readers hold that many",
    )
    history: Annotated[int, AfterValidator(_fits_beside_slots)] = Field(
        default=0,
        ge=0,
        le=59,
        description="Frames before the newest that are kept for readers of every frame; each takes memory of its own "
        "from the start",
        json_schema_extra={"allowed": "an integer from 0 to 59, with slots at most 62"},
    )
    mode: Annotated[str, Field(pattern="^0?[0-7]{3}$")] = Field(
        default="0600",
        description="Permissions of the segment, as `chmod` takes them: with `0640` its group may read (copies), with "
        "`0660` also hold frames without a copy",
        json_schema_extra={"allowed": MODE_ALLOWED},
    )
    group: SegmentGroup | None = Field(
        default=None,
        description="Group that these permissions are for, one of those of the user who captures; null: the user's own",
        json_schema_extra={"allowed": "name or number of a group, or null"},
    )
    process: ProcessConfig = Field(default=ProcessConfig())
    sources: Annotated[tuple[SourceConfig, ...], Strict(False), AfterValidator(_names_once)] = Field(
        default=(),
        description='Sources of the `run` command: a list of {"name": ..., "camera": {...}}',
        json_schema_extra={"allowed": 'a list of {"name": ..., "camera": {...}}, each name once'},
    )


class VisionConfig(Section):
    """The source of `capture`."""

    camera: CameraConfig = Field(default=CameraConfig())


class LoggingConfig(Section):
    """The log."""

    level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)] = Field(
        default="INFO", description="How much to log", json_schema_extra={"option": "--log-level"}
    )
    # A field cannot be called `json`: pydantic's models have a method of that name.
    as_json: bool = Field(
        default=False,
        alias="json",
        description="Log lines as JSON objects, for machines",
        json_schema_extra={"option": "--json-logs"},
    )
    stats_interval_sec: float = Field(
        default=10.0,
        ge=0.1,
        le=86400,
        description="Seconds between two lines of statistics in the log",
        json_schema_extra={"option": "--stats-interval"},
    )


class ServeConfig(Section):
    """The HTTP server."""

    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen at",
        json_schema_extra={"allowed": HOST_ALLOWED},
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen at; 0: any free port")
    token: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Secret that clients need for every address but `/healthz`; null: no secret",
        json_schema_extra={"allowed": "a text that is hard to guess, or null", "textual": True},
    )
    max_clients: int = Field(
        default=64, ge=1, le=10000, description="How many streams and event streams may be open at a time"
    )
    max_frame_age: float = Field(
        default=MAX_FRAME_AGE_SEC,
        gt=0,
        le=86400,
        description="Age in seconds of the newest captured frame above which a segment is unhealthy",
    )
    allowed_hosts: str = Field(
        default="",
        description="Host names the server answers to, besides IP addresses and the machine's own name",
        json_schema_extra={"allowed": "host names with commas between"},
    )
    allowed_origins: str = Field(
        default="",
        pattern=r"^(\*|https?://[^\s/,;]+(\s*,\s*https?://[^\s/,;]+)*)?$",
        description="Sites whose pages may embed the pictures and the page",
        json_schema_extra={"allowed": "origins (`https://HOST` or `https://HOST:PORT`) with commas between; `*`: all"},
    )
    trusted_proxies: Annotated[str, AfterValidator(_proxies)] = Field(
        default="127.0.0.1,::1",
        description="Proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed",
        json_schema_extra={"allowed": "addresses and networks (`10.0.0.0/8`) with commas between; `*`: all"},
    )
    webhook: Annotated[str, AfterValidator(_webhook)] | None = Field(
        default=None,
        description="Address that gets a POST when a source stalls, is lost, or is back; null: none",
        json_schema_extra={"allowed": "an `http://` or `https://` URL, or null", "textual": True},
    )


class Settings(Section):
    """The whole configuration. `load_settings` makes one from file, environment and command line."""

    video: VideoConfig = Field(default=VideoConfig())
    vision: VisionConfig = Field(default=VisionConfig())
    logging: LoggingConfig = Field(default=LoggingConfig())
    serve: ServeConfig = Field(default=ServeConfig())


def fps_key(device_id: int | str) -> str:
    """The key that ``--fps`` sets: `playback_fps` for recordings, `fps` for cameras and the demo."""
    recorded = SourceAddress.parse(device_id).recorded
    return "vision.camera.playback_fps" if recorded else "vision.camera.fps"


@dataclass(frozen=True, slots=True)
class ConfigurationKey:
    """One key of the configuration, as docs/configuration.md and error messages show it."""

    path: str
    default: Any
    description: str
    allowed: str
    option: str
    textual: bool
    """Whether the value is a text, which the environment gives as it is."""

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
        for entry in get_args(field.annotation):
            if isinstance(entry, type) and issubclass(entry, BaseModel):
                yield from _keys_below(entry, f"{path}[].")


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

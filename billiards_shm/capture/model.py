"""The configuration: every key, its default, what it means and what is allowed."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from billiards_shm.capture.sources import SourceAddress

__all__ = [
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
]

MAXIMAL_NAME_LENGTH: Final = 64
NAME_ALLOWED: Final = (
    "letters, digits, '.', '_' and '-', at most 64 of them; or a path, which has a slash "
    "(but '/name' with a leading slash only is not one: leave the slash out)"
)
DEVICE_ALLOWED: Final = "a camera number, a device path, a file, a URL, a GStreamer pipeline or 'demo'"
HOST_ALLOWED: Final = "an address of this machine; 0.0.0.0 is all of them"
RESOLUTION_ALLOWED: Final = "[width, height], each an integer from 1 to 32767"
CROP_ALLOWED: Final = "[left, top, width, height], integers from 0 and 1 to 32767, or null"
FROZEN_SEC: Final = 10.0
"""How long a camera's or stream's frames may be identical to the last bit: a living sensor's never are."""


def _digits_to_number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _size_from_text(value: Any) -> Any:
    if isinstance(value, str):
        width, times, height = value.lower().partition("x")
        if times and width.isdecimal() and height.isdecimal():
            return [int(width), int(height)]
    return value


def _crop_from_text(value: Any) -> Any:
    if isinstance(value, str):
        parts = value.split(",")
        if all(part.strip().isdecimal() for part in parts):
            return [int(part) for part in parts]
    return value


def _no_truth(value: Any) -> Any:
    """Refuse what merely equals one of the numbers, as False does."""
    if isinstance(value, (bool, float)):
        raise ValueError("not an integer")
    return value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _segment_name(value: str) -> str:
    if "/" in value:
        usable = value.count("/") > 1 or not value.startswith("/")
    else:
        usable = (
            0 < len(value) <= MAXIMAL_NAME_LENGTH
            and value not in (".", "..")
            and all(letter.isascii() and (letter.isalnum() or letter in "._-") for letter in value)
        )
    if not usable or "\0" in value:
        raise ValueError(NAME_ALLOWED)
    return value


SegmentName = Annotated[str, Field(strict=True), AfterValidator(_segment_name)]
Dimension = Annotated[int, Field(strict=True, ge=1, le=32767)]
Offset = Annotated[int, Field(strict=True, ge=0, le=32767)]
Level = Annotated[float, Field(strict=True, allow_inf_nan=False)] | None
Switch = Annotated[bool, Field(strict=True)] | None


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CameraConfig(_Section):
    """One source of frames."""

    device_id: Annotated[
        Annotated[int, Field(strict=True, ge=0)] | Annotated[str, Field(strict=True, min_length=1)],
        BeforeValidator(_digits_to_number),
    ] = Field(
        default=0,
        description="Camera number, device path, file, URL, GStreamer pipeline, or `demo`",
        json_schema_extra={"option": "SOURCE", "allowed": DEVICE_ALLOWED},
    )
    backend: Literal["auto", "v4l2", "dshow", "msmf", "avfoundation", "gstreamer", "ffmpeg", "images"] = Field(
        default="auto", description="What OpenCV opens the source with; `auto` chooses by the kind of source"
    )
    resolution: Annotated[tuple[Dimension, Dimension], BeforeValidator(_size_from_text)] = Field(
        default=(1920, 1080),
        description="Width and height asked of a camera, and those of the demo; files have their own",
        json_schema_extra={"allowed": RESOLUTION_ALLOWED},
    )
    fps: float = Field(
        default=30.0,
        strict=True,
        gt=0,
        le=1000,
        allow_inf_nan=False,
        description="Frames per second asked of a camera, and those of the demo",
    )
    playback_fps: Annotated[float, Field(strict=True, ge=0, le=1000, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Frames per second that a file is played at; null: its own, 0: as fast as they can be read",
    )
    loop_video: bool = Field(
        default=True,
        strict=True,
        description="Whether a file begins again at its end, or the process ends",
        json_schema_extra={"option": "--loop"},
    )
    fourcc: Annotated[str, Field(strict=True, min_length=4, max_length=4)] | None = Field(
        default=None,
        description="Format asked of a camera, such as `MJPG` (what many need for their full rate), `YUYV` or `NV12`",
        json_schema_extra={"allowed": "four characters or null"},
    )
    buffer_size: Annotated[int, Field(strict=True, ge=1, le=64)] | None = Field(
        default=None, description="Frames that the driver may hold back; fewer are newer"
    )
    exposure: Level = Field(default=None, description="Exposure, in the driver's own unit")
    auto_exposure: Switch = Field(default=None, description="Whether the camera chooses the exposure")
    gain: Level = Field(default=None, description="Gain, in the driver's own unit")
    brightness: Level = Field(default=None, description="Brightness, in the driver's own unit")
    contrast: Level = Field(default=None, description="Contrast, in the driver's own unit")
    saturation: Level = Field(default=None, description="Saturation, in the driver's own unit")
    white_balance: Level = Field(default=None, description="White balance, mostly in kelvin")
    auto_white_balance: Switch = Field(default=None, description="Whether the camera chooses the white balance")
    focus: Level = Field(default=None, description="Focus, in the driver's own unit")
    autofocus: Switch = Field(default=None, description="Whether the camera chooses the focus")
    rotation: Annotated[Literal[0, 90, 180, 270], BeforeValidator(_no_truth)] = Field(
        default=0, description="Degrees by which frames are turned, clockwise"
    )
    flip: Literal["none", "horizontal", "vertical", "both"] = Field(
        default="none", description="How frames are mirrored, after they were turned"
    )
    crop: Annotated[tuple[Offset, Offset, Dimension, Dimension], BeforeValidator(_crop_from_text)] | None = Field(
        default=None,
        description="What is kept of the turned and mirrored frames: left, top, width, height",
        json_schema_extra={"allowed": CROP_ALLOWED},
    )
    convert_rgb: bool = Field(
        default=True,
        strict=True,
        description="Whether OpenCV's driver makes BGR of a camera's format; false: this package does, from YUYV, "
        "UYVY, NV12, NV21, I420, YV12 or MJPG straight into shared memory",
    )
    hardware_acceleration: Literal["none", "any", "d3d11", "vaapi", "mfx"] = Field(
        default="none", description="What decodes files and streams, if this OpenCV and this machine have it"
    )
    open_timeout_sec: float = Field(
        default=5.0,
        strict=True,
        ge=0.1,
        le=3600,
        allow_inf_nan=False,
        description="Seconds that opening a stream may take",
    )
    read_timeout_sec: float = Field(
        default=5.0,
        strict=True,
        ge=0.1,
        le=3600,
        allow_inf_nan=False,
        description="Seconds that a camera or stream may take to bring a frame before it is opened anew",
    )
    frozen_timeout_sec: Annotated[float, Field(strict=True, ge=0, le=86400, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Seconds of identical frames after which the source is opened anew; "
        "null: 10 for cameras and streams, never for files and the demo; 0: never",
    )
    auto_reconnect: bool = Field(
        default=True, strict=True, description="Whether a source that was lost is opened again, or the process ends"
    )
    reconnect_delay_sec: float = Field(
        default=0.5,
        strict=True,
        ge=0.01,
        le=3600,
        allow_inf_nan=False,
        description="Seconds before a lost source is opened again; each further attempt waits twice as long",
    )
    reconnect_max_delay_sec: float = Field(
        default=30.0,
        strict=True,
        ge=0.01,
        le=86400,
        allow_inf_nan=False,
        description="Seconds that an attempt waits at most",
    )
    reconnect_attempts: Annotated[int, Field(strict=True, ge=1, le=100_000)] | None = Field(
        default=None, description="Attempts in vain after which the process ends; null: never"
    )
    placeholder: bool = Field(
        default=False,
        strict=True,
        description="Whether a frame a second that says so is published while the source is away",
    )

    @property
    def frozen_after_sec(self) -> float:
        """Seconds of identical frames that are a stall; 0.0: none are."""
        if self.frozen_timeout_sec is not None:
            return self.frozen_timeout_sec
        return FROZEN_SEC if SourceAddress.parse(self.device_id).live else 0.0


class SourceConfig(_Section):
    """One entry of `video.sources`: a segment and the source it shows."""

    name: SegmentName = Field(description="Name of the segment", json_schema_extra={"allowed": NAME_ALLOWED})
    camera: CameraConfig = Field(description="The same keys as in `vision.camera`")


class ProcessConfig(_Section):
    """How the capture process behaves."""

    shutdown_timeout: float = Field(
        default=10.0,
        strict=True,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds that a stop waits for a source that does not return",
    )
    main_loop_sleep: float = Field(
        default=0.001,
        strict=True,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Seconds to pause after a grab that brought nothing",
    )
    hang_timeout: float = Field(
        default=30.0,
        strict=True,
        ge=0.5,
        le=86400,
        allow_inf_nan=False,
        description="Seconds without a frame or an attempt to reconnect after which `run` and `--supervise` start "
        "a capture process anew",
    )
    metrics_port: Annotated[int, Field(strict=True, ge=0, le=65535)] | None = Field(
        default=None, description="Port of Prometheus metrics; 0: any that is free, null: none"
    )
    metrics_host: str = Field(
        default="127.0.0.1",
        strict=True,
        min_length=1,
        description="Address that metrics are served at",
        json_schema_extra={"allowed": HOST_ALLOWED},
    )


def _names_once(sources: tuple[SourceConfig, ...]) -> tuple[SourceConfig, ...]:
    first: dict[str, int] = {}
    for index, source in enumerate(sources):
        earlier = first.setdefault(source.name, index)
        if earlier != index:
            devices = [SourceAddress.parse(sources[each].camera.device_id) for each in (earlier, index)]
            raise ValueError(
                f"[{earlier}] and [{index}] are both called {source.name!r}, of {devices[0]} and of {devices[1]}"
            )
    return sources


class VideoConfig(_Section):
    """The segment that frames are published in."""

    shared_memory_name: SegmentName = Field(
        default="billiards_video",
        description="Name of the segment, or its path if it has a slash",
        json_schema_extra={"option": "--name", "allowed": NAME_ALLOWED},
    )
    shared_memory_attach_timeout_sec: float = Field(
        default=5.0,
        strict=True,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds that `snapshot` waits for the segment and its first frame",
        json_schema_extra={"option": "--attach-timeout"},
    )
    slots: int = Field(
        default=8,
        strict=True,
        ge=3,
        le=62,
        description="Frames the segment can hold; three are backed by memory, more only while readers hold frames",
    )
    process: ProcessConfig = Field(default=ProcessConfig())
    sources: Annotated[tuple[SourceConfig, ...], AfterValidator(_names_once)] = Field(
        default=(),
        description='Sources of the `run` command: a list of {"name": ..., "camera": {...}}',
        json_schema_extra={"allowed": 'a list of {"name": ..., "camera": {...}}, each name once'},
    )


class VisionConfig(_Section):
    """What is looked at."""

    camera: CameraConfig = Field(default=CameraConfig())


class LoggingConfig(_Section):
    """What the process says."""

    level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)] = Field(
        default="INFO", description="How much is logged", json_schema_extra={"option": "--log-level"}
    )
    # A field cannot be called `json`: pydantic's models have a method of that name.
    as_json: bool = Field(
        default=False,
        strict=True,
        alias="json",
        description="Log lines as JSON objects, for machines",
        json_schema_extra={"option": "--json-logs"},
    )
    stats_interval_sec: float = Field(
        default=10.0,
        strict=True,
        ge=0.1,
        le=86400,
        allow_inf_nan=False,
        description="Seconds between two lines of statistics",
        json_schema_extra={"option": "--stats-interval"},
    )


class ServeConfig(_Section):
    """What `serve` gives to whom."""

    host: str = Field(
        default="127.0.0.1",
        strict=True,
        min_length=1,
        description="Address to listen at",
        json_schema_extra={"allowed": HOST_ALLOWED},
    )
    port: int = Field(default=8000, strict=True, ge=0, le=65535, description="Port to listen at; 0: any that is free")
    token: Annotated[str, Field(strict=True, min_length=1)] | None = Field(
        default=None,
        description="What clients have to know for everything but `/healthz`; null: nothing",
        json_schema_extra={"allowed": "a text that nobody guesses, or null", "textual": True},
    )
    max_clients: int = Field(
        default=64, strict=True, ge=1, le=10000, description="Streams and event streams that there may be at a time"
    )
    max_frame_age: float = Field(
        default=3.0,
        strict=True,
        gt=0,
        le=86400,
        allow_inf_nan=False,
        description="Seconds that the newest captured frame may be old before its segment is called unhealthy",
    )
    allowed_hosts: str = Field(
        default="",
        strict=True,
        description="Names of this server that requests may be addressed to, besides addresses and its own name",
        json_schema_extra={"allowed": "host names with commas between"},
    )


class Settings(BaseSettings):
    """The whole configuration. `load_settings` makes one from file, environment and command line."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="BILLIARDS_SHM__", env_nested_delimiter="__"
    )

    video: VideoConfig = Field(default=VideoConfig())
    vision: VisionConfig = Field(default=VisionConfig())
    logging: LoggingConfig = Field(default=LoggingConfig())
    serve: ServeConfig = Field(default=ServeConfig())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leave reading the environment to `load_settings`, which can tell where a wrong value stands."""
        return (init_settings,)


def fps_key(device_id: int | str) -> str:
    """The key that ``--fps`` means: files are paced by `playback_fps`, cameras and the demo are asked for `fps`."""
    recorded = SourceAddress.parse(device_id).recorded
    return "vision.camera.playback_fps" if recorded else "vision.camera.fps"


@dataclass(frozen=True, slots=True)
class ConfigurationKey:
    """One key of the configuration, as README's table and error messages show it."""

    path: str
    default: Any
    description: str
    allowed: str
    option: str
    textual: bool
    """Whether its value is a text, so that text from the environment is taken as it stands."""

    @property
    def variable(self) -> str:
        """Name of the environment variable that sets the key."""
        prefix = str(Settings.model_config["env_prefix"])
        delimiter = str(Settings.model_config["env_nested_delimiter"])
        return prefix + self.path.upper().replace(".", delimiter)


@cache
def configuration_keys(*, of_sources: bool = False) -> tuple[ConfigurationKey, ...]:
    """Every key of the configuration, in the order of the model.

    Parameters
    ----------
    of_sources : bool
        Whether the keys of one entry of `video.sources` are among them, as ``video.sources[].name``. Only a file or
        a JSON text can set these.
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
    """Say in words what a JSON schema of one value admits."""
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

"""The configuration model: what is captured and logged, along with the other sections."""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Strict, ValidationInfo

from billiards_shm import _core
from billiards_shm.config.address import SourceAddress
from billiards_shm.config.camera import CameraConfig
from billiards_shm.config.mirror import MirrorConfig, MirroredConfig
from billiards_shm.config.record import RecordConfig
from billiards_shm.config.section import HOST_ALLOWED, NAME_ALLOWED, ConflictError, Section, SegmentName
from billiards_shm.config.serve import ServeConfig
from billiards_shm.errors import ConfigurationError, SegmentNameError

__all__ = [
    "CameraConfig",
    "LoggingConfig",
    "MirrorConfig",
    "MirroredConfig",
    "ProcessConfig",
    "RecordConfig",
    "ServeConfig",
    "Settings",
    "SourceConfig",
    "VideoConfig",
    "VisionConfig",
    "fps_key",
    "native_name",
    "segment_names",
]

NATIVE_SUFFIX: Final = ".native"
"""Ending of the name of a segment of native frames, where both are published."""
MODE_ALLOWED: Final = 'octal digits in quotes, such as "0640"'


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


SegmentGroup = Annotated[int, Field(ge=0, le=2**32 - 2)] | Annotated[str, Field(min_length=1)]


def _names_a_file(record: RecordConfig | None) -> RecordConfig | None:
    if record is not None and record.file is None and record.ring is None:
        raise ConflictError("set `file` to record to one, or `ring` to keep the newest frames in memory")
    return record


class SourceConfig(Section):
    """One entry of `video.sources`: the name of a segment, and its source."""

    name: SegmentName = Field(description="Name of the segment", json_schema_extra={"allowed": NAME_ALLOWED})
    camera: CameraConfig = Field(description="The same keys as in `vision.camera`")
    record: Annotated[RecordConfig | None, AfterValidator(_names_a_file)] = Field(
        default=None,
        description="The same keys as in `record`, with `file` or `ring`; null: it is not recorded",
        json_schema_extra={"allowed": 'an object such as {"file": "table_1.mkv"}, or null'},
    )


class ProcessConfig(Section):
    """The capture process."""

    shutdown_timeout: float = Field(
        default=10.0,
        ge=0,
        le=3600,
        description="Seconds that `run` and `--supervise` give a capture process to stop before they kill it",
    )
    main_loop_sleep: float = Field(
        default=0.001, ge=0, le=1, description="Seconds to pause after a grab that returned no frame"
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
        raise ConflictError(f"with slots = {slots}, at most {62 - slots}")
    return history


def segment_names(name: str, publish: str) -> list[str]:
    """Names of the segments that a capture process makes."""
    return [name, native_name(name)] if publish == "both" else [name]


def native_name(name: str) -> str:
    """Name of the segment of native frames that goes with a segment of BGR.

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
            f"{name!r} is too long where publish is both: {error}; allowed: room for {NATIVE_SUFFIX} after the name, "
            f"so at most {64 - len(NATIVE_SUFFIX)} characters"
        ) from None
    return native


def _names_once(sources: tuple[SourceConfig, ...]) -> tuple[SourceConfig, ...]:
    first: dict[str, int] = {}
    for index, source in enumerate(sources):
        earlier = first.setdefault(source.name, index)
        if earlier != index:
            devices = [SourceAddress.parse(sources[each].camera.device_id) for each in (earlier, index)]
            raise ValueError(
                f"[{earlier}] and [{index}] are both called {source.name!r}, for {devices[0]} and for {devices[1]}"
            )
    names = {source.name for source in sources}
    for index, source in enumerate(sources):
        if source.camera.publish == "both" and native_name(source.name) in names:
            raise ValueError(f"[{index}] publishes both and needs {native_name(source.name)!r}, which is taken")
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
        description="Seconds that `snapshot` and `record` wait for the segment, `snapshot` also for its first frame",
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
        description="Frames before the newest that are kept for readers of every frame; each takes its own memory "
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
        description="Group that these permissions are for; the capturing user has to be in it. null: the user's own",
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


class Settings(Section):
    """The whole configuration. `load_settings` makes one from file, environment and command line."""

    video: VideoConfig = Field(default=VideoConfig())
    vision: VisionConfig = Field(default=VisionConfig())
    logging: LoggingConfig = Field(default=LoggingConfig())
    serve: ServeConfig = Field(default=ServeConfig())
    mirror: MirrorConfig = Field(default=MirrorConfig())
    record: RecordConfig = Field(default=RecordConfig())


def fps_key(device_id: int | str) -> str:
    """The key that ``--fps`` sets: `playback_fps` for recordings, `fps` for cameras and the demo."""
    recorded = SourceAddress.parse(device_id).recorded
    return "vision.camera.playback_fps" if recorded else "vision.camera.fps"

"""The configuration of one source: where it is, what to ask it for, and what to do when it is lost."""

from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    Strict,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from billiards_shm.config.address import SOURCE_KINDS, SourceAddress, SourceKind
from billiards_shm.config.section import ConflictError, Section

__all__ = ["CameraConfig"]

*_KINDS, _LAST_KIND = SOURCE_KINDS.values()
DEVICE_ALLOWED: Final = f"{', '.join(_KINDS)} or {_LAST_KIND}"
RESOLUTION_ALLOWED: Final = "[width, height], each an integer from 1 to 32767"
PLAYBACK_FPS_ALLOWED: Final = "a number from 0.001 to 1000, 0 or null"
CROP_ALLOWED: Final = "[left, top, width, height], integers from 0 and 1 to 32767, or null"
FROZEN_SEC: Final = 10.0
"""How long frames of a camera or stream may be identical. Those of a working sensor never are: it is noisy."""
LOWEST_FPS: Final = 0.001
LARGEST_CAMERA_NUMBER: Final = 999_999_999


def _source(value: Any) -> int | str:
    """Accept a camera number or a text. Unlike a pydantic string, it may be the name of a file that is not UTF-8."""
    if isinstance(value, str) and value and "\0" not in value:
        address = SourceAddress.parse(value)
        return address.place if address.kind is SourceKind.CAMERA else value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_CAMERA_NUMBER:
        return value
    raise ValueError(DEVICE_ALLOWED)


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


def _zero_or_fps(value: float) -> float:
    if 0 < value < LOWEST_FPS:
        raise ValueError(PLAYBACK_FPS_ALLOWED)
    return value


def _no_bool(value: Any) -> Any:
    """Refuse values that equal an integer but are not one, such as False."""
    if isinstance(value, (bool, float)):
        raise ValueError("not an integer")
    return value


def _as_delivered(value: Any, info: ValidationInfo) -> Any:
    """Refuse settings that would change frames that are published natively."""
    if value not in (0, "none", None) and info.data.get("publish") == "native":
        raise ConflictError("publish is native, which leaves frames unchanged: leave this out, or publish bgr or both")
    return value


def _playable(value: bool, info: ValidationInfo) -> bool:
    """Refuse sources that cannot be played with their recorded times."""
    if not value:
        return value
    backend, fps = info.data.get("backend", "auto"), info.data.get("playback_fps")
    if backend not in ("auto", "av"):
        raise ConflictError(f"backend is {backend}, but this needs av: leave one of the two out")
    if fps is not None:
        raise ConflictError(f"playback_fps is {fps:g}, but the recording has its own times: leave one of the two out")
    return value


Dimension = Annotated[int, Field(ge=1, le=32767)]
Offset = Annotated[int, Field(ge=0, le=32767)]


class CameraConfig(Section):
    """One source of frames."""

    device_id: Annotated[int | str, PlainValidator(_source), WithJsonSchema({"type": ["integer", "string"]})] = Field(
        default=0,
        description="Where frames come from; `demo` draws a billiard table",
        json_schema_extra={"option": "SOURCE", "allowed": DEVICE_ALLOWED},
    )
    backend: Literal["auto", "v4l2", "dshow", "msmf", "avfoundation", "gstreamer", "ffmpeg", "av", "images"] = Field(
        default="auto",
        description="What opens the source: `av` is PyAV, `images` reads numbered images, the others are OpenCV's; "
        "`auto` picks by the kind of source, `av` for files and URLs if it is installed",
    )
    resolution: Annotated[tuple[Dimension, Dimension], Strict(False), BeforeValidator(_size_from_text)] = Field(
        default=(1920, 1080),
        description="Width and height to ask a camera for; size of the demo. Files have their own",
        json_schema_extra={"allowed": RESOLUTION_ALLOWED},
    )
    fps: float = Field(
        default=30.0, ge=LOWEST_FPS, le=1000, description="Frames per second to ask a camera for; rate of the demo"
    )
    playback_fps: Annotated[float, Field(ge=0, le=1000), AfterValidator(_zero_or_fps)] | None = Field(
        default=None,
        description="Frames per second to play a file at; null: its own rate, 0: as fast as possible",
        json_schema_extra={"allowed": PLAYBACK_FPS_ALLOWED},
    )
    loop_video: bool = Field(
        default=True,
        description="Whether a file starts again at its end; false: the process ends",
        json_schema_extra={"option": "--loop"},
    )
    as_recorded: Annotated[bool, AfterValidator(_playable)] = Field(
        default=False,
        strict=True,
        description="Whether a file of `record` is played with the numbers (`source_sequence`), capture times and "
        "positions of its frames, from `FILE.frames.jsonl`",
    )
    fourcc: Annotated[str, Field(min_length=4, max_length=4)] | None = Field(
        default=None,
        description="Format to ask a camera for, such as `MJPG` (many need it for their full rate), `YUYV` or `NV12`",
        json_schema_extra={"allowed": "four characters or null"},
    )
    buffer_size: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None, description="Frames that the driver may buffer; with fewer, frames are newer"
    )
    exposure: float | None = Field(default=None, description="Exposure, in the driver's own unit")
    auto_exposure: bool | None = Field(default=None, description="Whether the camera chooses the exposure")
    gain: float | None = Field(default=None, description="Gain, in the driver's own unit")
    brightness: float | None = Field(default=None, description="Brightness, in the driver's own unit")
    contrast: float | None = Field(default=None, description="Contrast, in the driver's own unit")
    saturation: float | None = Field(default=None, description="Saturation, in the driver's own unit")
    white_balance: float | None = Field(default=None, description="White balance, usually in kelvin")
    auto_white_balance: bool | None = Field(default=None, description="Whether the camera chooses the white balance")
    focus: float | None = Field(default=None, description="Focus, in the driver's own unit")
    autofocus: bool | None = Field(default=None, description="Whether the camera chooses the focus")
    publish: Literal["bgr", "native", "both"] = Field(
        default="bgr",
        description="What is published: `bgr`, converted; `native`, as the source delivers it (MJPG, YUYV, NV12, ...); "
        "`both`: BGR, only while it is read, and the native frames under the name with `.native` appended",
    )
    convert_rgb: bool = Field(
        default=True, description="Older name: false means `publish: native`. If `publish` is set, this has no effect"
    )
    rotation: Annotated[Literal[0, 90, 180, 270], BeforeValidator(_no_bool), AfterValidator(_as_delivered)] = Field(
        default=0, description="Degrees to turn frames by, clockwise"
    )
    flip: Annotated[Literal["none", "horizontal", "vertical", "both"], AfterValidator(_as_delivered)] = Field(
        default="none", description="How to mirror frames, after turning them"
    )
    crop: Annotated[
        Annotated[tuple[Offset, Offset, Dimension, Dimension], Strict(False), BeforeValidator(_crop_from_text)] | None,
        AfterValidator(_as_delivered),
    ] = Field(
        default=None,
        description="Part of the turned and mirrored frame to keep: left, top, width, height",
        json_schema_extra={"allowed": CROP_ALLOWED},
    )
    keep_damaged: bool = Field(
        default=False,
        strict=True,
        description="Whether JPEGs of a file or stream that lack a part are published, with grey in its place, or left "
        "out and counted (backend av)",
    )
    hardware_acceleration: Literal["none", "any", "d3d11", "vaapi", "mfx"] = Field(
        default="none", description="Hardware decoder for files and streams, if OpenCV and the machine have it"
    )
    open_timeout_sec: float = Field(default=5.0, ge=0.1, le=3600, description="Seconds that opening a stream may take")
    read_timeout_sec: float = Field(
        default=5.0,
        ge=0.1,
        le=3600,
        description="Seconds without a frame after which a camera or stream is opened again",
    )
    frozen_timeout_sec: Annotated[float, Field(ge=0, le=86400)] | None = Field(
        default=None,
        description="Seconds of identical frames after which the source is opened again; "
        "null: 10 for cameras and streams, never for files and the demo; 0: never",
    )
    auto_reconnect: bool = Field(
        default=True, description="Whether a lost source is opened again; false: the process ends"
    )
    reconnect_delay_sec: float = Field(
        default=0.5,
        ge=0.01,
        le=3600,
        description="Seconds before a lost source is opened again; each further attempt waits twice as long",
    )
    reconnect_max_delay_sec: float = Field(
        default=30.0, ge=0.01, le=86400, description="Longest wait between two attempts, in seconds"
    )
    reconnect_attempts: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="Failed attempts after which the process ends; null: never"
    )
    placeholder: bool = Field(
        default=False, description="Whether to publish a placeholder once a second while the source is away"
    )

    @model_validator(mode="before")
    @classmethod
    def _understand_older_name(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("convert_rgb") is False and "publish" not in given:
            return given | {"publish": "native"}
        return given

    def frozen_after_sec(self, *, recorded: bool) -> float:
        """Seconds of identical frames that count as a failure; 0.0: never."""
        if self.frozen_timeout_sec is not None:
            return self.frozen_timeout_sec
        return 0.0 if recorded else FROZEN_SEC

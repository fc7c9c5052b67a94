"""The configuration of one source: what it is, what it is asked for, and what happens when it is away."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema

from billiards_shm.config.address import SourceAddress, SourceKind

__all__ = ["CameraConfig", "Section"]

DEVICE_ALLOWED: Final = "a camera number, a device path, a file, a URL, a GStreamer pipeline or 'demo'"
RESOLUTION_ALLOWED: Final = "[width, height], each an integer from 1 to 32767"
CROP_ALLOWED: Final = "[left, top, width, height], integers from 0 and 1 to 32767, or null"
FROZEN_SEC: Final = 10.0
"""How long a camera's or stream's frames may be identical to the last bit: a living sensor's never are."""


def _source(value: Any) -> int | str:
    """Take a camera's number or a text; unlike pydantic, also the name of a file that is not UTF-8."""
    if isinstance(value, str) and value and "\0" not in value:
        address = SourceAddress.parse(value)
        return address.place if address.kind is SourceKind.CAMERA else value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
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


def _no_truth(value: Any) -> Any:
    """Refuse what merely equals one of the numbers, as False does."""
    if isinstance(value, (bool, float)):
        raise ValueError("not an integer")
    return value


Dimension = Annotated[int, Field(strict=True, ge=1, le=32767)]
Offset = Annotated[int, Field(strict=True, ge=0, le=32767)]
Level = Annotated[float, Field(strict=True, allow_inf_nan=False)] | None
Switch = Annotated[bool, Field(strict=True)] | None


class Section(BaseModel):
    """A part of the configuration, in which every key is known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CameraConfig(Section):
    """One source of frames."""

    device_id: Annotated[int | str, PlainValidator(_source), WithJsonSchema({"type": ["integer", "string"]})] = Field(
        default=0,
        description="Camera number, device path, file, URL, GStreamer pipeline, or `demo`",
        json_schema_extra={"option": "SOURCE", "allowed": DEVICE_ALLOWED},
    )
    backend: Literal["auto", "v4l2", "dshow", "msmf", "avfoundation", "gstreamer", "ffmpeg", "images"] = Field(
        default="auto", description="What OpenCV opens the source with; `auto` picks by the kind of source"
    )
    resolution: Annotated[tuple[Dimension, Dimension], BeforeValidator(_size_from_text)] = Field(
        default=(1920, 1080),
        description="Width and height to ask a camera for; size of the demo. Files have their own",
        json_schema_extra={"allowed": RESOLUTION_ALLOWED},
    )
    fps: float = Field(
        default=30.0,
        strict=True,
        gt=0,
        le=1000,
        allow_inf_nan=False,
        description="Frames per second to ask a camera for; rate of the demo",
    )
    playback_fps: Annotated[float, Field(strict=True, ge=0, le=1000, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Frames per second to play a file at; null: its own rate, 0: as fast as possible",
    )
    loop_video: bool = Field(
        default=True,
        strict=True,
        description="Whether a file starts again at its end; false: the process ends",
        json_schema_extra={"option": "--loop"},
    )
    fourcc: Annotated[str, Field(strict=True, min_length=4, max_length=4)] | None = Field(
        default=None,
        description="Format to ask a camera for, such as `MJPG` (many need it for their full rate), `YUYV` or `NV12`",
        json_schema_extra={"allowed": "four characters or null"},
    )
    buffer_size: Annotated[int, Field(strict=True, ge=1, le=64)] | None = Field(
        default=None, description="Frames that the driver may buffer; with fewer, frames are newer"
    )
    exposure: Level = Field(default=None, description="Exposure, in the driver's own unit")
    auto_exposure: Switch = Field(default=None, description="Whether the camera chooses the exposure")
    gain: Level = Field(default=None, description="Gain, in the driver's own unit")
    brightness: Level = Field(default=None, description="Brightness, in the driver's own unit")
    contrast: Level = Field(default=None, description="Contrast, in the driver's own unit")
    saturation: Level = Field(default=None, description="Saturation, in the driver's own unit")
    white_balance: Level = Field(default=None, description="White balance, usually in kelvin")
    auto_white_balance: Switch = Field(default=None, description="Whether the camera chooses the white balance")
    focus: Level = Field(default=None, description="Focus, in the driver's own unit")
    autofocus: Switch = Field(default=None, description="Whether the camera chooses the focus")
    rotation: Annotated[Literal[0, 90, 180, 270], BeforeValidator(_no_truth)] = Field(
        default=0, description="Degrees to turn frames by, clockwise"
    )
    flip: Literal["none", "horizontal", "vertical", "both"] = Field(
        default="none", description="How to mirror frames, after turning them"
    )
    crop: Annotated[tuple[Offset, Offset, Dimension, Dimension], BeforeValidator(_crop_from_text)] | None = Field(
        default=None,
        description="Part of the turned and mirrored frame to keep: left, top, width, height",
        json_schema_extra={"allowed": CROP_ALLOWED},
    )
    convert_rgb: bool = Field(
        default=True,
        strict=True,
        description="Whether OpenCV converts a camera's format to BGR; false: this package converts YUYV, UYVY, "
        "NV12, NV21, I420, YV12 or MJPG, straight into shared memory",
    )
    hardware_acceleration: Literal["none", "any", "d3d11", "vaapi", "mfx"] = Field(
        default="none", description="Hardware decoder for files and streams, if OpenCV and the machine have it"
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
        description="Seconds without a frame after which a camera or stream is opened again",
    )
    frozen_timeout_sec: Annotated[float, Field(strict=True, ge=0, le=86400, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Seconds of identical frames after which the source is opened again; "
        "null: 10 for cameras and streams, never for files and the demo; 0: never",
    )
    auto_reconnect: bool = Field(
        default=True, strict=True, description="Whether a lost source is opened again; false: the process ends"
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
        description="Longest wait between two attempts, in seconds",
    )
    reconnect_attempts: Annotated[int, Field(strict=True, ge=1, le=100_000)] | None = Field(
        default=None, description="Failed attempts after which the process ends; null: never"
    )
    placeholder: bool = Field(
        default=False,
        strict=True,
        description="Whether to publish a placeholder once a second while the source is away",
    )

    @property
    def frozen_after_sec(self) -> float:
        """Seconds of identical frames that are a stall; 0.0: none are."""
        if self.frozen_timeout_sec is not None:
            return self.frozen_timeout_sec
        return FROZEN_SEC if SourceAddress.parse(self.device_id).live else 0.0

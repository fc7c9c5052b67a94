"""The configuration of a recording."""

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from billiards_shm.config.section import Section
from billiards_shm.config.units import BYTES_ALLOWED, DURATION_ALLOWED, bytes_from, seconds_from

__all__ = ["ENDINGS", "RecordConfig"]

ENDINGS: Final = (".mkv", ".mp4")
"""Of the names of recordings: Matroska and MP4."""
_SEGMENT_SEC: Final = 600.0
_RING_BYTES: Final = 500_000_000


def _video_file(value: str | None) -> str | None:
    if value is not None and Path(value).suffix.lower() not in ENDINGS:
        raise ValueError("its ending does not name a container")
    return value


Duration = Annotated[float, Field(ge=1, le=365 * 86400)]


class RecordConfig(Section):
    """What is recorded, how, and how much of it is kept."""

    file: Annotated[str, Field(min_length=1), AfterValidator(_video_file)] | None = Field(
        default=None,
        description="File to record to. If there are several, each name has its first frame's time before the ending",
        json_schema_extra={"option": "FILE", "allowed": "a name that ends in .mkv or .mp4, or null", "textual": True},
    )
    codec: Literal[
        "auto", "copy", "h264", "h264_nvenc", "h264_qsv", "h264_amf", "h264_v4l2m2m", "h264_videotoolbox"
    ] = Field(
        default="auto",
        description="`copy`: frames unchanged; `h264`: encoded by software, the others by hardware; `auto`: `copy` "
        "for MJPG frames in Matroska, else `h264`",
    )
    crf: int = Field(
        default=23, ge=0, le=51, description="Constant quality of `h264`: 0 is lossless, 51 the worst; 18 looks perfect"
    )
    bitrate: Annotated[int, Field(ge=1000, le=10**10)] | None = Field(
        default=None,
        description="Bits per second, instead of constant quality; null: as `crf` says",
        json_schema_extra={"allowed": "an integer from 1000 to 10000000000, or null"},
    )
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"] = (
        Field(
            default="ultrafast", description="Preset of `h264`: slower ones make smaller files and take more CPU time"
        )
    )
    key_interval_sec: float = Field(
        default=2.0, ge=0.02, le=60, description="Seconds between two frames at which playback can start"
    )
    segment: Annotated[Duration | None, BeforeValidator(seconds_from)] = Field(
        default=None,
        description="Time after which a new file begins; null: after 10 minutes with `keep` or `max_size`, else never",
        json_schema_extra={"allowed": f"{DURATION_ALLOWED}, or null"},
    )
    keep: Annotated[Duration | None, BeforeValidator(seconds_from)] = Field(
        default=None,
        description="Remove files of this recording that ended longer ago than this; null: never",
        json_schema_extra={"allowed": f"{DURATION_ALLOWED}, or null"},
    )
    max_size: Annotated[Annotated[int, Field(ge=10**6)] | None, BeforeValidator(bytes_from)] = Field(
        default=None,
        description="Remove the oldest files of this recording, so that they total no more than this; null: never",
        json_schema_extra={"allowed": f"{BYTES_ALLOWED}, or null"},
    )
    after_gap: Literal["same", "new"] = Field(
        default="same",
        description="Continue in the same file or a new one when the source is back after more than 3 seconds away",
    )
    follow: bool = Field(
        default=False,
        description="Go on when the writer closes, and wait for the next one; `run` always does",
    )
    ring: Annotated[Duration | None, BeforeValidator(seconds_from)] = Field(
        default=None,
        description="Seconds to keep in memory, up to the newest, for `replay`; FILE may then be left out. null: none",
        json_schema_extra={"allowed": f"{DURATION_ALLOWED}, or null"},
    )
    ring_size: Annotated[int, Field(ge=10**6), BeforeValidator(bytes_from)] = Field(
        default=_RING_BYTES,
        description="Memory that `ring` may take; if it is not enough, fewer seconds are kept",
        json_schema_extra={"allowed": BYTES_ALLOWED},
    )
    overwrite: bool = Field(default=False, description="Replace FILE if it exists")

    @property
    def segment_sec(self) -> float | None:
        """How long each file is; None: no limit. Removing old files needs several."""
        return _SEGMENT_SEC if self.segment is None and (self.keep or self.max_size) else self.segment

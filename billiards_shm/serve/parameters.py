"""Types of the addresses' parameters, with their limits and descriptions."""

from typing import Annotated, Literal

from fastapi import Body, Depends, Path, Query

from billiards_shm.serve.feed import DEFAULT_QUALITY, PreviewFormat
from billiards_shm.serve.replay import LONGEST_CLIP_S

__all__ = [
    "Action",
    "Fps",
    "Interval",
    "LastSeconds",
    "LiveFormat",
    "MaxAge",
    "Name",
    "SnapshotFormat",
    "Window",
]

Name = Annotated[str, Path(description="Name or path of the segment", max_length=4096)]
Fps = Annotated[
    float | None, Query(gt=0, le=240, allow_inf_nan=False, description="Most frames a second; without it: all")
]
Quality = Annotated[int, Query(ge=1, le=95, description="JPEG quality")]
Width = Annotated[int | None, Query(ge=16, le=7680, description="Wider frames are scaled down to this many pixels")]
Overlay = Annotated[Literal["time"] | None, Query(description="`time` draws the capture time (UTC) into the picture")]
Text = Annotated[str, Query(max_length=64, pattern="^[ -~]*$", description="ASCII text to draw into the picture")]
MaxAge = Annotated[
    float | None,
    Query(gt=0, le=86400, allow_inf_nan=False, description="Seconds; 503 if the newest captured frame is older"),
]
LastSeconds = Annotated[
    float, Query(ge=0, le=LONGEST_CLIP_S, allow_inf_nan=False, description="Seconds, up to the newest frame")
]
Action = Annotated[Literal["start", "stop"], Body(embed=True, description="What to do with the recording")]
Interval = Annotated[float, Query(ge=0.2, le=60, allow_inf_nan=False, description="Seconds between events")]
Window = Annotated[int, Query(ge=1, le=16, description="Frames sent before the client has acknowledged the first")]


def _live_format(
    quality: Quality = DEFAULT_QUALITY, width: Width = None, overlay: Overlay = None, text: Text = ""
) -> PreviewFormat:
    return PreviewFormat(width, quality, text.strip(), overlay == "time")


def _snapshot_format(
    quality: Annotated[int, Query(ge=1, le=100, description="JPEG quality")] = 90,
    width: Width = None,
    overlay: Overlay = None,
    text: Text = "",
) -> PreviewFormat:
    return _live_format(quality, width, overlay, text)


LiveFormat = Annotated[PreviewFormat, Depends(_live_format)]
SnapshotFormat = Annotated[PreviewFormat, Depends(_snapshot_format)]

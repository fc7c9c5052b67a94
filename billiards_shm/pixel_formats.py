"""The pixel formats: one table, and everything that knows formats follows from it.

To add one, add a row here and to the table in ``csrc/billiards_shm.h``, section FRAMES. `to_bgr` makes it visible: in
previews, snapshots, and frames that cameras give unconverted.
"""

from dataclasses import dataclass
from typing import Final

__all__ = ["PIXEL_FORMATS", "PixelFormat"]


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """One row of the table."""

    name: str
    fourcc: str
    """V4L2's code of the layout, which segments store: four characters."""
    shape: str
    """Of the array, in terms of the height and width of the picture."""
    dimensions: int = 2
    """Of the array; 0: two, or three with a single channel."""
    channels: int = 1
    dtype: str = "uint8"
    """Of the array; empty: any shape and dtype will do."""
    aliases: tuple[str, ...] = ()
    """Further names that cameras and pipelines have for it."""
    to_bgr: str = ""
    """OpenCV's constant for the conversion to BGR; empty: it is gray, BGR or BGRA already, compressed, or unknown."""
    suggested_by_shape: bool = False
    """Whether a frame of this shape and dtype has this format if it cannot have the writer's own."""

    @property
    def code(self) -> int:
        """The `fourcc` as segments and OpenCV store it."""
        return int.from_bytes(self.fourcc.encode("ascii"), "little")

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the format."""
        return (self.name, self.fourcc.rstrip(), *self.aliases)


_ROWS: Final = (
    PixelFormat("BGR24", "BGR3", "(h, w, 3)", dimensions=3, channels=3, suggested_by_shape=True),
    PixelFormat("RGB24", "RGB3", "(h, w, 3)", dimensions=3, channels=3, to_bgr="COLOR_RGB2BGR"),
    PixelFormat("BGRA32", "AR24", "(h, w, 4)", dimensions=3, channels=4, suggested_by_shape=True),
    PixelFormat("GRAY8", "GREY", "(h, w) or (h, w, 1)", dimensions=0, aliases=("Y800",), suggested_by_shape=True),
    PixelFormat(
        "GRAY16",
        "Y16 ",
        "(h, w) or (h, w, 1)",
        dimensions=0,
        dtype="uint16",
        aliases=("GRAY16_LE",),
        suggested_by_shape=True,
    ),
    PixelFormat("YUYV", "YUYV", "(h, w, 2)", dimensions=3, channels=2, aliases=("YUY2",), to_bgr="COLOR_YUV2BGR_YUYV"),
    PixelFormat("UYVY", "UYVY", "(h, w, 2)", dimensions=3, channels=2, to_bgr="COLOR_YUV2BGR_UYVY"),
    PixelFormat("NV12", "NV12", "(h * 3 / 2, w)", to_bgr="COLOR_YUV2BGR_NV12"),
    PixelFormat("I420", "YU12", "(h * 3 / 2, w)", to_bgr="COLOR_YUV2BGR_I420"),
    # Ten bits in the upper ones of sixteen: the upper eight, which is what a preview shows, are NV12.
    PixelFormat("P010", "P010", "(h * 3 / 2, w)", dtype="uint16", to_bgr="COLOR_YUV2BGR_NV12"),
    PixelFormat("MJPG", "MJPG", "(1, n)", aliases=("JPEG",)),
    PixelFormat("RAW", "RAW ", "any", dtype=""),
)

PIXEL_FORMATS: Final = {row.name: row for row in _ROWS}
"""The rows by name."""

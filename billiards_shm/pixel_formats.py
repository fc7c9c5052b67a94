"""The pixel formats: one table, and everything that knows formats follows from it.

To add one, add a row here and to the table in ``csrc/billiards_shm.h``, section FRAMES. `conversion` makes it visible:
in previews, in snapshots, and to readers that ask for BGR.
"""

from dataclasses import dataclass
from typing import Final

__all__ = ["PIXEL_FORMATS", "PixelFormat", "format_named", "size_text"]


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """One row of the table."""

    name: str
    fourcc: str
    """V4L2's code for the layout, which segments store: four characters."""
    shape: str
    """Shape of the array, from the height and width of the picture."""
    dimensions: int = 2
    """Number of dimensions of the array; 0: two, or three with a single channel."""
    channels: int = 1
    dtype: str = "uint8"
    """Type of the items; empty: any shape and dtype."""
    ffmpeg: str = ""
    """FFmpeg's name of the format; for MJPG, of the codec."""
    gstreamer: str = ""
    """GStreamer's name: ``format`` of ``video/x-raw``, or ``video/x-bayer`` for Bayer; or a media type."""
    conversion: str = ""
    """OpenCV's constant of the conversion, with ``{}`` for the target, BGR, RGB or GRAY; empty: there is none."""
    chroma: tuple[str, ...] = ()
    """Names of the planes that follow the luma plane, each a quarter of its size; ``uv`` is two, interleaved."""
    suggested_by_shape: bool = False
    """Whether a frame of this shape and dtype gets this format if it cannot have the writer's."""

    @property
    def code(self) -> int:
        """The `fourcc` as segments and OpenCV store it."""
        return int.from_bytes(self.fourcc.encode("ascii"), "little")

    @property
    def names(self) -> frozenset[str]:
        """All names of the format."""
        return frozenset({self.name, self.fourcc.rstrip(), self.ffmpeg, self.gstreamer}) - {""}

    def picture_size(self, height: int, width: int) -> tuple[int, int] | None:
        """Width and height of the picture in an array of that height and width; None: only its bytes show it."""
        if self.name == "MJPG":
            return None
        return (width, height * 2 // 3) if self.chroma else (width, height)

    def array_shape(self, width: int, height: int) -> tuple[int, ...] | None:
        """Shape of the array of a picture of that size; None: the format needs even sizes."""
        if self.chroma:
            return None if width % 2 or height % 2 else (height * 3 // 2, width)
        if self.name in ("YUYV", "UYVY") and width % 2:
            return None
        return (height, width, self.channels) if self.dimensions == 3 else (height, width)


_ROWS: Final = (
    PixelFormat(
        "BGR24",
        "BGR3",
        "(h, w, 3)",
        dimensions=3,
        channels=3,
        ffmpeg="bgr24",
        gstreamer="BGR",
        conversion="BGR2{}",
        suggested_by_shape=True,
    ),
    PixelFormat(
        "RGB24",
        "RGB3",
        "(h, w, 3)",
        dimensions=3,
        channels=3,
        ffmpeg="rgb24",
        gstreamer="RGB",
        conversion="RGB2{}",
    ),
    PixelFormat(
        "BGRA32",
        "AR24",
        "(h, w, 4)",
        dimensions=3,
        channels=4,
        ffmpeg="bgra",
        gstreamer="BGRA",
        conversion="BGRA2{}",
        suggested_by_shape=True,
    ),
    PixelFormat(
        "GRAY8",
        "GREY",
        "(h, w) or (h, w, 1)",
        dimensions=0,
        ffmpeg="gray",
        gstreamer="GRAY8",
        conversion="GRAY2{}",
        suggested_by_shape=True,
    ),
    PixelFormat(
        "GRAY16",
        "Y16 ",
        "(h, w) or (h, w, 1)",
        dimensions=0,
        dtype="uint16",
        ffmpeg="gray16le",
        gstreamer="GRAY16_LE",
        conversion="GRAY2{}",
        suggested_by_shape=True,
    ),
    PixelFormat(
        "YUYV",
        "YUYV",
        "(h, w, 2)",
        dimensions=3,
        channels=2,
        ffmpeg="yuyv422",
        gstreamer="YUY2",
        conversion="YUV2{}_YUYV",
    ),
    PixelFormat(
        "UYVY",
        "UYVY",
        "(h, w, 2)",
        dimensions=3,
        channels=2,
        ffmpeg="uyvy422",
        gstreamer="UYVY",
        conversion="YUV2{}_UYVY",
    ),
    PixelFormat(
        "NV12",
        "NV12",
        "(h * 3 / 2, w)",
        ffmpeg="nv12",
        gstreamer="NV12",
        conversion="YUV2{}_NV12",
        chroma=("uv",),
    ),
    PixelFormat(
        "NV21",
        "NV21",
        "(h * 3 / 2, w)",
        ffmpeg="nv21",
        gstreamer="NV21",
        conversion="YUV2{}_NV21",
        chroma=("vu",),
    ),
    PixelFormat(
        "I420",
        "YU12",
        "(h * 3 / 2, w)",
        ffmpeg="yuv420p",
        gstreamer="I420",
        conversion="YUV2{}_I420",
        chroma=("u", "v"),
    ),
    PixelFormat(
        "YV12",
        "YV12",
        "(h * 3 / 2, w)",
        gstreamer="YV12",
        conversion="YUV2{}_YV12",
        chroma=("v", "u"),
    ),
    # Ten bits in the upper part of sixteen: the upper eight are NV12.
    PixelFormat(
        "P010",
        "P010",
        "(h * 3 / 2, w)",
        dtype="uint16",
        ffmpeg="p010le",
        gstreamer="P010_10LE",
        conversion="YUV2{}_NV12",
        chroma=("uv",),
    ),
    *(
        PixelFormat(
            f"BAYER_{order}8",
            fourcc,
            "(h, w)",
            ffmpeg=f"bayer_{order.lower()}8",
            gstreamer=order.lower(),
            conversion=f"Bayer{order}2{{}}",
        )
        for order, fourcc in (("RGGB", "RGGB"), ("BGGR", "BA81"), ("GRBG", "GRBG"), ("GBRG", "GBRG"))
    ),
    PixelFormat("MJPG", "MJPG", "(1, n)", ffmpeg="mjpeg", gstreamer="image/jpeg"),
    PixelFormat("RAW", "RAW ", "any", dtype=""),
)

PIXEL_FORMATS: Final = {row.name: row for row in _ROWS}
"""The rows by name."""

# Each name belongs to one format only. JPEG is V4L2's second code for what cameras call MJPG.
_BY_ANY_NAME: Final = {name: row for row in _ROWS for name in row.names} | {"JPEG": PIXEL_FORMATS["MJPG"]}


def format_named(name: str) -> PixelFormat | None:
    """The format with this name in V4L2, FFmpeg or GStreamer; None: this package does not know it."""
    row = _BY_ANY_NAME.get(name)
    return None if row is None or row.name == "RAW" else row


def size_text(pixel_format: str | None, height: int, width: int) -> str:
    """Size and format of a picture for people to read, from the size of its array: ``1920x1080 NV12``."""
    row = PIXEL_FORMATS.get(pixel_format or "")
    if row is None:
        return f"{width}x{height} ?"
    size = row.picture_size(height, width)
    return f"{row.name} of {height * width} bytes" if size is None else f"{size[0]}x{size[1]} {row.name}"

"""The pictures of files in every format: right, and the same from both engines where OpenCV is right."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from encoding import encode, pictures
from engines import ENGINES, open_with, read_all, same
from videos import RECORDING

from billiards_shm.sources.demo.table import read_counter

SIZE = (320, 240)
BT709, UNSPECIFIED, BT2020, PQ = 1, 2, 9, 16
LIMITED, FULL = 1, 2

FORMATS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "H.264": (".mp4", "libx264", "yuv420p", {}),
    "H.264, B-frames": (".mp4", "libx264", "yuv420p", {"frames": 20, "bf": 3}),
    "H.264 in TS": (".ts", "libx264", "yuv420p", {}),
    "H.264 in Matroska": (".mkv", "libx264", "yuv420p", {}),
    "H.264, fragments": (".mp4", "libx264", "yuv420p", {"container": {"movflags": "frag_keyframe+empty_moov"}}),
    "H.264, 322x242": (".mp4", "libx264", "yuv420p", {"size": (322, 242)}),
    "H.264, 330x182": (".mp4", "libx264", "yuv420p", {"size": (330, 182)}),
    "H.264, 1000x50": (".mp4", "libx264", "yuv420p", {"size": (1000, 50)}),
    "H.264, 4:2:2": (".mp4", "libx264", "yuv422p", {}),
    "H.264, 4:4:4": (".mp4", "libx264", "yuv444p", {}),
    "H.264, 4:4:4, 333x241": (".mp4", "libx264", "yuv444p", {"size": (333, 241)}),
    "H.264, 10 bit": (".mp4", "libx264", "yuv420p10le", {}),
    "H.264, 4:2:2, 10 bit": (".mp4", "libx264", "yuv422p10le", {}),
    "H.264, 4:4:4, 10 bit": (".mp4", "libx264", "yuv444p10le", {}),
    "H.264, NV12": (".mp4", "libx264", "nv12", {}),
    "H.264, RGB": (".mp4", "libx264rgb", "rgb24", {}),
    "H.264, full range": (".mp4", "libx264", "yuv420p", {"tags": {"color_range": FULL}}),
    "H.264, yuvj420p": (".mp4", "libx264", "yuvj420p", {}),
    "H.264, BT.709": (".mp4", "libx264", "yuv420p", {"tags": {"colorspace": BT709, "color_range": LIMITED}}),
    "H.264, BT.2020": (".mp4", "libx264", "yuv420p10le", {"tags": {"colorspace": BT2020, "color_range": LIMITED}}),
    "HEVC": (".mp4", "libx265", "yuv420p", {"x265-params": "log-level=none"}),
    "HEVC, 10 bit": (".mp4", "libx265", "yuv420p10le", {"x265-params": "log-level=none"}),
    "VP8": (".webm", "libvpx", "yuv420p", {}),
    "VP9": (".webm", "libvpx-vp9", "yuv420p", {}),
    "MPEG-4": (".avi", "mpeg4", "yuv420p", {"frames": 20, "bf": 2}),
    "MPEG-2": (".ts", "mpeg2video", "yuv420p", {"frames": 20, "b": 4_000_000}),
    "MPEG-1": (".mpg", "mpeg1video", "yuv420p", {"frames": 20, "b": 4_000_000}),
    "Motion JPEG": (".avi", "mjpeg", "yuvj420p", {"q": 2}),
    "Motion JPEG, 4:2:2": (".avi", "mjpeg", "yuvj422p", {}),
    "Motion JPEG, 4:4:4, 333x241": (".mov", "mjpeg", "yuvj444p", {"size": (333, 241)}),
    "ProRes": (".mov", "prores_ks", "yuv422p10le", {}),
    "FFV1, BGR": (".mkv", "ffv1", "bgr0", {}),
    "FFV1, 4:2:0, 321x241": (".mkv", "ffv1", "yuv420p", {"size": (321, 241)}),
    "FFV1, 4:1:1": (".mkv", "ffv1", "yuv411p", {}),
    "FFV1, 4:1:0": (".mkv", "ffv1", "yuv410p", {}),
    "FFV1, alpha": (".mkv", "ffv1", "yuva420p", {}),
    "FFV1, grey": (".mkv", "ffv1", "gray", {}),
    "FFV1, grey, 16 bit": (".mkv", "ffv1", "gray16le", {}),
    "HuffYUV, RGB": (".avi", "huffyuv", "rgb24", {}),
    "PNG": (".mov", "png", "rgb24", {}),
    "PNG, 16 bit": (".mov", "png", "rgb48be", {}),
    "QuickTime RLE": (".mov", "qtrle", "rgb24", {}),
    "raw BGR": (".avi", "rawvideo", "bgr24", {}),
    "raw YUYV": (".avi", "rawvideo", "yuyv422", {}),
    "raw UYVY": (".mov", "rawvideo", "uyvy422", {}),
    "raw NV12": (".nut", "rawvideo", "nv12", {}),
    "GIF": (".gif", "gif", "bgr8", {}),
    "FLV": (".flv", "flv", "yuv420p", {}),
    "WMV": (".wmv", "wmv2", "yuv420p", {}),
}
# Their colours cannot be compared with what was recorded; nor can they where the tags do not match the pixels.
COARSE = {"GIF", "FFV1, grey", "FFV1, grey, 16 bit", "H.264, 1000x50"}

INTERLACED: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "MPEG-2": (".ts", "mpeg2video", "yuv420p", {"b": 6_000_000}),
    "MPEG-2, 4:2:2": (".ts", "mpeg2video", "yuv422p", {"b": 6_000_000}),
    "MPEG-2, 720x576": (".mpg", "mpeg2video", "yuv420p", {"size": (720, 576), "b": 9_000_000}),
    "MPEG-4": (".avi", "mpeg4", "yuv420p", {"b": 6_000_000}),
    "H.264": (".mp4", "libx264", "yuv420p", {"preset": "ultrafast"}),
    "H.264, 4:4:4": (".mp4", "libx264", "yuv444p", {"preset": "ultrafast"}),
    "H.264, 10 bit": (".mp4", "libx264", "yuv420p10le", {"preset": "ultrafast"}),
    "H.264, 322x180": (".mp4", "libx264", "yuv420p", {"size": (322, 180), "preset": "ultrafast"}),
    "H.264, full range": (".mp4", "libx264", "yuv420p", {"tags": {"color_range": FULL}}),
    "HEVC": (".mp4", "libx265", "yuv420p", {"x265-params": "log-level=none:interlace=tff"}),
    "DV": (".avi", "dvvideo", "yuv420p", {"size": (720, 576)}),
    "ProRes": (".mov", "prores_ks", "yuv422p10le", {}),
    "FFV1": (".mkv", "ffv1", "yuv420p", {}),
}


def record(folder: Path, kind: tuple[str, str, str, dict[str, Any]], **more: Any) -> Path:
    suffix, codec, pixel_format, options = kind
    return encode(folder / f"clip{suffix}", codec, pixel_format, **(options | more))


def check_right(frames: list[np.ndarray], size: tuple[int, int], *, coarse: bool = False) -> None:
    """Check that pictures are numbered from 1, and each is close to what was recorded."""
    assert [read_counter(frame) for frame in frames] == list(range(1, len(frames) + 1))
    if not coarse:
        for ours, truth in zip(frames, pictures(len(frames), size), strict=True):
            assert np.abs(ours.astype(int) - truth).mean() < 9


@pytest.mark.parametrize("kind", FORMATS)
def test_both_engines_deliver_the_same_pictures_to_the_last_bit(tmp_path: Path, kind: str) -> None:
    path = record(tmp_path, FORMATS[kind])
    opened = {engine: open_with(engine, path) for engine in ENGINES}
    theirs, ours = (source.details for source in opened.values())
    assert (ours.width, ours.height, ours.fps) == (theirs.width, theirs.height, theirs.fps)
    frames = {engine: list(read_all(source)) for engine, source in opened.items()}
    assert same(frames["PyAV"], frames["OpenCV"])
    options = FORMATS[kind][3]
    assert len(frames["PyAV"]) == options.get("frames", 5)
    check_right(frames["PyAV"], options.get("size", SIZE), coarse=kind in COARSE or "tags" in options)


def positions_of(engine: str, path: Path) -> list[float]:
    source = open_with(engine, path)
    found = []
    while source.grab():
        assert source.position_ms is not None
        found.append(source.position_ms)
    source.release()
    return found


@pytest.mark.parametrize("kind", ["H.264, B-frames", "H.264 in TS", "MPEG-4", "MPEG-2", "VP9", "Motion JPEG", "FLV"])
def test_positions_rise_by_the_duration_of_a_frame(tmp_path: Path, kind: str) -> None:
    found = positions_of("PyAV", record(tmp_path, FORMATS[kind]))
    assert 0 <= found[0] <= 40  # an AVI file does not say how far frames are reordered
    assert np.diff(found) == pytest.approx([40.0] * (len(found) - 1), abs=1)


def test_frames_have_their_own_positions_where_their_rate_varies(tmp_path: Path) -> None:
    times = [0, 40, 120, 160, 1160, 1200]
    path = encode(tmp_path / "clip.mkv", "libx264", "yuv420p", frames=6, times=times)
    assert positions_of("PyAV", path) == pytest.approx(times, abs=1)
    assert positions_of("PyAV", RECORDING) == pytest.approx(positions_of("OpenCV", RECORDING), abs=0.01)


# Interlaced video, for which OpenCV 4.13 and 5.0 report success without returning a picture.


@pytest.mark.parametrize("kind", INTERLACED)
def test_interlaced_video_is_right(tmp_path: Path, kind: str) -> None:
    path = record(tmp_path, INTERLACED[kind], interlaced=True, frames=8)
    frames = list(read_all(open_with("PyAV", path)))
    assert len(frames) == 8
    options = INTERLACED[kind][3]
    check_right(frames, options.get("size", SIZE), coarse="tags" in options)


def test_motion_jpeg_with_two_fields_per_frame_is_right(tmp_path: Path) -> None:
    """As capture cards record it: two JPEGs per frame, each with an AVI1 marker that says which lines it has."""
    path = tmp_path / "clip.avi"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mjpeg", rate=25)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuvj420p"
        for number, picture in enumerate(pictures(6, SIZE)):
            fields = [cv2.imencode(".jpg", np.ascontiguousarray(picture[first::2]))[1].tobytes() for first in (0, 1)]
            packet = av.Packet(b"".join(as_field(jpeg, polarity) for polarity, jpeg in enumerate(fields, 1)))
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 25)
            packet.is_keyframe = True
            output.mux(packet)
    check_right(list(read_all(open_with("PyAV", path))), SIZE)


def as_field(jpeg: bytes, polarity: int) -> bytes:
    """Replace JFIF with AVI1."""
    length = int.from_bytes(jpeg[4:6], "big")
    return jpeg[:2] + b"\xff\xe0\x00\x10AVI1" + bytes([polarity]) + bytes(9) + jpeg[4 + length :]


@pytest.mark.parametrize(
    ("codec", "options", "dropped"),
    [
        ("libx264", {"preset": "ultrafast"}, ()),
        # With MPEG-2, FFmpeg holds a frame back, and drops it where the sequence changes its kind.
        ("mpeg2video", {"b": 6_000_000, "bf": 0}, (5, 10)),
    ],
)
def test_partly_interlaced_video_is_right(
    tmp_path: Path, codec: str, options: dict[str, Any], dropped: tuple[int, ...]
) -> None:
    parts = [
        encode(tmp_path / f"{first}.ts", codec, "yuv420p", first=first, interlaced=interlaced, **options)
        for first, interlaced in [(1, False), (6, True), (11, False)]
    ]
    path = tmp_path / "all.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = list(read_all(open_with("PyAV", path)))
    assert [read_counter(frame) for frame in frames] == [number for number in range(1, 16) if number not in dropped]


# Other things that only PyAV does.


def test_a_pixel_format_that_changes_midway_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "all.ts"
    formats = ["yuv420p", "yuv444p", "yuv420p10le", "yuv422p"]
    parts = [
        encode(tmp_path / f"{number}.ts", "libx264", pixel_format, SIZE, first=5 * number + 1)
        for number, pixel_format in enumerate(formats)
    ]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = list(read_all(open_with("PyAV", path)))
    assert [read_counter(frame) for frame in frames] == list(range(1, 5 * len(formats) + 1))
    for number in range(len(formats)):
        for ours, truth in zip(frames[5 * number : 5 * number + 5], pictures(5, SIZE, 5 * number + 1), strict=True):
            assert np.abs(ours.astype(int) - truth).mean() < 9


@pytest.mark.parametrize(
    "sizes", [[(320, 240), (640, 360)], [(640, 360), (320, 240), (322, 242)], [(320, 240), (240, 320)]]
)
def test_a_size_that_changes_midway_is_followed(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    path = tmp_path / "all.ts"
    parts = [
        encode(tmp_path / f"{number}.ts", "libx264", "yuv420p", size, first=5 * number + 1)
        for number, size in enumerate(sizes)
    ]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = list(read_all(open_with("PyAV", path)))
    assert [frame.shape[1::-1] for frame in frames] == [size for size in sizes for _ in range(5)]
    assert [read_counter(frame) for frame in frames] == list(range(1, 5 * len(sizes) + 1))


def test_opencv_squeezes_another_size_into_the_first(tmp_path: Path) -> None:
    parts = [encode(tmp_path / f"{size[0]}.ts", "libx264", "yuv420p", size) for size in [(320, 240), (640, 360)]]
    path = tmp_path / "all.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert {frame.shape for frame in read_all(open_with("OpenCV", path))} == {(240, 320, 3)}


def test_av1_is_decoded(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", "libsvtav1", "yuv420p", preset=12)
    check_right(list(read_all(open_with("PyAV", path))), SIZE)
    assert list(read_all(open_with("OpenCV", path))) == []


def test_colours_of_hdr_are_converted_and_not_mapped(tmp_path: Path) -> None:
    """OpenCV 5.0 brings PQ and BT.2020 closer to what a plain screen shows; earlier ones did as this package."""
    tags = {"colorspace": BT2020, "color_range": LIMITED, "color_primaries": BT2020, "color_trc": PQ}
    path = encode(tmp_path / "clip.mp4", "libx264", "yuv420p10le", tags=tags)
    tags |= {"color_primaries": UNSPECIFIED, "color_trc": UNSPECIFIED}
    plain = encode(tmp_path / "plain.mp4", "libx264", "yuv420p10le", tags=tags)
    assert same(*(list(read_all(open_with("PyAV", each))) for each in (path, plain)))


@pytest.mark.parametrize("options", [{"rotation": 90}, {"flip": "both", "crop": (10, 20, 100, 50)}])
def test_pictures_are_turned_mirrored_and_cropped_as_opencv_does(tmp_path: Path, options: dict[str, Any]) -> None:
    path = record(tmp_path, FORMATS["H.264"])
    ours, theirs = (open_with(engine, path, **options) for engine in ("PyAV", "OpenCV"))
    assert (ours.details.width, ours.details.height) == (theirs.details.width, theirs.details.height)
    assert same(list(read_all(ours)), list(read_all(theirs)))

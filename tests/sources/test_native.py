"""Frames as PyAV's and OpenCV's sources deliver them, before anything is converted."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from encoding import encode, pictures
from engines import open_with
from http_answers import serving
from jpegs import as_frame, jpeg, without_tables
from raw_frames import as_raw

from billiards_shm.config.model import CameraConfig
from billiards_shm.images import convert
from billiards_shm.jpeg import complete
from billiards_shm.sources.camera import Camera
from billiards_shm.sources.protocol import NativeSource
from billiards_shm.sources.video import Video

SIZE = (320, 240)
FULL = 2
NATIVE: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "I420": (".mp4", "libx264", "yuv420p", {}),
    "I420, 330x182": (".mp4", "libx264", "yuv420p", {"size": (330, 182)}),
    "I420, 322x242": (".mp4", "libx264", "yuv420p", {"size": (322, 242)}),
    "NV12": (".nut", "rawvideo", "nv12", {}),
    "NV21": (".nut", "rawvideo", "nv21", {}),
    "YUYV": (".avi", "rawvideo", "yuyv422", {}),
    "UYVY": (".mov", "rawvideo", "uyvy422", {}),
    "GRAY8": (".mkv", "ffv1", "gray", {}),
    "GRAY8, 321x241": (".mkv", "ffv1", "gray", {"size": (321, 241)}),
    "GRAY16": (".mkv", "ffv1", "gray16le", {}),
    "RGB24": (".mov", "png", "rgb24", {}),
}
NOT_NATIVE: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "320x240 yuv444p": (".mp4", "libx264", "yuv444p", {}),
    "321x241 yuv420p": (".mkv", "ffv1", "yuv420p", {"size": (321, 241)}),
    "321x241 yuv420p10le": (".mkv", "ffv1", "yuv420p10le", {"size": (321, 241)}),
    "320x240 yuv420p10le of full range": (".mp4", "libx264", "yuv420p10le", {"tags": {"color_range": FULL}}),
    "320x240 yuv420p12le": (".mkv", "ffv1", "yuv420p12le", {}),
    "320x240 yuvj420p of full range": (".mp4", "libx264", "yuvj420p", {}),
    "320x240 yuv420p, interlaced": (".ts", "mpeg2video", "yuv420p", {"b": 6_000_000, "interlaced": True}),
    "320x240 yuv420p10le, interlaced": (".mp4", "libx264", "yuv420p10le", {"interlaced": True}),
}


def record(folder: Path, kind: tuple[str, str, str, dict[str, Any]]) -> Path:
    suffix, codec, pixel_format, options = kind
    return encode(folder / f"clip{suffix}", codec, pixel_format, **options)


def opened(path: Path | str, **keys: Any) -> Video:
    return Video(CameraConfig.model_validate({"device_id": str(path), "publish": "both"} | keys))


def decoded(path: Path) -> Iterator[np.ndarray]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.format.name in ("nv21", "uyvy422"):  # which PyAV cannot convert to an array
                yield np.concatenate([np.frombuffer(plane, np.uint8) for plane in frame.planes])
            else:
                yield frame.to_ndarray()


@pytest.mark.parametrize("kind", NATIVE)
def test_decoded_frames_are_delivered_unchanged(tmp_path: Path, kind: str) -> None:
    path = record(tmp_path, NATIVE[kind])
    source = opened(path)
    target = None
    count = 0
    for theirs in decoded(path):
        assert source.grab()
        assert source.native_format == kind.partition(",")[0]
        ours = source.retrieve_native(target)
        assert ours is not None
        assert target is None or ours is target
        np.testing.assert_array_equal(ours, theirs.reshape(ours.shape))
        target = np.zeros_like(ours)
        bgr = source.retrieve(None)
        assert bgr is not None
        assert bgr.shape == (source.details.height, source.details.width, 3), "the same frame, in the other form"
        count += 1
    assert count == 5
    assert not source.grab()
    assert source.details.warnings == ()


TEN_BITS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "H.264": (".mp4", "libx264", "yuv420p10le", {"size": (330, 188)}),
    "HEVC, HDR": (".mp4", "libx265", "yuv420p10le", {"tags": {"color_primaries": 9, "color_trc": 18, "colorspace": 9}}),
    "FFV1": (".mkv", "ffv1", "yuv420p10le", {"size": (322, 242)}),
}


@pytest.mark.parametrize("kind", TEN_BITS)
def test_ten_bits_become_p010_with_the_same_samples(tmp_path: Path, kind: str) -> None:
    path = record(tmp_path, TEN_BITS[kind])
    source = opened(path)
    assert source.details.warnings == ()
    target = None
    fine = 0
    with av.open(str(path)) as container:
        for theirs in container.decode(video=0):
            luma, *chroma = samples(theirs)
            assert source.grab()
            assert source.native_format == "P010"
            ours = source.retrieve_native(target)
            assert ours is not None
            assert target is None or ours is target
            np.testing.assert_array_equal(ours[: theirs.height], luma << 6)
            uv = ours[theirs.height :].reshape(theirs.height // 2, theirs.width // 2, 2)
            for number, plane in enumerate(chroma):
                np.testing.assert_array_equal(uv[..., number], plane << 6)
            fine += np.count_nonzero(luma & 3)
            target = np.zeros_like(ours)
            bgr = source.retrieve(None)
            assert bgr is not None
            of_readers = convert(ours, "P010", "BGR24")
            plain = slice(theirs.height // 4, None)  # below the patch of colours
            if "HDR" not in kind:
                assert np.abs(of_readers[plain].astype(int) - bgr[plain]).mean() < 3
    assert fine, "the clip has detail that eight bits lack"
    assert not source.grab()


def samples(frame: av.VideoFrame) -> list[np.ndarray]:
    """Y, U and V of a frame, without the row padding."""
    dtype = np.dtype(np.uint16 if "10" in frame.format.name else np.uint8)
    found = []
    for number, plane in enumerate(frame.planes):
        height, width = (frame.height, frame.width) if number == 0 else (frame.height // 2, frame.width // 2)
        found.append(np.frombuffer(plane, dtype).reshape(-1, plane.line_size // dtype.itemsize)[:height, :width])
    return found


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le"])
def test_pixels_that_a_stream_cuts_off_are_not_published(tmp_path: Path, pixel_format: str) -> None:
    """H.264 says how many pixels of its macroblocks are outside the picture, at the left and the top too."""
    left, top, right, bottom = 34, 18, 6, 10
    whole = encode(tmp_path / "clip.mp4", "libx264", pixel_format)
    path = tmp_path / "cut.mp4"
    cut = f"h264_metadata=crop_left={left}:crop_top={top}:crop_right={right}:crop_bottom={bottom}"
    with av.open(str(whole)) as container, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        filtering = BitStreamFilterContext(cut, container.streams.video[0], stream)
        for packet in [*container.demux(video=0), None]:
            for each in filtering.filter(packet if packet is not None and packet.size else None):
                each.stream = stream
                output.mux(each)
    source = opened(path)
    width, height = SIZE[0] - left - right, SIZE[1] - top - bottom
    with av.open(str(whole)) as container:
        for theirs in container.decode(video=0):
            assert source.grab()
            ours = source.retrieve_native(None)
            bgr = source.retrieve(None)
            assert ours is not None
            assert bgr is not None
            assert bgr.shape == (height, width, 3)
            luma = samples(theirs)[0][top : top + height, left : left + width]
            np.testing.assert_array_equal(ours[:height], luma << (6 if ours.dtype == np.uint16 else 0))
            reference = theirs.to_ndarray(format="bgr24")[top : top + height, left : left + width]
            plain = slice(height // 4, None)
            assert np.abs(bgr[plain].astype(int) - reference[plain]).mean() < 2
    assert not source.grab()


@pytest.mark.parametrize("kind", NOT_NATIVE)
def test_formats_that_segments_lack_become_bgr_and_are_reported(tmp_path: Path, kind: str) -> None:
    path = record(tmp_path, NOT_NATIVE[kind])
    source = opened(path, publish="native")
    assert source.details.warnings == (f"publish: asked for native, got bgr for {kind}",)
    assert source.grab()
    assert source.native_format == "BGR24"
    theirs = Video(CameraConfig(device_id=str(path)))
    assert theirs.grab()
    np.testing.assert_array_equal(source.retrieve_native(None), theirs.retrieve(None))


def test_the_format_of_partly_interlaced_video_changes_once(tmp_path: Path) -> None:
    parts = [
        encode(tmp_path / f"{number}.ts", "libx264", "yuv420p", interlaced=interlaced)
        for number, interlaced in enumerate([False, True, False])
    ]
    path = tmp_path / "all.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    source = opened(path)
    formats = []
    while source.grab():
        formats.append(source.native_format)
        image = source.retrieve_native(None)
        assert image is not None
        assert image.ndim == (3 if formats[-1] == "BGR24" else 2)
    assert formats == ["I420"] * 5 + ["BGR24"] * 10


def test_motion_jpeg_is_not_decoded(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.avi", "mjpeg", "yuvj420p", frames=5, q=2)
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    source = opened(path)
    converting = Video(CameraConfig(device_id=str(path)))
    assert (source.details.width, source.details.height) == SIZE
    for number, sent in enumerate(packets):
        assert source.grab()
        assert converting.grab()
        assert source.native_format == "MJPG"
        assert source.position_ms == converting.position_ms == pytest.approx(40 * number)
        native = source.retrieve_native(None)
        assert native is not None
        assert native.tobytes() == complete(sent)
        np.testing.assert_array_equal(source.retrieve(None), converting.retrieve(None))
    assert not source.grab()
    assert source.frames_left == 0


@pytest.mark.parametrize("suffix", [".avi", ".mov"])
def test_motion_jpeg_of_two_fields_becomes_bgr_and_is_reported(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"fields{suffix}"
    clip = encode(tmp_path / f"clip{suffix}", "mjpeg", "yuvj420p", frames=3)
    with av.open(str(clip)) as whole_frames, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(whole_frames.streams.video[0])
        for number, whole in enumerate(each for each in whole_frames.demux(video=0) if each.size):
            picture = pictures(3, SIZE)[number]
            packet = av.Packet(b"".join(jpeg(np.ascontiguousarray(picture[field::2]), 95) for field in (0, 1)))
            packet.pts, packet.dts, packet.duration = whole.pts, whole.dts, whole.duration
            packet.time_base, packet.stream = whole.time_base, stream
            output.mux(packet)
    source = opened(path, publish="native")
    assert [each.partition(" for ")[2][:15] for each in source.details.warnings] == ["native, got bgr"]
    for picture in pictures(3, SIZE):
        assert source.grab()
        assert source.native_format == "BGR24"
        found = source.retrieve_native(None)
        assert found is not None
        assert np.abs(found[60:].astype(int) - picture[60:]).mean() < 5, "both fields, below the patch of colours"
    assert not source.grab()


def test_lossless_motion_jpeg_becomes_bgr_and_is_reported(tmp_path: Path) -> None:
    """OpenCV decodes it in wrong colours, browsers not at all."""
    path = encode(tmp_path / "clip.avi", "ljpeg", "yuvj420p", strict=-1)
    source = opened(path, publish="native")
    assert source.details.warnings == ("publish: asked for native, got bgr for 320x240 yuvj420p of full range",)
    theirs = Video(CameraConfig(device_id=str(path)))
    for _ in range(5):
        assert source.grab()
        assert theirs.grab()
        assert source.native_format == "BGR24"
        np.testing.assert_array_equal(source.retrieve_native(None), theirs.retrieve(None))
    assert not source.grab()


def test_a_stream_that_is_not_native_is_warned_about_once_however_often_it_is_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = encode(tmp_path / "clip.ts", "mpeg2video", "yuv422p").read_bytes()
    with serving([clip], b"video/mp2t") as url:
        for _ in range(2):
            source = opened(url, publish="native")
            for _ in range(3):
                assert source.grab()
                assert source.retrieve_native(None) is not None
            source.release()
    warning = f"{url}: publish: asked for native, got bgr for 320x240 yuv422p"
    assert [each.getMessage() for each in caplog.records].count(warning) == 1


# MJPEG over HTTP, as IP cameras send it.


@contextmanager
def camera(parts: list[bytes]) -> Iterator[str]:
    """Serve JPEGs one after another, then keep the connection open."""
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for part in parts:
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(part)}\r\n\r\n"
                self.wfile.write(head.encode() + part + b"\r\n")
            done.wait(60)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/video.mjpg"
    finally:
        done.set()
        server.shutdown()
        server.server_close()
        thread.join()


def native_frames(url: str, count: int, **keys: Any) -> list[bytes | None]:
    source = opened(url, publish="native", **keys)
    found: list[bytes | None] = []
    while len(found) < count:
        if source.grab():
            image = source.retrieve_native(None)
            found.append(None if image is None else image.tobytes())
    source.release()
    return found


JPEGS = [jpeg(picture, 92) for picture in pictures(12, SIZE)]


@pytest.mark.parametrize("bare", [False, True], ids=["with tables", "without tables"])
def test_mjpeg_over_http_is_kept_byte_for_byte(bare: bool) -> None:
    sent = [without_tables(each) for each in JPEGS] if bare else JPEGS
    with camera(sent) as url:
        found = native_frames(url, 10)
    assert found == [complete(each) for each in sent][:10]
    if not bare:
        assert found == sent[:10]


@pytest.mark.parametrize("before", [b"\r\n", b"\xff", b"\0" * 8])
def test_bytes_that_a_server_sends_before_a_jpeg_are_left_out(before: bytes) -> None:
    with camera([before + each for each in JPEGS]) as url:
        assert native_frames(url, 5) == JPEGS[:5]


def test_a_camera_whose_jpegs_have_no_end_marker_is_read() -> None:
    with camera([each[:-2] for each in JPEGS]) as url:
        assert native_frames(url, 5) == JPEGS[:5]


def test_a_damaged_jpeg_is_left_out_of_a_stream() -> None:
    sent = [*JPEGS[:3], JPEGS[3][: len(JPEGS[3]) // 2], *JPEGS[4:]]
    with camera(sent) as url:
        found = native_frames(url, 9)
    assert found == [*JPEGS[:3], None, *JPEGS[4:9]]
    with camera(sent) as url:
        kept = native_frames(url, 9, keep_damaged=True)
    assert kept == sent[:9]


# OpenCV.


class Device:
    """Replaces `cv2.VideoCapture`: a camera that delivers the frames of a list, in its format."""

    def __init__(self, fourcc: str, frames: list[np.ndarray], size: tuple[int, int], *, converts_only: bool) -> None:
        self.said = {
            cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter.fourcc(*fourcc)),
            cv2.CAP_PROP_FRAME_WIDTH: size[0],
            cv2.CAP_PROP_FRAME_HEIGHT: size[1],
            cv2.CAP_PROP_FPS: 30.0,
        }
        self.frames = frames
        self.converts_only = converts_only
        self.raw = False

    def get(self, number: int) -> float:
        return self.said.get(number, 0.0)

    def set(self, number: int, value: float) -> bool:
        if number == cv2.CAP_PROP_CONVERT_RGB and not self.converts_only:
            self.raw = not value
            return True
        return False

    def getBackendName(self) -> str:  # noqa: N802 - OpenCV's name
        return "V4L2"

    def grab(self) -> bool:
        self.current = self.frames.pop(0)
        return True

    def retrieve(self, target: np.ndarray | None = None) -> tuple[bool, np.ndarray]:
        image = self.current if self.raw else np.zeros((*reversed(self.size()), 3), np.uint8)
        if target is not None and target.shape == image.shape and target.dtype == image.dtype:
            np.copyto(target, image)
            return True, target
        return True, image.copy()

    def size(self) -> tuple[int, int]:
        return int(self.said[cv2.CAP_PROP_FRAME_WIDTH]), int(self.said[cv2.CAP_PROP_FRAME_HEIGHT])

    def release(self) -> None:
        pass


def camera_with(
    monkeypatch: pytest.MonkeyPatch, fourcc: str, frames: list[np.ndarray], *, converts_only: bool = False, **keys: Any
) -> Camera:
    size = (64, 48)
    device = Device(fourcc, frames, size, converts_only=converts_only)
    monkeypatch.setattr("billiards_shm.sources.camera._check_place", lambda address: 0)
    monkeypatch.setattr("billiards_shm.sources.camera._open", lambda *arguments: (device, "V4L2"))
    return Camera(CameraConfig.model_validate({"device_id": 0, "publish": "both", "resolution": size} | keys))


PICTURE = cv2.resize(np.random.default_rng(1).integers(60, 190, (3, 3, 3), np.uint8), (64, 48))
DRIVERS = {
    "YUYV": ("YUYV", as_raw(PICTURE, "YUYV")),
    "UYVY": ("UYVY", as_raw(PICTURE, "UYVY")),
    "NV12": ("NV12", as_raw(PICTURE, "NV12")),
    "YU12": ("I420", as_raw(PICTURE, "I420")),
    "GREY": ("GRAY8", as_raw(PICTURE, "GREY")),
}


@pytest.mark.parametrize("fourcc", DRIVERS)
def test_a_camera_passes_on_what_its_driver_delivers(monkeypatch: pytest.MonkeyPatch, fourcc: str) -> None:
    pixel_format, raw = DRIVERS[fourcc]
    source = camera_with(monkeypatch, fourcc, [raw, raw], rotation=180)
    assert isinstance(source, NativeSource)
    assert source.details.warnings == ()
    target = np.zeros_like(raw)
    for _ in range(2):
        assert source.grab()
        assert source.native_format == pixel_format
        assert source.retrieve_native(target) is target
        np.testing.assert_array_equal(target, raw)
        bgr = source.retrieve(None)
        assert bgr is not None
        truth = PICTURE if fourcc != "GREY" else cv2.cvtColor(cv2.cvtColor(PICTURE, 6), 8)
        assert np.abs(bgr[::-1, ::-1].astype(int) - truth).mean() < 3, "turned, as BGR may be"


def test_a_cameras_jpegs_are_completed_and_the_damaged_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = jpeg(PICTURE)
    frames = [as_frame(whole), as_frame(without_tables(whole)), as_frame(whole[:-9]), as_frame(whole + b"\0" * 40)]
    source = camera_with(monkeypatch, "MJPG", frames)
    found, flaws = [], []
    for _ in range(4):
        assert source.grab()
        assert source.native_format == "MJPG"
        image = source.retrieve_native(None)
        found.append(None if image is None else image.tobytes())
        flaws.append(source.flaw)
    assert flaws == ["", "", f"it is cut off: {len(whole) - 9} bytes without an end marker", ""]
    assert found == [whole, complete(without_tables(whole)), None, whole + b"\0" * 40]


def test_damaged_jpegs_of_a_camera_are_left_out_as_bgr_too(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = jpeg(PICTURE)
    frames = [
        as_frame(without_tables(whole)),
        as_frame(whole[: len(whole) // 2]),
        as_frame(b"no JPEG"),
        as_frame(whole),
    ]
    source = camera_with(monkeypatch, "MJPG", frames, publish="bgr")
    assert source.details.warnings == ()
    target = np.zeros_like(PICTURE)
    for good in (True, False, False, True):
        assert source.grab()
        target[:] = 0
        image = source.retrieve(target)
        assert (image is target) is good, "damaged is nothing, not a picture with grey parts"
        assert np.array_equal(target, cv2.imdecode(as_frame(whole), cv2.IMREAD_COLOR)) is good


@pytest.mark.parametrize("publish", ["native", "both", "bgr"])
@pytest.mark.parametrize("fourcc", ["MJPG", "NV12"])
def test_an_empty_driver_buffer_is_not_a_frame(monkeypatch: pytest.MonkeyPatch, publish: str, fourcc: str) -> None:
    source = camera_with(monkeypatch, fourcc, [PICTURE, PICTURE], publish=publish)
    # What OpenCV's binding returns for an empty buffer.
    monkeypatch.setattr(Device, "retrieve", lambda self, target=None: (True, None))
    assert source.grab()
    assert source.retrieve(None) is None
    assert source.grab()
    assert source.retrieve_native(None) is None


def test_bayer_that_opencv_returns_as_a_row_of_bytes_gets_its_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = np.random.default_rng(2).integers(0, 256, (48, 64), np.uint8)
    source = camera_with(monkeypatch, "BA81", [raw.reshape(1, -1)])
    assert source.grab()
    assert source.native_format == "BAYER_BGGR8"
    np.testing.assert_array_equal(source.retrieve_native(None), raw)
    np.testing.assert_array_equal(source.retrieve(None), cv2.cvtColor(raw, cv2.COLOR_BayerRG2BGR))


@pytest.mark.parametrize(("fourcc", "dtype"), [("P010", "uint16"), ("NV12", "uint8")])
def test_planes_that_opencv_returns_as_a_row_of_bytes_get_their_shape(
    monkeypatch: pytest.MonkeyPatch, fourcc: str, dtype: str
) -> None:
    raw = np.random.default_rng(2).integers(0, 256, (72, 64), np.uint8).astype(dtype)
    row = raw.reshape(-1).view(np.uint8).reshape(1, -1)
    source = camera_with(monkeypatch, fourcc, [row, row[:, :-2]])
    assert source.grab()
    found = source.retrieve_native(None)
    assert found is not None
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, raw)
    assert source.grab()
    assert source.retrieve_native(None) is None, "too few bytes for a picture are not a picture"


def test_a_format_that_the_driver_does_not_deliver_raw_becomes_bgr_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for fourcc, converts_only in (("H264", False), ("YUYV", True)):
        source = camera_with(monkeypatch, fourcc, [PICTURE], converts_only=converts_only, publish="native")
        assert any("asked for native, got bgr for" in each and fourcc in each for each in source.details.warnings)
        assert source.grab()
        assert source.native_format == "BGR24"
        image = source.retrieve_native(None)
        assert image is not None
        assert image.shape == (48, 64, 3)


def test_files_decoded_by_opencv_become_bgr_with_a_warning(tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip.avi", "mjpeg", "yuvj420p")
    source = open_with("OpenCV", clip, publish="native")
    assert isinstance(source, NativeSource)
    assert "backend av has native frames" in " ".join(source.details.warnings)
    assert source.grab()
    assert source.native_format == "BGR24"


def test_bgr_delivered_instead_of_the_requested_format_is_published_as_bgr(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = camera_with(monkeypatch, "NV12", [PICTURE, PICTURE])
    for _ in range(2):
        assert source.grab()
        np.testing.assert_array_equal(source.retrieve_native(None), PICTURE)
        assert source.native_format == "BGR24"
        np.testing.assert_array_equal(source.retrieve(None), PICTURE)
    assert [each.getMessage() for each in caplog.records].count(
        "camera 0: publish: asked for native, got bgr instead of NV12"
    ) == 1

"""Numbered images: which files a pattern names, in what order, and that files that are not images are left out."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from capture_runs import published, settings_for
from videos import SIZE, make_images

from billiards_shm import CameraError
from billiards_shm.config.model import CameraConfig
from billiards_shm.sources.demo.table import read_counter
from billiards_shm.sources.images import ImageSequence, numbered_files
from billiards_shm.sources.open import open_source
from billiards_shm.sources.protocol import FrameSource


def open_images(pattern: str | Path, **camera: object) -> FrameSource:
    return open_source(CameraConfig.model_validate({"device_id": str(pattern), **camera}))


def read_all(source: FrameSource) -> list[np.ndarray]:
    """Every frame, each read into memory of the previous shape if it fits."""
    slot: np.ndarray | None = None
    frames = []
    while source.grab():
        image = source.retrieve(slot)
        if image is not None:
            assert (image is slot) == (slot is not None and slot.shape == image.shape)
            slot = np.zeros_like(image)
            frames.append(image)
    return frames


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def shade(path: Path, value: int) -> None:
    """An image with that value in all pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((48, 64, 3), value, np.uint8))


def shades(frames: list[np.ndarray]) -> list[int]:
    return [int(frame.mean()) for frame in frames]


# Which files.


@pytest.mark.parametrize(
    ("pattern", "there", "meant"),
    [
        ("%d.png", "1.png 2.png 10.png 9.png x.png 3.png.txt", "1.png 2.png 9.png 10.png"),
        ("%d.png", "01.png 1.png 002.png", "1.png"),
        ("%04d.png", "0001.png 00002.png 3.png 12345.png 9999.png", "0001.png 9999.png 12345.png"),
        ("%4d.png", "0001.png 2.png", "0001.png"),
        ("%012d.jpg", "000000000139.jpg 000000000009.jpg 9.jpg", "000000000009.jpg 000000000139.jpg"),
        ("cam1_%04d.png", "cam1_0001.png cam2_0001.png cam1_0002.png cam12_0001.png", "cam1_0001.png cam1_0002.png"),
        ("0001_%d.png", "0001_1.png 0002_1.png 0001_2.png", "0001_1.png 0001_2.png"),
        ("%d_2.png", "1_2.png 2_2.png 2_3.png 22.png", "1_2.png 2_2.png"),
        ("2024/11/%d.png", "2024/11/1.png 2024/12/1.png 2025/11/1.png", "2024/11/1.png"),
        (
            "run%d/image.png",
            "run1/image.png run10/image.png run2/image.png run3/x.png",
            "run1/image.png run2/image.png run10/image.png",
        ),
        ("%d/%02d.png", "2/01.png 1/02.png 1/01.png 10/01.png", "1/01.png 1/02.png 2/01.png 10/01.png"),
        ("run%d/%d.png", "run1 run2/7.png", "run2/7.png"),
        ("%d", "7 8 a", "7 8"),
        ("50%%_%d.png", "50%_1.png 50%%_1.png 50_1.png", "50%_1.png"),
        ("rec%d/%d.png", "rec%d/1.png rec1/1.png", "rec%d/1.png"),
        ("match%20day_%d.png", "match%20day_1.png match%20day_2.png", "match%20day_1.png match%20day_2.png"),
        ("100%_%d.png", "100%_1.png", "100%_1.png"),
        ("a+b(%d).png", "a+b(1).png aab(2).png", "a+b(1).png"),
        ("[%d]*.png", "[1]*.png", "[1]*.png"),
        ("%d.PNG", "1.PNG 2.png", "1.PNG"),
        ("٣%d.png", "٣1.png ٣٣.png", "٣1.png"),
    ],
)
def test_a_pattern_names_files_by_their_number(tmp_path: Path, pattern: str, there: str, meant: str) -> None:
    touch(tmp_path, *there.split())
    found = [str(path.relative_to(tmp_path)) for path in numbered_files(tmp_path / pattern)]
    assert found == meant.split()


def test_a_pattern_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "in/2.png", "in/1.png", "3.png")
    monkeypatch.chdir(tmp_path)
    assert numbered_files(Path("in/%d.png")) == [Path("in/1.png"), Path("in/2.png")]
    assert numbered_files(Path("%d.png")) == [Path("3.png")]


def test_a_folder_or_a_dangling_link_is_not_an_image(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png/x")
    (tmp_path / "3.png").symlink_to("nowhere")
    (tmp_path / "4.png").symlink_to("1.png")
    assert [path.name for path in numbered_files(tmp_path / "%d.png")] == ["1.png", "4.png"]


# Pictures.


@pytest.mark.parametrize("first", [0, 1, 7, 9999])
def test_numbered_images_are_a_recording_wherever_they_begin(tmp_path: Path, first: int) -> None:
    source = open_images(make_images(tmp_path / "images", range(first, first + 4)))
    assert (source.details.width, source.details.height) == SIZE
    assert (source.details.backend, source.details.fps, source.details.frame_count) == ("IMAGES", 0.0, 4)
    assert [read_counter(frame) for frame in read_all(source)] == list(range(first, first + 4))


def test_each_camera_shows_its_own_pictures(tmp_path: Path) -> None:
    for camera in 1, 2, 3:
        for number in range(1, 6):
            shade(tmp_path / f"cam{camera}_{number:04d}.png", camera * 50 + number)
    for camera in 1, 2, 3:
        pattern = tmp_path / f"cam{camera}_%04d.png"
        assert shades(read_all(open_images(pattern))) == [camera * 50 + number for number in range(1, 6)]


def test_missing_numbers_are_skipped(tmp_path: Path) -> None:
    for number in 3, 4, 8, 100, 1000:
        shade(tmp_path / f"{number:03d}.png", number % 256)
    assert shades(read_all(open_images(tmp_path / "%03d.png"))) == [3, 4, 8, 100, 1000 % 256]


@pytest.mark.parametrize("name", ["frame_0007.png", "7.png", "cam3_12.jpg"])
def test_one_image_is_a_recording_of_one_frame(tmp_path: Path, name: str) -> None:
    for number in range(1, 20):
        shade(tmp_path / f"frame_{number:04d}.png", number)
        shade(tmp_path / f"{number}.png", number)
    shade(tmp_path / name, 200)
    source = open_images(tmp_path / name, backend="images")
    assert source.details.frame_count == 1
    assert shades(read_all(source)) == [200]


def test_images_of_any_kind_become_three_channels(tmp_path: Path) -> None:
    values = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
    grey = (values >> 8).astype(np.uint8)
    colour = np.dstack([grey, grey // 2, grey // 3])
    cv2.imwrite(str(tmp_path / "0.png"), colour)
    cv2.imwrite(str(tmp_path / "1.png"), grey)
    cv2.imwrite(str(tmp_path / "2.png"), values)
    cv2.imwrite(str(tmp_path / "3.png"), np.dstack([colour, grey]))
    frames = read_all(open_images(tmp_path / "%d.png"))
    expected = [colour, np.dstack([grey] * 3), np.dstack([grey] * 3), colour]
    assert len(frames) == 4
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(frames, expected, strict=True))


def test_images_may_differ_in_size(tmp_path: Path) -> None:
    for number, width in enumerate((64, 32, 32, 48)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((40, width, 3), number, np.uint8))
    frames = read_all(open_images(tmp_path / "%d.png"))
    assert [frame.shape[1] for frame in frames] == [64, 32, 32, 48]


def test_images_are_turned_mirrored_and_cropped(tmp_path: Path) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (40, 64, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "1.png"), picture)
    source = open_images(tmp_path / "%d.png", rotation=90, crop=[0, 0, 10, 20])
    assert (source.details.width, source.details.height) == (10, 20)
    (frame,) = read_all(source)
    assert np.array_equal(frame, cv2.rotate(picture, cv2.ROTATE_90_CLOCKWISE)[:20, :10])


def test_a_photograph_is_upright(tmp_path: Path) -> None:
    picture = np.zeros((40, 64, 3), np.uint8)
    picture[:20] = 255
    _, encoded = cv2.imencode(".jpg", picture)
    # EXIF: turn it clockwise by 90 degrees to see it upright.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (tmp_path / "1.jpg").write_bytes(encoded.tobytes()[:2] + segment + encoded.tobytes()[2:])
    (frame,) = read_all(open_images(tmp_path / "%d.jpg"))
    assert frame.shape == (64, 40, 3)
    assert frame[:, -10:].mean() > 200
    assert frame[:, :10].mean() < 50


@pytest.mark.parametrize(("playback_fps", "expected"), [(None, [0, 40, 80]), (10, [0, 100, 200]), (0, [0, 40, 80])])
def test_positions_rise_by_how_long_an_image_is_shown(
    tmp_path: Path, playback_fps: float | None, expected: list[float]
) -> None:
    source = open_images(make_images(tmp_path / "images", range(5, 8)), playback_fps=playback_fps)
    positions = []
    left = []
    while source.grab():
        positions.append(source.position_ms)
        left.append(source.frames_left)
    assert positions == pytest.approx(expected)
    assert left == [2, 1, 0]
    assert not source.grab()


def test_images_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    for number in range(1, 9):
        shade(tmp_path / f"{number}.png", number)
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "4.png").write_bytes((tmp_path / "4.png").read_bytes()[:-40])
    source = open_images(tmp_path / "%d.png")
    (tmp_path / "7.png").unlink()
    assert (source.details.width, source.details.height) == (64, 48)
    assert shades(read_all(source)) == [2, 3, 5, 6, 8]


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tiff", "webp"])
@pytest.mark.parametrize("share", [0.99, 0.5, 0.1])
def test_a_file_that_is_cut_off_is_left_out(tmp_path: Path, suffix: str, share: float) -> None:
    texture = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8), (9, 9), 0)
    for number in 1, 2:
        cv2.imwrite(str(tmp_path / f"{number}.{suffix}"), texture)
    whole = (tmp_path / f"1.{suffix}").read_bytes()
    (tmp_path / f"1.{suffix}").write_bytes(whole[: int(len(whole) * share)])
    # Bytes that cameras add after the end do no harm, and a preview in the header does not count as an end.
    (tmp_path / f"2.{suffix}").write_bytes(whole + b"SEFH\xff\xda\0")
    source = open_images(tmp_path / f"%d.{suffix}")
    assert source.grab()
    assert source.retrieve(None) is None
    assert source.grab()
    assert source.retrieve(None) is not None


def test_a_sequence_is_published_and_starts_over_with_the_files_that_exist_then(name: str, tmp_path: Path) -> None:
    pattern = make_images(tmp_path / "images", range(3, 6))
    settings = settings_for(name, pattern, playback_fps=0)
    frames = published(name, settings, frames=8)
    numbers = [read_counter(frame) for _, frame in frames]
    assert set(numbers) <= {3, 4, 5}
    assert [number for number, _ in frames][-1] == 8
    assert numbers[-1] == 4


# What cannot be opened.


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("nowhere/%d.png", "no such file or directory"),
        ("%d.png", "no file has such a name"),
        ("cam_%02d.png", "no file has such a name; there is cam_0001.png"),
    ],
)
def test_missing_images_are_an_error(tmp_path: Path, pattern: str, reason: str) -> None:
    touch(tmp_path, "cam_0001.png", "cam_0002.png", "cam_x.png")
    with pytest.raises(CameraError, match=rf": not found: {reason}$"):
        open_images(tmp_path / pattern)


def test_numbered_files_that_are_not_images_are_an_error_that_names_one(tmp_path: Path) -> None:
    for number in range(1, 20):
        (tmp_path / f"clip{number}.mp4").write_bytes(bytes(range(256)))
    with pytest.raises(CameraError, match=r": unreadable: .*/clip1\.mp4 is not an image that OpenCV can read$"):
        open_images(tmp_path / "clip%d.mp4")


def test_a_camera_is_not_for_the_backend_of_images() -> None:
    with pytest.raises(CameraError, match=r"^cannot open camera 0: backend images reads files; this is not one$"):
        ImageSequence(CameraConfig(device_id=0, backend="images"))

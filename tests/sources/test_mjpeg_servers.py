"""Motion JPEG from faulty servers: cut pictures, missing lengths, strange boundaries. Whole pictures still arrive."""

import contextlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from engines import BACKENDS, ENGINES
from http_answers import serving

from billiards_shm.config.model import CameraConfig
from billiards_shm.sources.demo.table import DemoTable, read_counter
from billiards_shm.sources.open import open_source
from billiards_shm.sources.protocol import Delivery, SourceLostError, TimedSource

SIZE = (160, 120)
FRAMES = 12
DAMAGED = (5, 6, 9)
WHOLE = [number for number in range(1, FRAMES + 1) if number not in DAMAGED]

Change = Callable[[bytes], bytes]


def jpegs(count: int, size: tuple[int, int] = SIZE, first: int = 1) -> list[bytes]:
    table = DemoTable(*size, 25, first=first)
    found = []
    for _ in range(count):
        table.grab()
        found.append(cv2.imencode(".jpg", table.retrieve(None))[1].tobytes())
    return found


def part(jpeg: bytes, *, length: bool = True, boundary: bytes = b"x", ending: bytes = b"\r\n") -> bytes:
    lines = [b"--" + boundary, b"Content-Type: image/jpeg"]
    if length:
        lines.append(b"Content-Length: %d" % len(jpeg))
    return ending.join([*lines, b"", jpeg, b""])


def read(url: str, engine: str, **camera: object) -> list[np.ndarray | None]:
    """What a source delivers until its stream ends; None for a picture that cannot be decoded."""
    config = {"device_id": url, "backend": BACKENDS[engine], "read_timeout_sec": 20} | camera
    source = open_source(CameraConfig.model_validate(config))
    assert source.details.delivery is Delivery.LIVE
    found: list[np.ndarray | None] = []
    failed = 0
    with contextlib.suppress(SourceLostError):
        while failed < 4:  # OpenCV's grab fails at a damaged picture too
            grabbed = source.grab()
            failed = 0 if grabbed else failed + 1
            if grabbed:
                found.append(source.retrieve(None))
    source.release()
    return found


def numbers(pictures: list[np.ndarray | None]) -> list[int]:
    return [read_counter(picture) for picture in pictures if picture is not None]


@pytest.fixture(params=[True, False], ids=["with its length", "without"])
def length(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


DAMAGES: dict[str, Change] = {
    "half of it": lambda jpeg: jpeg[: len(jpeg) // 2],
    "without its end marker": lambda jpeg: jpeg[:-2],
    "without its last bytes": lambda jpeg: jpeg[:-20],
    "a part of its header": lambda jpeg: jpeg[:30],
    "nothing": lambda jpeg: b"",
    "text": lambda jpeg: b"<html>busy, try again</html>",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_pictures_are_left_out_and_counted(length: bool, damage: str) -> None:
    parts = [
        part(DAMAGES[damage](jpeg) if number in DAMAGED else jpeg, length=length)
        for number, jpeg in enumerate(jpegs(FRAMES), 1)
    ]
    with serving([*parts, b"--x--\r\n"]) as url:
        found = read(url, "PyAV")
    assert numbers(found) == WHOLE
    assert sum(picture is None for picture in found) == len(DAMAGED)


def test_damaged_pictures_are_kept_on_request(length: bool) -> None:
    parts = [
        part(jpeg[: len(jpeg) // 2] if number in DAMAGED else jpeg, length=length)
        for number, jpeg in enumerate(jpegs(FRAMES), 1)
    ]
    with serving([*parts, b"--x--\r\n"]) as url:
        found = read(url, "PyAV", keep_damaged=True)
    assert len(found) == FRAMES
    for number, picture in enumerate(found, 1):
        assert picture is not None
        if number not in DAMAGED:
            assert read_counter(picture) == number


def test_pictures_that_never_have_an_end_marker_are_not_damaged(length: bool) -> None:
    with serving([*(part(jpeg[:-2], length=length) for jpeg in jpegs(FRAMES)), b"--x--\r\n"]) as url:
        assert numbers(read(url, "PyAV")) == list(range(1, FRAMES + 1))


CONTENT_TYPES = [
    b"multipart/x-mixed-replace; boundary=x",
    b"multipart/x-mixed-replace;boundary=--x",
    b'multipart/x-mixed-replace;boundary="x"',
    b"MULTIPART/X-MIXED-REPLACE; boundary=x",
    b"multipart/x-mixed-replace; boundary=another",
    b"multipart/x-mixed-replace",
    b"image/jpeg",
]


@pytest.mark.parametrize("content_type", CONTENT_TYPES, ids=bytes.decode)
def test_a_wrong_boundary_from_the_server_does_no_harm(engine: str, content_type: bytes) -> None:
    with serving([*map(part, jpegs(FRAMES)), b"--x--\r\n"], content_type) as url:
        assert numbers(read(url, engine)) == list(range(1, FRAMES + 1))


def test_lines_may_end_as_in_unix_if_lengths_are_given(engine: str) -> None:
    parts = [part(jpeg, ending=b"\n") for jpeg in jpegs(FRAMES)]
    with serving([*parts, b"--x--\n"]) as url:
        assert numbers(read(url, engine)) == list(range(1, FRAMES + 1))


WRONG: dict[str, Callable[[bytes], bytes]] = {
    "a length that is too large": lambda jpeg: part(jpeg).replace(b"%d" % len(jpeg), b"%d" % (len(jpeg) + 500), 1),
    "a length that is too small": lambda jpeg: part(jpeg).replace(b"%d" % len(jpeg), b"%d" % (len(jpeg) - 500), 1),
    "lines between two parts": lambda jpeg: part(jpeg) + b"noise\r\n" * 30,
}


@pytest.mark.parametrize("wrong", WRONG)
def test_one_wrong_part_costs_one_picture_or_two(wrong: str) -> None:
    parts = [WRONG[wrong](jpeg) if number == 6 else part(jpeg) for number, jpeg in enumerate(jpegs(FRAMES), 1)]
    with serving([*parts, b"--x--\r\n"]) as url:
        found = read(url, "PyAV")
    assert 1 <= sum(picture is None for picture in found) <= 2
    assert len(numbers(found)) >= FRAMES - 1
    assert set(range(1, FRAMES + 1)) - set(numbers(found)) <= {6, 7}


def test_pictures_may_arrive_without_anything_between_them(engine: str) -> None:
    with serving(jpegs(FRAMES), b"image/jpeg") as url:
        assert numbers(read(url, engine)) == list(range(1, FRAMES + 1))


def test_pictures_with_another_size_are_delivered_unchanged() -> None:
    sizes = [SIZE, (320, 180), (96, 180)]
    parts = [part(jpeg) for place, size in enumerate(sizes) for jpeg in jpegs(3, size, 3 * place + 1)]
    with serving([*parts, b"--x--\r\n"]) as url:
        found = read(url, "PyAV")
    assert numbers(found) == list(range(1, 10))
    assert [picture.shape[1::-1] for picture in found if picture is not None] == [size for size in sizes for _ in "123"]


@pytest.mark.parametrize("publish", ["bgr", "native"])
def test_times_that_ffmpeg_counts_are_not_taken_for_the_times_of_the_server(engine: str, publish: str) -> None:
    # It counts 25 frames a second: those of a slower server would seem to be later and later.
    with serving([*map(part, jpegs(FRAMES)), b"--x--\r\n"]) as url:
        config = {"device_id": url, "backend": BACKENDS[engine], "publish": publish, "read_timeout_sec": 20}
        source = open_source(CameraConfig.model_validate(config))
        assert isinstance(source, TimedSource)
        for _ in range(FRAMES - 1):
            assert source.grab()
            assert source.timestamp_ms is None
        source.release()

"""Frames that are JPEGs already: passed on untouched, and decoded once for all clients that want them smaller."""

import io
from collections.abc import Iterator
from contextlib import ExitStack

import cv2
import numpy as np
import pytest
from jpegs import as_frame, jpeg, without_tables
from serving import Address, served

from billiards_shm import SharedMemoryFrameWriter, images
from billiards_shm.serve import create_app

HEIGHT, WIDTH = 180, 320


def picture(number: int) -> np.ndarray:
    small = np.random.default_rng(number).integers(0, 256, (6, 9, 3), np.uint8)
    return cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def writer(segment_name: str) -> Iterator[SharedMemoryFrameWriter]:
    with SharedMemoryFrameWriter(segment_name, (1, 100_000), pixel_format="MJPG") as opened:
        yield opened


@pytest.fixture
def server(segment_name: str, writer: SharedMemoryFrameWriter) -> Iterator[Address]:
    with served(create_app([segment_name], max_frame_age=600)) as opened:
        yield opened


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each JPEG that the server decodes."""
    found: list[int] = []

    class Counting:
        def __getattr__(self, name: str) -> object:
            return getattr(cv2, name)

        @staticmethod
        def imdecode(data: np.ndarray, flags: int) -> np.ndarray | None:
            found.append(data.size)
            return cv2.imdecode(data, flags)

    monkeypatch.setattr(images, "cv2", Counting())
    return found


@pytest.mark.parametrize("form", ["", "?quality=20", "?width=320", "?width=7680"])
def test_a_full_size_picture_is_the_cameras_bytes(
    server: Address, writer: SharedMemoryFrameWriter, decodings: list[int], form: str
) -> None:
    sent = jpeg(picture(1))
    writer.write_frame(as_frame(sent))
    with server.stream(f"/stream/{writer.name}.mjpg{form}") as stream:
        assert stream.part().body == sent
    assert server.get(f"/snapshot/{writer.name}.jpg{form}").body == sent
    assert decodings == []


def test_tables_that_a_camera_leaves_out_are_added(
    server: Address, writer: SharedMemoryFrameWriter, decodings: list[int]
) -> None:
    whole = jpeg(picture(1))
    writer.write_frame(as_frame(without_tables(whole)))
    with server.stream(f"/stream/{writer.name}.mjpg") as stream:
        part = stream.part()
    assert len(part.body) == len(whole)
    np.testing.assert_array_equal(part.image, cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR))
    assert server.get(f"/snapshot/{writer.name}.jpg").body == part.body
    assert decodings == []


@pytest.mark.slow
def test_all_smaller_sizes_share_one_decoding(
    server: Address, writer: SharedMemoryFrameWriter, decodings: list[int]
) -> None:
    with ExitStack() as stack:
        forms = ["?width=160", "?width=160&quality=30", "?width=100", "?width=64", ""]
        streams = [stack.enter_context(server.stream(f"/stream/{writer.name}.mjpg{form}")) for form in forms]
        for number in range(1, 6):
            sent = jpeg(picture(number))
            writer.write_frame(as_frame(sent))
            *smaller, full = [stream.part() for stream in streams]
            assert full.body == sent
            assert [part.image.shape[1] for part in smaller] == [160, 160, 100, 64]
            for part in smaller:
                truth = cv2.resize(picture(number), part.image.shape[1::-1], interpolation=cv2.INTER_AREA)
                assert np.abs(part.image.astype(int) - truth).mean() < 8
    assert len(decodings) == 5, "one for each frame"


def test_other_snapshots_are_decoded(server: Address, writer: SharedMemoryFrameWriter) -> None:
    writer.write_frame(as_frame(jpeg(picture(1))))
    small = server.get(f"/snapshot/{writer.name}.jpg?width=160")
    assert small.image.shape == (90, 160, 3)
    png = server.get(f"/snapshot/{writer.name}.png")
    assert png.image.shape == (HEIGHT, WIDTH, 3)
    assert io.BytesIO(png.body).read(4) == b"\x89PNG"


def test_a_damaged_frame_is_not_a_picture(server: Address, writer: SharedMemoryFrameWriter) -> None:
    writer.write_frame(as_frame(jpeg(picture(1))[:-200]))
    answer = server.get(f"/snapshot/{writer.name}.jpg")
    assert answer.status == 415
    assert "without an end marker" in answer.json["detail"]
    writer.write_frame(as_frame(jpeg(picture(2))))
    assert server.get(f"/snapshot/{writer.name}.jpg").status == 200


def test_a_planar_picture_has_another_size_than_its_array(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, (270, 320), pixel_format="NV12") as writer:
        writer.write_frame(np.zeros((270, 320), np.uint8))
        with served(create_app([segment_name])) as server:
            segment = server.get(f"/api/segments/{segment_name}").json
            assert (segment["width"], segment["height"], segment["pixel_format"]) == (320, 180, "NV12")
            assert 'resolution="320x180"' in server.get("/metrics").body.decode()

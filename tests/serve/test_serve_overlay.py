"""Time and text in pictures: drawn on request, never into the frame."""

from contextlib import ExitStack
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import pytest
from jpegs import as_frame, jpeg
from prometheus_client.parser import text_string_to_metric_families
from segments_under_test import picture, wait_until
from serving import Address, Answer, Filming, served
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter
from billiards_shm.images import Previews
from billiards_shm.pixel_formats import PIXEL_FORMATS
from billiards_shm.serve import create_app
from billiards_shm.serve.feed import MAX_OTHER_FORMATS, capture_time_text, drawn_time

SHAPE = (180, 320, 3)


def test_the_time_is_the_capture_time_and_the_frame_is_unchanged(segment_name: str) -> None:
    frame = picture(1, SHAPE)
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, served(create_app([segment_name])) as server:
        writer.write_frame(frame)
        with SharedMemoryFrameReader(segment_name) as reader:
            view, metadata = reader.latest_frame()
            assert view is not None
            assert metadata is not None
            time = drawn_time(metadata)
            drawn = [Previews(view, "BGR24").encode(None, 80, lines) for lines in ([time], ["Table 1", time])]
            for query, expected in (("overlay=time", drawn[0]), ("overlay=time&text=Table%201", drawn[1])):
                with server.stream(f"/stream/{segment_name}.mjpg?{query}") as stream:
                    assert stream.part().body == expected
                with connect(server.url(f"/ws/{segment_name}?{query}", "ws")) as websocket:
                    assert bytes(websocket.recv(20))[32:] == expected
                assert server.get(f"/snapshot/{segment_name}.jpg?{query}&quality=80").body == expected
            assert np.array_equal(view, frame)
    moment = datetime.fromisoformat(capture_time_text(metadata))
    assert timedelta() <= moment - datetime.fromisoformat(time) < timedelta(milliseconds=1)


def differing_rows(first: bytes, second: bytes) -> npt.NDArray[np.intp]:
    one, other = (Answer(200, {}, body).image for body in (first, second))
    assert one.shape == other.shape
    difference = np.abs(one.astype(int) - other.astype(int))
    return np.unique(np.nonzero(difference > 60)[0])


def frames_of_every_format() -> list[tuple[str, npt.NDArray[np.generic]]]:
    found: list[tuple[str, npt.NDArray[np.generic]]] = [("MJPG", as_frame(jpeg(np.full(SHAPE, 90, np.uint8))))]
    for name, row in PIXEL_FORMATS.items():
        if name not in ("RAW", "MJPG"):
            shape = row.array_shape(SHAPE[1], SHAPE[0])
            assert shape is not None
            found.append((name, np.full(shape, 90 << 8 if row.dtype == "uint16" else 90, row.dtype)))
    return found


@pytest.mark.parametrize(("pixel_format", "frame"), frames_of_every_format(), ids=lambda value: str(value)[:8])
def test_lines_are_at_the_bottom_of_every_kind_of_picture(pixel_format: str, frame: npt.NDArray[np.generic]) -> None:
    before = frame.copy()
    frame.setflags(write=False)
    previews = Previews(frame, pixel_format)
    for width in (None, 160, 64):
        plain = previews.encode(width, 90)
        rows = differing_rows(plain, previews.encode(width, 90, ["Table 1", "2026-11-28 20:11:03.312Z"]))
        assert rows.size
        assert rows.min() > SHAPE[0] * (width or SHAPE[1]) / SHAPE[1] / 2
        assert previews.encode(width, 90) == plain, "the next picture has none"
    assert np.array_equal(frame, before)


@pytest.mark.parametrize("size", [(1, 1), (1, 16), (16, 1), (9, 16)])
def test_pictures_that_are_too_small_for_text_are_still_encoded(size: tuple[int, int]) -> None:
    assert Previews(np.zeros((*size, 3), np.uint8), "BGR24").encode(None, 80, ["2026-11-28 20:11:03.312Z"])


def test_clients_with_the_same_text_share_one_encoding(segment_name: str) -> None:
    with ExitStack() as stack:
        filming = stack.enter_context(Filming(segment_name))
        server = stack.enter_context(served(create_app([segment_name])))
        path = f"/stream/{segment_name}.mjpg?overlay=time&text=Table"
        streams = [stack.enter_context(server.stream(path)) for _ in range(10)]
        for _ in range(20):
            for stream in streams:
                stream.part()
        assert encoded(server) <= filming.published


def encoded(server: Address) -> float:
    families = text_string_to_metric_families(server.get("/metrics").body.decode())
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "billiards_shm_encode_seconds_count"
    )


def test_when_too_many_texts_are_in_use_the_time_is_still_drawn(segment_name: str) -> None:
    path = f"/stream/{segment_name}.mjpg?overlay=time"
    with ExitStack() as stack:
        writer = stack.enter_context(SharedMemoryFrameWriter(segment_name, SHAPE))
        writer.write_frame(picture(1, SHAPE))
        server = stack.enter_context(served(create_app([segment_name])))
        pictures = set()
        for number in range(MAX_OTHER_FORMATS):
            pictures.add(stack.enter_context(server.stream(f"{path}&text={number}")).part().body)
        assert len(pictures) == MAX_OTHER_FORMATS
        with server.stream(f"{path}&text=more") as more, server.stream(path) as time_alone:
            assert more.part().body == time_alone.part().body


@pytest.mark.parametrize(
    "query", ["overlay=date", "overlay=", f"text={'x' * 65}", "text=T%C3%BCr", "text=a%0Ab", "text=%00"]
)
def test_text_that_cannot_be_drawn_is_refused(segment_name: str, query: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, served(create_app([segment_name])) as server:
        writer.write_frame(picture(1, SHAPE))
        for path in (f"/stream/{segment_name}.mjpg", f"/snapshot/{segment_name}.jpg"):
            assert server.get(f"{path}?{query}").status == 422
        url = server.url(f"/ws/{segment_name}?{query}", "ws")
        with pytest.raises(InvalidStatus, match="403"), connect(url):
            pass
        wait_until(lambda: not server.get("/api/clients").json)


def test_a_png_is_the_unchanged_frame(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, served(create_app([segment_name])) as server:
        writer.write_frame(picture(1, SHAPE))
        for query in ("overlay=time", "text=a"):
            assert server.get(f"/snapshot/{segment_name}.png?{query}").status == 422

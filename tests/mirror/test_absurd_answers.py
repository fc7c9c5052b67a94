"""A trusted host that sends nonsense: its frames are copied or refused, and the receiver survives."""

import logging
import time
from dataclasses import replace
from itertools import cycle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zenoh
from hypothesis import given, settings
from hypothesis import strategies as st
from stops import Stop

from billiards_shm import SegmentStatus, SharedMemoryFrameReader, SourceState, inspect_segment
from billiards_shm.config.model import MirroredConfig, Settings
from billiards_shm.mirror.codecs import encode
from billiards_shm.mirror.complaints import MOST, Complaints
from billiards_shm.mirror.keys import Origin
from billiards_shm.mirror.link import FIRST_TRIPS, Link
from billiards_shm.mirror.process import receive_settings
from billiards_shm.mirror.receiver import MOST_COUNTED, MirrorLoop
from billiards_shm.mirror.wire import Answer, Codec, FrameHeader, Kind, Request, SentFrame, pack_frames
from billiards_shm.pixel_formats import PIXEL_FORMATS

TIMES = st.integers(-(2**63), 2**63 - 1)
NUMBERS = st.sampled_from((1, 2, 3, 2**63, 2**64 - 2, 2**64 - 1))
DTYPES = ("bool", "int8", "uint8", "uint16", "int64", "float16", "float64", "complex128")

headers = st.builds(
    FrameHeader,
    sequence=NUMBERS,
    capture_ns=TIMES,
    publish_ns=TIMES,
    wall_ns=TIMES,
    position_ms=st.none() | st.floats(),
    shape=st.lists(st.integers(1, 8), min_size=2, max_size=3).map(tuple),
    dtype=st.sampled_from(DTYPES).map(np.dtype),
    pixel_format=st.sampled_from(tuple(PIXEL_FORMATS)),
    online=st.booleans(),
    key=st.booleans(),
)
frames = headers.flatmap(lambda header: st.builds(SentFrame, st.just(header), pixels_of(header)))
answers = st.builds(
    Answer,
    nonce=st.just(0),
    received_ns=st.just(-(2**63)),
    sent_ns=TIMES,
    status=st.sampled_from(SegmentStatus),
    state=st.sampled_from(SourceState),
    reason=st.text(max_size=40),
    codec=st.sampled_from((Codec.RAW, Codec.MJPG, Codec.JPEG)),
    clock_error_us=st.integers(0, 65535),
    generation=st.sampled_from((b"a" * 16, b"b" * 16)),
    fps=st.floats(allow_nan=False, allow_infinity=False, width=32),
    encode_us=st.integers(0, 2**32 - 1),
    sequence=NUMBERS,
)


def pixels_of(header: FrameHeader) -> st.SearchStrategy[bytes]:
    """The bytes that the header announces, a JPEG, or others."""
    jpeg = encode(np.zeros((4, 4, 3), np.uint8), _metadata(), Codec.JPEG, 0).data
    return st.sampled_from((bytes(header.frame_bytes), bytes(jpeg), b"\xff\xd8\xff\xd9", b"", b"x"))


def _metadata() -> Any:
    return SimpleNamespace(
        pixel_format="BGR24",
        sequence=1,
        capture_time_ns=1,
        publish_time_ns=1,
        wall_time_ns=1,
        position_ms=None,
        online=True,
    )


class Bytes(bytes):
    """Bytes as Zenoh returns them."""

    def to_bytes(self) -> bytes:
        return self


class Host:
    """A session with a host that gives one answer after another, to whatever it is asked."""

    def __init__(self, answers: list[tuple[Answer, list[SentFrame]]]) -> None:
        self._answers = cycle(answers)

    def get(self, key: str, *, payload: bytes, handler: Any, **more: object) -> Any:
        request = Request.unpack(payload)
        answer, sent = next(self._answers)
        sample = SimpleNamespace(
            attachment=Bytes(replace(answer, nonce=request.nonce).pack()),
            payload=Bytes(pack_frames(sent) if request.kind is Kind.FRAMES else b""),
        )
        replies = iter([SimpleNamespace(ok=sample, err=None, replier_id=None)])
        if callable(handler):
            handler(next(replies))

        def recv() -> Any:
            for reply in replies:
                return reply
            raise zenoh.ZError("there are no more")

        return SimpleNamespace(recv=recv)


def take(told: list[tuple[Answer, list[SentFrame]]], history: int) -> int:
    """Receive the given answers twice; return how many frames were missed, according to the copy."""
    source = MirroredConfig(origin="table_1", name="bshm_test_absurd", history=history)
    loop = MirrorLoop(receive_settings(Settings(), source), source, Stop(), lambda: None)
    loop._pause = lambda seconds: True  # type: ignore[method-assign]  # as if it were finished
    session: Any = Host(told)
    origin = Origin("kitchen", "0123abcd", "table_1")
    link = Link(session, origin, loop.statistics, zenoh.CancellationToken(), loop._pause)
    try:
        for number in range(2 * len(told) + FIRST_TRIPS):
            loop._fetch(link)
            loop._status.report(time.monotonic_ns() + number * 10**9)
        if not loop._copy.begun:
            return 0
        with SharedMemoryFrameReader("bshm_test_absurd") as reader:
            frame, metadata = reader.read_frame(timeout=0)
        assert frame is not None
        assert metadata is not None
        assert 0 < metadata.capture_time_ns <= metadata.publish_time_ns
        return inspect_segment("bshm_test_absurd").link_missed
    finally:
        loop.close()


@pytest.mark.slow
@pytest.mark.xdist_group("absurd")
@settings(max_examples=300)
@given(told=st.lists(st.tuples(answers, st.lists(frames, max_size=3)), min_size=1, max_size=8), history=st.booleans())
def test_whatever_a_host_sends_the_receiver_survives(told: list[Any], history: bool) -> None:
    take(told, 4 * history)


@pytest.mark.xdist_group("absurd")
def test_more_frames_can_be_missed_than_can_be_counted() -> None:
    header = FrameHeader(1, 1, 1, 1, None, (4, 4, 3), np.dtype("uint8"), "BGR24", online=True)
    told = [
        (Answer(0, 1, 1, generation=generation), [SentFrame(replace(header, sequence=number), bytes(48))])
        for generation in (b"a" * 16, b"b" * 16)
        for number in (1, 2**64 - 1)
    ]
    assert take(told, 4) == MOST_COUNTED


def test_warnings_that_always_differ_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    complain = Complaints(logging.getLogger("test"))
    with caplog.at_level(logging.WARNING):
        for number in range(1000):
            complain(f"frame {number} is none")
            complain(f"frame {number} is none")
    assert len(caplog.records) == MOST

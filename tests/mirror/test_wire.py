"""Messages between hosts: packed messages are unpacked unchanged, and anything else is a `WireError`."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billiards_shm import SegmentStatus, SourceState
from billiards_shm.mirror.codecs import decode
from billiards_shm.mirror.wire import (
    LARGEST_FRAME_BYTES,
    Answer,
    Codec,
    FrameHeader,
    Kind,
    Request,
    SentFrame,
    WireError,
    pack_frames,
    unpack_frames,
)

NUMBERS = st.integers(0, 2**64 - 1)
TIMES = st.integers(0, 2**62)
GENERATIONS = st.binary(min_size=16, max_size=16)

requests = st.builds(
    Request,
    kind=st.sampled_from(Kind),
    nonce=NUMBERS,
    codec=st.sampled_from(Codec),
    every=st.booleans(),
    key_frame=st.booleans(),
    width=st.integers(0, 32767),
    wait_ms=st.integers(0, 65535),
    fps=st.floats(0, 1000, width=32),
    generation=GENERATIONS,
    after=NUMBERS,
    automatic=st.booleans(),
)
answers = st.builds(
    Answer,
    nonce=NUMBERS,
    received_ns=st.just(5),
    sent_ns=TIMES.map(lambda time: time + 5),
    status=st.sampled_from(SegmentStatus),
    state=st.sampled_from(SourceState),
    reason=st.text(st.characters(codec="ascii"), max_size=100),
    codec=st.sampled_from(Codec),
    key_missing=st.booleans(),
    clock_error_us=st.integers(0, 65535),
    generation=GENERATIONS,
    fps=st.floats(0, 1000, width=32),
    encode_us=st.integers(0, 2**32 - 1),
    sequence=NUMBERS,
)


def header(**more: object) -> FrameHeader:
    values: dict[str, object] = {
        "sequence": 1,
        "capture_ns": 2,
        "publish_ns": 3,
        "wall_ns": 4,
        "position_ms": None,
        "shape": (2, 3, 3),
        "dtype": np.dtype("uint8"),
        "pixel_format": "BGR24",
        "online": True,
    }
    return FrameHeader(**values | more)  # type: ignore[arg-type]


@given(requests)
def test_a_request_is_unpacked_unchanged(request: Request) -> None:
    assert Request.unpack(request.pack()) == request


@given(answers)
def test_an_answer_is_unpacked_unchanged(answer: Answer) -> None:
    assert Answer.unpack(answer.pack()) == answer


@pytest.mark.parametrize(("reason", "comes"), [("a file \udcff", "a file ?"), ("ä" * 100, "ä" * 63)])
def test_a_reason_arrives_as_far_as_it_is_text_and_fits(reason: str, comes: str) -> None:
    assert Answer.unpack(Answer(1, 2, 3, reason=reason).pack()).reason == comes


@given(st.binary(max_size=200))
def test_bytes_that_are_not_a_message_are_refused(data: bytes) -> None:
    for unpack in (Request.unpack, Answer.unpack):
        with pytest.raises(WireError):
            unpack(data)


@given(st.data())
def test_a_message_with_changed_bytes_is_valid_or_refused(data: st.DataObject) -> None:
    good = data.draw(st.sampled_from((Request(Kind.FRAMES).pack(), Answer(1, 2, 3, reason="away").pack())))
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    for unpack in (Request.unpack, Answer.unpack):
        with contextlib.suppress(WireError):
            unpack(bytes(changed))


@pytest.mark.slow
@given(st.data())
def test_frames_with_changed_bytes_are_valid_or_refused_and_never_larger_than_allowed(data: st.DataObject) -> None:
    sent = [SentFrame(header(sequence=number), bytes(18)) for number in (1, 2)]
    changed = bytearray(pack_frames(sent))
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    codec = data.draw(st.sampled_from((Codec.RAW, Codec.MJPG, Codec.JPEG)))
    with contextlib.suppress(WireError):
        for frame_header, pixels in unpack_frames(bytes(changed)):
            assert frame_header.frame_bytes <= LARGEST_FRAME_BYTES
            frame = decode(frame_header, pixels, codec)
            assert frame.shape == frame_header.shape


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sequence": 0}, "frame 0"),
        ({"shape": (0, 3)}, r"of shape \(0, 3\)"),
        ({"shape": (1 << 27, 1)}, "of shape"),
        ({"shape": (60000, 60000, 3)}, "more than"),
        ({"pixel_format": "XYZ"}, "unknown pixel format 'XYZ'"),
        ({"dtype": np.dtype("S3")}, "dtype"),
    ],
)
def test_an_absurd_frame_is_refused_by_name(changes: dict[str, object], says: str) -> None:
    with pytest.raises(WireError, match=says):
        unpack_frames(header(**changes).pack(0))


def test_frames_out_of_order_and_cut_off_are_refused() -> None:
    with pytest.raises(WireError, match="frame 4 after frame 5"):
        unpack_frames(pack_frames([SentFrame(header(sequence=number), bytes(18)) for number in (5, 4)]))
    with pytest.raises(WireError, match="of 18 bytes, of which 17 arrived"):
        unpack_frames(pack_frames([SentFrame(header(), bytes(18))])[:-1])


@pytest.mark.parametrize("codec", [Codec.RAW, Codec.MJPG, Codec.JPEG])
def test_a_frame_that_does_not_match_its_header_is_refused(codec: Codec) -> None:
    for more in ({}, {"pixel_format": "MJPG", "shape": (1, 18)}, {"pixel_format": "NV12", "dtype": np.dtype("f8")}):
        with pytest.raises(WireError, match="frame 1"):
            decode(header(**more), bytes(17), codec)

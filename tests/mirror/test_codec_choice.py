"""Which codec a receiver asks for, on links of a known rate."""

import itertools

import pytest

from billiards_shm.mirror.choice import DECIDE_NS, CodecChoice, Transfer
from billiards_shm.mirror.wire import Codec

PIXELS = 1920 * 1080
# The cost of each codec for 1080p: bytes, and nanoseconds to encode and to decode.
SIZES = {Codec.RAW: 3 * PIXELS, Codec.JPEG: 232_000, Codec.H264: 14_000, Codec.MJPG: 232_000}
COSTS = {
    Codec.RAW: (600_000, 100_000),
    Codec.JPEG: (5_000_000, 5_000_000),
    Codec.H264: (6_000_000, 8_000_000),
    Codec.MJPG: (0, 100_000),
}


def settled(bits_per_second: float, *, fps: float = 30.0, captured: Codec | None = None, **more: object) -> Codec:
    """The codec requested after a minute; `captured` is what arrives if JPEG is requested."""
    choice, now = CodecChoice(None, **more), 10**12  # type: ignore[arg-type]
    chosen = []
    for _ in range(60 * 30):
        codec = captured if captured is not None and choice.codec is Codec.JPEG else choice.codec
        encode, decode = COSTS[codec]
        transfer = round(SIZES[codec] * 8e9 / bits_per_second)
        choice.add(Transfer(codec, PIXELS, 3 * PIXELS, SIZES[codec], encode, transfer, decode))
        now += max(33_000_000, transfer)
        if choice.decide(now, fps):
            assert choice.reason
        chosen.append(choice.codec)
    last = chosen[len(chosen) // 2 :]
    assert len(set(last)) == 1, "it goes to and fro"
    return last[0]


@pytest.mark.parametrize(
    ("bits_per_second", "codec"),
    [(40e9, Codec.RAW), (1e9, Codec.JPEG), (40e6, Codec.H264), (4e6, Codec.H264)],
)
def test_the_codec_suits_the_link(bits_per_second: float, codec: Codec) -> None:
    assert settled(bits_per_second) is codec


def test_a_cameras_jpegs_are_sent_unchanged_if_the_link_can_carry_them() -> None:
    assert settled(1e9, captured=Codec.MJPG) is Codec.JPEG  # requested as JPEG, sent as captured
    assert settled(40e6, captured=Codec.MJPG) is Codec.H264


def test_a_codec_that_cannot_be_decoded_here_is_not_requested() -> None:
    assert settled(10e6, possible=(Codec.RAW, Codec.MJPG, Codec.JPEG)) is Codec.JPEG


def test_a_link_that_gets_faster_is_noticed_although_frames_are_small() -> None:
    choice, now = CodecChoice(None), 10**12
    for rate, probes in ((5e6, 0), (1e9, 2)):
        for _ in range(100):
            encode, decode = COSTS[choice.codec]
            transfer = round(SIZES[choice.codec] * 8e9 / rate)
            choice.add(Transfer(choice.codec, PIXELS, 3 * PIXELS, SIZES[choice.codec], encode, transfer, decode))
            now += DECIDE_NS // 50
            choice.decide(now, 30.0)
        if not probes:
            assert choice.codec is Codec.H264
            assert choice.needs_probe
        for _ in range(probes):
            choice.add_probe(32_000, round(32_000 * 8e9 / rate))
    assert choice.bytes_per_second == pytest.approx(1e9 / 8)


def test_a_requested_codec_stays() -> None:
    choice = CodecChoice(Codec.RAW)
    for now in itertools.islice(itertools.count(10**12, DECIDE_NS), 50):
        choice.add(Transfer(Codec.RAW, PIXELS, 3 * PIXELS, 3 * PIXELS, 1, 10**9, 1))
        assert not choice.decide(now, 30.0)
    assert choice.codec is Codec.RAW

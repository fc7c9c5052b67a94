"""Which codec a receiver asks for, on links of a known rate."""

import itertools
from typing import Any

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


def chosen(
    bits_per_second: float,
    *,
    slowness: float = 1.0,
    probed: float = 0.0,
    captured: Codec | None = None,
    minutes: int = 1,
    **more: object,
) -> list[Codec]:
    """The codecs requested during some minutes, frame by frame.

    Coding takes `slowness` times as long as assumed, probes find a link of `probed` bits per second, and `captured` is
    what arrives if JPEG is requested.
    """
    choice, now = CodecChoice(None, **more), 10**12  # type: ignore[arg-type]
    found, end, probe_at = [], now + minutes * 60 * 10**9, now
    while now < end:
        codec = captured if captured is not None and choice.codec is Codec.JPEG else choice.codec
        encode, decode = (round(slowness * cost) for cost in COSTS[codec])
        transfer = round(SIZES[codec] * 8e9 / bits_per_second)
        choice.add(Transfer(codec, PIXELS, 3 * PIXELS, SIZES[codec], encode, transfer, decode))
        now += max(250_000_000, encode, transfer, decode)  # fewer frames than there are: the test is quicker
        if now > probe_at and (size := choice.probe_kib << 10):
            choice.add_probe(size, round(size * 8e9 / (probed or bits_per_second)))
            probe_at += 10 * 10**9
        if choice.decide(now, 30.0):
            assert choice.reason
        found.append(choice.codec)
    return found


def changes(found: list[Codec]) -> int:
    return sum(one is not other for one, other in itertools.pairwise(found))


def settled(bits_per_second: float, **more: Any) -> Codec:
    """The codec requested after a minute."""
    found = chosen(bits_per_second, **more)
    last = found[len(found) // 2 :]
    assert not changes(last), "it goes to and fro"
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


@pytest.mark.parametrize("slowness", [2.0, 4.0, 8.0])
@pytest.mark.parametrize("bits_per_second", [100e6, 940e6])
def test_a_codec_that_is_slower_than_assumed_is_tried_less_and_less_often(
    slowness: float, bits_per_second: float
) -> None:
    found = chosen(bits_per_second, slowness=slowness, minutes=30)
    print(f"{changes(found)} changes in half an hour")
    assert changes(found) <= 2 * 7  # to a codec and back: in the beginning, and after 0.5, 1, 2, 4, ... minutes


def test_a_link_that_seems_fast_to_probes_only_is_tried_less_and_less_often() -> None:
    found = chosen(10e6, probed=1e9, minutes=30)
    assert 2 < changes(found) <= 2 * 7
    assert found.count(Codec.H264) > 0.9 * len(found)


def test_probes_are_larger_than_what_buffers_take_but_never_take_long() -> None:
    choice = CodecChoice(None)
    assert choice.probe_kib == 64
    for bits_per_second in (1e6, 20e6, 1e9):
        choice = CodecChoice(None)
        choice.add_probe(65536, round(65536 * 8e9 / bits_per_second))
        assert 64 <= choice.probe_kib <= max(64, bits_per_second / 8 / 10 / 1024)
    assert CodecChoice(Codec.H264).probe_kib == 0


def test_a_codec_that_would_save_less_than_a_millisecond_is_not_tried() -> None:
    choice = CodecChoice(None)
    choice.add_probe(65536, 600_000)
    for number in range(100):
        choice.add(Transfer(Codec.MJPG, 160 * 120, 3_000, 3_000, 0, 400_000, 100_000))
        choice.decide(10**12 + number * 33_000_000, 30.0)
    assert choice.codec is Codec.JPEG


def test_a_codec_that_the_origin_does_not_send_is_tried_less_and_less_often() -> None:
    choice, now = CodecChoice(None), 10**12
    found = []
    for _ in range(4 * 60 * 30):
        choice.add(Transfer(Codec.RAW, PIXELS, 3 * PIXELS, 3 * PIXELS, 0, 400_000_000, 0))
        now += 250_000_000
        if choice.decide(now, 30.0):
            found.append(choice.reason)
    assert found[0] == "as raw: the origin does not send it as jpeg"
    assert len(found) <= 4 * 7


def test_the_first_choice_is_news_even_if_it_is_what_was_begun_with() -> None:
    choice = CodecChoice(None)
    found = []
    for number in range(100):
        choice.add(Transfer(Codec.MJPG, PIXELS, 232_000, 232_000, 0, 2_000_000, 100_000))
        if choice.decide(10**12 + number * 33_000_000, 30.0):
            found.append(choice.reason)
    assert found == ["as mjpg: link 928 Mbit/s, about 2.1 ms a frame"]


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
            assert choice.probe_kib
        for _ in range(probes):
            choice.add_probe(65536, round(65536 * 8e9 / rate))
    assert choice.bytes_per_second == pytest.approx(1e9 / 8)


def test_a_requested_codec_stays() -> None:
    choice = CodecChoice(Codec.RAW)
    for now in itertools.islice(itertools.count(10**12, DECIDE_NS), 50):
        choice.add(Transfer(Codec.RAW, PIXELS, 3 * PIXELS, 3 * PIXELS, 1, 10**9, 1))
        assert not choice.decide(now, 30.0)
    assert choice.codec is Codec.RAW

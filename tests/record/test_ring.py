"""The ring keeps the last seconds within its bytes; a clip starts where decoding can, at most half a second earlier."""

import random
import threading

import pytest

from billiards_shm.encoder import EncodedFrame, StreamFormat
from billiards_shm.record.ring import KEY_INTERVAL_S, Ring

STREAM = StreamFormat("h264", 64, 48)
FPS = 50
KEY_EVERY = round(KEY_INTERVAL_S * FPS)


def frame(number: int, size: int = 1000, *, key: bool | None = None) -> EncodedFrame:
    """The frame with this number in a stream of 50 frames per second."""
    is_key = number % KEY_EVERY == 0 if key is None else key
    return EncodedFrame(bytes(size), is_key, number * 1_000_000 // FPS, number, number * 20_000_000, 0, None)


def filled(seconds: float, max_bytes: int, frames: int, size: int = 1000) -> Ring:
    ring = Ring(seconds, max_bytes)
    ring.begin(STREAM)
    for number in range(frames):
        ring.add(frame(number, size))
        assert ring.bytes <= max_bytes
    return ring


def numbers(ring: Ring, last_s: float, max_bytes: int | None = None) -> list[int]:
    clip = ring.clip(last_s, max_bytes)
    assert clip is not None
    assert clip.stream == STREAM
    assert clip.frames[0].key
    found = [each.sequence for each in clip.frames]
    assert found == list(range(found[0], found[-1] + 1)), "without a hole"
    return found


@pytest.mark.parametrize("last_s", [0.0, 0.02, 0.3, 1.0, 3.7, 5.0])
def test_a_clip_is_as_long_as_asked_and_begins_at_most_half_a_second_earlier(last_s: float) -> None:
    draw = random.Random(round(last_s * 100))
    for _ in range(50):
        count = draw.randint(300, 900)
        ring = filled(5.0, 10**9, count)
        found = numbers(ring, last_s)
        assert found[-1] == count - 1
        early_s = (count - 1 - found[0]) / FPS - last_s
        assert 0 <= early_s < KEY_INTERVAL_S


def test_frames_that_are_too_old_are_dropped() -> None:
    ring = filled(5.0, 10**9, 2000)
    assert 5.0 <= ring.kept_s < 5.0 + KEY_INTERVAL_S
    assert len(numbers(ring, 100.0)) <= (5.0 + KEY_INTERVAL_S) * FPS
    assert ring.bytes == len(numbers(ring, 100.0)) * 1300


@pytest.mark.parametrize("last_s", [0.5, 2.0])
def test_a_clip_that_would_begin_while_the_source_was_away_begins_at_its_return(last_s: float) -> None:
    ring = filled(5.0, 10**9, 200)
    back = 200 + 60 * FPS
    for number in range(back, back + FPS):
        ring.add(frame(number))
    clip = ring.clip(last_s)
    assert clip is not None
    assert clip.frames[0].sequence == max(back, back + FPS - 1 - round(last_s * FPS) - KEY_EVERY + 1)
    assert clip.seconds < 1.0
    assert ring.kept_s < 1.0, "what was before the gap is older than five seconds"


def test_a_short_gap_in_the_source_is_part_of_the_clip() -> None:
    ring = filled(20.0, 10**9, 200)
    back = 200 + 4 * FPS
    for number in range(back, back + FPS):
        ring.add(frame(number))
    clip = ring.clip(6.0)
    assert clip is not None
    assert 6.0 <= clip.seconds < 6.0 + KEY_INTERVAL_S


def test_the_bytes_are_bounded_whatever_the_frames_are() -> None:
    ring = filled(1e6, 100_000, 2000)
    assert ring.bytes > 50_000
    assert ring.kept_s > 0.5
    for size in (0, 99_000, 100_001, 10**6):
        ring.add(frame(2000 + size, size, key=True))
        assert ring.bytes <= 100_000
    assert ring.clip(10) is None, "not even one frame had room"
    ring.add(frame(3001, key=False))
    assert ring.clip(10) is None, "and it begins where decoding can"
    ring.add(frame(3025))
    ring.add(frame(3026))
    assert numbers(ring, 10) == [3025, 3026]


def test_a_group_that_outgrows_the_bytes_is_dropped_up_to_the_next_key_frame() -> None:
    ring = filled(10.0, 20_000, 3 * KEY_EVERY)
    assert ring.clip(10) is None or ring.bytes <= 20_000
    ring.add(frame(3 * KEY_EVERY))
    assert numbers(ring, 10) == [3 * KEY_EVERY]


def test_a_clip_can_be_limited_too() -> None:
    ring = filled(10.0, 10**9, 501)
    assert numbers(ring, 10.0, 100_000) == list(range(425, 501))
    assert numbers(ring, 10.0, 10) == [500], "at least from the last key frame on"


def test_another_stream_starts_empty() -> None:
    ring = filled(10.0, 10**9, 100)
    other = StreamFormat("h264", 128, 96)
    ring.begin(other)
    assert ring.clip(10) is None
    assert ring.bytes == 0
    ring.add(frame(125))
    clip = ring.clip(10)
    assert clip is not None
    assert clip.stream == other


def test_clips_taken_while_frames_arrive_are_whole() -> None:
    ring = Ring(2.0, 10**9)
    ring.begin(STREAM)
    ring.add(frame(0))
    over = threading.Event()

    def add() -> None:
        for number in range(1, 20_000):
            ring.add(frame(number, 10))
        over.set()

    adding = threading.Thread(target=add)
    adding.start()
    clips = 0
    while not over.is_set():
        numbers(ring, 1.0)
        clips += 1
    adding.join()
    print(f"{clips} clips")
    assert clips > 0

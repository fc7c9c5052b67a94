"""H.264 units that receivers share: each gets what it needs, and key frames come no more often than allowed."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from billiards_shm import FrameShapeError, SharedMemoryFrameReader, SharedMemoryFrameWriter
from billiards_shm.mirror import video
from billiards_shm.mirror.forms import OriginFrame
from billiards_shm.mirror.video import MOST_UNITS, VideoDecoder, VideoForm
from billiards_shm.mirror.wire import Codec, Kind, Request, SentFrame, WireError

SIZE = (48, 64, 3)
GENERATION = b"g" * 16


class Origin:
    """A form, and the frames fed to it."""

    def __init__(self, name: str) -> None:
        self.form = VideoForm(0)
        self.window: list[OriginFrame] = []  # for receivers that want every frame
        self._writer = SharedMemoryFrameWriter(name, SIZE)
        self._reader = SharedMemoryFrameReader(name)

    def frame(self, picture: npt.NDArray[Any] | None = None) -> OriginFrame:
        """The next frame."""
        number = self._writer.sequence + 1
        self._writer.write_frame(np.full(SIZE, 10 * number % 250, np.uint8) if picture is None else picture)
        frame, metadata = self._reader.read_frame()
        assert frame is not None
        assert metadata is not None
        return OriginFrame(frame.copy(), metadata, GENERATION)

    def ask(self, frame: OriginFrame, after: int, **more: Any) -> tuple[list[SentFrame], int]:
        """The units for a receiver that has frame `after`, and how many frames were encoded for that."""
        request = Request(
            Kind.FRAMES, codec=Codec.H264, generation=GENERATION, after=after, **{"key_frame": not after, **more}
        )

        def following(place: tuple[bytes, int] = (GENERATION, after), /) -> OriginFrame:
            return next((each for each in self.window if each.metadata.sequence > place[1]), frame)

        return self.form.units(frame, request, following)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


@pytest.fixture
def origin(segment_name: str) -> Iterator[Origin]:
    made = Origin(segment_name)
    yield made
    made.close()


def numbers(units: list[SentFrame]) -> list[int]:
    return [unit.header.sequence for unit in units]


def test_the_first_is_a_key_frame_and_each_later_unit_is_sent_alone(origin: Origin) -> None:
    after = 0
    for number in range(1, 10):
        units, encoded = origin.ask(origin.frame(), after)
        assert encoded
        assert numbers(units) == [number]
        assert units[0].header.key == (number == 1)
        after = number


def test_a_second_receiver_gets_the_same_units_and_all_that_it_lacks(origin: Origin) -> None:
    frames = [origin.frame() for _ in range(1)]
    origin.ask(frames[0], 0)
    for number in range(2, 6):
        frames.append(origin.frame())
        origin.ask(frames[-1], number - 1)
    units, encoded = origin.ask(frames[-1], 1)
    assert not encoded
    assert numbers(units) == [2, 3, 4, 5]


def test_one_that_is_too_far_behind_gets_a_key_frame(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    origin.ask(origin.frame(), 0)
    for number in range(2, MOST_UNITS + 4):
        origin.ask(origin.frame(), number - 1)
    assert origin.ask(origin.frame(), 1)[0] == []  # the last key frame was a moment ago
    monkeypatch.setattr(video, "KEY_INTERVAL_NS", 0)
    units, _ = origin.ask(origin.frame(), 1)
    assert [unit.header.key for unit in units] == [True]


def test_receivers_that_need_key_frames_get_at_most_one_per_second(origin: Origin) -> None:
    keys = 0
    for _ in range(20):
        units, _ = origin.ask(origin.frame(), 0)
        keys += sum(unit.header.key for unit in units if unit.header.sequence > 1)
    assert keys == 0


def test_a_frame_that_is_encoded_twice_is_followed_by_a_key_frame(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.ask(origin.frame(), 0)
    frame = origin.frame()
    assert numbers(origin.ask(frame, 1)[0]) == [2]
    origin.form.clear()
    units, _ = origin.ask(frame, 0)
    assert [(unit.header.sequence, unit.header.key) for unit in units] == [(2, True)]
    frame = origin.frame()
    assert origin.ask(frame, 2) == ([], 0)  # this receiver may have either; the last key frame was a moment ago
    monkeypatch.setattr(video, "KEY_INTERVAL_NS", 0)
    units, _ = origin.ask(frame, 2)
    assert [(unit.header.sequence, unit.header.key) for unit in units] == [(3, True)]
    assert numbers(origin.ask(origin.frame(), 3)[0]) == [4]


@pytest.mark.parametrize("last", [6, 50], ids=["of the stream", "of another codec"])
def test_a_receiver_that_needs_a_key_frame_again_gets_none_that_it_has(
    origin: Origin, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    for number in range(1, 7):
        assert numbers(origin.ask(origin.frame(), number - 1)[0]) == [number]
    for _ in range(7, last + 1):
        origin.frame()
    assert origin.ask(origin.frame(), last, key_frame=True) == ([], 0)  # the last key frame was a moment ago
    monkeypatch.setattr(video, "KEY_INTERVAL_NS", 0)
    units, _ = origin.ask(origin.frame(), last, key_frame=True)
    assert [(unit.header.sequence, unit.header.key) for unit in units] == [(last + 2, True)]
    units, encoded = origin.ask(origin.frame(), last + 1, key_frame=True)
    assert numbers(units) == [last + 2, last + 3]  # another receiver's key frame will do
    assert not any(unit.header.key for unit in units[1:])
    assert encoded


def test_a_frame_that_cannot_be_encoded_is_tried_once(origin: Origin) -> None:
    origin.ask(origin.frame(), 0)
    frame = origin.frame()
    frame = frame._replace(frame=frame.frame[:1])
    with pytest.raises(FrameShapeError):
        origin.ask(frame, 1)
    assert origin.ask(frame, 1) == ([], 0)
    assert numbers(origin.ask(origin.frame(), 1)[0]) == [3]


def test_a_receiver_that_wants_every_frame_gets_them_however_far_it_is_behind(origin: Origin) -> None:
    count = 2 * MOST_UNITS + 5
    for number in range(1, count + 1):
        newest = origin.frame()
        assert numbers(origin.ask(newest, number - 1, every=True)[0]) == [number]
    found = [1]
    while found[-1] < count:
        units, encoded = origin.ask(newest, found[-1], every=True)
        assert 0 < len(units) <= MOST_UNITS
        assert not encoded
        found += numbers(units)
    assert found == list(range(1, count + 1))


def test_a_receiver_that_is_ahead_makes_no_other_miss_frames(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    origin.ask(origin.frame(), 0, every=True)
    origin.window = [origin.frame() for _ in range(2, 12)]
    newest = origin.window[-1]
    # Another codec has brought it so far. Until a key frame may follow, nothing is encoded, and nothing missed.
    assert origin.ask(newest, 8, every=True, key_frame=True) == ([], 0)
    monkeypatch.setattr(video, "KEY_INTERVAL_NS", 0)
    units, encoded = origin.ask(newest, 8, every=True, key_frame=True)
    assert [(unit.header.sequence, unit.header.key) for unit in units] == [(9, True)]
    assert encoded == 8
    assert numbers(origin.ask(newest, 1, every=True)[0]) == list(range(2, 10))
    assert numbers(origin.ask(newest, 9, every=True)[0]) == [10]


def test_a_frame_of_the_window_that_cannot_be_encoded_is_left_out(origin: Origin) -> None:
    origin.ask(origin.frame(), 0, every=True)
    origin.window = [origin.frame() for _ in range(2, 6)]
    origin.window[1] = origin.window[1]._replace(frame=origin.window[1].frame[:1])
    newest = origin.window[-1]
    assert numbers(origin.ask(newest, 1, every=True)[0]) == [2]
    with pytest.raises(FrameShapeError):
        origin.ask(newest, 2, every=True)
    assert numbers(origin.ask(newest, 2, every=True)[0]) == [4]


def test_a_key_frame_larger_than_an_answer_should_be_is_still_sent(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "MOST_BYTES", 100)
    noise = np.random.default_rng(1).integers(0, 256, SIZE, np.uint8)
    units, _ = origin.ask(origin.frame(noise), 0)
    assert numbers(units) == [1]
    assert len(units[0].data) > 100


def test_undecodable_frames_are_refused_and_decoding_goes_on_with_a_key_frame(origin: Origin) -> None:
    decoder = VideoDecoder()
    key, _ = origin.ask(origin.frame(), 0)
    following, _ = origin.ask(origin.frame(), 1)
    with pytest.raises(WireError, match="frame 2 needs one before it"):
        decoder.decode(following[0])
    decoder.decode(key[0])
    with pytest.raises(WireError, match="frame 2 decodes to 64x48, but was announced with shape"):
        decoder.decode(SentFrame(following[0].header.of_video((96, 128, 3), key=False), following[0].data))
    assert not decoder.begun
    with pytest.raises(WireError, match="frame 1 d"):
        decoder.decode(SentFrame(key[0].header, b"\0" * 50))
    assert not decoder.begun
    assert decoder.decode(key[0]).width == 64

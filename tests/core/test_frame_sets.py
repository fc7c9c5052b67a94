"""Frames of several names captured at the same time: which belong together, what is left over, what is held."""

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, cast

import pytest
from child_processes import Child
from segments_under_test import LARGER, SHAPE, picture, sees, wait_until

from billiards_shm import FrameMetadata, FrameSet, FrameSets, SharedMemoryFrameWriter, inspect_segment
from billiards_shm.frame_sets import Matcher, Seen

MS = 1_000_000
Numbers = list[tuple[int, ...]]


def metadata(sequence: int, time_ms: float, *, skipped: int = 0, online: bool = True, generation: str = "a") -> Any:
    return cast(
        "FrameMetadata",
        SimpleNamespace(
            sequence=sequence,
            capture_time_ns=round(time_ms * MS),
            skipped=skipped,
            online=online,
            generation=generation,
        ),
    )


# ---------------------------------------------------------------- in numbers and times alone


def matched(matcher: Matcher, times: dict[str, list[float]], *, learn: bool = True, now_ns: int = 0) -> Numbers:
    """All sets of the given frames; a frame is looked at only when the matcher asks for it."""
    left = {name: enumerate(of, start=1) for name, of in times.items()}
    found: Numbers = []
    while not matcher.is_over:
        chosen = matcher.match(now_ns)
        if chosen is not None:
            matcher.take(chosen)
            found.append(tuple(chosen[name].sequence for name in times))
            continue
        for name in matcher.awaited:
            following = next(left[name], None)
            if following is None:
                matcher.end(name)
            else:
                matcher.add(name, metadata(*following, skipped=not learn), now_ns)
    return found


def rank(captured: list[float], pivot: float) -> tuple[float, float]:
    """First by span, then by distance from the pivot."""
    return max(captured) - min(captured), sum(abs(at - pivot) for at in captured)


def by_hand(times: dict[str, list[float]], tolerance: float) -> Numbers:
    """The same sets, by trying every combination."""
    left = [list(enumerate(of, start=1)) for of in times.values()]
    found: Numbers = []
    while all(left):
        pivot = max(of[0][1] for of in left)
        if any(of[0][1] < pivot - tolerance for of in left):
            left = [of[of[0][1] < pivot - tolerance :] for of in left]
            continue
        near = [[(number, at) for number, at in of if at <= pivot + tolerance] for of in left]
        sets = [frames for frames in itertools.product(*near) if pivot in {at for _, at in frames}]
        best = min(sets, key=lambda frames: rank([at for _, at in frames], pivot))
        found.append(tuple(number for number, _ in best))
        left = [[frame for frame in of if frame[0] > taken] for of, taken in zip(left, found[-1], strict=True)]
    return found


def spans(sets: Numbers, times: dict[str, list[float]]) -> list[float]:
    captured = [[of[number - 1] for of, number in zip(times.values(), each, strict=True)] for each in sets]
    return [max(at) - min(at) for at in captured]


@pytest.mark.parametrize("names", [1, 2, 3, 4])
def test_the_sets_are_those_with_the_shortest_spans(names: int) -> None:
    draw = random.Random(names)
    sets = 0
    for _ in range(300):
        tolerance = draw.choice([0, 3, 8, 20])
        times = {
            str(name): sorted(round(draw.uniform(0, 400), 6) for _ in range(draw.randint(3, 20)))  # no equal sets
            for name in range(names)
        }
        matcher = Matcher(times, tolerance * MS)
        found = matched(matcher, times, learn=False)
        assert found == by_hand(times, tolerance)
        assert max(spans(found, times), default=0) <= tolerance
        for of in zip(*found, strict=True):
            assert sorted(set(of)) == list(of), "each frame is in one set, in order"
        sets += len(found)
    print(f"{sets} sets of {names} names")
    assert sets > 100


def test_a_faster_source_leaves_frames_over() -> None:
    times = {"fast": [number * 10.0 for number in range(40)], "slow": [number * 30.0 + 4 for number in range(12)]}
    matcher = Matcher(times, 8 * MS)
    assert matched(matcher, times) == [(number * 3 + 1, number + 1) for number in range(12)]
    assert matcher.streams["slow"].unmatched == 0
    assert matcher.streams["fast"].unmatched == 11 * 2


def test_a_set_is_complete_with_its_last_frame_when_no_later_one_can_be_nearer() -> None:
    matcher = Matcher(["left", "right"], 8 * MS)

    def complete(number: int, left: float, right: float) -> dict[str, Seen] | None:
        matcher.add("left", metadata(number, left), 0)
        assert matcher.match(0) is None
        assert matcher.awaited == ["right"]
        matcher.add("right", metadata(number, right), 0)
        return matcher.match(0)

    assert complete(1, 100, 97) is None, "the rate of `right` is not known yet"
    assert matcher.awaited == ["right"]
    assert matcher.wait_ns(0) == (100 + 8 - 97 + 8) * MS
    assert matcher.wait_ns(15 * MS) == 4 * MS
    matcher.add("right", metadata(2, 130), 0)
    assert matcher.match(0) == {"left": (1, 100 * MS, 0), "right": (1, 97 * MS, 0)}
    matcher.take(matcher.match(0) or {})
    matcher.add("left", metadata(2, 133), 0)
    assert matcher.match(0) is not None, "now it is: 33 ms"


def test_a_wait_for_a_nearer_frame_ends_although_none_arrives() -> None:
    matcher = Matcher(["left", "right"], 8 * MS)
    matcher.add("left", metadata(1, 100), 5 * MS)
    matcher.add("right", metadata(1, 97), 6 * MS)
    assert matcher.match(7 * MS) is None
    assert matcher.match((6 + 11 + 8) * MS - 1) is None
    assert matcher.match((6 + 11 + 8) * MS) is not None


def test_a_clock_that_stands_still_or_goes_back_stops_nothing_and_collects_nothing() -> None:
    for still in (lambda number: 97.0, lambda number: 97.0 - number / 1e3):
        matcher = Matcher(["left", "right"], 8 * MS)
        matcher.add("left", metadata(1, 100), 0)
        for number in itertools.count(1):
            matcher.add("right", metadata(number, still(number)), 0)
            if matcher.match(0):
                break
        assert number <= 62


def test_placeholders_are_in_no_set_and_do_not_count_as_left_over() -> None:
    matcher = Matcher(["left", "right"], 8 * MS)
    matcher.add("left", metadata(1, 100, online=False), 0)
    assert matcher.match(0) is None
    assert matcher.awaited == ["left", "right"]
    assert matcher.streams["left"].unmatched == 0


# ---------------------------------------------------------------- of segments


def test_a_frame_that_is_lost_takes_those_before_it_along_whatever_their_numbers() -> None:
    matcher = Matcher(["left", "right"], 8 * MS)
    matcher.add("left", metadata(1000, 0.0), 0)
    matcher.add("left", metadata(1, 5.0, generation="b"), 0)
    matcher.add("left", metadata(2, 25.0, generation="b"), 0)
    matcher.add("right", metadata(1, 5.0), 0)
    chosen = matcher.match(10**9)
    assert chosen is not None
    assert chosen["left"].sequence == 1
    matcher.lose("left", chosen["left"])
    assert [seen.sequence for seen in matcher.streams["left"].pending] == [2]
    assert matcher.streams["left"].unmatched == 2


@pytest.fixture
def names(segment_name: str) -> list[str]:
    return [f"{segment_name}-left", f"{segment_name}-right"]


@pytest.fixture
def writers(names: list[str]) -> Iterator[list[SharedMemoryFrameWriter]]:
    with ExitStack() as stack:
        yield [stack.enter_context(SharedMemoryFrameWriter(name, SHAPE, history=8)) for name in names]


BEGUN_NS = time.monotonic_ns()


def nothing_comes(sets: FrameSets, said: str) -> None:
    sets._timeout = 0.0
    with pytest.raises(TimeoutError, match=said):
        next(sets)
    sets._timeout = 40.0


def write(writer: SharedMemoryFrameWriter, number: int, time_ms: float) -> None:
    assert writer.write_frame(picture(number), capture_time_ns=BEGUN_NS + round(time_ms * MS)) == number


def numbers(found: FrameSet) -> tuple[int, ...]:
    """The numbers of a set, after checking their pixels."""
    for frame, its in found.values():
        assert sees(frame, its.sequence)
    return tuple(its.sequence for _, its in found.values())


@pytest.fixture
def sets(names: list[str], writers: list[SharedMemoryFrameWriter]) -> Iterator[FrameSets]:
    """After the first set, of frames captured at 0 ms."""
    for writer in writers:
        write(writer, 1, 0)
    with FrameSets(names, timeout=40.0) as sets:
        assert numbers(next(sets)) == (1, 1)
        yield sets


def leases(names: list[str]) -> list[int]:
    return [sum(reader.leases for reader in inspect_segment(name).readers) for name in names]


def test_a_set_has_the_frames_that_belong_together_and_counts_what_is_left_over(
    names: list[str], writers: list[SharedMemoryFrameWriter], sets: FrameSets
) -> None:
    left, right = writers
    for number, at in enumerate([16, 33, 50, 66], start=2):
        write(left, number, at)
    for number, at in enumerate([36, 69], start=2):
        write(right, number, at)
    first, second = next(sets), next(sets)
    assert list(first) == names
    assert [numbers(first), numbers(second)] == [(3, 2), (5, 3)]
    assert [first.span_ns, second.span_ns] == [3 * MS, 3 * MS]
    assert [first.unmatched, second.unmatched] == [{names[0]: (2,), names[1]: ()}, {names[0]: (4,), names[1]: ()}]
    assert sets.unmatched == {names[0]: 2, names[1]: 0}
    assert sets.skipped == {names[0]: 0, names[1]: 0}


def test_a_set_pins_one_frame_of_each_name_and_waiting_pins_none(
    names: list[str], writers: list[SharedMemoryFrameWriter], sets: FrameSets
) -> None:
    assert leases(names) == [0, 0]
    for writer in writers:
        write(writer, 2, 33)
    held = next(sets)
    assert leases(names) == [1, 1]
    assert all(its.zero_copy and not frame.flags.writeable for frame, its in held.values())
    write(writers[0], 3, 66)
    waiting = threading.Thread(target=lambda: next(sets))
    waiting.start()
    try:
        wait_until(lambda: inspect_segment(names[0]).readers[0].last_sequence == 3)
        assert leases(names) == [1, 1], "only the set that is held"
    finally:
        write(writers[1], 3, 66)
        waiting.join()
    for number in range(4, 30):
        write(writers[0], number, 33 * number)
    assert numbers(held) == (2, 2), "it stays unchanged"


def test_copies_are_your_own(names: list[str], writers: list[SharedMemoryFrameWriter]) -> None:
    for writer in writers:
        write(writer, 1, 0)
    with FrameSets(names, copy=True, timeout=40.0) as sets:
        frame, its = next(sets)[names[0]]
        assert frame.flags.writeable
        assert not its.zero_copy


def test_frames_that_left_the_window_are_counted_and_cost_no_later_set(
    names: list[str], writers: list[SharedMemoryFrameWriter], sets: FrameSets
) -> None:
    left, right = writers
    write(left, 2, 33)
    nothing_comes(sets, f"no set of frames within 0.0 s: waiting for {names[1]}; unmatched so far: ")
    for number in range(3, 21):
        write(left, number, 33 * (number - 1))
    write(right, 2, 33)
    write(right, 3, 33 * 19)
    found = next(sets)
    assert numbers(found) == (20, 3)
    assert found.unmatched == {names[0]: (2, *range(12, 20)), names[1]: (2,)}
    assert sets.unmatched == {names[0]: 9, names[1]: 1}
    assert sets.skipped == {names[0]: 9, names[1]: 0}


def test_a_source_that_is_recreated_goes_on(names: list[str], writers: list[SharedMemoryFrameWriter]) -> None:
    left, right = writers
    write(left, 1, 0)
    write(right, 1, 0)
    with FrameSets(names, follow=True, timeout=40.0) as sets:
        next(sets)
        write(left, 2, 33)
        right.close()
        nothing_comes(sets, f"waiting for {names[1]};")
        with SharedMemoryFrameWriter(names[1], LARGER, history=8) as again:
            for number in (1, 2):
                assert again.write_frame(picture(number, LARGER), capture_time_ns=BEGUN_NS + 66 * number * MS)
            write(left, 3, 132)
            found = next(sets)
            assert numbers(found) == (3, 2)
            assert found[names[1]][0].shape == LARGER


def test_frames_of_a_segment_that_is_replaced_stay_in_turn(
    names: list[str], writers: list[SharedMemoryFrameWriter], sets: FrameSets
) -> None:
    left, right = writers
    for number in (2, 3, 4):
        write(left, number, 33 * number)
    write(right, 2, 66)
    for number in (3, 4):
        assert right.write_frame(picture(number, LARGER), capture_time_ns=BEGUN_NS + 33 * number * MS) == number
    assert [numbers(next(sets)) for _ in range(3)] == [(2, 2), (3, 3), (4, 4)]


DIES = """
    writer = SharedMemoryFrameWriter(sys.argv[1], SHAPE, history=8)
    for number in (1, 2):
        writer.write_frame(picture(number), capture_time_ns=int(sys.argv[2]) + number * 33_000_000)
        say("written")
        told()
"""


def test_the_frames_of_a_killed_writer_and_of_the_next_one_are_found(name: str, segment_name: str) -> None:
    with (
        SharedMemoryFrameWriter(f"{segment_name}-left", SHAPE, history=8) as left,
        FrameSets([f"{segment_name}-left", name], timeout=40.0) as sets,
    ):
        with Child(DIES, name, BEGUN_NS) as child:
            child.says()
            write(left, 1, 33)
            assert numbers(next(sets)) == (1, 1)
            child.tell()
            child.says()
            child.kill()
        write(left, 2, 66)
        assert numbers(next(sets)) == (2, 2)
        with SharedMemoryFrameWriter(name, SHAPE, history=8) as right:
            write(left, 3, 99)
            write(left, 4, 132)
            write(right, 3, 132)
            assert numbers(next(sets)) == (4, 3)


def test_the_iteration_ends_with_the_last_set_of_a_clean_close(
    names: list[str], writers: list[SharedMemoryFrameWriter], sets: FrameSets
) -> None:
    left, right = writers
    for number in (2, 3):
        write(left, number, 33 * number)
        write(right, number, 33 * number + 2)
    right.close()
    assert [numbers(found) for found in sets] == [(2, 2), (3, 3)]


def test_asynchronous_sets_are_the_same(names: list[str], writers: list[SharedMemoryFrameWriter]) -> None:
    async def read() -> Numbers:
        found: Numbers = []
        with FrameSets(names, timeout=40.0) as sets:
            async for frames in sets:
                found.append(numbers(frames))
                if len(found) == 3:
                    for writer in writers:
                        writer.close()
                else:
                    for writer in writers:
                        write(writer, len(found) + 1, 33 * len(found))
        return found

    for writer in writers:
        write(writer, 1, 0)
    assert asyncio.run(read()) == [(1, 1), (2, 2), (3, 3)]


def test_bad_input_is_reported(segment_name: str) -> None:
    for names in ([], [segment_name, segment_name]):
        with pytest.raises(ValueError, match=r"names=.*: expected one or more, each once"):
            FrameSets(names)
    for tolerance in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="tolerance_ms="):
            FrameSets([segment_name], tolerance_ms=tolerance)
    with pytest.raises(ValueError, match="timeout=-1"):
        FrameSets([segment_name], timeout=-1)
    sets = FrameSets(segment_name)
    sets.close()
    with pytest.raises(ValueError, match="closed"):
        next(sets)

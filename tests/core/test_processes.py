"""Several processes: when one dies, forks or arrives at the same instant, the others go on."""

import asyncio
import fcntl
import gc
import itertools
import os
import signal
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from child_processes import Child, run
from segment_layout import READER_BYTE, TOKEN_BYTE, WRITER_BYTE, opened
from segments_under_test import LARGER, SHAPE, descriptors, mappings, new_frame, path_of, picture, sees, wait_until

from billiards_shm import (
    SegmentStatus,
    SharedMemoryFrameReader,
    SharedMemoryFrameWriter,
    WriterExistsError,
    inspect_segment,
    remove_stale_segments,
)

HOLD_TWO = """
reader = SharedMemoryFrameReader(sys.argv[1])
first = new_frame(reader)
say("one")
told()
second = new_frame(reader)
assert first[1].zero_copy and second[1].zero_copy
say("two")
told()
"""


# ---------------------------------------------------------------- many readers


def test_readers_in_many_processes_see_the_same_pictures(segment_name: str) -> None:
    code = """
    first = seen = skipped = 0
    with SharedMemoryFrameReader(sys.argv[1], copy=sys.argv[2] == "copy") as reader:
        reader.attach()
        say("attached")
        for frame, metadata in reader:
            assert sees(frame, metadata.sequence), metadata
            first = first or metadata.sequence
            seen += 1
            skipped += metadata.skipped
    say(first, seen, skipped, metadata.sequence)
    """
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        children = [Child(code, segment_name, kind) for kind in ("lease", "copy", "lease", "lease")]
        for child in children:
            assert child.says() == "attached"
        assert {reader.pid for reader in inspect_segment(segment_name).readers} == {child.pid for child in children}
        writer.write_frame(picture(1))
        wait_until(lambda: all(reader.frames for reader in inspect_segment(segment_name).readers))
        for number in range(2, 301):
            writer.write_frame(picture(number))
            time.sleep(0.0005)
    for child in children:
        with child:
            first, seen, skipped, last = map(int, child.says().split())
            assert last == 300, "the last frame is delivered"
            assert seen + skipped == last - first + 1, "what it did not get it was told of"
            assert seen > 1
            child.ends_well()


def test_a_killed_readers_tokens_go_to_the_next_reader(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE, slots=4) as writer:
        writer.write_frame(picture(1))
        with Child(HOLD_TWO, segment_name) as child:
            child.says()
            child.tell()
            writer.write_frame(picture(2))
            child.says()
            (holder,) = inspect_segment(segment_name).readers
            assert (holder.pid, holder.leases) == (child.pid, 2)
            with SharedMemoryFrameReader(segment_name) as other:
                assert not new_frame(other)[1].zero_copy, "both tokens are taken"
            child.kill()
        with opened(path_of(segment_name)) as segment:
            assert sum(pin != 0 for pin in segment.pins) == 2, "what the dead pinned is still pinned"
        assert inspect_segment(segment_name).readers == (), "but the dead are not shown"
        for number in range(3, 50):
            assert writer.write_frame(picture(number)) == number, "and the writer does not mind"
        with SharedMemoryFrameReader(segment_name) as heir, opened(path_of(segment_name)) as segment:
            view, metadata = new_frame(heir)
            assert metadata.zero_copy
            writer.write_frame(picture(50))
            more, metadata = new_frame(heir)
            assert metadata.zero_copy
            assert sees(view, 49)
            assert sees(more, 50)
            del view, more
            assert not any(segment.pins), "nothing of the dead is left"
        assert writer.statistics.leases_broken == 0


def test_a_reader_that_was_starved_of_tokens_gets_one_when_their_owner_is_killed(segment_name: str) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, SHAPE, slots=4) as writer,
        SharedMemoryFrameReader(segment_name) as starved,
        Child(HOLD_TWO, segment_name) as child,
    ):
        writer.write_frame(picture(1))
        child.says()
        child.tell()
        writer.write_frame(picture(2))
        child.says()
        assert not new_frame(starved)[1].zero_copy
        child.kill()

        def leases() -> bool:
            writer.write_frame(picture(3))
            return bool(new_frame(starved)[1].zero_copy)

        wait_until(leases)


def test_stopped_readers_do_not_delay_the_writer(segment_name: str) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, SHAPE, slots=4) as writer,
        Child(HOLD_TWO, segment_name) as child,
        SharedMemoryFrameReader(segment_name, max_leases=0) as other,
    ):
        writer.write_frame(picture(1))
        child.says()
        child.tell()
        writer.write_frame(picture(2))
        child.says()
        child.process.send_signal(signal.SIGSTOP)
        for number in range(3, 1003):
            assert writer.write_frame(picture(number)) == number
            assert sees(new_frame(other)[0], number)
        assert writer.statistics.dropped == writer.statistics.leases_broken == 0
        child.process.send_signal(signal.SIGCONT)
        child.tell()
        child.ends_well()


def test_forged_pins_do_not_stop_the_writer_and_their_victims_are_warned(segment_name: str) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, SHAPE, slots=4) as writer,
        SharedMemoryFrameReader(segment_name) as reader,
    ):
        writer.write_frame(picture(1))
        view = new_frame(reader)[0]
        with opened(path_of(segment_name)) as segment:
            for number in range(2, 20):
                for slot in range(4):
                    segment.set_pin(slot, 2**64 - 1)
                assert writer.write_frame(picture(number)) == number
        assert writer.statistics.leases_broken > 0
        assert inspect_segment(segment_name).leases_broken == writer.statistics.leases_broken
        assert not view.base.obj.intact


def test_bits_that_are_not_tokens_belong_to_nobody(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE, slots=4) as writer:
        writer.write_frame(picture(1))
        with opened(path_of(segment_name)) as segment:
            for number in range(2, 30):
                for slot in range(4):
                    segment.set_pin(slot, 0xFFFFFFFFFFFFFFFC)  # slots=4 are tokens 0 and 1
                assert writer.write_frame(picture(number)) == number
        assert writer.statistics.leases_broken == 0
        assert writer.statistics.backed_slots == 3


# ---------------------------------------------------------------- the writer dies


def test_a_killed_writer_is_dead_immediately_and_a_new_one_takes_over_immediately(segment_name: str) -> None:
    with Child("write_and_wait(sys.argv[1])", segment_name) as child, SharedMemoryFrameReader(segment_name) as reader:
        child.says()
        frame, metadata = new_frame(reader)
        assert reader.status is SegmentStatus.LIVE
        child.kill()
        assert reader.status is SegmentStatus.DEAD
        assert inspect_segment(segment_name).status is SegmentStatus.DEAD
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            assert writer.write_frame(picture(2)) == 2
            again, more = new_frame(reader)
            assert reader.status is SegmentStatus.LIVE
        assert (metadata.sequence, more.sequence, more.skipped) == (1, 2, 0)
        assert metadata.generation != more.generation
        assert sees(frame, 1)
        assert sees(again, 2)


def test_a_waiting_reader_goes_on_through_kill_after_kill_with_rising_numbers(segment_name: str) -> None:
    code = """
    writer = SharedMemoryFrameWriter(sys.argv[1], SHAPE)
    say("open")
    while True:
        writer.write_frame(picture(writer.sequence + 1))
        time.sleep(0.001)
    """
    numbers: list[int] = []
    generations = set()
    with SharedMemoryFrameReader(segment_name) as reader:
        iterator = reader.frames(timeout=20)
        for _ in range(4):
            with Child(code, segment_name) as child:
                child.says()
                wanted = len(generations) + 1
                for frame, metadata in iterator:
                    assert sees(frame, metadata.sequence)
                    numbers.append(metadata.sequence)
                    generations.add(metadata.generation)
                    if len(generations) == wanted and len(numbers) % 20 == 0:
                        break
                child.kill()
    assert numbers == sorted(set(numbers)), "rising, none twice"
    assert len(generations) == 4
    remove_stale_segments([segment_name])


def test_a_writer_killed_with_an_open_loan_uses_up_no_number_twice(segment_name: str) -> None:
    code = """
    writer = SharedMemoryFrameWriter(sys.argv[1], SHAPE)
    writer.write_frame(picture(1))
    slot = writer.loan()
    slot.array[:] = 255
    say("lent")
    told()
    """
    with Child(code, segment_name) as child, SharedMemoryFrameReader(segment_name) as reader:
        child.says()
        view = new_frame(reader)[0]
        child.kill()
        assert reader.read_frame() == (None, None), "what was never published is never seen"
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            first = writer.write_frame(picture(2))
            assert first in (2, 3), "number 2 may have been shown already, for all the successor knows"
            frame, metadata = new_frame(reader)
            assert metadata.sequence == first
            assert sees(frame, 2)
            assert sees(view, 1)


def test_numbers_go_on_after_whatever_a_killed_writer_may_have_shown(segment_name: str) -> None:
    with Child("write_and_wait(sys.argv[1])", segment_name) as child:
        child.says()
        child.kill()
    with opened(path_of(segment_name)) as segment:  # killed after W8, before W10: complete, but not the latest
        slot = (segment.latest[1] + 1) % 3
        segment.descriptor(slot)["seq"] = 2 * 7
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        assert writer.write_frame(picture(8)) == 8


def test_numbers_go_on_after_a_successor_that_was_killed_before_its_first_frame(segment_name: str) -> None:
    with SharedMemoryFrameReader(segment_name) as reader:
        with Child("write_and_wait(sys.argv[1])", segment_name) as child:
            child.says()
            assert new_frame(reader)[1].sequence == 1
            child.kill()
        with Child("writer = SharedMemoryFrameWriter(sys.argv[1], SHAPE); say('open'); told()", segment_name) as child:
            child.says()
            child.kill()
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            assert writer.write_frame(picture(2)) == 2
            metadata = new_frame(reader)[1]
            assert (metadata.sequence, metadata.skipped) == (2, 0)


@pytest.mark.parametrize("claimed", [2**59, 2**63, 2**64 - 1])
def test_one_damaged_number_does_not_hide_the_others(segment_name: str, claimed: int) -> None:
    with Child("write_and_wait(sys.argv[1])", segment_name) as child:
        child.says()
        child.kill()
    with opened(path_of(segment_name)) as segment:
        segment.descriptor((segment.latest[1] + 1) % 3)["seq"] = claimed
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        assert writer.write_frame(picture(2)) == 2


def test_numbers_that_a_corrupt_segment_claims_do_not_make_the_successor_unreadable(segment_name: str) -> None:
    with Child("write_and_wait(sys.argv[1])", segment_name) as child:
        child.says()
        child.kill()
    with opened(path_of(segment_name)) as segment:
        segment.publication["latest"] = 2**64 - 1
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, SharedMemoryFrameReader(segment_name) as reader:
        writer.write_frame(picture(1))
        frame, metadata = reader.read_frame(timeout=0.5)
        assert frame is not None
        assert sees(frame, 1)
        assert metadata.sequence == writer.sequence


def test_a_stopped_writer_is_alive(segment_name: str) -> None:
    with Child("write_and_wait(sys.argv[1])", segment_name) as child, SharedMemoryFrameReader(segment_name) as reader:
        child.says()
        new_frame(reader)
        child.process.send_signal(signal.SIGSTOP)
        assert reader.status is SegmentStatus.LIVE
        with pytest.raises(WriterExistsError):
            SharedMemoryFrameWriter(segment_name, SHAPE)
        assert remove_stale_segments([segment_name]) == []
        child.process.send_signal(signal.SIGCONT)
        child.tell()
        child.ends_well()


def read_lock(path: Path, byte: int, count: int = 1) -> int:
    """A lock open to anyone who can read the object. It lasts as long as the returned file. Count 0: to the end."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, byte, count, 0)
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)
    return file


def test_a_read_lock_does_not_make_a_dead_writer_look_alive_and_the_error_names_the_holder(
    segment_name: str,
) -> None:
    with Child("write_and_wait(sys.argv[1])", segment_name) as child, SharedMemoryFrameReader(segment_name) as reader:
        child.says()
        new_frame(reader)
        child.kill()
        file = read_lock(path_of(segment_name), WRITER_BYTE)
        assert reader.status is SegmentStatus.DEAD
        assert inspect_segment(segment_name).status is SegmentStatus.DEAD
        with pytest.raises(WriterExistsError, match=r"dead.*read lock.*/proc/locks"):
            SharedMemoryFrameWriter(segment_name, SHAPE)
        os.close(file)
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            assert writer.write_frame(picture(2)) == 2


def test_read_locks_turn_leases_into_copies_but_hide_no_listed_reader_and_each_counts_as_an_observer(
    segment_name: str,
) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, SHAPE) as writer,
        SharedMemoryFrameReader(segment_name) as early,
    ):
        writer.write_frame(picture(1))
        assert new_frame(early)[1].zero_copy
        files = [
            read_lock(path_of(segment_name), TOKEN_BYTE + 1, 100),
            read_lock(path_of(segment_name), READER_BYTE + 1, 0),
        ]
        with SharedMemoryFrameReader(segment_name) as late:
            assert not new_frame(late)[1].zero_copy
            writer.write_frame(picture(2))
            assert new_frame(early)[1].zero_copy
            shown = [(one.kind, one.pid) for one in inspect_segment(segment_name).readers]
            assert shown == [("lease", os.getpid()), ("observer", None)]
            for file in files:
                os.close(file)
            wait_until(lambda: late.latest_frame()[1].zero_copy, "a lease")


def test_a_briefly_held_lock_is_waited_for(segment_name: str) -> None:
    with Child("write_and_wait(sys.argv[1])", segment_name) as child:
        child.says()
        child.kill()
    file = read_lock(path_of(segment_name), WRITER_BYTE)  # as `clean` does while it looks
    timer = threading.Timer(0.05, os.close, [file])
    timer.start()
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        assert writer.write_frame(picture(2)) == 2
    timer.join()


# ---------------------------------------------------------------- who gets the name


def test_a_second_writer_of_a_living_name_is_refused_and_told_who_has_it(segment_name: str) -> None:
    with Child("write_and_wait(sys.argv[1])", segment_name) as child, SharedMemoryFrameReader(segment_name) as reader:
        child.says()
        for _ in range(2):
            with pytest.raises(WriterExistsError, match=f"{segment_name}.*{child.pid}"):
                SharedMemoryFrameWriter(segment_name, SHAPE)
        assert sees(new_frame(reader)[0], 1)
        assert reader.status is SegmentStatus.LIVE, "the first is not disturbed"
        child.tell()
        child.ends_well()
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        assert writer.write_frame(picture(1)) == 1


def test_a_second_writer_in_the_same_process_is_refused_too(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        with pytest.raises(WriterExistsError, match=str(os.getpid())):
            SharedMemoryFrameWriter(segment_name, LARGER)
        assert writer.write_frame(picture(1)) == 1


def race(rounds: int, contenders: int, name: str, before: Callable[[], None]) -> None:
    """Start writers at the same instant: exactly one wins, and its segment has the name."""
    barrier = threading.Barrier(contenders)

    def start() -> SharedMemoryFrameWriter | None:
        barrier.wait()
        try:
            return SharedMemoryFrameWriter(name, SHAPE)
        except WriterExistsError:
            return None

    with ThreadPoolExecutor(contenders) as pool:
        for _ in range(rounds):
            before()
            started = [job.result() for job in [pool.submit(start) for _ in range(contenders)]]
            winners = [writer for writer in started if writer is not None]
            assert len(winners) == 1
            assert inspect_segment(name).generation == winners[0].generation
            winners[0].close()


@pytest.mark.slow
def test_of_writers_that_start_together_exactly_one_wins(segment_name: str) -> None:
    race(15, 4, segment_name, lambda: None)


def test_of_writers_that_take_over_together_exactly_one_wins(segment_name: str) -> None:
    def leave_a_dead_one() -> None:
        with Child("write_and_wait(sys.argv[1])", segment_name) as child:
            child.says()
            child.kill()

    race(5, 4, segment_name, leave_a_dead_one)


@pytest.mark.slow
def test_of_processes_that_start_together_exactly_one_wins(segment_name: str) -> None:
    code = """
    say("ready")
    while told():
        try:
            writer = SharedMemoryFrameWriter(sys.argv[1], SHAPE)
        except WriterExistsError:
            say("lost")
        else:
            say("won", writer.generation)
            told()
            writer.close()
            say("closed")
    """
    with Child(code, segment_name) as one, Child(code, segment_name) as other:
        assert one.says() == other.says() == "ready"
        for _ in range(12):
            one.tell()
            other.tell()
            said = {child: child.says() for child in (one, other)}
            winners = [child for child, what in said.items() if what.startswith("won")]
            assert len(winners) == 1, said.values()
            assert said[winners[0]] == f"won {inspect_segment(segment_name).generation}"
            winners[0].tell()
            assert winners[0].says() == "closed"
        for child in (one, other):
            child.tell("")
            child.ends_well()


def test_clean_never_takes_the_name_from_a_writer_that_starts_or_lives(segment_name: str) -> None:
    stop = threading.Event()

    def clean() -> int:
        removed = 0
        while not stop.is_set():
            removed += len(remove_stale_segments([segment_name]))
        return removed

    with ThreadPoolExecutor(2) as pool:
        cleaning = [pool.submit(clean) for _ in range(2)]
        for number in range(100):
            with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
                assert writer.write_frame(picture(number)) == 1
                assert inspect_segment(segment_name).generation == writer.generation
        stop.set()
        assert [job.result() for job in cleaning] == [0, 0]


def test_readers_never_meet_half_a_segment_while_writers_come_and_go(segment_name: str) -> None:
    attached = [0, 0]

    def attach_often(number: int) -> None:
        while attached[number] < 50:
            with SharedMemoryFrameReader(segment_name) as reader:
                frame, _ = reader.read_frame()
                if frame is not None:
                    assert sees(frame, 1)
                    attached[number] += 1

    with ThreadPoolExecutor(2) as pool:
        attaching = [pool.submit(attach_often, number) for number in range(2)]

        def over() -> bool:
            return all(job.done() for job in attaching)

        for generation in itertools.count():
            if over():
                break
            with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
                writer.write_frame(picture(1))
                if generation % 2:  # the others leave immediately
                    before = sum(attached)
                    wait_until(lambda before=before: over() or sum(attached) > before)
        assert [job.result() for job in attaching] == [None, None]
    print(f"{generation} writers")


# ---------------------------------------------------------------- coming and going, very often

# More than the 4096 files that a process can register as closed to its children: an entry that is not released
# fails before the end.
MANY = 5000


def resources() -> tuple[int, int, int]:
    """Descriptors, mappings and threads of this process."""
    gc.collect()
    return descriptors(), mappings("/dev/shm/"), sum(1 for _ in Path("/proc/self/task").iterdir())


def test_thousands_of_attachments_of_every_kind_leave_no_descriptor_mapping_or_thread(segment_name: str) -> None:
    async def first(reader: SharedMemoryFrameReader) -> bool:
        async for _, metadata in reader:
            return bool(metadata.sequence)
        return False

    uses: list[Callable[[SharedMemoryFrameReader], object]] = [
        lambda reader: new_frame(reader),
        lambda reader: new_frame(reader, copy=True),
        lambda reader: next(iter(reader)),
        lambda reader: (reader.attach(), reader.status),
        lambda reader: reader.read_frame(timeout=0) and reader.read_frame(timeout=0.0001),
    ]
    with Child("write_and_wait(sys.argv[1])", segment_name) as child:
        child.says()
        before = resources()
        for number in range(MANY):
            with SharedMemoryFrameReader(segment_name) as reader:
                assert uses[number % len(uses)](reader)
        for _ in range(100):
            with SharedMemoryFrameReader(segment_name) as reader:
                assert asyncio.run(first(reader))
        assert resources() == before
        assert inspect_segment(segment_name).readers == ()
        with SharedMemoryFrameReader(segment_name) as reader:
            view = new_frame(reader)[0]
            during = resources()
        del view
        assert resources() == before
        assert during[0] > before[0]
        assert during[1] > before[1], "it would be seen"
        child.tell()
        child.ends_well()


def test_a_thousand_writers_leave_no_descriptor_mapping_or_thread(segment_name: str) -> None:
    before = resources()
    for number in range(1000):
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            if number % 5 == 0:
                assert writer.write_frame(picture(1)) == 1
            if number % 10 == 0:
                assert writer.write_frame(picture(2, LARGER)) == 2
            if number == 500:
                during = resources()
    assert resources() == before
    assert during[0] > before[0]
    assert during[1] > before[1], "it would be seen"
    assert not path_of(segment_name).exists()


# ---------------------------------------------------------------- fork

FORKED = """
reading, writing = os.pipe()

def in_child(body):
    # Returns what `body` returns or raises there, as text.
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            answer = repr(body())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, answer.encode() + b"\\n")
        os._exit(0)
    answer = b""
    while not answer.endswith(b"\\n"):
        answer += os.read(reading, 4096)
    assert os.waitpid(pid, 0)[1] == 0, "the child crashed"
    return answer.decode().strip()

def holds_in_child(body):
    answer = in_child(body)
    assert answer == "True", answer

name = sys.argv[1]
"""


def test_a_forked_child_does_not_keep_a_killed_writer_alive(segment_name: str) -> None:
    code = """
    writer = SharedMemoryFrameWriter(sys.argv[1], SHAPE)
    writer.write_frame(picture(1))
    slot = writer.loan()
    reader = SharedMemoryFrameReader(sys.argv[1])
    view = new_frame(reader)[0]
    pid = os.fork()
    if pid == 0:
        say(os.getpid())
        signal.pause()
    told()
    """
    with Child(code, segment_name) as child, SharedMemoryFrameReader(segment_name) as reader:
        forked = int(child.says())
        try:
            new_frame(reader)
            child.kill()
            os.kill(forked, 0)  # it lives, with copies of everything
            wait_until(lambda: reader.status is SegmentStatus.DEAD)
            with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
                number = writer.write_frame(picture(2))
                assert new_frame(reader)[1].sequence == number
                assert [each.pid for each in inspect_segment(segment_name).readers] == [os.getpid()]
        finally:
            os.kill(forked, signal.SIGKILL)


def test_a_forked_child_does_not_keep_a_killed_readers_tokens(segment_name: str) -> None:
    code = """
    reader = SharedMemoryFrameReader(sys.argv[1])
    view, metadata = new_frame(reader)
    assert metadata.zero_copy
    pid = os.fork()
    if pid == 0:
        say(os.getpid())
        signal.pause()
    told()
    """
    with SharedMemoryFrameWriter(segment_name, SHAPE, slots=3) as writer:
        writer.write_frame(picture(1))
        with Child(code, segment_name) as child:
            forked = int(child.says())
            try:
                child.kill()
                with SharedMemoryFrameReader(segment_name) as heir:
                    assert new_frame(heir)[1].zero_copy, "the only token is free again"
            finally:
                os.kill(forked, signal.SIGKILL)


def test_a_forked_child_that_drops_everything_frees_nothing_of_the_parent(segment_name: str) -> None:
    run(
        FORKED
        + """
writer = SharedMemoryFrameWriter(name, SHAPE)
writer.write_frame(picture(1))
reader = SharedMemoryFrameReader(name)
view = new_frame(reader)[0]
slot = writer.loan()
array = slot.array

def drop():
    global view, reader, writer, slot, array
    del view, array, slot
    reader.close()
    writer.close()
    del reader, writer
    gc.collect()

assert in_child(drop) == "None"
assert in_child(lambda: sys.exit(0)).startswith("SystemExit")
array[:] = picture(2)
assert slot.publish() == 2
(found,) = inspect_segment(name).readers
assert (found.pid, found.leases) == (os.getpid(), 1)
assert inspect_segment(name).status == "live"
for number in range(3, 500):
    assert writer.write_frame(picture(number)) == number
assert sees(view, 1)
assert sees(new_frame(reader)[0], 499)
""",
        segment_name,
    )
    assert not path_of(segment_name).exists()


def test_a_child_that_exits_normally_does_not_close_its_parents_writer(segment_name: str) -> None:
    run(
        """
        writer = SharedMemoryFrameWriter(sys.argv[1], SHAPE)
        writer.write_frame(picture(1))
        pid = os.fork()
        if pid == 0:
            sys.exit(0)     # with exit handlers, destructors and all
        assert os.waitpid(pid, 0)[1] == 0
        assert inspect_segment(sys.argv[1]).status == "live"
        assert writer.write_frame(picture(2)) == 2
        """,
        segment_name,
    )


def test_a_forked_writer_raises_value_error_and_says_what_to_do(segment_name: str) -> None:
    run(
        FORKED
        + """
writer = SharedMemoryFrameWriter(name, SHAPE)
writer.write_frame(picture(1))
for use in (
    lambda: writer.write_frame(picture(2)),
    lambda: writer.write_frame(picture(2, LARGER)),
    lambda: writer.loan(),
    lambda: writer.update_source(reason="x"),
):
    answer = in_child(use)
    assert answer.startswith("ValueError"), answer
    assert name in answer and "parent" in answer, answer
assert in_child(writer.close) == "None"
slot = writer.loan()
assert in_child(slot.publish).startswith("ValueError")
assert in_child(slot.cancel) == "None"
slot.array[:] = picture(2)
assert slot.publish() == 2
assert writer.write_frame(picture(3)) == 3
""",
        segment_name,
    )


def test_a_forked_child_may_write_under_another_name(segment_name: str) -> None:
    run(
        FORKED
        + """
writer = SharedMemoryFrameWriter(name, SHAPE)

def write():
    with SharedMemoryFrameWriter(name + "-child", SHAPE) as own, SharedMemoryFrameReader(name + "-child") as reader:
        own.write_frame(picture(5))
        return sees(new_frame(reader)[0], 5)

holds_in_child(write)
assert writer.write_frame(picture(1)) == 1
""",
        segment_name,
    )


def test_a_forked_reader_attaches_again_and_both_go_on(segment_name: str) -> None:
    run(
        FORKED
        + """
writer = SharedMemoryFrameWriter(name, SHAPE)
writer.write_frame(picture(1))
reader = SharedMemoryFrameReader(name)
view = new_frame(reader)[0]
before = len(inspect_segment(name).readers)

def read():
    frame, metadata = reader.read_frame()
    assert frame is None, "seen by the parent, so seen here"
    again, metadata = reader.latest_frame()
    assert sees(again, 1) and metadata.zero_copy
    found = {each.pid: each.leases for each in inspect_segment(name).readers}
    assert found == {os.getppid(): 1, os.getpid(): 1}, found
    return True

holds_in_child(read)
writer.write_frame(picture(2))
holds_in_child(lambda: sees(new_frame(reader)[0], 2))
assert sees(new_frame(reader)[0], 2)
assert sees(view, 1)
assert len(inspect_segment(name).readers) == before
""",
        segment_name,
    )


def test_a_fork_while_another_thread_reads_and_writes_leaves_the_child_usable(segment_name: str) -> None:
    run(
        FORKED
        + """
import threading, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
writer = SharedMemoryFrameWriter(name, SHAPE)
writer.write_frame(picture(1))
reader = SharedMemoryFrameReader(name)
stop = threading.Event()

def work():
    while not stop.is_set():
        writer.write_frame(picture(1))
        reader.read_frame()

def wait():
    while not stop.is_set():
        reader.read_frame(timeout=0.01)

threads = [threading.Thread(target=work, daemon=True), threading.Thread(target=wait, daemon=True)]
for thread in threads:
    thread.start()
for _ in range(30):
    holds_in_child(lambda: sees(reader.latest_frame()[0], 1))
    assert in_child(writer.close) == "None"
stop.set()
for thread in threads:
    thread.join()
""",
        segment_name,
    )


def test_several_threads_of_a_forked_child_may_be_the_first_to_use_a_reader(segment_name: str) -> None:
    run(
        FORKED
        + """
import threading, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
writer = SharedMemoryFrameWriter(name, SHAPE, slots=8)
writer.write_frame(picture(1))

def use(reader, start, attach):
    start.wait()
    if attach:
        reader.attach(timeout=1)
    for _ in range(50):
        reader.latest_frame()

def use_in_threads(reader):
    start = threading.Event()
    threads = [threading.Thread(target=use, args=(reader, start, number < 2)) for number in range(5)]
    for thread in threads:
        thread.start()
    start.set()
    for thread in threads:
        thread.join()
    return sees(reader.latest_frame()[0], 1)

for _ in range(40):
    with SharedMemoryFrameReader(name, max_leases=6) as reader:
        view = new_frame(reader)[0]
        holds_in_child(lambda: use_in_threads(reader))
""",
        segment_name,
    )


@pytest.mark.parametrize("what", ["idle", "waiting", "copying"])
def test_a_forked_child_keeps_only_what_a_view_needs_of_a_segment(segment_name: str, what: str) -> None:
    run(
        FORKED
        + """
import threading, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
writer = SharedMemoryFrameWriter(name, SHAPE, slots=8)
writer.write_frame(picture(1))
reader = SharedMemoryFrameReader(name)
new_frame(reader)
stop = threading.Event()

def work():
    while not stop.is_set():
        if sys.argv[2] == "idle":
            time.sleep(0.001)
        elif sys.argv[2] == "waiting":
            reader.read_frame(timeout=0.02)
        else:
            reader.latest_frame(copy=True)

def kept():
    files = [os.readlink(f"/proc/self/fd/{file}") for file in os.listdir("/proc/self/fd") if file.isdecimal()
             if os.path.lexists(f"/proc/self/fd/{file}")]
    return mappings(name), sum(name in file for file in files)

def look_at_everything():
    gc.collect()
    assert str([one for one in gc.get_objects() if isinstance(one, (tuple, np.ndarray))])
    return True

thread = threading.Thread(target=work)
thread.start()
for _ in range(10):
    assert in_child(kept) == "(0, 0)", in_child(kept)
    holds_in_child(look_at_everything)
view = new_frame(reader)[0] if writer.write_frame(picture(2)) and sys.argv[2] == "idle" else reader.latest_frame()[0]

def let_go_of_the_view():
    global view
    assert sees(view, 2)
    mapped, open_files = kept()
    assert mapped > 0 and open_files == 0
    view = None
    assert kept() == (0, 0), kept()
    return True

holds_in_child(let_go_of_the_view)
stop.set()
thread.join()
assert sees(view, 2)
""",
        segment_name,
        what,
    )


def test_no_fork_at_any_moment_keeps_a_killed_process_alive(segment_name: str) -> None:
    code = """
    import threading, warnings
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

    def come_and_go(name):
        while True:
            with SharedMemoryFrameWriter(name, SHAPE) as writer, SharedMemoryFrameReader(name) as reader:
                writer.write_frame(picture(1))
                view = new_frame(reader)[0]
                writer.write_frame(picture(2, LARGER))
                del view

    for number in range(3):
        threading.Thread(target=come_and_go, args=[f"{sys.argv[1]}-{number}"], daemon=True).start()
    forked = []
    for _ in range(40):
        pid = os.fork()
        if pid == 0:
            signal.pause()
            os._exit(0)
        forked.append(pid)
        time.sleep(0.002)
    say(*forked)
    told()
    """
    with Child(code, segment_name) as child:
        forked = [int(pid) for pid in child.says().split()]
        try:
            child.kill()
            for number in range(3):
                with SharedMemoryFrameWriter(f"{segment_name}-{number}", SHAPE, slots=3) as writer:
                    writer.write_frame(picture(1))
        finally:
            for pid in forked:
                os.kill(pid, signal.SIGKILL)
    for temporary in path_of("").glob(".bshm-*~"):
        os.utime(temporary, (0, 0))  # the kill may have hit in the middle of a creation
        remove_stale_segments([segment_name])


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_every_start_method_of_multiprocessing_works(segment_name: str, method: str) -> None:
    run(
        """
        import multiprocessing
        from segments_under_test import read_one, write_until_told

        name, method = sys.argv[1:]
        context = multiprocessing.get_context(method)
        own = SharedMemoryFrameWriter(name, SHAPE)
        own.write_frame(picture(41))

        here, there = context.Pipe()
        reading = context.Process(target=read_one, args=(name, there))
        reading.start()
        sequence, zero_copy, pixels = here.recv()
        assert (sequence, zero_copy, pixels) == (1, True, picture(41).tobytes())
        reading.join()
        assert reading.exitcode == 0
        assert own.write_frame(picture(42)) == 2, "the child's exit closes nothing"

        writing = context.Process(target=write_until_told, args=(name + "-child", 1, 5, there))
        writing.start()
        assert here.recv() == 5
        with SharedMemoryFrameReader(name + "-child") as reader:
            frame, metadata = new_frame(reader)
            assert metadata.sequence == 5 and sees(frame, 5)
            os.kill(writing.pid, signal.SIGKILL)
            writing.join()
            assert reader.status == "dead"
            with SharedMemoryFrameWriter(name + "-child", SHAPE) as heir:
                assert heir.write_frame(picture(6)) == 6
                assert new_frame(reader)[1].sequence == 6
            assert sees(frame, 5)
        own.close()
        """,
        segment_name,
        method,
    )


def test_a_program_started_by_exec_inherits_nothing(segment_name: str) -> None:
    code = """
    import subprocess
    writer = SharedMemoryFrameWriter(sys.argv[1], SHAPE)
    writer.write_frame(picture(1))
    reader = SharedMemoryFrameReader(sys.argv[1])
    view = new_frame(reader)[0]
    child = subprocess.Popen(["sleep", "1000"], close_fds=False)
    links = [os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{child.pid}/fd")]
    say(child.pid, any("/dev/shm" in link for link in links))
    told()
    """
    with Child(code, segment_name) as child:
        started, inherited = child.says().split()
        try:
            assert inherited == "False"
            child.kill()
            with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
                assert writer.write_frame(picture(2)) == 2
        finally:
            os.kill(int(started), signal.SIGKILL)

"""A segment that another process overwrites anywhere with anything, while readers and the writer use it.

The result must be an exception of this package or a possible frame: nothing else, and never a signal.
"""

import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import segment_layout as layout
from child_processes import Child
from hypothesis import example, given, settings
from hypothesis import strategies as st
from segment_layout import opened
from segments_under_test import SHAPE, new_frame, path_of, picture

from billiards_shm import (
    BilliardsShmError,
    SegmentFormatError,
    SharedMemoryFrameReader,
    SharedMemoryFrameWriter,
    inspect_segment,
)

# ---------------------------------------------------------------- one change at a time

WORDS = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, 2, 63, 64, 2**31, 2**32 - 1, 2**57 - 1, 2**57, 2**63 - 1, 2**63, 2**64 - 1]),
    st.builds(lambda number, slot: number << 6 | slot, st.integers(0, 9), st.integers(0, 63)),
)
# Eight-byte words of publication line, statistics, the first descriptors, their pins, and the table of readers.
PLACES = st.one_of(
    st.integers(layout.PUBLICATION_AT // 8, (layout.PUBLICATION_AT + layout.PUBLICATION_BYTES) // 8 - 1),
    st.integers(layout.STATISTICS_AT // 8, (layout.STATISTICS_AT + layout.STATISTICS_BYTES) // 8 - 1),
    st.integers(layout.DESCRIPTORS_AT // 8, (layout.DESCRIPTORS_AT + 4 * layout.DESCRIPTOR_BYTES) // 8 - 1),
    st.builds(lambda slot: (layout.CONTROL + slot * layout.PIN_BYTES) // 8, st.integers(0, 8)),
    st.integers((layout.CONTROL + layout.READERS_AT) // 8, (layout.CONTROL + layout.READERS_AT) // 8 + 32),
)


@given(
    changes=st.lists(st.tuples(PLACES, WORDS), min_size=1, max_size=12),
    leases=st.sampled_from([0, 1, 2]),
    copy=st.booleans(),
)
@example(changes=[(layout.PUBLICATION_AT // 8, 2**64 - 1)], leases=2, copy=False)
@example(changes=[(layout.CONTROL // 8, 2**64 - 1)], leases=2, copy=True)
@settings(max_examples=300)
def test_whatever_words_are_written_a_read_returns_a_frame_nothing_or_an_error_and_the_writer_goes_on(
    changes: list[tuple[int, int]], leases: int, copy: bool
) -> None:
    name = f"test-{os.getpid()}-words"
    with SharedMemoryFrameWriter(name, SHAPE) as writer, SharedMemoryFrameReader(name, max_leases=leases) as reader:
        writer.write_frame(picture(1))
        held, _ = reader.read_frame()
        writer.write_frame(picture(2))
        with opened(path_of(name)) as segment:
            for place, word in changes:
                os.pwrite(segment.file, word.to_bytes(8, "little"), 8 * place)
            for _ in range(3):
                try:
                    frame, metadata = reader.read_frame(copy=copy)
                except SegmentFormatError as error:
                    assert name in str(error)  # noqa: PT017
                else:
                    if frame is not None:
                        assert frame.nbytes <= segment.identity["slot_capacity"]
                        assert frame.shape[:2] == (metadata.height, metadata.width)
                        assert len(frame.tobytes()) == frame.nbytes
                writer.write_frame(picture(3))
        assert inspect_segment(name).name == name
        assert reader.status is not None
        assert isinstance(reader.source_reason, str)
        assert isinstance(reader.last_frame_age, float | None)
        assert held is not None
        held.tobytes()


@given(size=st.integers(0, 2 * layout.PIXELS), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_a_file_of_any_size_with_anything_behind_a_good_identity_is_refused_by_name(size: int, seed: int) -> None:
    name = f"test-{os.getpid()}-anything"
    with SharedMemoryFrameWriter(name, SHAPE) as writer:
        writer.write_frame(picture(1))
        identity = path_of(name).read_bytes()[: layout.IDENTITY_BYTES]
    noise = np.random.default_rng(seed).bytes(size)
    path_of(name).write_bytes((identity + noise)[:size])
    try:
        with pytest.raises(SegmentFormatError, match=name):
            SharedMemoryFrameReader(name).attach(timeout=0)
        with pytest.raises(SegmentFormatError, match=name):
            inspect_segment(name)
    finally:
        path_of(name).unlink()


# ---------------------------------------------------------------- everything, all the time

UNTIL_TOLD = """
import threading

over = threading.Event()
threading.Thread(target=lambda: (told(), over.set()), daemon=True).start()
"""

EVIL = (
    UNTIL_TOLD
    + """
import mmap
import segment_layout as layout

with open("/dev/shm/" + sys.argv[1], "r+b") as file:
    words = np.frombuffer(mmap.mmap(file.fileno(), 0), np.uint64)
random = np.random.default_rng(int(sys.argv[2]))
slots = 5 + 2  # and the history

def region(at, count):
    return np.arange(at // 8, at // 8 + count // 8)

# The start of the header is overwritten only now and then: with another identity no reader attaches.
lines = [
    region(layout.PUBLICATION_AT, layout.PUBLICATION_BYTES),
    region(layout.STATISTICS_AT, layout.STATISTICS_BYTES),
    region(layout.DESCRIPTORS_AT, slots * layout.DESCRIPTOR_BYTES),
    region(layout.DESCRIPTORS_AT, slots * layout.DESCRIPTOR_BYTES),
    region(layout.CONTROL, slots * layout.PIN_BYTES),
    region(layout.CONTROL + layout.READERS_AT, 32 * layout.READER_BYTES),
    region(0, layout.REGION),
    region(layout.CONTROL, layout.REGION),
    region(layout.PIXELS, words.size * 8 - layout.PIXELS),
]
identity = words[: layout.IDENTITY_BYTES // 8].copy()
original = words[: layout.PIXELS // 8].copy()
odd = np.array([0, 1, 2, 3, 62, 63, 64, 2**31, 2**32 - 1, 2**57, 2**63, 2**64 - 1], np.uint64)
latest = layout.PUBLICATION_AT // 8
rounds = written = 0
say("evil")
while not over.is_set() or written <= 1000:
    places = random.choice(lines[random.integers(len(lines))], random.integers(1, 20))
    how = random.integers(3)
    if how == 0:
        words[places] = random.integers(0, 2**64, places.size, np.uint64)
    elif how == 1:
        words[places] = random.choice(odd, places.size)
    else:  # nearly right: one bit of the old value changed
        words[places] ^= np.uint64(1) << random.integers(0, 64, places.size).astype(np.uint64)
    written += places.size
    rounds += 1
    if rounds % 4 == 0:  # values are read only when they lead somewhere
        newest = random.integers(4, 2**20)
        words[latest] = newest << 6 | random.integers(0, slots + 2)
        for slot in range(slots):
            at = (layout.DESCRIPTORS_AT + slot * layout.DESCRIPTOR_BYTES) // 8
            words[at] = 2 * (random.integers(1, 2**21) if rounds % 8 else newest - random.integers(0, 4))
    if rounds % 16 == 0:
        words[16 : layout.PIXELS // 8] = original[16:]
    if rounds % 8 == 0:
        words[: identity.size] = identity
words[: layout.PIXELS // 8] = original
say(written)
"""
)

READS = """
import collections

class Impossible(Exception):
    pass

name, kind, seconds, capacity = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
seen = collections.Counter()
held = collections.deque(maxlen=2)
last = collections.Counter()

def fresh():
    return SharedMemoryFrameReader(name, max_leases=3, copy=kind == "copy")

def look(reader):
    way = seen["tries"] % 8
    if way == 0:
        frame, metadata = reader.latest_frame()
    elif way < 4:
        frame, metadata = reader.read_frame(timeout=0.001)
    elif way < 6:
        frame, metadata = reader.read_next(timeout=0.001)
    elif way == 6:
        frame, metadata = reader.frame_at(2**62)
    else:
        frame, metadata = reader.read_frame(sequence=last["sequence"])
    if frame is not None:
        last["sequence"] = metadata.sequence
        seen[f"way {way}"] += 1
    if frame is None:
        return "nothing"
    if frame.nbytes > capacity or frame.shape[:2] != (metadata.height, metadata.width) or not frame.nbytes:
        raise Impossible(frame.shape, frame.dtype)
    frame.tobytes()
    held.append(frame)
    return "view" if metadata.zero_copy else "copy"

def ask(reader):
    reader.status, reader.source_state, reader.source_reason, reader.last_frame_age, reader.statistics.as_dict()
    inspect_segment(name).as_dict()
    return "told"

if kind == "observer":
    os.setuid(65534)
reader = fresh()
until = time.monotonic() + seconds
say("reads")

def saw_all():
    read = all(seen[f"way {way}"] for way in range(8)) and seen["view"] + seen["copy"]
    return read and seen["SegmentFormatError"] and seen["tries"] > 50

while time.monotonic() < until or not saw_all():
    seen["tries"] += 1
    try:
        seen[look(reader)] += 1
        if seen["tries"] % 16 == 0:
            seen[ask(reader)] += 1
    except (BilliardsShmError, TimeoutError) as error:
        assert str(error)
        seen[type(error).__name__] += 1
    if seen["tries"] % 256 == 0:
        for frame in held:
            frame.tobytes()
        held.clear()
        reader.close()
        reader = fresh()
say(*(f"{what.replace(' ', '')}={count}" for what, count in sorted(seen.items())))
"""

WRITES = (
    UNTIL_TOLD
    + """
writer = SharedMemoryFrameWriter(sys.argv[1], (64, 64, 3), slots=5, history=2, mode=0o644)
frames = [picture(number, (64, 64, 3)) for number in range(8)]
for frame in frames:
    writer.write_frame(frame)
say("written")
written = 0
while not over.is_set() or written <= 50:
    writer.write_frame(frames[written % 8])
    written += 1
    if written % 64 == 0:
        writer.update_source(state="streaming", reason=f"frame {written}", fps=30.0)
    time.sleep(0.001)
say(written)
writer.close()
"""
)


def counts_of(line: str) -> dict[str, int]:
    return {what: int(count) for what, _, count in (word.partition("=") for word in line.split())}


def attack(name: str, seconds: float, seed: int) -> None:
    kinds = ["lease", "lease", "copy", "observer"]
    if os.geteuid() != 0:
        kinds.remove("observer")  # test_permissions.py has more on observers
    with ExitStack() as children:
        writer = children.enter_context(Child(WRITES, name))
        assert writer.says() == "written"
        readers = [children.enter_context(Child(READS, name, kind, seconds, 64 * 64 * 3)) for kind in kinds]
        assert [reader.says() for reader in readers] == ["reads"] * len(readers)
        evil = children.enter_context(Child(EVIL, name, seed))
        assert evil.says() == "evil"
        done = [counts_of(reader.says(seconds + 90)) for reader in readers]
        for reader in readers:
            reader.ends_well()
        for child in (evil, writer):
            child.tell()
        words, frames = int(evil.says()), int(writer.says())
        evil.ends_well()
        for kind, counts in zip(kinds, done, strict=True):
            print(f"{kind}: {counts}")
        print(f"{words} words written over {seconds} s, seed {seed}; {frames} frames published in that time")
        writer.ends_well()
    Path(path_of(name)).unlink(missing_ok=True)  # its identity may have been replaced by now, and then it stays


@pytest.mark.slow
def test_a_process_that_rewrites_everything_gives_readers_errors_and_no_signal(segment_name: str) -> None:
    attack(segment_name, seconds=2.0, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_process_that_rewrites_everything_for_longer_gives_readers_errors_and_no_signal(segment_name: str) -> None:
    attack(segment_name, seconds=30.0, seed=int.from_bytes(os.urandom(4), "little"))


def test_a_writer_outlives_the_attack_on_its_segment_and_the_next_one_starts_afresh(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.write_frame(picture(1))
        with opened(path_of(segment_name)) as segment:
            noise = np.random.default_rng(2).bytes(layout.PIXELS - layout.IDENTITY_BYTES)
            os.pwrite(segment.file, noise, layout.IDENTITY_BYTES)
        for number in range(2, 12):
            writer.write_frame(picture(number))
        with SharedMemoryFrameReader(segment_name) as reader:
            try:
                reader.read_frame()
            except BilliardsShmError as error:
                assert segment_name in str(error)  # noqa: PT017
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, SharedMemoryFrameReader(segment_name) as reader:
        assert writer.write_frame(picture(1)) == 1
        assert new_frame(reader)[1].sequence == 1

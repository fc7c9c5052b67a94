"""Memory needs are known in advance, and too little memory is an error that states the bytes: never a signal."""

import os
import re
import struct
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from child_processes import Child, run
from segment_layout import PIXELS, opened, stride_of
from segments_under_test import descriptors, flat, mappings, new_frame, path_of, picture, sees, wait_until

from billiards_shm import (
    SharedMemoryFrameReader,
    SharedMemoryFrameWriter,
    SharedMemoryFullError,
    inspect_segment,
)

FULL_HD = (1080, 1920, 3)
UHD = (2160, 3840, 3)
MIB = 1 << 20


def needed(shape: tuple[int, int, int]) -> int:
    """Bytes of a segment at its start, computed by hand: two regions and three slots."""
    return 131072 + 3 * stride_of(shape[0] * shape[1] * shape[2])


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a new tmpfs of the given size."""
    places: list[Path] = []

    def mount(size: str) -> Path:
        place = tmp_path / f"tmpfs-{len(places)}"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", "-l", place], check=True)


def free(place: Path) -> int:
    status = os.statvfs(place)
    return status.f_bavail * status.f_bsize


def fill(place: Path, leave: int = 0) -> Path:
    """Take all but `leave` bytes."""
    filler = place / "filler"
    with filler.open("ab") as file:
        os.posix_fallocate(file.fileno(), filler.stat().st_size, free(place) - leave)
    return filler


def mapped(of: str) -> int:
    """Bytes of this process's mappings whose file has `of` in its path; neighbours are one mapping to the kernel."""
    ranges = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines() if of in line]
    return sum(int(end, 16) - int(begin, 16) for begin, end in ranges)


# ---------------------------------------------------------------- what a segment takes


@pytest.mark.parametrize(("shape", "megabytes"), [(FULL_HD, 18.7), (UHD, 74.6)], ids=["1080p", "4K"])
def test_a_segment_takes_three_frames_and_at_most_256_kib_while_one_frame_besides_the_newest_is_held(
    segment_name: str, shape: tuple[int, int, int], megabytes: float
) -> None:
    frame_bytes = shape[0] * shape[1] * shape[2]
    frames = [flat(number, shape) for number in range(3)]
    with SharedMemoryFrameWriter(segment_name, shape) as writer, opened(path_of(segment_name)) as segment:
        assert round(3 * frame_bytes / 1e6, 1) == megabytes
        assert 3 * frame_bytes <= segment.allocated <= 3 * frame_bytes + 256 * 1024
        with SharedMemoryFrameReader(segment_name) as reader:
            held = None
            for number in range(12):
                writer.write_frame(frames[number % 3])
                if number % 3 == 0:
                    held, metadata = new_frame(reader)
                    assert metadata.zero_copy
            assert held is not None
            assert (held == 0).all()
        assert segment.allocated <= 3 * frame_bytes + 256 * 1024
        assert writer.statistics.backed_bytes == segment.allocated == inspect_segment(segment_name).allocated_bytes


def test_a_large_segment_is_in_huge_pages_where_the_kernel_offers_them(segment_name: str) -> None:
    release = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    given = Path("/sys/kernel/mm/transparent_hugepage").exists() and release >= (6, 1)
    writer = SharedMemoryFrameWriter(segment_name, UHD)

    def is_in_huge_pages() -> bool:
        nonlocal writer
        lines = Path("/proc/self/smaps").read_text().splitlines()
        if sum(int(line.split()[1]) for line in lines if line.startswith("ShmemPmdMapped")):
            return True
        writer.close()
        writer = SharedMemoryFrameWriter(segment_name, UHD)
        return False

    if given:  # a writer tries for some milliseconds, in which a busy machine may not let it run
        wait_until(is_in_huge_pages, "huge pages")
    with writer:
        for number in range(4):
            writer.write_frame(flat(number, UHD))
            with SharedMemoryFrameReader(segment_name) as reader:
                assert (new_frame(reader)[0] == number).all()


def test_a_plain_for_loop_of_three_readers_never_copies_with_eight_slots(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, (8, 8)) as writer:
        readers = [SharedMemoryFrameReader(segment_name) for _ in range(3)]
        frames = [None] * 3
        for number in range(1, 30):
            writer.write_frame(picture(number, (8, 8)))
            for index, reader in enumerate(readers):
                frames[index], metadata = new_frame(reader)
                assert metadata.zero_copy
        for reader in readers:
            reader.close()


def test_a_further_slot_is_backed_when_leases_leave_no_other_and_not_before(segment_name: str) -> None:
    shape = (512, 512)
    with (
        SharedMemoryFrameWriter(segment_name, shape) as writer,
        SharedMemoryFrameReader(segment_name, max_leases=6) as reader,
        opened(path_of(segment_name)) as segment,
    ):
        held = []
        for number in range(1, 9):
            writer.write_frame(picture(number, shape))
            if number <= 6:
                held.append(new_frame(reader)[0])
        # Six are held, one of them the newest for a while; every frame had a slot.
        assert writer.statistics.backed_slots == 8
        assert segment.allocated == 131072 + 8 * 512 * 512 == writer.statistics.total_bytes
        assert all(sees(view, number) for number, view in enumerate(held, 1))


def test_copies_and_observers_take_no_memory_of_the_segment(segment_name: str) -> None:
    shape = (512, 512)
    with SharedMemoryFrameWriter(segment_name, shape) as writer, opened(path_of(segment_name)) as segment:
        readers = [SharedMemoryFrameReader(segment_name, copy=True) for _ in range(10)]
        copies = []
        for number in range(1, 20):
            writer.write_frame(picture(number, shape))
            copies.extend(new_frame(reader)[0] for reader in readers)
        assert segment.allocated == 131072 + 3 * 512 * 512
        for reader in readers:
            reader.close()


def test_a_reader_that_does_not_wait_maps_no_slot_that_was_never_published(segment_name: str) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, (512, 512), slots=62) as writer,
        opened(path_of(segment_name)) as segment,
    ):
        before = mappings(segment_name)
        with SharedMemoryFrameReader(segment_name) as reader:
            reader.attach()
            attached = mappings(segment_name)
            assert attached - before == 2, "header and control"
            writer.write_frame(picture(1, (512, 512)))
            new_frame(reader)
            assert mappings(segment_name) - attached == 1
        assert segment.allocated == 131072 + 3 * 512 * 512, "reading took nothing"


def test_a_reader_maps_every_slot_that_has_memory_before_it_sleeps(segment_name: str) -> None:
    shape = (512, 512)
    with (
        SharedMemoryFrameWriter(segment_name, shape, slots=62) as writer,
        opened(path_of(segment_name)) as segment,
        SharedMemoryFrameReader(segment_name) as early,
        SharedMemoryFrameReader(segment_name, max_leases=4) as late,
    ):
        before = mapped(segment_name)
        assert early.read_frame(timeout=0.001) == (None, None)
        assert mapped(segment_name) - before == 3 * 512 * 512
        held = []
        for number in range(1, 5):  # the fourth is in a new slot
            writer.write_frame(picture(number, shape))
            held.append(new_frame(late)[0])
        assert segment.allocated == 131072 + 4 * 512 * 512
        before = mapped(segment_name)
        new_frame(early)
        assert mapped(segment_name) - before == 512 * 512
        early.read_frame(timeout=0.001)
        assert mapped(segment_name) - before == 512 * 512, "there is no other slot"
        held.clear()


def test_a_sleeping_reader_allocates_no_memory_for_a_hole(segment_name: str) -> None:
    shape = (512, 512)
    with (
        SharedMemoryFrameWriter(segment_name, shape) as writer,
        opened(path_of(segment_name)) as segment,
        SharedMemoryFrameReader(segment_name) as reader,
    ):
        segment.statistics["backed_slots"] = 2**64 - 1  # a forger may claim more memory than exists
        before = mapped(segment_name)
        assert reader.read_frame(timeout=0.001) == (None, None)
        assert mapped(segment_name) - before == 3 * 512 * 512
        assert segment.allocated == 131072 + 3 * 512 * 512
        writer.write_frame(picture(1, shape))
        assert sees(new_frame(reader)[0], 1)


def test_frames_of_any_shape_are_right_in_slots_that_were_mapped_ahead(segment_name: str) -> None:
    shapes = [(64, 64), (32, 128), (64, 64, 3), (16, 16), (64, 64)]
    with (
        SharedMemoryFrameWriter(segment_name, (64, 64, 3)) as writer,
        SharedMemoryFrameReader(segment_name, max_leases=5) as reader,
    ):
        held = []
        for number, shape in enumerate(shapes, 1):
            writer.write_frame(picture(number, shape))
            frame, metadata = new_frame(reader)
            assert (frame.shape, metadata.sequence, metadata.zero_copy) == (shape, number, True)
            held.append(frame)
            assert reader.read_frame(timeout=0.001) == (None, None)  # arrays are made for slots without a frame yet
        assert all(sees(frame, number) for number, frame in enumerate(held, 1))


@pytest.mark.slow
def test_a_closed_writer_returns_the_memory(mounted: Callable[[str], Path]) -> None:
    place = mounted("32m")
    before = free(place)
    for _ in range(3):
        with SharedMemoryFrameWriter(str(place / "video"), FULL_HD) as writer:
            writer.write_frame(flat(1, FULL_HD))
            assert before - free(place) == needed(FULL_HD)
        assert free(place) == before


@pytest.mark.slow
def test_replacing_a_segment_again_and_again_leaves_no_memory_taken(mounted: Callable[[str], Path]) -> None:
    place = mounted("32m")
    before = free(place)
    with SharedMemoryFrameWriter(str(place / "video"), (64, 64)) as writer:
        for number in range(1, 60):
            writer.write_frame(flat(number, (64 + number, 64 + number, 3)))
        assert before - free(place) == writer.statistics.backed_bytes
    assert free(place) == before


# ---------------------------------------------------------------- too little from the start


@pytest.mark.slow
@pytest.mark.parametrize(("size", "shape"), [("32m", UHD), ("64m", UHD), ("16m", FULL_HD)])
def test_a_segment_that_does_not_fit_is_refused_with_the_bytes_needed_and_nothing_is_left(
    mounted: Callable[[str], Path], size: str, shape: tuple[int, int, int]
) -> None:
    place = mounted(size)
    before, files = free(place), descriptors()
    for _ in range(3):
        with pytest.raises(SharedMemoryFullError, match=f"{needed(shape)} bytes") as caught:
            SharedMemoryFrameWriter(str(place / "video"), shape)
        assert isinstance(caught.value, OSError)
        assert caught.value.errno == 28
        assert f"{before / 1e6:.1f} MB" in str(caught.value), "and what there is"
        assert str(place / "video") in str(caught.value)
        assert list(place.iterdir()) == []
        assert free(place) == before
    assert descriptors() == files
    assert mappings(str(place)) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("size", "shape"), [("32m", FULL_HD), ("72m", UHD)])
def test_a_segment_that_just_fits_works(mounted: Callable[[str], Path], size: str, shape: tuple[int, int, int]) -> None:
    name = str(mounted(size) / "video")
    with SharedMemoryFrameWriter(name, shape) as writer, SharedMemoryFrameReader(name) as reader:
        for number in range(1, 7):
            assert writer.write_frame(flat(number, shape)) == number
            frame = new_frame(reader, copy=True)[0]
            assert (frame == number).all()


@pytest.mark.slow
def test_a_full_file_system_does_not_disturb_the_segments_on_it(mounted: Callable[[str], Path]) -> None:
    place = mounted("32m")
    name = str(place / "video")
    with SharedMemoryFrameWriter(name, FULL_HD) as writer, SharedMemoryFrameReader(name) as reader:
        fill(place)
        assert free(place) == 0
        with pytest.raises(SharedMemoryFullError):
            SharedMemoryFrameWriter(str(place / "other"), (8, 8))
        for number in range(1, 10):
            assert writer.write_frame(flat(number, FULL_HD)) == number
            assert (new_frame(reader)[0] == number).all()
        assert sorted(entry.name for entry in place.iterdir()) == ["filler", "video"]


@pytest.mark.slow
def test_running_out_of_inodes_is_an_error_that_says_so(mounted: Callable[[str], Path]) -> None:
    place = mounted("32m,nr_inodes=3")
    (place / "one").touch()
    (place / "two").touch()
    with pytest.raises(SharedMemoryFullError):
        SharedMemoryFrameWriter(str(place / "video"), (8, 8))


# ---------------------------------------------------------------- too little later


@pytest.mark.slow
def test_growth_that_is_refused_drops_the_frame_counts_it_and_warns_once(mounted: Callable[[str], Path]) -> None:
    place = mounted("32m")
    name = str(place / "video")
    shape = (1024, 1024, 3)
    with SharedMemoryFrameWriter(name, shape) as writer, SharedMemoryFrameReader(name) as reader:
        writer.write_frame(flat(1, shape))
        first = new_frame(reader)[0]
        writer.write_frame(flat(2, shape))
        second = new_frame(reader)[0]
        assert writer.write_frame(flat(3, shape)) == 3, "the third slot"
        fill(place)
        with pytest.warns(RuntimeWarning, match=f"{name}.*dropped.*{stride_of(1024 * 1024 * 3)} bytes") as said:
            assert writer.write_frame(flat(4, shape)) == 0
        assert len(said) == 1
        assert said[0].filename == __file__, "it points at the caller"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(10):
                assert writer.write_frame(flat(4, shape)) == 0
        assert writer.statistics.dropped == 11 == inspect_segment(name).dropped
        assert writer.sequence == 3, "no number was used up"
        assert (first == 1).all()
        assert (second == 2).all()
        third, metadata = new_frame(reader)
        assert (metadata.sequence, metadata.skipped) == (3, 0)
        assert (third == 3).all()
        del first
        assert writer.write_frame(flat(5, shape)) == 4, "a view was released"


@pytest.mark.slow
def test_a_loan_that_cannot_be_backed_raises_and_counts(mounted: Callable[[str], Path]) -> None:
    place = mounted("32m")
    name = str(place / "video")
    shape = (1024, 1024, 3)
    with SharedMemoryFrameWriter(name, shape) as writer, SharedMemoryFrameReader(name) as reader:
        held = []
        for number in (1, 2):
            writer.write_frame(flat(number, shape))
            held.append(new_frame(reader)[0])
        writer.write_frame(flat(3, shape))
        filler = fill(place)
        for dropped in (1, 2, 3):
            with pytest.raises(SharedMemoryFullError, match=f"{stride_of(1024 * 1024 * 3)} bytes"):
                writer.loan()
            assert writer.statistics.dropped == dropped
        filler.unlink()
        slot = wait_until(lambda: loan_or_none(writer), "growing once there is room")
        slot.array[:] = 4
        assert slot.publish() == 4
        assert writer.statistics.backed_slots == 4
        assert [int(view[0, 0, 0]) for view in held] == [1, 2]


def loan_or_none(writer: SharedMemoryFrameWriter) -> object:
    try:
        return writer.loan()
    except SharedMemoryFullError:
        return None


@pytest.mark.slow
def test_refused_growth_leaves_nothing_of_the_attempt_behind(mounted: Callable[[str], Path]) -> None:
    place = mounted("32m")
    name = str(place / "video")
    shape = (1024, 1024, 3)
    with SharedMemoryFrameWriter(name, shape) as writer, SharedMemoryFrameReader(name) as reader:
        held = []
        for number in (1, 2):
            writer.write_frame(flat(number, shape))
            held.append(new_frame(reader)[0])
        writer.write_frame(flat(3, shape))
        fill(place, leave=2 * MIB + 65536)
        before = free(place)
        assert 0 < before < 3 * MIB, "room for a part of a slot"
        with pytest.warns(RuntimeWarning):
            assert writer.write_frame(flat(4, shape)) == 0
        assert free(place) == before
        assert [int(view[-1, -1, -1]) for view in held] == [1, 2]


@pytest.mark.slow
def test_a_larger_frame_that_finds_no_room_is_refused_and_the_old_segment_goes_on(
    mounted: Callable[[str], Path],
) -> None:
    place = mounted("32m")
    name = str(place / "video")
    with SharedMemoryFrameWriter(name, FULL_HD) as writer, SharedMemoryFrameReader(name) as reader:
        writer.write_frame(flat(1, FULL_HD))
        view = new_frame(reader)[0]
        generation = writer.generation
        before = free(place)
        for use in (lambda: writer.write_frame(flat(2, UHD)), lambda: writer.loan(UHD)):
            with pytest.raises(SharedMemoryFullError, match=f"{needed(UHD)} bytes"):
                use()
        assert free(place) == before
        assert [entry.name for entry in place.iterdir()] == ["video"]
        assert writer.write_frame(flat(2, FULL_HD)) == 2
        assert writer.generation == generation
        assert (new_frame(reader)[0] == 2).all()
        assert (view == 1).all()


# ---------------------------------------------------------------- takeover with little room

DEAD_WRITER = """
shape = (1080, 1920, 3)
writer = SharedMemoryFrameWriter(sys.argv[1], shape)
for number in (1, 2):
    writer.write_frame(flat(number, shape))
    say(number)
    told()
"""


@pytest.mark.slow
def test_a_takeover_works_on_a_file_system_with_room_for_one_generation_only(mounted: Callable[[str], Path]) -> None:
    place = mounted("32m")
    name = str(place / "video")
    assert needed(FULL_HD) < 32 * MIB < 2 * needed(FULL_HD)
    with Child(DEAD_WRITER, name) as child, SharedMemoryFrameReader(name) as reader:
        child.says()
        first = new_frame(reader)[0]
        child.tell()
        child.says()
        second = new_frame(reader)[0]
        child.kill()
        with SharedMemoryFrameWriter(name, FULL_HD) as writer, SharedMemoryFrameReader(name) as late:
            assert late.read_frame() == (None, None)
            number = writer.write_frame(flat(3, FULL_HD))
            assert number in (3, 4)
            frame, metadata = new_frame(reader)
            assert metadata.sequence == number
            assert (frame == 3).all()
            assert (first == 1).all(), "what is held stays, though memory was short"
            assert (second == 2).all()
            del frame, first, second
            for more in range(4, 10):
                assert writer.write_frame(flat(more, FULL_HD)) > number
                assert (new_frame(reader)[0] == more).all()
    assert list(place.iterdir()) == []


@pytest.mark.slow
def test_a_takeover_without_any_room_is_refused_and_the_newest_frame_stays(mounted: Callable[[str], Path]) -> None:
    place = mounted("32m")
    name = str(place / "video")
    with Child(DEAD_WRITER, name) as child:
        child.says()
        child.tell()
        child.says()
        child.kill()
    fill(place)
    for _ in range(2):
        with pytest.raises(SharedMemoryFullError, match=f"{needed(FULL_HD)} bytes"):
            SharedMemoryFrameWriter(name, FULL_HD)
        with SharedMemoryFrameReader(name) as reader:
            frame, metadata = new_frame(reader)
            assert metadata.sequence == 2
            assert (frame == 2).all()
    (place / "filler").unlink()
    with SharedMemoryFrameWriter(name, FULL_HD) as writer:
        assert writer.write_frame(flat(3, FULL_HD)) > 2


@pytest.mark.slow
def test_nobody_gets_sigbus_when_the_file_system_fills_up(mounted: Callable[[str], Path]) -> None:
    place = mounted("32m")
    printed = run(
        """
        import warnings
        warnings.simplefilter("ignore", RuntimeWarning)
        name, filler = sys.argv[1:]
        shape = (1024, 1024, 3)

        def fill():
            with open(filler, "wb") as file:
                status = os.statvfs(filler)
                os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_bsize)

        with SharedMemoryFrameWriter(name, shape) as writer:
            lease, copy = SharedMemoryFrameReader(name, max_leases=6), SharedMemoryFrameReader(name, max_leases=0)
            held, dropped, written = [], 0, 0
            for number in range(1, 60):
                if number == 10:
                    fill()
                if writer.write_frame(flat(number, shape)):
                    written += 1
                    frame, metadata = new_frame(lease)
                    assert (frame == number).all()
                    own, _ = new_frame(copy)
                    assert (own == number).all()
                    held = (held + [(number, frame)])[-(number % 5) - 1:]
                else:
                    dropped += 1
                    held = held[1:]
                for expected, view in held:
                    assert (view == expected).all()
            try:
                SharedMemoryFrameWriter(name + "-2", shape)
            except SharedMemoryFullError:
                say("full", written, dropped)
            # Release every slot: those never published are holes on a full file system.
            del held, frame, view
            for number in range(60, 90):
                assert writer.write_frame(flat(number, shape))
                with SharedMemoryFrameReader(name) as late:
                    assert (new_frame(late)[0] == number).all()
        """,
        place / "video",
        place / "filler",
    )
    word, written, dropped = printed.split()
    print(f"{written} frames written, {dropped} dropped for lack of memory")
    assert word == "full"
    assert int(dropped) > 0
    assert int(written) > 20


@pytest.mark.slow
def test_a_segment_with_holes_on_a_full_file_system_is_a_named_error_and_never_sigbus(
    mounted: Callable[[str], Path],
) -> None:
    place = mounted("8m")
    source = place / "source"
    code = """
    writer = SharedMemoryFrameWriter(sys.argv[1], (512, 512, 3))
    for number in (1, 2, 3):
        writer.write_frame(flat(number, (512, 512, 3)))
    say("written")
    told()
    """
    with Child(code, source) as child:
        child.says()
        child.kill()
    whole = source.read_bytes()
    latest = struct.unpack_from("=Q", whole, 256)[0] & 63
    newest = PIXELS + latest * stride_of(512 * 512 * 3)
    source.unlink()
    holey = place / "holey"
    for kept in (4096, 8192, 65536, 65536 + 4096, PIXELS, newest + 4096, newest + 512 * 512):
        with holey.open("wb") as file:  # as `cp --sparse` or a truncated copy leaves it
            file.write(whole[:4096])
            if kept > PIXELS:
                file.write(whole[4096:PIXELS])
                file.seek(newest)
                file.write(whole[newest:kept])
            else:
                file.write(whole[4096:kept])
            file.truncate(len(whole))
        filler = fill(place)
        printed = run(
            """
            for options in ({}, {"copy": True}, {"max_leases": 0}):
                try:
                    with SharedMemoryFrameReader(sys.argv[1], **options) as reader:
                        frame, metadata = reader.read_frame()
                        say("nothing" if frame is None else int(frame[0, 0, 0]))
                        if frame is not None:
                            frame.sum()
                except SegmentFormatError as error:
                    assert sys.argv[1] in str(error)
                    say("refused")
            inspect_segment(sys.argv[1])
            """,
            holey,
        ).split()
        assert set(printed) <= {"refused", "nothing", "3"}, "zeros are not a frame"
        filler.unlink()
        holey.unlink()


@pytest.mark.slow
def test_a_name_lost_on_a_full_file_system_is_regained_when_there_is_room(
    mounted: Callable[[str], Path],
) -> None:
    place = mounted("8m")
    name = str(place / "video")
    shape = (512, 512, 3)
    with SharedMemoryFrameWriter(name, shape) as writer, SharedMemoryFrameReader(name) as reader:
        writer.write_frame(flat(1, shape))
        new_frame(reader)
        (place / "video").unlink()
        filler = fill(place)
        until = time.monotonic() + 1.3  # beyond the look once a second
        number = 1
        while time.monotonic() < until:
            number += 1
            assert writer.write_frame(flat(number, shape)) == number, "who is attached still gets frames"
            assert (new_frame(reader)[0] == number % 251).all()
        assert not (place / "video").exists()
        filler.unlink()
        wait_until(lambda: writer.write_frame(flat(1, shape)) and (place / "video").exists())
        assert new_frame(reader)[1].sequence > number


@pytest.mark.slow
def test_starting_with_too_little_room_never_ends_in_sigbus(mounted: Callable[[str], Path]) -> None:
    place = mounted("16m")
    code = """
    directory = sys.argv[1]
    made = 0
    for leave in range(0, 8 << 20, 300_001):
        filler = os.path.join(directory, "filler")
        with open(filler, "wb") as file:
            status = os.statvfs(directory)
            os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_bsize - leave // 4096 * 4096 or 1)
        try:
            with SharedMemoryFrameWriter(os.path.join(directory, "video"), (700, 700, 3)) as writer:
                writer.write_frame(flat(1, (700, 700, 3)))
                made += 1
        except SharedMemoryFullError:
            pass
        assert os.listdir(directory) == ["filler"]
        os.unlink(filler)
    say(made)
    """
    made = int(run(code, place))
    assert 0 < made < 20


# ---------------------------------------------------------------- other file systems


@pytest.mark.slow
def test_a_segment_works_where_fallocate_does_not(tmp_path: Path, mounted: Callable[[str], Path]) -> None:
    mounted("1m")  # a user who may mount a tmpfs may mount a ramfs
    place = tmp_path / "ramfs"
    place.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "ramfs", place], check=True)
    try:
        name = str(place / "video")
        with (
            SharedMemoryFrameWriter(name, (100, 100, 3)) as writer,
            SharedMemoryFrameReader(name, max_leases=6) as reader,
        ):
            held = []
            for number in range(1, 20):
                assert writer.write_frame(picture(number, (100, 100, 3))) == number
                if number < 6:
                    held.append(new_frame(reader)[0])
            assert all(sees(view, number) for number, view in enumerate(held, 1))
        assert list(place.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_process_that_locks_its_memory_backs_no_more_than_three_slots(segment_name: str) -> None:
    run(
        """
        import ctypes, mmap
        assert ctypes.CDLL(None, use_errno=True).mlockall(3) == 0, "MCL_CURRENT | MCL_FUTURE"
        name, shape = sys.argv[1], (480, 640, 3)
        with SharedMemoryFrameWriter(name, shape, slots=62) as writer, SharedMemoryFrameReader(name) as reader:
            for number in range(1, 8):
                writer.write_frame(np.full(shape, number, np.uint8))
                assert (reader.read_frame()[0] == number).all()
            info = inspect_segment(name)
            assert info.backed_slots == 3, info
            assert info.allocated_bytes == info.backed_bytes
        """,
        segment_name,
    )

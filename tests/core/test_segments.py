"""Segments seen from outside: listed, inspected and, when their writer is dead, removed."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from child_processes import Child
from segment_layout import opened, set_frame_age
from segments_under_test import LARGER, SHAPE, descriptors, new_frame, path_of, picture, sees

from billiards_shm import (
    ReaderInfo,
    SegmentFormatError,
    SegmentInfo,
    SegmentNameError,
    SegmentNotFoundError,
    SegmentStatus,
    SharedMemoryFrameReader,
    SharedMemoryFrameWriter,
    SourceState,
    inspect_segment,
    list_segments,
    remove_stale_segments,
    segments,
)
from billiards_shm.statistics import STATISTICS


@pytest.fixture
def dead(segment_name: str) -> Iterator[str]:
    """The name of a segment whose writer was killed."""
    with Child("write_and_wait(sys.argv[1])", segment_name) as child:
        child.says()
        child.kill()
    yield segment_name
    path_of(segment_name).unlink(missing_ok=True)


# ---------------------------------------------------------------- inspect


def test_inspection_tells_everything_about_a_segment(segment_name: str) -> None:
    before = time.time_ns()
    with SharedMemoryFrameWriter(segment_name, SHAPE, slots=5, mode=0o640) as writer:
        writer.update_source(
            state="streaming",
            reason="all is well",
            backend="FFMPEG",
            fps=25,
            captured=3,
            reconnects=4,
            stalls=5,
            loops=6,
            lost=8,
            clock_offset_ms=-40.5,
        )
        writer.write_frame(picture(1), clock="sender")
        set_frame_age(path_of(segment_name), 1)
        with SharedMemoryFrameReader(segment_name) as reader:
            view = new_frame(reader)[0]
            found = inspect_segment(segment_name)
            assert isinstance(found, SegmentInfo)
            assert found.readers == (
                ReaderInfo(
                    pid=os.getpid(),
                    name=Path("/proc/self/comm").read_text().strip(),
                    kind="lease",
                    frames=1,
                    skipped=0,
                    copies=0,
                    last_sequence=1,
                    attached_wall_ns=found.readers[0].attached_wall_ns,
                    leases=1,
                ),
            )
            assert before <= found.created_wall_ns <= found.readers[0].attached_wall_ns <= time.time_ns()
            del view
    told = found.as_dict()
    for field in ("created_wall_ns", "readers"):
        told.pop(field)
    assert told.pop("last_frame_age") >= 1
    assert told.pop("heartbeat_age") >= 0
    assert sum(told.pop("write_latency_buckets")) == 1
    assert told == {
        **dict.fromkeys(STATISTICS, 0),
        "name": segment_name,
        "path": f"/dev/shm/{segment_name}",
        "status": "live",
        "generation": writer.generation,
        "abi": (2, 0),
        "writer_pid": os.getpid(),
        "owner": os.geteuid(),
        "group": os.getegid(),
        "mode": 0o640,
        "total_bytes": 131072 + 5 * 65536,
        "backed_bytes": 131072 + 3 * 65536,
        "allocated_bytes": 131072 + 3 * 65536,
        "slots": 5,
        "history": 0,
        "backed_slots": 3,
        "slot_capacity": 24 * 32 * 3,
        "sequence": 1,
        "published": 1,
        "bytes_written": 24 * 32 * 3,
        "captured": 3,
        "reconnects": 4,
        "stalls": 5,
        "loops": 6,
        "unreadable": 0,
        "lost": 8,
        "fps": 25.0,
        "clock": "sender",
        "clock_offset_ms": -40.5,
        "source_state": "streaming",
        "source_reason": "all is well",
        "backend": "FFMPEG",
        "width": 32,
        "height": 24,
        "channels": 3,
        "dtype": "uint8",
        "pixel_format": "BGR24",
    }


def test_inspection_before_the_first_frame_has_no_geometry(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE):
        found = inspect_segment(segment_name)
    assert (found.width, found.height, found.channels, found.dtype, found.pixel_format) == (None,) * 5
    assert (found.sequence, found.last_frame_age, found.fps) == (0, None, 0.0)
    assert found.source_state is SourceState.UNKNOWN
    assert found.status is SegmentStatus.LIVE


def test_an_inspection_can_be_written_as_json(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, SharedMemoryFrameReader(segment_name) as reader:
        for shape in (None, SHAPE, LARGER):
            if shape is not None:
                writer.write_frame(picture(1, shape))
                new_frame(reader)
            found = json.loads(json.dumps(inspect_segment(segment_name).as_dict()))
            assert found["name"] == segment_name


def test_a_rate_measured_before_the_frames_stopped_is_not_reported(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.update_source(fps=30)
        writer.write_frame(picture(1))
        set_frame_age(path_of(segment_name), -100)
        assert inspect_segment(segment_name).fps == 30
        set_frame_age(path_of(segment_name), 3)
        assert inspect_segment(segment_name).fps == 0


@pytest.mark.parametrize(("clock", "shown"), [("driver", 0.001), ("sender", 0.001), ("arrival", None)])
def test_the_offset_of_a_clock_is_shown_while_frames_have_their_time_from_it(
    segment_name: str, clock: str, shown: float | None
) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        assert inspect_segment(segment_name).clock is None
        writer.write_frame(picture(1), clock=clock)
        assert inspect_segment(segment_name).clock == clock
        assert inspect_segment(segment_name).clock_offset_ms is None, "it is not known"
        writer.update_source(clock_offset_ms=0.001)
        writer.update_source(fps=25)
        assert inspect_segment(segment_name).clock_offset_ms == shown
        writer.write_frame(picture(2), online=False)
        assert inspect_segment(segment_name).clock_offset_ms is None
        writer.write_frame(picture(3), clock=clock)
        for offset_ms in (0, -1e-6):
            writer.update_source(clock_offset_ms=offset_ms)
            assert inspect_segment(segment_name).clock_offset_ms == (None if shown is None else 1e-6)


def test_inspecting_attaches_nothing_and_leaves_no_file_open(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.write_frame(picture(1))
        files = descriptors()
        for _ in range(20):
            assert inspect_segment(segment_name).readers == ()
        assert descriptors() == files


def test_inspecting_does_not_take_memory_for_slots_that_have_none(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, (512, 512), slots=60), opened(path_of(segment_name)) as segment:
        allocated = segment.allocated
        inspect_segment(segment_name)
        list_segments()
        assert segment.allocated == allocated


def test_many_readers_are_all_shown_until_they_leave(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.write_frame(picture(1))
        readers = [SharedMemoryFrameReader(segment_name) for _ in range(70)]
        for reader in readers:
            new_frame(reader)
        assert len(inspect_segment(segment_name).readers) == 70
        for reader in readers[::2]:
            reader.close()
        assert len(inspect_segment(segment_name).readers) == 35
        with SharedMemoryFrameReader(segment_name) as late:
            late.attach()
            assert len(inspect_segment(segment_name).readers) == 36, "a place is used again"
        for reader in readers:
            reader.close()
        assert inspect_segment(segment_name).readers == ()


def test_readers_beyond_the_places_in_the_table_still_read(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.write_frame(picture(1))
        readers = [SharedMemoryFrameReader(segment_name) for _ in range(260)]
        for reader in readers:
            assert sees(new_frame(reader)[0], 1)
        assert len(inspect_segment(segment_name).readers) == 256
        for reader in readers:
            reader.close()


def test_a_dead_segment_is_reported_as_dead(dead: str) -> None:
    found = inspect_segment(dead)
    assert found.status is SegmentStatus.DEAD
    assert (found.sequence, found.fps) == (1, 0)
    assert (found.width, found.height) == (32, 24)


@pytest.mark.parametrize("path", [False, True])
def test_inspecting_a_missing_segment_is_segment_not_found(segment_name: str, tmp_path: Path, path: bool) -> None:
    name = str(tmp_path / "video") if path else segment_name
    with pytest.raises(SegmentNotFoundError, match=name) as caught:
        inspect_segment(name)
    assert isinstance(caught.value, FileNotFoundError)


# ---------------------------------------------------------------- list


def test_living_and_dead_segments_are_listed_by_name_and_paths_after_them(segment_name: str, tmp_path: Path) -> None:
    path = str(tmp_path / "video")
    with (
        SharedMemoryFrameWriter(segment_name + "-b", SHAPE),
        SharedMemoryFrameWriter(segment_name + "-a", SHAPE),
        SharedMemoryFrameWriter(path, SHAPE),
        Child("write_and_wait(sys.argv[1])", segment_name + "-c") as child,
    ):
        child.says()
        child.kill()
        found = [each for each in list_segments([path]) if each.name.startswith(segment_name) or each.name == path]
        assert [each.name for each in found] == [f"{segment_name}-{letter}" for letter in "abc"] + [path]
        assert [str(each.status) for each in found] == ["live", "live", "dead", "live"]
        remove_stale_segments([segment_name + "-c"])


def test_paths_that_are_not_segments_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    names = {found.name for found in list_segments([str(tmp_path / "text"), str(tmp_path / "none"), str(tmp_path)])}
    assert not any(str(tmp_path) in name for name in names)


def test_a_segment_that_goes_while_the_list_is_made_is_left_out(
    segment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SharedMemoryFrameWriter(segment_name, SHAPE)
    every = segments.object_names

    def and_then_one_goes() -> list[str]:
        names = every()
        assert segment_name in names
        writer.close()
        return names

    monkeypatch.setattr(segments, "object_names", and_then_one_goes)
    assert segment_name not in {found.name for found in list_segments()}


# ---------------------------------------------------------------- remove


def test_a_dead_segment_is_removed_and_named(dead: str) -> None:
    assert remove_stale_segments([dead]) == [dead]
    assert not path_of(dead).exists()
    assert remove_stale_segments([dead]) == []


@pytest.fixture
def only_ours(segment_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What other programs on this machine left does not concern a test."""
    every = segments.object_names
    monkeypatch.setattr(segments, "object_names", lambda: [n for n in every() if n.startswith(segment_name)])


@pytest.mark.usefixtures("only_ours")
def test_without_names_every_dead_segment_is_removed_and_nothing_else(dead: str) -> None:
    foreign = path_of(dead + "-foreign")
    foreign.write_text("mine")
    with SharedMemoryFrameWriter(dead + "-living", SHAPE) as writer:
        removed = remove_stale_segments()
        assert dead in removed
        assert dead + "-living" not in removed
        assert writer.write_frame(picture(1)) == 1
        assert path_of(dead + "-living").exists()
    assert not path_of(dead).exists()
    assert foreign.read_text() == "mine"
    foreign.unlink()


def test_living_segments_are_spared_even_when_named(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, SharedMemoryFrameReader(segment_name) as reader:
        for number in range(1, 4):
            assert remove_stale_segments([segment_name]) == []
            assert writer.write_frame(picture(number)) == number
            assert sees(new_frame(reader)[0], number)


def test_a_dead_segment_is_removed_though_readers_hold_its_frames(dead: str) -> None:
    with SharedMemoryFrameReader(dead) as reader:
        view = new_frame(reader)[0]
        assert remove_stale_segments([dead]) == [dead]
        assert sees(view, 1)
        assert reader.status is SegmentStatus.DEAD


def test_a_segment_that_was_closed_and_not_unlinked_is_removed(dead: str) -> None:
    with opened(path_of(dead)) as segment:
        segment.publication["state"] = 3
    assert inspect_segment(dead).status is SegmentStatus.CLOSED
    assert remove_stale_segments([dead]) == [dead]


def test_removing_by_path_works_and_cleans_up_next_to_it(tmp_path: Path) -> None:
    path = tmp_path / "video"
    with Child("write_and_wait(sys.argv[1])", path) as child:
        child.says()
        child.kill()
    assert remove_stale_segments([str(path)]) == [str(path)]
    assert list(tmp_path.iterdir()) == []


def test_names_of_other_objects_are_errors(segment_name: str, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("hello")
    with pytest.raises(SegmentFormatError):
        remove_stale_segments([str(text)])
    with pytest.raises(SegmentNameError):
        remove_stale_segments(["not allowed"])
    assert text.read_text() == "hello"


def test_a_name_given_as_a_string_is_not_taken_for_many_names_of_one_letter(dead: str) -> None:
    for use in (remove_stale_segments, list_segments):
        with pytest.raises(TypeError):
            use(dead)
    assert path_of(dead).exists()


# ---------------------------------------------------------------- what a creator that died left

TEMPORARY = ".bshm-0123456789abcdef~"


def leave_temporary(directory: Path, age_s: float, content: bytes = b"") -> Path:
    path = directory / TEMPORARY
    path.write_bytes(content)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


@pytest.mark.parametrize("content", [b"", b"BILLISHM" + bytes(200_000)])
def test_a_temporary_of_a_dead_creator_is_removed_when_it_is_old(tmp_path: Path, content: bytes) -> None:
    path = leave_temporary(tmp_path, 11, content)
    assert remove_stale_segments([str(tmp_path / "video")]) == [str(path)]
    assert not path.exists()


def test_a_young_temporary_is_spared(tmp_path: Path) -> None:
    path = leave_temporary(tmp_path, 8)
    assert remove_stale_segments([str(tmp_path / "video")]) == []
    assert path.exists()


def test_an_old_temporary_whose_creator_lives_is_spared(tmp_path: Path) -> None:
    # What a living creator holds: a segment with that name.
    path = tmp_path / TEMPORARY
    with SharedMemoryFrameWriter(str(path), SHAPE):
        os.utime(path, (time.time() - 1000,) * 2)
        assert remove_stale_segments([str(tmp_path / "video")]) == []
        assert path.exists()


@pytest.mark.parametrize(
    "name", [".bshm-0123456789abcde~", ".bshm-0123456789abcdef", ".bshm-0123456789ABCDEF~", "bshm-0123456789abcdef~"]
)
def test_a_file_that_only_looks_like_a_temporary_is_spared(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"")
    os.utime(path, (0, 0))
    assert remove_stale_segments([str(tmp_path / "video")]) == []
    assert path.exists()


def test_a_directory_or_link_named_like_a_temporary_is_spared(tmp_path: Path) -> None:
    (tmp_path / TEMPORARY).mkdir()
    os.utime(tmp_path / TEMPORARY, (0, 0))
    link = tmp_path / ".bshm-fedcba9876543210~"
    link.symlink_to("/etc/hostname")
    os.utime(link, (0, 0), follow_symlinks=False)
    assert remove_stale_segments([str(tmp_path / "video")]) == []
    assert (tmp_path / TEMPORARY).is_dir()
    assert link.is_symlink()


def test_a_creator_killed_at_any_moment_leaves_at_most_a_temporary_that_clean_removes(tmp_path: Path) -> None:
    code = """
    say("ready")
    number = 0
    while True:
        with SharedMemoryFrameWriter(sys.argv[1], LARGER, slots=20):
            pass
    """
    path = tmp_path / "video"
    left = 0
    for delay in (0.0, 0.001, 0.002, 0.003, 0.005):
        with Child(code, path) as child:
            child.says()
            time.sleep(delay)
            child.kill()
        for temporary in tmp_path.glob(".bshm-*~"):
            os.utime(temporary, (0, 0))
            left += 1
        remove_stale_segments([str(path)])
        assert list(tmp_path.iterdir()) == []
    print(f"{left} temporaries were left and removed")

"""The bytes of a segment are as specified; derived here without the C code.

The tables of segment_layout.py are compared with real objects on one side and with the header's declarations on the
other, so a field that is moved, added, or changes its type unnoticed fails here.
"""

import math
import os
import re
import struct
import time
from pathlib import Path

import pytest
import segment_layout as layout
from child_processes import Child
from repository import CSRC, ROOT
from segment_layout import SegmentObject, fnv1a, opened, stride_of
from segments_under_test import LARGER, SHAPE, new_frame, path_of, picture

from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter, _core
from billiards_shm.pixel_formats import PIXEL_FORMATS
from billiards_shm.statistics import STATISTICS

HEADER = CSRC / "billiards_shm.h"
MIRROR = ROOT / "billiards_shm" / "_abi.pxd"

# ---------------------------------------------------------------- a fresh segment


def test_the_identity_records_what_the_writer_was_asked_for(segment_name: str) -> None:
    before = time.time_ns(), time.monotonic_ns()
    with SharedMemoryFrameWriter(segment_name, (100, 200, 3), dtype="uint16", slots=5) as writer:
        with opened(path_of(segment_name)) as segment:
            identity = {field: segment.identity[field] for field in segment.identity}
        assert identity.pop("generation").hex() == writer.generation
    assert before[0] <= identity.pop("created_wall_ns") <= time.time_ns()
    assert before[1] <= identity.pop("created_ns") <= time.monotonic_ns()
    for random_or_derived in ("series", "checksum"):
        identity.pop(random_or_derived)
    capacity = 100 * 200 * 3 * 2
    assert identity == {
        "magic": b"BILLISHM",
        "abi_major": 2,
        "abi_minor": 0,
        "header_bytes": 65536,
        "byte_order": 0x0A0B0C0D,
        "slot_count": 5,
        "total_bytes": 131072 + 5 * stride_of(capacity),
        "slot_stride": stride_of(capacity),
        "slot_capacity": capacity,
        "control_offset": 65536,
        "pixels_offset": 131072,
        "base_sequence": 0,
        "writer_pid": os.getpid(),
        "descriptor_offset": 4096,
        "token_count": 3,
        "history": 0,
    }
    assert _core.ABI_VERSION == (2, 0)


def test_the_checksum_is_fnv1a_of_the_identity_before_it(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE), opened(path_of(segment_name)) as segment:
        assert segment.identity["checksum"] == fnv1a(os.pread(segment.file, 128, 0))


def test_the_fnv1a_of_these_tests_is_the_published_one() -> None:
    assert fnv1a(b"") == 0xCBF29CE484222325
    assert fnv1a(b"foobar") == 0x85944171F73967E8


def test_two_segments_never_have_the_same_generation(segment_name: str) -> None:
    seen = set()
    for _ in range(20):
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            seen.add(writer.generation)
            assert len(writer.generation) == 32
    assert len(seen) == 20


def test_a_series_spans_replacement_and_takeover_and_a_clean_restart_begins_another(
    segment_name: str,
) -> None:
    def series() -> int:
        with opened(path_of(segment_name)) as segment:
            return int(segment.identity["series"])

    with Child("write_and_wait(sys.argv[1])", segment_name) as child:
        child.says()
        first = series()
        child.kill()
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        assert series() == first, "a takeover goes on"
        writer.write_frame(picture(2, LARGER))
        assert series() == first, "a replacement goes on"
    with SharedMemoryFrameWriter(segment_name, SHAPE):
        assert series() != first, "a restart after a clean close does not"


@pytest.mark.parametrize("slots", [3, 8, 62])
@pytest.mark.parametrize("shape", [(1, 1), (256, 256), (257, 255), (256, 257), (1080, 1920, 3)])
def test_regions_and_slots_begin_on_64_kib_and_the_object_has_exactly_their_size(
    segment_name: str, shape: tuple[int, ...], slots: int
) -> None:
    with SharedMemoryFrameWriter(segment_name, shape, slots=slots) as writer, opened(path_of(segment_name)) as segment:
        stride = segment.identity["slot_stride"]
        assert stride % 65536 == 0
        assert math.prod(shape) <= stride < math.prod(shape) + 65536
        assert segment.identity["control_offset"] % 65536 == 0
        assert segment.identity["pixels_offset"] % 65536 == 0
        size = os.fstat(segment.file).st_size
        assert size == 131072 + slots * stride == segment.identity["total_bytes"] == writer.statistics.total_bytes


def test_three_slots_are_backed_and_the_rest_is_a_hole(segment_name: str) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, (512, 512), slots=20) as writer,
        opened(path_of(segment_name)) as segment,
    ):
        assert segment.allocated == 131072 + 3 * 512 * 512 == writer.statistics.backed_bytes
        assert segment.statistics["backed_slots"] == 3 == writer.statistics.backed_slots


def test_bytes_outside_all_fields_are_zero(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        for number in range(1, 10):
            writer.write_frame(picture(number))
        with opened(path_of(segment_name)) as segment:
            header = os.pread(segment.file, layout.REGION, 0)
            assert not any(header[layout.IDENTITY_BYTES : layout.PUBLICATION_AT])
            assert not any(header[layout.PUBLICATION_AT + 16 : layout.STATISTICS_AT])
            assert not any(segment.statistics["reserved"])
            assert not any(header[layout.STATISTICS_AT + layout.STATISTICS_BYTES : layout.DESCRIPTORS_AT])
            end = layout.DESCRIPTORS_AT + layout.MAX_SLOTS * layout.DESCRIPTOR_BYTES
            assert not any(header[end:])
            for slot in range(8):
                assert not any(segment.descriptor(slot)["reserved"])
            assert not any(os.pread(segment.file, layout.REGION, layout.CONTROL)), "no reader, and nothing is claimed"


# ---------------------------------------------------------------- frames


def newest(segment: SegmentObject) -> layout.Record:
    return segment.descriptor(segment.latest[1])


def test_before_the_first_frame_latest_is_zero_and_the_state_live(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE), opened(path_of(segment_name)) as segment:
        assert segment.publication["latest"] == 0
        assert segment.publication["state"] == layout.LIVE


def test_a_descriptor_holds_every_field_of_its_frame(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, (40, 50, 4), dtype="uint16") as writer:
        writer.write_frame(
            picture(1, (7, 9, 2), "int16"),
            capture_time_ns=123456789,
            position_ms=41.5,
            online=False,
            clock="file",
            source_sequence=2**64 - 2,
        )
        with SharedMemoryFrameReader(segment_name) as reader, opened(path_of(segment_name)) as segment:
            metadata = new_frame(reader)[1]
            found = {field: newest(segment)[field] for field in newest(segment)}
    assert found == {
        "seq": 2,
        "sequence": 1,
        "capture_ns": 123456789,
        "publish_ns": metadata.publish_time_ns,
        "wall_ns": metadata.wall_time_ns,
        "position_ms": 41.5,
        "payload_bytes": 7 * 9 * 2 * 2,
        "row_stride": 9 * 2 * 2,
        "width": 9,
        "height": 7,
        "channels": 2,
        "item_size": 2,
        "ndim": 3,
        "kind": ord("i"),
        "fourcc": int.from_bytes(b"RAW ", "little"),
        "flags": 1 | 2 | 3 << 8,
        "source_sequence": 2**64 - 2,
        "reserved": bytes(24),
    }


def test_an_unknown_position_is_nan_and_an_online_frame_has_no_flag(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, opened(path_of(segment_name)) as segment:
        writer.write_frame(picture(1))
        assert math.isnan(newest(segment)["position_ms"])
        assert newest(segment)["flags"] == 0


@pytest.mark.parametrize(
    ("pixel_format", "shape", "dtype", "fourcc"),
    [
        ("BGR24", (4, 6, 3), "uint8", b"BGR3"),
        ("RGB24", (4, 6, 3), "uint8", b"RGB3"),
        ("BGRA32", (4, 6, 4), "uint8", b"AR24"),
        ("GRAY8", (4, 6), "uint8", b"GREY"),
        ("GRAY16", (4, 6), "uint16", b"Y16 "),
        ("YUYV", (4, 6, 2), "uint8", b"YUYV"),
        ("UYVY", (4, 6, 2), "uint8", b"UYVY"),
        ("NV12", (6, 6), "uint8", b"NV12"),
        ("I420", (6, 6), "uint8", b"YU12"),
        ("P010", (6, 6), "uint16", b"P010"),
        ("MJPG", (1, 999), "uint8", b"MJPG"),
        ("RAW", (4, 6, 3), "uint8", b"RAW "),
    ],
)
def test_pixel_formats_are_the_four_characters_of_v4l2(
    segment_name: str, pixel_format: str, shape: tuple[int, ...], dtype: str, fourcc: bytes
) -> None:
    with SharedMemoryFrameWriter(segment_name, shape, dtype=dtype, pixel_format=pixel_format) as writer:
        writer.write_frame(picture(1, shape, dtype))
        with opened(path_of(segment_name)) as segment:
            assert newest(segment)["fourcc"].to_bytes(4, "little") == fourcc


def test_the_pixels_lie_row_by_row_at_the_beginning_of_their_slot(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, opened(path_of(segment_name)) as segment:
        for number in range(1, 8):
            writer.write_frame(picture(number))
            sequence, slot = segment.latest
            assert sequence == number
            assert segment.pixels(slot, picture(number).nbytes) == picture(number).tobytes()


def test_the_slot_published_before_the_newest_is_filled_next(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, opened(path_of(segment_name)) as segment:
        slots = []
        for number in range(1, 10):
            writer.write_frame(picture(number))
            slots.append(segment.latest[1])
        assert slots == [0, 1, 0, 1, 0, 1, 0, 1, 0], "two take turns while no reader holds one"


def test_a_slot_is_odd_and_marked_while_it_is_written_and_even_and_free_after(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, opened(path_of(segment_name)) as segment:
        writer.write_frame(picture(1))
        with writer.loan() as slot:
            slot.array[:] = picture(2)
            written = segment.pins.index(layout.WRITING)
            assert segment.descriptor(written)["seq"] == 2 * 2 - 1
            assert segment.latest[0] == 1, "not shown before it is complete"
        assert segment.latest == (2, written)
        assert segment.descriptor(written)["seq"] == 2 * 2
        assert not any(segment.pins)


def test_a_cancelled_loan_leaves_its_slot_odd_and_free(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, opened(path_of(segment_name)) as segment:
        writer.write_frame(picture(1))
        slot = writer.loan()
        written = segment.pins.index(layout.WRITING)
        slot.cancel()
        assert segment.descriptor(written)["seq"] == 3
        assert segment.latest[0] == 1
        assert not any(segment.pins)
        assert writer.write_frame(picture(2)) == 2, "the number was not used up"


def test_every_frame_and_every_change_of_state_bumps_notify(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, opened(path_of(segment_name)) as segment:
        begun = segment.publication["notify"]
        for number in range(1, 6):
            writer.write_frame(picture(number))
            assert segment.publication["notify"] == begun + number
        writer.loan().cancel()
        assert segment.publication["notify"] == begun + 5
        writer.close()
        assert segment.publication["notify"] == begun + 6
        assert segment.publication["state"] == layout.CLOSED


def test_a_replaced_segment_is_retired_and_its_successor_continues_the_count(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, opened(path_of(segment_name)) as old:
        writer.write_frame(picture(1))
        writer.write_frame(picture(2))
        notify = old.publication["notify"]
        writer.write_frame(picture(3, LARGER))
        assert old.publication["state"] == layout.RETIRED
        assert old.publication["notify"] == notify + 1, "sleepers must look up"
        assert old.latest[0] == 2
        with opened(path_of(segment_name)) as new:
            assert new.identity["base_sequence"] == 2
            assert new.identity["generation"] != old.identity["generation"]
            assert new.identity["slot_capacity"] >= math.prod(LARGER)
            assert new.latest[0] == 3


def test_a_dead_writers_segment_is_retired_by_the_takeover(segment_name: str) -> None:
    with Child("write_and_wait(sys.argv[1])", segment_name) as child:
        child.says()
        child.kill()
    with opened(path_of(segment_name)) as old:
        notify = old.publication["notify"]
        assert old.publication["state"] == layout.LIVE, "the dead say nothing"
        with SharedMemoryFrameWriter(segment_name, SHAPE), opened(path_of(segment_name)) as new:
            assert old.publication["state"] == layout.RETIRED
            assert old.publication["notify"] == notify + 1, "sleepers must look up"
            assert new.identity["base_sequence"] == 1


# ---------------------------------------------------------------- the control region


def test_a_held_frame_is_one_bit_in_the_pin_word_of_its_slot(segment_name: str) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, SHAPE) as writer,
        SharedMemoryFrameReader(segment_name) as reader,
        opened(path_of(segment_name)) as segment,
    ):
        writer.write_frame(picture(1))
        first = new_frame(reader)[0]
        held = segment.latest[1]
        assert segment.pins == [1 if slot == held else 0 for slot in range(8)]
        writer.write_frame(picture(2))
        second = new_frame(reader)[0]
        assert segment.pin(held) == 1
        assert segment.pin(segment.latest[1]) == 2, "the second token"
        del first
        assert sorted(segment.pins, reverse=True)[:2] == [2, 0]
        del second
        assert not any(segment.pins)


def test_the_readers_table_shows_who_reads_what(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, opened(path_of(segment_name)) as segment:
        before = time.time_ns()
        with SharedMemoryFrameReader(segment_name) as reader:
            for number in (1, 2, 3):
                writer.write_frame(picture(number))
                if number != 2:
                    new_frame(reader, copy=number == 3)
            entry = segment.reader(0)
            found = {field: entry[field] for field in entry}
            assert before <= found.pop("attached_wall_ns") <= time.time_ns()
            comm = Path("/proc/self/comm").read_text().strip().encode()
            assert found.pop("process_name").rstrip(b"\0") == comm
            assert found == {
                "pid": os.getpid(),
                "kind": 1,
                "frames": 2,
                "skipped": 1,
                "copies": 1,
                "last_sequence": 3,
                "tokens": 0b1,
                "reserved": bytes(32),
            }


def test_statistics_count_what_the_writer_did(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, opened(path_of(segment_name)) as segment:
        for number in (1, 2, 3):
            before = time.monotonic_ns()
            writer.write_frame(picture(number), capture_time_ns=1000 + number)
        placeholder_after = time.monotonic_ns()
        writer.write_frame(picture(4), capture_time_ns=9999, online=False)
        writer.update_source(
            state="stalled",
            reason="unplugged é",
            backend="V4L2",
            fps=29.97,
            captured=11,
            reconnects=5,
            stalls=6,
            loops=7,
            unreadable=8,
            lost=9,
            clock_offset_ms=-40.5,
        )
        found = {field: segment.statistics[field] for field in segment.statistics}
    assert 0 < found.pop("heartbeat_ns") <= time.monotonic_ns()
    assert before < found.pop("last_capture_ns") < placeholder_after, "when it was published, whatever its clock says"
    latencies = found.pop("write_ns_log2")
    assert sum(latencies) == 4
    total = found.pop("write_ns_total")
    assert sum(count << bucket >> 1 for bucket, count in enumerate(latencies)) <= total
    assert total <= sum(count << bucket for bucket, count in enumerate(latencies))
    assert found.pop("text_seq") % 2 == 0
    assert found == {
        "published": 4,
        "dropped": 0,
        "leases_broken": 0,
        "backed_slots": 3,
        "captured": 11,
        "reconnects": 5,
        "stalls": 6,
        "loops": 7,
        "fps_millihertz": 29970,
        "source_state": 3,
        "reason": "unplugged é".encode().ljust(128, b"\0"),
        "backend": b"V4L2".ljust(32, b"\0"),
        "bytes_written": 4 * math.prod(SHAPE),
        "unreadable": 8,
        "lost": 9,
        "clock_offset_ns": 2**64 - 40_500_000,
        "link_bytes": 0,
        "link_missed": 0,
        "link_age_us": 0,
        "link_trip_us": 0,
        "link_error_us": 0,
        "reserved": bytes(8),
    }


# ---------------------------------------------------------------- locks


def locks_of(path: Path) -> dict[int, str]:
    """Byte locks on an object, by their first byte: from /proc/locks."""
    status = path.stat()
    inode = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    found = {}
    for line in Path("/proc/locks").read_text().splitlines():
        _, kind, _, access, _, where, first, last = line.replace("-> ", "").split()
        if where == inode:
            assert kind == "OFDLCK"
            found.update(dict.fromkeys(range(int(first), int(last) + 1), access))
    return found


def test_writer_tokens_and_readers_are_locks_on_their_bytes_far_beyond_the_object(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        assert locks_of(path_of(segment_name)) == {layout.WRITER_BYTE: "WRITE"}
        with SharedMemoryFrameReader(segment_name) as reader:
            reader.attach()
            assert locks_of(path_of(segment_name)) == {layout.WRITER_BYTE: "WRITE", layout.READER_BYTE: "WRITE"}
            writer.write_frame(picture(1))
            held = new_frame(reader)[0]
            writer.write_frame(picture(2))
            more = new_frame(reader)[0]
            assert locks_of(path_of(segment_name)) == {
                layout.WRITER_BYTE: "WRITE",
                layout.TOKEN_BYTE: "WRITE",
                layout.TOKEN_BYTE + 1: "WRITE",
                layout.READER_BYTE: "WRITE",
            }
            del held, more
        assert locks_of(path_of(segment_name)) == {layout.WRITER_BYTE: "WRITE"}


def test_a_copy_takes_a_token_only_while_it_lasts(segment_name: str) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, SHAPE) as writer,
        SharedMemoryFrameReader(segment_name, max_leases=0) as reader,
        opened(path_of(segment_name)) as segment,
    ):
        for number in (1, 2, 3):
            writer.write_frame(picture(number))
            new_frame(reader)
            assert locks_of(path_of(segment_name)) == {layout.WRITER_BYTE: "WRITE", layout.READER_BYTE: "WRITE"}
            assert segment.reader(0)["tokens"] == 0
            assert not any(segment.pins)


# ---------------------------------------------------------------- the header, read as text

SIZES = {
    "uint8_t": (1, "s"),
    "uint16_t": (2, "H"),
    "int32_t": (4, "i"),
    "uint32_t": (4, "I"),
    "bshm_shared32": (4, "I"),
    "int64_t": (8, "q"),
    "uint64_t": (8, "Q"),
    "bshm_shared64": (8, "Q"),
    "double": (8, "d"),
}


def header_text() -> str:
    """The header without comments."""
    return re.sub(r"/\*.*?\*/|//[^\n]*", " ", HEADER.read_text(), flags=re.DOTALL)


def constants() -> dict[str, int]:
    found: dict[str, int] = {}
    for name, value in re.findall(r"#define\s+(BSHM_\w+)\s+(0x[0-9A-Fa-f]+|\d+)u?\s*$", header_text(), re.MULTILINE):
        found[name] = int(value, 0)
    for body in re.findall(r"\benum\s+\w+\s*\{([^}]*)\}", header_text()):
        for name, value in re.findall(r"(\w+)\s*=\s*(-?\d+)", body):
            found[name] = int(value)
    return found


def structure(name: str) -> tuple[list[tuple[str, int, str]], int]:
    """Fields of a C structure by the rules that every Linux ABI has for fixed-width types, and its size."""
    match = re.search(rf"typedef struct {name} \{{(.*?)\}} {name};", header_text(), re.DOTALL)
    assert match, f"{name} is not in the header"
    fields, at, widest = [], 0, 1
    for declaration in filter(None, (part.strip() for part in match[1].split(";"))):
        parts = re.fullmatch(r"(\w+)\s+(\w+)(?:\[(\w+)\])?", declaration)
        assert parts, f"{name}: {declaration!r} is not a plain field of fixed width"
        kind, field, times = parts.groups()
        width, letter = SIZES[kind]
        count = 1 if times is None else int(times) if times.isdecimal() else constants()[times]
        assert at % width == 0, f"hidden padding before {name}.{field}"
        form = letter if times is None else f"{count}{letter}"
        if kind == "bshm_shared64" and field in ("reason", "backend", "process_name"):
            form = f"{count * 8}s"
        if field == "reserved" and times is not None:
            form = f"{count * width}s"
        fields.append((field, at, form))
        at += width * count
        widest = max(widest, width)
    assert at % widest == 0, f"hidden padding at the end of {name}"
    return fields, at


@pytest.mark.parametrize(
    ("name", "table", "size"),
    [
        ("bshm_identity", layout.IDENTITY, layout.IDENTITY_BYTES),
        ("bshm_publication", layout.PUBLICATION, layout.PUBLICATION_BYTES),
        ("bshm_statistics", layout.STATISTICS, layout.STATISTICS_BYTES),
        ("bshm_frame_info", layout.FRAME_INFO, layout.FRAME_INFO_BYTES),
        ("bshm_pin", layout.PIN, layout.PIN_BYTES),
        ("bshm_reader_entry", layout.READER, layout.READER_BYTES),
    ],
)
def test_the_header_declares_exactly_these_fields_in_this_order(name: str, table: layout.Table, size: int) -> None:
    fields, found_size = structure(name)
    assert fields == list(table)
    assert found_size == size
    assert all(struct.calcsize("=" + form) + at <= size for _, at, form in table)
    asserted = re.findall(rf"^BSHM_OFFSET\({name}, (\w+), (\d+)\);", HEADER.read_text(), re.MULTILINE)
    assert asserted == [(field, str(at)) for field, at, _ in table if field != "reserved"]


def test_every_statistics_word_is_in_the_table_that_shows_them_or_is_more_than_a_number() -> None:
    words = {field: at // 8 for field, at, _ in structure("bshm_statistics")[0]}
    assert {name: row.word for name, row in STATISTICS.items()} == {name: words.get(name) for name in STATISTICS}
    assert words.keys() - STATISTICS.keys() == {
        "heartbeat_ns",
        "last_capture_ns",
        "clock_offset_ns",
        "fps_millihertz",
        "source_state",
        "write_ns_total",
        "write_ns_log2",
        "text_seq",
        "reason",
        "backend",
        "reserved",
    }


def test_the_table_of_pixel_formats_matches_the_header() -> None:
    section = HEADER.read_text().partition(" *     name          fourcc   array of")[2].partition(" *\n")[0]
    declared = dict(re.findall(r"\b([A-Z0-9_]+) +'(.{4})'", section))
    assert declared == {name: row.fourcc for name, row in PIXEL_FORMATS.items()}
    for name, row in PIXEL_FORMATS.items():
        if row.shape.startswith("("):
            assert re.search(rf"\b{name} +'....' +{re.escape(row.shape)}", section), name


def test_the_numbers_in_the_header_are_the_ones_in_these_tests() -> None:
    found = constants()
    expected = {
        "BSHM_ABI_MAJOR": 2,
        "BSHM_ABI_MINOR": 0,
        "BSHM_BYTE_ORDER": 0x0A0B0C0D,
        "BSHM_REGION_BYTES": 65536,
        "BSHM_MIN_SLOTS": 3,
        "BSHM_MAX_SLOTS": 62,
        "BSHM_INITIAL_SLOTS": 3,
        "BSHM_MAX_READERS": 256,
        "BSHM_LATENCY_BUCKETS": 40,
        "BSHM_WRITER_BYTE": layout.WRITER_BYTE,
        "BSHM_TOKEN_BYTE": layout.TOKEN_BYTE,
        "BSHM_READER_BYTE": layout.READER_BYTE,
        "BSHM_PUBLICATION_OFFSET": 256,
        "BSHM_STATISTICS_OFFSET": 512,
        "BSHM_DESCRIPTOR_OFFSET": 4096,
        "BSHM_READER_TABLE_OFFSET": 16384,
        "BSHM_STATE_LIVE": 1,
        "BSHM_STATE_RETIRED": 2,
        "BSHM_STATE_CLOSED": 3,
        "BSHM_FRAME_PLACEHOLDER": 1,
        "BSHM_FRAME_SOURCE_SEQUENCE": 2,
        "BSHM_CLOCK_ARRIVAL": 0,
        "BSHM_CLOCK_DRIVER": 1,
        "BSHM_CLOCK_SENDER": 2,
        "BSHM_CLOCK_FILE": 3,
        "BSHM_CLOCK_REMOTE": 4,
        "BSHM_CLOCK_SHIFT": 8,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert '#define BSHM_MAGIC           "BILLISHM"' in HEADER.read_text()


def test_locks_tokens_and_tables_cannot_run_into_each_other() -> None:
    assert layout.WRITER_BYTE < layout.TOKEN_BYTE < layout.TOKEN_BYTE + 62 < layout.READER_BYTE
    assert layout.DESCRIPTORS_AT + layout.MAX_SLOTS * layout.DESCRIPTOR_BYTES <= layout.REGION
    assert layout.MAX_SLOTS * layout.PIN_BYTES <= layout.READERS_AT
    assert layout.READERS_AT + layout.MAX_READERS * layout.READER_BYTES <= layout.REGION
    assert layout.STATISTICS_AT + layout.STATISTICS_BYTES <= layout.DESCRIPTORS_AT


# ---------------------------------------------------------------- the Cython mirror


def mirror_text() -> str:
    return re.sub(r"#[^\n]*", "", MIRROR.read_text())


def one_line(declaration: str) -> str:
    """A declaration in one spelling."""
    declaration = re.sub(r"\s+", " ", declaration).strip()
    declaration = re.sub(r"\s*([(),*\[\]])\s*", r"\1", declaration)
    return declaration.replace("(void)", "()").replace("struct ", "")


def functions(text: str) -> set[str]:
    flat = re.sub(r"\s+", " ", text)
    found = re.findall(r"(?:const )?\w+ \*?bshm_\w+\([^()]*\)", flat)
    return {one_line(declaration) for declaration in found}


def mirrored_structures() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, body in re.findall(r"ctypedef struct (\w+):\n((?:        .*\n|\n)+)", mirror_text() + "\n"):
        found[name] = [one_line(line) for line in body.splitlines() if line.strip() and line.strip() != "pass"]
    return found


def test_the_mirror_declares_exactly_the_functions_of_the_header() -> None:
    declared = functions(re.sub(r"#[^\n]*", " ", header_text()))
    assert len(declared) > 25, "the header was read"
    assert functions(mirror_text()) == declared


def test_the_fields_of_the_mirror_have_the_types_and_the_order_of_the_header() -> None:
    text, numbers = header_text(), constants()
    assert len(mirrored_structures()) > 10, "the mirror was read"
    for name, fields in mirrored_structures().items():
        match = re.search(rf"typedef struct {name} \{{(.*?)\}} {name};", text, re.DOTALL)
        if match is None:
            assert fields == [], f"{name} is opaque in the header"
            continue
        declared = [
            re.sub(r"\[(BSHM_\w+)\]", lambda found: f"[{numbers[found[1]]}]", one_line(part))
            for part in match[1].split(";")
        ]
        at = -1
        for field in fields:
            assert field in declared, f"{name}: {field}"
            assert declared.index(field) > at, f"{name}: {field} is out of order"
            at = declared.index(field)


def test_the_constants_of_the_mirror_are_the_ones_in_the_header() -> None:
    known = constants()
    mirrored = set(re.findall(r"\bBSHM_\w+", mirror_text()))
    assert mirrored <= known.keys()
    assert {name for name in known if name.startswith(("BSHM_E_", "BSHM_STATUS_", "BSHM_ACQUIRE_"))} <= mirrored

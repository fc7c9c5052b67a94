"""The layout of a segment, written down by hand from DESIGN.md and the header's comments: no C code is used.

Each table lists (name, offset in its record, format of `struct`); a record reads and writes fields of a real object.
"""

import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Table = tuple[tuple[str, int, str], ...]

REGION = 64 * 1024
CONTROL = REGION
PIXELS = 2 * REGION
MAX_SLOTS = 62
MAX_READERS = 256

WRITER_BYTE = 0x4000000000000000
TOKEN_BYTE = 0x4000000000001000
READER_BYTE = 0x4000000000002000
WRITING = 1 << 63

IDENTITY: Table = (
    ("magic", 0, "8s"),
    ("abi_major", 8, "H"),
    ("abi_minor", 10, "H"),
    ("header_bytes", 12, "I"),
    ("byte_order", 16, "I"),
    ("slot_count", 20, "I"),
    ("generation", 24, "16s"),
    ("total_bytes", 40, "Q"),
    ("slot_stride", 48, "Q"),
    ("slot_capacity", 56, "Q"),
    ("control_offset", 64, "Q"),
    ("pixels_offset", 72, "Q"),
    ("base_sequence", 80, "Q"),
    ("created_wall_ns", 88, "q"),
    ("created_ns", 96, "q"),
    ("writer_pid", 104, "I"),
    ("descriptor_offset", 108, "I"),
    ("series", 112, "Q"),
    ("token_count", 120, "I"),
    ("history", 124, "I"),
    ("checksum", 128, "Q"),
)
IDENTITY_BYTES = 136

PUBLICATION_AT = 256
PUBLICATION: Table = (("latest", 0, "Q"), ("notify", 8, "I"), ("state", 12, "I"), ("reserved", 16, "48s"))
PUBLICATION_BYTES = 64

STATISTICS_AT = 512
STATISTICS: Table = (
    ("published", 0, "Q"),
    ("dropped", 8, "Q"),
    ("leases_broken", 16, "Q"),
    ("backed_slots", 24, "Q"),
    ("heartbeat_ns", 32, "Q"),
    ("last_capture_ns", 40, "Q"),
    ("captured", 48, "Q"),
    ("reconnects", 56, "Q"),
    ("stalls", 64, "Q"),
    ("loops", 72, "Q"),
    ("fps_millihertz", 80, "Q"),
    ("source_state", 88, "Q"),
    ("write_ns_total", 96, "Q"),
    ("text_seq", 104, "Q"),
    ("reason", 112, "128s"),
    ("backend", 240, "32s"),
    ("bytes_written", 272, "Q"),
    ("unreadable", 280, "Q"),
    ("lost", 288, "Q"),
    ("clock_offset_ns", 296, "Q"),
    ("link_bytes", 304, "Q"),
    ("link_missed", 312, "Q"),
    ("link_age_us", 320, "Q"),
    ("link_trip_us", 328, "Q"),
    ("link_error_us", 336, "Q"),
    ("reserved", 344, "8s"),
    ("write_ns_log2", 352, "40Q"),
)
STATISTICS_BYTES = 672

DESCRIPTORS_AT = 4096
DESCRIPTOR_BYTES = 128
FRAME_INFO: Table = (
    ("sequence", 0, "Q"),
    ("capture_ns", 8, "q"),
    ("publish_ns", 16, "q"),
    ("wall_ns", 24, "q"),
    ("position_ms", 32, "d"),
    ("payload_bytes", 40, "Q"),
    ("row_stride", 48, "Q"),
    ("width", 56, "I"),
    ("height", 60, "I"),
    ("channels", 64, "I"),
    ("item_size", 68, "I"),
    ("ndim", 72, "I"),
    ("kind", 76, "I"),
    ("fourcc", 80, "I"),
    ("flags", 84, "I"),
    ("source_sequence", 88, "Q"),
    ("reserved", 96, "24s"),
)
FRAME_INFO_BYTES = 120
DESCRIPTOR: Table = (("seq", 0, "Q"), *((name, 8 + offset, form) for name, offset, form in FRAME_INFO))

PIN_BYTES = 128
PIN: Table = (("word", 0, "Q"), ("reserved", 8, "120s"))

READERS_AT = 16384  # in the control region
READER_BYTES = 128
READER: Table = (
    ("pid", 0, "Q"),
    ("kind", 8, "Q"),
    ("attached_wall_ns", 16, "Q"),
    ("frames", 24, "Q"),
    ("skipped", 32, "Q"),
    ("copies", 40, "Q"),
    ("last_sequence", 48, "Q"),
    ("tokens", 56, "Q"),
    ("process_name", 64, "32s"),
    ("reserved", 96, "32s"),
)

LIVE, RETIRED, CLOSED = 1, 2, 3


class Record:
    """Fields of one structure in a file, by name."""

    def __init__(self, file: int, at: int, table: Table) -> None:
        self._file = file
        self._fields = {name: (at + offset, "=" + form) for name, offset, form in table}

    def __getitem__(self, name: str) -> Any:
        at, form = self._fields[name]
        values = struct.unpack(form, os.pread(self._file, struct.calcsize(form), at))
        return values[0] if len(values) == 1 else values

    def __setitem__(self, name: str, value: Any) -> None:
        at, form = self._fields[name]
        os.pwrite(self._file, struct.pack(form, value), at)

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)


class SegmentObject:
    """A segment's object, held open, so that it can be examined after its name is gone."""

    def __init__(self, path: Path | str) -> None:
        self.file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.identity = Record(self.file, 0, IDENTITY)
        self.publication = Record(self.file, PUBLICATION_AT, PUBLICATION)
        self.statistics = Record(self.file, STATISTICS_AT, STATISTICS)

    def close(self) -> None:
        os.close(self.file)

    def descriptor(self, slot: int) -> Record:
        return Record(self.file, DESCRIPTORS_AT + slot * DESCRIPTOR_BYTES, DESCRIPTOR)

    def pin(self, slot: int) -> int:
        return int(Record(self.file, CONTROL + slot * PIN_BYTES, PIN)["word"])

    def set_pin(self, slot: int, word: int) -> None:
        Record(self.file, CONTROL + slot * PIN_BYTES, PIN)["word"] = word

    def reader(self, place: int) -> Record:
        return Record(self.file, CONTROL + READERS_AT + place * READER_BYTES, READER)

    def pixels(self, slot: int, count: int) -> bytes:
        return os.pread(self.file, count, PIXELS + slot * self.identity["slot_stride"])

    @property
    def latest(self) -> tuple[int, int]:
        """Number and slot of the newest frame."""
        word = self.publication["latest"]
        return word >> 6, word & 63

    @property
    def pins(self) -> list[int]:
        return [self.pin(slot) for slot in range(self.identity["slot_count"])]

    @property
    def allocated(self) -> int:
        return os.fstat(self.file).st_blocks * 512

    def seal(self) -> None:
        """Update the checksum after a change in the identity."""
        self.identity["checksum"] = fnv1a(os.pread(self.file, IDENTITY_BYTES - 8, 0))


@contextmanager
def opened(path: Path | str) -> Iterator[SegmentObject]:
    found = SegmentObject(path)
    try:
        yield found
    finally:
        found.close()


def fnv1a(content: bytes) -> int:
    """FNV-1a, 64 bit, from its definition."""
    digest = 14695981039346656037
    for byte in content:
        digest = (digest ^ byte) * 1099511628211 % 2**64
    return digest


def stride_of(capacity: int) -> int:
    """A slot occupies whole regions."""
    return -(-capacity // REGION) * REGION


def set_frame_age(path: Path | str, seconds: float) -> None:
    """Set the age of a segment's last captured frame; below 0 it is in the future, and stays new."""
    with opened(path) as segment:
        # Signed, because the host may have been started later than that.
        segment.statistics["last_capture_ns"] = (time.monotonic_ns() - round(seconds * 1e9)) % 2**64

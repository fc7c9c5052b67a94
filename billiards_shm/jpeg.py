"""Reads JPEGs without decoding them: their size, whether they are complete, and the tables that cameras leave out."""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = ["END", "MOST_PIXELS_A_BYTE", "STANDARD_TABLES", "JpegHeader", "complete", "has_end", "read_header"]

MOST_PIXELS_A_BYTE: Final = 512
"""A JPEG that is not lossless takes at least one bit for each block of 8 by 8 pixels."""

_START: Final = b"\xff\xd8"
_START_AND_MARKER: Final = _START + b"\xff"
END: Final = b"\xff\xd9"
_LEAD_BYTES: Final = 16
_TAIL_BYTES: Final = 1024
_HUFFMAN_TABLES: Final = 0xC4
_SCAN: Final = 0xDA
# Start of frame: 0xC0 to 0xCF, except tables (C4), an extension (C8) and arithmetic conditioning (CC).
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Those that may leave their tables out, because the standard ones fit: baseline, and extended with 8 bits.
_HUFFMAN_CODED: Final = frozenset({0xC0, 0xC1})
# The sequential and progressive ones. The others are lossless or hierarchical.
_COMMON: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_COMMON_BITS: Final = 8
# Lengths count their own two bytes.
_SHORTEST: Final = dict.fromkeys(_FRAMES, 8)
_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD8)})

# Annex K.3 of the standard (ITU T.81): the number of codes of each length from 1 to 16, and what they mean.
_DC_VALUES: Final = bytes(range(12))
_LUMA_DC: Final = bytes.fromhex("00010501010101010100000000000000")
_CHROMA_DC: Final = bytes.fromhex("00030101010101010101010000000000")
_LUMA_AC: Final = bytes.fromhex("0002010303020403050504040000017d")
_LUMA_AC_VALUES: Final = bytes.fromhex(
    "0102030004110512213141061351610722711432"
    "8191a1082342b1c11552d1f02433627282090a16"
    "1718191a25262728292a3435363738393a434445"
    "464748494a535455565758595a63646566676869"
    "6a737475767778797a838485868788898a929394"
    "95969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6"
    "b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8"
    "d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa"
)
_CHROMA_AC: Final = bytes.fromhex("00020102040403040705040400010277")
_CHROMA_AC_VALUES: Final = bytes.fromhex(
    "0001020311040521310612415107617113223281"
    "08144291a1b1c109233352f0156272d10a162434"
    "e125f11718191a262728292a35363738393a4344"
    "45464748494a535455565758595a636465666768"
    "696a737475767778797a82838485868788898a92"
    "939495969798999aa2a3a4a5a6a7a8a9aab2b3b4"
    "b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6"
    "d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa"
)


def _segment(number: int, counts: bytes, values: bytes) -> bytes:
    return struct.pack(">BBHB", 0xFF, _HUFFMAN_TABLES, 3 + len(counts) + len(values), number) + counts + values


STANDARD_TABLES: Final = (
    _segment(0x00, _LUMA_DC, _DC_VALUES)
    + _segment(0x10, _LUMA_AC, _LUMA_AC_VALUES)
    + _segment(0x01, _CHROMA_DC, _DC_VALUES)
    + _segment(0x11, _CHROMA_AC, _CHROMA_AC_VALUES)
)
"""The Huffman tables for a camera's JPEG that has none: 432 bytes."""


class JpegHeader(NamedTuple):
    """What comes before the pixels."""

    width: int
    height: int
    scan: int
    """Where the first scan begins."""
    lacks_tables: bool
    """Whether it needs Huffman tables and has none."""
    common: bool
    """Whether it has 8 bits, and is neither lossless nor hierarchical: few programs read others, and some of those read
    them wrong."""


_LONGEST_REMEMBERED: Final = 4096
# The last header and its bytes: a camera's JPEGs all begin alike, and a comparison takes a tenth of the time.
_last: Final[list[tuple[bytes, JpegHeader]]] = []


def read_header(data: bytes | memoryview) -> JpegHeader:
    """Read up to the first scan.

    Raises
    ------
    ValueError
        This is not a JPEG, or it is cut off before its pixels; the message says where.
    """
    for start, header in _last:
        if bytes(data[: len(start)]) == start:
            return header
    header, end = _parse_header(data)
    if end <= _LONGEST_REMEMBERED:
        _last[:] = [(bytes(data[:end]), header)]
    return header


def _parse_header(data: bytes | memoryview) -> tuple[JpegHeader, int]:
    """Read up to the first scan; return the header, and where the scan's own header ends."""
    size = None
    has_tables = needs_tables = common = False
    for marker, place in _markers(data):
        if marker == _HUFFMAN_TABLES:
            has_tables = True
        elif marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 5)
            size = (width, height)
            needs_tables = marker in _HUFFMAN_CODED
            common = marker in _COMMON and data[place + 4] == _COMMON_BITS
        elif marker == _SCAN:
            if size is None:
                break
            end = place + 2 + (data[place + 2] << 8 | data[place + 3])
            return JpegHeader(*size, place, needs_tables and not has_tables, common), end
    raise ValueError("it has no picture: its header ends before that")


def _markers(data: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """The markers of the header that have a segment, and their positions."""
    if data[:2] != _START:
        raise ValueError(f"it does not start like a JPEG, but with {data[:2].hex() or 'nothing'}")
    place = len(_START)
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            raise ValueError(f"byte {place} is {data[place]:02x}: expected a marker, ff")
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker in _WITHOUT_LENGTH:
            place += 2
        else:
            length = data[place + 2] << 8 | data[place + 3]
            end = place + 2 + length
            if end > len(data):
                raise ValueError(f"it is cut off in its header: {len(data)} bytes, but {end} announced")
            shortest = _SHORTEST.get(marker, 2)
            if length < shortest:
                raise ValueError(f"its segment {marker:02x} has a length of {length}: expected at least {shortest}")
            yield marker, place
            place = end


def has_end(data: bytes) -> bool | None:
    """Whether the pixels of a JPEG end with the end marker; None if it has no pixels, or is not a JPEG."""
    try:
        scan = next((place for marker, place in _markers(data) if marker == _SCAN), None)
    except ValueError:
        return None
    return None if scan is None else _ends(data, scan)


def complete(data: bytes | memoryview) -> bytes | memoryview:
    """Check that a JPEG is whole, and add the standard Huffman tables if it has none.

    Returns
    -------
    bytes or memoryview
        `data` itself if it has its tables. Anything after the end marker, such as a camera's padding, stays; anything
        before the JPEG, such as an empty line from a server, is left out.

    Raises
    ------
    ValueError
        It is damaged: not a JPEG, without a size, with too few bytes for its size, or cut off. Or it is not
        `JpegHeader.common`. The message says what.
    """
    if data[:3] != _START_AND_MARKER:
        data = data[max(0, bytes(data[:_LEAD_BYTES]).find(_START_AND_MARKER)) :]
    header = read_header(data)
    if not header.common:
        raise ValueError("it is lossless, hierarchical, or of more than 8 bits, which few programs can read")
    if not header.width or not header.height:
        raise ValueError(f"its size is {header.width}x{header.height}")
    if header.width * header.height > MOST_PIXELS_A_BYTE * len(data):
        raise ValueError(f"its size is {header.width}x{header.height}, for which {len(data)} bytes are too few")
    if not _ends(data, header.scan):
        raise ValueError(f"it is cut off: {len(data)} bytes without an end marker")
    if header.lacks_tables:
        return b"".join((data[: header.scan], STANDARD_TABLES, data[header.scan :]))
    return data


def _ends(data: bytes | memoryview, scan: int) -> bool:
    """Whether there is an end marker after the header. Its usual place is searched first, then everything."""
    # Within the pixels ff is always followed by 00 or a restart marker: any end marker after the header is the end.
    return END in bytes(data[max(scan, len(data) - _TAIL_BYTES) :]) or END in bytes(data[scan:])

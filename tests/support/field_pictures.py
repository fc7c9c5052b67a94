"""H.264 whose pictures are coded as two fields, one after another, as broadcasters do and libx264 does not.

Macroblocks are stored uncompressed (I_PCM), so that a decoder returns identical pictures. Sections are those of
Rec. ITU-T H.264.
"""

from collections.abc import Iterator, Sequence

import numpy as np

__all__ = ["MACROBLOCK", "field_pictures"]

MACROBLOCK = 16
_PCM = 25
_INTRA = 7
_START = b"\0\0\0\1"


def field_pictures(frames: Sequence[np.ndarray], groups: int = 10) -> Iterator[tuple[bytes, bytes]]:
    """Encode I420 frames; width and half the height are whole macroblocks.

    Yields the top and the bottom field of each, as access units. Every one of `groups` frames is a key frame.
    """
    height, width = frames[0].shape[0] // 3 * 2, frames[0].shape[1]
    assert width % MACROBLOCK == height % (2 * MACROBLOCK) == 0
    for number, frame in enumerate(frames):
        y, chroma = frame[:height], frame[height:].reshape(2, height // 2, width // 2)
        place = number % groups
        fields = []
        for bottom in (0, 1):
            unit = b""
            if place == bottom == 0:
                unit += _START + b"\x67" + _escaped(_sequence(width, height)) + _START + b"\x68" + _escaped(_picture())
            header = _slice(place, bottom=bottom, key=number // groups % 2 if place == bottom == 0 else None)
            body = header + _macroblocks(y[bottom::2], chroma[:, bottom::2])
            kind = b"\x65" if place == bottom == 0 else b"\x61"
            fields.append(unit + _START + kind + _escaped(body + b"\x80"))
        yield fields[0], fields[1]


class _Bits:
    def __init__(self) -> None:
        self._text = ""

    def fixed(self, value: int, length: int) -> "_Bits":
        self._text += f"{value:0{length}b}" if length else ""
        return self

    def golomb(self, *values: int) -> "_Bits":
        """An Exp-Golomb code; the code of signed 0 is the same."""
        for value in values:
            code = f"{value + 1:b}"
            self._text += "0" * (len(code) - 1) + code
        return self

    def whole(self, *, end: bool) -> bytes:
        """The bytes, padded with zeros; `end`: after the bit that ends a unit."""
        text = self._text + "1" if end else self._text
        text += "0" * (-len(text) % 8)
        return int(text, 2).to_bytes(len(text) // 8, "big")


def _sequence(width: int, height: int) -> bytes:
    """7.3.2.1.1: Main profile, frames of 4 bits, order by 8 bits, field pictures, no macroblock pairs."""
    bits = _Bits().fixed(77, 8).fixed(0, 8).fixed(40, 8).golomb(0, 0, 0, 4, 1).fixed(0, 1)
    bits.golomb(width // MACROBLOCK - 1, height // MACROBLOCK // 2 - 1)
    return bits.fixed(0, 1).fixed(0, 1).fixed(1, 1).fixed(0, 1).fixed(0, 1).whole(end=True)


def _picture() -> bytes:
    """7.3.2.2: variable-length codes; the slices say how to filter."""
    bits = _Bits().golomb(0, 0).fixed(0, 2).golomb(0, 0, 0).fixed(0, 3).golomb(0, 0, 0).fixed(0b100, 3)
    return bits.whole(end=True)


def _slice(place: int, *, bottom: int, key: int | None) -> bytes:
    """7.3.3, up to and with the first macroblock's type; `key`: the number of a key frame."""
    bits = _Bits().golomb(0, _INTRA, 0).fixed(place % 16, 4).fixed(1, 1).fixed(bottom, 1)
    if key is not None:
        bits.golomb(key)
    bits.fixed(2 * place + bottom, 8)
    bits.fixed(0, 1 if key is None else 2)  # which pictures to keep: always the same
    return bits.golomb(0, 1, _PCM).whole(end=False)  # no filter


def _macroblocks(y: np.ndarray, chroma: np.ndarray) -> bytes:
    """All macroblocks of a field: after the first, each begins with its type at a whole byte."""
    between = _Bits().golomb(_PCM).whole(end=False)
    found = []
    for top in range(0, y.shape[0], MACROBLOCK):
        for left in range(0, y.shape[1], MACROBLOCK):
            half = (slice(top // 2, top // 2 + 8), slice(left // 2, left // 2 + 8))
            luma = y[top : top + MACROBLOCK, left : left + MACROBLOCK].tobytes()
            found.append(luma + b"".join(plane[half].tobytes() for plane in chroma))
    return between.join(found)


def _escaped(body: bytes) -> bytes:
    """7.4.1.1: no start code inside a unit."""
    found, zeros = bytearray(), 0
    for byte in body:
        if zeros >= 2 and byte <= 3:
            found.append(3)
            zeros = 0
        found.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(found)

"""Whether each packet of a stream is one whole picture, so that it can be decoded before the next one has begun.

To FFmpeg, MPEG-TS is a stream of bytes. A parser assembles the pictures, and only knows that one has ended when the
next one begins, a frame later. Encoders begin a packet with each picture, so there is nothing to assemble. Where they
do not, the parser is needed.
"""

from typing import Final, NamedTuple

__all__ = ["CODECS", "LARGEST_PACKET", "PacketCheck", "Pictures", "needs_others", "pictures_in"]

CODECS: Final = frozenset({"h264", "hevc"})
CONFIRMED: Final = 25
"""This many packets are trusted only after a look at the next one, which may continue the same picture."""
LARGEST_PACKET: Final = 2 << 20
"""FFmpeg splits larger packets. By default it does so from 200 KB on, and key frames may be that large. It reserves
this much for each packet that it reads ahead."""
_START: Final = b"\0\0\1"
_MPEG4_PICTURE: Final = _START + b"\xb6"
_SEI: Final = 6
_RECOVERY_POINT: Final = 6


class Pictures(NamedTuple):
    """What is in a packet."""

    begun: int
    """Pictures, or fields, that begin in it."""
    parts: int
    """Slices in it."""
    whole: bool
    """Whether it begins with a unit, and not in the middle of one."""
    key: bool
    """Whether decoding can begin with it."""


def pictures_in(data: bytes, codec: str) -> Pictures:
    """Look at the units of a packet; `codec` is one of `CODECS`."""
    place = data.find(_START)
    whole = place >= 0 and not any(data[:place])
    begun, parts, key = 0, 0, False
    while 0 <= place < len(data) - 5:
        kind, payload = data[place + 3], data[place + 4]
        if codec == "h264":
            is_slice, is_key = kind & 31 in (1, 2, 5), kind & 31 == 5
            key |= kind & 31 == _SEI and _has_recovery_point(data, place + 4)
        else:
            kind, payload = kind >> 1 & 63, data[place + 5]
            is_slice, is_key = kind < 32, 16 <= kind < 24
        if is_slice:
            parts += 1
            begun += payload >> 7  # the first bit: this slice is the first one of its picture
            key |= is_key
        place = data.find(_START, place + 3)
    return Pictures(begun, parts, whole, key)


def _has_recovery_point(data: bytes, place: int) -> bool:
    """Whether the messages that begin at `place` say that decoding can begin here, without a key frame of its own kind.

    Broadcasts and streams that refresh their pictures bit by bit have nothing else.
    """
    while place + 1 < len(data) and data[place] != 0x80:  # the end of the messages
        if data[place] == _RECOVERY_POINT:
            return True
        if 0xFF in data[place : place + 2]:  # of a kind, or a length, that takes more bytes; this one is short
            return False
        place += 2 + data[place + 1]
    return False


def needs_others(data: bytes) -> bool | None:
    """Whether the picture in a packet of MPEG-4 Part 2 depends on others; None if there is no picture in it."""
    place = data.find(_MPEG4_PICTURE)
    return None if not 0 <= place < len(data) - 4 else data[place + 4] >> 6 != 0


class PacketCheck:
    """Checks whether packets are pictures.

    A decoder silently makes wrong pictures of packets that are not pictures. FFmpeg marks packets that lost something
    on the way, so one without a mark is not an accident.

    Parameters
    ----------
    codec : str
        One of `CODECS`.
    """

    def __init__(self, codec: str) -> None:
        self._codec = codec
        self._looked = 0
        self.failed = False
        """Whether packets are not pictures."""

    @property
    def trusts(self) -> bool:
        """Whether enough packets were pictures to trust the next one without a look at the one after it."""
        return self._looked > CONFIRMED

    def look(self, data: bytes, *, damaged: bool) -> bool:
        """Look at the next packet; True if decoding can begin with it."""
        self._looked += 1
        found = pictures_in(data, self._codec)
        if not damaged and not (found.whole and (found.begun == 1 or not found.parts)):
            self.failed = True
        return found.key

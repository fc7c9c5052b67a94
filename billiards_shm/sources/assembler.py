"""Assembles pictures from packets that hold part of one or several, for streams opened without a parser."""

from collections import deque
from typing import TYPE_CHECKING, Final

import av

from billiards_shm.sources.access_units import CODECS, pictures_in

if TYPE_CHECKING:
    from av.video.stream import VideoStream

__all__ = ["ASSEMBLED", "Assembler"]

ASSEMBLED: Final = CODECS | {"mpeg2video", "mpeg4", "mjpeg"}
_START_CODE_BYTES: Final = 4
"""Zeros before a start code may count as part of the picture before it."""


class Assembler:
    """FFmpeg's parser of a codec, fed by hand. It knows that a picture has ended when the next one begins.

    Parameters
    ----------
    stream : VideoStream
        With one of the codecs in `ASSEMBLED`.
    timed : bool
        Whether packets have the times of pictures. FFmpeg counts pieces of JPEGs as if they were pictures.
    amid : bool
        Whether it may begin in the middle of a picture: everything before the first key frame is then left out.
    """

    def __init__(self, stream: "VideoStream", *, timed: bool, amid: bool) -> None:
        self._codec = stream.codec_context.name
        self._parser = av.CodecContext.create(stream.codec_context.codec, "r")
        self._time_base = stream.time_base
        self._timed = timed
        self._waits_for_key = amid
        self._times: deque[tuple[int, int | None, int | None]] = deque()
        """Of packets in which the next picture may begin: position of the first byte in the stream, pts and dts."""
        self._taken = self._given = 0
        self._damaged_until = 0

    def add(self, packet: "av.Packet[VideoStream]") -> "list[av.Packet[VideoStream]]":
        """Take the next packet, an empty one at the end; return the pictures that have ended.

        The time of a packet is that of the first picture that begins in it.
        """
        data = bytes(packet)
        if self._timed:
            self._times.append((self._taken, packet.pts, packet.dts))
        self._taken += len(data)
        if packet.is_corrupt:
            self._damaged_until = self._taken
        found = []
        for picture in self._parser.parse(data or None):
            picture.pts, picture.dts = self._time_at(self._given + _START_CODE_BYTES)
            picture.is_corrupt = self._given < self._damaged_until
            self._given += picture.size
            if self._time_base is not None:
                picture.time_base = self._time_base
            picture.is_keyframe = self._is_key(picture)
            self._waits_for_key = self._waits_for_key and not picture.is_keyframe
            if not self._waits_for_key:
                found.append(picture)
        return found

    def _time_at(self, place: int) -> tuple[int | None, int | None]:
        """Presentation and decoding time of the packet with this byte, unless an earlier picture began in it."""
        found: tuple[int | None, int | None] = (None, None)
        while self._times and self._times[0][0] <= place:
            found = self._times.popleft()[1:]
        return found

    def _is_key(self, picture: "av.Packet[VideoStream]") -> bool:
        if self._codec in CODECS:
            there = pictures_in(bytes(picture), self._codec)
            return there.key and there.begun > 0
        return picture.is_keyframe or self._codec == "mjpeg"

"""Decodes a container's packets with PyAV: finds damage and the end, and chooses the number of threads."""

import errno
import math
import struct
import time
from collections import deque
from typing import Final, cast

import av
from av.codec.context import Flags
from av.container import InputContainer
from av.stream import Discard
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from billiards_shm.jpeg import has_end
from billiards_shm.sources.access_units import CODECS, PacketCheck, needs_others
from billiards_shm.sources.assembler import Assembler
from billiards_shm.sources.container import has_times
from billiards_shm.sources.load import DecodingLoad

__all__ = ["Decoder", "NoFrameError"]

MOST_ERRORS: Final = 1000
"""This many in a row are skipped before they count as another frame that cannot be decoded."""

CONFIRMED_NS: Final = 5_000_000
"""Two packets in a row confirm each other if they differ by less than this in when the stream's time was zero."""
_BY_RTP: Final = frozenset({"rtsp", "rtp", "sdp"})
_REFERENCE_TIME: Final = struct.Struct("=q")  # how AVProducerReferenceTime begins: microseconds since 1970
_NS_PER_US: Final = 1000
_NS_PER_SEC: Final = 1e9


class NoFrameError(Exception):
    """A live stream kept sending, but no frame was complete in time."""


class Decoder:
    """Decodes the frames of one video stream, in the order they are shown.

    Parameters
    ----------
    container : InputContainer
    stream : VideoStream
        The container's stream to decode; its other streams are skipped.
    live : bool
        Decode each packet immediately. With several threads FFmpeg decodes that many frames at a time, and so holds
        each back until the next ones have arrived.
    keep_damaged : bool
        Return damaged JPEGs too. FFmpeg fills the missing part with grey.
    unparsed : bool
        The container was opened without the parsers that assemble pictures, and needs them. Where packets can be
        pictures they are taken for pictures, until one is not.
    in_pieces : bool
        Packets were not pictures when the source was open before.
    timeout_sec : float
        How long a frame may take. FFmpeg's own limit applies to a packet.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        *,
        live: bool,
        keep_damaged: bool,
        unparsed: bool = False,
        in_pieces: bool = False,
        timeout_sec: float = math.inf,
    ) -> None:
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        self._container = container
        self._stream = stream
        self._context: VideoCodecContext = stream.codec_context
        self._context.thread_type = "AUTO"
        self._context.thread_count = 1 if live else 0
        self._context.flags |= Flags.unaligned  # cropping at the left is exact to the pixel
        self._checks_jpegs = self._context.name == "mjpeg" and not keep_damaged
        self._jpegs_have_ends = False
        if self._checks_jpegs:
            self._context.options = {"err_detect": "explode"}
        self._packets = container.demux(stream)
        self._held: av.Packet[VideoStream] | None = None
        self._length_unknown = (container.size or 0) <= 0
        self._decoded: deque[VideoFrame] = deque()
        self._live = live
        self._timeout_sec = timeout_sec
        self._began_sec = 0.0
        self._began = False
        # FFmpeg's decoder begins with any picture; those of other codecs return none until they can.
        self._waits_for_key = self._context.name == "mpeg4"
        self._lost_parts = False
        self.damaged = False
        """Whether the last frame lacks parts, which the decoder filled in, or something before it was lost."""
        self.has_times = has_times(container)
        """Whether packets have times that the sender gave them."""
        self._load = DecodingLoad() if live else None
        timed = container.format.name == "mpegts"
        pictures = unparsed and timed and self._context.name in CODECS and not in_pieces
        self._check = PacketCheck(self._context.name) if pictures else None
        self._assembler = Assembler(self._stream, timed=timed, amid=False) if unparsed and not pictures else None
        self._unconfirmed: list[av.Packet[VideoStream]] = []
        self._pictures: deque[av.Packet[VideoStream]] = deque()
        self.sender = SenderTime(self._stream)
        self._has_reports = container.format.name in _BY_RTP

    def next_frame(self) -> VideoFrame | None:
        """Decode up to the next frame.

        Returns
        -------
        VideoFrame or None
            None if what was read cannot be decoded.

        Raises
        ------
        NoFrameError
            The time is up.
        EOFError
            The stream is over.
        av.error.FFmpegError
            Nothing more can be read.
        """
        self._began_sec = time.monotonic()
        while not self._decoded:
            packet = self._next_picture()
            if packet is None:
                return None
            if self._checks_jpegs and packet.size and self._is_cut_off(bytes(packet)):
                return None
            if self._waits_for_key and packet.size:
                made_of_others = needs_others(bytes(packet))
                if made_of_others:
                    continue
                self._waits_for_key = made_of_others is None
            # Decoders do not report missing whole pictures, HEVC's reports nothing; but MPEG-TS counts its packets.
            self._lost_parts |= packet.is_corrupt
            try:
                self._decoded.extend(self._decode(packet))
            except av.error.FFmpegError:
                # Packets before the first key frame of a live stream are not damaged, they only arrived too early.
                if self._began or not self._live:
                    return None
        self._began = True
        frame = self._decoded.popleft()
        self.damaged, self._lost_parts = frame.is_corrupt or self._lost_parts, False
        return frame

    def next_jpeg(self) -> "av.Packet[VideoStream] | None":
        """Read up to the next frame of Motion JPEG, without decoding it. Returns and raises like `next_frame`."""
        self._began_sec = time.monotonic()
        while (packet := self._next_picture()) is not None and not packet.size:
            pass  # the end of the stream
        return packet

    def decode_jpeg(self, packet: "av.Packet[VideoStream]") -> VideoFrame | None:
        """Decode what `next_jpeg` returned; None if that is not possible."""
        try:
            return next(iter(self._context.decode(packet)), None)
        except av.error.FFmpegError:
            return None

    @property
    def assembles(self) -> bool:
        """Whether packets turned out not to be pictures, and are assembled."""
        return self._assembler is not None

    def _next_picture(self) -> "av.Packet[VideoStream] | None":
        """Read the packets of a picture; returns like `_next_packet`."""
        while not self._pictures:
            if time.monotonic() - self._began_sec > self._timeout_sec:
                raise NoFrameError
            packet = self._next_packet()
            if packet is None:
                return None
            self._pictures.extend(self._pictures_of(packet))
        return self._pictures.popleft()

    def _pictures_of(self, packet: "av.Packet[VideoStream]") -> "list[av.Packet[VideoStream]]":
        """The pictures that a packet completes; the empty packet at the end comes last."""
        if self._assembler is not None:
            found = self._assembler.add(packet)
            return found if packet.size else [*found, packet]
        if self._check is None:
            return [packet]
        held, self._unconfirmed = self._unconfirmed, []
        if packet.size:
            packet.is_keyframe = self._check.look(bytes(packet), damaged=packet.is_corrupt)
        if self._check.failed:
            self._assembler = Assembler(self._stream, timed=True, amid=not held)
            return [picture for each in (*held, packet) for picture in self._assembler.add(each)]
        if self._check.trusts or not packet.size:
            return [*held, packet]
        self._unconfirmed = [packet]
        return held

    def _next_packet(self) -> "av.Packet[VideoStream] | None":
        """Read a packet, an empty one at the end; None if something invalid came before it."""
        packet, self._held = self._held, None
        if packet is not None:
            return packet
        try:
            return self._read_packet()
        except av.error.InvalidDataError:
            # After a wrong length in Motion JPEG, each line up to the next boundary is an error: count them as one.
            for _ in range(MOST_ERRORS):
                # The generator ended with the error, the container did not.
                self._packets = self._container.demux(self._stream)
                try:
                    self._held = self._read_packet()
                except av.error.InvalidDataError:
                    continue
                except EOFError:
                    pass
                break
            return None

    def _read_packet(self) -> "av.Packet[VideoStream]":
        try:
            packet = next(self._packets, None)
        except av.error.OSError as error:
            if error.errno != errno.EIO or not self._length_unknown:
                raise
            # The server closed the connection, as it ends a response without a length. FFmpeg 8 calls that an error.
            self._packets = iter(())
            return cast("av.Packet[VideoStream]", av.Packet())
        if packet is None:
            raise EOFError
        if self._has_reports:
            self.sender.read(packet)
        return packet

    def close(self) -> None:
        """Stop reading; then the container can be closed."""
        self._packets = iter(())

    def _decode(self, packet: "av.Packet[VideoStream]") -> list[VideoFrame]:
        if self._load is None:
            return self._context.decode(packet)
        if packet.is_keyframe and self._load.busy:
            self._load = None
            left = self._context.decode(None)
            self._context = _with_two_threads(self._context)
            return left + self._context.decode(packet)
        began_ns = time.thread_time_ns()
        frames = self._context.decode(packet)
        self._load.add(time.thread_time_ns() - began_ns, len(frames), frames[-1].time if frames else None)
        return frames

    def _is_cut_off(self, jpeg: bytes) -> bool:
        """Whether a JPEG lacks its end marker, in a stream whose JPEGs have one.

        FFmpeg notices most truncated JPEGs, but not a cut within the last block.
        """
        whole = has_end(jpeg)
        self._jpegs_have_ends |= whole is True
        return whole is False and self._jpegs_have_ends


class SenderTime:
    """When a stream's time was zero by the sender's wall clock, from RTCP's sender reports.

    FFmpeg passes the time of a packet on with it. Where a parser assembles packets, it may once be the time of the next
    one, after a report; so a change counts only when the next packet confirms it.

    Parameters
    ----------
    stream : VideoStream
    """

    def __init__(self, stream: VideoStream) -> None:
        self._tick_ns = float(stream.time_base or 0) * _NS_PER_SEC
        self._said_ns: int | None = None
        self.zero_ns: int | None = None
        """In nanoseconds since 1970; None before the first report, and where there are none."""

    def read(self, packet: "av.Packet[VideoStream]") -> None:
        """Note what a packet reports."""
        if packet.pts is None or not packet.has_sidedata("prft"):
            return
        wall_us: int = _REFERENCE_TIME.unpack_from(bytes(packet.get_sidedata("prft")))[0]
        said_ns, self._said_ns = self._said_ns, wall_us * _NS_PER_US - round(packet.pts * self._tick_ns)
        if said_ns is not None and abs(self._said_ns - said_ns) < CONFIRMED_NS:
            self.zero_ns = self._said_ns


def _with_two_threads(old: VideoCodecContext) -> VideoCodecContext:
    """Make a decoder like an old one; it begins at a key frame."""
    context = av.CodecContext.create(old.codec, "r")
    assert isinstance(context, VideoCodecContext)
    context.extradata = old.extradata
    context.width, context.height = old.width, old.height  # Motion JPEG tells a field from a frame by these
    context.options = old.options
    context.flags |= Flags.unaligned
    context.thread_type = "AUTO"
    context.thread_count = 2
    return context

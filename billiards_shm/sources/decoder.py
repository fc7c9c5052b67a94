"""From a container's packets to frames, with PyAV: what is damaged, what is over, and with how many threads."""

import errno
import time
from collections import deque
from typing import Final, cast

import av
from av.container import InputContainer
from av.stream import Discard
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from billiards_shm.jpeg import has_end
from billiards_shm.sources.load import DecodingLoad

__all__ = ["Decoder"]

MOST_ERRORS: Final = 1000
"""So many in a row are read over before that counts as another frame that cannot be decoded."""


class Decoder:
    """Gives the frames of one video stream, in the order they are shown.

    Parameters
    ----------
    container : InputContainer
    stream : VideoStream
        The container's stream to decode; its other streams are skipped.
    live : bool
        Decode each packet at once. With several threads FFmpeg decodes as many frames at a time, and so holds each back
        until the next ones have come.
    keep_damaged : bool
        Give damaged JPEGs too, whose missing part FFmpeg fills with grey.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, *, live: bool, keep_damaged: bool) -> None:
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        self._container = container
        self._stream = stream
        self._context: VideoCodecContext = stream.codec_context
        self._context.thread_type = "AUTO"
        self._context.thread_count = 1 if live else 0
        self._checks_jpegs = self._context.name == "mjpeg" and not keep_damaged
        self._jpegs_have_ends = False
        if self._checks_jpegs:
            self._context.options = {"err_detect": "explode"}
        self._packets = container.demux(stream)
        self._held: av.Packet[VideoStream] | None = None
        self._length_unknown = (container.size or 0) <= 0
        self._decoded: deque[VideoFrame] = deque()
        self._live = live
        self._began = False
        self._load = DecodingLoad() if live else None

    def next_frame(self) -> VideoFrame | None:
        """Decode on to the next frame.

        Returns
        -------
        VideoFrame or None
            None if what was read cannot be decoded.

        Raises
        ------
        EOFError
            The stream is over.
        av.error.FFmpegError
            Nothing can be read any more.
        """
        while not self._decoded:
            packet = self._next_packet()
            if packet is None:
                return None
            if self._checks_jpegs and packet.size and self._is_cut_off(bytes(packet)):
                return None
            try:
                self._decoded.extend(self._decode(packet))
            except av.error.FFmpegError:
                # What a live stream sends before its first key frame is not damaged, it only came too early.
                if self._began or not self._live:
                    return None
        self._began = True
        return self._decoded.popleft()

    def next_jpeg(self) -> "av.Packet[VideoStream] | None":
        """Read on to the next frame of Motion JPEG, without decoding it. Returns and raises as `next_frame`."""
        while (packet := self._next_packet()) is not None and not packet.size:
            pass  # what ends the stream
        return packet

    def decode_jpeg(self, packet: "av.Packet[VideoStream]") -> VideoFrame | None:
        """Decode what `next_jpeg` gave; None if that is not possible."""
        try:
            return next(iter(self._context.decode(packet)), None)
        except av.error.FFmpegError:
            return None

    def _next_packet(self) -> "av.Packet[VideoStream] | None":
        """Read a packet, an empty one at the end; None if something that is none came before it."""
        packet, self._held = self._held, None
        if packet is not None:
            return packet
        try:
            return self._read_packet()
        except av.error.InvalidDataError:
            # After a wrong length in Motion JPEG, each line up to the next boundary is an error: together they are one.
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
            # The server closed the connection: so an answer ends that named no length. FFmpeg 8 calls it an error.
            self._packets = iter(())
            return cast("av.Packet[VideoStream]", av.Packet())
        if packet is None:
            raise EOFError
        return packet

    def close(self) -> None:
        """Stop reading; the container can be closed then."""
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

        FFmpeg notices most that are cut off, but not a cut within the last block.
        """
        whole = has_end(jpeg)
        self._jpegs_have_ends |= whole is True
        return whole is False and self._jpegs_have_ends


def _with_two_threads(old: VideoCodecContext) -> VideoCodecContext:
    """Make a decoder like an old one; it begins at a key frame."""
    context = av.CodecContext.create(old.codec, "r")
    assert isinstance(context, VideoCodecContext)
    context.extradata = old.extradata
    context.width, context.height = old.width, old.height  # by which Motion JPEG knows one field from a frame
    context.options = old.options
    context.thread_type = "AUTO"
    context.thread_count = 2
    return context

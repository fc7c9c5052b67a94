"""Fetches the frames of another host's segment, one request at a time, and writes them into a copy here.

The newest frame wins by construction: there is one request outstanding, which the sender answers with its newest frame,
so none waits in a queue, however slow the link is.
"""

import logging
import math
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy.typing as npt
import zenoh

from billiards_shm import SegmentStatus, SourceState
from billiards_shm.capture.loop import StopEvent
from billiards_shm.capture.reporter import CaptureReporter
from billiards_shm.capture.stats import CaptureStatistics, StatisticsSnapshot
from billiards_shm.capture.status import SourceStatus
from billiards_shm.config.model import MirroredConfig, Settings
from billiards_shm.errors import CameraError, ConfigurationError, FrameShapeError
from billiards_shm.mirror.choice import CodecChoice, Transfer
from billiards_shm.mirror.clock import RemoteClock
from billiards_shm.mirror.codecs import decodable, decode
from billiards_shm.mirror.complaints import Complaints
from billiards_shm.mirror.keys import EVERY_SEGMENT, Origin, Wanted, host_id, host_name
from billiards_shm.mirror.link import Link
from billiards_shm.mirror.local_copy import LocalCopy
from billiards_shm.mirror.network import Offers, described, open_session
from billiards_shm.mirror.wire import Answer, Codec, FrameHeader, Kind, Request, SentFrame, WireError
from billiards_shm.sources.protocol import Reason

if TYPE_CHECKING:
    from billiards_shm.mirror.video import VideoDecoder

__all__ = ["MirrorLoop"]

BACKEND: Final = "Zenoh"
WAIT_MS: Final = 500
"""How long a sender waits for a frame before it answers without one."""
LOST_AFTER_SEC: Final = 2.0
"""How long a sender may be silent."""
IDLE_INTERVAL_SEC: Final = 1.0
"""Interval of frames while the copy has no reader."""
DEMAND_CHECK_SEC: Final = 0.02
"""How often to check for a reader in the meantime."""
READING_SHARE: Final = 0.25
"""Share of the time between two frames of the origin, after a capture, in which the next is not requested."""
LONGEST_READING_NS: Final = 10_000_000
"""Upper limit of that time."""
AMBIGUOUS_SEC: Final = 0.3
"""How long further hosts may take to offer a segment of the same name."""
REJECTED_PAUSE_SEC: Final = 0.1
"""After an invalid answer, or an immediate one without a frame: more of them may follow."""
MOST_COUNTED: Final = 2**63
"""A host may number its frames freely; a statistic has 64 bits."""
_NS_PER_SEC: Final = 1_000_000_000

_log = logging.getLogger(__name__)


class MirrorLoop:
    """Copies one segment of another host.

    Parameters
    ----------
    settings : Settings
        `video` is the section of the copy.
    source : MirroredConfig
    stop : StopEvent
    on_progress : callable
        Called after the first frame and each answer after it, and while none arrives.
    frames : int, optional
        Stop after this many frames.
    on_statistics : callable, optional
        Called with the statistics about four times a second.
    """

    def __init__(
        self,
        settings: Settings,
        source: MirroredConfig,
        stop: StopEvent,
        on_progress: Callable[[], None],
        *,
        frames: int | None = None,
        on_statistics: Callable[[StatisticsSnapshot], None] | None = None,
    ) -> None:
        self._config = settings.mirror
        self._source = source
        self._wanted = Wanted.parse(source.origin)
        host = settings.mirror.host_name or host_name()
        self._itself = Origin(host, host_id(host), settings.video.shared_memory_name)
        self._stop = stop
        self._on_progress = on_progress
        self._frames = frames
        self.statistics = CaptureStatistics(time.monotonic_ns())
        self._copy = LocalCopy(settings.video)
        self._status = SourceStatus(self._copy, self.statistics)
        self._status.backend = BACKEND
        self.reporter = CaptureReporter(
            settings, self.statistics, self._copy, self._status, on_statistics, address=f"{self._wanted} by Zenoh"
        )
        self._generation = bytes(16)
        self._after = 0
        self._captured_ns = 0
        self._next_ns = 0
        self._answered_ns = 0
        self._complain = Complaints(_log)
        possible = decodable()
        wanted = None if source.codec == "auto" else Codec[source.codec.upper()]
        if wanted not in (None, *possible):
            package, extra = ("OpenCV", "headless") if wanted is Codec.JPEG else ("PyAV", "av")
            raise ConfigurationError(f"codec {source.codec} needs {package}: pip install 'billiards-shm[{extra}]'")
        if wanted is Codec.MJPG and Codec.JPEG not in possible:
            wanted = Codec.RAW  # the same bytes, unless the camera's frames are no JPEGs
        self._choice = CodecChoice(wanted, possible)
        self._video: VideoDecoder | None = None
        self._numbers: deque[tuple[int, int]] = deque(maxlen=16)
        self._cancellation = zenoh.CancellationToken()
        self._closing = False

    def run(self) -> None:
        """Copy frames until a stop is requested, or enough were copied.

        Raises
        ------
        CameraError
            No host offers the segment.
        ConfigurationError
            Several do, or Zenoh does not accept its configuration.
        BilliardsShmError
            The copy could not be made.
        """
        with open_session(self._config) as session, Offers(session, EVERY_SEGMENT) as offers:
            origin = self._find(offers)
            while origin is not None:
                # A new one for each offer: the host may have restarted, and have another clock.
                link = Link(session, origin, self.statistics, self._cancellation, self._pause)
                while True:
                    offered, after = offers.has(origin), self._after
                    if self._wait(0) or not self._fetch_or_end(link):
                        return
                    # A living sender returns what is left, then says why the segment is no longer offered.
                    if not offered and self._after == after:
                        break
                origin = self._wait_for_offer(offers, origin)

    def close(self) -> None:
        """Close the copy; may be called from another thread, and more than once."""
        self._closing = True
        self._cancellation.cancel()
        self._copy.close()

    def _fetch_or_end(self, link: Link) -> bool:
        """Fetch a frame; False if there were enough of them, or the copy was closed."""
        try:
            self._fetch(link)
        except Exception:
            # A stop may close the copy while a frame is being written.
            if not self._closing:
                raise
            return False
        return self._frames is None or self.statistics.captured < self._frames

    # Hosts that offer it.

    def _find(self, offers: Offers) -> Origin | None:
        """Wait for a host that offers the segment; None if a stop is requested."""
        until = time.monotonic() + self._source.open_timeout_sec
        while not (found := self._matching(offers)):
            if time.monotonic() > until:
                there = described(offers.now())
                raise CameraError(
                    f"cannot open {self._wanted}: {Reason.NOT_FOUND}: no host offers it "
                    f"({f'offered are {there}' if there else 'nor any other segment'})"
                )
            if self._pause(DEMAND_CHECK_SEC):
                return None
        if self._pause(AMBIGUOUS_SEC):
            return None
        found = self._matching(offers) or found
        if len(found) > 1:
            raise ConfigurationError(f"{self._wanted} is offered by several hosts: {described(found)}; say which")
        _log.info("%s is offered by %s (id %s)", self._wanted, found[0].host, found[0].id)
        return found[0]

    def _matching(self, offers: Offers) -> list[Origin]:
        # This host may offer the copy to others.
        return [origin for origin in offers.now() if self._wanted.matches(origin) and origin != self._itself]

    def _wait_for_offer(self, offers: Offers, lost: Origin) -> Origin | None:
        """Wait until the segment is offered again, by any host that matches; None if a stop is requested."""
        if not self._status.reason.startswith(Reason.END_OF_STREAM):  # a better reason
            self._set_lost(Reason.NOT_FOUND.because(f"{lost.host} no longer offers {lost.segment}"))
        while not (found := self._matching(offers)):
            if self._pause(DEMAND_CHECK_SEC):
                return None
        origin = lost if lost in found else found[0]
        if origin != lost:
            _log.warning("%s is offered by %s (id %s) now", self._wanted, origin.host, origin.id)
        return origin

    # Requests and answers.

    def _fetch(self, link: Link) -> None:
        """Ask for the next frame, and write it."""
        link.keep_time(self._choice)
        request = Request(
            kind=Kind.FRAMES,
            nonce=secrets.randbits(64),
            codec=self._choice.codec,
            every=self._source.history > 0,
            key_frame=self._video is None or not self._video.begun,
            width=self._source.width or 0,
            wait_ms=WAIT_MS,
            fps=self._source.fps or 0.0,
            generation=self._generation,
            after=self._after,
            automatic=self._source.codec == "auto",
        )
        asked_ns = time.monotonic_ns()
        found = link.ask(request)
        if found is None:
            silent_ns = time.monotonic_ns() - max(self._answered_ns, self.statistics.started_ns)
            if silent_ns > LOST_AFTER_SEC * _NS_PER_SEC:
                link.forget_sender()
                self._set_lost(Reason.TIMEOUT.because(f"{link.origin.host} does not answer"))
            self._pause(REJECTED_PAUSE_SEC)
            return
        answer, frames, arrived_ns = found
        self._answered_ns = arrived_ns
        if frames:
            self._take_frames(link.clock, answer, frames, arrived_ns)
        elif answer.generation == self._generation and answer.sequence < self._after:
            self._after = answer.sequence  # a number that is not the origin's came from elsewhere
        self._follow(answer, bool(frames))
        self._progress()
        if not frames and arrived_ns - asked_ns < REJECTED_PAUSE_SEC * _NS_PER_SEC:
            self._pause(REJECTED_PAUSE_SEC)  # a sender with too many receivers
        self._pace(asked_ns)

    # Frames.

    def _take_frames(self, clock: RemoteClock, answer: Answer, frames: list[SentFrame], arrived_ns: int) -> None:
        """Write the frames of an answer: the newest, or all of them if the copy keeps a history."""
        if self._source.history and answer.generation == self._generation and self._after:
            missed = frames[-1].header.sequence - self._after - len(frames)
            self.statistics.link_missed = min(self.statistics.link_missed + missed, MOST_COUNTED)
        # Also for frames that do not decode, which would be requested again.
        self._generation, self._after = answer.generation, frames[-1].header.sequence
        started_ns = time.monotonic_ns()
        decoded_ns = started_ns
        for sent in frames:
            try:
                wanted = self._source.history > 0 or sent is frames[-1]
                frame = self._decode(answer, sent, wanted=wanted)
                decoded_ns = time.monotonic_ns()
                if frame is not None:
                    self._write(frame, sent.header, decoded_ns, clock)
            except (WireError, FrameShapeError) as error:
                self.statistics.unreadable += 1
                self._complain(f"A frame of {self._wanted} was refused: {error}")
        header = frames[-1].header
        self._choice.add(
            Transfer(
                codec=answer.codec,
                pixels=math.prod(header.shape[:2])
                if header.pixel_format != "MJPG"
                else math.prod(self._copy.picture_size),
                raw_bytes=header.frame_bytes,
                sent_bytes=sum(len(sent.data) for sent in frames),
                encode_ns=answer.encode_us * 1000,
                # Without the time of an empty answer.
                transfer_ns=arrived_ns - clock.to_local(answer.sent_ns) - clock.round_trip_ns // 2,
                decode_ns=decoded_ns - started_ns,
            )
        )
        self._status.backend = f"{BACKEND} {answer.codec.name.lower()}"
        fps = self._source_fps(header)
        reading_ns = min(LONGEST_READING_NS, round(READING_SHARE * _NS_PER_SEC / fps)) if fps else 0
        self._next_ns = self._captured_ns + reading_ns
        if self._choice.decide(arrived_ns, self._source.fps or fps):
            _log.info("%s is fetched %s", self._wanted, self._choice.reason)

    def _source_fps(self, header: FrameHeader) -> float:
        """Frames per second that the origin publishes, whether or not they arrive here; 0.0: not known."""
        self._numbers.append((header.sequence, header.capture_ns))
        frames, span_ns = (last - first for first, last in zip(self._numbers[0], self._numbers[-1], strict=True))
        return frames * _NS_PER_SEC / span_ns if frames > 0 and span_ns > 0 else 0.0

    def _decode(self, answer: Answer, sent: SentFrame, *, wanted: bool) -> npt.NDArray[Any] | None:
        """The array of a frame; None if only later frames need this one."""
        if answer.codec is not Codec.H264:
            self._video = None
            return decode(sent.header, sent.data, answer.codec)
        from billiards_shm.mirror.video import VideoDecoder, picture  # needs PyAV

        if self._video is None:
            self._video = VideoDecoder()
        decoded = self._video.decode(sent)
        return picture(decoded, sent.header) if wanted else None

    def _write(self, frame: npt.NDArray[Any], header: FrameHeader, decoded_ns: int, clock: RemoteClock) -> None:
        # Never in the future, and never back: readers measure ages and intervals.
        captured_ns = clock.to_local(header.capture_ns) if clock.known else decoded_ns
        captured_ns = max(min(captured_ns, decoded_ns), self._captured_ns, 1)
        self._captured_ns = captured_ns
        if header.online:
            self.statistics.frame_captured(decoded_ns)
            self._copy.report(captured=self.statistics.captured)
        written = self._copy.write(frame, header, captured_ns)
        now = time.monotonic_ns()
        if not written:
            self.statistics.dropped += 1
            return
        self.statistics.frame_written(now, now - decoded_ns)
        self.statistics.frame_aged(now - captured_ns)

    def _follow(self, answer: Answer, came: bool) -> None:
        """Adopt the state that the source has at its host."""
        if answer.status is not SegmentStatus.LIVE:
            words = {SegmentStatus.CLOSED: "was closed", SegmentStatus.DEAD: "has lost its writer"}
            what = words.get(answer.status, "is gone")
            self._set_lost(Reason.END_OF_STREAM.because(f"the segment {what} at its host"))
            return
        state, reason = answer.state, answer.reason
        if state in (SourceState.UNKNOWN, SourceState.STREAMING, SourceState.OPENING):
            if not came:
                return
            state, reason = SourceState.STREAMING, ""
        if self._status.state is SourceState.RECONNECTING and state is SourceState.STREAMING:
            self.statistics.reconnects += 1
            _log.info("%s is back", self._wanted)
        if (state, reason) != (self._status.state, self._status.reason):
            self._status.set_state(state, reason)

    def _set_lost(self, reason: str) -> None:
        if (self._status.state, self._status.reason) == (SourceState.RECONNECTING, reason):
            return
        _log.warning("Lost %s: %s", self._wanted, reason)
        self._status.set_state(SourceState.RECONNECTING, reason)

    # Time.

    def _pace(self, asked_ns: int) -> None:
        """Wait until the next frame is wanted: by the requested rate, or until somebody reads the copy."""
        # A new one is unlikely so soon, and the readers of the last one can use the processors until then.
        if (seconds := (self._next_ns - time.monotonic_ns()) / _NS_PER_SEC) > 0:
            self._pause(seconds)
        if self._source.fps:
            self._pause((asked_ns + _NS_PER_SEC / self._source.fps - time.monotonic_ns()) / _NS_PER_SEC)
        while not self._copy.has_readers and time.monotonic_ns() < asked_ns + IDLE_INTERVAL_SEC * _NS_PER_SEC:
            if self._pause(DEMAND_CHECK_SEC):
                return

    def _pause(self, seconds: float) -> bool:
        """Wait, and report progress; True if a stop is requested."""
        stopped = self._wait(max(0.0, seconds))
        self._progress()
        return stopped

    def _progress(self) -> None:
        """Report progress, from the first frame on: readers can find the segment then."""
        if self._copy.begun:
            self._on_progress()

    def _wait(self, seconds: float) -> bool:
        self.reporter.report_due(time.monotonic_ns())
        return self._stop.wait(seconds)

"""When a stream's frames were captured, compared with the time that the server drew into them."""

import itertools
import statistics
from pathlib import Path

import pytest
from real_sources import CaptureProcess, RtspClock

from billiards_shm import FrameMetadata, SharedMemoryFrameReader

pytestmark = pytest.mark.slow

MS = 1e6
FRAMES = 75


def watch(capture: CaptureProcess) -> list[tuple[int, FrameMetadata]]:
    """True and reported times of frames, starting with the first that has the sender's time."""
    seen: list[tuple[int, FrameMetadata]] = []
    last = 0
    while len(seen) < FRAMES:
        frame, metadata = capture.frame()
        assert last <= metadata.capture_time_ns <= metadata.publish_time_ns, "none goes back, and none is of the future"
        last = metadata.capture_time_ns
        assert metadata.clock in ("arrival", "sender")
        if metadata.clock == "sender":
            seen.append((RtspClock.taken_ns(frame), metadata))
        else:
            assert not seen, "once there was a report, all have the sender's time"
    # The first ones may have the previous frame's time, which was its arrival.
    return seen[5:]


def report(what: str, errors: list[float]) -> list[float]:
    ordered = sorted(abs(error) / MS for error in errors)
    found = [ordered[int(share * len(ordered))] for share in (0.5, 0.99)]
    print(f"{what}: error p50 {found[0]:.2f} ms, p99 {found[1]:.2f} ms")
    return found


@pytest.mark.parametrize("publish", ["bgr", "both"])
def test_sender_reports_tell_when_frames_were_captured(tmp_path: Path, publish: str) -> None:
    with RtspClock() as server, CaptureProcess(tmp_path, server.url, publish=publish) as capture:
        seen = watch(capture)
        ours = report("sender reports", [metadata.capture_time_ns - taken for taken, metadata in seen])
        arrivals = report("arrival", [metadata.publish_time_ns - taken for taken, metadata in seen])
        assert ours[0] < arrivals[0] / 4
        assert ours[1] < arrivals[1]
        info = capture.info
        assert info.clock == "sender"
        assert info.clock_offset_ms is not None
        assert -1000 < info.clock_offset_ms < -25, "the encoder takes 30 ms"
        if publish == "both":
            with SharedMemoryFrameReader(f"{capture.name}.native") as reader:
                captured: dict[int, list[int]] = {}
                while all(len(times) < 2 for times in captured.values()):
                    _, native = reader.read_frame(timeout=30)
                    assert native is not None
                    assert (native.clock, native.pixel_format) == ("sender", "MJPG")
                    for metadata in (native, capture.frame()[1]):
                        captured.setdefault(metadata.source_sequence, []).append(metadata.capture_time_ns)
                both = next(times for times in captured.values() if len(times) == 2)
                assert both[0] == both[1], "one frame, one time"
        assert "has a clock that is" not in capture.said


@pytest.mark.parametrize("ahead_sec", [7, -7])
def test_a_sender_whose_clock_is_wrong_gives_times_near_arrival(tmp_path: Path, ahead_sec: int) -> None:
    with RtspClock(ahead_sec) as server, CaptureProcess(tmp_path, server.url) as capture:
        seen = watch(capture)
        errors = [metadata.capture_time_ns - taken for taken, metadata in seen]
        assert all(error > 0 for error in errors), "none was captured before it was taken"
        arrivals = [metadata.publish_time_ns - taken for taken, metadata in seen]
        assert report("wrong clock", errors)[1] <= report("arrival", arrivals)[1]
        gaps = [
            abs((after.capture_time_ns - before.capture_time_ns) - (taken_after - taken_before))
            for (taken_before, before), (taken_after, after) in itertools.pairwise(seen)
        ]
        arrived = [
            abs((after.publish_time_ns - before.publish_time_ns) - (taken_after - taken_before))
            for (taken_before, before), (taken_after, after) in itertools.pairwise(seen)
        ]
        report("interval by arrival", arrived)
        assert report("interval", gaps)[0] < max(statistics.median(arrived) / MS, 1)
        assert capture.info.clock_offset_ms == pytest.approx(ahead_sec * 1000, abs=1000)

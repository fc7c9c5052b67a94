"""Streams from real servers, which are killed, hang, continue, and come back with another picture."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from engines import BACKENDS
from real_sources import CaptureProcess, Clip, HlsServer, HttpServer, RtspServer, Server, UdpSender

MakeServer = Callable[[Clip], Server]

pytestmark = pytest.mark.slow

SERVERS: dict[str, MakeServer] = {
    "rtsp": RtspServer,
    "mpegts": partial(HttpServer, muxer="mpegts"),
    "mjpeg": partial(HttpServer, muxer="mpjpeg"),
}
UNCHANGED: dict[str, MakeServer] = {"rtsp": RtspServer, "mpegts": SERVERS["mpegts"], "udp": UdpSender}
"""Servers that send the clip's own H.264."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return Clip(tmp_path_factory.mktemp("clips"), (320, 180))


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return Clip(tmp_path_factory.mktemp("clips"), (192, 144))


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, clip: Clip) -> Iterator[Server]:
    with SERVERS[request.param](clip) as server:
        yield server


@pytest.fixture
def rtsp(clip: Clip) -> Iterator[RtspServer]:
    with RtspServer(clip) as server:
        yield server


def report(what: str, seconds: float) -> None:
    print(f"{what}: {seconds:.2f} s")


@pytest.mark.parametrize("engine", BACKENDS)
@pytest.mark.parametrize("kind", UNCHANGED)
def test_frames_of_a_stream_are_as_opencv_decodes_them_from_the_file(
    tmp_path: Path, clip: Clip, kind: str, engine: str
) -> None:
    with UNCHANGED[kind](clip) as server, CaptureProcess(tmp_path, server.url, backend=BACKENDS[engine]) as capture:
        numbers = []
        sequences = []
        ages = []
        for _ in range(40):
            frame, metadata = capture.frame()
            numbers.append(clip.check(frame))
            sequences.append(metadata.sequence)
            ages.append(metadata.publish_time_ns - metadata.capture_time_ns)
        steps = [(after - before) % clip.frames for before, after in itertools.pairwise(numbers)]
        # A reader may miss frames, mainly those buffered while the stream was opened. The capture process
        # may leave out some that are late. The order never changes: a step back spans almost the whole clip.
        published = [after - before for before, after in itertools.pairwise(sequences)]
        left_out = [(step - count) % clip.frames for step, count in zip(steps, published, strict=True)]
        assert all(count < clip.frames // 2 for count in left_out), (numbers, sequences)
        assert statistics.median(steps) == 1
        assert capture.info.source_state == "streaming"
        assert f"Source: {server.url} (320x180 at 25 fps" in capture.said


def test_hls_is_published_at_its_own_rate_and_not_played_again_when_it_ends(tmp_path: Path, clip: Clip) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    with HlsServer(clip, folder) as server, CaptureProcess(tmp_path, server.url) as capture:
        received = [capture.frame() for _ in range(60)]
        numbers = [clip.check(frame) for frame, _ in received]
        for (number, (_, metadata)), (next_number, (_, following)) in itertools.pairwise(
            zip(numbers, received, strict=True)
        ):
            assert (next_number - number) % clip.frames == following.sequence - metadata.sequence
        # Frames arrive one second at a time, and nearly all would be published at once.
        periods = [
            (following.publish_time_ns - metadata.publish_time_ns) / (following.sequence - metadata.sequence)
            for (_, metadata), (_, following) in itertools.pairwise(received)
        ]
        assert statistics.median(periods) == pytest.approx(1e9 / 25, rel=0.5)
        capture.until("streaming")
        assert (capture.info.stalls, capture.info.reconnects) == (0, 0)
        server.end()
        report("ended", capture.until("reconnecting", "end of stream: it was live, but is a recording now"))
        server.start()
        report("back after", capture.recovers())


@pytest.mark.parametrize("engine", BACKENDS)
def test_hls_that_has_an_end_is_a_recording(tmp_path: Path, clip: Clip, engine: str) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    with HlsServer(clip, folder) as server:
        server.end()
        camera = {"backend": BACKENDS[engine], "loop_video": False, "playback_fps": 100}
        with CaptureProcess(tmp_path, server.url, **camera) as capture:
            assert capture.ends() == 0
            assert f"End of {server.url}" in capture.said
            assert int(capture.said.rpartition("frames_captured=")[2].partition(",")[0]) >= 50


def test_a_killed_server_is_reported_and_found_again(tmp_path: Path, server: Server) -> None:
    with CaptureProcess(tmp_path, server.url) as capture:
        _, last = capture.frame()
        capture.until("streaming")
        server.kill()
        report("noticed", capture.until("reconnecting"))
        capture.until("reconnecting", "not found: ")
        assert "connection refused" in capture.info.source_reason
        server.start()
        report("back after", capture.recovers())
        _, metadata = capture.frame()
        assert metadata.sequence > last.sequence
        assert metadata.generation == last.generation
        capture.until("streaming")
        assert capture.info.reconnects == 1


def test_a_server_that_hangs_is_a_timeout_and_found_again(tmp_path: Path, server: Server) -> None:
    with CaptureProcess(tmp_path, server.url, read_timeout_sec=3.0, open_timeout_sec=1.0) as capture:
        capture.frame()
        capture.until("streaming")
        server.hang()
        report("noticed", capture.until("stalled", "timeout: no frame for more than"))
        report("given up after another", capture.until("reconnecting", "timeout: no frame within"))
        # FFmpeg's HTTP server stops listening once it has its client.
        capture.until("reconnecting", "timeout: no stream" if isinstance(server, RtspServer) else "not found: ")
        assert capture.info.stalls == 1
        server.restart()
        report("back after", capture.recovers())


def test_a_server_that_only_paused_is_kept(tmp_path: Path, rtsp: RtspServer, clip: Clip) -> None:
    with CaptureProcess(tmp_path, rtsp.url, read_timeout_sec=20.0) as capture:
        capture.frame()
        capture.until("streaming")
        rtsp.hang()
        capture.until("stalled")
        rtsp.go_on()
        report("back after", capture.recovers())
        capture.until("streaming")
        for _ in range(20):
            frame, _ = capture.frame()
            clip.check(frame)
        assert (capture.info.stalls, capture.info.reconnects) == (1, 0)


def test_a_server_that_comes_back_with_another_resolution_just_works(
    tmp_path: Path, server: Server, clip: Clip, small_clip: Clip
) -> None:
    with CaptureProcess(tmp_path, server.url) as capture:
        _, last = capture.frame()
        for each in (small_clip, clip):
            server.kill()
            capture.until("reconnecting")
            server.serve(each)
            server.start()
            capture.recovers()
            frame, metadata = capture.frame()
            assert (metadata.width, metadata.height) == each.size
            if "/table" in server.url and not server.url.startswith("http"):
                each.check(frame)
            assert metadata.sequence > last.sequence
            last = metadata


def test_a_stream_that_ends_is_opened_again(tmp_path: Path, clip: Clip) -> None:
    with RtspServer(clip) as server:
        clip_only = [*server._command[:-1], str(clip.path)]
        server._command = clip_only
        server.restart()
        with CaptureProcess(tmp_path, server.url) as capture:
            capture.frame()
            capture.until("reconnecting", "end of stream: ")
            capture.recovers()


def test_a_server_that_accepts_no_clients_is_an_error_with_its_reason(tmp_path: Path, rtsp: RtspServer) -> None:
    with CaptureProcess(tmp_path, rtsp.url.replace("/table", "/chairs")) as capture:
        assert capture.ends() == 3
        assert "not found: 127.0.0.1:" in capture.said
        assert "(status 404)" in capture.said


def test_descriptors_and_threads_do_not_pile_up_with_reconnects(tmp_path: Path, rtsp: RtspServer) -> None:
    with CaptureProcess(tmp_path, rtsp.url) as capture:
        before: list[int] = []
        for _ in range(3):
            capture.recovers()
            before.append(capture.descriptors())
            rtsp.kill()
            capture.until("reconnecting")
            rtsp.start()
        capture.recovers()
        assert capture.descriptors() <= before[0] + 1


def test_frames_missed_by_a_stopped_capture_process_are_skipped(tmp_path: Path, rtsp: RtspServer) -> None:
    """Only newest frames: those that piled up in sockets and decoders are old."""
    with CaptureProcess(tmp_path, rtsp.url) as capture:
        for _ in range(25):
            capture.frame()
        capture.process.send_signal(19)
        time.sleep(3)
        capture.process.send_signal(18)
        capture.recovers()
        time.sleep(1)
        capture.process.terminate()
        assert capture.ends() == 0
        last = [line for line in capture.said.splitlines() if "Stats: " in line][-1]
        stale = int(last.partition("stale=")[2].split(",")[0])
        assert stale > 20, last

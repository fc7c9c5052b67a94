"""MPEG-TS decoded packet by packet: the same frames, each a frame earlier; and packets that are not whole pictures."""

import contextlib
import itertools
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from encoding import FPS, encode, pictures
from field_pictures import field_pictures
from http_answers import serving
from jpegs import jpeg

from billiards_shm.config.model import CameraConfig
from billiards_shm.sources import container as opening
from billiards_shm.sources import video
from billiards_shm.sources.access_units import CONFIRMED, PacketCheck, pictures_in
from billiards_shm.sources.demo.table import read_counter
from billiards_shm.sources.protocol import SourceLostError
from billiards_shm.sources.video import Video

FRAMES = 40
OPENED = 50
"""Frames sent without waiting, so that the stream can be opened."""
QUIET = "log-level=none"
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "H.264": ("libx264", {"g": 10, "bf": 0}),
    "H.264, B-frames": ("libx264", {"g": 12, "bf": 3}),
    "H.264, no picture is a key frame alone": ("libx264", {"g": 10, "bf": 0, "x264-params": "intra-refresh=1"}),
    "H.264, open groups": ("libx264", {"g": 10, "bf": 2, "x264-params": "open-gop=1"}),
    "H.264, four slices": ("libx264", {"g": 10, "bf": 0, "slices": 4}),
    "H.264, interlaced": ("libx264", {"g": 10, "bf": 0, "interlaced": True}),
    "HEVC": ("libx265", {"g": 10, "x265-params": QUIET}),
    "HEVC, slices": ("libx265", {"g": 10, "x265-params": f"{QUIET}:slices=3:bframes=2"}),
}


@pytest.fixture(autouse=True)
def no_address_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, known in ((opening, "_FOR_PARSERS"), (video, "_IN_PIECES")):
        monkeypatch.setattr(module, known, set())


@contextmanager
def server(content: bytes | Iterator[bytes], *, padded: bool = True) -> Iterator[str]:
    """Serve content as a live stream, to each client from its beginning; then only padding, or nothing."""
    padding = b"\x47\x1f\xff\x10" + bytes(184)
    done = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(4096)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")
            for part in [content] if isinstance(content, bytes) else content:
                connection.sendall(part)
            while not done.wait(0.05):
                connection.sendall(padding if padded else b"")

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/live"
        finally:
            done.set()
            listening.shutdown(socket.SHUT_RDWR)


def numbers_of(source: Video) -> list[int]:
    """The numbers of the whole frames, until nothing more arrives."""
    found = []
    while source.grab():
        image = source.retrieve(None)
        with contextlib.suppress(ValueError):
            found.append(0 if image is None else read_counter(image))
    source.release()
    return found


def opened(url: str) -> Video:
    return Video(CameraConfig(device_id=url, read_timeout_sec=0.5))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_frames_are_the_same_as_from_the_parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    codec, options = KINDS[kind]
    path = encode(tmp_path / "clip.ts", codec, "yuv420p", frames=FRAMES, **options)
    with server(path.read_bytes()) as url:
        ours = numbers_of(opened(url))
        assert not video._IN_PIECES, "each packet was taken for a picture"
        monkeypatch.setattr(opening, "_may_be_ts", lambda address: False)
        parsed = numbers_of(opened(url))
    assert len(parsed) > FRAMES - 4
    assert parsed == list(range(1, len(parsed) + 1))
    assert ours[: len(parsed)] == parsed


@pytest.mark.slow
def test_a_frame_arrives_as_soon_as_the_next_one_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = encode(tmp_path / "clip.ts", "libx264", "yuv420p", (64, 48), frames=80, g=10, bf=0).read_bytes()
    begins = [at for at in range(0, len(clip), 188) if clip[at + 1] == 0x41]  # the start of a packet of stream 0x100
    assert len(begins) == 80
    allowed = threading.Semaphore(OPENED + 1)

    def units() -> Iterator[bytes]:
        for begin, end in itertools.pairwise([0, *begins[1:], len(clip)]):
            if not allowed.acquire(timeout=20):
                return
            yield clip[begin:end]

    def frames(source: Video) -> int:
        count = 0
        while source.grab():
            count += 1
            if count >= OPENED:
                allowed.release()
        source.release()
        return count

    with server(units()) as url:
        assert frames(opened(url)) > 75
    monkeypatch.setattr(opening, "_may_be_ts", lambda address: False)
    allowed = threading.Semaphore(OPENED + 1)
    with server(units()) as url:
        assert frames(opened(url)) <= OPENED + 1, "the parser waits for the one after"


@pytest.mark.parametrize("kind", KINDS)
def test_the_contents_of_a_packet_are_found(tmp_path: Path, kind: str) -> None:
    codec, options = KINDS[kind]
    path = encode(tmp_path / "clip.ts", codec, "yuv420p", frames=FRAMES, **options)
    with av.open(str(path)) as container:
        packets = [(bytes(packet), packet.is_keyframe) for packet in container.demux(video=0) if packet.size]
    assert len(packets) == FRAMES
    name = {"libx264": "h264", "libx265": "hevc"}[codec]
    for data, key in packets:
        found = pictures_in(data, name)
        assert (found.begun, found.whole, found.key) == (1, True, key)
        assert pictures_in(data + packets[1][0], name).begun == 2
        assert not pictures_in(b"\1" + data, name).whole
        for cut in range(12):
            pictures_in(data[: data.index(b"\0\0\1") + cut], name)
    assert 0 < sum(key for _, key in packets) < FRAMES


def repacked(path: Path, to: Path, how: str) -> bytes:
    """The same pictures in other packets."""
    with av.open(str(path)) as container, av.open(str(to), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        held: av.Packet | None = None
        rest = b""
        for number, packet in enumerate(container.demux(video=0)):
            if not packet.size:
                break
            data = bytes(packet)
            if how == "in pairs" or (how == "one, then two" and number % 3):
                if held is None:
                    held = packet
                    continue
                made, held = av.Packet(bytes(held) + data), None
            elif how == "one, then two":
                made = av.Packet(data)
            else:
                made = av.Packet(rest + data[:-30])
                rest = data[-30:]
            made.pts, made.dts, made.time_base = packet.pts, packet.dts, packet.time_base
            made.is_keyframe, made.stream = True, stream
            output.mux(made)
    return to.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["in pairs", "one, then two", "shifted"])
def test_packets_that_are_not_whole_pictures_are_put_together(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    caplog.set_level("INFO")
    clip = encode(tmp_path / "clip.ts", "libx264", "yuv420p", frames=2 * FRAMES, g=4, bf=0)
    with server(repacked(clip, tmp_path / "other.ts", how)) as url:
        for _ in range(2):
            found = numbers_of(opened(url))
            assert found[-30:] == list(range(found[-1] - 29, found[-1] + 1))
            assert found[-1] >= 2 * FRAMES - 5
    assert caplog.text.count("assembling them") == 1


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_lost_packets_do_not_cause_a_stream_to_be_opened_again_and_are_reported(tmp_path: Path, codec: str) -> None:
    quiet = {"x265-params": f"{QUIET}:bframes=0"} if codec == "libx265" else {"bf": 0}
    options: dict[str, Any] = {"g": 4, **quiet}
    clip = encode(tmp_path / "clip.ts", codec, "yuv420p", frames=2 * FRAMES, **options).read_bytes()
    rng = np.random.default_rng(3)
    packets = [clip[at : at + 188] for at in range(0, len(clip), 188)]
    half = len(packets) // 2
    lossy = b"".join(packet for number, packet in enumerate(packets) if number < half or rng.random() > 0.02)
    with server(lossy) as url:
        source = opened(url)
        damaged = []
        while source.grab():
            damaged.append(source.damaged)
        source.release()
    assert len(damaged) > FRAMES
    assert not any(damaged[: FRAMES // 2])
    assert any(damaged)
    assert not video._IN_PIECES


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("parsed", [False, True], ids=["packets", "parsed"])
def test_entirely_missing_pictures_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, parsed: bool
) -> None:
    """The decoder builds the following pictures on its last ones, so they are wrong."""
    quiet = {"x265-params": f"{QUIET}:bframes=0"} if codec == "libx265" else {"bf": 0}
    clip = encode(tmp_path / "clip.ts", codec, "yuv420p", (64, 48), frames=2 * FRAMES, g=20, **quiet).read_bytes()
    begins = [at for at in range(0, len(clip), 188) if clip[at + 1] == 0x41]
    assert len(begins) == 2 * FRAMES
    if parsed:
        monkeypatch.setattr(opening, "_may_be_ts", lambda address: False)
    with server(clip[: begins[50]] + clip[begins[52] :]) as url:
        source = opened(url)
        damaged = []
        while source.grab():
            damaged.append(source.damaged)
        source.release()
    assert len(damaged) > FRAMES
    assert any(damaged[48:54])
    assert sum(damaged) < 4


def test_one_packet_that_is_not_a_picture_is_enough_unless_part_of_it_was_lost() -> None:
    slice_of, parameters = b"\0\0\1\x65\x80\0\0\0", b"\0\0\1\x67\x80\0\0\0"
    for data in (slice_of * 2, b"\1", b"\1" + slice_of, b"\0\0\1\x65\x40\0\0\0"):
        check = PacketCheck("h264")
        for _ in range(10):
            check.look(slice_of, damaged=False)
            check.look(parameters, damaged=False)
            check.look(data, damaged=True)
        assert not check.failed
        check.look(data, damaged=False)
        assert check.failed


@pytest.mark.slow
def test_key_frames_larger_than_ffmpegs_limit_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "clip.ts"
    picture = np.random.default_rng(5).integers(0, 256, (720, 1280, 3), np.uint8)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", 25, options={"bf": "0", "crf": "25", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 1280, 720, "yuv420p", 10
        for _ in range(FRAMES):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        output.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert max(packet.size for packet in container.demux(video=0)) > 250_000
    with server(path.read_bytes()) as url:
        source = opened(url)
        frames = []
        while source.grab():
            assert not source.damaged
            frames.append(source.retrieve(None))
        source.release()
    assert len(frames) > FRAMES - 4
    for frame in frames:
        assert np.abs(frame.astype(int) - frames[0]).mean() < 20
    assert not video._IN_PIECES


@pytest.mark.slow
@pytest.mark.parametrize("whole", [0, 10, 2 * FRAMES])
def test_part_of_a_picture_is_never_taken_for_the_whole_unless_it_happens_late(tmp_path: Path, whole: int) -> None:
    """`whole`: how many pictures arrive in one packet each, before the others arrive in two."""
    options: dict[str, Any] = {"g": 10, "bf": 0, "slices": 4}
    clip = encode(tmp_path / "clip.ts", "libx264", "yuv420p", frames=3 * FRAMES, **options)
    with av.open(str(clip)) as container, av.open(str(tmp_path / "halves.ts"), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        for number, packet in enumerate(each for each in container.demux(video=0) if each.size):
            data = bytes(packet)
            slices = [each.start() for each in re.finditer(b"\0\0\1[\x41\x65]", data)]
            half = len(data) if number < whole else slices[1]
            for ticks, part in enumerate(filter(None, (data[:half], data[half:]))):
                made = av.Packet(part)
                made.pts, made.dts, made.time_base = packet.pts + ticks, packet.dts + ticks, packet.time_base
                made.stream = stream
                output.mux(made)
    with av.open(str(clip)) as container:
        truth = [frame.to_ndarray() for frame in container.decode(video=0)]
    wrong = []
    # FFmpeg starts each packet with an access unit delimiter.
    halves = (tmp_path / "halves.ts").read_bytes().replace(b"\0\0\0\1\x09\xf0", bytes(6))
    with server(halves) as url:
        source = Video(CameraConfig(device_id=url, read_timeout_sec=0.5, publish="native"))
        start_ms = None
        while source.grab():
            assert source.timestamp_ms is not None
            start_ms = source.timestamp_ms if start_ms is None else start_ms
            number = round((source.timestamp_ms - start_ms) * FPS / 1000)
            if not np.array_equal(source.retrieve_native(None), truth[number]):
                wrong.append((number, source.damaged))
        source.release()
    assert number >= 3 * FRAMES - 3, "it went on"
    assert wrong == ([(whole, True)] if whole > CONFIRMED else [])


AMID: dict[str, tuple[str, dict[str, Any]]] = {
    "H.264, open groups": ("libx264", {"g": 15, "bf": 3, "x264-params": "open-gop=1"}),
    "H.264, no picture is a key frame alone": ("libx264", {"g": 15, "bf": 0, "x264-params": "intra-refresh=1"}),
    "HEVC": ("libx265", {"g": 15, "x265-params": f"{QUIET}:bframes=4"}),
    "MPEG-2": ("mpeg2video", {"g": 15, "bf": 2}),
    "MPEG-4": ("mpeg4", {"g": 15, "bf": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("parsed", [False, True], ids=["packets", "parsed"])
@pytest.mark.parametrize("kind", AMID)
def test_a_stream_joined_in_the_middle_begins_with_a_whole_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, parsed: bool
) -> None:
    codec, options = AMID[kind]
    clip = encode(tmp_path / "clip.ts", codec, "yuv420p", frames=3 * FRAMES, **options)
    with av.open(str(clip)) as container:
        truth = {frame.to_ndarray().tobytes() for frame in container.decode(video=0)}
    packets = clip.read_bytes()
    if parsed:
        monkeypatch.setattr(opening, "_may_be_ts", lambda address: False)
    for share in (0.1, 0.25, 0.4):
        with server(packets[: 3 * 188] + packets[int(len(packets) // 188 * share) * 188 :]) as url:
            source = Video(CameraConfig(device_id=url, read_timeout_sec=0.5, publish="native"))
            found = []
            while source.grab():
                image = source.retrieve_native(None)
                found.append(image is not None and image.tobytes() in truth)
            source.release()
        assert len(found) > FRAMES
        assert all(found)


def interlaced(path: Path, frames: list[np.ndarray], fields_in_a_packet: int) -> bytes:
    """MPEG-TS of frames whose two fields are coded separately."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("h264", FPS)
        stream.height, stream.width, stream.pix_fmt = frames[0].shape[0] // 3 * 2, frames[0].shape[1], "yuv420p"
        units = [unit for pair in field_pictures(frames) for unit in pair]
        for first in range(0, len(units), fields_in_a_packet):
            packet = av.Packet(b"".join(units[first : first + fields_in_a_packet]))
            packet.time_base = Fraction(1, 2 * FPS)
            packet.pts = packet.dts = first
            packet.stream = stream
            output.mux(packet)
    return path.read_bytes()


@pytest.mark.parametrize("fields", [1, 2, 4])
def test_two_fields_are_one_picture_however_they_are_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: int
) -> None:
    drawn = [av.VideoFrame.from_ndarray(each, "bgr24") for each in pictures(2 * FRAMES, (160, 128))]
    truth = [each.reformat(format="yuv420p").to_ndarray() for each in drawn]
    with server(interlaced(tmp_path / "clip.ts", truth, fields)) as url:
        for parsed in (False, True):
            monkeypatch.setattr(opening, "_may_be_ts", lambda address, parsed=parsed: not parsed)
            source = Video(CameraConfig(device_id=url, read_timeout_sec=0.5, publish="native"))
            seen = []
            while source.grab():
                assert not source.damaged
                assert source._frame is not None
                seen.append((source._frame.to_ndarray(), source.timestamp_ms))
            source.release()
            assert 2 * FRAMES - 3 <= len(seen) <= 2 * FRAMES
            for number, (picture, time) in enumerate(seen):
                np.testing.assert_array_equal(picture, truth[number])
                if time is not None:
                    assert time - seen[0][1] == pytest.approx(number * 1000 / FPS)


RAW: dict[str, tuple[str, str, dict[str, Any]]] = {
    "MPEG-2 in MPEG-TS": (".ts", "mpeg2video", {"g": 10}),
    "MPEG-2 with B-frames in MPEG-TS": (".ts", "mpeg2video", {"g": 10, "bf": 2}),
    "MPEG-4 in MPEG-TS": (".ts", "mpeg4", {"g": 10}),
    "H.264": (".h264", "libx264", {"g": 10, "bf": 0}),
    "HEVC": (".hevc", "libx265", {"g": 10, "x265-params": QUIET}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", RAW)
def test_a_stream_whose_packets_are_not_pictures_is_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A camera may accept a single client, and end with it."""
    suffix, codec, options = RAW[kind]
    clip = encode(tmp_path / f"clip{suffix}", codec, "yuv420p", frames=2 * FRAMES, **options)
    openings = []
    open_with = opening._open_with
    monkeypatch.setattr(opening, "_open_with", lambda *given: openings.append(given[2]) or open_with(*given))
    with server(clip.read_bytes(), padded=suffix == ".ts") as url:
        ours = frames_of(opened(url))
        assert len(openings) == 1
        monkeypatch.setattr(opening, "_may_be_ts", lambda address: False)
        parsed = frames_of(opened(url))
        assert openings[1:] == [{}]
    with av.open(str(clip)) as container:
        decoded = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    assert len(decoded) == 2 * FRAMES
    assert 2 * FRAMES >= len(parsed) >= len(ours) > 2 * FRAMES - 5
    for (picture, time), (theirs, their_time), truth in zip(ours, parsed, decoded, strict=False):
        assert time == their_time
        np.testing.assert_array_equal(picture, theirs)
        assert np.abs(picture.astype(int) - truth).mean() < 5, "but for how colours are spread"


@pytest.mark.parametrize("publish", ["bgr", "native"])
@pytest.mark.parametrize("kind", ["H.264", "JPEGs"])
def test_a_server_that_keeps_sending_without_a_picture_is_given_up(tmp_path: Path, kind: str, publish: str) -> None:
    if kind == "H.264":
        clip = encode(tmp_path / "clip.h264", "libx264", "yuv420p", frames=2 * FRAMES, g=10, bf=0).read_bytes()
    else:
        clip = b"".join(jpeg(each, 95) for each in pictures(2 * FRAMES, (320, 240)))
    with server(itertools.chain([clip], itertools.repeat(bytes(100_000)))) as url:
        source = Video(CameraConfig.model_validate({"device_id": url, "publish": publish, "read_timeout_sec": 0.5}))
        count = 0
        while source.grab():
            count += 1
        source.release()
    assert count >= 2 * FRAMES - 3


@pytest.mark.parametrize("kind", ["MPEG-2 in MPEG-TS", "H.264"])
def test_the_last_picture_arrives_when_the_server_ends(tmp_path: Path, kind: str) -> None:
    suffix, codec, options = RAW[kind]
    clip = encode(tmp_path / f"clip{suffix}", codec, "yuv420p", frames=2 * FRAMES, **options)
    with serving([clip.read_bytes()], b"application/octet-stream") as url:
        assert len(frames_of(opened(url))) == 2 * FRAMES


@pytest.mark.parametrize("publish", ["bgr", "native"])
def test_consecutive_jpegs_are_read_from_the_open_connection(monkeypatch: pytest.MonkeyPatch, publish: str) -> None:
    sent = [jpeg(each, 95) for each in pictures(2 * FRAMES, (320, 240))]
    openings = []
    open_with = opening._open_with
    monkeypatch.setattr(opening, "_open_with", lambda *given: openings.append(given[2]) or open_with(*given))
    with server(b"".join(sent), padded=False) as url:
        source = Video(CameraConfig.model_validate({"device_id": url, "publish": publish, "read_timeout_sec": 0.5}))
        assert (source.details.width, source.details.height) == (320, 240)
        found = []
        while source.grab():
            assert source.timestamp_ms is None
            image = source.retrieve(None) if publish == "bgr" else source.retrieve_native(None)
            assert image is not None
            found.append(image)
        source.release()
    assert len(openings) == 1
    assert len(found) > 2 * FRAMES - 3
    for image, data in zip(found, sent, strict=False):
        if publish == "native":
            assert image.tobytes() == data
        else:
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            assert np.abs(image.astype(int) - decoded).mean() < 5


def frames_of(source: Video) -> list[tuple[np.ndarray, float | None]]:
    """Each picture and its time, until nothing more arrives."""
    found = []
    with contextlib.suppress(SourceLostError):
        while source.grab():
            image = source.retrieve(None)
            assert image is not None
            assert not source.damaged
            found.append((image, source.timestamp_ms))
    source.release()
    return found

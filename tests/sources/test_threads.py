"""A live stream is decoded by one thread, and by two once that is too slow: from a key frame on, with no frame lost."""

from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from encoding import encode
from engines import open_with, read_all
from http_answers import serving

from billiards_shm.sources import camera as camera_module
from billiards_shm.sources import load as load_module
from billiards_shm.sources.decoder import Decoder
from billiards_shm.sources.demo.table import read_counter
from billiards_shm.sources.protocol import SourceReopenError

FRAMES = 120
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "H.264": ("libx264", {"preset": "ultrafast", "g": 20}),
    "H.264, B-frames": ("libx264", {"preset": "veryfast", "bf": 3, "g": 20}),
    # In open groups, frames shown before a key frame need the previous group: HEVC leaves them out.
    "HEVC": ("libx265", {"preset": "ultrafast", "x265-params": "log-level=none:keyint=20:open-gop=0"}),
    "MPEG-2": ("mpeg2video", {"g": 15, "b": 4_000_000}),
    "MPEG-4": ("mpeg4", {"g": 20}),
}


@pytest.fixture(params=KINDS)
def clip(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    codec, options = KINDS[request.param]
    return encode(tmp_path / "clip.ts", codec, "yuv420p", (160, 120), FRAMES, **options)


def decode(path: Path, *, live: bool) -> tuple[list[np.ndarray], list[int]]:
    """All pictures, and the number of threads that decoded each."""
    pictures, threads = [], []
    with av.open(str(path)) as container:
        decoder = Decoder(container, container.streams.video[0], live=live, keep_damaged=False)
        try:
            while True:
                frame = decoder.next_frame()
                assert frame is not None
                pictures.append(frame.to_ndarray(format="bgr24"))
                threads.append(decoder._context.thread_count)
        except EOFError:
            decoder.close()
    return pictures, threads


def test_a_decoder_that_is_too_busy_goes_on_with_two_threads(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = decode(clip, live=False)
    monkeypatch.setattr(load_module, "BUSY_SHARE", 0.0)
    pictures, threads = decode(clip, live=True)
    assert sorted(set(threads)) == [1, 2]
    assert threads == sorted(threads)
    assert threads.count(1) >= load_module.MEASURED_FRAMES - 5
    assert [read_counter(picture) for picture in pictures] == list(range(1, FRAMES + 1))
    assert all(map(np.array_equal, pictures, whole))


def test_a_decoder_that_is_fast_enough_stays_with_one_thread(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "BUSY_SHARE", 1e9)
    pictures, threads = decode(clip, live=True)
    assert set(threads) == {1}
    assert len(pictures) == FRAMES


# OpenCV, which has to open a stream again for another number of threads.


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of decoding threads requested from OpenCV at each opening; 0: OpenCV chooses."""
    monkeypatch.setattr(camera_module, "_MANY_THREADS", set())
    monkeypatch.delenv("OPENCV_FFMPEG_THREADS", raising=False)
    found: list[int] = []
    open_capture = camera_module._open_with

    def note(place: str, backend: int, parameters: tuple[int, ...]) -> cv2.VideoCapture | None:
        pairs = dict(zip(parameters[::2], parameters[1::2], strict=True))
        found.append(pairs.get(cv2.CAP_PROP_N_THREADS, 0))
        return open_capture(place, backend, parameters)

    monkeypatch.setattr(camera_module, "_open_with", note)
    return found


def read_numbers(url: str) -> list[int]:
    return [read_counter(image) for image in read_all(open_with("OpenCV", url), failures=1)]


def test_opencv_decodes_a_live_stream_with_one_thread(live_clip: Path, opened: list[int]) -> None:
    with serving([live_clip.read_bytes()], b"video/mp2t") as url:
        assert read_numbers(url) == list(range(1, FRAMES + 1))
    assert opened == [1]


def test_a_stream_too_demanding_for_one_opencv_thread_is_opened_again_with_more(
    live_clip: Path, opened: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_module, "BUSY_SHARE", 0.0)
    with serving([live_clip.read_bytes()], b"video/mp2t") as url:
        with pytest.raises(SourceReopenError, match=r"^unreadable: one thread decodes it too slowly: "):
            read_numbers(url)
        assert read_numbers(url) == list(range(1, FRAMES + 1))
    assert opened == [1, 0]


def test_a_recording_behind_a_url_may_have_many_threads(tmp_path: Path, opened: list[int]) -> None:
    path = encode(tmp_path / "clip.mkv", "libx264", "yuv420p", (160, 120), FRAMES, preset="ultrafast")
    with serving([path.read_bytes()], b"video/x-matroska") as url:
        for _ in range(2):
            assert read_numbers(url) == list(range(1, FRAMES + 1))
    assert opened == [1, 0, 0]


def test_the_variable_of_opencv_is_respected(
    live_clip: Path, opened: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENCV_FFMPEG_THREADS", "3")
    with serving([live_clip.read_bytes()], b"video/mp2t") as url:
        assert read_numbers(url) == list(range(1, FRAMES + 1))
    assert opened == [0]


@pytest.fixture
def live_clip(tmp_path: Path) -> Path:
    return encode(tmp_path / "clip.ts", "libx264", "yuv420p", (160, 120), FRAMES, preset="ultrafast", g=20)

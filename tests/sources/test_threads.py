"""A live stream is decoded by one thread, and by two once that is not enough: from a key frame on, none is lost."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from encoding import encode

from billiards_shm.sources import decoder as decoder_module
from billiards_shm.sources.decoder import Decoder
from billiards_shm.sources.demo.table import read_counter

FRAMES = 120
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "H.264": ("libx264", {"preset": "ultrafast", "g": 20}),
    "H.264, B-frames": ("libx264", {"preset": "veryfast", "bf": 3, "g": 20}),
    # In open groups the frames that are shown before a key frame need the one before: HEVC leaves them out.
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
    monkeypatch.setattr(decoder_module, "BUSY_SHARE", 0.0)
    pictures, threads = decode(clip, live=True)
    assert sorted(set(threads)) == [1, 2]
    assert threads == sorted(threads)
    assert threads.count(1) >= decoder_module.MEASURED_FRAMES - 5
    assert [read_counter(picture) for picture in pictures] == list(range(1, FRAMES + 1))
    assert all(map(np.array_equal, pictures, whole))


def test_a_decoder_that_is_fast_enough_stays_with_one_thread(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "BUSY_SHARE", 1e9)
    pictures, threads = decode(clip, live=True)
    assert set(threads) == {1}
    assert len(pictures) == FRAMES

"""Minutes of mischief at the source: an RTSP server that is killed, hung, paused and resized at random.

`BILLIARDS_SOAK_SEC` sets the duration, `BILLIARDS_SOAK_SEED` the choice of mischief.
"""

import os
import random
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from real_sources import CaptureProcess, Clip, RtspServer, settled

SECONDS = float(os.environ.get("BILLIARDS_SOAK_SEC", "20"))
SEED = int(os.environ.get("BILLIARDS_SOAK_SEED", "5"))
SIZES = ((192, 144), (320, 180), (640, 360))
READ_TIMEOUT_SEC = 1.0
FRESH_SEC = 1.0
MB = 1e6


class Curve:
    """Memory and descriptors of a process over time."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self.points: list[tuple[float, float, int]] = []

    def note(self, seconds: float) -> None:
        self.points.append((seconds, self._process.memory_info().rss / MB, self._process.num_fds()))

    def __str__(self) -> str:
        chosen = self.points[:: max(1, len(self.points) // 20)]
        return "\n".join(
            f"{seconds:6.0f} s {memory:7.1f} MB {files:3d} descriptors" for seconds, memory, files in chosen
        )


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 240)
def test_a_reader_survives_random_mischief_at_the_source(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    chance = random.Random(SEED)
    folder = tmp_path_factory.mktemp("clips")
    clips = [Clip(folder, size) for size in SIZES]
    done: Counter[str] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()

    with (
        RtspServer(clips[0]) as server,
        CaptureProcess(
            tmp_path, server.url, read_timeout_sec=READ_TIMEOUT_SEC, open_timeout_sec=1.0, placeholder=True
        ) as capture,
    ):

        def killed() -> None:
            server.kill()
            time.sleep(chance.uniform(0, 2))
            server.start()

        def hung() -> None:
            server.hang()
            time.sleep(READ_TIMEOUT_SEC + chance.uniform(0.5, 3))
            server.restart()

        def paused() -> None:
            server.hang()
            time.sleep(chance.uniform(0, 0.8 * READ_TIMEOUT_SEC))
            server.go_on()

        def resized() -> None:
            server.kill()
            clips.append(clips.pop(0))
            server.serve(clips[0])
            server.start()

        mischiefs = (killed, hung, paused, resized)
        capture.recovers()
        process = psutil.Process(capture.process.pid)
        curve = Curve(process)
        last = 0
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < SECONDS:
            until = time.monotonic() + chance.uniform(0.5, 3)
            while time.monotonic() < until:
                frame, metadata = capture.reader.read_frame(timeout=0.2)
                if frame is not None and metadata is not None:
                    assert metadata.sequence > last
                    last = metadata.sequence
                    sizes[metadata.width, metadata.height] += 1
            curve.note(elapsed)
            mischief = chance.choice(mischiefs)
            mischief()
            done[mischief.__name__] += 1

        back = settled(lambda: is_fresh(capture))
        curve.note(time.monotonic() - began)
        reconnects = capture.info.reconnects
        print(f"seed {SEED}: {dict(done)}, {reconnects} reconnects, {last} frames, seen {dict(sizes)}")
        print(f"fresh {back:.1f} s after the last mischief\n{curve}")

        assert process.children() == []
        assert process.status() != psutil.STATUS_ZOMBIE
        assert reconnects >= sum(done[name] for name in ("killed", "hung", "resized")) // 2
        assert_steady(curve)


def is_fresh(capture: CaptureProcess) -> bool:
    capture.reader.read_frame()
    age = capture.reader.last_frame_age
    return age is not None and age < FRESH_SEC and str(capture.info.source_state) == "streaming"


def assert_steady(curve: Curve) -> None:
    """Descriptors return to their former number; memory stops growing once every size has occurred."""
    descriptors = [files for _, _, files in curve.points]
    assert descriptors[-1] <= min(descriptors[:3]) + 2, curve
    memory = [megabytes for _, megabytes, _ in curve.points]
    half = memory[len(memory) // 2 :]
    quarter = max(1, len(half) // 4)
    assert sum(half[-quarter:]) / quarter <= 1.1 * max(half[:quarter]) + 10, curve

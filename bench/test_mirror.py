"""Each way to another host, for a second: frames arrive, and their ages are known."""

from pathlib import Path

import pytest
from hosts import Network

from bench import far
from bench.mirror import Bench, Run, summary


@pytest.mark.timeout(240)
def test_frames_come_through_each_way(tmp_path: Path) -> None:
    far.make_pictures(tmp_path)
    bench = Bench(tmp_path, seconds=1)
    with Network() as network:
        origin, target = network.host("table"), network.host("office")
        runs: dict[str, Run] = {
            "mirror": bench.mirror(origin, target, "mjpg", "auto"),
            "bare": bench.bare(origin, target, "mjpg"),
            "ffmpeg": bench.ffmpeg(origin, target),
        }
    for way, run in runs.items():
        print(way, summary([run]))
        assert run.fps > 0, way
        assert min(run.ages) > 0, way
    assert runs["mirror"].clock_errors
    assert runs["mirror"].frame_bits > 1e6

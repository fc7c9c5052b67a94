"""Where the time of each frame went."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import run

from billiards_shm.capture.profile import PHASES, FrameProfile
from billiards_shm.sources.protocol import FrameSource, Image, SourceDetails, TimedSource

MS = 1_000_000


class SlowSource:
    """Takes a given number of milliseconds to grab and to decode."""

    details = SourceDetails("test", 64, 48, 30.0)
    position_ms = 40.0
    frames_left = None

    def __init__(self, grab_ms: float, retrieve_ms: float) -> None:
        self.grab_ms, self.retrieve_ms = grab_ms, retrieve_ms
        self.released = False

    def grab(self) -> bool:
        time.sleep(self.grab_ms / 1e3)
        return True

    def retrieve(self, target: Image | None) -> Image | None:
        time.sleep(self.retrieve_ms / 1e3)
        return target

    def release(self) -> None:
        self.released = True


def test_each_phase_gets_the_time_of_source_and_publisher_and_waiting_the_rest() -> None:
    profile = FrameProfile()
    now = 1_000 * MS
    profile.published(now, 5 * MS)  # the first frame only starts the clock
    for number in range(100):
        profile.grabbed((2 + number % 2) * MS)
        profile.retrieved(7 * MS)
        now += 40 * MS
        profile.published(now, 1 * MS)
    assert profile.fields() == {
        "profiled_frames": 100,
        "wait_p50_ms": 30.0, "wait_p99_ms": 30.0, "grab_p50_ms": 3.0, "grab_p99_ms": 3.0,
        "retrieve_p50_ms": 7.0, "retrieve_p99_ms": 7.0, "publish_p50_ms": 1.0, "publish_p99_ms": 1.0,
    }  # fmt: skip
    assert profile.line().startswith("Profile: frames=100, wait_p50=30.000ms, wait_p99=30.000ms, grab_p50=3.000ms")
    assert all(sum(frame) == 40.0 for frame in zip(*profile.milliseconds().values(), strict=True))


def test_a_grab_in_vain_counts_as_waiting() -> None:
    profile = FrameProfile()
    profile.published(0, 0)
    profile.grabbed(9 * MS)
    profile.grabbed(2 * MS)
    profile.published(20 * MS, 1 * MS)
    assert {phase: values[0] for phase, values in profile.milliseconds().items()} == {
        "wait": 17.0, "grab": 2.0, "retrieve": 0.0, "publish": 1.0,
    }  # fmt: skip


def test_a_profile_of_nothing_is_all_zeros() -> None:
    profile = FrameProfile()
    assert set(profile.fields().values()) == {0}
    assert profile.milliseconds() == dict.fromkeys(PHASES, ())


def test_a_watched_source_does_what_the_source_does() -> None:
    profile = FrameProfile()
    source = SlowSource(grab_ms=20, retrieve_ms=2)
    watched: FrameSource = profile.watching(source)
    target = np.zeros((48, 64, 3), np.uint8)
    profile.published(time.monotonic_ns(), 0)
    for _ in range(3):
        assert watched.grab()
        assert watched.retrieve(target) is target
        profile.published(time.monotonic_ns(), 0)
    assert (watched.details, watched.position_ms, watched.frames_left) == (source.details, 40.0, None)
    assert isinstance(watched, TimedSource)
    assert watched.timestamp_ms is None
    fields = profile.fields()
    assert fields["grab_p50_ms"] >= 20
    assert 2 <= fields["retrieve_p50_ms"] < fields["grab_p50_ms"]
    watched.release()
    assert source.released


def test_the_command_reports_at_the_end_where_the_time_went(name: str) -> None:
    said = run(
        "capture", "demo", "--frames", "40", "--fps", "100", "--resolution", "320x240", "--name", name,
        "--json-logs", "--profile",
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    lines = [json.loads(line) for line in said.stderr.splitlines()]
    (profile,) = [line for line in lines if line["message"].startswith("Profile: ")]
    assert profile["profiled_frames"] == 39
    for phase in PHASES:
        assert 0 <= profile[f"{phase}_p50_ms"] <= profile[f"{phase}_p99_ms"]
    assert profile["retrieve_p50_ms"] > 0


@pytest.mark.slow  # matplotlib is in the extra `bench`
def test_a_plot_shows_every_phase(name: str, tmp_path: Path) -> None:
    plot = tmp_path / "profile.svg"
    said = run("capture", "demo", "--frames", "10", "--resolution", "320x240", "--name", name, "--profile-plot", plot)
    assert said.returncode == 0, said.stderr
    assert all(phase in plot.read_text() for phase in PHASES)


def test_without_the_option_nothing_is_reported(name: str) -> None:
    said = run("capture", "demo", "--frames", "5", "--resolution", "320x240", "--name", name)
    assert said.returncode == 0
    assert "Profile" not in said.stderr


@pytest.mark.slow
def test_a_plot_of_an_unknown_kind_is_refused_before_anything_is_captured(name: str, tmp_path: Path) -> None:
    said = run("capture", "demo", "--name", name, "--profile-plot", tmp_path / "profile.txt")
    assert said.returncode == 2
    assert "profile.txt: the name must end in .png, .svg or .pdf" in said.stderr

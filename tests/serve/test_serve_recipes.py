"""The recipes of docs/recipes.md, run by ffmpeg; GStreamer's RTSP server stands in for MediaMTX."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import command_line
import cv2
import documentation
import pytest
from real_sources import SYSTEM_PYTHON, free_port
from repository import ROOT
from segments_under_test import wait_until
from serving import Filming, ServeProcess
from tools import needs

from billiards_shm.sources.demo.table import read_counter

pytestmark = pytest.mark.slow

[FROM_SERVER] = documentation.in_language("bash")
[MEDIAMTX] = documentation.in_language("yaml")
SIZE = (641, 359)  # odd, which H.264 does not allow


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    yield
    command_line.end_started()


@contextmanager
def running(command: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=30)


def numbers_in(file: Path) -> list[int]:
    """The numbers of the demo's pictures in a video."""
    capture = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG)
    found = []
    while (read := capture.read())[0]:
        assert read[1].shape == (360, 642, 3)
        found.append(read_counter(read[1][:359, :641]))
    capture.release()
    return found


def test_frames_of_a_segment_become_hls(segment_name: str, tmp_path: Path) -> None:
    needs("ffmpeg")
    playlist = tmp_path / "live.m3u8"
    with Filming(segment_name, SIZE, fps=20):
        command = [sys.executable, str(ROOT / "examples" / "restream.py"), segment_name, str(playlist)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: playlist.exists() and playlist.read_text().count("#EXTINF") >= 3)
    _, errors = process.communicate(timeout=30)  # the source has ended
    assert (process.returncode, errors) == (0, "")
    assert "#EXT-X-ENDLIST" in playlist.read_text()
    numbers = numbers_in(playlist)
    print(f"{len(numbers)} pictures, {numbers[0]} to {numbers[-1]}")
    assert len(numbers) > 40
    assert numbers == sorted(set(numbers))


def test_the_servers_stream_becomes_hls(segment_name: str, tmp_path: Path) -> None:
    needs("bash", "ffmpeg")
    playlist = tmp_path / "live.m3u8"
    with Filming(segment_name, SIZE, fps=20), ServeProcess(segment_name) as server:
        command = FROM_SERVER.under(segment_name).code.replace("127.0.0.1:8000", f"127.0.0.1:{server.address.port}")
        with running(["bash", "-c", f"exec {command}"], tmp_path) as ffmpeg:
            wait_until(
                lambda: ffmpeg.poll() is not None or (playlist.exists() and playlist.read_text().count("#EXTINF") >= 3)
            )
            assert ffmpeg.poll() is None, ffmpeg.communicate()[1]
    numbers = numbers_in(playlist)
    assert len(numbers) > 40
    assert numbers == sorted(set(numbers))


def test_an_rtsp_server_accepts_the_stream_meant_for_mediamtx(segment_name: str, tmp_path: Path) -> None:
    needs("ffmpeg")
    port, taken = free_port(), tmp_path / "taken.h264"
    [line] = [line for line in MEDIAMTX.code.splitlines() if "runOnDemand:" in line]
    line = line.replace("$RTSP_PORT", str(port)).replace("$MTX_PATH", "billiards_video")
    words = shlex.split(line.partition(": ")[2])
    assert words[:3] == ["python", "examples/restream.py", "billiards_video"]
    words[:3] = [sys.executable, str(ROOT / "examples" / "restream.py"), segment_name]
    recorder = [SYSTEM_PYTHON, str(ROOT / "tests" / "support" / "rtsp_recorder.py"), str(port), str(taken)]
    with Filming(segment_name, SIZE, fps=20), subprocess.Popen(recorder, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "serving\n"
            with running(words, tmp_path) as restream:
                wait_until(lambda: restream.poll() is not None or (taken.exists() and taken.stat().st_size > 100_000))
                assert restream.poll() is None
        finally:
            server.terminate()
    numbers = numbers_in(taken)
    assert len(numbers) > 20
    assert numbers == sorted(set(numbers))

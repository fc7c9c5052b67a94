"""Files with any name are opened, and pipes are read once: by the engine, and by the command line."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import command_line
import pytest
from engines import read_all
from supervised_runs import SupervisedRun
from videos import make_clip, make_images

from billiards_shm.config.model import CameraConfig
from billiards_shm.sources.demo.table import read_counter
from billiards_shm.sources.open import open_source

FRAMES = 5
ENGINES = ["av", "ffmpeg"]
LATIN = os.fsdecode(b"l\xe9.avi")
NAMES = [
    "123",
    "match%20day.avi",
    "x_%04d.avi",
    "a:b.avi",
    "http:x.avi",
    "rtsp://x.avi",
    "concat:a|b.avi",
    "a ! b.avi",
    "a#b.avi",
    "a?b=c&d.avi",
    "a*b.avi",
    "-x.avi",
    "~/x.avi",
    " x.avi ",
    "new\nline.avi",
    "tisch_ü.avi",
    LATIN,
    "rec%d/x.avi",
    "a b/0",
    f"{LATIN}/{LATIN}",
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.avi", FRAMES)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def copy_as(clip: Path, name: str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(clip, name)
    return name


def counters(device_id: str, **camera: object) -> list[int]:
    """Numbers of the frames that a source delivers."""
    source = open_source(CameraConfig.model_validate({"device_id": device_id, **camera}))
    return [read_counter(image) for image in read_all(source, failures=1)]


# Names.


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", ENGINES)
def test_a_file_is_opened_whatever_its_name(here: Path, clip: Path, name: str, backend: str) -> None:
    copy_as(clip, name)
    for path in name, f"{here}/{name}":
        assert counters(path, backend=backend) == list(range(1, FRAMES + 1))


@pytest.mark.parametrize("name", ["x%d.png", "cam%02d_7.png", os.fsdecode(b"l\xe9.png"), "a:b.png", "12.png"])
def test_an_image_is_opened_whatever_its_name(here: Path, name: str) -> None:
    pattern = make_images(here / "images", range(1, 4))
    for number in range(1, 10):  # what FFmpeg would guess
        shutil.copy(pattern % 1, f"x{number}.png")
    shutil.copy(pattern % 3, name)
    assert counters(name) == [3]


@pytest.mark.parametrize("url", ["file://{}", "FILE://{}", "file://localhost{}", "file:{}"])
@pytest.mark.parametrize("name", ["a b.avi", "100%.avi", LATIN])
def test_a_url_of_a_file_is_opened(here: Path, clip: Path, url: str, name: str) -> None:
    copy_as(clip, name)
    encoded = name.replace("%", "%25").replace(" ", "%20").replace("\udce9", "%E9")
    for path in f"{here}/{name}", f"{here}/{encoded}":
        assert len(counters(url.format(path))) == FRAMES


@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in (*NAMES[:6], "-x.avi")), "--frames.avi", LATIN]
)
def test_the_command_accepts_any_name(here: Path, clip: Path, segment_name: str, name: str) -> None:
    copy_as(clip, name)
    done = command_line.run("capture", name, "--frames", 2, "--name", segment_name, "--json-logs")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.encode().splitlines()]
    assert any(name.replace("\udce9", r"\xe9") in line.get("source", "") for line in lines)


def test_an_option_is_an_option_even_if_a_file_has_its_name(here: Path, clip: Path, segment_name: str) -> None:
    copy_as(clip, "--no-loop")
    done = command_line.run("capture", "demo", "--no-loop", "--frames", 1, "--name", segment_name)
    assert done.returncode == 0, done.stderr
    done = command_line.run("capture", "-y.avi")
    assert done.returncode == 2
    assert "No such option" in done.stderr


@pytest.mark.parametrize(
    "name",
    [LATIN, "-", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gone%20day.avi", "0x.avi", "a:b.avi"))],
)
def test_a_missing_file_is_an_error_of_one_line(here: Path, name: str) -> None:
    done = command_line.run("capture", name)
    assert done.returncode == 3
    shown = name.replace("\udce9", r"\xe9")
    assert f"cannot open {shown}: not found: no such file or directory\n" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_supervised_process_gets_any_name(here: Path, clip: Path, segment_name: str) -> None:
    camera = {"device_id": copy_as(clip, LATIN), "loop_video": False, "playback_fps": 0}
    with SupervisedRun(here, {segment_name: camera}) as run:
        assert run.start().ends() == 0


def test_a_supervised_process_does_not_get_the_shells_descriptors(here: Path, segment_name: str) -> None:
    done = command_line.run("capture", "/dev/stdin", "--supervise", "--name", segment_name)
    assert done.returncode == 2
    assert "/dev/stdin" in done.stderr
    assert "named pipe" in done.stderr


# Pipes.


@pytest.fixture(params=["pipe", "socket"])
def connected(request: pytest.FixtureRequest, clip: Path) -> Iterator[int]:
    """A descriptor that another process writes a clip into."""
    if request.param == "pipe":
        ours, theirs = os.pipe()
    else:
        ours, theirs = (end.detach() for end in socket.socketpair())
    writer = subprocess.Popen(["cat", clip], stdout=theirs)
    os.close(theirs)
    yield ours
    assert writer.wait(10) == 0


@pytest.mark.parametrize("backend", ENGINES)
def test_a_connected_descriptor_delivers_every_frame_once(connected: int, backend: str) -> None:
    assert counters(f"/dev/fd/{connected}", backend=backend) == list(range(1, FRAMES + 1))


@pytest.mark.parametrize("backend", ENGINES)
def test_a_named_pipe_waits_for_a_writer(here: Path, clip: Path, backend: str) -> None:
    os.mkfifo("fifo_%d.avi")
    writer = subprocess.Popen(["sh", "-c", f"sleep 0.3; exec cat {clip} > fifo_%d.avi"])
    try:
        assert counters("fifo_%d.avi", backend=backend, hardware_acceleration="any") == list(range(1, FRAMES + 1))
    finally:
        assert writer.wait(10) == 0


SHELLS = {
    "redirected": "exec {capture} /dev/stdin < {clip}",
    "piped": "cat {clip} | {capture} /dev/stdin",
    "by its number": "cat {clip} | {capture} /dev/fd/0",
    "substituted": "{capture} <(cat {clip})",
    "substituted, of /proc": "exec 7< <(cat {clip}); {capture} /proc/self/fd/7",
}


@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=pytest.mark.slow if how.startswith("substituted") else ()) for how in SHELLS]
)
def test_input_connected_by_a_shell_is_read_once_to_its_end(clip: Path, segment_name: str, how: str) -> None:
    loop = "--no-loop" if how == "redirected" else "--loop"
    capture = f"{command_line.SCRIPT} capture --name {segment_name} --playback-fps 0 {loop}"
    done = subprocess.run(
        ["bash", "-c", SHELLS[how].format(capture=capture, clip=clip)],
        capture_output=True,
        text=True,
        env=command_line.environment(),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"frames_captured={FRAMES}, " in done.stderr
    assert "End of /" in done.stderr


@pytest.mark.parametrize("what", ["echo no video", "true", "head -c 300 {clip}"])
def test_a_pipe_without_video_is_an_error_that_says_so(clip: Path, what: str) -> None:
    command = f"{command_line.SCRIPT} capture <({what.format(clip=clip)})"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=command_line.environment(), timeout=60, check=False
    )
    assert done.returncode == 3
    assert "unreadable: what arrived is not a video" in done.stderr


@pytest.mark.parametrize("backend", ENGINES)
def test_a_pipe_that_pauses_is_not_at_its_end(here: Path, clip: Path, backend: str) -> None:
    os.mkfifo("fifo.avi")
    size = clip.stat().st_size
    script = f"(head -c {size // 2} {clip}; sleep 1; tail -c +{size // 2 + 1} {clip}) > fifo.avi"
    writer = subprocess.Popen(["bash", "-c", script])
    try:
        timeouts = {"backend": backend, "open_timeout_sec": 0.2, "read_timeout_sec": 0.2}
        assert counters("fifo.avi", **timeouts) == list(range(1, FRAMES + 1))
    finally:
        assert writer.wait(10) == 0

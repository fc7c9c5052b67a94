"""The blocks of docs/ that need more than this package's extras: run with the libraries they are about.

The libraries go into their own folders, next to the tested package. A library that cannot be installed everywhere has a
stand-in, in `standins`, and the page says so.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import documentation
import numpy as np
import pytest
from documentation import BLOCKS, Block
from repository import ROOT, TESTS

import billiards_shm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("integrations")]

STANDINS = TESTS / "packaging" / "standins"
PACKAGE = Path(billiards_shm.__file__).parent
DEBIAN = Path("/usr/bin/python3")  # the one Debian's python3-gi is made for
# What tracking with Ultralytics needs; its own list has CUDA's libraries and a second OpenCV.
WITHOUT_DEPENDENCIES = (
    *("ultralytics==8.4.190", "torchvision==0.28.0", "lap", "polars", "polars-runtime-32", "pyyaml"),
    *("requests", "urllib3", "certifi", "idna", "charset-normalizer"),
    *("rosbags", "lz4", "ruamel.yaml", "zstandard"),
    *("scenedetect==0.7.2", "platformdirs", "tqdm"),
)


def install(folder: Path, *requirements: str, interpreter: Path | None = None) -> None:
    pip = [sys.executable, "-m", "pip", *(["--python", interpreter] if interpreter else [])]
    done = subprocess.run(
        [*map(str, pip), "install", "--quiet", "--target", str(folder), *requirements],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("libraries")
    install(folder, "torch==2.13.0")
    install(folder, "--no-deps", "av", "pillow", *WITHOUT_DEPENDENCIES)
    return folder


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with documentation.capturing(tmp_path_factory.mktemp("capture")) as name:
        yield name


def needing(library: str) -> Block:
    (block,) = (block for block in BLOCKS if block.needs == library)
    return block


def run(
    code: str,
    folder: Path,
    *paths: Path,
    interpreter: str = sys.executable,
    flags: tuple[str, ...] = (),
    ends_with: int = 0,
) -> str:
    """Run a program in a folder with extra import paths; return what it prints."""
    script = folder / "block.py"
    script.write_text(code)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "YOLO_CONFIG_DIR": str(folder),
        "YOLO_AUTOINSTALL": "false",
        "YOLO_OFFLINE": "true",
    }
    done = subprocess.run(
        [interpreter, *flags, script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == ends_with, done.stderr
    return done.stdout


def test_pytorch_shares_the_memory_without_a_warning(libraries: Path, captured: str, tmp_path: Path) -> None:
    said = run(needing("torch").under(captured).code, tmp_path, libraries, flags=("-W", "error"))
    assert said.startswith("torch.Size([1, 3, 240, 320]) tensor(")


def test_pytorch_keeps_the_frame_and_cannot_change_it(libraries: Path, captured: str, tmp_path: Path) -> None:
    keeps = f"""
import torch
from billiards_shm import SharedMemoryFrameReader
reader = SharedMemoryFrameReader({captured!r}, max_leases=1)
frame, _ = reader.read_frame(timeout=5)
copy, pixels = frame.copy(), torch.from_dlpack(frame)
del frame
for _ in range(20):
    assert not reader.read_frame(timeout=5)[1].zero_copy
assert (pixels.numpy() == copy).all()
print("kept", flush=True)
"""
    writes = keeps + "pixels[0] = 0\n"
    assert run(writes, tmp_path, libraries, ends_with=-signal.SIGSEGV) == "kept\n"


def test_pyav_encodes_the_frames_it_is_given(libraries: Path, captured: str, tmp_path: Path) -> None:
    run(needing("av").under(captured).code, tmp_path, libraries, flags=("-W", "error"))
    video = cv2.VideoCapture(str(tmp_path / "table.mp4"))
    good, image = video.read()
    video.release()
    assert good
    assert image.shape == (240, 320, 3)
    assert image.std() > 10


def test_ultralytics_tracks(libraries: Path, captured: str, tmp_path: Path) -> None:
    paths = (STANDINS / "ultralytics", libraries)
    run("from ultralytics import YOLO\nYOLO('yolo11n.yaml').save('yolo11n.pt')\n", tmp_path, *paths)
    said = run(needing("ultralytics").under(captured).code, tmp_path, *paths)
    assert "objects; 0 frames skipped meanwhile" in said.splitlines()[0]


def test_ros_gets_messages_that_it_can_read(libraries: Path, captured: str, tmp_path: Path) -> None:
    paths = (STANDINS / "ros", libraries)
    run(needing("ros").under(captured).code, tmp_path, *paths)
    read = """
from pathlib import Path
import rclpy
message = rclpy.STORE.deserialize_cdr(Path("image_raw.cdr").read_bytes(), "sensor_msgs/msg/Image")
pixels = message.data.reshape(message.height, message.step)
print(pixels.shape, message.width, message.encoding, message.header.frame_id, pixels.std() > 10)
print(message.header.stamp.sec)
"""
    said, seconds = run(read, tmp_path, *paths).splitlines()
    assert said == "(240, 960) 320 bgr8 table True"
    assert abs(int(seconds) - (tmp_path / "image_raw.cdr").stat().st_mtime) < 60


def test_pyscenedetect_reads_a_recording_to_its_end(libraries: Path, tmp_path: Path, segment_name: str) -> None:
    colours = [(0, 0, 0), (255, 255, 255), (0, 0, 255)]
    clip = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for colour in colours:
        for _ in range(20):
            clip.write(np.full((48, 64, 3), colour, np.uint8))
    clip.release()
    # Each failing read would wait forever.
    block = needing("scenedetect").under(segment_name).code
    block = block.replace(f'VideoConsumer("{segment_name}")', f'VideoConsumer("{segment_name}", timeout=None)')
    assert "timeout=None" in block
    command = [sys.executable, "-m", "billiards_shm", "capture", "clip.avi", "--name", segment_name, "--no-loop"]
    starting = f"import subprocess\nprocess = subprocess.Popen({command})\n"
    said = run(starting + block + "assert process.wait() == 0\n", tmp_path, libraries)
    cuts = [tuple(map(int, line.split())) for line in said.splitlines()]
    assert [begin for begin, _ in cuts[1:]] == [end for _, end in cuts[:-1]]
    assert len(cuts) == len(colours)


def test_pillow_swaps_the_channels(libraries: Path, captured: str, tmp_path: Path) -> None:
    block = needing("pillow").under(captured).code
    swapped = """
import numpy as np
assert (np.asarray(Image.frombuffer("RGB", size, frame, "raw", "BGR", frame.strides[0], 1)) == frame[..., ::-1]).all()
"""
    run(block + swapped, tmp_path, libraries, flags=("-W", "error"))
    image = cv2.imread(str(tmp_path / "table.png"))
    assert image is not None
    assert image.shape == (90, 120, 3)


def test_gstreamer_encodes_the_frames_given_to_appsrc(captured: str, tmp_path: Path) -> None:
    libraries = tmp_path / "libraries"
    install(libraries, "numpy", interpreter=DEBIAN)
    (libraries / "billiards_shm").symlink_to(PACKAGE)  # one binary serves every Python
    run(needing("gstreamer").under(captured).code, tmp_path, libraries, interpreter=str(DEBIAN))
    image = cv2.imread(str(tmp_path / "table.jpg"))
    assert image is not None
    assert image.shape == (240, 320, 3)


def test_a_program_in_c_is_built_and_reads(captured: str, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    command = ["bash", "-e", "-c", needing("cc").code]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"PATH": path}, check=True)
    read = subprocess.run([tmp_path / "reader", captured, "3"], capture_output=True, text=True, check=True)
    assert [line.split(": ")[1].partition(",")[0] for line in read.stdout.splitlines()] == ["320 x 240 x 3"] * 3


def test_every_block_that_needs_a_library_is_run_here() -> None:
    text = Path(__file__).read_text()
    assert [block.needs for block in BLOCKS if block.needs and f'needing("{block.needs}")' not in text] == []

"""The wheel for Linux on ARM64: built on this machine, examined, and run with numpy by an emulated interpreter.

qemu executes ARM's instructions and system calls; loads and stores keep this machine's order, so any
reordering by ARM is for the models (tests/core/model). It accepts MADV_DONTFORK but does nothing, so it cannot show
that forked children keep no lock alive.
"""

import re
import signal
import struct
import subprocess
import sys
from pathlib import Path

import command_line
import pytest
import ziglang
from arm_interpreter import emulated, unpacked
from child_processes import Child
from repository import ROOT
from segments_under_test import new_frame, path_of, picture, sees, wait_until
from virtual_environments import environment, run
from wheels import (
    assert_every_file_is_recorded,
    assert_only_libraries_of_the_system,
    assert_stable_abi,
    extension_of,
    repaired,
    run_tests,
    shipped_tests,
)

from billiards_shm import SegmentStatus, SharedMemoryFrameReader, SharedMemoryFrameWriter, inspect_segment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("arm wheel")]

# The oldest glibc of the manylinux images in pyproject.toml.
COMPILER = f"{Path(ziglang.__file__).parent / 'zig'} cc -target aarch64-linux-gnu.2.28"

# Promises of every platform; views, copies, leaks; processes that start, end and are killed; frames under stress.
OWN_TESTS = [
    "tests/core/test_anywhere.py",
    "tests/core/test_lifetime.py::test_a_pinned_view_never_changes_while_thousands_of_frames_are_written",
    "tests/core/test_lifetime.py::test_after_a_wait_each_frame_has_its_own_geometry_from_its_own_slot",
    "tests/core/test_lifetime.py::test_a_thousand_attachments_leave_no_file_mapping_or_thread",
    "tests/core/test_lifetime.py::test_closing_in_any_order_raises_nothing_and_leaks_nothing",
    "tests/core/test_processes.py::test_readers_in_many_processes_see_the_same_pictures",
    "tests/core/test_processes.py::test_a_killed_readers_tokens_go_to_the_next_reader",
    "tests/core/test_processes.py::test_a_writer_killed_with_an_open_loan_uses_up_no_number_twice",
    "tests/core/test_torn_frames.py::test_no_frame_is_torn_in_seconds_of_stops_kills_takeovers_and_replacements",
]

LARGE = (720, 1280, 3)  # large enough for the vector kernel


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory.mktemp("debian"))


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the project's build makes with the other system's compiler, headers and settings."""
    place = tmp_path_factory.mktemp("dist")
    settings = "_sysconfigdata__aarch64-linux-gnu"
    (place / f"{settings}.py").symlink_to(root / "usr/lib/python3.11" / f"{settings}.py")
    variables = {
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
        "_PYTHON_SYSCONFIGDATA_NAME": settings,
        "PYTHONPATH": str(place),
        "CC": COMPILER,
        "LDSHARED": f"{COMPILER} -shared",
        "CFLAGS": f"-I{root}/usr/include -I{root}/usr/include/python3.11",
    }
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", place, ROOT, **variables)
    (built,) = place.glob("*.whl")
    assert built.stem.endswith("-cp311-abi3-linux_aarch64")
    return repaired(built, place / "repaired")


@pytest.fixture(scope="module")
def python(root: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter for ARM64 in a virtual environment with the wheel, numpy and the tests' requirements."""
    requirements = [f"{wheel}[cli]", "pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "psutil"]
    return environment(tmp_path_factory.mktemp("arm") / "venv", emulated(root), requirements)


def test_the_wheel_is_tagged_for_its_platform_and_records_every_file(wheel: Path) -> None:
    _, _, interpreter, abi, platform = wheel.stem.split("-")
    assert (interpreter, abi, platform) == ("cp311", "abi3", "manylinux_2_28_aarch64")
    assert wheel.stat().st_size < 1_000_000
    assert_every_file_is_recorded(wheel)
    assert_stable_abi(wheel)


def test_the_extension_is_for_arm_and_has_its_copy_kernel(wheel: Path) -> None:
    extension = extension_of(wheel)
    assert extension["e_machine"] == "EM_AARCH64"
    assert_only_libraries_of_the_system(extension)
    code = extension.get_section_by_name(".text").data()
    words = struct.unpack(f"<{len(code) // 4}I", code)
    assert any(word & 0xFFC00000 == 0xAC000000 for word in words), "no STNP of two vector registers"


def test_the_interpreter_believes_it_is_on_arm_and_finds_numpy_there(python: Path) -> None:
    code = "import platform, sys, numpy; print(platform.machine(), sys.executable, numpy.__file__)"
    machine, executable, numpy = run(python, "-P", "-c", code).split()
    assert (machine, executable) == ("aarch64", str(python))
    extensions = {path.name.split(".")[1] for path in Path(numpy).parent.glob("_core/*.so")}
    assert extensions == {"cpython-311-aarch64-linux-gnu"}


def test_the_packages_own_tests_pass(python: Path, tmp_path: Path) -> None:
    run_tests(python, shipped_tests(tmp_path), ["-n0", *OWN_TESTS], at_least=33)


def test_frames_pass_between_processors_and_outlive_their_writer(python: Path, name: str) -> None:
    write = """
    import platform
    writer = SharedMemoryFrameWriter(sys.argv[1], (720, 1280, 3))
    writer.write_frame(picture(1, (720, 1280, 3)))
    say(platform.machine())
    told()
    """
    read = """
    with SharedMemoryFrameReader(sys.argv[1]) as reader:
        frame, metadata = new_frame(reader)
        assert sees(frame, metadata.sequence) and metadata.zero_copy and not frame.flags.writeable
        say(metadata.sequence)
    """
    with SharedMemoryFrameReader(name) as reader:
        with Child(write, name, python=python) as child:
            assert child.says(60) == "aarch64"
            held, metadata = new_frame(reader)
            assert sees(held, 1)
            assert metadata.zero_copy
            child.kill()
        wait_until(lambda: reader.status is SegmentStatus.DEAD)
        with SharedMemoryFrameWriter(name, LARGE) as writer:
            assert writer.write_frame(picture(2, LARGE)) == 2
            with Child(read, name, python=python) as child:
                assert child.says(60) == "2"
                child.ends_well()
        assert sees(held, 1)


def test_a_capture_process_on_arm_is_read_from_here_and_stops_cleanly(python: Path, segment_name: str) -> None:
    command = ["capture", "demo", "--name", segment_name, "--resolution", "640x360", "--fps", "10"]
    process = subprocess.Popen(
        [python.with_name("billiards-shm"), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=command_line.environment(),
    )
    try:
        with SharedMemoryFrameReader(segment_name) as reader:
            reader.attach(timeout=300)
            first = new_frame(reader)[1]
            frame, metadata = new_frame(reader)
            assert metadata.sequence > first.sequence
            assert (metadata.pixel_format, frame.shape, metadata.zero_copy) == ("BGR24", (360, 640, 3), True)
            assert frame.std() > 10, "the demo's table has colours"
            assert inspect_segment(segment_name).writer_pid == process.pid
            process.send_signal(signal.SIGTERM)
            printed, _ = process.communicate(timeout=60)
            assert process.returncode == 0, printed
            assert reader.status is SegmentStatus.CLOSED
    finally:
        process.kill()
        process.communicate()
    assert not path_of(segment_name).exists()
    assert re.search(r"dropped=0\b", printed), printed

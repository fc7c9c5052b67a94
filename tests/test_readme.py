"""What README says is run as it stands."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import readme

from billiards_shm import SharedMemoryFrameReader


@pytest.fixture(scope="module")
def running_capture() -> Iterator[None]:
    """`capture demo` under the name that README's snippets read, small and quick."""
    command = [sys.executable, "-m", "billiards_shm", "capture", "demo", "--resolution", "320x240", "--fps", "60"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=tempfile.gettempdir()) as process:
        try:
            with SharedMemoryFrameReader("billiards_video") as reader:
                reader.attach(timeout=20)
            yield
        finally:
            process.terminate()


@pytest.mark.parametrize("code", readme.code_blocks("python"), ids=range(len(readme.code_blocks("python"))))
def test_each_python_block_runs_as_written(code: str, running_capture: None, tmp_path: Path) -> None:
    script = tmp_path / "snippet.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, "-W", "error", script], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_lifetime_section_prints_the_error_that_it_promises(running_capture: None, tmp_path: Path) -> None:
    code = next(code for code in readme.code_blocks("python") if "ERROR  frames in shared memory" in code)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "read-only" in done.stdout


def test_the_configuration_table_is_that_of_the_model() -> None:
    assert readme.table_in_readme() == readme.configuration_table(), "run: python tests/readme.py"


def test_both_commands_stand_on_one_line_each() -> None:
    assert readme.command("run").endswith("billiards-shm capture demo --frames 300")
    assert readme.command("test").endswith("pytest")

"""What README says is run as it stands."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import readme
from serving import served

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


def test_the_fastapi_example_serves_the_pictures_and_its_own_endpoint(running_capture: None) -> None:
    code = next(code for code in readme.code_blocks("python") if 'app.mount("/video"' in code)
    namespace: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec", dont_inherit=True), namespace)
    with served(namespace["app"]) as server:
        assert server.get("/video/health/billiards_video").status == 200
        assert server.get("/video/snapshot/billiards_video.jpg").image.shape == (240, 320, 3)
        assert len(server.get("/brightness").json) == 3


def test_the_picture_is_there_and_not_too_large() -> None:
    picture = readme.README.parent / "docs" / "preview.png"
    assert f"](docs/{picture.name})" in readme.README.read_text()
    assert 20_000 < picture.stat().st_size < 350_000


def test_the_configuration_table_is_that_of_the_model() -> None:
    assert readme.table_in_readme() == readme.configuration_table(), "run: python tests/support/readme.py"


def test_both_commands_stand_on_one_line_each() -> None:
    assert readme.command("run").endswith("billiards-shm capture demo --frames 300")
    assert readme.command("test").endswith("pytest")

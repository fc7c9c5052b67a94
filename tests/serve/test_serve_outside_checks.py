"""Other tools check the server: promtool its metrics, schemathesis its OpenAPI description, and gunicorn runs it."""

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import command_line
import numpy as np
import pytest
from segments_under_test import picture, wait_until
from serving import Address, Filming, Mjpeg, ServeProcess

from billiards_shm import SharedMemoryFrameWriter
from billiards_shm.monitor.metrics import metrics_server
from billiards_shm.serve import sign_url

pytestmark = pytest.mark.slow

EXAMPLES = 50


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    yield
    command_line.end_started()


@contextmanager
def three_segments(name: str) -> Iterator[list[str]]:
    """One with pictures, one with frames that cannot be pictures, and a missing one."""
    with (
        SharedMemoryFrameWriter(name, (48, 64, 3)) as writer,
        SharedMemoryFrameWriter(f"{name}-raw", (48, 64), dtype="float32", pixel_format="RAW") as raw,
    ):
        writer.write_frame(picture(1, (48, 64, 3)))
        raw.write_frame(np.zeros((48, 64), np.float32))
        yield [name, f"{name}-raw", f"{name}-missing"]


def test_promtool_finds_nothing_wrong_with_the_metrics(segment_name: str) -> None:
    with (
        three_segments(segment_name) as names,
        ServeProcess(*names) as running,
        running.address.stream(f"/stream/{segment_name}.mjpg") as stream,
    ):
        stream.part()
        running.address.get(f"/snapshot/{segment_name}.jpg")
        wait_until(lambda: f'clients{{kind="mjpeg",name="{segment_name}"}} 1.0' in metrics_of(running))
        check_with_promtool(metrics_of(running))
    with ServeProcess() as running:
        check_with_promtool(metrics_of(running))


def metrics_of(running: ServeProcess) -> str:
    return running.address.get("/metrics").body.decode()


def check_with_promtool(text: str) -> None:
    assert "# HELP billiards_shm_" in text
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_promtool_finds_nothing_wrong_with_the_metrics_of_a_capture_process(segment_name: str) -> None:
    with three_segments(segment_name) as names:
        for name in names:
            with metrics_server(name, "127.0.0.1", 0) as port:
                check_with_promtool(Address(port).get("/metrics").body.decode())


# Valid statuses that do not show whether the request was valid: no frame, an unknown name, too many clients.
CONFIGURATION = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "503"]

[checks.negative_data_rejection]
expected-statuses = [404, 422, 431, 503]

# A PNG has no width to choose, which a schema cannot express.
[[operations]]
include-path-regex = "/snapshot/"
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", 404, 415, 422, 503]
# Anything that is not text is not JSON either.
[[operations]]
include-path-regex = "/api/record/"
[operations.checks.negative_data_rejection]
expected-statuses = [400, 403, 404, 422, 431, 503]
"""


def check_with_schemathesis(running: ServeProcess, folder: Path, parameters: str, *options: str) -> None:
    configuration = folder / "schemathesis.toml"
    configuration.write_text(parameters + CONFIGURATION)
    checked = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"), "--config-file", configuration,
            "run", running.address.url("/openapi.json"), "--max-examples", str(EXAMPLES), "--seed", "1",
            "--request-timeout", "30", "--phases", "coverage,fuzzing", "--continue-on-failure", "--no-color", *options,
        ],
        capture_output=True, text=True, cwd=folder, check=False,
    )  # fmt: skip
    shown = "\n".join(line[:200] for line in (checked.stdout + checked.stderr).splitlines())
    print(shown)
    assert checked.returncode == 0
    tested = re.search(r"Selected: (\d+)/(\d+)\s+Tested: (\d+)", shown)
    assert tested is not None
    assert len(set(tested.groups())) == 1
    assert int(tested[1]) >= 10


@pytest.mark.parametrize("which", [0, 1, 2, None], ids=["pictures", "raw", "missing", "any"])
def test_the_server_matches_its_description(segment_name: str, which: int | None, tmp_path: Path) -> None:
    with (
        three_segments(segment_name) as names,
        ServeProcess(*names, "--max-clients", 1) as running,
        running.address.stream("/api/events"),  # takes the only place, so that every answer ends
    ):
        parameters = "" if which is None else f'[parameters]\n"path.name" = "{names[which]}"\n'
        check_with_schemathesis(running, tmp_path, parameters, "--checks", "all")


def test_nothing_that_needs_the_token_is_served_without_it(segment_name: str, tmp_path: Path) -> None:
    with (
        three_segments(segment_name) as names,
        ServeProcess(*names, "--token", "secret", "--max-clients", 1) as running,
        running.address.stream(sign_url("/api/events", "secret")),
    ):
        access = ("--header", "Authorization: Bearer secret")
        check_with_schemathesis(running, tmp_path, "", "--checks", "ignored_auth", *access)


def clients_in(text: str, name: str) -> int:
    return int(float(re.search(rf'billiards_shm_clients{{kind="mjpeg",name="{name}"}} (\S+)', text)[1]))


def test_with_several_workers_of_gunicorn_each_counts_its_own_clients(segment_name: str, tmp_path: Path) -> None:
    (tmp_path / "cameras.py").write_text(
        f"from billiards_shm.serve import create_app\napp = create_app(['{segment_name}'])\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener, Filming(segment_name, fps=25), ExitStack() as stack:
        listener.set_inheritable(True)
        address = Address(listener.getsockname()[1])
        gunicorn = stack.enter_context(
            subprocess.Popen(
                [
                    Path(sys.executable).with_name("gunicorn"), "--workers", "2", "--no-control-socket",
                    "--worker-class", "uvicorn_worker.UvicornWorker", "--bind", f"fd://{listener.fileno()}",
                    "cameras:app",
                ],
                cwd=tmp_path, pass_fds=[listener.fileno()], stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
        try:
            streams: list[Mjpeg] = []

            def counts() -> set[int]:
                """The counts of all workers, most likely; one more stream makes them differ."""
                streams.append(stack.enter_context(address.stream(f"/stream/{segment_name}.mjpg")))
                found = set()
                for _ in range(20):
                    text = address.get("/metrics").body.decode()
                    assert f'billiards_shm_up{{name="{segment_name}"}} 1.0' in text, "each knows of the segment"
                    found.add(clients_in(text, segment_name))
                return found

            wait_until(lambda: len(counts()) == 2)
            for stream in streams:
                stream.part()
            print(f"{len(streams)} streams")
        finally:
            gunicorn.terminate()
        with suppress(EOFError):
            while streams[0].part():
                pass
        assert gunicorn.wait(30) == 0

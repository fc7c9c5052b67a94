"""Dockerfile and compose.yaml: linted, and run without Docker: their commands, as their user, on their tmpfs."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from command_line import SCRIPT
from installed_tools import ROOT, tool
from segments_under_test import wait_until

pytestmark = pytest.mark.slow

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
USER = "10001"

# Where things are in the image, and where they are here.
PLACES = {"billiards-shm": SCRIPT, "python": sys.executable, "/opt/billiards-shm/examples": str(ROOT / "examples")}

if os.geteuid() != 0:
    pytest.fail("file systems are mounted, and the user of the containers is taken on: run this as root")


def test_a_linter_finds_nothing_in_the_dockerfile() -> None:
    tool("hadolint", "--failure-threshold", "style", "Dockerfile")


def test_the_compose_file_is_as_its_schema_says() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")


def instruction(name: str) -> list[str]:
    """The JSON list of the Dockerfile's last instruction of that name."""
    found: list[str] = json.loads(re.findall(rf"^\s*{name} (\[.*\])$", DOCKERFILE, re.MULTILINE)[-1])
    return found


def here(words: list[str]) -> list[str]:
    """A command of the image, as one of this machine."""
    command = []
    for word in words:
        place = next((place for place in PLACES if word == place or word.startswith(f"{place}/")), None)
        command.append(PLACES[place] + word.removeprefix(place) if place else word)
    return command


def command_of(service: str) -> list[str]:
    return here(SERVICES[service].get("entrypoint", instruction("ENTRYPOINT")) + SERVICES[service]["command"])


def test_nothing_runs_as_root_and_all_as_one_user() -> None:
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == [f"{USER}:{USER}"]
    assert {service["user"] for service in SERVICES.values()} == {f"{USER}:{USER}"}


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE)]
    for name in (name for names in copied for name in names):
        assert (ROOT / name).exists(), name
        assert name in kept, name


class Containers:
    """The compose file's volume in a mount namespace of its own, and its commands in there."""

    def __init__(self, options: str) -> None:
        mounts = (
            f'mount -t tmpfs tmpfs /run && mkdir /run/billiards && mount -t tmpfs -o "{options}" tmpfs /run/billiards'
        )
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", f"{mounts} && echo mounted && exec sleep 600"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "mounted\n"

    def command(self, words: list[str]) -> list[str]:
        # The capability lets that user find this interpreter, wherever it lies. It does not let it write.
        user = ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups"]
        search = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
        return ["nsenter", "--mount", "--target", str(self._holder.pid), *user, *search, *words]

    def run(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(words),
            cwd="/",
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @contextlib.contextmanager
    def start(self, words: list[str]) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            self.command(words),
            cwd="/",
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    @staticmethod
    def environment() -> dict[str, str]:
        """Little, as in a container; no home that could be written to."""
        return {"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/"}

    def close(self) -> None:
        self._holder.kill()
        self._holder.communicate()


@pytest.fixture
def containers() -> Iterator[Containers]:
    made = Containers(COMPOSE["volumes"]["frames"]["driver_opts"]["o"])
    yield made
    made.close()


HEALTHY = here(SERVICES["capture"]["healthcheck"]["test"][1:])


def test_the_services_work_together_and_stop_cleanly(containers: Containers) -> None:
    assert containers.run(HEALTHY).returncode == 1
    with containers.start(command_of("capture")) as capture:
        wait_until(lambda: containers.run(HEALTHY).returncode == 0, 30, "the health of capture")
        with containers.start(command_of("reader")) as reader:
            assert reader.stdout is not None
            lines = [reader.stdout.readline() for _ in range(5)]
        assert all(re.match(r"\d+: mean \d", line) for line in lines), lines
        listed = containers.run([SCRIPT, "inspect", "/run/billiards/video", "--json"])
        assert json.loads(listed.stdout)["owner"] == int(USER), listed.stdout
        capture.terminate()
        assert capture.wait(timeout=15) == 0
    assert containers.run(["ls", "-A", "/run/billiards"]).stdout == ""


def test_a_capture_process_that_stands_still_is_not_healthy(containers: Containers) -> None:
    impatient = [*HEALTHY[: HEALTHY.index("--max-age")], "--max-age", "0.5"]
    with containers.start(command_of("capture")) as capture:
        wait_until(lambda: containers.run(HEALTHY).returncode == 0, 30, "the health of capture")
        # The process that nsenter and setpriv have become.
        subprocess.run(["kill", "-STOP", str(capture.pid)], check=True)
        wait_until(lambda: containers.run(impatient).returncode == 1, 30, "the end of health")
        assert "the newest frame is" in containers.run(impatient).stderr


def test_the_image_asks_after_its_own_default(containers: Containers) -> None:
    healthcheck = instruction("CMD")
    assert healthcheck == ["capture", "demo"]
    asked = json.loads(re.findall(r"HEALTHCHECK .*?CMD (\[.*?\])$", DOCKERFILE, re.MULTILINE | re.DOTALL)[0])
    done = containers.run(here(asked))
    assert done.returncode == 1
    assert "billiards_video" in done.stderr


def test_the_volume_has_room_for_4k_with_all_slots(containers: Containers) -> None:
    code = """
import numpy, sys
from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter, inspect_segment
path = "/run/billiards/video"
with SharedMemoryFrameWriter(path, (2160, 3840, 3)) as writer, SharedMemoryFrameReader(path, max_leases=6) as reader:
    held = []
    for number in range(1, 8):
        assert writer.write_frame(numpy.full((2160, 3840, 3), number, numpy.uint8)) == number
        held.append(reader.read_frame(timeout=5)[0])
    assert writer.write_frame(numpy.full((2160, 3840, 3), 8, numpy.uint8)) == 8
    print(inspect_segment(path).backed_slots, writer.statistics.dropped)
    del held
"""
    done = containers.run([sys.executable, "-c", code])
    assert (done.stdout, done.stderr) == ("8 0\n", "")

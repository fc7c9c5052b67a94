"""Dockerfile and compose.yaml: linted, and run without Docker: the same commands, user and tmpfs.

Everything runs in its own network too, so that the file's ports are free, whatever else this machine serves.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from command_line import SCRIPT
from repository import ROOT
from segments_under_test import wait_until
from serving import Answer
from virtual_environments import tool

pytestmark = pytest.mark.slow

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
USER = "10001"
ADDRESS = "172.31.255.2"  # of a container, as Docker would assign it

# Paths in the image, and the same things here.
PLACES = {"billiards-shm": SCRIPT, "python": sys.executable, "/opt/billiards-shm/examples": str(ROOT / "examples")}


@pytest.fixture(scope="module", autouse=True)
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.fail("this mounts file systems and becomes the user of the containers: run it as root")


def test_a_linter_finds_nothing_in_the_dockerfile() -> None:
    tool("hadolint", "--failure-threshold", "style", "Dockerfile")


def test_the_compose_file_matches_its_schema() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")


def instruction(name: str) -> list[str]:
    """The JSON list of the Dockerfile's last instruction of that name."""
    found: list[str] = json.loads(re.findall(rf"^\s*{name} (\[.*\])$", DOCKERFILE, re.MULTILINE)[-1])
    return found


def here(words: list[str]) -> list[str]:
    """A command of the image, translated to this machine."""
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


def test_everything_runs_with_few_privileges_and_from_one_image_that_has_what_it_needs() -> None:
    for service in SERVICES.values():
        assert service["image"] == "billiards-shm"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    (extras,) = re.findall(r"\*\.whl\)\[([\w,]+)\]", DOCKERFILE)
    assert set(extras.split(",")) == {"headless", "serve"}


def test_files_that_the_dockerfile_copies_exist_and_are_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE)]
    for name in (name for names in copied for name in names):
        assert (ROOT / name).exists(), name
        assert name in kept, name


def test_nothing_is_reachable_from_other_machines_unless_configured() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"serve": ["127.0.0.1:8000:8000"]}


class Containers:
    """The compose file's volume in its own mount namespace, with its own network, and its commands in there."""

    def __init__(self, options: str) -> None:
        mounts = (
            f'mount -t tmpfs tmpfs /run && mkdir /run/billiards && mount -t tmpfs -o "{options}" tmpfs /run/billiards'
        )
        read_only = "mount -o remount,bind,ro /"
        network = f"ip link set lo up && ip address add {ADDRESS}/32 dev lo"
        self._holder = subprocess.Popen(
            [
                "unshare",
                "--mount",
                "--net",
                "sh",
                "-c",
                f"{mounts} && {read_only} && {network} && echo ready && exec sleep 600",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"

    def command(self, words: list[str]) -> list[str]:
        # The capability lets that user reach this interpreter, wherever it is. It does not permit writing.
        user = ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups"]
        search = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
        return ["nsenter", "--mount", "--net", "--target", str(self._holder.pid), *user, *search, *words]

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

    def get(self, path: str, *headers: str, address: str = "127.0.0.1") -> Answer:
        """The answer of port 8000; status 0 if there is no server."""
        options = [word for header in headers for word in ("--header", header)]
        url = f"http://{address}:8000{path}"
        done = subprocess.run(
            self.command(["curl", "--silent", "--include", "--max-time", "30", *options, url]),
            cwd="/",
            env=self.environment(),
            capture_output=True,
            check=False,
        )
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        pairs = (line.partition(": ") for line in lines)
        return Answer(int(status.split()[1]) if status else 0, {name.lower(): text for name, _, text in pairs}, body)

    @contextlib.contextmanager
    def start(self, words: list[str], **more: str) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            self.command(words),
            cwd="/",
            env=self.environment(**more),
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
    def environment(**more: str) -> dict[str, str]:
        """A small environment, as in a container; no writable home."""
        python = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        return {"PATH": os.environ["PATH"], "HOME": "/", **python, **more}

    def close(self) -> None:
        self._holder.kill()
        self._holder.communicate()


@pytest.fixture
def containers() -> Iterator[Containers]:
    made = Containers(COMPOSE["volumes"]["frames"]["driver_opts"]["o"])
    yield made
    made.close()


def health_of(service: str) -> list[str]:
    kind, *words = SERVICES[service]["healthcheck"]["test"]
    assert kind == "CMD"
    return here(words)


HEALTHY = health_of("capture")
SNAPSHOT = "/snapshot/%2Frun%2Fbilliards%2Fvideo.jpg"
BROWSER = "Host: localhost:8000"  # the answer to a request through the published port


def test_the_services_work_together_and_stop_cleanly(containers: Containers) -> None:
    assert containers.run(HEALTHY).returncode == 1
    with containers.start(command_of("capture")) as capture:
        wait_until(lambda: containers.run(HEALTHY).returncode == 0, "the health of capture")
        with containers.start(command_of("reader")) as reader:
            assert reader.stdout is not None
            lines = [reader.stdout.readline() for _ in range(5)]
        assert all(re.match(r"\d+: mean \d", line) for line in lines), lines
        listed = containers.run([SCRIPT, "inspect", "/run/billiards/video", "--json"])
        assert json.loads(listed.stdout)["owner"] == int(USER), listed.stdout
        capture.terminate()
        assert capture.wait(timeout=15) == 0
    assert containers.run(["ls", "-A", "/run/billiards"]).stdout == ""


def test_the_server_shows_the_frames_to_a_browser_on_the_same_machine(containers: Containers) -> None:
    assert containers.run(health_of("serve")).returncode == 1
    with containers.start(command_of("serve")) as serve:
        wait_until(lambda: containers.run(health_of("serve")).returncode == 0, "the health of serve")
        gone = containers.get("/readyz")
        assert (gone.status, gone.json["segments"]["/run/billiards/video"]["state"]) == (503, "gone")
        with containers.start(command_of("capture")):
            wait_until(lambda: containers.get("/readyz").status == 200, "the server reporting frames")
            page = containers.get("/", BROWSER, address=ADDRESS)
            assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
            first = containers.get(SNAPSHOT, BROWSER, address=ADDRESS)
            assert first.image.shape == (1080, 1920, 3)
            assert first.image.std() > 10, "the demo's table has colours"
            second = containers.get(SNAPSHOT, BROWSER, address=ADDRESS)
            assert int(second.headers["x-frame-sequence"]) > int(first.headers["x-frame-sequence"])
        serve.terminate()
        assert serve.wait(timeout=15) == 0


def test_the_server_goes_on_when_the_capture_container_is_restarted(containers: Containers) -> None:
    with containers.start(command_of("serve")):
        with containers.start(command_of("capture")) as capture:
            wait_until(lambda: containers.get("/readyz").status == 200, "frames")
            before = int(containers.get(SNAPSHOT).headers["x-frame-sequence"])
            capture.send_signal(signal.SIGKILL)
            wait_until(lambda: containers.get("/readyz").status == 503, "the end of frames")
        with containers.start(command_of("capture")):
            wait_until(lambda: containers.get("/readyz").status == 200, "frames again")
            assert int(containers.get(SNAPSHOT).headers["x-frame-sequence"]) > before


def test_a_token_from_the_environment_keeps_others_out_but_not_the_health_check(containers: Containers) -> None:
    (variable,) = SERVICES["serve"]["environment"]
    assert SERVICES["serve"]["environment"][variable] is None, "passed on if set, otherwise absent"
    with containers.start(command_of("serve"), **{variable: "a-secret"}):
        wait_until(lambda: containers.run(health_of("serve")).returncode == 0, "the health of serve")
        with containers.start(command_of("capture")):
            bearer = "Authorization: Bearer a-secret"
            wait_until(lambda: containers.get("/readyz", bearer).status == 200, "frames")
            assert containers.get(SNAPSHOT).status == 401
            assert containers.get(SNAPSHOT, "Authorization: Bearer another").status == 401
            assert containers.get(SNAPSHOT, bearer).image.shape == (1080, 1920, 3)


def test_a_stuck_capture_process_is_not_healthy(containers: Containers) -> None:
    impatient = [*HEALTHY[: HEALTHY.index("--max-age")], "--max-age", "0.5"]
    with containers.start(command_of("capture")) as capture:
        wait_until(lambda: containers.run(HEALTHY).returncode == 0, "the health of capture")
        # The process that nsenter and setpriv turned into.
        subprocess.run(["kill", "-STOP", str(capture.pid)], check=True)
        wait_until(lambda: containers.run(impatient).returncode == 1, "the end of health")
        assert "the newest frame is" in containers.run(impatient).stderr


def test_the_image_checks_the_health_of_its_own_default(containers: Containers) -> None:
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

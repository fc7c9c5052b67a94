"""Chromium and captures for the tests of the page."""

from collections.abc import Callable, Iterator
from subprocess import Popen

import command_line
import pytest
from chromium import Chromium


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Chromium) -> Iterator[Chromium]:
    """A browser without traces of the previous test."""
    yield chromium
    chromium.command("Page.navigate", url="about:blank")
    chromium.command("Emulation.clearDeviceMetricsOverride")
    chromium.command("Emulation.setEmulatedMedia", features=[])
    chromium.command("Emulation.setFocusEmulationEnabled", enabled=False)
    chromium.command("Network.clearBrowserCookies")
    command_line.end_started()


@pytest.fixture
def capture() -> Iterator[Callable[..., Popen[str]]]:
    """Start `capture demo`, until the end of the test."""
    running = []

    def start(name: str, *more: object) -> Popen[str]:
        running.append(command_line.start("capture", "demo", "--name", name, "--resolution", "640x360", *more))
        return running[-1]

    yield start
    for process in running:
        process.terminate()
    for process in running:
        process.wait(30)

"""The page in a real browser. BILLIARDS_SHM_SCREENSHOTS names a directory that keeps what it looked like."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import command_line
import pytest
from segments_under_test import wait_until
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from serving import ServeProcess

from billiards_shm import SharedMemoryFrameWriter
from billiards_shm.capture.demo import DemoTable

PATIENCE_S = 40.0


pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    yield
    for process in _captures:
        process.terminate()
    for process in _captures:
        process.wait(30)
    _captures.clear()
    command_line.end_started()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Debian's chromium without a screen."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    profile = tmp_path_factory.mktemp("chromium")
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900",
        f"--user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


class Page:
    """The preview page, as somebody sees it who looks."""

    def __init__(self, browser: webdriver.Chrome, server: ServeProcess) -> None:
        self.browser = browser
        browser.get("about:blank")
        browser.get_log("browser")  # that was about the page before
        browser.get(server.address.url("/"))

    def card(self, name: str) -> WebElement:
        return self.wait(lambda: self.browser.find_element(By.CSS_SELECTOR, f'article[data-name="{name}"]'))

    def text(self, name: str, selector: str) -> str:
        return self.card(name).find_element(By.CSS_SELECTOR, selector).text

    def state(self, name: str) -> str:
        return self.text(name, ".badge").strip()

    def figure(self, name: str, which: str) -> str:
        return self.text(name, f'[data-figure="{which}"]')

    def sequence(self, name: str) -> int:
        found = self.card(name).find_element(By.TAG_NAME, "canvas").get_attribute("data-sequence")
        return int(found) if found else 0

    def pixels(self, name: str) -> str:
        """What the canvas shows, as a text that differs when it does."""
        canvas = self.card(name).find_element(By.TAG_NAME, "canvas")
        return str(self.browser.execute_script("return arguments[0].toDataURL('image/png')", canvas))

    def moves(self, name: str) -> None:
        """Wait until the picture has changed twice."""
        for _ in range(2):
            before, number = self.pixels(name), self.sequence(name)
            self.wait(lambda: self.sequence(name) > number and self.pixels(name) != before)  # noqa: B023

    def wait(self, condition: Callable[[], Any]) -> Any:
        def quietly() -> Any:
            # What is looked at may be drawn anew at the same moment.
            with contextlib.suppress(Exception):
                return condition()
            return None

        return wait_until(quietly, PATIENCE_S, "what the page is to show")

    def screenshot(self, name: str) -> None:
        if directory := os.environ.get("BILLIARDS_SHM_SCREENSHOTS"):
            Path(directory).mkdir(parents=True, exist_ok=True)
            self.browser.save_screenshot(str(Path(directory) / f"{name}.png"))

    def complaints(self) -> list[str]:
        """What the browser has to say: errors of scripts, and of the content policy."""
        return [
            entry["message"]
            for entry in self.browser.get_log("browser")
            if entry["level"] == "SEVERE" and "ERR_CONNECTION" not in entry["message"]
        ]


_captures: list[subprocess.Popen[str]] = []


def capture(name: str, *more: object) -> subprocess.Popen[str]:
    """`capture demo` until the end of the test."""
    process = command_line.start("capture", "demo", "--name", name, "--resolution", "640x360", *more)
    _captures.append(process)
    return process


def test_two_sources_move_and_one_that_dies_is_called_dead_and_comes_back(
    browser: webdriver.Chrome, segment_name: str
) -> None:
    one, two = f"{segment_name}-a", f"{segment_name}-b"
    first = capture(one)
    capture(two, "--fps", 25)
    with ServeProcess(one, two) as server:
        page = Page(browser, server)
        for name in (one, two):
            page.moves(name)
            assert page.state(name) == "live"
            page.wait(lambda name=name: float(page.figure(name, "fps")) > 5)
            assert page.figure(name, "size") == "640×360"
            page.wait(lambda name=name: page.figure(name, "latency").endswith("ms"))
        assert "2 sources, all live" in browser.find_element(By.ID, "summary").text
        page.screenshot("live")

        first.send_signal(signal.SIGKILL)
        page.wait(lambda: page.state(one) == "dead")
        assert "died" in page.text(one, ".reason")
        assert "died" in page.text(one, ".veil")
        assert f"{one} is dead" in browser.find_element(By.ID, "summary").text
        page.moves(two)
        page.screenshot("dead")

        capture(one)
        page.wait(lambda: page.state(one) == "live")
        page.moves(one)
        assert not page.card(one).find_element(By.CLASS_NAME, "veil").is_displayed()
        assert page.complaints() == []


def test_a_stall_a_clean_end_and_a_return_are_shown_for_what_they_are(
    browser: webdriver.Chrome, segment_name: str
) -> None:
    table = DemoTable(640, 360, 30)
    with ServeProcess(segment_name, "--max-frame-age", 1) as server:
        page = Page(browser, server)
        page.wait(lambda: page.state(segment_name) == "gone")
        for _ in range(2):
            with SharedMemoryFrameWriter(segment_name, (360, 640, 3)) as writer:
                for _ in range(5):
                    table.grab()
                    writer.write_frame(table.retrieve(None))
                writer.update_source(state="stalled", reason="the cable is out")
                page.wait(lambda: page.sequence(segment_name) == 5)
                page.wait(lambda: page.state(segment_name) == "stalled")
                assert "the cable is out" in page.text(segment_name, ".reason")
                assert "old" in page.text(segment_name, ".veil")
                page.screenshot("stalled")
            page.wait(lambda: page.state(segment_name) == "gone")
        page.screenshot("gone")
        assert page.complaints() == []


def test_sources_appear_by_themselves_and_names_are_never_markup(browser: webdriver.Chrome, tmp_path: Path) -> None:
    name = str(tmp_path / "<img src=x onerror=document.title=1> & more.seg")
    with ServeProcess(name) as server, SharedMemoryFrameWriter(name, (36, 64, 3)) as writer:
        table = DemoTable(64, 48, 30)
        table.grab()
        writer.write_frame(table.retrieve(None)[:36])
        page = Page(browser, server)
        heading = page.wait(lambda: browser.find_element(By.CSS_SELECTOR, "article h2"))
        assert heading.text == name
        page.wait(lambda: browser.find_element(By.TAG_NAME, "canvas").get_attribute("data-sequence") == "1")
        assert page.complaints() == []


def test_the_keyboard_opens_full_size_and_closes_it(browser: webdriver.Chrome, segment_name: str) -> None:
    capture(segment_name)
    with ServeProcess(segment_name) as server:
        page = Page(browser, server)
        page.moves(segment_name)
        button = page.card(segment_name).find_element(By.CSS_SELECTOR, ".actions .enlarge")
        button.send_keys(Keys.ENTER)
        large = browser.find_element(By.ID, "large")
        canvas = large.find_element(By.TAG_NAME, "canvas")
        page.wait(lambda: large.is_displayed() and canvas.get_attribute("data-sequence"))
        assert canvas.get_attribute("width") == "640"
        page.screenshot("full-size")
        browser.switch_to.active_element.send_keys(Keys.ESCAPE)
        page.wait(lambda: not large.is_displayed())
        page.moves(segment_name)
        snapshot = page.card(segment_name).find_element(By.CSS_SELECTOR, '[data-link="snapshot"]')
        assert str(snapshot.get_attribute("href")).endswith(f"/snapshot/{segment_name}.jpg?quality=95")


def test_the_page_survives_the_server_and_comes_back(browser: webdriver.Chrome, segment_name: str) -> None:
    capture(segment_name)
    with ServeProcess(segment_name) as server:
        page = Page(browser, server)
        page.moves(segment_name)
        server.signal(signal.SIGTERM)
        trouble = browser.find_element(By.ID, "trouble")
        page.wait(lambda: trouble.is_displayed() and "No connection" in trouble.text)
        again = command_line.start("serve", segment_name, "--port", server.address.port)
        page.wait(lambda: not trouble.is_displayed())
        page.moves(segment_name)
        again.send_signal(signal.SIGTERM)
        assert again.wait(20) == 0


def test_one_logs_in_with_the_token(browser: webdriver.Chrome, segment_name: str) -> None:
    capture(segment_name)
    with ServeProcess(segment_name, "--token", "eight ball") as server:
        page = Page(browser, server)
        for token, words in (("nine ball", "That was not the token"), ("eight ball", "")):
            field = page.wait(lambda: browser.find_element(By.ID, "token"))
            field.send_keys(token, Keys.ENTER)
            if words:
                page.wait(lambda words=words: words in browser.find_element(By.ID, "wrong").text)
                page.screenshot("login")
        page.moves(segment_name)
        browser.delete_all_cookies()


def test_the_page_fits_a_phone_and_the_dark(browser: webdriver.Chrome, segment_name: str) -> None:
    capture(segment_name)
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    with ServeProcess(segment_name) as server:
        page = Page(browser, server)
        try:
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
            page.moves(segment_name)
            wide, ground = browser.execute_script(
                "return [document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor]"
            )
            page.screenshot("phone-dark")
        finally:
            browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        assert wide <= 390
        assert ground == "rgb(16, 22, 20)"


def test_what_nobody_sees_is_not_streamed(browser: webdriver.Chrome, segment_name: str) -> None:
    capture(segment_name)
    with ServeProcess(segment_name) as server:
        page = Page(browser, server)
        page.moves(segment_name)
        kinds = lambda: sorted(one["kind"] for one in server.address.get("/api/clients").json)  # noqa: E731
        page.wait(lambda: kinds() == ["events", "websocket"])
        browser.execute_script("document.getElementById('sources').style.marginTop = '5000px'")
        page.wait(lambda: kinds() == ["events"])
        browser.execute_script("document.getElementById('sources').style.marginTop = '0'")
        page.moves(segment_name)


def test_where_no_websocket_passes_the_page_shows_mjpeg(browser: webdriver.Chrome, segment_name: str) -> None:
    capture(segment_name)
    with ServeProcess(segment_name) as server:
        hidden = "window.WebSocket = class { constructor() { setTimeout(() => this.onclose({ reason: '' }), 10); } };"
        script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": hidden})
        try:
            page = Page(browser, server)
            image = page.wait(lambda: page.card(segment_name).find_element(By.TAG_NAME, "img"))
            page.wait(lambda: int(image.get_attribute("naturalWidth")) > 0)
        finally:
            browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_a_screen_reader_finds_names_for_everything_that_can_be_used(
    browser: webdriver.Chrome, segment_name: str
) -> None:
    capture(segment_name)
    with ServeProcess(segment_name) as server:
        page = Page(browser, server)
        page.moves(segment_name)
        time.sleep(1.5)  # two events, so that the plots have something to tell
        nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in ("button", "link", "image", "img", "article", "status")
    ]
    for role, name in named:
        assert name or role == "status", f"a nameless {role}"
    roles = [role for role, _ in named]
    assert roles.count("button") >= 2
    assert ("article", segment_name) in named
    assert any("fps" in name for role, name in named if role in ("image", "img"))

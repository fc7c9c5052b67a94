"""The page in a real browser. BILLIARDS_SHM_SCREENSHOTS names a directory that keeps what it looked like."""

import contextlib
import functools
import http.server
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pytest
from chromium import Chromium
from proxy import Proxy
from segments_under_test import wait_until
from serving import Filming, ServeProcess

from billiards_shm import SharedMemoryFrameWriter
from billiards_shm.sources.demo.table import DemoTable

PATIENCE_S = 40.0


pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]


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
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


class Page:
    """The preview page, as somebody sees it who looks."""

    def __init__(self, browser: Chromium, server: ServeProcess | Proxy) -> None:
        self.browser = browser
        browser.goto(server.address.url("/"))

    def in_card(self, name: str, expression: str, *arguments: Any) -> Any:
        """An expression about `card`, the part of the page that is about one source."""
        found = "[...document.querySelectorAll('article')].find((one) => one.dataset.name === $0)"
        return self.browser.js(f"((card) => {expression})({found})", name, *arguments)

    def text(self, name: str, selector: str) -> str:
        """What stands there, to be seen."""
        seen = "((one) => one.checkVisibility() ? one.innerText : '')(card.querySelector($1))"
        return str(self.in_card(name, seen, selector))

    def state(self, name: str) -> str:
        return self.text(name, ".badge .word")

    def figure(self, name: str, which: str) -> str:
        return self.text(name, f'[data-figure="{which}"]')

    def sequence(self, name: str) -> int:
        return int(self.in_card(name, "card.querySelector('canvas').dataset.sequence") or 0)

    def pixels(self, name: str) -> str:
        """What the canvas shows, as a text that differs when it does."""
        return str(self.in_card(name, "card.querySelector('canvas').toDataURL('image/png')"))

    def shown(self, selector: str) -> bool:
        return bool(self.browser.js("document.querySelector($0)?.checkVisibility()", selector))

    def moves(self, name: str) -> None:
        """Wait until the picture has changed twice."""
        self.wait(lambda: self.sequence(name))
        for _ in range(2):
            before, number = self.pixels(name), self.sequence(name)
            self.wait(lambda: self.sequence(name) > number and self.pixels(name) != before)  # noqa: B023

    def wait(self, condition: Callable[[], Any]) -> Any:
        def quietly() -> Any:
            with contextlib.suppress(LookupError):  # what is looked at is not there yet
                return condition()
            return None

        return wait_until(quietly, PATIENCE_S, "what the page is to show")

    def choose(self, which: str, value: str) -> None:
        self.browser.js("document.querySelector($0).click()", f"input[name={which}][value={value}]")

    def screenshot(self, name: str) -> None:
        if directory := os.environ.get("BILLIARDS_SHM_SCREENSHOTS"):
            Path(directory).mkdir(parents=True, exist_ok=True)
            self.browser.screenshot(Path(directory) / f"{name}.png")

    def summary(self) -> str:
        return str(self.browser.js("document.getElementById('summary').innerText"))


_captures: list[subprocess.Popen[str]] = []


def capture(name: str, *more: object) -> subprocess.Popen[str]:
    """`capture demo` until the end of the test."""
    process = command_line.start("capture", "demo", "--name", name, "--resolution", "640x360", *more)
    _captures.append(process)
    return process


def test_two_sources_move_and_one_that_dies_is_called_dead_and_comes_back(browser: Chromium, segment_name: str) -> None:
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
        assert "2 sources, all live" in page.summary()
        page.screenshot("live")

        first.send_signal(signal.SIGKILL)
        page.wait(lambda: page.state(one) == "dead")
        assert "died" in page.text(one, ".reason")
        assert "last picture" in page.text(one, ".veil")
        assert f"{one} is dead" in page.summary()
        page.moves(two)
        page.screenshot("dead")

        capture(one)
        page.wait(lambda: page.state(one) == "live")
        page.moves(one)
        assert not page.in_card(one, "card.querySelector('.veil').checkVisibility()")
        assert browser.complaints() == []


def test_a_stall_a_clean_end_and_a_return_are_shown_for_what_they_are(browser: Chromium, segment_name: str) -> None:
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
            page.wait(lambda: page.in_card(segment_name, "card.dataset.state") == "ended")
        page.screenshot("ended")
        assert browser.complaints() == []


def test_sources_appear_by_themselves_and_names_are_never_markup(browser: Chromium, tmp_path: Path) -> None:
    name = str(tmp_path / "<img src=x onerror=document.title=1> & more.seg")
    with ServeProcess(name) as server, SharedMemoryFrameWriter(name, (36, 64, 3)) as writer:
        table = DemoTable(64, 48, 30)
        table.grab()
        writer.write_frame(table.retrieve(None)[:36])
        page = Page(browser, server)
        assert page.wait(lambda: page.text(name, "h2")) == name
        page.wait(lambda: page.sequence(name) == 1)
        assert browser.complaints() == []


def test_the_keyboard_opens_full_size_and_closes_it(browser: Chromium, segment_name: str) -> None:
    capture(segment_name)
    with ServeProcess(segment_name) as server:
        page = Page(browser, server)
        page.moves(segment_name)
        page.in_card(segment_name, "card.querySelector('.actions .enlarge').focus()")
        browser.press("Enter")
        large = "document.querySelector('#large canvas')"
        page.wait(lambda: page.shown("#large") and browser.js(f"{large}.dataset.sequence"))
        assert browser.js(f"{large}.width") == 640
        page.screenshot("full-size")
        browser.press("Escape")
        page.wait(lambda: not page.shown("#large"))
        page.moves(segment_name)
        snapshot = page.in_card(segment_name, "card.querySelector('[data-link=snapshot]').href")
        assert snapshot == server.address.url(f"/snapshot/{segment_name}.jpg?quality=95")


def test_the_page_survives_the_server_and_comes_back(browser: Chromium, segment_name: str) -> None:
    capture(segment_name)
    with ServeProcess(segment_name) as server:
        page = Page(browser, server)
        page.moves(segment_name)
        server.signal(signal.SIGTERM)
        page.wait(lambda: page.shown("#alert"))
        assert "no connection" in browser.js("document.getElementById('alert').innerText")
        assert page.state(segment_name) == "unknown"
        assert "No connection" in page.text(segment_name, ".veil")
        assert browser.js("document.title") == "(no connection) billiards_shm"
        page.screenshot("server-gone")
        again = command_line.start("serve", segment_name, "--port", server.address.port)
        page.wait(lambda: not page.shown("#alert"))
        page.moves(segment_name)
        assert page.state(segment_name) == "live"
        assert browser.js("document.title") == "billiards_shm"
        again.send_signal(signal.SIGTERM)
        assert again.wait(20) == 0


def test_one_logs_in_with_the_token(browser: Chromium, segment_name: str) -> None:
    capture(segment_name)
    with ServeProcess(segment_name, "--token", "eight ball") as server:
        page = Page(browser, server)
        for token, words in (("nine ball", "That is not the token"), ("eight ball", "")):
            page.wait(lambda: browser.js("document.getElementById('token').focus(), true"))
            browser.type(token)
            browser.press("Enter")
            if words:
                page.wait(lambda: page.shown("#wrong"))
                assert words in browser.js("document.getElementById('wrong').innerText")
                page.screenshot("login")
        page.moves(segment_name)
        browser.command("Network.clearBrowserCookies")


def test_the_page_fits_a_phone_and_the_dark(browser: Chromium, segment_name: str) -> None:
    capture(segment_name)
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    with ServeProcess(segment_name) as server:
        page = Page(browser, server)
        try:
            browser.command("Emulation.setDeviceMetricsOverride", **phone)
            browser.command("Emulation.setEmulatedMedia", **dark)
            page.moves(segment_name)
            wide, ground = browser.js(
                "[document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor]"
            )
            page.screenshot("phone-dark")
        finally:
            browser.command("Emulation.clearDeviceMetricsOverride")
            browser.command("Emulation.setEmulatedMedia", features=[])
        assert wide <= 390
        assert ground == "rgb(16, 22, 20)"


def test_what_nobody_sees_is_not_streamed(browser: Chromium, segment_name: str) -> None:
    capture(segment_name)
    with ServeProcess(segment_name) as server:
        page = Page(browser, server)
        page.moves(segment_name)
        page.wait(lambda: kinds_of_clients(server) == ["events", "websocket"])
        browser.js("document.getElementById('sources').style.marginTop = '5000px'")
        page.wait(lambda: kinds_of_clients(server) == ["events"])
        browser.js("document.getElementById('sources').style.marginTop = '0'")
        page.moves(segment_name)


def test_where_no_websocket_passes_snapshots_are_shown_and_a_restart_of_the_server_does_not_freeze_them(
    browser: Chromium, segment_name: str
) -> None:
    names = [f"{segment_name}-{number}" for number in range(8)]  # browsers open six connections per server
    with contextlib.ExitStack() as ends:
        for name in names:
            ends.enter_context(Filming(name, fps=10))
        server = ends.enter_context(ServeProcess(*names))
        proxy = ends.enter_context(Proxy(server.address.port, websockets=False))
        page = Page(browser, proxy)
        page.choose("view", "wall")  # all of them in sight
        for name in names:
            page.moves(name)
            assert page.state(name) == "live"
        assert kinds_of_clients(server) == ["events"]
        server.signal(signal.SIGTERM)
        page.wait(lambda: page.shown("#alert"))
        assert {page.state(name) for name in names} == {"unknown"}
        again = command_line.start("serve", *names, "--port", server.address.port)
        page.wait(lambda: not page.shown("#alert"))
        for name in names:
            page.moves(name)
            assert page.state(name) == "live"
        proxy.websockets = True
        page.wait(lambda: kinds_of_clients(server) == ["events"] + ["websocket"] * 8)
        for name in names:
            page.moves(name)
        again.send_signal(signal.SIGTERM)
        assert again.wait(20) == 0


def test_a_picture_that_does_not_come_is_never_called_live(browser: Chromium, segment_name: str) -> None:
    with (
        Filming(segment_name) as filming,
        ServeProcess(segment_name, "--max-frame-age", 60) as server,
        Proxy(server.address.port) as proxy,
    ):
        page = Page(browser, proxy)
        page.moves(segment_name)
        proxy.frozen = True  # the server's word still comes: frames are published
        page.wait(lambda: page.state(segment_name) == "no picture")
        frozen = page.pixels(segment_name)
        assert "No new picture" in page.text(segment_name, ".veil")
        assert f"{segment_name} shows no picture" in page.summary()
        page.screenshot("no-picture")
        # Further WebSockets bring nothing either, so snapshots are asked for.
        page.wait(lambda: page.state(segment_name) == "live")
        assert page.pixels(segment_name) != frozen
        proxy.frozen = False
        page.wait(lambda: kinds_of_clients(server) == ["events", "websocket"])
        page.moves(segment_name)
        # An old picture is no problem where there is no newer one.
        filming.pause()
        page.wait(lambda: page.sequence(segment_name) == filming.published)
        page.wait(lambda: page.figure(segment_name, "age").startswith("10."))  # seconds
        assert page.state(segment_name) == "live"


def kinds_of_clients(server: ServeProcess) -> list[str]:
    return sorted(client["kind"] for client in server.address.get("/api/clients").json)


def test_a_screen_reader_finds_names_for_everything_that_can_be_used(browser: Chromium, segment_name: str) -> None:
    capture(segment_name)
    with ServeProcess(segment_name) as server:
        page = Page(browser, server)
        page.moves(segment_name)
        time.sleep(1.5)  # two events, so that the plots have something to tell
        nodes = browser.command("Accessibility.getFullAXTree")["nodes"]
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


FOREIGN_PAGE = """<!doctype html><title>another site</title>
<img src="{server}/snapshot/{name}.jpg"><iframe src="{server}/"></iframe>"""

READS = "fetch($0).then((answer) => answer.headers.get('x-frame-sequence') !== null, () => false)"
WATCHES = """new Promise((done) => {
    const socket = new WebSocket($0);
    socket.onmessage = () => { done(true); socket.close(); };
    socket.onerror = () => done(false);
})"""


@pytest.mark.parametrize("allowed", [False, True])
def test_pages_of_other_sites_show_pictures_and_the_page_if_they_may(
    browser: Chromium, segment_name: str, tmp_path: Path, allowed: bool
) -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with (
        SharedMemoryFrameWriter(segment_name, (48, 64, 3)) as writer,
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as other,
        ThreadPoolExecutor(1) as pool,
        contextlib.ExitStack() as ends,
    ):
        writer.write_frame(np.zeros((48, 64, 3), np.uint8))
        pool.submit(other.serve_forever)
        ends.callback(other.shutdown)
        site = f"http://localhost:{other.server_port}"  # another site than the server's 127.0.0.1
        with ServeProcess(segment_name, *(("--allowed-origins", site) if allowed else ())) as server:
            address = server.address
            (tmp_path / "index.html").write_text(FOREIGN_PAGE.format(server=address.url(""), name=segment_name))
            browser.goto(f"{site}/")
            assert browser.js("document.querySelector('img').naturalWidth") == (64 if allowed else 0)
            assert browser.js(READS, address.url(f"/snapshot/{segment_name}.jpg")) == allowed
            assert browser.js(WATCHES, address.url(f"/ws/{segment_name}", "ws")) == allowed
            if allowed:
                wait_until(lambda: page_is_open(server), PATIENCE_S, "the page in the frame")
            else:
                assert not page_is_open(server)
            browser.command("Page.navigate", url="about:blank")


def page_is_open(server: ServeProcess) -> bool:
    return "events" in kinds_of_clients(server)

"""The page in a real browser: pictures move again after trouble with sources, server or network."""

import contextlib
import functools
import http.server
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import Popen

import command_line
import numpy as np
import pytest
from chromium import Chromium
from page import Page, kinds_of_clients
from proxy import Proxy
from segments_under_test import wait_until
from serving import Filming, ServeProcess

from billiards_shm import SharedMemoryFrameWriter
from billiards_shm.sources.demo.table import DemoTable

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]


def test_two_sources_move_and_one_that_dies_is_called_dead_and_comes_back(
    browser: Chromium, segment_name: str, capture: Callable[..., Popen[str]]
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


def test_a_stall_a_clean_end_and_a_return_are_shown_as_such(browser: Chromium, segment_name: str) -> None:
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


def test_an_address_with_user_and_password_still_shows_the_page(browser: Chromium, segment_name: str) -> None:
    with Filming(segment_name), ServeProcess(segment_name) as server:
        page = Page(browser, server)
        browser.goto(f"http://user:secret@127.0.0.1:{server.address.port}/")
        page.moves(segment_name)


def test_sources_appear_automatically_and_names_are_never_markup(browser: Chromium, tmp_path: Path) -> None:
    name = str(tmp_path / "<img src=x onerror=document.title=1> & more.seg")
    with ServeProcess(name) as server, SharedMemoryFrameWriter(name, (36, 64, 3)) as writer:
        table = DemoTable(64, 48, 30)
        table.grab()
        writer.write_frame(table.retrieve(None)[:36])
        page = Page(browser, server)
        assert page.wait(lambda: page.text(name, "h2")) == name
        page.wait(lambda: page.sequence(name) == 1)
        assert browser.complaints() == []


def test_the_page_survives_the_server_and_comes_back(browser: Chromium, segment_name: str) -> None:
    with Filming(segment_name), ServeProcess(segment_name) as server:
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


def test_invisible_pictures_are_not_streamed(browser: Chromium, segment_name: str) -> None:
    with Filming(segment_name), ServeProcess(segment_name) as server:
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


def test_a_picture_that_does_not_arrive_is_never_called_live(browser: Chromium, segment_name: str) -> None:
    with (
        Filming(segment_name) as filming,
        ServeProcess(segment_name, "--max-frame-age", 60) as server,
        Proxy(server.address.port) as proxy,
    ):
        page = Page(browser, proxy)
        page.moves(segment_name)
        proxy.frozen = True  # the server still reports that frames are published
        page.wait(lambda: page.state(segment_name) == "no picture")
        frozen = page.pixels(segment_name)
        assert "No new picture" in page.text(segment_name, ".veil")
        assert f"{segment_name} shows no picture" in page.summary()
        page.screenshot("no-picture")
        # Further WebSockets deliver nothing either, so snapshots are requested.
        page.wait(lambda: page.state(segment_name) == "live")
        assert page.pixels(segment_name) != frozen
        proxy.frozen = False
        page.wait(lambda: kinds_of_clients(server) == ["events", "websocket"])
        page.moves(segment_name)
        # An old picture is not a problem if there is no newer one.
        filming.pause()
        page.wait(lambda: page.sequence(segment_name) == filming.published)
        page.wait(lambda: page.figure(segment_name, "age").startswith("10."))  # seconds
        assert page.state(segment_name) == "live"


def test_websockets_that_end_early_are_given_up_only_if_they_had_pictures_to_deliver(
    browser: Chromium, segment_name: str
) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, (48, 64, 3)) as writer,
        ServeProcess(segment_name, "--max-frame-age", 60) as server,
        Proxy(server.address.port, ends_websockets=True) as proxy,
    ):
        page = Page(browser, proxy)
        page.wait(lambda: proxy.refused > 3)  # proxies close idle connections
        assert page.state(segment_name) == "waiting"
        passing = "import('/static/transports.js').then(({ webSockets }) => webSockets.pass)"
        assert browser.js(passing)
        sequence = writer.write_frame(np.zeros((48, 64, 3), np.uint8))
        page.wait(lambda: page.sequence(segment_name) == sequence)
        assert not browser.js(passing)


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
                wait_until(lambda: page_is_open(server), "the page in the frame")
            else:
                assert not page_is_open(server)
            browser.command("Page.navigate", url="about:blank")


def page_is_open(server: ServeProcess) -> bool:
    return "events" in kinds_of_clients(server)

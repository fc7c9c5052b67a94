"""The page with many sources, in hidden tabs, over slow links: what it keeps open, and what it releases."""

import contextlib
import signal
from collections import Counter
from collections.abc import Iterator

import command_line
import pytest
from chromium import Chromium
from page import Page, kinds_of_clients
from proxy import Proxy
from segments_under_test import SHAPE, picture, wait_until
from serving import Filming, ServeProcess

from billiards_shm import SharedMemoryFrameWriter

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser under load")]

SOURCES = 30


@pytest.fixture
def names(segment_name: str) -> Iterator[list[str]]:
    """Many sources."""
    names = [f"{segment_name}-{number}" for number in range(SOURCES)]
    with contextlib.ExitStack() as ends:
        for name in names:
            ends.enter_context(Filming(name, (64, 48), fps=5))
        yield names


@contextlib.contextmanager
def hidden(browser: Chromium) -> Iterator[None]:
    """Put another tab in front."""
    page = browser.command("Target.getTargetInfo")["targetInfo"]["targetId"]
    other = browser.command("Target.createTarget", url="about:blank")["targetId"]
    wait_until(lambda: browser.js("document.visibilityState") == "hidden", "a hidden page")
    yield
    browser.command("Target.closeTarget", targetId=other)
    browser.command("Target.activateTarget", targetId=page)
    wait_until(lambda: browser.js("document.visibilityState") == "visible", "a visible page")


def all_move(page: Page, names: list[str]) -> None:
    """Wait until every picture has changed."""
    before = page.wait(lambda: {name: page.sequence(name) for name in names})
    page.wait(lambda: all(page.sequence(name) not in (0, before[name]) for name in names))


def test_a_wall_of_thirty_survives_hidden_tabs_restarts_and_other_views(browser: Chromium, names: list[str]) -> None:
    server = ServeProcess(*names)
    with server:
        browser.command(
            "Emulation.setDeviceMetricsOverride", width=1280, height=1000, deviceScaleFactor=1, mobile=False
        )
        page = Page(browser, server)
        page.choose("view", "wall")
        all_move(page, names)
        everything = {"events": 1, "websocket": SOURCES}
        assert Counter(kinds_of_clients(server)) == everything
        page.screenshot("wall-of-thirty")
        with hidden(browser):
            wait_until(lambda: kinds_of_clients(server) == [], "a hidden page is no client")
        all_move(page, names)
        assert Counter(kinds_of_clients(server)) == everything

        page.choose("view", "cards")
        wait_until(lambda: len(kinds_of_clients(server)) < 10, "only what is in sight is streamed")
        page.choose("view", "wall")
        all_move(page, names)

        server.signal(signal.SIGTERM)
        page.wait(lambda: page.shown("#alert"))
        again = command_line.start("serve", *names, "--port", server.address.port)
        page.wait(lambda: not page.shown("#alert"))
        all_move(page, names)
        assert Counter(kinds_of_clients(server)) == everything
        assert page.summary() == f"{SOURCES} sources, all live"
        again.send_signal(signal.SIGTERM)
        assert again.wait(20) == 0


def test_full_size_in_a_hidden_tab_is_not_streamed(browser: Chromium, segment_name: str) -> None:
    with Filming(segment_name), ServeProcess(segment_name) as server:
        page = Page(browser, server)
        page.wait(lambda: page.in_card(segment_name, "[card.querySelector('.actions .enlarge').click()]"))
        number = lambda: int(browser.js("document.querySelector('#large canvas').dataset.sequence") or 0)  # noqa: E731
        page.wait(number)
        with hidden(browser):
            wait_until(lambda: kinds_of_clients(server) == [], "a hidden page is no client")
            before = number()
        page.wait(lambda: number() > before)


def test_the_title_of_a_hidden_page_shows_problems(browser: Chromium, segment_name: str) -> None:
    with Filming(segment_name) as filming, ServeProcess(segment_name, "--max-frame-age", 1) as server:
        page = Page(browser, server)
        page.moves(segment_name)
        with hidden(browser):
            filming.pause()
            page.wait(lambda: browser.js("document.title") == "(1!) billiards_shm")
            server.signal(signal.SIGTERM)
            page.wait(lambda: browser.js("document.title") == "(no connection) billiards_shm")


def test_nothing_is_left_of_closed_sources_streams_and_full_sizes(browser: Chromium, segment_name: str) -> None:
    passing = f"{segment_name}-passing"
    with (
        Filming(segment_name) as filming,
        ServeProcess(segment_name, passing) as server,
        Proxy(server.address.port) as proxy,
    ):
        page = Page(browser, proxy)
        page.choose("view", "wall")  # without plots, which have more nodes when they have more gaps
        page.moves(segment_name)
        browser.command("Performance.enable")
        counts = []
        for _ in range(5):
            with SharedMemoryFrameWriter(passing, SHAPE) as writer:
                writer.write_frame(picture(1))
                page.wait(lambda: page.state(passing) == "live")
            page.wait(lambda: page.in_card(passing, "card.dataset.state") == "ended")
            page.in_card(segment_name, "card.querySelector('.actions .enlarge').click()")
            page.wait(lambda: browser.js("document.querySelector('#large canvas').dataset.sequence"))
            browser.press("Escape")
            with hidden(browser):
                pass
            proxy.cut()
            page.moves(segment_name)
            filming.pause()
            page.wait(lambda: page.sequence(segment_name) == filming.published)
            counts.append(held(browser))
            filming.paused = False
        print("nodes and listeners after each round:", counts)
        assert counts[-1] == counts[1]
        assert kinds_of_clients(server) == ["events", "websocket"]


def held(browser: Chromium) -> tuple[int, int]:
    """Nodes and listeners that the page keeps alive."""
    browser.command("HeapProfiler.collectGarbage")
    metrics = {one["name"]: int(one["value"]) for one in browser.command("Performance.getMetrics")["metrics"]}
    return metrics["Nodes"], metrics["JSEventListeners"]


def test_over_a_slow_link_pictures_get_narrower_until_they_are_new_and_then_wide_again(
    browser: Chromium, segment_name: str
) -> None:
    with (
        Filming(segment_name, (1920, 1080), fps=10),
        ServeProcess(segment_name) as server,
        Proxy(server.address.port) as proxy,
    ):
        page = Page(browser, proxy)
        width = lambda: page.in_card(segment_name, "card.querySelector('canvas').width")  # noqa: E731
        page.moves(segment_name)
        first = width()
        # Two pictures are on their way at a time: 38 KB of 640 pixels, 16 KB of 320. They may take five seconds.
        proxy.bytes_a_second = 7_000
        page.wait(lambda: page.state(segment_name) == "no picture")
        page.wait(lambda: page.state(segment_name) == "live" and width() < first)
        page.moves(segment_name)
        print("from", first, "to", width(), "pixels; latency", page.figure(segment_name, "latency"))
        proxy.bytes_a_second = float("inf")
        page.wait(lambda: width() == first)
        page.moves(segment_name)

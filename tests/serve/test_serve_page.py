"""What the page says about sources and server, and how it looks: on desktop and phone, in light and dark mode."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from child_processes import Child
from chromium import Chromium
from page import Page, kinds_of_clients
from segments_under_test import SHAPE, picture, wait_until
from serving import Filming, ServeProcess

from billiards_shm import SharedMemoryFrameWriter
from billiards_shm.sources.demo.table import DemoTable

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

SIZES = {"desktop": (1280, 900, 1), "phone": (390, 844, 2)}
LONG_REASON = "the cable is out, and the driver says: " + "select() timeout, VIDIOC_DQBUF failed, no such device; " * 5


def look(browser: Chromium, size: str = "desktop", scheme: str = "light", height: int | None = None) -> None:
    """Make the browser look like that device."""
    width, usual_height, scale = SIZES[size]
    metrics = {"width": width, "height": height or usual_height, "deviceScaleFactor": scale, "mobile": size == "phone"}
    browser.command("Emulation.setDeviceMetricsOverride", **metrics)
    browser.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])


@pytest.fixture
def trouble(segment_name: str) -> Iterator[ServeProcess]:
    """A server with sources in every state. Their names begin with the states."""
    names = {state: f"{state}_{segment_name}" for state in ("live", "stalled", "waiting", "dead", "gone", "ended")}
    with contextlib.ExitStack() as ends:
        for number in range(2):
            ends.enter_context(Filming(f"{names['live']}_{number + 1}", (640, 360)))
        for state in ("stalled", "waiting"):
            writer = ends.enter_context(SharedMemoryFrameWriter(names[state], (360, 640, 3)))
            if state == "stalled":
                table = DemoTable(640, 360, 30, first=100)
                table.grab()
                writer.write_frame(table.retrieve(None))
                writer.update_source(state="stalled", reason=LONG_REASON)
        with Child("write_and_wait(sys.argv[1])", names["dead"]) as child:
            assert child.says() == "written"
        shown = [f"{names['live']}_1", f"{names['live']}_2", *(names[state] for state in names if state != "live")]
        server = ends.enter_context(ServeProcess(*shown, "--max-frame-age", 1))
        with SharedMemoryFrameWriter(names["ended"], SHAPE) as writer:
            writer.write_frame(picture(1))
            server.address.get("/api/segments")
        yield server


def states(page: Page) -> list[str]:
    """The states of the visible cards, in order."""
    return list(page.browser.js("[...document.querySelectorAll('#sources article')].map((one) => one.dataset.state)"))


def test_problems_come_first_and_ended_sources_are_folded_away(browser: Chromium, trouble: ServeProcess) -> None:
    look(browser)
    page = Page(browser, trouble)
    page.wait(lambda: states(page) == ["dead", "gone", "stalled", "waiting", "live", "live"])
    page.wait(lambda: browser.js("document.title") == "(4!) billiards_shm")
    assert page.summary().startswith("4 of 6 sources have problems: dead_")
    assert page.summary().endswith(", and 1 more")
    assert page.shown("#ended summary")
    assert not page.shown("#ended article")
    browser.js("document.querySelector('#ended summary').click()")
    assert browser.js("document.querySelector('#ended article h2').innerText").startswith("ended_")
    page.screenshot("trouble")
    browser.js("document.querySelector('#ended .dismiss').click()")
    assert not page.shown("#ended")
    gone = "document.querySelector('#sources article[data-state=gone]')"
    browser.js(f"{gone}.querySelector('.dismiss').click()")
    assert states(page) == ["dead", "stalled", "waiting", "live", "live"]
    assert browser.complaints() == []


def test_a_source_that_was_dismissed_is_shown_again_when_it_comes_back(browser: Chromium, segment_name: str) -> None:
    with ServeProcess(segment_name) as server:
        page = Page(browser, server)
        page.wait(lambda: page.state(segment_name) == "gone")
        page.in_card(segment_name, "card.querySelector('.dismiss').click()")
        assert states(page) == []
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            writer.write_frame(picture(1))
            page.wait(lambda: page.state(segment_name) == "live")
        page.wait(lambda: page.shown("#ended"))
        assert states(page) == []
        assert browser.js("document.title") == "billiards_shm", "an ended source is not a problem"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("view", ["cards", "wall"])
def test_everything_can_be_read(browser: Chromium, trouble: ServeProcess, view: str, size: str, scheme: str) -> None:
    look(browser, size, scheme, height=2700)  # so that all of it is visible
    page = Page(browser, trouble)
    page.choose("view", view)
    page.wait(lambda: states(page) == ["dead", "gone", "stalled", "waiting", "live", "live"])
    browser.js("document.querySelector('#ended summary').click()")
    page.wait(lambda: browser.js(f"{PICTURES}.length") == 4)
    height = browser.js("Math.ceil(document.querySelector('footer').getBoundingClientRect().bottom + 24)")
    look(browser, size, scheme, height)
    page.screenshot(f"{view}-{size}-{scheme}")
    assert browser.js("document.documentElement.scrollWidth") <= SIZES[size][0]
    assert browser.js(CUT_OFF) == []
    assert browser.js(FAINT) == []


PICTURES = "[...document.querySelectorAll('canvas')].filter((one) => one.dataset.sequence)"

# Texts that do not fit and are not meant to end with an ellipsis.
CUT_OFF = """[...document.querySelectorAll('dt, dd, figcaption span, .badge, button, .button, label, summary')]
    .filter((one) => one.checkVisibility() && getComputedStyle(one).display != 'inline')
    .filter((one) => one.scrollWidth > one.clientWidth + 1)
    .map((one) => one.outerHTML)"""

# Texts whose contrast is below what WCAG 2.2 wants (1.4.3, level AA). Those on pictures have their own background.
FAINT = """(() => {
    const channels = (colour) => colour.match(/[0-9.]+/g).map(Number);
    const luminance = (colour) => channels(colour).slice(0, 3).map((value) => value / 255)
        .map((value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
    const ground = (one) => {
        const colour = getComputedStyle(one).backgroundColor;
        return (channels(colour)[3] ?? 1) === 1 ? colour : ground(one.parentElement);
    };
    const contrast = (one) => {
        const [low, high] = [luminance(getComputedStyle(one).color), luminance(ground(one))].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    };
    return [...document.querySelectorAll('h1, h2, p, dt, dd, span, a, button, label, summary')]
        .filter((one) => one.checkVisibility() && one.innerText)
        .filter((one) => !one.closest('.picture, [data-view=wall] #sources .head'))
        .filter((one) => contrast(one) < 4.5).map((one) => [one.outerHTML.slice(0, 200), contrast(one)]);
})()"""


def test_a_long_reason_shifts_nothing(browser: Chromium, segment_name: str) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, SHAPE) as writer,
        ServeProcess(segment_name, "--max-frame-age", 1) as server,
    ):
        page = Page(browser, server)
        page.wait(lambda: page.state(segment_name) == "waiting")
        page.wait(lambda: page.text(segment_name, ".reason"))
        places = (
            "[...card.querySelectorAll('h2, .reason, dd, svg, .actions')].map((one) => one.getBoundingClientRect().y)"
        )
        before = page.in_card(segment_name, places)
        writer.update_source(state="opening", reason=LONG_REASON)
        page.wait(lambda: "the cable is out" in page.text(segment_name, ".reason"))
        page.wait(lambda: page.figure(segment_name, "readers"))
        assert page.in_card(segment_name, places) == before
        assert "the cable is out" in page.text(segment_name, ".veil"), "where there is room for it"


def test_on_a_phone_figures_are_folded_except_the_most_important(browser: Chromium, segment_name: str) -> None:
    look(browser, "phone")
    with Filming(segment_name), ServeProcess(segment_name) as server:
        page = Page(browser, server)
        page.moves(segment_name)
        page.wait(lambda: "ms" in page.text(segment_name, ".brief"))
        assert "fps" in page.text(segment_name, ".brief")
        assert page.figure(segment_name, "readers") == ""
        assert page.in_card(segment_name, "card.getBoundingClientRect().height") < 844 / 2, "two fit"
        page.screenshot("phone")
        page.in_card(segment_name, "card.querySelector('summary').click()")
        page.wait(lambda: page.figure(segment_name, "readers") == "1")


def test_the_theme_is_chosen_and_kept(browser: Chromium, segment_name: str) -> None:
    look(browser, scheme="light")
    ground = lambda: browser.js("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    with ServeProcess(segment_name) as server:
        page = Page(browser, server)
        light = ground()
        page.choose("theme", "dark")
        dark = ground()
        assert dark != light
        page = Page(browser, server)
        assert ground() == dark
        page.choose("theme", "auto")
        assert ground() == light
        look(browser, scheme="dark")
        assert ground() == dark


def test_full_size_has_state_figures_and_neighbours(browser: Chromium, segment_name: str) -> None:
    look(browser)
    names = [f"{segment_name}-{number}" for number in (1, 2, 10)]
    with contextlib.ExitStack() as ends:
        films = [ends.enter_context(Filming(name, (640, 360))) for name in names]
        server = ends.enter_context(ServeProcess(*names, "--max-frame-age", 1))
        page = Page(browser, server)
        page.moves(names[0])
        page.in_card(names[0], "card.querySelector('.actions .enlarge').focus()")
        browser.press("Enter")
        large = lambda selector: browser.js(f"document.querySelector('#large {selector}').innerText")  # noqa: E731
        page.wait(lambda: browser.js("document.querySelector('#large canvas').dataset.sequence"))
        assert browser.js("document.querySelector('#large canvas').width") == 640
        page.wait(lambda: "fps" in large("[data-figure=fps]") and "ms" in large("[data-figure=latency]"))
        assert large(".badge .word") == "live"
        seen = [large("h2")]
        for _ in names:
            browser.press("ArrowRight")
            seen.append(large("h2"))
        assert seen == [*names, names[0]], "10 after 2, and the first after the last"
        browser.js("document.querySelector('#large .previous').click()")
        assert (large("h2"), large(".place")) == (names[2], "3 of 3")
        page.screenshot("full-size")
        films[2].pause()
        page.wait(lambda: large(".badge .word") == "stalled")
        assert "old" in large(".veil")
        page.screenshot("full-size-stalled")
        look(browser, "phone")
        page.screenshot("full-size-phone")
        look(browser)
        browser.press("Escape")
        page.wait(lambda: not page.shown("#large"))
        page.moves(names[0])
        snapshot = page.in_card(names[0], "card.querySelector('[data-link=snapshot]').href")
        assert snapshot == server.address.url(f"/snapshot/{names[0]}.jpg?quality=95")


def test_a_full_server_says_so(browser: Chromium, segment_name: str) -> None:
    look(browser)
    with Filming(segment_name), ServeProcess(segment_name, "--max-clients", 2) as server:
        stream = f"/stream/{segment_name}.mjpg"
        with server.address.stream(stream):
            page = Page(browser, server)
            page.wait(lambda: page.state(segment_name) == "no picture")
            assert "2 clients are connected" in page.text(segment_name, ".veil")
            page.screenshot("no-place-for-a-picture")
        page.wait(lambda: page.state(segment_name) == "live")
        browser.command("Page.navigate", url="about:blank")
        wait_until(lambda: kinds_of_clients(server) == [], "a closed page is not a client")
        with server.address.stream(stream), server.address.stream(stream):
            page = Page(browser, server)
            page.wait(lambda: page.shown("#alert"))
            assert "The server is full: 2 clients" in browser.js("document.getElementById('alert').innerText")
            assert browser.js("document.title") == "(server full) billiards_shm"
            page.screenshot("server-full")
        page.moves(segment_name)


def test_users_log_in_with_the_token_and_out_again(browser: Chromium, segment_name: str) -> None:
    look(browser)
    browser.command("Emulation.setFocusEmulationEnabled", enabled=True)  # no window has the focus
    focused = "document.querySelector(':focus-visible')?.id"
    with Filming(segment_name), ServeProcess(segment_name, "--token", "eight ball") as server:
        page = Page(browser, server)
        page.wait(lambda: browser.js(focused) == "token")
        browser.type("nine ball")
        browser.press("Enter")
        page.wait(lambda: page.shown("#wrong") and browser.js("document.readyState") == "complete")
        page.wait(lambda: browser.js(focused) == "token")
        page.screenshot("login")
        browser.type("eight ball")
        browser.press("Enter")
        page.moves(segment_name)
        assert page.shown("footer form")
        browser.js("document.querySelector('footer form button').click()")
        page.wait(lambda: browser.js(focused) == "token")
        assert browser.js("location.pathname") == "/login"


def test_a_card_that_moves_keeps_the_focus(browser: Chromium, segment_name: str) -> None:
    names = [f"{segment_name}-{letter}" for letter in "ab"]
    with (
        Filming(names[0]),
        Filming(names[1]) as moving,
        ServeProcess(*names, "--max-frame-age", 1) as server,
    ):
        page = Page(browser, server)
        page.wait(lambda: states(page) == ["live", "live"])
        page.in_card(names[1], "card.querySelector('.actions .enlarge').focus()")
        moving.pause()
        page.wait(lambda: states(page) == ["stalled", "live"])
        assert browser.js("document.activeElement.closest('article').dataset.name") == names[1]
        moving.paused = False
        page.wait(lambda: states(page) == ["live", "live"])
        assert browser.js("document.activeElement.closest('article').dataset.name") == names[1]


def test_link_information_is_shown_only_for_copies(browser: Chromium, segment_name: str) -> None:
    copied, captured = f"{segment_name}-a", f"{segment_name}-b"
    with SharedMemoryFrameWriter(copied, SHAPE) as one, SharedMemoryFrameWriter(captured, SHAPE) as two:
        for writer in (one, two):
            writer.write_frame(picture(1))
        one.update_source(backend="Zenoh h264", link_bytes=12_300_000, link_age_us=8_200)
        with ServeProcess(copied, captured) as server:
            page = Page(browser, server)
            page.wait(lambda: page.text(copied, "[data-statistic=link_age_us]") == "8.2 ms")
            assert page.text(copied, "[data-statistic=link_bytes]") == "12.3 MB"
            # Without new frames, the card says that instead.
            page.wait(lambda: one.write_frame(picture(1)) and "Zenoh h264" in page.text(copied, ".reason"))
            assert page.text(captured, "[data-statistic=link_age_us]") == ""


def test_a_screen_reader_finds_names_for_everything_that_can_be_used(browser: Chromium, segment_name: str) -> None:
    look(browser)
    with Filming(segment_name), ServeProcess(segment_name) as server:
        page = Page(browser, server)
        page.moves(segment_name)
        plot = "card.querySelector('svg[data-plot=fps]').getAttribute('aria-label')"
        page.wait(lambda: "fps" in page.in_card(segment_name, plot))
        nodes = browser.command("Accessibility.getFullAXTree")["nodes"]
    used = ("button", "link", "image", "img", "article", "radio", "status", "alert")
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in used
    ]
    for role, name in named:
        assert name or role in ("status", "alert"), f"a nameless {role}"
    roles = [role for role, _ in named]
    assert roles.count("button") >= 2
    assert roles.count("radio") == 5
    assert roles.count("status") == 1, "one place announces all states"
    assert ("article", segment_name) in named
    assert any("fps" in name for role, name in named if role in ("image", "img"))


STATES = [
    ("live", {}, "connected", None, "live", "good"),
    ("live", {}, "connected", "No new picture", "no picture", "warn"),
    ("stalled", {}, "connected", "No new picture", "stalled", "warn"),
    ("waiting", {}, "connected", None, "waiting", "warn"),
    ("dead", {}, "connected", None, "dead", "bad"),
    ("gone", {}, "connected", None, "gone", "bad"),
    ("unreadable", {}, "connected", None, "unreadable", "bad"),
    ("closed", {"ended": True}, "connected", None, "ended", "off"),
    ("gone", {"ended": True}, "connected", None, "ended", "off"),
    ("live", {}, "lost", None, "unknown", "off"),
    ("live", {}, "full", "No new picture", "unknown", "off"),
    ("gone", {"ended": True}, "lost", None, "unknown", "off"),
]


def test_a_card_says_the_first_thing_that_matters(browser: Chromium) -> None:
    with ServeProcess() as server:
        Page(browser, server)
        for state, more, link, trouble, name, tone in STATES:
            segment: dict[str, Any] = {"state": state, "ended": False, "reason": "why"} | more
            call = "import('/static/state.js').then(({ stateOf }) => stateOf($0, $1, $2))"
            found = browser.js(call, segment, {"state": link, "words": ""}, trouble)
            assert (found["name"], found["tone"]) == (name, tone), (state, more, link, trouble)

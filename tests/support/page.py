"""The preview page, as users see it. BILLIARDS_SHM_SCREENSHOTS names a directory for screenshots."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chromium import Chromium
from proxy import Proxy
from segments_under_test import wait_until
from serving import ServeProcess


def kinds_of_clients(server: ServeProcess) -> list[str]:
    return sorted(client["kind"] for client in server.address.get("/api/clients").json)


class Page:
    """The preview page, as users see it."""

    def __init__(self, browser: Chromium, server: ServeProcess | Proxy) -> None:
        self.browser = browser
        browser.goto(server.address.url("/"))

    def in_card(self, name: str, expression: str, *arguments: Any) -> Any:
        """Evaluate an expression about `card`, the part of the page for one source."""
        found = "[...document.querySelectorAll('article')].find((one) => one.dataset.name === $0)"
        return self.browser.js(f"((card) => {expression})({found})", name, *arguments)

    def text(self, name: str, selector: str) -> str:
        """The visible text there."""
        seen = "((one) => one.checkVisibility() ? one.innerText : '')(card.querySelector($1))"
        return str(self.in_card(name, seen, selector))

    def state(self, name: str) -> str:
        return self.text(name, ".badge .word")

    def figure(self, name: str, which: str) -> str:
        return self.text(name, f'[data-figure="{which}"]')

    def sequence(self, name: str) -> int:
        return int(self.in_card(name, "card.querySelector('canvas').dataset.sequence") or 0)

    def pixels(self, name: str) -> str:
        """What the canvas shows, as a string that differs when it does."""
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
            with contextlib.suppress(LookupError):  # the element is not there yet
                return condition()
            return None

        return wait_until(quietly, "what the page should show")

    def choose(self, which: str, value: str) -> None:
        self.browser.js("document.querySelector($0).click()", f"input[name={which}][value={value}]")

    def screenshot(self, name: str) -> None:
        if directory := os.environ.get("BILLIARDS_SHM_SCREENSHOTS"):
            Path(directory).mkdir(parents=True, exist_ok=True)
            self.browser.screenshot(Path(directory) / f"{name}.png")

    def summary(self) -> str:
        return str(self.browser.js("document.getElementById('summary').innerText"))

"""A real browser without a screen, driven by its DevTools protocol (https://chromedevtools.github.io/devtools-protocol)."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from segments_under_test import wait_until
from websockets.sync.client import connect

_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--window-size=1280,900",
    "--remote-debugging-port=0",
)
_KEYS = {"Enter": (13, "\r"), "Escape": (27, ""), "ArrowLeft": (37, ""), "ArrowRight": (39, "")}


class Chromium:
    """One window of Debian's chromium, with its own profile."""

    def __init__(self, profile: Path) -> None:
        program = shutil.which("chromium")
        assert program is not None, "chromium is missing: apt install chromium"
        self._command = [program, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        self._port_file = profile / "DevToolsActivePort"
        self._number = 0
        self._events: list[dict[str, Any]] = []
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as ends:
            silent = subprocess.DEVNULL
            process = ends.enter_context(subprocess.Popen(self._command, stdout=silent, stderr=silent))
            ends.callback(process.terminate)
            wait_until(lambda: self._port_file.exists() and "\n" in self._port_file.read_text(), "chromium's start")
            page = self._page_of(int(self._port_file.read_text().splitlines()[0]))
            # No pings: their thread draws from the global `random`, which Hypothesis watches in tests beside it.
            self._socket = ends.enter_context(connect(page, max_size=None, compression=None, ping_interval=None))
            self._ends = ends.pop_all()
        for domain in ("Page", "Runtime", "Log"):
            self.command(f"{domain}.enable")
        return self

    def __exit__(self, *exc: object) -> None:
        self._ends.close()

    @staticmethod
    def _page_of(port: int) -> str:
        def found() -> str | None:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30) as answer:
                pages = [target for target in json.load(answer) if target["type"] == "page"]
            return pages[0]["webSocketDebuggerUrl"] if pages else None

        return wait_until(found, "a page of chromium")

    def command(self, method: str, **parameters: Any) -> Any:
        """Run one command; return its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        deadline = time.monotonic() + 60
        while True:
            message = json.loads(self._socket.recv(max(0.1, deadline - time.monotonic())))
            if message.get("id") == self._number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self._events.append(message)

    def goto(self, url: str) -> None:
        """Open a page; complaints about the previous one are forgotten."""
        self.command("Page.navigate", url="about:blank")
        wait_until(lambda: self.js("location.href") == "about:blank")
        self._events.clear()
        self.command("Page.navigate", url=url)
        wait_until(lambda: self.js("location.href != 'about:blank' && document.readyState == 'complete'"))

    def js(self, expression: str, *arguments: Any) -> Any:
        """The value of an expression in the page; `arguments` are $0, $1 and so on in it."""
        for number, argument in enumerate(arguments):
            expression = expression.replace(f"${number}", json.dumps(argument))
        found = self.command(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        if "exceptionDetails" in found:
            raise LookupError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key, wherever the focus is."""
        code, text = _KEYS[key]
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.command("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)

    def type(self, text: str) -> None:
        """Type a text, wherever the focus is."""
        self.command("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        """Save what the window shows."""
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"]))

    def complaints(self) -> list[str]:
        """The browser's complaints since the page was opened: script errors, and violations of the content policy."""
        self.js("1")
        errors = [
            event["params"]["entry"]["text"]
            for event in self._events
            if event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error"
        ]
        thrown = [str(event["params"]) for event in self._events if event["method"] == "Runtime.exceptionThrown"]
        return [error for error in errors if "ERR_CONNECTION" not in error] + thrown

"""The page's replay in a real browser: it plays the MP4, slowly and frame by frame, and says what is wrong."""

from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

import command_line
import pytest
import recordings
from chromium import Chromium
from page import Page
from segments_under_test import picture, wait_until
from serving import ServeProcess

from billiards_shm import SharedMemoryFrameWriter
from billiards_shm.record.control import ControlSocket, RecorderError

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

VIDEO = "document.querySelector('#replay video')"


class ReplayDialog:
    """The dialog, as users see it."""

    def __init__(self, page: Page, name: str) -> None:
        self.page = page
        self.browser = page.browser
        page.wait(lambda: page.in_card(name, "card.querySelector('.replay').checkVisibility()"))
        page.in_card(name, "card.querySelector('.replay').click()")

    def video(self, what: str) -> Any:
        return self.browser.js(f"{VIDEO}.{what}")

    def click(self, control: str) -> None:
        self.browser.js("document.querySelector($0).click()", f"#replay {control}")

    def choose(self, control: str, value: str) -> None:
        chosen = "((one) => { one.value = $1; one.dispatchEvent(new Event('change')); })(document.querySelector($0))"
        self.browser.js(chosen, f"#replay {control}", value)

    def number(self) -> int:
        """The number of the visible picture: the one in the clip that its pixels are nearest to."""
        pixels = self.browser.js(
            f"""((canvas) => {{
                canvas.width = 64; canvas.height = 48;
                const context = canvas.getContext('2d');
                context.drawImage({VIDEO}, 0, 0, 64, 48);
                return [...context.getImageData(0, 0, 64, 48).data];
            }})(document.createElement('canvas'))"""
        )
        return sum(pixels)


def test_chromium_plays_the_clip_slowly_and_frame_by_frame(browser: Chromium, segment_name: str) -> None:
    clip = recordings.clip(60, size=(640, 360))
    with (
        SharedMemoryFrameWriter(segment_name, (48, 64, 3)) as writer,
        ControlSocket(segment_name, lambda request: ({"ring": 2.0}, None if request["request"] == "state" else clip)),
        ServeProcess(segment_name) as server,
    ):
        writer.write_frame(picture(1, (48, 64, 3)))
        page = Page(browser, server)
        dialog = ReplayDialog(page, segment_name)
        page.wait(lambda: dialog.video("currentTime") > 0 and not dialog.video("paused"))
        assert (dialog.video("videoWidth"), dialog.video("videoHeight")) == (640, 360)
        assert dialog.video("duration") == pytest.approx(clip.seconds, abs=0.1)
        page.screenshot("replay")

        dialog.choose(".speed", "0.25")
        assert dialog.video("playbackRate") == 0.25
        dialog.click(".play")
        page.wait(lambda: dialog.video("paused"))
        browser.js(f"{VIDEO}.currentTime = 0")
        page.wait(lambda: not dialog.video("seeking"))
        period = clip.seconds / (len(clip.frames) - 1)
        seen = []
        for number in range(1, 6):
            dialog.click(".forward")
            page.wait(lambda: not dialog.video("seeking"))
            assert dialog.video("currentTime") == pytest.approx((number + 0.5) * period, abs=1e-3)
            seen.append(dialog.number())
        assert len(set(seen)) == 5, "each is a different picture"
        dialog.click(".back")
        page.wait(lambda: not dialog.video("seeking"))
        assert dialog.number() == seen[3]
        browser.press("ArrowRight")
        page.wait(lambda: not dialog.video("seeking") and dialog.number() == seen[4])
        assert browser.js("document.querySelector('#replay [data-link=clip]').download") == f"{segment_name}.mp4"
        dialog.click(".close")
        page.wait(lambda: not page.shown("#replay"))
        assert browser.complaints() == []


def test_a_missing_clip_is_reported_on_the_page(browser: Chromium, segment_name: str) -> None:
    def nothing(request: Any) -> Any:
        if request["request"] == "state":
            return {"ring": 0.0}, None
        raise RecorderError("there is no frame yet")

    with (
        SharedMemoryFrameWriter(segment_name, (48, 64, 3)) as writer,
        ControlSocket(segment_name, nothing),
        ServeProcess(segment_name) as server,
    ):
        writer.write_frame(picture(1, (48, 64, 3)))
        page = Page(browser, server)
        ReplayDialog(page, segment_name)
        page.wait(lambda: "there is no frame yet" in browser.js("document.querySelector('#replay .veil').innerText"))
        page.screenshot("replay-none")


def test_without_a_ring_there_is_no_button(browser: Chromium, segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, (48, 64, 3)) as writer, ServeProcess(segment_name) as server:
        writer.write_frame(picture(1, (48, 64, 3)))
        page = Page(browser, server)
        page.wait(lambda: page.state(segment_name) == "live")
        assert not page.in_card(segment_name, "card.querySelector('.replay').checkVisibility()")


def test_chromium_plays_the_last_seconds_of_a_recorder_and_ffprobe_reads_them(
    browser: Chromium, segment_name: str, tmp_path: Path, capture: Callable[..., Popen[str]]
) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    environment = {"XDG_RUNTIME_DIR": str(runtime)}
    capture(segment_name, "--history", 16)
    recorder = command_line.start("record", segment_name, "--ring", "5s", **environment)
    with ServeProcess(segment_name, **environment) as server:
        page = Page(browser, server)
        page.moves(segment_name)
        dialog = ReplayDialog(page, segment_name)
        page.wait(lambda: dialog.video("currentTime") > 0)
        assert browser.complaints() == []
        clip = f"/replay/{segment_name}.mp4"
        wait_until(lambda: server.address.get(clip).headers["x-clip-seconds"].startswith(("4", "5")))
    for suffix in (".mkv", ".mp4"):
        file = tmp_path / f"clip{suffix}"
        done = command_line.run("replay", segment_name, file, "--last", 3, **environment)
        assert done.returncode == 0, done.stderr
        lines = recordings.lines(file)
        assert recordings.frames_by_ffprobe(file) == len(lines)
        shown = recordings.seconds(file)
        assert 3.0 <= shown[-1] < 3.6
        if suffix == ".mkv":  # whose milliseconds cannot distinguish frames of a burst
            continue
        for at, line in zip(shown, lines, strict=True):
            assert abs(at - (line["capture_time_ns"] - lines[0]["capture_time_ns"]) / 1e9) <= 0.001
    recorder.terminate()
    assert recorder.wait(40) == 0
    assert list(runtime.iterdir()) == []

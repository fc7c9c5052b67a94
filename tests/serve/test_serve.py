"""What the server reports about segments, and to whom."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from child_processes import Child
from prometheus_client.parser import text_string_to_metric_families
from segment_layout import opened, set_frame_age
from segments_under_test import path_of, picture, wait_until
from serving import Address, served
from websockets.sync.client import connect

from billiards_shm import SegmentInfo, SharedMemoryFrameWriter, inspect_segment, remove_stale_segments
from billiards_shm.monitor import health
from billiards_shm.serve import create_app
from billiards_shm.serve.metrics import ServerMetrics
from billiards_shm.serve.state import AppState
from billiards_shm.statistics import STATISTICS

SHAPE = (24, 32, 3)


@pytest.fixture
def writer(segment_name: str) -> Iterator[SharedMemoryFrameWriter]:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        yield writer


def names_at(server: Address) -> dict[str, Any]:
    return {one["name"]: one for one in server.get("/api/segments").json}


# Segments that appear and disappear.


def test_without_names_every_segment_is_shown_and_missing_ones_are_reported_as_gone(segment_name: str) -> None:
    with served(create_app()) as server:
        assert segment_name not in names_at(server)
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            writer.write_frame(picture(1))
            assert server.get(f"/snapshot/{segment_name}.jpg").status == 200, "at once"
            wait_until(lambda: names_at(server).get(segment_name, {}).get("state") == "live")
        wait_until(lambda: names_at(server)[segment_name]["state"] == "gone")
        assert server.get(f"/health/{segment_name}").status == 503
        snapshot = server.get(f"/snapshot/{segment_name}.jpg")
        assert (snapshot.status, snapshot.json["detail"]) == (503, f"there is no segment {segment_name} now")
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            writer.write_frame(picture(1))
            wait_until(lambda: names_at(server)[segment_name]["state"] == "live")


def test_a_segment_that_its_writer_closed_has_ended_and_one_whose_writer_died_has_not(segment_name: str) -> None:
    with served(create_app([segment_name])) as server:
        state = lambda: (names_at(server)[segment_name]["state"], names_at(server)[segment_name]["ended"])  # noqa: E731
        assert state() == ("gone", False), "there never was one"
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            writer.write_frame(picture(1))
            wait_until(lambda: state() == ("live", False))
        wait_until(lambda: state() == ("gone", True))
        with Child("write_and_wait(sys.argv[1])", segment_name):  # which is killed at the end
            wait_until(lambda: state() == ("live", False))
        wait_until(lambda: state() == ("dead", False))
        remove_stale_segments([segment_name])
        wait_until(lambda: state() == ("gone", False))


def test_with_names_only_those_are_shown(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    writer.write_frame(picture(1))
    with served(create_app(["another"])) as server:
        assert set(names_at(server)) == {"another"}
        for path in ("/api/segments/{}", "/health/{}", "/snapshot/{}.jpg", "/stream/{}.mjpg"):
            assert server.get(path.format(segment_name)).status == 404


def test_one_segment_is_described_in_full(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    writer.update_source(state="streaming", backend="FFMPEG", captured=7, stalls=2)
    writer.write_frame(picture(1))
    with served(create_app([segment_name])) as server:
        found = server.get(f"/api/segments/{segment_name}").json
    assert (found["width"], found["height"], found["pixel_format"], found["sequence"]) == (32, 24, "BGR24", 1)
    assert (found["backend"], found["captured"], found["stalls"]) == ("FFMPEG", 7, 2)
    assert found["segment"]["writer_pid"] == os.getpid()


def test_a_string_instead_of_a_list_of_names_is_an_error() -> None:
    with pytest.raises(TypeError, match="a list"):
        create_app("billiards_video")


# Health.


def test_health_is_judged_by_the_age_of_the_newest_captured_frame(
    segment_name: str, writer: SharedMemoryFrameWriter
) -> None:
    with served(create_app([segment_name], max_frame_age=100)) as server:
        waiting = server.get(f"/health/{segment_name}")
        assert (waiting.status, waiting.json["state"]) == (503, "waiting")
        writer.update_source(state="stalled", reason="the cable is out")
        writer.write_frame(picture(1))
        set_frame_age(path_of(segment_name), 900)
        stalled = wait_until(lambda: changed_from("waiting", server, segment_name))
        assert (stalled.status, stalled.json["state"]) == (503, "stalled")
        reason = stalled.json["reason"]
        assert re.search(r"9\d\d\.\d s old, more than the 100 s allowed.*stalled: the cable is out", reason)
        assert server.get("/readyz").status == 503
        writer.update_source(state="streaming", reason="")
        writer.write_frame(picture(2))
        live = wait_until(lambda: changed_from("stalled", server, segment_name))
        assert (live.status, live.json["healthy"]) == (200, True)
        assert server.get("/readyz").status == 200


def changed_from(state: str, server: Address, name: str) -> Any:
    answer = server.get(f"/health/{name}")
    return answer if answer.json["state"] != state else None


def test_placeholders_do_not_make_a_source_healthy(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    writer.write_frame(picture(1), online=False)
    with served(create_app([segment_name])) as server:
        assert server.get(f"/health/{segment_name}").status == 503


def test_a_dead_writer_is_unhealthy_however_new_its_last_frame_and_a_new_one_heals_it(segment_name: str) -> None:
    with served(create_app([segment_name], max_frame_age=100)) as server:
        gone = server.get(f"/health/{segment_name}")
        assert (gone.status, gone.json["state"]) == (503, "gone")
        with Child("write_and_wait(sys.argv[1])", segment_name) as child:
            assert child.says() == "written"
            wait_until(lambda: server.get(f"/health/{segment_name}").status == 200)
            child.kill()
        dead = wait_until(lambda: changed_from("live", server, segment_name))
        assert (dead.status, dead.json["state"]) == (503, "dead")
        assert "died" in dead.json["reason"]
        last = server.get(f"/snapshot/{segment_name}.png")
        assert (last.status, last.headers["x-frame-online"]) == (200, "false"), "its last frame is still there"
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            writer.write_frame(picture(1))
            wait_until(lambda: server.get(f"/health/{segment_name}").status == 200)


@pytest.mark.parametrize("path", ["/readyz", "/health/{}", "/api/segments", "/api/segments/{}", "/metrics"])
def test_no_segment_is_inspected_where_streams_would_have_to_wait(
    segment_name: str, writer: SharedMemoryFrameWriter, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def inspect(name: str, **more: Any) -> SegmentInfo:
        threads.append(threading.current_thread().name)
        return inspect_segment(name, **more)

    monkeypatch.setattr(health, "REFRESH_INTERVAL_S", 0.0)
    monkeypatch.setattr(health, "inspect_segment", inspect)
    writer.write_frame(picture(1, SHAPE))
    with served(create_app([segment_name])) as server:
        assert server.get(path.format(segment_name)).status == 200
    assert threads
    assert all(name.startswith("asyncio_") for name in threads), threads


def test_all_segments_that_exist_are_shown_however_many_are_remembered(
    segment_name: str, writer: SharedMemoryFrameWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "REMEMBERED_NAMES", 1)
    monkeypatch.setattr(health, "REFRESH_INTERVAL_S", 0.0)
    with SharedMemoryFrameWriter(f"{segment_name}_too", SHAPE):
        monitor = health.HealthMonitor(None, 3.0)
        for _ in range(3):
            assert {segment_name, f"{segment_name}_too"} <= set(monitor.health())


def test_ready_means_that_all_named_segments_are_healthy(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    writer.write_frame(picture(1))
    with served(create_app([segment_name], max_frame_age=100)) as server:
        assert server.get("/readyz").json["ready"]
    with served(create_app([segment_name, "missing-one"])) as server:
        answer = server.get("/readyz")
        assert (answer.status, answer.json["segments"]["missing-one"]["state"]) == (503, "gone")


# Snapshots.


def test_a_png_snapshot_is_the_frame_to_the_last_bit(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    frame = picture(5)
    before = time.time()
    writer.write_frame(picture(4))
    writer.write_frame(frame, capture_time_ns=time.monotonic_ns() - 2_000_000_000)
    set_frame_age(path_of(segment_name), 2)
    with served(create_app([segment_name])) as server:
        answer = server.get(f"/snapshot/{segment_name}.png")
    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    assert np.array_equal(answer.image, frame)
    assert answer.headers["x-frame-sequence"] == "2"
    assert float(answer.headers["x-frame-age"]) >= 2
    captured = datetime.fromisoformat(answer.headers["x-frame-capture-time"]).timestamp()
    assert before - 2.1 < captured < time.time() - 1.9


def test_a_snapshot_that_the_client_has_is_not_sent_again(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    path = f"/snapshot/{segment_name}.jpg"
    with served(create_app([segment_name])) as server:
        writer.write_frame(picture(1))
        tag = server.get(path).headers["etag"]
        for known in (tag, f'"another", W/{tag}', "*"):
            answer = server.get(path, If_None_Match=known)
            assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag), known
            assert answer.headers["x-frame-sequence"] == "1"
        assert server.get(path, If_None_Match='"another"').status == 200
        writer.write_frame(picture(2))
        new = server.get(path, If_None_Match=tag)
        assert (new.status, new.headers["x-frame-sequence"]) == (200, "2")
        assert new.headers["etag"] != tag


def test_a_snapshot_may_be_too_old(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    path = f"/snapshot/{segment_name}.jpg"
    with served(create_app([segment_name])) as server:
        writer.write_frame(picture(1), online=False)
        placeholder = server.get(path)
        assert (placeholder.status, placeholder.headers["x-frame-online"]) == (200, "false")
        assert "x-frame-age" not in placeholder.headers
        assert "there is none" in server.get(f"{path}?max_age=600").json["detail"]
        writer.write_frame(picture(2))
        set_frame_age(path_of(segment_name), 700)
        answer = server.get(f"{path}?max_age=600")
        assert answer.status == 503
        assert re.search(r"at most 600 s old, and it is 70\d\.", answer.json["detail"])
        found = server.get(f"{path}?max_age=7000")
        assert (found.status, found.headers["x-frame-online"]) == (200, "true")
        assert server.get(f"{path}?max_age=600", If_None_Match=found.headers["etag"]).status == 503
        assert server.get(f"{path}?max_age=0").status == 422


def test_head_is_get_without_a_body(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    writer.write_frame(picture(1))
    with served(create_app([segment_name], max_frame_age=600)) as server:
        for path in ("/", "/login", "/static/page.js", "/healthz", "/readyz", f"/health/{segment_name}", "/metrics",
                     "/api/segments", f"/api/segments/{segment_name}", "/api/clients", "/api/events", "/openapi.json",
                     f"/snapshot/{segment_name}.jpg", f"/snapshot/{segment_name}.png", f"/stream/{segment_name}.mjpg",
                     "/health/unknown", f"/snapshot/{segment_name}.gif"):  # fmt: skip
            head = server.request("HEAD", path)
            assert head.body == b"", path
            if not path.startswith(("/api/events", "/stream")):
                full = server.get(path)
                assert (head.status, head.headers["content-type"]) == (full.status, full.headers["content-type"]), path
        assert server.request("HEAD", "/api/events").headers["content-type"].startswith("text/event-stream")
        assert server.get("/api/clients").json == []
        assert server.request("DELETE", "/healthz").status == 405


def test_a_jpeg_snapshot_can_be_made_smaller_but_not_larger(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, (90, 160, 3)) as writer, served(create_app([segment_name])) as server:
        writer.write_frame(np.full((90, 160, 3), 99, np.uint8))
        assert server.get(f"/snapshot/{segment_name}.jpg").image.shape == (90, 160, 3)
        assert server.get(f"/snapshot/{segment_name}.jpg?width=64").image.shape == (36, 64, 3)
        assert server.get(f"/snapshot/{segment_name}.jpg?width=640").image.shape == (90, 160, 3)


@pytest.mark.parametrize(
    ("pixel_format", "shape", "dtype"),
    [
        ("GRAY8", (48, 64), "uint8"),
        ("GRAY16", (48, 64), "uint16"),
        ("BGRA32", (48, 64, 4), "uint8"),
        ("RGB24", (48, 64, 3), "uint8"),
        ("YUYV", (48, 64, 2), "uint8"),
        ("UYVY", (48, 64, 2), "uint8"),
        ("NV12", (72, 64), "uint8"),
        ("I420", (72, 64), "uint8"),
        ("P010", (72, 64), "uint16"),
    ],
)
def test_frames_of_every_kind_can_be_looked_at(
    segment_name: str, pixel_format: str, shape: tuple[int, ...], dtype: str
) -> None:
    with SharedMemoryFrameWriter(segment_name, shape, dtype=dtype, pixel_format=pixel_format) as writer:
        writer.write_frame(picture(1, shape, dtype))
        with served(create_app([segment_name])) as server:
            assert server.get(f"/snapshot/{segment_name}.jpg").image.shape[:2] == (48, 64)
            assert server.get(f"/snapshot/{segment_name}.jpg?width=32").image.shape[:2] == (24, 32)


def test_a_frame_that_cannot_be_a_picture_is_reported_as_such(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE, dtype="float32", pixel_format="RAW") as writer:
        writer.write_frame(picture(1, SHAPE, "float32"))
        with served(create_app([segment_name])) as server:
            for path in (f"/snapshot/{segment_name}.jpg", f"/snapshot/{segment_name}.jpg?width=16",
                         f"/stream/{segment_name}.mjpg"):  # fmt: skip
                answer = server.get(path)
                assert answer.status == 415
                assert "RAW" in answer.json["detail"]


def test_a_snapshot_of_a_segment_without_frames_says_so(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    with served(create_app([segment_name, "missing-one"])) as server:
        details = {
            segment_name: f"{segment_name} has no frame: it is live",
            "missing-one": "there is no segment missing-one now",
        }
        for name, detail in details.items():
            answer = server.get(f"/snapshot/{name}.jpg")
            assert (answer.status, answer.json["detail"]) == (503, detail)


# Names and parameters.


def test_names_may_have_every_character_that_is_allowed(segment_name: str) -> None:
    names = [segment_name + ending for ending in ("", ".mjpg", ".jpg", "...", "-_.-", ".png.jpg")]
    with served(create_app(names)) as server, contextlib.ExitStack() as stack:
        for name in names:
            writer = stack.enter_context(SharedMemoryFrameWriter(name, SHAPE))
            writer.write_frame(picture(1))
            assert server.get(f"/snapshot/{name}.jpg").status == 200
            assert server.get(f"/api/segments/{name}").json["name"] == name
        wait_until(lambda: server.get("/readyz").status == 200)
        assert all(server.get(f"/health/{name}").status == 200 for name in names)


def test_a_segment_may_be_a_file_with_any_odd_path(tmp_path: Path) -> None:
    name = str(tmp_path / 'täble 1 "#?%&<b>.seg')
    with SharedMemoryFrameWriter(name, SHAPE) as writer, served(create_app([name])) as server:
        writer.write_frame(picture(1))
        quoted = quote(name, safe="")
        assert server.get(f"/snapshot/{quoted}.png").status == 200
        assert server.get(f"/health/{quoted}").json["name"] == name
        assert server.get("/readyz").status == 200
        found = {
            sample.labels["name"]
            for family in text_string_to_metric_families(server.get("/metrics").body.decode())
            for sample in family.samples
            if family.name == "billiards_shm_up"
        }
        assert found == {name}


@pytest.mark.parametrize("watched", [None, ["something"]], ids=["every", "named"])
def test_no_name_leads_anywhere_but_to_watched_segments(
    watched: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billiards_shm.serve.state.REFRESH_INTERVAL_S", 0.01)  # it looks twice for each
    with served(create_app(watched)) as server:
        for path in ("/snapshot/{}.jpg", "/stream/{}.mjpg", "/health/{}", "/api/segments/{}", "/static/{}"):
            for name in (
                "..%2f..%2fetc%2fpasswd", "../../etc/passwd", "%2fetc%2fpasswd", "/etc/passwd", "a%00b", "%ff%fe",
                "x" * 5000, "%0a", "%00",
            ):  # fmt: skip
                assert server.get(path.format(name)).status in (404, 422), (path, name)


WRONG_PARAMETERS = {
    "fps=0": "greater than 0", "fps=-1": "greater than 0", "fps=nan": "finite", "fps=inf": "finite", "fps=1000": "240",
    "fps=fast": "number", "quality=0": "1", "quality=101": "95", "quality=x": "integer", "width=0": "16",
    "width=100000": "7680", "width=1e3": "integer", "width=": "integer",
}  # fmt: skip


def test_a_wrong_parameter_is_answered_with_422_and_the_reason(
    segment_name: str, writer: SharedMemoryFrameWriter
) -> None:
    writer.write_frame(picture(1))
    with served(create_app([segment_name])) as server:
        for query, about in WRONG_PARAMETERS.items():
            answer = server.get(f"/stream/{segment_name}.mjpg?{query}")
            assert answer.status == 422
            [problem] = answer.json["detail"]
            assert problem["loc"] == ["query", query.partition("=")[0]]
            assert about in problem["msg"]


def test_wrong_parameters_of_other_requests_are_422_too(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    writer.write_frame(picture(1))
    with served(create_app([segment_name])) as server:
        for path in ("/api/events?interval=0", f"/snapshot/{segment_name}.jpg?quality=0",
                     f"/snapshot/{segment_name}.png?width=16", f"/snapshot/{segment_name}.gif"):  # fmt: skip
            assert server.get(path).status == 422, path


# The page.


def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing_that_its_policy_forbids() -> None:
    directory = files("billiards_shm.serve") / "page"
    for file in directory.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text.replace("://`", ""), f"{file.name} leads elsewhere"
        if file.name.endswith(".html"):
            assert not re.search(r"<script(?![^>]*\bsrc=)", text), "no script in the page"
            assert not re.search(r"<style|\sstyle=|\son\w+=", text), "no style and no handler in the page"


def test_the_page_is_served_and_cached_while_it_is_unchanged() -> None:
    with served(create_app([])) as server:
        page = server.get("/")
        assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        for link in re.findall(r'(?:src|href)="(static/[^"]+)"', page.body.decode()):
            found = server.get(f"/{link}")
            assert found.status == 200
            assert server.get(f"/{link}", If_None_Match=found.headers["etag"]).status == 304


def test_a_statistic_is_in_metrics_and_json_and_if_prominent_on_the_page(
    segment_name: str, writer: SharedMemoryFrameWriter
) -> None:
    values = {name: 1000 + number for number, name in enumerate(STATISTICS)}
    with opened(path_of(segment_name)) as segment:
        for name, value in values.items():
            segment.statistics[name] = value
    with served(create_app([segment_name])) as server:
        found = samples(server.get("/metrics").body.decode())
        described = names_at(server)[segment_name]
        page = server.get("/").body.decode()
    for name, row in STATISTICS.items():
        metric = f"billiards_shm_{row.metric}{'_total' if row.kind == 'counter' else ''}"
        assert described[name] == values[name], name
        assert found[metric, segment_name] == values[name] / (1e6 if row.unit == "us" else 1), name
        assert (f'data-statistic="{name}"' in page) == (row.prominent or row.of_copies), name


def test_everything_public_is_in_the_openapi_description() -> None:
    with served(create_app([])) as server:
        description = server.get("/openapi.json").json
    assert set(description["paths"]) == {
        "/healthz", "/readyz", "/health/{name}", "/metrics", "/api/segments", "/api/segments/{name}", "/api/events",
        "/api/clients", "/stream/{name}.mjpg", "/snapshot/{name}.{extension}", "/replay/{name}.mp4",
        "/api/record/{name}",
    }  # fmt: skip
    json.dumps(description)
    assert all("summary" in method for path in description["paths"].values() for method in path.values())
    for path, found in description["paths"].items():
        (method,) = found
        assert method == ("post" if path.startswith("/api/record/") else "get")
        answers = set(found[method]["responses"])
        assert "{name}" not in path or "404" in answers, path
        assert not path.startswith(("/snapshot", "/stream", "/health/", "/readyz")) or "503" in answers, path


# Metrics.


def samples(text: str) -> dict[tuple[str, str], float]:
    """Every sample by its name and the segment's; the parser is strict about types, names and values."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        assert family.type != "unknown", family.name
        for sample in family.samples:
            if "le" not in sample.labels:
                found[sample.name, sample.labels.get("name", "")] = sample.value
    return found


FIGURES = [
    "frames_captured_total", "frames_published_total", "frames_dropped_total", "reconnects_total", "stalls_total",
    "loops_total", "fps", "shared_memory_bytes", "readers", "up", "healthy", "clients",
    "client_frames_total", "client_frames_skipped_total", "client_bytes_total", "encode_seconds_count",
    "write_latency_seconds_count", "write_latency_seconds_sum",
]  # fmt: skip


def test_metrics_are_zeros_before_there_is_a_segment_and_true_afterwards(segment_name: str) -> None:
    with served(create_app([segment_name])) as server:
        before = samples(server.get("/metrics").body.decode())
        for figure in FIGURES:
            assert before[f"billiards_shm_{figure}", segment_name] == 0, figure
        assert ("billiards_shm_last_frame_age_seconds", segment_name) not in before, "0 would be the newest of all"
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            for number in range(3):
                writer.write_frame(picture(number))
            writer.update_source(state="streaming", backend="V4L2", captured=5, reconnects=1, stalls=2, loops=4)
            assert server.get(f"/snapshot/{segment_name}.jpg").status == 200
            wait_until(lambda: "V4L2" in server.get("/metrics").body.decode())
            text = server.get("/metrics").body.decode()
        found = samples(text)
        for figure, value in {
            "frames_captured_total": 5, "frames_published_total": 3, "frames_dropped_total": 0, "reconnects_total": 1,
            "stalls_total": 2, "loops_total": 4, "up": 1, "healthy": 1, "write_latency_seconds_count": 3,
        }.items():  # fmt: skip
            assert found[f"billiards_shm_{figure}", segment_name] == value, figure
        assert found["billiards_shm_last_frame_age_seconds", segment_name] > 0
        assert 'backend="V4L2",format="BGR24"' in text
        assert found["billiards_shm_shared_memory_bytes", segment_name] > 0


def test_the_histogram_of_write_latencies_rises_to_its_count(
    segment_name: str, writer: SharedMemoryFrameWriter
) -> None:
    for number in range(20):
        writer.write_frame(picture(number))
    with served(create_app([segment_name])) as server:
        text = server.get("/metrics").body.decode()
    [family] = [
        one for one in text_string_to_metric_families(text) if one.name == "billiards_shm_write_latency_seconds"
    ]
    buckets = [(float(one.labels["le"]), one.value) for one in family.samples if one.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == (float("inf"), 20)
    assert [value for _, value in buckets] == sorted(value for _, value in buckets)


def test_metrics_are_sent_as_openmetrics_on_request(segment_name: str) -> None:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse

    with served(create_app([segment_name])) as server:
        answer = server.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert {"billiards_shm_frames_captured", "billiards_shm_segment"} <= {
        one.name for one in parse(answer.body.decode())
    }


def test_metrics_are_made_once_for_all_simultaneous_requests(
    segment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    waiting = threading.Event()

    def make(self: ServerMetrics, accept: str) -> tuple[bytes, str]:
        made.append(accept)
        assert waiting.wait(60)
        return b"# made", "text/plain"

    monkeypatch.setattr(ServerMetrics, "_render", make)
    with served(create_app([segment_name])) as server, ThreadPoolExecutor(20) as clients:
        gone = http.client.HTTPConnection(server.host, server.port, timeout=30)
        gone.request("GET", "/metrics")
        wait_until(lambda: made)
        asked = [clients.submit(server.get, "/metrics") for _ in range(20)]
        gone.close()
        assert server.get("/healthz").status == 200, "others are answered in the meantime"
        waiting.set()
        assert {one.result().body for one in asked} == {b"# made"}
        assert len(made) == 1
        wait_until(lambda: server.get("/metrics").status == 200 and len(made) == 2)


def test_what_is_known_of_a_segment_is_dropped_when_it_is_no_longer_reported_and_has_no_clients(
    segment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "REFRESH_INTERVAL_S", 0.0)

    async def come_and_go() -> None:
        state = AppState(None, 4, 3.0, None)

        def metrics() -> str:
            return state.metrics._render("")[0].decode()

        with SharedMemoryFrameWriter(segment_name, SHAPE), state.clients.join("events", "", "") as everything:
            everything.bytes_sent = 5
            feed = await state.feed(segment_name)
            await state.describe_segments()
            with state.clients.join("mjpeg", segment_name, "") as client:
                client.frames = 7
            state.metrics.encoded(segment_name, 0.001)
        sent = f'billiards_shm_client_frames_total{{kind="mjpeg",name="{segment_name}"}} 7.0'
        assert sent in metrics(), "while it is remembered"
        monkeypatch.setattr(health, "REMEMBERED_S", 1e-9)
        with state.clients.join("mjpeg", segment_name, ""):
            assert segment_name not in state.monitor.health()
            text = metrics()
            assert sent in text, "while it has a client"
            assert f'billiards_shm_encode_seconds_count{{name="{segment_name}"}} 1.0' in text
            assert state._feeds[segment_name] is feed
        text = metrics()
        assert segment_name not in text
        assert 'billiards_shm_client_bytes_total{kind="events",name=""} 5.0' in text
        assert segment_name not in state._feeds
        assert segment_name not in state._rings._known

    asyncio.run(come_and_go())


@pytest.mark.parametrize("version", ["", "0.0.1", "a", "9" * 5000, "1.0.0; escaping=x", "1.0.0; escaping=allow-utf-8"])
@pytest.mark.parametrize("kind", ["text/plain", "application/openmetrics-text"])
def test_metrics_are_sent_in_a_known_format_whatever_is_requested(kind: str, version: str) -> None:
    with served(create_app([])) as server:
        answer = server.get("/metrics", Accept=f"{kind};version={version}")
    assert answer.status == 200
    assert answer.headers["content-type"].partition(";")[0] == kind
    assert answer.headers["content-type"].partition("version=")[2].partition(";")[0] in ("0.0.4", "1.0.0")


# In other applications.


def test_the_application_works_under_a_prefix_in_another_one(
    segment_name: str, writer: SharedMemoryFrameWriter
) -> None:
    from fastapi import FastAPI

    parent = FastAPI()
    parent.mount("/video", create_app([segment_name], token="secret"))
    writer.write_frame(picture(1))
    with served(parent) as server:
        assert server.get("/video/healthz").status == 200
        assert server.get("/healthz").status == 404
        page = server.get("/video/")
        assert (page.status, page.headers["location"]) == (303, "login")
        assert server.get("/video", Host="x").status in (303, 307)
        right = server.request("POST", "/video/login", b"token=secret")
        cookie = right.headers["set-cookie"].partition(";")[0]
        text = server.get("/video/", Cookie=cookie).body.decode()
        for link in re.findall(r'(?:src|href)="([^"]+)"', text):
            if not link.startswith(("#", "data:")):
                assert not link.startswith("/"), "a link that leaves the prefix"
                assert server.get(f"/video/{link}", Cookie=cookie).status in (200, 503)
        with connect(server.url(f"/video/ws/{segment_name}", "ws"), additional_headers={"Cookie": cookie}) as socket:
            assert isinstance(socket.recv(10), bytes)
        connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
        connection.request("GET", f"/video/stream/{segment_name}.mjpg", headers={"Cookie": cookie})
        assert b"image/jpeg" in connection.getresponse().read(200)
        connection.close()

"""Frames of one host on others: what is transferred, how exactly, and how fresh."""

import itertools
import json
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import cv2
import documentation
import numpy as np
import pytest
from hosts import Network
from mirrored import SCRIPT, Camera, Copy, at, receive, send
from raw_frames import as_raw
from segments_under_test import wait_until

from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter, inspect_segment
from billiards_shm.sources.demo.table import DemoTable

pytestmark = pytest.mark.slow  # as root

OFFSET_S = 100_000


def commands_of_the_page() -> tuple[str, str, str, str]:
    """The page's commands for the two hosts, the segment, and the name of the first host."""
    send_, receive_ = [
        block.code.strip() for block in documentation.in_language("sh") if block.page == "docs/mirror.md"
    ][:2]
    found = re.fullmatch(r"billiards-shm mirror receive (\S+)@(\S+)", receive_)
    assert found is not None, receive_
    return send_, receive_, found[1], found[2]


def test_the_two_commands_of_the_documentation_work_on_two_hosts() -> None:
    send_, receive_, name, host = commands_of_the_page()
    path = f"{Path(SCRIPT).parent}{os.pathsep}{os.environ['PATH']}"
    with Network() as network:
        here, there = network.host(host), network.host("vision")
        with Camera(here, name) as camera:
            for command, where in ((send_, here), (receive_, there)):
                where.start("sh", "-c", f"exec {command}", env=os.environ | {"PATH": path})
            with Copy(there, name) as copy:
                for _ in range(10):
                    frame, metadata = copy.next()
                    assert camera.shows(frame, metadata.source_sequence, tolerance=5)
                    assert metadata.clock == "remote"


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(cv2.PSNR(np.ascontiguousarray(one), np.ascontiguousarray(other)))


def test_raw_and_mjpg_arrive_exactly_and_lossy_codecs_come_close() -> None:
    table = DemoTable(640, 480, 30)
    table.grab()
    picture = table.retrieve(None)
    jpeg = as_raw(picture, "MJPG")
    with Network() as network:
        here, there = network.host("table"), network.host("vision")
        with (
            SharedMemoryFrameWriter(at(here, "bgr"), picture.shape) as bgr,
            SharedMemoryFrameWriter(at(here, "mjpg"), jpeg.shape, pixel_format="MJPG") as mjpg,
        ):
            bgr.write_frame(picture)
            mjpg.write_frame(jpeg)
            send(here)
            for name, codec in (("bgr", "raw"), ("mjpg", "mjpg"), ("bgr", "jpeg"), ("bgr", "h264")):
                receive(there, f"{name}@table", "--as", codec, "--codec", codec)
            found = {}
            for codec in ("raw", "mjpg", "jpeg", "h264"):
                with Copy(there, codec) as copy:
                    frame, metadata = copy.next(copy=True)
                    assert metadata.source_sequence == 1
                    assert (metadata.pixel_format == "MJPG") == (codec == "mjpg")
                    found[codec] = frame
    assert np.array_equal(found["raw"], picture)
    assert np.array_equal(found["mjpg"], jpeg)
    ratios = {codec: psnr(found[codec], picture) for codec in ("jpeg", "h264")}
    print(f"PSNR: {ratios}")
    assert min(ratios.values()) > 30


def test_capture_times_are_right_within_the_stated_error_although_the_clocks_differ() -> None:
    with Network() as network:
        here, there = network.host("table", clock_offset_s=OFFSET_S), network.host("vision")
        here.start(SCRIPT, "capture", "demo", "--name", "table_1", "--resolution", "320x240")
        send(here, "table_1")
        receive(there, "table_1@table")
        origin = SharedMemoryFrameReader(at(here, "table_1"))
        with Copy(there) as copy, origin:
            origin.attach(timeout=40)
            exact, told = {}, {}
            stated = 0.0
            while len(exact.keys() & told.keys()) < 20:
                _, metadata = origin.read_frame(timeout=1.0)
                if metadata is not None:
                    exact[metadata.sequence] = metadata.capture_time_ns - OFFSET_S * 10**9
                _, metadata = copy.read_frame()
                if metadata is not None:
                    told[metadata.source_sequence] = metadata.capture_time_ns
                    stated = max(stated, inspect_segment(copy.name).link_error_us / 1e3)
            now = time.monotonic_ns()
    both = exact.keys() & told.keys()
    errors = [abs(exact[number] - told[number]) / 1e6 for number in both]
    print(f"errors of {len(both)} frames: at most {max(errors):.3f} ms; stated: {stated:.3f} ms")
    assert stated > 0
    assert max(errors) <= stated + 0.001  # of rounding
    assert max(told.values()) <= now


def test_a_slow_link_carries_fewer_frames_but_not_older_ones() -> None:
    with Network() as network:
        here, there = network.host("table"), network.host("vision")
        here.limit(10)
        with Camera(here, shape=(120, 320, 3)) as camera:  # 115 kB: transferring one takes three frame periods
            send(here)
            receive(there, "table_1@table", "--codec", "raw")
            lags, gaps = [], []
            with Copy(there) as copy:
                before = copy.next()[1].source_sequence
                for _ in range(20):
                    frame, metadata = copy.next()
                    assert camera.shows(frame, metadata.source_sequence)
                    lags.append(camera.writer.sequence - metadata.source_sequence)
                    gaps.append(metadata.source_sequence - before)
                    before = metadata.source_sequence
    print(f"frames between two that came: {gaps}; newer ones when they came: {lags}")
    assert np.median(gaps) > 1
    # None waits for another: it would be older by the time that the other takes.
    assert np.median(lags) < 2 * np.median(gaps)


ROUND_TRIP = """
import socket, sys, time
began = time.monotonic()
socket.socket().connect_ex((sys.argv[1], 9))  # refused
print(time.monotonic() - began)
"""


@pytest.mark.parametrize("options", [(), ("--history", 30)], ids=["newest", "every"])
def test_frames_arrive_exactly_in_order_and_once_over_a_link_with_delay_and_loss(options: tuple[object, ...]) -> None:
    with Network() as network:
        here, there = network.host("table"), network.host("vision")
        here.impair(delay_ms=20, loss_percent=2)
        assert float(there.run(sys.executable, "-c", ROUND_TRIP, here.address)) > 0.04
        with Camera(here, shape=(120, 320, 3)) as camera:
            send(here, "table_1")
            receive(there, "table_1@table", "--codec", "raw", *options)
            numbers = []
            with Copy(there) as copy:
                for _ in range(50):
                    frame, metadata = copy.next()
                    assert camera.shows(frame, metadata.source_sequence)
                    numbers.append(metadata.source_sequence)
    assert all(one < other for one, other in itertools.pairwise(numbers)), numbers


def test_an_intermediate_host_offers_its_copy_and_a_slow_uplink_is_crossed_once() -> None:
    def sent_bytes() -> int:
        (link,) = json.loads(camera_host.run("ip", "-json", "-statistics", "link", "show", "eth0"))
        return int(link["stats64"]["tx"]["bytes"])

    with Network() as network:
        camera_host, between, *others = (network.host(name) for name in ("table", "between", "vision", "archive"))
        camera_host.limit(20)
        for host in (camera_host, *others):  # each reaches only the one in between
            host.isolate()
        with Camera(camera_host, shape=(120, 320, 3)) as camera:
            send(camera_host)
            receive(between, "table_1@table", "--codec", "raw")
            send(between, "table_1")
            for other in others:
                receive(other, "table_1@between", "--codec", "raw")
            with Copy(between) as passed_on, Copy(others[0]) as one, Copy(others[1]) as other:
                for copy in (one, other):
                    copy.next()
                before, first = sent_bytes(), passed_on.next()[1].sequence
                for _ in range(20):
                    for copy in (one, other):
                        frame, metadata = copy.next()
                        assert any(np.array_equal(frame, picture) for picture in camera.pictures)
                        assert metadata.clock == "remote"
                sent, last = sent_bytes() - before, passed_on.next()[1].sequence
    crossings = sent / ((last - first) * camera.pictures[0].nbytes)
    print(f"{last - first} frames crossed the uplink {crossings:.2f} times")
    assert crossings < 1.5


def test_four_cameras_of_one_host_are_seen_on_two_others() -> None:
    names = [f"table_{number}" for number in range(1, 5)]
    with Network() as network:
        here, *others = (network.host(name) for name in ("hall", "vision", "archive"))
        with ExitStack() as stack:
            cameras = [stack.enter_context(Camera(here, name, first=number)) for number, name in enumerate(names)]
            send(here)
            for other in others:
                for name in names:
                    receive(other, name, "--codec", "raw")
            for other in others:
                for name, camera in zip(names, cameras, strict=True):
                    with Copy(other, name) as copy:
                        for _ in range(3):
                            frame, metadata = copy.next()
                            assert camera.shows(frame, metadata.source_sequence)


def test_two_hosts_with_one_name_are_distinguished_by_their_ids() -> None:
    with Network() as network:
        twins = [network.host("twin") for _ in range(2)]
        there = network.host("vision")
        with Camera(twins[0]), Camera(twins[1], shape=(24, 32, 3)):
            for twin in twins:
                send(twin)

            def offered() -> list[dict[str, object]]:
                found = [json.loads(line) for line in there.run(SCRIPT, "list", "--network", "--json").splitlines()]
                return found if len(found) == len(twins) else []

            listed = wait_until(offered, "both offers")
            assert {one["host"] for one in listed} == {"twin"}
            ids = {one["id"]: one["width"] for one in listed}
            assert len(ids) == len(twins), listed

            refused = subprocess.run(
                there.command(SCRIPT, "mirror", "receive", "table_1@twin"), capture_output=True, text=True, check=False
            )
            assert refused.returncode == 2, refused
            assert all(str(one) in refused.stderr for one in ids), refused.stderr

            for id_, width in ids.items():
                receive(there, f"table_1@{id_}", "--as", str(id_))
                with Copy(there, str(id_)) as copy:
                    assert copy.next()[1].width == width

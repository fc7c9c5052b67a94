"""`mirror send`, `mirror receive` and `run`, as users start them."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import call, end_started, run, start
from mirrors import network
from segments_under_test import SHAPE, new_frame, picture, sees, wait_until

from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter, inspect_segment, remove_stale_segments


@pytest.fixture
def copy(segment_name: str) -> Iterator[str]:
    name = f"{segment_name}.copy"
    yield name
    end_started()
    remove_stale_segments([name])


@pytest.fixture
def offered(segment_name: str) -> Iterator[SharedMemoryFrameWriter]:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.write_frame(picture(1))
        yield writer


def options(folder: Path, role: str) -> list[str]:
    return ["--zenoh-config", str(network(folder, role).zenoh_config)]


@pytest.mark.slow
def test_a_segment_is_sent_received_and_shown(offered: SharedMemoryFrameWriter, copy: str, tmp_path: Path) -> None:
    sender = start("mirror", "send", offered.name, "--host-name", "attic", *options(tmp_path, "listen"))
    connect = options(tmp_path, "connect")
    receiver = start("mirror", "receive", f"{offered.name}@attic", "--as", copy, "--codec", "raw", *connect)
    with SharedMemoryFrameReader(copy) as reader:
        frame, metadata = new_frame(reader)
        assert sees(frame, 1)
        assert metadata.source_sequence == 1
        (line,) = call("list", "--network", "--json", *connect).stdout.splitlines()
        found = json.loads(line)
        assert found["name"] == offered.name
        assert found["host"] == "attic"
        assert (found["width"], found["height"], found["pixel_format"]) == (SHAPE[1], SHAPE[0], "BGR24")
        assert "attic" in call("list", "--network", *connect).stdout
        form = ("--width", 16, "--fps", 5, "--codec", "JPEG")
        small = start("mirror", "receive", offered.name, "--as", f"{copy}.small", *form, *connect)
        with SharedMemoryFrameReader(f"{copy}.small") as smaller:
            assert new_frame(smaller)[0].shape == (12, 16, 3)
        small.send_signal(signal.SIGTERM)
        assert small.wait() == 0
        wait_until(lambda: inspect_segment(copy).link_bytes)
        shown = call("inspect", copy).stdout
        assert "Zenoh raw streaming" in shown
        assert "clock error" in shown
        assert "clock error" not in call("inspect", offered.name).stdout
    for process in (receiver, sender):
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0, process.stderr


@pytest.mark.slow
def test_a_name_that_has_a_writer_here_is_refused_and_the_writer_named(
    offered: SharedMemoryFrameWriter, tmp_path: Path
) -> None:
    done = run("mirror", "receive", offered.name, *options(tmp_path, "connect"))
    assert done.returncode == 4
    assert f"'{offered.name}' belongs to a living writer (process {os.getpid()})" in done.stderr


@pytest.mark.slow
def test_a_segment_that_is_not_offered_is_a_source_that_never_opened(copy: str, tmp_path: Path) -> None:
    done = run("mirror", "receive", "nothing", "--as", copy, "--open-timeout", "0.5", *options(tmp_path, "connect"))
    assert done.returncode == 3
    assert "cannot open nothing: not found: no host offers it" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--zenoh-config", "/nowhere.json5"], "mirror.zenoh_config: there is no file /nowhere.json5"),
        (["--connect", "what/ever"], "Zenoh could not be started: "),
        (["--connect", "192.168.1.5:7447"], "allowed: endpoints (`PROTOCOL/ADDRESS`)"),
        (["--fps", "0"], "mirror.receive[0].fps is 0; allowed: a number from 0.01 to 1000 or null"),
        (["--codec", "png"], "'png' is not one of"),
    ],
)
def test_an_invalid_option_is_one_line_that_names_it(arguments: list[str], says: str, copy: str) -> None:
    done = run("mirror", "receive", "table_1", "--as", copy, *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert ".rs:" not in done.stderr, "no place in Zenoh's source"


def test_an_invalid_name_is_refused(copy: str) -> None:
    for arguments in (("send", "/table_1"), ("receive", "/table_1"), ("receive", "table_1", "--as", "/table_1")):
        done = run("mirror", *arguments)
        assert done.returncode == 2
        assert "/table_1" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "configured"),
    [
        (("mirror", "send"), {}),
        (("mirror", "receive", "table_1"), {}),
        (("list", "--network"), {}),
        (("run",), {"receive": [{"origin": "table_1@attic"}]}),
        (("run",), {"send": ["table_1"]}),
    ],
)
def test_without_zenoh_there_is_one_line_that_says_how_to_install_it(
    arguments: tuple[str, ...], configured: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zenoh", None)
    for name in [name for name in sys.modules if name.startswith("billiards_shm.mirror.")]:
        monkeypatch.delitem(sys.modules, name)
    config = tmp_path / "config.json"
    demo = [{"name": "table_1", "camera": {"device_id": "demo"}}]
    config.write_text(json.dumps({"mirror": configured, "video": {"sources": demo if "send" in configured else []}}))
    done = call(*arguments, "--config", config)
    assert done.returncode == 1
    assert done.stderr == (
        "billiards-shm: error: this command needs Eclipse Zenoh: pip install 'billiards-shm[mirror]'\n"
    )


@pytest.mark.slow
def test_a_process_of_run_that_lacks_a_package_is_not_started_again(copy: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'receive' in sys.orig_argv:\n    sys.modules['zenoh'] = None\n"
    )
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"mirror": {"receive": [{"origin": "table_1@attic", "name": copy}]}}))
    done = run("run", "--config", config, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert f"{copy}: failed for good: this command needs Eclipse Zenoh: pip install " in done.stderr
    assert done.stderr.count("started process") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_run_offers_and_copies_what_the_configuration_says(
    offered: SharedMemoryFrameWriter, copy: str, tmp_path: Path
) -> None:
    files = {}
    for role, more in (
        ("listen", {"send": [offered.name], "host_name": "attic"}),
        ("connect", {"receive": [{"origin": f"{offered.name}@attic", "name": copy, "codec": "raw"}]}),
    ):
        files[role] = tmp_path / f"{role}.config.json"
        mirror = {"zenoh_config": network(tmp_path, role).zenoh_config, **more}
        files[role].write_text(json.dumps({"mirror": mirror, "logging": {"level": "DEBUG"}}))
    demo = [{"name": f"{copy}.demo", "camera": {"device_id": "demo", "resolution": [64, 48]}}]
    there = start("run", "--config", files["listen"], "--sources", json.dumps(demo))
    here = start("run", "--config", files["connect"])
    with SharedMemoryFrameReader(copy) as reader:
        assert sees(new_frame(reader)[0], 1)
        first = inspect_segment(copy).writer_pid
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: inspect_segment(copy).writer_pid != first, "a new process")
        offered.write_frame(picture(2))
        wait_until(lambda: sees(new_frame(reader)[0], 2), "its frame")
    for process in (here, there):
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0

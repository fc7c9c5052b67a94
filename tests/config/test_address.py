"""What kind a source is: by what exists under its name, or else by how it is written."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from billiards_shm import ConfigurationError
from billiards_shm.config.address import SourceAddress, SourceKind
from billiards_shm.config.load import load_settings

NAMES = [
    "0",
    "123",
    "007",
    "match%20day.mp4",
    "rec%d.mp4",
    "x_%04d.mp4",
    "a:b.mp4",
    "http:x.mp4",
    "file:x.mp4",
    "a ! b.mp4",
    "v4l2src ! appsink",
    "a#b.mp4",
    "a?b=c.mp4",
    "a*b.mp4",
    "[a].mp4",
    "-x.mp4",
    "--name",
    "~",
    " leading.mp4",
    "trailing .mp4 ",
    "new\nline.mp4",
    "tisch_ü.mp4",
    os.fsdecode(b"l\xe9.mp4"),
    "no suffix",
    ".hidden",
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("device_id", "kind", "place"),
    [
        (0, SourceKind.CAMERA, 0),
        ("2", SourceKind.CAMERA, 2),
        ("007", SourceKind.CAMERA, 7),
        ("9" * 20, SourceKind.FILE, "9" * 20),
        ("٣", SourceKind.FILE, "٣"),
        ("/dev/video63", SourceKind.DEVICE, "/dev/video63"),
        ("/dev/v4l/by-id/usb-Acme-video-index0", SourceKind.DEVICE, "/dev/v4l/by-id/usb-Acme-video-index0"),
        ("/dev/null", SourceKind.DEVICE, "/dev/null"),
        ("/dev/fd/999", SourceKind.FILE, "/dev/fd/999"),
        ("/dev/shm/clip.mp4", SourceKind.FILE, "/dev/shm/clip.mp4"),
        ("clip.mp4", SourceKind.FILE, "clip.mp4"),
        ("C:\\clips\\a.mp4", SourceKind.FILE, "C:\\clips\\a.mp4"),
        ("frames/%04d.png", SourceKind.IMAGES, "frames/%04d.png"),
        ("cam%d/frame.png", SourceKind.IMAGES, "cam%d/frame.png"),
        ("match%20day.mp4", SourceKind.FILE, "match%20day.mp4"),
        ("100%%.mp4", SourceKind.FILE, "100%%.mp4"),
        ("file:///clips/a%20b.mp4", SourceKind.FILE, "/clips/a b.mp4"),
        ("FILE:///clips/a.mp4", SourceKind.FILE, "/clips/a.mp4"),
        ("file://localhost/clips/a.mp4", SourceKind.FILE, "/clips/a.mp4"),
        ("file:/clips/a.mp4", SourceKind.FILE, "/clips/a.mp4"),
        ("file:clips/a.mp4", SourceKind.FILE, "clips/a.mp4"),
        ("file:0", SourceKind.FILE, "0"),
        ("file://server/clips/a.mp4", SourceKind.FILE, "//server/clips/a.mp4"),
        ("file:///l%e9.mp4", SourceKind.FILE, "/l\udce9.mp4"),
        ("file:///frames/%04d.png", SourceKind.IMAGES, "/frames/%04d.png"),
        ("file:///frames/%2504d.png", SourceKind.IMAGES, "/frames/%04d.png"),
        ("file:///dev/video63", SourceKind.DEVICE, "/dev/video63"),
        ("rtsp://host/%2fstream", SourceKind.URL, "rtsp://host/%2fstream"),
        ("RTSP://Host/Stream", SourceKind.URL, "rtsp://Host/Stream"),
        ("Http://host/x_%04d.png", SourceKind.URL, "http://host/x_%04d.png"),
        ("v4l2src ! videoconvert ! appsink", SourceKind.PIPELINE, "v4l2src ! videoconvert ! appsink"),
        ("demo", SourceKind.DEMO, "demo"),
        ("./demo", SourceKind.FILE, "./demo"),
        ("a\0b.mp4", SourceKind.FILE, "a\0b.mp4"),
    ],
)
def test_a_missing_source_is_classified_by_how_it_is_written(
    here: Path, device_id: int | str, kind: SourceKind, place: int | str
) -> None:
    assert SourceAddress.parse(device_id) == SourceAddress(kind, place)


# What exists is a file.


@pytest.mark.parametrize("name", NAMES)
def test_an_existing_file_is_a_file_whatever_its_name(here: Path, name: str) -> None:
    Path(name).touch()
    assert SourceAddress.parse(name) == SourceAddress(SourceKind.FILE, name)
    assert SourceAddress.parse(str(here / name)) == SourceAddress(SourceKind.FILE, str(here / name))


@hypothesis_settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=30).filter(lambda name: not {0, ord("/")} & {*name} and name.strip(b".")))
def test_any_valid_file_name_means_that_file(here: Path, name: bytes) -> None:
    path = Path(os.fsdecode(name))
    path.touch()
    try:
        address = SourceAddress.parse(str(path))
        assert address.kind in ((SourceKind.DEMO,) if name == b"demo" else (SourceKind.FILE, SourceKind.IMAGES))
        assert address.place == str(path)
        str(address).encode()
    finally:
        path.unlink()


@pytest.mark.parametrize("folder", ["rec%d", "rtsp:", "a ! b", "0"])
def test_folders_may_be_called_anything_too(here: Path, folder: str) -> None:
    Path(folder).mkdir()
    Path(folder, "x.mp4").touch()
    assert SourceAddress.parse(f"{folder}/x.mp4") == SourceAddress(SourceKind.FILE, f"{folder}/x.mp4")
    assert SourceAddress.parse(f"{folder}//x.mp4").kind is SourceKind.FILE


def test_a_folder_is_not_a_file_and_a_camera_stays_a_camera_next_to_it(here: Path) -> None:
    Path("0").mkdir()
    assert SourceAddress.parse("0") == SourceAddress(SourceKind.CAMERA, 0)
    Path("1").touch()
    assert SourceAddress.parse(1) == SourceAddress(SourceKind.CAMERA, 1)
    Path("demo").touch()
    assert SourceAddress.parse("demo").kind is SourceKind.DEMO


@pytest.mark.parametrize("name", ["x.png", "x.JPG", "x%d.jpeg", "match%20day.tiff", "7.bmp"])
def test_one_image_is_of_the_kind_images(here: Path, name: str) -> None:
    Path(name).touch()
    assert SourceAddress.parse(name) == SourceAddress(SourceKind.IMAGES, name)


@pytest.mark.parametrize("name", ["a b.mp4", "a%20b.mp4", "100%.mp4", "a?b.mp4", "a#b.mp4", "x_%04d.mp4"])
def test_a_url_of_a_file_finds_it_with_and_without_percent_signs(here: Path, name: str) -> None:
    Path(name).touch()
    assert SourceAddress.parse(f"file://{here}/{name}") == SourceAddress(SourceKind.FILE, f"{here}/{name}")
    encoded = name.replace("%", "%25").replace(" ", "%20").replace("?", "%3F").replace("#", "%23")
    assert SourceAddress.parse(f"FILE://{here}/{encoded}") == SourceAddress(SourceKind.FILE, f"{here}/{name}")


def test_a_link_is_what_it_points_to(here: Path) -> None:
    Path("cam").symlink_to("/dev/null")
    assert SourceAddress.parse("cam").kind is SourceKind.DEVICE
    os.mkfifo("fifo")
    Path("x%d.mp4").symlink_to("fifo")
    assert SourceAddress.parse("x%d.mp4").kind is SourceKind.PIPE
    Path("gone%d.png").symlink_to("nowhere")
    assert SourceAddress.parse("gone%d.png").kind is SourceKind.IMAGES


@pytest.fixture
def connected() -> Iterator[dict[str, int]]:
    """Descriptors of all kinds, as a shell or a program may pass them."""
    read, write = os.pipe()
    ours, theirs = socket.socketpair()
    file = os.open(__file__, os.O_RDONLY)
    try:
        yield {"pipe": read, "socket": ours.fileno(), "file": file}
    finally:
        for descriptor in read, write, file:
            os.close(descriptor)
        ours.close()
        theirs.close()


@pytest.mark.parametrize("folder", ["/dev/fd", "/proc/self/fd"])
@pytest.mark.parametrize(
    ("what", "kind"), [("pipe", SourceKind.PIPE), ("socket", SourceKind.PIPE), ("file", SourceKind.FILE)]
)
def test_descriptors_from_a_shell_are_classified_by_what_they_are(
    connected: dict[str, int], folder: str, what: str, kind: SourceKind
) -> None:
    address = SourceAddress.parse(f"{folder}/{connected[what]}")
    assert address.kind is kind
    assert address.descriptor == connected[what]
    assert address.repeats == (kind is SourceKind.FILE)
    assert address.recorded
    assert not address.live


def test_standard_input_is_descriptor_0() -> None:
    assert SourceAddress.parse("/dev/stdin").descriptor == 0
    assert SourceAddress.parse("clip.mp4").descriptor is None
    assert SourceAddress.parse(0).descriptor is None


# The configuration takes the same.


@pytest.mark.parametrize("name", NAMES)
def test_the_configuration_takes_any_name_of_a_file(here: Path, name: str) -> None:
    Path(name).touch()
    Path("c.json").write_text(json.dumps({"vision": {"camera": {"device_id": name}}}))
    by_file, _ = load_settings(Path("c.json"), {}, {})
    by_variable, _ = load_settings(None, {}, {"VIDEO_FILE": name})
    by_argument, _ = load_settings(None, {"vision.camera.device_id": name}, {})
    for settings in by_file, by_variable, by_argument:
        assert settings.vision.camera.device_id == name
        assert SourceAddress.parse(settings.vision.camera.device_id).kind is SourceKind.FILE


def test_a_number_is_a_camera_where_there_is_no_such_file(here: Path) -> None:
    assert load_settings(None, {}, {"VIDEO_FILE": "12"})[0].vision.camera.device_id == 12


@pytest.mark.parametrize("wrong", ["a\0b.mp4", "", -1, True, 1.5, None, ["x"]])
def test_an_impossible_source_is_a_configuration_error(here: Path, wrong: object) -> None:
    Path("wrong.json").write_text(json.dumps({"vision": {"camera": {"device_id": wrong}}}))
    with pytest.raises(ConfigurationError, match=r"vision\.camera\.device_id is .*; allowed: a camera number, "):
        load_settings(Path("wrong.json"), {}, {})


# How a source is shown.


@pytest.mark.parametrize(
    ("device_id", "shown"),
    [
        (0, "camera 0"),
        ("clip.mp4", "clip.mp4"),
        ("tisch_ü.mp4", "tisch_ü.mp4"),
        ("l\udce9.mp4", r"l\xe9.mp4"),
        ("new\nline\x1b[31m.mp4", r"new\nline\x1b[31m.mp4"),
        ("Screenshot\u202f3.png", r"Screenshot\u202f3.png"),
        ("\ud800.mp4", r"\ud800.mp4"),
        ("rtsp://me:secret@host/path", "rtsp://me:***@host/path"),
    ],
)
def test_a_source_is_shown_so_that_any_terminal_and_any_json_can_take_it(
    here: Path, device_id: int | str, shown: str
) -> None:
    assert str(SourceAddress.parse(device_id)) == shown


def test_a_file_called_like_a_camera_is_shown_as_a_file(here: Path) -> None:
    Path("0").touch()
    assert str(SourceAddress.parse("0")) == "./0"


@hypothesis_settings(max_examples=500)
@given(st.text(alphabet=st.characters()))
def test_any_text_is_some_source_and_can_be_shown(text: str) -> None:
    address = SourceAddress.parse(text)
    assert address.kind in SourceKind
    assert address.live + address.recorded + (address.kind is SourceKind.DEMO) == 1
    shown = str(address)
    assert shown.isprintable()
    shown.encode()

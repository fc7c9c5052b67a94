"""The configuration: defaults, layers, and errors that say where they are."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from billiards_shm import ConfigurationError
from billiards_shm.config.load import configuration_keys, fps_key, load_settings

WriteConfig = Callable[[Any], Path]

# The defaults that are promised; the defaults of all keys are in docs/configuration.md.
PROMISED = {
    "video": {
        "shared_memory_name": "billiards_video",
        "shared_memory_attach_timeout_sec": 5.0,
        "slots": 8,
        "process": {"shutdown_timeout": 10.0, "main_loop_sleep": 0.001},
        "sources": [],
    },
    "vision": {
        "camera": {"device_id": 0, "backend": "auto", "resolution": [1920, 1080], "fps": 30, "loop_video": True}
    },
    "logging": {"level": "INFO", "json": False, "stats_interval_sec": 10.0},
}


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty directory and environment, so that no stray config.json or variable counts."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def write_config(tmp_path: Path) -> WriteConfig:
    def write(content: Any) -> Path:
        path = tmp_path / "given.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def problems(config_file: Path | None = None, overrides: Any = None, environ: Any = None) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(config_file, overrides or {}, environ or {})
    return str(caught.value).splitlines()


def dump(settings: Any) -> Any:
    return json.loads(settings.model_dump_json(by_alias=True))


def leaves(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in content.items():
        found.update(leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return found


# Defaults and layers.


def test_defaults_are_as_promised() -> None:
    settings, origin = load_settings(None, {}, {})
    assert leaves(dump(settings)).items() >= leaves(PROMISED).items()
    assert origin == "defaults"


def test_the_promised_file_changes_nothing(write_config: WriteConfig) -> None:
    settings, origin = load_settings(write_config(PROMISED), {}, {})
    assert settings == load_settings(None, {}, {})[0]
    assert origin.endswith("given.json")


def test_every_key_has_a_description_and_says_what_is_allowed() -> None:
    keys = configuration_keys()
    assert {key.path: key.default for key in keys} == leaves(dump(load_settings(None, {}, {})[0]))
    assert all(key.description and key.allowed for key in keys)
    assert len({key.option for key in keys}) == len(keys)


def test_settings_cannot_be_changed() -> None:
    settings, _ = load_settings(None, {}, {})
    with pytest.raises(ValidationError):
        settings.video.slots = 4


def test_the_command_line_wins_over_short_variables_over_long_ones_over_the_file(write_config: WriteConfig) -> None:
    path = write_config({"vision": {"camera": {"device_id": "from_file.mp4"}}})
    long = {"BILLIARDS_SHM__VISION__CAMERA__DEVICE_ID": "from_long.mp4"}
    short = {"VIDEO_FILE": "from_short.mp4"}
    option = {"vision.camera.device_id": "from_option.mp4"}
    layers: list[tuple[str, Callable[[], Any]]] = [
        ("from_file.mp4", lambda: load_settings(path, {}, {})),
        ("from_long.mp4", lambda: load_settings(path, {}, long)),
        ("from_short.mp4", lambda: load_settings(path, {}, long | short)),
        ("from_option.mp4", lambda: load_settings(path, option, long | short)),
    ]
    for expected, load in layers:
        assert load()[0].vision.camera.device_id == expected


def test_layers_complete_each_other(write_config: WriteConfig) -> None:
    path = write_config({"video": {"slots": 5}, "logging": {"level": "DEBUG"}})
    environ = {"BILLIARDS_SHM__VIDEO__PROCESS__SHUTDOWN_TIMEOUT": "2.5", "LOG_LEVEL": "warning"}
    settings, origin = load_settings(path, {"video.shared_memory_name": "other"}, environ)
    assert settings.video.slots == 5
    assert settings.video.process.shutdown_timeout == 2.5
    assert settings.video.shared_memory_name == "other"
    assert settings.logging.level == "WARNING"
    changes = "BILLIARDS_SHM__VIDEO__PROCESS__SHUTDOWN_TIMEOUT, LOG_LEVEL, --name"
    assert origin == f"{path}, changed by {changes}"
    assert load_settings(None, {"video.slots": 4}, {})[1] == "defaults, changed by --slots"


def test_every_key_can_be_set_by_file_variable_and_option(write_config: WriteConfig) -> None:
    defaults = dump(load_settings(None, {}, {})[0])
    samples = {
        "video.shared_memory_name": "other",
        "video.shared_memory_attach_timeout_sec": 1.5,
        "video.slots": 12,
        "video.history": 9,
        "video.mode": "0660",
        "video.group": "video",
        "video.process.shutdown_timeout": 3.0,
        "video.process.main_loop_sleep": 0.01,
        "video.process.hang_timeout": 4.0,
        "video.sources": [{"name": "left", "camera": defaults["vision"]["camera"], "record": None}],
        "vision.camera.device_id": "/dev/video3",
        "vision.camera.backend": "ffmpeg",
        "vision.camera.resolution": [640, 480],
        "vision.camera.fps": 12.5,
        "vision.camera.playback_fps": 0.0,
        "vision.camera.as_recorded": True,
        "vision.camera.loop_video": False,
        "vision.camera.fourcc": "MJPG",
        "vision.camera.buffer_size": 1,
        "vision.camera.exposure": -6.0,
        "vision.camera.auto_exposure": False,
        "vision.camera.gain": 4.0,
        "vision.camera.brightness": 0.5,
        "vision.camera.contrast": 32.0,
        "vision.camera.saturation": 64.0,
        "vision.camera.white_balance": 4600.0,
        "vision.camera.auto_white_balance": True,
        "vision.camera.focus": 0.0,
        "vision.camera.autofocus": False,
        "vision.camera.rotation": 270,
        "vision.camera.flip": "both",
        "vision.camera.crop": [10, 0, 640, 480],
        "vision.camera.keep_damaged": True,
        "vision.camera.convert_rgb": False,
        "vision.camera.publish": "both",
        "vision.camera.hardware_acceleration": "any",
        "vision.camera.open_timeout_sec": 2.5,
        "vision.camera.read_timeout_sec": 1.5,
        "vision.camera.frozen_timeout_sec": 0.0,
        "vision.camera.auto_reconnect": False,
        "vision.camera.reconnect_delay_sec": 1.0,
        "vision.camera.reconnect_max_delay_sec": 60.0,
        "vision.camera.reconnect_attempts": 5,
        "vision.camera.placeholder": True,
        "logging.level": "ERROR",
        "logging.json": True,
        "logging.stats_interval_sec": 1.0,
        "video.process.metrics_port": 9100,
        "video.process.metrics_host": "::1",
        "serve.host": "0.0.0.0",
        "serve.port": 8080,
        "serve.token": "12345",
        "serve.max_clients": 3,
        "serve.max_frame_age": 1.5,
        "serve.allowed_hosts": "camera.local,table",
        "serve.allowed_origins": "https://shop.example,http://10.0.0.5:8123",
        "serve.trusted_proxies": "10.0.0.0/8, ::1",
        "serve.webhook": "https://hooks.example/T0/B1",
        "mirror.host_name": "kitchen",
        "mirror.listen": "tcp/0.0.0.0:7447",
        "mirror.connect": "tcp/10.0.0.5:7447,tcp/10.0.0.6:7447",
        "mirror.zenoh_config": "zenoh.json5",
        "mirror.send": ["table_1", "table_2"],
        "mirror.receive": [
            {
                "origin": "table_1@kitchen",
                "name": "kitchen_1",
                "codec": "raw",
                "width": 640,
                "fps": 5.0,
                "history": 2,
                "open_timeout_sec": 3.0,
            }
        ],
        "record.file": "match.mkv",
        "record.codec": "h264_nvenc",
        "record.crf": 18,
        "record.bitrate": 4000000,
        "record.preset": "veryfast",
        "record.key_interval_sec": 0.5,
        "record.segment": 600.0,
        "record.keep": 86400.0,
        "record.max_size": 20000000000,
        "record.after_gap": "new",
        "record.follow": True,
        "record.ring": 30.0,
        "record.ring_size": 100000000,
        "record.overwrite": True,
    }
    assert samples.keys() == {key.path for key in configuration_keys()}
    for key in configuration_keys():
        sample = samples[key.path]
        text = sample if isinstance(sample, str) else json.dumps(sample)
        nested: Any = sample
        for part in reversed(key.path.split(".")):
            nested = {part: nested}
        for settings, _ in (
            load_settings(write_config(nested), {}, {}),
            load_settings(None, {}, {key.variable: text}),
            load_settings(None, {key.path: text}, {}),
            load_settings(None, {key.path: sample}, {}),
        ):
            implied = {"vision.camera.publish": "native"} if key.path == "vision.camera.convert_rgb" else {}
            assert leaves(dump(settings)) == leaves(defaults) | {key.path: sample} | implied, key.path


def test_the_environment_of_the_process_counts_unless_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLIARDS_SHM__VIDEO__SLOTS", "7")
    assert load_settings(None, {})[0].video.slots == 7
    assert load_settings(None, {}, {})[0].video.slots == 8


# Which file.


def test_a_config_file_in_the_working_directory_is_found() -> None:
    Path("config.json").write_text('{"video": {"slots": 4}}')
    settings, origin = load_settings(None, {}, {})
    assert settings.video.slots == 4
    assert origin == "config.json"


def test_a_named_file_is_read_instead_of_the_one_found(write_config: WriteConfig) -> None:
    Path("config.json").write_text('{"video": {"slots": 4}}')
    assert load_settings(write_config({}), {}, {})[0].video.slots == 8


def test_sections_of_other_programs_are_ignored_in_a_file_that_was_merely_found() -> None:
    Path("config.json").write_text('{"database": {"url": "x"}, "video": {"slots": 4}}')
    settings, origin = load_settings(None, {}, {})
    assert settings.video.slots == 4
    assert "database" in origin


def test_sections_of_other_programs_are_errors_in_a_file_that_was_named(write_config: WriteConfig) -> None:
    path = write_config({"database": {}, "video": {"slots": 4}})
    (line,) = problems(path)
    assert line.startswith(f"{path}: there is no key database (its value is {{}}); ")
    assert line.endswith("; allowed are video, vision, logging, serve, mirror, record")


def test_within_our_sections_a_file_that_was_found_is_read_just_as_strictly() -> None:
    Path("config.json").write_text('{"video": {"slot": 4}}')
    (line,) = problems()
    assert line.startswith("config.json: there is no key video.slot (its value is 4); did you mean video.slots?")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"video": {"slots": 4,}}', "line 1, column 23: not JSON"),
        ('{\n  "video": {\n    slots: 4\n  }\n}', "line 3, column 5: not JSON"),
        ("", "line 1, column 1: not JSON"),
        (
            "[1, 2]",
            "holds [1, 2]; allowed: a JSON object with the sections video, vision, logging, serve, mirror",
        ),
        ('{"video": {"slots": 4, "slots": 5}}', "slots: more than once in one section"),
        ('{"video": {"slots": NaN}}', "NaN is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"video": {"slots": ' + "9" * 5000 + "}}", "9999999999... is a number of 5000 digits; allowed: at most 400"),
        ('{\n // the table\n "video": {"slots": 4,}}', "line 3, column 23: not JSON"),
        ('{"video": /* never ends', "line 1, column 11: not JSON"),
    ],
)
def test_a_file_that_is_not_a_json_object_is_an_error_with_its_place(
    write_config: WriteConfig, content: str, expected: str
) -> None:
    path = write_config(content)
    (line,) = problems(path)
    assert line.startswith(f"{path}: {expected}")


def test_a_file_that_cannot_be_read_is_an_error_with_the_reason(tmp_path: Path) -> None:
    assert problems(tmp_path / "nowhere.json") == [
        f"{tmp_path}/nowhere.json: cannot be read: No such file or directory"
    ]
    assert problems(tmp_path) == [f"{tmp_path}: cannot be read: Is a directory"]
    (tmp_path / "latin.json").write_bytes(b'{"video": {"shared_memory_name": "\xe4"}}')
    assert "not UTF-8 at byte 34" in problems(tmp_path / "latin.json")[0]


def test_comments_are_allowed_where_spaces_are(write_config: WriteConfig) -> None:
    path = write_config("""// the table camera
    {"vision": /* not a section */ {"camera": { // of the hall
        "device_id": "http://host//a/*b*/", /* two
        lines */ "fps": 25}} // "fps": 30
    }""")
    camera = load_settings(path, {}, {})[0].vision.camera
    assert (camera.device_id, camera.fps) == ("http://host//a/*b*/", 25)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "bom.json").write_bytes(b'\xef\xbb\xbf{"video": {"slots": 4}}')
    assert load_settings(tmp_path / "bom.json", {}, {})[0].video.slots == 4


# Wrong keys.


@pytest.mark.parametrize(
    ("content", "key", "hint"),
    [
        ({"vidoe": {}}, "vidoe", "did you mean video?"),
        ({"video": {"nam": 1}}, "video.nam", "allowed are video.shared_memory_name, "),
        (
            {"video": {"process": {"shutdown_time": 1}}},
            "video.process.shutdown_time",
            "video.process.shutdown_timeout?",
        ),
        ({"vision": {"camera": {"device": 1}}}, "vision.camera.device", "vision.camera.device_id?"),
        ({"logging": {"as_json": True}}, "logging.as_json", "logging.json?"),
    ],
)
def test_an_unknown_key_in_a_file_is_an_error_at_any_depth(
    write_config: WriteConfig, content: Any, key: str, hint: str
) -> None:
    path = write_config(content)
    (line,) = problems(path)
    assert line.startswith(f"{path}: there is no key {key} (its value is ")
    assert hint in line


@pytest.mark.parametrize(
    ("variable", "key"),
    [
        ("BILLIARDS_SHM__VIDEO__SLOT", "video.slot"),
        ("BILLIARDS_SHM__VIDIO__SLOTS", "vidio.slots"),
        ("BILLIARDS_SHM__SLOTS", "slots"),
        ("BILLIARDS_SHM__VISION__CAMERA__DEVICE", "vision.camera.device"),
        ("BILLIARDS_SHM__VIDEO__PROCESS", "video.process"),
        ("BILLIARDS_SHM__VIDEO__SLOTS__MORE", "video.slots.more"),
        ("BILLIARDS_SHM__", ""),
        ("billiards_shm__video__slot", "video.slot"),
    ],
)
def test_an_unknown_variable_is_an_error_at_any_depth(variable: str, key: str) -> None:
    (line,) = problems(environ={variable: "4"})
    assert line.startswith(f'environment variable {variable}: there is no key {key} (its value is "4"); ')


def test_the_error_of_a_variable_that_names_nothing_is_readable() -> None:
    (line,) = problems(environ={"BILLIARDS_SHM__": "4"})
    assert line.endswith("; docs/configuration.md lists what is allowed")
    (line,) = problems(environ={"BILLIARDS_SHM__LOGGING": "4"})
    assert "BILLIARDS_SHM__LOGGING__LEVEL" in line, "a section names its keys"


@pytest.mark.parametrize("right", ["", "tcp/0.0.0.0:7447", "tls/[::1]:7447, udp/10.0.0.5:7447", "tcp/cam.example:1,"])
def test_an_endpoint_has_a_protocol_and_an_address(right: str) -> None:
    for key in ("listen", "connect"):
        assert getattr(load_settings(None, {f"mirror.{key}": right}, {})[0].mirror, key) == right
        for wrong in ("192.168.1.5", "192.168.1.5:7447", "tcp://192.168.1.5:7447:x, y"):
            (line,) = problems(overrides={f"mirror.{key}": wrong})
            assert line.endswith("; allowed: endpoints (`PROTOCOL/ADDRESS`) separated by commas")


def test_variables_of_other_programs_are_ignored() -> None:
    others = {"BILLIARDS_SHM_TOKEN": "x", "_BILLIARDS_SHM_COMPLETE": "x", "BILLIARDS": "x", "VIDEO_FILES": "x"}
    assert load_settings(None, {}, others)[1] == "defaults"


def test_slots_and_history_are_62_at_most() -> None:
    assert load_settings(None, {"video.slots": 8, "video.history": 54}, {})[0].video.history == 54
    (line,) = problems(overrides={"video.slots": 8, "video.history": 55})
    assert line == (
        "option --history: video.history is 55; allowed: an integer from 0 to 59, with slots at most 62; "
        "with slots = 8, at most 54"
    )
    (line,) = problems(overrides={"video.history": -1})
    assert line.startswith("option --history: video.history is -1; allowed: ")


def test_an_unknown_override_is_an_error() -> None:
    (line,) = problems(overrides={"video.slot": 4})
    assert line.startswith("command line: there is no key video.slot (its value is 4); did you mean video.slots?")


# Wrong values.


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("video.slots", 2, "an integer from 3 to 62"),
        ("video.slots", 63, "an integer from 3 to 62"),
        ("video.slots", True, "an integer from 3 to 62"),
        ("video.slots", 4.0, "an integer from 3 to 62"),
        ("video.slots", "4", "an integer from 3 to 62"),
        ("video.slots", None, "an integer from 3 to 62"),
        ("video.mode", 640, 'octal digits in quotes, such as "0640"'),
        ("video.mode", "0680", 'octal digits in quotes, such as "0640"'),
        ("video.mode", "rw-r-----", 'octal digits in quotes, such as "0640"'),
        ("video.group", "", "name or number of a group, or null"),
        ("video.group", -1, "name or number of a group, or null"),
        ("video.process.shutdown_timeout", -1, "a number from 0 to 3600"),
        ("video.process.main_loop_sleep", True, "a number from 0 to 1"),
        ("video.process.hang_timeout", 0, "a number from 0.5 to 86400"),
        ("video.shared_memory_attach_timeout_sec", "soon", "a number from 0 to 3600"),
        ("video.shared_memory_name", "a b", "letters, digits, "),
        ("video.shared_memory_name", "", "letters, digits, "),
        ("video.shared_memory_name", "clips/", "letters, digits, "),
        ("video.shared_memory_name", "/billiards_video", "letters, digits, "),
        ("video.shared_memory_name", "x" * 65, "letters, digits, "),
        ("video.shared_memory_name", "..", "letters, digits, "),
        ("video.shared_memory_name", "tisch_\u00fc", "letters, digits, "),
        ("video.shared_memory_name", 5, "letters, digits, "),
        ("vision.camera.device_id", True, "a camera number, "),
        ("vision.camera.device_id", -1, "a camera number, "),
        ("vision.camera.device_id", "", "a camera number, "),
        ("vision.camera.device_id", 10**30, "a camera number, "),
        ("vision.camera.device_id", "a\0b", "a camera number, "),
        ("vision.camera.backend", "magic", "auto, v4l2, dshow, msmf, avfoundation, gstreamer, ffmpeg, av, images"),
        ("vision.camera.resolution", [1920], "[width, height]"),
        ("vision.camera.resolution", [1920, 0], "[width, height]"),
        ("vision.camera.resolution", [1920, 1080.5], "[width, height]"),
        ("vision.camera.resolution", "HD", "[width, height]"),
        ("vision.camera.fps", 0, "a number from 0.001 to 1000"),
        ("vision.camera.fps", 1e-300, "a number from 0.001 to 1000"),
        ("vision.camera.playback_fps", -1, "a number from 0.001 to 1000, 0 or null"),
        ("vision.camera.playback_fps", 1e-300, "a number from 0.001 to 1000, 0 or null"),
        ("vision.camera.loop_video", 1, "true or false"),
        ("vision.camera.loop_video", "yes", "true or false"),
        ("logging.level", "LOUD", "DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ("logging.json", 0, "true or false"),
        ("logging.stats_interval_sec", 0, "a number from 0.1 to 86400"),
        ("video", [], "an object with the keys shared_memory_name, "),
        ("vision.camera", 0, "an object with the keys device_id, "),
    ],
)
def test_a_wrong_value_in_a_file_is_an_error_with_key_value_and_what_is_allowed(
    write_config: WriteConfig, key: str, value: Any, allowed: str
) -> None:
    nested: Any = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    path = write_config(nested)
    (line,) = problems(path)
    assert line.startswith(f"{path}: {key} is {json.dumps(value, ensure_ascii=False)}; allowed: {allowed}")


def test_a_wrong_value_is_reported_with_its_place(write_config: WriteConfig) -> None:
    path = write_config({"video": {"slots": 5}})
    (line,) = problems(path, environ={"BILLIARDS_SHM__VIDEO__SLOTS": "many"})
    assert (
        line
        == 'environment variable BILLIARDS_SHM__VIDEO__SLOTS: video.slots is "many"; allowed: an integer from 3 to 62'
    )
    (line,) = problems(path, {"video.slots": "many"}, {"BILLIARDS_SHM__VIDEO__SLOTS": "4"})
    assert line == 'option --slots: video.slots is "many"; allowed: an integer from 3 to 62'
    (line,) = problems(overrides={"vision.camera.device_id": ""})
    assert line.startswith('argument SOURCE: vision.camera.device_id is ""; ')
    (line,) = problems(environ={"LOG_LEVEL": "loud"})
    assert line.startswith('environment variable LOG_LEVEL: logging.level is "loud"; ')


def test_a_wrong_value_below_a_right_one_does_no_harm(write_config: WriteConfig) -> None:
    path = write_config({"video": {"slots": 1}})
    assert load_settings(path, {"video.slots": 4}, {})[0].video.slots == 4


def test_all_problems_are_reported_together_one_line_each(write_config: WriteConfig) -> None:
    path = write_config({"video": {"slots": 1, "slot": 2}, "logging": {"level": "x"}})
    lines = problems(path, {"vision.camera.fps": "x"}, {"BILLIARDS_SHM__FOO": "1"})
    assert len(lines) == 5
    assert all(" is " in line for line in lines)


def test_long_values_and_passwords_do_not_fill_the_error(write_config: WriteConfig) -> None:
    (line,) = problems(write_config({"video": {"slots": "x" * 5000}}))
    assert len(line) < 250
    (line,) = problems(write_config({"vision": {"camera": {"backend": "rtsp://user:secret@host/"}}}))
    assert "secret" not in line


@pytest.mark.slow
@hypothesis_settings(max_examples=30)
@given(
    st.dictionaries(st.text(max_size=8), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
)
def test_any_section_gives_settings_or_a_configuration_error(content: dict[str, Any]) -> None:
    path = Path("any.json")
    for section in ("video", "vision", "logging"):
        path.write_text(json.dumps({section: content}))
        try:
            load_settings(path, {}, {})
        except ConfigurationError as error:
            message = str(error)
        else:
            continue
        assert message.startswith("any.json: ")


# Text from the environment.


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("YES", True), ("1", True), ("off", False), ("0", False)]
)
def test_a_switch_may_be_written_in_the_usual_ways_in_the_environment(text: str, expected: bool) -> None:
    settings, _ = load_settings(None, {}, {"BILLIARDS_SHM__LOGGING__JSON": text})
    assert settings.logging.as_json is expected


@pytest.mark.parametrize(("text", "expected"), [("0", 0), ("12", 12), ("/dev/video0", "/dev/video0"), ("demo", "demo")])
def test_digits_are_a_camera_number(text: str, expected: int | str) -> None:
    for environ in ({"BILLIARDS_SHM__VISION__CAMERA__DEVICE_ID": text}, {"VIDEO_FILE": text}):
        device = load_settings(None, {}, environ)[0].vision.camera.device_id
        assert device == expected
        assert type(device) is type(expected)


def test_a_size_may_be_written_in_the_usual_ways() -> None:
    environ = {"BILLIARDS_SHM__VISION__CAMERA__RESOLUTION": "1280x720"}
    assert load_settings(None, {}, environ)[0].vision.camera.resolution == (1280, 720)


def test_short_variables_that_are_empty_are_not_set() -> None:
    assert load_settings(None, {}, {"VIDEO_FILE": "", "LOG_LEVEL": ""})[1] == "defaults"


def test_long_variables_that_are_empty_are_errors() -> None:
    (line,) = problems(environ={"BILLIARDS_SHM__VIDEO__SLOTS": ""})
    assert line.startswith('environment variable BILLIARDS_SHM__VIDEO__SLOTS: video.slots is ""; ')


# Sources.


def test_several_sources_can_be_named(write_config: WriteConfig) -> None:
    sources = [
        {"name": "left", "camera": {"device_id": 0}},
        {"name": "right", "camera": {"device_id": "demo", "fps": 5}},
    ]
    settings, _ = load_settings(write_config({"video": {"sources": sources}}), {}, {})
    assert [source.name for source in settings.video.sources] == ["left", "right"]
    assert settings.video.sources[1].camera.fps == 5
    assert settings.video.sources[0].camera.fps == 30


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (
            [{"name": "a", "camera": {"fps": "x"}}],
            'video.sources[0].camera.fps is "x"; allowed: a number from 0.001 to 1000',
        ),
        ([{"name": "a b", "camera": {}}], 'video.sources[0].name is "a b"; allowed: letters, '),
        ([{"name": "a"}], "video.sources[0].camera is missing; "),
        ([{"camera": {}}], "video.sources[0].name is missing; allowed: letters, "),
        ([{"name": "a", "camera": {"foo": 1}}], "there is no key video.sources[0].camera.foo (its value is 1); "),
        ([{"name": "a", "camera": {}, "fps": 1}], "there is no key video.sources[0].fps (its value is 1); "),
        ([5], "video.sources[0] is 5; allowed: a list of "),
        ({}, "video.sources is {}; allowed: a list of "),
        ([{"name": "a", "camera": {}}] * 2, "video.sources is "),
    ],
)
def test_a_wrong_source_is_an_error_with_its_place(write_config: WriteConfig, sources: Any, expected: str) -> None:
    path = write_config({"video": {"sources": sources}})
    (line,) = problems(path)
    assert line.startswith(f"{path}: {expected}")
    (line,) = problems(environ={"BILLIARDS_SHM__VIDEO__SOURCES": json.dumps(sources)})
    assert line.startswith(f"environment variable BILLIARDS_SHM__VIDEO__SOURCES: {expected}")


def test_two_sources_with_one_name_are_an_error_that_names_both(write_config: WriteConfig) -> None:
    sources = [{"name": name, "camera": {"device_id": device}} for name, device in (("a", 0), ("b", 1), ("a", "demo"))]
    (line,) = problems(write_config({"video": {"sources": sources}}))
    assert line.endswith("each name once; [0] and [2] are both called 'a', for camera 0 and for demo")


# The rate.


@pytest.mark.parametrize(
    ("device_id", "key"),
    [
        ("clip.mp4", "playback_fps"),
        ("frames/%d.png", "playback_fps"),
        ("demo", "fps"),
        (0, "fps"),
        ("/dev/video0", "fps"),
    ],
)
def test_the_fps_option_sets_what_applies_to_the_source(device_id: int | str, key: str) -> None:
    assert fps_key(device_id) == f"vision.camera.{key}"
    from_variable = {"VIDEO_FILE": str(device_id)}
    from_option = {"vision.camera.device_id": device_id}
    for overrides, environ in (({}, from_variable), (from_option, {})):
        settings, _ = load_settings(None, {"vision.camera.fps": "12"} | overrides, environ)
        assert getattr(settings.vision.camera, key) == 12
        other = {"fps": "playback_fps", "playback_fps": "fps"}[key]
        assert getattr(settings.vision.camera, other) == {"fps": 30, "playback_fps": None}[other]


def test_a_wrong_fps_option_is_reported_as_that_option() -> None:
    (line,) = problems(overrides={"vision.camera.fps": "fast", "vision.camera.device_id": "clip.mp4"})
    assert line.startswith('option --fps: vision.camera.playback_fps is "fast"; allowed: a number from 0.001 to 1000, ')

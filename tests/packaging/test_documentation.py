"""Every code block of README, CONTRIBUTING and docs/ is run or checked, and generated parts are up to date.

Blocks that need more than the extras `headless` and `test` are run by test_integrations.py.
"""

import gc
import json
import re
import runpy
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import cv2
import documentation
import numpy as np
import pytest
from click.testing import CliRunner
from documentation import BLOCKS, DOCS, README, Block
from repository import ROOT
from serving import Address, served

from billiards_shm import SharedMemoryFrameWriter, inspect_segment
from billiards_shm.cli.main import command_line
from billiards_shm.config.address import SOURCE_KINDS, SourceKind
from billiards_shm.config.load import load_settings

pytestmark = pytest.mark.xdist_group("documentation")  # one capture process for all

GENERATED = runpy.run_path(str(DOCS / "generate.py"))
PYTHON = [block for block in documentation.in_language("python") if not block.needs]
SHELL = [block for block in documentation.in_language("sh") if block.label not in ("run", "test") and not block.needs]
CONFIGURATIONS = documentation.labelled("configuration file")
# A separate test reads these.
ELSEWHERE = {
    "ini": "service/test_service.py",
    "nginx": "serve/test_serve_proxies.py",
    "caddy": "serve/test_serve_proxies.py",
    "json": "serve/test_serve_webhook.py",
    "json5": "mirror/test_access.py",
    "bash": "serve/test_serve_recipes.py",
    "yaml": "serve/test_serve_recipes.py",
}


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name under which `capture demo` publishes."""
    with documentation.capturing(tmp_path_factory.mktemp("capture")) as name:
        yield name


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with the file that blocks read."""
    monkeypatch.chdir(tmp_path)
    video = cv2.VideoWriter("match.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 30, (320, 180))
    for number in range(3):
        video.write(np.full((180, 320, 3), number, np.uint8))
    video.release()
    return tmp_path


# Blocks of code.


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_each_python_block_runs_as_written(block: Block, captured: str, folder: Path) -> None:
    documentation.run_python(block.under(captured))
    gc.collect()
    assert inspect_segment(captured).readers == (), "a reader was left open"


def test_a_line_marked_to_fail_has_to_fail_with_that_message() -> None:
    code = "for x in (1,):\n    float('x')  # ERROR  ValueError: could not convert\n"
    documentation.run_python(Block("page.md", 1, "", "python", code))
    with pytest.raises(AssertionError, match=r"float\('1'\): no ValueError"):
        documentation.run_python(Block("page.md", 1, "", "python", code.replace("'x'", "'1'")))
    with pytest.raises(AssertionError, match="could not convert string"):
        documentation.run_python(Block("page.md", 1, "", "python", code.replace("could not", "cannot")))


def fastapi_apps() -> dict[str, Block]:
    return {block.page: block for block in documentation.labelled("fastapi")}


@pytest.fixture
def application(captured: str, request: pytest.FixtureRequest) -> Iterator[Address]:
    """The server from the FastAPI block of one page."""
    with served(documentation.run_python(fastapi_apps()[request.param].under(captured))["app"]) as server:
        yield server


@pytest.mark.parametrize("application", ["docs/serving.md"], indirect=True)
def test_the_mounted_application_serves_the_pictures_and_its_own_endpoint(application: Address, captured: str) -> None:
    assert application.get(f"/video/health/{captured}").status == 200
    assert application.get(f"/video/snapshot/{captured}.jpg").image.shape == (240, 320, 3)
    assert len(application.get("/brightness").json) == 3


@pytest.mark.parametrize("application", ["docs/integrations.md"], indirect=True)
def test_the_custom_endpoint_returns_the_newest_picture(application: Address, captured: str) -> None:
    answer = application.get("/table.jpg")
    assert answer.image.shape == (240, 320, 3)
    assert 0 < int(answer.headers["x-sequence"]) <= inspect_segment(captured).sequence


@pytest.mark.parametrize("block", CONFIGURATIONS, ids=str)
def test_each_configuration_file_is_valid(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(block.code)
    load_settings(file, overrides={}, environ={})


# Commands.


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a block, without variables before it and redirections after it."""
    found = []
    for line in re.split(r"\n|&&|(?<!&)&(?!&)", block.code):
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        if words:
            found.append(words)
    return found


COMMANDS = [(block, words) for block in SHELL for words in commands(block)]
# Commands that end on their own are run; for the others the command line is only parsed.
ENDING = (["list"], ["inspect"], ["snapshot"])


def given_to(program: str) -> list[Any]:
    return [
        pytest.param(block, words[1:], id=f"{block} {shlex.join(words)}")
        for block, words in COMMANDS
        if Path(words[0]).name == program
    ]


@pytest.mark.parametrize(("block", "arguments"), given_to("billiards-shm"))
def test_each_command_is_accepted_by_the_command_line(
    block: Block, arguments: list[str], captured: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "tables.json").write_text("{}")
    arguments = [captured if word == "billiards_video" else word for word in arguments]
    if arguments[:1] not in ENDING:
        monkeypatch.setattr("billiards_shm.cli.main.capture_configured", lambda *_: 0)
        groups = [command for command in command_line.commands.values() if isinstance(command, click.Group)]
        for command in (each for group in (command_line, *groups) for each in group.commands.values()):
            monkeypatch.setattr(command, "callback", lambda **_: 0)
    done = CliRunner().invoke(command_line, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(("block", "arguments"), given_to("pip"))
def test_installed_extras_belong_to_this_package(block: Block, arguments: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = re.fullmatch(r"\.\[([\w,]+)\]", arguments[-1])
    assert arguments[0] == "install"
    assert asked is not None
    assert {*asked[1].split(",")} <= extras.keys()


@pytest.mark.parametrize(("block", "arguments"), [*given_to("python"), *given_to("python3")])
def test_each_python_program_exists(block: Block, arguments: list[str]) -> None:
    if arguments[0] == "-m":
        name = arguments[1]
        where = ROOT.joinpath(*name.split("."))
        assert where.with_suffix(".py").exists() or find_spec(name) is not None
        arguments = arguments[2:]
    else:
        where = (ROOT / arguments[0]).with_suffix("")
        arguments = arguments[1:]
    for option in (word for word in arguments if word.startswith("--")):
        sources = [where.with_suffix(".py"), *(ROOT / "bench").glob("command.py")]
        assert any(f'"{option}"' in source.read_text() for source in sources), option


# Other programs. Each of their commands is listed here, so that the author of a new one checks it.
FOREIGN = {
    ".": {". .venv/bin/activate"},
    "docker": {"docker compose up --build"},
    "eval": {"eval $(_BILLIARDS_SHM_COMPLETE=bash_source billiards-shm)"},
}


def test_every_command_has_its_row() -> None:
    rows = re.findall(r"^\| `([a-z ]+?)(?: [A-Z\[].*)?` \|", (DOCS / "command-line.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(
        name if command is group else f"{name} {command.name}"
        for name, group in command_line.commands.items()
        for command in (group.commands.values() if isinstance(group, click.Group) else [group])
    )


def test_every_kind_of_source_is_named_where_users_look() -> None:
    assert SOURCE_KINDS.keys() == {*SourceKind}
    section = (DOCS / "capture.md").read_text().partition("## What a source can be\n")[2].partition("\n## ")[0].lower()
    assert [kind for kind in SourceKind if not re.search(rf"\b{kind}\b", section)] == []


def test_every_other_command_is_known() -> None:
    checked = {"billiards-shm", "pip", "python", "python3"}
    others = [words for _, words in COMMANDS if Path(words[0]).name not in checked]
    assert {" ".join(words) for words in others} == set().union(*FOREIGN.values())


def test_every_block_is_read_by_some_test() -> None:
    read = [*PYTHON, *SHELL, *CONFIGURATIONS, *documentation.labelled("run"), *documentation.labelled("test")]
    left = [block for block in BLOCKS if block not in read and not block.needs]
    assert Counter(block.language for block in left if block.language in ELSEWHERE) == dict.fromkeys(ELSEWHERE, 1) | {
        "json5": 3
    }
    # Diagrams made of letters, and Sphinx directives.
    rest = [block for block in left if block.language not in ELSEWHERE]
    assert [str(block) for block in rest if block.language and not block.language.startswith("{")] == []
    for language, test in ELSEWHERE.items():
        assert f'in_language("{language}")' in (ROOT / "tests" / test).read_text()


# README.


def test_readme_is_read_in_three_minutes() -> None:
    text = README.read_text()
    assert text.count("\n") <= 150
    assert len(re.findall(r"\w+", re.sub(r"```.*?```", "", text, flags=re.DOTALL))) < 900


def test_both_commands_are_on_one_line_each() -> None:
    ((run,), (test,)) = ([block.code.strip() for block in documentation.labelled(label)] for label in ("run", "test"))
    assert run.endswith("billiards-shm capture demo --frames 300")
    assert test.split()[-1].endswith("pytest")
    assert "\n" not in run + test


def test_no_command_of_readme_needs_an_activated_environment() -> None:
    assert re.findall(r"`(?:pip|python|billiards-shm) [^`]*`", README.read_text()) == []


def test_readme_shows_the_page_and_the_picture_is_not_too_large() -> None:
    assert "](docs/preview.png)" in README.read_text()
    assert 20_000 < (DOCS / "preview.png").stat().st_size < 350_000


@pytest.mark.parametrize("page", documentation.PAGES, ids=lambda page: page.name)
def test_links_lead_to_existing_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_place_that_contributors_are_sent_to_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## How the code is laid out")[2].partition("## Rules")[0]
    places = re.findall(r"`((?:\.ci|bench|billiards_shm|csrc|docs|tests)/[\w./*-]*)", text)
    assert len(places) > 40
    assert [place for place in places if not [*ROOT.glob(place)]] == []


# What is generated.


@pytest.mark.parametrize(
    ("page", "label"), GENERATED["TABLES"], ids=[f"{page.name} {label}" for page, label in GENERATED["TABLES"]]
)
def test_a_generated_table_is_up_to_date(page: Path, label: str) -> None:
    assert GENERATED["current"](page, label) == GENERATED["TABLES"][page, label](), "run: python docs/generate.py"


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (3840, 2160)])
def test_the_table_of_memory_matches_real_segments(width: int, height: int, segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, (height, width, 3)):
        found = inspect_segment(segment_name)
    segment_bytes, frame = GENERATED["segment_bytes"], width * height * 3
    assert (found.backed_bytes, found.total_bytes) == (segment_bytes(3, frame), segment_bytes(8, frame))


def test_the_figures_name_the_targets_that_are_missed() -> None:
    missed = [one["what"] for one in json.loads((DOCS / "figures.json").read_text())["targets"] if not one["met"]]
    assert (DOCS / "figures.md").read_text().count("**missed**") == len(missed)


def test_the_ranges_begin_where_the_packages_do() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["headless"]]
    oldest = dict(line.split(">=") for line in declared if ">=" in line)
    text = (DOCS / "platforms.md").read_text()
    assert f"| numpy | {oldest['numpy']} " in text
    assert f"| OpenCV | {oldest['opencv-python-headless']} " in text

"""Instructions for other machines: the workflows, cibuildwheel's section, the project's own metadata."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from repository import ROOT
from virtual_environments import tool

pytestmark = pytest.mark.slow

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def workflow(path: Path) -> dict[Any, Any]:
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize(
    ("system", "identifiers"),
    [
        (
            "linux",
            {
                "cp311-manylinux_x86_64",
                "cp311-manylinux_aarch64",
                "cp311-musllinux_x86_64",
                "cp311-musllinux_aarch64",
            },
        ),
        ("macos", {"cp311-macosx_x86_64", "cp311-macosx_arm64"}),
        ("windows", {"cp311-win_amd64"}),
    ],
)
def test_cibuildwheel_would_build_one_wheel_per_platform(system: str, identifiers: set[str]) -> None:
    assert set(tool("cibuildwheel", "--print-build-identifiers", "--platform", system).split()) == identifiers


def test_the_metadata_is_valid() -> None:
    tool("validate-pyproject", "pyproject.toml")


def test_every_supported_python_is_tested_by_a_workflow() -> None:
    claimed = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line}
    tested = workflow(ROOT / ".github/workflows/test.yml")["jobs"]["python"]["strategy"]["matrix"]["python"]
    assert claimed == set(tested)
    assert PROJECT["requires-python"] == f">={min(claimed, key=lambda version: int(version.partition('.')[2]))}"


def test_there_are_workflows_for_tests_wheels_and_releases() -> None:
    assert {"test.yml", "wheels.yml", "release.yml"} <= {path.name for path in WORKFLOWS}


def test_the_workflows_match_their_schema() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)


def test_an_auditor_of_workflows_finds_nothing() -> None:
    tool("zizmor", "--offline", "--no-progress", "--min-severity", "medium", ".github/workflows")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_few_permissions_and_a_time_limit(path: Path) -> None:
    content = workflow(path)
    assert content["permissions"] == {"contents": "read"}
    assert "concurrency" in content
    for name, job in content["jobs"].items():
        assert "timeout-minutes" in job or "uses" in job, f"{path.name}: {name} may take forever"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_files_that_a_workflow_names_exist(path: Path) -> None:
    words = {word.strip("'\"[],") for word in path.read_text().split()}
    named = {word for word in words if word.startswith(("tests/", "bench/", ".ci/", "./.github/"))}
    assert [word for word in named if not (ROOT / word).exists()] == []

"""The shipped files: one wheel for all Pythons, and the source archive; built, examined, installed and tested."""

import re
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from repository import ROOT
from virtual_environments import TOOLS, environment, interpreter, oldest_allowed, run
from wheels import (
    assert_only_libraries_of_the_system,
    assert_stable_abi,
    extension_of,
    repaired,
    run_tests,
    shipped_tests,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("wheel")]

# Quick tests of what differs between versions (the buffer protocol, numpy, OpenCV) or is not a module (page, headers).
SUBSET = [
    "tests/core/test_lifetime.py",
    "tests/core/test_consumer.py",
    "tests/sources/test_camera.py",
    "tests/sources/test_engines.py",
    "tests/packaging/test_examples.py",
    "tests/serve/test_serve.py::test_the_page_is_served_and_cached_while_it_is_unchanged",
]

# pyproject.toml lists the oldest versions; Python 3.13 has no wheels of them, so its oldest is named here.
OLDEST_ON_3_13 = ["numpy==2.1.0", "opencv-python-headless==4.10.0.84", "av==18.1.0"]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the source archive and the wheel built from it, which shows that it is complete."""
    place = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", place, ROOT)
    return place


@pytest.fixture(scope="module")
def sdist(distributions: Path) -> Path:
    (found,) = distributions.glob("*.tar.gz")
    return found


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    """The wheel as it would be uploaded."""
    (built,) = distributions.glob("*.whl")
    return repaired(built, distributions / "repaired")


def test_the_wheel_is_one_for_all_pythons_and_for_old_systems(wheel: Path) -> None:
    _, _, python, abi, platform = wheel.stem.split("-")
    assert (python, abi) == ("cp311", "abi3")
    assert re.fullmatch(r"manylinux_2_\d+_x86_64(\.manylinux\w+)*", platform)


def test_the_wheel_is_small_and_contains_only_what_runs(wheel: Path) -> None:
    assert wheel.stat().st_size < 1_000_000
    names = [name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")]
    assert {name.partition("/")[0] for name in names} == {"billiards_shm", f"{wheel.stem.rsplit('-', 3)[0]}.dist-info"}
    assert "billiards_shm/_core.c" not in names
    assert not [name for name in names if name.endswith((".pyx", ".pxi"))]
    assert {
        "billiards_shm/py.typed",
        "billiards_shm/sources/interlaced.m2v",
        "billiards_shm/_core.pyi",
        "billiards_shm/_core.abi3.so",
    } <= set(names)


def test_the_extension_searches_libraries_only_where_the_system_does(wheel: Path) -> None:
    assert_only_libraries_of_the_system(extension_of(wheel))


def test_the_extension_keeps_to_the_stable_abi(wheel: Path) -> None:
    assert_stable_abi(wheel)


def test_an_index_would_accept_both_files(wheel: Path, sdist: Path) -> None:
    assert run(TOOLS / "twine", "check", "--strict", wheel, sdist).count("PASSED") == 2


@pytest.mark.parametrize(
    ("version", "constraints"),
    [
        pytest.param("3.11", oldest_allowed(), id="3.11-oldest"),
        pytest.param("3.12", [], id="3.12-newest"),
        pytest.param("3.13", OLDEST_ON_3_13, id="3.13-oldest"),
        pytest.param("3.13", [], id="3.13-newest"),
    ],
)
def test_the_same_wheel_works_with(version: str, constraints: list[str], wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", interpreter(version), [f"{wheel}[headless,test]"], constraints)
    pinned = dict(line.rstrip(".*").split("==") for line in constraints)
    for name, wanted in pinned.items():
        found = run(python, "-c", f"import importlib.metadata as m; print(m.version({name!r}))").strip()
        assert found.startswith(wanted), name
    run_tests(python, shipped_tests(tmp_path), SUBSET, at_least=100)


def test_the_source_archive_installs_in_a_fresh_environment_and_its_tests_run_from_it(
    sdist: Path, tmp_path: Path
) -> None:
    python = environment(tmp_path / "venv", interpreter("3.11"), [f"{sdist}[headless,test]"])
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    for name in (
        "csrc/billiards_shm.h",
        "bench/capture.py",
        "tests/c/test_steps.c",
        "CHANGELOG.md",
        "LICENSE",
        "compose.yaml",
    ):
        assert (unpacked / name).is_file(), name
    run_tests(python, shipped_tests(tmp_path, unpacked), SUBSET, at_least=100)

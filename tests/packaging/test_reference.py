"""The pages that Sphinx builds: without a warning, with every public name, and with all of the header."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from repository import CSRC, ROOT
from sphinx.util.inventory import InventoryFile

import billiards_shm

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("reference")]  # one build of the pages for all tests

NAMES = [*billiards_shm.__all__]
HEADER = (CSRC / "billiards_shm.h").read_text()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the pages. A broken link, like any other warning, is an error."""
    folder = tmp_path_factory.mktemp("pages")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", ROOT / "docs", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def names_in(pages: Path) -> set[str]:
    inventory = InventoryFile.loads((pages / "objects.inv").read_bytes(), uri="")
    return {name for kind in inventory.data if kind.startswith("py:") for name in inventory.data[kind]}


def described(found: object) -> str:
    """The docstring, without the signature that Cython puts in front."""
    return re.sub(r"\A\w+\(.*\)( -> .*)?\n", "", inspect.getdoc(found) or "").strip()


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_described_by_a_sentence(name: str) -> None:
    first = described(getattr(billiards_shm, name)).partition("\n\n")[0]
    assert len(first.split()) >= 3
    assert first.endswith((".", ":", ";"))


def members(name: str) -> list[str]:
    """A class's own members, and those inherited from classes of this package."""
    found = getattr(billiards_shm, name)
    bases = [base for base in getattr(found, "__mro__", ()) if base.__module__.startswith("billiards_shm")]
    return sorted({member for base in bases for member in vars(base) if not member.startswith("_")})


@pytest.mark.parametrize("name", NAMES)
def test_every_member_is_described_on_its_own_or_by_its_class(name: str, pages: Path) -> None:
    page, known = (pages / "reference.html").read_text(), names_in(pages)
    assert f"billiards_shm.{name}" in known
    text = described(getattr(billiards_shm, name))
    missing = [
        member
        for member in members(name)
        if f"billiards_shm.{name}.{member}" not in known and not re.search(rf"\b{member}\b", text)
    ]
    assert missing == []
    for member in members(name):
        if f"billiards_shm.{name}.{member}" in known:
            entry = page.partition(f'id="billiards_shm.{name}.{member}"')[2]
            description = entry.partition("<dd>")[2].partition("</dd>")[0]
            assert re.search(r"<p>.*\w", description), member


def test_the_protocol_page_has_all_of_the_header(pages: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (pages / "protocol.html").read_text())
    specification = HEADER.partition("*/\n")[0]
    titles = re.findall(r"^ \* ([A-Z][A-Z ,'-]{4,})", specification, re.MULTILINE)
    assert len(titles) >= 7
    for title in titles:
        assert title.strip(" ,").capitalize() in text, title
    for step in (*(f"W{number}" for number in range(1, 13)), *(f"R{number}" for number in range(7))):
        assert re.search(rf"^\s*{step}  ", text, re.MULTILINE), step
    for function in re.findall(r"\b(bshm_\w+)\(", HEADER):
        assert f"{function}(" in text, function


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "conf.py").write_text("extensions = ['myst_parser']\nmyst_heading_anchors = 3\n")
    (tmp_path / "index.md").write_text("# Page\n\n[there](#page), [not there](#nowhere), [nor there](gone.md)\n")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", tmp_path, tmp_path / "built"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.findall(r"'(nowhere|gone\.md)'", done.stderr) == ["nowhere", "gone.md"]

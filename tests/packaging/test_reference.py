"""The reference that pdoc renders from the docstrings: complete, and without complaints."""

import re
import subprocess
import sys
from pathlib import Path

import pdoc.doc
import pytest

import billiards_shm
import billiards_shm._core

pytestmark = pytest.mark.slow

NAMES = [*billiards_shm.__all__]
MODULE = pdoc.doc.Module(billiards_shm)


def described(found: pdoc.doc.Doc[object]) -> str:
    """Its docstring, without the signature that Cython puts in front."""
    return re.sub(r"\A\w+\(.*\)( -> .*)?\n", "", found.docstring).strip()


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_described_by_a_sentence(name: str) -> None:
    first = described(MODULE.members[name]).partition("\n\n")[0]
    assert len(first.split()) >= 3
    assert first.endswith((".", ":", ";"))


@pytest.mark.parametrize("name", NAMES)
def test_every_member_is_described_by_itself_or_by_its_class(name: str) -> None:
    found = MODULE.members[name]
    if not isinstance(found, pdoc.doc.Class):
        return
    ours = [*found.own_members, *(one for one in found.members.values() if one.taken_from[0].startswith("billiards"))]
    missing = [
        member.name
        for member in ours
        if not member.name.startswith("_")
        and not described(member)
        and not re.search(rf"\b{member.name}\b", found.docstring)
    ]
    assert missing == []


def test_the_reference_is_rendered_without_a_warning_and_has_every_name(tmp_path: Path) -> None:
    # The core as well: what a reader inherits is described there.
    modules = [
        "billiards_shm",
        "billiards_shm._core",
        *(f"!billiards_shm.{name}" for name in ("capture", "serve", "cli")),
    ]
    command = [sys.executable, "-W", "error", "-m", "pdoc", "--docformat", "numpy", "--output-directory", tmp_path]
    done = subprocess.run([*command, *modules], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "billiards_shm.html").read_text()
    for name in NAMES:
        assert f'id="{name}"' in page, name
    for member in ("FrameIterator", "SharedMemoryFrameWriter.loan", "VideoConsumer.read", "SegmentInfo.last_frame_age"):
        assert f'id="{member}"' in page, member
    assert 'href="billiards_shm/_core.html#SegmentReader.read_frame"' in page
    assert 'id="SegmentReader.read_frame"' in (tmp_path / "billiards_shm" / "_core.html").read_text()

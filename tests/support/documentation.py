"""README.md, CONTRIBUTING.md and the pages of docs/ as the tests see them: code blocks, and how code is run."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repository import ROOT

from billiards_shm import SharedMemoryFrameReader

README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = (README, *sorted(ROOT.glob("CONTRIBUTING.md")), *sorted(DOCS.glob("*.md")))
_BLOCK = re.compile(r"^(?:<!-- ([^\n]*) -->\n)?```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ERROR = re.compile(r"# ERROR\s+(\w+): (.+)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    """Line number of its first line of code."""
    label: str
    """The comment right above it, as in ``<!-- needs: torch -->``; empty if there is none."""
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def needs(self) -> str:
        """What has to be installed for it, besides the extras `headless` and `test`."""
        return self.label.removeprefix("needs: ") if self.label.startswith("needs: ") else ""

    def under(self, name: str) -> "Block":
        """The same with the test's own segment name, so that it disturbs no other test and no capture process."""
        code = self.code.replace("billiards_video", name).replace("my_frames", f"{name}-mine")
        # Two cameras become two paths to one segment.
        code = code.replace('"left"', repr(name)).replace('"right"', repr(f"/dev/shm/{name}"))
        return Block(self.page, self.line, self.label, self.language, code)


def blocks_of(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    text = page.read_text()
    return [
        Block(str(page.relative_to(ROOT)), text.count("\n", 0, found.start(3)) + 1, found[1] or "", found[2], found[3])
        for found in _BLOCK.finditer(text)
    ]


BLOCKS = tuple(block for page in PAGES for block in blocks_of(page))


def in_language(language: str) -> list[Block]:
    """The blocks in one language."""
    return [block for block in BLOCKS if block.language == language]


def labelled(label: str) -> list[Block]:
    """The blocks below a comment with this text."""
    return [block for block in BLOCKS if block.label == label]


def run_python(block: Block, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Run a block here; return what it defines. A line with ``# ERROR  ValueError: text`` has to raise that."""
    tree = _ErrorLines(block.code).visit(ast.parse(block.code))
    namespace: dict[str, Any] = {"__name__": "__main__", **(given or {})}
    exec("from billiards_shm import *", namespace)  # the names of errors
    exec(compile(ast.fix_missing_locations(tree), str(block), "exec", dont_inherit=True), namespace)
    return namespace


@contextmanager
def capturing(folder: Path) -> Iterator[str]:
    """The name under which `capture demo` publishes, small and quick, while the block runs."""
    name = f"documentation-{os.getpid()}-{folder.name}"
    command = [sys.executable, "-m", "billiards_shm", "capture", "demo", "--name", name, "--resolution", "320x240"]
    command += ["--history", "8"]
    with subprocess.Popen([*command, "--fps", "60"], stderr=subprocess.DEVNULL, cwd=folder) as process:
        try:
            with SharedMemoryFrameReader(name) as reader:
                reader.attach(timeout=20)
                assert reader.read_frame(timeout=20)[0] is not None
            yield name
        finally:
            process.terminate()


class _ErrorLines(ast.NodeTransformer):
    """Wraps every statement marked as an error, so that it fails if the error is not raised, or says something else."""

    def __init__(self, code: str) -> None:
        self._lines = code.splitlines()

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if not isinstance(node, ast.stmt) or hasattr(node, "body"):
            return super().generic_visit(node)
        found = _ERROR.search(self._lines[(node.end_lineno or node.lineno) - 1])
        if found is None:
            return node
        missing = f"raise AssertionError({ast.unparse(node)!r} + ': no {found[1]}')"
        says_so = f"assert str(_error).startswith({found[2]!r}), _error"
        frame = ast.parse(f"try:\n    pass\nexcept {found[1]} as _error:\n    {says_so}\nelse:\n    {missing}").body[0]
        assert isinstance(frame, ast.Try)
        frame.body = [node]
        return frame

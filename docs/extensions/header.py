"""Shows a C header as a page: the directive ``{header} FILE`` for Sphinx.

The comment at the top is prose. In it a line in capitals begins a section; lines that are indented further than the
others, or have columns, are shown as they are. The rest of the file is code, cut where a comment says
``/* ---- name */``.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_TITLE = re.compile(r"[A-Z][A-Z ,'-]{3,}[A-Z](?:,? [a-z].*)?")
_RULE = re.compile(r"^/\* -{8,} (.+?) \*/$\n", re.MULTILINE)
_LISTS = {
    re.compile(r"^- ", re.MULTILINE): nodes.bullet_list,
    re.compile(r"^\d+\. ", re.MULTILINE): nodes.enumerated_list,
}
_COLUMNS = re.compile(r"\S {2,}\S")
_MARKED = re.compile(r"`([^`]+)`|(?<![\w*])\*(\w[^*]*)\*(?![\w*])")


def sections(comment: str) -> Iterator[tuple[str, list[str]]]:
    """Title and paragraphs of each section; the first has no title."""
    title, paragraphs, lines = "", [], []

    def paragraph() -> list[str]:
        return ["\n".join(lines)] if lines else []

    for line in [*comment.splitlines(), ""]:
        if _TITLE.fullmatch(line.strip()) and not line.startswith(" "):
            yield title, paragraphs
            title, paragraphs, lines = line.strip(), [], []
        elif line.strip():
            lines.append(line)
        elif lines:
            paragraphs += paragraph()
            lines = []
    yield title, paragraphs


def split(source: str) -> tuple[str, list[tuple[str, str]]]:
    """The comment at the top, without its asterisks; and the code, in parts with names."""
    top, _, rest = source.partition("*/\n")
    comment = "\n".join(re.sub(r"^(/\*| \*) ?", "", line) for line in top.splitlines())
    parts = _RULE.split(rest)
    return comment, list(zip(["Preamble", *parts[1::2]], parts[::2], strict=True))


class Header(SphinxDirective):
    """The directive."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Make the sections."""
        _, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(path)
        comment, code = split(Path(path).read_text())
        found: list[nodes.Node] = []
        for title, paragraphs in sections(comment):
            shown = [self._paragraph(text) for text in paragraphs]
            found += [self._section(title.capitalize(), shown)] if title else shown
        for name, text in code:
            block = nodes.literal_block(text.strip(), text.strip(), language="c")
            found.append(self._section(name[0].upper() + name[1:], [block]))
        return found

    def _section(self, title: str, content: list[nodes.Node]) -> nodes.Node:
        section = nodes.section("", nodes.title(title, title), *content)
        section["ids"] = [nodes.make_id(title)]
        section["names"] = [nodes.fully_normalize_name(title)]
        return section

    def _paragraph(self, text: str) -> nodes.Node:
        lines = text.splitlines()
        least = min(len(line) - len(line.lstrip()) for line in lines)
        lines = [line[least:] for line in lines]
        for mark, kind in _LISTS.items():
            if mark.match(lines[0]) and all(mark.match(line) or line.startswith("  ") for line in lines):
                items = mark.split("\n".join(lines))[1:]
                return kind("", *(nodes.list_item("", _words(item)) for item in items))
        if any(_COLUMNS.search(line) or line.startswith(" ") for line in lines):
            shown = "\n".join(lines)
            return nodes.literal_block(shown, shown, language="none")
        return _words(" ".join(lines))


def _words(text: str) -> nodes.Node:
    """A paragraph in which `this` is code and *this* is emphasized."""
    paragraph, end = nodes.paragraph(), 0
    text = re.sub(r"\s+", " ", text)
    for found in _MARKED.finditer(text):
        paragraph += nodes.Text(text[end : found.start()])
        paragraph += nodes.literal("", found[1]) if found[1] else nodes.emphasis("", found[2])
        end = found.end()
    paragraph += nodes.Text(text[end:])
    return paragraph


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("header", Header)
    return {"parallel_read_safe": True}

"""Takes the signatures of compiled functions from the stub beside them, which the extension itself does not have."""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import billiards_shm

STUB = Path(billiards_shm.__file__).with_name("_core.pyi")
# What users know a class of the stub as.
SUBCLASSES = {"SharedMemoryFrameReader": "SegmentReader"}
_CLASS = re.compile(r"^class (\w+).*?(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
_METHOD = re.compile(
    r"^    def (\w+)\(\s*self,?\s*(.*?),?\s*\) -> ([^\n]*|[^\n]*?\n.*?): \.\.\.$", re.MULTILINE | re.DOTALL
)


def signatures() -> dict[str, tuple[str, str]]:
    """Arguments and result by name, of methods as `Class.method`; a class has those of its constructor."""
    found = {}
    for one in _CLASS.finditer(STUB.read_text()):
        for method in _METHOD.finditer(one[0]):
            name, arguments, result = method.groups()
            key = one[1] if name == "__init__" else f"{one[1]}.{name}"
            found[key] = f"({' '.join(arguments.split())})", "" if name == "__init__" else " ".join(result.split())
    return found


SIGNATURES = signatures()


def signature(app: Sphinx, what: str, name: str, *_: Any) -> tuple[str, str] | None:
    """For autodoc; None: as it found them."""
    first, _dot, rest = name.removeprefix("billiards_shm.").partition(".")
    if what not in ("class", "method"):
        return None
    return SIGNATURES.get(f"{SUBCLASSES.get(first, first)}.{rest}".rstrip("."))


def setup(app: Sphinx) -> dict[str, bool]:
    """Listen to autodoc."""
    app.connect("autodoc-process-signature", signature, priority=1)  # before numpydoc looks into docstrings
    return {"parallel_read_safe": True}

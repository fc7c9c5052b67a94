"""README.md as the tests see it: its code blocks, its commands, and the table made from the configuration model.

``python tests/support/readme.py`` writes that table anew.
"""

import json
import re

from repository import ROOT

from billiards_shm.config.model import configuration_keys

README = ROOT / "README.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TABLE = re.compile(r"(?<=<!-- configuration -->\n).*?(?=<!-- /configuration -->)", re.DOTALL)


def code_blocks(language: str) -> list[str]:
    """The contents of every block of that language."""
    return [code for found, code in _BLOCK.findall(README.read_text()) if found == language]


def command(label: str) -> str:
    """The shell command behind ``<!-- label -->``."""
    found = re.search(rf"<!-- {label} -->\n```sh\n(.+)\n```", README.read_text())
    if found is None:
        raise LookupError(f"README.md has no command labelled {label!r}")
    return found[1]


def configuration_table() -> str:
    """The model as a Markdown table."""
    rows = ["| key | default | what it is | allowed |", "|---|---|---|---|"]
    for key in configuration_keys():
        cells = (f"`{key.path}`", f"`{json.dumps(key.default)}`", key.description, key.allowed)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def table_in_readme() -> str:
    """What stands there now."""
    found = _TABLE.search(README.read_text())
    if found is None:
        raise LookupError("README.md has no configuration table")
    return found[0]


if __name__ == "__main__":
    README.write_text(_TABLE.sub(lambda _: configuration_table(), README.read_text()))

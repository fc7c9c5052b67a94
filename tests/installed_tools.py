"""Linters and checkers that were installed beside the interpreter."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def tool(name: str, *arguments: object) -> str:
    """What it prints, run in the project's folder; the test fails with that if the tool finds fault."""
    done = subprocess.run(
        [Path(sys.executable).parent / name, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout

"""Programs that slow tests need."""

import shutil

import pytest


def needs(*commands: str) -> None:
    """Fail if a command is missing: slow tests run on request, and a skipped test proves nothing."""
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        pytest.fail(f"install {', '.join(missing)}: see the first lines of .ci/run")

"""Programs that slow tests need."""

import shutil

import pytest


def needs(*commands: str) -> None:
    """Fail where a command is missing: slow tests are asked for, and a test that is skipped says nothing."""
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        pytest.fail(f"install {', '.join(missing)}: the first lines of .ci/run say from where")

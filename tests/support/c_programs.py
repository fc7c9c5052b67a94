"""What it takes to build the programs of tests/c."""

import re
import shlex
import subprocess
from collections.abc import Iterable
from os import environ
from pathlib import Path

COMPILER = shlex.split(environ.get("CC", "cc"))


def run(command: Iterable[str | Path], timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=timeout,
        check=False,
    )


def run_program(program: Path, *arguments: str, wrapper: Iterable[str] = ()) -> subprocess.CompletedProcess[str]:
    finished = run([*wrapper, program, *arguments])
    if (
        "unexpected memory mapping" in finished.stdout
    ):  # an older ThreadSanitizer, and address randomization of a newer kernel
        finished = run([*wrapper, "setarch", "-R", program, *arguments])
    return finished


def wrapped_by(source: Path) -> list[str]:
    """Linker flags for the functions that a program wraps."""
    text = source.read_text()
    names = {*re.findall(r"^WRAPPED\((\w+),", text, re.MULTILINE), *re.findall(r"\) __wrap_(\w+);", text)}
    return [f"-Wl,--wrap={name}" for name in sorted(names)]

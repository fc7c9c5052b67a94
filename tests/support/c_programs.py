"""Builds and runs the programs of tests/c."""

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

COMPILER = shlex.split(os.environ.get("CC", "cc"))


def run(command: Iterable[str | Path], timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
    """Run it, and kill what it leaves behind: children of a mutant may loop forever."""
    words = [str(part) for part in command]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(words, **streams, encoding="utf-8", errors="replace", start_new_session=True) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(words, process.returncode, output)


def run_program(
    program: Path, *arguments: str, wrapper: Iterable[str] = (), timeout: float = 300.0
) -> subprocess.CompletedProcess[str]:
    finished = run([*wrapper, program, *arguments], timeout)
    if (
        "unexpected memory mapping" in finished.stdout
    ):  # an older ThreadSanitizer, and address randomization of a newer kernel
        finished = run([*wrapper, "setarch", "-R", program, *arguments], timeout)
    return finished


def wrapped_by(source: Path) -> list[str]:
    """Linker flags for the functions that a program wraps."""
    text = source.read_text()
    names = {*re.findall(r"^WRAPPED\((\w+),", text, re.MULTILINE), *re.findall(r"\) __wrap_(\w+);", text)}
    return [f"-Wl,--wrap={name}" for name in sorted(names)]

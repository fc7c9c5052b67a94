"""CPython for ARM64 in its own directory, run by qemu wherever an interpreter is called.

It is Debian's, unpacked and not installed: apt uses its own state, and no binary format is registered. The
returned path behaves like any interpreter, also for virtual environments, in the first line of scripts, and for
processes that it starts.
"""

import shlex
import shutil
from pathlib import Path

import pytest
from virtual_environments import run

VERSION = "3.11"
QEMU = "qemu-aarch64-static"
INTERPRETER = (f"python{VERSION}", "libstdc++6")  # and what they depend on; the second is for extensions in C++
HEADERS = f"libpython{VERSION}-dev"  # and nothing else: its dependencies are for programs that embed Python


def unpacked(place: Path) -> Path:
    """Fetch the packages and unpack them; return the root directory of its file system."""
    for tool in ("apt-get", "dpkg-deb", QEMU):
        if shutil.which(tool) is None:
            pytest.fail(f"{tool} is not there: Python for ARM64 comes from Debian's packages and is run by qemu")
    fetched, root = place / "packages", place / "root"
    for directory in (place / "state", place / "cache", fetched, root):
        directory.mkdir(parents=True)
    (place / "installed").touch()
    _apt(place, "update")
    _apt(place, "install", "--download-only", "--no-install-recommends", "--yes", *INTERPRETER)
    _apt(place, "download", HEADERS, cwd=fetched)
    for package in (*(place / "cache" / "archives").glob("*.deb"), *fetched.glob("*.deb")):
        run("dpkg-deb", "--extract", package, root)
    return root


def _apt(place: Path, *words: str, cwd: Path | None = None) -> None:
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",  # the directories belong to the user who runs the tests
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Dir::Cache": place / "cache",
        "Dir::State": place / "state",
        "Dir::State::status": place / "installed",
    }
    settings = [f"--option={name}={value}" for name, value in options.items()]
    run("apt-get", "--quiet", *settings, *words, cwd=cwd)


def emulated(root: Path) -> Path:
    """Make the command that runs the interpreter under `root`."""
    command = root / "usr" / "bin" / "python"
    binary = shlex.quote(str(root / "usr" / "bin" / f"python{VERSION}"))
    # It gets the name it was called by: with that it finds its libraries, and starts further processes.
    command.write_text(f'#!/bin/sh\nexec {QEMU} -0 "$0" -L {shlex.quote(str(root))} {binary} "$@"\n')
    command.chmod(0o755)
    return command

"""Interpreters of this machine, fresh virtual environments, and the versions that pyproject.toml allows."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from repository import ROOT

TOOLS = Path(sys.executable).parent
EXTRAS = ("cli", "headless", "serve")


def _candidates(version: str) -> Iterator[Path]:
    if f"{sys.version_info.major}.{sys.version_info.minor}" == version:
        yield Path(sys.executable)
    if found := shutil.which(f"python{version}"):
        yield Path(found)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python"), reverse=True)


def interpreter(version: str) -> Path:
    """Path of a Python of that version; the test fails where there is none."""
    for candidate in _candidates(version):
        asked = subprocess.run(
            [candidate, "-V"], capture_output=True, text=True, check=False
        )  # a shim may point nowhere
        if asked.returncode == 0 and asked.stdout.startswith(f"Python {version}."):
            return candidate
    pytest.fail(f"no Python {version} on this machine: neither as python{version} on PATH nor among pyenv's versions")


def run(*command: object, cwd: Path | None = None, **environment: str) -> str:
    """What a command prints, both streams; if it fails, the test fails with that output."""
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout[-6000:]}"
    return done.stdout


def tool(name: str, *arguments: object) -> str:
    """The output of a linter or checker installed next to the interpreter, run in the project's folder."""
    return run(TOOLS / name, *arguments, cwd=ROOT)


def environment(place: Path, base: Path, requirements: Iterable[str], constraints: Iterable[str] = ()) -> Path:
    """Make a virtual environment of the interpreter `base` with `requirements`; return its interpreter."""
    run(base, "-m", "venv", "--without-pip", place)
    python = place / "bin" / "python"
    limits = place / "constraints.txt"
    limits.write_text("\n".join(constraints))
    # uv links files from its cache that pip would unpack again for each environment.
    uv = [TOOLS / "uv", "pip", "install", "--quiet", "--python", python]
    run(*uv, "--constraints", limits, *requirements)
    return python


def oldest_allowed() -> list[str]:
    """The lower bound of every package that a user installs, each as ``name==version``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    declared = [*project["dependencies"], *(line for extra in EXTRAS for line in optional.get(extra, []))]
    bounds = dict(re.fullmatch(r"([\w.-]+)(?:\[\w+\])?>=([\d.]+)", line).groups() for line in declared if ">=" in line)
    assert bounds.keys() >= {"numpy", "opencv-python-headless", "click", "pydantic"}
    return [f"{name}=={version}{'' if version.count('.') > 1 else '.*'}" for name, version in bounds.items()]

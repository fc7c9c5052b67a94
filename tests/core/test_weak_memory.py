"""The window on weak memory: model/window.cpp, run by Relacy in many random schedules, and mutations to notice."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from tools import needs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("models")]

MODEL = Path(__file__).parent / "model" / "window.cpp"
COMPILER = shlex.split(os.environ.get("CXX", "c++"))
SCHEDULES = 500_000

# Its report on each.
MUTATIONS = {
    "NO_R0": "claimed >= 0",
    "NO_W11": "claimed >= 0",
    "NO_R4": "== m",
    "R1_RELAXED": "m + HISTORY <",
    "R6_RELAXED": "DATA RACE",
    "W3_AND_W5_WEAK": "DATA RACE",
}


def schedules(directory: Path, *macros: str) -> tuple[int, str]:
    """Exit code and output."""
    needs(COMPILER[0])
    program = directory / "window"
    flags = ["-std=c++11", "-O2", "-w", *(f"-D{macro}" for macro in macros)]  # Debian: relacy-dev
    subprocess.run([*COMPILER, *flags, str(MODEL), "-o", str(program)], check=True)
    done = subprocess.run([program, str(SCHEDULES)], capture_output=True, text=True, timeout=250, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("size", ["", "HISTORY=2 FRAMES=8", "TOKENS=2", "TOKENS=2 HISTORY=2 FRAMES=8", "HISTORY=0"])
def test_the_window_holds_on_weak_memory(size: str, tmp_path: Path) -> None:
    code, printed = schedules(tmp_path, *size.split())
    assert code == 0, printed
    assert re.search(rf"^iterations: {SCHEDULES}$", printed, re.MULTILINE), printed
    print(f"{size or 'smallest'}: {SCHEDULES} schedules")


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_step_that_is_weaker_is_noticed(mutation: str, tmp_path: Path) -> None:
    code, printed = schedules(tmp_path, mutation)
    assert code == 1, printed
    assert MUTATIONS[mutation] in printed
    print(f"{mutation}: noticed in schedule {re.findall(r'^iteration: ([0-9]+)', printed, re.MULTILINE)}")

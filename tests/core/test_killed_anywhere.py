"""SIGKILL at every instruction of the core, and at every boundary of a system call: promise 4, tested.

kill/driver.c is the process that dies, kill/killer.c the one that traces and kills it and then checks that
everyone else goes on. Both run on a library built here from csrc, or from a copy with a planted bug.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from repository import CSRC

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("kill")]

HARNESS = Path(__file__).parent / "kill"
LIBRARY = "libbshm-to-be-killed.so"

# Longest first, so that workers finish together.
PHASES = (
    "take-over-full",
    "take-over",
    "replace",
    "create",
    "clean",
    "attach",
    "grow",
    "next",
    "publish-history",
    "publish",
    "loan-history",
    "loan",
    "close",
    "detach",
    "copy",
    "acquire-release",
    "report",
)

# Phases that assign, take or remove a name.
NAMING_PHASES = ("take-over", "create", "clean", "close")

CALLS_MATTER = ("create", "take-over", "take-over-full", "replace", "close", "clean")

# Kills spend more time waiting than working: for readers that look again after a few milliseconds.
WORKERS = 2 * len(os.sched_getaffinity(0))


class Outcome(NamedTuple):
    printed: str
    stops: int
    failures: int


def compile_with(*arguments: object) -> None:
    subprocess.run([*map(str, ("cc", "-std=c11", "-D_GNU_SOURCE", "-O2", "-pthread", *arguments))], check=True)


def build_library(sources: Path, into: Path) -> Path:
    # Bound at load time: the dynamic linker is not under test.
    linked = ("-fPIC", "-shared", "-Wl,-z,now", f"-Wl,-soname,{LIBRARY}")
    compile_with("-g", *linked, *sorted(sources.rglob("*.c")), "-o", into / LIBRARY)
    return into


def build_program(program: str, into: Path) -> None:
    warnings = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")
    source = HARNESS / f"{program}.c"
    compile_with(*warnings, f"-I{CSRC}", source, "-o", into / program, into / LIBRARY)


def run_killer(programs: Path, library: Path, *arguments: object) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="test-killed-", dir="/dev/shm") as directory:
        Path(directory).chmod(0o755)  # for an observer, which is another user
        command = [programs / "killer", programs / "driver", LIBRARY, directory, *arguments]
        environment = os.environ | {"LD_LIBRARY_PATH": str(library)}
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment)
    printed = done.stdout + done.stderr
    found = re.search(r"^(\d+) (?:kills|rivals), (\d+) failures$", printed, re.MULTILINE)
    assert found is not None, f"the killer did not come to its end ({done.returncode}): {printed}"
    return Outcome(printed, int(found[1]), int(found[2]))


def run_phases(built: Path, jobs: Iterable[tuple[object, ...]], workers: int = WORKERS) -> list[Outcome]:
    """Run each job in its own killer. Prints the counts; no failure is expected."""
    with ThreadPoolExecutor(workers) as pool:
        outcomes = list(pool.map(lambda job: run_killer(built, built, *job), jobs))
    for outcome in outcomes:
        print(*(line for line in outcome.printed.splitlines() if re.search("instructions|boundaries|left out", line)))
    print(sum(outcome.stops for outcome in outcomes), "in all")
    assert [outcome.printed for outcome in outcomes if outcome.failures] == []
    return outcomes


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with library, driver and killer."""
    into = build_library(CSRC, tmp_path_factory.mktemp("kill"))
    for program in ("driver", "killer"):
        build_program(program, into)
    return into


@pytest.fixture
def mutated(tmp_path: Path) -> Path:
    """A directory with a copy of the sources."""
    shutil.copytree(CSRC, tmp_path / "csrc")
    return tmp_path


def plant(where: Path, old: str, new: str) -> Path:
    """A library of the sources with one change."""
    places = [source for source in (where / "csrc").rglob("*.[ch]") if old in source.read_text()]
    assert len(places) == 1, f"{len(places)} files have {old!r}: the planted bug needs a new place"
    text = places[0].read_text()
    assert text.count(old) == 1
    places[0].write_text(text.replace(old, new))
    return build_library(where / "csrc", where)


def test_a_kill_at_any_instruction_or_system_call_harms_nobody(built: Path) -> None:
    outcomes = run_phases(built, ((phase,) for phase in PHASES))
    for phase, outcome in zip(PHASES, outcomes, strict=True):
        if "left out" in outcome.printed:
            continue
        visited, executed = map(int, re.findall(r"(\d+) of (\d+) instructions", outcome.printed)[0])
        assert visited == executed > 100, f"{phase}: {outcome.printed}"
        reached, boundaries = map(int, re.findall(r"(\d+) of (\d+) system call boundaries", outcome.printed)[0])
        assert boundaries > 0, f"{phase}: {outcome.printed}"
        assert reached >= boundaries - 4 or phase not in CALLS_MATTER, f"{phase}: {outcome.printed}"


def test_a_rival_at_every_third_instruction_never_shares_a_name_nor_loses_it(built: Path) -> None:
    parts = [("--rivals", "--every", 3, "--part", f"{part}/3", phase) for phase in NAMING_PHASES for part in range(3)]
    outcomes = run_phases(built, parts, 2 * WORKERS)
    assert sum(outcome.stops for outcome in outcomes) > 1000


class Bug(NamedTuple):
    phase: str
    old: str
    new: str
    expected: str
    what: tuple[object, ...] = ("--instructions", "--every", 20)


BUGS = {
    "a new owner of a token does not clear it": Bug(
        "acquire-release",
        "bshm_clear_release(&control->pins[slot].word, UINT64_C(1) << token);\n}\n\n/* R0, every time",
        "(void)control, (void)token;\n}\n\n/* R0, every time",
        "leases broken",
    ),
    "a writer that closes lets its lock go before it removes its name": Bug(
        "close",
        "if (state == BSHM_STATE_CLOSED && bshm",
        "if (bshm_os_unlock(segment->lock_file, BSHM_WRITER_BYTE), state == BSHM_STATE_CLOSED && bshm",
        "a rival had the name and lost it",
        ("--rivals", "--every", 5),
    ),
    "the writer ignores pins": Bug(
        "publish",
        "if (word & BSHM_TOKEN_MASK(token_count))",
        "if (token_count == 0)",
        "torn: a view",
    ),
    "the writer forgets that it keeps a history": Bug(
        "publish-history",
        "writer->window += writer->window <= writer->options.history;",
        "writer->window = 1;",
        "of the window of",
    ),
    "a reader in turn leaves a frame out": Bug(
        "next",
        "uint64_t next = reader->seen + 1;",
        "uint64_t next = reader->seen + 1 + (reader->seen % 7 == 3);",
        "came in turn after",
    ),
    "a frame is shown before it is complete": Bug(
        "publish",
        "    bshm_step_store_descriptor(header, slot, info);",
        "    bshm_step_store_latest(header, slot, n);\n    bshm_step_store_descriptor(header, slot, info);",
        "a late reader did not get the newest frame",
    ),
    "a take-over starts counting again": Bug(
        "publish",
        "predecessor->sequence = highest_sequence(address, &predecessor->identity);",
        "predecessor->sequence = highest_sequence(address, &predecessor->identity) * 0;",
        "was published after",
    ),
    "a writer closes and leaves its name": Bug(
        "close",
        "(void)bshm_os_unlink(path); /* under the lock",
        "(void)path; /* under the lock",
        "the name is still there",
    ),
    "a reader that is gone keeps its files": Bug(
        "attach",
        "    bshm_object_close(&attachment->data_file);\n    bshm_os_unmap(attachment->control",
        "    bshm_os_unmap(attachment->control",
        "files are open",
    ),
    "clean lets the dead segment's lock go before it removes the name": Bug(
        "clean",
        "    rc = bshm_os_unlink(path);\n    bshm_predecessor_drop(&predecessor);\n",
        "    bshm_predecessor_drop(&predecessor);\n    rc = bshm_os_unlink(path);\n",
        "a rival had the name and lost it",
        ("--rivals", "--every", 5),
    ),
}


@pytest.mark.parametrize("says", BUGS)
def test_the_killer_finds_a_planted_bug(says: str, built: Path, mutated: Path) -> None:
    bug = BUGS[says]
    outcome = run_killer(built, plant(mutated, bug.old, bug.new), *bug.what, "--enough", 3, bug.phase)
    assert outcome.failures > 0
    assert bug.expected in outcome.printed

"""Tens of thousands of inputs for the checks of identity and descriptor, and for everything done with such an object.

libFuzzer with AddressSanitizer and UndefinedBehaviorSanitizer; tests/core/fuzz/*.c state what each result must satisfy.
"""

import itertools
import os
import random
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import segment_layout as layout
from repository import CSRC
from segment_layout import SegmentObject, opened
from segments_under_test import path_of
from tools import needs

from billiards_shm import SharedMemoryFrameWriter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("fuzz")]

HARNESS = Path(__file__).parent / "fuzz"
TARGETS = ("fuzz_header", "fuzz_descriptor")
SLOTS = 5  # as in tests/core/fuzz/object.h
OBJECT_BYTES = layout.PIXELS + layout.MAX_SLOTS * layout.REGION


class Outcome(NamedTuple):
    inputs: int
    found: str
    """The fuzzer's report on an input that broke something; empty if none did."""


def build(target: str, sources: Path, into: Path) -> Path:
    program = into / target
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
    sanitizers = ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
    command = ["clang", "-std=c11", "-D_GNU_SOURCE", "-O1", "-g", *warnings, *sanitizers, f"-I{sources}"]
    parts = [str(HARNESS / f"{target}.c"), *map(str, sorted(sources.rglob("*.c")))]
    done = subprocess.run([*command, *parts, "-o", str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


# ---------------------------------------------------------------- seeds


def header_seeds(segment: SegmentObject) -> Iterator[bytes]:
    """Object bytes, choices (1: sealed again, 2: taken over, 4: cut short), identity."""
    identity = os.pread(segment.file, layout.IDENTITY_BYTES, 0)
    for choices in (0, 1, 3):
        yield struct.pack("<QB", OBJECT_BYTES, choices) + identity
    for size in (0, 8, 64, layout.IDENTITY_BYTES, 4096):
        yield struct.pack("<QB", size, 5) + identity
    fields = {name: (at, form) for name, at, form in layout.IDENTITY}
    numbers = ("slot_count", "token_count", "history", "total_bytes", "slot_stride", "slot_capacity", "base_sequence")
    for field in (*numbers, "abi_major"):
        at, form = fields[field]
        most = 2 ** (8 * struct.calcsize(form)) - 1
        for value in (0, 1, 2, 3, 62, 63, layout.REGION, most // 2, most):
            if value <= most:
                changed = bytearray(identity)
                struct.pack_into("<" + form, changed, at, value)
                yield struct.pack("<QB", OBJECT_BYTES, 1) + changed


def descriptor_seeds(segment: SegmentObject) -> Iterator[bytes]:
    """Capacity, choices (1: taken over, 2: newest number and slot agree), publication, descriptors, pins."""
    publication = os.pread(segment.file, layout.PUBLICATION_BYTES, layout.PUBLICATION_AT)
    descriptors = os.pread(segment.file, SLOTS * layout.DESCRIPTOR_BYTES, layout.DESCRIPTORS_AT)
    pins = struct.pack(f"<{SLOTS}Q", *segment.pins)
    for choices in range(4):
        yield struct.pack("<QB", 4096, choices) + publication + descriptors + pins
    for latest in (0, 1 << 6, 4 << 6 | SLOTS, 4 << 6 | 61, 4 << 6 | 62, 2**64 - 1):
        yield struct.pack("<QBQ", 4096, 2, latest) + publication[8:] + descriptors + pins
    for word in (layout.WRITING, 1, 7, 2**64 - 1):
        yield struct.pack("<QB", 4096, 3) + publication + descriptors + struct.pack("<Q", word) * SLOTS
    # Rows 2^40 bytes apart, 2^24 + 1 of them: their product is 0 in 64 bits.
    fields = {name: (at, "<" + form) for name, at, form in layout.DESCRIPTOR}
    wrapped = bytearray(descriptors)
    for field, value in {"row_stride": 2**40, "height": 2**24 + 1, "width": 1, "payload_bytes": 1}.items():
        at, form = fields[field]
        struct.pack_into(form, wrapped, segment.latest[1] * layout.DESCRIPTOR_BYTES + at, value)
    yield struct.pack("<QB", 2**41, 2) + publication + wrapped + pins


SEEDS: dict[str, Callable[[SegmentObject], Iterator[bytes]]] = {
    "fuzz_header": header_seeds,
    "fuzz_descriptor": descriptor_seeds,
}


def write_seeds(target: str, segment_name: str, corpus: Path, most: int | None = None) -> None:
    corpus.mkdir()
    with SharedMemoryFrameWriter(segment_name, (64, 64), slots=SLOTS) as writer:
        for number in range(1, 5):
            writer.write_frame(np.full((64, 64), number, np.uint8))
        with opened(path_of(segment_name)) as segment:
            for number, seed in enumerate(itertools.islice(SEEDS[target](segment), most)):
                (corpus / f"seed-{number}").write_bytes(seed)


# ---------------------------------------------------------------- runs


def fuzz(program: Path, corpus: Path, seconds: int, seed: int = 1) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="test-fuzz-", dir="/dev/shm") as directory:
        done = subprocess.run(
            [str(program), f"-seed={seed}", f"-max_total_time={seconds}", "-max_len=1024", "-timeout=20",
             "-rss_limit_mb=2048", "-print_final_stats=1", f"-artifact_prefix={corpus}/", str(corpus)],
            env=os.environ | {"FUZZ_DIRECTORY": directory, "UBSAN_OPTIONS": "print_stacktrace=1"},
            capture_output=True,
            text=True,
            errors="replace",
        )  # fmt: skip
    inputs = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert done.returncode != 0 or inputs, done.stderr
    return Outcome(int(inputs[1]) if inputs else 0, done.stderr[-8000:] if done.returncode != 0 else "")


def fuzz_all(programs: dict[str, Path], segment_name: str, where: Path, seconds: int, seed: int) -> None:
    for target in TARGETS:
        write_seeds(target, segment_name, where / target)
    with ThreadPoolExecutor(len(TARGETS)) as workers:
        runs = {target: workers.submit(fuzz, programs[target], where / target, seconds, seed) for target in TARGETS}
        outcomes = {target: run.result() for target, run in runs.items()}
    for target, outcome in outcomes.items():
        print(f"{target}: {outcome.inputs} inputs, seed {seed}")
    assert {target: outcome.found for target, outcome in outcomes.items()} == dict.fromkeys(TARGETS, "")
    assert all(outcome.inputs > 500 for outcome in outcomes.values())


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    needs("clang")
    into = tmp_path_factory.mktemp("fuzz")
    with ThreadPoolExecutor(len(TARGETS)) as workers:
        return dict(zip(TARGETS, workers.map(lambda target: build(target, CSRC, into), TARGETS), strict=True))


def test_no_identity_or_descriptor_breaks_anything(
    programs: dict[str, Path], segment_name: str, tmp_path: Path
) -> None:
    fuzz_all(programs, segment_name, tmp_path, seconds=45, seed=random.SystemRandom().randrange(1, 2**31))


# ---------------------------------------------------------------- planted bugs

BUGS = {
    "the slot of the newest frame is not checked": (
        "fuzz_descriptor",
        "if (BSHM_LATEST_SLOT(latest) < attachment->identity.slot_count)",
        "if (attachment)",
    ),
    "rows may reach beyond the slot": (
        "fuzz_descriptor",
        "info->payload_bytes < info->row_stride * (info->height - 1) + planned.row_stride",
        "planned.row_stride == 0",
    ),
    "the size of the object is not checked": (
        "fuzz_header",
        "identity->total_bytes != needed || object_bytes < needed",
        "identity->total_bytes != needed",
    ),
}


def plant(old: str, new: str, where: Path) -> Path:
    """A copy of the sources, with one change."""
    sources = where / "csrc"
    shutil.copytree(CSRC, sources)
    places = [source for source in sources.rglob("*.[ch]") if old in source.read_text()]
    assert len(places) == 1, f"{len(places)} files have {old!r}: the planted bug needs a new place"
    text = places[0].read_text()
    assert text.count(old) == 1
    places[0].write_text(text.replace(old, new))
    return sources


@pytest.mark.parametrize("bug", BUGS)
def test_the_fuzzer_finds_a_planted_bug(bug: str, segment_name: str, tmp_path: Path) -> None:
    target, old, new = BUGS[bug]
    program = build(target, plant(old, new, tmp_path), tmp_path)
    write_seeds(target, segment_name, tmp_path / "corpus", most=1)  # a valid one: it has to find the rest itself
    outcome = fuzz(program, tmp_path / "corpus", seconds=30)
    assert re.search(r"not so|ERROR: AddressSanitizer|runtime error", outcome.found), outcome

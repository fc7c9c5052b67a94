"""Promise 2: no reader can stall the writer, by being slow, stopped, numerous, or mad.

Times mean little on a shared machine. So two things are checked that do not depend on time: a fixed number of
writes publishes that many frames, and publishing takes the same number of instructions whichever readers are attached
(callgrind counts them, in a C program built from the same sources).
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from child_processes import Child
from repository import CSRC
from segments_under_test import SHAPE, new_frame, picture, sees, wait_until
from tools import needs

from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter, inspect_segment

WRITES = 3000
DRIVER = Path(__file__).parent / "stall" / "publish.c"

# ---------------------------------------------------------------- hostile readers

HOLD_ALL_THEY_CAN = """
readers = [SharedMemoryFrameReader(sys.argv[1], max_leases=2) for _ in range(int(sys.argv[2]))]
held = [new_frame(reader) for reader in readers]
say("held")
told()
held += [new_frame(reader) for reader in readers]
say("held", sum(metadata.zero_copy for _, metadata in held))
told()
"""

SIXTY_WAIT = """
pids = []
for _ in range(60):
    pid = os.fork()
    if pid == 0:
        try:
            with SharedMemoryFrameReader(sys.argv[1]) as reader:
                for frame, metadata in reader:
                    assert sees(frame, metadata.sequence)
        except BaseException as error:
            say(repr(error))
            os._exit(1)
        os._exit(0)
    pids.append(pid)
say("forked")
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
say("all ended well")
"""

FORGE = """
import mmap
from segment_layout import CONTROL, PIN_BYTES
from segments_under_test import path_of

with open(path_of(sys.argv[1]), "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
say("mapped")
while True:
    for slot in range(int(sys.argv[2])):
        at = CONTROL + slot * PIN_BYTES
        memory[at : at + 8] = b"\\xff" * 8
"""


@contextmanager
def hold_leases(name: str, writer: SharedMemoryFrameWriter, *, stop: bool = False) -> Iterator[Child]:
    """Three readers with two leases each, which is all that eight slots have; they never return them."""
    with Child(HOLD_ALL_THEY_CAN, name, 3) as child:
        assert child.says() == "held"
        writer.write_frame(picture(writer.sequence + 1))
        child.tell()
        assert child.says() == "held 6"
        if stop:
            child.process.send_signal(signal.SIGSTOP)
        yield child
        leases = sum(reader.leases for reader in inspect_segment(name).readers if reader.pid == child.pid)
        assert leases > 0, "still held"


@contextmanager
def stopped_readers(name: str, writer: SharedMemoryFrameWriter) -> Iterator[None]:
    with hold_leases(name, writer, stop=True):
        yield


@contextmanager
def readers_that_never_release(name: str, writer: SharedMemoryFrameWriter) -> Iterator[None]:
    with hold_leases(name, writer):
        yield


@contextmanager
def sixty_readers(name: str, writer: SharedMemoryFrameWriter) -> Iterator[None]:
    with Child(SIXTY_WAIT, name) as child:
        assert child.says() == "forked"
        wait_until(lambda: len(inspect_segment(name).readers) >= 60)
        yield
        writer.close()
        assert child.says() == "all ended well"
        child.ends_well()


@contextmanager
def a_forger(name: str, writer: SharedMemoryFrameWriter) -> Iterator[None]:
    with Child(FORGE, name, 8) as child:
        assert child.says() == "mapped"
        written = writer.sequence
        wait_until(lambda: writer.write_frame(picture(writer.sequence + 1)) and writer.statistics.leases_broken > 0)
        assert writer.statistics.published == writer.sequence > written
        yield
        assert child.process.poll() is None, "it forged to the end"


COMPANY: list[Callable[..., object]] = [stopped_readers, readers_that_never_release, sixty_readers, a_forger]


@pytest.mark.parametrize("company", COMPANY)
def test_every_write_publishes_and_other_readers_go_on_whoever_reads_too(
    segment_name: str, company: Callable[..., object]
) -> None:
    with (
        ExitStack() as others,
        SharedMemoryFrameWriter(segment_name, SHAPE, slots=8) as writer,
        SharedMemoryFrameReader(segment_name) as witness,
    ):
        writer.write_frame(picture(1))
        others.enter_context(company(segment_name, writer))  # type: ignore[arg-type]
        before = writer.statistics
        first = writer.sequence + 1
        seen = 0
        for number in range(first, first + WRITES):
            assert writer.write_frame(picture(number)) == number
            if number % 10 == 0:
                frame, metadata = new_frame(witness)
                assert metadata.sequence == number
                # A forger can spoil a held view, but not one that is checked immediately, before anything is written.
                assert sees(frame, number)
                seen += 1
                del frame
        after = writer.statistics
        assert after.published - before.published == WRITES
        assert after.dropped == 0
        assert (after.leases_broken > 0) == (company is a_forger)
        others.close()
        print(f"{company.__name__}: {WRITES} writes, {seen} seen by a witness, {after.leases_broken} leases broken")


# ---------------------------------------------------------------- instructions

ATTACH = """
readers, held = [], []
for _ in range(int(sys.argv[2])):
    readers.append(SharedMemoryFrameReader(sys.argv[1], max_leases=1))
    frame, metadata = new_frame(readers[-1])
    if sys.argv[3] == "hold":
        held.append(frame)
        say("next")
        told()
    del frame
say("attached")
told()
"""

Build = Callable[..., Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Build the driver, optionally with a line of writer.c replaced."""
    built: dict[tuple[str, str] | None, Path] = {}

    def make(mutation: tuple[str, str] | None = None) -> Path:
        if mutation not in built:
            directory = tmp_path_factory.mktemp("publish")
            sources = shutil.copytree(CSRC, directory / "csrc")
            if mutation:
                writer = sources / "writer.c"
                text = writer.read_text()
                assert text.count(mutation[0]) == 1, f"writer.c has changed: {mutation[0]!r}"
                writer.write_text(text.replace(*mutation))
            compiler = os.environ.get("CC", "cc")
            flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"]
            files = [str(DRIVER), *sorted(map(str, sources.rglob("*.c")))]
            program = directory / "publish"
            subprocess.run([compiler, *flags, f"-I{sources}", "-o", str(program), *files], check=True)
            built[mutation] = program
        return built[mutation]

    return make


@contextmanager
def driver(
    program: Path, name: str, *arguments: object, under: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """The C writer, ready to publish. Killed at the end of the block, unless it ended."""
    command = [*under, str(program), name, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def published(process: subprocess.Popen[str]) -> tuple[int, int, int]:
    """Let it publish. Frames published, dropped, and leases broken."""
    answer, _ = process.communicate("go\n", timeout=60)
    assert process.returncode == 0
    done, dropped, broken = map(int, answer.split())
    return done, dropped, broken


COUNTED = 6


def instructions(
    program: Path,
    name: str,
    directory: Path,
    readers: int,
    manner: str = "look",
    *,
    slots: int = 8,
    forge: bool = False,
) -> int:
    """Instructions to publish one frame, once all needed slots have memory.

    The least of the last few frames, because once a second a writer also checks that it still has its name.
    """
    needs("valgrind")
    out = directory / f"{readers}-{manner}-{slots}-{forge}-{program.parent.name}"
    rounds = slots + COUNTED
    callgrind = (
        "valgrind", "--quiet", "--tool=callgrind", "--toggle-collect=publish_frames", "--dump-after=publish_frames",
        f"--callgrind-out-file={out}",
    )  # fmt: skip
    with (
        driver(program, name, slots, rounds, 1, *(["forge"] if forge else []), under=callgrind) as process,
        Child(ATTACH, name, readers, manner) as child,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        while (said := child.says()) == "next":  # it holds that frame, and the next reader should hold another
            process.stdin.write("next\n")
            process.stdin.flush()
            assert process.stdout.readline() == "next\n"
            child.tell()
        assert said == "attached"
        attached = inspect_segment(name)
        assert len(attached.readers) == readers
        assert sum(reader.leases for reader in attached.readers) == (min(readers, slots - 2) if manner == "hold" else 0)
        done, dropped, _ = published(process)
        assert (done, dropped) == (attached.published + rounds, 0)
    dumps = sorted(directory.glob(f"{out.name}.*"), key=lambda path: int(path.suffix[1:]))
    assert len(dumps) == done, "one for each frame"
    return min(total_of(dump) for dump in dumps[-COUNTED:])


def total_of(dump: Path) -> int:
    (line,) = (line for line in dump.read_text().splitlines() if line.startswith("totals:"))
    return int(line.split()[1])


@pytest.mark.slow
@pytest.mark.xdist_group("instructions")
def test_publishing_takes_the_same_instructions_with_no_reader_and_with_fifty(
    segment_name: str, tmp_path: Path, build: Build
) -> None:
    counts = {readers: instructions(build(), segment_name, tmp_path, readers) for readers in (0, 1, 10, 50)}
    print(f"instructions to publish, by readers attached: {counts}")
    assert len(set(counts.values())) == 1, counts
    assert counts[0] > 500, "something was counted"


@pytest.mark.slow
@pytest.mark.xdist_group("instructions")
def test_pins_that_are_held_or_forged_cost_a_bounded_number_of_instructions(
    segment_name: str, tmp_path: Path, build: Build
) -> None:
    alone = instructions(build(), segment_name, tmp_path, 0)
    for slots in (8, 62):
        held = instructions(build(), segment_name, tmp_path, 50, "hold", slots=slots)
        forged = instructions(build(), segment_name, tmp_path, 0, slots=slots, forge=True)
        print(
            f"{slots} slots: {alone} instructions alone, {held} with 50 readers that hold, {forged} with every bit set"
        )
        assert alone <= held <= alone + LOOK * slots, "one pass finds a slot"
        assert alone < forged <= alone + LOOK * slots * slots, "after as many passes as there are slots one is taken"


LOOK = 20  # instructions to look at the pins of one slot, generously


# A writer that looks after its readers, and one that waits for mad ones: the bugs these tests exist for.
VISITS_READERS = (
    "    move_to_front(writer, slot);\n",
    """    move_to_front(writer, slot);
    for (uint32_t i = 0; i < BSHM_MAX_READERS; i++)
        if (bshm_load_relaxed(&writer->segment->control->readers[i].pid) != 0)
            bshm_add_relaxed(&writer->segment->control->readers[i].skipped, 1);
""",
)
GIVES_UP = (
    "    if (*slot == NO_SLOT)\n        *slot = seize_oldest(writer);\n",
    "    (void)seize_oldest;\n    if (*slot == NO_SLOT)\n        return 1;\n",
)
TRIES_LONG = (
    "for (uint32_t pass = 1; pass < segment->identity.slot_count &&",
    "for (uint32_t pass = 1; pass < 1000 &&",
)


@pytest.mark.slow
@pytest.mark.xdist_group("instructions")
def test_a_writer_that_visits_its_readers_is_found(segment_name: str, tmp_path: Path, build: Build) -> None:
    program = build(VISITS_READERS)
    few, many = (instructions(program, segment_name, tmp_path, readers) for readers in (1, 10))
    assert many > few


@pytest.mark.slow
@pytest.mark.xdist_group("instructions")
def test_a_writer_that_is_patient_with_forged_pins_is_found(segment_name: str, tmp_path: Path, build: Build) -> None:
    alone, right = (instructions(build(), segment_name, tmp_path, 0, forge=forge) for forge in (False, True))
    wrong = instructions(build(TRIES_LONG), segment_name, tmp_path, 0, forge=True)
    assert right <= alone + LOOK * 8 * 8 < wrong


@pytest.mark.slow
@pytest.mark.xdist_group("instructions")
def test_a_writer_that_gives_up_on_forged_pins_is_found(segment_name: str, build: Build) -> None:
    with driver(build(), segment_name, 8, 100, 1, "forge") as process:
        done, dropped, broken = published(process)
        assert (done, dropped) == (101, 0)
        assert broken > 0
    with driver(build(GIVES_UP), segment_name, 8, 100, 1, "forge") as process:
        done, _, broken = published(process)
        assert done < 101
        assert broken == 0

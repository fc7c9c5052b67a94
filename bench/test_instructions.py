"""Instructions and system calls match the baseline, whatever else the machine does; planted ones are found."""

import os
from pathlib import Path

import pytest

from bench import instructions
from bench.instructions import Count


@pytest.fixture(scope="module", autouse=True)
def somebody_who_counts() -> None:
    try:
        instructions.valgrind()
    except instructions.ValgrindMissingError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


def complaints_about(counts: instructions.Counts, tools: str) -> list[str]:
    return instructions.complaints(counts, tools, instructions.load_baseline())


def test_calls_from_c_take_no_more_than_the_baseline(tmp_path: Path) -> None:
    counts = instructions.count(instructions.build(tmp_path))
    print(counts)
    assert complaints_about(counts, instructions.toolchain()) == []
    assert all(one.instructions > 100 for one in counts.values()), "something was counted"


def test_calls_from_python_take_no_more_than_the_baseline(tmp_path: Path) -> None:
    counts = instructions.count_python(tmp_path)
    print(counts)
    assert complaints_about(counts, instructions.python_version()) == []
    assert all(one.instructions > 1000 for one in counts.values()), "something was counted"


@pytest.mark.parametrize("macro", ["PLANT_COPY", "PLANT_SYSCALL"])
def test_one_copy_or_system_call_too_many_is_found_in_every_call(macro: str, tmp_path: Path) -> None:
    found = complaints_about(instructions.count(instructions.build(tmp_path, macro)), instructions.toolchain())
    print("\n".join(found))
    sought = "system calls" if macro == "PLANT_SYSCALL" else "instructions"
    for name in (*instructions.COPY_FREE, *instructions.COPYING):
        assert any(line.startswith(f"{name}:") and sought in line.partition(",")[0] for line in found), name


def test_a_history_costs_a_writer_a_look_at_each_slot_and_readers_nothing(tmp_path: Path) -> None:
    program = instructions.build(tmp_path)
    without, short, long = (instructions.count(program, history=frames) for frames in (0, 8, 54))
    print(without, short, long, sep="\n")
    for name, one in without.items():
        for kept, frames in ((short, 8), (long, 54)):
            looks = frames if name in ("publish", "write") else 0
            assert kept[name].system_calls == one.system_calls
            assert 0 <= kept[name].instructions - one.instructions <= 10 * looks, name


BASELINE = {"gcc 12.2.0, glibc 2.36, x86_64": {"publish": Count(1000, 3)}}


@pytest.mark.parametrize(
    ("tools", "now", "complains"),
    [
        ("gcc 12.2.0, glibc 2.36, x86_64", Count(1005, 3), False),
        ("gcc 12.2.0, glibc 2.36, x86_64", Count(1010, 3), True),
        ("gcc 12.2.0, glibc 2.36, x86_64", Count(900, 4), True),
        ("gcc 14.1.0, glibc 2.40, x86_64", Count(1020, 3), False),
        ("gcc 14.1.0, glibc 2.40, x86_64", Count(1021, 3), True),
    ],
)
def test_the_same_tools_are_held_to_their_own_baseline_and_others_to_that_of_their_kin(
    tools: str, now: Count, complains: bool
) -> None:
    assert bool(instructions.complaints({"publish": now}, tools, BASELINE)) == complains


def test_tools_without_kin_are_told_to_make_a_baseline() -> None:
    with pytest.raises(LookupError, match="--update"):
        instructions.complaints({"publish": Count(1, 1)}, "tcc 0.9", BASELINE)

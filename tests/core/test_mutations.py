"""Changing any one of these lines of the core makes a test fail: `tests/support/mutations.py` runs them."""

import os
import random
from pathlib import Path

import pytest
from mutations import MUTATIONS, examine
from repository import CSRC, TESTS
from tools import needs

DOZEN = 12


def test_every_mutation_still_applies_and_names_what_notices_it_or_why_nothing_does() -> None:
    texts = {path.relative_to(CSRC).as_posix(): path.read_text() for path in CSRC.rglob("*.[ch]")}
    assert [str(each) for each in MUTATIONS if texts[each.file].count(each.old) != 1] == []
    assert [str(each) for each in MUTATIONS if bool(each.by) == bool(each.survives_because)] == []
    assert {each.by for each in MUTATIONS if each.by} <= {
        "orders.py",
        *(path.stem for path in (TESTS / "c").glob("test_*.c")),
    }
    assert len({(each.file, each.old, each.new) for each in MUTATIONS}) == len(MUTATIONS) >= 60


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.xdist_group("c mutants")
def test_a_dozen_mutants_do_not_survive(tmp_path: Path) -> None:
    """Another dozen each time. `MUTATIONS_SEED` in the environment repeats a choice."""
    needs("unshare", "ar")
    seed = int(os.environ.get("MUTATIONS_SEED", random.randrange(2**32)))
    print(f"MUTATIONS_SEED={seed}")
    verdicts = list(examine(random.Random(seed).sample([each for each in MUTATIONS if each.by], DOZEN), tmp_path))
    print(*verdicts, sep="\n")
    assert [str(verdict) for verdict in verdicts if verdict.is_wrong] == [], f"MUTATIONS_SEED={seed}"

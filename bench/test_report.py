"""The report, made of the shortest possible run: everything is in it, and anything missing is named."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench import calls, command, document, plots, readers, suite, table, writes
from bench.contestants import CONTESTANTS, FUTEX, OURS, Contestant
from bench.sizes import SIZES

SHORTEST = suite.Length(
    write_rounds=1,
    write_frames=2,
    sweep_rounds=1,
    call_rounds=1,
    calls=20,
    latency_rounds=1,
    latency_frames=3,
    attached_rounds=1,
    thirty_rounds=1,
    thirty_seconds=0.3,
    pressure_rounds=1,
    pressure_sizes=("4k",),
    starts=1,
    lap_starts=1,
    lap_frames=4,
    capture_rounds=1,
    capture_seconds=0.5,
    clip=(320, 240, 30, 1),
)
ABSENT = Contestant("absent", "a rival that is not there", "bench.contestants.absent", "a_module_that_is_not_there")


@pytest.fixture(scope="module")
def results() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "CONTESTANTS", (*CONTESTANTS, ABSENT))
        patch.setattr(suite, "QUICK", SHORTEST)
        patch.setattr(suite, "SWEEP_ROWS", (64, 512))
        patch.setattr(suite, "UNDER_PRESSURE", (FUTEX, OURS))
        patch.setattr(readers, "READERS", 2)
        return json.loads(json.dumps(command.measure(True, Console(quiet=True))))


@pytest.mark.timeout(240)
def test_every_target_has_a_row_with_a_figure_and_a_verdict(results: Any) -> None:
    found = table.rows(results)
    assert len(found) == 27
    assert [row.what for row in found if row.met is None] == []
    assert table.as_markdown(found).count("\n") == len(found) + 1


def test_every_contestant_was_measured_or_is_named_as_missing(results: Any) -> None:
    text = document.report(results)
    assert "**Missing: absent** (a_module_that_is_not_there is not installed" in text
    for contestant in CONTESTANTS:
        assert contestant.title in text
        for size, found in results["latency"].items():
            assert found["failed"] == {}
            assert found["contestants"][contestant.key]["wake"]["count"] > 0, size


def test_the_caveats_come_before_any_figure_and_say_that_few_samples_were_taken(results: Any) -> None:
    text = document.report(results)
    assert text.index("First the caveats") < text.index("| what | target | measured |")
    assert "**A quick run**" in text


def test_without_iceoryx2_its_rows_say_so_and_the_rest_is_unchanged(results: Any, tmp_path: Path) -> None:
    found = json.loads(json.dumps(results))
    for size in SIZES:
        found["writes"][size].pop(writes.ICEORYX2_WRITE)
        found["calls"][size].pop(calls.ICEORYX2_SEND)
        found["calls"][size].pop(calls.ICEORYX2_NEW)
        found["latency"][size]["contestants"].pop("iceoryx2")
    found["readers"]["attached"].pop("iceoryx2")
    for one in found["lap"].values():
        one.pop("iceoryx2")
    command.write_files(found, tmp_path)
    rows = table.rows(found)
    assert [row.measured for row in rows if row.met is None] == ["iceoryx2 was not measured"] * 8
    before = {row.what: row.measured for row in table.rows(results)}
    assert all(row.measured == before[row.what] for row in rows if row.met is not None)


@pytest.mark.parametrize("quiet", [True, False])
def test_a_machine_that_was_not_quiet_is_reported(results: Any, quiet: bool) -> None:
    text = document.caveats(results | {"quiet": quiet, "others_used": [0.01 if quiet else 0.7]})
    assert ("others used up to 70% of it" in text) != quiet


def test_a_target_that_was_missed_says_so(results: Any) -> None:
    found = json.loads(json.dumps(results))
    for one in found["calls"].values():
        one["loan and publish"]["p50"] = 1600.0
    verdicts = {row.what: row.met for row in table.rows(found)}
    assert verdicts["loan and publish, p50"] is False
    assert "| 1.60, " not in table.as_markdown(table.rows(results))


def test_files_and_plots_are_written(results: Any, tmp_path: Path) -> None:
    command.write_files(results, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == results
    for name in (plots.LATENCY, plots.WRITE, plots.READERS):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / name).stat().st_size < 150_000
        assert f"({name})" in (tmp_path / "report.md").read_text()


def test_the_documentation_gets_the_figures_and_keeps_everything_else(results: Any, tmp_path: Path) -> None:
    root = tmp_path / "repository"
    shutil.copytree(document.DOCS, root / "docs")
    shutil.copy(document.DOCS.parent / "README.md", root)
    before = (root / "docs" / "figures.md").read_text()
    command.write_docs(results, root / "docs")
    after = (root / "docs" / "figures.md").read_text()
    for row in table.rows(results):
        assert row.as_markdown() in after
    assert "**A quick run**" in after
    assert before.partition("<!-- figures -->")[0] == after.partition("<!-- figures -->")[0]
    assert before.partition("<!-- /figures -->")[2] == after.partition("<!-- /figures -->")[2]
    assert results["machine"]["time"][:10] in (root / "README.md").read_text()


def test_a_page_without_a_place_for_the_figures_is_left_alone(results: Any, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(document.DOCS, docs)
    (docs / "figures.md").write_text("nothing here\n")
    with pytest.raises(subprocess.CalledProcessError):
        command.write_docs(results, docs)
    assert (docs / "figures.md").read_text() == "nothing here\n"

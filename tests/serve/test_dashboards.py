"""The Grafana dashboards of docs/grafana: the metrics they query exist, and Prometheus and Grafana can read them."""

import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT
from serving import served

from billiards_shm import SharedMemoryFrameWriter
from billiards_shm.serve.app import create_app

DASHBOARDS = sorted((ROOT / "docs" / "grafana").glob("*.json"))
VARIABLES = {"$__rate_interval": "5m", "$instance": ".*", "$name": ".*"}
COLUMNS = 24


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def expressions(path: Path) -> list[str]:
    return [target["expr"] for panel in load(path)["panels"] for target in panel.get("targets", [])]


def names_in(text: str) -> set[str]:
    """Every name that a scrape of these metrics can contain."""
    names = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        names |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"} if kind == "histogram" else {name}
    return names


def test_there_is_a_dashboard_for_one_host_and_one_for_many() -> None:
    assert [path.stem for path in DASHBOARDS] == ["many-hosts", "one-host"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_metric_and_label_that_a_dashboard_names_is_served(path: Path, writer: SharedMemoryFrameWriter) -> None:
    with served(create_app([writer.name])) as server:
        text = server.get("/metrics").body.decode()
    variables = load(path)["templating"]["list"]
    asked = [*expressions(path), *(str(variable.get("definition", "")) for variable in variables)]
    names = set(itertools.chain.from_iterable(re.findall(r"\bbilliards_shm_\w+", one) for one in asked))
    assert len(names) > 10
    assert names - names_in(text) == set()
    labels = set(itertools.chain.from_iterable(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", one) for one in asked))
    for group in re.findall(r"\bby \(([^)]*)\)", " ".join(asked)):
        labels |= set(group.replace(" ", "").split(","))
    assert labels - set(re.findall(r"[{,](\w+)=\"", text)) - {"instance"} == set(), "Prometheus adds `instance`"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_have_unique_numbers_and_do_not_overlap(path: Path) -> None:
    dashboard = load(path)
    assert dashboard["schemaVersion"] >= 36
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
        covered = set(
            itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"]))
        )
        assert not cells & covered, panel["title"]
        cells |= covered
        assert panel["type"] == "row" or panel["targets"], panel["title"]


@pytest.mark.slow  # promtool
@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_promtool_can_read_every_expression(path: Path, tmp_path: Path) -> None:
    rules = []
    for number, expression in enumerate(expressions(path)):
        for variable, value in VARIABLES.items():
            expression = expression.replace(variable, value)
        assert "$" not in expression
        rules.append({"record": f"dashboard:{number}", "expr": expression})
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": path.stem, "rules": rules}]}))  # JSON is YAML
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout

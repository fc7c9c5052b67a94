"""The command line of the report: measure, show progress, write files."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench import document, plots, suite, table


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The parsed options."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description="Measure everything, write a report.")
    parser.add_argument("--quick", action="store_true", help="under a minute; few samples")
    parser.add_argument(
        "--out", type=Path, default=Path("bench-report"), help="directory for report.md, .json and .png"
    )
    parser.add_argument("--docs", action="store_true", help="also rewrite the figures and plots of docs/ and README")
    parser.add_argument("--from-json", type=Path, help="do not measure: use these results of an earlier run")
    return parser.parse_args(arguments)


def measure(quick: bool, console: Console) -> dict[str, Any]:
    """Run the suite behind a progress bar."""
    columns = (TextColumn("{task.description:48}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=sum(suite.SHARES.values()))
        return suite.run(
            suite.QUICK if quick else suite.FULL,
            tick=lambda what: progress.update(task, description=what),
            done=lambda part: progress.advance(task, suite.SHARES[part]),
        )


def write_files(results: dict[str, Any], directory: Path) -> None:
    """report.json, report.md and the plots."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(json.dumps(results) + "\n")
    (directory / "report.md").write_text(document.report(results))
    plots.draw_all(results, directory)


def write_docs(results: dict[str, Any], docs: Path) -> None:
    """The plots and figures of the documentation, and the tables made from them."""
    (docs / "plots").mkdir(exist_ok=True)
    plots.draw_all(results, docs / "plots")
    (docs / "figures.json").write_text(json.dumps(document.summary(results), indent=1) + "\n")
    subprocess.run([sys.executable, docs / "generate.py"], check=True)


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the report."""
    options, console = options_of(arguments), Console()
    results = json.loads(options.from_json.read_text()) if options.from_json else measure(options.quick, console)
    write_files(results, options.out)
    if options.docs:
        write_docs(results, document.DOCS)
    console.print(Markdown(f"{document.caveats(results)}\n\n{table.as_markdown(table.rows(results))}"))
    console.print(f"written: {options.out}/report.md, report.json, {plots.LATENCY}, {plots.WRITE}, {plots.READERS}")

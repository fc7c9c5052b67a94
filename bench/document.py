"""The report in Markdown, and the summary that the documentation shows."""

import dataclasses
from pathlib import Path

from bench import calls, table, writes
from bench.calls import COPY, ICEORYX2_NEW, ICEORYX2_SEND
from bench.contestants import CONTESTANTS
from bench.plots import LATENCY, READERS, WRITE
from bench.sizes import SIZES, TITLES
from bench.suite import Results

DOCS = Path(__file__).parents[1] / "docs"
US, MS = 1e3, 1e6
FROM_PROCESS_TO_PROCESS = (
    "*In hand*: from just before the frame can be seen to an array in the reader, which slept. *From array to array*"
    " and *all pixels read* begin before the publisher's copy. Numbers of samples in parentheses."
)


def place(machine: Results) -> str:
    """The kind of machine."""
    return f"{machine['cores']} cores of {'a virtual machine' if machine['virtual'] else 'a machine'}"


def caveats(results: Results) -> str:
    """The caveats, which come before any figure."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    what = f"{machine['cpu']}, Linux {machine['kernel']}, Python {machine['python']}, {machine['compiler']}"
    when = f"{machine['time']}, load average before it {machine['load_average'][0]:.2f}"
    lines = [f"First the caveats. One run on {place(machine)} ({what}; {versions}), {when}."]
    if machine["cores"] < 3:
        lines.append("With so few cores publisher, reader and the system's own work disturb one another.")
    if results["quick"]:
        lines.append("**A quick run**: few samples, so p99 means little.")
    if not results["quiet"]:
        share = max(results["others_used"])
        lines.append(f"**The machine was not quiet**: others used up to {share:.0%} of it between the parts.")
    lines.append(
        "Times differ by half from run to run and more from machine to machine; compare ratios within one run."
        " Everything that is compared was measured in turn."
    )
    for key, why in results["missing"].items():
        lines.append(f"**Missing: {key}** ({why}).")
    for size, found in results["latency"].items():
        lines.extend(f"**Failed: {key}**, {size}: {why}." for key, why in found["failed"].items())
    return " ".join(lines)


def write_table(found: Results, sizes: tuple[str, ...]) -> str:
    """Medians of writing."""
    lines = ["| writing, p50 (p99) in ms | " + " | ".join(TITLES[size] for size in sizes) + " |"]
    lines.append("|---" * (len(sizes) + 1) + "|")
    for name in found[sizes[0]]:
        label = f"`{name}`" if name == writes.WRITE_FRAME else name
        cells = (f"{found[size][name]['p50'] / MS:.3f} ({found[size][name]['p99'] / MS:.3f})" for size in sizes)
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def call_table(results: Results) -> str:
    """Single calls."""
    lines = ["| calls, p50 (p99) in us | " + " | ".join(TITLES.values()) + " |", "|---" * (len(SIZES) + 1) + "|"]
    for name in results["calls"]["vga"]:
        found = [results["calls"][size][name] for size in SIZES]
        lines.append(
            f"| {name} | " + " | ".join(f"{one['p50'] / US:.2f} ({one['p99'] / US:.2f})" for one in found) + " |"
        )
    return "\n".join(lines)


def latency_table(found: Results, what: str, title: str, sizes: tuple[str, ...]) -> str:
    """One kind of latency for all contestants."""
    lines = [f"| {title}, p50 / p99 / p99.9 / max in us | " + " | ".join(TITLES[size] for size in sizes) + " |"]
    lines.append("|---" * (len(sizes) + 1) + "|")
    for contestant in CONTESTANTS:
        cells = []
        for size in sizes:
            one = found[size]["contestants"].get(contestant.key, {}).get(what)
            cells.append("-" if one is None else percentiles(one))
        if any(cell != "-" for cell in cells):
            lines.append(f"| {contestant.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def percentiles(one: Results) -> str:
    """Four figures; the number of samples says how far to believe the last two."""
    figures = " / ".join(f"{one[name] / US:.0f}" for name in ("p50", "p99", "p99_9", "max"))
    return f"{figures} ({one['count']})"


def report(results: Results) -> str:
    """The whole report."""
    everywhere = tuple(SIZES)
    pressure = results["pressure"]
    under_pressure = tuple(pressure["writes"])
    parts = [
        "# Benchmarks",
        caveats(results),
        "## Targets",
        table.as_markdown(table.rows(results)),
        "## Writing",
        f"No reader waits. Kernels copy into the same slots that `write_frame` writes to.\n\n![write]({WRITE})",
        write_table(results["writes"], everywhere),
        "## Calls",
        f"The clock's own cost is taken off. `{COPY}` copies; {ICEORYX2_SEND}, {ICEORYX2_NEW}: without its event.",
        call_table(results),
        "## From process to process",
        FROM_PROCESS_TO_PROCESS,
        f"![latency]({LATENCY})",
        latency_table(results["latency"], "wake", "in hand", everywhere),
        latency_table(results["latency"], "handle", "from array to array", everywhere),
        latency_table(results["latency"], "pixels", "all pixels read", everywhere),
        "## Under memory pressure",
        "Another process streams through memory on the last core.",
        write_table(pressure["writes"], under_pressure),
        latency_table(pressure["latency"], "wake", "in hand", under_pressure),
        latency_table(pressure["latency"], "pixels", "all pixels read", under_pressure),
        "## Readers",
        f"![readers]({READERS})",
        attached_table(results),
    ]
    return "\n\n".join(parts) + "\n"


def attached_table(results: Results) -> str:
    """Lend and publish, by number of attached readers."""
    found = results["readers"]["attached"]
    counts = list(next(iter(found.values())))
    lines = ["| lend and publish, p50 in us, by readers attached | " + " | ".join(counts) + " |"]
    lines.append("|---" * (len(counts) + 1) + "|")
    for contestant, by_count in found.items():
        lines.append(f"| {contestant} | " + " | ".join(f"{by_count[many]['p50'] / US:.2f}" for many in counts) + " |")
    return "\n".join(lines)


def summary(results: Results) -> Results:
    """The input of `docs/generate.py` for the tables of the documentation."""
    machine, sizes = results["machine"], ("1080p", "4k")
    kernel, python = (".".join(machine[name].split(".")[:2]) for name in ("kernel", "python"))
    pixels = {
        contestant.title: {size: results["latency"][size]["contestants"][contestant.key]["pixels"] for size in sizes}
        for contestant in CONTESTANTS
        if all("pixels" in results["latency"][size]["contestants"].get(contestant.key, {}) for size in sizes)
    }
    keep = ("p50", "p99", "p99_9", "max", "count")
    return {
        "machine": f"{place(machine)} ({machine['cpu']}), Linux {kernel}, Python {python}, {machine['time'][:10]}",
        "caveats": caveats(results),
        "targets": [dataclasses.asdict(row) for row in table.rows(results)],
        "write_ns": {size: results["writes"][size][writes.WRITE_FRAME]["p50"] for size in sizes},
        "copy_ns": {size: table.fastest_kernel(results["writes"][size])[1]["p50"] for size in sizes},
        "read_ns": {size: results["calls"][size][calls.NEW]["p50"] for size in sizes},
        "pixels_ns": {
            size: {title: {name: by_size[size][name] for name in keep} for title, by_size in pixels.items()}
            for size in sizes
        },
    }

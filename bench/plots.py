"""Three pictures: latencies by contestant, write time by frame size, cost by number of readers."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt  # after the backend is chosen
from matplotlib.axes import Axes

from bench import writes
from bench.contestants import CONTESTANTS
from bench.samples import CURVE
from bench.sizes import SIZES, TITLES
from bench.suite import Results

LATENCY, WRITE, READERS = "latency.png", "write.png", "readers.png"
DPI = 80
OURS_COLOUR, FLOOR_COLOUR = "#c2410c", "#525252"


def draw_all(results: Results, directory: Path) -> list[Path]:
    """Write the files; their paths."""
    drawn = []
    for name, draw in ((LATENCY, draw_latency), (WRITE, draw_write), (READERS, draw_readers)):
        figure = draw(results)
        figure.tight_layout()
        figure.savefig(directory / name, dpi=DPI, metadata={"Software": None})
        plt.close(figure)
        drawn.append(directory / name)
    return drawn


def draw_latency(results: Results) -> Any:
    """By size: the share of frames that a blocked reader had in hand within a time."""
    figure, panels = plt.subplots(1, len(SIZES), figsize=(13, 4.2), sharey=True)
    for panel, size in zip(panels, SIZES, strict=True):
        found = results["latency"][size]["contestants"]
        for contestant in CONTESTANTS:
            if "wake" in found.get(contestant.key, {}):
                microseconds = [nanoseconds / 1e3 for nanoseconds in found[contestant.key]["wake"]["curve"]]
                panel.plot(microseconds, CURVE, label=contestant.title, **style(contestant.key))
        panel.set(title=TITLES[size], xscale="log", xlabel="us from publish to the array in hand")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("share of frames")
    panels[-1].legend(fontsize=7, loc="lower right")
    return figure


def style(key: str) -> dict[str, Any]:
    """Ours stands out, floors are dashed."""
    if key == "billiards_shm":
        return {"color": OURS_COLOUR, "linewidth": 2.5}
    if key == "billiards_shm_in_place":
        return {"color": OURS_COLOUR, "linestyle": "-."}
    if key.startswith("futex"):
        return {"color": FLOOR_COLOUR, "linestyle": "--" if key == "futex" else ":"}
    return {"linewidth": 1}


def draw_write(results: Results) -> Any:
    """Time per frame by its size, and the ratio to the fastest kernel."""
    figure, (times, ratios) = plt.subplots(1, 2, figsize=(13, 4.2))
    megabytes = [one["bytes"] / 1e6 for one in results["sweep"]]
    for name in results["sweep"][0]["ns"]:
        milliseconds = [one["ns"][name] / 1e6 for one in results["sweep"]]
        emphasis = style("billiards_shm") if name == writes.WRITE_FRAME else {"linewidth": 1}
        times.plot(megabytes, milliseconds, label=name, **emphasis)
    floors = [min(ns for name, ns in one["ns"].items() if writes.is_kernel(name)) for one in results["sweep"]]
    ours = [one["ns"][writes.WRITE_FRAME] / floor for one, floor in zip(results["sweep"], floors, strict=True)]
    times.set(xscale="log", yscale="log", xlabel="MB a frame", ylabel="ms, best median")
    times.legend(fontsize=7)
    ratios.plot(megabytes, ours, **style("billiards_shm"))
    ratios.axhline(1.0, **style("futex"))
    ratios.axhline(1.05, color=FLOOR_COLOUR, linestyle=":", label="target for 1080p and 4K: 1.05")
    ratios.set(xscale="log", xlabel="MB a frame", ylabel="write_frame against the fastest kernel", ylim=(0.8, None))
    ratios.legend(fontsize=7)
    for panel in (times, ratios):
        mark_sizes(panel)
    return figure


def mark_sizes(panel: Axes) -> None:
    """Mark the usual frame sizes."""
    panel.grid(alpha=0.3)
    for size, shape in SIZES.items():
        panel.axvline(shape[0] * shape[1] * shape[2] / 1e6, color="#d4d4d4", linewidth=1, zorder=0)
        panel.text(shape[0] * shape[1] * shape[2] / 1e6, 0.98, f" {size}", fontsize=7, va="top",
                   transform=panel.get_xaxis_transform())  # fmt: skip


def draw_readers(results: Results) -> Any:
    """Publish, by number of attached readers."""
    figure, panel = plt.subplots(figsize=(6.5, 4.2))
    for contestant, by_count in results["readers"]["attached"].items():
        counts = [int(count) for count in by_count]
        panel.plot(counts, [one["p50"] / 1e3 for one in by_count.values()], "o-", label=contestant, **style(contestant))
    panel.set(xlabel="readers attached, none waiting", ylabel="us to lend and publish, p50", ylim=(0, None))
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return figure

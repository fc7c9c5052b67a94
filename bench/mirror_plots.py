"""The plot of a mirrored segment: the share of frames that a remote reader had in hand within a time."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt  # after the backend is chosen

from bench.plots import DPI, FLOOR_COLOUR, OURS_COLOUR

MIRROR = "mirror.png"
TITLES = {"free": "free link", "slow": "40 Mbit/s", "loopback": "raw, one host"}


def draw(figures: dict[str, Any], directory: Path) -> Path:
    """Write the file; its path."""
    figure, panels = plt.subplots(1, len(TITLES), figsize=(13, 4.2), sharey=True)
    for panel, (where, title) in zip(panels, TITLES.items(), strict=True):
        for what, run in figures["runs"][where].items():
            shares = np.linspace(0, 1, len(run["ages"]))
            panel.plot(run["ages"], shares, label=what, **style(what))
        panel.set(title=title, xscale="log", xlabel="ms from capture to the array in hand")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7, loc="lower right")
    panels[0].set_ylabel("share of frames")
    figure.tight_layout()
    figure.savefig(directory / MIRROR, dpi=DPI, metadata={"Software": None})
    plt.close(figure)
    return directory / MIRROR


def style(what: str) -> dict[str, Any]:
    """Ours stands out, the floor is dashed."""
    if what.startswith("mirror"):
        dashes = {"mirror, H.264": "-.", "mirror, JPEG": ":"}
        return {"color": OURS_COLOUR, "linewidth": 2, "linestyle": dashes.get(what, "-")}
    return {"color": FLOOR_COLOUR, "linestyle": "--"} if what.startswith("bare") else {"linewidth": 1}

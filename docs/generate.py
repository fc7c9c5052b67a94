"""Writes the tables of the documentation that are generated from the code and from measurements.

    python docs/generate.py

Run it after a change of the configuration, the statistics or the pixel formats. `python -m bench.report --docs` writes
`figures.json` and runs it, `python -m bench.mirror --docs` does the same with `mirror.json`. Run it yourself after
`python -m bench.native --json docs/native.json`.
Each table is between two comments: ``<!-- memory -->`` and ``<!-- /memory -->``.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from billiards_shm.config.keys import configuration_keys
from billiards_shm.pixel_formats import PIXEL_FORMATS
from billiards_shm.statistics import STATISTICS

DOCS = Path(__file__).parent
FIGURES = DOCS / "figures.json"
MIRROR = DOCS / "mirror.json"
NATIVE = DOCS / "native.json"
SIZES = {"1080p": "1920x1080", "4k": "3840x2160"}
VERDICTS = {True: "met", False: "**missed**", None: "not known"}
# For the README's table: each rival's title in `figures.json`.
RIVALS = ("iceoryx2", "pyzmq, ipc", "multiprocessing.Queue")
REGION_BYTES = 65536


def configuration() -> str:
    """Every key of the model, one table per section."""
    sections: dict[str, list[tuple[str, ...]]] = {}
    for key in configuration_keys():
        section, _, name = key.path.rpartition(".")
        row = (f"`{name}`", f"`{json.dumps(key.default)}`", key.description, key.allowed)
        sections.setdefault(section, []).append(row)
    head = ("key", "default", "what it is", "allowed")
    return "\n".join(f"### `{section}`\n\n{table(head, rows)}" for section, rows in sections.items())


def statistics() -> str:
    """The statistics of each segment."""
    suffix = {"counter": "_total", "gauge": ""}
    rows = [
        (f"`{name}`", f"`billiards_shm_{row.metric}{suffix[row.kind]}`", row.description)
        for name, row in STATISTICS.items()
    ]
    return table(("statistic", "metric", "what it is"), rows)


def pixel_formats() -> str:
    """The layout of a frame in each format."""

    def code(text: str) -> str:
        return f"`{text}`" if text else ""

    rows = [
        (code(name), code(row.fourcc), row.shape, row.dtype or "any", code(row.ffmpeg), code(row.gstreamer))
        for name, row in PIXEL_FORMATS.items()
    ]
    return table(("pixel format", "V4L2", "shape", "dtype", "FFmpeg", "GStreamer"), rows)


def memory() -> str:
    """Bytes of segments of usual sizes, at eight bits per channel and three channels per pixel."""
    rows = []
    for width, height in ((640, 480), (1280, 720), (1920, 1080), (3840, 2160)):
        three, eight, nine = (segment_bytes(slots, width * height * 3) for slots in (3, 8, 9))
        rows.append((f"{width}x{height} BGR", *(f"{count / 1e6:.1f} MB" for count in (three, eight, nine - eight))))
    return table(("frame", "three slots", "eight slots", "each further one"), rows)


def segment_bytes(slots: int, frame_bytes: int) -> int:
    """Bytes of header, control region, and slots that begin on 64 KiB boundaries."""
    return 2 * REGION_BYTES + slots * (-(-frame_bytes // REGION_BYTES) * REGION_BYTES)


def figures() -> str:
    """The last results of the benchmarks: the caveats first."""
    found = measured()
    targets = [(one["what"], one["target"], one["measured"], VERDICTS[one["met"]]) for one in found["targets"]]
    titles = list(found["pixels_ns"]["1080p"])
    rows = [(title, *(percentiles(found["pixels_ns"][size][title]) for size in SIZES)) for title in titles]
    head = "array to all pixels read in another process, p50 / p99 / p99.9 / max in us"
    parts = (
        found["caveats"],
        table(("what", "target", "measured", ""), targets),
        "![share of frames in hand within a time, by contestant](plots/latency.png)",
        table((head, *SIZES.values()), rows),
        "![time to write a frame over its size](plots/write.png)",
        "![time to publish over readers attached](plots/readers.png)",
    )
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def readme_figures() -> str:
    """A few of these figures."""
    found = measured()

    def row(what: str, by_size: dict[str, float], unit: str, nanoseconds: float) -> tuple[str, ...]:
        return (what, *(f"{by_size[size] / nanoseconds:.2f} {unit}" for size in SIZES))

    def pixels(title: str) -> dict[str, float]:
        return {size: found["pixels_ns"][size][title]["p50"] for size in SIZES}

    rows = [
        row("`write_frame`: one copy, published", found["write_ns"], "ms", 1e6),
        row("the fastest bare copy of the same bytes", found["copy_ns"], "ms", 1e6),
        row("`read_frame`: the newest frame as an array", found["read_ns"], "us", 1e3),
        row("from an array to all pixels read in another process", pixels("billiards_shm"), "ms", 1e6),
        *(
            row(f"the same with {name}", pixels(name), "ms", 1e6)
            for name in RIVALS
            if name in found["pixels_ns"]["1080p"]
        ),
        *(
            (what, "{native:.2f}; {bgr:.2f} ms".format_map(native()[key]), "")
            for what, key in {
                "capture of Motion JPEG, CPU a frame: native; as BGR": "1080p MJPG, capture",
                "the same, and sent to ten viewers": "1080p MJPG, to ten viewers",
            }.items()
        ),
    ]
    return table((f"p50 on {found['machine']}", *SIZES.values()), rows)


def native_figures() -> str:
    """Native frames compared with BGR."""
    rows = []
    for what, target, key in (
        ("1080p Motion JPEG over HTTP, 300 kB a frame: capture", "0.3 ms", "1080p MJPG, capture"),
        ("the same to ten viewers of MJPEG at full size: capture and server", "2 ms", "1080p MJPG, to ten viewers"),
        ("4K H.264 from a file (backend `av`): capture", "OpenCV's", "4K H.264, capture"),
    ):
        cells = (native()[key].get(form) for form in ("native", "bgr", "bgr, OpenCV"))
        rows.append((what, target, *(f"{cell:.2f} ms" if cell else "" for cell in cells)))
    memory = "The segment of JPEGs takes {native:.1f} MB, that of BGR {bgr:.1f}."
    head = ("CPU a frame, median of two rounds of 8 s", "target", "`publish: native`", "`bgr`", "`bgr`, OpenCV")
    return f"{table(head, rows)}\n{memory.format_map(native()['1080p MJPG, shared memory, MB'])}\n"


def mirror_figures() -> str:
    """A mirrored segment compared with its rivals, from the last run of `python -m bench.mirror --docs`."""
    found = json.loads(MIRROR.read_text())
    verdicts = [(what, most, value, VERDICTS[met]) for what, most, value, met in found["verdicts"]]
    rows = [
        (
            where,
            what,
            *(f"{run[key]:.1f} ms" for key in ("p50", "p99")),
            f"{run['fps']:.1f}",
            *(f"{run[key]:.1f} ms" if run[key] else "" for key in ("sender_cpu_ms", "receiver_cpu_ms")),
        )
        for where, runs in (("free", found["runs"]["free"]), ("40 Mbit/s", found["runs"]["slow"]))
        for what, run in runs.items()
    ]
    head = ("link", "by", "age p50", "p99", "fps", "CPU a frame, sender", "receiver")
    return f"{found['machine']}\n\n{table(('what', 'target', 'found', ''), verdicts)}\n{table(head, rows)}"


def mirror_costs() -> str:
    """The cost of one copy."""
    head = (
        *("codec", "network", "copies in 1 Gbit/s", "CPU a frame to encode", "to send, for each copy", "to receive"),
        "memory of the receiver",
    )
    return table(head, [tuple(row) for row in json.loads(MIRROR.read_text())["costs"]])


def mirror_model() -> str:
    """What a model with these figures predicts for larger networks."""
    head = ("network", "codec", "streams", "frames per second", "age", "nearest to its limit", "receivers' memory")
    return table(head, [tuple(row) for row in json.loads(MIRROR.read_text())["model"]])


def measured() -> dict[str, Any]:
    """The figures of the last recorded full run."""
    found: dict[str, Any] = json.loads(FIGURES.read_text())
    return found


def native() -> dict[str, dict[str, float]]:
    """The figures of `python -m bench.native`."""
    found: dict[str, dict[str, float]] = json.loads(NATIVE.read_text())
    return found


def percentiles(one: dict[str, float]) -> str:
    """Four figures; the number of samples says how far to believe the last two."""
    values = " / ".join(f"{one[name] / 1e3:.0f}" for name in ("p50", "p99", "p99_9", "max"))
    return f"{values} ({one['count']})"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """In Markdown."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]]) + "\n"


TABLES: dict[tuple[Path, str], Callable[[], str]] = {
    (DOCS / "configuration.md", "configuration"): configuration,
    (DOCS / "serving.md", "statistics"): statistics,
    (DOCS / "writing.md", "pixel formats"): pixel_formats,
    (DOCS / "memory.md", "memory"): memory,
    (DOCS / "figures.md", "figures"): figures,
    (DOCS / "figures.md", "native figures"): native_figures,
    (DOCS.parent / "README.md", "figures"): readme_figures,
    (DOCS / "mirror-figures.md", "mirror figures"): mirror_figures,
    (DOCS / "mirror-figures.md", "mirror costs"): mirror_costs,
    (DOCS / "mirror-figures.md", "mirror model"): mirror_model,
}


def between(label: str) -> re.Pattern[str]:
    """A pattern for the text between the two comments of a table."""
    return re.compile(rf"(?<=<!-- {label} -->\n).*?(?=<!-- /{label} -->)", re.DOTALL)


def current(page: Path, label: str) -> str:
    """The text there now. LookupError: the comments are missing."""
    found = between(label).search(page.read_text())
    if found is None:
        raise LookupError(
            f"{page} has no <!-- {label} --> ... <!-- /{label} -->: put both lines where the table belongs"
        )
    return found[0]


def write() -> None:
    """Write every table where it belongs."""
    for (page, label), generate in TABLES.items():
        current(page, label)
        text = generate()
        page.write_text(between(label).sub(lambda _, text=text: text, page.read_text(), count=1))


if __name__ == "__main__":
    write()

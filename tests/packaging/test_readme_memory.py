"""README's arithmetic of shared memory and its ranges, against real segments and pyproject.toml."""

import re
import tomllib

import pytest
import readme

from billiards_shm import SharedMemoryFrameWriter, inspect_segment

_TABLE = re.compile(r"<!-- memory -->\n(.*?)<!-- /memory -->", re.DOTALL)
_ROW = re.compile(r"^\| (\d+)x(\d+) BGR \| ([\d.]+) MB \| ([\d.]+) MB \| ([\d.]+) MB \|$", re.MULTILINE)


def rows() -> list[tuple[str, ...]]:
    table = _TABLE.search(readme.README.read_text())
    assert table is not None
    return _ROW.findall(table[1])


def formula(slots: int, frame_bytes: int) -> int:
    """As README says it."""
    return 128 * 1024 + slots * (-(-frame_bytes // 65536) * 65536)


def test_the_table_has_what_people_ask_for() -> None:
    assert {(row[0], row[1]) for row in rows()} >= {("1280", "720"), ("1920", "1080"), ("3840", "2160")}


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]}x{row[1]}")
def test_the_table_is_what_segments_take(row: tuple[str, ...], segment_name: str) -> None:
    width, height = int(row[0]), int(row[1])
    with SharedMemoryFrameWriter(segment_name, (height, width, 3)):
        found = inspect_segment(segment_name)
    frame = height * width * 3
    assert (found.backed_bytes, found.total_bytes) == (formula(3, frame), formula(8, frame))
    said = [f"{formula(slots, frame) / 1e6:.1f}" for slots in (3, 8)]
    assert [*said, f"{(formula(9, frame) - formula(8, frame)) / 1e6:.1f}"] == [*row[2:]]


def test_the_ranges_begin_where_those_of_the_package_do() -> None:
    project = tomllib.loads((readme.README.parent / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["headless"]]
    oldest = dict(line.split(">=") for line in declared if ">=" in line)
    text = readme.README.read_text()
    assert f"| numpy | {oldest['numpy']} " in text
    assert f"| OpenCV | {oldest['opencv-python-headless']} " in text

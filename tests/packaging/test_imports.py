"""Arrows point one way, and ``import billiards_shm`` needs numpy and nothing else."""

import ast
import re
import sys
from pathlib import Path

import pytest
from child_processes import run

import billiards_shm

PACKAGE = Path(billiards_shm.__file__).parent

# What a module may import from this package: names of this table, or a part and everything in it.
# cli -> capture, serve -> public -> _core; beneath it only what knows nothing of segments.
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "status": set(),
    "owners": set(),
    "exit_codes": {"errors"},
    "_core": {"errors", "owners", "status", "_abi"},
    "reader": {"_core", "errors", "status"},
    "segments": {"_core", "errors", "status"},
    "rates": {"segments"},
    "metrics": {"segments", "errors", "status"},
    "include": set(),
    "consumer": {"_core", "reader", "segments", "errors", "status"},
    "__init__": {"_core", "consumer", "errors", "include", "reader", "segments", "status"},
    "capture": {"__init__", "_core", "errors", "exit_codes", "status", "metrics", "capture"},
    "serve": {"__init__", "errors", "status", "rates", "metrics", "serve"},
    "cli": {"__init__", "_core", "errors", "status", "segments", "rates", "exit_codes", "capture", "serve", "cli"},
    "__main__": {"__init__", "cli", "exit_codes"},
}

# What it may import from elsewhere, besides the standard library.
OTHERS: dict[str, set[str]] = {
    "errors": set(),
    "status": set(),
    "owners": set(),
    "exit_codes": {"errors"},
    "_core": {"numpy", "cython", "cpython", "libc"},
    "reader": {"numpy"},
    "segments": {"numpy"},
    "include": set(),
    "rates": set(),
    "metrics": {"prometheus_client"},
    "consumer": {"numpy"},
    "__init__": set(),
    "capture": {"numpy", "pydantic", "pydantic_settings", "pydantic_core"},
    "serve": {"numpy", "fastapi", "starlette", "uvicorn", "prometheus_client"},
    "cli": {"click", "rich", "numpy", "pydantic"},
    "__main__": set(),
}

# OpenCV is slow to import and may be missing: the camera, the JPEG encoder, and nobody else.
OPENCV = {"capture/camera.py", "capture/camera_picture.py", "capture/camera_settings.py", "serve/encoder.py"}
PLOTS = {"capture/profile.py": {"matplotlib"}}  # on request, from within the function that draws


def sources() -> list[Path]:
    return sorted([*PACKAGE.rglob("*.py"), PACKAGE / "_core.pyx"])


def part_of(path: Path) -> str:
    """The row of the table that a file belongs to."""
    relative = path.relative_to(PACKAGE)
    if len(relative.parts) > 1:
        return relative.parts[0]
    return "cli" if relative.stem.startswith("cli") else relative.stem


def imports(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports, wherever in it."""
    if path.suffix == ".pyx":
        text = path.read_text()
        found = set(re.findall(r"^\s*(?:from|import|cimport) ([\w.]+)", text, re.MULTILINE))
        if re.search(r"^from billiards_shm cimport _abi", text, re.MULTILINE):
            found = found - {"billiards_shm"} | {"billiards_shm._abi"}
        return found
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in below if is_module(name)}
            found |= modules or {node.module}
            if modules and modules != below:
                found.add(node.module)
    return found


def is_module(name: str) -> bool:
    first, *rest = name.split(".")
    if first != "billiards_shm":
        return False
    place = PACKAGE.joinpath(*rest)
    return place.is_dir() or any(place.with_suffix(suffix).exists() for suffix in (".py", ".pyx", ".pxd"))


def own_part(name: str) -> str:
    parts = name.split(".")
    if len(parts) == 1:
        return "__init__"
    return "cli" if parts[1].startswith("cli") else parts[1]


def test_every_file_has_its_row_in_the_table() -> None:
    assert {part_of(path) for path in sources()} <= ARROWS.keys() == OTHERS.keys()


def names_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", sources(), ids=names_of)
def test_a_file_imports_only_what_its_part_may(path: Path) -> None:
    part = part_of(path)
    own = {own_part(name) for name in imports(path) if name.split(".")[0] == "billiards_shm"}
    assert own <= ARROWS[part], f"{part} -> {own - ARROWS[part]} points the wrong way"


@pytest.mark.parametrize("path", sources(), ids=names_of)
def test_a_file_imports_nothing_foreign_but_what_its_part_may(path: Path) -> None:
    tops = {name.split(".")[0] for name in imports(path)}
    foreign = tops - set(sys.stdlib_module_names) - {"billiards_shm"}
    if names_of(path) in OPENCV:
        foreign -= {"cv2"}
    foreign -= PLOTS.get(names_of(path), set())
    assert foreign <= OTHERS[part_of(path)]


def test_the_table_has_no_circle() -> None:
    done: set[str] = set()
    while len(done) < len(ARROWS):
        ready = {
            part for part, targets in ARROWS.items() if part not in done and (targets & ARROWS.keys()) - {part} <= done
        }
        assert ready, f"a circle among {ARROWS.keys() - done}"
        done |= ready


def test_only_two_files_import_opencv() -> None:
    found = {names_of(path) for path in sources() if "cv2" in {name.split(".")[0] for name in imports(path)}}
    assert found <= OPENCV
    assert "capture/camera.py" in found


IMPORT_ONLY = "import sys\n"


def test_importing_the_package_imports_numpy_and_nothing_else_of_others() -> None:
    printed = run(
        """
        import numpy
        before = set(sys.modules)
        import billiards_shm
        print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
        """,
        prelude=IMPORT_ONLY,
    )
    tops = {name for name in printed.split() if "cython" not in name}  # names that Cython's runtime gives itself
    assert tops - set(sys.stdlib_module_names) <= {"billiards_shm", "numpy"}
    everything = set(run("import billiards_shm\nprint(*sys.modules)", prelude=IMPORT_ONLY).split())
    heavy = {"cv2", "click", "rich", "pydantic", "pydantic_settings", "fastapi", "starlette", "uvicorn", "cython"}
    assert not heavy & everything
    assert not {"asyncio", "concurrent.futures", "multiprocessing"} & everything - of_numpy()


def of_numpy() -> set[str]:
    return set(run("import numpy\nprint(*sys.modules)", prelude=IMPORT_ONLY).split())


def test_importing_the_package_takes_well_under_50_ms_beyond_numpy() -> None:
    code = """
    import time
    begun = time.process_time()
    import numpy
    between = time.process_time()
    import billiards_shm
    print(between - begun, time.process_time() - between)
    """
    # CPU time, and the best of several: what other processes do meanwhile does not count.
    runs = [[float(word) for word in run(code, prelude=IMPORT_ONLY).split()] for _ in range(7)]
    of_numpy_alone, beyond = map(min, zip(*runs, strict=True))
    print(f"import: {beyond * 1e3:.1f} ms beyond numpy's {of_numpy_alone * 1e3:.1f} ms")
    assert beyond < 0.050
    assert beyond < of_numpy_alone / 2


def test_importing_the_package_starts_nothing_and_touches_no_file_of_shared_memory() -> None:
    printed = run(
        """
        import os, threading
        before = set(os.listdir("/proc/self/fd"))
        import billiards_shm
        print(threading.active_count(), set(os.listdir("/proc/self/fd")) <= before, "multiprocessing" in sys.modules)
        """,
        prelude=IMPORT_ONLY,
    )
    assert printed.split()[0] == "1"
    assert printed.split()[1] == "True"


def test_importing_never_fails_for_lack_of_a_home_or_a_terminal() -> None:
    run("import os\nos.environ.clear()\nimport billiards_shm", prelude=IMPORT_ONLY)

"""Imports point one way, and ``import billiards_shm`` needs numpy and nothing else."""

import ast
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from child_processes import run

import billiards_shm

PACKAGE = Path(billiards_shm.__file__).parent

# What a room (a folder, or a top-level module) may import from this package, besides itself.
ARROWS: dict[str, set[str]] = {
    # The transport, which needs numpy alone.
    "errors": set(),
    "status": set(),
    "owners": set(),
    "include": set(),
    "statistics": set(),
    "pixel_formats": set(),
    "jpeg": set(),
    "images": {"jpeg", "pixel_formats"},
    "_core": {"_abi", "errors", "images", "owners", "pixel_formats", "statistics", "status"},
    "reader": {"_core", "errors"},
    "frame_sets": {"_core", "reader"},
    "segments": {"_core", "errors", "pixel_formats", "statistics", "status"},
    "planes": {"_core", "pixel_formats"},
    "consumer": {"_core", "errors", "images", "jpeg", "pixel_formats", "reader", "segments", "status"},
    "encoder": {"_core", "errors", "jpeg", "pixel_formats"},
    "__init__": {
        "_core",
        "consumer",
        "errors",
        "frame_sets",
        "include",
        "planes",
        "reader",
        "segments",
        "statistics",
        "status",
    },
    # The rooms of the capture process and the server, bottom up.
    "config": {"_core", "errors"},
    "service": {"config", "errors"},
    "monitor": {"errors", "segments", "statistics", "status"},
    "sources": {"config", "errors", "images", "jpeg", "pixel_formats"},
    "capture": {
        "__init__",
        "config",
        "errors",
        "images",
        "jpeg",
        "monitor",
        "owners",
        "pixel_formats",
        "service",
        "sources",
        "statistics",
    },
    "supervise": {"__init__", "_core", "capture", "config", "errors", "mirror", "monitor", "record", "service"},
    "record": {"__init__", "_core", "config", "encoder", "errors", "owners", "pixel_formats", "service", "sources"},
    "serve": {"__init__", "config", "images", "monitor", "record", "service", "statistics"},
    "mirror": {
        "encoder",
        "__init__",
        "capture",
        "config",
        "errors",
        "images",
        "jpeg",
        "pixel_formats",
        "service",
        "sources",
    },
    "cli": {
        "__init__",
        "capture",
        "config",
        "images",
        "mirror",
        "monitor",
        "pixel_formats",
        "record",
        "segments",
        "serve",
        "service",
        "statistics",
        "supervise",
    },
    "__main__": {"cli"},
}

# What it may import from elsewhere, besides the standard library.
OTHERS: dict[str, set[str]] = {
    "errors": set(),
    "status": set(),
    "owners": set(),
    "include": set(),
    "statistics": set(),
    "pixel_formats": set(),
    "_core": {"numpy", "cython", "cpython", "libc"},
    "jpeg": set(),
    "planes": {"numpy"},
    "reader": {"numpy"},
    "frame_sets": {"numpy"},
    "segments": {"numpy"},
    "consumer": {"numpy"},
    "encoder": {"av", "numpy"},
    "__init__": set(),
    "images": {"cv2", "numpy"},
    "config": {"pydantic", "pydantic_core"},
    "service": set(),
    "monitor": {"prometheus_client"},
    "sources": {"av", "cv2", "numpy"},
    "capture": {"matplotlib", "numpy"},  # matplotlib on request, within the function that draws
    "supervise": set(),
    "record": {"av", "numpy"},
    "serve": {"fastapi", "numpy", "prometheus_client", "starlette", "uvicorn"},
    "mirror": {"av", "numpy", "zenoh"},
    "cli": {"click", "rich"},
    "__main__": set(),
}


def sources() -> list[Path]:
    return sorted([*PACKAGE.rglob("*.py"), PACKAGE / "_core.pyx", *PACKAGE.rglob("*.pxi")])


def room_of(path: Path) -> str:
    """The row of the tables that a file belongs to."""
    if path.suffix == ".pxi":
        return "_core"  # which includes it
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports, anywhere in it."""
    if path.suffix in (".pyx", ".pxi"):
        text = path.read_text()
        found = set(re.findall(r"^\s*(?:from|import|cimport) ([\w.]+)", text, re.MULTILINE))
        below = set(re.findall(r"^from billiards_shm c?import (\w+)", text, re.MULTILINE))
        return found - {"billiards_shm"} | {f"billiards_shm.{name}" for name in below}
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


def room_named(name: str) -> str:
    parts = name.split(".")
    return "__init__" if len(parts) == 1 else parts[1]


def used(room: str) -> tuple[set[str], set[str]]:
    """What the files of a room import: other rooms of this package, and other packages."""
    found = set().union(*(imports(path) for path in sources() if room_of(path) == room))
    own = {room_named(name) for name in found if name.split(".")[0] == "billiards_shm"}
    return own - {room}, {name.split(".")[0] for name in found} - set(sys.stdlib_module_names) - {"billiards_shm"}


def test_every_file_has_its_row_in_the_tables() -> None:
    assert {room_of(path) for path in sources()} == ARROWS.keys() == OTHERS.keys()


@pytest.mark.parametrize("room", ARROWS)
def test_a_room_imports_exactly_what_the_tables_say(room: str) -> None:
    own, foreign = used(room)
    assert own == ARROWS[room]
    assert foreign == OTHERS[room]


def test_the_table_has_no_cycle() -> None:
    done: set[str] = {"_abi"}
    while len(done) <= len(ARROWS):
        ready = {room for room, targets in ARROWS.items() if room not in done and targets <= done}
        assert ready, f"a circle among {ARROWS.keys() - done}"
        done |= ready


def test_no_two_classes_have_one_name() -> None:
    pattern = re.compile(r"^ *(?:cdef )?class (\w+)[:(]", re.MULTILINE)
    found = Counter(name for path in sources() for name in pattern.findall(path.read_text()))
    assert [name for name, count in found.items() if count > 1] == []


IMPORT_ONLY = "import sys\n"


def test_importing_the_package_imports_numpy_and_a_few_modules_of_the_standard_library() -> None:
    """How long it takes follows from that. The time itself depends on what else the machine does."""
    printed = run(
        """
        import numpy.typing, atexit, dataclasses, errno, inspect, logging, pathlib, struct, weakref
        before = set(sys.modules)
        import billiards_shm
        print(*{name.split(".")[0] for name in set(sys.modules) - before})
        """,
        prelude=IMPORT_ONLY,
    )
    of_cython = ("_cython_", "cython_runtime")  # names that its runtime uses for itself
    assert {name for name in printed.split() if not name.startswith(of_cython)} == {"billiards_shm"}


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


@pytest.mark.parametrize("module", ["inspect", "collections.abc", "weakref", "atexit"])
def test_an_unreadable_module_of_the_standard_library_is_pythons_own_error(module: str) -> None:
    code = """
    import sys, numpy
    class Unreadable:
        def find_spec(self, name, path=None, target=None):
            if name == sys.argv[1]:
                raise PermissionError(name)
    sys.modules.pop(sys.argv[1], None)
    sys.meta_path.insert(0, Unreadable())
    try:
        import billiards_shm
    except PermissionError as error:
        assert str(error) == sys.argv[1]
    else:
        raise AssertionError(f"{sys.argv[1]} was not needed")
    """
    run(code, module, prelude="")


def test_a_source_tree_that_was_not_built_says_so_in_one_line(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "billiards_shm", ignore=shutil.ignore_patterns("_core*.so", "__pycache__"))
    code = "import sys; sys.path.insert(0, sys.argv[1]); import billiards_shm"
    failed = subprocess.run(
        [sys.executable, "-S", "-P", "-c", code, tmp_path], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1
    *_, said = failed.stderr.splitlines()
    assert said.startswith(f"ImportError: {tmp_path}/billiards_shm was not built: run `pip install")
    assert "During handling" not in failed.stderr

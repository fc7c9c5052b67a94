"""A unique segment name for each test, a writer and a reader for it, and the check that nothing is left behind."""

import gc
import itertools
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from segments_under_test import SHAPE

from billiards_shm import SharedMemoryFrameReader, SharedMemoryFrameWriter, remove_stale_segments

# Packaging tests need the tools of the extra `dev`, which README's command does not install.
collect_ignore = (
    []
    if find_spec("auditwheel")
    else [f"packaging/test_{name}.py" for name in ("arm_wheel", "containers", "packaging", "reference", "wheel")]
)

SHARED_MEMORY = Path("/dev/shm")
TEMPORARIES = pytest.StashKey[set[str]]()
PREFIX = f"test-{os.getpid()}-"
_numbers = itertools.count(1)

# How long an example takes says more about the machine than about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


# Shells ignore Ctrl+C for background jobs, and nohup ignores hangups; processes that tests start must not.
for _number in (signal.SIGINT, signal.SIGHUP) if sys.platform != "win32" else ():
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL if _number == signal.SIGHUP else signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """Two workers per processor: most tests wait for other processes most of their time."""
    return min(2 * (os.cpu_count() or 1), 16)


def _temporaries() -> set[str]:
    return {path.name for path in SHARED_MEMORY.glob(".bshm-*~")}


def _left_behind(left: Callable[[], Collection[str]]) -> Collection[str]:
    """The paths still there after a while; killed processes take their time to vanish."""
    deadline = time.monotonic() + 10
    while (found := left()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[TEMPORARIES] = _temporaries()


def pytest_collection_finish() -> None:
    """Hide the objects made by collecting tests from the garbage collector: they are most of all objects."""
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Check that no temporary file of a segment is left. At the end, because one test cannot tell whose file it is."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    remove_stale_segments([])
    if left := _left_behind(lambda: _temporaries() - session.config.stash[TEMPORARIES]):
        print(f"\nleft in shared memory: {', '.join(sorted(left))}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def segment_name() -> str:
    """A name that no other test uses. Anything left under it when the test ends fails the test."""
    return f"{PREFIX}{next(_numbers)}"


@pytest.fixture
def name(segment_name: str) -> Iterator[str]:
    """The same, for writers that get killed: their segment is removed afterwards."""
    yield segment_name
    remove_stale_segments([segment_name])


@pytest.fixture
def writer(segment_name: str) -> Iterator[SharedMemoryFrameWriter]:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as made:
        yield made


@pytest.fixture
def reader(segment_name: str, writer: SharedMemoryFrameWriter) -> Iterator[SharedMemoryFrameReader]:
    with SharedMemoryFrameReader(segment_name) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_stays_in_shared_memory() -> Iterator[None]:
    yield
    left = _left_behind(lambda: [path.name for path in SHARED_MEMORY.glob(f"{PREFIX}*")])
    for name in left:
        path = SHARED_MEMORY / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    assert not left, f"left in shared memory: {', '.join(sorted(left))}"

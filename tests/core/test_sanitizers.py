"""The Python suite on a build with AddressSanitizer and UndefinedBehaviorSanitizer: it stops at the first report.

(The C tests have their own builds, with ThreadSanitizer too. Eight threads that share one reader are in
test_reader.py, which runs here as well.)
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest
from repository import ROOT
from tools import needs

FLAGS = ("-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g")

# Tests that touch memory in every way: geometry, views, corrupt segments, dying processes, forks, stress.
SUITE = (
    "test_reader.py", "test_writer.py", "test_lifetime.py", "test_layout.py", "test_names.py", "test_segments.py",
    "test_errors.py", "test_consumer.py", "test_processes.py", "test_torn_frames.py",
)  # fmt: skip

# detect_leaks=0: an interpreter ends without freeing what it has interned and imported, which is not ours to fix; that
# the package leaks nothing is checked by tests of descriptors, mappings and memory. Nothing else is left out, and there
# is no list of suppressions.
OPTIONS = "detect_leaks=0:halt_on_error=1:abort_on_error=1:print_stacktrace=1:detect_stack_use_after_return=1"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.xdist_group("sanitizers")]


def library(name: str) -> str:
    """Path of a library of the compiler."""
    needs("gcc")
    found = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
    assert "/" in found, f"gcc with {name} is missing: apt-get install gcc libasan8 libubsan1"
    return found.strip()


class Build:
    """An interpreter that imports a sanitized build, and is otherwise ordinary."""

    def __init__(self, directory: Path, packages: Path) -> None:
        """Take the package from `packages`, and everything else from this interpreter."""
        self._directory = directory
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory / "venv")], check=True)
        (site_packages,) = (directory / "venv").glob("lib/python*/site-packages")
        paths = [str(packages), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
        (site_packages / "sanitized.pth").write_text("\n".join(dict.fromkeys(paths)) + "\n")
        self._reports = directory / "reports"
        self._reports.mkdir(mode=0o777)
        self._reports.chmod(0o1777)  # tests become other users
        for each in (directory, *directory.parents):  # so they need access to it
            if tempfile.gettempdir() in map(str, each.parents) and each.stat().st_uid == os.geteuid():
                each.chmod(each.stat().st_mode | 0o011)

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {
            "LD_PRELOAD": f"{library('libasan.so')} {library('libstdc++.so')}",  # the latter: numpy throws exceptions
            "ASAN_OPTIONS": f"{OPTIONS}:log_path={self._reports}/asan",
            "UBSAN_OPTIONS": OPTIONS,
            "PYTHONSAFEPATH": "1",  # not the package next to the tests
            "PYTHONMALLOC": "malloc",  # otherwise small overruns stay inside the interpreter's own pools
        }
        python = str(self._directory / "venv" / "bin" / "python")
        return subprocess.run(
            [python, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    def pytest(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # Nothing is captured: UBSan has no log file, and its output must not die with the process.
        ended = self.python("-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "-n0", "--timeout=300", *arguments)
        print(ended.stdout[-6000:], ended.stderr[-3000:], sep="\n")
        return ended

    def reports(self, ended: subprocess.CompletedProcess[str]) -> str:
        """The sanitizers' reports, from any process."""
        said = [path.read_text(errors="replace") for path in sorted(self._reports.iterdir())]
        lines = (ended.stdout + ended.stderr).splitlines()
        return "\n".join(said + [line for line in lines if "runtime error:" in line])


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with the objects of a sanitized build, which lies in `installed`."""
    directory = tmp_path_factory.mktemp("sanitized") / "sources"
    directory.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, directory)
    for name in ("csrc", "billiards_shm"):
        leave = shutil.ignore_patterns("*.so", "_core.c", "__pycache__")
        shutil.copytree(ROOT / name, directory / name, ignore=leave)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(directory / "installed")]
    if importlib.util.find_spec("Cython"):
        install.append("--no-build-isolation")
    environment = os.environ | {"BILLIARDS_SHM_SANITIZE": "address,undefined", "CC": "gcc"}
    built = subprocess.run(
        [*install, str(directory)], env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return directory


def test_the_suite_runs_without_a_report_of_asan_or_ubsan(sources: Path, tmp_path: Path) -> None:
    build = Build(tmp_path, sources / "installed")
    where = "import billiards_shm._core as core; print(core.__file__)"
    for arguments in (
        ("-c", where),
        ("-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {where!r}])"),
    ):
        assert build.python(*arguments).stdout.startswith(str(sources / "installed")), "the build is the one under test"
    ended = build.pytest(*(f"tests/core/{name}" for name in SUITE))
    assert build.reports(ended) == ""
    assert ended.returncode == 0
    print(ended.stdout.splitlines()[-1])


PLANTED = [
    pytest.param(
        "copy.c",
        "        kernel(to, from, row_bytes * rows);\n",
        "        kernel(to, from, row_bytes * rows + 1);\n",
        "heap-buffer-overflow",
        id="reads one byte too many",
    ),
    pytest.param(
        "reader.c",
        "    return a < b ? a : b;\n",
        "    return a + INT64_MAX < b ? a : b;\n",
        "signed integer overflow",
        id="overflows a signed integer",
    ),
]


@pytest.mark.parametrize(("file", "right", "wrong", "report"), PLANTED)
def test_a_bug_that_only_a_sanitizer_sees_is_reported(
    sources: Path, tmp_path: Path, file: str, right: str, wrong: str, report: str
) -> None:
    packages = tmp_path / "planted"
    shutil.copytree(sources / "installed", packages)
    text = (sources / "csrc" / file).read_text()
    assert text.count(right) == 1, f"{file} has changed"
    mutant = tmp_path / file
    mutant.write_text(text.replace(right, wrong))
    (core,) = packages.glob("billiards_shm/_core*.so")
    objects = [str(path) for path in sources.glob("build/temp*/**/*.o") if path.name != Path(file).stem + ".o"]
    assert len(objects) > 8
    shared = ["-shared", "-fPIC", "-pthread", *FLAGS]
    options = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-w", f"-I{sources / 'csrc'}"]
    subprocess.run(["gcc", *shared, *options, str(mutant), *objects, "-o", str(core)], check=True)
    build = Build(tmp_path, packages)
    ended = build.pytest("tests/core/test_reader.py", "-x", "-k", "waiting_read_is_woken or read_once")
    assert ended.returncode != 0
    assert report in build.reports(ended)
    assert file in build.reports(ended)

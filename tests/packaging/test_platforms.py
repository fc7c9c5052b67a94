"""Every supported platform: core and tests in C are compiled and linked, and run where this machine can.

zig (PyPI: ziglang) has compilers, headers and libraries for all of them. Programs for Windows run in wine, those for
ARM64 in qemu, those for musl with musl's own loader. Native programs are run by test_c_core.py.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from repository import CSRC, TESTS
from tools import needs

PROGRAMS_DIRECTORY = TESTS / "c"
# test_failures wraps functions with GNU ld, test_old_kernel filters this kernel's system calls,
# and test_fork checks what MADV_DONTFORK keeps out of a child, which qemu ignores.
NATIVE_ONLY = {"test_failures", "test_fork", "test_old_kernel"}
PROGRAMS = {path.stem for path in PROGRAMS_DIRECTORY.glob("test_*.c")} - NATIVE_ONLY
# Programs that depend on the platform layer, rather than on the compiler.
WITH_SEGMENT = {"test_inspect", "test_life_cycle", "test_names", "test_reader", "test_two_processes", "test_writer"}

FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-g0", "-fno-sanitize=all", f"-I{CSRC}", f"-I{PROGRAMS_DIRECTORY}"]
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
CORE = sorted(CSRC.rglob("*.c"))  # files for other systems compile to nothing

WINE = next((path for path in ("/usr/lib/wine/wine64", shutil.which("wine64")) if path and Path(path).exists()), None)
MUSL = "/lib/ld-musl-x86_64.so.1"
QEMU = [shutil.which("qemu-aarch64-static") or "qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu"]


@dataclass(frozen=True)
class Target:
    """One platform: its name in zig, the programs to build, and how to start them, if possible."""

    triple: str
    programs: frozenset[str]
    runner: tuple[str, ...] | None = None
    flags: tuple[str, ...] = ()
    suffix: str = ""
    linked_with: tuple[str, ...] = ("-lpthread",)

    @property
    def system(self) -> str:
        return self.triple.split("-")[1].split(".")[0]

    def __str__(self) -> str:
        return " ".join((self.triple, *self.flags))


POSIX = frozenset(PROGRAMS - {"test_windows"})
WINDOWS = {"suffix": ".exe", "linked_with": ("-ladvapi32",), "runner": (WINE or "wine64",)}
TARGETS = [
    Target("x86_64-windows-gnu", frozenset(PROGRAMS), **WINDOWS),  # type: ignore[arg-type]
    Target(
        "x86_64-windows-gnu",
        frozenset({"test_steps", "test_interleavings", "test_races", "test_reader", "test_threads", "test_writer"}),
        flags=("-DBSHM_INTERLOCKED",),  # the atomics for Microsoft's compiler
        **WINDOWS,  # type: ignore[arg-type]
    ),
    Target("aarch64-linux-gnu.2.28", POSIX, runner=tuple(QEMU)),
    Target("x86_64-linux-musl", frozenset(WITH_SEGMENT | {"test_threads"}), (MUSL,), ("-dynamic",)),
    Target("x86_64-linux-gnu.2.17", frozenset(WITH_SEGMENT), ()),
    Target("aarch64-linux-musl", frozenset(WITH_SEGMENT), flags=("-dynamic",)),
    Target("aarch64-macos.11.0", POSIX),
    Target("x86_64-macos.10.15", POSIX),
]
RUNS = [
    pytest.param(target, name, id=f"{target}-{name}")
    for target in TARGETS
    if target.runner is not None
    for name in sorted(target.programs)
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("platforms"),
    pytest.mark.timeout(900),  # zig builds each system's C library once per user: minutes on a busy machine
]


def zig() -> list[str]:
    import ziglang  # of the extra `dev`

    return [str(Path(ziglang.__file__).parent / "zig")]


def run(command: list[str | Path], timeout: float = 600.0, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=timeout,
        env={**os.environ, **environment},
        check=False,
    )


@dataclass
class Built:
    """The result of one target: programs by name, and the complaints of compiler and linker."""

    directory: Path
    complaints: list[str] = field(default_factory=list)

    def attempt(self, command: list[str | Path]) -> None:
        finished = run(command, timeout=800)
        if finished.returncode != 0:
            self.complaints.append(finished.stdout)


def build(target: Target, directory: Path, pool: ThreadPoolExecutor) -> Built:
    directory.mkdir()
    built = Built(directory)
    tool = zig()
    common: list[str | Path] = [*tool, "cc", "-target", target.triple, *FLAGS, *target.flags]
    sources = CORE
    programs = [PROGRAMS_DIRECTORY / f"{name}.c" for name in sorted(target.programs)]

    def compile_one(source: Path) -> None:
        # The programs' own warnings are the same on every system, and test_c_core.py sees them.
        warnings = WARNINGS if source in CORE else ["-w"]
        built.attempt([*common, *warnings, "-c", source, "-o", directory / f"{source.stem}.o"])

    def link_one(program: Path) -> None:
        inputs = [directory / f"{program.stem}.o", directory / "core.a"]
        output = directory / f"{program.stem}{target.suffix}"
        built.attempt([*common, *inputs, "-o", output, *target.linked_with])

    list(pool.map(compile_one, [*sources, *programs]))
    if not built.complaints:
        # An archive: some programs include core sources, and the linker then leaves out their objects.
        built.attempt([*tool, "ar", "rcs", directory / "core.a", *(directory / f"{path.stem}.o" for path in sources)])
        link_one(programs[0])  # alone: the first builds the system's libraries
        list(pool.map(link_one, programs[1:]))
    return built


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Target, Future[Built]]]:
    """All targets, one after another, on all processors, while finished ones already run."""
    zig()
    directory = tmp_path_factory.mktemp("platforms")
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(2) as pool:
        yield {
            target: one.submit(build, target, directory / str(number), pool) for number, target in enumerate(TARGETS)
        }
        one.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def wine_prefix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    assert WINE, "install wine64"
    prefix = str(tmp_path_factory.mktemp("wine") / "prefix")
    run(["/usr/lib/wine/wine64", "wineboot", "--init"], WINEPREFIX=prefix, WINEDEBUG="-all", WINEDLLOVERRIDES="mshtml=")
    yield prefix
    run(["/usr/lib/wine/wineserver64", "-k"], WINEPREFIX=prefix)


def first_complaint(built: Built) -> str:
    return re.sub(r"\n.*generated\.\n", "\n", built.complaints[0])[:4000] if built.complaints else ""


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_core_and_programs_are_compiled_without_a_warning_and_linked(
    target: Target, builds: dict[Target, Future[Built]]
) -> None:
    built = builds[target].result()
    assert not built.complaints, first_complaint(built)
    for name in target.programs:
        assert (built.directory / f"{name}{target.suffix}").stat().st_size > 10_000


@pytest.mark.parametrize(("target", "name"), RUNS)
def test_every_check_of_the_program_holds_on_that_platform(
    target: Target,
    name: str,
    builds: dict[Target, Future[Built]],
    segment_name: str,
    request: pytest.FixtureRequest,
) -> None:
    built = builds[target].result()
    assert not built.complaints, "not built"
    environment = {}
    if target.system == "windows":
        environment = {"WINEPREFIX": request.getfixturevalue("wine_prefix"), "WINEDEBUG": "-all"}
    elif target.runner:
        needs(target.runner[0])
    finished = run([*(target.runner or ()), built.directory / f"{name}{target.suffix}", segment_name], **environment)
    print(finished.stdout)
    assert finished.returncode == 0, finished.stdout
    assert ", 0 failed" in finished.stdout


def test_atomics_for_microsofts_compiler_are_compiled_for_arm(tmp_path: Path) -> None:
    for source in CORE:
        command = [*zig(), "cc", "-target", "aarch64-windows-gnu", "-DBSHM_INTERLOCKED", *FLAGS, "-Wall", "-Werror"]
        finished = run([*command, "-c", source, "-o", tmp_path / "object"])
        assert finished.returncode == 0, finished.stdout


@pytest.mark.parametrize("triple", ["x86_64-windows-gnu", "aarch64-macos.11.0"])
def test_every_global_name_of_the_core_has_the_prefix_on_that_platform(triple: str, tmp_path: Path) -> None:
    names = []
    for source in CORE:
        assembly = tmp_path / f"{source.stem}.s"
        finished = run([*zig(), "cc", "-target", triple, *FLAGS, "-S", source, "-o", assembly])
        assert finished.returncode == 0, finished.stdout
        names += re.findall(r"^\s*\.globl\s+_?(\w+)", assembly.read_text(), re.MULTILINE)
    assert len(names) > 100
    assert [name for name in names if not name.startswith("bshm_")] == []


def test_a_32_bit_system_gets_an_error_that_explains_it(tmp_path: Path) -> None:
    source = CSRC / "layout.c"
    finished = run([*zig(), "cc", "-target", "x86-linux-gnu", *FLAGS, "-c", source, "-o", tmp_path / "object"])
    assert finished.returncode != 0
    assert "billiards_shm needs a 64-bit system" in finished.stdout

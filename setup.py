"""Builds the extension module. Everything else is in pyproject.toml.

Switches, as environment variables:

BILLIARDS_SHM_SANITIZE   address,undefined | thread   builds with that sanitizer
BILLIARDS_SHM_COVERAGE   1                            counts lines of C
BILLIARDS_SHM_DEBUG      1                            -O0 -g
"""

import os
import sys
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
LIMITED_API = "0x030B0000"  # 3.11: the first with the buffer protocol

if sys.platform not in ("linux", "darwin", "win32"):
    raise SystemExit(f"billiards_shm has no platform layer for {sys.platform}: linux, darwin and win32 are supported")
# All of them: files for other systems compile to nothing.
SOURCES = sorted(path.as_posix() for path in Path("csrc").rglob("*.c"))
HEADERS = sorted(path.as_posix() for path in Path("csrc").rglob("*.h"))
INCLUDED = sorted(path.as_posix() for path in Path("billiards_shm/core").glob("*.pxi"))

MSVC = sys.platform == "win32" and "GCC" not in sys.version  # a Python built by MinGW builds its extensions with MinGW

compile_args = ["-std=c11", "-O3", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra"]
link_args = ["-pthread"]
macros: list[tuple[str, str | None]] = [("_GNU_SOURCE", None)]
libraries = ["advapi32"] if sys.platform == "win32" else []
if MSVC:
    compile_args = ["/std:c11", "/O2", "/W3", "/utf-8"]
    link_args = []

if sanitizers := os.environ.get("BILLIARDS_SHM_SANITIZE"):
    flags = [f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer", "-g"]
    compile_args += flags
    link_args += flags
if os.environ.get("BILLIARDS_SHM_COVERAGE"):
    compile_args += ["--coverage", "-O0"]
    link_args += ["--coverage"]
if os.environ.get("BILLIARDS_SHM_DEBUG"):
    compile_args += ["/Od", "/Z7"] if MSVC else ["-O0", "-g"]
elif not sanitizers and not MSVC:
    compile_args += ["-g0"]  # the interpreter's own flags ask for debug information, nine tenths of the file
if not FREE_THREADED:
    macros.append(("Py_LIMITED_API", LIMITED_API))

extension = Extension(
    "billiards_shm._core",
    sources=["billiards_shm/_core.pyx", *SOURCES],
    depends=["billiards_shm/_abi.pxd", *INCLUDED, *HEADERS],
    include_dirs=["csrc"],
    define_macros=macros,
    libraries=libraries,
    extra_compile_args=compile_args,
    extra_link_args=link_args,
    py_limited_api=not FREE_THREADED,
)


class BuildPython(build_py):
    """Also installs the core's sources, for programs in C: `billiards_shm.get_include()`."""

    def run(self) -> None:
        """Copy the modules, then the sources."""
        super().run()
        if self.editable_mode:
            return
        include = Path(self.build_lib) / "billiards_shm" / "include"
        for source in SOURCES + HEADERS:
            copy = include / Path(source).relative_to("csrc")
            self.mkpath(str(copy.parent))
            self.copy_file(source, str(copy))


class BuildWithoutRunpath(build_ext):
    """Leaves out the path of the interpreter's libraries, which some interpreters write into every extension."""

    def build_extensions(self) -> None:
        """Build without the linker flags that write that path."""
        if linker := getattr(self.compiler, "linker_so", None):  # Microsoft's compiler has none
            self.compiler.linker_so = [word for word in linker if not word.startswith(("-Wl,-rpath", "-Wl,-R"))]
        super().build_extensions()


setup(
    cmdclass={"build_py": BuildPython, "build_ext": BuildWithoutRunpath},
    ext_modules=cythonize(
        [extension],
        compiler_directives={"language_level": 3, "freethreading_compatible": True, "embedsignature": True},
    ),
    options={} if FREE_THREADED else {"bdist_wheel": {"py_limited_api": "cp311"}},
)

"""Where programs in C and C++ find the header and the sources of the core."""

from pathlib import Path

__all__ = ["get_include"]


def get_include() -> str:
    """Return the directory that holds ``billiards_shm.h`` and the C sources of the core.

    The header uses only fixed-width integers, so C++ can use it too. Compile your program together with all of the
    sources; those for other systems compile to nothing::

        cc -O2 -I"$include" reader.c "$include"/*.c "$include"/platform/*.c -pthread

    On Windows, link with ``advapi32``.

    Returns
    -------
    str
        The directory's path.
    """
    installed = Path(__file__).with_name("include")
    return str(installed if installed.is_dir() else Path(__file__).parents[1] / "csrc")

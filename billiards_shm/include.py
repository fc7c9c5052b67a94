"""Where programs in C and C++ find the header and the sources of the core."""

from pathlib import Path

__all__ = ["get_include"]


def get_include() -> str:
    """Return the directory that holds ``billiards_shm.h`` and the C sources of the core.

    The header needs nothing but fixed-width integers, so that C++ takes it too. A program is compiled together with
    the sources, all of them, for each leaves out what other systems need::

        cc -O2 -I"$include" reader.c "$include"/*.c -pthread

    On Windows it is linked with ``advapi32``.

    Returns
    -------
    str
        The directory's path.
    """
    installed = Path(__file__).with_name("include")
    return str(installed if installed.is_dir() else Path(__file__).parents[1] / "csrc")

"""``billiards-shm`` and ``python -m billiards_shm``."""

import os
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, which needs more than the package alone, and return the exit code."""
    _open_standard_streams()
    try:
        from billiards_shm.cli.main import run
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("billiards_shm"):
            raise
        print(
            f"billiards-shm: error: the command line needs {error.name}: pip install 'billiards-shm[cli]' "
            "(or [headless], which brings OpenCV too)",
            file=sys.stderr,
        )
        return 1
    return run(arguments)


def _open_standard_streams() -> None:
    """Open the standard streams that the caller closed (``>&-``) on the null device.

    Otherwise the next file or socket would get the descriptor, and with it everything that is printed.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free descriptor is this one. Children inherit it.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115


if __name__ == "__main__":
    sys.exit(main())

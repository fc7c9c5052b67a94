"""``billiards-shm`` and ``python -m billiards_shm``."""

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, for which the package alone is not enough, and give the exit code."""
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


if __name__ == "__main__":
    sys.exit(main())

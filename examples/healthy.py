"""Checks whether a source is healthy: exit code 0 if its newest captured frame is recent enough, else 1 and the reason.

    python examples/healthy.py [NAME] [--max-age SECONDS]

For the health checks of containers and services. Placeholders do not count as frames, nor do the repeats of a frozen
camera. A live capture process alone proves nothing.
"""

import argparse

from billiards_shm import BilliardsShmError, inspect_segment


def problem_with(name: str, max_age: float) -> str | None:
    """Say what is wrong with the source; None if nothing is."""
    try:
        info = inspect_segment(name)
    except BilliardsShmError as error:
        return str(error)
    if info.last_frame_age is None:
        return f"{name}: no frame has been captured yet ({info.source_state})"
    if info.last_frame_age > max_age:
        age = f"the newest frame is {info.last_frame_age:.1f} s old, {max_age:g} s are allowed"
        return f"{name}: {age} ({info.source_state})"
    return None


def main() -> None:
    """Print nothing if all is well."""
    parser = argparse.ArgumentParser(description="Exit with 1 if frames are old or missing")
    parser.add_argument("name", nargs="?", default="billiards_video")
    parser.add_argument("--max-age", type=float, default=5.0, metavar="SECONDS")
    arguments = parser.parse_args()
    if reason := problem_with(arguments.name, arguments.max_age):
        raise SystemExit(reason)


if __name__ == "__main__":
    main()

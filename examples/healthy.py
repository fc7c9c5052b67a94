"""Tells whether a source is well: exit code 0 if its newest captured frame is young enough, 1 with the reason if not.

    python examples/healthy.py [NAME] [--max-age SECONDS]

For the health checks of containers and services. Placeholders do not count as frames, nor do cameras that repeat their
last one; that the capture process lives says nothing.
"""

import argparse

from billiards_shm import BilliardsShmError, inspect_segment


def reason_not_to_be(name: str, max_age: float) -> str | None:
    """What is wrong with the source; None: nothing."""
    try:
        info = inspect_segment(name)
    except BilliardsShmError as error:
        return str(error)
    if info.last_frame_age is None:
        return f"{name}: no frame was captured yet ({info.source_state})"
    if info.last_frame_age > max_age:
        age = f"the newest frame is {info.last_frame_age:.1f} s old, {max_age:g} s are allowed"
        return f"{name}: {age} ({info.source_state})"
    return None


def main() -> None:
    """Say nothing if all is well."""
    parser = argparse.ArgumentParser(description="Exit with 1 if frames are old or missing")
    parser.add_argument("name", nargs="?", default="billiards_video")
    parser.add_argument("--max-age", type=float, default=5.0, metavar="SECONDS")
    arguments = parser.parse_args()
    if reason := reason_not_to_be(arguments.name, arguments.max_age):
        raise SystemExit(reason)


if __name__ == "__main__":
    main()

"""Frames for people to look at, and health for operators: pictures, streams and metrics over HTTP."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from billiards_shm.serve.app import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    # Not above: `snapshot` needs the encoder of this package, and no web library.
    if name == "create_app":
        from billiards_shm.serve.app import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The HTTP server: a page with live images, streams, snapshots, health and metrics."""

from typing import TYPE_CHECKING, Any

from billiards_shm.serve.signed_urls import sign_url

if TYPE_CHECKING:
    from billiards_shm.serve.app import create_app

__all__ = ["create_app", "sign_url"]


def __getattr__(name: str) -> Any:
    # Imported on first use, because it imports the web libraries.
    if name == "create_app":
        from billiards_shm.serve.app import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

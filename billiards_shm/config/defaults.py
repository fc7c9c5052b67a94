"""Defaults that commands need without the model, which imports pydantic."""

from typing import Final

__all__ = ["MAX_FRAME_AGE_SEC"]

MAX_FRAME_AGE_SEC: Final = 3.0
"""A segment whose newest captured frame is older is stalled."""

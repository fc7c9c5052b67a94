"""What the sections of the configuration share."""

from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict

from billiards_shm import _core

__all__ = ["HOST_ALLOWED", "NAME_ALLOWED", "ConflictError", "Section", "SegmentName"]

# The rule itself is the core's; this is its description.
NAME_ALLOWED: Final = (
    "letters, digits, '.', '_' and '-', at most 64 of them; or a path, which has a slash "
    "(but '/name' with a leading slash only is not one: leave the slash out)"
)
HOST_ALLOWED: Final = "an address of this machine; 0.0.0.0 is all of them"


class ConflictError(ValueError):
    """A value that is allowed, but not with another one; the message says which."""


class Section(BaseModel):
    """A part of the configuration, in which every key is known."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _segment_name(value: str) -> str:
    _core.object_path(value)  # SegmentNameError, which is a ValueError
    return value


SegmentName = Annotated[str, AfterValidator(_segment_name)]

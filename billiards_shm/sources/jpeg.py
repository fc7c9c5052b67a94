"""Whether a JPEG is whole: decoders do not always notice that a part is missing."""

from typing import Final

__all__ = ["has_end"]

_START: Final = b"\xff\xd8"
_SCAN: Final = 0xDA
_END: Final = b"\xff\xd9"


def has_end(content: bytes) -> bool | None:
    """Whether the pixels of a JPEG end with the end marker; None if it has no pixels, or is no JPEG.

    Within the pixels no other marker looks like it. One in the header belongs to a preview.
    """
    position = len(_START)
    while content.startswith(_START) and content[position : position + 1] == b"\xff":
        if content[position + 1 : position + 2] == bytes([_SCAN]):
            return content.rfind(_END) > position
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return None

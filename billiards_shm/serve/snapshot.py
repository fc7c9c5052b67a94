"""The newest frame of a segment as one image."""

import logging
from collections.abc import Iterable
from typing import Final

from fastapi import HTTPException, Response

from billiards_shm import BilliardsShmError, FrameMetadata, SegmentNotFoundError, SegmentStatus, SharedMemoryFrameReader
from billiards_shm.images import Previews, encode_image
from billiards_shm.serve.feed import PreviewFormat, capture_time_text

__all__ = ["SNAPSHOT_HEADERS", "take_snapshot"]

_log = logging.getLogger(__name__)

SNAPSHOT_HEADERS: Final = ("ETag", "X-Frame-Age", "X-Frame-Capture-Time", "X-Frame-Online", "X-Frame-Sequence")
"""Headers that describe the frame."""

_MEDIA_TYPES: Final = {"jpg": "image/jpeg", "png": "image/png"}


def take_snapshot(
    name: str,
    extension: str,
    *,
    preview: PreviewFormat,
    max_age: float | None,
    if_none_match: str,
    owners: Iterable[int | str] | None,
) -> Response | HTTPException:
    """Read the newest frame and encode it.

    Errors are returned, not raised: a traceback would hold the frame for as long as anything holds the error.

    Parameters
    ----------
    name : str
        The segment.
    extension : str
        jpg or png.
    preview : PreviewFormat
        Of a JPEG.
    max_age : float or None
        Greatest age of the newest captured frame, in seconds.
    if_none_match : str
        The header of the request: ETags of the client's snapshots.
    owners : iterable or None
        As for a reader.

    Returns
    -------
    fastapi.Response or fastapi.HTTPException
    """
    with SharedMemoryFrameReader(name, trusted_owners=owners) as reader:
        try:
            frame, metadata = reader.latest_frame()
            age = reader.last_frame_age
        except SegmentNotFoundError:
            frame = metadata = None
        except BilliardsShmError as error:
            return HTTPException(503, str(error))
        if frame is None or metadata is None:
            gone = reader.status is SegmentStatus.DETACHED
            nothing = f"there is no segment {name} now" if gone else f"{name} has no frame: it is {reader.status}"
            return HTTPException(503, nothing, {"Retry-After": "1"})
        if max_age is not None and (age is None or age > max_age):
            found = "there is none" if age is None else f"it is {age:.3f} s old"
            too_old = f"the newest captured frame of {name} may be at most {max_age:g} s old, and {found}"
            return HTTPException(503, too_old, {"Retry-After": "1"})
        # Neither a placeholder nor the last frame of a dead writer shows the source as it is now.
        headers = _headers(metadata, age, metadata.online and reader.status is SegmentStatus.LIVE)
        if _is_known(headers["ETag"], if_none_match):
            return Response(status_code=304, headers=headers)
        try:
            if extension == "jpg":
                image = preview.encode(Previews(frame, metadata.pixel_format), metadata)
            else:
                image = encode_image(frame, metadata.pixel_format, ".png")
        except ValueError as error:
            return HTTPException(415, str(error))
        except Exception:
            _log.exception("A snapshot of %s could not be encoded", name)
            return HTTPException(500, "the frame could not be encoded; the server's log says why")
    return Response(image, media_type=_MEDIA_TYPES[extension], headers=headers)


def _headers(metadata: FrameMetadata, age: float | None, online: bool) -> dict[str, str]:
    headers = {
        "Cache-Control": "private, no-cache",  # clients may keep it, but ask each time whether it is still the newest
        "ETag": f'"{metadata.generation[:16]}-{metadata.sequence}"',
        "X-Frame-Sequence": str(metadata.sequence),
        "X-Frame-Capture-Time": capture_time_text(metadata),
        "X-Frame-Online": "true" if online else "false",
    }
    if age is not None:
        headers["X-Frame-Age"] = f"{age:.6f}"
    return headers


def _is_known(tag: str, if_none_match: str) -> bool:
    known = {one.strip().removeprefix("W/") for one in if_none_match.split(",")}
    return tag in known or "*" in known

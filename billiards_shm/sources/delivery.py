"""Whether a source is live or a recording: files are recordings, and so are URLs whose content has an end."""

from typing import Final
from urllib.parse import urlsplit

from billiards_shm.config.address import SourceAddress, SourceKind
from billiards_shm.sources.protocol import Delivery

__all__ = ["delivery_of"]

FETCHED: Final = frozenset({"http", "https", "ftp", "sftp", "smb"})
"""Schemes for fetching recordings. With all others the server sets the pace."""


def delivery_of(address: SourceAddress, *, segmented: bool, has_end: bool) -> Delivery:
    """How the frames of an open source arrive.

    Parameters
    ----------
    address : SourceAddress
    segmented : bool
        Whether it is a playlist of segments, as in HLS.
    has_end : bool
        Whether its length is known.
    """
    if address.kind is not SourceKind.URL:
        return Delivery.LIVE if address.live else Delivery.RECORDED
    if urlsplit(str(address.place)).scheme.lower() not in FETCHED:
        return Delivery.LIVE
    if has_end:
        return Delivery.RECORDED
    return Delivery.BURSTS if segmented else Delivery.LIVE

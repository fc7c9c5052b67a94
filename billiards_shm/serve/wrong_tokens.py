"""Wrong tokens, counted by the address they come from, so that trying many takes long."""

import ipaddress
import time
from collections import OrderedDict
from typing import Final

__all__ = ["WrongTokens"]

AT_ONCE: Final = 10
"""Wrong tokens that an address may send before it has to wait."""

INTERVAL_S: Final = 5.0
"""Time between further ones."""

REMEMBERED_ADDRESSES: Final = 4096


class WrongTokens:
    """Decides whether a token from an address is looked at. A client at another address never has to wait for that."""

    def __init__(self) -> None:
        # For each address, when it would have sent its wrong tokens had they come at one per interval.
        self._paid_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._paid_at)

    def wait_s(self, address: str) -> float:
        """Seconds until a token from this address is looked at; 0: now."""
        paid_at = self._paid_at.get(_group(address), 0.0)
        return max(0.0, paid_at - (AT_ONCE - 1) * INTERVAL_S - time.monotonic())

    def count(self, address: str) -> None:
        """Count a wrong token."""
        group = _group(address)
        self._paid_at[group] = max(self._paid_at.get(group, 0.0), time.monotonic()) + INTERVAL_S
        self._paid_at.move_to_end(group)
        if len(self._paid_at) > REMEMBERED_ADDRESSES:
            self._paid_at.popitem(last=False)


def _group(address: str) -> str:
    """The address, or the IPv6 network that one client may choose its addresses from."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]  # of a proxy that sends names
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
    return str(found)

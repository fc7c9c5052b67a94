"""Wrong tokens, counted by the address they come from, so trying many takes long."""

import hashlib
import ipaddress
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

__all__ = ["WrongTokens"]

AT_ONCE: Final = 10
"""Wrong tokens that an address may send before it has to wait."""

INTERVAL_S: Final = 5.0
"""Time between further ones."""

REMEMBERED_ADDRESSES: Final = 4096

KNOWN: Final = 8
"""Wrong tokens of an address that are remembered."""


@dataclass(slots=True)
class _Sender:
    paid_at: float = 0.0
    """When it would have sent its wrong tokens at a rate of one per interval."""
    known: deque[bytes] = field(default_factory=lambda: deque(maxlen=KNOWN))
    """Hashes of its last wrong tokens."""


class WrongTokens:
    """Decides whether a token from an address is checked. Clients at other addresses never wait."""

    def __init__(self) -> None:
        self._senders: OrderedDict[str, _Sender] = OrderedDict()

    def __len__(self) -> int:
        return len(self._senders)

    def wait_s(self, address: str) -> float:
        """Seconds until a token from this address is checked; 0: now."""
        sender = self._senders.get(_group(address))
        return 0.0 if sender is None else max(0.0, sender.paid_at - (AT_ONCE - 1) * INTERVAL_S - time.monotonic())

    def count(self, address: str, token: bytes) -> bool:
        """Count a wrong token; False if the address sent the same before: it has an old one, and is not guessing."""
        group = _group(address)
        sender = self._senders.setdefault(group, _Sender())
        self._senders.move_to_end(group)
        if len(self._senders) > REMEMBERED_ADDRESSES:
            self._senders.popitem(last=False)
        digest = hashlib.sha256(token).digest()
        if digest in sender.known:
            return False
        sender.known.append(digest)
        sender.paid_at = max(sender.paid_at, time.monotonic()) + INTERVAL_S
        return True


def _group(address: str) -> str:
    """The address, or the IPv6 network that one client can choose its addresses from."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]  # from a proxy that sends names
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
    return str(found)

"""Signed addresses: they give access to one address of the server for a limited time, without the token."""

import hashlib
import hmac
import math
import re
import time
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

__all__ = ["sign_url", "signed_until"]

LONGEST_S: Final = 10 * 365 * 24 * 3600.0

# Longer ones would take milliseconds to check. Only clients with access may cost that much.
_LONGEST_QUERY: Final = 2048

# Pages add these so that browsers fetch a picture again. No address of the server uses them.
_UNSIGNED: Final = frozenset({"signature", "t", "_"})
_TIME: Final = re.compile("[0-9]{1,12}")
# Characters that do not have to be quoted in a path.
_SAFE: Final = "/%:@!$&'()*+,;=~"


def sign_url(path: str, token: str, *, seconds: float = 3600.0) -> str:
    """Sign an address of the server, so that a page can embed it without the token.

    Parameters
    ----------
    path : str
        As the server knows it, without host and without the prefix of a proxy or of an application that the server is
        mounted in: ``/stream/billiards_video.mjpg?width=640``.
    token : str
        The server's token. A new token revokes the access.
    seconds : float
        How long the address gives access, up to ten years. A stream ends then, too.

    Returns
    -------
    str
        The path with ``expires`` (seconds since 1970) and ``signature`` in its query. Only ``t`` and ``_`` may be added
        to it, with any value.

    Raises
    ------
    ValueError
        The path does not begin with one slash or has a fragment, the query is too long, the token is empty, or the time
        is out of range.

    Examples
    --------
    >>> sign_url("/snapshot/billiards_video.jpg", "secret", seconds=60)  # doctest: +SKIP
    '/snapshot/billiards_video.jpg?expires=1767225600&signature=1c6f...'
    """
    if not path.startswith("/") or path.startswith("//") or "#" in path:
        raise ValueError(f"{path!r} is not a path of the server, such as /stream/NAME.mjpg")
    if not token.strip():
        raise ValueError("the token is empty, so there is nothing to sign with")
    if not (math.isfinite(seconds) and 0 < seconds <= LONGEST_S):
        raise ValueError(f"an address can be signed for more than 0 and up to {LONGEST_S:.0f} s, not for {seconds} s")
    location, _, query = path.partition("?")
    pairs = [(name, value) for name, value in _pairs(query) if name not in ("expires", "signature")]
    pairs.append(("expires", str(math.ceil(time.time() + seconds))))
    pairs.append(("signature", _signature(unquote(location), pairs, token.strip().encode())))
    signed = urlencode(pairs)
    if len(signed) > _LONGEST_QUERY:
        raise ValueError(f"the query is too long to be signed: {len(signed)} characters, of {_LONGEST_QUERY} allowed")
    return f"{quote(location, safe=_SAFE)}?{signed}"


def signed_until(path: str, query: str, token: bytes) -> float | None:
    """When the access of a signed address ends, in seconds since 1970; None: it gives no access.

    Parameters
    ----------
    path : str
        Decoded, as the application's routes get it.
    query : str
        As sent.
    token : bytes
    """
    if "signature=" not in query or len(query) > _LONGEST_QUERY:
        return None
    pairs = _pairs(query)
    expiries = [value for name, value in pairs if name == "expires"]
    signatures = [value for name, value in pairs if name == "signature"]
    if len(expiries) != 1 or len(signatures) != 1 or not _TIME.fullmatch(expiries[0]):
        return None
    if not hmac.compare_digest(signatures[0].encode(), _signature(path, pairs, token).encode()):
        return None
    until = float(expiries[0])
    return until if until > time.time() else None


def _pairs(query: str) -> list[tuple[str, str]]:
    # The application splits the query in the same way, so it gets what was signed.
    return parse_qsl(query, keep_blank_values=True)


def _signature(path: str, pairs: list[tuple[str, str]], token: bytes) -> str:
    # A stable sort: if a parameter occurs twice, the application takes the last one.
    signed = sorted((pair for pair in pairs if pair[0] not in _UNSIGNED), key=lambda pair: pair[0])
    # The encoded query has no line breaks, so only one path and query result in this text.
    text = f"billiards_shm address\n{urlencode(signed)}\n{path}"
    return hmac.digest(token, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()

"""Owners to trust: you, root, and the users you name; and the group of a segment.

Anyone can create a name in shared memory, so the name alone proves nothing about where the pictures come from.
"""

import os
from collections.abc import Iterable

__all__ = ["resolve_group", "resolve_owners"]

TRUSTED_OWNERS_VARIABLE = "BILLIARDS_SHM_TRUSTED_OWNERS"


def resolve_owners(owners: Iterable[int | str] | None) -> list[int]:
    """Turn users into user ids.

    Parameters
    ----------
    owners
        User ids or user names; None: those in the environment variable ``BILLIARDS_SHM_TRUSTED_OWNERS``, separated by
        commas.

    Raises
    ------
    ValueError
        No such user.
    """
    if owners is None:
        text = os.environ.get(TRUSTED_OWNERS_VARIABLE, "")
        owners = [part.strip() for part in text.split(",") if part.strip()]
    return [_resolve_owner(owner) for owner in owners]


def resolve_group(group: int | str) -> int:
    """Turn a group into a group id.

    Parameters
    ----------
    group
        Group id or group name.

    Raises
    ------
    ValueError
        No such group.
    """
    gid = _number(group, f"group {group}: a group id")
    if gid is not None:
        return gid
    try:
        import grp

        return grp.getgrnam(str(group)).gr_gid
    except (ImportError, KeyError):
        raise ValueError(f"group {group!r}: there is no such group; expected a group id or a group name") from None


def _resolve_owner(owner: int | str) -> int:
    uid = _number(owner, f"trusted owner {owner}: a user id")
    if uid is not None:
        return uid
    import pwd

    try:
        return pwd.getpwnam(str(owner)).pw_uid
    except KeyError:
        raise ValueError(f"trusted owner {owner!r}: there is no such user; give a user id or a user name") from None


def _number(value: int | str, what: str) -> int | None:
    """The id, from a number or its digits; None for a name."""
    if isinstance(value, str) and not value.isdecimal():
        return None
    number = int(value)
    if not 0 <= number < 2**32 - 1:
        raise ValueError(f"{what} lies between 0 and {2**32 - 2}")
    return number

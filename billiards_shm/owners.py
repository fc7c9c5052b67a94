"""Owners to trust: you, root, and the users you name.

Anyone may create a name in shared memory, so the name alone proves nothing about where the pictures come from.
"""

import os
from collections.abc import Iterable

__all__ = ["resolve_owners"]

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


def _resolve_owner(owner: int | str) -> int:
    if isinstance(owner, int) or owner.isdecimal():
        uid = int(owner)
        if not 0 <= uid < 2**32 - 1:
            raise ValueError(f"trusted owner {owner}: a user id lies between 0 and {2**32 - 2}")
        return uid
    import pwd

    try:
        return pwd.getpwnam(owner).pw_uid
    except KeyError:
        raise ValueError(f"trusted owner {owner!r}: there is no such user; give a user id or a user name") from None

"""Users and groups by name or number: the one place that asks the account database.

Names are resolved when the settings are read, so that a misspelt name stops the start instead of locking people out.
"""

import grp
import pwd
from collections.abc import Iterable

_LARGEST_ID = 2**32 - 2  # (uid_t)-1 means "leave it as it is" to chown


def user_id(name: str) -> int:
    """The uid of a user's name, or of a decimal uid (0 to 2^32-2) whether a user has it or not.

    Raises `LookupError` when there is no such user.
    """
    if name.isascii() and name.isdecimal():
        return _numeric(name)
    return pwd.getpwnam(name).pw_uid


def group_id(name: str) -> int:
    """The gid of a group's name, or of a decimal gid (0 to 2^32-2) whether a group has it or not.

    Raises `LookupError` when there is no such group.
    """
    if name.isascii() and name.isdecimal():
        return _numeric(name)
    return grp.getgrnam(name).gr_gid


def user_names(uids: Iterable[int]) -> dict[int, str | None]:
    """The name of each uid; None where no user has it. May ask a server, and wait for it."""
    return {uid: _user_name(uid) for uid in uids}


def _user_name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):  # the latter beyond what a uid can be
        return None


def _numeric(text: str) -> int:
    # Ten digits hold every id, and int() of an endless text would raise ValueError.
    if len(text) > 10 or int(text) > _LARGEST_ID:
        raise LookupError(text)
    return int(text)

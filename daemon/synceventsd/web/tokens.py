"""Tokens of readers: what one may read, and until when. HS256 and nothing else."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any, Final

from attrs import frozen

ALGORITHM: Final = "HS256"
U32_MAX: Final = 2**32 - 1

LATEST: Final = 2**53  # seconds; past that a float cannot count them


# Time is ours to judge, without leeway; of other claims only those count that say "not yet" or "not for you".
_OPTIONS: Final[Any] = {
    "require": ["exp"],
    "verify_exp": False,
    "verify_sub": False,
    "verify_jti": False,
    "verify_iat": False,
}


class BadTokenError(Exception):
    """The token is not one of ours, or has expired; the message says which, without the token."""


@frozen
class Reader:
    """Who asks.

    Attributes:
        businesses: whose events and syncs may be read; None: everything, also what is not of one business.
        expires_at: when that ends, in seconds since 1970.
    """

    businesses: frozenset[int] | None = None
    expires_at: float = math.inf

    def may_read(self, business_id: int | None) -> bool:
        """Return whether the reader may see this business; None stands for what is not of one business."""
        return self.businesses is None or (business_id is not None and business_id in self.businesses)


EVERYBODY: Final = Reader()
"""The reader where no tokens are asked for."""


def mint(secret: bytes, businesses: Iterable[int] | None, ttl: float, now: float) -> str:
    """Return a signed token.

    Args:
        secret: the key.
        businesses: whose events may be read; None: everything.
        ttl: how long it holds, in seconds.
        now: seconds since 1970.
    """
    import jwt

    claims: dict[str, Any] = {"businesses": "*" if businesses is None else list(businesses), "exp": int(now + ttl)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)
        return jwt.encode(claims, secret, algorithm=ALGORITHM)


def verify(token: str, secret: bytes, now: float) -> Reader:
    """Return what the token's bearer may read.

    Args:
        token: as it was sent.
        secret: the key.
        now: seconds since 1970; there is no leeway.

    Raises:
        BadTokenError: for every token that is not valid now.
    """
    import jwt  # only where tokens are used: it costs 30 ms at the start

    try:
        # A short key is told once, by check-config; PyJWT would warn at each use.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)
            claims = jwt.decode(token, secret, algorithms=[ALGORITHM], options=_OPTIONS)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        # The last three: a header that is no text, not of the expected types, or nested without end.
        raise BadTokenError("the token is not valid") from error
    return _reader(claims, now)


def _reader(claims: dict[str, Any], now: float) -> Reader:
    expires_at, businesses = claims["exp"], claims.get("businesses")
    if not _is_number(expires_at) or not abs(expires_at) < LATEST:
        raise BadTokenError("the token's exp is not a time")
    if now >= expires_at:
        raise BadTokenError("the token has expired")
    if businesses == "*":
        return Reader(None, expires_at)
    if not isinstance(businesses, list) or not all(_is_business(business) for business in businesses):
        raise BadTokenError('the token\'s businesses are neither a list of ids nor "*"')
    return Reader(frozenset(businesses), expires_at)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_business(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= U32_MAX

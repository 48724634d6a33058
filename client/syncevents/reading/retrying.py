"""How long a reader waits before it connects again. The dice and the clock are passed in."""

from typing import Final

FIRST: Final = 0.1  # seconds; a daemon that restarts is back in less than one
CAP: Final = 5.0  # seconds; few who watch want to wait longer, and thousands of readers still come in over some seconds
CONNECT_WITHIN: Final = 10.0  # seconds until a connection that is not answered is given up


class Pauses:
    """The pauses of one reader: doubling from 0.1 s to 5 s, each a random part of its upper half.

    A connection that lasted counts as a success; one that was cut at once does not, or a daemon that does that would be
    asked ten times a second.
    """

    def __init__(self) -> None:
        self._failures = 0

    def after(self, lasted: float, dice: float) -> float:
        """Return the seconds to wait after a connection that lasted so long; `dice` is 0 to 1."""
        self._failures = 1 if lasted >= CAP else self._failures + 1
        full = min(CAP, FIRST * 2.0 ** min(self._failures - 1, 16))
        return full * (0.5 + dice / 2)


def check_timeout(timeout: float) -> float:
    """Return it; raises ValueError where it is no number of seconds above 0."""
    if not timeout > 0:
        raise ValueError(f"timeout must be above 0 seconds, not {timeout!r}")
    return timeout

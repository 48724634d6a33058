"""How long to wait before the next try. The dice are passed in."""

from __future__ import annotations

from typing import Final

FIRST: Final = 0.05  # seconds; the contract allows 0.1 for the first retry
CAP: Final = 2.0  # seconds; the contract's upper limit


def delay(failures: int, dice: float) -> float:
    """Return the seconds to wait after `failures` failures in a row (1, 2, ...).

    Doubles from 0.05 s to 2 s, then takes a random part of the upper half ("equal jitter"), so that many clients of one
    Redis that came back do not knock in step, and none waits for nearly nothing.

    Args:
        failures: at least 1.
        dice: a random number, 0 <= dice < 1.
    """
    full = min(CAP, FIRST * 2.0 ** min(failures - 1, 16))
    return full * (0.5 + dice / 2)

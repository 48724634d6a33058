"""The signals that end a program: the first one interrupts, later ones must not disturb the cleaning up."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interrupted_once() -> Iterator[None]:
    """Let the first of them raise KeyboardInterrupt, and ignore the others until the block is left."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        ignore_interrupts()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_interrupts() -> None:
    """Let nothing interrupt from here on, until the block of `interrupted_once` is left."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)

"""Being somebody else for a moment: only root can."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

NOBODY: Final = 65534


def as_nobody(work: Callable[[], int]) -> int:
    """Return the status of work that a user without rights did."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            status = work()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

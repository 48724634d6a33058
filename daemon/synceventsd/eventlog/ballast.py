"""The ballast: a file beside the log that only takes up room, and is given up when the disk is full.

SQLite needs room to make room: a delete grows the WAL, and moving the WAL into the database grows that. So the ballast
is larger than a WAL gets before it is moved, and than what retention deletes at once. What it gives is for retention,
checkpoints and marks, not for new events: the committer takes it again before it tries those.

Rule of this file: it never raises, because without a ballast everything works but this.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from attrs import define

FILE_NAME: Final = "ballast"
LARGEST: Final = 32 * 2**20  # bytes
SHARE: Final = 16  # of storage.max_bytes, at most one part in so many
PARTS: Final = 4  # where not all of it can be had, three quarters will do, or half, or one


@define(eq=False)
class Ballast:
    """One file. Called from one thread at a time.

    Attributes:
        held: how many bytes it takes just now.
    """

    path: Path
    wanted: int
    held: int = 0

    def take(self) -> None:
        """Take as much as can be had, up to `wanted`."""
        for part in range(PARTS, 0, -1):
            size = self.wanted * part // PARTS
            if size <= self.held or self._allocate(size):
                return

    def _allocate(self, size: int) -> bool:
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            return False
        try:
            os.posix_fallocate(file, 0, size)
            os.ftruncate(file, size)  # of an earlier run with another setting
        except OSError:
            self.release()  # some file systems keep what they could allocate
            return False
        finally:
            os.close(file)
        self.held = size
        return True

    def release(self) -> None:
        """Give it up."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
            self.held = 0


def ballast_for(directory: Path, max_bytes: int) -> Ballast:
    """Return the ballast of a log that may grow to `max_bytes`, not yet taken."""
    return Ballast(directory / FILE_NAME, min(LARGEST, max_bytes // SHARE))

"""The lines of a group of which not all were read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen


@frozen
class Part(Sequence[bytes]):
    """As many lines as the group has; only those that were `found` may be asked for, one at a time, by their index."""

    length: int
    found: Mapping[int, bytes]

    def __len__(self) -> int:
        """Return how many lines the group has."""
        return self.length

    def __getitem__(self, index: Any) -> Any:
        """Return a line; raises KeyError where it was not read."""
        return self.found[index]

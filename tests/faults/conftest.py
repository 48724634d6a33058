"""The figures of the fault tests: each notes its own, and `tests/conftest.py` prints them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.conftest import FIGURES


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Return a function that notes figures by name; a report takes them from a worker to the first process."""

    def note(**figures: Any) -> None:
        rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()}
        record_property(FIGURES, json.dumps(rounded))

    return note

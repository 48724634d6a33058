"""The figures of the fault tests: one line a test at the end of the run, also where nothing failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Return a function that notes figures by name, to be printed when all tests are through."""
    lines = request.config.stash.setdefault(FIGURES, [])

    def note(**figures: Any) -> None:
        rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()}
        lines.append(f"{request.node.name}: {json.dumps(rounded)}")

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(FIGURES, [])
    if lines:
        terminalreporter.section("figures of the fault tests")
        for line in lines:
            terminalreporter.write_line(line)

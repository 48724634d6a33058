"""What a run says at its end, also one in parallel, whose first process looks into no directory of tests."""

from __future__ import annotations

import pytest
from tests.dashboard.chromium import MISSING, is_here


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if not is_here() and any(MISSING in str(report.longrepr) for report in skipped):
        terminalreporter.section("the page at /", red=True, bold=True)
        terminalreporter.write_line(MISSING, red=True, bold=True)

"""What a run says at its end, also one in parallel, whose first process looks into no directory of tests."""

from __future__ import annotations

import signal
from typing import Final

import pytest
from tests.dashboard.chromium import MISSING, is_here

# So that a failure shows the oracle's findings, and not only that there were some.
pytest.register_assert_rewrite("tests.faults.harness", "tests.faults.scene")

# In the background of a script's shell SIGINT is ignored, and programs that tests interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

FIGURES: Final = "figures"  # the property of a report that holds what a fault test measured


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if not is_here() and any(MISSING in str(report.longrepr) for report in skipped):
        terminalreporter.section("the page at /", red=True, bold=True)
        terminalreporter.write_line(MISSING, red=True, bold=True)
    figures = [
        f"{report.nodeid.rpartition('::')[2]}: {figures}"
        for report in terminalreporter.stats.get("passed", [])
        for name, figures in getattr(report, "user_properties", ())
        if name == FIGURES and report.when == "call"
    ]
    if figures:
        terminalreporter.section("figures of the fault tests")
        for line in figures:
            terminalreporter.write_line(line)

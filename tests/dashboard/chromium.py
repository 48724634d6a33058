"""Whether there is a browser to test with; apart from the rest, because every run asks."""

from __future__ import annotations

import shutil
from typing import Final

CHROMIUM: Final = shutil.which("chromium")
CHROMEDRIVER: Final = shutil.which("chromedriver")
MISSING: Final = "no chromium here: the page was NOT tested; apt-get install chromium chromium-driver"


def is_here() -> bool:
    """Return whether there is one."""
    return CHROMIUM is not None and CHROMEDRIVER is not None

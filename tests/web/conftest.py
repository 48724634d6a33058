"""The fixture of the web's tests; what it opens is described in `web_site`."""

from functools import partial
from pathlib import Path

import pytest
from web_site import SiteOpener, open_site


@pytest.fixture
def site_of(tmp_path: Path) -> SiteOpener:
    """`async with site_of(keep_alive=..., ...) as site` opens a site with these settings; again, on the same log."""
    return partial(open_site, tmp_path / "state")

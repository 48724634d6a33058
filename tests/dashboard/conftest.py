"""One browser for all tests of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from tests.dashboard.browser import Page, a_browser
from tests.dashboard.chromium import MISSING, is_here
from tests.faults.harness import Daemon, a_daemon

PageOpener = Callable[..., Page]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    if not is_here():
        pytest.skip(MISSING)
    with a_browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page_of(browser: Chrome) -> Iterator[PageOpener]:
    """Return a function that opens a daemon's page, with the settings that a browser comes with."""

    def opened(daemon: Daemon, path: str = "/", *, load: bool = True) -> Page:
        page = Page(browser, f"http://127.0.0.1:{daemon.port}{path}")
        page.width(1280)
        page.prefers(color_scheme="light")
        page.speaks("en-US")
        page.complaints()
        page.requests()
        if load:
            page.load()
        return page

    yield opened
    browser.get("about:blank")  # so that nothing is asked of a daemon that is gone


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with a_daemon(tmp_path, "none") as one:
        one.start(SYNCEVENTSD_HTTP_RETRY="0.3")
        yield one

"""A real browser that looks at a real daemon's page.

One browser serves all tests of a process: each opens the page of a daemon of its own, which is an origin of its own.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

from attrs import define
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.keys import Keys
from tests.dashboard.chromium import CHROMEDRIVER, CHROMIUM
from tests.faults.harness import Daemon
from tests.redis_servers import eventually

FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--lang=en-US",
)


@contextmanager
def a_browser(profile: Path) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options, ChromeService(str(CHROMEDRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


@define(eq=False)
class Page:
    """The page of one daemon; what is waited for here is what a person would see."""

    driver: Chrome
    url: str

    def load(self) -> None:
        self.driver.get(self.url)

    def js(self, code: str, *values: Any) -> Any:
        return self.driver.execute_script(code, *values)

    def text(self, name: str) -> str:
        return str(self.js("return document.getElementById(arguments[0]).innerText", name))

    def shows(self, text: str, name: str = "headline") -> None:
        """Wait until the element with that id shows a text, coming back to the page now and then.

        The page looks at the daemon when somebody comes back to it, so this does not take whole rounds of its polling.
        """
        looks = count()

        def is_shown() -> bool:
            if next(looks) % 20 == 19:
                self.js("document.dispatchEvent(new Event('visibilitychange'))")
            return text in self.text(name)

        eventually(is_shown, f"{name} shows {text!r}", 30)

    def rows(self, table: str) -> list[list[str]]:
        """Return the cells' texts of a table's body, without the notes between events."""
        code = "return [...document.querySelectorAll(`#${arguments[0]} tr:not(.note)`)]"
        found: list[list[str]] = self.js(code + ".map((row) => [...row.cells].map((cell) => cell.innerText))", table)
        return found

    def numbers(self) -> list[int]:
        """Return the events' numbers from the newest to the oldest."""
        return [int(row[0]) for row in self.rows("events")]

    def put(self, name: str, value: str) -> None:
        """Give a field another value, as a person does."""
        code = "const field = document.getElementById(arguments[0]); field.value = arguments[1];"
        events = "for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind, { bubbles: true }));"
        self.js(code + events, name, value)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def tab(self) -> None:
        self.press(Keys.TAB)

    def command(self, method: str, **parameters: Any) -> None:
        """Have the browser do what a person does with its settings."""
        self.driver.execute_cdp_cmd(method, parameters)

    def width(self, pixels: int) -> None:
        self.command("Emulation.setDeviceMetricsOverride", width=pixels, height=800, deviceScaleFactor=1, mobile=False)

    def prefers(self, **features: str) -> None:
        listed = [{"name": "prefers-" + name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.command("Emulation.setEmulatedMedia", features=listed)

    def speaks(self, language: str) -> None:
        """Set the browser's language."""
        agent = self.js("return navigator.userAgent")
        self.command("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=language)

    def complaints(self) -> list[str]:
        """Return what the console had to complain of since the last time."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "DEBUG"]

    def requests(self) -> list[str]:
        """Return the addresses that were asked for since the last time."""
        found = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [one["params"]["request"]["url"] for one in found if one["method"] == "Network.requestWillBeSent"]


def publish(daemon: Daemon, *lines: bytes) -> None:
    """Hand lines to the daemon, and wait until they are dealt with."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(daemon.socket)
        connection.sendall(b"".join(text + b"\n" for text in lines))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

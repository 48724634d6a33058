"""The example of a browser page, in a real Chromium: another origin, a cookie, a restart of the daemon."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from tests.examples.conftest import EXAMPLES
from tests.faults.harness import a_daemon
from tests.redis_servers import PATIENCE, eventually, free_port

DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(DRIVER is None, reason="no chromedriver here (Debian: chromium-driver)")
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
SECRET = "correct-horse-battery-staple-0123456789"


@define
class Browser:
    """A session of WebDriver, whose protocol is JSON over HTTP."""

    address: str

    def do(self, path: str, **body: Any) -> Any:
        request = urllib.request.Request(
            self.address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)["value"]

    def text(self, element: str) -> str:
        script = f"return document.getElementById('{element}').textContent"
        return str(self.do("/execute/sync", script=script, args=[]))


@contextmanager
def browser(directory: Path) -> Iterator[Browser]:
    port = free_port()
    driver = subprocess.Popen([str(DRIVER), f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    root = Browser(f"http://127.0.0.1:{port}")

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"{root.address}/status", timeout=PATIENCE):
                return True
        except OSError:
            return False

    try:
        eventually(answers, "chromedriver answers")
        options = {"args": [*ARGUMENTS, f"--user-data-dir={directory}"]}
        wanted = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        session = Browser(f"{root.address}/session/{root.do('/session', capabilities=wanted)['sessionId']}")
        try:
            yield session
        finally:
            end = urllib.request.Request(session.address, method="DELETE")
            with urllib.request.urlopen(end, timeout=PATIENCE):
                pass
    finally:
        driver.terminate()
        driver.wait()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def shop() -> Iterator[str]:
    """Serve the examples, as the shop's own web server would: its origin is not the daemon's."""
    handler = functools.partial(Quiet, directory=str(EXAMPLES))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def publish(socket: str) -> None:
    subprocess.run(
        [sys.executable, EXAMPLES / "plain_script.py"], env=os.environ | {"SYNCEVENTS_SOCKET": socket}, check=True
    )


def test_the_page_shows_a_sync_to_who_has_the_cookie_and_comes_back_after_a_restart(
    shop: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (tmp_path / "key").write_text(SECRET)
    settings = {"SYNCEVENTSD_HTTP_TOKEN_SECRET_FILE": str(tmp_path / "key"), "SYNCEVENTSD_HTTP_CORS_ORIGINS": shop}
    token = subprocess.run(
        [sys.executable, "-m", "synceventsd", "token", "--business", "42"],
        env=os.environ | settings,
        capture_output=True,
        check=True,
    )
    with (
        a_daemon(tmp_path, "none", settings=settings) as daemon,
        browser(tmp_path_factory.mktemp("chromium")) as page,
    ):
        daemon.start(wait=False)
        eventually(lambda: "daemon.ready" in daemon.log_text)
        address = f"{shop}/browser.html?business=42&daemon=http://127.0.0.1:{daemon.port}"
        page.do("/url", url=address)
        eventually(lambda: page.text("state") == "reconnecting", "without the cookie it is let in nowhere")
        page.do(
            "/cookie", cookie={"name": "syncevents_token", "value": token.stdout.decode().strip(), "httpOnly": True}
        )
        page.do("/url", url=address)
        eventually(lambda: page.text("state") == "live", page.text("state"))
        publish(daemon.socket)
        eventually(lambda: page.text("progress") == "completed: 3 orders", page.text("progress"))
        assert page.text("orders") == "#1001 created#1002 created#1003 created"
        daemon.kill()
        eventually(lambda: page.text("state") == "reconnecting")
        daemon.start(wait=False)
        eventually(lambda: page.text("state") == "live")
        publish(daemon.socket)
        eventually(lambda: page.text("orders").count("created") == 6)

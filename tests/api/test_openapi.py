"""The description of HTTP, held against the running daemon: what it allows is served as it says, nothing else is.

The streams' bodies have no end: there, a HEAD is what schemathesis asks, and a GET is read up to its first message.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
import yaml
from hypothesis import HealthCheck, Phase, assume, given, settings
from schemathesis import GenerationMode
from tests.events import line
from tests.faults.harness import PATIENCE, Daemon, a_daemon, eventually
from tests.redis_servers import BINARIES, redis_server
from tests.shell.test_cli import synceventsd
from tests.shell.test_daemon import talk

from synceventsd.config import HttpConfig
from synceventsd.web.routes import create_routes

FILE = Path(__file__).parents[2] / "docs/api/openapi.yaml"
DESCRIPTION: dict[str, Any] = yaml.safe_load(FILE.read_text())
API = schemathesis.openapi.from_dict(DESCRIPTION)
STREAMS = [path for path in DESCRIPTION["paths"] if "/sse" in path]
ENDLESS = [(path, "GET") for path in STREAMS]
OPERATIONS = [
    (path, method.upper())
    for path, item in DESCRIPTION["paths"].items()
    for method in item
    if method in ("get", "head") and (path, method.upper()) not in ENDLESS
]
SECRET = "correct-horse-battery-staple-0123456789"
EXAMPLES = 10  # for each operation; more find nothing new


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("d")
    secret = directory / "secret"
    secret.write_text(SECRET)
    guarded = {"SYNCEVENTSD_HTTP_TOKEN_SECRET_FILE": str(secret)}
    with redis_server(next(iter(BINARIES))) as server, a_daemon(directory, server.url, settings=guarded) as one:
        one.start(wait=False)
        eventually(lambda: Path(one.socket).exists() and answers(one), "it answers")
        started = {"integration_type": "shopify", "started_at": "2026-11-24T02:30:15Z"}
        talk(one.socket, line(1, "integration.sync.started", data=started), line(2), line(3, business=None), b"rubbish")
        yield one


def answers(daemon: Daemon) -> bool:
    try:
        return daemon.get("/healthz")[0] == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def token(daemon: Daemon) -> str:
    return synceventsd("token", "--all", **daemon.settings).stdout.strip()


def examples(path: str, method: str, mode: GenerationMode) -> Any:
    return API[path][method].as_strategy(generation_mode=mode)


def bounded(count: int = EXAMPLES) -> settings:
    phases = [Phase.explicit, Phase.generate]
    return settings(
        max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), phases=phases, database=None
    )


def has_parameters(path: str, method: str) -> bool:
    return "{" in path or bool(DESCRIPTION["paths"][path][method.lower()].get("parameters"))


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_what_the_description_allows_is_served_as_it_says(daemon: Daemon, token: str, path: str, method: str) -> None:
    @bounded(EXAMPLES if has_parameters(path, method) else 2)
    @given(examples(path, method, GenerationMode.POSITIVE))
    def check(case: Any) -> None:
        answer = case.call_and_validate(
            base_url=f"http://127.0.0.1:{daemon.port}", headers={"Authorization": f"Bearer {token}"}
        )
        assert answer.status_code == 200, answer.text

    check()


@pytest.mark.parametrize(("path", "method"), [one for one in OPERATIONS if has_parameters(*one)])
def test_what_the_description_forbids_is_refused_as_it_says(daemon: Daemon, token: str, path: str, method: str) -> None:
    @bounded()
    @given(examples(path, method, GenerationMode.NEGATIVE))
    def check(case: Any) -> None:
        # No header is ever malformed: the token is ours, and a Last-Event-ID that is none of ours brings a gap.
        wrong = {place.name for place, found in case.meta.components.items() if found.mode is GenerationMode.NEGATIVE}
        assume(wrong & {"QUERY", "PATH"})
        case.call_and_validate(base_url=f"http://127.0.0.1:{daemon.port}", headers={"Authorization": f"Bearer {token}"})

    check()


@pytest.mark.parametrize("path", STREAMS)
def test_every_allowed_stream_begins_as_the_description_says(daemon: Daemon, token: str, path: str) -> None:
    @bounded()
    @given(examples(path, "GET", GenerationMode.POSITIVE))
    def check(case: Any) -> None:
        asked = case.as_transport_kwargs(base_url=f"http://127.0.0.1:{daemon.port}")
        with stream(daemon, asked, token) as answer:
            assert answer.status == 200
            assert answer.getheader("Content-Type") == "text/event-stream"
            assert answer.readline().startswith(b"retry: ")
            assert answer.readline() == b"\n"
            assert answer.readline().startswith(b"id: ")
            assert answer.readline() == b"event: connection_established\n"

    check()


class stream:  # noqa: N801 (a context manager)
    """An answer that is read as it comes."""

    def __init__(self, daemon: Daemon, asked: dict[str, Any], token: str) -> None:
        prepared = requests.Request(
            "GET", asked["url"], params=asked.get("params"), cookies=asked.get("cookies")
        ).prepare()
        self._connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE)
        headers = {name: value for name, value in dict(asked.get("headers") or {}).items() if name == "Last-Event-ID"}
        self._connection.request("GET", prepared.path_url, headers=headers | {"Authorization": f"Bearer {token}"})

    def __enter__(self) -> http.client.HTTPResponse:
        self._answer = self._connection.getresponse()
        return self._answer

    def __exit__(self, *_: object) -> None:
        self._answer.close()
        self._connection.close()


def test_without_a_token_all_but_healthz_is_401_and_with_one_of_a_business_the_rest_is_403(daemon: Daemon) -> None:
    narrow = synceventsd("token", "--business", "42", **daemon.settings).stdout.strip()
    for path, item in DESCRIPTION["paths"].items():
        target = path.replace("{business_id}", "7").replace("{integration_id}", "13")
        is_open = item["get"].get("security") == []
        for headers, refused in (({}, 401), ({"Authorization": f"Bearer {narrow}"}, 403)):
            with closing(http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE)) as connection:
                connection.request("GET", target, headers=headers)
                with connection.getresponse() as answer:
                    assert answer.status == (200 if is_open else refused), target


def test_every_key_of_status_is_described(daemon: Daemon, token: str) -> None:
    described = DESCRIPTION["components"]["schemas"]["Status"]["properties"]
    answer = daemon.get("/status", Authorization=f"Bearer {token}")[1]
    assert set(answer) <= set(described)
    for name in ("events", "waiting", "storage"):
        assert set(answer[name]) <= set(described[name]["properties"]), name


def test_every_path_of_the_daemon_is_described_and_no_other() -> None:
    nothing: Any = None
    app = create_routes(nothing, nothing, nothing, HttpConfig())
    rules = [rule for rule in app.url_map.iter_rules() if not rule.websocket and rule.endpoint != "static"]
    served = {
        rule.rule.replace("<business>", "{business_id}").replace("<integration>", "{integration_id}") for rule in rules
    }
    assert served == set(DESCRIPTION["paths"])

"""Each example of docs/examples does against a real daemon what it says."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.examples.conftest import EXAMPLES, Stage
from tests.redis_servers import PATIENCE, eventually, free_port

from syncevents import EVENT_TYPES

WHOLE_SYNC = ["started", "order.created", "order.created", "order.created", "completed"]


@contextmanager
def running(
    stage: Stage, log: Path, *command: str, cwd: Path = EXAMPLES, **more: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run an example that does not end by itself; it must end well when it is asked to."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=cwd, env=stage.environ | more, stdout=output, stderr=output)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_a_plain_script_publishes_a_whole_sync(stage: Stage) -> None:
    done = stage.python("plain_script.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert stage.types(5) == WHOLE_SYNC


def test_a_trio_program_publishes_from_many_tasks(stage: Stage) -> None:
    done = stage.python("trio_sync.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(event["data"]["external_id"] for event in stage.events(5)) == ["0", "1", "2", "3", "4"]


def test_a_shell_script_publishes_with_socat_and_tells_what_was_refused(stage: Stage) -> None:
    if shutil.which("socat") is None:
        pytest.skip("no socat here")
    error = 'it said "no", \\ and left'
    assert stage.run("./publish.sh", "13", "42", error).returncode == 0
    assert [event["data"]["error"] for event in stage.events(1)] == [error]
    refused = stage.run("./publish.sh", "13", "0", "x")
    assert refused.returncode == 1
    assert "invalid_event" in refused.stderr


def test_django_publishes_on_commit_and_tells_of_the_whole_command(stage: Stage, tmp_path: Path) -> None:
    pytest.importorskip("django")
    (tmp_path / "settings.py").write_text(
        "SECRET_KEY = 'x'\nUSE_TZ = True\nINSTALLED_APPS = ['shop.apps.ShopConfig']\n"
        "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'shop.sqlite'}}\n"
    )
    path = {"PYTHONPATH": os.pathsep.join([str(EXAMPLES / "django"), str(tmp_path)]), "cwd": tmp_path}
    setting = ("-m", "django", "{}", "--settings", "settings")
    manage = [word.format("migrate") for word in setting]
    assert stage.python(*manage, "--run-syncdb", "-v", "0", **path).returncode == 0
    done = stage.python("-m", "django", "sync_orders", "13", "42", "--settings", "settings", **path)
    assert (done.returncode, done.stderr) == (0, "")
    assert stage.types(4) == ["started", "order.created", "order.created", "completed"]
    assert stage.events(4)[1]["data"]["total_amount"] == 12.5


def test_django_tells_nothing_of_what_was_rolled_back(stage: Stage, tmp_path: Path) -> None:
    pytest.importorskip("django")
    script = tmp_path / "script.py"
    script.write_text("""
import django
from django.conf import settings
settings.configure(
    SECRET_KEY="x", USE_TZ=True, INSTALLED_APPS=["shop.apps.ShopConfig"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
django.setup()
from django.core.management import call_command
from django.db import transaction
from shop.models import Order
call_command("migrate", run_syncdb=True, verbosity=0)
facts = dict(integration_id=13, business_id=42, external_id="1", number="#1", total=1)
try:
    with transaction.atomic():
        Order.objects.create(status="rolled back", **facts)
        raise LookupError
except LookupError:
    pass
order = Order.objects.create(status="paid", **facts)
order.status = "fulfilled"
order.save()
""")
    done = stage.python(script, PYTHONPATH=str(EXAMPLES / "django"))
    assert (done.returncode, done.stderr) == (0, "")
    assert stage.types(2) == ["order.created", "order.updated"]
    assert [event["data"]["status"] for event in stage.events(2)] == ["paid", "fulfilled"]


def test_celerys_prefork_children_lose_nothing_when_the_worker_stops(stage: Stage, tmp_path: Path) -> None:
    pytest.importorskip("celery")
    broker = {"BROKER_FOLDER": str(tmp_path)}
    worker = ("-m", "celery", "-A", "celery_prefork", "worker", "--pool", "prefork", "-c", "2", "--without-mingle")
    orders = [str(number) for number in range(20)]
    send = f"import celery_prefork as c; [c.sync_order.delay(13, 42, n) for n in {orders}]"
    assert stage.python("-c", send, **broker).returncode == 0
    log = tmp_path / "log"
    stage.daemon.signal(signal.SIGSTOP)
    try:
        with running(stage, log, sys.executable, *worker, "--without-gossip", "-l", "INFO", **broker) as process:
            eventually(lambda: log.read_text().count(" succeeded in ") == len(orders), "all tasks are done")
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):  # careless children would be gone after some 7 s
                process.wait(9)
            stage.daemon.signal(signal.SIGCONT)
            process.wait(PATIENCE)
    finally:
        stage.daemon.signal(signal.SIGCONT)
    assert sorted(int(event["data"]["external_id"]) for event in stage.events(20)) == list(range(20))
    assert stage.daemon.status()["clients"] == 0


def test_fastapi_publishes_without_waiting_and_flushes_at_its_stop(stage: Stage, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    port = free_port()
    address = f"http://127.0.0.1:{port}/businesses/42/integrations/13/sync"

    def answers() -> bool:
        try:
            with urllib.request.urlopen(urllib.request.Request(address, method="POST"), timeout=PATIENCE) as answer:
                return bool(answer.status == 202)
        except OSError:
            return False

    server = ("-m", "hypercorn", "fastapi_app:app", "--bind", f"127.0.0.1:{port}")
    with running(stage, tmp_path / "log", sys.executable, *server):
        eventually(answers, "the application answers")
    assert stage.types(1) == ["started"]


def test_a_python_subscriber_hears_every_type_and_comes_back(stage: Stage, tmp_path: Path) -> None:
    output = tmp_path / "output"
    command = (sys.executable, "redis_subscriber.py")
    with output.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=EXAMPLES, env=stage.environ | {"REDIS_URL": stage.redis.url}, stdout=log, stderr=log
        )
    try:
        for times in (1, 2):
            eventually(lambda times=times: output.read_text().count("subscribed") == times, output.read_text())  # type: ignore[misc]
            assert stage.python("plain_script.py").returncode == 0
            eventually(lambda times=times: output.read_text().count("completed 13 42") == times)  # type: ignore[misc]
            stage.redis.run("CLIENT", "KILL", "TYPE", "pubsub")
    finally:
        process.kill()
        process.wait()
    told = [line.split()[0] for line in output.read_text().splitlines() if line.startswith("integration.")]
    assert [name.removeprefix("integration.sync.") for name in told] == WHOLE_SYNC * 2
    assert set(told) < set(EVENT_TYPES)

"""Who may publish what, with processes of real other users, and what the ledger says of it."""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from tests.events import line
from tests.faults.harness import PATIENCE, Daemon, a_daemon, eventually
from tests.other_users import NOBODY, STRANGER, a_directory_for_all, as_root, talk_as

PRODUCER = "6f1c8f0e-1f7c-4d3e-9a57-0f4b3f6d2a11"


@pytest.fixture
def directory() -> Iterator[Path]:
    with a_directory_for_all() as one:
        yield one


def serving(directory: Path, **ingest: str) -> Any:
    settings = {f"SYNCEVENTSD_INGEST_{name.upper()}": value for name, value in ingest.items()}
    return a_daemon(directory, "none", settings={"SYNCEVENTSD_INGEST_SOCKET_MODE": "0666"} | settings)


def hello(producer: str = PRODUCER, acked: int = 0) -> bytes:
    return json.dumps({"hello": {"v": 1, "producer": producer, "acked": acked}}).encode()


def codes(told: Any) -> list[str | int]:
    """The code of each reject or error, the number of each ack."""
    return [message.get("code") or message.get("ack") or "welcome" for message in told]


@contextmanager
def connected(path: str) -> Iterator[tuple[socket.socket, BinaryIO]]:
    """A connection of this user, and what comes back on it."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(path)
        with connection.makefile("rb") as answers:
            yield connection, answers


def exchange(path: str, *lines: bytes) -> list[dict[str, Any]]:
    with connected(path) as (connection, answers):
        connection.sendall(b"".join(text + b"\n" for text in lines))
        connection.shutdown(socket.SHUT_WR)
        return [json.loads(text) for text in answers]


def metric(daemon: Daemon, name: str) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = [row.rpartition(" ")[2] for row in text.splitlines() if row.startswith(f"{name} ")]
    return float(found[0]) if found else 0.0


# Who may connect


@as_root
def test_the_socket_s_mode_and_group_keep_out_who_is_not_in_the_group(directory: Path) -> None:
    with serving(directory, socket_mode="0660", socket_group=str(STRANGER)) as daemon:
        daemon.start()
        found = os.stat(daemon.socket)
        assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, STRANGER)
        assert talk_as(NOBODY, daemon.socket, line(1)) == "not permitted"
        assert talk_as(NOBODY, daemon.socket, line(1), groups=[STRANGER]) == [{"ack": 1}]
        assert talk_as(NOBODY, daemon.socket, line(1), gid=STRANGER) == [{"ack": 1}]


@as_root
def test_only_listed_users_may_publish_and_others_are_told_why(directory: Path) -> None:
    with serving(directory, allow_users=f"root,{NOBODY}") as daemon:
        daemon.start()
        assert talk_as(NOBODY, daemon.socket, line(1)) == [{"ack": 1}]
        assert talk_as(0, daemon.socket, line(1)) == [{"ack": 1}]
        (told,) = talk_as(STRANGER, daemon.socket, line(1))
        assert told["code"] == "forbidden"
        assert f"user {STRANGER} is in neither ingest.allow_users nor ingest.allow_groups" in told["error"]
        assert daemon.status()["ledger_totals"] == {"connection_forbidden": 1}


@as_root
def test_a_listed_group_counts_whether_it_is_the_process_s_first_or_a_supplementary_one(directory: Path) -> None:
    """The groups are those of the process, as for the socket's permissions, and not those of the account database."""
    with serving(directory, allow_groups=str(STRANGER)) as daemon:
        daemon.start()
        assert codes(talk_as(NOBODY, daemon.socket, line(1))) == ["forbidden"]
        assert talk_as(NOBODY, daemon.socket, line(1), groups=[7, STRANGER, 8]) == [{"ack": 1}]
        assert talk_as(NOBODY, daemon.socket, line(1), gid=STRANGER) == [{"ack": 1}]
        assert codes(talk_as(STRANGER, daemon.socket, line(1))) == ["forbidden"]  # a uid is no gid
        assert codes(talk_as(0, daemon.socket, line(1), gid=0)) == ["forbidden"]


@as_root
def test_more_groups_than_can_be_read_are_looked_up_and_no_crash(directory: Path) -> None:
    with serving(directory, allow_groups=str(STRANGER)) as daemon:
        daemon.start()
        many = list(range(1000, 1400))
        assert codes(talk_as(NOBODY, daemon.socket, line(1), groups=many)) == ["forbidden"]
        assert talk_as(NOBODY, daemon.socket, line(1), gid=STRANGER, groups=many) == [{"ack": 1}]


@as_root
def test_a_producer_cannot_be_taken_over_by_another_user_whether_it_is_connected_gone_or_remembered(
    directory: Path,
) -> None:
    with serving(directory) as daemon:
        daemon.start()
        with connected(daemon.socket) as (owner, answers):
            owner.sendall(hello() + b"\n")
            assert "welcome" in json.loads(answers.readline())
            assert codes(talk_as(NOBODY, daemon.socket, hello(), line(7))) == ["forbidden"]
            owner.sendall(line(1) + b"\n")  # still connected, still numbered from where it was
            assert json.loads(answers.readline()) == {"ack": 1}
        assert codes(talk_as(NOBODY, daemon.socket, hello(), line(7))) == ["forbidden"]
        daemon.kill()
        daemon.start()
        assert codes(talk_as(NOBODY, daemon.socket, hello(), line(7))) == ["forbidden"]
        assert codes(talk_as(0, daemon.socket, hello(acked=1), line(2), gid=0)) == ["welcome", 2]
        assert daemon.status()["events"]["accepted"] == 2


# What they may publish for


RULES = [
    {"user": str(NOBODY), "integrations": [13], "businesses": [42]},
    {"group": str(STRANGER), "integrations": ["*"], "businesses": [43, "global"]},
]


@as_root
def test_a_line_that_no_rule_grants_is_forbidden_and_the_connection_goes_on(directory: Path) -> None:
    with serving(directory, rules=json.dumps(RULES)) as daemon:
        daemon.start()
        lines = [line(1), line(2, business=43), line(3, integration=14), line(4, business=None), b"{}", line(6)]
        told = talk_as(NOBODY, daemon.socket, *lines)
        assert [(m["reject"], m["id"]) for m in told if m.get("code") == "forbidden"] == [
            (2, "event-2"),
            (3, "event-3"),
            (4, "event-4"),
        ]
        assert told[-1] == {"ack": 6}
        member = talk_as(STRANGER, daemon.socket, *lines, groups=[STRANGER])
        assert [m["reject"] for m in member if m.get("code") == "forbidden"] == [1, 3, 6]
        assert [m["reject"] for m in talk_as(0, daemon.socket, *lines, gid=0) if m.get("code") == "forbidden"] == [
            1,
            2,
            3,
            4,
            6,
        ]
        status = daemon.status()
        assert status["events"]["accepted"] == 4
        assert status["events"]["rejected_by_code"] == {"forbidden": 11, "invalid_event": 3}
        mine = [(e["uid"], e["user"], e["count"]) for e in status["ledger"] if e["reason"] == "forbidden"]
        assert sorted(mine) == [(0, "root", 5), (STRANGER, None, 3), (NOBODY, "nobody", 3)]
        assert metric(daemon, 'synceventsd_ledger_events_total{reason="forbidden"}') == 11
        assert metric(daemon, 'synceventsd_events_rejected_total{code="forbidden"}') == 11


@as_root
def test_a_forbidden_line_of_a_producer_is_told_again_after_a_reconnect(directory: Path) -> None:
    with serving(directory, rules=json.dumps(RULES)) as daemon:
        daemon.start()
        told = talk_as(NOBODY, daemon.socket, hello(), line(1), line(2, business=43), line(3))
        assert codes(told) == ["welcome", "forbidden", 3]
        daemon.kill()
        daemon.start()
        again = talk_as(NOBODY, daemon.socket, hello(acked=1), line(4))
        assert again[0]["welcome"]["accepted"] == 3
        assert (again[1]["reject"], again[1]["code"]) == (2, "forbidden")
        assert daemon.status()["ledger_totals"] == {"forbidden": 1}


# Limits


@as_root
def test_one_user_s_connections_leave_room_for_other_users(directory: Path) -> None:
    with serving(directory, max_clients_per_user="2") as daemon:
        daemon.start()
        with connected(daemon.socket), connected(daemon.socket):
            eventually(lambda: daemon.status()["clients"] == 2, "two are connected")
            (told,) = talk_as(0, daemon.socket, line(1), gid=0)
            assert told["code"] == "too_many_clients"
            assert "user 0 has 2 publishers connected already (ingest.max_clients_per_user = 2)" in told["error"]
            assert talk_as(NOBODY, daemon.socket, line(1)) == [{"ack": 1}]
            assert metric(daemon, 'synceventsd_connections_refused_total{code="too_many_clients"}') == 1
        eventually(lambda: daemon.status()["clients"] == 0, "the places are given back")
        assert talk_as(0, daemon.socket, line(1), gid=0) == [{"ack": 1}]


def test_a_rate_slows_reading_down_and_rejects_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, max_rate="400") as daemon:
        daemon.start()
        told = exchange(daemon.socket, *map(line, range(700)))
        assert told[-1] == {"ack": 700}
        assert all("ack" in message for message in told)
        me = os.getuid()
        waited = daemon.status()["throttled_seconds"][str(me)]
        assert waited > 0
        assert metric(daemon, f'synceventsd_throttled_seconds_total{{uid="{me}"}}') == waited
        assert daemon.log_text.count("publisher.slowed_down") == 1
        assert daemon.stop() == 0


def test_a_publisher_that_is_slowed_down_does_not_hold_up_the_stop_and_what_was_read_is_stored(tmp_path: Path) -> None:
    with serving(tmp_path, max_rate="1") as daemon:
        daemon.start()
        with connected(daemon.socket) as (publisher, answers):
            publisher.sendall(b"".join(line(n) + b"\n" for n in range(300)))
            eventually(lambda: daemon.status()["events"]["accepted"] > 0, "it is read from")
            assert daemon.stop() == 0
            told = [json.loads(text) for text in answers]
        daemon.start()
        assert told[-1]["ack"] == daemon.status()["events"]["accepted"]


@pytest.mark.parametrize(
    ("ingest", "sent", "words"),
    [
        ({"max_frame": "1000"}, line(1, data={"pad": "x" * 2000}), "ingest.max_frame = 1000"),
        ({"max_clients": "1"}, line(1), "ingest.max_clients = 1"),
    ],
)
def test_the_error_of_a_limit_names_setting_value_and_remedy(
    tmp_path: Path, ingest: dict[str, str], sent: bytes, words: str
) -> None:
    with serving(tmp_path, **ingest) as daemon:
        daemon.start()
        with connected(daemon.socket):
            eventually(lambda: daemon.status()["clients"] == 1, "one is connected")
            with connected(daemon.socket) as (publisher, answers):
                publisher.sendall(sent + b"\n")
                told = json.loads(answers.readline())
        assert words in told["error"]
        assert ": " in told["error"].partition(words)[2]
        assert metric(daemon, f'synceventsd_connections_refused_total{{code="{told["code"]}"}}') == 1
        assert list(daemon.status()["ledger_totals"]) == [f"connection_{told['code']}"]


# The ledger


def test_a_producer_of_rubbish_fills_one_entry_and_one_line_of_the_log(tmp_path: Path) -> None:
    with serving(tmp_path) as daemon:
        daemon.start()
        for part in range(5):
            told = exchange(daemon.socket, hello(acked=200 * part), *[b"rubbish"] * 200)
            assert told[-1] == {"ack": 200 * (part + 1)}
        (entry,) = daemon.status()["ledger"]
        assert (entry["reason"], entry["count"], entry["uid"]) == ("invalid_json", 1000, os.getuid())
        assert entry["at"] <= entry["until"]
        assert PRODUCER in entry["detail"]
        assert daemon.log_text.count("lines.rejected") == 1
        daemon.kill()
        daemon.start()
        assert [e["count"] for e in daemon.status()["ledger"]] == [1000]
        exchange(daemon.socket, hello(acked=1000), *[b"rubbish"] * 5)
        assert [e["count"] for e in daemon.status()["ledger"]] == [1005]  # it goes on in the same entry
        assert metric(daemon, 'synceventsd_ledger_events_total{reason="invalid_json"}') == 1005


def test_what_is_killed_at_any_moment_counts_each_rejected_line_of_a_producer_once(tmp_path: Path) -> None:
    """The count is in the transaction that also says how many lines of the producer are dealt with."""
    dice = random.Random(7)
    with serving(tmp_path) as daemon:
        wanted, accepted = 0, 0
        daemon.start()
        for _ in range(6):
            wanted += 3000
            with connected(daemon.socket) as (connection, answers):
                connection.sendall(hello() + b"\n")
                accepted = json.loads(answers.readline())["welcome"]["accepted"]
                connection.sendall(b"{}\n" * min(wanted - accepted, 3000))
                for _ in range(dice.randrange(1, 200)):
                    answers.readline()
                daemon.kill()
            daemon.start()
        accepted = exchange(daemon.socket, hello())[0]["welcome"]["accepted"]
        assert accepted > 0
        assert daemon.status()["ledger_totals"] == {"invalid_event": accepted}


def test_what_an_anonymous_publisher_was_rejected_is_kept_over_a_stop(tmp_path: Path) -> None:
    with serving(tmp_path) as daemon:
        daemon.start()
        exchange(daemon.socket, b"rubbish", b"{}", line(1), line(2, event_type="x.y"))
        assert daemon.stop() == 0
        daemon.start()
        assert daemon.status()["ledger_totals"] == {"invalid_json": 1, "invalid_event": 1, "unknown_event_type": 1}

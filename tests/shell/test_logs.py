"""The log's forms, and that nothing from outside can forge, break or stop it."""

import io
import json
import logging
import os
import pty
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from synceventsd.config import LoggingConfig
from synceventsd.logs import configure_logs, get_logger


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def logged(form: str, level: str = "debug") -> io.StringIO:
    stream = io.StringIO()
    configure_logs(LoggingConfig(level=level, format=form), stream, {})  # type: ignore[arg-type]
    return stream


def test_the_journald_form_has_syslogs_priority_and_no_time() -> None:
    stream = logged("journald")
    log = get_logger("forwarder")
    log.debug("a")
    log.info("redis.recovered", failures=12, lag=340)
    log.warning("redis.lost", reason="connection refused", empty="")
    log.error("b", path='a"b')
    log.critical("c")
    assert stream.getvalue().splitlines() == [
        "<7>a logger=forwarder",
        "<6>redis.recovered logger=forwarder failures=12 lag=340",
        '<4>redis.lost logger=forwarder reason="connection refused" empty=""',
        r'<3>b logger=forwarder path="a\"b"',
        "<2>c logger=forwarder",
    ]


def test_the_json_form_is_one_object_a_line() -> None:
    stream = logged("json")
    get_logger("intake").info("started", path=Path("/x"), n=1)
    record = json.loads(stream.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", record.pop("timestamp"))
    assert record == {"level": "info", "logger": "intake", "event": "started", "path": "/x", "n": 1}


def test_the_text_form_begins_with_the_time() -> None:
    stream = logged("text")
    get_logger("intake").info("started", n=1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d info     started logger=intake n=1\n", stream.getvalue())


def test_lines_below_the_level_are_not_written() -> None:
    stream = logged("journald", "warning")
    get_logger("x").info("no")
    get_logger("x").warning("yes")
    assert stream.getvalue() == "<4>yes logger=x\n"


def test_a_logger_made_before_the_set_up_follows_it() -> None:
    log = get_logger("early")
    stream = logged("journald")
    log.info("a")
    assert stream.getvalue() == "<6>a logger=early\n"


@pytest.mark.parametrize("form", ["journald", "text", "json"])
@given(value=st.text(st.sampled_from("a\r\n\0\x1b\x7f\x85\u2028\u2029\u202e\u2066<6> \"=\\'")))
def test_no_value_can_begin_a_line_of_its_own_or_steer_a_terminal(form: str, value: str) -> None:
    stream = logged(form)
    get_logger("x").info("client.refused", client=value)
    record = stream.getvalue()
    assert record.endswith("\n")
    assert record[:-1].isprintable()


@pytest.mark.parametrize("form", ["journald", "text", "json"])
def test_a_message_in_a_traceback_cannot_pass_for_a_record(form: str) -> None:
    stream = logged(form)
    forged = ValueError("bad\n<0>2024-01-01 00:00:00 info forged\r\x00")
    get_logger("x").error("connection.failed", exc_info=forged)
    first, *rest = stream.getvalue().splitlines()
    assert "connection.failed" in first
    assert "ValueError: bad" in stream.getvalue()
    assert all(line.startswith("  | ") and line.isprintable() for line in rest)
    assert form == "text" or not rest


def test_warnings_of_libraries_come_in_the_same_form_and_their_chatter_does_not() -> None:
    stream = logged("journald")
    library = logging.getLogger("hypercorn.error")
    library.info("no")
    library.warning("client %s\n<0>forged", "x")
    library.log(35, "own level")
    library.error("arguments that do not fit %d", "x")
    assert stream.getvalue().splitlines() == [
        r"<4>client x\n<0>forged logger=hypercorn.error",
        "<4>own level logger=hypercorn.error",
        "<3>arguments that do not fit %d logger=hypercorn.error",
    ]


def test_auto_is_the_journald_form_only_where_the_journal_reads_stderr(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w+") as stream:
        status = os.fstat(stream.fileno())
        for journal, start in ((f"{status.st_dev}:{status.st_ino}", "<6>"), ("1:1", "{"), ("", "{")):
            stream.truncate(0)
            stream.seek(0)
            configure_logs(LoggingConfig(), stream, {"JOURNAL_STREAM": journal})
            get_logger("x").info("a")
            stream.seek(0)
            assert stream.read().startswith(start)


def test_auto_is_text_on_a_terminal() -> None:
    reader, writer = pty.openpty()
    with open(reader, "rb", buffering=0) as terminal, open(writer, "w") as stream:
        configure_logs(LoggingConfig(), stream, {})
        get_logger("x").info("a")
        assert re.match(rb"\d{4}-", terminal.read(1000))


def test_auto_without_a_file_behind_the_stream_is_json() -> None:
    stream = io.StringIO()
    configure_logs(LoggingConfig(), stream, {"JOURNAL_STREAM": "1:1"})
    get_logger("x").info("a")
    assert json.loads(stream.getvalue())["event"] == "a"


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb", buffering=0) as pipe:
        stream = io.TextIOWrapper(pipe, write_through=True)
        configure_logs(LoggingConfig(format="json"), stream, {})
        get_logger("x").info("the reader is gone")
        stream.detach()
        get_logger("x").info("the stream is closed")


def test_a_library_that_says_the_same_again_and_again_is_heard_once() -> None:
    stream = io.StringIO()
    configure_logs(LoggingConfig(format="json"), stream, {})
    for _ in range(50):
        logging.getLogger("trio.serve_listeners").error("accept failed, %s", "out of descriptors")
    logging.getLogger("trio.serve_listeners").error("something else")
    assert [json.loads(record)["event"] for record in stream.getvalue().splitlines()] == [
        "accept failed, out of descriptors",
        "something else",
    ]

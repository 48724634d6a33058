"""The log on stderr: one record a line, and nobody outside can forge or break a line.

Every control character in a record is escaped, whichever the form. A log that cannot be written never stops the daemon.
When something is worth a line (once a change of state) is for the caller to decide.
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO, cast

import attrs
import structlog
from structlog.typing import FilteringBoundLogger

from synceventsd.config.settings import LoggingConfig

Form = Literal["journald", "text", "json"]

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # syslog's, as sd-daemon(3) writes them
# C0 and C1 controls, DEL, the two Unicode line ends, and what turns the direction of writing: what ends a line, steers
# a terminal or shows a line as another, somewhere.
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), *range(0x2028, 0x202F), *range(0x2066, 0x206A)]
REPEAT_AFTER = 10.0  # s
_ESCAPES = {code: repr(chr(code))[1:-1] for code in _CONTROLS}


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `logger=name`; may be made at import, before `configure_logs`."""
    return cast(FilteringBoundLogger, structlog.get_logger(name))


def configure_logs(config: LoggingConfig, stream: TextIO, environ: Mapping[str, str]) -> None:
    """Sends the log to `stream` as `config` says, and the warnings of the libraries with it.

    `environ` tells whether systemd's journal reads `stream`. For the whole process; the last call holds.
    """
    form = _form(config, stream, environ)
    structlog.configure(
        processors=[
            _with_name,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso" if form == "json" else "%Y-%m-%d %H:%M:%S", utc=form == "json"),
            structlog.processors.format_exc_info,
            {"journald": _journald, "text": _text, "json": _json}[form],
        ],
        wrapper_class=structlog.make_filtering_bound_logger(config.level),
        logger_factory=lambda name="": _Lines(stream, name),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_FromLibraries()], level=logging.WARNING, force=True)


def _form(config: LoggingConfig, stream: TextIO, environ: Mapping[str, str]) -> Form:
    if config.format != "auto":
        return config.format
    if _is_journal(stream, environ):
        return "journald"
    return "text" if stream.isatty() else "json"


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    # Children inherit JOURNAL_STREAM also when their stderr goes elsewhere: compare (systemd.exec(5)).
    expected = environ.get("JOURNAL_STREAM")
    if not expected:
        return False
    try:
        status = os.fstat(stream.fileno())
    except OSError:  # not a file (io.UnsupportedOperation is one too), or closed
        return False
    return expected == f"{status.st_dev}:{status.st_ino}"


@attrs.frozen
class _Lines:
    """The end of the chain: writes a finished record."""

    stream: TextIO
    name: str

    def msg(self, record: str) -> None:
        # A reader that is gone or a full disk is no reason to stop; ValueError: the stream was closed.
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(f"{record}\n")
            self.stream.flush()

    debug = info = warning = error = critical = log = msg


class _FromLibraries(logging.Handler):
    """Hands records of the standard `logging` (Trio's, Hypercorn's) on, the same one at most every ten seconds.

    Out of descriptors, Trio's accepting says so with a traceback ten times a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told_at: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether it is told: a place and a text were not told a moment ago."""
        key, now = (record.name, str(record.msg)), time.monotonic()
        if now - self._told_at.get(key, -REPEAT_AFTER) < REPEAT_AFTER:
            return False
        self._told_at[key] = now
        return super().filter(record) is not False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):  # arguments that do not fit: a library's slip must not break its work
            message = str(record.msg)
        log = get_logger(record.name)
        # A level of the library's own making counts as a warning.
        getattr(log, record.levelname.lower(), log.warning)(message, exc_info=record.exc_info)


def _with_name(logger: _Lines, _method: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {"logger": logger.name, **record}


def _journald(_logger: object, _method: str, record: MutableMapping[str, Any]) -> str:
    del record["timestamp"]  # the journal has its own
    level, event = record.pop("level"), record.pop("event")
    return f"<{_PRIORITIES[level]}>{_escaped(str(event))}{_pairs(record)}"


def _text(_logger: object, _method: str, record: MutableMapping[str, Any]) -> str:
    at, level, event = record.pop("timestamp"), record.pop("level"), record.pop("event")
    # The bar marks what belongs to the record above: a line in a traceback cannot pass for a record.
    trace = "".join(f"\n  | {_escaped(line)}" for line in record.pop("exception", "").splitlines())
    return f"{at} {level:<8} {_escaped(str(event))}{_pairs(record)}{trace}"


def _json(_logger: object, _method: str, record: MutableMapping[str, Any]) -> str:
    first = {key: record.pop(key) for key in ("timestamp", "level", "logger", "event") if key in record}
    return json.dumps(first | dict(record), default=str)


def _pairs(record: Mapping[str, Any]) -> str:
    return "".join(f" {_escaped(key)}={_value(value)}" for key, value in record.items())


def _value(value: object) -> str:
    text = str(value)
    plain = text and not any(character in text for character in ' "=')
    return _escaped(text if plain else json.dumps(text, ensure_ascii=False))


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)

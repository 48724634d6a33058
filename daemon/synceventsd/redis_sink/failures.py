"""What Redis' and redis-py's errors mean: one word for machines, one sentence for people. The only border they cross.

The server's own text is repeated only in part: it may quote arguments, and those are the events or a password.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import redis.exceptions as theirs

from synceventsd.core.errors import RedisUnavailable

# By the error's code, wherever it stands in the text: errors inside a script carry it in the middle.
_BY_CODE: Final = {
    "LOADING": ("loading", "is loading its data; it answers when that is done"),
    "READONLY": ("readonly", "is a read-only replica; point redis.url at the primary"),
    "MASTERDOWN": ("readonly", "is a replica that lost its primary; point redis.url at the primary"),
    "OOM": ("oom", "is out of memory and takes no writes; raise its maxmemory, or free some"),
    "MISCONF": (
        "misconf",
        "takes no writes because it cannot save to its disk; see its log, and its dir and free space",
    ),
    "NOREPLICAS": ("noreplicas", "takes no writes because too few replicas follow it (min-replicas-to-write)"),
    "BUSY": ("busy", "is busy with somebody's script"),
    "UNKILLABLE": ("busy", "is busy with somebody's script"),
    "NOAUTH": ("auth", "wants a password; write it into redis.password_file"),
    "WRONGPASS": ("auth", "does not accept the password; correct redis.password_file (or the user in redis.url)"),
    "NOPERM": (
        "noperm",
        "does not permit this user to do it; allow GET, SET, PUBLISH, EVAL, EVALSHA (or WATCH, MULTI, EXEC, DISCARD),"
        " the keys synceventsd:cursor:* and the channel in redis.channel",
    ),
    "MOVED": ("cluster", "keeps the cursor on another node of its cluster; point redis.url at that node"),
    "ASK": ("cluster", "is moving the cursor to another node of its cluster"),
    "TRYAGAIN": ("cluster", "is moving the cursor to another node of its cluster"),
    "CROSSSLOT": ("cluster", "refuses keys of different nodes"),
    "CLUSTERDOWN": ("cluster", "belongs to a cluster that is down"),
    "WRONGTYPE": ("wrongtype", "holds something else than text in the cursor's key; delete that key"),
}
_CODE: Final = re.compile(rf"\b({'|'.join(_BY_CODE)})\b")
# Without a code of their own.
_BY_TEXT: Final = (
    (re.compile(r"max number of clients", re.I), "maxclients", "has too many clients; raise its maxclients"),
    (re.compile(r"without any password|no password is set", re.I), "auth", "has no password, but one is given; empty"
     " redis.password_file and redis.url of it"),
    (re.compile(r"invalid (username|password)", re.I), *_BY_CODE["WRONGPASS"]),
    (re.compile(r"ACL failure|no permission|can't (run|access|publish)", re.I), *_BY_CODE["NOPERM"]),
    (re.compile(r"DB index|invalid database", re.I), "other", "has no such database; correct the number in redis.url"),
)  # fmt: skip
_CAUSES: Final[tuple[tuple[type[BaseException], str, str], ...]] = (
    (ssl.SSLCertVerificationError, "tls", "shows a certificate that is not trusted; set ssl_ca_certs in redis.url"),
    (ssl.SSLError, "tls", "does not speak TLS with us; is rediss:// right, and is that its TLS port?"),
    (socket.gaierror, "dns", "cannot be found: its name does not resolve; correct redis.url, or see to the DNS"),
    (UnicodeError, "dns", "cannot be found: its name is none; correct redis.url"),
    (ConnectionRefusedError, "refused", "refuses the connection; start it, or correct redis.url"),
    (FileNotFoundError, "refused", "is not there: a file is missing; start it, or correct redis.url"),
    (PermissionError, "refused", "may not be connected to by this user; see to the permissions of its socket"),
    (BlockingIOError, "timeout", "has not taken the connections that wait already"),
    (TimeoutError, "timeout", "did not answer within redis.timeout"),
)


def unavailable(place: str, error: BaseException) -> RedisUnavailable:
    """Return what an error of redis-py or of the system means; `place` names Redis, without its password."""
    reason, what = _meaning(error)
    return RedisUnavailable(reason, f"Redis at {place} {what}")


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Turn every foreign error into `RedisUnavailable`.

    Raises:
        RedisUnavailable: always with a reason of one word, and a sentence without secrets or events.
    """
    try:
        yield
    except (theirs.RedisError, OSError, UnicodeError) as error:
        raise unavailable(place, error) from error


def permission_lacks(error: theirs.ResponseError) -> bool:
    """Return whether the server does not let this user run the command, or does not have it."""
    return isinstance(error, theirs.NoPermissionError) or _text(error).startswith(("NOPERM", "ERR unknown command"))


def shebang_unknown(error: theirs.ResponseError) -> bool:
    """Return whether the server took the shebang for a syntax error: it is older than Redis 7."""
    return "unexpected symbol near '#'" in _text(error)


def _meaning(error: BaseException) -> tuple[str, str]:
    if isinstance(error, theirs.TimeoutError):
        return "timeout", "did not answer within redis.timeout"
    text = _text(error)
    code = _CODE.search(text)
    if code is not None and not isinstance(error, OSError):
        return _BY_CODE[code[1]]
    for pattern, reason, what in _BY_TEXT:
        if pattern.search(text):
            return reason, what
    for cause in _chain(error):
        for kind, reason, what in _CAUSES:
            if isinstance(cause, kind):
                return reason, what
    if isinstance(error, theirs.AuthenticationError | theirs.AuthorizationError):
        return _BY_CODE["WRONGPASS"]
    if isinstance(error, theirs.ConnectionError | OSError):
        return "closed", "closed the connection"
    if isinstance(error, theirs.InvalidResponse):
        return "protocol", "answers in another protocol; is redis.url right?"
    return "other", f"refused: {_without_arguments(text)}"


def _text(error: BaseException) -> str:
    code = getattr(error, "status_code", None)
    return f"{code} {error}" if isinstance(code, str) else str(error)


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _without_arguments(text: str) -> str:
    return text.partition(", with args")[0][:200]

"""What `synceventsd doctor` says of one thing: whether it is well, what was found, what to do."""

from __future__ import annotations

from enum import Enum

from attrs import frozen


class Level(Enum):
    """How bad it is. FAIL: events are, or will be, not taken or not sent. WARN: it works and should not stay so."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@frozen
class Finding:
    """One line of the doctor's report; `remedy` is empty where all is well."""

    check: str
    level: Level
    found: str
    remedy: str = ""


def ok(check: str, found: str) -> Finding:
    """Return that all is well."""
    return Finding(check, Level.OK, found)


def warn(check: str, found: str, remedy: str) -> Finding:
    """Return that something should not stay so."""
    return Finding(check, Level.WARN, found, remedy)


def fail(check: str, found: str, remedy: str) -> Finding:
    """Return that something does not work."""
    return Finding(check, Level.FAIL, found, remedy)

"""What a setting may be: a rule reads one untrusted value and gives the typed one, or says what is allowed.

Nothing is coerced: a bool is no number, a number is no text. Text from the environment or a flag is first brought into
the form that the TOML file would have (`from_text`), then both go through the same check.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from synceventsd.accounts import group_id, user_id

LONGEST_SECONDS = 1_000_000_000  # beyond some 9.2e9 s the socket module raises OverflowError
LARGEST_INTEGER = 2**63 - 1  # SQLite's and TOML's
LONGEST_SOCKET_PATH = 107  # bytes: sun_path less its NUL
STREAM_EVENTS = frozenset({"connection_established", "keep-alive", "gap"})  # names the streams use for themselves


class Refused(ValueError):
    """A value is not allowed; each text says why, beyond the rule's own `allowed` (may be none)."""


@attrs.frozen
class Rule:
    """One kind of value.

    `allowed` completes "allowed: ..."; `check` takes a TOML value and returns the setting's value or raises `Refused`;
    `from_text` turns text into a TOML value (what it cannot turn it hands on for `check` to refuse);
    `shown` turns a setting's value into a TOML value again, without secrets.
    """

    allowed: str
    check: Callable[[object], Any]
    from_text: Callable[[str], object] = str
    shown: Callable[[Any], object] = lambda value: value


def integer(low: int, high: int = LARGEST_INTEGER, *, unit: str = "") -> Rule:
    """An integer from `low` to `high`, both included."""

    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise Refused
        return value

    bounds = f"{low} or more" if high == LARGEST_INTEGER else f"{low} to {high}"
    return Rule(f"an integer{unit and f' ({unit})'}, {bounds}", check, _number_from_text)


def seconds() -> Rule:
    """A duration in seconds, above 0 and finite."""

    def check(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise Refused
        # A comparison with NaN is false, and so refused.
        if not 0 < value <= LONGEST_SECONDS or not math.isfinite(value):
            raise Refused
        return float(value)

    return Rule(f"seconds, a number above 0 and at most {LONGEST_SECONDS}", check, _number_from_text, _short_number)


def choice(*names: str) -> Rule:
    """One of a few words."""

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in names:
            raise Refused
        return value

    return Rule(" or ".join([", ".join(names[:-1]), names[-1]]), check)


def text(allowed: str, pattern: str) -> Rule:
    """Text that matches the whole pattern."""
    compiled = re.compile(pattern)

    def check(value: object) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise Refused
        return value

    return Rule(allowed, check)


def path() -> Rule:
    """A path of the file system; whether it exists is not asked."""
    return Rule("a path", _path, shown=str)


def socket_path() -> Rule:
    """A path that a Unix socket can have."""
    return Rule(f"a path of at most {LONGEST_SOCKET_PATH} bytes", check_socket_path, shown=str)


def secret_file() -> Rule:
    """A file that holds a secret, or none: readable now, and not empty."""

    def check(value: object) -> Path:
        file = _path(value)
        try:
            read_secret(file)
        except OSError as error:
            raise Refused(f"cannot read it: {error.strerror}; let the daemon's user read it") from error
        except ValueError as error:
            raise Refused(f"{error}; write the secret into it") from error
        return file

    return optional(Rule("a file with the secret in it", check, shown=str))


def optional(rule: Rule) -> Rule:
    """What `rule` allows, or `none` (also: empty), which lets a flag or variable switch off what the file sets."""

    def check(value: object) -> Any:
        return None if value in ("", "none") else rule.check(value)

    def shown(value: object) -> object:
        return "none" if value is None else rule.shown(value)

    return attrs.evolve(rule, allowed=f'{rule.allowed}, or "none"', check=check, shown=shown)


def listing(item: Rule) -> Rule:
    """A list of what `item` allows, without doubles; as text comma-separated, empty text being the empty list."""

    def check(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise Refused
        return tuple(dict.fromkeys(_checked(item, one) for one in value))

    def from_text(given: str) -> object:
        return [part.strip() for part in given.split(",")] if given.strip() else []

    def shown(values: tuple[Any, ...]) -> object:
        return [item.shown(value) for value in values]

    return Rule(f"a list, each {item.allowed}", check, from_text, shown)


def octal_mode() -> Rule:
    """Permission bits: text as chmod takes it, or an integer (TOML writes 0o660)."""

    def check(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"(0o)?[0-7]{3,4}", value):
            value = int(value, 8)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 0o777:
            raise Refused
        return value

    return Rule('octal permissions up to 0777, as "0660" or 0o660', check, shown=lambda mode: f"{mode:04o}")


def user() -> Rule:
    """A user of this machine."""
    return _account("user", user_id)


def group() -> Rule:
    """A group of this machine."""
    return _account("group", group_id)


def event_type() -> Rule:
    """The name of a further event type.

    It goes into SSE's `event:` lines: so no line ends, and none of the stream's own names.
    """
    name = text("a name of letters, digits and . _ : -", r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")

    def check(value: object) -> Any:
        if value in STREAM_EVENTS:
            raise Refused("the streams use this name themselves")
        return name.check(value)

    return attrs.evolve(name, check=check)


def read_secret(file: Path) -> str:
    """The text of a secret's file, surrounding white space removed.

    Raises `OSError` when it cannot be read, `ValueError` when it is empty or not UTF-8.
    """
    try:
        content = file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8 text") from error
    if not content:
        raise ValueError("it is empty")
    return content


def check_socket_path(value: object) -> Path:
    """A path that fits into a Unix socket's address; raises `Refused`."""
    file = _path(value)
    length = len(str(file).encode(errors="surrogateescape"))
    if length > LONGEST_SOCKET_PATH:
        raise Refused(f"it has {length} bytes")
    return file


def _path(value: object) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise Refused
    return Path(value)


def _account(kind: str, resolve: Callable[[str], int]) -> Rule:
    def check(value: object) -> str:
        if not isinstance(value, str) or not value or "\0" in value:
            raise Refused
        try:
            resolve(value)
        except LookupError as error:
            raise Refused(f"there is no {kind} {value!r}") from error
        return value

    return Rule(f"the name or number of a {kind} of this machine", check)


def _checked(item: Rule, value: object) -> object:
    try:
        return item.check(value)
    except Refused as error:
        raise Refused(f"{value!r}: {error}" if str(error) else f"{value!r} is none") from error


def _number_from_text(given: str) -> object:
    if re.fullmatch(r"-?[0-9]{1,20}", given):
        return int(given)
    if re.fullmatch(r"-?[0-9]{1,20}\.[0-9]{1,20}", given):
        return float(given)
    return given


def _short_number(value: float) -> object:
    return int(value) if value.is_integer() else value

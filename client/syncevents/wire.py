"""The socket protocol without a socket: framing and messages of both roles.

Rule of this file: bytes in, values out, and back. No socket, no clock, no thread; the daemon and the client share it.

One JSON object a line, ``\\n`` ends a line. What the client keeps about its unacknowledged lines is in `window`.
"""

import json
import re
import uuid
from typing import Any, Final

from attrs import frozen

MAX_FRAME: Final = 262144
"""The longest line in bytes, without its newline, when the daemon has not said otherwise."""

VERSION: Final = 1
"""The protocol version this library speaks."""

MAX_NUMBER: Final = 2**63 - 1
"""Line numbers are kept in signed 64-bit columns."""

_UUID = re.compile(r"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}")
_STARTS_AS_ADMIN = re.compile(rb'[ \t\r]*\{[ \t\r]*"admin"[ \t\r]*:[ \t\r]*\{')
_STARTS_AS_HELLO = re.compile(rb'[ \t\r]*\{[ \t\r]*"hello"[ \t\r]*:')


class ProtocolError(ValueError):
    """The peer sent something that is not of this protocol."""


class FrameTooLarge(ValueError):
    """A line is longer than the largest frame that the daemon takes."""


class BadAdminRequest(ValueError):
    """An operator's request that cannot be read; `code` is what the refusal carries."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class BadHello(ValueError):
    """A hello that cannot be accepted; `code` is what the refusal carries."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@frozen
class Hello:
    """Who a connection belongs to, and how far its producer has seen acknowledgements."""

    producer: str
    client: str
    acked: int


@frozen
class AdminRequest:
    """An operator's request, in place of a hello: send the events from number `retry_from` on to Redis again."""

    retry_from: int


@frozen
class Welcome:
    """The answer to a hello: the daemon has dealt with `accepted` lines of this producer for good."""

    server: str
    accepted: int
    max_frame: int


@frozen
class Ack:
    """All lines up to `line` are dealt with: stored durably, or rejected."""

    line: int


@frozen
class Reject:
    """One event that was not stored.

    `line` counts from 1: on the wire the lines of the producer, in what a `Publisher` reports its publish calls.
    `id` is the event's id, None where it is not known; `code` and `error` say why.
    """

    line: int
    id: str | None
    code: str
    error: str


@frozen
class Refusal:
    """The daemon refuses the connection and closes it."""

    code: str
    error: str


Message = Welcome | Ack | Reject | Refusal


class LineSplitter:
    """Cuts a stream of chunks into lines, however the chunks fall.

    A `\\r` before the newline is removed and empty lines are dropped. A line of more than `max_frame` bytes sets
    `too_large`, and nothing after it is read. At most one unfinished line of `max_frame` bytes is held.
    """

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self.too_large = False
        self._max_frame = max_frame
        self._partial = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes, without their newlines."""
        if self.too_large:
            return []
        lines = data.split(b"\n")
        tail = lines.pop()
        if not lines:
            self._keep(tail)
            return []
        if self._partial:
            # A bytearray grows in amortised constant time, so a long line in small pieces is not quadratic.
            self._partial += lines[0]
            lines[0] = bytes(self._partial)
            self._partial.clear()
        if 0x0D in data or lines[0].endswith(b"\r"):
            lines = [line[:-1] if line.endswith(b"\r") else line for line in lines]
        # A chunk that is no longer than a frame holds no longer line, but for the one that began before it.
        if (len(data) > self._max_frame or len(lines[0]) > self._max_frame) and max(map(len, lines)) > self._max_frame:
            self.too_large = True
            lines = lines[: next(i for i, line in enumerate(lines) if len(line) > self._max_frame)]
        else:
            self._keep(tail)
        return [line for line in lines if line] if b"" in lines else lines

    def finish(self) -> list[bytes]:
        """Return the last line, which no newline ended, at the end of the input: one or none."""
        line = bytes(self._partial.removesuffix(b"\r"))
        self._partial.clear()
        return [line] if line and not self.too_large else []

    def _keep(self, tail: bytes) -> None:
        self._partial += tail
        # The `\r` of an ending that is still to come does not count.
        if len(self._partial) > self._max_frame and len(self._partial.removesuffix(b"\r")) > self._max_frame:
            self.too_large = True
            self._partial.clear()


# What the daemon says. Its text is written in ASCII, so that no text whatever makes an unreadable line.


def encode_welcome(server: str, accepted: int, max_frame: int) -> bytes:
    """Answer a hello."""
    welcome = {"v": VERSION, "server": server, "accepted": accepted, "max_frame": max_frame}
    return _line({"welcome": welcome})


def encode_ack(n: int) -> bytes:
    """Say that all lines up to `n` are dealt with."""
    return b'{"ack":%d}\n' % n


def encode_reject(line: int, event_id: str | None, code: str, error: str) -> bytes:
    """Say that one line was not stored, and why."""
    return _line({"reject": line, "id": event_id, "code": code, "error": error})


def encode_error(code: str, error: str) -> bytes:
    """Say why the connection is about to be closed."""
    return _line({"error": error, "code": code})


def is_hello(line: bytes) -> bool:
    """Tell whether this line is an object with a top-level key `hello`.

    Costs a substring search for an ordinary envelope. A line that begins as a hello counts as one even if the rest is
    broken JSON, so that its sender is told about the hello and not about an event.
    """
    # `\\u006` begins every escaped spelling of the letters of hello; to look for one byte first is four times as fast.
    if b'"hello"' not in line and (b"\\" not in line or b"\\u006" not in line):
        return False
    if _STARTS_AS_HELLO.match(line):
        return True
    value = _loads_or_none(line)
    return isinstance(value, dict) and "hello" in value


def parse_hello(line: bytes) -> Hello:
    """Read a hello; unknown keys are ignored.

    Raises `BadHello` with code `unsupported_version` for another version, else `bad_hello`.
    """
    value = _loads_or_none(line)
    hello = value.get("hello") if isinstance(value, dict) else None
    if not isinstance(hello, dict):
        raise BadHello("bad_hello", 'a hello is {"hello":{"v":1,"producer":"<uuid>","client":"<name>","acked":N}}')
    version = hello.get("v")
    if type(version) is not int:
        raise BadHello("bad_hello", "hello.v must be an integer")
    if version != VERSION:
        raise BadHello("unsupported_version", f"hello.v is {version}; this daemon speaks version {VERSION}")
    producer = hello.get("producer")
    if type(producer) is not str or not _UUID.fullmatch(producer):
        raise BadHello("bad_hello", "hello.producer must be a UUID")
    client = hello.get("client", "")
    if type(client) is not str or _has_lone_surrogate(client):
        raise BadHello("bad_hello", "hello.client must be a string")
    acked = hello.get("acked", 0)
    if type(acked) is not int or not 0 <= acked <= MAX_NUMBER:
        raise BadHello("bad_hello", "hello.acked must be an integer of at least 0")
    return Hello(str(uuid.UUID(producer)), client, acked)


def encode_retrying(first: int, last: int) -> bytes:
    """Answer an operator's request: these events go out again."""
    return _line({"admin": {"v": VERSION, "retrying": {"first": first, "last": last}}})


def is_admin(line: bytes) -> bool:
    """Tell whether this line is an operator's request: an object whose only key is `admin` and holds an object.

    Whatever has more keys is an envelope, in which a key of this name may stand as any other.
    """
    if not _STARTS_AS_ADMIN.match(line):
        return False
    value = _loads_or_none(line)
    return isinstance(value, dict) and value.keys() == {"admin"} and isinstance(value["admin"], dict)


def parse_admin(line: bytes) -> AdminRequest:
    """Read a request for which `is_admin` holds; unknown keys are refused, because nothing may be done by half.

    Raises `BadAdminRequest` with code `unsupported_version` for another version, else `bad_admin`.
    """
    request: dict[str, Any] = json.loads(line)["admin"]
    version, seq = request.get("v"), request.get("retry_from")
    if type(version) is int and version != VERSION:
        raise BadAdminRequest("unsupported_version", f"admin.v is {version}; this daemon speaks version {VERSION}")
    if type(version) is not int or request.keys() != {"v", "retry_from"}:
        raise BadAdminRequest("bad_admin", 'a request is {"admin":{"v":1,"retry_from":N}}')
    if type(seq) is not int or not 1 <= seq <= MAX_NUMBER:
        raise BadAdminRequest("bad_admin", f"admin.retry_from must be an integer from 1 to {MAX_NUMBER}")
    return AdminRequest(seq)


# What the client says and hears.


def encode_retry_from(seq: int) -> bytes:
    """Ask that the events from number `seq` on go out to Redis again."""
    return _line({"admin": {"v": VERSION, "retry_from": seq}})


def encode_hello(producer: str, client: str, acked: int) -> bytes:
    """Open a connection as `producer`, which has seen acknowledgements up to line `acked`."""
    return _line({"hello": {"v": VERSION, "producer": producer, "client": client, "acked": acked}})


def parse_message(line: bytes) -> Message:
    """Read one line of the daemon's; raises `ProtocolError` for anything else."""
    value = _loads_or_none(line)
    if not isinstance(value, dict):
        raise ProtocolError(f"not a message of the daemon: {line[:100]!r}")
    if "ack" in value:
        return Ack(_number(value, "ack"))
    if "reject" in value:
        event_id = value.get("id")
        if event_id is not None and type(event_id) is not str:
            raise ProtocolError(f"the reject's id is no string: {line[:100]!r}")
        return Reject(_number(value, "reject"), event_id, _text(value, "code"), _text(value, "error"))
    if "welcome" in value:
        return _welcome(value["welcome"])
    return Refusal(_text(value, "code"), _text(value, "error"))


def _welcome(value: Any) -> Welcome:
    if not isinstance(value, dict) or type(value.get("v")) is not int or value["v"] != VERSION:
        raise ProtocolError(f"a welcome of another version: {str(value)[:100]}")
    server = value.get("server", "")
    max_frame = _number(value, "max_frame") if "max_frame" in value else MAX_FRAME
    return Welcome(server if type(server) is str else "", _number(value, "accepted"), max_frame)


def _number(value: dict[str, Any], key: str) -> int:
    number = value.get(key)
    if type(number) is not int or not 0 <= number <= MAX_NUMBER:
        raise ProtocolError(f"{key} must be an integer of at least 0, not {str(number)[:100]}")
    return number


def _text(value: dict[str, Any], key: str) -> str:
    text = value.get(key)
    if type(text) is not str:
        raise ProtocolError(f"{key} must be a string in {str(value)[:100]}")
    return text


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def _loads_or_none(line: bytes) -> Any:
    # Decoded here because json.loads would also take UTF-16 and UTF-32 bytes. Too deep nesting is a RecursionError.
    try:
        return json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None


def _has_lone_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)

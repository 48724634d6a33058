"""The text of an event stream.

Rule of this file: pure; bytes in, messages out, as the HTML standard's event-stream interpretation has it, however the
bytes were cut on their way.
"""

from typing import Final

from attrs import frozen

from syncevents.errors import NotUnderstood

MAX_LINE: Final = 64 << 20  # bytes; no sensible `ingest.max_frame` comes near, and a line is held in memory as a whole

_BOM: Final = b"\xef\xbb\xbf"


@frozen
class Message:
    """One event of the stream; `id` is the last id that the stream gave, "" before the first."""

    event: str
    data: str
    id: str


class Parser:
    """Turns the bytes of one connection into messages; what an end cuts off in the middle never comes out."""

    def __init__(self) -> None:
        self._rest = b""
        self._began = False
        self._after_cr = False  # so that the LF of a CR LF in two pieces does not end a second line
        self._event = ""
        self._data: list[str] = []
        self._id = ""

    def feed(self, chunk: bytes) -> list[Message]:
        """Take the next bytes; return the messages that they complete. Raises NotUnderstood for an endless line."""
        text = self._rest + chunk
        if not self._began:
            if len(text) < len(_BOM) and _BOM.startswith(text):
                self._rest = text
                return []
            self._began = True
            text = text.removeprefix(_BOM)
        if self._after_cr and text:
            text = text.removeprefix(b"\n")
            self._after_cr = False
        lines = text.splitlines(keepends=True)
        self._rest = lines.pop() if lines and not lines[-1].endswith((b"\r", b"\n")) else b""
        if len(self._rest) > MAX_LINE:
            raise NotUnderstood(f"a line of the stream has more than {MAX_LINE} bytes")
        self._after_cr = bool(lines) and not self._rest and lines[-1].endswith(b"\r")
        found = []
        for line in lines:
            message = self._take(line.rstrip(b"\r\n").decode("utf-8", "replace"))
            if message is not None:
                found.append(message)
        return found

    def _take(self, line: str) -> Message | None:
        """Take one line without its ending; return the message that an empty one completes."""
        if not line:
            event, data = self._event, self._data
            self._event, self._data = "", []
            return Message(event or "message", "\n".join(data), self._id) if data else None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        return None

"""The text of an event stream, read line by line.

Rule of this file: pure; lines in, messages out, as the HTML standard's event-stream interpretation has it.
"""

from collections.abc import Iterator

from attrs import frozen


@frozen
class Message:
    """One event of the stream; `id` is the last id that the stream gave, "" before the first."""

    event: str
    data: str
    id: str


class Parser:
    """Turns the lines of one connection into messages."""

    def __init__(self) -> None:
        self._event = ""
        self._data: list[str] = []
        self._id = ""

    def feed(self, line: bytes) -> Iterator[Message]:
        """Take one line with its ending; yield the message that an empty line completes."""
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if not text:
            if self._data:
                yield Message(self._event or "message", "\n".join(self._data), self._id)
            self._event, self._data = "", []
            return
        name, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
        elif name == "id":
            self._id = value

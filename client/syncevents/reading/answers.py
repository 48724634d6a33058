"""Single answers of the daemon, as JSON, with the standard library."""

import http.client
import socket
from typing import Any, Final

from syncevents.errors import NotUnderstood, Refused
from syncevents.reading.asking import Address, headers, refusal
from syncevents.reading.retrying import CONNECT_WITHIN
from syncevents.reading.values import parse_json

_MOST: Final = 1 << 24  # bytes; an answer is held in memory as a whole


class Http(http.client.HTTPConnection):
    """HTTP over TCP, or over a Unix socket."""

    def __init__(self, address: Address, timeout: float) -> None:
        super().__init__(address.authority, timeout=timeout)
        self._unix_path = address.unix_path

    def connect(self) -> None:
        """Connect the socket."""
        if self._unix_path is None:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._unix_path)


def get_json(address: Address, path: str, token: str | None, timeout: float = CONNECT_WITHIN) -> dict[str, Any]:
    """Return the JSON object at a path below the base path.

    Raises Refused, NotUnderstood, or OSError where another try may help.
    """
    connection = Http(address, timeout)
    try:
        connection.request("GET", f"{address.base}{path}", headers={"Accept": "application/json", **headers(token)})
        response = connection.getresponse()
        status, body = response.status, response.read(_MOST)
    except http.client.HTTPException as error:
        raise NotUnderstood(f"{address} does not speak HTTP: {error!r}") from None
    finally:
        connection.close()
    if status == http.client.OK:
        return parse_json(body)
    answer = refusal(status, body, address)
    if isinstance(answer, Refused):
        raise answer
    raise ConnectionError(answer)

"""What feeds a peer and what listens behind it, each a process of its own: `python -m tests.benchmarks.load ROLE ...`.

Rule of this file: a role says `ready` when it could begin, begins at a line on its standard input, and ends with one
JSON object. Times are seconds of the system's monotonic clock, which all processes of a machine share. What it does
while it is timed is as cheap as it can be: it shares the cores with what is measured.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
import uuid
from typing import Any

from tests.benchmarks.payload import MARK, blocks


def begin() -> None:
    """Say that everything is prepared, and wait for the start."""
    print("ready", flush=True)
    sys.stdin.readline()


def finish(**found: Any) -> None:
    """Tell what was found."""
    print(json.dumps(found), flush=True)


def feed(path: str, count: str, first: str, acks: str) -> None:
    """Write `count` lines to a Unix socket as fast as it takes them; with `acks`, as a producer that waits for them."""
    text = blocks(int(count), int(first))
    sink = socket.socket(socket.AF_UNIX)
    sink.connect(path)
    acked: list[float] = []
    listener = threading.Thread(target=wait_acked, args=(sink, int(count), acked))
    if acks == "acks":
        sink.sendall(b'{"hello":{"v":1,"producer":"%b","client":"benchmark"}}\n' % str(uuid.uuid4()).encode())
        listener.start()
    begin()
    started = time.monotonic()
    for block in text:
        sink.sendall(block)
    sent = time.monotonic()
    if acks == "acks":
        listener.join()
    finish(started=started, sent=sent, acked=acked[0] if acked else None)
    sink.close()


def wait_acked(source: socket.socket, count: int, acked: list[float]) -> None:
    """Note when the last line was acknowledged."""
    rest = b""
    want = b'{"ack":%d}' % count
    while want not in rest:
        chunk = source.recv(1 << 16)
        if not chunk:
            raise ConnectionError("closed before the last ack")
        rest = (rest + chunk)[-200:]
    acked.append(time.monotonic())


def hear(port: str, channel: str, count: str) -> None:
    """Subscribe to a Redis channel and count what comes, with no parsing to speak of."""
    source = socket.create_connection(("127.0.0.1", int(port)))
    source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    source.sendall(b"SUBSCRIBE %b\r\n" % channel.encode())
    source.recv(1 << 16)
    begin()
    heard, tail, last = 0, b"", 0.0
    while heard < int(count):
        chunk = source.recv(1 << 20)
        if not chunk:
            break
        last = time.monotonic()
        text = tail + chunk
        heard += text.count(MARK)
        tail = text[-(len(MARK) - 1) :]
    finish(heard=heard, last=last)


if __name__ == "__main__":
    {"feed": feed, "hear": hear}[sys.argv[1]](*sys.argv[2:])

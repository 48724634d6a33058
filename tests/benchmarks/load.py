"""What feeds a peer and what listens behind it, each a process of its own: `python -m tests.benchmarks.load ROLE ...`.

Rule of this file: a role says `ready` when it could begin, begins at a line on its standard input, and ends with one
JSON object. Times are seconds of the system's monotonic clock, which all processes of a machine share. What it does
while it is timed is as cheap as it can be: it shares the cores with what is measured.
"""

from __future__ import annotations

import json
import re
import select
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import redis
from tests.benchmarks.payload import MARK, blocks, line

import syncevents

STREAM_MARK: Final = b'"order_number"'  # twice in each event of ours, as of the peers': in data and in metadata
MARKS: Final = 2
AMOUNT: Final = Decimal("12.50")
CREATED: Final = datetime(2026, 11, 24, 2, 30, 15, 123456, UTC)
# Once in each event: the data's, which the metadata repeats, so only where a number of the order comes before it.
STAMP: Final = re.compile(rb'"data":\{[^}]*?"external_id":"(\d+)"')


def begin() -> None:
    """Say that everything is prepared, and wait for the start."""
    print("ready", flush=True)
    sys.stdin.readline()


def finish(**found: Any) -> None:
    """Tell what was found."""
    print(json.dumps(found), flush=True)


def feed(path: str, count: str, first: str, acks: str, businesses: str = "42") -> None:
    """Write `count` lines to a Unix socket as fast as it takes them; with `acks`, as a producer that waits for them.

    The businesses (comma-separated) take turns.
    """
    text = blocks(int(count), int(first), businesses=list(map(int, businesses.split(","))))
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


def order(number: int, external_id: str) -> syncevents.SyncOrderCreated:
    """Return what a caller hands to the library, built and validated."""
    return syncevents.SyncOrderCreated(
        order_id=f"6f1c8f0e-{number:012d}",
        order_number=f"#{number:09d}",
        external_id=external_id,
        platform="shopify",
        status="paid",
        total_amount=AMOUNT,
        currency="EUR",
        created_at=CREATED,
        synced_at=CREATED,
    )


def ticks(rate: int, seconds: float) -> Iterator[int]:
    """Yield numbers at a steady rate, several at once where the clock has moved on by more than one."""
    count, begun = int(rate * seconds), time.monotonic()
    done = 0
    while done < count:
        due = min(count, int((time.monotonic() - begun) * rate) + 1)
        while done < due:
            done += 1
            yield done
        time.sleep(max(0.0, begun + done / rate - time.monotonic()))


def pace_client(path: str, rate: str, seconds: str) -> None:
    """Publish through the library at a steady rate; each event carries when it was published."""
    with syncevents.Publisher(path) as publisher:
        publisher.publish_sync_order_created(13, 42, order(0, "0"))
        publisher.flush(timeout=30)
        begin()
        before = time.process_time()
        for number in ticks(int(rate), float(seconds)):
            publisher.publish_sync_order_created(13, 42, order(number, str(time.monotonic_ns())))
        publisher.flush(timeout=30)
        finish(cpu=time.process_time() - before)


def pace_redis(port: str, channel: str, rate: str, seconds: str) -> None:
    """Publish ready-made payloads with redis-py at a steady rate."""
    client = redis.Redis(port=int(port))
    before_stamp, after_stamp = line(1).split(b"55510000000001", 1)
    begin()
    before = time.process_time()
    for _ in ticks(int(rate), float(seconds)):
        client.publish(channel, b"%b%d%b" % (before_stamp, time.monotonic_ns(), after_stamp))
    finish(cpu=time.process_time() - before)


def hear_times(port: str, channel: str, count: str) -> None:
    """Subscribe and note how long each event took from the call to here, in milliseconds."""
    source = socket.create_connection(("127.0.0.1", int(port)))
    source.sendall(b"SUBSCRIBE %b\r\n" % channel.encode())
    source.recv(1 << 16)
    begin()
    times: list[float] = []
    tail = b""
    while len(times) < int(count):
        chunk = source.recv(1 << 20)
        now = time.monotonic_ns()
        if not chunk:
            break
        text = tail + chunk
        end = 0
        for found in STAMP.finditer(text):
            stamp = int(found[1])
            end = found.end()
            if stamp:
                times.append((now - stamp) / 1e6)
        tail = text[end:]
    times.sort()
    finish(p50=times[len(times) // 2], p99=times[int(len(times) * 0.99)], worst=times[-1], count=len(times))


def read_streams(port: str, path: str, readers: str, count: str, times: str) -> None:
    """Read so many event streams until each has had `count` events; with `times`, note how long each event took.

    A stream begins to count at its first event, so that greetings and keep-alives do not matter.
    """
    streams: dict[int, socket.socket] = {}
    tails: dict[int, bytes] = {}
    waiting = select.epoll()
    for _ in range(int(readers)):
        source = socket.create_connection(("127.0.0.1", int(port)))
        source.sendall(b"GET %b HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n" % path.encode())
        streams[source.fileno()] = source
        tails[source.fileno()] = b""
        waiting.register(source, select.EPOLLIN)
    time.sleep(1.0)  # the answers' heads
    begin()
    seen, wanted = 0, int(readers) * int(count) * (1 if times == "times" else MARKS)
    taken: list[float] = []
    last = 0.0
    while seen < wanted:
        for descriptor, _ in waiting.poll():
            chunk = streams[descriptor].recv(1 << 18)
            if not chunk:
                raise ConnectionError("a stream ended")
            text = tails[descriptor] + chunk
            now = time.monotonic_ns()
            if times == "times":
                end = 0
                for found in STAMP.finditer(text):
                    end = found.end()
                    seen += 1
                    taken.append((now - int(found[1])) / 1e6)
                tails[descriptor] = text[end:]
            else:
                seen += text.count(STREAM_MARK)
                tails[descriptor] = text[-(len(STREAM_MARK) - 1) :]
            last = now / 1e9
    taken.sort()
    finish(last=last, seen=seen, p50=taken[len(taken) // 2] if taken else None, p99=_p99(taken))


def _p99(taken: list[float]) -> float | None:
    return taken[int(len(taken) * 0.99)] if taken else None


def post(port: str, path: str, count: str) -> None:
    """Post `count` events over HTTP, pipelined, and wait for the answers."""
    requests = [
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(text), text)
        for text in map(line, range(1, int(count) + 1))
    ]
    sink = socket.create_connection(("127.0.0.1", int(port)))
    begin()
    started = time.monotonic()
    for start in range(0, len(requests), 32):
        batch = requests[start : start + 32]
        sink.sendall(b"".join(batch))
        answers = b""
        while answers.count(b"HTTP/1.1 2") < len(batch):
            answers += sink.recv(1 << 16)
    finish(started=started)


def pace_acks(path: str, rate: str, seconds: str) -> None:
    """Send single lines at a steady rate and note how long each waits for its ack, in milliseconds."""
    text = line(1) + b"\n"
    sink = socket.socket(socket.AF_UNIX)
    sink.connect(path)
    sent_at = [0] * (int(int(rate) * float(seconds)) + 1)
    taken: list[float] = []

    def listen() -> None:
        rest, answered = b"", 0
        while answered < len(sent_at) - 1:
            chunk = sink.recv(1 << 16)
            now = time.monotonic_ns()
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            for ack in lines:
                upto = int(json.loads(ack)["ack"])
                taken.extend((now - sent_at[number]) / 1e6 for number in range(answered + 1, upto + 1))
                answered = upto

    listener = threading.Thread(target=listen)
    listener.start()
    begin()
    for number in ticks(int(rate), float(seconds)):
        sent_at[number] = time.monotonic_ns()
        sink.sendall(text)
    listener.join()
    taken.sort()
    finish(p50=taken[len(taken) // 2], p99=_p99(taken), worst=taken[-1])


def replay(port: str, business: str, count: str) -> None:
    """Ask for a replay of so many events, and note how long it takes until the last of them is there."""
    begin()
    started = time.monotonic()
    source = socket.create_connection(("127.0.0.1", int(port)))
    path = f"/integrations/events/sse/{business}?replay={count}"
    source.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    seen, tail = 0, b""
    while seen < int(count) * MARKS:
        chunk = source.recv(1 << 20)
        if not chunk:
            raise ConnectionError("the stream ended")
        text = tail + chunk
        seen += text.count(STREAM_MARK)
        tail = text[-(len(STREAM_MARK) - 1) :]
    finish(took=(time.monotonic() - started) * 1000)


ROLES = (read_streams, post, pace_acks, replay, feed, hear, pace_client, pace_redis, hear_times)

if __name__ == "__main__":
    {role.__name__: role for role in ROLES}[sys.argv[1]](*sys.argv[2:])

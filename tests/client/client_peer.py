"""A small daemon for the client's tests: a real Unix socket, real threads, and bad manners on demand.

It keeps what a daemon promises about numbering (what was handed in is dealt with, or dropped, before a newer
connection of the producer is welcomed), and can lose acknowledgements, cut connections after any byte, and forget or
set back its state.
"""

import json
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from attrs import define, field, frozen

from syncevents import wire


@frozen
class Manners:
    """How one connection is treated."""

    cut_after: int | None = None  # bytes read before it is cut, without an answer to what came last
    acks: bool = True
    counts_fragments: bool = True  # a last line without its newline is a line, and rejected if it is no JSON
    refuse: tuple[str, str] | None = None
    reads: bool = True


@define
class Told:
    """What the daemon knows of one producer."""

    accepted: int = 0
    rejects: list[wire.Reject] = field(factory=list)


Judge = Callable[[bytes], tuple[str, str] | None]


def reject_nothing(line: bytes) -> tuple[str, str] | None:
    """Refuse only what is no JSON."""
    try:
        json.loads(line)
    except ValueError:
        return "invalid_json", "not JSON"
    return None


@define(eq=False)
class Peer:
    """The daemon. `manners` gives each connection, counted from 0, its treatment."""

    path: Path
    manners: Callable[[int], Manners] = lambda _: Manners()
    judge: Judge = reject_nothing
    max_frame: int = wire.MAX_FRAME
    stored: list[bytes] = field(factory=list)
    producers: dict[str, Told] = field(factory=dict)
    hellos: list[wire.Hello] = field(factory=list)
    connections: int = 0
    _changed: threading.Condition = field(factory=threading.Condition)
    _listener: socket.socket | None = None
    _open: dict[str, socket.socket] = field(factory=dict)
    _sockets: set[socket.socket] = field(factory=set)
    _threads: list[threading.Thread] = field(factory=list)

    def __enter__(self) -> "Peer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._spawn(self._accept, self._listener)

    def stop(self) -> None:
        """End as if killed: what was not stored is lost."""
        if self._listener is None:
            return
        listener, self._listener = self._listener, None
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        self.path.unlink(missing_ok=True)
        with self._changed:
            self._open.clear()
            sockets = list(self._sockets)
        for connection in sockets:
            hang_up(connection)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def cut_all(self) -> None:
        with self._changed:
            sockets = list(self._sockets)
        for connection in sockets:
            hang_up(connection)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until something became true of what was stored or said; for ever, pytest's timeout is the limit."""
        with self._changed:
            assert self._changed.wait_for(condition, 60)

    def events(self) -> list[dict]:
        with self._changed:
            return [json.loads(line) for line in self.stored]

    def ids(self) -> list[str]:
        return [event["id"] for event in self.events()]

    def _spawn(self, function: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=function, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._changed:
                number = self.connections
                self.connections += 1
                self._sockets.add(connection)
                self._changed.notify_all()
            self._spawn(self._guarded, connection, self.manners(number))

    def _guarded(self, connection: socket.socket, manners: Manners) -> None:
        try:
            self._serve(connection, manners)
        except OSError:
            pass
        finally:
            connection.close()
            with self._changed:
                self._sockets.discard(connection)
                self._changed.notify_all()

    def _serve(self, connection: socket.socket, manners: Manners) -> None:
        if manners.refuse is not None:
            connection.sendall(wire.encode_error(*manners.refuse))
            return
        splitter = wire.LineSplitter(self.max_frame)
        producer = ""
        left = manners.cut_after
        while left is None or left > 0:
            if not manners.reads and producer:
                wait_for_hang_up(connection)
                return
            data = connection.recv(65536 if left is None else min(left, 65536))
            left = None if left is None else left - len(data)
            lines = splitter.feed(data)
            if not data and manners.counts_fragments:
                lines = splitter.finish()
            if splitter.too_large:
                connection.sendall(wire.encode_error("frame_too_large", "too large"))
                return
            if lines and not producer:
                hello = wire.parse_hello(lines.pop(0))
                producer = hello.producer
                self._greet(connection, hello)
            self._deal_with(connection, producer, lines, manners)
            if not data:
                return

    def _greet(self, connection: socket.socket, hello: wire.Hello) -> None:
        with self._changed:
            self.hellos.append(hello)
            old = self._open.get(hello.producer)
            self._open[hello.producer] = connection
            told = self.producers.setdefault(hello.producer, Told())
            answer = wire.encode_welcome("peer/1", told.accepted, self.max_frame)
            rejects = [reject for reject in told.rejects if reject.line > hello.acked]
            self._changed.notify_all()
        if old is not None:
            hang_up(old)
        connection.sendall(answer + b"".join(map(encode_reject, rejects)))

    def _deal_with(self, connection: socket.socket, producer: str, lines: list[bytes], manners: Manners) -> None:
        answers = []
        with self._changed:
            if not lines or self._open.get(producer) is not connection:
                return  # taken over, or killed: dropped for good
            told = self.producers[producer]
            for line in lines:
                told.accepted += 1
                verdict = self.judge(line)
                if verdict is None:
                    self.stored.append(line)
                else:
                    told.rejects.append(wire.Reject(told.accepted, None, *verdict))
                    answers.append(encode_reject(told.rejects[-1]))
            answers.append(wire.encode_ack(told.accepted))
            self._changed.notify_all()
        if manners.acks:
            connection.sendall(b"".join(answers))


def encode_reject(reject: wire.Reject) -> bytes:
    return wire.encode_reject(reject.line, reject.id, reject.code, reject.error)


def wait_for_hang_up(connection: socket.socket) -> None:
    poller = select.poll()
    poller.register(connection, 0)
    poller.poll()


def hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return

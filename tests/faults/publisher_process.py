"""A publisher as a process of its own, of one of several characters; it writes down what it sends and what it is told.

Usage: publisher_process.py SOCKET NUMBER CHARACTER NOTES. It goes on until its standard input ends, then waits for its
acknowledgements. Lines of the notes: `sent N`, before event N goes out; `told A B`, events A to B-1 are dealt with;
`refused N`; `torn N`, half of event N went out and nothing more will. Written at once, so that they outlive SIGKILL.

Characters: `client` uses the library; `torn` stops in the middle of its fortieth line; `anonymous` says no hello and
connects anew after a cut, with new events; `deaf` reads the welcome and nothing after it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import uuid
from contextlib import suppress
from typing import IO, Any

from tests.faults.oracle import event

from syncevents import Publisher
from syncevents.errors import Rejected
from syncevents.wire import Reject

PAUSE = 0.01
TORN_AT = 40


class Notes:
    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, *words: object) -> None:
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


def use_the_library(path: str, me: int, notes: Notes, ending: threading.Event) -> None:
    def refused(reject: Reject) -> None:
        notes.note("refused", str(reject.id).split("/")[1])

    with Publisher(path, on_reject=refused) as publisher:
        number = 0
        while not ending.wait(PAUSE):
            notes.note("sent", number)
            publisher.publish_envelope(event(me, number))
            number += 1
        with suppress(Rejected):
            publisher.flush(timeout=60)
        notes.note("told", 0, number)


def hear(answers: IO[bytes], base: int, notes: Notes) -> None:
    """Note what is told on a connection whose first line is event `base`."""
    upto = base
    with suppress(OSError):
        for line in answers:
            message: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {}
            if "reject" in message:
                notes.note("refused", base + message["reject"] - 1)
            elif "ack" in message:
                notes.note("told", upto, base + message["ack"])
                upto = base + message["ack"]


def send(connection: socket.socket, me: int, number: int, notes: Notes, ending: threading.Event, torn_at: int) -> int:
    """Send events until the end or a cut; return the number of the next one."""
    while not ending.wait(PAUSE):
        text = event(me, number) + b"\n"
        notes.note("sent", number)
        try:
            if number == torn_at:
                connection.sendall(text[: len(text) // 2])
                notes.note("torn", number)
                time.sleep(3600)  # until it is killed
            connection.sendall(text)
        except OSError:
            return number + 1
        number += 1
    return number


def speak(path: str, me: int, character: str, notes: Notes, ending: threading.Event) -> None:
    """Connect again after each cut, until the end."""
    number, producer = 0, str(uuid.uuid4())
    while True:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(path)
            except OSError:
                time.sleep(PAUSE)
                continue
            answers = connection.makefile("rb")
            base = number
            if character != "anonymous":
                hello = {"hello": {"v": 1, "producer": producer, "client": f"{character}/1"}}
                try:
                    connection.sendall(json.dumps(hello).encode() + b"\n")
                    welcome = answers.readline()
                except OSError:
                    continue
                if not welcome.endswith(b"\n"):
                    continue
                number = base = json.loads(welcome)["welcome"]["accepted"]
                base = 0  # its lines are numbered over all connections
                notes.note("told", 0, number)
                if ending.is_set():
                    return
            if character == "deaf":
                number = send(connection, me, number, notes, ending, -1)
                continue  # the next welcome says what became of them
            listener = threading.Thread(target=hear, args=(answers, base, notes))
            listener.start()
            number = send(connection, me, number, notes, ending, TORN_AT if character == "torn" else -1)
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            listener.join()
            if ending.is_set():
                return


def main() -> None:
    path, me, character, notes = sys.argv[1], int(sys.argv[2]), sys.argv[3], Notes(sys.argv[4])
    ending = threading.Event()

    def until_told() -> None:
        sys.stdin.read()
        ending.set()

    threading.Thread(target=until_told, daemon=True).start()
    if character == "client":
        use_the_library(path, me, notes, ending)
    else:
        speak(path, me, character, notes, ending)


main()

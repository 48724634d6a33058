"""The window against a model of the daemon that loses, cuts, restarts and forgets."""

import itertools

import pytest
from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from syncevents import wire
from syncevents.window import Window


@define
class DaemonModel:
    """Numbers lines as the contract says; remembers per producer what it has dealt with, and every stored line."""

    counts_fragments: bool = True
    accepted: dict[str, int] = field(factory=dict)
    rejects: dict[str, dict[int, wire.Reject]] = field(factory=dict)
    stored: list[bytes] = field(factory=list)
    producer: str = ""
    splitter: wire.LineSplitter = field(factory=wire.LineSplitter)

    def connect(self) -> None:
        self.producer = ""
        self.splitter = wire.LineSplitter()

    def feed(self, data: bytes) -> list[bytes]:
        return [answer for line in self.splitter.feed(data) for answer in self.line(line)]

    def end_of_input(self) -> None:
        if self.counts_fragments and self.producer:
            for line in self.splitter.finish():
                self.line(line)

    def line(self, line: bytes) -> list[bytes]:
        if not self.producer:
            hello = wire.parse_hello(line)
            self.producer = hello.producer
            accepted = self.accepted.setdefault(self.producer, 0)
            told = self.rejects.setdefault(self.producer, {})
            again = [encode(reject) for number, reject in told.items() if number > hello.acked]
            return [wire.encode_welcome("model/1", accepted, wire.MAX_FRAME), *again]
        number = self.accepted[self.producer] = self.accepted[self.producer] + 1
        if not line.endswith(b"}") or b"bad" in line:
            reject = self.rejects[self.producer][number] = wire.Reject(number, None, "invalid_json", "torn or bad")
            return [encode(reject), wire.encode_ack(number)]
        self.stored.append(line)
        return [wire.encode_ack(number)]


def encode(reject: wire.Reject) -> bytes:
    return wire.encode_reject(reject.line, reject.id, reject.code, reject.error)


class WindowMachine(RuleBasedStateMachine):
    """Bytes go to the model in pieces of any size; answers come late or never; either side may cut the connection."""

    def __init__(self) -> None:
        super().__init__()
        ids = (f"00000000-0000-4000-8000-{n:012}" for n in itertools.count(1))
        self.window = Window(new_producer=lambda: next(ids))
        self.daemon = DaemonModel()
        self.answers: list[bytes] = []
        self.connected = False
        self.count = 0
        self.bad: set[int] = set()
        self.reported: list[int] = []
        self.set_backs = 0
        self.set_back_pending = False

    @rule(bad=st.booleans(), size=st.integers(0, 5))
    def publish(self, bad: bool, size: int) -> None:
        self.count += 1
        if bad:
            self.bad.add(self.count)
        line = b'{"n":%d%s%s}\n' % (self.count, b"x" * size, b"bad" if bad else b"")
        assert self.window.append(self.count, line) is None

    @precondition(lambda self: not self.connected)
    @rule(goes_well=st.sampled_from([True, True, True, False]))
    def connect(self, goes_well: bool) -> None:
        self.window.hello("test")
        self.daemon.connect()
        self.answers.clear()
        self.connected = True
        if goes_well:
            self.write(10**6)
            self.read(1)

    @precondition(lambda self: self.connected)
    @rule(size=st.integers(1, 30) | st.just(10**6))
    def write(self, size: int) -> None:
        data = bytes(self.window.to_send()[:size])
        self.window.wrote(len(data))
        self.answers += self.daemon.feed(data)

    @precondition(lambda self: self.connected and self.answers)
    @rule(count=st.integers(1, 5))
    def read(self, count: int) -> None:
        for answer in self.answers[:count]:
            self.follow(answer)
            if not self.connected:
                return
        del self.answers[:count]

    @precondition(lambda self: self.connected and not self.answers and self.window.unsettled_welcome)
    @rule()
    def nothing_follows_the_welcome(self) -> None:
        self.window.settle()

    @precondition(lambda self: self.connected)
    @rule()
    def cut(self) -> None:
        self.daemon.end_of_input()
        self.disconnect()

    @precondition(lambda self: self.connected)
    @rule()
    def daemon_is_killed(self) -> None:
        self.disconnect()

    @rule(counts=st.booleans())
    def another_daemon_version_starts(self, counts: bool) -> None:
        if not self.connected:
            self.daemon.counts_fragments = counts

    def follow(self, answer: bytes) -> None:
        message = wire.parse_message(answer)
        for reject in self.window.receive(message):
            self.reported.append(reject.line)
        if isinstance(message, wire.Welcome) and not self.window.welcomed:
            self.disconnect()

    def disconnect(self) -> None:
        self.window.disconnect()
        self.answers.clear()
        self.connected = False

    def finish(self) -> None:
        """Let everything that is on its way arrive."""
        for _ in range(3):
            if not self.connected:
                self.connect(goes_well=False)
            while self.connected and (self.answers or self.window.to_send()):
                self.write(10**6)
                self.read(10**6)
            if self.connected:
                self.window.settle()

    @invariant()
    def what_is_settled_is_stored_or_rejected(self) -> None:
        numbers = self.stored_numbers()
        for ordinal in range(1, self.window.settled + 1):
            assert ordinal in (self.reported if ordinal in self.bad else numbers)

    def stored_numbers(self) -> list[int]:
        return [int(line[5:].rstrip(b"}xbad")) for line in self.daemon.stored]

    def teardown(self) -> None:
        self.finish()
        assert self.window.settled == self.count
        assert sorted(self.reported) == sorted(self.bad)


class ExactlyOnce(WindowMachine):
    """While the daemon keeps its state, each line is stored exactly once, and in order."""

    @invariant()
    def nothing_is_stored_twice_or_out_of_order(self) -> None:
        numbers = self.stored_numbers()
        assert numbers == sorted(set(numbers))

    def teardown(self) -> None:
        super().teardown()
        assert self.stored_numbers() == [n for n in range(1, self.count + 1) if n not in self.bad]
        assert self.window.incidents == 0


class SetBack(WindowMachine):
    """When the daemon forgets a producer, its unacknowledged lines are stored at least once, under a new id."""

    @precondition(lambda self: not self.connected)
    @rule()
    def daemon_forgets(self) -> None:
        self.daemon.accepted.clear()
        self.daemon.rejects.clear()

    @precondition(lambda self: not self.connected)
    @rule()
    def the_numbers_run_ahead(self) -> None:
        for producer in self.daemon.accepted:
            self.daemon.accepted[producer] += 1000

    def teardown(self) -> None:
        self.finish()
        assert self.window.settled == self.count
        assert set(self.reported) == self.bad
        stored = set(self.stored_numbers())
        assert stored == {n for n in range(1, self.count + 1) if n not in self.bad}


ExactlyOnce.TestCase.settings = SetBack.TestCase.settings = settings(max_examples=200, stateful_step_count=40)
TestExactlyOnce = ExactlyOnce.TestCase
TestSetBack = SetBack.TestCase


def welcomed(accepted: int = 0, lines: int = 3, max_frame: int = wire.MAX_FRAME) -> Window:
    window = Window()
    for ordinal in range(1, lines + 1):
        window.append(ordinal, b"{%d}\n" % ordinal)
    connect(window, accepted, max_frame)
    return window


def connect(window: Window, accepted: int, max_frame: int = wire.MAX_FRAME) -> list[wire.Reject]:
    window.hello("test")
    window.wrote(len(window.to_send()))
    return window.receive(wire.Welcome("peer", accepted, max_frame))


def send(window: Window, size: int) -> bytes:
    data = bytes(window.to_send()[:size])
    window.wrote(len(data))
    return data


def send_all(window: Window) -> bytes:
    return send(window, len(window.to_send()))


def test_no_line_goes_out_before_the_welcome() -> None:
    window = Window()
    window.append(1, b"{}\n")
    window.hello("test")
    assert wire.is_hello(send_all(window))
    assert send_all(window) == b""


def test_after_a_lost_ack_only_what_the_welcome_does_not_cover_is_sent_again() -> None:
    window = welcomed()
    assert send_all(window) == b"{1}\n{2}\n{3}\n"
    window.disconnect()
    connect(window, 2)
    assert send_all(window) == b"{3}\n"


def test_what_a_welcome_covers_settles_only_after_its_rejects_had_their_chance() -> None:
    window = welcomed()
    send_all(window)
    window.disconnect()
    connect(window, 2)
    assert (window.settled, window.acked) == (0, 0)
    assert [reject.line for reject in window.receive(wire.Reject(2, None, "invalid_event", "no"))] == [2]
    window.settle()
    assert (window.settled, window.acked) == (2, 2)


def test_a_reject_that_is_told_again_is_reported_once() -> None:
    window = welcomed()
    send_all(window)
    assert len(window.receive(wire.Reject(2, None, "invalid_event", "no"))) == 1
    window.disconnect()
    connect(window, 3)
    assert window.receive(wire.Reject(2, None, "invalid_event", "no")) == []


@pytest.mark.parametrize("accepted", [0, 4])
def test_a_set_back_or_unknown_state_makes_a_new_producer_of_the_unacknowledged(accepted: int) -> None:
    window = welcomed()
    send_all(window)
    window.receive(wire.Ack(1))
    before = window.producer
    window.disconnect()
    connect(window, accepted)
    assert (window.welcomed, window.incidents) == (False, 1)
    assert window.producer != before
    window.disconnect()
    connect(window, 0)
    assert send_all(window) == b"{2}\n{3}\n"
    window.receive(wire.Ack(2))
    assert window.settled == 3


def test_lines_that_a_smaller_max_frame_forbids_are_rejected_and_not_sent() -> None:
    window = welcomed(lines=0)
    window.append(1, b"{" + b"x" * 100 + b"}\n")
    window.append(2, b"{}\n")
    window.disconnect()
    (reject,) = connect(window, 0, max_frame=50)
    assert (reject.line, reject.code) == (1, "frame_too_large")
    assert send_all(window) == b"{}\n"
    assert window.append(3, b"x" * 51 + b"\n").code == "frame_too_large"
    window.receive(wire.Ack(1))
    assert window.settled == 3


@pytest.mark.parametrize(
    "message",
    [
        wire.Ack(4),
        wire.Reject(4, None, "invalid_event", "no"),
        wire.Welcome("peer", 0, 1000),
        wire.Refusal("forbidden", "no"),
    ],
)
def test_a_message_that_does_not_fit_is_a_protocol_error(message: wire.Message) -> None:
    window = welcomed()
    send_all(window)
    with pytest.raises(wire.ProtocolError):
        window.receive(message)


def test_an_answer_before_the_welcome_is_a_protocol_error() -> None:
    window = Window()
    window.hello("test")
    for message in (wire.Ack(0), wire.Welcome("peer", 0, 1000)):
        with pytest.raises(wire.ProtocolError):
            window.receive(message)


def test_an_old_ack_changes_nothing() -> None:
    window = welcomed()
    send_all(window)
    window.receive(wire.Ack(3))
    window.receive(wire.Ack(1))
    assert (window.acked, window.settled) == (3, 3)


def test_a_rejected_line_is_not_sent_again_even_when_the_daemon_forgot_it() -> None:
    window = welcomed()
    send_all(window)
    window.receive(wire.Reject(2, None, "buffer_full", "no"))
    window.disconnect()
    connect(window, 0)
    assert send_all(window) == b"{1}\n{3}\n"
    assert [reject.line for reject in window.receive(wire.Reject(2, None, "buffer_full", "no"))] == [3]
    window.receive(wire.Ack(2))
    assert window.settled == 3


def test_a_fragment_that_the_daemon_counted_is_not_taken_for_its_line() -> None:
    window = welcomed()
    send(window, len(b"{1}\n{2"))
    assert bytes(window.to_send()) == b"}\n{3}\n"
    window.disconnect()
    assert connect(window, 2) == []
    assert window.receive(wire.Reject(2, None, "invalid_json", "torn")) == []
    window.settle()
    assert (window.incidents, window.settled) == (0, 1)
    assert send_all(window) == b"{2}\n{3}\n"
    assert [reject.line for reject in window.receive(wire.Reject(3, None, "invalid_event", "no"))] == [2]
    window.receive(wire.Ack(4))
    assert window.settled == 3


def test_a_line_that_lacks_only_its_newline_counts_as_sent() -> None:
    window = welcomed()
    send(window, len(b"{1}\n{2}"))
    window.disconnect()
    connect(window, 2)
    assert (window.incidents, send_all(window)) == (0, b"{3}\n")

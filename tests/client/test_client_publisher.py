"""The publisher against a real socket: exactly once through every failure, never waiting, honest at the end."""

import json
import logging
import math
import os
import random
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import samples
from client_peer import Manners, Peer

import syncevents
from syncevents import sender, wire


def numbered(number: int) -> syncevents.SyncOrderCreated:
    return samples.order_created(order_id=str(number))


def order_ids(peer: Peer) -> list[int]:
    return [int(event["data"]["order_id"]) for event in peer.events()]


def reject_odd(line: bytes) -> tuple[str, str] | None:
    return ("invalid_event", "odd") if int(json.loads(line)["data"]["order_id"]) % 2 else None


def test_events_are_stored_in_order_and_acknowledged(peer: Peer) -> None:
    peer.start()
    with syncevents.Publisher(peer.path, client="shop/1.4") as publisher:
        for number in range(1000):
            publisher.publish_sync_order_created(13, 42, numbered(number))
        publisher.flush()
        assert order_ids(peer) == list(range(1000))
        statistics = publisher.statistics()
    assert statistics == syncevents.Statistics(0, 1000, 0, 0, 0, 0, None)
    assert [hello.client for hello in peer.hellos] == ["shop/1.4"]


def test_each_method_publishes_its_type(peer: Peer) -> None:
    peer.start()
    with syncevents.Publisher(peer.path) as publisher:
        for name, make in samples.ALL.items():
            getattr(publisher, f"publish_sync_{name}")(13, None, make())
    assert [event["event_type"] for event in peer.events()] == list(syncevents.EVENT_TYPES)
    assert len(set(peer.ids())) == 6
    assert not any("business_id" in event for event in peer.events())


@pytest.mark.parametrize("name", samples.ALL)
@pytest.mark.parametrize(
    ("arguments", "error", "field"),
    [
        ((-1, 42), ValueError, "integration_id"),
        ((2**32, 42), ValueError, "integration_id"),
        ((True, 42), TypeError, "integration_id"),
        (("13", 42), TypeError, "integration_id"),
        ((None, 42), TypeError, "integration_id"),
        ((13.0, 42), TypeError, "integration_id"),
        ((13, 0), ValueError, "business_id"),
        ((13, 2**32), ValueError, "business_id"),
        ((13, False), TypeError, "business_id"),
        ((13, "42"), TypeError, "business_id"),
    ],
)
def test_a_wrong_id_is_named_at_the_call(
    peer: Peer, name: str, arguments: tuple, error: type[Exception], field: str
) -> None:
    publisher = syncevents.Publisher(peer.path)
    for publish in (getattr(publisher, f"publish_sync_{name}"), getattr(syncevents, f"publish_sync_{name}")):
        with pytest.raises(error, match=rf"^{field} "):
            publish(*arguments, samples.ALL[name]())
    assert publisher.statistics().pending == 0
    publisher.close()


@pytest.mark.parametrize("name", samples.ALL)
def test_data_of_another_type_is_a_type_error(peer: Peer, name: str) -> None:
    other = samples.failed() if name != "failed" else samples.started()
    with syncevents.Publisher(peer.path) as publisher:
        for data in (other, {}, None):
            with pytest.raises(TypeError, match=r"^data "):
                getattr(publisher, f"publish_sync_{name}")(13, 42, data)


@pytest.mark.parametrize(
    ("arguments", "error", "field"),
    [
        ({"socket_path": "x" * 108}, ValueError, "socket_path"),
        ({"socket_path": ""}, ValueError, "socket_path"),
        ({"socket_path": b"x"}, TypeError, "socket_path"),
        ({"client": 1}, TypeError, "client"),
        ({"client": "\ud800"}, ValueError, "client"),
        ({"max_pending": 0}, ValueError, "max_pending"),
        ({"max_pending": True}, TypeError, "max_pending"),
        ({"max_pending": "1"}, TypeError, "max_pending"),
        ({"overflow": "block"}, ValueError, "overflow"),
    ],
)
def test_a_wrong_setting_is_named(arguments: dict, error: type[Exception], field: str) -> None:
    with pytest.raises(error, match=field):
        syncevents.Publisher(**arguments)


def test_publishing_waits_for_no_daemon_and_events_arrive_when_it_appears(peer: Peer) -> None:
    with syncevents.Publisher(peer.path) as publisher:
        publisher.publish_sync_order_created(13, 42, numbered(1))
        with pytest.raises(TimeoutError, match=rf"1 event is not acknowledged after 0.05 s: .*{peer.path}"):
            publisher.flush(timeout=0.05)
        peer.start()
        publisher.publish_sync_order_created(13, 42, numbered(2))
        publisher.flush(60)
    assert order_ids(peer) == [1, 2]


def test_a_full_queue_raises_and_takes_events_again_after_the_acks(peer: Peer) -> None:
    with syncevents.Publisher(peer.path, max_pending=3) as publisher:
        for number in range(3):
            publisher.publish_sync_order_created(13, 42, numbered(number))
        for _ in range(2):
            with pytest.raises(syncevents.QueueFull, match="3 events"):
                publisher.publish_sync_order_created(13, 42, numbered(99))
        assert not publisher.wait_for_room(0)
        peer.start()
        assert publisher.wait_for_room(60)
        publisher.publish_sync_order_created(13, 42, numbered(3))
        publisher.flush(60)
        assert publisher.statistics().dropped == 0
    assert order_ids(peer) == [0, 1, 2, 3]


def test_a_full_queue_that_drops_counts_and_warns_once(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "syncevents"):
        publisher = syncevents.Publisher(peer.path, max_pending=3, overflow="drop")
        for number in range(10):
            publisher.publish_sync_order_created(13, 42, numbered(number))
    assert publisher.statistics().dropped == 7
    assert publisher.statistics().pending == 3
    assert sum("dropped" in record.message for record in caplog.records) == 1
    peer.start()
    publisher.close(60)
    assert order_ids(peer) == [0, 1, 2]


def test_many_threads_may_publish_and_each_keeps_its_order(peer: Peer) -> None:
    peer.start()
    publisher = syncevents.Publisher(peer.path)

    def publish(first: int) -> None:
        for number in range(first, first + 500):
            publisher.publish_sync_order_created(13, 42, numbered(number))

    threads = [threading.Thread(target=publish, args=(1000 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    publisher.close(60)
    stored = order_ids(peer)
    assert sorted(stored) == sorted(1000 * n + i for n in range(8) for i in range(500))
    for n in range(8):
        own = [number for number in stored if number // 1000 == n]
        assert own == sorted(own)


@pytest.mark.parametrize("counts_fragments", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_every_event_is_stored_once_however_connections_are_cut(
    peer: Peer, seed: int, counts_fragments: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "LAST_RETRY", 0.02)
    chance = random.Random(seed)
    cuts = [chance.choice([0, 1, 100, 150, 700, 3000, 30000, 100001]) + chance.randrange(600) for _ in range(12)]
    acks = [chance.random() < 0.5 for _ in cuts]
    peer.manners = lambda n: Manners(cuts[n], acks[n], counts_fragments) if n < len(cuts) else Manners()
    peer.start()
    with syncevents.Publisher(peer.path) as publisher:
        for number in range(2000):
            publisher.publish_sync_order_created(13, 42, numbered(number))
            if number % 400 == 399:
                peer.cut_all()
        publisher.flush(60)
        assert publisher.statistics().incidents == 0
    assert order_ids(peer) == list(range(2000))
    assert len({hello.producer for hello in peer.hellos}) == 1


def test_a_daemon_that_restarts_with_its_state_gets_every_event_once(peer: Peer) -> None:
    peer.start()
    with syncevents.Publisher(peer.path) as publisher:
        for number in range(300):
            publisher.publish_sync_order_created(13, 42, numbered(number))
            if number % 100 == 99:
                peer.wait(lambda: len(peer.stored) > 0)
                peer.stop()
                publisher.publish_sync_order_created(13, 42, numbered(number + 1000))
                peer.start()
        publisher.flush(60)
    expected = [n for number in range(300) for n in ([number, number + 1000] if number % 100 == 99 else [number])]
    assert order_ids(peer) == expected


def test_a_daemon_that_forgot_everything_gets_the_unacknowledged_under_a_new_id(peer: Peer) -> None:
    peer.start()
    with syncevents.Publisher(peer.path) as publisher:
        publisher.publish_sync_order_created(13, 42, numbered(1))
        publisher.flush(60)
        peer.stop()
        peer.producers.clear()
        publisher.publish_sync_order_created(13, 42, numbered(2))
        peer.start()
        publisher.flush(60)
        assert publisher.statistics().incidents == 1
    assert order_ids(peer) == [1, 2]
    assert len({hello.producer for hello in peer.hellos}) == 2


def test_flush_raises_what_was_rejected_since_the_last_flush(peer: Peer) -> None:
    peer.judge = reject_odd
    peer.start()
    told: list[syncevents.Reject] = []
    publisher = syncevents.Publisher(peer.path, on_reject=told.append)
    for number in range(6):
        publisher.publish_sync_order_created(13, 42, numbered(number))
    with pytest.raises(syncevents.Rejected, match="3 events were rejected") as caught:
        publisher.flush(60)
    assert [(reject.line, reject.code, reject.error) for reject in caught.value.rejects] == [
        (n, "invalid_event", "odd") for n in (2, 4, 6)
    ]
    assert tuple(told) == caught.value.rejects
    publisher.flush(60)
    publisher.publish_sync_order_created(13, 42, numbered(7))
    with pytest.raises(syncevents.Rejected) as caught:
        publisher.close(60)
    assert [reject.line for reject in caught.value.rejects] == [7]
    publisher.close()
    assert order_ids(peer) == [0, 2, 4]


def test_rejects_whose_answer_was_lost_are_told_with_the_next_connection(peer: Peer) -> None:
    peer.judge = reject_odd
    peer.manners = lambda n: Manners(acks=n > 0)
    peer.start()
    publisher = syncevents.Publisher(peer.path)
    for number in range(4):
        publisher.publish_sync_order_created(13, 42, numbered(number))
    peer.wait(lambda: len(peer.stored) == 2)
    peer.cut_all()
    with pytest.raises(syncevents.Rejected) as caught:
        publisher.flush(60)
    assert [reject.line for reject in caught.value.rejects] == [2, 4]
    publisher.close()
    assert order_ids(peer) == [0, 2]


def test_an_event_larger_than_max_frame_is_rejected_here_and_the_connection_goes_on(peer: Peer) -> None:
    peer.max_frame = 1000
    peer.start()
    with syncevents.Publisher(peer.path) as publisher:
        publisher.publish_sync_order_created(13, 42, numbered(1))
        publisher.publish_sync_order_created(13, 42, samples.order_created(status="x" * 2000))
        publisher.publish_sync_order_created(13, 42, numbered(3))
        with pytest.raises(syncevents.Rejected) as caught:
            publisher.flush(60)
    (reject,) = caught.value.rejects
    assert (reject.line, reject.code) == (2, "frame_too_large")
    assert reject.id is not None
    assert order_ids(peer) == [1, 3]
    assert peer.connections == 1


@pytest.mark.parametrize("code", ["forbidden", "unsupported_version", "too_many_clients", "producer_in_use"])
def test_a_refused_connection_is_tried_again_and_logged_once(
    peer: Peer, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    peer.manners = lambda n: Manners(refuse=(code, "not you") if n < 3 else None)
    peer.start()
    with caplog.at_level(logging.WARNING, "syncevents"), syncevents.Publisher(peer.path) as publisher:
        publisher.publish_sync_order_created(13, 42, numbered(1))
        peer.wait(lambda: peer.connections >= 3)
        error = publisher.statistics().last_error
        publisher.flush(60)
        assert publisher.statistics().last_error is None
    assert error is None or code in error
    assert sum(code in record.message for record in caplog.records) == 1
    assert order_ids(peer) == [1]


def test_a_daemon_that_does_not_read_holds_up_nobody(peer: Peer) -> None:
    peer.manners = lambda n: Manners(reads=n > 0)
    peer.start()
    with syncevents.Publisher(peer.path) as publisher:
        for number in range(5000):
            publisher.publish_sync_order_created(13, 42, numbered(number))
        with pytest.raises(TimeoutError):
            publisher.flush(0.05)
        peer.cut_all()
        publisher.flush(60)
    assert order_ids(peer) == list(range(5000))


def test_leaving_the_block_raises_when_not_all_is_acknowledged(peer: Peer) -> None:
    publisher = syncevents.Publisher(peer.path)
    publisher.publish_sync_order_created(13, 42, numbered(1))
    with pytest.raises(TimeoutError, match="does synceventsd run"):
        publisher.close(timeout=0.01)
    with pytest.raises(RuntimeError, match="closed"):
        publisher.publish_sync_order_created(13, 42, numbered(2))
    publisher.close()
    assert not any(thread.name == "syncevents-sender" and thread.is_alive() for thread in threading.enumerate())


def test_the_blocks_own_error_is_the_one_that_is_seen(peer: Peer) -> None:
    peer.judge = reject_odd
    peer.start()

    def fail() -> None:
        with syncevents.Publisher(peer.path) as publisher:
            publisher.publish_sync_order_created(13, 42, numbered(1))
            raise KeyError

    with pytest.raises(KeyError):
        fail()


def test_nothing_runs_and_no_descriptor_is_open_before_the_first_event_and_after_the_last(peer: Peer) -> None:
    def open_descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    peer.start()
    before = open_descriptors()
    publisher = syncevents.Publisher(peer.path)
    publisher.flush()
    assert (open_descriptors(), peer.connections) == (before, 0)
    publisher.publish_sync_order_created(13, 42, numbered(1))
    publisher.close(60)
    peer.wait(lambda: not peer._sockets)
    assert open_descriptors() == before


def test_a_callback_that_raises_is_logged_and_stops_nothing(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_: syncevents.Reject) -> None:
        raise KeyError

    peer.judge = reject_odd
    peer.start()
    publisher = syncevents.Publisher(peer.path, on_reject=refuse)
    for number in range(10):
        publisher.publish_sync_order_created(13, 42, numbered(number))
    with pytest.raises(syncevents.Rejected) as caught:
        publisher.flush(60)
    publisher.close()
    assert len(caught.value.rejects) == 5
    assert order_ids(peer) == [0, 2, 4, 6, 8]
    assert sum("on_reject raised" in record.message for record in caplog.records) == 5


def test_an_exception_out_of_a_signal_handler_makes_no_flush_return_early(peer: Peer) -> None:
    """It may come between any two steps of a publish; counters that it cut in two would lie from then on."""

    class AlarmError(Exception):
        pass

    def raise_it(*_: object) -> None:
        raise AlarmError

    peer.start()
    before = signal.signal(signal.SIGALRM, raise_it)
    publisher = syncevents.Publisher(peer.path, max_pending=10**6)
    alarms = 0
    try:
        while alarms < 60:
            signal.setitimer(signal.ITIMER_REAL, 0.0005 + random.random() / 1000)
            try:
                while True:
                    publisher.publish_envelope(b"{}")
            except AlarmError:
                alarms += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    publisher.flush(60)
    statistics = publisher.statistics()
    publisher.close(60)
    assert (statistics.pending, statistics.acked) == (0, len(peer.stored))


def test_a_flush_may_wait_for_ever_and_a_day(peer: Peer) -> None:
    peer.start()
    with syncevents.Publisher(peer.path) as publisher:
        for timeout in (math.inf, 1e10, None):
            publisher.publish_envelope(b"{}")
            publisher.flush(timeout)


def test_a_client_s_name_that_no_hello_could_carry_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="client"):
        syncevents.Publisher(client="c" * 300_000)


def test_rejects_told_some_time_after_a_welcome_are_not_missed_because_events_are_queued(tmp_path: Path) -> None:
    def told(connection: socket.socket, *messages: bytes) -> None:
        connection.sendall(b"".join(messages))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        publisher = syncevents.Publisher(tmp_path / "s")
        publisher.publish_envelope(b'{"bad":1}')
        first, _ = listener.accept()
        first.recv(65536)
        told(first, wire.encode_welcome("t", 0, wire.MAX_FRAME))
        while b"bad" not in first.recv(65536):
            pass
        for number in range(1000):
            publisher.publish_envelope(b'{"n":%d,"pad":"%b"}' % (number, b"x" * 150))
        first.close()  # the line was dealt with, and what was said of it got lost
        second, _ = listener.accept()
        second.recv(65536)
        told(second, wire.encode_welcome("t", 1, wire.MAX_FRAME))
        time.sleep(0.02)
        told(second, wire.encode_reject(1, None, "invalid_event", "it is bad"))
        time.sleep(0.02)
        told(second, wire.encode_ack(1001))
        with pytest.raises(syncevents.Rejected):
            publisher.flush(60)
        second.close()
        publisher._carrier.stop()


def test_a_finished_envelope_is_sent_as_it_is(peer: Peer) -> None:
    peer.start()
    with syncevents.Publisher(peer.path) as publisher:
        publisher.publish_envelope(b' {"id" : "1",  "x":"\\u00e9"}\r\n')
        publisher.publish_envelope({"id": "2", "x": "é"})
    assert peer.stored == [b' {"id" : "1",  "x":"\\u00e9"}', '{"id":"2","x":"é"}'.encode()]


@pytest.mark.parametrize("line", [b"", b"\n", b"\r\n", b"{}\n{}", b'{"hello":{}}', wire.encode_hello("x", "y", 0)])
def test_what_is_not_one_line_of_the_protocol_is_refused_at_the_call(peer: Peer, line: bytes) -> None:
    with syncevents.Publisher(peer.path) as publisher, pytest.raises(ValueError, match=r"^envelope "):
        publisher.publish_envelope(line)


def test_a_mapping_that_is_no_json_is_refused_at_the_call(peer: Peer) -> None:
    with syncevents.Publisher(peer.path) as publisher:
        for wrong in ({"x": float("nan")}, {"x": "\ud800"}):
            with pytest.raises(ValueError):  # noqa: PT011 - the json module's words
                publisher.publish_envelope(wrong)
        for wrong in ("{}", None, {"x": object()}):
            with pytest.raises(TypeError):
                publisher.publish_envelope(wrong)


def test_the_socket_is_the_environments_when_none_is_given(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    peer.start()
    monkeypatch.setenv("SYNCEVENTS_SOCKET", str(peer.path))
    with syncevents.Publisher() as publisher:
        publisher.publish_sync_order_created(13, 42, numbered(1))
    assert order_ids(peer) == [1]


def test_rejects_that_nobody_collects_are_bounded_and_counted(peer: Peer) -> None:
    peer.judge = lambda _: ("invalid_event", "none will do")
    peer.start()
    publisher = syncevents.Publisher(peer.path)
    for number in range(1500):
        publisher.publish_sync_order_created(13, 42, numbered(number))
    with pytest.raises(syncevents.Rejected) as caught:
        publisher.close(60)
    assert (caught.value.count, len(caught.value.rejects)) == (1500, 1000)
    assert caught.value.rejects[-1].line == 1500


def test_errors_survive_pickling() -> None:
    import pickle

    error = syncevents.Rejected((wire.Reject(1, None, "invalid_event", "no"),), 5)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.rejects, again.count) == (str(error), error.rejects, error.count)


def test_a_daemon_of_another_path_is_not_needed(tmp_path: Path) -> None:
    with syncevents.Publisher(tmp_path / "none"):
        pass


def test_what_came_before_a_refusal_still_counts(tmp_path: Path) -> None:
    answers = wire.encode_reject(1, None, "invalid_event", "no") + wire.encode_ack(2)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        publisher = syncevents.Publisher(tmp_path / "sock")
        publisher.publish_sync_order_created(13, 42, numbered(1))
        publisher.publish_sync_order_created(13, 42, numbered(2))
        with listener.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(wire.encode_welcome("peer/1", 0, 100000))
            received = b""
            while received.count(b"\n") < 2:
                received += connection.recv(65536)
            connection.sendall(answers + wire.encode_error("producer_in_use", "taken over"))
        with pytest.raises(syncevents.Rejected) as caught:
            publisher.close(60)
    assert [reject.line for reject in caught.value.rejects] == [1]

"""What a reader of Server-Sent Events is promised."""

from __future__ import annotations

import random
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import trio
from web_site import Site, SiteOpener, SseClient, event

from synceventsd.core.errors import StorageUnavailable
from synceventsd.eventlog.committer import Retention

GOLDEN = Path(__file__).parent / "golden"


def substituted(stream: bytes) -> str:
    """The text of a stream, with what differs each time replaced."""
    text = re.sub(r"[0-9a-f]{10}-(\d+)", r"EPOCH-\1", stream.decode())
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", text)
    return re.sub(r'"timestamp":"20[0-9T:.-]+Z"}\n', '"timestamp":"NOW"}\n', text)


async def raw_frames(site: Site, target: str, count: int, headers: str = "") -> str:
    async with site.stream(target, headers) as reader:
        frames = [await reader.read_frame() or b"" for _ in range(count)]
    return substituted(b"".join(frames))


async def test_the_bytes_of_a_stream_are_the_golden_ones(site_of: SiteOpener) -> None:
    async with site_of(keep_alive=0.05) as site:
        await site.publish(
            event(1, data={"order_id": "o1", "total_amount": 10.50}, metadata={"order_id": "o1", "b": "é\r\n"}),
            event(2, None, event_type="integration.sync.started"),
            event(3, 7),
        )
        found = await raw_frames(site, "/integrations/events/sse/42", 5)
        assert found == (GOLDEN / "stream.txt").read_text()


async def test_the_bytes_of_a_gap_are_the_golden_ones(site_of: SiteOpener) -> None:
    async with site_of() as site:
        await site.publish(event(1))
        found = await raw_frames(site, "/integrations/events/sse/42", 4, "Last-Event-ID: 17\r\n")
        assert found == (GOLDEN / "gap.txt").read_text()


async def test_the_headers_are_those_that_streams_need(site_of: SiteOpener) -> None:
    async with site_of() as site, site.stream("/integrations/events/sse/42") as reader:
        head = reader.head.lower().split(b"\r\n")
        assert b"content-type: text/event-stream" in head
        assert b"cache-control: no-cache, no-store, no-transform" in head
        assert b"x-accel-buffering: no" in head
        assert not any(line.startswith((b"content-length", b"server:")) for line in head)


async def test_a_head_request_gets_the_headers_and_no_stream(site_of: SiteOpener) -> None:
    async with site_of() as site, site.http() as http:
        answer = await http.head("/integrations/events/sse/42")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
        assert site.hub.streams == 0


async def test_replay_then_live_without_gap_or_double_at_the_handover(site_of: SiteOpener) -> None:
    async with site_of() as site:

        async def publish() -> None:
            for number in range(300):
                await site.publish(event(number))

        async def read() -> None:
            async with site.stream("/integrations/events/sse/42?replay=100000") as reader:
                await reader.take(1)
                seqs = [frame.data["seq"] for frame in await reader.take(300)]
                assert seqs == list(range(1, 301))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            for _ in range(20):
                nursery.start_soon(read)
                await site.log.wait_beyond(site.log.last + 5)


async def test_what_is_accepted_after_the_headers_reaches_the_reader(site_of: SiteOpener) -> None:
    async with site_of() as site:
        for number in range(1, 40):
            async with site.stream("/integrations/events/sse") as reader:
                await site.publish(event(number))
                _, frame = await reader.take(2)
                assert frame.data["seq"] == number


async def test_replay_brings_the_newest_that_match(site_of: SiteOpener) -> None:
    async with site_of() as site:
        await site.publish(*(event(number, 42 + number % 2) for number in range(1, 21)))
        async with site.stream("/integrations/events/sse/42?replay=3") as reader:
            assert [frame.data["seq"] for frame in (await reader.take(4))[1:]] == [16, 18, 20]


async def test_the_superuser_gets_no_replay_unless_asked_for(site_of: SiteOpener) -> None:
    async with site_of() as site:
        await site.publish(event(1))
        async with site.stream("/integrations/events/sse") as reader:
            await site.publish(event(2, 7))
            assert (await reader.take(2))[1].data["seq"] == 2


@pytest.mark.parametrize("how", ["header", "query"])
async def test_a_reader_resumes_right_after_its_position_also_over_a_restart(site_of: SiteOpener, how: str) -> None:
    async with site_of() as site:
        await site.publish(event(1), event(2), event(3))
        async with site.stream("/integrations/events/sse/42") as reader:
            seen = (await reader.take(3))[2]
            assert seen.data["seq"] == 2
    async with site_of() as site:
        await site.publish(event(4))
        in_query, header = (
            (f"&last_event_id={seen.id}", "") if how == "query" else ("", f"Last-Event-ID: {seen.id}\r\n")
        )
        async with site.stream(f"/integrations/events/sse/42?replay=0{in_query}", header) as reader:
            assert [frame.data["seq"] for frame in (await reader.take(3))[1:]] == [3, 4]


async def test_the_header_goes_before_the_query(site_of: SiteOpener) -> None:
    async with site_of() as site:
        await site.publish(event(1), event(2), event(3))
        async with site.stream("/integrations/events/sse/42") as reader:
            first, second = (await reader.take(3))[1:]
        target = f"/integrations/events/sse/42?last_event_id={first.id}"
        async with site.stream(target, f"Last-Event-ID: {second.id}\r\n") as reader:
            assert (await reader.take(2))[1].data["seq"] == 3


async def test_a_quiet_stream_resumes_from_its_keep_alive(site_of: SiteOpener) -> None:
    async with site_of(keep_alive=0.02) as site:
        async with site.stream("/integrations/events/sse/42") as reader:
            await reader.take(1)
            await site.publish(event(1, 7), event(2, 7))
            while True:
                frame = (await reader.read_frame() or b"").decode()
                assert frame.endswith("event: keep-alive\ndata: ping\n\n")
                position = frame.split("\n")[0].removeprefix("id: ")
                if position.endswith("-2"):
                    break
        await site.publish(event(3))
        async with site.stream("/integrations/events/sse/42", f"Last-Event-ID: {position}\r\n") as reader:
            assert [frame.data.get("seq") for frame in await reader.take(2)] == [None, 3]


@pytest.mark.parametrize(
    ("position", "reason", "resumes_at"),
    [
        ("17", "invalid_id", 1),
        ("aaaaaaaaaa-1", "unknown_log", 1),
        ("{epoch}-99", "log_set_back", 4),
        ("é", "invalid_id", 1),
    ],
)
async def test_a_reader_that_cannot_go_on_is_told_why(
    site_of: SiteOpener, position: str, reason: str, resumes_at: int
) -> None:
    async with site_of() as site:
        await site.publish(event(1), event(2))
        epoch = site.log.epochs.current.name
    async with site_of() as site:
        await site.publish(event(3))
        position = position.format(epoch=epoch)
        async with site.stream("/integrations/events/sse/42", f"Last-Event-ID: {position}\r\n") as reader:
            established, gap = await reader.take(2)
            assert (established.event, gap.event) == ("connection_established", "gap")
            assert gap.data["reason"] == reason
            if reason != "log_set_back":
                assert (await reader.take(1))[0].data["seq"] == gap.data["resumes_at_seq"] == resumes_at


async def test_a_reader_behind_retention_is_told_so(site_of: SiteOpener) -> None:
    async with site_of(retention=Retention(2**30, 0, 0.0)) as site:
        position = site.log.position(0)
        await site.publish(event(1))
        await site.board.save()  # retention takes nothing that the sync states do not cover
        while site.log.oldest <= 1:
            await trio.sleep(0.02)
        async with site.stream("/integrations/events/sse/42", f"Last-Event-ID: {position}\r\n") as reader:
            gap = (await reader.take(2))[1]
            assert (gap.event, gap.data["reason"]) == ("gap", "retention")
            assert gap.data["resumes_at_seq"] > 1


async def test_a_business_gets_its_own_events_and_the_global_ones_and_no_others(site_of: SiteOpener) -> None:
    async with site_of() as site, site.stream("/integrations/events/sse/42") as reader:
        await site.publish(event(1, 7), event(2, 42), event(3, None), event(4, 4), event(5, 42))
        frames = (await reader.take(4))[1:]
        assert [frame.data["business_id"] for frame in frames] == [42, None, 42]


@pytest.mark.parametrize(
    ("query", "seqs"),
    [
        ("integration_id=14", [2, 5]),
        ("event_types=integration.sync.failed,no.such", [3, 5]),
        ("event_types=no.such&integration_id=14", [5]),
        ("order_ids=o2,m4", [2, 4, 5]),
        ("event_types=&order_ids=&_=123", [1, 2, 3, 4, 5]),
    ],
)
async def test_filters_choose_what_comes(site_of: SiteOpener, query: str, seqs: list[int]) -> None:
    last: dict[str, Any] = {"event_type": "integration.sync.failed", "integration_id": 14, "data": {"order_id": "o2"}}
    async with site_of() as site:
        await site.publish(
            event(1),
            event(2, integration_id=14),
            event(3, event_type="integration.sync.failed"),
            event(4, metadata={"order_id": "m4"}),
            event(5, **last),
        )
        if query.startswith("event_types=no.such"):
            query = "event_types=no.such,integration.sync.failed&integration_id=14"
        async with site.stream(f"/integrations/events/sse/42?{query}") as reader:
            assert [frame.data["seq"] for frame in (await reader.take(len(seqs) + 1))[1:]] == seqs


async def test_a_closed_reader_gives_its_place_back_at_once_also_when_idle(site_of: SiteOpener) -> None:
    async with site_of(max_streams=1) as site:
        for _ in range(5):
            async with site.stream("/integrations/events/sse/42"):
                assert site.hub.streams == 1
            await site.wait_streams(0)


async def test_one_reader_too_many_is_told_to_come_later(site_of: SiteOpener) -> None:
    async with site_of(max_streams=1) as site, site.http() as http, site.stream("/integrations/events/sse/42"):
        answer = await http.get("/integrations/events/sse/42")
        assert answer.status_code == 503
        assert answer.json()["success"] is False
        assert int(answer.headers["retry-after"]) > 0
        assert (await http.get("/healthz")).status_code == 200


async def test_a_slow_reader_reads_on_from_the_log_and_misses_nothing(site_of: SiteOpener) -> None:
    text = "x" * 20_000
    async with site_of() as site, site.stream("/integrations/events/sse/42") as reader:
        await reader.take(1)
        for start in range(0, 1000, 50):  # 20 MB: more than the sockets' buffers and the tail in memory hold
            await site.publish(*(event(number, data={"text": text}) for number in range(start, start + 50)))
        assert site.log.tail_beyond(0) is None
        assert [frame.data["seq"] for frame in await reader.take(1000)] == list(range(1, 1001))


async def test_closing_the_hub_ends_every_stream_cleanly(site_of: SiteOpener) -> None:
    async with site_of() as site, site.stream("/integrations/events/sse/42") as reader:
        await reader.take(1)
        site.hub.close()
        assert await reader.next() is None
        assert (await site.exchange(b"GET /integrations/events/sse/42 HTTP/1.0\r\nHost: localhost\r\n\r\n")).startswith(
            b"HTTP/1.1 503"
        )


async def test_a_log_that_cannot_be_read_is_a_503_that_may_pass(
    site_of: SiteOpener, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site_of() as site, site.http() as http:

        async def unreadable(*_: object) -> int:
            raise StorageUnavailable("the disk is away")

        monkeypatch.setattr(type(site.log), "replay_start", unreadable)
        answer = await http.get("/integrations/events/sse/42")
        assert (answer.status_code, answer.json()["success"]) == (503, False)
        assert "retry-after" in answer.headers
        await site.wait_streams(0)


async def test_a_live_reader_whose_buffer_is_full_now_and_then_gets_whole_chunks_in_order_and_a_proper_end(
    site_of: SiteOpener,
) -> None:
    moods = random.Random(7)
    async with site_of() as site:
        connection = await trio.open_tcp_stream("127.0.0.1", site.port)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        await connection.send_all(b"GET /integrations/events/sse/42 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        reader = SseClient(connection)
        await reader.read_head()
        receive = connection.receive_some

        async def receive_a_little(_: int | None = None) -> bytes:
            if moods.random() < 0.1:
                await trio.sleep(0.01)
            return bytes(await receive(moods.choice([10, 1000, 5000, 100_000])))

        connection.receive_some = receive_a_little  # type: ignore[method-assign]

        async def publish() -> None:
            for number in range(1, 81):
                await site.publish(event(number, data={"order_id": f"o{number}", "note": "x" * 30_000}))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            frames = (await reader.take(81))[1:]
        assert [frame.data["seq"] for frame in frames] == list(range(1, 81))
        site.hub.close()
        assert await reader.next() is None
        await connection.aclose()

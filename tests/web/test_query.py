"""Paths and queries: what is malformed is refused, whatever it is."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synceventsd.core.filters import Filter
from synceventsd.web.query import DEFAULT_REPLAY, MAX_REPLAY, U32_MAX, MalformedError, status_query, stream_query

NOT_A_NUMBER = [
    "abc",
    "-1",
    "+42",
    "042",
    "00",
    "4.2",
    "4e1",
    "0x2a",
    " 42",
    "42 ",
    "٣",
    "４２",
    "4_2",
    "",
    "1" * 5000,
    "nan",
]


@pytest.mark.parametrize("text", [*NOT_A_NUMBER, "0", str(U32_MAX + 1), "..", "%2e", "null", "*"])
def test_a_malformed_business_in_the_path_is_refused(text: str) -> None:
    with pytest.raises(MalformedError, match="business_id must be"):
        stream_query(b"", text, None)


@pytest.mark.parametrize("text", [*NOT_A_NUMBER, str(U32_MAX + 1)])
@pytest.mark.parametrize("name", ["integration_id", "business_id"])
def test_a_malformed_number_in_the_query_is_refused_and_named(name: str, text: str) -> None:
    with pytest.raises(MalformedError, match=name):
        stream_query(urlencode({name: text}).encode(), None, None)


@pytest.mark.parametrize("text", NOT_A_NUMBER)
def test_a_malformed_replay_is_refused(text: str) -> None:
    with pytest.raises(MalformedError, match="replay"):
        stream_query(urlencode({"replay": text}).encode(), "42", None)


@pytest.mark.parametrize("text", [*NOT_A_NUMBER, str(U32_MAX + 1)])
def test_a_malformed_integration_of_a_status_is_refused(text: str) -> None:
    with pytest.raises(MalformedError, match="integration_id"):
        status_query(b"", text)


def test_ids_at_the_ends_of_their_ranges_are_taken() -> None:
    assert status_query(b"", "0") == (0, None)
    assert status_query(b"business_id=1", str(U32_MAX)) == (U32_MAX, 1)
    assert stream_query(b"integration_id=0", str(U32_MAX), None).filter == Filter(U32_MAX, 0)


@pytest.mark.parametrize(
    "query", [b"business_id=7", b"business_id=42&business_id=42", b"replay=1&replay=1", b"business_id="]
)
def test_a_business_that_disagrees_or_a_parameter_given_twice_is_refused(query: bytes) -> None:
    with pytest.raises(MalformedError):
        stream_query(query, "42", None)


def test_a_business_beside_the_path_may_agree() -> None:
    assert stream_query(b"business_id=42", "42", None) == stream_query(b"", "42", None)
    assert stream_query(b"business_id=42", None, None) == stream_query(b"", "42", None)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        (b"order_ids=%ff", "order_ids"),
        (b"order_ids=%c3%28", "order_ids"),
        (b"\xe9=1", "the query"),
        (b"&".join([b"a=1"] * 200), "the query"),
    ],
)
def test_a_query_that_is_no_utf8_or_has_too_many_fields_is_refused(query: bytes, named: str) -> None:
    with pytest.raises(MalformedError, match=named):
        stream_query(query, "42", None)


@pytest.mark.parametrize(
    "query", [b"last_event_id=%ff", b"last_event_id=a&last_event_id=b", b"last_event_id=%00", b"%ff=1"]
)
def test_a_last_event_id_is_never_a_fault_and_the_header_goes_before_it(query: bytes) -> None:
    stream_query(query, "42", None)
    assert stream_query(query, "42", "from the header").last_event_id == "from the header"


def test_unknown_parameters_and_empty_lists_are_as_if_absent() -> None:
    query = b"event_types=&order_ids=&last_event_id=&_=1&_=2&token=x"
    assert stream_query(query, "42", None) == stream_query(b"", "42", None)


def test_lists_are_split_at_commas_and_an_empty_rest_matches_nothing() -> None:
    assert stream_query(b"event_types=a,%20b,,a", "42", None).filter.event_types == frozenset({"a", "b"})
    assert stream_query(b"event_types=,", "42", None).filter.event_types == frozenset()


def test_the_defaults_of_replay_are_the_contracts() -> None:
    assert stream_query(b"", "42", None).replay == DEFAULT_REPLAY == 2000
    assert stream_query(b"business_id=42", None, None).replay == DEFAULT_REPLAY
    assert stream_query(b"", None, None).replay == 0
    assert stream_query(b"replay=999999999999999999", "42", None).replay == MAX_REPLAY


def test_the_header_goes_before_the_query_unless_it_is_empty() -> None:
    assert stream_query(b"last_event_id=q", "42", "h").last_event_id == "h"
    assert stream_query(b"last_event_id=q", "42", "").last_event_id == "q"
    assert stream_query(b"", "42", None).last_event_id is None


@given(st.binary(max_size=200), st.text(max_size=20) | st.none(), st.text(max_size=20) | st.none())
def test_any_bytes_are_either_understood_or_refused(raw: bytes, path: str | None, header: str | None) -> None:
    try:
        found = stream_query(raw, path, header)
    except MalformedError:
        return
    assert path is None or str(found.filter.business_id) == path


_PARAMETERS = st.sampled_from(["business_id", "integration_id", "event_types", "order_ids", "replay", "x"])


@given(st.lists(st.tuples(_PARAMETERS, st.text(max_size=12) | st.integers().map(str)), max_size=6))
def test_whatever_the_query_says_the_business_is_the_paths(pairs: list[tuple[str, str]]) -> None:
    raw = "&".join(f"{name}={quote(value, errors='replace')}" for name, value in pairs).encode()
    try:
        found = stream_query(raw, "42", None)
    except MalformedError:
        return
    assert found.filter.business_id == 42
    numbers = [value for name, value in pairs if name == "integration_id"]
    assert [str(found.filter.integration_id)] == numbers or not numbers

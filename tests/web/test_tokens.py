"""Tokens: one algorithm, one key, an end, and exactly the businesses that it names."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synceventsd.web.tokens import EVERYBODY, BadTokenError, Reader, mint, verify

KEY = b"k" * 32
NOW = 1_800_000_000.0
GOOD = {"businesses": [42], "exp": NOW + 60}


def _part(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(header: object, claims: object, key: bytes = KEY) -> str:
    """A token with a signature by HMAC-SHA256, whatever its header says."""
    text = f"{_part(header)}.{_part(claims)}"
    return f"{text}.{_part(hmac.digest(key, text.encode(), hashlib.sha256))}"


def test_a_minted_token_opens_what_it_names_until_it_ends() -> None:
    reader = verify(mint(KEY, [42, 7], 60, NOW), KEY, NOW + 59.9)
    assert reader == Reader(frozenset({42, 7}), NOW + 60)
    assert (reader.may_read(42), reader.may_read(8), reader.may_read(None)) == (True, False, False)


def test_a_star_opens_everything() -> None:
    reader = verify(mint(KEY, None, 60, NOW), KEY, NOW)
    assert reader.may_read(None)
    assert reader.may_read(42)
    assert EVERYBODY.may_read(None)


def test_there_is_no_leeway() -> None:
    with pytest.raises(BadTokenError, match="expired"):
        verify(mint(KEY, [42], 60, NOW), KEY, NOW + 60)


def test_a_short_key_works_without_a_warning() -> None:
    assert verify(mint(b"short", [42], 60, NOW), b"short", NOW).may_read(42)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a",
        "a.b.c",
        "....",
        mint(b"x" * 32, [42], 60, NOW),
        mint(KEY, [42], 60, NOW)[:-2],
        mint(KEY, [42], 60, NOW) + "A",
        mint(KEY, [42], 60, NOW).rpartition(".")[0] + ".",
        jwt.encode(GOOD, "", algorithm="none"),
        signed({"alg": "none"}, GOOD),
        signed({"alg": "HS512"}, GOOD),
        signed({"alg": "RS256"}, GOOD),
        signed({"alg": ["HS256"]}, GOOD),
        signed({}, GOOD),
        signed([], GOOD),
        signed({"alg": "HS256", "crit": ["x"]}, GOOD),
        signed({"alg": "HS256"}, []),
        signed({"alg": "HS256"}, b"no json"),
        signed(b"[" * 9000, GOOD),
        signed({"alg": "HS256"}, b"[" * 9000),
        signed(b"\xff", GOOD),
        "é.é.é",
        "\u0660.\u0660.\u0660",
    ],
    ids=range(23),
)
def test_a_token_that_is_not_ours_opens_nothing(token: str) -> None:
    with pytest.raises(BadTokenError):
        verify(token, KEY, NOW)


@pytest.mark.parametrize(
    "claims",
    [
        {"businesses": [42]},
        GOOD | {"exp": None},
        GOOD | {"exp": "1900000000"},
        GOOD | {"exp": True},
        GOOD | {"exp": float("inf")},
        GOOD | {"exp": float("nan")},
        GOOD | {"exp": NOW},
        GOOD | {"exp": 10**400},
        {"exp": NOW + 60},
        GOOD | {"businesses": "42"},
        GOOD | {"businesses": 42},
        GOOD | {"businesses": ["42"]},
        GOOD | {"businesses": ["*"]},
        GOOD | {"businesses": [True]},
        GOOD | {"businesses": [42.0]},
        GOOD | {"businesses": [0]},
        GOOD | {"businesses": [2**32]},
        GOOD | {"businesses": {"42": 1}},
        GOOD | {"businesses": None},
        GOOD | {"aud": "another-service"},
    ],
    ids=str,
)
def test_claims_that_are_not_as_agreed_open_nothing(claims: dict[str, Any]) -> None:
    with pytest.raises(BadTokenError):
        verify(signed({"alg": "HS256", "typ": "JWT"}, claims), KEY, NOW)


def test_a_token_for_no_business_opens_none() -> None:
    reader = verify(signed({"alg": "HS256"}, GOOD | {"businesses": []}), KEY, NOW)
    assert not reader.may_read(42)
    assert not reader.may_read(None)


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: f"{_part(raw)}.{_part(raw)}.{_part(raw)}"))
def test_no_text_at_all_is_taken_for_a_token(text: str) -> None:
    with pytest.raises(BadTokenError):
        verify(text, KEY, NOW)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_a_signed_header_of_any_shape_is_refused_or_hs256(value: object) -> None:
    header = {"alg": value, "typ": value, "kid": value, "crit": value}
    with pytest.raises(BadTokenError):
        verify(signed(header, GOOD), KEY, NOW)


@pytest.mark.parametrize("more", [{"sub": 5}, {"jti": 5}, {"iat": "yesterday"}, {"iss": "shop"}])
def test_claims_that_are_nothing_to_us_do_not_matter(more: dict[str, Any]) -> None:
    assert verify(signed({"alg": "HS256"}, GOOD | more), KEY, NOW).may_read(42)

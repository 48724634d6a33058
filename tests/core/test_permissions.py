"""Who may publish for what: rules grant, and what none grants is forbidden."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.events import line

from synceventsd.core.envelope import decode_envelope
from synceventsd.core.permissions import Grant, permit_for

ME, MY_GROUPS = 1000, frozenset({1000, 50})
OTHERS = Grant(1001, None, None, None)


def mine(integrations: set[int] | None, businesses: set[int | None] | None, gid: int | None = None) -> Grant:
    return Grant(
        ME if gid is None else None,
        gid,
        None if integrations is None else frozenset(integrations),
        None if businesses is None else frozenset(businesses),
    )


def test_who_is_named_by_no_rule_may_publish_for_nothing() -> None:
    assert not permit_for([OTHERS], ME, MY_GROUPS).allows(13, 42)
    assert permit_for([OTHERS], 1001, frozenset()).allows(13, 42)


def test_integration_and_business_have_to_be_in_the_same_rule() -> None:
    permit = permit_for([mine({13}, {42}), mine({14}, {43})], ME, MY_GROUPS)
    assert permit.allows(13, 42)
    assert permit.allows(14, 43)
    assert not permit.allows(13, 43)
    assert not permit.allows(14, 42)


def test_events_of_no_business_want_a_grant_of_their_own() -> None:
    assert not permit_for([mine({13}, {42})], ME, MY_GROUPS).allows(13, None)
    assert permit_for([mine({13}, {42, None})], ME, MY_GROUPS).allows(13, None)
    assert permit_for([mine({13}, None)], ME, MY_GROUPS).allows(13, None)


def test_a_group_grants_to_its_members_only() -> None:
    rule = mine(None, {42}, gid=50)
    assert permit_for([rule], ME, MY_GROUPS).allows(13, 42)
    assert not permit_for([rule], ME, frozenset({1000})).allows(13, 42)
    # A user's number is no group's, and the other way round.
    assert not permit_for([mine(None, None, gid=ME)], ME, frozenset({50})).allows(13, 42)
    assert not permit_for([Grant(50, None, None, None)], ME, MY_GROUPS).allows(13, 42)


def test_the_fault_names_user_integration_business_and_setting() -> None:
    heads = [decode_envelope(line(1)), decode_envelope(line(2, business=43)), decode_envelope(line(3, business=None))]
    faults = permit_for([mine({13}, {42})], ME, MY_GROUPS).forbidden(heads)
    assert {index: (fault.code, fault.event_id) for index, fault in faults.items()} == {
        1: ("forbidden", "event-2"),
        2: ("forbidden", "event-3"),
    }
    assert faults[1].error == "user 1000 may not publish for integration 13 and business 43 (ingest.rules)"
    assert "events of no business" in faults[2].error


def test_an_id_as_long_as_a_frame_does_not_come_back() -> None:
    heads = [decode_envelope(line(1, id="x" * 1000))]
    assert permit_for([], ME, MY_GROUPS).forbidden(heads)[0].event_id is None


SOME = st.none() | st.frozensets(st.integers(0, 3), max_size=3)


@given(
    grants=st.lists(
        st.builds(
            Grant,
            st.none() | st.integers(0, 2),
            st.none() | st.integers(0, 2),
            SOME,
            st.none() | st.frozensets(st.none() | st.integers(1, 3), max_size=3),
        ),
        max_size=4,
    ),
    uid=st.integers(0, 2),
    gids=st.frozensets(st.integers(0, 2)),
    integration=st.integers(0, 3),
    business=st.none() | st.integers(1, 3),
)
def test_one_more_rule_never_takes_away(
    grants: list[Grant], uid: int, gids: frozenset[int], integration: int, business: int | None
) -> None:
    for most in range(len(grants)):
        if permit_for(grants[:most], uid, gids).allows(integration, business):
            assert permit_for(grants[: most + 1], uid, gids).allows(integration, business)

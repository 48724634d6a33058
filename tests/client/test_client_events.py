"""What events may hold, and what their envelopes look like."""

import json
import math
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum, StrEnum
from pathlib import Path

import pytest
import samples
from hypothesis import example, given
from hypothesis import strategies as st

import syncevents
from syncevents.envelope import EventIds, encode_event

GOLDEN = Path(__file__).parent / "golden"
ID = "5f3a1c9e-0000-4000-8000-000000000001"


@pytest.mark.parametrize("name", samples.ALL)
def test_the_envelope_is_byte_for_byte_the_golden_one(name: str) -> None:
    business_id = None if name == "failed" else 42
    line = encode_event(ID, 1714979289.25, 13, business_id, samples.ALL[name]())
    assert line.decode() == (GOLDEN / f"{name}.json").read_text().removesuffix("\n")


@pytest.mark.parametrize("name", samples.ALL)
def test_each_type_has_its_name(name: str) -> None:
    assert samples.ALL[name]().event_type == "integration.sync." + name.replace("_", ".")


def test_the_six_types_are_listed() -> None:
    assert [make().event_type for make in samples.ALL.values()] == list(syncevents.EVENT_TYPES)


def decode(data: object) -> dict:
    return json.loads(encode_event(ID, 0.0, 13, 42, data), parse_float=Decimal)


def test_unset_optional_fields_are_absent_from_data_and_metadata() -> None:
    event = decode(
        samples.order_rejected(error=None),
    )
    assert set(event["data"]) == {"order_number", "external_id", "platform", "reason", "rejected_at"}
    assert set(event["metadata"]) == {"order_number", "external_id", "platform", "reason"}
    event = decode(samples.order_created(customer_email=None, total_amount=None, currency=None))
    assert not {"customer_email", "total_amount", "currency"} & set(event["data"])


def test_params_that_ask_for_nothing_are_an_empty_object() -> None:
    event = syncevents.SyncStarted(integration_id=1, integration_type="shopify", started_at=samples.NOW)
    assert decode(event)["data"]["params"] == {}


texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts, texts, texts)
def test_every_text_comes_back_as_it_was(number: str, email: str, reason: str) -> None:
    created = decode(samples.order_created(order_number=number, customer_email=email))
    assert created["data"]["order_number"] == created["metadata"]["order_number"] == number
    assert created["data"]["customer_email"] == email
    rejected = decode(samples.order_rejected(reason=reason, error=email))
    assert (rejected["data"]["reason"], rejected["metadata"]["error"]) == (reason, email)


@given(texts)
def test_an_envelope_is_one_line(text: str) -> None:
    assert b"\n" not in encode_event(ID, 0.0, 13, 42, samples.order_created(status=text))


@given(st.decimals(allow_nan=False, allow_infinity=False))
@example(Decimal("1E+6"))
@example(Decimal("-0.00"))
@example(Decimal("0E-10"))
@example(Decimal("123456789012345678901234567890.10"))
def test_a_decimal_keeps_its_digits(amount: Decimal) -> None:
    try:
        event = samples.order_created(total_amount=amount)
    except ValueError:
        assert amount.adjusted() > 307
        return
    written = json.loads(encode_event(ID, 0.0, 13, 42, event), parse_float=str, parse_int=str)["data"]["total_amount"]
    assert Decimal(written).as_tuple() == amount.as_tuple()
    assert written == str(amount)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_comes_back_as_it_was(amount: float) -> None:
    event = json.loads(encode_event(ID, 0.0, 13, 42, samples.order_created(total_amount=amount)))
    assert event["data"]["total_amount"] == amount


@given(
    st.datetimes(
        timezones=st.one_of(
            st.just(UTC),
            st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59)).map(timezone),
            st.timezones(),
        )
    )
)
def test_a_time_is_rfc_3339_and_the_same_instant(time: datetime) -> None:
    try:
        event = samples.failed(failed_at=time)
    except ValueError:
        with pytest.raises(OverflowError):
            time.astimezone(UTC)
        return
    written = decode(event)["data"]["failed_at"]
    assert written[-6] in "+-"
    assert written[-3] == ":"
    assert datetime.fromisoformat(written).utcoffset() is not None
    assert datetime.fromisoformat(written) - time == timedelta(0)


def test_a_duration_is_written_in_nanoseconds_without_rounding() -> None:
    long = timedelta(days=90000, seconds=1, microseconds=1)
    assert decode(samples.completed(duration=long))["data"]["duration"] == 90000 * 86400 * 10**9 + 10**9 + 1000


def test_subclasses_of_the_plain_types_are_written_as_their_values() -> None:
    class Status(StrEnum):
        PAID = "paid"

    class Count(IntEnum):
        TWO = 2

    assert decode(samples.order_created(status=Status.PAID, total_amount=Count.TWO))["data"]["status"] == "paid"
    assert decode(samples.order_created(total_amount=Count.TWO))["data"]["total_amount"] == 2
    assert decode(samples.completed(total_orders=Count.TWO))["metadata"]["total_orders"] == 2


def test_event_ids_are_random_uuids() -> None:
    new = EventIds().new
    ids = [new() for _ in range(1000)]
    assert len(set(ids)) == 1000
    for made in ids:
        parsed = uuid.UUID(made)
        assert (parsed.version, parsed.variant, str(parsed)) == (4, uuid.RFC_4122, made)


WRONG = [
    (samples.order_created, {"order_id": 7}, TypeError, "order_id"),
    (samples.order_created, {"status": None}, TypeError, "status"),
    (samples.order_created, {"customer_email": 0}, TypeError, "customer_email"),
    (samples.order_created, {"currency": b"EUR"}, TypeError, "currency"),
    (samples.order_created, {"order_number": "\ud800"}, ValueError, "order_number"),
    (samples.order_created, {"currency": "a\udfff"}, ValueError, "currency"),
    (samples.order_created, {"total_amount": "12.50"}, TypeError, "total_amount"),
    (samples.order_created, {"total_amount": True}, TypeError, "total_amount"),
    (samples.order_created, {"total_amount": 1j}, TypeError, "total_amount"),
    (samples.order_created, {"total_amount": math.nan}, ValueError, "total_amount"),
    (samples.order_created, {"total_amount": -math.inf}, ValueError, "total_amount"),
    (samples.order_created, {"total_amount": Decimal("NaN")}, ValueError, "total_amount"),
    (samples.order_created, {"total_amount": Decimal("sNaN")}, ValueError, "total_amount"),
    (samples.order_created, {"total_amount": Decimal("Infinity")}, ValueError, "total_amount"),
    (samples.order_created, {"total_amount": Decimal("1E+400")}, ValueError, "total_amount"),
    (samples.order_created, {"total_amount": 10**5000}, ValueError, "total_amount"),
    (samples.order_created, {"created_at": datetime(2024, 1, 1)}, ValueError, "created_at"),
    (samples.order_created, {"synced_at": "2024-01-01T00:00:00Z"}, TypeError, "synced_at"),
    (samples.order_created, {"synced_at": date(2024, 1, 1)}, TypeError, "synced_at"),
    (samples.order_created, {"synced_at": None}, TypeError, "synced_at"),
    (samples.order_updated, {"updated_at": datetime(2024, 1, 1)}, ValueError, "updated_at"),
    (samples.order_updated, {"external_id": 98765}, TypeError, "external_id"),
    (samples.order_rejected, {"reason": None}, TypeError, "reason"),
    (samples.order_rejected, {"order_id": 1}, TypeError, "order_id"),
    (samples.order_rejected, {"error": ValueError("x")}, TypeError, "error"),
    (samples.order_rejected, {"rejected_at": 0}, TypeError, "rejected_at"),
    (samples.completed, {"total_orders": -1}, ValueError, "total_orders"),
    (samples.completed, {"created_orders": True}, TypeError, "created_orders"),
    (samples.completed, {"updated_orders": "2"}, TypeError, "updated_orders"),
    (samples.completed, {"rejected_orders": 1.0}, TypeError, "rejected_orders"),
    (samples.completed, {"rejected_orders": 10**5000}, ValueError, "rejected_orders"),
    (samples.completed, {"duration": 3}, TypeError, "duration"),
    (samples.completed, {"duration": timedelta(microseconds=-1)}, ValueError, "duration"),
    (samples.completed, {"duration": timedelta.max}, ValueError, "duration"),
    (samples.completed, {"integration_id": 2**32}, ValueError, "integration_id"),
    (samples.completed, {"completed_at": datetime(2024, 1, 1)}, ValueError, "completed_at"),
    (samples.started, {"integration_id": "13"}, TypeError, "integration_id"),
    (samples.started, {"integration_id": -1}, ValueError, "integration_id"),
    (samples.started, {"params": {}}, TypeError, "params"),
    (samples.started, {"params": None}, TypeError, "params"),
    (samples.failed, {"error": None}, TypeError, "error"),
    (samples.failed, {"integration_type": 3}, TypeError, "integration_type"),
    (syncevents.SyncParams, {"created_at_min": datetime(2024, 1, 1)}, ValueError, "created_at_min"),
    (syncevents.SyncParams, {"created_at_max": "2024"}, TypeError, "created_at_max"),
    (syncevents.SyncParams, {"financial_status": 1}, TypeError, "financial_status"),
]


@pytest.mark.parametrize(("make", "wrong", "error", "field"), WRONG)
def test_a_wrong_field_is_named_when_the_event_is_made(
    make: type, wrong: dict, error: type[Exception], field: str
) -> None:
    with pytest.raises(error, match=rf"\b{field}\b") as caught:
        make(**wrong)
    assert type(caught.value) is error


def test_an_event_cannot_be_changed_and_equals_its_like() -> None:
    event = samples.failed()
    with pytest.raises(AttributeError):
        event.error = "other"
    assert event == samples.failed()
    assert hash(event) == hash(samples.failed())

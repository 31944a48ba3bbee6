"""Porting and regulatory bundles: number events, in order per number."""

from typing import Any

import pytest

from router.errors import BadPayload, BadSignature
from router.events.model import Event
from router.events.types import NUMBERS_TOPIC, EventType, topic_of
from tests.support.twilio_requests import (
    ACCOUNT,
    SUBACCOUNT,
    SUBTOKEN,
    json_request,
    parsed,
    request,
)

ORDER = "KW" + "5e" * 16
NUMBER = "+14155550100"
BUNDLE = "BU" + "6f" * 16


def ported(**fields: Any) -> Event:
    about = {"port_in_request_sid": ORDER, "phone_number": NUMBER, "status": "completed"}
    return parsed(json_request("porting", about | fields))[0]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("completed", EventType.PORT_COMPLETED),
        ("Completed", EventType.PORT_COMPLETED),
        ("PortInPhoneNumberCompleted", EventType.PORT_COMPLETED),
        ("canceled", EventType.PORT_FAILED),
        ("PortInPhoneNumberCanceled", EventType.PORT_FAILED),
        ("expired", EventType.PORT_FAILED),
        ("rejected", EventType.PORT_CHANGED),  # it may be submitted again
        ("Waiting for Signature", EventType.PORT_CHANGED),
        ("PortInPhoneNumberPending", EventType.PORT_CHANGED),
    ],
)
def test_a_number_on_its_way_to_twilio(status: str, expected: EventType) -> None:
    event = ported(status=status)
    assert (event.type, event.key) == (expected, NUMBER)
    assert (event.data.number, event.data.order_id, event.data.status) == (NUMBER, ORDER, status)
    assert topic_of(event.type) == NUMBERS_TOPIC


def test_a_whole_request_is_no_number() -> None:
    """Its "completed" may mean that all its numbers were canceled."""
    event = ported(phone_number=None, status="completed")
    assert (event.type, event.key, event.data.number) == (EventType.PORT_CHANGED, ORDER, "")


def test_a_number_on_its_way_elsewhere() -> None:
    told = {"event_type": "PortOutPhoneNumberCompleted", "phone_number": "+815055550100"}
    event = parsed(json_request("porting", told))[0]
    assert (event.type, event.key) == (EventType.PORTOUT_COMPLETED, "+815055550100")
    asked = {"portOutPhoneNumberSid": "PO1", "phoneNumber": "+815055550100", "status": "pending"}
    assert parsed(json_request("porting", asked))[0].type is EventType.PORTOUT_CHANGED


def test_why_a_port_was_rejected() -> None:
    event = ported(
        status="rejected", rejection_reason="PIN mismatch", rejection_reason_code=7, pin="1234"
    )
    assert (event.data.reason, event.data.error_code) == ("PIN mismatch", "7")
    assert "pin" not in event.data.raw


def test_names_in_camel_case_mean_the_same() -> None:
    told = {"portInRequestSid": ORDER, "phoneNumber": NUMBER, "status": "completed"}
    assert parsed(json_request("porting", told))[0].id == ported().id


def test_each_step_is_an_event_and_a_repetition_is_none() -> None:
    first = ported(last_date_updated="2026-05-28T19:00:00Z")
    assert ported(last_date_updated="2026-05-28T19:00:00Z").id == first.id
    assert ported(last_date_updated="2026-05-29T19:00:00Z").id != first.id
    assert first.time == 1_779_994_800_000_000


def test_the_parent_account_is_told_of_its_subaccounts_numbers() -> None:
    assert ported(account_sid=SUBACCOUNT).data.provider_account == SUBACCOUNT
    assert ported().data.provider_account == ACCOUNT


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"phone_number": NUMBER, "status": "completed"}, "port_in_request_sid"),
        ({"port_in_request_sid": ORDER, "phone_number": "x", "status": "a"}, "phone_number"),
        ({"port_in_request_sid": ORDER}, "event_type"),
        ({"port_in_request_sid": ORDER, "status": "a\nb"}, "status"),
        ([], "object"),
        (None, "object"),
        (b"{", "JSON"),
        (b"[" * 90_000, "JSON"),
        (b"\xff", "UTF-8"),
        (b"", "JSON"),
    ],
)
def test_what_can_not_be_read_is_named(message: Any, field: str) -> None:
    with pytest.raises(BadPayload, match=field):
        parsed(json_request("porting", message))


def bundle(**fields: str) -> Event:
    about = {"BundleSid": BUNDLE, "Status": "twilio-rejected", "AccountSid": ACCOUNT}
    return parsed(request("bundle", about | fields))[0]


def test_papers_were_judged() -> None:
    event = bundle(FailureReason="address does not match")
    assert (event.type, event.key) == (EventType.BUNDLE_CHANGED, BUNDLE)
    assert (event.data.order_id, event.data.status) == (BUNDLE, "twilio-rejected")
    assert event.data.reason == "address does not match"
    assert event.id == bundle(FailureReason="address does not match").id
    assert event.id != bundle(FailureReason="name does not match").id


def test_a_bundle_may_come_without_an_account() -> None:
    event = parsed(request("bundle", {"Sid": BUNDLE, "Status": "draft"}))[0]
    assert (event.key, event.data.provider_account) == (BUNDLE, ACCOUNT)


def test_a_subaccounts_bundle_may_come_without_an_account_too() -> None:
    signed = request("bundle", {"Sid": BUNDLE, "Status": "draft"}, token=SUBTOKEN)
    event = parsed(signed, accounts={SUBACCOUNT: [SUBTOKEN]})[0]
    assert (event.key, event.data.provider_account) == (BUNDLE, SUBACCOUNT)


def test_however_many_accounts_there_are_a_bundle_may_name_none() -> None:
    accounts = {f"AC{n:032x}": [f"the-token-of-account-{n}"] for n in range(9)}
    for n, account in enumerate(accounts):
        signed = request(
            "bundle", {"Sid": BUNDLE, "Status": "draft"}, token=f"the-token-of-account-{n}"
        )
        assert parsed(signed, accounts=accounts)[0].data.provider_account == account


def test_a_long_form_that_names_no_account_is_not_checked_with_every_key() -> None:
    fields = {"Sid": BUNDLE, "Status": "draft", "FriendlyName": "x" * 4096}
    assert parsed(request("bundle", fields))[0].data.provider_account == ACCOUNT
    with pytest.raises(BadSignature):
        parsed(request("bundle", fields, token=SUBTOKEN), accounts={SUBACCOUNT: [SUBTOKEN]})


@pytest.mark.parametrize("field", ["BundleSid", "Status", "AccountSid"])
def test_a_malformed_bundle_names_its_field(field: str) -> None:
    with pytest.raises(BadPayload, match=field):
        bundle(**{field: "?"})

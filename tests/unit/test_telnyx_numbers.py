"""Telnyx's events about numbers: one for each number, under its key."""

import json
from typing import Any

import pytest

from router.events.model import Event
from router.events.types import NUMBERS_TOPIC, topic_of
from router.providers.telnyx.events import parse_event
from router.providers.telnyx.kinds import NUMBERS
from tests.support.telnyx_requests import NOW

ONE, OTHER = "+13035550100", "+13035550101"


def events(name: str, payload: Any) -> list[Event]:
    data = {"id": "e1", "event_type": name, "payload": payload}
    return list(parse_event(data, NOW))


def order(*numbers: Any, status: str = "success") -> list[Event]:
    payload = {"id": "order-1", "status": status, "phone_numbers": numbers}
    return events("number_order.complete", json.loads(json.dumps(payload)))


def test_each_number_of_an_order_has_its_own_event_key_and_end() -> None:
    found = order(
        {"phone_number": ONE, "status": "success"},
        {"phone_number": OTHER, "status": "failure"},
        {"phone_number": "+13035550102"},
        status="pending",
    )
    assert [(event.type, event.key, event.data.status) for event in found] == [
        ("order.completed", ONE, "success"),
        ("order.failed", OTHER, "failure"),
        ("order.changed", "+13035550102", "pending"),
    ]
    assert len({event.id for event in found}) == 3
    assert {event.data.order_id for event in found} == {"order-1"}


def test_a_big_order_is_not_kept_once_for_each_of_its_numbers() -> None:
    numbers = [{"phone_number": f"+1303{n:07}", "status": "success"} for n in range(1000)]
    found = order(*numbers)
    assert len(found) == 1000
    assert [event.data.raw["payload"]["phone_numbers"] for event in found] == [[n] for n in numbers]


def test_a_number_that_is_named_twice_has_one_event() -> None:
    assert len(order({"phone_number": ONE}, {"phone_number": ONE})) == 1


@pytest.mark.parametrize("odd", ["303", 7, None, {}, {"phone_number": [ONE]}, "anonymous"])
def test_without_a_number_the_order_is_the_key(odd: object) -> None:
    (found,) = order(odd)
    assert (found.key, found.data.number, found.type) == ("order-1", "", "order.completed")


@pytest.mark.parametrize("odd", ["", "a b", "x" * 200, 7, None])
def test_an_order_without_a_usable_id_has_a_key_too(odd: object) -> None:
    (found,) = events("number_order.complete", {"id": odd, "status": "failure"})
    assert (found.key, found.data.order_id) == (found.id, "")


PORT, PORTOUT = "porting_order.status_changed", "portout.status_changed"
HOSTED = "messaging_hosted_numbers_orders.updated"


@pytest.mark.parametrize(
    ("name", "payload", "kind", "key"),
    [
        (PORT, {"id": "p", "status": {"value": "ported"}}, "port.completed", "p"),
        (PORT, {"id": "p", "status": "cancelled"}, "port.failed", "p"),
        (PORT, {"id": "p", "status": "cancel-pending"}, "port.changed", "p"),
        ("porting_order.deleted", {"id": "p"}, "port.failed", "p"),
        ("porting_order.split", {"from": {"id": "p"}, "to": {"id": "q"}}, "port.changed", "p"),
        ("porting_order.new_comment", {"id": "c", "porting_order_id": "p"}, "port.changed", "p"),
        (PORTOUT, {"phone_numbers": [ONE], "status": "ported"}, "portout.completed", ONE),
        (PORTOUT, {"phone_numbers": [ONE], "status": "rejected"}, "portout.changed", ONE),
        ("portout.new_comment", {"id": "c", "portout_id": "o"}, "portout.changed", "o"),
        (HOSTED, {"numbers": [{"value": ONE, "status": "successful"}]}, "order.completed", ONE),
        (HOSTED, {"order_id": "h", "order_status": "failed"}, "order.failed", "h"),
        ("number_reputation.number.removed", {"phone_number": ONE}, "number.changed", ONE),
    ],
)
def test_what_became_of_a_number(name: str, payload: Any, kind: str, key: str) -> None:
    (found,) = events(name, payload)
    assert (found.type, found.key) == (kind, key)


@pytest.mark.parametrize("name", NUMBERS)
def test_every_event_about_numbers_goes_to_their_topic(name: str) -> None:
    (found,) = events(name, None)
    assert topic_of(found.type) == NUMBERS_TOPIC
    assert found.data.status == name.rpartition(".")[2]

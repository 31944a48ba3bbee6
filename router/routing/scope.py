"""What somebody's signature lets them speak about: pure.

A tenant may register a connection with any provider account and any key, and so sign whatever they
like with it. So what a tenant's key has signed is kept apart from all else: its events and calls
get ids of their own, derived from the connection's, and it says nothing about a number that none of
the connections with that very key carries. What the operator's key has signed is as it is.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from router.events.ids import scoped_call_id, scoped_event_id
from router.events.model import Event, EventData
from router.events.types import NUMBERS_TOPIC, topic_of
from router.routing.table import Route, RouteTable


class Proof(NamedTuple):
    """Whose key has signed a request."""

    connections: frozenset[str]  # all that have this very key; "": the operator has it too
    scope: str = ""  # the connection whose ids the events get: the oldest; "": none, the operator's
    account_id: str = ""  # whose connection that is; "": the operator's, or of several accounts


OPERATOR = Proof(frozenset({""}))


def admitted(
    events: Sequence[Event], proof: Proof | None, table: RouteTable
) -> Sequence[Event] | None:
    """The events of one request as they may go on; None: one of them is not the signer's to tell.

    No proof: of a provider without connections, whose events are the operator's.
    """
    if proof is None:
        return events
    if any(is_foreign(event, proof, table) for event in events):
        return None
    return [scoped(event, proof, table) for event in events]


def scoped(event: Event, proof: Proof, table: RouteTable) -> Event:
    """The event as it may go on: with the connection and account that it is of.

    Where several accounts hold the provider account, the number says whose call it is.
    """
    if not proof.scope:
        return event
    data = event.data
    route = _route(data, event, table)
    call = scoped_call_id(proof.scope, data.call_id) if data.call_id else ""
    known = msgspec.structs.replace(
        data,
        call_id=call,
        connection_id=proof.scope if route is None else route.connection_id,
        account_id=proof.account_id if route is None else route.account_id,
    )
    return msgspec.structs.replace(
        event,
        id=scoped_event_id(proof.scope, event.id),
        key=call if call and event.key == data.call_id else _key(event, proof.scope),
        data=known,
    )


def _key(event: Event, scope: str) -> str:
    """Of an event that is about no call; the sender may have chosen it, a call's id even."""
    number = event.data.number
    return number if number and event.key == number else scoped_event_id(scope, event.key)


def is_foreign(event: Event, proof: Proof, table: RouteTable) -> bool:
    """Whether it speaks about a number that is carried by no connection with this key.

    Of a call that needs a decision, that number's; the operator may tell of any number besides.
    """
    route = _route(event.data, event, table)
    if route is None or route.connection_id in proof.connections:
        return False
    return bool(event.data.stage) or "" not in proof.connections


def _route(data: EventData, event: Event, table: RouteTable) -> Route | None:
    number = data.number if topic_of(event.type) == NUMBERS_TOPIC else data.to_number
    if not (data.stage or topic_of(event.type) == NUMBERS_TOPIC):
        return None
    return table.get(number)

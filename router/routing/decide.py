"""Where a call goes: a pure function of the event and the route table.

The ingress calls it for every event and stores the outcome with the event, so the answer, the
dispatch and `explain` all follow from the same value.
"""

import msgspec

from router.events.ids import event_id
from router.events.model import Decision, Direction, Event, EventData
from router.events.types import EventType
from router.routing.table import Route, RouteTable


def decide(event: Event, table: RouteTable, *, stalled: str = "") -> Event:
    """The event with what follows from it: a decision, or what the caller hears next.

    Only events whose provider asks for one (`data.stage`) get one. All others come back as they
    are. `stalled`: why nobody dispatches at the moment (`router.dispatch_health`), "" as a rule.
    """
    stage = event.data.stage
    if stage == "route":
        return _routed(event, table, stalled)
    if stage and event.type is EventType.TRANSFER_STARTED:
        return _transferred(event, table)
    return _after_dial(event, table) if stage else event


def _routed(event: Event, table: RouteTable, stalled: str) -> Event:
    """An incoming call with its decision.

    A provider that does not say which way a call goes means one of our numbers by either end: one
    that is mapped there before one that is mapped at another.
    """
    data = event.data
    ours, direction = data.to_number, data.direction
    if direction is None:
        ours, direction = _our_end(event, table)
    decision = decide_call(
        ours,
        event.source,
        table,
        carries_audio=data.media == "provider",
        proven_for=_proven_for(data),
    )
    if data.disposition == "failed":
        decision = _to_fallback(decision, "the carrier could not reach LiveKit over the trunk")
    elif stalled and data.media == "sip":
        decision = _to_fallback(decision, f"nobody dispatches at the moment: {stalled}")
    routed = msgspec.structs.replace(
        _stamped(data, _route(ours, data, table)),
        direction=direction,
        decision=decision,
        agent_id=decision.agent_id,
    )
    return msgspec.structs.replace(event, data=routed)


def _proven_for(data: EventData) -> str | None:
    """The account whose own connection proved the event; None: the operator's credentials did."""
    return data.account_id if data.connection_id else None


def _route(number: str, data: EventData, table: RouteTable) -> Route | None:
    """The route of a number that the event may speak of: an account's key proves its own alone."""
    route = table.get(number)
    proven_for = _proven_for(data)
    return route if route and proven_for in (None, route.account_id) else None


def _stamped(data: EventData, route: Route | None) -> EventData:
    """The data with whose call it is: the number decides."""
    if route is None:
        return data
    return msgspec.structs.replace(
        data,
        account_id=route.account_id,
        connection_id=data.connection_id or route.connection_id,
    )


def _our_end(event: Event, table: RouteTable) -> tuple[str, Direction | None]:
    """The number that is ours, and what the call is to it; the called one where neither is."""
    ends: dict[Direction, str] = {
        "inbound": event.data.to_number,
        "outbound": event.data.from_number,
    }
    routes = {way: route for way, end in ends.items() if (route := _route(end, event.data, table))}
    at_home = [way for way, route in routes.items() if route.provider == event.source]
    direction = next(iter((*at_home, *routes)), None)
    return (ends[direction] if direction else event.data.to_number), direction


def _to_fallback(decision: Decision, why: str) -> Decision:
    """For a call that no agent can be brought to: a person, where there is one.

    Where nothing else is left an agent is tried all the same.
    """
    if decision.action != "dispatch" or not decision.fallback:
        return decision
    return Decision(
        action="forward",
        reason=f"{why}: to the fallback",
        table_version=decision.table_version,
        fallback=decision.fallback,
    )


def decide_call(
    to_number: str,
    provider: str,
    table: RouteTable,
    *,
    carries_audio: bool = False,
    proven_for: str | None = None,
) -> Decision:
    """The decision for a call to `to_number` that arrived through `provider`.

    A number that is mapped at another carrier is ours all the same: it may be moving between the
    two, and the call is signed. `mapping_behind` tells of it. Not so where the provider
    `carries_audio` itself (Vocode): it has an agent of its own for numbers that are not mapped to
    it. Nor where it was proven with an account's own credentials (`proven_for`, an account's id;
    None: with the operator's) and the number is another account's: anybody can sign with a key of
    their own that somebody else's number was called.
    """
    route = table.get(to_number)
    if route is None:
        reason = "number is not mapped" if to_number else f"{provider} named no number"
        return Decision(action="reject", reason=reason, table_version=table.version)
    if proven_for not in (None, route.account_id):
        return Decision(
            action="reject",
            reason="number is not mapped in the account whose connection the call came by",
            table_version=table.version,
        )
    decision = _along(route, table.version)
    if route.provider == provider:
        return decision
    if carries_audio:
        reason = f"number is mapped at {route.provider}, but the call came from {provider}"
        return Decision(action="reject", reason=reason, table_version=table.version)
    behind = f"mapped at {route.provider}, but the call came from {provider}"
    return msgspec.structs.replace(decision, reason=f"{decision.reason} ({behind})")


def mapping_behind(event: Event, table: RouteTable) -> Event | None:
    """What a call by another carrier than the mapping names says of its number, None for others.

    One event per call, so a repeated webhook adds none. Vocode and LiveKit carry calls of numbers
    that are at a carrier: theirs say nothing.
    """
    data = event.data
    if data.decision is None or data.stage != "route" or data.media != "sip":
        return None
    number = data.from_number if data.direction == "outbound" else data.to_number
    route = _route(number, data, table)
    if route is None or route.provider == event.source:
        return None
    return Event(
        id=event_id(event.source, event.call_id, "number", number, route.provider),
        type=EventType.NUMBER_MISMATCHED,
        source=event.source,
        time=event.time,
        key=number,
        data=EventData(
            number=number,
            provider_call_id=data.provider_call_id,
            provider_account=data.provider_account,
            account_id=route.account_id,
            connection_id=data.connection_id,
            status=event.source,
            reason=(
                f"a call to it came from {event.source}, but it is mapped at {route.provider}: "
                f"where it has moved, map it at {event.source}"
            ),
        ),
    )


def _along(route: Route, version: int) -> Decision:
    if route.targets:
        target = route.targets[0]
        return Decision(
            action="dispatch",
            reason=f"number is mapped to agent {target.agent}",
            table_version=version,
            agent=target.agent,
            agent_id=target.agent_id,
            livekit_agent_name=target.livekit_agent_name,
            metadata=target.metadata,
            fallback=route.fallback,
        )
    if route.fallback:
        return Decision(
            action="forward",
            reason="no agent of this number takes calls now: to its fallback",
            table_version=version,
            fallback=route.fallback,
        )
    return Decision(
        action="reject",
        reason="no agent of this number takes calls now, and it has no fallback",
        table_version=version,
    )


def _after_dial(event: Event, table: RouteTable) -> Event:
    """After a dial: done when it was answered, else the fallback once, else the apology."""
    data = event.data
    if data.disposition == "answered":
        disposition = "answered" if data.stage == "agent" else "forwarded"
        ended = msgspec.structs.replace(data, disposition=disposition)
        return msgspec.structs.replace(event, type=EventType.CALL_ENDED, data=ended)
    route = _route(data.to_number, data, table)
    event = msgspec.structs.replace(event, data=_stamped(data, route))
    if data.stage == "agent" and route is not None and route.fallback:
        return _with(
            event,
            EventType.CALL_FORWARDED,
            Decision(
                action="forward",
                reason="the agent's dial was not answered: to the fallback",
                table_version=table.version,
                fallback=route.fallback,
            ),
        )
    return _with(
        event,
        EventType.CALL_ENDED,
        Decision(
            action="reject",
            reason=f"the {data.stage}'s dial was not answered, and there is nothing after it",
            table_version=table.version,
        ),
    )


def _transferred(event: Event, table: RouteTable) -> Event:
    """A caller whom the agent sends elsewhere: there where the mapping names it, else the fallback.

    An agent does what callers say, and a call to anywhere costs money. So the account's mapping is
    the list of what is allowed: its numbers, and the fallback of the number that was called. The
    agent has left when the carrier asks, so a caller who can't go there is put through to somebody
    all the same.
    """
    called, wanted = event.data.to_number, event.data.number
    route = _route(called, event.data, table)
    fallback = route.fallback if route is not None else ""
    event = msgspec.structs.replace(event, data=_stamped(event.data, route))
    if wanted and wanted != called and (wanted == fallback or _is_named(wanted, route, table)):
        return _with(
            event,
            EventType.TRANSFER_STARTED,
            Decision(
                action="forward",
                reason="the agent transfers the caller to a number that the mapping names",
                table_version=table.version,
                fallback=wanted,
            ),
        )
    reason = "the agent's transfer goes to no number that the mapping names"
    return _with(
        event,
        EventType.TRANSFER_FAILED,
        Decision(
            action="forward" if fallback else "reject",
            reason=f"{reason}: to the fallback" if fallback else f"{reason}; there is no fallback",
            table_version=table.version,
            fallback=fallback,
        ),
    )


def _is_named(number: str, by: Route | None, table: RouteTable) -> bool:
    """Whether the mapping that `by` is of names this number too."""
    route = table.get(number)
    return route is not None and by is not None and route.account_id == by.account_id


def _with(event: Event, type_: EventType, decision: Decision) -> Event:
    data = msgspec.structs.replace(event.data, decision=decision)
    return msgspec.structs.replace(event, type=type_, data=data)

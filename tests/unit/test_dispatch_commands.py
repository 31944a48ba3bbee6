"""Carriers that take commands are told what to do with the caller, whatever else is away."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from router.errors import EffectError, Permanent, Transient
from router.events.model import Decision, Event
from router.events.types import CALLS_TOPIC, dead_topic
from router.events.types import EventType as T
from router.provider import CallRef, Carrier, Standing
from tests.support import fake_time
from tests.support.fake_dispatch import World, process
from tests.support.fake_events import dispatch_decision, event, initiated, new_call

CALL = new_call("commanded")


@dataclass
class FakeCarrier:
    """Notes what it was told; the first calls raise `errors`, one each."""

    errors: list[EffectError] = field(default_factory=list)
    told: list[Event] = field(default_factory=list)
    standing: Standing | None = field(default_factory=lambda: Standing(over=False))
    asked: list[CallRef] = field(default_factory=list)

    async def ask(self, ref: CallRef) -> Standing | None:
        self.asked.append(ref)
        return self.standing

    async def carry_out(self, event: Event) -> None:
        self.told.append(event)
        if self.errors:
            raise self.errors.pop(0)


def commanded(base: Event, **data: object) -> Event:
    """The event at a carrier that takes commands."""
    return msgspec.structs.replace(
        base,
        source="telnyx",
        data=msgspec.structs.replace(base.data, control_id="v3:abc", **data),
    )


async def run(world: World, carrier: FakeCarrier, *events: Event, seconds: float = 3.0) -> None:
    world.carriers["telnyx"] = Carrier(carry_out=carrier.carry_out, standing=carrier.ask)
    async with process(world):
        await world.tell(*events)
        await asyncio.sleep(seconds)


def test_the_caller_is_transferred_and_the_agent_dispatched_at_once() -> None:
    world, carrier = World(), FakeCarrier()
    fake_time.run(run(world, carrier, commanded(initiated(CALL))))
    assert [e.type for e in carrier.told] == [T.CALL_INITIATED]
    assert world.state(CALL) == "ready"


def test_the_command_does_not_wait_for_the_database() -> None:
    world, carrier = World(), FakeCarrier()
    world.claims.unavailable = True
    fake_time.run(run(world, carrier, commanded(initiated(CALL)), seconds=0.05))
    assert carrier.told


def test_a_command_of_unknown_outcome_is_given_again_and_the_agent_comes_once() -> None:
    world, carrier = World(), FakeCarrier([Transient("away"), Transient("away")])
    fake_time.run(run(world, carrier, commanded(initiated(CALL)), seconds=20.0))
    assert len({e.id for e in carrier.told}) == 1
    assert len(carrier.told) == 3
    assert len(world.rooms.made) == 1


def test_what_follows_a_failed_dial_is_commanded_too() -> None:
    world, carrier = World(), FakeCarrier()
    forward = Decision(action="forward", reason="r", table_version=1, fallback="+14155550199")
    hang_up = Decision(action="reject", reason="r", table_version=1)
    fake_time.run(
        run(
            world,
            carrier,
            commanded(event(CALL, T.CALL_FORWARDED, 0.0), decision=forward),
            commanded(event(CALL, T.CALL_ENDED, 0.5), decision=hang_up),
        )
    )
    assert [e.type for e in carrier.told] == [T.CALL_FORWARDED, T.CALL_ENDED]


FORWARD = Decision(action="forward", reason="r", table_version=1, fallback="+14155550199")


@pytest.mark.parametrize("kind", [T.CALL_INITIATED, T.CALL_FORWARDED])
@pytest.mark.parametrize("standing", [None, Standing(over=True)], ids=["unknown", "over"])
def test_nobody_is_on_the_line_of_an_old_event_whose_call_is_over(
    kind: T, standing: Standing | None
) -> None:
    world, carrier = World(), FakeCarrier(standing=standing)
    fake_time.run(run(world, carrier, commanded(event(CALL, kind, -100.0), decision=FORWARD)))
    assert [ref.control_id for ref in carrier.asked] == ["v3:abc"]
    assert carrier.told == []


@pytest.mark.parametrize("fallback", ["+14155550111", ""])
@pytest.mark.parametrize("away", ["", "database", "once"])
def test_a_caller_who_is_held_since_long_goes_to_the_fallback_or_is_refused(
    fallback: str, away: str
) -> None:
    """Not to an agent: how long they will still wait, nobody knows."""
    world = World()
    carrier = FakeCarrier([Transient("away")] if away == "once" else [])
    world.claims.unavailable = away == "database"
    decision = msgspec.structs.replace(dispatch_decision(), fallback=fallback)
    late = commanded(initiated(CALL, at=-70.0, decision=decision))
    fake_time.run(run(world, carrier, late))
    assert {(e.id, e.type) for e in carrier.told} == {(late.id, T.CALL_INITIATED)}
    assert len(carrier.told) == (2 if away == "once" else 1)
    told = carrier.told[-1].data.decision
    assert told is not None
    assert (told.action, told.fallback) == ("forward" if fallback else "reject", fallback)
    assert world.rooms.made == []
    assert world.log.all(dead_topic(CALLS_TOPIC)) == []
    assert (T.CALL_FORWARDED in world.told(CALL)) is bool(fallback)


@pytest.mark.parametrize("state", ["ready", "missing", "over"])
def test_an_old_event_that_is_read_again_disturbs_nobody(state: str) -> None:
    """It was not committed before the process died; its caller talks to the agent, say."""
    world, carrier = World(), FakeCarrier()

    async def scenario() -> None:
        kept: dict[str, Any] = {"agent": "anna", "livekit_agent_name": "lk-anna"}
        claim = await world.claims.claim(
            CALL, owner="dead", lease=15.0, initiated=msgspec.json.encode(initiated(CALL)), **kept
        )
        assert claim is not None
        world.claims.rows[CALL] = msgspec.structs.replace(claim, state=state)
        await run(world, carrier, commanded(initiated(CALL, at=-70.0)))

    fake_time.run(scenario())
    assert carrier.told == []


def test_what_the_carrier_did_since_says_that_an_old_command_was_given() -> None:
    world, carrier = World(), FakeCarrier()
    late = commanded(event(CALL, T.CALL_FORWARDED, -70.0), decision=FORWARD)
    fake_time.run(run(world, carrier, late, event(CALL, T.LEG_ANSWERED, -60.0, "telnyx")))
    assert carrier.told == []


def test_calls_of_carriers_that_take_documents_are_not_commanded() -> None:
    world, carrier = World(), FakeCarrier()
    world.carriers["twilio"] = Carrier(carry_out=carrier.carry_out)
    fake_time.run(run(world, carrier, initiated(CALL)))
    assert carrier.told == []
    assert world.state(CALL) == "ready"


@pytest.mark.parametrize("refused", [True, False], ids=["refused", "no-api-key"])
def test_what_can_not_be_commanded_goes_to_the_dead_topic_with_the_reason(refused: bool) -> None:
    world, carrier = World(), FakeCarrier([Permanent("Telnyx answered 422, code 1")])
    given = commanded(initiated(CALL))
    if not refused:
        given = msgspec.structs.replace(given, source="vonage")
    fake_time.run(run(world, carrier, given))
    dead = world.log.all(dead_topic(CALLS_TOPIC))
    assert [record.headers["dlq.ce_id"] for record in dead] == [given.id]

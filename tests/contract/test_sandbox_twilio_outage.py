"""Calls while our log takes nothing: each /dial fails, and Twilio asks /fallback what is next."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from router.sandbox.sip import Leg
from router.sandbox.twilio import Call, Phone, TwilioStandIn
from tests.support.fake_log import FakeLog
from tests.support.ingress import FALLBACK, NUMBER, ingress
from tests.support.nodes import ACCOUNT, TOKEN
from tests.support.sandbox_twilio import CALLER, Switch, answers


@asynccontextmanager
async def line(folder: Path, log: FakeLog, switch: Switch) -> AsyncIterator[TwilioStandIn]:
    async with (
        ingress(folder, events=log) as node,
        TwilioStandIn(
            account_sid=ACCOUNT, auth_token=TOKEN, webhook_base=node.url, dial_sip=switch.dial
        ) as twilio,
    ):
        yield twilio


def said(call: Call) -> list[object]:
    return [step.detail["text"] for step in call.steps if step.what == "said"]


async def test_a_fallback_that_is_busy_is_rung_once(tmp_path: Path) -> None:
    async with line(tmp_path, FakeLog(unavailable=True), Switch()) as twilio:
        twilio.phones[FALLBACK] = Phone(behaviour="busy")
        call = twilio.place_call(NUMBER, CALLER)
        await call.ended()
    assert call.whats().count("dial.started") == 1
    assert len(said(call)) == 1


async def test_who_has_talked_to_the_fallback_is_not_put_through_to_it_again(
    tmp_path: Path,
) -> None:
    async with line(tmp_path, FakeLog(unavailable=True), Switch()) as twilio:
        call = twilio.place_call(NUMBER, CALLER)
        await call.answered()
        assert call.leg is not None
        call.leg.hangup()  # the other side
        assert await call.ended() == "completed"
    assert call.whats().count("dial.answered") == 1
    assert said(call) == []


async def test_who_has_talked_to_the_agent_is_not_put_through_to_the_fallback(
    tmp_path: Path,
) -> None:
    log, switch = FakeLog(), Switch(prepare=answers)
    async with line(tmp_path, log, switch) as twilio:
        call = twilio.place_call(NUMBER, CALLER)
        await call.answered()
        log.unavailable = True
        switch.legs[0].hangup()
        assert await call.ended() == "completed"
    assert call.whats().count("dial.started") == 1
    assert said(call) == []


async def test_whose_agent_did_not_come_is_put_through_to_the_fallback(tmp_path: Path) -> None:
    log = FakeLog()

    def refuse(leg: Leg) -> None:
        log.unavailable = True
        leg.refuse(486)

    async with line(tmp_path, log, Switch(prepare=refuse)) as twilio:
        twilio.phones[FALLBACK] = Phone(behaviour="busy")
        call = twilio.place_call(NUMBER, CALLER)
        await call.ended()
    assert call.whats().count("dial.started") == 2
    assert len(said(call)) == 1

"""TeXML: its forms as events, and the documents that answer it."""

from collections.abc import Iterator
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from router.errors import BadPayload
from router.events.ids import call_id
from router.events.model import Event
from router.events.types import EventType
from router.providers.telnyx.action import Actions
from router.routing.decide import decide
from router.routing.table import Route, RouteTable, Target
from tests.support.telnyx_requests import (
    CALLED,
    CALLER,
    CONTROL_ID,
    PUBLIC_URL,
    dial_path,
    event,
    form,
    parsed,
    request,
    source,
)

ID = call_id("telnyx", "", CONTROL_ID)
LEG = "v3:vZdWG4JkwAHwEj4KBrAFeLprgbHYQVN8qt9rAhmO8fQRZ5ohsjz1jw"
FALLBACK = "+14155550199"
DIAL, DIAL_FALLBACK = dial_path("agent"), dial_path("fallback")


def routes(fallback: str = FALLBACK, agent: str = "anna") -> RouteTable:
    table = RouteTable()
    targets = (Target(agent=agent, livekit_agent_name=agent),) if agent else ()
    table.put(Route(number=CALLED, provider="telnyx", rev=7, targets=targets, fallback=fallback))
    return table


def answer(path: str, table: RouteTable, **fields: str) -> tuple[Event, ET.Element]:
    telnyx, asked = source(), request(form(**fields), path)
    found = decide(telnyx.parse(telnyx.verify(asked))[0], table)
    reply = telnyx.reply(asked.kind, found)
    assert (reply.status, reply.content_type) == (200, "application/xml")
    assert telnyx.reply(asked.kind, found) == reply
    return found, ET.fromstring(reply.body)


def test_a_mapped_number_is_dialled_into_the_calls_room() -> None:
    found, texml = answer("/texml/voice", routes())
    dial, sip = texml[0], texml[0][0]
    assert dial.attrib == {
        "timeout": "20",
        "method": "POST",
        "action": f"{PUBLIC_URL}/webhooks/telnyx{DIAL}",
    }
    assert sip.attrib == {
        "username": "user",
        "password": "pass",
        "statusCallback": f"{PUBLIC_URL}/webhooks/telnyx/texml/status",
        "statusCallbackEvent": "answered completed",
    }
    assert sip.text == f"sip:{ID}@sip.example.com;transport=tcp"
    assert (found.type, found.call_id, found.key) == (EventType.CALL_INITIATED, ID, ID)
    data = found.data
    assert (data.from_number, data.to_number, data.direction) == (CALLER, CALLED, "inbound")
    assert (data.provider_call_id, data.control_id) == (CONTROL_ID, "")  # no commands: a document


def test_what_a_call_says_of_its_caller_is_kept() -> None:
    said = {
        "CallerId": "ADA",
        "ForwardedFrom": "4930123456",
        "ShakenStirAttestation": "b",
        "SipHeader_X-Ticket": "77",
        "SipHeader_Authorization": "no custom header",
    }
    found, _ = answer("/texml/voice", routes(), **said, ShakenStirValidated="true")
    data = found.data
    assert (data.caller_name, data.forwarded_from) == ("ADA", "+4930123456")
    assert (data.attestation, data.sip_headers) == ("B", {"X-Ticket": "77"})
    found, _ = answer("/texml/voice", routes(), **said, ShakenStirValidated="false")
    assert found.data.attestation == ""


def test_telnyx_rings_for_two_minutes_at_most() -> None:
    telnyx, asked = source(dial_timeout=600), request(form(), "/texml/voice")
    found = decide(telnyx.parse(telnyx.verify(asked))[0], routes())
    dial = ET.fromstring(telnyx.reply(asked.kind, found).body)[0]
    assert dial.get("timeout") == "120"


def test_without_an_agent_the_fallback_is_dialled_else_the_caller_is_told() -> None:
    _, texml = answer("/texml/voice", routes(agent=""))
    assert texml[0].find("Number") is not None
    assert texml[0][0].text == FALLBACK
    _, texml = answer("/texml/voice", routes(agent="", fallback=""))
    assert [verb.tag for verb in texml] == ["Say", "Hangup"]


def test_the_apology_is_that_of_the_settings() -> None:
    _, texml = answer("/texml/voice", RouteTable())
    assert (texml[0].text, texml[0].attrib) == ("Nobody is there.", {"language": "en-GB"})


@pytest.mark.parametrize(
    ("status", "path", "tags", "kind"),
    [
        ("completed", DIAL, ["Hangup"], EventType.CALL_ENDED),
        ("answered", DIAL, ["Hangup"], EventType.CALL_ENDED),
        ("no-answer", DIAL, ["Dial"], EventType.CALL_FORWARDED),
        ("busy", DIAL, ["Dial"], EventType.CALL_FORWARDED),
        ("never-heard-of", DIAL, ["Dial"], EventType.CALL_FORWARDED),
        ("completed", DIAL_FALLBACK, ["Hangup"], EventType.CALL_ENDED),
        ("failed", DIAL_FALLBACK, ["Say", "Hangup"], EventType.CALL_ENDED),
    ],
)
def test_after_a_dial_comes_the_next(
    status: str, path: str, tags: list[str], kind: EventType
) -> None:
    found, texml = answer(path, routes(), DialCallStatus=status, DialCallSid=LEG)
    assert [verb.tag for verb in texml] == tags
    assert (found.type, found.call_id, found.data.leg_id) == (kind, ID, LEG)


@pytest.mark.parametrize("to", [f"sip:{ID}@sip.example.com", FALLBACK, "+14155550101", ""])
def test_the_fallback_is_that_of_the_number_that_was_called_whatever_telnyx_repeats(
    to: str,
) -> None:
    """Telnyx may say what was dialled as `To`, and lose the query of the action."""
    found, texml = answer(DIAL, routes(), DialCallStatus="busy", To=to)
    dial = texml[0]
    assert dial[0].text == FALLBACK
    assert dial.get("action") == f"{PUBLIC_URL}/webhooks/telnyx{DIAL_FALLBACK}"
    assert found.data.to_number == CALLED


@pytest.mark.parametrize(("seconds", "tags"), [("0", ["Dial"]), ("1", ["Hangup"])])
def test_a_dial_completed_in_no_time_was_not_answered(seconds: str, tags: list[str]) -> None:
    """Telnyx may say "completed" of a dial that was refused."""
    found, texml = answer(DIAL, routes(), DialCallStatus="completed", DialCallDuration=seconds)
    assert [verb.tag for verb in texml] == tags
    assert (found.data.disposition == "no_answer") is (seconds == "0")


def test_a_call_to_a_sip_address_has_no_number_in_its_path() -> None:
    uri = "sip:anna@ours.sip.telnyx.com"
    path = dial_path("agent", uri)
    assert "/agent/0/" in path
    assert parsed(form(DialCallStatus="busy", To=uri), path).data.to_number == uri


def flipped(path: str) -> Iterator[str]:
    """`path` with each of its characters made another one."""
    for index, character in enumerate(path):
        yield path[:index] + chr(ord(character) ^ 1) + path[index + 1 :]


@pytest.mark.parametrize(
    "path",
    [
        *flipped(DIAL),
        DIAL.replace("agent", "fallback"),
        DIAL.replace(CALLED[1:], "14155550101"),
        DIAL.rpartition("/")[0],
        DIAL + "0",
        Actions("another secret").path("agent", CALLED),
        "/texml/dial?stage=agent",
        "/texml/dial/agent/\u0661\udcff/" + "0" * 32,
    ],
)
def test_a_path_that_was_not_made_here_is_refused(path: str) -> None:
    """It decides whose fallback is dialled, and Telnyx signs the body only."""
    asked = replace(request(form(DialCallStatus="busy"), DIAL), target=f"/webhooks/telnyx{path}")
    with pytest.raises(BadPayload, match="the path was not made here"):
        source().parse(source().verify(asked))


def test_a_path_prefix_and_a_query_change_nothing() -> None:
    asked = request(form(DialCallStatus="busy"), DIAL)
    behind = replace(asked, target=f"/calls/webhooks/telnyx{DIAL}?x=1")
    assert source().parse(source().verify(behind)) == source().parse(source().verify(asked))


def test_the_last_resort_promises_no_agent() -> None:
    _, texml = answer("/texml/fallback", routes())
    assert texml[0][0].text == FALLBACK
    _, texml = answer("/texml/fallback", routes(fallback=""))
    assert [verb.tag for verb in texml] == ["Say", "Hangup"]
    assert {e.kind for e in source().endpoints if e.storeless} == {"texml-fallback"}


def status(**fields: str) -> Event:
    progress = {"CallbackSource": "call-progress-events", "SequenceNumber": "2"}
    return parsed(form(progress, **fields), "/texml/status")


@pytest.mark.parametrize(
    ("word", "of_call", "of_leg"),
    [
        ("initiated", EventType.CALL_INITIATED, EventType.LEG_INITIATED),
        ("ringing", EventType.CALL_RINGING, EventType.LEG_RINGING),
        ("in-progress", EventType.CALL_ANSWERED, EventType.LEG_ANSWERED),
        ("completed", EventType.CALL_ENDED, EventType.LEG_ENDED),
        ("canceled", EventType.CALL_ENDED, EventType.LEG_ENDED),
        ("teleported", EventType.PROVIDER_UNKNOWN, EventType.PROVIDER_UNKNOWN),
    ],
)
def test_a_status_is_of_the_call_or_of_its_leg(
    word: str, of_call: EventType, of_leg: EventType
) -> None:
    call, leg = (
        status(CallStatus=word),
        status(CallStatus=word, CallSid=LEG, ParentCallSid=CONTROL_ID),
    )
    assert (call.type, leg.type) == (of_call, of_leg)
    assert (call.call_id, leg.call_id) == (ID, ID)
    assert (call.data.leg_id, leg.data.leg_id) == ("", LEG)
    assert not call.data.stage  # nobody waits for an answer
    assert call.id != leg.id


def test_a_calls_end_has_its_facts() -> None:
    data = status(CallStatus="completed", CallDuration="45", SipHangupCause="200").data
    assert (data.disposition, data.duration, data.sip_status) == ("answered", 45.0, 200)


def test_what_a_call_cost_is_no_end() -> None:
    found = status(CallStatus="completed", CallbackSource="call-cost-events")
    assert found.type is EventType.CALL_SUMMARISED


def test_a_status_callback_can_not_start_a_call() -> None:
    """Neither by mistake nor repeated by a stranger: the path is not signed."""
    body = form(CallStatus="completed", CallbackSource="call-progress-events")
    found = parsed(body, "/texml/voice")
    assert (found.type, found.data.stage) == (EventType.CALL_ENDED, "")
    assert found.id == parsed(body, "/texml/status").id
    assert b"<Hangup" in source().reply("texml-voice", found).body


def test_the_path_makes_no_second_event_of_a_dial() -> None:
    """Telnyx does not sign it: the leg tells dials apart where it is named."""
    body = form(DialCallStatus="busy", DialCallSid=LEG)
    first, other = parsed(body, DIAL), parsed(body, DIAL_FALLBACK)
    assert first.id == other.id
    unnamed = form(DialCallStatus="busy")
    assert parsed(unnamed, DIAL).id != parsed(unnamed, DIAL_FALLBACK).id


def test_an_event_is_no_form_and_a_form_no_event() -> None:
    with pytest.raises(BadPayload):
        parsed(event("call.initiated", direction="incoming"), "/texml/voice")
    with pytest.raises(BadPayload):
        parsed(form())


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/texml/voice", b"", "CallSid"),
        ("/texml/voice", b"CallSid=%ff", "form"),
        ("/texml/voice", b"&".join(b"a%d=1" % n for n in range(300)), "form"),
        ("/texml/voice", form(CallSid="CA123"), "CallSid"),
        ("/texml/voice", form() + b"&From=%2B1", "more than once"),
        ("/texml/status", form(ParentCallSid="../.."), "ParentCallSid"),
        (DIAL, form(), "DialCallStatus"),
        (DIAL, form(DialCallStatus="busy", DialCallSid="1"), "DialCallSid"),
    ],
)
def test_what_can_not_be_read_is_refused_by_the_name_of_its_field(
    path: str, body: bytes, field: str
) -> None:
    with pytest.raises(BadPayload, match=field) as refused:
        parsed(body, path)
    assert CALLER not in str(refused.value)


def test_webhooks_that_ask_for_nothing_are_answered_with_200() -> None:
    telnyx = source()
    for kind in ("events", "texml-status"):
        assert telnyx.reply(kind, parsed(event("call.answered"))) == (200, b"", "text/plain")

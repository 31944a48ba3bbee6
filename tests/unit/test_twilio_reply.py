"""The TwiML: right, safe, and the same bytes for the same event."""

from xml.etree import ElementTree as ET

import pytest

from router.errors import BadPayload
from router.events.ids import call_id
from router.events.model import Decision, Event
from router.provider import SipTarget
from router.providers.twilio.reply import Answers
from router.routing.decide import decide
from router.routing.table import Route, RouteTable, Target
from tests.support.twilio_requests import (
    ACCOUNT,
    PUBLIC_URL,
    form,
    json_request,
    request,
    source,
)


def table(fallback: str = "+14155550199", agent: str = "anna") -> RouteTable:
    routes = RouteTable()
    routes.put(
        Route(
            number="+14155550100",
            provider="twilio",
            rev=7,
            targets=(Target(agent=agent, livekit_agent_name=agent),) if agent else (),
            fallback=fallback,
        )
    )
    return routes


def answer(
    kind: str, routes: RouteTable, query: str = "", **fields: str
) -> tuple[Event, ET.Element]:
    twilio = source()
    event = decide(
        twilio.parse(twilio.verify(request(kind, form(**fields), query=query)))[0], routes
    )
    reply = twilio.reply(kind, event)
    assert (reply.status, reply.content_type) == (200, "text/xml")
    return event, ET.fromstring(reply.body)


def test_a_mapped_number_is_dialled_into_the_calls_room() -> None:
    event, twiml = answer("voice", table())
    dial, sip = twiml[0], twiml[0][0]
    assert dial.attrib == {
        "answerOnBridge": "true",
        "timeout": "20",
        "method": "POST",
        "action": f"{PUBLIC_URL}/webhooks/twilio/dial?stage=agent",
        "referUrl": f"{PUBLIC_URL}/webhooks/twilio/refer",
        "referMethod": "POST",
    }
    assert sip.text == f"sip:{event.call_id}@sip.example.com;transport=tcp"
    assert (sip.get("username"), sip.get("password")) == ("user", "pass")
    assert event.call_id == call_id("twilio", ACCOUNT, form()["CallSid"])
    assert event.data.decision == Decision(
        action="dispatch",
        reason="number is mapped to agent anna",
        table_version=7,
        agent="anna",
        livekit_agent_name="anna",
        fallback="+14155550199",
    )


def test_without_a_fallback_a_transfer_is_refused_at_twilio() -> None:
    _, twiml = answer("voice", table(fallback=""))
    assert not {"referUrl", "referMethod"} & set(twiml[0].attrib)


@pytest.mark.parametrize(
    ("target", "number"),
    [
        ("<tel:+14155550199>", "+14155550199"),
        ("tel:+14155550199", "+14155550199"),
        ("<sip:+14155550199@example.com;transport=tcp?X-Ticket=7>;method=INVITE", "+14155550199"),
        ('"Desk" <tel:+14155550199>', "+14155550199"),
        ("<tel:+14155550101>", "+14155550101"),  # mapped
    ],
)
def test_a_transfer_to_whom_the_mapping_names_is_dialled(target: str, number: str) -> None:
    routes = table()
    routes.put(Route(number="+14155550101", provider="telnyx", rev=8))
    event, twiml = answer("refer", routes, ReferTransferTarget=target)
    assert (event.type, event.data.number) == ("transfer.started", number)
    assert (twiml[0][0].tag, twiml[0][0].text) == ("Number", number)
    assert twiml[0].get("action") == f"{PUBLIC_URL}/webhooks/twilio/dial?stage=fallback"
    assert twiml[0].get("referUrl") is None


@pytest.mark.parametrize(
    "target",
    [
        "<tel:+19005550100>",
        "<tel:+14155550100>",  # where the call came from: in a circle
        "<sip:desk@example.com>",
        "<tel:911>",
        "nobody",
    ],
)
def test_another_transfer_goes_to_the_fallback_else_is_an_apology(target: str) -> None:
    event, twiml = answer("refer", table(), ReferTransferTarget=target)
    assert event.type == "transfer.failed"
    assert twiml[0][0].text == "+14155550199"
    _, twiml = answer("refer", table(fallback=""), ReferTransferTarget=target)
    assert [child.tag for child in twiml] == ["Say", "Hangup"]
    _, twiml = answer("refer", RouteTable(), ReferTransferTarget=target)
    assert [child.tag for child in twiml] == ["Say", "Hangup"]


@pytest.mark.parametrize("fields", [{}, {"ReferTransferTarget": ""}])
def test_a_transfer_says_where_to(fields: dict[str, str]) -> None:
    with pytest.raises(BadPayload, match="ReferTransferTarget"):
        answer("refer", table(), **fields)


def test_an_unknown_number_hears_an_apology() -> None:
    event, twiml = answer("voice", RouteTable())
    assert [child.tag for child in twiml] == ["Say", "Hangup"]
    assert event.data.decision is not None
    assert event.data.decision.reason == "number is not mapped"


def test_a_number_whose_agent_is_paused_goes_to_its_fallback() -> None:
    _, twiml = answer("voice", table(agent=""))
    assert twiml[0][0].tag == "Number"
    assert twiml[0][0].text == "+14155550199"


def test_a_paused_agent_without_fallback_is_an_apology() -> None:
    _, twiml = answer("voice", table(agent="", fallback=""))
    assert twiml[0].tag == "Say"


@pytest.mark.parametrize("status", ["completed", "answered"])
def test_after_a_call_that_was_answered_the_dial_hangs_up(status: str) -> None:
    event, twiml = answer("dial", table(), "?stage=agent", DialCallStatus=status)
    assert [child.tag for child in twiml] == ["Hangup"]
    assert (event.type, event.data.disposition) == ("call.ended", "answered")


@pytest.mark.parametrize("status", ["no-answer", "failed", "busy", "canceled", "newly-invented"])
def test_an_unanswered_dial_goes_to_the_fallback(status: str) -> None:
    event, twiml = answer("dial", table(), "?stage=agent", DialCallStatus=status)
    assert twiml[0].get("action") == f"{PUBLIC_URL}/webhooks/twilio/dial?stage=fallback"
    assert twiml[0][0].text == "+14155550199"
    assert event.type == "call.forwarded"


@pytest.mark.parametrize(
    ("routes", "query"), [(table(fallback=""), "?stage=agent"), (table(), "?stage=fallback")]
)
def test_nothing_after_the_last_one_but_an_apology(routes: RouteTable, query: str) -> None:
    event, twiml = answer("dial", routes, query, DialCallStatus="no-answer")
    assert [child.tag for child in twiml] == ["Say", "Hangup"]
    assert (event.type, event.data.disposition) == ("call.ended", "no_answer")


def test_a_fallback_that_talked_ends_as_forwarded() -> None:
    event, twiml = answer("dial", table(), "?stage=fallback", DialCallStatus="completed")
    assert [child.tag for child in twiml] == ["Hangup"]
    assert event.data.disposition == "forwarded"


@pytest.mark.parametrize(("routes", "tag"), [(table(), "Dial"), (RouteTable(), "Say")])
def test_the_degraded_answer_promises_no_agent(routes: RouteTable, tag: str) -> None:
    _, twiml = answer("fallback", routes, ErrorCode="11205")
    assert twiml[0].tag == tag
    assert twiml.find(".//Sip") is None


def failed_action(stage: str = "agent", **fields: str) -> dict[str, str]:
    """What /fallback is told when the answer of /dial was no TwiML."""
    url = f"https://other.example.com/base/webhooks/twilio/dial?stage={stage}"
    return {"ErrorCode": "11200", "ErrorUrl": url} | fields


@pytest.mark.parametrize("stage", ["agent", "fallback"])
@pytest.mark.parametrize("more", [{}, {"DialCallStatus": "completed"}])
def test_who_has_talked_to_somebody_is_not_put_through_again(
    stage: str, more: dict[str, str]
) -> None:
    """/dial has failed, so Twilio asks /fallback what is next."""
    fields = failed_action(stage, CallStatus="in-progress", **more)
    event, twiml = answer("fallback", table(), **fields)
    assert [child.tag for child in twiml] == ["Hangup"]
    assert event.type == "call.ended"


@pytest.mark.parametrize("more", [{}, {"DialCallStatus": "busy"}])
def test_the_fallback_is_dialled_once_though_nobody_can_be_asked_after_it(
    more: dict[str, str],
) -> None:
    """Or an outage would have the caller ring the same number for ever."""
    _, twiml = answer("fallback", table(), **failed_action("agent", **more))
    assert twiml[0][0].text == "+14155550199"
    _, twiml = answer("fallback", table(), **failed_action("fallback", **more))
    assert [child.tag for child in twiml] == ["Say", "Hangup"]


@pytest.mark.parametrize(
    "url",
    ["", "x", PUBLIC_URL, f"{PUBLIC_URL}/webhooks/twilio/voice?stage=agent"]
    + [f"{PUBLIC_URL}/webhooks/twilio/dial{query}" for query in ("", "?stage=", "?stage=other")],
)
def test_what_failed_elsewhere_is_the_call_as_it_came_in(url: str) -> None:
    _, twiml = answer("fallback", table(), ErrorUrl=url, CallStatus="in-progress")
    assert twiml[0][0].text == "+14155550199"


def test_a_call_that_was_placed_and_fails_is_apologised_for() -> None:
    _, twiml = answer("fallback", table(), Direction="outbound-api")
    assert [child.tag for child in twiml] == ["Say", "Hangup"]


@pytest.mark.parametrize("kind", ["dial", "fallback"])
@pytest.mark.parametrize("status", ["completed", "no-answer", "canceled"])
@pytest.mark.parametrize("dial", ["canceled", "no-answer"])
def test_a_caller_who_gave_up_is_forwarded_to_nobody(kind: str, dial: str, status: str) -> None:
    gone = {"DialCallStatus": dial, "CallStatus": status}
    query = "?stage=agent" if kind == "dial" else ""
    event, twiml = answer(kind, table(), query, **failed_action(**gone))
    assert [child.tag for child in twiml] == ["Hangup"]
    assert (event.type, event.data.disposition) == ("call.ended", "canceled")
    assert event.data.decision is None


def test_how_a_caller_who_has_gone_ended_is_left_open_where_nobody_says() -> None:
    """They may have talked to the agent before /dial failed."""
    event, twiml = answer("fallback", table(), **failed_action(CallStatus="completed"))
    assert [child.tag for child in twiml] == ["Hangup"]
    assert (event.type, event.data.disposition) == ("call.ended", None)


@pytest.mark.parametrize(
    "caller", ["client:bob", "sip:bob@example.com", "anonymous", "", "+464", "Bob Smith"]
)
def test_the_fallback_of_a_caller_without_a_number_is_shown_the_called_one(caller: str) -> None:
    """Else Twilio does not dial it."""
    _, twiml = answer("dial", table(), "?stage=agent", DialCallStatus="busy", From=caller)
    assert twiml[0].get("callerId") == "+14155550100"
    assert twiml[0][0].text == "+14155550199"


def test_the_fallback_is_shown_the_callers_number() -> None:
    _, twiml = answer("dial", table(), "?stage=agent", DialCallStatus="busy")
    assert "callerId" not in twiml[0].attrib


def test_after_a_disaster_the_caller_is_put_through_to_a_person() -> None:
    """LiveKit has just not been reached: not to it again as long as there is somebody else."""
    event, twiml = answer("disaster", table())
    assert twiml[0][0].text == "+14155550199"
    assert event.data.stage == "route"


def test_after_a_disaster_without_fallback_livekit_is_dialled_once_more() -> None:
    event, twiml = answer("disaster", table(fallback=""))
    dial, sip = twiml[0], twiml[0][0]
    assert sip.text == f"sip:{event.call_id}@sip.example.com;transport=tcp"
    query = "?" + dial.attrib["action"].partition("?")[2]
    _, last = answer("dial", table(fallback=""), query, DialCallStatus="failed")
    assert [child.tag for child in last] == ["Say", "Hangup"]


def test_after_a_disaster_an_unknown_number_hears_the_apology() -> None:
    _, twiml = answer("disaster", RouteTable())
    assert [child.tag for child in twiml] == ["Say", "Hangup"]


def test_status_callbacks_get_no_content() -> None:
    twilio = source()
    event = twilio.parse(twilio.verify(request("status", form(CallStatus="completed"))))[0]
    assert twilio.reply("status", event) == (204, b"", "text/plain")


def test_a_porting_webhook_wants_200() -> None:
    twilio = source()
    told = {"port_in_request_sid": "KW" + "0a" * 16, "status": "completed"}
    event = twilio.parse(twilio.verify(json_request("porting", told)))[0]
    assert twilio.reply("porting", event) == (200, b"", "text/plain")


def test_credentials_and_texts_can_not_break_the_document() -> None:
    answers = Answers(
        public_url=PUBLIC_URL,
        target=SipTarget("h", "tls", 'u"&<', "p'>&"),
        dial_timeout=20,
        apology="<Hangup/> & co",
        language="en-US",
    )
    sip = ET.fromstring(answers.to_agent("a-call"))[0][0]
    assert (sip.get("username"), sip.get("password")) == ('u"&<', "p'>&")
    assert ET.fromstring(answers.apology)[0].text == "<Hangup/> & co"


def test_only_numbers_are_dialled() -> None:
    with pytest.raises(ValueError, match=r"E\.164"):
        source()._answers.to_number("+1</Number><Dial>", caller="", called="")


def test_a_caller_id_is_a_number() -> None:
    twiml = source()._answers.to_number("+14155550199", caller="client:bob", called="sip:a@b")
    assert "callerId" not in ET.fromstring(twiml)[0].attrib


def test_a_sip_uri_that_twilio_would_refuse_stops_the_start() -> None:
    """It takes fewer than 255 characters."""
    rest = len(SipTarget("", "tcp", "u", "p").uri(call_id("", "", "")))
    _dialling("h" * (254 - rest))
    with pytest.raises(ValueError, match="sip_host"):
        _dialling("h" * (255 - rest))


def _dialling(host: str) -> Answers:
    return Answers(
        public_url=PUBLIC_URL,
        target=SipTarget(host, "tcp", "u", "p"),
        dial_timeout=20,
        apology="",
        language="en-US",
    )

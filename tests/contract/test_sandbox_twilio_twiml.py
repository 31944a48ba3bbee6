"""TwiML is read strictly by Twilio's stand-in."""

import pytest

from router.sandbox.twilio.errors import TwilioError
from router.sandbox.twilio.sip_uri import parse_sip_uri
from router.sandbox.twilio.twiml import Dial, Hangup, Pause, Redirect, Reject, Say, parse

SIP = "sip:a-call-id@sip.example;transport=tcp"


def response(inner: str) -> bytes:
    return f'<?xml version="1.0"?><Response>{inner}</Response>'.encode()


def code(document: bytes) -> int:
    with pytest.raises(TwilioError) as caught:
        parse(document)
    return caught.value.code


def test_every_verb() -> None:
    document = response(
        "<Say voice='alice'>Hello</Say><Play>tone.wav</Play><Pause length='3'/><Pause/>"
        "<Reject reason='busy'/><Redirect method='GET'>/next</Redirect><Hangup/>"
    )
    assert parse(document) == [
        Say("Hello"),
        Say("tone.wav"),
        Pause(3),
        Pause(1),
        Reject("busy"),
        Redirect("/next", "GET"),
        Hangup(),
    ]


def test_a_dial_with_everything() -> None:
    (dial,) = parse(
        response(
            '<Dial answerOnBridge="true" timeout="12" timeLimit="60" action="/dial" method="GET"'
            ' callerId="+15550000001"><Sip username="u" password="p" statusCallback="/status"'
            ' statusCallbackEvent="initiated answered" statusCallbackMethod="GET">'
            f"{SIP}?x-route-id=a%20b</Sip></Dial>"
        )
    )
    assert isinstance(dial, Dial)
    assert (dial.timeout, dial.time_limit, dial.answer_on_bridge) == (12, 60, True)
    assert (dial.action, dial.method, dial.caller_id) == ("/dial", "GET", "+15550000001")
    target = dial.target
    assert (target.status_callback, target.method) == ("/status", "GET")
    assert list(target.events) == ["initiated", "answered"]
    uri = target.uri
    assert uri is not None
    assert (uri.user, uri.host, uri.transport) == ("a-call-id", "sip.example", "tcp")
    assert (uri.username, uri.password, dict(uri.headers)) == ("u", "p", {"x-route-id": "a b"})
    assert "password" not in repr(uri)


def test_the_defaults_of_a_dial() -> None:
    (dial,) = parse(response("<Dial><Number>+15550000001</Number></Dial>"))
    assert isinstance(dial, Dial)
    assert (dial.timeout, dial.time_limit, dial.answer_on_bridge) == (30, 4 * 3600, False)
    assert (dial.target.text, dial.target.uri) == ("+15550000001", None)
    assert list(dial.target.events) == ["completed"]
    assert parse(response("<Dial>+15550000001</Dial>")) != []


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"no xml",
        b"<Response>",
        b'<!DOCTYPE x [<!ENTITY a "b">]><Response/>',
        b"<Response>" + b" " * 65536 + b"</Response>",
    ],
)
def test_what_is_no_xml_is_12100(document: bytes) -> None:
    assert code(document) == 12100


@pytest.mark.parametrize(
    "inner",
    [
        "<Speak>Hello</Speak>",
        "<say>Hello</say>",
        "<Sip>sip:a@b</Sip>",
        "<Say colour='red'>Hello</Say>",
        "<Say><Pause/></Say>",
        "<Dial answerOnBridge='yes'>+15550000001</Dial>",
        "<Dial timeout='soon'>+15550000001</Dial>",
        "<Dial timeout='601'>+15550000001</Dial>",
        "<Dial method='PUT'>+15550000001</Dial>",
        "<Pause length='-1'/>",
        "<Reject reason='rude'/>",
        "<Dial><Sip statusCallbackEvent='answered,completed'>sip:a@b</Sip></Dial>",
        "<Dial><Fax>+15550000001</Fax></Dial>",
    ],
)
def test_what_is_no_twiml_is_12200(inner: str) -> None:
    assert code(response(inner)) == 12200


def test_the_root_must_be_response() -> None:
    assert code(b"<Twiml/>") == 12200


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ("<Dial><Say>Hello</Say></Dial>", 13215),
        ("<Dial><Number>5550000001</Number></Dial>", 13223),
        ("<Dial></Dial>", 13223),
        ("<Dial><Sip>a@b</Sip></Dial>", 13243),
        (f"<Dial><Sip>sip:{'a' * 255}@b</Sip></Dial>", 13243),
        ("<Dial><Sip>sip:a@b;transport=sctp</Sip></Dial>", 13243),
        ("<Dial><Sip>sip:a@b?route=1</Sip></Dial>", 13243),
        ("<Dial><Sip>sip:a@b</Sip><Sip>sip:c@d</Sip></Dial>", 13250),
    ],
)
def test_what_can_not_be_dialled(inner: str, expected: int) -> None:
    assert code(response(inner)) == expected


def test_a_sip_uri_has_254_characters_at_most() -> None:
    longest = "sip:" + "a" * (254 - len("sip:@b")) + "@b"
    assert len(longest) == 254
    assert parse_sip_uri(longest, "", "").host == "b"
    with pytest.raises(TwilioError, match="13243"):
        parse_sip_uri("sip:a" + longest[4:], "", "")

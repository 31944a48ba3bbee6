"""LiveKit's webhooks: the protocol's own token signs, we verify; and what they become."""

import json
from base64 import b64encode
from datetime import timedelta
from hashlib import sha256
from typing import Any

import jwt
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from livekit import api
from livekit.protocol import models
from multidict import CIMultiDict

from router.errors import BadPayload, BadSignature, ConfigError
from router.events.ids import call_id
from router.events.model import Event
from router.events.types import EventType
from router.provider import WebhookRequest
from router.providers.livekit import client
from router.providers.livekit.message import read
from router.providers.livekit.source import LiveKitSource

KEY, SECRET = "devkey", "a-secret-of-thirty-two-characters"
ROOM = call_id("twilio", "AC1", "CA1")
NOW = 1_780_000_000_000_000


def token(body: bytes, *, key: str = KEY, secret: str = SECRET, **claims: Any) -> str:
    """What LiveKit's own library signs a body with, at `NOW` and not at the machine's time."""
    built = api.AccessToken(key, secret).with_ttl(timedelta(minutes=5))
    built.with_sha256(b64encode(sha256(body).digest()).decode())
    raw: dict[str, Any] = jwt.decode(built.to_jwt(), options={"verify_signature": False})
    times = {name: raw[name] - raw["nbf"] + NOW // 1_000_000 for name in ("nbf", "exp")}
    own = {name: value for name, value in (raw | times | claims).items() if value is not None}
    return jwt.encode(own, secret, "HS256")


def request(body: bytes, authorization: str, *, later: float = 0.0) -> WebhookRequest:
    headers = CIMultiDict({"Authorization": authorization})
    return WebhookRequest("", "/webhooks/livekit", headers, body, NOW + round(later * 1_000_000))


def body(event: str, room: str = ROOM, **more: Any) -> bytes:
    message = {"event": event, "id": "EV_1", "createdAt": str(NOW // 1_000_000)} | more
    return json.dumps(message | {"room": {"name": room, "sid": "RM_1"}}).encode()


def parsed(content: bytes) -> Event:
    source = LiveKitSource({KEY: SECRET})
    return source.parse(source.verify(request(content, token(content))))[0]


def participant(kind: str | int, **more: Any) -> dict[str, Any]:
    return {"sid": "PA_1", "identity": "x", "kind": kind} | more


def test_another_body_is_refused() -> None:
    source = LiveKitSource({KEY: SECRET})
    with pytest.raises(BadSignature, match="sha256"):
        source.verify(request(body("room_started"), token(body("room_finished"))))


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_changed_byte_is_refused(place: int, change: int) -> None:
    content = body("room_started")
    changed = bytearray(content)
    changed[place % len(changed)] ^= change
    with pytest.raises(BadSignature):
        LiveKitSource({KEY: SECRET}).verify(request(bytes(changed), token(content)))


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer x",
        "é",
        token(body("room_started"), secret="another-secret-of-32-characters--"),
        token(body("room_started"), key="another"),
        token(body("room_started"), sha256=None),
        token(body("room_started"), sha256=7),
        token(body("room_started"), exp=None),
        token(body("room_started"), exp=1),
        token(body("room_started"), exp="tomorrow"),
        token(body("room_started"), exp=float("nan")),
        token(body("room_started"), exp=[9_999_999_999]),
        token(body("room_started"), nbf=NOW // 1_000_000 + 90),
        token(body("room_started"), iat=NOW // 1_000_000 + 90),
        jwt.encode({"iss": KEY, "exp": 9_999_999_999}, "", "none"),
    ],
)
def test_other_tokens_are_refused(authorization: str) -> None:
    with pytest.raises(BadSignature):
        LiveKitSource({KEY: SECRET}).verify(request(body("room_started"), authorization))


@pytest.mark.parametrize("later", [-59, 0, 359])
def test_a_token_holds_at_the_time_when_it_was_received(later: float) -> None:
    content = body("room_started")
    LiveKitSource({KEY: SECRET}).verify(request(content, token(content), later=later))


@pytest.mark.parametrize(("later", "why"), [(-61, "is ahead"), (361, "has expired")])
def test_a_token_of_another_time_is_refused(later: float, why: str) -> None:
    content = body("room_started")
    with pytest.raises(BadSignature, match=why):
        LiveKitSource({KEY: SECRET}).verify(request(content, token(content), later=later))


def test_several_keys() -> None:
    content = body("room_started")
    source = LiveKitSource({"old": "an-old-secret-of-32-characters---", KEY: SECRET})
    source.verify(request(content, token(content)))


@pytest.mark.parametrize("secret", ["", "ssh-ed25519 AAAA"])
def test_a_secret_that_signs_nothing_is_a_wrong_setting(secret: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LiveKitSource({KEY: SECRET, "another": secret})
    assert caught.value.key == "livekit.webhook_keys"


@pytest.mark.parametrize(
    "content",
    [
        *(b"{", b"[]", b"\xff", b"{}", b'{"event": 7}', b"[" * 5000, b'{"event": NaN}'),
        b'{"event": "x", "id": "EV_1", "new": %b1%b}' % (b"[" * 200, b"]" * 200),
        b'{"event": "x", "id": "EV_1", "createdAt": 1%b}' % (b"0" * 400),
    ],
)
def test_signed_but_unreadable(content: bytes) -> None:
    with pytest.raises(BadPayload):
        parsed(content)


def test_the_field_that_is_wrong_is_named_and_its_value_is_not() -> None:
    who = participant("SIP", identity=[14155550100])
    with pytest.raises(BadPayload, match=r"participant\.identity") as caught:
        parsed(body("participant_joined", participant=who))
    assert "14155550100" not in str(caught.value)


@pytest.mark.parametrize("odd", [None, 7, 1.5, True, [], {"a": None}])
def test_an_attribute_that_is_no_text_costs_nothing_but_itself(odd: object) -> None:
    known = {"sip.callStatus": "active", "sip.ruleID": "SDR_1", "sip.callID": "SCL_1"}
    event = parsed(
        body("participant_joined", participant=participant("SIP", attributes=known | {"x": odd}))
    )
    assert (event.type, event.data.status) == (EventType.SIP_JOINED, "active")
    alone = parsed(body("participant_joined", participant=participant("AGENT", attributes=odd)))
    assert alone.type == EventType.AGENT_JOINED


def test_a_number_in_an_attribute_is_the_text_that_it_is_written_as() -> None:
    who = participant("SIP", attributes={"sip.twilio.callSid": 14155550100, "sip.callStatus": None})
    event = parsed(body("participant_joined", participant=who))
    assert (event.data.provider_call_id, event.data.status) == ("14155550100", "")


@pytest.mark.parametrize(
    ("track", "heard"),
    [
        ({"type": "AUDIO"}, True),
        ({"type": 0}, True),
        ({}, True),  # the enum's default is AUDIO
        ({"type": "AUDIO", "muted": None}, True),
        ({"type": "AUDIO", "muted": True}, False),
        ({"type": "VIDEO"}, False),
        ({"type": "DATA"}, False),
    ],
)
def test_webhook_and_api_agree_on_who_can_be_heard(track: dict[str, Any], heard: bool) -> None:
    info = models.ParticipantInfo(kind=models.ParticipantInfo.Kind.AGENT)
    json_format.ParseDict({"tracks": [track]}, info)
    assert client.participant(info).publishes_audio is heard
    told = read({"participant": {"tracks": [track, None]}}).participant.participant
    assert told.publishes_audio is heard
    event = parsed(body("track_published", participant=participant("AGENT"), track=track))
    assert (event.type == EventType.AGENT_READY) is heard


@pytest.mark.parametrize(
    ("event", "kind", "expected"),
    [
        ("participant_joined", "SIP", EventType.SIP_JOINED),
        ("participant_joined", "AGENT", EventType.AGENT_JOINED),
        ("participant_joined", "STANDARD", EventType.PROVIDER_UNKNOWN),
        ("participant_left", "SIP", EventType.SIP_LEFT),
        ("participant_left", "AGENT", EventType.AGENT_LEFT),
        ("newly_invented", "AGENT", EventType.PROVIDER_UNKNOWN),
    ],
)
def test_participants(event: str, kind: str, expected: EventType) -> None:
    told = parsed(body(event, participant=participant(kind)))
    assert (told.type, told.key, told.call_id) == (expected, ROOM, ROOM)


def test_an_agents_audio_is_ready() -> None:
    told = parsed(
        body(
            "track_published",
            participant=participant("AGENT", attributes={"lk.agent_name": "anna"}),
            track={"sid": "TR_1", "type": "AUDIO"},
        )
    )
    assert (told.type, told.data.agent, told.data.leg_id) == (EventType.AGENT_READY, "anna", "PA_1")


def test_a_track_webhook_without_kind_goes_by_the_identity() -> None:
    who = {"sid": "PA_1", "identity": "agent-AJ_x"}
    told = parsed(body("track_published", participant=who, track={"type": "AUDIO"}))
    assert told.type == EventType.AGENT_READY
    caller = {"sid": "PA_2", "identity": "sip_+1"}
    told = parsed(body("track_published", participant=caller, track={"type": "AUDIO"}))
    assert told.type == EventType.PROVIDER_UNKNOWN


@pytest.mark.parametrize("event", ["room_started", "room_finished", "newly_invented"])
def test_rooms_that_are_not_calls_are_kept_as_unknown(event: str) -> None:
    told = parsed(body(event, room="standup"))
    assert (told.type, told.key, told.call_id) == (EventType.PROVIDER_UNKNOWN, "standup", "")
    assert told.data.room == "standup"


def test_a_repeated_id_is_the_same_event_and_another_one_is_not() -> None:
    """For all that is not about a participant, whose events the poll makes too."""
    for event in ("room_started", "track_unpublished", "newly_invented"):
        first, again = parsed(body(event)), parsed(body(event))
        other = parsed(body(event, id="EV_2"))
        assert first.id == again.id != other.id


def test_kinds_and_reasons_that_nobody_heard_of_are_no_error() -> None:
    who = participant(97, disconnectReason=98)
    assert parsed(body("participant_left", participant=who)).type == EventType.PROVIDER_UNKNOWN


def test_the_same_webhook_is_the_same_event_and_headers_stay_out() -> None:
    attributes = {"sip.h.proxy-authorization": "Digest secret", "sip.twilio.callSid": "CA1"}
    content = body("participant_joined", participant=participant("SIP", attributes=attributes))
    told = parsed(content)
    assert told == parsed(content)
    assert told.data.provider_call_id == "CA1"
    assert "secret" not in str(told.data.raw)


def test_what_this_version_does_not_know_is_kept() -> None:
    told = parsed(body("agent_job_invented", newField={"turn_password": "secret", "kept": 1}))
    assert told.data.raw["newField"] == {"kept": 1}


def test_the_carriers_id_of_the_call_is_kept() -> None:
    attributes = {"sip.telnyx.callSessionID": "session-1", "sip.callID": "SCL_1"}
    who = participant("SIP", attributes=attributes)
    assert parsed(body("participant_joined", participant=who)).data.provider_call_id == "session-1"
    who = participant("SIP", attributes={"sip.callID": "SCL_1"})
    assert parsed(body("participant_joined", participant=who)).data.provider_call_id == ""

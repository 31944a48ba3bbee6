"""LiveKit's webhooks: the protocol's own token signs, we verify; and what they become."""

import json
from base64 import b64encode
from datetime import timedelta
from hashlib import sha256
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from livekit import api
from multidict import CIMultiDict

from router.errors import BadPayload, BadSignature
from router.events.ids import call_id
from router.events.model import Event
from router.events.types import EventType
from router.provider import WebhookRequest
from router.providers.livekit.source import LiveKitSource

KEY, SECRET = "devkey", "a-secret-of-thirty-two-characters"
ROOM = call_id("twilio", "AC1", "CA1")
NOW = 1_780_000_000_000_000


def token(body: bytes, *, key: str = KEY, secret: str = SECRET, **claims: Any) -> str:
    built = api.AccessToken(key, secret).with_ttl(timedelta(minutes=5))
    built.with_sha256(b64encode(sha256(body).digest()).decode())
    if claims:
        raw = jwt.decode(built.to_jwt(), options={"verify_signature": False}) | claims
        return jwt.encode({k: v for k, v in raw.items() if v is not None}, secret, "HS256")
    return built.to_jwt()


def request(body: bytes, authorization: str) -> WebhookRequest:
    return WebhookRequest(
        "", "/webhooks/livekit", CIMultiDict({"Authorization": authorization}), body, NOW
    )


def body(event: str, room: str = ROOM, **more: Any) -> bytes:
    message = {"event": event, "id": "EV_1", "createdAt": str(NOW // 1_000_000)} | more
    return json.dumps(message | {"room": {"name": room, "sid": "RM_1"}}).encode()


def parsed(content: bytes) -> Event:
    source = LiveKitSource({KEY: SECRET})
    return source.parse(source.verify(request(content, token(content))))[0]


def participant(kind: str, **more: Any) -> dict[str, Any]:
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
        jwt.encode({"iss": KEY, "exp": 9_999_999_999}, "", "none"),
    ],
)
def test_other_tokens_are_refused(authorization: str) -> None:
    with pytest.raises(BadSignature):
        LiveKitSource({KEY: SECRET}).verify(request(body("room_started"), authorization))


def test_several_keys() -> None:
    content = body("room_started")
    source = LiveKitSource({"old": "an-old-secret-of-32-characters---", KEY: SECRET})
    source.verify(request(content, token(content)))


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"{}", b'{"event": 7}', b"[" * 5000])
def test_signed_but_unreadable(content: bytes) -> None:
    with pytest.raises(BadPayload):
        parsed(content)


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


def test_rooms_that_are_not_calls_are_kept_as_unknown() -> None:
    told = parsed(body("participant_joined", room="standup", participant=participant("SIP")))
    assert (told.type, told.key, told.call_id) == (EventType.PROVIDER_UNKNOWN, "standup", "")


def test_the_same_webhook_is_the_same_event_and_headers_stay_out() -> None:
    attributes = {"sip.h.proxy-authorization": "Digest secret", "sip.twilio.callSid": "CA1"}
    content = body("participant_joined", participant=participant("SIP", attributes=attributes))
    told = parsed(content)
    assert told == parsed(content)
    assert told.data.provider_call_id == "CA1"
    assert "secret" not in str(told.data.raw)

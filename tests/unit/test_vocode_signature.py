"""Who may post to Vocode's URL: the secret in its path, and the signature of external actions."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from config import ConfigProblem, load
from router.clock import SystemClock
from router.errors import BadPayload, BadSignature, ConfigError
from router.events.types import EventType
from router.provider import ProviderContext, SipTarget, WebhookRequest
from router.providers.vocode import PROVIDER
from router.providers.vocode.source import VocodeSource
from tests.providers.vocode.case import ACTION_SECRETS, HEADER, NOW, SECRETS, signed

PATH = f"/webhooks/vocode/{SECRETS[0]}"
MESSAGE = {"type": "event_message", "call_id": "c", "payload": {"text": "Hello"}}
ACTION = {"call_id": "c", "payload": {"length": "30m"}}


def configured(
    secrets: Sequence[str] = SECRETS, action_secrets: Sequence[str] = ACTION_SECRETS
) -> VocodeSource:
    vocode = {"secrets": list(secrets), "action_secrets": list(action_secrets)}
    settings = load(overrides={"providers": {"vocode": vocode}})
    context = ProviderContext(
        settings, SipTarget("sip.example.com", "tls", "u", "p"), SystemClock()
    )
    assert PROVIDER.is_configured(settings) is bool(secrets or action_secrets)
    source = PROVIDER.source(context)
    assert isinstance(source, VocodeSource)
    return source


def request(
    message: Any = MESSAGE,
    target: str = PATH,
    *,
    method: str = "POST",
    signature: str | None = None,
    received_at: int = NOW,
) -> WebhookRequest:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    headers = {} if signature is None else {HEADER: signature}
    return WebhookRequest("", target, CIMultiDict(headers), body, received_at, method)


@pytest.mark.parametrize("secret", SECRETS)
def test_each_secret_lets_in(secret: str) -> None:
    source = configured()
    verified = source.verify(request(target=f"/webhooks/vocode/{secret}"))
    assert source.parse(verified)[0].type is EventType.MESSAGE_SPOKEN


@pytest.mark.parametrize(
    "target",
    [
        "/webhooks/vocode/",
        f"/webhooks/vocode/{SECRETS[0][:-1]}",
        f"/webhooks/vocode/{SECRETS[0].upper()}",
        f"{PATH}/",
        f"{PATH}/x",
        f"{PATH}?",
        f"{PATH}?a=b",
        f"{PATH}#a",
        f"{PATH};a",
        f"{PATH}%20",
        f"//webhooks/vocode/{SECRETS[0]}",
        f"/webhooks/vocode/./{SECRETS[0]}",
        f"/webhooks/vocode/%{ord(SECRETS[0][0]):02x}{SECRETS[0][1:]}",
        f"https://calls.example.com{PATH}",
        f"/webhooks/vocode/{SECRETS[0]}\udcff",
        SECRETS[0],
        "",
    ],
)
def test_what_is_not_exactly_the_path_is_refused(target: str) -> None:
    with pytest.raises(BadSignature) as caught:
        configured().verify(request(target=target))
    assert SECRETS[0] not in f"{caught.value!r} {caught.value.__cause__!r}"


@given(target=st.text(max_size=80), method=st.sampled_from(["GET", "POST"]))
def test_no_other_target_lets_in(target: str, method: str) -> None:
    with pytest.raises(BadSignature):
        configured().verify(request(target=target, method=method))


def test_a_get_has_its_fields_in_the_query() -> None:
    target = f"{PATH}?type=event_message&call_id=c&text=Hello"
    source = configured()
    assert source.parse(source.verify(request(b"", target, method="GET")))[0].data.text == "Hello"
    with pytest.raises(BadSignature):
        source.verify(request(b"", target))


def test_without_secrets_nobody_is_let_in() -> None:
    source = configured(secrets=(), action_secrets=())
    for target in (PATH, "/webhooks/vocode/"):
        with pytest.raises(BadSignature):
            source.verify(request(target=target))


@pytest.mark.parametrize(
    "secret",
    [
        "hunter2",
        "",
        "x" * 21,
        "x" * 257,
        "a secret with spaces in it",
        "a/secret/with/slashes/in",
        "é" * 30,
    ],
)
def test_a_secret_that_does_not_fit_is_named(secret: str) -> None:
    with pytest.raises(ConfigProblem, match=r"providers\.vocode\.secrets\[1\]") as caught:
        configured(secrets=(SECRETS[0], secret))
    assert not secret or secret not in str(caught.value)
    assert SECRETS[0] not in str(caught.value)


@pytest.mark.parametrize("secret", ["not base64!", "", "abc"])
def test_an_action_secret_that_does_not_fit_is_named(secret: str) -> None:
    with pytest.raises(ConfigProblem, match=r"providers\.vocode\.action_secrets\[1\]") as caught:
        configured(action_secrets=(ACTION_SECRETS[0], secret))
    assert not secret or secret not in str(caught.value)


def test_secrets_of_actions_alone_are_a_mistake_and_not_a_provider_that_is_left_out() -> None:
    with pytest.raises(ConfigError, match=r"providers\.vocode\.secrets: is missing"):
        configured(secrets=())


@pytest.mark.parametrize("secret", ACTION_SECRETS)
@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":"), (" , ", " : ")])
def test_an_action_is_signed_over_its_bytes_or_over_what_python_makes_of_them(
    secret: str, separators: tuple[str, str]
) -> None:
    source = configured()
    canonical, body = (
        json.dumps(ACTION).encode(),
        json.dumps(ACTION, separators=separators).encode(),
    )
    for covered in (canonical, body):
        verified = source.verify(request(body, signature=signed(covered, secret)))
        event = source.parse(verified)[0]
        assert (event.type, event.data.raw) == (EventType.ACTION_PERFORMED, ACTION)


@pytest.mark.parametrize(
    ("message", "signature"),
    [
        (ACTION, None),
        (ACTION, ""),
        (ACTION, signed(b"something else")),
        (ACTION, signed(json.dumps(ACTION).encode(), "bm90IG91cnM=")),
        (ACTION, signed(json.dumps(ACTION).encode()).rstrip("=")),
        (ACTION, "\udcff"),
        (ACTION | {"type": ""}, None),
        (ACTION | {"type": None}, None),
        (ACTION | {"type": ["event_message"]}, None),
        ({"payload": {"length": "30m"}}, None),
        ({"conversation_id": "c", "payload": "30m"}, None),
        (MESSAGE, signed(b"something else")),  # who signs, signs rightly
        (b"[", signed(b"{")),
    ],
)
def test_an_action_that_is_not_signed_is_refused(message: Any, signature: str | None) -> None:
    with pytest.raises(BadSignature):
        configured().verify(request(message, signature=signature))


def test_an_action_is_posted() -> None:
    """The signature covers a body, and a query has none."""
    target = f"{PATH}?call_id=c&payload=%7B%7D"
    for signature in (None, signed(b"")):
        with pytest.raises(BadSignature):
            configured().verify(request(b"", target, method="GET", signature=signature))


@pytest.mark.parametrize("signature", [None, "anything"])
def test_without_action_secrets_the_path_is_enough(signature: str | None) -> None:
    source = configured(action_secrets=())
    event = source.parse(source.verify(request(ACTION, signature=signature)))[0]
    assert event.type is EventType.ACTION_PERFORMED


def test_an_action_is_told_that_it_was_recorded_and_nothing_more() -> None:
    source = configured()
    verified = source.verify(request(ACTION, signature=signed(json.dumps(ACTION).encode())))
    reply = source.reply("", source.parse(verified)[0])
    assert (reply.status, reply.content_type) == (200, "application/json")
    assert json.loads(reply.body) == {"result": {"recorded": True}}


def test_a_webhook_is_answered_with_nothing() -> None:
    source = configured()
    assert source.reply("", source.parse(source.verify(request()))[0]) == (200, b"", "text/plain")


def test_secrets_are_not_shown() -> None:
    source = configured()
    shown = [repr(source), repr(request()), repr(source.verify(request()))]
    assert not [text for text in shown for secret in (*SECRETS, *ACTION_SECRETS) if secret in text]


@given(body=st.binary(max_size=60), signature=st.none() | st.text(max_size=60))
def test_bodies_and_signatures_of_any_kind_make_no_error_of_ours(
    body: bytes, signature: str | None
) -> None:
    source = configured()
    with suppress(BadSignature, BadPayload):
        source.parse(source.verify(request(body, signature=signature)))

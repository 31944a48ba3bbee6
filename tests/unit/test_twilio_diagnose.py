"""What is said of a request that was refused: only what a right signature proves."""

from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from router.errors import BadSignature
from router.provider import WebhookRequest
from router.providers.twilio.keys import SETTINGS_HEADER
from tests.support.twilio_requests import (
    PUBLIC_URL,
    SHARED_KEY,
    SHARED_SECRET,
    SUBACCOUNT,
    SUBTOKEN,
    TOKEN,
    form,
    headers,
    json_request,
    request,
    shared_key_request,
    sign,
    source,
    with_headers,
)

VOICE = "/webhooks/twilio/voice"


def said(refused: WebhookRequest, **settings: Any) -> str:
    """The diagnosis of a request that really is refused."""
    twilio = source(**settings)
    with pytest.raises(BadSignature):
        twilio.verify(refused)
    found = twilio.diagnose(refused)
    assert found.isprintable()
    assert len(found) < 500
    assert not [secret for secret in (TOKEN, SUBTOKEN, SHARED_SECRET) if secret in found]
    return found


def test_another_host_that_the_request_was_sent_to() -> None:
    refused = with_headers(request(base="https://other.example.com"), Host="other.example.com")
    assert said(refused) == (
        "Twilio signed https://other.example.com/webhooks/twilio/voice: "
        'set public_url = "https://other.example.com"'
    )


@pytest.mark.parametrize(
    ("configured", "signed", "more"),
    [
        ("https://a.example.com", "https://b.example.com", {"X_Forwarded_Host": "b.example.com"}),
        (
            "https://a.example.com",
            "https://b.example.com",
            {"X_Forwarded_Host": "b.example.com, c"},
        ),
        ("https://a.example.com:9", "https://a.example.com:8", {"Host": "a.example.com:8"}),
        ("https://a.example.com", "https://a.example.com:8443", {"Host": "a.example.com:8443"}),
        ("https://a.example.com", "https://a.example.com:8443", {"X_Forwarded_Port": "8443"}),
        ("https://A.example.com", "https://a.example.com", {}),
        ("https://a.example.com", "https://A.example.com", {"Host": "A.example.com"}),
        ("https://a.example.com/tenant", "https://a.example.com", {}),
        ("https://a.example.com", "https://a.example.com/t", {"X_Forwarded_Prefix": "/t/"}),
        ("http://127.0.0.1:80", "https://127.0.0.1", {"X_Forwarded_Proto": "https"}),
        ("http://127.0.0.1", "http://[::1]:8080", {"Host": "[::1]:8080"}),
    ],
)
def test_the_variant_of_the_url_that_was_signed(
    configured: str, signed: str, more: dict[str, str]
) -> None:
    refused = with_headers(request(base=signed), **more)
    found = said(refused, public_url=configured)
    assert found.startswith(f"Twilio signed {signed}{VOICE}: set public_url = ")
    proposed = found.split('"')[1]
    source(public_url=proposed).verify(refused)


def test_http_is_what_twilio_should_not_have() -> None:
    found = said(request(base="http://calls.example.com"))
    assert found.startswith(f"Twilio signed http://calls.example.com{VOICE}: ")
    assert "https" in found


def test_a_slash_that_the_proxy_took_away() -> None:
    signed = replace(request("voice/"), kind="voice", target=VOICE)
    found = said(signed)
    assert f"signed {PUBLIC_URL}{VOICE}/:" in found
    assert f"{PUBLIC_URL}{VOICE}," in found


def test_credentials_in_the_url_are_not_repeated() -> None:
    refused = with_headers(request(base="https://user:hunter2@b.example.com"), Host="b.example.com")
    found = said(refused, public_url="https://user:hunter2@a.example.com")
    assert "hunter2" not in found
    assert "https://***@b.example.com" in found


def test_a_token_of_another_account() -> None:
    refused = request(token=SUBTOKEN)
    found = said(refused, accounts={SUBACCOUNT: [SUBTOKEN]})
    assert SUBACCOUNT in found
    assert "auth_tokens" in found


def test_a_header_that_was_removed_from_what_a_shared_key_signed() -> None:
    signed = shared_key_request()
    kept = {name: value for name, value in signed.headers.items() if name != SETTINGS_HEADER}
    found = said(
        replace(signed, headers=CIMultiDict(kept)),
        shared_keys={SHARED_KEY: SHARED_SECRET},
        tokens=(),
    )
    assert SETTINGS_HEADER in found


@pytest.mark.parametrize(
    ("fields", "arrived", "what"),
    [
        ({"From": "+12125550123"}, {"From": " 12125550123"}, "plus"),
        ({"City": "Köln"}, {"City": "Köln".encode().decode("latin-1")}, "Latin-1"),
        ({"Text": "a\nb"}, {"Text": "a\r\nb"}, "line ends"),
    ],
)
def test_a_form_that_was_encoded_anew(
    fields: dict[str, str], arrived: dict[str, str], what: str
) -> None:
    signed = request(fields={"CallSid": "CA1", **fields})
    body = urlencode({"CallSid": "CA1", **arrived}).encode()
    found = said(replace(signed, body=body))
    assert found.startswith("the form was encoded anew on the way")
    assert what in found


def test_a_content_type_that_was_changed() -> None:
    found = said(with_headers(request(), Content_Type="text/plain"))
    assert "Content-Type" in found


def test_json_that_was_written_anew() -> None:
    signed = json_request("events", [{"id": "1"}])
    assert "body was changed" in said(replace(signed, body=b'[{"id":"1"}]'))


@pytest.mark.parametrize(
    "refused",
    [
        request(token="a-strangers-key"),
        with_headers(request(token="a-strangers-key"), Host="evil.example.com"),
        with_headers(request(), X_Twilio_Signature=""),
        replace(request(base="https://b.example.com"), target=PUBLIC_URL + VOICE),
        replace(request(), body=b"x=" + b"y" * 20_000),
        replace(request(), body=b"\xff"),
        with_headers(request(base="https://b.example.com"), Host="b.example.com/evil"),
        with_headers(request(base="https://b.example.com"), Host="a b"),
        with_headers(request(base="https://b.example.com"), Host="b.example.com:99999"),
        with_headers(request(base="https://b.example.com"), X_Forwarded_Host="[:::::]:1"),
        with_headers(request(base="https://b.example.com"), X_Forwarded_Host="\udcff"),
    ],
)
def test_nothing_is_said_that_is_not_proven(refused: WebhookRequest) -> None:
    assert said(refused) == ""


@given(
    names=st.lists(
        st.sampled_from(
            "Host X-Forwarded-Host X-Forwarded-Proto X-Forwarded-Port X-Forwarded-Prefix "
            f"Content-Type X-Twilio-Signature {SETTINGS_HEADER}".split()
        ),
        max_size=6,
        unique=True,
    ),
    values=st.lists(st.text(max_size=40), min_size=6, max_size=6),
    body=st.binary(max_size=60),
    target=st.text(max_size=40),
)
def test_no_stranger_makes_it_fail_or_speak(
    names: list[str], values: list[str], body: bytes, target: str
) -> None:
    given = headers("a-signature") | dict(zip(names, values, strict=False))
    asked = WebhookRequest("voice", f"/{target}", CIMultiDict(given), body, 0)
    twilio = source(accounts={SUBACCOUNT: [SUBTOKEN]}, shared_keys={SHARED_KEY: SHARED_SECRET})
    assert twilio.diagnose(asked) == ""


def test_the_public_url_may_be_given_in_the_other_form_of_its_port() -> None:
    """Both forms are taken, so there is nothing to say."""
    fields = form()
    signed = headers(sign(VOICE, fields, base=f"{PUBLIC_URL}:443"))
    source().verify(
        WebhookRequest("voice", VOICE, CIMultiDict(signed), urlencode(fields).encode(), 0)
    )

"""Twilio's signature: the SDK signs, we verify; and everything that must not pass."""

import hashlib
import hmac
from base64 import b64encode
from dataclasses import replace
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, MultiDict
from twilio.request_validator import RequestValidator

from router.errors import BadPayload, BadSignature
from router.provider import WebhookRequest
from router.providers.twilio.signature import public_bases
from tests.support.twilio_requests import (
    NOW,
    PUBLIC_URL,
    TOKEN,
    form,
    headers,
    parsed,
    request,
    source,
)


def test_accepts_what_the_sdk_signed() -> None:
    source().verify(request())


def test_twilios_own_vector() -> None:
    # twilio.com/docs/usage/security#validating-requests, the documented example.
    fields = {
        "CallSid": "CA1234567890ABCDE",
        "Caller": "+14158675309",
        "Digits": "1234",
        "From": "+14158675309",
        "To": "+18005551212",
    }
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    assert RequestValidator("12345").compute_signature(url, fields) == (
        "RSOYDt4T1cUTdK1PDd93/VVr8B8="
    )
    signed = WebhookRequest(
        "voice",
        "/myapp.php?foo=1&bar=2",
        CIMultiDict(headers("RSOYDt4T1cUTdK1PDd93/VVr8B8=")),
        b"CallSid=CA1234567890ABCDE&Caller=%2B14158675309&Digits=1234"
        b"&From=%2B14158675309&To=%2B18005551212",
        NOW,
    )
    source(public_url="https://mycompany.com", tokens=("12345",)).verify(signed)


@pytest.mark.parametrize("tokens", [(TOKEN, "old"), ("new", TOKEN)])
def test_two_tokens_during_a_rotation(tokens: tuple[str, str]) -> None:
    source(tokens=tokens).verify(request())


def test_another_token_is_refused() -> None:
    with pytest.raises(BadSignature, match="does not match"):
        source(tokens=("another",)).verify(request())


def test_a_missing_header_is_refused_not_an_error() -> None:
    signed = request()
    bare = replace(signed, headers=CIMultiDict({"Content-Type": signed.headers["Content-Type"]}))
    with pytest.raises(BadSignature, match="no X-Twilio-Signature"):
        source().verify(bare)


@pytest.mark.parametrize("signature", ["é", "\udcff", "", " ", "x" * 8000, "RSOYDt4T1c"])
def test_odd_headers_are_refused_not_errors(signature: str) -> None:
    with pytest.raises(BadSignature):
        source().verify(replace(request(), headers=CIMultiDict(headers(signature))))


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_changed_byte_of_the_body_is_refused(place: int, change: int) -> None:
    signed = request()
    body = bytearray(signed.body)
    body[place % len(body)] ^= change
    changed = replace(signed, body=bytes(body))
    try:
        source().verify(changed)
    except BadSignature:
        return
    # `%2B` and `%2b`, `+` and `%20`: other bytes for the very same form.
    assert changed.body != signed.body
    assert source().verify(changed).content == source().verify(signed).content


def test_a_changed_query_is_refused() -> None:
    signed = request("dial", query="?stage=agent")
    source().verify(signed)
    with pytest.raises(BadSignature):
        source().verify(replace(signed, target="/webhooks/twilio/dial?stage=fallback"))


@pytest.mark.parametrize(
    ("configured", "signed_with"),
    [
        ("https://calls.example.com", "https://calls.example.com:443"),
        ("https://calls.example.com:443", "https://calls.example.com"),
        ("https://user:pass@calls.example.com", "https://user:pass@calls.example.com:443"),
        ("https://user:pass@calls.example.com:8443", "https://user:pass@calls.example.com:8443"),
        ("https://user:pass@calls.example.com:8443", "https://user:pass@calls.example.com"),
        ("https://calls.example.com:8443/tenant", "https://calls.example.com/tenant"),
        ("http://[::1]:80", "http://[::1]"),
        ("http://[::1]:8080", "http://[::1]"),
        ("https://s", "https://s:443"),
        ("https://calls.example.com/tenant/7", "https://calls.example.com:443/tenant/7"),
    ],
)
def test_a_port_may_be_there_or_not(configured: str, signed_with: str) -> None:
    assert signed_with in public_bases(configured)
    url = signed_with + "/webhooks/twilio/voice"
    text = url + "".join(k + v for k, v in sorted(form().items()))
    digest = hmac.new(TOKEN.encode(), text.encode(), "sha1").digest()
    signed = replace(request(), headers=CIMultiDict(headers(b64encode(digest).decode())))
    source(public_url=configured).verify(signed)


@pytest.mark.parametrize("signed_with", ["https://calls.example.com:9443", PUBLIC_URL + ":80"])
def test_another_port_is_refused(signed_with: str) -> None:
    with pytest.raises(BadSignature):
        source(public_url=f"{PUBLIC_URL}:8443").verify(request(base=signed_with))


def test_another_host_is_refused() -> None:
    with pytest.raises(BadSignature):
        source().verify(request(base="https://evil.example.com"))


@pytest.mark.parametrize("target", ["/webhooks/twilio/voice?", "/webhooks/twilio/%76oice"])
def test_the_target_counts_as_it_was_received(target: str) -> None:
    with pytest.raises(BadSignature):
        source().verify(replace(request(), target=target))


def test_an_absolute_target_is_refused() -> None:
    with pytest.raises(BadSignature, match="not a path"):
        source().verify(replace(request(), target=PUBLIC_URL + "/webhooks/twilio/voice"))


def with_more(*pairs: tuple[str, str]) -> WebhookRequest:
    """An incoming call whose form has more fields, signed by Twilio's SDK."""
    form_ = MultiDict([*form().items(), *pairs])
    signature = RequestValidator(TOKEN).compute_signature(PUBLIC_URL + request().target, form_)
    body = urlencode(list(form_.items())).encode()
    return replace(request(), body=body, headers=CIMultiDict(headers(signature)))


@pytest.mark.parametrize("name", ["CallSid", "To", "New"])
def test_a_field_has_one_value(name: str) -> None:
    """Or `To=+1415…&ToCity=` could be signed as `To=+1415…&To=City`."""
    signed = with_more((name, "1"), (name, "2"))
    verified = source().verify(signed)
    with pytest.raises(BadPayload, match="more than once"):
        source().parse(verified)


def test_what_is_repeated_without_saying_more_is_taken() -> None:
    """SIP headers of the caller's, too, may be there several times: no reason to hang up."""
    headers_ = [("SipHeader_X-Route", "b"), ("SipHeader_X-Route", "a")]
    event = parsed(with_more(("CallSid", form()["CallSid"]), *headers_, headers_[0]))[0]
    assert event.data.raw["SipHeader_X-Route"] == "b, a"
    assert event.id == parsed(request())[0].id


def test_bytes_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(BadSignature, match="UTF-8"):
        source().verify(replace(request(), body=b"CallSid=\xff\xfe"))


def test_too_many_fields_are_refused() -> None:
    with pytest.raises(BadSignature, match="too many"):
        source().verify(replace(request(), body=b"&".join(b"a%d=1" % i for i in range(500))))


class TestJsonBodies:
    """The body is covered only by its hash in the signed URL."""

    BODY = b'{"a": 1}'

    def request(self, body: bytes, claimed: str | None) -> WebhookRequest:
        target = "/webhooks/twilio/voice" + (f"?bodySHA256={claimed}" if claimed else "")
        text = (PUBLIC_URL + target).encode("utf-8", "surrogateescape")
        digest = hmac.new(TOKEN.encode(), text, "sha1").digest()
        given = headers(b64encode(digest).decode()) | {"Content-Type": "application/json"}
        return WebhookRequest("voice", target, CIMultiDict(given), body, NOW)

    def test_with_its_hash(self) -> None:
        source().verify(self.request(self.BODY, hashlib.sha256(self.BODY).hexdigest()))

    @pytest.mark.parametrize(
        "claimed", ["0" * 64, "é", "\udce4", "", hashlib.sha256(b"").hexdigest()]
    )
    def test_with_another_hash(self, claimed: str) -> None:
        with pytest.raises(BadSignature):
            source().verify(self.request(self.BODY, claimed))

    def test_without_a_hash_a_body_is_nobodys(self) -> None:
        with pytest.raises(BadSignature, match="nor covered"):
            source().verify(self.request(self.BODY, None))

    def test_an_upper_case_hash_is_not_twilios(self) -> None:
        upper = hashlib.sha256(self.BODY).hexdigest().upper()
        with pytest.raises(BadSignature):
            source().verify(self.request(self.BODY, upper))


@pytest.mark.parametrize(
    ("fields", "moved"),
    [
        ({"From": "+12125550123"}, b"Fro=m%2B12125550123"),
        ({"To": "+14155550100"}, b"T=o%2B14155550100"),
        ({"CallSid": "CA" + "0f" * 16}, b"CallSidCA=" + b"0f" * 16),
    ],
)
def test_a_shifted_boundary_signs_alike_but_does_not_parse(
    fields: dict[str, str], moved: bytes
) -> None:
    """`From=+1` and `Fro=m+1` give the same signed text; the strict schema is the second wall."""
    signed = request()
    name = next(iter(fields))
    kept = [p for p in signed.body.split(b"&") if not p.startswith(name.encode() + b"=")]
    shifted = replace(signed, body=b"&".join([*kept, moved]))
    try:
        verified = source().verify(shifted)
    except BadSignature:
        return  # sorting has put it elsewhere
    with pytest.raises(BadPayload):
        source().parse(verified)

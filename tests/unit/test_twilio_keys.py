"""Which key may sign for which account: several accounts, subaccounts, shared keys."""

import hmac
from base64 import b64encode
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from twilio.request_validator import RequestValidator

from router.errors import BadPayload, BadSignature
from router.events.ids import call_id
from router.events.types import EventType
from router.provider import WebhookRequest
from router.providers.twilio.keys import SETTINGS_HEADER
from tests.support.twilio_requests import (
    ACCOUNT,
    PUBLIC_URL,
    SHARED_KEY,
    SHARED_SECRET,
    SUBACCOUNT,
    SUBTOKEN,
    TOKEN,
    form,
    json_request,
    parsed,
    request,
    shared_key_request,
    source,
    with_headers,
)

TWO: dict[str, Any] = {"accounts": {SUBACCOUNT: [SUBTOKEN]}}
SHARED: dict[str, Any] = {
    "shared_keys": {SHARED_KEY: SHARED_SECRET, "other": "another-shared-secret"}
}
STRANGER = "AC" + "c3" * 16
ALERT = {"Sid": "NO" + "0a" * 16, "Level": "ERROR", "Payload": "{}"}


def settings_header(given: str) -> WebhookRequest:
    return with_headers(shared_key_request(), **{SETTINGS_HEADER.replace("-", "_"): given})


class TestAccounts:
    def test_each_account_signs_for_itself(self) -> None:
        for account, token in ((ACCOUNT, TOKEN), (SUBACCOUNT, SUBTOKEN)):
            event = parsed(request(fields=form(AccountSid=account), token=token), **TWO)[0]
            assert event.data.provider_account == account
            assert event.key == call_id("twilio", account, form()["CallSid"])

    @pytest.mark.parametrize(
        ("account", "token"), [(ACCOUNT, SUBTOKEN), (SUBACCOUNT, TOKEN), (STRANGER, SUBTOKEN)]
    )
    def test_no_account_signs_for_another(self, account: str, token: str) -> None:
        """Not the parent either: its key is asked for where Twilio uses it."""
        with pytest.raises(BadSignature):
            source(**TWO).verify(request(fields=form(AccountSid=account), token=token))

    def test_the_main_accounts_key_does_not_make_an_account_known(self) -> None:
        with pytest.raises(BadPayload, match="AccountSid"):
            parsed(request(fields=form(AccountSid=STRANGER)), **TWO)

    def test_two_tokens_of_a_subaccount_while_they_are_rotated(self) -> None:
        settings = {"accounts": {SUBACCOUNT: ["the-newest-of-its-tokens", SUBTOKEN]}}
        fields = form(AccountSid=SUBACCOUNT)
        for token in ("the-newest-of-its-tokens", SUBTOKEN):
            parsed(request(fields=fields, token=token), **settings)

    def test_an_account_named_twice_is_refused(self) -> None:
        signed = request(fields=form(AccountSid=SUBACCOUNT), token=SUBTOKEN)
        body = signed.body + b"&AccountSid=" + ACCOUNT.encode()
        pairs = sorted(set(parse_qsl(body.decode(), keep_blank_values=True)))
        text = PUBLIC_URL + signed.target + "".join(name + value for name, value in pairs)
        digest = b64encode(hmac.digest(SUBTOKEN.encode(), text.encode(), "sha1")).decode()
        doubled = replace(
            signed, body=body, headers=CIMultiDict({**signed.headers, "X-Twilio-Signature": digest})
        )
        with pytest.raises(BadPayload, match="more than once"):
            parsed(doubled, **TWO)

    def test_who_names_no_account_makes_no_call(self) -> None:
        fields = form()
        del fields["AccountSid"]
        for token in (TOKEN, SUBTOKEN):
            with pytest.raises(BadPayload, match="AccountSid"):
                parsed(request(fields=fields, token=token), **TWO)

    @pytest.mark.parametrize("token", [TOKEN, SUBTOKEN])
    def test_an_alert_of_a_subaccount_may_be_signed_by_its_parent(self, token: str) -> None:
        fields = ALERT | {"AccountSid": SUBACCOUNT, "ParentAccountSid": ACCOUNT}
        event = parsed(request("debugger", fields, token=token), **TWO)[0]
        assert (event.type, event.data.provider_account) == (EventType.PROVIDER_ALERTED, SUBACCOUNT)

    def test_a_parent_speaks_for_a_subaccount_that_has_no_key_here(self) -> None:
        fields = ALERT | {"AccountSid": STRANGER, "ParentAccountSid": ACCOUNT}
        assert parsed(request("debugger", fields), **TWO)[0].data.provider_account == STRANGER

    def test_nobody_becomes_a_parent_by_saying_so(self) -> None:
        fields = ALERT | {"AccountSid": ACCOUNT, "ParentAccountSid": SUBACCOUNT}
        with pytest.raises(BadPayload, match="AccountSid"):
            parsed(request("debugger", fields, token=SUBTOKEN), **TWO)
        calls = form(AccountSid=STRANGER, ParentAccountSid=ACCOUNT)
        with pytest.raises(BadPayload, match="AccountSid"):
            parsed(request(fields=calls), **TWO)

    def test_json_is_signed_by_the_account_that_wants_it(self) -> None:
        element = {"id": "VW1", "type": "com.twilio.new", "data": {"account_sid": SUBACCOUNT}}
        for token in (TOKEN, SUBTOKEN):
            event = parsed(json_request("events", [element], token=token), **TWO)[0]
            assert (event.data.provider_account, event.data.reason) == (SUBACCOUNT, "")

    def test_a_subaccounts_stream_says_nothing_of_its_parents_calls(self) -> None:
        element = {"id": "VW1", "type": "com.twilio.new", "data": {"account_sid": ACCOUNT}}
        said = json_request("events", [element, SUBACCOUNT], token=SUBTOKEN)
        event = parsed(said, **TWO)[0]
        assert event.type is EventType.PROVIDER_UNKNOWN
        assert (event.data.provider_account, event.data.call_id) == (SUBACCOUNT, "")
        assert "AccountSid" in event.data.reason


class TestSharedKeys:
    def test_what_the_sdk_signed_is_taken(self) -> None:
        assert parsed(shared_key_request(), **SHARED)[0].data.provider_account == ACCOUNT

    def test_any_of_the_configured_keys_but_each_with_its_own_secret(self) -> None:
        parsed(shared_key_request(key="other", secret="another-shared-secret"), **SHARED)
        for key, secret in ((SHARED_KEY, "another-shared-secret"), ("other", SHARED_SECRET)):
            with pytest.raises(BadSignature, match="does not match"):
                source(**SHARED).verify(shared_key_request(key=key, secret=secret))

    def test_it_speaks_for_every_configured_account_and_no_other(self) -> None:
        event = parsed(shared_key_request(fields=form(AccountSid=SUBACCOUNT)), **SHARED, **TWO)[0]
        assert event.data.provider_account == SUBACCOUNT
        with pytest.raises(BadPayload, match="AccountSid"):
            parsed(shared_key_request(fields=form(AccountSid=STRANGER)), **SHARED, **TWO)

    @pytest.mark.parametrize(
        "given",
        [
            "",
            " ",
            "key=unknown,algorithm=HMAC_SHA256",
            f"key={SHARED_KEY}",
            f"key={SHARED_KEY},algorithm=HMAC_SHA1",
            f"key={SHARED_KEY},algorithm=hmac_sha256",
            f"key={SHARED_KEY},algorithm=none",
            f"key={SHARED_KEY},algorithm=HMAC_SHA256,algorithm=HMAC_SHA1",
            f"algorithm=HMAC_SHA256,key={SHARED_KEY}",
            "algorithm=HMAC_SHA256",
            f"key={SHARED_KEY};algorithm=HMAC_SHA256",
            "\udcff",
            "x" * 9000,
        ],
    )
    def test_a_header_that_names_anything_else_is_refused(self, given: str) -> None:
        with pytest.raises(BadSignature, match=SETTINGS_HEADER):
            source(**SHARED).verify(settings_header(given))

    @pytest.mark.parametrize("given", ["", "key=unknown,algorithm=HMAC_SHA256", "junk"])
    def test_the_header_never_makes_an_auth_token_do(self, given: str) -> None:
        signed = with_headers(request(), **{SETTINGS_HEADER.replace("-", "_"): given})
        with pytest.raises(BadSignature, match=SETTINGS_HEADER):
            source(**SHARED).verify(signed)

    def test_taking_the_header_away_is_no_downgrade(self) -> None:
        signed = shared_key_request()
        kept = {name: value for name, value in signed.headers.items() if name != SETTINGS_HEADER}
        with pytest.raises(BadSignature, match="does not match"):
            source(**SHARED).verify(replace(signed, headers=CIMultiDict(kept)))

    def test_a_shared_secret_is_no_auth_token_nor_the_other_way_round(self) -> None:
        with pytest.raises(BadSignature):
            source(**SHARED).verify(request(token=SHARED_SECRET))
        with pytest.raises(BadSignature):
            source(**SHARED).verify(shared_key_request(secret=TOKEN))

    def test_with_shared_keys_only_sha1_is_refused(self) -> None:
        only = source(tokens=(), **SHARED)
        only.verify(shared_key_request())
        with pytest.raises(BadSignature, match="no Auth Token"):
            only.verify(request())

    def test_json_is_signed_with_them_too(self) -> None:
        plain = json_request("events", [{"id": "1", "type": "t"}])
        signature = RequestValidator(SHARED_SECRET).compute_signature(
            PUBLIC_URL + plain.target, {}, algorithm="HMAC_SHA256"
        )
        named = {
            "X-Twilio-Signature": signature,
            SETTINGS_HEADER: f"key={SHARED_KEY},algorithm=HMAC_SHA256",
        }
        signed = replace(plain, headers=CIMultiDict({**plain.headers, **named}))
        assert parsed(signed, **SHARED)[0].data.provider_account == ACCOUNT


@given(
    fields=st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1), st.text(st.characters(codec="utf-8"))
    ),
    algorithm=st.sampled_from(["HMAC_SHA1", "HMAC_SHA256"]),
)
def test_the_sdk_takes_what_we_take(fields: dict[str, str], algorithm: str) -> None:
    """In both directions: it signs and we verify; what it would refuse, we refuse."""
    if algorithm == "HMAC_SHA1":
        signed, secret = request(fields=fields), TOKEN
    else:
        signed, secret = shared_key_request(fields=fields), SHARED_SECRET
    given = signed.headers["X-Twilio-Signature"]
    source(**SHARED).verify(signed)
    url = PUBLIC_URL + signed.target
    assert RequestValidator(secret).validate(url, fields, given, algorithm)
    changed = fields | {"To": fields.get("To", "") + "0"}
    assert not RequestValidator(secret).validate(url, changed, given, algorithm)
    with pytest.raises(BadSignature):
        source(**SHARED).verify(replace(signed, body=signed.body + b"&New=1"))


def test_no_repr_holds_a_secret() -> None:
    whole = source(**SHARED, **TWO)
    verified = whole.verify(request())
    shown = repr(whole) + repr(verified) + repr(verified.content)
    assert not [secret for secret in (TOKEN, SUBTOKEN, SHARED_SECRET) if secret in shown]

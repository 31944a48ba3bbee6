"""Twilio's accounts, each with its Auth Token and the numbers that it holds."""

import base64
import binascii
import hmac
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from router.sandbox.call import NotInService
from router.sandbox.twilio.number import Number
from router.sandbox.twilio.webhook import WebhookSender

_MOST: Final = 1000  # accounts


@dataclass(slots=True, kw_only=True)
class IncomingNumber:
    """A number that an account holds: IncomingPhoneNumber of Twilio's API."""

    number: str  # E.164
    friendly_name: str
    created_at: int  # µs since the epoch
    sid: str = field(default_factory=lambda: "PN" + secrets.token_hex(16))
    voice_url: str = ""
    voice_method: str = "POST"
    voice_fallback_url: str = ""
    voice_fallback_method: str = "POST"
    status_callback: str = ""
    status_callback_method: str = "POST"

    def configuration(self) -> Number:
        """Where its calls go. Raises NotInService: nowhere."""
        if not self.voice_url:
            raise NotInService("the number is not in service: it has no voice URL at Twilio")
        return Number(
            voice_url=self.voice_url,
            voice_method=self.voice_method,
            voice_fallback_url=self.voice_fallback_url,
            voice_fallback_method=self.voice_fallback_method,
            status_callback=self.status_callback,
            status_callback_method=self.status_callback_method,
        )


class Account:
    """An account; its token signs the webhooks of its numbers."""

    def __init__(self, sid: str, auth_token: str) -> None:
        self.sid = sid
        self.sender = WebhookSender(auth_token)
        self.numbers: dict[str, IncomingNumber] = {}  # by sid
        self._credentials = f"{sid}:{auth_token}".encode()

    def authenticates(self, authorization: str) -> bool:
        """Whether a request's header proves that the account makes it."""
        scheme, _, encoded = authorization.partition(" ")
        try:
            given = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            return False
        return scheme == "Basic" and hmac.compare_digest(given, self._credentials)

    def holds(self, number: str) -> IncomingNumber | None:
        """The number, if the account has it."""
        return next((each for each in self.numbers.values() if each.number == number), None)


class Accounts:
    """All accounts; the main one is the operator's."""

    def __init__(self, main: Account) -> None:
        self.main = main
        self._accounts = {main.sid: main}

    def __iter__(self) -> Iterator[Account]:
        return iter(list(self._accounts.values()))

    def add(self, sid: str = "", auth_token: str = "") -> tuple[str, str]:
        """Another account; its sid and Auth Token, made where none is given.

        Raises:
            ValueError: there is one of that sid, or there are too many.
        """
        sid, token = sid or "AC" + secrets.token_hex(16), auth_token or secrets.token_hex(16)
        if sid in self._accounts or len(self._accounts) >= _MOST:
            raise ValueError("there is such an account already, or there are too many")
        self._accounts[sid] = Account(sid, token)
        return sid, token

    def of(self, authorization: str) -> Account | None:
        """Whose credentials these are."""
        return next((each for each in self if each.authenticates(authorization)), None)

    def holder(self, number: str) -> tuple[Account, IncomingNumber] | None:
        """Who has a number."""
        for account in self:
            held = account.holds(number)
            if held is not None:
                return account, held
        return None

    async def aclose(self) -> None:
        """Close the connections of all."""
        for account in self:
            await account.sender.aclose()

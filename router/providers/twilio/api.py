"""Twilio's REST API: what became of a call, and what becomes of it
(twilio.com/docs/voice/api/call-resource).

A caller whose agent was lost is in the middle of our `<Dial>`: new TwiML for the call ends that
dial and takes its place. Twilio still requests the dial's action, and follows no answer of it
(twilio.com/changelog/changes-to-dial-behavior-for-enhanced-programmable-sip-feature-accounts).

Each account is asked with its own Auth Token, the first of those that are configured, or that of
the connection by which the call came; an account whose webhooks are signed with shared keys alone
can't be asked.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import msgspec

from router.errors import Ambiguous, ConfigError, Permanent
from router.events.model import Disposition, Event
from router.provider import CallRef, Carrier, ProviderContext, Standing
from router.providers.twilio.keys import auth_tokens
from router.providers.twilio.reply import answers_of
from router.rest import Rest, open_rest

_NOT_IN_PROGRESS: Final = "21220"  # the call is over: nobody is left to be put through
_TIMEOUT: Final = 10.0  # seconds, of one request

# Every other status, those that Twilio may add included, is one of a call that goes on.
_ENDINGS: Final[Mapping[str, Disposition]] = {
    "completed": "answered",
    "busy": "busy",
    "no-answer": "no_answer",
    "failed": "failed",
    "canceled": "canceled",
}


@asynccontextmanager
async def open_carrier(context: ProviderContext) -> AsyncIterator[Carrier]:
    """Twilio as it can be asked, until the block ends."""
    url = context.settings.providers.twilio.api_url
    async with open_rest(
        name="Twilio", url=url, timeout=_TIMEOUT, code_of=_code, headers={}
    ) as rest:
        accounts = _Accounts(rest, context)
        yield Carrier(standing=accounts.standing, redirect=accounts.redirect)


class _Accounts:
    """A `Carrier`: each account's API, asked and told with its own Auth Token."""

    def __init__(self, rest: Rest, context: ProviderContext) -> None:
        self._rest = rest
        self._context = context
        self._connections = context.connections
        self._tokens = auth_tokens(context.settings.providers.twilio)

    async def standing(self, ref: CallRef) -> Standing | None:
        """See `Carrier`; Permanent also where there is no Auth Token of the call's account."""
        return await _standing(self._of(ref.provider_account, ref.connection_id), ref)

    async def redirect(self, call: Event, fallback: str) -> None:
        """See `Carrier`."""
        rest = self._of(call.data.provider_account, call.data.connection_id)
        await _redirect(rest, self._context, call, fallback)

    def _of(self, account: str, connection_id: str) -> Rest:
        """The account's; a tenant's is asked as their connection. Raises Permanent."""
        if connection_id:
            found = self._connections.get(connection_id)
            if found is None:
                raise Permanent("Twilio can't be asked: the connection is gone, or can't be opened")
            token = found.secrets.get("auth_token", "")
            return self._as(found.provider_account, token, account or found.provider_account)
        tokens = self._tokens.get(account)
        if not tokens:
            raise Permanent(
                "Twilio can't be asked: providers.twilio has no Auth Token of the account"
            )
        return self._as(account, tokens[0], account)

    def _as(self, user: str, token: str, account: str) -> Rest:
        headers = {"Authorization": aiohttp.encode_basic_auth(user, token)}
        path = f"/2010-04-01/Accounts/{quote(account, safe='')}"
        return self._rest.asking_as(headers, path=path)


async def _standing(rest: Rest, ref: CallRef) -> Standing | None:
    found = await rest.get(f"/Calls/{quote(ref.provider_call_id, safe='')}.json")
    if found is None:
        # A wrong api_url answers the same about every call, and the room of each would be closed.
        if await rest.get(".json") is None:
            raise Permanent("Twilio knows not even the account: is providers.twilio.api_url right?")
        return None
    try:
        call = msgspec.convert(found, _Call)
        ended_at = _micros(call.end_time)
        seconds = float(int(call.duration)) if call.duration else None
    except (ValueError, OverflowError) as error:  # msgspec's errors are ValueErrors
        raise Ambiguous("Twilio described a call in a way that can't be read") from error
    if call.status not in _ENDINGS:
        return Standing(over=False)
    return Standing(
        over=True, disposition=_ENDINGS[call.status], ended_at=ended_at, duration=seconds
    )


async def _redirect(rest: Rest, context: ProviderContext, call: Event, fallback: str) -> None:
    data = call.data
    try:
        answers = answers_of(context)
        document = answers.apology
        if fallback:
            document = answers.to_number(fallback, caller=data.from_number, called=data.to_number)
    except (ConfigError, ValueError) as error:
        raise Permanent(str(error)) from error
    try:
        await rest.post(
            f"/Calls/{quote(data.provider_call_id, safe='')}.json",
            form={"Twiml": document.decode()},
        )
    except Permanent as error:
        if error.code != _NOT_IN_PROGRESS:
            raise


class _Call(msgspec.Struct):
    """A call, as far as it is read; what is not known yet is null."""

    status: str
    end_time: str | None = None  # RFC 2822
    duration: str | None = None  # seconds


def _micros(moment: str | None) -> int:
    return int(parsedate_to_datetime(moment).timestamp()) * 1_000_000 if moment else 0


def _code(found: Any) -> str:
    return str(found.get("code", "")) if isinstance(found, dict) else ""

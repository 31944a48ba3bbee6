"""Telnyx's API v2: commands to calls, and what became of a call.

A call of a Call Control application is parked until a command says what happens to it
(developers.telnyx.com/api-reference/call-commands). `transfer` dials a new leg and connects the two
when it is answered; the caller's own leg stays up when it is not, and takes the next command.

| decision | of a call that came in | of a leg that was not answered |
|----------|------------------------|--------------------------------|
| dispatch | transfer to LiveKit    |                                |
| forward  | transfer to the number | transfer to the number         |
| reject   | reject, else hangup    | hangup                         |

A caller who was answered and whose agent was lost is transferred to the fallback, or hears the
apology before the call is hung up.

A caller must not be left ringing where Telnyx refuses a command for good (it may not dial that
number, it does not take a header): the fallback number is tried instead, then the call is ended.

Telnyx ignores a `command_id` that a call has seen in the last 60 seconds, and ours follow from the
event: repeating an event is safe for as long as anybody is on the line.
"""

import base64
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import quote

import msgspec

from config.settings import TelnyxSettings
from router.clock import Clock
from router.errors import Ambiguous, EffectError, Permanent
from router.events.codec import from_rfc3339
from router.events.ids import event_id
from router.events.model import Decision, Event
from router.events.phone import is_e164
from router.events.types import EventType
from router.observability import log
from router.provider import CallRef, Carrier, ProviderContext, SipTarget, Standing
from router.providers.telnyx.envelope import CONTROL_ID, PROVIDER, text
from router.providers.telnyx.missed import missed
from router.providers.telnyx.reply import Answers, answers_of
from router.rest import Rest, open_rest
from router.routing.scope import scoped
from router.routing.table import RouteTable

logger = log.get(__name__)

_TIMEOUT: Final = 10.0  # seconds, of one request
_VOICE: Final = "female"
_LETTERS: Final = 12.0  # a second, spoken slowly
_LONGEST_SPEECH: Final = 9.0  # seconds
_GONE: Final = "90018"  # "Call has already ended"
_INVALID_ID: Final = "90015"  # "Invalid Call Control ID"
# livekit-sip makes sip.telnyx.callSessionID and .callLegID of these two; a caller must not.
_SESSION_HEADER: Final = "X-call_session_id"
_LEG_HEADER: Final = "X-call_leg_id"
_RESERVED: Final = ("x-call_", "x-telnyx-", "x-twilio-")

Command = tuple[str, dict[str, Any]]
"""The action's name in the path, and its body."""


@asynccontextmanager
async def open_carrier(context: ProviderContext) -> AsyncIterator[Carrier]:
    """Telnyx as it can be told and asked, until the block ends."""
    settings = context.settings.providers.telnyx
    key = settings.api_key.get_secret_value()
    async with open_rest(
        name="Telnyx",
        url=settings.api_url,
        timeout=_TIMEOUT,
        code_of=_code,
        headers={"Authorization": f"Bearer {key}"},
    ) as rest:
        accounts = _Accounts(rest, context, _Commands(context.target, settings))
        yield Carrier(
            standing=accounts.standing,
            carry_out=accounts.carry_out,
            redirect=accounts.redirect,
            missed=accounts.missed,
        )


class _Accounts:
    """A `Carrier`: each account's API, asked and told with its own key."""

    def __init__(self, rest: Rest, context: ProviderContext, commands: "_Commands") -> None:
        telnyx = context.settings.providers.telnyx
        self._rest = rest
        self._commands, self._answers = commands, answers_of(context)
        self._clock = context.clock
        self._connections = context.connections
        self._has_operators = bool(telnyx.api_key.get_secret_value() or telnyx.public_keys)

    async def standing(self, ref: CallRef) -> Standing | None:
        """See `Carrier`."""
        return await _standing(self._of(ref.connection_id), ref)

    async def carry_out(self, event: Event) -> None:
        """See `Carrier`."""
        await _carry_out(self._of(event.data.connection_id), self._commands, event)

    async def redirect(self, call: Event, fallback: str) -> None:
        """See `Carrier`."""
        rest = self._of(call.data.connection_id)
        await _redirect(rest, self._commands, self._answers, self._clock, call, fallback)

    def _of(self, connection_id: str) -> Rest:
        """The operator's ("") or a connection's. Raises Permanent."""
        if not connection_id:
            return self._rest
        found = self._connections.get(connection_id)
        if found is None:
            raise Permanent("Telnyx can't be asked: the connection is gone, or can't be opened")
        key = found.secrets.get("api_key", "")
        return self._rest.asking_as({"Authorization": f"Bearer {key}"})

    async def missed(self, since: int) -> AsyncIterator[Event]:
        """See `Carrier.missed`: of the operator's account, then of each tenant's.

        Who refuses a tenant's key keeps nobody else's events away.
        """
        failure: EffectError | None = None
        if self._has_operators:
            try:
                async for event in missed(self._rest, self._clock, since):
                    yield event
            except EffectError as error:
                failure = error
        for found in self._connections.all(PROVIDER):
            # Of several that hold an account one is asked, none where the operator is.
            proof = self._connections.proof(self._connections.holders(PROVIDER, found.secrets))
            if proof.scope != found.connection_id:
                continue
            rest = self._of(found.connection_id)
            try:
                async for event in missed(rest, self._clock, since, rooms=False):
                    yield scoped(event, proof, RouteTable())
            except Permanent as error:
                logger.warning(
                    "telnyx.missed_refused", connection=found.connection_id, why=str(error)
                )
            except EffectError as error:
                failure = failure or error
        if failure is not None:
            raise failure


async def _carry_out(rest: Rest, commands: "_Commands", event: Event) -> None:
    """Raises Permanent also where something else was done instead: the decision was not."""
    data = event.data
    if data.decision is None or not data.control_id:
        return
    refusal: Permanent | None = None
    for number, (action, body) in enumerate(commands.of(event, data.decision)):
        body["command_id"] = event_id(PROVIDER, event.id, action, str(number))
        try:
            answer = await rest.post(f"{_path(data.control_id)}/actions/{action}", json=body)
        except Permanent as error:
            if error.code == _GONE:
                break  # the caller hung up meanwhile: nothing is left to be done
            logger.error(  # noqa: TRY400 - it says what is known: the code
                "telnyx.refused", action=action, call_id=event.call_id, why=str(error)
            )
            refusal = refusal or error
            continue
        if answer is None:  # the same, long ago; or providers.telnyx.api_url leads elsewhere
            logger.warning("telnyx.no_such_call", action=action, call_id=event.call_id)
        break
    if refusal is not None:
        raise refusal


async def _redirect(
    rest: Rest,
    commands: "_Commands",
    answers: Answers,
    clock: Clock,
    call: Event,
    fallback: str,
) -> None:
    """See `Carrier.redirect`: a caller who is bridged to LiveKit.

    The transfer leaves that bridge until the fallback answers, so LiveKit's room must not be closed
    before the SIP leg has left it: Telnyx would end both. A TeXML call gets a new document.
    """
    if not call.data.control_id:
        await _replace_texml(rest, answers, call, fallback)
        return
    try:
        if fallback and await _is_taken(rest, call, commands.put_through(call, fallback)):
            return
        if await _is_taken(rest, call, commands.apologise()):
            await clock.sleep(commands.speech)
            await _is_taken(rest, call, ("hangup", {}))
    except Permanent as error:
        if error.code != _GONE:
            raise


async def _replace_texml(rest: Rest, answers: Answers, call: Event, fallback: str) -> None:
    """See developers.telnyx.com/api-reference/texml-rest-commands/update-call."""
    data = call.data
    if not data.provider_account:
        raise Permanent("the webhook of a TeXML call did not say whose it is: AccountSid")
    try:
        document = answers.apology
        if fallback:
            document = answers.to_number(fallback, data.to_number, data.connection_id)
    except ValueError as error:
        raise Permanent(str(error)) from error
    account, own_id = quote(data.provider_account, safe=""), quote(data.provider_call_id)
    path = f"/texml/Accounts/{account}/Calls/{own_id}"
    try:
        await rest.post(path, form={"Texml": document.decode()})
    except Permanent as error:
        if error.code != _GONE:
            raise


async def _is_taken(rest: Rest, call: Event, command: Command) -> bool:
    """Whether Telnyx does it; Permanent where the call is over, False where it refuses for else."""
    action, body = command
    body["command_id"] = event_id(PROVIDER, call.id, "redirect", action)
    try:
        await rest.post(f"{_path(call.data.control_id)}/actions/{action}", json=body)
    except Permanent as error:
        if error.code == _GONE:
            raise
        logger.error(  # noqa: TRY400 - it says what is known: the code
            "telnyx.refused", action=action, call_id=call.call_id, why=str(error)
        )
        return False
    return True


async def _standing(rest: Rest, ref: CallRef) -> Standing | None:
    """Telnyx knows a call for ten minutes after its end; TeXML's only id of one is this very id.

    Nowhere is said that TeXML's calls are known here too. So one that is not known may go on: were
    it taken for lost, its room would be closed while people talk in it.
    """
    control_id = ref.control_id
    if not control_id and CONTROL_ID.fullmatch(ref.provider_call_id):
        control_id = ref.provider_call_id
    if not control_id:
        return None
    try:
        found = await rest.get(_path(control_id))
    except Permanent as error:
        if error.code != _INVALID_ID:
            raise
        found = None
    if found is None:
        return None if ref.control_id else Standing(over=False)
    try:
        status = msgspec.convert(found, _Found).data
        ended_at = from_rfc3339(status.end_time) if status.end_time else 0
    except (ValueError, TypeError, OverflowError) as error:  # of msgspec, of the time
        raise Ambiguous("Telnyx described a call in a way that can't be read") from error
    if status.is_alive:
        return Standing(over=False)
    return Standing(over=True, ended_at=ended_at, duration=status.call_duration)


def _path(control_id: str) -> str:
    return f"/calls/{quote(control_id, safe=':')}"


class _Status(msgspec.Struct):
    """A call (GET /calls/{call_control_id}), as far as it is read."""

    is_alive: bool
    call_duration: float | None = None  # seconds
    end_time: str | None = None


class _Found(msgspec.Struct):
    data: _Status


class _Commands:
    """Which commands an event's decision asks for."""

    def __init__(self, target: SipTarget, settings: TelnyxSettings) -> None:
        self._target = target
        self._dial_timeout = settings.dial_timeout  # seconds
        self._apology, self._language = settings.apology, settings.voice_language

    @property
    def speech(self) -> float:
        """Seconds that the apology takes, at most: the handler has other calls."""
        return min(_LONGEST_SPEECH, 1.0 + len(self._apology) / _LETTERS)

    def put_through(self, event: Event, number: str) -> Command:
        """For a caller who was answered: on to the fallback."""
        return "transfer", self._to_number(event, number)

    def apologise(self) -> Command:
        """The same where there is no fallback: say so."""
        return "speak", {"payload": self._apology, "voice": _VOICE, "language": self._language}

    def of(self, event: Event, decision: Decision) -> Iterator[Command]:
        """The command, then what to do where Telnyx refuses it; their ids are still missing."""
        if decision.action == "dispatch":
            yield "transfer", self._to_agent(event)
        if decision.action != "reject" and decision.fallback:
            yield "transfer", self._to_number(event, decision.fallback)
        if event.type is EventType.CALL_INITIATED:
            yield "reject", {"cause": "TEMPORARILY_UNAVAILABLE"}  # SIP 480
        yield "hangup", {}  # of a call that came in: where it was answered meanwhile

    def _to_agent(self, event: Event) -> dict[str, Any]:
        return self._transfer(event, "agent") | {
            "to": self._target.uri(event.call_id),
            "sip_auth_username": self._target.username,
            "sip_auth_password": self._target.password,
            "sip_transport_protocol": self._target.transport.upper(),
            "custom_headers": _headers(event),
        }

    def _to_number(self, event: Event, number: str) -> dict[str, Any]:
        body = self._transfer(event, "fallback") | {"to": number}
        if "from" in body and is_e164(event.data.to_number):
            # Says that the caller is on the line, without which their number is not ours to show.
            body["diversion"] = event.data.to_number
        return body

    def _transfer(self, event: Event, stage: str) -> dict[str, Any]:
        body = {
            "timeout_secs": self._dial_timeout,
            "target_leg_client_state": leg_state(event, stage),
        }
        caller = event.data.from_number
        # Left out where the caller is hidden: Telnyx then shows the number that was called.
        return body | {"from": caller} if is_e164(caller) else body


def leg_state(event: Event, stage: str) -> str:
    """What Telnyx repeats in every webhook of the leg that a transfer makes, in base64.

    A leg's own webhooks name neither the caller's leg, which the next command must go to, nor the
    number that was called, which the next target follows from.
    """
    data = event.data
    state = {
        "switchboard": stage,
        "control_id": data.control_id,
        "from": data.from_number,
        "to": data.to_number,
    }
    return base64.b64encode(msgspec.json.encode(state)).decode()


def _headers(event: Event) -> list[dict[str, str]]:
    """The call's own custom headers and Telnyx's ids of it, for the INVITE to LiveKit."""
    data = event.data
    payload = data.raw.get("payload")
    session = text(payload, "call_session_id") if isinstance(payload, Mapping) else ""
    headers = {
        **{n: v for n, v in data.sip_headers.items() if not n.lower().startswith(_RESERVED)},
        _SESSION_HEADER: session,
        _LEG_HEADER: data.leg_id,
    }
    return [{"name": name, "value": value} for name, value in headers.items() if value]


def _code(found: Any) -> str:
    """The code of the first error in `{"errors": [{"code", "title", "detail"}]}`."""
    try:
        return str(found["errors"][0]["code"])
    except (TypeError, KeyError, IndexError):
        return ""

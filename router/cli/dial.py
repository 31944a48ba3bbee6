"""Placing the calls of `switchboard call`: through the sandbox's carriers, or as bare webhooks."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urldefrag, urlencode

import aiohttp
from twilio.request_validator import RequestValidator

from config import Settings
from router.cli.context import local_url
from router.cli.instance import StandIns
from router.cli.render import plain
from router.errors import SwitchboardError

_TIMEOUT: Final = aiohttp.ClientTimeout(total=20)
_CONFLICT: Final = 409  # the number is not in service
_WAIT: Final = 5  # seconds that one request for the transcript may wait


class Step(NamedTuple):
    """Something that the carrier's side did or got."""

    time: int  # µs since epoch
    what: str
    words: str


class NotReachable(SwitchboardError):
    """No instance, or no sandbox, answers."""

    exit_code = 3
    remedy = ""  # the message says what to start


class NotInService(SwitchboardError):
    """Nobody has the number that is called, at a carrier of the sandbox."""

    remedy = "Numbers that are there: switchboard numbers list"


class Dialler(Protocol):
    """Places one call."""

    provider_call_id: str  # the carrier's; empty until the call is placed

    def steps(self) -> AsyncIterator[Step]:
        """Place it, hold it, hang up; ends when the carrier is done. Raises NotReachable."""


class WebhookDialler:
    """Signed webhooks posted to the instance itself, as Twilio would; no SIP leg."""

    def __init__(self, settings: Settings, to: str, from_: str, hold: float) -> None:
        twilio = settings.providers.twilio
        sid = self.provider_call_id = "CA" + secrets.token_hex(16)
        self._url = local_url(settings)
        self._public = settings.public_url
        self._signer = RequestValidator(twilio.auth_tokens[0].get_secret_value())
        self._form = {
            "CallSid": sid,
            "AccountSid": twilio.account_sid,
            "ApiVersion": "2010-04-01",
            "Direction": "inbound",
            "From": from_,
            "To": to,
        }
        self._wait = hold + settings.dispatch.deadline * 2

    async def steps(self) -> AsyncIterator[Step]:
        """See `Dialler`."""
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            for step in await self._post(session, "voice", "ringing"):
                yield step
            await asyncio.sleep(self._wait)
            for step in await self._post(session, "status", "completed"):
                yield step

    async def _post(self, session: aiohttp.ClientSession, kind: str, status: str) -> list[Step]:
        path = f"/webhooks/twilio/{kind}"
        form = {**self._form, "CallStatus": status}
        headers = {
            "X-Twilio-Signature": self._signer.compute_signature(self._public + path, form),
            "Content-Type": "application/x-www-form-urlencoded",
        }
        sent = Step(_now(), "webhook", path.removeprefix("/webhooks"))
        try:
            async with session.post(
                self._url + path, data=urlencode(form), headers=headers
            ) as answer:
                await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NotReachable(
                f"no instance answers on {self._url} ({str(error) or type(error).__name__}): start "
                "one with `switchboard up`, or set http.port to where it listens"
            ) from error
        return [sent, Step(_now(), "answered", f"HTTP {answer.status}")]


class SandboxDialler:
    """A stand-in of the sandbox plays the whole call."""

    def __init__(self, sandbox: StandIns, provider: str, to: str, from_: str, hold: float) -> None:
        """`provider`: one of the sandbox's carriers."""
        self.provider_call_id = ""
        self._sandbox = sandbox
        self._provider = provider
        self._order = {"to": to, "from": from_, "hold_seconds": hold}
        self._began = 0

    async def steps(self) -> AsyncIterator[Step]:
        """See `Dialler`."""
        headers = {"Authorization": f"Bearer {self._sandbox.token}"}
        try:
            async with aiohttp.ClientSession(
                self._sandbox.carriers[self._provider], headers=headers, timeout=_TIMEOUT
            ) as session:
                self._began = _now()
                async with session.post("/calls", json=self._order) as answer:
                    if answer.status == _CONFLICT:
                        raise NotInService((await answer.json())["error"])
                    answer.raise_for_status()
                    sid = self.provider_call_id = (await answer.json())["sid"]
                async for step in self._transcript(session, sid):
                    yield step
        except (aiohttp.ClientError, TimeoutError) as error:
            url = self._sandbox.carriers[self._provider]
            raise NotReachable(
                f"the sandbox's {self._provider.title()} on {url} does not answer "
                f"({str(error) or type(error).__name__}): stop the sandbox and start it anew, "
                "`switchboard up --sandbox`"
            ) from error

    async def _transcript(self, session: aiohttp.ClientSession, sid: str) -> AsyncIterator[Step]:
        seen, done = 0, False
        while not done:
            async with session.get(f"/calls/{sid}/transcript?after={seen}&wait={_WAIT}") as answer:
                answer.raise_for_status()
                page = await answer.json()
            for step in page["steps"]:
                told = _told(step, self._provider.title())
                if told is not None:
                    time_ = self._began + int(step["at"] * 1_000_000)
                    yield Step(time_, *told)
            seen, done = page["next"], page["done"]


async def carrier_of(sandbox: StandIns, number: str, mapped_at: str) -> str:
    """Where a number is called: at the carrier that has it, or had it; else where it is mapped."""
    headers = {"Authorization": f"Bearer {sandbox.token}"}
    services: dict[str, str] = {}
    async with aiohttp.ClientSession(headers=headers, timeout=_TIMEOUT) as session:
        for provider, url in sandbox.carriers.items():
            try:
                async with session.get(f"{url}/numbers/{number}") as answer:
                    services[(await answer.json())["service"]] = provider
            except (aiohttp.ClientError, TimeoutError):
                continue  # placing the call will tell
    return services.get("held") or mapped_at or services.get("released", "")


def _told(step: Mapping[str, Any], carrier: str) -> tuple[str, str] | None:
    """The steps worth a line; the rest is told by the events."""
    match step["what"]:
        case "webhook.sent":
            path = urldefrag(str(step["url"])).url.partition("/webhooks")[2]
            return "webhook", plain(f"{path} {step.get('about', '')}".strip())
        case "webhook.answered":
            return "answered", f"HTTP {step['status']}"
        case "command.received":
            to = f" to {step['to']}" if "to" in step else ""
            return "command", plain(f"{step['action']}{to}")
        case "dial.ringing":
            return "sip ringing", "the caller hears it ring"
        case "dial.answered":
            return "sip answered", "caller and agent are connected"
        case "dial.ended":
            return "sip ended", f"{step['status']}, SIP {step['sip_status']}"
        case "said":
            return "said", plain(f"“{step['text']}”")
        case "caller.hung_up":
            return "hung up", "by the caller"
        case "error" | "webhook.failed":
            words = (carrier, step.get("code"), step.get("message"))
            return "error", plain(" ".join(str(word) for word in words if word))
        case _:
            return None


def _now() -> int:
    return time.time_ns() // 1000

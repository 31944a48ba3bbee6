"""What the tests of Twilio's stand-in share: a server that answers webhooks, legs to dial."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from multidict import MultiDict
from twilio.request_validator import RequestValidator

from router.sandbox.serve import serve
from router.sandbox.sip import Invite, Leg

ACCOUNT, TOKEN = "AC" + "0" * 32, "auth-token-of-the-sandbox"
CALLER, CALLED = "+15550000001", "+15550000002"


@dataclass(frozen=True)
class Received:
    path: str
    form: Mapping[str, str]
    headers: Mapping[str, str]
    method: str


@dataclass
class Server:
    """Answers by path; keeps what it got, and checks each signature with Twilio's validator."""

    url: str = ""
    answers: dict[str, Callable[[], web.Response]] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    hold: dict[str, asyncio.Event] = field(default_factory=dict)  # answers wait for these

    def says(self, path: str, twiml: str, status: int = 200) -> None:
        """Answer requests for `path` with this document."""
        text = f"<Response>{twiml}</Response>"
        self.answers[path] = lambda: web.Response(text=text, content_type="text/xml", status=status)

    def at(self, path: str) -> list[Received]:
        return [request for request in self.received if request.path == path]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        form = MultiDict({key: str(value) for key, value in (await request.post()).items()})
        url = self.url + request.raw_path
        signature = request.headers["X-Twilio-Signature"]
        assert RequestValidator(TOKEN).validate(url, form, signature)
        self.received.append(
            Received(request.path, dict(form), dict(request.headers), request.method)
        )
        if request.path in self.hold:
            await self.hold[request.path].wait()
        answer = self.answers.get(request.path)
        return answer() if answer is not None else web.Response(status=204)


@asynccontextmanager
async def server() -> AsyncIterator[Server]:
    it = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", it.handle)
    async with serve(app, 0) as url:
        it.url = url
        yield it


@dataclass
class Switch:
    """Where `<Sip>` goes: hands out legs that the test moves by hand."""

    invites: list[Invite] = field(default_factory=list)
    legs: list[Leg] = field(default_factory=list)
    prepare: Callable[[Leg], None] = lambda _: None

    def dial(self, invite: Invite) -> Leg:
        leg = Leg()
        self.invites.append(invite)
        self.legs.append(leg)
        self.prepare(leg)
        return leg


def answers(leg: Leg) -> None:
    leg.ring()
    leg.answer()


def refuses(status: int) -> Callable[[Leg], None]:
    return lambda leg: leg.refuse(status)

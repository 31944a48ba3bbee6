"""What the tests of Telnyx's stand-in share: a server that takes webhooks, Telnyx's own client."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web
from nacl.encoding import Base64Encoder
from nacl.signing import VerifyKey
from telnyx import AsyncTelnyx

from router.sandbox.serve import serve

API_KEY, SEED = "KEY-of-the-sandbox", bytes(range(32))
CALLER, CALLED, OTHER = "+15550000001", "+15550000002", "+15550000003"
PATH = "/webhooks/telnyx"
VOICE, STATUS = f"{PATH}/texml/voice", f"{PATH}/texml/status"


@dataclass(frozen=True)
class Received:
    path: str  # with its query
    headers: Mapping[str, str]
    body: bytes

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.body)["data"]
        return found

    @property
    def meta(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.body)["meta"]
        return found

    @property
    def payload(self) -> dict[str, Any]:
        found: dict[str, Any] = self.data["payload"]
        return found

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True, strict_parsing=True))


@dataclass
class Server:
    """Keeps what it got, and checks each signature with the key that it was given."""

    url: str = ""
    key: str = ""  # base64
    received: list[Received] = field(default_factory=list)
    statuses: dict[str, list[int]] = field(default_factory=dict)  # path → the next answers' status
    documents: dict[str, str] = field(default_factory=dict)  # path → TeXML

    def says(self, path: str, texml: str) -> None:
        self.documents[path] = f"<Response>{texml}</Response>"

    def at(self, path: str) -> list[Received]:
        return [request for request in self.received if request.path == path]

    def events(self) -> list[tuple[str, str]]:
        """(event type, direction of its leg) in order of arrival."""
        directions = {
            request.payload["call_leg_id"]: request.payload["direction"]
            for request in self.at(PATH)
            if request.data["event_type"] == "call.initiated"
        }
        return [
            (request.data["event_type"], directions[request.payload["call_leg_id"]])
            for request in self.at(PATH)
        ]

    def of(self, event_type: str) -> list[Received]:
        return [each for each in self.at(PATH) if each.data["event_type"] == event_type]

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        signed = f"{request.headers['telnyx-timestamp']}|".encode() + body
        signature = Base64Encoder.decode(request.headers["telnyx-signature-ed25519"].encode())
        VerifyKey(self.key.encode(), encoder=Base64Encoder).verify(signed, signature)
        self.received.append(Received(request.path_qs, dict(request.headers), body))
        statuses = self.statuses.get(request.path)
        status = statuses.pop(0) if statuses else 200
        document = self.documents.get(request.path)
        if document is None:
            return web.Response(status=status)
        return web.Response(status=status, text=document, content_type="text/xml")


@asynccontextmanager
async def server() -> AsyncIterator[Server]:
    it = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", it.handle)
    async with serve(app, 0) as url:
        it.url = url
        yield it


@asynccontextmanager
async def client(url: str, api_key: str = API_KEY) -> AsyncIterator[AsyncTelnyx]:
    """Telnyx's SDK, talking to the stand-in; it tries nothing again."""
    async with AsyncTelnyx(api_key=api_key, base_url=url, max_retries=0) as it:
        yield it

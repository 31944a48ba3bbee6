"""What the tests of LiveKit's stand-in share: keys, a receiver of webhooks, waiting."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from livekit.api import LiveKitAPI, TokenVerifier, WebhookReceiver
from livekit.protocol import sip as proto
from livekit.protocol.webhook import WebhookEvent

from router.sandbox.livekit import Invite, LiveKitStandIn
from router.sandbox.serve import serve

API_KEY = "sandboxkey"
API_SECRET = "sandbox-secret-of-thirty-two-characters"
CALLER, CALLED, ROOM = "+15550000001", "+15550000002", "a-call-id"
USER, PASSWORD = "switchboard", "Correct-horse-1"


class Receiver:
    """Takes webhooks, checks each signature with LiveKit's own receiver, answers `statuses`."""

    def __init__(self) -> None:
        self.url = ""
        self.events: list[WebhookEvent] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.statuses: list[int] = []  # one per request, then 200
        self.open = asyncio.Event()  # closed, it takes requests and does not answer them
        self.open.set()
        self._receiver = WebhookReceiver(TokenVerifier(API_KEY, API_SECRET))

    @property
    def names(self) -> list[str]:
        return [event.event for event in self.events]

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.headers.append(dict(request.headers))
        self.bodies.append(body)
        event = self._receiver.receive(body.decode(), request.headers["Authorization"])
        self.events.append(event)
        await self.open.wait()
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200)


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    it = Receiver()
    app = web.Application()
    app.router.add_post("/hook", it.handle)
    async with serve(app, 0) as url:
        it.url = url + "/hook"
        yield it


async def eventually(holds: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for something that comes over the network; fails when it does not."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - it changes in another server, not in an event
            await asyncio.sleep(0.005)


async def wildcard_trunk(api: LiveKitAPI) -> tuple[str, str]:
    """The set-up of webhook mode: one authenticated wildcard trunk, one callee rule."""
    trunk = await api.sip.create_inbound_trunk(
        proto.CreateSIPInboundTrunkRequest(
            trunk=proto.SIPInboundTrunkInfo(auth_username=USER, auth_password=PASSWORD)
        )
    )
    rule = await api.sip.create_dispatch_rule(
        proto.CreateSIPDispatchRuleRequest(
            dispatch_rule=proto.SIPDispatchRuleInfo(
                rule=callee_rule(), trunk_ids=[trunk.sip_trunk_id]
            )
        )
    )
    return trunk.sip_trunk_id, rule.sip_dispatch_rule_id


def callee_rule() -> proto.SIPDispatchRule:
    return proto.SIPDispatchRule(dispatch_rule_callee=proto.SIPDispatchRuleCallee())


def call(to: str = ROOM, *, password: str = PASSWORD, user: str = USER) -> Invite:
    return Invite(
        to_user=to,
        from_user=CALLER,
        username=user,
        password=password,
        headers={"X-Twilio-CallSid": "CA1", "X-Twilio-AccountSid": "AC1", "X-Route-Id": "r"},
    )


def put_trunk(lk: LiveKitStandIn, key: str, trunk: proto.SIPInboundTrunkInfo) -> None:
    """Past the checks, as two creates at once get on the real server."""
    trunk.sip_trunk_id = key
    lk.sip.inbound.rows[key] = trunk


def put_rule(lk: LiveKitStandIn, key: str, rule: proto.SIPDispatchRuleInfo) -> None:
    rule.sip_dispatch_rule_id = key
    if rule.rule.WhichOneof("rule") is None:
        rule.rule.CopyFrom(callee_rule())
    lk.sip.rules.rows[key] = rule


async def refusal(lk: LiveKitStandIn, invite: Invite) -> int:
    leg = lk.invite(invite)
    assert not await leg.ringing()
    return await leg.ended()

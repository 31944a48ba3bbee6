"""LiveKit on loopback: put together and started here."""

import hmac
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Annotated, Final, Self

import msgspec
from aiohttp import web

from router.clock import Clock, SystemClock
from router.sandbox.livekit.bridge import Bridge
from router.sandbox.livekit.dispatch import DispatchService
from router.sandbox.livekit.faults import Faults
from router.sandbox.livekit.room_service import RoomService
from router.sandbox.livekit.rooms import Rooms
from router.sandbox.livekit.sip_service import SipService
from router.sandbox.livekit.twirp import TwirpFront
from router.sandbox.livekit.webhooks import Webhooks
from router.sandbox.livekit.workers import LINGERS, Behaviour, Job, Workers
from router.sandbox.serve import serve
from router.sandbox.sip import Invite, Leg
from router.sandbox.tasks import Tasks

_MAX_TASKS: Final = 50_000
_PROMPT: Final = Behaviour()


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    """Which agents are lost: all, unless said."""

    agent_name: str = ""
    room: str = ""
    lingers: Annotated[float, msgspec.Meta(ge=0, le=600)] = LINGERS
    worker: bool = True  # whether it takes further jobs


class LiveKitStandIn:
    """LiveKit's server, SIP bridge and agent workers; `async with` starts it at `url`.

    Args:
        api_key: what clients and webhooks are signed with.
        api_secret: the same; 32 characters or more, as the real server wants.
        webhook_url: where events go; None: nowhere. May be set later, as `webhooks.url`.
        port: on loopback, 0 for a free one.
        redis: False: the server runs without Redis, so it has no SIP.
        clock: what ringing, delays and retries are timed by.
        control_token: bearer token of the control API; without one it is not served. It loses
            agents in the middle of their calls: `POST /agents/kill` ends their processes, which
            LiveKit notices `lingers` seconds later, `POST /agents/dismiss` has them leave. The body
            is `{agent_name?, room?, lingers?, worker?}`; `worker: false` takes the agent's worker
            away too. The answer says how many it were: `{agents}`.
    """

    def __init__(
        self,
        *,
        api_key: str,
        api_secret: str,
        webhook_url: str | None = None,
        port: int = 0,
        redis: bool = True,
        clock: Clock | None = None,
        control_token: str | None = None,
    ) -> None:
        clock = clock or SystemClock()
        self._tasks = Tasks(_MAX_TASKS)
        self._port = port
        self._stack = AsyncExitStack()
        self.url = ""
        self.faults = Faults()
        self.webhooks = Webhooks(webhook_url, api_key, api_secret, clock, self._tasks)
        self.rooms = Rooms(self.webhooks.send, clock, self._tasks)
        self.workers = Workers(self.rooms, clock, self._tasks)
        self.sip = SipService(redis=redis)
        self._bridge = Bridge(self.sip, self.rooms, clock, self._tasks)
        methods = {
            **self.sip.methods(),
            **RoomService(self.rooms, self.workers, clock).methods(),
            **self._bridge.methods(),
            **DispatchService(self.rooms, self.workers, clock).methods(),
        }
        self._app = TwirpFront(api_key, api_secret, methods, self.faults).app()
        if control_token is not None:
            self._control_token = control_token.encode()
            self._app.router.add_post("/agents/{what:kill|dismiss}", self._lose)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.webhooks.aclose)
            stack.push_async_callback(self._tasks.aclose)
            self.url = await stack.enter_async_context(serve(self._app, self._port))
            stack.callback(self.faults.closing.set)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    @property
    def jobs(self) -> Sequence[Job]:
        """The jobs that workers got, oldest first."""
        return list(self.workers.jobs)

    def register_worker(self, agent_name: str, behaviour: Behaviour = _PROMPT) -> None:
        """A worker takes jobs for `agent_name` from now on."""
        self.workers.register(agent_name, behaviour)

    async def _lose(self, request: web.Request) -> web.Response:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not hmac.compare_digest(token.encode(), self._control_token):
            return web.json_response({"error": "the control token is missing or wrong"}, status=401)
        try:
            order = msgspec.json.decode(await request.read() or b"{}", type=_Order)
        except msgspec.DecodeError as error:  # names the field, not its value
            return web.json_response({"error": str(error)}, status=400)
        if not order.worker:
            self.workers.unregister(order.agent_name)
        if request.match_info["what"] == "kill":
            lost = self.workers.kill(order.agent_name, room=order.room, lingers=order.lingers)
        else:
            lost = self.workers.dismiss(order.agent_name, room=order.room)
        return web.json_response({"agents": lost})

    def invite(self, invite: Invite) -> Leg:
        """Send an INVITE to the SIP bridge; returns at once.

        Raises:
            SandboxFull: too many calls at once.
        """
        return self._bridge.invite(invite)

"""LiveKit on loopback: put together and started here."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

from router.clock import Clock, SystemClock
from router.sandbox.livekit.bridge import Bridge
from router.sandbox.livekit.dispatch import DispatchService
from router.sandbox.livekit.faults import Faults
from router.sandbox.livekit.room_service import RoomService
from router.sandbox.livekit.rooms import Rooms
from router.sandbox.livekit.sip_service import SipService
from router.sandbox.livekit.twirp import TwirpFront
from router.sandbox.livekit.webhooks import Webhooks
from router.sandbox.livekit.workers import Behaviour, Job, Workers
from router.sandbox.serve import serve
from router.sandbox.sip import Invite, Leg
from router.sandbox.tasks import Tasks

_MAX_TASKS: Final = 50_000
_PROMPT: Final = Behaviour()


class LiveKitStandIn:
    """LiveKit's server, SIP bridge and agent workers; `async with` starts it at `url`.

    Args:
        api_key: what clients and webhooks are signed with.
        api_secret: the same; 32 characters or more, as the real server wants.
        webhook_url: where events go; None: nowhere. May be set later, as `webhooks.url`.
        port: on loopback, 0 for a free one.
        redis: False: the server runs without Redis, so it has no SIP.
        clock: what ringing, delays and retries are timed by.
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
        self._front = TwirpFront(api_key, api_secret, methods, self.faults)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.webhooks.aclose)
            stack.push_async_callback(self._tasks.aclose)
            self.url = await stack.enter_async_context(serve(self._front.app(), self._port))
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

    def invite(self, invite: Invite) -> Leg:
        """Send an INVITE to the SIP bridge; returns at once.

        Raises:
            SandboxFull: too many calls at once.
        """
        return self._bridge.invite(invite)

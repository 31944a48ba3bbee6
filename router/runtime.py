"""The composition root: builds what the chosen roles need, runs them, stops them in order.

Stop: not ready → no new connections, requests in flight finish → consumers stop fetching, drain and
commit → relay flushes → database and clients close. Every long-lived task is under one supervisor
(`router.supervisor`): what ends is started again; where that does not help, the process ends
with a non-zero exit, because one that answers webhooks but dispatches nobody is worse than none.
"""

import asyncio
import gc
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from functools import partial
from typing import Any, Final, cast

from aiohttp import web

from config.settings import Settings
from router import catchup
from router.api.role import open_api
from router.clock import Clock, SystemClock
from router.connections import ConnectionFollower, ConnectionTable
from router.contract import asyncapi
from router.dispatch_health import DispatchHealth
from router.errors import LogFailed, StorageError
from router.eventlog.base import OpenLog
from router.eventlog.heartbeat import HeartbeatFollower, send_heartbeats
from router.eventlog.open import open_log
from router.events import schema
from router.files import make_data_folder
from router.http.server import base_app, listening
from router.ingress.app import add_webhooks
from router.ingress.routes import RouteFollower
from router.ingress.webhook import Webhooks
from router.node import PREPARING, Node
from router.numbers import publish
from router.observability.log import get as log_of
from router.observability.metrics import (
    OPEN_SECONDS,
    RELAY_LAG,
    RELAY_LAG_SECONDS,
    SILENT_SECONDS,
    UNREAD,
)
from router.provider import NO_CONNECTIONS, Provider, ProviderContext, Reply, WebhookSource
from router.providers import context_of, open_carriers, served
from router.providers.livekit import setup_loop
from router.providers.livekit.client import LiveKitClient, open_livekit
from router.resources import Resources
from router.routing.table import RouteTable
from router.secrets import SipCredentials, load_keys, sip_credentials
from router.storage.clock_skew import ClockSkew
from router.storage.engine import Database, open_database
from router.storage.leader import leader
from router.storage.migrate import check_open, prepare
from router.supervisor import Supervisor, Work
from router.vault import open_vault

logger = log_of(__name__)

RunConsumers = Callable[[Resources, asyncio.Event], Coroutine[Any, Any, None]]

_PREPARE_AGAIN: Final = 3.0  # seconds
_PATIENCE: Final = 2.0  # seconds that consumers wait for the tenants' connections, at most
_WATCH: Final = 1.0  # seconds between looks at the relay for the metrics


async def run(
    settings: Settings,
    *,
    stop: asyncio.Event,
    started: Callable[[Node], Awaitable[None]] | None = None,
    clock: Clock | None = None,
    forget_routes: bool = False,
) -> None:
    """Run the roles of `settings` until `stop` is set.

    Args:
        settings: checked (`config.check`).
        stop: set it to stop in order.
        started: called once the process is listening.
        clock: the machine's unless given.
        forget_routes: routes that the database does not have may go (`router.numbers.publish`).

    Raises:
        ConfigError: the data folder or the key can't be used.
        StorageError: of a node without the ingress role: the database can't be used, or its schema
            is not this program's. With that role it answers calls and waits for the database.
        LogFailed: the journal's disk failed; start anew once it is mended.
        ExceptionGroup: a role died.
    """
    clock = clock or SystemClock()
    make_data_folder(settings.data_dir)
    former = [each.get_secret_value() for each in settings.previous_secret_keys]
    keys = load_keys(settings.secret_key.get_secret_value(), former, settings.data_dir)
    credentials = sip_credentials(keys[0])
    _calm_garbage_collection()
    async with AsyncExitStack() as stack:
        supervisor = Supervisor(clock)
        log = await stack.enter_async_context(open_log(settings, supervisor=supervisor))
        connections = _connections(settings, log, clock)
        book = NO_CONNECTIONS if connections is None else connections.table
        context = context_of(settings, credentials, clock, book)
        health = DispatchHealth(clock) if "dispatch" in settings.roles else None
        filled = asyncio.Event()
        resources = await _resources(context, log, supervisor, health, filled, stack)
        routes = _follower(settings, log, clock)
        setup = _setup(resources, credentials, clock)
        guard = publish.Guard(forget=forget_routes)
        if routes is not None:
            guard.table, guard.loaded = routes.table, routes.looked
        listens = health is None and routes is not None
        dispatching = HeartbeatFollower(log, clock) if listens else health
        node = Node(settings, log, routes, setup, supervisor, guard, dispatching)
        node.connections = connections
        if "api" in settings.roles:
            node.api = await stack.enter_async_context(open_api(settings, keys, clock, filled))
        roles = _Roles(node, resources, context, stop)
        await roles.run(started)


def _calm_garbage_collection() -> None:
    # Modules, routes and templates live as long as the process, and requests leave few cycles: with
    # the defaults a tenth of the ingress's time and half of its worst latencies were collections.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


async def _resources(
    context: ProviderContext,
    log: OpenLog,
    supervisor: Supervisor,
    health: DispatchHealth | None,
    filled: asyncio.Event,
    stack: AsyncExitStack,
) -> Resources | None:
    """What the roles other than the ingress need; the ingress answers without any of it."""
    settings = context.settings
    if settings.roles == ("ingress",):
        return None
    opened = open_database(settings, filled=filled)
    database: Database = await stack.enter_async_context(opened)
    livekit: LiveKitClient = await stack.enter_async_context(open_livekit(settings.livekit))
    carriers = await stack.enter_async_context(open_carriers(context))
    return Resources(settings, log, database, livekit, carriers, context.clock, supervisor, health)


def _follower(settings: Settings, log: OpenLog, clock: Clock) -> RouteFollower | None:
    if "ingress" not in settings.roles:
        return None
    return RouteFollower(RouteTable(), log, clock, settings.data_dir / "routes.json")


def _connections(settings: Settings, log: OpenLog, clock: Clock) -> ConnectionFollower | None:
    """Of whoever takes webhooks or speaks to carriers; the API asks the database."""
    if settings.roles == ("api",):
        return None
    table = ConnectionTable(open_vault(settings))
    return ConnectionFollower(table, log, clock, settings.data_dir / "connections.json")


def _setup(
    resources: Resources | None, credentials: SipCredentials, clock: Clock
) -> setup_loop.SetupLoop | None:
    if resources is None or "dispatch" not in resources.settings.roles:
        return None
    database = resources.database

    def lease() -> AbstractAsyncContextManager[bool]:
        return leader(database, "livekit-setup")

    return setup_loop.SetupLoop(resources.livekit, lease, credentials, clock)


class _Roles:
    def __init__(
        self,
        node: Node,
        resources: Resources | None,
        context: ProviderContext,
        stop: asyncio.Event,
    ) -> None:
        self._node = node
        self._resources = resources
        self._context = context
        self._clock = context.clock
        self._stop = stop

    async def run(self, started: Callable[[Node], Awaitable[None]] | None) -> None:
        drain = asyncio.Event()
        # Found by name: the router does not know the consumers, they know the router.
        importlib.import_module("consumers.host").declare_metrics(self._node.settings)
        async with asyncio.TaskGroup() as tasks:
            endless = [tasks.create_task(self._watch_log())]
            if self._node.routes is not None:
                endless.append(tasks.create_task(self._keep("routes", self._node.routes.run)))
            if (known := self._node.connections) is not None:
                endless.append(tasks.create_task(self._keep("connections", known.run)))
            if isinstance(listener := self._node.dispatching, HeartbeatFollower):
                endless.append(tasks.create_task(self._keep("heartbeats", listener.run)))
            working = tasks.create_task(self._work(drain))
            async with self._listening():
                if started is not None:
                    await started(self._node)
                await self._stop.wait()
                self._node.stopping = True
            drain.set()
            await working
            for task in endless:
                task.cancel()

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        """The webhooks' listener, and the API's where that is another; it is left last."""
        node, app = self._node, self._app()
        async with AsyncExitStack() as stack:
            if node.api is not None and (own := node.api.own_listener) is not None:
                beside = base_app(node.settings.http, node.health)
                node.api.mount(beside)
                node.api_port = await stack.enter_async_context(
                    listening(beside, own, section="api")
                )
            elif node.api is not None:
                node.api.mount(app)
            node.http_port = await stack.enter_async_context(listening(app, node.settings.http))
            if node.api is not None:
                node.api_port = node.api_port or node.http_port
            yield

    def _app(self) -> web.Application:
        node, settings = self._node, self._node.settings
        webhooks = None
        if node.routes is not None:
            webhooks = Webhooks(
                events=node.log,
                routes=node.routes.table,
                ready=node.has_routes,
                clock=self._clock,
                body_timeout=settings.http.body_timeout,
                request_timeout=settings.http.request_timeout,
                stalled=node.dispatching.trouble if node.dispatching else lambda: "",
                has_keys=node.has_connections,
            )
        node.webhooks = webhooks
        app = base_app(settings.http, node.health, documents(settings))
        if webhooks is not None:
            add_webhooks(app, settings.http, webhooks, sources_of(self._context))
        return app

    async def _work(self, drain: asyncio.Event) -> None:
        """The roles beside the ingress, until `drain` is set and what they hold is done."""
        resources = self._resources
        if resources is None or not await self._prepared(resources, drain):
            return
        async with asyncio.TaskGroup() as tasks:
            skew = self._node.clock_skew = ClockSkew(resources.database, self._clock)
            endless = [tasks.create_task(self._keep("clock_skew", skew.run))]
            if self._node.livekit_setup is not None:
                setup = self._keep("livekit_setup", self._node.livekit_setup.run)
                endless.append(tasks.create_task(setup))
            log, health = resources.log, resources.dispatch_health
            if health is not None and log.relay is not None:
                work = partial(send_heartbeats, log, health, resources.clock, drain)
                endless.append(tasks.create_task(self._keep("heartbeats", work, once=True)))
            if "relay" in resources.settings.roles:
                work = partial(
                    publish.run,
                    resources.database,
                    resources.log,
                    resources.clock,
                    self._node.guard,
                )
                endless.append(tasks.create_task(self._keep("publish", work)))
                work = partial(catchup.keep_up, resources, resources.clock)
                endless.append(tasks.create_task(self._keep("catch_up", work, once=True)))
            if self._node.api is not None:
                for name, own in self._node.api.work().items():
                    endless.append(tasks.create_task(self._keep(name, own)))
            watch = self._keep("database", partial(self._watch_database, resources))
            endless.append(tasks.create_task(watch))
            await self._known(drain)
            host = importlib.import_module("consumers.host")
            await cast("RunConsumers", host.run)(resources, drain)
            await drain.wait()  # the role relay has no consumer: that one came back at once
            for task in endless:
                task.cancel()

    async def _known(self, drain: asyncio.Event) -> None:
        """Give the connections a moment to come: a tenant's call is carried out with theirs."""
        until = self._clock.monotonic() + _PATIENCE
        while not (self._node.has_connections() or drain.is_set()):
            if self._clock.monotonic() > until:
                return
            await asyncio.sleep(0.02)

    def _keep(self, name: str, work: Work, *, once: bool = False) -> Coroutine[Any, Any, None]:
        return self._node.supervisor.keep(name, work, once=once)

    async def _prepared(self, resources: Resources, drain: asyncio.Event) -> bool:
        """Bring the schema up to date; False when the node was stopped before that was possible.

        A node that answers calls must start whatever became of the database, and wait for it.
        """
        node = self._node
        if node.routes is None:  # it must not be asked for anything before
            node.database = PREPARING
        while not drain.is_set():
            try:
                await prepare(resources.settings)
            except StorageError as error:
                if node.routes is None:
                    raise
                self._tell_database(str(error))
                with suppress(TimeoutError):
                    async with asyncio.timeout(_PREPARE_AGAIN):
                        await drain.wait()
            else:
                self._tell_database("ok")
                return True
        return False

    async def _watch_database(self, resources: Resources) -> None:
        """See every few seconds whether it can be used still; a new file gets its tables."""
        while True:
            await asyncio.sleep(_PREPARE_AGAIN)
            try:
                try:
                    await check_open(resources.database)
                except StorageError:
                    await prepare(resources.settings)
                    await check_open(resources.database)
            except StorageError as error:
                self._tell_database(str(error))
            else:
                self._tell_database("ok")

    def _tell_database(self, state: str) -> None:
        node = self._node
        if state not in ("ok", node.database):  # once, not every time
            logger.error("database.unusable", why=state, retry_every=_PREPARE_AGAIN)
        elif node.database not in (state, PREPARING):
            logger.info("database.usable")
        node.database = state

    async def _watch_log(self) -> None:
        log = self._node.log
        while True:
            try:
                async with asyncio.timeout(_WATCH):
                    await log.failed.wait()
            except TimeoutError:
                self._measure()
                if self._node.supervisor.gave_up is not None:
                    raise self._node.supervisor.gave_up from None
                continue
            folder = self._node.settings.data_dir
            raise LogFailed(f"the journal's disk failed ({folder}); nothing more can be taken")

    def _measure(self) -> None:
        if self._node.dispatching is not None:
            self._node.dispatching.trouble()
        relay = self._node.log.relay
        if relay is not None:
            RELAY_LAG.set(relay.lag.events)
            RELAY_LAG_SECONDS.set(relay.lag.age)
        for group, state_of in self._node.supervisor.groups.items():
            state = state_of()
            UNREAD.labels(group).set(state.unread)
            SILENT_SECONDS.labels(group).set(state.silent)
            OPEN_SECONDS.labels(group).set(state.oldest)


def documents(settings: Settings) -> Mapping[str, Reply]:
    """The published contracts by their path."""
    return {
        "/asyncapi.json": Reply(200, asyncapi.document(settings.kafka), "application/json"),
        "/schemas/event.json": Reply(200, schema.document(), "application/schema+json"),
    }


def sources(
    settings: Settings,
    credentials: SipCredentials,
    clock: Clock,
    of: Sequence[Provider] | None = None,
) -> list[WebhookSource]:
    """The webhooks that are served without tenants, or of the providers given (`sources_of`)."""
    return sources_of(context_of(settings, credentials, clock), of)


def sources_of(
    context: ProviderContext, of: Sequence[Provider] | None = None
) -> list[WebhookSource]:
    """The webhooks of all that is served, or of the providers given, ready to verify and answer.

    Raises:
        ConfigError: no answer can be made with these settings.
    """
    return [provider.source(context) for provider in of or served(context.settings)]

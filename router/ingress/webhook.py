"""The one webhook handler: verify → parse → decide → append → answer.

Status policy, for all providers (a provider retries what it understands as our fault):

| what                                             | status |
|--------------------------------------------------|--------|
| taken: the event is durable                      | the provider's reply |
| not signed by the provider                       | 403    |
| signed, but unreadable                           | 400    |
| larger than http.max_body_bytes                  | 413    |
| the body did not arrive within http.body_timeout | 408    |
| the log can't take it, or anything unforeseen    | 503    |
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter

from aiohttp import web

from router.clock import Clock
from router.errors import (
    BadPayload,
    BadSignature,
    PayloadTooLarge,
    SwitchboardError,
    WebhookError,
)
from router.eventlog.base import EventLog
from router.events import codec
from router.events.model import Event
from router.events.types import CALLS_TOPIC
from router.observability import log
from router.observability.metrics import DECISIONS, WEBHOOK_SECONDS, WEBHOOKS
from router.provider import Reply, WebhookRequest, WebhookSource
from router.routing.decide import decide
from router.routing.table import RouteTable

logger = log.get(__name__)

Handler = Callable[[web.Request], Awaitable[web.Response]]

_TRY_AGAIN = Reply(503, b"can't take this now, please try again")


class Webhooks:
    """Makes the handler of each provider's webhooks."""

    def __init__(
        self,
        *,
        events: EventLog,
        routes: RouteTable,
        clock: Clock,
        body_timeout: float,
    ) -> None:
        self._log = events
        self._routes = routes
        self._clock = clock
        self._body_timeout = body_timeout

    def handler(self, source: WebhookSource, kind: str) -> Handler:
        """The aiohttp handler of one webhook of `source`."""
        storeless = kind in source.storeless
        seconds = WEBHOOK_SECONDS.labels(source.name, kind)

        async def handle(request: web.Request) -> web.Response:
            started = perf_counter()
            try:
                reply = await self._take(source, kind, request, storeless=storeless)
            except SwitchboardError as error:
                reply = _refusal(error)
                _log_refusal(source.name, kind, reply.status, error)
            except (ConnectionResetError, asyncio.IncompleteReadError):
                reply = Reply(400)  # nobody is there to read it
            except Exception:
                reply = _TRY_AGAIN
                logger.exception("webhook.failed", provider=source.name, kind=kind)
            seconds.observe(perf_counter() - started)
            WEBHOOKS.labels(source.name, kind, str(reply.status)).inc()
            return web.Response(
                status=reply.status, body=reply.body, headers={"Content-Type": reply.content_type}
            )

        return handle

    async def _take(
        self, source: WebhookSource, kind: str, http: web.Request, *, storeless: bool
    ) -> Reply:
        received_at = self._clock.now()
        body = await self._body(http)
        read = perf_counter()
        request = WebhookRequest(kind, http.raw_path, http.headers, body, received_at)
        verified = source.verify(request)
        checked = perf_counter()
        events = [decide(event, self._routes) for event in source.parse(verified)]
        decided = perf_counter()
        if storeless:
            return source.reply(kind, events[0])
        timing = {"verified": _micros(checked - read), "decided": _micros(decided - read)}
        return source.reply(kind, await self._append(events, timing))

    async def _append(self, events: Sequence[Event], timing: dict[str, int]) -> Event:
        """Make the events durable; returns the first as the log has it, for a repeated webhook."""
        first: Event | None = None
        for event in events:
            decision = event.data.decision
            stamped = codec.stamp(event, timing) if decision is not None else event
            headers, value = codec.encode(stamped)
            appended = await self._log.append(CALLS_TOPIC, event.key, value, headers)
            stored = appended.existing
            if first is None:
                first = codec.decode(stored.key, stored.headers, stored.value) if stored else event
            if decision is not None and stored is None:
                DECISIONS.labels(decision.action).inc()
        if first is None:
            raise BadPayload("the webhook holds no event")
        return first

    async def _body(self, http: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self._body_timeout):
                return await http.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise PayloadTooLarge("the body is larger than http.max_body_bytes") from error
        except TimeoutError as error:
            raise _TooSlow("the body did not arrive within http.body_timeout") from error


class _TooSlow(WebhookError):
    """The sender's fault, or its network's."""


def _refusal(error: SwitchboardError) -> Reply:
    match error:
        case BadSignature():
            return Reply(403, b"not accepted: the signature does not match")
        case BadPayload():
            return Reply(400, f"not accepted: {error}".encode())
        case PayloadTooLarge():
            return Reply(413, b"not accepted: too large")
        case _TooSlow():
            return Reply(408, b"not accepted: the body came too slowly")
        case _:  # LogError and whatever else is ours
            return _TRY_AGAIN


def _log_refusal(provider: str, kind: str, status: int, error: SwitchboardError) -> None:
    logger.warning("webhook.refused", provider=provider, kind=kind, status=status, why=str(error))


def _micros(seconds: float) -> int:
    return int(seconds * 1_000_000)

"""The one webhook handler: look at the head → read → verify → parse → decide → append → answer.

Whoever is no provider is told so by the head where that is possible, and costs no more than a real
webhook where it is not: bodies are limited by their kind (`Endpoint.max_body`), and nothing of them
is decoded before the head has the right shape. What is refused before it was read closes the
connection (`router.http.protocol`).

Status policy, for all providers (a provider retries what it understands as our fault):

| what                                                | status |
|-----------------------------------------------------|--------|
| taken: the event is durable                         | the provider's reply |
| not signed by the provider                          | 403    |
| signed by a tenant, about a number of somebody else | 403    |
| signed with a key of another account than it names  | 403    |
| signed, but unreadable or impossible to store       | 400    |
| larger than its kind ever is, or http.max_body_bytes | 413   |
| compressed                                          | 415    |
| the body did not arrive within http.body_timeout, or in bits | 503 |
| too much at once: see `router.http.limits`       | 503    |
| it needs a decision, and the routes aren't here yet | 503    |
| no key fits, and connections' keys aren't here yet  | 503    |
| not done within http.request_timeout                | 503    |
| the log can't take it, or anything unforeseen       | 503    |

An append that has begun ends whatever becomes of the request that wanted it (its time is up, its
process is told to stop; see `EventLog.append`): the sender's next try then finds the event in the
log and gets the answer that follows from it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from time import perf_counter
from typing import Final

from aiohttp import web

from router.clock import Clock
from router.errors import (
    BadPayload,
    BadSignature,
    ForeignAccount,
    LogUnavailable,
    PayloadTooLarge,
    SwitchboardError,
)
from router.eventlog.base import EventLog
from router.events import codec
from router.events.model import Event
from router.events.text import plain
from router.events.types import EventType, topic_of
from router.http.limits import Admission, Full, read_body
from router.http.protocol import TRY_AGAIN
from router.observability import log
from router.observability.metrics import ALERTS, DECISIONS, FOREIGN, WEBHOOK_SECONDS, WEBHOOKS
from router.provider import Endpoint, Reply, Verified, WebhookRequest, WebhookSource
from router.routing.decide import decide, mapping_behind
from router.routing.scope import admitted
from router.routing.table import RouteTable

logger = log.get(__name__)

Handler = Callable[[web.Request], Awaitable[web.Response]]

_TRY_AGAIN: Final = Reply(503, TRY_AGAIN.encode())
_FULL: Final = {"Retry-After": "1"}


class Webhooks:
    """Makes the handler of each provider's webhooks."""

    def __init__(
        self,
        *,
        events: EventLog,
        routes: RouteTable,
        ready: Callable[[], bool],
        clock: Clock,
        body_timeout: float,
        request_timeout: float,
        stalled: Callable[[], str] = lambda: "",
        has_keys: Callable[[], bool] = lambda: True,
    ) -> None:
        """`ready`: whether `routes` may be decided from; times are in seconds.

        `stalled`: why nobody dispatches at the moment, "" where somebody does.
        `has_keys`: whether the keys of tenants' connections are here.
        """
        self._has_keys = has_keys
        self._stalled = stalled
        self._log = events
        self._routes = routes
        self._ready = ready
        self._clock = clock
        self._body_timeout = body_timeout
        self._request_timeout = request_timeout
        # Strangers and broken disks decide how often there is something to say, or to find out.
        self._lines, self._diagnoses = log.Budget(), log.Budget()
        self._hints: dict[tuple[str, str], str] = {}  # provider, kind → the setting that refuses

    @property
    def hints(self) -> dict[str, str]:
        """Provider → which setting refuses its webhooks, until one of the same kind is taken."""
        return {provider: hint for (provider, _), hint in self._hints.items()}

    def handler(self, source: WebhookSource, endpoint: Endpoint, admission: Admission) -> Handler:
        """The aiohttp handler of one webhook of `source`."""
        kind = endpoint.kind
        seconds = WEBHOOK_SECONDS.labels(source.name, kind)
        answered = cache(lambda status: WEBHOOKS.labels(source.name, kind, str(status)))
        for status in (400, 403, 413, 503):  # alerts need them at 0 (metrics.py)
            answered(status)
        ALERTS.labels(source.name)
        FOREIGN.labels(source.name)

        async def handle(request: web.Request) -> web.Response:
            if request.headers.get("Content-Encoding"):
                return web.Response(status=415, text="compressed bodies are not taken")
            started = perf_counter()
            try:
                async with asyncio.timeout(self._request_timeout):
                    reply = await self._take(source, endpoint, request, admission)
            except Full:
                return web.Response(status=503, text="full, please try again", headers=_FULL)
            except SwitchboardError as error:
                reply = _refusal(error)
                self._log_refusal(source.name, kind, reply.status, str(error))
            except TimeoutError:
                reply = _TRY_AGAIN
                self._log_refusal(
                    source.name, kind, reply.status, "it took over http.request_timeout"
                )
            except (ConnectionResetError, asyncio.IncompleteReadError):
                reply = Reply(400)  # nobody is there to read it
            except Exception:
                reply = _TRY_AGAIN
                if self._lines.spend((source.name, kind)) is not None:
                    logger.exception("webhook.failed", provider=source.name, kind=kind)
            seconds.observe(perf_counter() - started)
            answered(reply.status).inc()
            return web.Response(
                status=reply.status, body=reply.body, headers={"Content-Type": reply.content_type}
            )

        return handle

    async def _take(
        self, source: WebhookSource, endpoint: Endpoint, http: web.Request, admission: Admission
    ) -> Reply:
        admission.gate.check()  # before a body is read
        received_at = self._clock.now()

        def request(body: bytes) -> WebhookRequest:
            return WebhookRequest(
                endpoint.kind, http.raw_path, http.headers, body, received_at, http.method
            )

        body = await read_body(
            http, admission, self._body_timeout, check_head=lambda: source.check_head(request(b""))
        )
        with admission.gate.place():
            return await self._taken(source, endpoint, request(body))

    async def _taken(
        self, source: WebhookSource, endpoint: Endpoint, request: WebhookRequest
    ) -> Reply:
        kind, read = endpoint.kind, perf_counter()
        verified = self._verified(source, request)
        checked = perf_counter()
        stalled = self._stalled()
        parsed = self._speaking_of_own(source, verified)
        is_tenants = verified.proof is not None and bool(verified.proof.scope)
        if is_tenants and not (endpoint.storeless or self._ready()):
            raise LogUnavailable("the route table is not here yet: nobody knows whose number it is")
        events = [decide(event, self._routes, stalled=stalled) for event in parsed]
        decided = perf_counter()
        if not events:
            raise BadPayload("the webhook holds no event")
        if endpoint.storeless:
            return source.reply(kind, events[0])
        if not self._ready() and any(event.data.decision is not None for event in events):
            raise LogUnavailable("the route table is not here yet: nothing can be decided")
        timing = {"verified": _micros(checked - read), "decided": _micros(decided - read)}
        # The first event decides the reply: what is told of its number comes behind it.
        behind = (mapping_behind(event, self._routes) for event in tuple(events))
        events += [told for told in behind if told is not None]
        return source.reply(kind, await self._append(events, timing))

    def _verified(self, source: WebhookSource, request: WebhookRequest) -> Verified:
        try:
            verified = source.verify(request)
        except BadSignature as error:
            if source.has_tenants and not self._has_keys():
                raise LogUnavailable("the keys of connections are not here yet") from error
            # Finding out costs more than verifying, and strangers decide how often it is asked.
            asked = self._diagnoses.spend(source.name) is not None
            hint = source.diagnose(request) if asked else ""
            if not hint:
                raise
            self._hints[source.name, request.kind] = hint
            raise BadSignature(f"{error}; {hint}") from error
        if self._hints:
            self._hints.pop((source.name, request.kind), None)
        return verified

    def _speaking_of_own(self, source: WebhookSource, verified: Verified) -> Sequence[Event]:
        """The events, as whoever signed them may tell them; before anything follows from them.

        Raises:
            BadSignature: one is about a number that the signer's connection does not carry.
        """
        parsed = [plain(event) for event in source.parse(verified)]
        events = admitted(parsed, verified.proof, self._routes)
        if events is None:
            FOREIGN.labels(source.name).inc()
            raise BadSignature(
                "it is about a number that is not held through the connection whose key signed it: "
                "map the number at that connection, or give the carrier the right one's URL"
            )
        return events

    def _log_refusal(self, provider: str, kind: str, status: int, why: str) -> None:
        left_out = self._lines.spend((provider, kind, status))
        if left_out is not None:
            logger.warning(
                "webhook.refused",
                provider=provider,
                kind=kind,
                status=status,
                why=why,
                left_out=left_out,
            )

    async def _append(self, events: Sequence[Event], timing: dict[str, int]) -> Event:
        """Make the events durable; returns the first as the log has it, for a repeated webhook.

        Those of a batch wait for the disk together; each log keeps them in the order given.
        """
        if len(events) == 1:
            return await self._append_one(events[0], timing)
        appended = await asyncio.gather(*(self._append_one(event, timing) for event in events))
        return appended[0]

    async def _append_one(self, event: Event, timing: dict[str, int]) -> Event:
        decision = event.data.decision
        try:
            headers, value = codec.encode(
                codec.stamp(event, timing) if decision is not None else event
            )
            appended = await self._log.append(topic_of(event.type), event.key, value, headers)
        except (ValueError, OverflowError) as error:  # never, so a next try must not come
            raise BadPayload("it makes an event that can't be stored") from error
        stored = appended.existing
        if stored is not None:
            return codec.decode(stored.key, stored.headers, stored.value)
        if decision is not None:
            DECISIONS.labels(decision.action).inc()
        if event.type is EventType.NUMBER_MISMATCHED:
            logger.warning("number.mismatched", event_id=event.id, why=event.data.reason)
        if event.type is EventType.PROVIDER_ALERTED:
            ALERTS.labels(event.source).inc()
        return event


def _refusal(error: SwitchboardError) -> Reply:
    match error:
        case BadSignature():
            return Reply(403, b"not accepted: the signature does not match")
        case ForeignAccount():
            return Reply(403, f"not accepted: {error}".encode())
        case BadPayload():
            return Reply(400, f"not accepted: {error}".encode())
        case PayloadTooLarge():
            return Reply(413, b"not accepted: too large")
        case _:  # LogError and whatever else may be ours
            return _TRY_AGAIN


def _micros(seconds: float) -> int:
    return int(seconds * 1_000_000)

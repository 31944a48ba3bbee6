"""The control API's server: what all dialects have in common, around their handlers.

In this order: place (503), who asks (401), how often (429), may they (403), the body's size and
JSON, its models (422), Idempotency-Key, the handler, errors in the dialect's shape. Nothing here
knows what a dialect is about, and no dialect knows any of this.
"""

import asyncio
import math
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any, Final

import msgspec
import pydantic_core
from aiohttp import web
from structlog.contextvars import bound_contextvars

from router import registry
from router.api import docs, openapi
from router.api.answers import as_request_error, dumped, response
from router.api.idempotency import Idempotency, request_key
from router.api.operation import NOBODY, Answer, ApiRequest, Dialect, Operation
from router.api.reading import is_storable, read_json, read_query, validate
from router.control import tokens
from router.control.context import Control
from router.control.model import Actor
from router.errors import (
    BadPayload,
    ConfigError,
    Forbidden,
    InternalError,
    Invalid,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RequestError,
    SwitchboardError,
    TooLarge,
    TooMany,
    Unauthorized,
    Unavailable,
    UnsupportedMedia,
)
from router.http.auth import bearer, digest, peer
from router.http.limits import Admission, Bodies, Full, Gate, TooSlow, read_body
from router.http.rate_limit import RateLimit
from router.http.server import IN_FLIGHT
from router.observability import log
from router.observability.metrics import API_REQUESTS, API_SECONDS

logger = log.get(__name__)

Authenticate = Callable[..., Awaitable[Actor]]

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_PREFLIGHT_SECONDS: Final = 600
_UNKNOWN: Final = "unknown"  # the operation of a path that is none, in metrics


def dialects() -> Sequence[Dialect]:
    """All that there are, by their folders' names. One without a DIALECT is left out, and told."""
    found = []
    for name in registry.names("router.api"):
        try:
            found.append(registry.load("router.api", name, "DIALECT", Dialect))
        except ConfigError as error:
            logger.warning("api.dialect_unfinished", dialect=name, why=str(error))
    return found


@dataclass(slots=True)
class _Exchange:
    """One request on its way through."""

    http: web.Request
    dialect: Dialect
    operation: Operation | None
    request_id: str
    headers: dict[str, str] = field(default_factory=dict)  # of the answer, whatever it is


class Api:
    """The dialects' handlers, with one set of limits for all."""

    def __init__(
        self,
        control: Control,
        found: Sequence[Dialect],
        *,
        authenticate: Authenticate | None = None,
    ) -> None:
        """`authenticate`: `router.control.tokens.authenticate` unless given."""
        settings, clock = control.settings, control.clock
        self._control = control
        self._dialects = found
        self._settings = settings.api
        self._http = settings.http
        self._authenticate = authenticate or tokens.authenticate
        self._admission = Admission(
            Gate(settings.api.max_in_flight),
            Bodies(settings.api.max_in_flight),
            settings.api.max_body_bytes,
        )
        per_token, per_peer = settings.api.requests_per_minute, settings.api.failures_per_minute
        self._rate = RateLimit(
            per_minute=per_token, burst=settings.api.burst, clock=clock.monotonic
        )
        self._failures = RateLimit(per_minute=per_peer, burst=per_peer, clock=clock.monotonic)
        self._idempotency = Idempotency(control, lease=settings.api.request_timeout * 2)
        self._lines = log.Budget()

    @property
    def in_flight(self) -> int:
        """Requests that are being worked on."""
        return self._admission.gate.count

    def mount(self, app: web.Application) -> None:
        """Add every dialect's paths, and an answer in its shape to all others below its base."""
        app[IN_FLIGHT] += [self._admission.gate, self._admission.bodies]
        for dialect in self._dialects:
            paths: dict[str, dict[str, Operation]] = {}
            for operation in dialect.operations:
                paths.setdefault(operation.path, {})[operation.method] = operation
                API_SECONDS.labels(dialect.name, operation.id)
                for status in ("500", "503"):  # alerts need them at 0 (metrics.py)
                    API_REQUESTS.labels(dialect.name, operation.id, status)
            for path, methods in paths.items():
                app.router.add_route("*", path, partial(self._receive, dialect, methods))
            rest = dialect.base + "{rest:(/.*)?}"
            app.router.add_route("*", rest, partial(self._receive, dialect, {}))
        self._add_documents(app)

    def _add_documents(self, app: web.Application) -> None:
        settings = self._control.settings
        server = "" if settings.api.port else settings.public_url
        groups = {f"/openapi/{each.name}.json": [each] for each in self._dialects}
        for path, group in {"/openapi.json": [*self._dialects], **groups}.items():
            make = partial(openapi.document, group, server=server)
            app.router.add_get(path, _Document(partial(_json_of, make), "application/json").read)
        whole = partial(openapi.document, self._dialects, server=server)
        headers = {"Content-Security-Policy": docs.CSP, "X-Content-Type-Options": "nosniff"}
        page = _Document(lambda: docs.page(whole()).encode(), "text/html; charset=utf-8", headers)
        app.router.add_get("/docs", page.read)

    async def _receive(
        self, dialect: Dialect, methods: Mapping[str, Operation], http: web.Request
    ) -> web.Response:
        started = perf_counter()
        method = "GET" if http.method == "HEAD" else http.method
        given = http.headers.get("X-Request-Id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        exchange = _Exchange(http, dialect, methods.get(method), request_id)
        exchange.headers |= {"X-Request-Id": request_id, "Cache-Control": "no-store"}
        exchange.headers |= self._cors(http)
        with bound_contextvars(request_id=request_id):
            if http.method == "OPTIONS" and self._is_preflight(http) and methods:
                answer = _preflight(methods)
            else:
                answer = await self._answer(exchange, methods)
            self._measure(exchange, answer.status, perf_counter() - started)
        return response(answer, exchange.headers)

    async def _answer(self, exchange: _Exchange, methods: Mapping[str, Operation]) -> Answer:
        refuse = exchange.dialect.refuse
        try:
            if exchange.operation is None:
                return dumped(self._refused(exchange, _no_operation(methods)))
            return dumped(await self._admitted(exchange, exchange.operation))
        except RequestError as error:
            return dumped(self._refused(exchange, error))
        except Exception as error:  # noqa: BLE001 - it is logged, and answered in the dialect's shape
            return dumped(refuse(_unforeseen(error, exchange)))

    def _refused(self, exchange: _Exchange, error: RequestError) -> Answer:
        headers = exchange.headers
        match error:
            case Unauthorized():
                why = ', error="invalid_token"' if error.code != "token_missing" else ""
                headers["WWW-Authenticate"] = f'Bearer realm="switchboard"{why}'
            case Forbidden(code="scope_missing") if exchange.operation is not None:
                scope = exchange.operation.scope
                headers["WWW-Authenticate"] = (
                    f'Bearer realm="switchboard", error="insufficient_scope", scope="{scope}"'
                )
            case TooMany() | Unavailable():
                headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
            case MethodNotAllowed():
                headers["Allow"] = ", ".join(error.allow)
            case _:
                pass
        return exchange.dialect.refuse(error)

    async def _admitted(self, exchange: _Exchange, operation: Operation) -> Answer:
        """Check the head and read the body; then there is a place, and a time, for the handler."""
        try:
            self._admission.gate.check()
            actor = self._anybody(exchange) if operation.open else await self._who(exchange)
            if operation.scope is not None:
                tokens.require(actor, operation.scope)
            body = await self._body(exchange.http)
            with self._admission.gate.place():
                return await self._handled(exchange, operation, actor, body)
        except Forbidden:
            if operation.open:
                self._failures.take(self._peer(exchange))
            raise
        except (Full, TooSlow) as error:
            raise Unavailable(f"too much at once: {error}", code="overloaded") from error
        except RequestError:
            raise
        except (SwitchboardError, TimeoutError) as error:
            raise as_request_error(error) from error

    async def _who(self, exchange: _Exchange) -> Actor:
        """Whose token it is.

        Raises:
            Unauthorized, TooMany.
        """
        address = self._peer(exchange)
        try:
            token = bearer(exchange.http)
            client = digest(token)
            # Known here means known a while ago: whoever fails at the same address shuts out
            # nobody who is let in.
            known = self._rate.knows(client)
            if known and not self._rate.look(client).allowed:
                self._take(exchange, client)
            if not known:
                self._check_failures(address)
            async with asyncio.timeout(self._settings.request_timeout):
                actor = await self._authenticate(
                    self._control, token, request_id=exchange.request_id
                )
        except Unauthorized:
            self._check_failures(address)
            self._failures.take(address)
            raise
        self._take(exchange, client)
        return actor

    def _anybody(self, exchange: _Exchange) -> Actor:
        """Whoever asks, as often as a token may: by the address. Raises TooMany."""
        address = self._peer(exchange)
        self._check_failures(address)
        self._take(exchange, digest(address))
        return NOBODY

    def _peer(self, exchange: _Exchange) -> str:
        return peer(exchange.http, behind_proxy=self._http.behind_proxy)

    def _take(self, exchange: _Exchange, client: bytes) -> None:
        room = self._rate.take(client)
        exchange.headers |= room.headers()
        if not room.allowed:
            raise TooMany(
                f"more than {self._settings.requests_per_minute} requests a minute of one client",
                retry_after=room.retry_after,
                code="rate_limited",
            )

    def _check_failures(self, address: str) -> None:
        room = self._failures.look(address)
        if not room.allowed:
            raise TooMany(
                "too many requests without a valid token or link from this address",
                retry_after=room.retry_after,
                code="rate_limited",
            )

    async def _body(self, http: web.Request) -> bytes:
        if http.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise UnsupportedMedia("compressed bodies are not taken", code="unsupported_encoding")
        try:
            return await read_body(http, self._admission, self._http.body_timeout)
        except PayloadTooLarge as error:
            raise TooLarge(str(error), code="body_too_large") from error
        except BadPayload as error:
            raise Invalid((("body",), str(error)), kinds=("json_invalid",)) from error

    async def _handled(
        self, exchange: _Exchange, operation: Operation, actor: Actor, body: bytes
    ) -> Answer:
        http = exchange.http
        said = b"\n".join((http.method.encode(), http.raw_path.encode(), body))
        key = self._idempotency.key_of(http.headers) if operation.creates else ""
        if key:
            actor = msgspec.structs.replace(actor, request_key=request_key(key, said))
        request = _request(self._control, operation, actor, http, body)

        async def carry_out() -> Answer:
            try:
                return dumped(await operation.handle(request))
            except RequestError as error:
                if isinstance(error, Unavailable | InternalError) or not key:
                    raise
                return dumped(self._refused(exchange, error))  # to be kept

        async with asyncio.timeout(self._settings.request_timeout):
            if not key:
                return await carry_out()
            return await self._idempotency.once(actor.account_id, key, said, carry_out)

    def _is_preflight(self, http: web.Request) -> bool:
        asks = "Access-Control-Request-Method" in http.headers
        return asks and "Access-Control-Allow-Origin" in self._cors(http)

    def _cors(self, http: web.Request) -> dict[str, str]:
        if not self._settings.cors_origins:
            return {}
        origin = http.headers.get("Origin", "")
        if origin not in self._settings.cors_origins:
            return {"Vary": "Origin"}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": "X-Request-Id, Retry-After, RateLimit-Limit, "
            "RateLimit-Remaining, RateLimit-Reset, RateLimit-Policy, Idempotent-Replayed",
            "Vary": "Origin",
        }

    def _measure(self, exchange: _Exchange, status: int, seconds: float) -> None:
        operation = exchange.operation.id if exchange.operation else _UNKNOWN
        dialect = exchange.dialect.name
        API_REQUESTS.labels(dialect, operation, str(status)).inc()
        API_SECONDS.labels(dialect, operation).observe(seconds)
        if exchange.http.method in ("GET", "HEAD", "OPTIONS") and status < 400:
            return
        left_out = self._lines.spend((dialect, operation, status))
        if left_out is not None:
            logger.info(
                "api.answered",
                dialect=dialect,
                operation=operation,
                status=status,
                seconds=round(seconds, 3),
                left_out=left_out,
            )


class _Document:
    """What anybody may read, and never changes: made once, when somebody first asks for it.

    In a thread, because it takes a while, and calls are answered here as well.
    """

    def __init__(
        self, make: Callable[[], bytes], content_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._make = make
        self._headers = {"Content-Type": content_type, **(headers or {})}
        self._made: asyncio.Task[bytes] | None = None

    async def read(self, _http: web.Request) -> web.Response:
        """The aiohttp handler."""
        if self._made is None or (self._made.done() and self._made.exception() is not None):
            self._made = asyncio.create_task(asyncio.to_thread(self._make))
        return web.Response(body=await asyncio.shield(self._made), headers=self._headers)


def _json_of(make: Callable[[], Any]) -> bytes:
    return pydantic_core.to_json(make())


def _no_operation(methods: Mapping[str, Operation]) -> RequestError:
    if not methods:
        return NotFound("there is no such path", code="unknown_path")
    allow = [each for each in _METHODS if each in methods or (each == "HEAD" and "GET" in methods)]
    return MethodNotAllowed(
        f"this path does not take that method, only {', '.join(allow)}",
        allow=allow,
        code="method_not_allowed",
    )


def _request(
    control: Control, operation: Operation, actor: Actor, http: web.Request, body: bytes
) -> ApiRequest:
    """What the handler is given. Raises NotFound, Invalid."""
    path = dict(http.match_info)
    if not all(is_storable(each) for each in path.values()):
        raise NotFound("there is no such path", code="unknown_path")
    query = read_query(operation.query, http.query)
    sent = model = None
    if operation.body is not None:
        if body.strip():
            sent = read_json(body)
        elif operation.body_required:
            raise Invalid((("body",), "is missing: JSON is needed"), kinds=("missing",))
        if sent is not None or operation.body_required:
            model = validate(operation.body, sent, "body")
    return ApiRequest(
        control=control,
        actor=actor,
        path=path,
        query=query,
        body=model,
        sent=sent,
        headers=http.headers,
    )


def _unforeseen(error: Exception, exchange: _Exchange) -> RequestError:
    operation = exchange.operation.id if exchange.operation else _UNKNOWN
    logger.error("api.failed", dialect=exchange.dialect.name, operation=operation, exc_info=error)
    return InternalError(
        f"this failed, and it is our fault; the request's id is {exchange.request_id}",
        code="internal_error",
    )


def _preflight(methods: Mapping[str, Operation]) -> Answer:
    return Answer(
        status=204,
        body=b"",
        headers={
            "Access-Control-Allow-Methods": ", ".join(methods),
            "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, "
            "X-Request-Id",
            "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS),
        },
    )

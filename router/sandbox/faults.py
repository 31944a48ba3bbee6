"""Faults on demand, of the carriers' REST APIs: what a test wants to go wrong, request by request.

| fault                              | what the client sees                                        |
|------------------------------------|-------------------------------------------------------------|
| `Fault(status=503)`                | an error, and nothing happened                              |
| `Fault(status=503, applied=True)`  | an error, and it happened all the same                      |
| `Fault(applied=True)`              | the connection is cut after it happened; else before        |
| `Fault(status=429, headers={...})` | too many requests; come back when a header says so          |
| `Fault(delay=5, applied=True)`     | nothing for so long, then the connection is cut             |
| `Fault(delay=5, status=OK)`        | the right answer, late                                      |

Operations are the routes' names.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

OK: Final = 200
_LIMIT: Final = 1000

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong; `status` 0: there is no answer, the connection is cut."""

    status: int = 0
    applied: bool = False  # the request takes effect all the same
    delay: float = 0.0  # seconds before the answer
    headers: Mapping[str, str] = field(default_factory=dict)


class Faults:
    """Each fault is used once, first in, first out."""

    def __init__(self, body_of: Callable[[int], Mapping[str, Any]]) -> None:
        """`body_of`: what the carrier answers besides a status."""
        self._body_of = body_of
        self._waiting: dict[str, deque[Fault]] = defaultdict(lambda: deque(maxlen=_LIMIT))
        self.requests: deque[str] = deque(maxlen=_LIMIT)  # operations, in their order

    def add(self, operation: str, fault: Fault, *, times: int = 1) -> None:
        """The next `times` requests of that operation go wrong so."""
        self._waiting[operation].extend([fault] * times)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Before every handler of the API."""
        operation = request.match_info.route.name or ""
        if operation:
            self.requests.append(operation)
        waiting = self._waiting.get(operation)
        if not waiting:
            return await handler(request)
        fault = waiting.popleft()
        answer = await handler(request) if fault.applied or fault.status == OK else None
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.status == OK and answer is not None:
            return answer
        if fault.status:
            return web.json_response(
                self._body_of(fault.status), status=fault.status, headers=fault.headers
            )
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

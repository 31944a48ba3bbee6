"""What leaves the API: errors as those that a dialect can say, answers as bytes.

| raised by a handler                             | answered as                              |
|-------------------------------------------------|------------------------------------------|
| RequestError                                    | itself                                   |
| StorageError, Transient, LogError, TimeoutError | Unavailable (503), Retry-After           |
| Ambiguous                                       | Unavailable (503): look before repeating |
| Permanent, ConfigError                          | Invalid (422): it never works as asked   |
| anything else                                   | InternalError (500), and a line of log   |
"""

from collections.abc import Mapping
from typing import Any, cast

import pydantic_core
from aiohttp import web

from router.api.operation import Answer
from router.errors import (
    Ambiguous,
    ConfigError,
    Invalid,
    Permanent,
    RequestError,
    Transient,
    Unavailable,
)
from router.observability import log

logger = log.get(__name__)


def as_request_error(error: Exception) -> RequestError:
    """What a client is told of it."""
    match error:
        case Transient():
            wait = error.retry_after or 2.0
            return Unavailable(str(error), retry_after=wait, code="provider_unavailable")
        case Ambiguous():
            return Unavailable(
                f"{error}; it may have happened all the same: look before you repeat it",
                retry_after=5.0,
                code="outcome_unknown",
            )
        case Permanent() | ConfigError():
            return Invalid((("body",), str(error)), code="provider_refused")
        case TimeoutError():
            return Unavailable(
                "it took longer than is allowed; it may have happened all the same: look before "
                "you repeat it",
                retry_after=5.0,
                code="timeout",
            )
        case _:  # what the database or the log says is for the operator
            logger.warning("api.unavailable", why=str(error))
            return Unavailable(
                "this can't be done right now, please try again",
                retry_after=2.0,
                code="unavailable",
            )


def dumped(answer: Answer) -> Answer:
    """With its body as bytes."""
    if isinstance(answer.body, bytes):
        return answer
    body = b"" if answer.body is None else pydantic_core.to_json(answer.body, by_alias=True)
    return Answer(
        status=answer.status, body=body, headers=answer.headers, content_type=answer.content_type
    )


def response(answer: Answer, headers: Mapping[str, str]) -> web.Response:
    """What aiohttp sends; `headers` are the server's, the answer's own go over them."""
    body = cast("bytes", answer.body)
    own: dict[str, Any] = {"X-Content-Type-Options": "nosniff", **headers, **answer.headers}
    if body:
        own["Content-Type"] = answer.content_type
    return web.Response(status=answer.status, body=body or None, headers=own)

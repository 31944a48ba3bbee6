"""Vocode's hosted API and its successor Fluents: what the vocode-api client 0.0.48 calls."""

from typing import Final

from router.api.operation import Answer, Dialect
from router.api.vocode import agents, calls, connections, documents, numbers
from router.api.vocode.schemas import Error, HTTPValidationError, without_tags
from router.errors import Invalid, RequestError, SwitchboardError, TooMany, Transient

_UNAVAILABLE: Final = 503


def _refuse(error: SwitchboardError) -> Answer:
    """`{"detail": …}`: of a 422 always a list of what is wrong, of all else a sentence."""
    if isinstance(error, Invalid):
        problems = [
            {
                "loc": list(without_tags(where)),
                "msg": why,
                "type": "missing" if why == "Field required" else error.code or "value_error",
            }
            for where, why in error.problems
        ]
        return Answer(status=422, body={"detail": problems})
    status = error.status if isinstance(error, RequestError) else _UNAVAILABLE
    return Answer(status=status, body={"detail": str(error)}, headers=_headers(error))


def _headers(error: SwitchboardError) -> dict[str, str]:
    after = error.retry_after if isinstance(error, TooMany | Transient) else None
    return {} if after is None else {"Retry-After": str(max(1, round(after)))}


DIALECT: Final = Dialect(
    name="vocode",
    base="/v1",
    title="Vocode",
    version="1.0.0",
    description=(
        "The hosted API of Vocode, and of its successor Fluents what is theirs alone. Updates: what "
        "is left out or `{}` stays as it is, `null` clears where it is allowed."
    ),
    operations=(
        *numbers.OPERATIONS,
        *calls.OPERATIONS,
        *agents.OPERATIONS,
        *documents.operations(agents.refresh),
        *connections.OPERATIONS,
    ),
    refuse=_refuse,
    errors={
        401: Error,
        402: Error,
        403: Error,
        404: Error,
        409: Error,
        413: Error,
        422: HTTPValidationError,
        429: Error,
        503: Error,
    },
)

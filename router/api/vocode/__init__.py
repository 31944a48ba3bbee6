"""Vocode's hosted API and its successor Fluents: what the vocode-api client 0.0.48 calls."""

from typing import Final

from router.api.operation import Answer, Dialect
from router.api.vocode import agents, buying, calls, connections, documents, numbers
from router.api.vocode.schemas import Error, HTTPValidationError, without_tags
from router.errors import Invalid, RequestError


def _refuse(error: RequestError) -> Answer:
    """`{"detail": …}`: of a 422 always a list of what is wrong, of all else a sentence."""
    if isinstance(error, Invalid):
        problems = [
            {"loc": list(without_tags(where)), "msg": why, "type": kind}
            for (where, why), kind in zip(error.problems, error.kinds, strict=True)
        ]
        return Answer(status=422, body={"detail": problems})
    return Answer(status=error.status, body={"detail": str(error)})


DIALECT: Final = Dialect(
    name="vocode",
    base="/v1",
    title="Vocode",
    version="1.0.0",
    description=(
        "The hosted API of Vocode, and what its successor Fluents adds. Updates: what is left "
        "out or `{}` stays as it is, `null` clears where it is allowed."
    ),
    operations=(
        *numbers.OPERATIONS,
        *buying.OPERATIONS,
        *calls.OPERATIONS,
        *agents.OPERATIONS,
        *documents.OPERATIONS,
        *connections.OPERATIONS,
    ),
    refuse=_refuse,
    errors={
        401: Error,
        402: Error,
        403: Error,
        404: Error,
        409: Error,
        405: Error,
        413: Error,
        415: Error,
        422: HTTPValidationError,
        429: Error,
        500: Error,
        503: Error,
    },
)

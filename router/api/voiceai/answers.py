"""voice.ai's answers: errors in its two shapes, pages, plain JSON without what is not set."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from router.api.operation import Answer
from router.api.voiceai.models import (
    ErrorResponse,
    HTTPValidationError,
    PageQuery,
    Pagination,
    ValidationError,
)
from router.errors import Invalid, RequestError

_CODES: Final = {
    401: "unauthorized",
    402: "limit_reached",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media",
    429: "rate_limited",
    500: "internal_error",
    501: "not_implemented",
    503: "unavailable",
}
"""Where an error has no word of its own."""

_ANYWHERE: Final = (401, 403, 404, 409, 413, 415, 429, 500, 503)
ERRORS: Final[Mapping[int, Any]] = {
    **dict.fromkeys(_ANYWHERE, ErrorResponse),
    422: HTTPValidationError,
}


def refuse(error: RequestError) -> Answer:
    """`{error, detail?, code?}`; 422 `{detail: [{loc, msg, type}]}`."""
    if isinstance(error, Invalid):
        problems = [
            ValidationError(loc=list(where), msg=why, type=kind)
            for (where, why), kind in zip(error.problems, error.kinds, strict=True)
        ]
        return answer(HTTPValidationError(detail=problems), 422)
    code = error.code or _CODES.get(error.status, "error")
    body = ErrorResponse(error=str(error), detail=error.remedy or None, code=code)
    return answer(body, error.status)


def answer(body: BaseModel, status: int = 200) -> Answer:
    """An answer; of an error, what is not set is absent."""
    if isinstance(body, ErrorResponse):
        return Answer(status=status, body=body.model_dump(exclude_none=True))
    return Answer(status=status, body=body)


def pagination(query: PageQuery, total: int) -> tuple[int, int, Pagination]:
    """Offset and limit of the page that is asked for, and what the answer says of it."""
    page, limit = query.page or 1, query.limit or 10
    pages = -(-total // limit)
    return (
        (page - 1) * limit,
        limit,
        Pagination(
            current_page=page,
            total_pages=pages,
            total_items=total,
            limit=limit,
            has_next=page < pages,
            has_previous=page > 1,
        ),
    )

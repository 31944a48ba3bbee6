"""Resemble's answers: `{success, item}`, `{success, page, num_pages, page_size, items}`, errors."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel

from router.api.operation import Answer
from router.api.resemble.models import PageQuery, Refused
from router.errors import Invalid, RequestError

ERRORS: Final[Mapping[int, Any]] = dict.fromkeys(
    (401, 403, 404, 409, 413, 415, 422, 429, 500, 503), Refused
)


def refuse(error: RequestError) -> Answer:
    """`{success: false, message}`; 422 with `errors`, by field."""
    if not isinstance(error, Invalid):
        return refused(str(error), error.status)
    errors: dict[str, list[str]] = {}
    for where, why in error.problems:
        errors.setdefault(".".join(map(str, where[1:])) or "base", []).append(why)
    return refused(str(error), error.status, errors)


def refused(message: str, status: int, errors: Mapping[str, Sequence[str]] | None = None) -> Answer:
    """What could not be done."""
    told = None if errors is None else {field: list(why) for field, why in errors.items()}
    body = Refused(message=message, errors=told)
    return Answer(status=status, body=body.model_dump(mode="json", exclude_none=True))


def answer(body: BaseModel) -> Answer:
    """What was done."""
    return Answer(body=body.model_dump(mode="json"))


def offset(query: PageQuery) -> int:
    """How many entries are before the page that is asked for."""
    return (query.page - 1) * query.page_size


def paged(query: PageQuery, total: int) -> dict[str, Any]:
    """What the answer says of its page."""
    return {
        "page": query.page,
        "num_pages": -(-total // query.page_size),
        "page_size": query.page_size,
    }

"""What all of the native dialect has in common: lists, times, problem details."""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, Final, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from router.api.operation import Answer
from router.control.model import Page
from router.errors import Invalid, RequestError

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

BASE: Final = "/api/switchboard/v1"
_LONGEST_OFFSET: Final = 10_000_000
_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


class Shape(BaseModel):
    """What is answered. Clients must bear fields that they do not know."""


class Body(BaseModel):
    """What is sent: types as documented, unknown fields are refused, so that no typo is silent."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _rfc3339(value: object) -> object:
    if isinstance(value, str) and not _TIME.fullmatch(value):
        raise ValueError("must be a time as RFC 3339 has it: 2026-01-31T12:00:00Z")
    return value


Time = Annotated[datetime, BeforeValidator(_rfc3339)]
"""Of a query: pydantic alone would take `0.5` for one, too."""


class Listing(Shape, Generic[M]):
    """A page of a list."""

    items: list[M]
    total: int = Field(description="How many there are in all", ge=0)
    next: int | None = Field(description="`offset` of the next page; null on the last one")


class Paging(BaseModel):
    """Which page of a list."""

    offset: Annotated[int, Field(ge=0, le=_LONGEST_OFFSET, description="Entries to skip")] = 0
    limit: Annotated[int, Field(ge=1, le=500, description="Entries at most")] = 50


def listing(page: Page[T], paging: Paging, shape: Callable[[T], Any]) -> dict[str, Any]:
    """The answer with a page of a list."""
    end = paging.offset + len(page.items)
    return {
        "items": [shape(each) for each in page.items],
        "total": page.total,
        "next": end if page.items and end < page.total else None,
    }


def shaped(model: type[Shape], value: object, **own: Any) -> dict[str, Any]:
    """The fields of `model`, from a value of ours; times are those whose names end so."""
    return {name: own[name] if name in own else _field(name, value) for name in model.model_fields}


def _field(name: str, value: object) -> Any:
    found = getattr(value, name)
    return when(found) if name.endswith("_at") else found


def when(micros: int | None) -> datetime | None:
    """A time as answers have it: ISO 8601, UTC."""
    return None if micros is None else datetime.fromtimestamp(micros / 1_000_000, UTC)


class ProblemField(Shape):
    """One wrong field."""

    loc: list[str | int] = Field(
        description="Where: `body`, `query`, `path` or `header`, then names"
    )
    detail: str = Field(description="Why, and what would be right")


class Problem(Shape):
    """RFC 9457 problem details."""

    type: str = Field(description="`about:blank`: the status says what kind it is")
    title: str = Field(description="The status in words")
    status: int
    detail: str = Field(description="What happened, why, and what to do")
    code: str | None = Field(None, description="A word for programs, where there is one")
    errors: list[ProblemField] | None = Field(None, description="Every wrong field, with 422")


def refuse(error: RequestError) -> Answer:
    """The answer to an error."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": str(error),
    }
    if error.code:
        body["code"] = error.code
    if isinstance(error, Invalid):
        body["errors"] = _fields(error.problems)
    return Answer(status=error.status, body=body, content_type="application/problem+json")


def _fields(problems: Sequence[tuple[tuple[str | int, ...], str]]) -> list[dict[str, Any]]:
    return [{"loc": list(where), "detail": why} for where, why in problems]

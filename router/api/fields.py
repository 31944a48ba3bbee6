"""What dialects have in common: phone numbers, times and pages, partial updates."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, GetJsonSchemaHandler, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from router.control.number_rows import e164
from router.events.codec import to_rfc3339

PAGE_LIMIT: Final = 1_000_000
"""The last page that can be asked for: far behind any list, and an offset that databases take."""

PhoneNumber = Annotated[
    str,
    AfterValidator(e164),
    WithJsonSchema({"type": "string", "examples": ["+14155550100"]}),
]
"""A field with a phone number, with or without its `+`; its value is E.164."""


Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
"""A field with a time of `rfc3339`."""


def no_default(schema: dict[str, Any]) -> None:
    """For `json_schema_extra`: where what is not set is left out, and is none of its values."""
    schema.pop("default", None)


class ShownAs:
    """Annotates a plain JSON object that is documented as `model`, and validated by its handler."""

    def __init__(self, model: type[BaseModel]) -> None:
        self.model = model

    def __get_pydantic_json_schema__(
        self, _schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(self.model.__pydantic_core_schema__)


def rfc3339(micros: int) -> str:
    """A time of ours as answers have it: UTC, `2026-01-15T10:30:00.000000Z`."""
    return to_rfc3339(micros)


def merged(stored: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """`stored` with a partial update in it (RFC 7396): what is absent stays, null removes.

    Objects are merged key by key at any depth, everything else is replaced.
    """
    result = dict(stored)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            before = result.get(key)
            result[key] = merged(before if isinstance(before, Mapping) else {}, value)
        else:
            result[key] = value
    return result

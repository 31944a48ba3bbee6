"""What all of Vocode's models have in common: Undefined, unions told apart by `type`, pages.

A kind of object is written once, as the parameters that make it. Its other shapes follow from
that: `update_of` (each field may be left out or `{}`, which is Undefined: it stays as it is; `null`
clears where the parameters allow null) and `answer_of` (with `id` and `user_id`; what is not set is
left out, never null).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    RootModel,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from router.api.operation import ApiRequest
from router.api.reading import validate
from router.control.model import Page, uuid_of
from router.errors import Invalid
from router.events.phone import normalise

CLIENT_HEADER: Final = "X-Fern-SDK-Version"
"""Vocode's generated clients send it; whoever does reads an agent's prompt as an object."""

_TAG: Final = "<{}>"  # of a union's branch in an error's `loc`: `without_tags` takes it out
_REFERENCE: Final = _TAG.format("id")
_UNTYPED: Final = _TAG.format("?")
_OURS: Final = ("id", "user_id")  # never what a request says

NOT_SET: Any = Field(default_factory=lambda: None)
"""The default of a field that may be left out, but not be null."""

_UNDEFINED: Final[JsonSchemaValue] = {
    "title": "Undefined",
    "description": "Leaves the field as it is.",
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}
_ANY_OBJECT: Final[JsonSchemaValue] = {"type": "object", "additionalProperties": True}

Place = tuple[str | int, ...]
"""Where a value is in a request: `("body", "voice")`."""


def _uuid(value: object) -> str:
    found = uuid_of(value) if isinstance(value, str) else None
    if found is None:
        raise PydanticCustomError("uuid_parsing", "must be a UUID")
    return found


Uuid = Annotated[str, BeforeValidator(_uuid), Field(json_schema_extra={"format": "uuid"})]


def is_undefined(value: object) -> bool:
    """Whether it is `{}`: only that is Undefined."""
    return isinstance(value, Mapping) and not value


class Schema(BaseModel):
    """Parameters of something. What it doesn't know is kept as it was sent."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Update(Schema):
    """What has to change; see `update_of`."""

    @model_validator(mode="before")
    @classmethod
    def _without_undefined(cls, sent: Any) -> Any:
        if not isinstance(sent, dict):
            return sent
        return {name: value for name, value in sent.items() if not is_undefined(value)}


class _OrUndefined:
    """Says in the JSON schema that `{}` is fine as well; `_Update` has taken it out by then."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        known = handler(schema)
        return {"anyOf": [*known.pop("anyOf", [known]), _UNDEFINED]}


def update_of(model: type[Schema], name: str = "", **instead: Any) -> type[Schema]:
    """The model of an update of what `model` makes; `instead`: other types of some fields."""
    fields: dict[str, Any] = {}
    for field, info in model.model_fields.items():
        kind = instead.get(field, _annotated(info.annotation, info.metadata))
        if field == "type":
            fields[field] = (kind, ...)
        else:
            fields[field] = (Annotated[kind, _OrUndefined()], NOT_SET)
    title = name or model.__name__.replace("Params", "UpdateParams")
    made = create_model(title, __base__=_Update, __module__=__name__, **fields)
    made.__doc__ = f"An update of {model.__name__}: what is left out or {{}} stays as it is."
    return made


def answer_of(model: type[Schema], name: str = "", **instead: Any) -> type[Schema]:
    """The model of what `model` made, as answers have it; `instead`: other types of some fields."""
    fields: dict[str, Any] = {"id": (Uuid, ...), "user_id": (Uuid, ...)}
    for field, info in model.model_fields.items():
        kind = instead.get(field, _annotated(_without_none(info.annotation), info.metadata))
        fields[field] = (kind, ... if info.is_required() else NOT_SET)
    title = name or model.__name__.removesuffix("Params")
    made = create_model(title, __base__=Schema, __module__=__name__, **fields)
    made.__doc__ = model.__doc__
    return made


def _annotated(kind: Any, metadata: Sequence[Any]) -> Any:
    return Annotated[(kind, *metadata)] if metadata else kind


def _without_none(kind: Any) -> Any:
    """`str | None` → `str`."""
    kinds = [each for each in get_args(kind) if each is not type(None)]
    return kinds[0] if type(None) in get_args(kind) and len(kinds) == 1 else kind


class OneOf:
    """Annotates `Any`: one of `models`, told apart by its `type`.

    Args:
        models: what it may be.
        reference: or an id.
        text: or any text, in the place of an id.
        untyped: or an object without `type`, which is not looked into: Vocode's clients leave out
            the type of what is nested (`inline` finds it). The JSON schema does not tell.
        guessed: where there is no `type`, the model that fits (`guess`), or the first.
    """

    def __init__(
        self,
        *models: type[BaseModel],
        reference: bool = False,
        text: bool = False,
        untyped: bool = False,
        guessed: bool = False,
    ) -> None:
        self.by_type = {type_of(model): model for model in models}
        self.reference = reference
        self.text = text
        self.untyped = untyped
        self.guessed = guessed

    def __get_pydantic_core_schema__(
        self, _source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        choices: dict[Any, CoreSchema] = {
            _TAG.format(tag): handler.generate_schema(model) for tag, model in self.by_type.items()
        }
        if self.reference or self.text:
            choices[_REFERENCE] = handler.generate_schema(str if self.text else Uuid)
        if self.untyped:
            choices[_UNTYPED] = core_schema.dict_schema()
        known = ", ".join(tag for tag in self.by_type if tag)
        wanted = [f"an object whose type is one of: {known}"] if known else ["an object"]
        if self.text or self.reference:
            wanted.insert(0, "text" if self.text else "an id")
        return core_schema.tagged_union_schema(
            choices,
            self._tag,
            custom_error_type="type_unknown",
            custom_error_message=f"must be {' or '.join(wanted)}",
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        choices = [each for each in handler(schema)["oneOf"] if each != _ANY_OBJECT]
        return {"anyOf": choices} if len(choices) > 1 else choices[0]

    def _tag(self, value: Any) -> str | None:
        if isinstance(value, str):
            return _REFERENCE
        if isinstance(value, BaseModel):  # when it is dumped
            return _TAG.format(getattr(value, "type", ""))
        if not isinstance(value, Mapping):
            return None
        if "" in self.by_type:
            return _TAG.format("")
        tag = value.get("type")
        if "type" not in value and self.untyped:
            return _UNTYPED
        if "type" not in value and self.guessed:
            return _TAG.format(guess(self.by_type, value) or next(iter(self.by_type)))
        return _TAG.format(tag) if isinstance(tag, str) else None


def guess(by_type: Mapping[str, type[BaseModel]], value: Mapping[str, Any]) -> str | None:
    """The type of an object that doesn't say it: the one most of whose required fields are there.

    Of several, the first that knows all fields; None: none takes it, or nothing in it tells.
    """
    found: list[tuple[int, bool, str]] = []
    for tag, model in by_type.items():
        try:
            model.model_validate({"type": tag, **value})
        except ValidationError:
            continue
        found.append((_required(model), value.keys() <= model.model_fields.keys(), tag))
    best = max(found, key=lambda each: each[:2], default=(0, False, ""))
    return best[2] if best[0] else None


def _required(model: type[BaseModel]) -> int:
    """How many fields must be there, those of fields included."""
    fields = [info for name, info in model.model_fields.items() if name != "type"]
    inner = [info.annotation for info in fields if info.is_required()]
    models = [each for each in inner if isinstance(each, type) and issubclass(each, BaseModel)]
    return len(inner) + sum(_required(each) for each in models)


def type_of(model: type[BaseModel]) -> str:
    """The `type` of a model's objects, "" where they have none."""
    field = model.model_fields.get("type")
    return str(get_args(field.annotation)[0]) if field is not None else ""


def root_of(name: str, kind: Any) -> type[BaseModel]:
    """The model of a body that is no object with fields of its own, but one of several."""
    return create_model(name, __base__=RootModel[kind], __module__=__name__)


def without_tags(where: Place) -> Place:
    """Where a problem is, without the branches of unions on the way."""
    return tuple(
        part for part in where if not (isinstance(part, str) and part[:1] + part[-1:] == "<>")
    )


def merged(stored: Mapping[str, Any], sent: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored after an update: absent or `{}` keeps, null clears, all else is taken."""
    changed = {
        name: value for name, value in sent.items() if name not in _OURS and not is_undefined(value)
    }
    kept = {name: value for name, value in stored.items() if name not in changed}
    return kept | {name: value for name, value in changed.items() if value is not None}


def complete(model: type[BaseModel], body: Mapping[str, Any], where: Place) -> dict[str, Any]:
    """The body as `model` takes it, its defaults filled in, what is null left out.

    Raises:
        Invalid: something is missing or wrong; it says what and where.
    """
    try:
        found = validate(model, dict(body), "")
    except Invalid as error:
        problems = (((*where, *path[1:]), why) for path, why in error.problems)
        raise Invalid(*problems, kinds=error.kinds) from None
    values = found.model_dump(mode="json", exclude_none=True)
    return {name: value for name, value in values.items() if name not in _OURS}


def phone_number(text: str, where: Place) -> str:
    """A number from a request as E.164; the `+` may be missing, or have become a space.

    Raises:
        Invalid: it is none.
    """
    text = text.strip()
    try:
        return normalise(text if text.startswith("+") else f"+{text}")
    except ValueError as error:
        raise Invalid((where, str(error))) from None


# --- lists


class ById(BaseModel):
    """Names one object."""

    id: Uuid


class PageQuery(BaseModel):
    """Which part of a list, and its order: `created_at` is what lists are sorted by."""

    page: int = Field(default=1, ge=1, le=1_000_000_000)
    size: int = Field(default=10, ge=1, le=1000)
    sort_column: Literal["created_at"] | None = None
    sort_desc: bool = False

    @property
    def window(self) -> dict[str, Any]:
        """As the functions of `router.control` take it."""
        offset = (self.page - 1) * self.size
        return {"offset": offset, "limit": self.size, "newest_first": self.sort_desc}


def page_of(name: str, item: Any) -> type[BaseModel]:
    """The model of a page of such items."""
    return create_model(
        name,
        __module__=__name__,
        items=(list[item], ...),
        page=(int, ...),
        size=(int, ...),
        has_more=(bool, ...),
        total=(int, ...),
        total_is_estimated=(bool, ...),
    )


def as_page(query: PageQuery, page: Page[Any], items: list[dict[str, Any]]) -> dict[str, Any]:
    """A page as answers have it."""
    return {
        "items": items,
        "page": query.page,
        "size": query.size,
        "has_more": (query.page - 1) * query.size + len(items) < page.total,
        "total": page.total,
        "total_is_estimated": False,
    }


# --- errors


class Problem(BaseModel):
    """What is wrong, and where."""

    loc: list[str | int]
    msg: str
    type: str


class HTTPValidationError(BaseModel):
    """A request that its models refuse."""

    detail: list[Problem]


class Error(BaseModel):
    """Any other refusal."""

    detail: str


def from_client(request: ApiRequest) -> bool:
    """Whether one of Vocode's generated clients asks."""
    return request.headers.get(CLIENT_HEADER) is not None

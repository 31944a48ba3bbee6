"""What a client sent, strictly: JSON that all read alike, and values that a database can keep.

Python's parser takes what others do not (NaN, the last of two equal keys), and what no database can
store or no JSON can hold again (lone surrogates, NUL, numbers of any size). Here it is refused with
the place where it is, and never a 500. Models of pydantic do the rest.
"""

import json
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any, Final, NoReturn

from multidict import MultiMapping
from pydantic import BaseModel, ValidationError

from router.errors import Invalid

Where = tuple[str | int, ...]

_DEEPEST: Final = 64  # objects and lists in each other
_LARGEST: Final = 2**63 - 1  # what a database has a column for
_LARGEST_ASKED: Final = 2**53 - 1  # RFC 7493 §2.2: what all read alike; pages multiply it
_SHOWN: Final = 100  # characters of a client's own key, in a message


class _Refused(ValueError):
    """Of a key, or of a constant: the parser tells no place."""


def read_json(body: bytes) -> Any:
    """The JSON of a body.

    Raises:
        Invalid: it is not JSON, or JSON that is read in different ways.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        _invalid(f"is not JSON: not UTF-8 at byte {error.start}")
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float
        )
    except _Refused as error:
        _invalid(str(error))
    except json.JSONDecodeError as error:
        _invalid(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}")
    except RecursionError:
        _invalid(_TOO_DEEP)
    except ValueError:  # digits without end
        _invalid("holds a number of too many digits")
    _check(value)
    return value


def read_query(model: type[BaseModel] | None, sent: MultiMapping[str]) -> BaseModel | None:
    """The query's parameters; unknown ones are ignored.

    Raises:
        Invalid: one is wrong, missing, or there twice.
    """
    if model is None:
        return None
    lists = {
        field.alias or name
        for name, field in model.model_fields.items()
        if _is_list(field.annotation)
    }
    known = {field.alias or name for name, field in model.model_fields.items()}
    values: dict[str, Any] = {}
    for name in known.intersection(sent):
        given = sent.getall(name)
        if problem := next((_text_problem(each) for each in given if _text_problem(each)), ""):
            raise Invalid((("query", name), problem))
        if name not in lists and len(given) > 1:
            raise Invalid((("query", name), "is given more than once"))
        values[name] = list(given) if name in lists else given[0]
    found = validate(model, values, "query")
    for name, value in found:
        if isinstance(value, int) and abs(value) > _LARGEST_ASKED:
            raise Invalid((("query", name), f"must be at most {_LARGEST_ASKED}"))
    return found


def validate(model: type[BaseModel], value: Any, place: str) -> BaseModel:
    """An instance of `model`. Raises Invalid with every problem, below `place`."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
    except RecursionError:
        raise Invalid(((place,), _TOO_DEEP)) from None
    raise Invalid(
        *(((place, *problem["loc"]), _words(problem["msg"])) for problem in found),
        kinds=[problem["type"] for problem in found],
    )


def is_storable(text: str) -> bool:
    """Whether a database, and JSON, can hold it."""
    return not _text_problem(text)


_TOO_DEEP: Final = f"is nested too deep: {_DEEPEST} levels at most"


def _invalid(why: str, where: Where = ()) -> NoReturn:
    raise Invalid((("body", *where), why), kinds=("json_invalid",))


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Refused(f"has the key {_shown(twice)} twice in one object")
    return found


def _constant(name: str) -> NoReturn:
    raise _Refused(f"is not JSON: {name} is no number of JSON")


def _float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise _Refused("holds a number that is too large")
    return number


def _check(root: Any) -> None:
    """Raise Invalid for the first value that could not be kept; no recursion, whatever was sent."""
    todo: list[tuple[Any, Where]] = [(root, ())]
    while todo:
        value, where = todo.pop()
        if isinstance(value, str):
            if problem := _text_problem(value):
                _invalid(problem, where)
        elif isinstance(value, int):
            if not -_LARGEST - 1 <= value <= _LARGEST:
                _invalid("is a number of more than 64 bits", where)
        elif isinstance(value, dict | list):
            if len(where) >= _DEEPEST:
                _invalid(_TOO_DEEP)
            todo.extend(_children(value, where))


def _children(value: dict[str, Any] | list[Any], where: Where) -> Iterable[tuple[Any, Where]]:
    if isinstance(value, list):
        return [(each, (*where, index)) for index, each in enumerate(value)]
    for key in value:
        if problem := _text_problem(key):
            _invalid(f"has a key that {problem}", where)
    return [(each, (*where, key)) for key, each in value.items()]


def _text_problem(text: str) -> str:
    if "\0" in text:
        return "holds the character NUL, which can't be kept"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "holds half a character (a lone surrogate)"
    return ""


def _shown(key: str) -> str:
    shown = json.dumps(key[:_SHOWN])
    return shown if len(key) <= _SHOWN else f"{shown} …"


def _words(message: str) -> str:
    """Pydantic's, without its prefix for what our own validators say."""
    return message.removeprefix("Value error, ")


def _is_list(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_is_list(each) for each in typing.get_args(annotation))
    if origin is typing.Annotated:
        return _is_list(typing.get_args(annotation)[0])
    return origin in (list, tuple, set, frozenset) or annotation in (list, tuple, set)

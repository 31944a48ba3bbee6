"""Any protobuf message as JSON, in all the ways in which a writer may put it.

protobuf.dev/programming-guides/json: either name of a field, null, 64-bit integers as texts, enums
as names or numbers, and fields and values that a reader has not heard of.
"""

from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

_text = st.text(st.characters(codec="utf-8"), max_size=8)
_unheard = st.dictionaries(st.just("unheardOf") | st.just("unheard_of"), _text | st.none())


def _ints(low: int, high: int) -> st.SearchStrategy[int | str]:
    numbers = st.integers(low, high)
    return numbers | numbers.map(str)


_F = FieldDescriptor
_SCALARS: Final[Mapping[int, st.SearchStrategy[Any]]] = {
    _F.CPPTYPE_INT32: _ints(-(2**31), 2**31 - 1),
    _F.CPPTYPE_UINT32: _ints(0, 2**32 - 1),
    _F.CPPTYPE_INT64: _ints(-(2**63), 2**63 - 1),
    _F.CPPTYPE_UINT64: _ints(0, 2**64 - 1),
    _F.CPPTYPE_FLOAT: st.floats(width=32, allow_nan=False, allow_infinity=False),
    _F.CPPTYPE_DOUBLE: st.floats(allow_nan=False, allow_infinity=False),
    _F.CPPTYPE_BOOL: st.booleans(),
    _F.CPPTYPE_STRING: _text,
}


@cache
def objects(kind: Descriptor, deep: frozenset[str]) -> st.SearchStrategy[dict[str, Any]]:
    """The JSON of a message of a kind: many of the fields named in `deep`, few of the others.

    Messages in fields that are not named there are empty.
    """
    fields = [field for field in kind.fields if not _is_of_google(field)]
    wanted, others = _fields([f for f in fields if f.name in deep], 0.5), _fields(fields, 0)

    @st.composite
    def build(draw: st.DrawFn) -> dict[str, Any]:
        chosen = {_place(field): field for field in draw(others)[:2] + draw(wanted)}
        found = {_spelling(draw, field): _value(draw, field, deep) for field in chosen.values()}
        return found | draw(_unheard)

    return build()


def _fields(fields: list[Any], share: float) -> st.SearchStrategy[list[Any]]:
    if not fields:
        return st.just([])
    least = int(share * len(set(map(_place, fields))))
    return st.lists(st.sampled_from(fields), unique_by=_place, min_size=least)


def _spelling(draw: st.DrawFn, field: FieldDescriptor) -> str:
    return draw(st.sampled_from((field.name, field.json_name)))


def _is_of_google(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and kind.full_name.startswith("google.")


def _place(field: FieldDescriptor) -> str:
    """Of a oneof there may be one."""
    return field.containing_oneof.full_name if field.containing_oneof else field.full_name


def _value(draw: st.DrawFn, field: FieldDescriptor, deep: frozenset[str]) -> Any:
    if draw(st.integers(0, 9)) == 9:
        return None
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        names = _text | st.sampled_from(sorted(deep))  # which are no fields there
        return draw(st.dictionaries(names, _one(kind.fields_by_name["value"], deep), max_size=3))
    one = _one(field, deep)
    return draw(st.lists(one, max_size=2) if field.is_repeated else one)


def _one(field: FieldDescriptor, deep: frozenset[str]) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return objects(field.message_type, deep) if field.name in deep else st.just({})
    if field.enum_type is not None:
        names = list(field.enum_type.values_by_name)
        numbers = list(field.enum_type.values_by_number)
        return st.sampled_from([*names, *numbers, "UNHEARD_OF", 4711])
    if field.type == _F.TYPE_BYTES:
        return st.binary(max_size=4).map(lambda value: b64encode(value).decode())
    return _SCALARS[field.cpp_type]

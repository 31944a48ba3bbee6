"""The `update` action of trunks and rules: change single fields, leave the rest."""

from google.protobuf.message import Message
from livekit.protocol.models import ListUpdate

from router.sandbox.livekit.errors import invalid


def apply_update(info: Message, update: Message) -> None:
    """Write every field that `update` carries into `info`.

    A `ListUpdate` sets, or adds and removes, or clears; an empty value removes an attribute.

    Raises:
        TwirpError: a list update that says nothing, or too much.
    """
    for field, value in update.ListFields():
        if isinstance(value, ListUpdate):
            target = getattr(info, field.name)
            changed = _changed(list(target), value)
            del target[:]
            target.extend(changed)
        elif field.name == "attributes":
            _merge(info, value)
        elif isinstance(value, Message):
            getattr(info, field.name).CopyFrom(value)
        else:
            setattr(info, field.name, value)


def _changed(current: list[str], update: ListUpdate) -> list[str]:
    if update.set:
        if update.add or update.remove or update.clear:
            raise invalid("cannot set and change the list at the same time")
        return list(update.set)
    if not (update.add or update.remove or update.clear):
        # What the Python client sends for an empty list; the way out is the `replace` action.
        raise invalid("unsupported list update operation")
    kept = [] if update.clear else [item for item in current if item not in update.remove]
    return kept + [item for item in update.add if item not in kept]


def _merge(info: Message, changes: dict[str, str]) -> None:
    attributes = info.attributes  # type: ignore[attr-defined]  # only rules have it
    for key, value in changes.items():
        if value:
            attributes[key] = value
        else:
            attributes.pop(key, None)

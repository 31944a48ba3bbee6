"""The long list of a mapping file, without a YAML parser where it is written regularly.

A hundred thousand numbers come from a program, which writes every entry in the same way:

```yaml
numbers:
  - number: "+14155550100"
    provider: twilio
  - {number: '+14155550101', provider: twilio, agent: anna}
```

Such a list is taken by one regular expression, in a third of the parser's time; the rest of the
file is read by `strict_yaml`, which stays the judge of what YAML is: whatever is not plainly of
this form, and whatever has a mistake, is read by it alone. Both give the same data.
"""

import re
from collections.abc import Sequence
from functools import cache
from sys import intern
from typing import Any, Final

from router.numbers import strict_yaml
from router.numbers.strict_yaml import BAD, plain

_MARK: Final = "the list, which is read apart"

# Text in one line, in quotes without an escape, or a word that is a key's whole value.
_TEXT: Final = r""""[ !#-\[\]-~]*"|'[ -&(-~]*'|[A-Za-z0-9_+][A-Za-z0-9_.+-]*"""


def load(text: str, name: str, fields: Sequence[str]) -> strict_yaml.Document:
    """As `strict_yaml.load`; `name` is the long list's key, `fields` those of its entries."""
    return by_form(text, name, tuple(fields)) or strict_yaml.load(text)


def by_form(text: str, name: str, fields: tuple[str, ...]) -> strict_yaml.Document | None:
    """What the text says, None where the parser must look at all of it."""
    head, key, rest = f"\n{text}".partition(f"\n{name}:\n")
    if not key:
        return None
    entries, end = _entries(rest if rest.endswith("\n") else f"{rest}\n", fields)
    tail = rest[end:]
    if not entries or tail[:1] in (" ", "-"):
        return None
    document = strict_yaml.load(f'{head}\n{name}: "{_MARK}"\n{tail}'[1:])
    found = document.data
    regular = document.whole and not document.problems and type(found) is dict
    if not regular or found.get(name) != _MARK:
        return None
    found[name] = entries
    return document


def _entries(text: str, fields: tuple[str, ...]) -> tuple[list[dict[str, Any]], int]:
    """The regular entries with which a text begins, and where they end."""
    entries: list[dict[str, Any]] = []
    end = 0
    block, flow = _patterns(fields)
    first = block.match(text) or flow.match(text)
    if first is None:
        return entries, end
    match, indent = first.re.match, first[1]
    while (found := match(text, end)) is not None and found[1] == indent:
        _, *parts = found.groups()
        entry = {
            intern(key): value[1:-1] if value[0] in "\"'" else plain(value)[0]
            for key, value in zip(parts[::2], parts[1::2], strict=True)
            if key is not None
        }
        if 2 * len(entry) < len(parts) - parts.count(None) or BAD in entry.values():
            break  # a field twice, or a word that YAML makes something odd of
        entries.append(entry)
        end = found.end()
    return entries, end


@cache
def _patterns(fields: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """An entry with a line for each field, and one in braces: its indent, then keys and values."""
    pair, more = f"({'|'.join(fields)}): ({_TEXT})", len(fields) - 1
    block = rf"( *)- {pair}\n" + rf"(?:\1  {pair}\n)?" * more
    flow = rf"( *)- \{{{pair}" + rf"(?:, {pair})?" * more + r"\}\n"
    return re.compile(block), re.compile(flow)

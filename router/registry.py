"""Parts that are found by their folder's name: a new provider or consumer needs no list to edit.

Only what is asked for is imported: a part that is switched off costs nothing and can't fail.
"""

import importlib
import pkgutil
from collections.abc import Sequence
from typing import TypeVar

from router.errors import ConfigError

T = TypeVar("T")


def names(package: str) -> Sequence[str]:
    """The folders of `package` (dotted, such as `router.providers`), sorted."""
    found = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return sorted(module.name for module in found if module.ispkg)


def load(package: str, name: str, attribute: str, kind: type[T]) -> T:
    """What the folder `name` of `package` exports as `attribute`.

    Raises:
        ConfigError: there is no such folder (the message lists those there are), or it doesn't
            export a `kind` under that name.
    """
    known = names(package)
    if name not in known:
        raise ConfigError(f"{package} has no {name!r}; there are: {', '.join(known) or 'none'}")
    value = getattr(importlib.import_module(f"{package}.{name}"), attribute, None)
    if not isinstance(value, kind):
        raise ConfigError(f"{package}.{name} must export {attribute}, a {kind.__name__}")
    return value

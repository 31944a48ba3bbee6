"""What the functions of the control plane work with, made once by the composition root."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from config.settings import Settings
from router.clock import Clock
from router.provider import Credentials, NumberInventory
from router.storage.engine import Database
from router.vault import Vault

OpenInventory = Callable[[str, Credentials | None], AbstractAsyncContextManager[NumberInventory]]
"""Provider's name and credentials (None: the operator's own, from the settings) → its inventory.

Raises ConfigError where the operator has no account at that provider.
"""


@dataclass(frozen=True, slots=True)
class Control:
    """Database, keys and carriers."""

    settings: Settings
    database: Database
    vault: Vault
    open_inventory: OpenInventory
    clock: Clock
    used_tokens: set[str] = field(default_factory=set)
    """Ids of tokens that were used and whose `last_used_at` is old: see `tokens.write_used`."""

"""What the functions of the control plane work with, made once by the composition root."""

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial

from config.settings import Settings
from router.clock import Clock
from router.provider import Credentials, NumberInventory
from router.providers import context_of, open_inventory
from router.secrets import sip_credentials
from router.storage.engine import Database
from router.vault import Vault, keys_now

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
    totals: dict[Hashable, tuple[object, int]] = field(default_factory=dict)
    """How many numbers a list has, and at which revision: see `numbers.list_`."""


def control_of(
    settings: Settings, database: Database, keys: Sequence[bytes], clock: Clock
) -> Control:
    """The control plane of an installation; `keys` of the node, the current one first.

    A carrier's inventory is opened when it is first asked for something, never before.
    """

    def inventory(
        provider: str, credentials: Credentials | None
    ) -> AbstractAsyncContextManager[NumberInventory]:
        context = context_of(settings, sip_credentials(keys[0]), clock)
        return open_inventory(context, provider, credentials)

    vault = Vault(keys, again=partial(keys_now, settings))
    return Control(settings, database, vault, inventory, clock)

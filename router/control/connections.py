"""Connections: an account's credentials at a provider. Sealed, write-only."""

from collections.abc import Mapping
from typing import Any

from router.control.context import Control
from router.control.model import Actor, Connection, Page
from router.provider import Credentials


async def create(
    control: Control,
    actor: Actor,
    *,
    provider: str,
    secrets: Mapping[str, str],
    provider_account: str = "",
    label: str = "",
    details: Mapping[str, Any] | None = None,
) -> Connection:
    """Keep credentials; the account's first one of a provider becomes its default.

    `secrets`: Twilio `auth_token`; Telnyx `api_key`, `public_key`; of others whatever they have.
    """
    raise NotImplementedError


async def get(control: Control, actor: Actor, connection_id: str) -> Connection:
    """By id. NotFound."""
    raise NotImplementedError


async def list_(
    control: Control, actor: Actor, *, offset: int = 0, limit: int = 50, newest_first: bool = False
) -> Page[Connection]:
    """The account's, oldest first."""
    raise NotImplementedError


async def update(
    control: Control,
    actor: Actor,
    connection_id: str,
    *,
    secrets: Mapping[str, str] | None = None,
    provider_account: str | None = None,
    label: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> Connection:
    """Change what is given; a secret given masked, as it was shown, keeps the stored one."""
    raise NotImplementedError


async def delete(control: Control, actor: Actor, connection_id: str) -> None:
    """Conflict: numbers are still held through it (the message says how many)."""
    raise NotImplementedError


async def find_same(
    control: Control, actor: Actor, *, provider: str, provider_account: str
) -> Connection | None:
    """The account's connection with this provider account, if it has one (Resemble's create)."""
    raise NotImplementedError


async def resolve(
    control: Control, actor: Actor, *, provider: str, connection_id: str | None
) -> Credentials | None:
    """What to speak to a carrier with; None: the operator's own, from the settings.

    `connection_id` None or "default": the account's default at that provider, else the operator's
    where the plan allows it (`shared_carriers`).

    Raises:
        NotFound: no such connection, or none at all.
        Forbidden: the plan does not allow the operator's.
        Invalid: it is another provider's.
    """
    raise NotImplementedError


async def credentials(
    control: Control, actor: Actor, connection_id: str | None, provider: str
) -> Credentials | None:
    """Of a number's connection; None for the operator's."""
    raise NotImplementedError

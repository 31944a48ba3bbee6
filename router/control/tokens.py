"""Bearer tokens: `sb_` + 256 random bits + checksum; only their SHA-256 is stored."""

from collections.abc import Sequence

from router.control.context import Control
from router.control.model import Actor, Page, Scope, Token


async def create(
    control: Control,
    actor: Actor,
    *,
    account: str,
    scopes: Sequence[Scope],
    label: str = "",
    lifetime: float | None = None,
) -> tuple[Token, str]:
    """Make a token of an account (id or name); the second value is shown once, here.

    `lifetime` in seconds, None: until it is revoked.
    """
    raise NotImplementedError


async def authenticate(control: Control, token: str, *, request_id: str = "") -> Actor:
    """Whose token it is: one indexed read, so a revoked one is refused at once on every node.

    Raises:
        Unauthorized: malformed (by its checksum, without a query), unknown, expired, revoked.
        StorageUnavailable: nobody can be let in now.
    """
    raise NotImplementedError


async def get(control: Control, actor: Actor, token_id: str) -> Token:
    """NotFound."""
    raise NotImplementedError


async def list_(
    control: Control, actor: Actor, *, account: str | None = None, offset: int = 0, limit: int = 50
) -> Page[Token]:
    """Newest first; of one account, or (admin) of all."""
    raise NotImplementedError


async def revoke(control: Control, actor: Actor, token_id: str) -> Token:
    """From now on nobody gets in with it. Revoking twice is once. NotFound."""
    raise NotImplementedError

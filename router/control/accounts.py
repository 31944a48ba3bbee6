"""Accounts and their plans."""

from router.control.context import Control
from router.control.model import Account, Actor, Page, Plan


async def create(
    control: Control, actor: Actor, *, name: str, plan: Plan, worker: str = ""
) -> Account:
    """Make an account. Conflict: the name is taken. Invalid: the name is empty or too long."""
    raise NotImplementedError


async def get(control: Control, actor: Actor, account: str) -> Account:
    """By id or name. NotFound."""
    raise NotImplementedError


async def own(control: Control, actor: Actor) -> Account:
    """The actor's account."""
    raise NotImplementedError


async def list_(
    control: Control, actor: Actor, *, offset: int = 0, limit: int = 50
) -> Page[Account]:
    """All accounts, by name. For scope `admin` alone."""
    raise NotImplementedError


async def update(
    control: Control,
    actor: Actor,
    account: str,
    *,
    plan: Plan | None = None,
    worker: str | None = None,
    name: str | None = None,
) -> Account:
    """Change what is given."""
    raise NotImplementedError

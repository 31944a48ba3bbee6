"""Numbers: search, buy, adopt, link, release. One number leads to one agent at most.

A purchase is an order first: a row that is written before the carrier is asked, whose id is the tag
that the purchase bears. So whatever happens between buying and storing, `recover` finds the number
and finishes, or finds that it was not bought and forgets the order.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from router.control.context import Control
from router.control.model import Actor, Number, NumberMode, Page
from router.provider import AvailableNumber, NumberQuery


async def search(
    control: Control,
    actor: Actor,
    query: NumberQuery,
    *,
    provider: str,
    connection_id: str | None = None,
) -> Sequence[AvailableNumber]:
    """What can be bought at that connection (see `connections.resolve`).

    Raises:
        Invalid: the carrier refuses the query; it says why.
        Transient, Ambiguous: the carrier is away.
    """
    raise NotImplementedError


async def buy(
    control: Control,
    actor: Actor,
    *,
    provider: str,
    number: str | None = None,
    query: NumberQuery | None = None,
    connection_id: str | None = None,
    agent_id: str | None = None,
    label: str = "",
    details: Mapping[str, Any] | None = None,
) -> Number:
    """Buy this number, or the first one that answers `query`.

    Raises:
        LimitReached: the plan's numbers are used up.
        NotFound: nobody sells it (or it is another account's, which looks the same), or there is
            no such agent or connection.
        Conflict: the account holds it already.
        Transient, Ambiguous: the carrier is away; if it was bought after all, it is there soon.
    """
    raise NotImplementedError


async def adopt(
    control: Control,
    actor: Actor,
    *,
    number: str,
    provider: str,
    connection_id: str | None,
    agent_id: str | None = None,
    label: str = "",
    mode: NumberMode = "webhook",
    details: Mapping[str, Any] | None = None,
) -> Number:
    """Take a number that is at that connection already: set its webhooks, hold it. Takes a slot.

    It is not given back on release: it was not bought by us.

    Raises:
        NotFound: the connection does not hold it.
        LimitReached, Conflict: as `buy`.
    """
    raise NotImplementedError


async def get(control: Control, actor: Actor, number: str) -> Number:
    """By E.164 number (with or without `+`), UUID, or short id. NotFound."""
    raise NotImplementedError


async def list_(
    control: Control,
    actor: Actor,
    *,
    offset: int = 0,
    limit: int = 50,
    agent_id: str | None = None,
    unlinked: bool = False,
    deleting: bool = False,
    newest_first: bool = False,
) -> Page[Number]:
    """The account's, oldest first; `deleting`: those that are being released too."""
    raise NotImplementedError


async def link(
    control: Control, actor: Actor, number: str, agent_id: str | None, *, move: bool = True
) -> Number:
    """Let a number lead to an agent, None: to nobody.

    Raises:
        NotFound: no such number or agent.
        Conflict: it leads elsewhere, and `move` is False.
    """
    raise NotImplementedError


async def update(
    control: Control,
    actor: Actor,
    number: str,
    *,
    label: str | None = None,
    fallback: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> Number:
    """Change what is given; `details` are merged key by key, a value None removes its key."""
    raise NotImplementedError


async def release(
    control: Control, actor: Actor, number: str, *, from_deployed: bool = True
) -> Number:
    """Route it nowhere and free its slot at once; give it back at the carrier if we bought it.

    Where the carrier is away its release goes on in the background (`recover`): the answer has
    `state` `deleting`. Where the carrier refuses for good: `corrupted`.

    Raises:
        NotFound.
        Conflict: its agent is deployed, and `from_deployed` is False: pause the agent first.
    """
    raise NotImplementedError


async def force_delete(control: Control, actor: Actor, number: str) -> None:
    """Forget a corrupted number. Conflict: it is not corrupted."""
    raise NotImplementedError


async def recover(control: Control) -> int:
    """Finish the orders that nobody works on any more; how many that were."""
    raise NotImplementedError


async def held(control: Control, actor: Actor) -> int:
    """How many of its plan's numbers the account uses: those that it holds, and is buying."""
    raise NotImplementedError

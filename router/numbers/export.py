"""The mapping as a file that `switchboard apply` takes; applying it changes nothing."""

import json
import os
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Final

from router.routing.spec import AgentSpec, NumberSpec
from router.storage import mapping
from router.storage.engine import Database

_PAGE: Final = 2000  # numbers; a command reads them, which keeps nobody waiting

# What YAML takes inside double quotes only as an escape (JSON leaves it as it is).
_ESCAPED: Final = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


async def exported(database: Database, account_id: str) -> AsyncIterator[str]:
    """The file's text of an account, page by page; changes made meanwhile may or may not be in it.

    Raises:
        StorageUnavailable: the rest can't be read.
    """
    for piece in written_agents(await mapping.list_agents(database, account_id)):
        yield piece
    page = await mapping.list_numbers(database, account_id, limit=_PAGE)
    yield "numbers:\n" if page else "numbers: []\n"
    while page:
        yield written_numbers(page)
        page = await mapping.list_numbers(database, account_id, after=page[-1].number, limit=_PAGE)


async def write(file: Path, database: Database, account_id: str) -> None:
    """Put the account's mapping into `file` (0600), whole or not at all.

    Raises:
        OSError: it can't be written.
        StorageUnavailable: the mapping can't be read.
    """
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            os.fchmod(descriptor, 0o600)
            async for piece in exported(database, account_id):
                out.write(piece)
            out.flush()
            os.fsync(descriptor)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def written_agents(agents: Iterable[AgentSpec]) -> Iterator[str]:
    """The agents' part of the file, in pieces."""
    first = True
    for agent in agents:
        yield "agents:\n" if first else ""
        first = False
        yield (
            f"  - name: {_json(agent.name)}\n"
            f"    livekit_agent_name: {_json(agent.livekit_agent_name)}\n"
            f"    status: {agent.status}\n"
        )
        if agent.metadata:
            yield f"    metadata: {_json(agent.metadata)}\n"
    if first:
        yield "agents: []\n"


def written_numbers(numbers: Sequence[NumberSpec]) -> str:
    """Entries of the file's list `numbers:`."""
    text = cache(_json)  # many numbers, few providers and agents
    return "".join(
        f'  - {{number: "{each.number}", provider: {text(each.provider)}'
        + (f", agent: {text(each.agent)}" if each.agent is not None else "")
        + (f', fallback: "{each.fallback}"' if each.fallback else "")
        + "}\n"
        for each in numbers
    )


def _json(value: object) -> str:
    """JSON that YAML reads as the same."""
    text = json.dumps(value, ensure_ascii=False)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)

"""What the jobs of an agent get where its dialect does not say: it is made from the config.

`{"config": …, "documents": {id: {"kind": …, …}}}`, without secrets, with the body of every document
of the account (prompt, action, voice, webhook, vector database) whose id stands anywhere in the
config, so that a job need not ask for it. It follows the config, and the documents
(`router.control.refresh`). Metadata that a dialect gave itself are changed by nobody else.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from router.control.model import Actor, checked_json
from router.errors import Invalid
from router.routing.spec import METADATA_LIMIT, metadata_size, too_large
from router.storage.schema import documents
from router.storage.sql import unindexed
from router.vault import is_secret_key

_CONFIG: Final = ("body", "config")
_IDS: Final = 100  # documents that one agent may refer to
_UUID: Final = re.compile("[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_decoder: Final = msgspec.json.Decoder(dict[str, Any])
_NONE: Final[Mapping[str, str]] = {}


def for_job(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document, sealed or not, without its secrets: what a job may have of it."""

    def walk(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {
                key: walk(each)
                for key, each in value.items()
                if key != "credentials" and not is_secret_key(key)
            }
        if isinstance(value, list | tuple):
            return [walk(each) for each in value]
        return value

    return dict(walk(document))


def is_made(metadata: str, config: Mapping[str, Any]) -> bool:
    """Whether metadata (JSON) were made from this config, and not given."""
    stored = _decoder.decode(metadata)
    return stored.keys() <= {"config", "documents"} and stored.get("config") == for_job(config)


async def made(
    connection: AsyncConnection,
    actor: Actor,
    config: Mapping[str, Any],
    *,
    locked: bool = True,
    changed: Mapping[str, str] = _NONE,
) -> dict[str, Any]:
    """The metadata that follow from a config. Raises Invalid: it refers to too much.

    `locked`: whoever changes one of the documents waits, and then finds this agent to be told.
    `changed`: bodies (JSON) that documents are to have, by id.
    """
    found: dict[str, Any] = {"config": for_job(config)}
    ids = sorted({each.lower() for each in _UUID.findall(_json(found["config"]))})
    if len(ids) > _IDS:
        raise Invalid((_CONFIG, f"holds {len(ids)} ids, and {_IDS} are the most"))
    if not ids:
        return found
    query = select(documents.c.id, documents.c.kind, documents.c.body).where(
        unindexed(documents.c.account_id) == actor.account_id, documents.c.id.in_(ids)
    )
    if locked:
        query = query.order_by(documents.c.id).with_for_update(read=True)
    rows = (await connection.execute(query)).all()
    if rows:
        found["documents"] = {
            row.id: {
                **for_job(_decoder.decode(changed.get(row.id, row.body))),
                "kind": row.kind,
            }
            for row in rows
        }
    return found


async def remade(connection: AsyncConnection, actor: Actor, config: Mapping[str, Any]) -> str:
    """The same, checked, as JSON. Raises Invalid."""
    return _json(checked(await made(connection, actor, config)))


def checked(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Raises Invalid: a job can't have it."""
    checked_json(_CONFIG, metadata)
    size = metadata_size(metadata)
    if size > METADATA_LIMIT:
        raise Invalid((_CONFIG, too_large(size)))
    return metadata


def _json(document: Mapping[str, Any]) -> str:
    return msgspec.json.encode(document).decode()

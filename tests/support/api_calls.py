"""Calls that were, for tests of the API: rows as the consumer writes them."""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import insert

from router.events.ids import call_id
from router.events.model import EventData
from router.events.types import EventType
from router.storage.schema import call_events, calls
from tests.support.api import Client

BEGAN = 1_780_000_000_000_000  # 2026-05-28T20:26:40Z

Said = tuple[str, str]  # speaker, text


async def called(
    client: Client,
    name: str = "CA1",
    *,
    said: Sequence[Said] = (),
    events: Sequence[tuple[EventType, EventData]] = (),
    **more: Any,
) -> str:
    """A call of the client's account; its id. `more`: columns."""
    found = call_id("twilio", client.account.id, name)
    row: dict[str, Any] = {
        "call_id": found,
        "provider": "twilio",
        "provider_call_id": name,
        "account": "AC1",
        "account_id": client.account.id,
        "direction": "inbound",
        "from_number": "+14155550199",
        "to_number": "+14155553000",
        "state": "ended",
        "agent": "",
        "agent_id": "",
        "agent_ready": True,
        "reason": "",
        "initiated_at": BEGAN,
        "duration": 12.5,
    }
    happened = [
        (EventType.TRANSCRIPT_ADDED, EventData(speaker=speaker, text=text))
        for speaker, text in said
    ]
    async with client.api.control.database.write() as connection:
        await connection.execute(insert(calls).values(row | more))
        for number, (kind, data) in enumerate((*happened, *events)):
            values = {
                "event_id": f"{found}-{number}",
                "call_id": found,
                "type": kind.value,
                "time": BEGAN + number * 1_000_000,
                "source": "twilio",
                "data": msgspec.json.encode(data),
            }
            await connection.execute(insert(call_events).values(values))
    return found

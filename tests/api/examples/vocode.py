"""Of Vocode's dialect."""

from typing import Any

import msgspec
from sqlalchemy import insert

from router.events.ids import call_id
from router.events.model import EventData
from router.events.types import EventType
from router.storage.schema import call_events, calls
from tests.api.examples import Example
from tests.support.api import Client, Reply

OPENAI = {
    "type": "account_connection_openai",
    "credentials": {"openai_api_key": "sk-0123456789abcdef"},
}
VOICE = {"type": "voice_azure", "voice_name": "en-US-AriaNeural"}
ACTION = {"type": "action_transfer_call", "config": {"phone_number": "+14155550111"}}
WEBHOOK = {"subscriptions": ["event_message"], "url": "https://example.com/hook"}
VECTOR_DATABASE = {
    "type": "vector_database_pinecone",
    "index": "facts",
    "api_key": "0123456789abcdef",
    "api_environment": "us-east1",
}
NOBODY = "00000000-0000-4000-8000-000000000000"


def twilio(client: Client) -> dict[str, Any]:
    """Credentials of an account of its own at Twilio."""
    credentials = {"twilio_account_sid": sid(client), "twilio_auth_token": "0123456789abcdef"}
    return {
        "type": "account_connection_twilio",
        "credentials": credentials,
        "steering_pool": ["+14155550112"],
    }


def sid(client: Client) -> str:
    """Its AccountSid."""
    return "AC" + client.account.id.replace("-", "")


async def things(client: Client) -> dict[str, str]:
    """One of each; the number `at_carrier` is at the connection, and not held yet."""
    made = {
        "voice": await _made(client, "voices", VOICE),
        "prompt": await _made(client, "prompts", {"content": "Be brief."}),
        "action": await _made(client, "actions", ACTION),
        "webhook": await _made(client, "webhooks", WEBHOOK),
        "vector_database": await _made(client, "vector_databases", VECTOR_DATABASE),
        "connection": await _made(client, "account_connections", twilio(client)),
        "openai": await _made(client, "account_connections", OPENAI),
    }
    agent = {"prompt": made["prompt"], "voice": made["voice"], "actions": [made["action"]]}
    made["agent"] = await _made(client, "agents", agent)
    bought = ok(await client.post("/v1/numbers/buy", {"inbound_agent": made["agent"]}))
    made["number"] = bought["number"]
    made["at_carrier"] = client.api.carriers.give("twilio", sid(client))
    made["call"] = await had_call(client, made["agent"])
    return made


async def had_call(client: Client, agent_id: str, *, recording: str = "", **more: Any) -> str:
    """A call that an agent of the client's account had, as the consumer writes it; its id."""
    made = call_id(
        "twilio", sid(client), f"CA{client.account.id}{more.get('provider_call_id', '')}"
    )
    values: dict[str, Any] = {
        "call_id": made,
        "provider": "twilio",
        "provider_call_id": "CA1",
        "account": sid(client),
        "account_id": client.account.id,
        "direction": "inbound",
        "from_number": "+14155550199",
        "to_number": "+14155550100",
        "state": "ended",
        "disposition": "answered",
        "agent": "anna",
        "agent_id": agent_id,
        "agent_ready": True,
        "reason": "",
        "initiated_at": client.api.control.clock.now(),
        "answered_at": client.api.control.clock.now() + 1,
        "ended_at": client.api.control.clock.now() + 60_000_000,
        "duration": 61.0,
    }
    values |= more
    recording = recording or "https://recordings.example.com/RE1"
    data = EventData(call_id=made, recording_url=recording, text="Hello?", speaker="human")
    event = {
        "event_id": f"{made}-1",
        "call_id": made,
        "type": EventType.RECORDING_COMPLETED.value,
        "time": values["ended_at"] or values["initiated_at"],
        "source": "/twilio",
        "data": msgspec.json.encode(data),
    }
    async with client.api.control.database.write() as connection:
        await connection.execute(insert(calls).values(values))
        await connection.execute(insert(call_events).values(event))
    return made


def ok(reply: Reply) -> Any:
    """The answer of a request that succeeds."""
    assert reply.status == 200, reply.text
    return reply.json


async def _made(client: Client, kind: str, body: Any) -> str:
    return str(ok(await client.post(f"/v1/{kind}/create", body))["id"])


def _four(kind: str, name: str, create: Any, update: Any, thing: str = "") -> dict[str, Example]:
    by_id = {"id": f"${thing or name}"}
    return {
        f"get_{name}": Example(query=by_id),
        f"list_{kind}": Example(),
        f"create_{name}": Example(body=create),
        f"update_{name}": Example(query=by_id, body=update),
    }


EXAMPLES = {
    "get_number": Example(query={"phone_number": "$number"}),
    "list_numbers": Example(query={"page": "1", "size": "5", "sort_desc": "true"}),
    "list_available_numbers": Example(
        query={
            "telephony_provider": "twilio",
            "telephony_account_connection": "$connection",
            "filters": "area_code:415",
            "limit": "3",
        }
    ),
    "buy_number": Example(
        body={
            "area_code": "415",
            "telephony_provider": "twilio",
            "telephony_account_connection": "$connection",
            "inbound_agent": "$agent",
        }
    ),
    "update_number": Example(
        query={"phone_number": "$number"}, body={"inbound_agent": "$agent", "label": "front desk"}
    ),
    "cancel_number": Example(query={"phone_number": "$number"}),
    "link_number": Example(
        body={
            "phone_number": "$at_carrier",
            "telephony_account_connection": "$connection",
            "inbound_agent": "$agent",
        }
    ),
    "get_call": Example(query={"id": "$call"}),
    "list_calls": Example(),
    "get_recording": Example(query={"id": "$call"}, status=307),
    "create_call": Example(
        body={"from_number": "+14155550100", "to_number": "+14155550199", "agent": NOBODY},
        status=501,
    ),
    "end_call": Example(query={"id": NOBODY}, status=501),
    "get_usage": Example(),
    **_four(
        "agents",
        "agent",
        {
            "prompt": "$prompt",
            "voice": "$voice",
            "actions": ["$action"],
            "webhook": "$webhook",
            "vector_database": "$vector_database",
            "openai_account_connection": "$openai",
        },
        {"prompt": "$prompt", "name": None, "actions": {}},
    ),
    **_four("prompts", "prompt", {"content": "Be kind."}, {"content": "Be brief."}),
    **_four("actions", "action", ACTION, {"type": "action_transfer_call", "config": {}}),
    **_four("voices", "voice", VOICE, {"type": "voice_azure", "pitch": 3}),
    **_four("webhooks", "webhook", WEBHOOK, {"method": "GET"}),
    **_four(
        "vector_databases",
        "vector_database",
        VECTOR_DATABASE,
        {"type": "vector_database_pinecone", "index": "more"},
    ),
    **_four(
        "account_connections",
        "account_connection",
        OPENAI,
        {"type": "account_connection_twilio", "credentials": {}},
        "connection",
    ),
    "add_to_steering_pool": Example(
        query={"id": "$connection"}, body={"phone_number": "+14155550111"}
    ),
    "remove_from_steering_pool": Example(
        query={"id": "$connection"}, body={"phone_number": "+14155550112"}
    ),
}

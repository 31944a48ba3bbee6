"""Of the native dialect."""

from base64 import b64encode

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.api.examples import Example
from tests.support.api import Client
from tests.support.twilio_requests import new_sid

BASE = "/api/switchboard/v1"
CREDENTIALS = {"auth_token": "0123456789abcdef0123456789abcdef"}


async def things(client: Client) -> dict[str, str]:
    """A connection with a number of its own, an agent that has one, a call, a token."""
    sid = "AC" + new_sid()[2:]
    connection = await _made(
        client,
        "connections",
        {"provider": "twilio", "provider_account": sid, "secrets": CREDENTIALS},
    )
    spare = await _made(
        client, "connections", {"provider": "telnyx", "secrets": telnyx_credentials()}
    )
    agent = await _made(client, "agents", {"name": "anna"})
    unused = await _made(client, "agents", {"name": "bob"})
    bought = {"provider": "twilio", "connection_id": connection["id"]}
    number = await _made(client, "numbers", {**bought, "agent_id": agent["id"]})
    other = await _made(client, "numbers", bought)
    corrupted = await _made(client, "numbers", bought)
    await client.api.corrupt(corrupted["id"])
    own = client.api.carriers.give("twilio", sid)
    return {
        "account": client.account.id,
        "token": client.row.id,
        "connection": connection["id"],
        "spare_connection": spare["id"],
        "agent": agent["id"],
        "unused_agent": unused["id"],
        "number": number["id"],
        "e164": number["number"],
        "short_number": str(other["short_id"]),
        "corrupted": corrupted["id"],
        "own_number": own,
        "fresh": f"fresh-{client.account.name}",
        "call": await client.api.call(client.account, agent["id"]),
    }


def telnyx_credentials() -> dict[str, str]:
    public = Ed25519PrivateKey.from_private_bytes(b"k" * 32).public_key()
    key = b64encode(public.public_bytes_raw()).decode()
    return {"api_key": "KEY0123456789ABCDEF_0123456789abcdef", "public_key": key}


async def _made(client: Client, what: str, body: object) -> dict[str, str]:
    reply = await client.post(f"{BASE}/{what}", body)
    assert reply.status == 201, reply.text
    made: dict[str, str] = reply.json
    return made


EXAMPLES = {
    "get_me": Example(),
    "list_accounts": Example(admin=True),
    "create_account": Example(
        body={"name": "$fresh", "plan": {"numbers": 5, "minutes": None}}, status=201, admin=True
    ),
    "get_account": Example(path={"account": "$account"}, admin=True),
    "update_account": Example(
        path={"account": "$account"}, body={"plan": {"calls": 3}}, admin=True
    ),
    "list_tokens": Example(query={"account": "$account"}, admin=True),
    "create_token": Example(
        body={"account": "$account", "scopes": ["numbers:read"]}, status=201, admin=True
    ),
    "get_token": Example(path={"token_id": "$token"}, admin=True),
    "revoke_token": Example(path={"token_id": "$token"}, admin=True),
    "get_usage": Example(),
    "list_audit": Example(admin=True),
    "list_connections": Example(),
    "create_connection": Example(
        body={"provider": "telnyx", "secrets": telnyx_credentials()}, status=201
    ),
    "get_connection": Example(path={"connection_id": "$connection"}),
    "update_connection": Example(path={"connection_id": "$connection"}, body={"label": "ours"}),
    "delete_connection": Example(path={"connection_id": "$spare_connection"}, status=204),
    "list_agents": Example(query={"status": "deployed"}),
    "create_agent": Example(body={"name": "carla", "config": {"voice": "warm"}}, status=201),
    "get_agent": Example(path={"agent_id": "$agent"}),
    "update_agent": Example(path={"agent_id": "$agent"}, body={"status": "paused"}),
    "delete_agent": Example(path={"agent_id": "$unused_agent"}, status=204),
    "search_numbers": Example(
        query={"provider": "twilio", "connection_id": "$connection", "area_code": "415"}
    ),
    "buy_number": Example(
        body={
            "provider": "twilio",
            "area_code": "415",
            "connection_id": "$connection",
            "agent_id": "$agent",
        },
        status=201,
    ),
    "adopt_number": Example(
        body={
            "provider": "twilio",
            "number": "$own_number",
            "connection_id": "$connection",
            "agent_id": "$agent",
        },
        status=201,
    ),
    "list_numbers": Example(query={"agent_id": "$agent"}, foreign={"agent": 200}),
    "get_number": Example(path={"number": "$e164"}),
    "update_number": Example(
        path={"number": "$number"}, body={"label": "front desk", "agent_id": "$agent"}
    ),
    "link_number": Example(path={"number": "$number"}, body={"agent_id": "$agent"}),
    "unlink_number": Example(path={"number": "$short_number"}),
    "release_number": Example(path={"number": "$number"}),
    "force_delete_number": Example(path={"number": "$corrupted"}, status=204),
    "list_calls": Example(query={"agent_id": "$agent"}, foreign={"agent": 200}),
    "get_call": Example(path={"call_id": "$call"}),
    "list_call_events": Example(path={"call_id": "$call"}),
}

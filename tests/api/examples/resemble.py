"""Of Resemble's dialect."""

from router.control import numbers
from router.control.model import Actor
from tests.api.examples import Example
from tests.support.api import Client

NUMBERS, AGENTS = "/api/v2/phone_numbers", "/api/v2/agents"
SID = "AC" + "b2" * 16


def new_number(client: Client) -> dict[str, str]:
    """What a create of a number needs; it is at Twilio already."""
    return {
        "phone_number": client.api.carriers.give("twilio", SID),
        "label": "Support Line",
        "provider": "twilio",
        "twilio_account_sid": SID,
        "twilio_auth_token": "a-token-of-thirty-two-characters",
    }


async def things(client: Client) -> dict[str, str]:
    """A number, a corrupted one, an agent, a number that is at Twilio."""
    ids = []
    for _ in range(2):
        reply = await client.post(NUMBERS, {**new_number(client), "supports_inbound": True})
        assert reply.status == 200, reply.text
        ids.append(reply.json["item"]["id"])
    reply = await client.post(AGENTS, {"name": "Anna", "voice_uuid": "v1"})
    assert reply.status == 200, reply.text
    actor = Actor(account_id=client.account.id)
    corrupted = await numbers.get(client.api.control, actor, str(ids[1]))
    await client.api.corrupt(corrupted.id)
    return {
        "number": str(ids[0]),
        "corrupted": str(ids[1]),
        "agent": reply.json["item"]["uuid"],
        "at_twilio": new_number(client)["phone_number"],
    }


_NUMBER, _AGENT = {"id": "$number"}, {"uuid": "$agent"}

EXAMPLES = {
    "list_phone_numbers": Example(query={"page": "1", "page_size": "10"}),
    "create_phone_number": Example(
        body={
            "phone_number": "$at_twilio",
            "label": "Sales",
            "supports_inbound": True,
            "provider": "twilio",
            "twilio_account_sid": SID,
            "twilio_auth_token": "a-token-of-thirty-two-characters",
            "agent_uuid": "$agent",
        },
        foreign={"agent": 422},
        open=frozenset({"at_twilio"}),
    ),
    "get_phone_number": Example(path=_NUMBER),
    "delete_phone_number": Example(path=_NUMBER),
    "force_delete_phone_number": Example(path={"id": "$corrupted"}),
    "list_agents": Example(query={"page_size": "5"}),
    "create_agent": Example(body={"name": "Bob", "voice_uuid": "v2"}),
    "get_agent": Example(path=_AGENT),
    "update_agent": Example(path=_AGENT, body={"name": "Anna 2", "phone_number_id": None}),
    "replace_agent": Example(path=_AGENT, body={"llm": {"prompt": "Be brief"}}),
    "delete_agent": Example(path=_AGENT),
}

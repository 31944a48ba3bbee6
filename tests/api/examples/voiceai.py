"""Of voice.ai's dialect."""

from tests.api.examples import Example
from tests.support.api import Client
from tests.support.api_calls import called

SEARCH, SELECT, RELEASE = (
    f"/api/v1/agent/{name}"
    for name in ("search-phone-numbers", "select-phone-number", "release-phone-number")
)


async def things(client: Client) -> dict[str, str]:
    """An agent, two numbers, a number for sale, a call with a transcript."""
    reply = await client.post(SEARCH, {})
    mine, spare, sold = (each["phone_number"] for each in reply.json["results"][:3])
    for number in (mine, spare):
        assert (await client.post(SELECT, {"phone_number": number})).status == 200
    reply = await client.post("/api/v1/agent/", {"name": "Anna", "config": {"greeting": "Hello"}})
    assert reply.status == 200, reply.text
    return {
        "number": mine,
        "spare": spare,
        "for_sale": sold,
        "agent": reply.json["agent_id"],
        "call": await called(client, said=[("inbound_track", "Hello?")]),
    }


_AGENT = {"agent_id": "$agent"}
_CALL = {"call_id": "$call"}
_NEW = {"name": "Bob", "config": {"prompt": "Be brief", "phone_number": "$number"}}

EXAMPLES = {
    "search_phone_numbers": Example(body={"country_code": "US", "area_code": "415"}),
    "select_phone_number": Example(
        body={"phone_number": "$for_sale", "provider": "twilio"}, open=frozenset({"for_sale"})
    ),
    "release_phone_number": Example(body={"phone_number": "$spare", "provider": "twilio"}),
    "list_phone_numbers": Example(query={"page": "1", "limit": "10"}),
    "list_available_phone_numbers": Example(),
    "create_agent": Example(body=_NEW, foreign={"number": 422}),
    "create_agent_without_slash": Example(body=_NEW, foreign={"number": 422}),
    "list_agents": Example(query={"show_statuses": "paused"}),
    "list_agents_without_slash": Example(query={"page": "1"}),
    "agent_stats_summary": Example(),
    "get_agent": Example(path=_AGENT),
    "update_agent": Example(
        path=_AGENT,
        body={"name": "Anna 2", "config": {"greeting": None, "phone_number": "$number"}},
        foreign={"number": 422},
    ),
    "deploy_agent": Example(path=_AGENT),
    "pause_agent": Example(path=_AGENT),
    "disable_agent": Example(path=_AGENT),
    "get_agent_status": Example(path=_AGENT),
    "get_call_history": Example(
        query={"sort_by": "duration", "agent_ids": "$agent"}, foreign={"agent": 200}
    ),
    "get_call_transcript_url": Example(path=_CALL),
    "get_call_transcript": Example(path=_CALL),
    "get_call_recording_url": Example(path=_CALL),
    "create_outbound_call": Example(
        body={"agent_id": "a", "target_phone_number": "+14155550100"}, status=501
    ),
}

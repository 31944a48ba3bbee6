"""voice.ai: agents and their number, partial updates, what is shown of secrets, call history."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from router.api.voiceai import DIALECT
from router.clock import SystemClock
from router.control import agents, numbers
from router.control.model import Actor
from router.events.model import EventData
from router.events.types import EventType
from router.storage import mapping
from tests.support.api import Client, Reply, running_api
from tests.support.api_calls import BEGAN, called
from tests.support.api_schemas import check

AGENT = "/api/v1/agent/"
HISTORY = f"{AGENT}call-history"
ONE, TWO, NOBODYS = "+14155553000", "+14155553001", "+14155559999"
SECRET = "a-secret-that-is-never-shown"
answered = partial(check, "voiceai")


@pytest.fixture
async def acme(tmp_path: Path) -> AsyncIterator[Client]:
    async with running_api(tmp_path, only=[DIALECT]) as running:
        yield await running.account("acme")


async def has(client: Client, *wanted: str) -> None:
    for number in wanted:
        reply = await client.post(f"{AGENT}select-phone-number", {"phone_number": number})
        assert reply.status == 200, reply.text


async def made(client: Client, name: str = "Anna", **config: Any) -> dict[str, Any]:
    reply = await client.post(AGENT, {"name": name, "config": config})
    found: dict[str, Any] = answered(reply, 200, "Agent")
    return found


async def put(client: Client, agent: dict[str, Any], body: Any) -> dict[str, Any]:
    reply = await client.put(AGENT + agent["agent_id"], body)
    found: dict[str, Any] = answered(reply, 200, "Agent")
    return found


async def shown(client: Client, agent: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = answered(await client.get(AGENT + agent["agent_id"]), 200, "Agent")
    return found


def actor(client: Client) -> Actor:
    return Actor(account_id=client.account.id)


async def test_an_update_is_partial_and_null_clears(acme: Client) -> None:
    voice = {"voice_id": "v1", "language": "en"}
    anna = await made(acme, prompt="Be kind", greeting="Hello", tts_params=voice, custom={"a": 1})
    assert anna["config"] == {
        "prompt": "Be kind",
        "greeting": "Hello",
        "tts_params": voice,
        "custom": {"a": 1},
        "phone_number": None,
    }
    await put(acme, anna, {"name": "Anna 2"})
    await put(acme, anna, {"config": {"greeting": None, "tts_params": {"voice_id": "v2"}}})
    await put(acme, anna, {})
    found = await shown(acme, anna)
    assert found["name"] == "Anna 2"
    assert found["config"] == {
        "prompt": "Be kind",
        "tts_params": {"voice_id": "v2", "language": "en"},
        "custom": {"a": 1},
        "phone_number": None,
    }
    assert found["updated_at"] > found["created_at"] == anna["created_at"]
    assert (await put(acme, anna, {"config": None}))["config"] == {"phone_number": None}


async def test_of_updates_at_once_none_is_lost(acme: Client) -> None:
    anna = await made(acme)
    names = [f"field_{count}" for count in range(12)]
    await asyncio.gather(*(put(acme, anna, {"config": {name: 1}}) for name in names))
    assert (await shown(acme, anna))["config"] == {**dict.fromkeys(names, 1), "phone_number": None}


async def test_a_number_that_cannot_be_linked_leaves_no_agent_and_no_change(acme: Client) -> None:
    await has(acme, ONE)
    anna = await made(acme, phone_number=ONE)
    before = await acme.api.dump()
    config = {"phone_number": NOBODYS, "prompt": "Be kind"}
    for reply in (
        await acme.post(AGENT, {"name": "Bob", "config": config}),
        await acme.put(AGENT + anna["agent_id"], {"name": "Eve", "config": config}),
    ):
        detail = answered(reply, 422, "HTTPValidationError")["detail"]
        assert [each["loc"] for each in detail] == [["body", "config", "phone_number"]]
    assert await acme.api.dump() == before


async def test_jobs_are_given_the_configuration_without_secrets(acme: Client) -> None:
    await has(acme, ONE)
    hook = {"events": {"url": "https://acme.example/hook", "secret": SECRET}}
    anna = await made(acme, prompt="Be kind", webhooks=hook, phone_number=ONE)
    await acme.post(f"{AGENT}{anna['agent_id']}/deploy")
    route = await mapping.find_route(acme.api.control.database, ONE)
    assert route is not None
    given = route.targets[0].metadata
    assert given["config"]["prompt"] == "Be kind"
    assert SECRET not in str(given)


async def test_a_webhooks_secret_is_kept_and_never_shown(acme: Client) -> None:
    hook = {"url": "https://acme.example/hook", "secret": SECRET, "has_secret": False}
    anna = await made(acme, webhooks={"events": hook})
    events = anna["config"]["webhooks"]["events"]
    assert events == {"url": "https://acme.example/hook", "has_secret": True}

    async def kept() -> Any:
        found = await agents.get(acme.api.control, actor(acme), anna["agent_id"], secrets=True)
        return found.config["webhooks"]["events"].get("secret")

    assert await kept() == SECRET
    found = await put(acme, anna, {"config": {"webhooks": {"events": {"timeout": 9}}}})
    assert found["config"]["webhooks"]["events"] == {**events, "timeout": 9}
    await put(acme, anna, {"config": found["config"]})  # as it was shown
    assert await kept() == SECRET
    found = await put(acme, anna, {"config": {"webhooks": {"events": {"secret": None}}}})
    assert found["config"]["webhooks"]["events"]["has_secret"] is False
    assert await kept() is None


async def test_other_secrets_show_their_end_and_survive_what_was_shown(acme: Client) -> None:
    server = {"name": "tools", "url": "https://mcp.example/mcp", "auth_token": SECRET}
    anna = await made(acme, mcp_servers=[server])
    assert anna["config"]["mcp_servers"][0]["auth_token"] == f"…{SECRET[-4:]}"
    await put(acme, anna, {"config": {"mcp_servers": anna["config"]["mcp_servers"]}})
    found = await agents.get(acme.api.control, actor(acme), anna["agent_id"], secrets=True)
    assert found.config["mcp_servers"][0]["auth_token"] == SECRET


async def test_a_number_moves_to_the_agent_that_names_it(acme: Client) -> None:
    await has(acme, ONE, TWO)
    anna = await made(acme, phone_number=ONE[1:])
    bob = await made(acme, "Bob", phone_number=ONE)
    assert (await shown(acme, anna))["config"]["phone_number"] is None
    assert bob["config"]["phone_number"] == ONE
    assert (await put(acme, bob, {"config": {"greeting": "Hi"}}))["config"]["phone_number"] == ONE
    assert (await put(acme, bob, {"config": {"phone_number": TWO}}))["config"][
        "phone_number"
    ] == TWO
    free = await acme.get(f"{AGENT}available-phone-numbers")
    assert [each["phone_number"] for each in free.json["phone_numbers"]] == [ONE]
    bob = await put(acme, bob, {"config": {"phone_number": None}})
    assert bob["config"]["phone_number"] is None
    # However it was unlinked: the number says where it leads.
    await numbers.link(acme.api.control, actor(acme), TWO, anna["agent_id"])
    assert (await shown(acme, anna))["config"]["phone_number"] == TWO
    listed = answered(await acme.get(AGENT), 200, "AgentList")
    assert [each["config"]["phone_number"] for each in listed] == [TWO, None]


async def test_a_number_that_the_account_does_not_hold_changes_nothing(acme: Client) -> None:
    other = await acme.api.account("other")
    await has(other, TWO)
    await has(acme, ONE)
    anna = await made(acme, greeting="Hello", phone_number=ONE)
    said = set()
    for number in (TWO, NOBODYS):
        config = {"greeting": "Changed", "phone_number": number}
        for reply in (
            await acme.post(AGENT, {"name": "Bob", "config": config}),
            await acme.put(AGENT + anna["agent_id"], {"name": "Changed", "config": config}),
        ):
            (problem,) = answered(reply, 422, "HTTPValidationError")["detail"]
            assert problem["loc"] == ["body", "config", "phone_number"]
            said.add(problem["msg"])
    assert len(said) == 1  # of whose number it is, nothing is told
    assert await shown(acme, anna) == anna
    assert len((await acme.get(AGENT)).json) == 1


async def test_deploy_pause_disable(acme: Client) -> None:
    await has(acme, ONE)
    anna = await made(acme, phone_number=ONE, tts_params={"voice_id": "v1"})
    at = AGENT + anna["agent_id"]
    status = f"/api/v1/connection/agent-status/{anna['agent_id']}"
    told = answered(await acme.get(status), 200, "AgentConnectionStatusResponse")
    assert (told["call_allowed"], told["status_code"], told["voice_id"]) == (False, 1, "v1")
    assert told["call_validation_details"]["reason"] == "agent_not_deployed"

    for _ in range(2):
        answered(await acme.post(f"{at}/deploy"), 200, "AgentDeployResponse")
    told = answered(await acme.get(status), 200, "AgentConnectionStatusResponse")
    assert (told["call_allowed"], told["status"], told["status_code"]) == (True, "deployed", 2)
    refused = answered(await acme.post(f"{at}/disable"), 409, "ErrorResponse")
    assert "pause it first" in refused["error"]

    for _ in range(2):
        answered(await acme.post(f"{at}/pause"), 200, "AgentPauseResponse")
    gone = answered(await acme.post(f"{at}/disable"), 200, "AgentDeleteResponse")
    assert gone["agent"]["status"] == "disabled"
    assert gone["agent"]["config"]["phone_number"] is None
    assert ONE in gone["message"]
    assert (await acme.get(f"{AGENT}phone-numbers")).json["total_available"] == 1
    for step in ("deploy", "pause"):
        answered(await acme.post(f"{at}/{step}"), 409, "ErrorResponse")
    answered(await acme.put(at, {"name": "Again"}), 409, "ErrorResponse")
    assert (await acme.post(f"{at}/disable")).json["message"] == "Agent disabled"


async def test_lists_show_deployed_and_paused_unless_asked(acme: Client) -> None:
    anna, _bob, eve = [await made(acme, name) for name in ("Anna", "Bob", "Eve")]
    await acme.post(f"{AGENT}{anna['agent_id']}/deploy")
    await acme.post(f"{AGENT}{eve['agent_id']}/disable")

    async def names(**query: Any) -> list[str]:
        reply = await acme.get(AGENT, query)
        found = reply.json if isinstance(reply.json, list) else reply.json["items"]
        return [each["name"] for each in found]

    assert await names() == ["Anna", "Bob"]
    assert await names(show_statuses="disabled") == ["Eve"]
    reply = await acme.request("GET", f"{AGENT}?show_statuses=disabled&show_statuses=deployed")
    assert [each["name"] for each in reply.json] == ["Anna", "Eve"]
    assert await names(page=2, limit=1) == ["Bob"]
    page = answered(await acme.get(AGENT, {"limit": 1}), 200, "PaginatedAgentResponse")
    assert page["pagination"]["total_items"] == 2
    assert (await acme.get(AGENT[:-1])).json == (await acme.get(AGENT)).json
    detail = answered(await acme.get(AGENT, {"show_statuses": "gone"}), 422, "HTTPValidationError")
    assert detail["detail"][0]["loc"][:2] == ["query", "show_statuses"]
    stats = answered(await acme.get(f"{AGENT}stats-summary"), 200, "AgentStatsSummaryResponse")
    assert stats == {
        "total_agents": 3,
        "status_summary": {"deployed": 1, "paused": 1, "disabled": 1},
    }


async def test_names_may_repeat_and_the_worker_is_the_configurations(acme: Client) -> None:
    first, second = await made(acme), await made(acme)
    assert first["name"] == second["name"]
    found = [
        await agents.get(acme.api.control, actor(acme), each["agent_id"])
        for each in (first, second)
    ]
    assert found[0].name != found[1].name
    third = await made(acme, livekit_agent_name="our-worker")
    stored = await agents.get(acme.api.control, actor(acme), third["agent_id"])
    assert stored.livekit_agent_name == "our-worker"
    await put(acme, third, {"config": {"prompt": "Be kind"}})
    stored = await agents.get(acme.api.control, actor(acme), third["agent_id"])
    assert stored.livekit_agent_name == "our-worker"
    await put(acme, third, {"config": {"livekit_agent_name": None}})
    stored = await agents.get(acme.api.control, actor(acme), third["agent_id"])
    assert stored.livekit_agent_name == stored.name


WRONG: list[tuple[Any, list[Any]]] = [
    ({"config": {}}, ["body", "name"]),
    ({"name": "  "}, ["body", "name"]),
    ({"name": 5}, ["body", "name"]),
    ({"name": None}, ["body", "name"]),
    ({"name": "A", "config": []}, ["body", "config"]),
    ({"name": "A", "kb_id": 42}, ["body", "kb_id"]),
    ({"name": "A", "config": {"prompt": 5}}, ["body", "config", "prompt"]),
    ({"name": "A", "config": {"phone_number": "x"}}, ["body", "config", "phone_number"]),
    ({"name": "A", "config": {"phone_number": ""}}, ["body", "config", "phone_number"]),
    (
        {"name": "A", "config": {"tts_params": {"temperature": 3}}},
        ["body", "config", "tts_params", "temperature"],
    ),
    (
        {"name": "A", "config": {"webhooks": {"events": {"timeout": 5}}}},
        ["body", "config", "webhooks", "events", "url"],
    ),
    (
        {"name": "A", "config": {"webhooks": {"events": {"url": "https://a.b", "timeout": 31}}}},
        ["body", "config", "webhooks", "events", "timeout"],
    ),
    (
        {"name": "A", "config": {"mcp_servers": [{"url": "https://a.b"}]}},
        ["body", "config", "mcp_servers", 0, "name"],
    ),
]


async def test_each_422_names_the_field(acme: Client) -> None:
    anna = await made(acme)
    for body, loc in WRONG:
        replies = [await acme.post(AGENT, body)]
        if "name" in body:  # which an update may leave out
            replies.append(await acme.put(AGENT + anna["agent_id"], body))
        for reply in replies:
            detail = answered(reply, 422, "HTTPValidationError")["detail"]
            assert [each["loc"] for each in detail] == [loc], body
    assert await shown(acme, anna) == anna
    assert len((await acme.get(AGENT)).json) == 1


async def test_agents_that_are_not_there(acme: Client) -> None:
    other = await acme.api.account("other")
    others = await made(other)
    for agent_id in (others["agent_id"], "5f5d0000-0000-4000-8000-000000000001", "x", "%00"):
        for reply in (
            await acme.get(AGENT + agent_id),
            await acme.put(AGENT + agent_id, {"name": "Mine"}),
            await acme.post(f"{AGENT}{agent_id}/deploy"),
            await acme.post(f"{AGENT}{agent_id}/disable"),
            await acme.get(f"/api/v1/connection/agent-status/{agent_id}"),
        ):
            answered(reply, 404, "ErrorResponse")
    assert await shown(other, others) == others


async def test_an_agent_of_another_dialect_is_shown_in_voice_ais_types(acme: Client) -> None:
    config = {"prompt": {"content": "Hello"}, "greeting": "Hi", "voice": "v", "webhooks": 5}
    bob = await agents.create(
        acme.api.control, actor(acme), label="Bob", origin="vocode", config=config
    )
    found = answered(await acme.get(AGENT + bob.id), 200, "Agent")
    assert found["config"] == {"greeting": "Hi", "voice": "v", "phone_number": None}
    await put(acme, found, {"config": {"greeting": "Hello"}})  # and what it can't say, stays
    stored = await agents.get(acme.api.control, actor(acme), bob.id)
    assert stored.config == {**config, "greeting": "Hello"}


# --- calls


async def test_call_history(acme: Client) -> None:
    anna = await made(acme, "Customer Support")
    mine = {"agent_id": anna["agent_id"], "agent": "customer-support"}
    first = await called(acme, "CA1", said=[("inbound_track", "Hello?")], **mine)
    second = await called(acme, "CA2", initiated_at=BEGAN + 1_000_000, duration=3.0)
    third = await called(
        acme, "CA3", initiated_at=BEGAN + 2_000_000, duration=None, direction="outbound"
    )
    await called(await acme.api.account("other"), "CA9", initiated_at=BEGAN)

    async def ids(**query: Any) -> list[str]:
        page = answered(await acme.get(HISTORY, query), 200, "PaginatedCallHistoryResponse")
        return [each["call_id"] for each in page["items"]]

    page = answered(await acme.get(HISTORY), 200, "PaginatedCallHistoryResponse")
    assert page["pagination"]["total_items"] == 3
    assert page["pagination"]["limit"] == 10
    assert page["items"][-1] == {
        "id": BEGAN,
        "call_id": first,
        "agent_id": anna["agent_id"],
        "agent_name": "Customer Support",
        "call_timestamp": "2026-05-28T20:26:40.000000Z",
        "call_duration_seconds": 12.5,
        "credits_used": 0.0,
        "has_transcript": True,
        "call_type": "sip_inbound",
        "from_number": "+14155550199",
        "to_number": "+14155553000",
        "transcription_summary": None,
    }
    assert page["items"][0]["call_type"] == "sip_outbound"
    assert page["items"][0]["has_transcript"] is False
    assert await ids() == [third, second, first]
    assert await ids(sort_dir="asc") == [first, second, third]
    assert await ids(sort_by="duration") == [first, second, third]
    assert await ids(sort_by="duration", sort_dir="asc", limit=2) == [third, second]
    assert await ids(page=2, limit=2) == [first]
    assert await ids(agent_ids=anna["agent_id"]) == [first]
    assert await ids(agent_name="customer sup") == [first]
    assert await ids(agent_name="nobody") == []
    assert await ids(start_date="2026-05-28T20:26:41+00:00") == [third, second]
    assert await ids(end_date="2026-05-28T20:26:41Z") == [first]
    assert await ids(start_date="2026-05-29") == []
    reply = await acme.request("GET", f"{HISTORY}?start_date=2026-05-28T20:26:41+00:00")
    assert reply.json["pagination"]["total_items"] == 2  # its + was not escaped
    for name in ("start_date", "end_date"):
        reply = await acme.get(HISTORY, {name: "yesterday"})
        (problem,) = answered(reply, 422, "HTTPValidationError")["detail"]
        assert problem["loc"] == ["query", name]
    reply = await acme.get(HISTORY, {"sort_by": "colour"})
    answered(reply, 422, "HTTPValidationError")


async def test_transcripts(acme: Client) -> None:
    said = [("inbound_track", "Hello?"), ("outbound_track", "Hi, this is Anna.")]
    call = await called(acme, said=said)
    for key in (call, str(BEGAN)):
        found = answered(await acme.get(f"{HISTORY}/{key}/transcript"), 200, "TranscriptResponse")
        assert found["url"].startswith(f"{acme.api.url}{HISTORY}/{call}/transcript.json?signature=")
        # A client opens it as it is: a browser sends no token.
        read = (await acme.api.request("GET", found["url"].removeprefix(acme.api.url))).json
        assert read["call_id"] == call
        assert [(each["role"], each["text"]) for each in read["transcript"]] == [
            ("user", "Hello?"),
            ("assistant", "Hi, this is Anna."),
        ]
    silent = await called(acme, "CA2", initiated_at=BEGAN + 1)
    answered(await acme.get(f"{HISTORY}/{silent}/transcript"), 404, "ErrorResponse")
    other = await acme.api.account("other")
    for path in ("transcript", "recording"):
        for key in (call, str(BEGAN), "x"):
            answered(await other.get(f"{HISTORY}/{key}/{path}"), 404, "ErrorResponse")


class ByHand(SystemClock):
    """A clock that goes on when it is told to."""

    seconds = 0

    @override
    def now(self) -> int:
        return BEGAN + self.seconds * 1_000_000

    @override
    def monotonic(self) -> float:
        return float(self.seconds)


async def _link(client: Client, call: str) -> str:
    reply = await client.get(f"{HISTORY}/{call}/transcript")
    url: str = answered(reply, 200, "TranscriptResponse")["url"]
    return url.partition("signature=")[2]


async def test_a_transcripts_link_is_for_one_call_and_an_hour(tmp_path: Path) -> None:
    clock = ByHand()
    limits = {"burst": 15, "failures_per_minute": 12}
    async with running_api(tmp_path, only=[DIALECT], clock=clock, api=limits) as api:
        acme, other = await api.account("acme"), await api.account("other")
        said = [("inbound_track", "Hello?")]
        call, second = await called(acme, said=said), await called(acme, "CA2", said=said)
        theirs = await called(other, said=said)
        link, foreign = await _link(acme, call), await _link(other, theirs)

        async def read(call_id: str, signature: str | None) -> Reply:
            query = {} if signature is None else {"signature": signature}
            return await api.request("GET", f"{HISTORY}/{call_id}/transcript.json", query=query)

        assert (await read(call, link)).status == 200
        detail = answered(await read(call, None), 422, "HTTPValidationError")["detail"]
        assert detail[0]["loc"] == ["query", "signature"]
        turned = ("A" if link[20] != "A" else "B").join((link[:20], link[21:]))
        wrong = [(second, link), (theirs, link), (call, foreign), ("x", link), (call, turned)]
        wrong += [(call, link[:-1]), (call, "x"), (call, "é"), (call, "%"), (call, acme.token)]
        for call_id, signature in wrong:
            reply = await read(call_id, signature)
            assert answered(reply, 403, "ErrorResponse")["code"] == "link_invalid"
        clock.seconds = 3599
        assert (await read(call, link)).status == 200
        clock.seconds = 3601
        assert answered(await read(call, link), 403, "ErrorResponse")["code"] == "link_expired"
        guesses = [await read(call, "x") for _ in range(20)]
        assert {reply.status for reply in guesses} == {403, 429}
        assert int(guesses[-1].headers["Retry-After"]) >= 1


async def test_recordings(acme: Client) -> None:
    begun, failed = (EventType.RECORDING_STARTED, ""), (EventType.RECORDING_FAILED, "")
    done = (EventType.RECORDING_COMPLETED, "https://x.example/1")
    for events, status, url in (
        ((), "not_recorded", None),
        ((begun,), "processing", None),
        ((begun, failed), "not_recorded", None),
        ((begun, done), "ready", "https://x.example/1"),
    ):
        told = [(kind, EventData(recording_url=where)) for kind, where in events]
        call = await called(acme, f"CA-{status}-{len(events)}", events=told)
        reply = await acme.get(f"{HISTORY}/{call}/recording")
        assert answered(reply, 200, "RecordingResponse") == {"status": status, "url": url}


async def test_calls_out_are_not_placed_yet(acme: Client) -> None:
    reply = await acme.post("/api/v1/calls/outbound", {"agent_id": "a"})
    assert answered(reply, 501, "ErrorResponse")["code"] == "not_implemented"

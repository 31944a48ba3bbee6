"""Vocode's dialect: the documents that were asked for, and what they leave open."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import jsonschema
import pytest
import pytest_asyncio
import yaml

from router.api.vocode import DIALECT
from router.control import agents, numbers
from router.control.model import Actor, Plan
from tests.api.examples import vocode as examples
from tests.api.examples.vocode import NOBODY, VOICE, ok
from tests.support.api import Client, Reply, RunningApi, running_api
from tests.support.control import later

CLIENT: Final = {"X-Fern-SDK-Version": "0.0.48"}
DOCUMENT: Final = yaml.safe_load(
    (Path(__file__).parent / "schemas" / "vocode-update-number.yaml").read_text()
)
AGENT: Final = {"prompt": {"content": "Be brief."}, "voice": VOICE}


# One API for all, and for each test an account of its own.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningApi]:
    async with running_api(tmp_path_factory.mktemp("vocode"), only=[DIALECT]) as api:
        yield api


@pytest_asyncio.fixture(loop_scope="module")
async def client(api: RunningApi) -> Client:
    return await api.account(f"of-{uuid4()}")


@pytest_asyncio.fixture(loop_scope="module")
async def number(client: Client) -> str:
    return str(ok(await client.post("/v1/numbers/buy"))["number"])


def check_shape(name: str, answer: Any) -> None:
    """Whether the seed's document has such an answer."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    checker = jsonschema.FormatChecker()
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(answer)


def refused(reply: Reply) -> list[tuple[list[str | int], str]]:
    """Where a request was wrong, and the kinds of its faults."""
    assert reply.status == 422, reply.text
    check_shape("HTTPValidationError", reply.json)
    return [(each["loc"], each["type"]) for each in reply.json["detail"]]


async def update(
    client: Client, number: str, inbound: Any, headers: Mapping[str, str] | None = None
) -> Reply:
    query, body = {"phone_number": number}, {"inbound_agent": inbound}
    return await client.post("/v1/numbers/update", body, query=query, headers=headers)


# --- the older document


async def test_an_update_follows_the_document(client: Client, number: str) -> None:
    inline: dict[str, Any] = {
        "prompt": "You are kind.",
        "voice": {"type": "voice_eleven_labs", "voice_id": "v", "api_key": "0123456789abcdef"},
        "actions": [
            {"type": "action_transfer_call", "config": {"phone_number": "+14155550111"}},
            {"type": "action_end_conversation"},
            {"type": "action_dtmf", "config": {}},
        ],
        "initial_message": "Hello!",
        "webhook": {"subscriptions": ["event_message"], "url": "https://example.com/hook"},
    }
    answer = ok(await update(client, number, inline))
    check_shape("PhoneNumber", answer)
    agent = answer["inbound_agent"]
    assert (answer["number"], answer["active"]) == (number, True)
    assert (agent["prompt"], agent["initial_message"]) == ("You are kind.", "Hello!")
    assert [each["type"] for each in agent["actions"]] == [
        each["type"] for each in inline["actions"]
    ]
    assert agent["voice"]["api_key"] == "…cdef"
    assert agent["webhook"]["method"] == "POST"
    assert None not in [*answer.values(), *agent.values()]
    # The rest of the paths, and clients, read and write an object.
    for reply in (
        await client.get("/v1/numbers", {"phone_number": number}),
        await update(client, number, {}, CLIENT),
        await update(client, number, {"prompt": {"content": "You are kind."}}, CLIENT),
    ):
        assert ok(reply)["inbound_agent"]["prompt"]["content"] == "You are kind."
    assert ok(await client.get("/v1/agents", {"id": agent["id"]}))["prompt"].keys() == {
        "id",
        "user_id",
        "content",
    }


async def test_a_prompt_that_looks_like_an_id_is_a_text_in_the_document(
    client: Client, number: str
) -> None:
    answer = ok(await update(client, number, {"prompt": NOBODY, "voice": VOICE}))
    assert answer["inbound_agent"]["prompt"] == NOBODY
    reply = await update(client, number, {"prompt": NOBODY}, CLIENT)
    assert (reply.status, list(reply.json)) == (404, ["detail"])
    where = ["body", "inbound_agent", "prompt"]
    assert refused(await update(client, number, {"prompt": "Be kind."}, CLIENT)) == [
        (where, "value_error")
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"voice": {"type": "voice_play_ht", "voice_id": "v"}},
        {"voice": {"type": "voice_vocode", "voice_id": "joe"}},
        {"voice": {"type": "voice_eleven_labs", "voice_id": "v"}},  # the document needs an api_key
        {"actions": [{"type": "action_set_hold"}]},
        {"webhook": {"subscriptions": ["event_human_detection"], "url": "https://a.test"}},
        {"prompt": {"content": "Hi", "context_endpoint": "https://a.test"}},
    ],
    ids=lambda change: json.dumps(change)[:50],
)
async def test_what_the_document_has_no_words_for_leaves_as_clients_read_it(
    client: Client, number: str, change: dict[str, Any]
) -> None:
    plain = ok(await update(client, number, {"prompt": "Hi", "voice": VOICE}))
    check_shape("PhoneNumber", plain)
    answer = ok(await update(client, number, change))
    assert answer["inbound_agent"]["prompt"]["content"] == "Hi"
    assert answer["inbound_agent"]["id"] == plain["inbound_agent"]["id"]


async def test_the_document_needs_an_agent(client: Client, number: str) -> None:
    query = {"phone_number": number}
    for body in (None, {}, {"other": 1}):
        reply = await client.post("/v1/numbers/update", body, query=query)
        assert refused(reply) == [(["body", "inbound_agent"], "missing")]
        ok(await client.post("/v1/numbers/update", body, query=query, headers=CLIENT))
    missing = await client.post("/v1/numbers/update", {"inbound_agent": {}})
    assert refused(missing) == [(["query", "phone_number"], "missing")]
    assert ok(await update(client, number, {}))["inbound_agent"] is None
    assert ok(await update(client, number, None))["inbound_agent"] is None


# --- an agent inline


async def test_inline_parameters_need_a_prompt_and_a_voice(client: Client, number: str) -> None:
    where = ["body", "inbound_agent"]
    for inline, missing in (
        ({"initial_message": "Hi"}, ["prompt", "voice"]),
        ({"prompt": "Hi"}, ["voice"]),
        ({"prompt": {}, "voice": VOICE}, ["prompt"]),
    ):
        expected = [([*where, name], "missing") for name in missing]
        assert refused(await update(client, number, inline)) == expected
    assert ok(await client.get("/v1/agents/list"))["total"] == 0
    partly = {"prompt": "Hi", "voice": {"type": "voice_azure"}}
    expected = [([*where, "voice", "voice_name"], "missing")]
    assert refused(await update(client, number, partly)) == expected


@pytest.mark.parametrize(
    ("inline", "where"),
    [
        ({"voice": {"type": "voice_x"}}, ["voice"]),
        ({"voice": {"voice_name": "aria"}}, ["voice", "type"]),
        ({"voice": {"type": "voice_azure", "pitch": "high"}}, ["voice", "pitch"]),
        ({"voice": "aria"}, ["voice"]),
        ({"actions": [{"type": "action_dtmf"}, {"type": "x"}]}, ["actions", 1]),
        ({"actions": [{}]}, ["actions", 0, "type"]),
        ({"actions": None}, ["actions"]),
        ({"webhook": {"subscriptions": ["event_x"]}}, ["webhook", "subscriptions", 0]),
        ({"initial_message": 5}, ["initial_message"]),
        ("Anna", []),
        (5, []),
    ],
    ids=str,
)
async def test_what_is_wrong_is_named(
    client: Client, number: str, inline: Any, where: list[str | int]
) -> None:
    ok(await update(client, number, {"prompt": "Hi", "voice": VOICE}))
    found = refused(await update(client, number, inline))
    assert [each for each, _ in found] == [["body", "inbound_agent", *where]]


async def test_a_label_that_is_wrong_makes_no_agent(client: Client, number: str) -> None:
    body = {"inbound_agent": AGENT, "label": "two\nlines"}
    query = {"phone_number": number}
    reply = await client.post("/v1/numbers/update", body, query=query, headers=CLIENT)
    assert [each for each, _ in refused(reply)] == [["body", "label"]]
    assert ok(await client.get("/v1/agents/list"))["total"] == 0


async def test_inline_parameters_change_the_agents_own_documents(
    client: Client, number: str
) -> None:
    transfer = {"type": "action_transfer_call", "config": {"phone_number": "+14155550111"}}
    first = ok(
        await update(
            client,
            number,
            {"prompt": "Hi", "voice": VOICE, "actions": [transfer, {"type": "action_dtmf"}]},
        )
    )["inbound_agent"]
    dtmf, transfer["config"] = first["actions"][1]["id"], {"phone_number": "+14155550112"}
    action = ok(await client.post("/v1/actions/create", {"type": "action_end_conversation"}))
    second = ok(
        await update(
            client,
            number,
            {
                "prompt": "Hello",
                "voice": {"type": "voice_azure", "pitch": 5},
                "actions": [action["id"], transfer, dtmf],
            },
        )
    )["inbound_agent"]
    assert second["id"] == first["id"]
    assert second["voice"] == first["voice"] | {"pitch": 5}
    assert [each["id"] for each in second["actions"]] == [
        action["id"],
        first["actions"][0]["id"],
        dtmf,
    ]
    assert second["actions"][1]["config"]["phone_number"] == "+14155550112"
    other = ok(await update(client, number, {"voice": {"type": "voice_rime", "speaker": "s"}}))
    assert other["inbound_agent"]["voice"]["id"] != first["voice"]["id"]
    assert ok(await client.get("/v1/voices", {"id": first["voice"]["id"]})) == second["voice"]


async def test_a_number_moves_between_agents(client: Client, number: str) -> None:
    anna = ok(await client.post("/v1/agents/create", AGENT | {"name": "Anna"}))
    bob = ok(await client.post("/v1/agents/create", AGENT | {"name": "Bob"}))
    for agent in (anna, bob):
        answer = ok(await update(client, number[1:], agent["id"], CLIENT))
        assert answer["inbound_agent"] == agent
        listed = ok(await client.get("/v1/numbers/list"))["items"]
        assert [each["inbound_agent"] for each in listed] == [agent["id"]]
    assert (await update(client, number, NOBODY)).status == 404


async def test_inline_parameters_need_the_scope_of_agents(api: RunningApi) -> None:
    client = await api.account("narrow", scopes=("numbers:write",))
    number = ok(await client.post("/v1/numbers/buy"))["number"]
    assert (await update(client, number, {"prompt": "Hi", "voice": VOICE})).status == 403
    assert (await client.post("/v1/numbers/buy", {"inbound_agent": AGENT})).status == 403
    ok(await update(client, number, None))


async def test_the_agents_jobs_get_its_documents_without_secrets(
    api: RunningApi, client: Client, number: str
) -> None:
    voice = {"type": "voice_eleven_labs", "voice_id": "v", "api_key": "0123456789abcdef"}
    answer = ok(await update(client, number, {"prompt": "Be kind.", "voice": voice}))
    actor = Actor(account_id=client.account.id)

    async def job() -> str:
        agent_id = answer["inbound_agent"]["id"]
        return json.dumps((await agents.get(api.control, actor, agent_id)).metadata)

    assert "Be kind." in await job()
    assert "cdef" not in await job()
    prompt = ok(await client.get("/v1/prompts/list"))["items"][0]
    ok(
        await client.post(
            "/v1/prompts/update", {"content": "Be brief."}, query={"id": prompt["id"]}
        )
    )
    assert "Be brief." in await job()


async def test_an_agent_of_another_dialect(api: RunningApi, client: Client, number: str) -> None:
    actor = Actor(account_id=client.account.id)
    config = {"prompt": "You are a clerk.", "phone_number": number}
    made = await agents.create(api.control, actor, label="Clerk", origin="voiceai", config=config)
    await numbers.link(api.control, actor, number, made.id)
    agent: dict[str, Any] = {}
    for headers in ({}, CLIENT):
        agent = ok(await update(client, number, {}, headers))["inbound_agent"]
        assert (agent["name"], agent["prompt"]["content"]) == ("Clerk", "You are a clerk.")
    item = ok(await client.get("/v1/agents/list"))["items"][0]
    assert (item["prompt"], item["voice"]) == (agent["prompt"]["id"], agent["voice"]["id"])
    reply = await update(client, number, {"prompt": "Hi"})
    assert (reply.status, list(reply.json)) == (409, ["detail"])
    assert (await agents.get(api.control, actor, made.id)).config == config


# --- buying


@pytest.mark.parametrize("body", [None, {}, {"area_code": None, "inbound_agent": None}])
async def test_a_number_is_bought_without_a_body(client: Client, body: Any) -> None:
    answer = ok(await client.post("/v1/numbers/buy", body))
    assert (answer["telephony_provider"], answer["inbound_agent"]) == ("twilio", None)
    assert answer["active"]
    assert answer["number"].startswith("+1")
    assert "telephony_account_connection" not in answer


async def test_without_a_provider_the_default_connection_buys(client: Client) -> None:
    telnyx = {
        "type": "account_connection_telnyx",
        "credentials": {
            "telnyx_api_key": "KEY0123456789abcdef",
            "telnyx_public_key": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
        },
    }
    connection = ok(await client.post("/v1/account_connections/create", telnyx))
    assert connection["credentials"]["telnyx_api_key"] == "…cdef"
    bought = ok(await client.post("/v1/numbers/buy"))
    assert bought["telephony_provider"] == "telnyx"
    assert bought["telephony_account_connection"] == connection
    # Vocode's client has no model for it: there it is not shown.
    query = {"phone_number": bought["number"]}
    shown = await client.request("GET", "/v1/numbers", query=query, headers=CLIENT)
    assert "telephony_account_connection" not in ok(shown)
    listed = "/v1/account_connections/list"
    assert ok(await client.request("GET", listed, headers=CLIENT))["total"] == 0
    assert ok(await client.get(listed))["items"] == [connection]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"telephony_provider": "vonage"}, "telephony_provider"),
        ({"telephony_provider": "vocode"}, "telephony_provider"),
        ({"telephony_account_connection": "mine"}, "telephony_account_connection"),
        ({"area_code": "abc"}, "area_code"),
        ({"phone_number": "12"}, "phone_number"),
        ({"inbound_agent": "Anna"}, "inbound_agent"),
    ],
)
async def test_what_can_not_be_bought(client: Client, body: Any, where: str) -> None:
    reply = await client.post("/v1/numbers/buy", body)
    assert [each for each, _ in refused(reply)] == [["body", where]]
    if where == "telephony_provider":
        assert "twilio and telnyx" in reply.json["detail"][0]["msg"]


async def test_a_certain_number_with_a_new_agent(client: Client) -> None:
    wanted = "14155553100"
    answer = ok(
        await client.post("/v1/numbers/buy", {"phone_number": wanted, "inbound_agent": AGENT})
    )
    assert (answer["number"], answer["inbound_agent"]["prompt"]["content"]) == (
        f"+{wanted}",
        "Be brief.",
    )
    assert (await client.post("/v1/numbers/buy", {"phone_number": wanted})).status == 409


async def test_a_purchase_that_fails_leaves_no_agent(api: RunningApi) -> None:
    client = await api.account("small", plan=Plan(numbers=0))
    before = await api.dump()
    reply = await client.post("/v1/numbers/buy", {"inbound_agent": AGENT})
    assert (reply.status, list(reply.json)) == (402, ["detail"])
    after = await api.dump()
    assert {name for name in after if after[name] != before[name]} <= {"audit", "tokens"}


async def test_the_default_agent_is_made_once(client: Client) -> None:
    first = ok(await client.post("/v1/numbers/buy", {"inbound_agent": "default"}))
    second = ok(await client.post("/v1/numbers/buy", {"inbound_agent": "default"}))
    assert first["inbound_agent"] == second["inbound_agent"]
    assert first["inbound_agent"]["name"] == "default"


# --- what can be bought


AVAILABLE: Final = "/v1/numbers/available"
AT_TWILIO: Final = {"telephony_provider": "twilio", "telephony_account_connection": "default"}


@pytest.mark.parametrize(
    ("query", "missing"),
    [
        ({}, ["telephony_provider", "telephony_account_connection"]),
        ({"telephony_provider": "twilio"}, ["telephony_account_connection"]),
        ({"telephony_account_connection": "default"}, ["telephony_provider"]),
    ],
)
async def test_both_parameters_are_needed(
    client: Client, query: dict[str, str], missing: list[str]
) -> None:
    found = refused(await client.get(AVAILABLE, query))
    assert found == [(["query", name], "missing") for name in missing]


@pytest.mark.parametrize(
    "filters",
    [
        '{"area_code": "415", "contains": "55530", "country": "US", "type": "local"}',
        '{"area_code": 415, "contains": "55530"}',
        "area_code:415,contains:55530",
        " country:us; area_code:415; contains:55530",
        "country: US, area_code : 415, contains: 55530",
        '{"country": null, "area_code": "415", "contains": "55530", "type": null}',
    ],
)
async def test_what_is_for_sale(client: Client, filters: str) -> None:
    answer = ok(await client.get(AVAILABLE, AT_TWILIO | {"filters": filters, "limit": "7"}))
    assert answer["total"] == len(answer["items"]) == 7
    for item in answer["items"]:
        assert item["number"].startswith("+1415555")
        assert (item["user_id"], item["active"]) == (client.account.id, False)
        assert UUID(item["id"]).version == 5
        assert item["telephony_provider"] == "twilio"
    assert len({item["id"] for item in answer["items"]}) == 7
    again = ok(await client.get(AVAILABLE, AT_TWILIO | {"filters": filters, "limit": "7"}))
    assert again == answer


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"telephony_provider": "vonage"}, ["telephony_provider"]),
        ({"telephony_account_connection": "mine"}, ["telephony_account_connection"]),
        ({"limit": "0"}, ["limit"]),
        ({"limit": "many"}, ["limit"]),
        ({"filters": "415"}, ["filters"]),
        ({"filters": "{"}, ["filters"]),
        ({"filters": "[1]"}, ["filters"]),
        ({"filters": '{"color": "red"}'}, ["filters", "color"]),
        ({"filters": "country:USA"}, ["filters", "country"]),
        ({"filters": "type:fast"}, ["filters", "type"]),
        ({"filters": "area_code:1,area_code:2"}, ["filters", "area_code"]),
    ],
    ids=str,
)
async def test_what_can_not_be_asked_for(
    client: Client, more: dict[str, str], where: list[str]
) -> None:
    found = refused(await client.get(AVAILABLE, AT_TWILIO | more))
    assert [each for each, _ in found] == [["query", *where]]


async def test_nothing_is_for_sale(client: Client) -> None:
    answer = ok(await client.get(AVAILABLE, AT_TWILIO | {"filters": "country:DE"}))
    assert answer == {"items": [], "total": 0}
    unknown = AT_TWILIO | {"telephony_account_connection": NOBODY}
    assert (await client.get(AVAILABLE, unknown)).status == 404


# --- lists, secrets, errors


@pytest.mark.parametrize("kind", ["prompts", "agents"])
async def test_pages(client: Client, kind: str) -> None:
    body = {"content": "Hi"} if kind == "prompts" else AGENT
    made = [ok(await client.post(f"/v1/{kind}/create", body))["id"] for _ in range(3)]

    async def page(**query: str) -> tuple[list[str], bool, int]:
        answer = ok(await client.get(f"/v1/{kind}/list", query))
        assert answer["total_is_estimated"] is False
        return [each["id"] for each in answer["items"]], answer["has_more"], answer["total"]

    assert await page() == (made, False, 3)
    assert await page(size="2") == (made[:2], True, 3)
    assert await page(size="2", page="2") == (made[2:], False, 3)
    assert await page(size="2", page="9") == ([], False, 3)
    assert await page(sort_column="created_at", sort_desc="true") == (made[::-1], False, 3)
    for wrong in ({"size": "0"}, {"page": "0"}, {"sort_column": "color"}, {"sort_desc": "x"}):
        found = refused(await client.get(f"/v1/{kind}/list", wrong))
        assert [each for each, _ in found] == [["query", next(iter(wrong))]]


async def test_secrets_are_shown_by_their_end(client: Client) -> None:
    external = {
        "type": "action_external",
        "config": {
            "name": "n",
            "description": "d",
            "url": "https://a.test",
            "input_schema": {"properties": {"password": {"type": "string"}}},
            "speak_on_send": True,
            "speak_on_receive": True,
            "signature_secret": "0123456789abcdef",
        },
    }
    made = ok(await client.post("/v1/actions/create", external))
    assert made["config"]["signature_secret"] == "…cdef"
    assert made["config"]["input_schema"] == external["config"]["input_schema"]  # type: ignore[index]
    query = {"id": made["id"]}
    assert ok(await client.post("/v1/actions/update", made, query=query)) == made
    made["config"]["signature_secret"] = "…wxyz"
    assert (await client.post("/v1/actions/update", made, query=query)).status == 422
    connection = ok(await client.post("/v1/account_connections/create", examples.twilio(client)))
    query = {"id": connection["id"]}
    path = "/v1/account_connections/update"
    assert ok(await client.post(path, connection, query=query)) == connection
    for secret in ("…wxyz", "", "  "):
        connection["credentials"]["twilio_auth_token"] = secret
        assert (await client.post(path, connection, query=query)).status == 422


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", f"/v1/voices?id={NOBODY}", 404),
        ("GET", f"/v1/calls?id={NOBODY}", 404),
        ("GET", f"/v1/calls/recording?id={NOBODY}", 404),
        ("GET", "/v1/numbers?phone_number=%2B14155550000", 404),
        ("DELETE", "/v1/numbers", 405),
        ("POST", f"/v1/calls/end?id={NOBODY}", 501),
    ],
)
async def test_other_errors_are_a_sentence(
    client: Client, method: str, path: str, status: int
) -> None:
    reply = await client.request(method, path)
    assert (reply.status, list(reply.json)) == (status, ["detail"])
    assert isinstance(reply.json["detail"], str)


@pytest.mark.parametrize("path", ["/v1/agents?id=5", "/v1/voices", "/v1/calls?id=x-y"])
async def test_an_id_is_a_uuid(client: Client, path: str) -> None:
    assert [each for each, _ in refused(await client.get(path))] == [["query", "id"]]


@pytest.mark.parametrize(
    "text", ["+14155550100", "14155550100", "+1 (415) 555-0100", " 14155550100"]
)
async def test_a_number_is_found_however_it_is_written(client: Client, text: str) -> None:
    client.api.carriers.available["twilio"].append("+14155550100")
    ok(await client.post("/v1/numbers/buy", {"phone_number": text}))
    answer = ok(await client.get("/v1/numbers", {"phone_number": text}))
    assert answer["number"] == "+14155550100"
    released = ok(await client.post("/v1/numbers/cancel", query={"phone_number": text}))
    assert (released["active"], released["inbound_agent"]) == (False, None)


async def test_a_call_without_an_agent_is_not_there(client: Client) -> None:
    agent = ok(await client.post("/v1/agents/create", AGENT))["id"]
    call = await examples.had_call(client, agent)
    missed = await examples.had_call(client, "", agent="", provider_call_id="CA2")
    assert [each["id"] for each in ok(await client.get("/v1/calls/list"))["items"]] == [call]
    assert (await client.get("/v1/calls", {"id": missed})).status == 404
    found = ok(await client.get("/v1/calls", {"id": call}))
    assert (found["agent"]["id"], found["transcript"]) == (agent, "HUMAN: Hello?")
    assert found["stage_outcome"] == "human_disconnected"


async def test_agents_are_no_way_around_the_scope_of_connections(api: RunningApi) -> None:
    whole = await api.account("scoped")
    agents_only = await api.account("scoped", scopes=("agents:write",))
    made = ok(
        await whole.post(
            "/v1/account_connections/create",
            {
                "type": "account_connection_openai",
                "credentials": {"openai_api_key": "sk-of-the-account"},
            },
        )
    )
    named = {**AGENT, "openai_account_connection": made["id"]}
    agent = ok(await agents_only.post("/v1/agents/create", named))
    other = {**made, "label": "mine", "credentials": {"openai_api_key": "sk-of-somebody-else"}}
    for path in ("/v1/agents/create", f"/v1/agents/update?id={agent['id']}"):
        reply = await agents_only.post(path, {**AGENT, "openai_account_connection": other})
        assert reply.status == 403, reply.text
        assert "numbers:write" in reply.text
    shown = ok(await whole.get("/v1/account_connections", {"id": made["id"]}))
    assert shown == made


async def test_numbers_are_no_way_around_the_scope_of_agents(api: RunningApi) -> None:
    whole = await api.account("buyer")
    numbers_only = await api.account("buyer", scopes=("numbers:write",))
    wanted = {"inbound_agent": "default"}
    reply = await numbers_only.post("/v1/numbers/buy", wanted)
    assert (reply.status, "agents:write" in reply.text) == (403, True), reply.text
    assert ok(await whole.get("/v1/agents/list"))["total"] == 0
    assert ok(await whole.get("/v1/numbers/list"))["total"] == 0
    ok(await whole.post("/v1/numbers/buy", wanted))
    ok(await numbers_only.post("/v1/numbers/buy", wanted))  # it is there now


async def test_a_purchase_whose_answer_is_lost_is_made_once(api: RunningApi) -> None:
    client = await api.account("unlucky")
    asked: dict[str, Any] = {"body": {"inbound_agent": AGENT}, "headers": {"Idempotency-Key": "1"}}
    before = {number for held in api.carriers.owned.values() for number in held}
    api.carriers.dies = True
    try:
        assert (await client.post("/v1/numbers/buy", **asked)).status == 503
    finally:
        api.carriers.away = False
    assert (await client.post("/v1/numbers/buy", **asked)).status == 503  # under way
    await later(api.control.database, 3600.0)
    await numbers.recover(api.control)
    bought = ok(await client.post("/v1/numbers/buy", **asked))
    assert ok(await client.post("/v1/numbers/buy", **asked)) == bought
    after = {number for held in api.carriers.owned.values() for number in held}
    assert after - before == {bought["number"]}
    assert [each["id"] for each in ok(await client.get("/v1/agents/list"))["items"]] == [
        bought["inbound_agent"]["id"]
    ]

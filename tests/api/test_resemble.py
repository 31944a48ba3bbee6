"""Resemble: numbers of one's own Twilio account, their links to agents, deletion by force."""

from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from router.api.resemble import DIALECT
from router.control import connections, numbers
from router.control.model import Actor, Plan
from router.storage import mapping
from router.storage.schema import numbers as rows
from tests.support.api import Client, running_api
from tests.support.api_schemas import check

NUMBERS, AGENTS = "/api/v2/phone_numbers", "/api/v2/agents"
SID, TOKEN = "AC" + "b2" * 16, "a-token-of-thirty-two-characters"
ONE, TWO, NOBODYS = "+14155551001", "+14155551002", "+14155551009"
answered = partial(check, "resemble")


@pytest.fixture
async def acme(tmp_path: Path) -> AsyncIterator[Client]:
    async with running_api(tmp_path, only=[DIALECT]) as running:
        for number in (ONE, TWO):
            running.carriers.give("twilio", SID, number)
        yield await running.account("acme", plan=Plan(numbers=2))


def wanted(number: str = ONE, **more: Any) -> dict[str, Any]:
    return {
        "phone_number": number,
        "label": "Support Line",
        "supports_inbound": True,
        "provider": "twilio",
        "twilio_account_sid": SID,
        "twilio_auth_token": TOKEN,
        **more,
    }


async def create(client: Client, number: str = ONE, **more: Any) -> dict[str, Any]:
    reply = await client.post(NUMBERS, wanted(number, **more))
    found: dict[str, Any] = answered(reply, 200, "PhoneNumberAnswer")["item"]
    return found


async def agent(client: Client, name: str = "Anna", **more: Any) -> dict[str, Any]:
    reply = await client.post(AGENTS, {"name": name, "voice_uuid": "v1", **more})
    found: dict[str, Any] = answered(reply, 200, "AgentAnswer")["item"]
    return found


async def errors(client: Client, method: str, path: str, body: Any) -> Mapping[str, list[str]]:
    reply = await client.request(method, path, body)
    found: Mapping[str, list[str]] = answered(reply, 422, "Refused")["errors"]
    return found


def actor(client: Client) -> Actor:
    return Actor(account_id=client.account.id)


async def targets(client: Client, number: str = ONE) -> list[str] | None:
    route = await mapping.find_route(client.api.control.database, number)
    return None if route is None else [target.agent for target in route.targets]


async def test_a_number_is_created_shown_and_deleted(acme: Client) -> None:
    made = await create(acme)
    assert made["phone_number"] == ONE
    assert made["status"] == "active"
    assert (made["supports_inbound"], made["supports_outbound"]) == (True, False)
    assert made["has_twilio_credentials"] is True
    at_twilio = acme.api.carriers.owned["twilio", SID]
    assert at_twilio[ONE].ours
    assert await targets(acme) == []

    path = f"{NUMBERS}/{made['id']}"
    assert answered(await acme.get(path), 200, "PhoneNumberAnswer")["item"] == made
    page = answered(await acme.get(NUMBERS), 200, "PhoneNumberList")
    assert page == {"success": True, "page": 1, "num_pages": 1, "page_size": 25, "items": [made]}

    gone = answered(await acme.delete(path), 200, "Done")
    assert gone["message"] == "Phone number deleted successfully"
    assert await targets(acme) is None
    assert ONE in at_twilio  # it was not bought here, so it is not given back
    for reply in (await acme.get(path), await acme.delete(path)):
        assert answered(reply, 404, "Refused")["message"] == "Phone number not found"
    assert (await create(acme))["id"] != made["id"]  # an id is never given twice


async def test_the_credentials_are_a_connection_that_is_used_again(acme: Client) -> None:
    await create(acme)
    await create(acme, TWO)
    kept = await connections.list_(acme.api.control, actor(acme))
    assert [each.provider_account for each in kept.items] == [SID]
    text = (await acme.get(NUMBERS)).text
    assert TOKEN not in text
    assert SID not in text
    found = await numbers.get(acme.api.control, actor(acme), ONE)
    assert found.connection_id == kept.items[0].id


async def test_without_credentials_the_accounts_own_connection_is_meant(acme: Client) -> None:
    body = {"phone_number": ONE, "label": "Line"}
    assert set(await errors(acme, "POST", NUMBERS, body)) == {
        "twilio_account_sid",
        "twilio_auth_token",
    }
    await create(acme, TWO)
    reply = await acme.post(NUMBERS, body)
    assert answered(reply, 200, "PhoneNumberAnswer")["item"]["has_twilio_credentials"] is True


async def test_a_number_that_is_not_at_twilio_leaves_nothing(acme: Client) -> None:
    assert set(await errors(acme, "POST", NUMBERS, wanted(NOBODYS))) == {"phone_number"}
    assert (await connections.list_(acme.api.control, actor(acme))).total == 0
    assert (await acme.get(NUMBERS)).json["items"] == []


async def test_a_number_is_unique_on_the_platform(acme: Client) -> None:
    await create(acme)
    other = await acme.api.account("other")
    for client in (acme, other):
        assert set(await errors(client, "POST", NUMBERS, wanted())) == {"phone_number"}
    assert (await connections.list_(acme.api.control, actor(other))).total == 0


async def test_the_plan_is_the_limit(acme: Client) -> None:
    acme.api.carriers.give("twilio", SID, NOBODYS)
    await create(acme)
    made = await create(acme, TWO)
    answered(await acme.post(NUMBERS, wanted(NOBODYS)), 402, "Refused")
    await acme.delete(f"{NUMBERS}/{made['id']}")
    await create(acme, NOBODYS)


async def test_other_credentials_replace_the_kept_ones_once_twilio_takes_them(
    acme: Client,
) -> None:
    await create(acme)
    (kept,) = (await connections.list_(acme.api.control, actor(acme))).items

    async def token() -> str:
        found = await connections.credentials(acme.api.control, actor(acme), kept.id, "twilio")
        assert found is not None
        return found.secrets["auth_token"]

    acme.api.carriers.refuses = True
    found = await errors(acme, "POST", NUMBERS, wanted(TWO, twilio_auth_token="a-wrong-one"))
    assert set(found) == {"twilio_auth_token"}
    assert await token() == TOKEN
    acme.api.carriers.refuses = False
    await create(acme, TWO, twilio_auth_token="another-right-one-of-twilio")
    assert await token() == "another-right-one-of-twilio"


async def test_credentials_that_twilio_refuses_are_not_kept(acme: Client) -> None:
    acme.api.carriers.refuses = True
    assert set(await errors(acme, "POST", NUMBERS, wanted())) == {"twilio_account_sid"}
    assert (await connections.list_(acme.api.control, actor(acme))).total == 0


async def test_what_is_wished_of_trunks_is_kept_without_its_passwords(acme: Client) -> None:
    trunks: dict[str, Any] = {
        "outbound_trunk": {
            "address": "sip.example.com:5060",
            "transport": "tls",
            "has_auth_credentials": True,
            "username": "acme",
            "password": "a-password-of-a-trunk",
            "headers": {"X-Team": "support"},
        },
        "inbound_trunk": {"allowed_addresses": ["203.0.113.0/24"], "allowed_numbers": [TWO[1:]]},
    }
    made = await create(acme, supports_outbound=True, **trunks)
    assert made["supports_outbound"] is True
    assert made["outbound_trunk"] == {
        "address": "sip.example.com:5060",
        "transport": "tls",
        "media_encryption": "disabled",
        "has_auth_credentials": True,
        "username": "acme",
        "headers": {"X-Team": "support"},
    }
    assert made["inbound_trunk"]["allowed_numbers"] == [TWO]
    async with acme.api.control.database.read() as connection:
        stored = (await connection.execute(rows.select())).mappings().one()
    assert "a-password-of-a-trunk" not in stored["details"]
    assert "password" in stored["details"]


async def test_a_number_that_takes_no_calls_keeps_its_webhooks(acme: Client) -> None:
    made = await create(acme, supports_inbound=False)
    assert made["supports_inbound"] is False
    assert not acme.api.carriers.owned["twilio", SID][ONE].ours


async def test_deletion_by_force_is_for_corrupted_numbers(acme: Client) -> None:
    made = await create(acme)
    path = f"{NUMBERS}/{made['id']}"
    refused = answered(await acme.delete(f"{path}/force"), 422, "Refused")
    assert refused["message"] == "Force delete is only allowed for corrupted phone numbers"
    await acme.api.corrupt((await numbers.get(acme.api.control, actor(acme), ONE)).id)
    assert (await acme.get(path)).json["item"]["status"] == "corrupted"
    gone = answered(await acme.delete(f"{path}/force"), 200, "ForceDeleted")
    assert gone["message"].startswith("Phone number force deleted successfully")
    answered(await acme.get(path), 404, "Refused")


async def test_a_refused_release_is_told_as_documented(acme: Client) -> None:
    made = await create(acme)
    async with acme.api.control.database.write() as connection:
        await connection.execute(update(rows).values(bought=True))
    acme.api.carriers.refuses = True
    reply = await acme.delete(f"{NUMBERS}/{made['id']}")
    refused = answered(reply, 422, "Refused")
    assert refused["message"] == "Failed to delete phone number"
    assert refused["errors"]["base"][0].startswith("Failed to cleanup external resources.")
    assert await targets(acme) is None
    (listed,) = (await acme.get(NUMBERS)).json["items"]
    assert listed["status"] == "corrupted"
    answered(await acme.delete(f"{NUMBERS}/{made['id']}/force"), 200, "ForceDeleted")


async def test_a_release_that_takes_longer_is_listed_as_deleting(acme: Client) -> None:
    made = await create(acme)
    async with acme.api.control.database.write() as connection:
        await connection.execute(update(rows).values(bought=True))
    acme.api.carriers.away = True
    answered(await acme.delete(f"{NUMBERS}/{made['id']}"), 200, "Done")
    assert await targets(acme) is None
    (listed,) = answered(await acme.get(NUMBERS), 200, "PhoneNumberList")["items"]
    assert listed["status"] == "deleting"


# --- links


async def test_a_number_is_linked_as_the_agent_is_created(acme: Client) -> None:
    made = await create(acme)
    anna = await agent(acme, phone_number_id=made["id"])
    assert [each["id"] for each in anna["phone_numbers"]] == [made["id"]]
    assert anna["agent"]["status"] == "active"
    assert await targets(acme) == ["anna"]
    shown = answered(await acme.get(f"{NUMBERS}/{made['id']}"), 200, "PhoneNumberAnswer")["item"]
    assert shown["agent_uuid"] == anna["uuid"]
    answered(await acme.delete(f"{NUMBERS}/{made['id']}"), 200, "Done")
    found = answered(await acme.get(f"{AGENTS}/{anna['uuid']}"), 200, "AgentAnswer")["item"]
    assert found["phone_numbers"] == []
    assert found["phone_number_id"] is None


async def test_a_number_is_linked_as_it_is_created(acme: Client) -> None:
    anna = await agent(acme)
    made = await create(acme, agent_uuid=anna["uuid"])
    assert made["agent_uuid"] == anna["uuid"]
    assert await targets(acme) == ["anna"]
    wrong = wanted(TWO, agent_uuid="5f5d0000-0000-4000-8000-000000000001")
    assert set(await errors(acme, "POST", NUMBERS, wrong)) == {"agent_uuid"}


async def test_an_update_links_moves_and_unlinks(acme: Client) -> None:
    one, two = await create(acme), await create(acme, TWO)
    anna = await agent(acme)
    path = f"{AGENTS}/{anna['uuid']}"
    for method, number, leads in (
        ("PATCH", one["id"], (["anna"], [])),
        ("PUT", two["id"], ([], ["anna"])),
        ("PATCH", two["id"], ([], ["anna"])),
        ("PATCH", None, ([], [])),
    ):
        reply = await acme.request(method, path, {"phone_number_id": number})
        found = answered(reply, 200, "AgentAnswer")["item"]
        assert found["phone_number_id"] == number
        assert (await targets(acme), await targets(acme, TWO)) == leads
    await acme.patch(path, {"phone_number_id": one["id"]})
    await acme.patch(path, {"name": "Anna 2"})  # which says nothing of numbers
    assert await targets(acme) == ["anna"]


async def test_a_number_of_another_agent_is_refused_and_nothing_is_changed(acme: Client) -> None:
    made = await create(acme)
    await agent(acme, phone_number_id=made["id"])
    bob = await agent(acme, "Bob")
    other = await acme.api.account("other")
    acme.api.carriers.give("twilio", SID, NOBODYS)
    others = await create(other, NOBODYS)
    for number in (made["id"], others["id"], 10**6, int(ONE[1:])):
        body = {"name": "Eve", "voice_uuid": "v", "phone_number_id": number}
        assert set(await errors(acme, "POST", AGENTS, body)) == {"phone_number_id"}
        path = f"{AGENTS}/{bob['uuid']}"
        assert set(await errors(acme, "PATCH", path, body)) == {"phone_number_id"}
    assert answered(await acme.get(f"{AGENTS}/{bob['uuid']}"), 200, "AgentAnswer")["item"] == bob
    assert [each["name"] for each in (await acme.get(AGENTS)).json["items"]] == ["Anna", "Bob"]
    assert await targets(acme) == ["anna"]


async def test_agents_are_listed_found_by_number_and_deleted(acme: Client) -> None:
    made = await create(acme)
    anna = await agent(acme, phone_number_id=made["id"])
    bob = await agent(acme, "Bob")
    page = answered(await acme.get(AGENTS, {"page": 2, "page_size": 1}), 200, "AgentList")
    assert [each["uuid"] for each in page["items"]] == [bob["uuid"]]
    assert (page["page"], page["num_pages"], page["page_size"], page["count"]) == (2, 2, 1, 2)
    page = answered(await acme.get(AGENTS, {"phone_number": ONE}), 200, "AgentList")
    assert [each["uuid"] for each in page["items"]] == [anna["uuid"]]
    for number in (TWO, NOBODYS):
        assert (await acme.get(AGENTS, {"phone_number": number})).json["items"] == []

    refused = answered(await acme.delete(f"{AGENTS}/{anna['uuid']}"), 409, "Refused")
    assert ONE in refused["message"]
    answered(await acme.delete(f"{AGENTS}/{bob['uuid']}"), 200, "Done")
    for each in (bob["uuid"], "x"):
        reply = await acme.get(f"{AGENTS}/{each}")
        assert answered(reply, 404, "Refused")["message"] == "Agent not found"


async def test_an_update_of_an_agent_is_partial(acme: Client) -> None:
    llm = {"prompt": "Be kind", "temperature": 0.3}
    anna = await agent(acme, llm=llm, dynamic_variables={"team": "a"}, extra=1)
    assert anna["tts"] == {"voice_uuid": "v1"}
    path = f"{AGENTS}/{anna['uuid']}"
    reply = await acme.patch(path, {"llm": {"temperature": None, "model": "m"}})
    found = answered(reply, 200, "AgentAnswer")["item"]
    assert found["llm"] == {"prompt": "Be kind", "model": "m"}
    assert found["agent"]["dynamic_variables"] == {"team": "a"}
    reply = await acme.patch(path, {"name": "Anna 2", "llm": None})
    found = answered(reply, 200, "AgentAnswer")["item"]
    assert (found["agent"]["name"], found["llm"]) == ("Anna 2", {})


# --- errors


WRONG: list[tuple[dict[str, Any], set[str]]] = [
    ({"phone_number": None}, {"phone_number"}),
    ({"phone_number": "hello"}, {"phone_number"}),
    ({"label": ""}, {"label"}),
    ({"label": " "}, {"label"}),
    ({"supports_inbound": "yes"}, {"supports_inbound"}),
    ({"provider": "telnyx"}, {"provider"}),
    ({"twilio_account_sid": None}, {"twilio_account_sid"}),
    ({"twilio_auth_token": None}, {"twilio_auth_token"}),
    ({"twilio_account_sid": "SK1"}, {"twilio_account_sid"}),
    ({"twilio_auth_token": "…cdef"}, {"twilio_auth_token"}),
    ({"outbound_trunk": {"transport": "sctp"}}, {"outbound_trunk.transport"}),
    ({"outbound_trunk": {"media_encryption": "yes"}}, {"outbound_trunk.media_encryption"}),
    ({"outbound_trunk": {"address": "a b"}}, {"outbound_trunk.address"}),
    ({"outbound_trunk": {"headers": {"Via": "x"}}}, {"outbound_trunk.headers"}),
    ({"outbound_trunk": {"headers": {"X-A": "a\r\nB: c"}}}, {"outbound_trunk.headers"}),
    ({"outbound_trunk": {"has_auth_credentials": True}}, {"outbound_trunk.username"}),
    ({"inbound_trunk": {"allowed_addresses": "all"}}, {"inbound_trunk.allowed_addresses"}),
    ({"inbound_trunk": {"allowed_addresses": ["x"]}}, {"inbound_trunk.allowed_addresses.0"}),
    ({"inbound_trunk": {"allowed_numbers": ["x"]}}, {"inbound_trunk.allowed_numbers.0"}),
]


async def test_each_422_names_the_field(acme: Client) -> None:
    for change, fields in WRONG:
        reply = await acme.post(NUMBERS, wanted(**change))
        found = answered(reply, 422, "Refused")
        assert set(found["errors"]) == fields, change
        assert all(name in found["message"] for name in fields)
    assert (await connections.list_(acme.api.control, actor(acme))).total == 0


NO_AGENTS: list[tuple[Any, set[str]]] = [
    ({}, {"name"}),
    ({"name": "A", "phone_number_id": "1"}, {"phone_number_id"}),
    ({"name": "A", "llm": []}, {"llm"}),
    ({"name": "A", "dynamic_variables": {"a": {}}}, {"dynamic_variables"}),
    ({"name": "A", "dynamic_variables": {"__proto__": 1}}, {"dynamic_variables"}),
    ({"name": "A", "dynamic_variables": {"a": "x" * 2049}}, {"dynamic_variables"}),
    ([], {"base"}),
]


async def test_agents_that_are_none(acme: Client) -> None:
    for body, fields in NO_AGENTS:
        assert set(await errors(acme, "POST", AGENTS, body)) == fields, body
    assert (await acme.get(AGENTS)).json["items"] == []


async def test_the_errors_of_the_server_have_the_dialects_shape(acme: Client) -> None:
    answered(await acme.api.request("GET", NUMBERS), 401, "Refused")
    reader = await acme.api.account("acme", scopes=("numbers:read",))
    answered(await reader.post(NUMBERS, wanted()), 403, "Refused")
    answered(await acme.get("/api/v2/nothing"), 404, "Refused")
    answered(await acme.put(NUMBERS, {}), 405, "Refused")
    answered(await acme.get(NUMBERS, {"page": 0}), 422, "Refused")
    acme.api.carriers.away = True
    answered(await acme.post(NUMBERS, wanted()), 503, "Refused")
    assert (await connections.list_(acme.api.control, actor(acme))).total == 0


async def test_ids_that_are_none_or_anothers(acme: Client) -> None:
    other = await acme.api.account("other")
    made = await create(other)
    for number_id in (made["id"], ONE[1:], ONE, "x", "-1", "9" * 30, "%20"):
        for reply in (
            await acme.get(f"{NUMBERS}/{number_id}"),
            await acme.delete(f"{NUMBERS}/{number_id}"),
            await acme.delete(f"{NUMBERS}/{number_id}/force"),
        ):
            answered(reply, 404, "Refused")
    answered(await other.get(f"{NUMBERS}/{made['id']}"), 200, "PhoneNumberAnswer")

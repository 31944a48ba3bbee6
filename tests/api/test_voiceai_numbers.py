"""voice.ai: numbers, from the search to the release, in the answers that its document describes."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from router.api.voiceai import DIALECT
from router.control.model import Plan
from router.events.ids import DEFAULT_ACCOUNT
from router.routing.table import Route
from router.storage import mapping
from tests.support.api import Client, RunningApi, running_api
from tests.support.api_schemas import check
from tests.support.telnyx_requests import public_key

AGENT = "/api/v1/agent/"
SEARCH, SELECT, RELEASE, NUMBERS, AVAILABLE = (
    AGENT + name
    for name in (
        "search-phone-numbers",
        "select-phone-number",
        "release-phone-number",
        "phone-numbers",
        "available-phone-numbers",
    )
)
ONE, TWO, NOBODYS = "+14155553000", "+14155553001", "+14155559999"
answered = partial(check, "voiceai")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[RunningApi]:
    telnyx = {"api_key": "KEY0123456789abcdef", "public_keys": [public_key()]}
    providers = {"telnyx": telnyx}
    async with running_api(tmp_path, only=[DIALECT], providers=providers) as running:
        yield running


@pytest.fixture
async def acme(api: RunningApi) -> Client:
    return await api.account("acme", plan=Plan(numbers=3))


async def route(client: Client, number: str) -> Route | None:
    return await mapping.find_route(client.api.control.database, number)


async def agent(client: Client, **config: Any) -> str:
    reply = await client.post(AGENT, {"name": "Anna", "config": config})
    return str(answered(reply, 200, "Agent")["agent_id"])


async def test_from_the_search_to_the_release(acme: Client) -> None:
    reply = await acme.post(SEARCH, {"area_code": "415"})
    found = answered(reply, 200, "SearchPhoneNumbersResponse")
    assert found["total_results"] == len(found["results"]) > 0
    number = found["results"][0]["phone_number"]
    assert found["results"][0]["country_code"] == "US"

    reply = await acme.post(SELECT, {"phone_number": number, "provider": "twilio"})
    selected = answered(reply, 200, "PurchasePhoneNumberResponse")
    assert selected == {"phone_number": number, "status": "selected"}

    made = await acme.post(AGENT, {"name": "Anna", "config": {"phone_number": number}})
    anna = answered(made, 200, "Agent")
    assert anna["status"] == "paused"
    assert anna["config"]["phone_number"] == number
    assert (at := await route(acme, number)) is not None
    assert at.targets == ()

    reply = await acme.post(f"{AGENT}{anna['agent_id']}/deploy")
    deployed = answered(reply, 200, "AgentDeployResponse")
    assert deployed["agent"]["status"] == "deployed"
    assert deployed["sip_details"] == {"phone_number": number}
    assert (at := await route(acme, number)) is not None
    assert [target.agent for target in at.targets] == ["anna"]

    refused = answered(await acme.post(RELEASE, {"phone_number": number}), 409, "ErrorResponse")
    assert "pause the agent first" in refused["error"]
    assert refused["code"] == "agent_deployed"

    reply = await acme.post(f"{AGENT}{anna['agent_id']}/pause")
    assert answered(reply, 200, "AgentPauseResponse")["agent"]["status"] == "paused"
    assert (at := await route(acme, number)) is not None
    assert at.targets == ()

    reply = await acme.post(RELEASE, {"phone_number": number})
    released = answered(reply, 200, "PurchasePhoneNumberResponse")
    assert released == {"phone_number": number, "status": "released"}
    assert await route(acme, number) is None
    assert number in acme.api.carriers.available["twilio"]
    reply = await acme.get(f"{AGENT}{anna['agent_id']}")
    assert answered(reply, 200, "Agent")["config"]["phone_number"] is None
    answered(await acme.post(RELEASE, {"phone_number": number}), 404, "ErrorResponse")


async def test_a_number_is_taken_with_and_without_plus_and_leaves_with_it(acme: Client) -> None:
    reply = await acme.post(SELECT, {"phone_number": ONE[1:]})
    assert answered(reply, 200, "PurchasePhoneNumberResponse")["phone_number"] == ONE
    reply = await acme.post(RELEASE, {"phone_number": "+1 (415) 555-3000"})
    assert answered(reply, 200, "PurchasePhoneNumberResponse")["phone_number"] == ONE


async def test_telnyx_has_numbers_of_its_own(acme: Client) -> None:
    reply = await acme.post(SEARCH, {"area_code": "212", "provider": "telnyx"})
    number = answered(reply, 200, "SearchPhoneNumbersResponse")["results"][0]["phone_number"]
    answered(await acme.post(SELECT, {"phone_number": number}), 404, "ErrorResponse")
    reply = await acme.post(SELECT, {"phone_number": number, "provider": "telnyx"})
    answered(reply, 200, "PurchasePhoneNumberResponse")
    reply = await acme.post(RELEASE, {"phone_number": number, "provider": "twilio"})
    assert "twilio" in answered(reply, 404, "ErrorResponse")["error"]
    answered(await acme.post(RELEASE, {"phone_number": number}), 200, "PurchasePhoneNumberResponse")


async def test_the_plan_is_the_limit_and_a_release_frees_its_slot(acme: Client) -> None:
    found = (await acme.post(SEARCH, {})).json["results"]
    for each in found[:3]:
        assert (await acme.post(SELECT, {"phone_number": each["phone_number"]})).status == 200
    fourth = {"phone_number": found[3]["phone_number"]}
    refused = answered(await acme.post(SELECT, fourth), 402, "ErrorResponse")
    assert refused["code"]
    assert fourth["phone_number"] in acme.api.carriers.available["twilio"]
    first = {"phone_number": found[0]["phone_number"]}
    assert (await acme.post(RELEASE, first)).status == 200
    assert (await acme.post(SELECT, fourth)).status == 200


async def test_what_nobody_sells_and_what_another_has_look_the_same(acme: Client) -> None:
    other = await acme.api.account("other")
    assert (await other.post(SELECT, {"phone_number": ONE})).status == 200
    replies = [await acme.post(SELECT, {"phone_number": each}) for each in (ONE, NOBODYS)]
    bodies = [answered(reply, 404, "ErrorResponse") for reply in replies]
    assert bodies[0] == bodies[1]
    replies = [await acme.post(RELEASE, {"phone_number": each}) for each in (ONE, NOBODYS)]
    bodies = [answered(reply, 404, "ErrorResponse") for reply in replies]
    assert bodies[0] == bodies[1]
    held = answered(await other.post(SELECT, {"phone_number": ONE}), 404, "ErrorResponse")
    assert held["code"] == "number_held"


async def test_a_carrier_that_is_away_is_told_and_changes_nothing(acme: Client) -> None:
    acme.api.carriers.away = True
    for path, body in ((SEARCH, {}), (SELECT, {"phone_number": ONE})):
        reply = await acme.post(path, body)
        answered(reply, 503, "ErrorResponse")
        assert int(reply.headers["Retry-After"]) > 0
    acme.api.carriers.away = False
    assert (await acme.get(NUMBERS)).json["total_numbers"] == 0


WRONG: list[tuple[str, Any, list[Any], str]] = [
    (SELECT, {}, ["body", "phone_number"], "missing"),
    (SELECT, {"phone_number": 14155553000}, ["body", "phone_number"], "string_type"),
    (SELECT, {"phone_number": None}, ["body", "phone_number"], "string_type"),
    (SELECT, {"phone_number": "hello"}, ["body", "phone_number"], "value_error"),
    (SELECT, {"phone_number": "+1415"}, ["body", "phone_number"], "value_error"),
    (SELECT, {"phone_number": ONE, "provider": "vonage"}, ["body", "provider"], "literal_error"),
    (RELEASE, {"phone_number": ONE, "provider": None}, ["body", "provider"], "literal_error"),
    (RELEASE, [], ["body"], "model_type"),
    (SEARCH, {"country_code": "USA"}, ["body", "country_code"], "string_pattern_mismatch"),
    (SEARCH, {"area_code": "four"}, ["body", "area_code"], "string_pattern_mismatch"),
    (SEARCH, {"area_code": 415}, ["body", "area_code"], "string_type"),
]


async def test_each_422_names_the_field(acme: Client) -> None:
    for path, body, loc, kind in WRONG:
        reply = await acme.post(path, body)
        problems = answered(reply, 422, "HTTPValidationError")["detail"]
        assert [(each["loc"], each["type"]) for each in problems] == [(loc, kind)], body


async def test_the_errors_of_the_server_have_the_dialects_shape(acme: Client) -> None:
    nobody = await acme.api.request("POST", SELECT, {"phone_number": ONE})
    assert answered(nobody, 401, "ErrorResponse")["code"]
    reader = await acme.api.account("acme", scopes=("numbers:read",))
    refused = answered(await reader.post(SELECT, {"phone_number": ONE}), 403, "ErrorResponse")
    assert "numbers:write" in refused["error"]
    assert (await reader.post(SEARCH, {})).status == 200
    answered(await acme.get("/api/v1/no/such/path"), 404, "ErrorResponse")
    answered(await acme.delete(SELECT), 405, "ErrorResponse")
    assert (await acme.request("POST", SELECT, raw=b"{")).status == 422


async def test_lists_are_whole_without_and_pages_with_paging(acme: Client) -> None:
    for number in (ONE, TWO):
        assert (await acme.post(SELECT, {"phone_number": number})).status == 200
    anna = await agent(acme, phone_number=TWO)

    whole = answered(await acme.get(NUMBERS), 200, "AllPhoneNumbersResponse")
    assert whole == {
        "phone_numbers": [
            {
                "phone_number": ONE,
                "status": "available",
                "assigned_to_agent_id": None,
                "assigned_to_agent_name": None,
            },
            {
                "phone_number": TWO,
                "status": "assigned",
                "assigned_to_agent_id": anna,
                "assigned_to_agent_name": "Anna",
            },
        ],
        "total_numbers": 2,
        "total_available": 1,
        "total_assigned": 1,
    }
    for query, shown, told in (
        ({"page": 1, "limit": 1}, [ONE], (1, 2, True, False)),
        ({"page": 2, "limit": 1}, [TWO], (2, 2, False, True)),
        ({"page": 3, "limit": 1}, [], (3, 2, False, True)),
        ({"limit": 100}, [ONE, TWO], (1, 1, False, False)),
    ):
        reply = await acme.get(NUMBERS, query)
        page = answered(reply, 200, "PaginatedAllPhoneNumbersResponse")
        assert [each["phone_number"] for each in page["items"]] == shown
        said = page["pagination"]
        names = ("current_page", "total_pages", "has_next", "has_previous")
        assert tuple(said[name] for name in names) == told
        assert (said["total_items"], said["limit"]) == (2, query["limit"])

    free = answered(await acme.get(AVAILABLE, {"page": 1}), 200, "PaginatedPhoneNumberResponse")
    assert [each["phone_number"] for each in free["items"]] == [ONE]
    assert free["pagination"]["total_items"] == 1
    whole = (await acme.get(AVAILABLE)).json
    assert [each["phone_number"] for each in whole["phone_numbers"]] == [ONE]
    assert (whole["total_numbers"], whole["total_available"], whole["total_assigned"]) == (2, 1, 1)


async def test_pages_that_are_none(acme: Client) -> None:
    wrong = {"page": ("0", "x", "1.5", "9" * 30), "limit": ("101", "", "-1")}
    for path in (NUMBERS, AVAILABLE, AGENT, f"{AGENT}call-history"):
        for name, values in wrong.items():
            for value in values:
                reply = await acme.get(path, {name: value})
                detail = answered(reply, 422, "HTTPValidationError")["detail"]
                assert [each["loc"] for each in detail] == [["query", name]]


async def test_a_page_far_behind_the_end_is_empty(acme: Client) -> None:
    page = answered(
        await acme.get(NUMBERS, {"page": 1_000_000, "limit": 100}),
        200,
        "PaginatedAllPhoneNumbersResponse",
    )
    assert page["items"] == []
    assert page["pagination"]["total_pages"] == 0


async def test_the_account_default_is_an_account_like_any_other(api: RunningApi) -> None:
    default = await api.account("default", scopes=("numbers:write", "agents:write"))
    assert default.account.id == DEFAULT_ACCOUNT
    assert (await default.post(SELECT, {"phone_number": ONE})).status == 200
    other = await api.account("other")
    assert (await other.get(NUMBERS)).json["total_numbers"] == 0

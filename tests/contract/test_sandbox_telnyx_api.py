"""What Telnyx's stand-in refuses, as Telnyx's SDK sees it."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest
import telnyx
from telnyx import AsyncTelnyx
from telnyx.types import calls

from router.sandbox.telnyx import TelnyxStandIn, bodies
from tests.support.sandbox_telnyx import API_KEY, CALLED, CALLER, SEED, Server, client, server
from tests.support.sandbox_twilio import Switch

SIP = "sip:a-call-id@sip.example"


@pytest.fixture
async def web() -> AsyncIterator[Server]:
    async with server() as it:
        yield it


@pytest.fixture
async def standin(web: Server) -> AsyncIterator[TelnyxStandIn]:
    async with TelnyxStandIn(
        api_key=API_KEY, seed=SEED, webhook_base=web.url, dial_sip=Switch().dial
    ) as it:
        web.key = it.public_key
        yield it


@pytest.fixture
async def sdk(standin: TelnyxStandIn) -> AsyncIterator[AsyncTelnyx]:
    async with client(standin.url) as it:
        yield it


def codes(error: telnyx.APIStatusError) -> list[str]:
    assert isinstance(error.body, dict)
    assert all({"code", "title", "detail"} <= each.keys() for each in error.body["errors"])
    return [each["code"] for each in error.body["errors"]]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (bodies.Answer, calls.ActionAnswerParams),
        (bodies.Hangup, calls.ActionHangupParams),
        (bodies.Reject, calls.ActionRejectParams),
        (bodies.Speak, calls.ActionSpeakParams),
        (bodies.Transfer, calls.ActionTransferParams),
    ],
)
def test_commands_take_nothing_that_the_sdk_has_not(ours: type[bodies.Body], theirs: Any) -> None:
    fields = {field.name for field in msgspec.structs.fields(ours)}
    assert fields <= set(theirs.__annotations__)
    required = {field.name for field in msgspec.structs.fields(ours) if field.required}
    assert required == {
        name for name, hint in theirs.__annotations__.items() if "Required[" in str(hint)
    }


async def test_a_wrong_key_is_told_so_before_anything_else(standin: TelnyxStandIn) -> None:
    async with client(standin.url, "KEY-of-somebody-else") as stranger:
        with pytest.raises(telnyx.AuthenticationError) as refused:
            await stranger.calls.actions.hangup("v3:none")
    assert codes(refused.value) == ["10009"]


async def test_an_unknown_call_can_be_neither_commanded_nor_asked_about(sdk: AsyncTelnyx) -> None:
    with pytest.raises(telnyx.UnprocessableEntityError) as refused:
        await sdk.calls.actions.hangup("v3:none")
    assert codes(refused.value) == ["90015"]
    with pytest.raises(telnyx.NotFoundError) as absent:
        await sdk.calls.retrieve_status("v3:none")
    assert codes(absent.value) == ["10005"]


async def test_a_call_that_is_over_takes_no_commands(
    standin: TelnyxStandIn, sdk: AsyncTelnyx
) -> None:
    call = standin.place_call(CALLED, CALLER)
    standin.hang_up(call)
    with pytest.raises(telnyx.UnprocessableEntityError) as refused:
        await sdk.calls.actions.transfer(call.caller.control_id, to=SIP)
    assert codes(refused.value) == ["90018"]


async def test_nobody_is_spoken_to_before_the_answer(
    standin: TelnyxStandIn, sdk: AsyncTelnyx
) -> None:
    call = standin.place_call(CALLED, CALLER)
    with pytest.raises(telnyx.UnprocessableEntityError) as refused:
        await sdk.calls.actions.speak(call.caller.control_id, payload="Hello", voice="female")
    assert codes(refused.value) == ["90034"]


@pytest.mark.parametrize(
    ("action", "body", "code"),
    [
        ("transfer", {}, "10004"),
        ("transfer", {"to": "5550000003"}, "10016"),
        ("transfer", {"to": "sip:nobody"}, "10015"),
        ("transfer", {"to": SIP, "from": "5550000003"}, "10016"),
        ("transfer", {"to": SIP, "timeout_secs": 4}, "10033"),
        ("transfer", {"to": SIP, "timeout_secs": 601}, "10033"),
        ("transfer", {"to": SIP, "sip_transport_protocol": "tls"}, "10032"),
        ("transfer", {"to": SIP, "client_state": "not base64!"}, "10015"),
        ("transfer", {"to": SIP, "target_leg_client_state": "not base64!"}, "10015"),
        ("transfer", {"to": SIP, "custom_headers": [{"name": "X-a"}]}, "10004"),
        ("transfer", {"to": SIP, "sip_user": "u"}, "10015"),
        ("reject", {}, "10004"),
        ("reject", {"cause": "BUSY"}, "10032"),
        ("hangup", {"to": SIP}, "10015"),
        ("speak", {"payload": "Hello"}, "10004"),
    ],
)
async def test_a_body_that_is_not_the_commands_is_refused(
    standin: TelnyxStandIn, action: str, body: dict[str, Any], code: str
) -> None:
    call = standin.place_call(CALLED, CALLER)
    url = f"{standin.url}/calls/{call.caller.control_id}/actions/{action}"
    headers = {"Authorization": f"Bearer {API_KEY}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(url, json=body) as answer,
    ):
        assert answer.status == 422
        assert (await answer.json())["errors"][0]["code"] == code
    assert call.caller.is_alive
    assert call.dialled == []


async def test_an_unknown_action_is_not_found(standin: TelnyxStandIn, sdk: AsyncTelnyx) -> None:
    call = standin.place_call(CALLED, CALLER)
    with pytest.raises(telnyx.NotFoundError) as absent:
        await sdk.calls.actions.start_recording(
            call.caller.control_id, channels="single", format="mp3"
        )
    assert codes(absent.value) == ["10005"]

"""The unmodified vocode-api client, sync and async: each of its methods, against a running API."""

import asyncio
import inspect
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from pydantic import PydanticDeprecatedSince20

from router.api.vocode import DIALECT
from tests.api.examples import vocode as examples
from tests.support.api import Client, running_api
from tests.support.nodes import free_port

with warnings.catch_warnings():  # the client is written for two major versions of pydantic
    warnings.simplefilter("ignore", PydanticDeprecatedSince20)
    warnings.filterwarnings("ignore", "Valid config keys have changed", UserWarning)
    import vocode
    from vocode.client import AsyncVocode, Vocode
    from vocode.core.api_error import ApiError
    from vocode.errors import UnprocessableEntityError

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")

AUDIO = b"ID3 the recording"
Things = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A call of one method; what it answers becomes a thing by the name `made`."""

    method: str  # numbers.buy_number
    arguments: Callable[[Things], Mapping[str, Any]] = lambda _: {}
    check: Callable[[Any, Things], object] = lambda answer, _: answer is not None
    made: str = ""
    fails: int = 0  # status of the ApiError that it ends with


def _of(*names: str) -> Callable[[Things], Mapping[str, Any]]:
    """The ids of things, as arguments."""
    return lambda things: {name: things[name].id for name in names}


def _lists(name: str) -> Callable[[Any, Things], object]:
    return lambda page, things: (
        things[name].id in [each.id for each in page.items]
        and (page.page, page.size, page.total_is_estimated) == (1, 10, False)
        and page.total == len(page.items)
        and not page.has_more
    )


def _same(name: str) -> Callable[[Any, Things], object]:
    return lambda answer, things: answer == things[name]


STEPS = [
    Step("metrics_metrics_get", check=lambda text, _: "switchboard_" in text),
    Step("usage.get_usage", check=lambda usage, _: usage.plan_type == "plan_unlimited"),
    # what an agent is made of
    Step("prompts.create_prompt", lambda _: {}, lambda got, _: got.content == ""),
    Step(
        "prompts.create_prompt",
        lambda _: {
            "content": "Be brief.",
            "collect_fields": [vocode.CollectField(label="Mail", name="mail")],
            "prompt_template": examples.NOBODY,
        },
        lambda got, _: got.prompt_template.id == examples.NOBODY and got.collect_fields,
        made="prompt",
    ),
    Step("prompts.get_prompt", lambda t: {"id": t["prompt"].id}, _same("prompt")),
    Step("prompts.list_prompts", check=lambda page, _: page.total == 2),
    Step(
        "prompts.update_prompt",
        lambda t: {"id": t["prompt"].id, "collect_fields": None, "content": vocode.Undefined()},
        lambda got, _: got.collect_fields is None and got.content == "Be brief.",
    ),
    Step(
        "actions.create_action",
        lambda _: {
            "request": vocode.TransferCallActionParams(
                config=vocode.TransferCallConfig(phone_number="+14155550111")
            )
        },
        lambda got, _: isinstance(got, vocode.TransferCallAction),
        made="action",
    ),
    Step("actions.get_action", lambda t: {"id": t["action"].id}, _same("action")),
    Step("actions.list_actions", check=_lists("action")),
    Step(
        "actions.update_action",
        lambda t: {
            "id": t["action"].id,
            "request": vocode.TransferCallActionUpdateParams(
                config=vocode.TransferCallConfig(phone_number="+14155550112")
            ),
        },
        lambda got, _: got.config.phone_number == "+14155550112",
    ),
    Step(
        "voices.create_voice",
        lambda _: {
            "request": vocode.ElevenLabsVoiceParams(voice_id="v", api_key="0123456789abcdef")
        },
        lambda got, _: isinstance(got, vocode.ElevenLabsVoice) and got.api_key == "…cdef",
        made="voice",
    ),
    Step("voices.get_voice", lambda t: {"id": t["voice"].id}, _same("voice")),
    Step("voices.list_voices", check=_lists("voice")),
    Step(
        "voices.update_voice",
        lambda t: {
            "id": t["voice"].id,
            "request": vocode.ElevenLabsVoiceUpdateParams(
                api_key=t["voice"].api_key, stability=0.5, voice_id=vocode.Undefined()
            ),
        },
        lambda got, _: (got.voice_id, got.stability, got.api_key) == ("v", 0.5, "…cdef"),
    ),
    Step(
        "webhooks.create_webhook",
        lambda _: {"subscriptions": ["event_human_detection"], "url": "https://example.com"},
        lambda got, _: got.method == "POST",
        made="webhook",
    ),
    Step("webhooks.get_webhook", lambda t: {"id": t["webhook"].id}, _same("webhook")),
    Step("webhooks.list_webhooks", check=_lists("webhook")),
    Step(
        "webhooks.update_webhook",
        lambda t: {"id": t["webhook"].id},
        _same("webhook"),
    ),
    Step(
        "vector_databases.create_vector_database",
        lambda _: {"index": "i", "api_key": "0123456789abcdef", "api_environment": "e"},
        lambda got, _: got.api_key == "…cdef",
        made="vector_database",
    ),
    Step(
        "vector_databases.get_vector_database",
        lambda t: {"id": t["vector_database"].id},
        _same("vector_database"),
    ),
    Step("vector_databases.list_vector_databases", check=_lists("vector_database")),
    Step(
        "vector_databases.update_vector_database",
        lambda t: {"id": t["vector_database"].id, "index": "j", "api_key": vocode.Undefined()},
        lambda got, _: (got.index, got.api_key) == ("j", "…cdef"),
    ),
    # connections
    Step(
        "account_connections.create_account_connection",
        lambda t: {
            "request": vocode.TwilioAccountConnectionParams(
                credentials=vocode.TwilioCredentials(
                    twilio_account_sid=t["sid"], twilio_auth_token="0123456789abcdef"
                )
            )
        },
        lambda got, t: (
            isinstance(got, vocode.TwilioAccountConnection)
            and got.credentials.twilio_auth_token == "…cdef"
            and got.credentials.twilio_account_sid == t["sid"]
        ),
        made="connection",
    ),
    Step(
        "account_connections.create_account_connection",
        lambda _: {
            "request": vocode.OpenAiAccountConnectionParams(
                credentials=vocode.OpenAiCredentials(openai_api_key="0123456789abcdef")
            )
        },
        lambda got, _: isinstance(got, vocode.OpenAiAccountConnection),
        made="openai",
    ),
    Step(
        "account_connections.get_account_connection",
        lambda t: {"id": t["connection"].id},
        _same("connection"),
    ),
    Step("account_connections.list_account_connections", check=_lists("connection")),
    Step(
        "account_connections.update_account_connection",
        lambda t: {
            "id": t["openai"].id,
            "request": vocode.OpenAiAccountConnectionUpdateParams(
                credentials=vocode.OpenAiCredentials(openai_api_key="another-0123-wxyz")
            ),
        },
        lambda got, _: got.credentials.openai_api_key == "…wxyz",
    ),
    Step(
        "account_connections.add_to_steering_pool",
        lambda t: {
            "id": t["connection"].id,
            "request": vocode.AddToSteeringPoolBody(phone_number="14155550133"),
        },
        lambda got, _: got["steering_pool"] == ["+14155550133"],
    ),
    Step(
        "account_connections.add_to_steering_pool",
        lambda t: {"id": t["connection"].id},
        lambda got, _: got["steering_pool"] == ["+14155550133"],
    ),
    Step(
        "account_connections.remove_from_steering_pool",
        lambda t: {"id": t["connection"].id, "phone_number": "+14155550133"},
        lambda got, _: got["steering_pool"] == [],
    ),
    # agents
    Step(
        "agents.create_agent",
        lambda t: {
            "name": "Anna",
            "prompt": t["prompt"].id,
            "voice": t["voice"].id,
            "actions": [t["action"].id, vocode.DtmfActionParams()],
            "webhook": t["webhook"].id,
            "vector_database": t["vector_database"].id,
            "openai_account_connection": t["openai"].id,
            "initial_message": "Hello!",
            "language": "de",
            "interrupt_sensitivity": "high",
            "deepgram_keywords": {"kansas": 10},
            "llm_fallback": vocode.InternalLlmFallback(provider="openai", model_name="m"),
            "idle_time_seconds": 10,
            "conversation_speed": 0.5,
        },
        lambda got, t: (
            got.prompt.id == t["prompt"].id
            and [type(each) for each in got.actions]
            == [vocode.TransferCallAction, vocode.DtmfAction]
            and got.openai_account_connection.id == t["openai"].id
        ),
        made="agent",
    ),
    Step("agents.get_agent", lambda t: {"id": t["agent"].id}, _same("agent")),
    Step("agents.list_agents", check=_lists("agent")),
    Step(
        "agents.update_agent",
        lambda t: {
            "id": t["agent"].id,
            "initial_message": None,
            "webhook": None,
            "name": vocode.Undefined(),
            "voice": vocode.AzureVoiceUpdateParams(voice_name="aria"),
        },
        lambda got, _: (
            (got.initial_message, got.webhook, got.name) == (None, None, "Anna")
            and isinstance(got.voice, vocode.AzureVoice)
        ),
    ),
    # numbers
    Step("numbers.buy_number", check=lambda got, _: got.inbound_agent is None and got.active),
    Step(
        "numbers.buy_number",
        lambda t: {
            "area_code": "415",
            "telephony_provider": "twilio",
            "telephony_account_connection": t["connection"].id,
            "inbound_agent": vocode.AgentParams(
                prompt=vocode.PromptParams(content="Be kind."),
                # The client leaves out its type: it is nested.
                voice=vocode.AzureVoiceParams(voice_name="aria"),
            ),
        },
        lambda got, t: (
            got.number.startswith("+1415")
            and got.inbound_agent.prompt.content == "Be kind."
            and isinstance(got.inbound_agent.voice, vocode.AzureVoice)
            and got.telephony_account_connection.id == t["connection"].id
        ),
        made="number",
    ),
    Step("numbers.buy_number", lambda _: {"telephony_provider": "vonage"}, fails=422),
    Step("numbers.get_number", lambda t: {"phone_number": t["number"].number}, _same("number")),
    Step("numbers.get_number", lambda t: {"phone_number": t["number"].number[1:]}, _same("number")),
    Step("numbers.list_numbers", check=_lists("number")),
    Step("numbers.update_number", lambda t: {"phone_number": t["number"].number}, _same("number")),
    Step(
        "numbers.update_number",
        lambda t: {
            "phone_number": t["number"].number,
            "label": "front",
            "outbound_only": vocode.Undefined(),
            "example_context": {"a": "b"},
            "inbound_agent": vocode.AgentUpdateParams(
                prompt=vocode.PromptUpdateParams(content="Be brief."),
                initial_message="Hi",
                voice=vocode.RimeVoiceUpdateParams(speaker="s"),
                actions=[
                    vocode.ExternalActionUpdateParams(
                        config=vocode.ExternalActionConfig(
                            name="look_up",
                            description="Looks something up",
                            url="https://example.com",
                            input_schema={"type": "object"},
                            speak_on_send=False,
                            speak_on_receive=False,
                            signature_secret="0123456789abcdef",
                        )
                    )
                ],
            ),
        },
        lambda got, t: (
            (got.label, got.example_context) == ("front", {"a": "b"})
            and got.inbound_agent.id == t["number"].inbound_agent.id
            and got.inbound_agent.prompt.content == "Be brief."
        ),
    ),
    Step(
        "numbers.update_number",
        lambda t: {"phone_number": t["number"].number, "inbound_agent": vocode.Undefined()},
        lambda got, t: got.inbound_agent.id == t["number"].inbound_agent.id,
    ),
    Step(
        "numbers.update_number",
        lambda t: {"phone_number": t["number"].number, "inbound_agent": None},
        lambda got, _: got.inbound_agent is None,
    ),
    Step(
        "numbers.link_number",
        lambda t: {
            "phone_number": t["at_carrier"],
            "telephony_account_connection": t["connection"].id,
            "outbound_only": True,
            "inbound_agent": t["agent"].id,
        },
        lambda got, t: got.outbound_only and got.inbound_agent.id == t["agent"].id,
        made="linked",
    ),
    Step(
        "numbers.cancel_number",
        lambda t: {"phone_number": t["linked"].number},
        lambda got, _: not got.active and got.inbound_agent is None,
    ),
    # calls
    Step(
        "calls.list_calls",
        check=lambda page, t: (
            [(each.id, each.agent) for each in page.items] == [(t["call"], t["agent"].id)]
            and isinstance(page.items[0].start_time, float)
        ),
    ),
    Step(
        "calls.get_call",
        lambda t: {"id": t["call"]},
        lambda got, t: (
            got.agent.id == t["agent"].id
            and (got.status, got.recording_available) == ("ended", True)
            and isinstance(got.telephony_metadata, vocode.TwilioTelephonyMetadata)
        ),
    ),
    Step("calls.get_recording", lambda t: {"id": t["call"]}, lambda got, _: got == AUDIO),
    Step(
        "calls.create_call",
        lambda t: {
            "from_number": t["number"].number,
            "to_number": "+14155550199",
            "agent": t["agent"].id,
        },
        fails=501,
    ),
    Step("calls.end_call", lambda t: {"id": t["call"]}, fails=501),
]


def _methods(client: object) -> dict[str, Callable[..., Any]]:
    """Every public method of the client and of its parts, by its dotted name."""
    found = dict(_public(client))
    for name, part in vars(client).items():
        if not name.startswith("_"):
            found |= {f"{name}.{method}": call for method, call in _public(part)}
    return found


def _public(thing: object) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, method in inspect.getmembers(thing, inspect.ismethod):
        if not name.startswith("_"):
            yield name, method


@dataclass
class _Server:
    client: Client
    things: Things = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.client.api.url

    async def after(self, step: Step) -> None:
        """The carrier's part: a call, when there is an agent."""
        if step.made == "agent":
            self.things["call"] = await examples.had_call(
                self.client, self.things["agent"].id, recording=self.things["recording"]
            )


@asynccontextmanager
async def _server(folder: Path) -> AsyncIterator[_Server]:
    async def recording(request: web.Request) -> web.Response:
        assert "Authorization" not in request.headers  # the token is nobody else's
        return web.Response(body=AUDIO, content_type="audio/mpeg")

    app = web.Application()
    app.router.add_get("/RE1", recording)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with running_api(folder, only=[DIALECT]) as api:
            client = await api.account("acme")
            number = api.carriers.give("twilio", examples.sid(client))
            things: Things = {
                "sid": examples.sid(client),
                "at_carrier": number,
                "recording": f"http://127.0.0.1:{port}/RE1",
            }
            yield _Server(client, things)
    finally:
        await runner.cleanup()


async def _run(
    server: _Server, client: object, call: Callable[[Callable[..., Any], Any], Any]
) -> None:
    methods, left = _methods(client), set(_methods(client))
    for number, step in enumerate(STEPS):
        left.discard(step.method)
        where = f"step {number}: {step.method}"
        if step.fails:
            with pytest.raises((ApiError, UnprocessableEntityError)) as refused:
                await call(methods[step.method], step.arguments(server.things))
            assert refused.value.status_code == step.fails, where
            continue
        answer = await call(methods[step.method], step.arguments(server.things))
        assert step.check(answer, server.things), f"{where}: {answer!r}"
        if step.made:
            server.things[step.made] = answer
        await server.after(step)
    assert not left, f"methods of the client that no step calls: {sorted(left)}"


async def test_every_method_of_the_client(tmp_path: Path) -> None:
    def called(method: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        answer = method(**arguments)
        return b"".join(answer) if isinstance(answer, Iterator) else answer

    async def call(method: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        return await asyncio.to_thread(called, method, arguments)

    async with _server(tmp_path) as server:
        with httpx.Client(timeout=20, follow_redirects=True) as http:
            client = Vocode(token=server.client.token, base_url=server.url, httpx_client=http)
            await _run(server, client, call)


async def test_every_method_of_the_async_client(tmp_path: Path) -> None:
    async def call(method: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        answer = method(**arguments)
        if isinstance(answer, AsyncIterator):
            return b"".join([chunk async for chunk in answer])
        return await answer

    async with (
        _server(tmp_path) as server,
        httpx.AsyncClient(timeout=20, follow_redirects=True) as http,
    ):
        client = AsyncVocode(token=server.client.token, base_url=server.url, httpx_client=http)
        await _run(server, client, call)

"""Updates: what is absent or `{}` stays, null clears where the document allows null, else 422."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.api.vocode import DIALECT
from router.api.vocode.agents import AgentParams
from router.api.vocode.kinds import KINDS, VOICE
from router.api.vocode.schemas import type_of
from tests.api.examples import vocode as examples
from tests.api.examples.vocode import ok
from tests.support.api import Client, running_api

CLIENT: Final = {"X-Fern-SDK-Version": "0.0.48"}
SECRET: Final = "0123456789abcdef"
TRIGGER: Final = {"type": "action_trigger_function_call"}

# Whole documents, as they are sent; NULLABLE: the fields that an update may clear, as Vocode's
# document has them (docs/openapi.json of vocode-core).
WHOLE: Final[Mapping[str, Mapping[str, Any]]] = {
    "prompt": {
        "content": "Be brief.",
        "collect_fields": [{"field_type": "field_type_email", "label": "Mail", "name": "mail"}],
        "context_endpoint": "https://example.com/context",
        "prompt_template": examples.NOBODY,
    },
    "webhook": {"subscriptions": ["event_message"], "url": "https://example.com", "method": "GET"},
    "vector_database_pinecone": {"index": "i", "api_key": SECRET, "api_environment": "e"},
    "action_transfer_call": {"config": {"phone_number": "+1"}, "action_trigger": TRIGGER},
    "action_end_conversation": {"config": {"kept": 1}, "action_trigger": TRIGGER},
    "action_dtmf": {"config": {"kept": 1}, "action_trigger": TRIGGER},
    "action_add_to_conference": {"config": {"phone_number": "+1"}, "action_trigger": TRIGGER},
    "action_set_hold": {"config": {"kept": 1}, "action_trigger": TRIGGER},
    "action_external": {
        "config": {
            "name": "n",
            "description": "d",
            "url": "https://example.com",
            "input_schema": {"type": "object", "default": None},
            "speak_on_send": True,
            "speak_on_receive": False,
            "signature_secret": SECRET,
        },
        "action_trigger": TRIGGER,
    },
    "voice_azure": {"voice_name": "aria", "pitch": 3, "rate": 10},
    "voice_rime": {"speaker": "s", "speed_alpha": 0.5, "model_id": "mist"},
    "voice_eleven_labs": {
        "voice_id": "v",
        "stability": 0.5,
        "similarity_boost": 0.5,
        "api_key": SECRET,
        "optimize_streaming_latency": 2,
        "model_id": "m",
        "experimental_input_streaming": True,
    },
    "voice_play_ht": {
        "voice_id": "v",
        "api_user_id": "u",
        "api_key": SECRET,
        "version": "1",
        "speed": 1.5,
        "quality": "low",
        "temperature": 0.5,
        "top_p": 0.5,
        "text_guidance": 0.5,
        "voice_guidance": 0.5,
        "experimental_remove_silence": True,
    },
    "voice_vocode": {"voice_id": "joe"},
}
NULLABLE: Final[Mapping[str, set[str]]] = {
    "prompt": {"collect_fields", "context_endpoint", "prompt_template"},
    "voice_rime": {"speed_alpha", "model_id"},
    "voice_eleven_labs": {
        "stability", "similarity_boost", "api_key", "optimize_streaming_latency", "model_id",
    },
    "voice_play_ht": {
        "api_user_id", "api_key", "speed", "quality", "temperature", "top_p", "text_guidance",
        "voice_guidance",
    },
}  # fmt: skip
AGENT: Final[Mapping[str, Any]] = {
    "name": "Anna",
    "language": "de",
    "initial_message": "Hello!",
    "interrupt_sensitivity": "high",
    "context_endpoint": "https://example.com",
    "noise_suppression": True,
    "endpointing_sensitivity": "relaxed",
    "ivr_navigation_mode": "default",
    "conversation_speed": 0.5,
    "initial_message_delay": 1.5,
    "openai_model_name_override": "gpt",
    "ask_if_human_present_on_idle": True,
    "run_do_not_call_detection": True,
    "llm_fallback": {"provider": "azure", "model_name": "m"},
    "deepgram_keywords": {"kansas": 10, "oz": 0.5},
    "idle_time_seconds": 10,
    "llm_temperature": 0.5,
    "prompt": {"content": "Be brief."},
    "voice": {"type": "voice_azure", "voice_name": "aria", "pitch": 0, "rate": 15},
    "actions": [{"type": "action_dtmf"}],
    "webhook": {"subscriptions": [], "url": "https://example.com", "method": "POST"},
    "vector_database": {"type": "vector_database_pinecone", "index": "i", "api_environment": "e"},
    "openai_account_connection": None,  # an id; the test fills it in
}
AGENT_NULLABLE: Final = {
    "name", "initial_message", "webhook", "vector_database", "context_endpoint",
    "openai_model_name_override", "openai_account_connection", "llm_fallback", "deepgram_keywords",
    "idle_time_seconds",
}  # fmt: skip


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with running_api(tmp_path, only=[DIALECT]) as api:
        yield await api.account("acme")


def _shown(value: Any) -> Any:
    """As answers have it: secrets masked."""
    if isinstance(value, Mapping):
        return {name: _shown(each) for name, each in value.items()}
    return f"…{SECRET[-4:]}" if value == SECRET else value


def test_the_tables_are_whole() -> None:
    models = {type_of(model) or kind.kind: model for kind in KINDS for model in kind.models}
    assert models.keys() == WHOLE.keys()
    for tag, model in models.items():
        assert WHOLE[tag].keys() == model.model_fields.keys() - {"type"}, tag
    assert AGENT.keys() == AgentParams.model_fields.keys()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
async def test_each_field_of_each_document(client: Client, kind: Any) -> None:
    path = f"/v1/{kind.plural}"
    for model in kind.models:
        tag = type_of(model) or kind.kind
        typed = {"type": tag} if type_of(model) else {}
        whole = dict(WHOLE[tag])
        made = ok(await client.post(f"{path}/create", typed | whole))
        query = {"id": made["id"]}
        if kind.kind == "prompt":
            assert made["prompt_template"]["id"] == whole.pop("prompt_template")
            whole["prompt_template"] = made["prompt_template"]
        assert made == {"id": made["id"], "user_id": client.account.id, **typed, **_shown(whole)}
        nothing = await client.post(f"{path}/update", typed, query=query)
        assert ok(nothing) == made, tag
        for name in whole:
            kept = await client.post(f"{path}/update", typed | {name: {}}, query=query)
            assert ok(kept) == made, (tag, name)
            cleared = await client.post(f"{path}/update", typed | {name: None}, query=query)
            if name in NULLABLE.get(tag, ()):
                expected = {key: value for key, value in made.items() if key != name}
                assert ok(cleared) == expected, (tag, name)
            else:
                assert cleared.status == 422, (tag, name)
                assert cleared.json["detail"][0]["loc"] == ["body", name]
            again = await client.post(f"{path}/update", typed | {name: whole[name]}, query=query)
            assert ok(again) == made, (tag, name)
        assert ok(await client.get(path, query)) == made


async def test_each_field_of_an_agent(client: Client) -> None:
    connection = ok(await client.post("/v1/account_connections/create", examples.OPENAI))
    whole = {**AGENT, "openai_account_connection": connection["id"]}
    whole["vector_database"] = {**AGENT["vector_database"], "api_key": SECRET}
    made = ok(await client.post("/v1/agents/create", whole))
    query = {"id": made["id"]}
    for name, value in whole.items():
        kept = await client.post("/v1/agents/update", {name: {}}, query=query)
        assert ok(kept) == made, name
        cleared = await client.post("/v1/agents/update", {name: None}, query=query)
        if name in AGENT_NULLABLE:
            assert ok(cleared) == {key: each for key, each in made.items() if key != name}, name
            back = {"id": value} if isinstance(value, str) else value
            back = made[name]["id"] if isinstance(back, dict) and "id" in made[name] else value
            assert ok(await client.post("/v1/agents/update", {name: back}, query=query)) == made
        else:
            assert cleared.status == 422, name
            assert cleared.json["detail"][0]["loc"] == ["body", name]
    assert ok(await client.get("/v1/agents", query)) == made


@pytest.mark.parametrize("headers", [{}, CLIENT], ids=["document", "client"])
async def test_each_field_of_a_number(client: Client, headers: Mapping[str, str]) -> None:
    agent = {"prompt": {"content": "Hi"}, "voice": examples.VOICE}
    bought = ok(await client.post("/v1/numbers/buy", {"inbound_agent": agent}))
    query = {"phone_number": bought["number"]}
    whole = {
        "label": "front",
        "outbound_only": True,
        "example_context": {"a": "b"},
        "description": "The front desk",
        "inbound_agent": bought["inbound_agent"]["id"],
    }

    async def update(body: Any) -> Any:
        return await client.post("/v1/numbers/update", body, query=query, headers=headers)

    made = ok(await update(whole))
    assert {name: made[name] for name in whole if name != "inbound_agent"} == {
        name: value for name, value in whole.items() if name != "inbound_agent"
    }
    for name, value in whole.items():
        assert ok(await update({name: {}})) == made, name
        cleared = await update({name: None})
        if name in ("label", "outbound_only"):
            assert cleared.status == 422, name
            assert cleared.json["detail"][0]["loc"] == ["body", name]
        else:
            expected = {key: each for key, each in made.items() if key != name}
            expected |= {"inbound_agent": None} if name == "inbound_agent" else {}
            assert ok(cleared) == expected, name
        assert ok(await update({name: value})) == made, name


# --- any sequence

_ABSENT: Final = "absent"
FIELDS: Final[Mapping[str, tuple[bool, st.SearchStrategy[Any]]]] = {
    "name": (True, st.text("ab ", min_size=1, max_size=3).filter(str.strip)),
    "initial_message": (True, st.text(max_size=3)),
    "language": (False, st.sampled_from(["en", "de"])),
    "noise_suppression": (False, st.booleans()),
    "conversation_speed": (False, st.floats(0, 2)),
    "idle_time_seconds": (True, st.integers(0, 60)),
    "deepgram_keywords": (True, st.dictionaries(st.text("ab"), st.integers(0, 9), min_size=1)),
    "llm_fallback": (True, st.just({"provider": "openai", "model_name": "m"})),
    "webhook": (True, st.just({"subscriptions": ["event_message"], "url": "https://a.test"})),
}
updates: st.SearchStrategy[list[dict[str, Any]]] = st.lists(
    st.fixed_dictionaries(
        {
            name: st.one_of(st.just(_ABSENT), st.just({}), st.none(), values)
            for name, (_, values) in FIELDS.items()
        }
    ),
    max_size=4,
)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[asyncio.Runner, Client, str]]:
    async def start() -> tuple[Client, str]:
        api = await stack.enter_async_context(running_api(tmp_path, only=[DIALECT]))
        client = await api.account("acme")
        agent = {"prompt": {"content": "Hi"}, "voice": examples.VOICE}
        return client, ok(await client.post("/v1/agents/create", agent))["id"]

    stack = AsyncExitStack()
    with asyncio.Runner() as runner:
        client, agent_id = runner.run(start())
        yield runner, client, agent_id
        runner.run(stack.aclose())


def test_any_updates_end_as_they_do_in_a_model(
    running: tuple[asyncio.Runner, Client, str],
) -> None:
    runner, client, agent_id = running

    async def carry_out(sequence: list[dict[str, Any]]) -> None:
        query = {"id": agent_id}
        clear = {name: None for name, (nullable, _) in FIELDS.items() if nullable}
        start = ok(await client.post("/v1/agents/update", clear, query=query))
        model = {name: start[name] for name in FIELDS if name in start}
        for update in sequence:
            sent = {name: value for name, value in update.items() if value != _ABSENT}
            reply = await client.post("/v1/agents/update", sent, query=query)
            refused = [name for name, each in sent.items() if each is None and not FIELDS[name][0]]
            if refused:
                assert reply.status == 422
                assert {each["loc"][1] for each in reply.json["detail"]} == set(refused)
            else:
                _apply(model, sent)
            answer = ok(await client.get("/v1/agents", query))
            found = {name: answer[name] for name in FIELDS if name in answer}
            if "webhook" in found:
                assert found["webhook"].pop("id")
                assert found["webhook"].pop("user_id") == client.account.id
            assert found == model

    @settings(max_examples=15)  # each is up to twenty requests
    @given(updates)
    def check(sequence: list[dict[str, Any]]) -> None:
        runner.run(carry_out(sequence))

    check()


def _apply(model: dict[str, Any], sent: Mapping[str, Any]) -> None:
    for name, value in sent.items():
        if value is None:
            model.pop(name, None)
        elif name == "webhook" and value:
            model[name] = {**model.get(name, {}), "method": "POST", **value}
        elif value != {}:
            model[name] = value


_VOICE: Final = {"type": "voice_eleven_labs", "voice_id": "v"}
voice_updates = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "voice_id": st.just({}) | st.text(max_size=2),
            "stability": st.just({}) | st.none() | st.floats(0, 1),
            "model_id": st.just({}) | st.none() | st.text(max_size=2),
            "experimental_input_streaming": st.just({}) | st.booleans(),
            "unknown": st.just({}) | st.none() | st.integers() | st.just({"a": None}),
            "id": st.text(max_size=2),
        },
    )
)


@given(voice_updates)
def test_any_updates_of_a_document_end_as_they_do_in_a_model(
    sequence: list[dict[str, Any]],
) -> None:
    stored, model = VOICE.completed(_VOICE, ("body",)), dict(_VOICE)
    for sent in sequence:
        stored = VOICE.updated(stored, sent, ("body",))
        _apply(model, {name: value for name, value in sent.items() if name != "id"})
        assert stored == model

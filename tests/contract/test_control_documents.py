"""Documents that Vocode names by id: kept, sealed, and each to its own account."""

from typing import Any

import pytest
from sqlalchemy import select

from router.control import agents, audit, documents
from router.control.context import Control
from router.control.model import Actor
from router.errors import Invalid, NotFound
from router.storage.schema import documents as rows

SECRET = "sk-0123456789abcdef"
VOICE = {"type": "voice_eleven_labs", "voice_id": "x", "api_key": SECRET, "speed": 1.25}
MASKED = {**VOICE, "api_key": "…cdef"}


async def test_a_document_comes_back_with_its_secrets_masked(control: Control, acme: Actor) -> None:
    made = await documents.create(control, acme, "voice", VOICE)
    assert made.body == MASKED
    assert await documents.get(control, acme, "voice", made.id.upper()) == made
    opened = await documents.get(control, acme, "voice", made.id, secrets=True)
    assert opened.body == VOICE
    async with control.database.read() as connection:
        stored = (await connection.execute(select(rows.c.body))).scalar_one()
    assert SECRET not in stored
    assert SECRET not in str(await audit.list_(control, acme))


async def test_a_masked_secret_keeps_the_stored_one(control: Control, acme: Actor) -> None:
    made = await documents.create(control, acme, "voice", VOICE)
    changed = await documents.update(control, acme, "voice", made.id, {**MASKED, "speed": 2})
    assert changed.body == {**MASKED, "speed": 2}
    assert changed.updated_at >= made.updated_at
    opened = await documents.get(control, acme, "voice", made.id, secrets=True)
    assert opened.body["api_key"] == SECRET
    same = await documents.update(control, acme, "voice", made.id, changed.body)
    assert same == changed
    actions = [row.action for row in (await audit.list_(control, acme)).items]
    assert actions == ["voice.updated", "voice.created", "account.created"]
    replaced = await documents.update(control, acme, "voice", made.id, {"api_key": "x" * 12})
    assert replaced.body == {"api_key": "…xxxx"}


async def test_a_masked_secret_that_nobody_stored(control: Control, acme: Actor) -> None:
    for body, why in (
        ({"config": {"api_key": "…cdef"}}, "config.api_key: is masked"),
        ({"a": [{"$sealed": "x"}]}, r"a.0.\$sealed: is a reserved name"),
        ({"name": "\ud800"}, "has half of a surrogate pair"),
        (deep(5000), "is nested too deeply"),
    ):
        with pytest.raises(Invalid, match=why):
            await documents.create(control, acme, "action", body)
    assert (await documents.list_(control, acme, "action")).total == 0


def deep(levels: int) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for _ in range(levels):
        document = {"a": document}
    return document


async def test_odd_text_is_kept(control: Control, acme: Actor) -> None:
    body = {"content": "a\0b\n\u202e\U0001f600", "n": 2**60, "none": None, "": []}
    made = await documents.create(control, acme, "prompt", body)
    assert (await documents.get(control, acme, "prompt", made.id)).body == body


async def test_a_list_is_in_the_order_of_creation(control: Control, acme: Actor) -> None:
    for n in range(5):
        await documents.create(control, acme, "prompt", {"content": str(n)})
    await documents.create(control, acme, "webhook", {"url": "http://127.0.0.1"})
    page = await documents.list_(control, acme, "prompt", offset=1, limit=3)
    assert ([each.body["content"] for each in page.items], page.total) == (["1", "2", "3"], 5)
    newest = await documents.list_(control, acme, "prompt", newest_first=True, limit=2)
    assert [each.body["content"] for each in newest.items] == ["4", "3"]


async def test_what_is_deleted_is_gone(control: Control, acme: Actor) -> None:
    made = await documents.create(control, acme, "voice", VOICE)
    await documents.delete(control, acme, "voice", made.id)
    with pytest.raises(NotFound):
        await documents.delete(control, acme, "voice", made.id)
    row = (await audit.list_(control, acme)).items[0]
    assert (row.action, row.before, row.after) == ("voice.deleted", MASKED, None)


async def test_another_accounts_looks_as_if_it_never_was(
    control: Control, acme: Actor, rival: Actor
) -> None:
    made = await documents.create(control, rival, "voice", VOICE)
    own = await documents.create(control, acme, "prompt", {"content": ""})
    words = set()
    for document_id in (made.id, own.id, "00000000-0000-4000-8000-000000000000", "7", "a\0", ""):
        for work in (
            lambda key: documents.get(control, acme, "voice", key),
            lambda key: documents.get(control, acme, "voice", key, secrets=True),
            lambda key: documents.update(control, acme, "voice", key, {}),
            lambda key: documents.delete(control, acme, "voice", key),
        ):
            with pytest.raises(NotFound) as refused:
                await work(document_id)
            words.add((str(refused.value), refused.value.code))
    assert words == {("the account has no voice with this id", "voice_not_found")}
    assert (await documents.list_(control, acme, "voice")).total == 0
    assert await documents.get(control, rival, "voice", made.id) == made


async def test_a_change_reaches_the_jobs_of_the_agents_that_name_it(
    control: Control, acme: Actor
) -> None:
    prompt = await documents.create(control, acme, "prompt", {"content": "Hello"})
    agent = await agents.create(
        control, acme, label="anna", origin="vocode", config={"prompt": prompt.id}
    )

    async def given() -> Any:
        found = await agents.get(control, acme, agent.id)
        return found.metadata.get("documents", {}).get(prompt.id, {})

    assert (await given())["content"] == "Hello"
    await documents.update(control, acme, "prompt", prompt.id, {"content": "Hi"})
    assert (await given())["content"] == "Hi"
    with pytest.raises(Invalid, match=r"^body: an agent refers to it"):  # no job could take it
        await documents.update(control, acme, "prompt", prompt.id, {"content": "x" * 60_000})
    assert (await given())["content"] == "Hi"
    assert (await documents.get(control, acme, "prompt", prompt.id)).body["content"] == "Hi"
    await documents.delete(control, acme, "prompt", prompt.id)
    assert await given() == {}

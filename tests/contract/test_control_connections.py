"""Connections: sealed, told to every process in the same transaction, and nobody else's."""

import asyncio
from base64 import b64encode
from dataclasses import replace

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert, select

from router.control import accounts, audit, connections
from router.control.context import Control
from router.control.model import Actor, Plan
from router.errors import Conflict, Forbidden, Invalid, NotFound
from router.events.types import CONNECTIONS_TOPIC
from router.provider import Credentials
from router.storage import outbox
from router.storage.connections import SealedConnection, published
from router.storage.records import version_of
from router.storage.schema import connections as rows
from router.storage.schema import orders
from router.storage.sql import now_micros
from router.vault import Vault
from tests.contract.conftest import OPERATOR

SID = "AC" + "c3" * 16
TOKEN = "an auth token of acme"
PUBLIC = b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
TELNYX = {"api_key": "KEY0123456789_secret", "public_key": PUBLIC}
UNKNOWN = "00000000-0000-4000-8000-000000000000"


async def twilio(control: Control, actor: Actor, token: str = TOKEN, sid: str = SID) -> str:
    made = await connections.create(
        control, actor, provider="twilio", provider_account=sid, secrets={"auth_token": token}
    )
    return made.id


async def told(control: Control) -> list[outbox.Entry]:
    entries = await outbox.pending(control.database, 100)
    return [entry for entry in entries if entry.topic == CONNECTIONS_TOPIC]


def with_twilio(control: Control) -> Control:
    """The same, of an operator who has an account at Twilio."""
    providers = control.settings.providers
    twilio = providers.twilio.model_copy(update={"account_sid": SID})
    providers = providers.model_copy(update={"twilio": twilio})
    return replace(control, settings=control.settings.model_copy(update={"providers": providers}))


async def order(control: Control, actor: Actor, connection_id: str) -> None:
    """As if a number was being bought through the connection."""
    values = {
        "id": UNKNOWN,
        "account_id": actor.account_id,
        "kind": "buy",
        "number": "+14155550100",
        "provider": "twilio",
        "connection_id": connection_id,
        "request": "{}",
        "attempt": 0,
        "due_at": 0,
        "created_at": now_micros(),
    }
    async with control.database.write() as connection:
        await connection.execute(insert(orders).values(values))


async def test_secrets_are_stored_sealed_and_shown_masked(control: Control, acme: Actor) -> None:
    made = await connections.create(
        control,
        acme,
        provider="twilio",
        provider_account=SID,
        secrets={"auth_token": TOKEN},
        label=" ours ",
        details={"steering_pool": ["+14155550100"]},
    )
    assert made.masked == {"auth_token": "…acme"}
    assert (made.label, made.provider_account, made.is_default) == ("ours", SID, True)
    assert made.details == {"steering_pool": ["+14155550100"]}
    assert await connections.get(control, acme, made.id.upper()) == made
    async with control.database.read() as connection:
        (row,) = (await connection.execute(select(rows))).mappings()
    assert TOKEN.encode() not in row["sealed"]
    assert control.vault.open(made.id, row["sealed"]) == {"auth_token": TOKEN}
    entry = (await audit.list_(control, acme)).items[0]
    assert (entry.action, entry.object_id) == ("connection.created", made.id)
    assert TOKEN not in str(entry)


async def test_each_change_of_a_carriers_is_told_in_order(control: Control, acme: Actor) -> None:
    one = await twilio(control, acme)
    await connections.update(control, acme, one, secrets={"auth_token": "another token"})
    await connections.delete(control, acme, one)
    first, second, last = await told(control)
    assert {entry.key for entry in (first, second, last)} == {one}
    versions = [version_of(entry.headers) for entry in (first, second, last)]
    assert versions == sorted(versions, key=lambda v: v or (0, 0))
    assert None not in versions
    assert last.value is None
    value = msgspec.json.decode(second.value or b"", type=SealedConnection)
    assert (value.account_id, value.provider_account) == (acme.account_id, SID)
    assert value.version == versions[1]
    assert control.vault.open(one, value.sealed) == {"auth_token": "another token"}
    assert b"another token" not in (second.value or b"")


async def test_of_others_than_carriers_nothing_is_told(control: Control, acme: Actor) -> None:
    made = await connections.create(
        control, acme, provider="openai", secrets={"openai_api_key": "sk-0123456789abcd"}
    )
    await connections.update(control, acme, made.id, label="new")
    await connections.delete(control, acme, made.id)
    assert await told(control) == []


async def test_what_is_not_given_is_kept(control: Control, acme: Actor) -> None:
    one = await twilio(control, acme)
    changed = await connections.update(
        control, acme, one, secrets={"auth_token": "…acme"}, label="renamed", details={"a": 1}
    )
    assert (changed.label, changed.details, changed.masked) == (
        "renamed",
        {"a": 1},
        {"auth_token": "…acme"},
    )
    found = await connections.credentials(control, acme, one, "twilio")
    assert found == Credentials("twilio", one, SID, {"auth_token": TOKEN})
    with pytest.raises(Invalid, match=r"secrets\.auth_token: is masked"):
        await connections.update(control, acme, one, secrets={"auth_token": "…else"})


@pytest.mark.parametrize(
    ("provider", "account", "secrets", "field"),
    [
        ("twilio", SID, {}, "secrets.auth_token"),
        ("twilio", SID, {"auth_token": " "}, "secrets.auth_token"),
        ("twilio", SID, {"auth_token": "a\nb"}, "secrets.auth_token"),
        ("twilio", SID, {"auth_token": "…abcd"}, "secrets.auth_token"),
        ("twilio", SID, {"auth_token": "a" * 4097}, "secrets.auth_token"),
        ("twilio", "", {"auth_token": TOKEN}, "provider_account"),
        ("twilio", "SK12", {"auth_token": TOKEN}, "provider_account"),
        ("telnyx", "", {"api_key": "KEY0123456789"}, "secrets.public_key"),
        ("telnyx", "", TELNYX | {"public_key": "no key"}, "secrets.public_key"),
        ("telnyx", "", TELNYX | {"public_key": b64encode(bytes(32)).decode()}, "public_key"),
        ("Twilio!", "", {}, "provider"),
        ("openai", "a\0b", {"api_key": "sk-0123456789ab"}, "provider_account"),
        ("openai", "", {"api key": "sk-0123456789ab"}, "secrets"),
    ],
)
async def test_what_can_not_be_right_is_named(
    control: Control, acme: Actor, provider: str, account: str, secrets: dict[str, str], field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        await connections.create(
            control, acme, provider=provider, provider_account=account, secrets=secrets
        )
    assert field in str(refused.value)
    assert (await connections.list_(control, acme)).total == 0


async def test_the_first_of_a_provider_is_its_default(control: Control, acme: Actor) -> None:
    one, two = await twilio(control, acme), await twilio(control, acme)
    other = await connections.create(control, acme, provider="telnyx", secrets=TELNYX)
    found = {each.id: each.is_default for each in (await connections.list_(control, acme)).items}
    assert found == {one: True, two: False, other.id: True}
    assert list(found) == [one, two, other.id]
    newest = await connections.list_(control, acme, newest_first=True, limit=1)
    assert ([each.id for each in newest.items], newest.total) == ([other.id], 3)
    await connections.delete(control, acme, one)
    assert (await connections.get(control, acme, two)).is_default


async def test_of_two_made_at_once_one_is_the_default(control: Control, acme: Actor) -> None:
    await asyncio.gather(*(twilio(control, acme) for _ in range(4)))
    found = (await connections.list_(control, acme)).items
    assert sum(each.is_default for each in found) == 1


async def test_what_numbers_are_held_through_stays(control: Control, acme: Actor) -> None:
    one = await twilio(control, acme)
    await order(control, acme, one)
    with pytest.raises(Conflict, match="1 order"):
        await connections.delete(control, acme, one)
    with pytest.raises(Conflict, match="provider account"):
        await connections.update(control, acme, one, provider_account="AC" + "d4" * 16)
    await connections.update(control, acme, one, secrets={"auth_token": "a rotated token"})


async def test_another_accounts_are_as_if_they_were_not_there(
    control: Control, acme: Actor, rival: Actor
) -> None:
    one = await twilio(control, acme)
    for wanted in (one, UNKNOWN, "no id", "a\0"):
        said = set()
        for refused in (
            connections.get(control, rival, wanted),
            connections.update(control, rival, wanted, label="mine"),
            connections.delete(control, rival, wanted),
            connections.credentials(control, rival, wanted, "twilio"),
            connections.resolve(control, rival, provider="twilio", connection_id=wanted),
        ):
            with pytest.raises(NotFound) as error:
                await refused
            said.add(str(error.value))
        assert said == {"there is no such connection"}
    assert (await connections.list_(control, rival)).total == 0
    assert (
        await connections.find_same(control, rival, provider="twilio", provider_account=SID) is None
    )
    same = await connections.find_same(control, acme, provider="twilio", provider_account=SID)
    assert same == await connections.get(control, acme, one)


async def test_whose_credentials_a_request_uses(
    control: Control, acme: Actor, rival: Actor
) -> None:
    one, two = await twilio(control, acme), await twilio(control, acme, "the second token")

    async def resolved(actor: Actor, wanted: str | None, provider: str = "twilio") -> str | None:
        found = await connections.resolve(control, actor, provider=provider, connection_id=wanted)
        return found.connection_id if found is not None else None

    assert await resolved(acme, None) == await resolved(acme, "default") == one
    assert await resolved(acme, two) == two
    with pytest.raises(Invalid, match="twilio"):
        await resolved(acme, one, "telnyx")
    with pytest.raises(Invalid, match="twilio"):
        await resolved(acme, None, "vonage")
    assert await connections.credentials(control, acme, None, "twilio") is None
    with pytest.raises(NotFound, match="twilio"):  # the operator has no account there either
        await resolved(rival, None)
    control = with_twilio(control)
    assert await resolved(rival, None) is None
    await accounts.update(control, OPERATOR, rival.account_id, plan=Plan(shared_carriers=False))
    with pytest.raises(Forbidden, match="plan"):
        await resolved(rival, None)
    assert await resolved(OPERATOR, None) is None


async def test_a_lost_key_leaves_a_connection_that_can_be_mended(
    control: Control, acme: Actor
) -> None:
    one = await twilio(control, acme)
    lost = replace(control, vault=Vault([b"l" * 32]))
    assert (await connections.get(lost, acme, one)).masked == {}
    with pytest.raises(Invalid, match=r"auth_token: is missing"):
        await connections.update(lost, acme, one, secrets={})
    mended = await connections.update(lost, acme, one, secrets={"auth_token": TOKEN})
    assert mended.masked == {"auth_token": "…acme"}


async def test_all_accounts_of_the_carriers_are_published(
    control: Control, acme: Actor, rival: Actor
) -> None:
    one, two = await twilio(control, acme), await twilio(control, rival)
    await connections.create(
        control, acme, provider="openai", secrets={"openai_api_key": "sk-0123456789abcd"}
    )
    found = [each async for each in published(control.database, frozenset({"twilio"}))]
    assert {each.id: each.account_id for each in found} == {
        one: acme.account_id,
        two: rival.account_id,
    }


async def test_nobody_names_an_account_without_end(
    control: Control, acme: Actor, rival: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each webhook that names it is looked at with all of them."""
    for _ in range(20):
        await twilio(control, acme)
    other = await twilio(control, acme, sid="AC" + "d4" * 16)
    with pytest.raises(Conflict, match="20 connections have this account at twilio"):
        await twilio(control, acme)
    with pytest.raises(Conflict) as error:
        await connections.update(control, acme, other, provider_account=SID)
    assert error.value.code == "too_many_connections"
    await connections.update(control, acme, other, label="still to be changed")
    await twilio(control, rival)
    monkeypatch.setattr(connections, "_MOST_HELD", 22)
    keys = {"openai_api_key": "sk-0123456789abcd"}
    await connections.create(control, acme, provider="openai", secrets=keys)
    with pytest.raises(Conflict, match="22 connections"):
        await connections.create(control, acme, provider="openai", secrets=keys)
    await connections.update(control, acme, other, provider_account="AC" + "e5" * 16)

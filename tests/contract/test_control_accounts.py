"""Accounts, their tokens and the audit, on both databases."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update

from router.control import accounts, audit, tokens
from router.control.context import Control
from router.control.model import Actor, Plan
from router.errors import Conflict, Forbidden, Invalid, LimitReached, NotFound, Unauthorized
from router.events.ids import DEFAULT_ACCOUNT
from router.storage.engine import Database
from router.storage.schema import numbers, orders
from router.storage.schema import tokens as token_rows
from router.storage.sql import now_micros
from tests.contract.conftest import OPERATOR, tenant

UNKNOWN = "00000000-0000-4000-8000-000000000000"


class TestAccounts:
    async def test_one_comes_back_by_id_and_by_name(self, control: Control) -> None:
        plan = Plan(numbers=5, calls=10, minutes=0, shared_carriers=False)
        made = await accounts.create(control, OPERATOR, name="acme", plan=plan, worker="anna")
        assert (made.name, made.plan, made.worker) == ("acme", plan, "anna")
        assert made.created_at == made.updated_at > 0
        for named in ("acme", made.id, made.id.upper()):
            assert await accounts.get(control, OPERATOR, named) == made

    async def test_default_is_there_and_keeps_its_name(self, control: Control) -> None:
        found = await accounts.get(control, OPERATOR, "default")
        assert found.id == DEFAULT_ACCOUNT
        with pytest.raises(Conflict, match="default"):
            await accounts.update(control, OPERATOR, "default", name="other")
        changed = await accounts.update(control, OPERATOR, "default", plan=Plan(numbers=3))
        assert changed.plan.numbers == 3
        await accounts.update(control, OPERATOR, "default", plan=Plan(), name="default")

    async def test_a_name_is_given_once(self, control: Control, acme: Actor, rival: Actor) -> None:
        with pytest.raises(Conflict, match="acme"):
            await accounts.create(control, OPERATOR, name="acme", plan=Plan())
        with pytest.raises(Conflict, match="acme"):
            await accounts.update(control, OPERATOR, rival.account_id, name="acme")
        same = await accounts.update(control, OPERATOR, acme.account_id, name="acme")
        assert same.updated_at == same.created_at

    async def test_of_two_at_once_one_gets_the_name(self, control: Control) -> None:
        making = [
            accounts.create(control, OPERATOR, name="acme", plan=Plan(numbers=n)) for n in range(5)
        ]
        done = await asyncio.gather(*making, return_exceptions=True)
        assert sum(isinstance(each, Conflict) for each in done) == 4

    @pytest.mark.parametrize(
        "name",
        ["", "A", "acme inc", "é", "a" * 65, "-a", "_a", "a\n", "a\0", "\ud800", "١", UNKNOWN],
    )
    async def test_a_name_that_can_not_be(self, control: Control, acme: Actor, name: str) -> None:
        with pytest.raises(Invalid, match="name: must be"):
            await accounts.create(control, OPERATOR, name=name, plan=Plan())
        with pytest.raises(Invalid, match="name: must be"):
            await accounts.update(control, OPERATOR, acme.account_id, name=name)

    async def test_every_mistake_is_named(self, control: Control) -> None:
        plan = Plan(numbers=-1, calls=2**31, minutes=2**31 - 1)
        with pytest.raises(Invalid) as refused:
            await accounts.create(control, OPERATOR, name="", plan=plan, worker="a\nb")
        where = [".".join(map(str, place)) for place, _ in refused.value.problems]
        assert where == ["body.name", "body.plan.numbers", "body.plan.calls", "body.worker"]
        assert (await accounts.list_(control, OPERATOR)).total == 1

    async def test_only_what_is_given_changes(self, control: Control) -> None:
        made = await accounts.create(control, OPERATOR, name="a", plan=Plan(numbers=1), worker="w")
        renamed = await accounts.update(control, OPERATOR, "a", name="b")
        assert (renamed.name, renamed.plan, renamed.worker) == ("b", made.plan, "w")
        planned = await accounts.update(control, OPERATOR, "b", plan=Plan(calls=0))
        assert planned.plan == Plan(calls=0)
        assert (await accounts.update(control, OPERATOR, "b", worker="")).worker == ""

    async def test_all_by_name(self, control: Control) -> None:
        for name in ("zoo", "beta", "0a"):
            await accounts.create(control, OPERATOR, name=name, plan=Plan())
        page = await accounts.list_(control, OPERATOR, offset=1, limit=2)
        assert ([each.name for each in page.items], page.total) == (["beta", "default"], 4)

    async def test_a_tenant_sees_its_own_alone(
        self, control: Control, acme: Actor, rival: Actor
    ) -> None:
        assert (await accounts.own(control, acme)).name == "acme"
        assert (await accounts.get(control, acme, "acme")).id == acme.account_id
        words = set()
        for named in ("rival", rival.account_id, "default", "nobody", UNKNOWN, "No", "a\0", ""):
            with pytest.raises(NotFound) as refused:
                await accounts.get(control, acme, named)
            words.add(str(refused.value).replace(f" {named}", "", 1) if named else "")
        assert len(words - {""}) == 1
        for work in (
            accounts.list_(control, acme),
            accounts.create(control, acme, name="mine", plan=Plan()),
            accounts.update(control, acme, acme.account_id, plan=Plan()),
        ):
            with pytest.raises(Forbidden):
                await work


class TestSlots:
    @staticmethod
    async def hold(db: Database, account_id: str, number: str, state: str = "active") -> None:
        async with db.write() as connection:
            await connection.execute(
                insert(numbers).values(
                    id=f"{UNKNOWN[:-12]}{number[1:]:0>12}",
                    account_id=account_id,
                    number=number,
                    provider="twilio",
                    fallback="",
                    state=state,
                    mode="webhook",
                    label="",
                    details="{}",
                    provider_number_id="",
                    bought=True,
                    rev=1,
                    created_at=1,
                    updated_at=1,
                )
            )

    @staticmethod
    def order(account_id: str, number: str, kind: str = "buy") -> dict[str, Any]:
        return {
            "id": f"order of {number}",
            "account_id": account_id,
            "kind": kind,
            "number": number,
            "provider": "twilio",
            "request": "{}",
            "attempt": 0,
            "due_at": 0,
            "created_at": 1,
        }

    async def test_what_takes_a_slot(self, control: Control, acme: Actor, rival: Actor) -> None:
        db, own = control.database, acme.account_id
        await self.hold(db, own, "+14155550100")
        await self.hold(db, own, "+14155550101", "corrupted")
        await self.hold(db, own, "+14155550102", "deleting")
        await self.hold(db, rival.account_id, "+14155550103")
        async with db.write() as connection:
            made = [
                self.order(own, "+14155550104"),
                self.order(own, "+14155550102", "release"),
                self.order(own, "+14155550100"),  # stored, its order not yet gone
                self.order(rival.account_id, "+14155550106"),
            ]
            await connection.execute(insert(orders), made)
            assert await accounts.numbers_held(connection, own) == 2
            assert await accounts.numbers_held(connection, rival.account_id) == 2
            assert await accounts.numbers_held(connection, UNKNOWN) == 0

    async def test_the_limit_says_how_many_of_how_many(self, control: Control) -> None:
        acme = await tenant(control, "acme", Plan(numbers=1))
        async with control.database.write() as connection:
            account = await accounts.require_slot(connection, acme.account_id)
            assert account.plan.numbers == 1
        await self.hold(control.database, acme.account_id, "+14155550100")
        with pytest.raises(LimitReached, match=r"1 of the 1 phone numbers.*release") as refused:
            async with control.database.write() as connection:
                await accounts.require_slot(connection, acme.account_id)
        assert refused.value.code == "phone_number_limit_reached"
        await accounts.update(control, OPERATOR, "acme", plan=Plan())
        async with control.database.write() as connection:
            await accounts.require_slot(connection, acme.account_id)
            with pytest.raises(NotFound):
                await accounts.require_slot(connection, UNKNOWN)

    async def test_of_many_at_once_the_plan_takes_its_number(
        self, control: Control, other: Database
    ) -> None:
        acme = await tenant(control, "acme", Plan(numbers=3))

        async def take(db: Database, number: str) -> None:
            async with db.write() as connection:
                await accounts.require_slot(connection, acme.account_id)
                await asyncio.sleep(0)
                await connection.execute(insert(orders), [self.order(acme.account_id, number)])

        taking = [
            take(db, f"+1415555010{n}{which}")
            for n in range(4)
            for which, db in enumerate((control.database, other))
        ]
        done = await asyncio.gather(*taking, return_exceptions=True)
        assert sum(each is None for each in done) == 3
        assert sum(isinstance(each, LimitReached) for each in done) == 5


class TestTokens:
    async def test_it_lets_its_account_in(self, control: Control, acme: Actor) -> None:
        token, secret = await tokens.create(
            control, OPERATOR, account="acme", scopes=["agents:write", "numbers:read"], label="ci"
        )
        assert token.hint == secret[-4:]
        assert (token.account_id, token.label) == (acme.account_id, "ci")
        actor = await tokens.authenticate(control, secret, request_id="r1")
        assert (actor.account_id, actor.name) == (acme.account_id, token.id)
        assert actor.scopes == {"agents:write", "numbers:read"}
        assert actor.request_id == "r1"
        assert await tokens.get(control, acme, token.id) == token

    async def test_it_is_stored_nowhere(self, control: Control, acme: Actor) -> None:
        _, secret = await tokens.create(
            control, OPERATOR, account=acme.account_id, scopes=["admin"]
        )
        async with control.database.read() as connection:
            rows = (await connection.execute(select(token_rows))).all()
        trail = await audit.list_(control, OPERATOR, everybody=True)
        assert secret[3:-4] not in f"{rows} {trail}"

    async def test_revoked_is_at_once(self, control: Control, acme: Actor, other: Database) -> None:
        token, secret = await tokens.create(
            control, OPERATOR, account="acme", scopes=["calls:read"]
        )
        elsewhere = Control(
            control.settings, other, control.vault, control.open_inventory, control.clock
        )
        await tokens.authenticate(elsewhere, secret)
        revoked = await tokens.revoke(control, acme, token.id)
        assert revoked.revoked_at is not None
        with pytest.raises(Unauthorized, match="revoked") as refused:
            await tokens.authenticate(elsewhere, secret)
        assert refused.value.code == "token_revoked"
        assert await tokens.revoke(control, OPERATOR, token.id) == revoked
        actions = [row.action for row in (await audit.list_(control, acme)).items]
        assert actions == ["token.revoked", "token.created", "account.created"]

    async def test_it_expires_by_the_databases_clock(self, control: Control, acme: Actor) -> None:
        token, secret = await tokens.create(
            control, OPERATOR, account=acme.account_id, scopes=["admin"], lifetime=3600
        )
        assert token.expires_at == token.created_at + 3600 * 10**6
        await tokens.authenticate(control, secret)
        async with control.database.write() as connection:
            await connection.execute(update(token_rows).values(expires_at=now_micros()))
        with pytest.raises(Unauthorized, match="expired"):
            await tokens.authenticate(control, secret)

    async def test_its_use_is_written_beside_the_requests(
        self, control: Control, acme: Actor
    ) -> None:
        token, secret = await tokens.create(
            control, OPERATOR, account=acme.account_id, scopes=["admin"]
        )
        for _ in range(3):
            await tokens.authenticate(control, secret)
        assert (await tokens.get(control, acme, token.id)).last_used_at is None
        assert await tokens.write_used(control) == 1
        used = (await tokens.get(control, acme, token.id)).last_used_at
        assert used is not None
        await tokens.authenticate(control, secret)  # within the same minute
        assert await tokens.write_used(control) == 0
        async with control.database.write() as connection:
            old = update(token_rows).values(last_used_at=used - 61 * 10**6)
            await connection.execute(old)
        await tokens.authenticate(control, secret)
        assert await tokens.write_used(control) == 1
        again = (await tokens.get(control, acme, token.id)).last_used_at
        assert again is not None
        assert again >= used

    @pytest.mark.parametrize(
        ("scopes", "label", "lifetime", "field"),
        [
            ([], "", None, "scopes"),
            (["admin", "numbers"], "", None, "scopes.1"),
            (["admin"], "a\0", None, "label"),
            (["admin"], "a" * 201, None, "label"),
            (["admin"], "", 0, "lifetime"),
            (["admin"], "", float("nan"), "lifetime"),
            (["admin"], "", 1e30, "lifetime"),
        ],
    )
    async def test_what_can_not_be_made(
        self, control: Control, scopes: Any, label: str, lifetime: float | None, field: str
    ) -> None:
        with pytest.raises(Invalid) as refused:
            await tokens.create(
                control, OPERATOR, account="default", scopes=scopes, label=label, lifetime=lifetime
            )
        assert str(refused.value).startswith(field + ":")
        with pytest.raises(NotFound, match="nobody"):
            await tokens.create(control, OPERATOR, account="nobody", scopes=["admin"])
        assert (await tokens.list_(control, OPERATOR)).total == 0

    async def test_who_can_not_get_in(self, control: Control, acme: Actor) -> None:
        unknown = tokens._new_secret()
        with pytest.raises(Unauthorized, match="nobody"):
            await tokens.authenticate(control, unknown)
        _, secret = await tokens.create(
            control, OPERATOR, account=acme.account_id, scopes=["admin"]
        )
        for wrong in ("", "sb_", secret[3:], secret + "a", secret + "\n", "é" * 52, "\ud800"):
            with pytest.raises(Unauthorized, match="malformed"):
                await tokens.authenticate(control, wrong)

    async def test_a_tenant_sees_its_own_alone(
        self, control: Control, acme: Actor, rival: Actor
    ) -> None:
        made = [
            (await tokens.create(control, OPERATOR, account=name, scopes=["calls:read"]))[0]
            for name in ("acme", "rival", "acme")
        ]
        mine = await tokens.list_(control, acme)
        assert mine.total == 2
        assert {token.id for token in mine.items} == {made[0].id, made[2].id}
        assert (await tokens.list_(control, OPERATOR)).total == 3
        assert (await tokens.list_(control, OPERATOR, account="rival")).items == [made[1]]
        words = set()
        for token_id in (made[1].id, UNKNOWN, "1", "a\0", ""):
            for work in (tokens.get, tokens.revoke):
                with pytest.raises(NotFound) as refused:
                    await work(control, acme, token_id)
                words.add(str(refused.value))
        assert len(words) == 1
        with pytest.raises(NotFound):
            await tokens.list_(control, acme, account="rival")
        with pytest.raises(Forbidden):
            await tokens.create(control, acme, account="acme", scopes=["admin"])
        assert (await tokens.get(control, rival, made[1].id)).revoked_at is None


class TestAudit:
    async def test_a_change_says_who_and_what(self, control: Control) -> None:
        actor = Actor(account_id=DEFAULT_ACCOUNT, name="a token's id", request_id="r7")
        made = await accounts.create(control, actor, name="acme", plan=Plan(numbers=1))
        await accounts.update(control, actor, "acme", plan=Plan(numbers=2))
        await accounts.update(control, actor, "acme", plan=Plan(numbers=2))  # no change
        page = await audit.list_(control, actor, everybody=True, object_id=made.id)
        assert page.total == 2
        changed = page.items[0]
        assert (changed.actor, changed.action) == ("a token's id", "account.updated")
        assert (changed.account_id, changed.request_id) == (made.id, "r7")
        assert changed.before is not None
        assert changed.after is not None
        assert changed.before["numbers"] == 1
        assert changed.after["numbers"] == 2
        assert page.items[1].before is None

    async def test_secrets_are_masked(self, control: Control, acme: Actor) -> None:
        secret = "0123456789abcdef"
        document = {
            "api_key": secret,
            "label": "kept",
            "deep": [{"credentials": {"token": "short", "auth_token": secret, "n": 7}}],
            "own_secret": None,
        }
        async with control.database.write() as connection:
            await audit.record(connection, acme, "thing.made", "7", after=document)
        row = (await audit.list_(control, acme)).items[0]
        assert row.after == {
            "api_key": "…cdef",
            "label": "kept",
            "deep": [{"credentials": {"token": "…", "auth_token": "…cdef", "n": "…"}}],
            "own_secret": None,
        }

    async def test_it_goes_with_its_change(self, control: Control, acme: Actor) -> None:
        before = (await audit.list_(control, acme)).total

        async def change() -> None:
            async with control.database.write() as connection:
                await audit.record(connection, acme, "thing.made", "7")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await change()
        assert (await audit.list_(control, acme)).total == before

    async def test_pages_newest_first_and_each_to_its_own(
        self, control: Control, acme: Actor, rival: Actor
    ) -> None:
        async with control.database.write() as connection:
            for n in range(5):
                await audit.record(connection, acme, "thing.made", str(n))
                await audit.record(connection, rival, "thing.made", str(n))
        page = await audit.list_(control, acme, offset=1, limit=2)
        assert [row.object_id for row in page.items] == ["3", "2"]
        assert page.total == 6
        assert (await audit.list_(control, rival, object_id="4")).total == 1
        assert (await audit.list_(control, OPERATOR, everybody=True, object_id="4")).total == 2
        for odd in ("a\0", "\ud800"):
            assert (await audit.list_(control, acme, object_id=odd)).total == 0
        beyond = await audit.list_(control, acme, offset=2**70, limit=2**70)
        assert (beyond.items, beyond.total) == ([], 6)
        with pytest.raises(Forbidden):
            await audit.list_(control, acme, everybody=True)


async def test_no_query_is_asked_for_a_malformed_token(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Database, "read", None)
    with pytest.raises(Unauthorized):
        await tokens.authenticate(control, "sb_" + "a" * 49)


async def test_the_default_account_has_no_limits(control: Control) -> None:
    assert (await accounts.own(control, OPERATOR)).plan == Plan()
    async with control.database.read() as connection:
        assert (await connection.execute(select(func.count()).select_from(numbers))).scalar() == 0

"""A process that dies at any step of buying and releasing, at carriers that fail in any way.

Both carriers' stand-ins over their real SDKs, on both databases. However it goes: another process
ends with the number listed and owned once or not at all, bought once, and its slot as it should be.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr
from typing_extensions import override

from router.control import numbers
from router.control.context import Control
from router.control.model import Actor, Number, Plan
from router.errors import Ambiguous, Conflict, EffectError, NotFound, Transient
from router.provider import Credentials, NumberInventory, NumberQuery
from router.routing.table import RouteTable
from router.sandbox.faults import Fault
from tests.contract.conftest import tenant
from tests.support.control import SID, all_of, follow, later, ordered
from tests.support.numbers_world import CARRIERS, World, opened

AGES = 3600.0


class Killed(BaseException):
    """The process is no more."""


class Death:
    """Comes at the `at`th step, before or after anything that another process can see."""

    def __init__(self, at: int) -> None:
        self.steps, self._at = 0, at

    def passes(self) -> None:
        self.steps += 1
        if self.steps == self._at:
            raise Killed

    def control(self, control: Control) -> Control:
        """What a mortal process works with."""

        @asynccontextmanager
        async def open_inventory(
            provider: str, credentials: Credentials | None
        ) -> AsyncIterator[NumberInventory]:
            async with control.open_inventory(provider, credentials) as carrier:
                yield _Mortal(carrier, self, ("buy", "find", "configure", "release"))

        database: Any = _Mortal(control.database, self, ("transact",))
        return replace(control, database=database, open_inventory=open_inventory)


class _Mortal:
    """Something whose methods are steps."""

    def __init__(self, whole: Any, death: Death, steps: tuple[str, ...]) -> None:
        self._whole, self._death, self._steps = whole, death, steps

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._whole, name)
        if name == "write":
            return self._writing
        if name not in self._steps:
            return found

        async def step(*args: Any, **how: Any) -> Any:
            self._death.passes()
            result = await found(*args, **how)
            self._death.passes()
            return result

        return step

    @asynccontextmanager
    async def _writing(self, **how: Any) -> AsyncIterator[Any]:
        self._death.passes()
        async with self._whole.write(**how) as connection:
            yield connection
        self._death.passes()


@pytest.fixture(params=CARRIERS)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with opened(str(request.param)) as it:
        yield it


@pytest.fixture
def control(control: Control, world: World) -> Control:
    """The control plane of an operator who has an account at the carrier."""
    of: dict[str, dict[str, Any]] = {
        "twilio": {"account_sid": SID},
        "telnyx": {"api_key": SecretStr("KEY")},
    }
    keys = of[world.carrier]
    providers = control.settings.providers
    section = getattr(providers, world.carrier).model_copy(update=keys)
    settings = control.settings.model_copy(
        update={"providers": providers.model_copy(update={world.carrier: section})}
    )

    def open_inventory(
        _provider: str, credentials: Credentials | None
    ) -> AbstractAsyncContextManager[NumberInventory]:
        return world.open(credentials)

    return replace(control, settings=settings, open_inventory=open_inventory)


@pytest.fixture
async def actor(control: Control) -> Actor:
    return await tenant(control, "acme", Plan(numbers=1))


async def offered(control: Control, actor: Actor, world: World) -> str:
    found = await numbers.search(
        control, actor, NumberQuery(area_code="415"), provider=world.carrier
    )
    return found[0].number


async def at_each_step(control: Control, do: Callable[[Control, Death], Awaitable[bool]]) -> int:
    """Die at the first step, the second … until a process lives; how many steps it has."""
    for at in range(1, 40):
        death = Death(at)
        try:
            await do(death.control(control), death)
        except Killed:
            continue
        return death.steps
    raise AssertionError("it never ends")


# What goes wrong at the carrier besides; None: nothing. The others differ for the carrier's client
# alone, so one database is enough.
FAULTS = [None, Fault(applied=True)]
OTHER_FAULTS = [Fault(), Fault(status=503, applied=True), Fault(status=503), Fault(status=429)]

only_sqlite = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)


def named(fault: Fault | None) -> str:
    if fault is None:
        return "well"
    return f"{fault.status or 'cut'}{'-applied' if fault.applied else ''}"


async def settle(control: Control, world: World) -> None:
    """What other processes do in the hours after."""
    for _ in range(4):
        await later(control.database, AGES)
        await world.clock.sleep(AGES)
        await numbers.recover(control)
        if not await ordered(control.database):
            return
    raise AssertionError("an order is left")


@pytest.mark.parametrize("fault", FAULTS, ids=named)
async def test_bought_once_or_not_at_all(
    control: Control, world: World, actor: Actor, fault: Fault | None
) -> None:
    await _bought_once_or_not_at_all(control, world, actor, fault)


@only_sqlite
@pytest.mark.parametrize("fault", OTHER_FAULTS, ids=named)
async def test_bought_once_or_not_at_all_however_it_fails(
    control: Control, world: World, actor: Actor, fault: Fault
) -> None:
    await _bought_once_or_not_at_all(control, world, actor, fault)


@only_sqlite
async def test_a_request_that_is_sent_again_buys_one(control: Control, world: World) -> None:
    buyer = await tenant(control, "careful", Plan(numbers=5))

    async def one(mortal: Control, death: Death) -> bool:
        again = msgspec.structs.replace(buyer, request_key=f"its key, at step {death._at}")

        async def buy(process: Control) -> Number:
            query = NumberQuery(area_code="415")
            return await numbers.buy(process, again, provider=world.carrier, query=query)

        try:
            await buy(mortal)
        finally:
            with suppress(Ambiguous):  # it is not known yet what became of the first
                assert [(await buy(control)).number] == world.bought()
            await settle(control, world)
            made = await buy(control)
            assert [made.number] == world.bought()
            assert await numbers.held(control, buyer) == 1
            await numbers.release(control, buyer, made.id)
        return True

    assert await at_each_step(control, one) >= 4


async def _bought_once_or_not_at_all(
    control: Control, world: World, actor: Actor, fault: Fault | None
) -> None:
    table = RouteTable()

    async def one(mortal: Control, _death: Death) -> bool:
        number = await offered(control, actor, world)
        if fault is not None:
            world.standin.faults.add("buy", fault)
        before, known = world.purchases(), False
        try:
            made = await numbers.buy(mortal, actor, provider=world.carrier, number=number)
            known = True
            assert made.number == number
        except EffectError:
            pass
        finally:
            await settle(control, world)
            listed = await all_of(control, actor)
            held = world.bought()
            assert [each.number for each in listed] == held
            assert held in ([number], [])
            assert held or not known
            assert all(each.bought and each.state == "active" for each in listed)
            assert await numbers.held(control, actor) == len(held)
            asked = world.purchases() - before
            assert asked <= 1 or (fault is not None and fault.status == 429)
            await follow(control.database, table)
            assert [route.number for route in table] == held
            for each in listed:
                assert (await numbers.release(control, actor, each.id)).state == "released"
            assert world.bought() == []
            world.standin.faults._waiting.clear()
        return known

    assert await at_each_step(control, one) >= 4


@pytest.mark.parametrize("fault", FAULTS, ids=named)
async def test_released_in_the_end(
    control: Control, world: World, actor: Actor, fault: Fault | None
) -> None:
    await _released_in_the_end(control, world, actor, fault)


@only_sqlite
@pytest.mark.parametrize("fault", OTHER_FAULTS, ids=named)
async def test_released_in_the_end_however_it_fails(
    control: Control, world: World, actor: Actor, fault: Fault
) -> None:
    await _released_in_the_end(control, world, actor, fault)


async def _released_in_the_end(
    control: Control, world: World, actor: Actor, fault: Fault | None
) -> None:
    table = RouteTable()

    async def one(mortal: Control, death: Death) -> bool:
        number = await offered(control, actor, world)
        await numbers.buy(control, actor, provider=world.carrier, number=number)
        if fault is not None:
            world.standin.faults.add("release", fault, times=3)
        state = ""
        try:
            state = (await numbers.release(mortal, actor, number)).state
        finally:
            world.standin.faults._waiting.clear()
            began = [each.state for each in await all_of(control, actor)] != ["active"]
            assert began or death.steps == 1
            if began:
                assert await numbers.held(control, actor) == 0
                await follow(control.database, table)
                assert len(table) == 0
            await settle(control, world)
            if not began:
                await numbers.release(control, actor, number)
            assert (await all_of(control, actor), world.bought()) == ([], [])
        return state in ("released", "deleting")

    assert await at_each_step(control, one) >= 4


@pytest.mark.parametrize("fault", [None, Fault(status=503)], ids=named)
async def test_recovery_dies_too(
    control: Control, world: World, actor: Actor, fault: Fault | None
) -> None:
    """An order left by the dead is finished, whoever dies while finishing it."""

    async def one(mortal: Control, _death: Death) -> bool:
        number = await offered(control, actor, world)
        dead = Death(4).control(control)  # bought, not stored
        with pytest.raises(Killed):
            await numbers.buy(dead, actor, provider=world.carrier, number=number)
        assert (await all_of(control, actor), world.bought()) == ([], [number])
        await later(control.database, AGES)
        if fault is not None:
            world.standin.faults.add("list", fault)
        try:
            await numbers.recover(mortal)
        finally:
            world.standin.faults._waiting.clear()
            await settle(control, world)
            assert [each.number for each in await all_of(control, actor)] == [number]
            await numbers.release(control, actor, number)
        return True

    assert await at_each_step(control, one) >= 4


async def test_two_processes_and_one_number(control: Control, world: World, actor: Actor) -> None:
    """Who slept through its lease comes back when another has finished its order."""
    number = await offered(control, actor, world)

    async def overtaken(step: Callable[[], Awaitable[Any]]) -> Any:
        result = await step()
        await settle(control, world)
        return result

    class Slow(_Mortal):
        @override
        def __getattr__(self, name: str) -> Any:
            found = getattr(self._whole, name)
            if name != "buy":
                return found
            return lambda *args, **how: overtaken(lambda: found(*args, **how))

    @asynccontextmanager
    async def open_inventory(
        provider: str, credentials: Credentials | None
    ) -> AsyncIterator[NumberInventory]:
        async with control.open_inventory(provider, credentials) as carrier:
            yield Slow(carrier, Death(0), ())

    slow = replace(control, open_inventory=open_inventory)
    made = await numbers.buy(slow, actor, provider=world.carrier, number=number)
    assert await all_of(control, actor) == [made]
    assert world.purchases() == 1


async def test_a_carrier_that_is_gone(control: Control, world: World, actor: Actor) -> None:
    number = await offered(control, actor, world)
    made = await numbers.buy(control, actor, provider=world.carrier, number=number)
    gone = "http://127.0.0.1:9"

    def open_inventory(
        _provider: str, credentials: Credentials | None
    ) -> AbstractAsyncContextManager[NumberInventory]:
        return world.open(credentials, api_url=gone)

    away = replace(control, open_inventory=open_inventory)
    with pytest.raises((Transient, Ambiguous)):
        await numbers.search(away, actor, NumberQuery(), provider=world.carrier)
    assert (await numbers.release(away, actor, made.id)).state == "deleting"
    with pytest.raises(Transient):
        await numbers.buy(away, actor, provider=world.carrier, number="+14155559999")
    assert await numbers.held(control, actor) == 0
    await later(control.database, AGES)
    assert await numbers.recover(away) == 0
    with pytest.raises((Conflict, NotFound)):
        await numbers.buy(control, actor, provider=world.carrier, number=number)
    await settle(control, world)
    assert world.bought() == []

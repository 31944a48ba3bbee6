"""What every carrier's `NumberInventory` promises, over its real SDK, against its stand-in."""

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from aiohttp import web

from router.errors import Ambiguous, ConfigError, EffectError, Permanent, Transient
from router.provider import Credentials, NotAvailable, NumberInventory, NumberQuery, OwnedNumber
from router.providers.telnyx import inventory as of_telnyx
from router.providers.telnyx import sdk
from router.providers.twilio import inventory as of_twilio
from router.sandbox.faults import OK, Fault
from router.sandbox.serve import serve
from router.sandbox.telnyx import TelnyxStandIn
from router.sandbox.twilio import TwilioStandIn
from tests.support.numbers_world import CARRIERS, PUBLIC_URL, World, first, opened

ORDER, OTHER = "7d0e9e2c-0c40-4b6a-9a25-2d1a5f6d2a01", "7d0e9e2c-0c40-4b6a-9a25-2d1a5f6d2a02"
_SLOW = 0.3  # seconds, longer than a request may take in these tests

only_twilio = pytest.mark.parametrize("carrier", ["twilio"])
only_telnyx = pytest.mark.parametrize("carrier", ["telnyx"])


@pytest.fixture(params=CARRIERS)
def carrier(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def world(carrier: str) -> AsyncIterator[World]:
    async with opened(carrier) as it:
        yield it


@pytest.fixture
async def inventory(world: World) -> AsyncIterator[NumberInventory]:
    async with world.open() as it:
        yield it


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (of_twilio, sdk):
        monkeypatch.setattr(module, "_TIMEOUT", 0.15)


def check_words(error: Exception) -> None:
    """No error may hold a phone number, a secret, or more than words."""
    text = str(error)
    assert "555" not in text, text
    assert "auth-token" not in text, text
    assert "KEY-" not in text, text
    assert "<" not in text, text


# --- search


@pytest.mark.parametrize(
    ("query", "starts"),
    [
        (NumberQuery(area_code="415"), "+1415"),
        (NumberQuery(area_code="646", limit=3), "+1646"),
        (NumberQuery(area_code="415", contains="0555"), "+1415"),
        (NumberQuery(area_code="415", contains="05*7"), "+1415"),
        (NumberQuery(contains="*5"), "+1"),
        (NumberQuery(type="toll_free", area_code="888"), "+1888"),
        (NumberQuery(country="CA", area_code="416"), "+1416"),
        (NumberQuery(country="GB"), "+44"),
        (NumberQuery(country="GB", area_code="20"), "+4420"),
        (NumberQuery(country="GB", area_code="20", contains="7946"), "+4420"),
        (NumberQuery(country="GB", type="mobile"), "+447"),
    ],
)
async def test_search_finds_what_was_asked_for(
    world: World, inventory: NumberInventory, query: NumberQuery, starts: str
) -> None:
    found = await inventory.search(query)
    if query.contains == "0555" and world.carrier == "twilio":
        assert not found  # those are at the other carrier
        return
    assert 0 < len(found) <= query.limit
    for each in found:
        assert each.number.startswith(starts)
        assert query.matches(each.number)
        assert (each.provider, each.country, each.type) == (
            world.carrier,
            query.country,
            query.type,
        )
    assert len({each.number for each in found}) == len(found)


async def test_search_says_where_a_number_is(inventory: NumberInventory) -> None:
    (found,) = await inventory.search(NumberQuery(area_code="415", limit=1))
    assert (found.region, found.locality) == ("CA", "San Francisco")


@pytest.mark.parametrize(
    "query",
    [
        NumberQuery(area_code="999"),  # there is no such area
        NumberQuery(country="US", type="mobile"),  # nor such a kind
        NumberQuery(country="AQ"),
        NumberQuery(area_code="415", contains="123456"),
    ],
)
async def test_what_nobody_sells_is_nothing(inventory: NumberInventory, query: NumberQuery) -> None:
    assert list(await inventory.search(query)) == []


# --- buying


async def test_a_bought_number_is_held_with_its_tag_and_our_webhooks(
    world: World, inventory: NumberInventory
) -> None:
    number = await first(inventory, area_code="415")
    bought = await inventory.buy(number, tag=ORDER)
    assert bought.provider_number_id
    assert (bought.number, bought.tag, bought.ours, bought.active) == (number, ORDER, True, True)
    assert await inventory.find(number) == bought
    assert await inventory.find(number, tag=ORDER) == bought
    assert await inventory.find(number, tag=OTHER) is None
    assert list(await inventory.owned()) == [bought]
    assert number not in [each.number for each in await inventory.search(NumberQuery(limit=50))]
    assert world.bought() == [number]
    check_webhooks(world, number)


def check_webhooks(world: World, number: str, connection: str = "") -> None:
    """The carrier would call us, as its documents have it."""
    base = f"{PUBLIC_URL}/webhooks/{world.carrier}"
    if isinstance(world.standin, TwilioStandIn):
        found = world.standin.accounts.holder(number)
        assert found is not None
        at_twilio = found[1].configuration()
        assert at_twilio.voice_url == f"{base}/voice#ct=2000&rt=8000&rc=2&rp=all"
        assert at_twilio.voice_fallback_url == f"{base}/fallback"
        assert at_twilio.status_callback == f"{base}/status#rc=5&rp=all"
        methods = {at_twilio.voice_method, at_twilio.voice_fallback_method}
        assert methods | {at_twilio.status_callback_method} == {"POST"}
        return
    holder = world.standin.accounts.holder(number)
    assert holder is not None
    account, at_telnyx = holder
    application = account.application_of(at_telnyx)
    url = f"{base}/c/{connection}" if connection else base
    assert application.webhook_event_url == application.webhook_event_failover_url == url
    assert application.webhook_api_version == "2"


async def test_a_connection_buys_for_itself(world: World, inventory: NumberInventory) -> None:
    tenant = world.tenant()
    async with world.open(tenant) as theirs:
        number = await first(theirs, area_code="415")
        bought = await theirs.buy(number, tag=ORDER)
        assert list(await theirs.owned()) == [bought]
    assert await inventory.find(number) is None
    assert list(await inventory.owned()) == []
    check_webhooks(world, number, connection=tenant.connection_id)


async def test_a_number_of_another_account_is_not_available(
    world: World, inventory: NumberInventory
) -> None:
    number = await first(inventory, area_code="415")
    async with world.open(world.tenant()) as theirs:
        await first(theirs, area_code="415")
        await theirs.buy(number, tag=ORDER)
    with pytest.raises(NotAvailable) as refused:
        await inventory.buy(number, tag=OTHER)
    check_words(refused.value)
    assert world.bought() == [number]


async def test_the_same_purchase_again_is_the_same_number(
    world: World, inventory: NumberInventory
) -> None:
    number = await first(inventory, area_code="415")
    bought = await inventory.buy(number, tag=ORDER)
    assert await inventory.buy(number, tag=ORDER) == bought
    assert world.purchases() == 1


async def test_a_number_that_the_account_has_is_not_bought_over(
    world: World, inventory: NumberInventory
) -> None:
    """Twilio takes a second POST for an update: it would change whose the number is."""
    number = await first(inventory, area_code="415")
    bought = await inventory.buy(number, tag=ORDER)
    with pytest.raises(NotAvailable) as refused:
        await inventory.buy(number, tag=OTHER)
    assert refused.value.code == "held"
    check_words(refused.value)
    assert await inventory.find(number) == bought
    assert world.purchases() == 1


@pytest.mark.parametrize(
    ("number", "kind"), [("+14155550999", NotAvailable), ("+14155", Permanent), ("0", Permanent)]
)
async def test_a_number_that_is_not_for_sale(
    world: World, inventory: NumberInventory, number: str, kind: type[Permanent]
) -> None:
    world.standin.pool.taken.add("+14155550999")
    with pytest.raises(kind) as refused:
        await inventory.buy(number, tag=ORDER)
    check_words(refused.value)
    assert refused.value.code
    assert world.bought() == []


@only_twilio
@pytest.mark.parametrize(
    ("number", "code", "words"),
    [("+493023125103", "21649", "bundle"), ("+61491570103", "21631", "address")],
)
async def test_what_needs_papers_says_so(
    inventory: NumberInventory, number: str, code: str, words: str
) -> None:
    with pytest.raises(Permanent) as refused:
        await inventory.buy(number, tag=ORDER)
    assert refused.value.code == code
    assert words in str(refused.value)
    assert not isinstance(refused.value, NotAvailable)


# --- configuring and releasing


async def test_a_number_with_other_webhooks_is_configured(
    world: World, inventory: NumberInventory
) -> None:
    number = await first(inventory, area_code="415")
    bought = await inventory.buy(number, tag=ORDER)
    async with world.open(public_url="https://moved.example") as moved:
        found = await moved.find(number)
        assert found is not None
        assert not found.ours
        assert (await moved.configure(found)).ours
        assert [each.ours for each in await moved.owned()] == [True]
    seen = await inventory.find(number)
    assert seen == bought._replace(ours=False)


async def test_a_released_number_is_gone_and_for_sale_again(
    world: World, inventory: NumberInventory
) -> None:
    number = await first(inventory, area_code="415")
    bought = await inventory.buy(number, tag=ORDER)
    await inventory.release(bought)
    await inventory.release(bought)  # not held any more: no error
    world.clock.pauses.append(90)
    assert await inventory.find(number) is None
    assert await inventory.find(number, tag=ORDER) is None
    assert list(await inventory.owned()) == []
    assert await first(inventory, area_code="415") == number
    assert (await inventory.buy(number, tag=OTHER)).tag == OTHER


async def test_a_number_without_the_carriers_id_is_found_by_itself(
    world: World, inventory: NumberInventory
) -> None:
    number = await first(inventory, area_code="415")
    await inventory.buy(number, tag=ORDER)
    await inventory.release(OwnedNumber(number, ""))
    assert world.bought() == []
    await inventory.release(OwnedNumber(number, ""))


async def test_many_numbers_are_listed_page_by_page(
    world: World, inventory: NumberInventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (of_twilio, of_telnyx):
        monkeypatch.setattr(module, "_MOST", 4)
    for offer in await inventory.search(NumberQuery(area_code="415", limit=4)):
        world.standin.hold(offer.number)
    for offer in await inventory.search(NumberQuery(area_code="212", limit=3)):
        world.standin.hold(offer.number)
    assert sorted(each.number for each in await inventory.owned()) == sorted(world.bought())
    assert len(await inventory.owned(limit=5)) == 5


# --- who asks


async def test_wrong_credentials_are_told_so(world: World) -> None:
    tenant = world.tenant()
    forged = dict.fromkeys(tenant.secrets, "forged-forged-forged")
    wrong = Credentials(world.carrier, tenant.connection_id, tenant.provider_account, forged)
    async with world.open(wrong) as inventory:
        for ask in (inventory.owned, lambda: inventory.buy("+14155550150", tag=ORDER)):
            with pytest.raises(Permanent, match="refuses") as refused:
                await ask()
            assert not isinstance(refused.value, NotAvailable)
            assert "forged" not in str(refused.value)
            check_words(refused.value)


async def test_without_an_account_there_is_no_inventory(world: World) -> None:
    empty: Mapping[str, Any] = {"account_sid": "", "auth_tokens": []}
    if world.carrier == "telnyx":
        empty = {"api_key": ""}
    with pytest.raises(ConfigError, match=f"providers.{world.carrier}"):
        async with world.open(**empty):
            pass
    nothing = Credentials(world.carrier, "a-connection", "AC" + "1" * 32)
    with pytest.raises(ConfigError, match="a-connection"):
        async with world.open(nothing):
            pass


async def test_numbers_can_be_looked_at_without_a_public_url(world: World) -> None:
    async with world.open(public_url="") as inventory:
        number = await first(inventory, area_code="415")
        assert list(await inventory.owned()) == []
        with pytest.raises(ConfigError, match="public_url"):
            await inventory.buy(number, tag=ORDER)
    assert world.purchases() == 0


def test_the_sdks_are_imported_by_who_buys_numbers() -> None:
    """They cost more than a second, of every command."""
    code = (
        "import sys; from router.providers import providers; providers();"
        "print([name for name in ('telnyx', 'twilio.rest') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert found.stdout.strip() == "[]"


# --- what goes wrong on the way


async def test_a_question_is_asked_again(world: World, inventory: NumberInventory) -> None:
    world.standin.faults.add("search", Fault(status=503), times=2)
    assert await inventory.search(NumberQuery(area_code="415"))
    assert len(world.clock.pauses) == 2
    assert all(0 < pause < 1 for pause in world.clock.pauses)


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(), Fault(delay=_SLOW, status=OK)])
@pytest.mark.usefixtures("impatient")
async def test_a_question_is_given_up(
    world: World, inventory: NumberInventory, fault: Fault
) -> None:
    world.standin.faults.add("search", fault, times=10)
    with pytest.raises(Ambiguous) as failed:
        await inventory.search(NumberQuery(area_code="415"))
    check_words(failed.value)
    # aiohttp itself repeats a GET whose kept connection was closed, once.
    assert 3 <= world.standin.faults.requests.count("search") <= 6


def too_many(carrier: str, seconds: int) -> Fault:
    header = "Retry-After" if carrier == "twilio" else "x-ratelimit-reset"
    return Fault(status=429, headers={header: str(seconds)})


async def test_a_carrier_that_asks_for_a_pause_gets_it(
    world: World, inventory: NumberInventory
) -> None:
    world.standin.faults.add("list", too_many(world.carrier, 3))
    assert list(await inventory.owned()) == []
    (pause,) = world.clock.pauses
    assert 3 <= pause < 4


async def test_a_long_pause_is_for_whoever_asked(world: World, inventory: NumberInventory) -> None:
    world.standin.faults.add("list", too_many(world.carrier, 60))
    with pytest.raises(Transient) as refused:
        await inventory.owned()
    assert refused.value.retry_after == 60
    assert world.clock.pauses == []


async def test_nobody_listening_is_told_so(world: World) -> None:
    async with world.open(api_url="http://127.0.0.1:9") as inventory:
        with pytest.raises(Transient, match=r"127\.0\.0\.1:9 can't be reached"):
            await inventory.buy("+14155550150", tag=ORDER)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda: web.Response(text="<html>"), Ambiguous),
        (lambda: web.Response(text="[]", content_type="application/json"), Ambiguous),
        (lambda: web.Response(text='{"data": 1}', content_type="application/json"), Ambiguous),
        (lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1:9/"}), Permanent),
        (lambda: web.Response(status=400, text="<html>"), Permanent),
        (lambda: web.Response(status=400, text='{"code": {}, "errors": [1]}'), Permanent),
    ],
)
async def test_answers_that_make_no_sense(
    world: World, answer: Callable[[], web.Response], kind: type[EffectError]
) -> None:
    async def handle(_: web.Request) -> web.Response:
        return answer()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with serve(app, 0) as url, world.open(api_url=url) as inventory:
        held = OwnedNumber("+14155550150", "1234")
        for ask in (
            lambda: inventory.search(NumberQuery()),
            lambda: inventory.owned(),
            lambda: inventory.find("+14155550150"),
            lambda: inventory.buy("+14155550150", tag=ORDER),
            lambda: inventory.configure(held),
        ):
            with pytest.raises(kind) as failed:
                await ask()
            check_words(failed.value)
            assert not isinstance(failed.value, NotAvailable)


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("operation", ["update", "release"])
async def test_what_may_be_done_twice_is_done_again(
    world: World, inventory: NumberInventory, operation: str, applied: bool
) -> None:
    number = await first(inventory, area_code="415")
    bought = await inventory.buy(number, tag=ORDER)
    world.standin.faults.add(operation, Fault(applied=applied))
    if operation == "update":
        assert (await inventory.configure(bought)).ours
    else:
        await inventory.release(bought)
        assert world.bought() == []


# --- a purchase is made once, whatever happens

BEFORE = {
    "503": Fault(status=503),
    "cut": Fault(),
    "slow": Fault(delay=_SLOW),
}
AFTER = {
    "503": Fault(status=503, applied=True),
    "cut": Fault(applied=True),
    "slow": Fault(delay=_SLOW, applied=True),
    "late": Fault(delay=_SLOW, status=OK),
}


@pytest.mark.parametrize("fault", BEFORE.values(), ids=BEFORE)
@pytest.mark.usefixtures("impatient")
async def test_a_purchase_that_failed_before_it_happened(
    world: World, inventory: NumberInventory, fault: Fault
) -> None:
    number = await first(inventory, area_code="415")
    world.standin.faults.add("buy", fault)
    with pytest.raises(Ambiguous) as failed:
        await inventory.buy(number, tag=ORDER)
    check_words(failed.value)
    assert world.purchases() == 1  # and no second try
    assert await inventory.find(number, tag=ORDER) is None
    assert (await inventory.buy(number, tag=ORDER)).active
    assert world.bought() == [number]


@pytest.mark.parametrize("fault", AFTER.values(), ids=AFTER)
@pytest.mark.usefixtures("impatient")
async def test_a_purchase_that_failed_after_it_happened(
    world: World, inventory: NumberInventory, fault: Fault
) -> None:
    number = await first(inventory, area_code="415")
    world.standin.faults.add("buy", fault)
    with pytest.raises(Ambiguous) as failed:
        await inventory.buy(number, tag=ORDER)
    check_words(failed.value)
    found = await inventory.find(number, tag=ORDER)
    assert found is not None
    assert await inventory.find(number, tag=OTHER) is None
    again = await inventory.buy(number, tag=ORDER)
    assert (again.number, again.tag, again.ours, again.active) == (number, ORDER, True, True)
    assert world.purchases() == 1
    assert world.bought() == [number]
    check_webhooks(world, number)


async def test_a_purchase_that_was_too_many_is_made_later(
    world: World, inventory: NumberInventory
) -> None:
    """What answers 429 did nothing: Twilio's 20429 is "always safe to retry"."""
    number = await first(inventory, area_code="415")
    world.standin.faults.add("buy", too_many(world.carrier, 1))
    assert (await inventory.buy(number, tag=ORDER)).active
    assert world.purchases() == 2
    assert world.bought() == [number]


async def test_a_purchase_that_is_too_many_again_did_not_happen(
    world: World, inventory: NumberInventory
) -> None:
    number = await first(inventory, area_code="415")
    world.standin.faults.add("buy", too_many(world.carrier, 1), times=3)
    with pytest.raises(Transient):
        await inventory.buy(number, tag=ORDER)
    assert world.bought() == []
    assert await inventory.find(number, tag=ORDER) is None


@pytest.mark.parametrize(
    "operation", ["list", "orders", "order", "applications", "application.create", "search"]
)
@only_telnyx
async def test_no_trouble_around_a_purchase_loses_it(
    world: World, inventory: NumberInventory, operation: str
) -> None:
    """Each further request fails as it may; the number is bought once, and found."""
    number = await first(inventory, area_code="415")
    for times in (1, 3):
        world.standin.faults.add(operation, Fault(status=500, applied=True), times=times)
        try:
            owned: OwnedNumber | None = await inventory.buy(number, tag=ORDER)
        except EffectError:
            owned = None
        world.clock.pauses.append(5)
        found = await inventory.find(number, tag=ORDER)
        assert (found is not None) == (number in world.bought())
        assert owned is None or found is not None
    bought = await inventory.buy(number, tag=ORDER)
    assert bought.active
    assert bought.ours
    assert world.purchases() == 1
    assert world.bought() == [number]


# --- Telnyx's orders


@only_telnyx
async def test_an_order_that_takes_its_time(world: World, inventory: NumberInventory) -> None:
    assert isinstance(world.standin, TelnyxStandIn)
    world.standin.numbers.order_time = 60
    number = await first(inventory, area_code="415")
    ordered = await inventory.buy(number, tag=ORDER)
    assert ordered == OwnedNumber(number, "", tag=ORDER, active=False)
    assert 10 <= sum(world.clock.pauses) < 12
    assert await inventory.find(number, tag=ORDER) == ordered
    assert await inventory.configure(ordered) == ordered  # nothing to configure yet
    world.clock.pauses.append(60)
    found = await inventory.find(number, tag=ORDER)
    assert found is not None
    assert found.active
    assert found.ours
    assert await inventory.buy(number, tag=ORDER) == found
    assert world.purchases() == 1


@only_telnyx
async def test_an_order_that_fails(world: World, inventory: NumberInventory) -> None:
    assert isinstance(world.standin, TelnyxStandIn)
    number = await first(inventory, area_code="415")
    world.standin.numbers.failing.add(number)
    with pytest.raises(NotAvailable) as failed:
        await inventory.buy(number, tag=ORDER)
    check_words(failed.value)
    assert await inventory.find(number, tag=ORDER) is None


@only_telnyx
async def test_a_number_is_searched_for_before_it_is_ordered(
    world: World, inventory: NumberInventory
) -> None:
    """Telnyx sells only what a search returned; ours may be long ago, or another process's."""
    assert (await inventory.buy("+12125550777", tag=ORDER)).active


@only_telnyx
async def test_the_order_is_asked_where_the_number_does_not_bear_its_reference(
    world: World, inventory: NumberInventory
) -> None:
    assert isinstance(world.standin, TelnyxStandIn)
    world.standin.numbers.keeps_reference = False
    number = await first(inventory, area_code="415")
    world.standin.faults.add("buy", Fault(applied=True))
    with pytest.raises(Ambiguous):
        await inventory.buy(number, tag=ORDER)
    world.clock.pauses.append(1000)
    found = await inventory.find(number, tag=ORDER)
    assert found is not None
    assert (found.tag, found.active) == (ORDER, True)
    assert await inventory.find(number, tag=OTHER) is None
    await inventory.buy(number, tag=ORDER)
    assert [each.tag for each in await inventory.owned()] == [ORDER]  # by now it bears it
    assert world.purchases() == 1


@only_telnyx
async def test_there_is_one_application_of_an_installation(world: World) -> None:
    standin = world.standin
    assert isinstance(standin, TelnyxStandIn)
    for tag in (ORDER, OTHER):
        async with world.open() as inventory:
            await inventory.buy(await first(inventory, area_code="415"), tag=tag)
    made = [each for each in standin.accounts.main.applications.values() if each.name != "sandbox"]
    (application,) = made
    assert application.name == "Switchboard switchboard.example"
    application.webhook_event_url, application.webhook_api_version = "https://x.example", "1"
    async with world.open() as inventory:
        number = await first(inventory, area_code="415")
        await inventory.buy(number, tag=str(PUBLIC_URL))
    check_webhooks(world, number)
    assert len(standin.accounts.main.applications) == 2


@only_telnyx
async def test_a_locked_number_is_kept(world: World, inventory: NumberInventory) -> None:
    assert isinstance(world.standin, TelnyxStandIn)
    bought = await inventory.buy(await first(inventory, area_code="415"), tag=ORDER)
    world.standin.accounts.main.numbers[bought.provider_number_id].deletion_lock_enabled = True
    with pytest.raises(Permanent, match="deletion lock") as refused:
        await inventory.release(bought)
    check_words(refused.value)
    assert world.bought() == [bought.number]


# --- Twilio's own


@only_twilio
async def test_twilios_environment_does_not_lead_elsewhere(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWILIO_EDGE", "dublin")
    monkeypatch.setenv("TWILIO_REGION", "ie1")
    async with world.open() as inventory:
        assert list(await inventory.owned()) == []

"""The carriers' stand-ins as they sell numbers and ring them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import phonenumbers
import pytest
import telnyx
from telnyx import AsyncTelnyx
from twilio.request_validator import RequestValidator

from router.sandbox.call import NotInService
from router.sandbox.pool import Pool
from router.sandbox.serve import serve
from router.sandbox.telnyx import TelnyxStandIn
from router.sandbox.twilio import TwilioStandIn
from tests.support.sandbox_livekit import eventually
from tests.support.sandbox_telnyx import API_KEY, CALLER, SEED, Server, client, server
from tests.support.sandbox_twilio import ACCOUNT, TOKEN, Switch

SECRET = "control-token"
NUMBER = "+14155550150"
AT_TELNYX = "+14155550750"


# --- what is for sale


@pytest.mark.parametrize(
    ("country", "type_"),
    [
        ("US", "local"),
        ("US", "toll_free"),
        ("CA", "local"),
        ("GB", "local"),
        ("GB", "mobile"),
        ("GB", "toll_free"),
        ("GB", "national"),
        ("DE", "local"),
        ("DE", "mobile"),
        ("FR", "local"),
        ("AU", "local"),
        ("AU", "mobile"),
    ],
)
def test_the_pool_sells_valid_numbers_one_carrier_each(country: str, type_: Any) -> None:
    sold: set[str] = set()
    for carrier in ("twilio", "telnyx"):
        pool = Pool(carrier)
        assert pool.sells(country, type_)
        offers = list(pool.offers(country, type_))
        assert offers
        assert list(Pool(carrier).offers(country, type_)) == offers
        for offer in offers[:: max(1, len(offers) // 20)]:
            assert phonenumbers.is_valid_number(phonenumbers.parse(offer.number))
            found = pool.offer(offer.number)
            assert found is not None
            assert (found.number, found.type) == (offer.number, offer.type)
            pool.taken.add(offer.number)
            assert pool.offer(offer.number) is None
        numbers = {offer.number for offer in offers}
        assert not numbers & sold
        sold |= numbers


# --- Twilio


@asynccontextmanager
async def twilio_at(url: str, **more: Any) -> AsyncIterator[TwilioStandIn]:
    async with TwilioStandIn(
        account_sid=ACCOUNT,
        auth_token=TOKEN,
        webhook_base=url,
        dial_sip=Switch().dial,
        control_token=SECRET,
        **more,
    ) as it:
        yield it


class Rest:
    """Twilio's API by hand: what an account asks, byte for byte."""

    def __init__(self, url: str, sid: str, token: str) -> None:
        self._url = f"{url}/2010-04-01/Accounts/{sid}"
        self._headers = {"Authorization": aiohttp.encode_basic_auth(sid, token)}

    async def ask(self, method: str, path: str, **form: str) -> tuple[int, dict[str, Any]]:
        async with (
            aiohttp.ClientSession(headers=self._headers) as session,
            session.request(method, self._url + path, data=form or None) as answer,
        ):
            return answer.status, (await answer.json() if answer.status != 204 else {})

    async def buy(self, **form: str) -> tuple[int, dict[str, Any]]:
        return await self.ask("POST", "/IncomingPhoneNumbers.json", **form)


@pytest.fixture
async def web() -> AsyncIterator[Server]:
    async with server() as it:
        yield it


class Site:
    """A server for Twilio's webhooks that checks whose token signed."""

    def __init__(self) -> None:
        self.url = ""
        self.received: list[tuple[str, dict[str, str], str]] = []
        self.broken: set[str] = set()

    async def handle(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        form = {key: str(value) for key, value in (await request.post()).items()}
        signature = request.headers["X-Twilio-Signature"]
        self.received.append((request.path, form, signature))
        if request.path in self.broken:
            return aiohttp.web.Response(status=500)
        return aiohttp.web.Response(text="<Response><Hangup/></Response>", content_type="text/xml")

    def signed_by(self, token: str) -> set[bool]:
        validator = RequestValidator(token)
        return {validator.validate(self.url + p, form, s) for p, form, s in self.received}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    it = Site()
    app = aiohttp.web.Application()
    app.router.add_route("*", "/{path:.*}", it.handle)
    async with serve(app, 0) as url:
        it.url = url
        yield it


async def test_a_number_rings_where_its_account_set_it(site: Site) -> None:
    async with twilio_at("http://127.0.0.1:9") as standin:
        sid, token = standin.accounts.add()
        rest = Rest(standin.url, sid, token)
        status, held = await rest.buy(
            PhoneNumber=NUMBER,
            VoiceUrl=f"{site.url}/voice#rc=0",
            VoiceFallbackUrl=f"{site.url}/fallback",
            StatusCallback=f"{site.url}/status",
        )
        assert status == 201
        site.broken.add("/voice")
        call = standin.place_call(NUMBER, CALLER)
        assert await call.ended() == "completed"
        assert [path for path, _, _ in site.received] == ["/voice", "/fallback", "/status"]
        assert {form["AccountSid"] for _, form, _ in site.received} == {sid}
        assert site.signed_by(token) == {True}
        assert site.signed_by(TOKEN) == {False}
        assert (await rest.ask("GET", f"/Calls/{call.sid}.json"))[0] == 200
        main = Rest(standin.url, ACCOUNT, TOKEN)
        assert (await main.ask("GET", f"/Calls/{call.sid}.json"))[0] == 404
        path = f"/IncomingPhoneNumbers/{held['sid']}.json"
        for method in ("GET", "POST", "DELETE"):
            assert (await main.ask(method, path))[0] == 404
        assert (await rest.ask("POST", path, VoiceUrl=""))[0] == 200
        with pytest.raises(NotInService, match="no voice URL"):
            standin.place_call(NUMBER, CALLER)
        assert (await rest.ask("DELETE", path))[0] == 204
        with pytest.raises(NotInService, match="not in service"):
            standin.place_call(NUMBER, CALLER)


async def test_twilio_strictly_rings_nothing_that_nobody_has() -> None:
    async with twilio_at("http://127.0.0.1:9", strict=True) as standin:
        with pytest.raises(NotInService):
            standin.place_call(NUMBER, CALLER)
        standin.hold(NUMBER)
        standin.place_call(NUMBER, CALLER)


@pytest.mark.parametrize(
    ("form", "status", "code"),
    [
        ({}, 400, 21421),
        ({"PhoneNumber": "4155550150"}, 400, 21421),
        ({"PhoneNumber": "+1415"}, 400, 21421),
        ({"PhoneNumber": "+14155559999"}, 400, 21422),
        ({"PhoneNumber": AT_TELNYX}, 400, 21422),
        ({"AreaCode": "999"}, 400, 21452),
        ({"PhoneNumber": "+493023125103"}, 400, 21649),
        ({"PhoneNumber": "+61491570103"}, 400, 21631),
        ({"PhoneNumber": NUMBER, "VoiceUrl": "ftp://x.example"}, 400, 21402),
        ({"PhoneNumber": NUMBER, "VoiceUrl": "https://x.example#rc=9"}, 400, 21402),
        ({"PhoneNumber": NUMBER, "VoiceMethod": "PUT"}, 400, 21403),
        ({"PhoneNumber": NUMBER, "FriendlyName": "x" * 65}, 400, 20001),
        ({"PhoneNumber": NUMBER, "TrunkSid": "TK" + "0" * 32}, 404, 20404),
        ({"PhoneNumber": NUMBER, "Voice_Url": "https://x.example"}, 400, 20001),
    ],
)
async def test_what_twilio_does_not_sell_so(form: dict[str, str], status: int, code: int) -> None:
    async with twilio_at("http://127.0.0.1:9") as standin:
        answer, body = await Rest(standin.url, ACCOUNT, TOKEN).buy(**form)
        assert (answer, body["code"], body["status"]) == (status, code, status)
        assert body["more_info"].endswith(str(code))
        assert standin.accounts.main.numbers == {}


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/AvailablePhoneNumbers/US/National.json", 404, 20404),
        ("/AvailablePhoneNumbers/AQ/Local.json", 404, 20404),
        ("/AvailablePhoneNumbers/US/Local.json?AreaCode=41", 400, 21451),
        ("/AvailablePhoneNumbers/GB/Local.json?AreaCode=020", 400, 21451),
        ("/AvailablePhoneNumbers/US/Local.json?Contains=1", 400, 20001),
        ("/AvailablePhoneNumbers/US/Local.json?Contains=4*5", 400, 20001),
        ("/AvailablePhoneNumbers/US/Local.json?InRegion=CA", 400, 20001),
        ("/AvailablePhoneNumbers/US/Local.json?PageSize=0", 400, 20006),
        ("/IncomingPhoneNumbers.json?Beta=true", 400, 20001),
        ("/IncomingPhoneNumbers/PN00.json", 404, 20404),
    ],
)
async def test_questions_that_twilio_does_not_take(path: str, status: int, code: int) -> None:
    async with twilio_at("http://127.0.0.1:9") as standin:
        answer, body = await Rest(standin.url, ACCOUNT, TOKEN).ask("GET", path)
        assert (answer, body["code"]) == (status, code)


async def test_another_accounts_path_and_a_wrong_token_are_refused() -> None:
    async with twilio_at("http://127.0.0.1:9") as standin:
        sid, token = standin.accounts.add()
        path = "/IncomingPhoneNumbers.json"
        status, body = await Rest(standin.url, ACCOUNT, token).ask("GET", path)
        assert (status, body["code"]) == (401, 20003)
        foreign = f"/../{sid}{path}"
        status, _ = await Rest(standin.url, ACCOUNT, TOKEN).ask("GET", foreign)
        assert status == 404


async def test_a_second_purchase_at_twilio_is_an_update() -> None:
    """As the real one does it: 201, and the configuration is another."""
    async with twilio_at("http://127.0.0.1:9") as standin:
        rest = Rest(standin.url, ACCOUNT, TOKEN)
        _, first = await rest.buy(PhoneNumber=NUMBER, FriendlyName="one")
        status, second = await rest.buy(PhoneNumber=NUMBER, FriendlyName="two")
        assert (status, second["sid"], second["friendly_name"]) == (201, first["sid"], "two")


# --- Telnyx


@asynccontextmanager
async def telnyx_at(url: str, **more: Any) -> AsyncIterator[TelnyxStandIn]:
    async with TelnyxStandIn(
        api_key=API_KEY,
        seed=SEED,
        webhook_base=url,
        dial_sip=Switch().dial,
        control_token=SECRET,
        **more,
    ) as it:
        it.numbers.order_time = 0.0
        yield it


async def ordered(sdk: AsyncTelnyx, number: str, **more: Any) -> str:
    """A number of the account; its id."""
    await sdk.available_phone_numbers.list(filter={"phone_number": {"contains": number[2:]}})
    await sdk.number_orders.create(phone_numbers=[{"phone_number": number}], **more)
    page = await sdk.phone_numbers.list(filter={"phone_number": number[1:]})
    return page.data[0].id


async def application(sdk: AsyncTelnyx, url: str, **more: Any) -> str:
    made = await sdk.call_control_applications.create(
        application_name="mine", webhook_event_url=url, **{"webhook_api_version": "2", **more}
    )
    assert made.data is not None
    return made.data.id or ""


async def test_a_call_is_posted_to_the_application_of_the_number(web: Server) -> None:
    async with telnyx_at("http://127.0.0.1:9") as standin:
        tenant = standin.accounts.add()
        web.key = tenant.sender.public_key  # the server checks every signature with it
        path = "/webhooks/telnyx/c/tenant"
        async with client(standin.url, tenant.api_key) as theirs, client(standin.url) as ours:
            connection = await application(theirs, web.url + path)
            number_id = await ordered(theirs, AT_TELNYX, connection_id=connection)
            call = standin.place_call(AT_TELNYX, CALLER)
            await eventually(lambda: bool(web.at(path)))
            (told,) = web.at(path)
            assert told.data["event_type"] == "call.initiated"
            assert told.payload["connection_id"] == connection
            with pytest.raises(telnyx.UnprocessableEntityError):
                await ours.calls.actions.hangup(call.sid)
            await theirs.calls.actions.hangup(call.sid)
            await call.ended()
            with pytest.raises(telnyx.NotFoundError):
                await ours.phone_numbers.delete(number_id)
            assert not standin.deliveries
            await theirs.phone_numbers.delete(number_id)
            with pytest.raises(NotInService):
                standin.place_call(AT_TELNYX, CALLER)


async def test_a_number_that_nothing_answers_is_not_in_service() -> None:
    async with telnyx_at("http://127.0.0.1:9", strict=True) as standin, client(standin.url) as sdk:
        with pytest.raises(NotInService):
            standin.place_call(AT_TELNYX, CALLER)
        number_id = await ordered(sdk, AT_TELNYX)
        with pytest.raises(NotInService, match="no connection"):
            standin.place_call(AT_TELNYX, CALLER)
        old = await application(sdk, "https://x.example", webhook_api_version="1")
        await sdk.phone_numbers.update(number_id, connection_id=old)
        with pytest.raises(NotInService, match="webhook_api_version"):
            standin.place_call(AT_TELNYX, CALLER)
        with pytest.raises(telnyx.UnprocessableEntityError):
            await sdk.call_control_applications.delete(old)  # it is in use


async def test_what_telnyx_refuses() -> None:
    async with telnyx_at("http://127.0.0.1:9") as standin, client(standin.url) as sdk:

        async def refused(asked: Any) -> str:
            with pytest.raises(telnyx.APIStatusError) as error:
                await asked
            body: Any = error.value.body
            return str(body["errors"][0]["code"])

        orders, numbers = sdk.number_orders, sdk.phone_numbers
        applications = sdk.call_control_applications
        wanted: Any = [{"phone_number": AT_TELNYX}]
        assert await refused(orders.create(phone_numbers=wanted)) == "10015"  # not searched for
        assert await refused(orders.create(phone_numbers=[])) == "10015"
        assert await refused(orders.create(phone_numbers=[{"phone_number": "1"}])) == "10016"
        nowhere = orders.create(phone_numbers=wanted, connection_id="1")
        assert await refused(nowhere) == "10017"
        assert await refused(orders.retrieve("1")) == "10005"
        assert await refused(numbers.retrieve("1")) == "10005"
        assert await refused(applications.retrieve("1")) == "10005"
        search: Any = {"phone_number_type": "shared_cost"}
        assert await refused(sdk.available_phone_numbers.list(filter=search)) == "10032"
        search = {"locality": "Chicago"}
        assert await refused(sdk.available_phone_numbers.list(filter=search)) == "10015"
        made = applications.create(application_name="x", webhook_event_url="no-scheme")
        assert await refused(made) == "10003"
        await application(sdk, "https://x.example")
        taken = applications.create(application_name="mine", webhook_event_url="https://x.example")
        assert await refused(taken) == "10012"


async def test_a_plus_finds_no_number_at_telnyx() -> None:
    """As its OpenAPI says of filter[phone_number]: digits only."""
    async with telnyx_at("http://127.0.0.1:9") as standin, client(standin.url) as sdk:
        await ordered(sdk, AT_TELNYX)
        page = await sdk.phone_numbers.list(filter={"phone_number": AT_TELNYX})
        assert page.data == []


# --- the control API


@pytest.mark.parametrize("carrier", ["twilio", "telnyx"])
async def test_accounts_and_numbers_by_the_control_api(carrier: str) -> None:
    opened = twilio_at if carrier == "twilio" else telnyx_at
    headers = {"Authorization": f"Bearer {SECRET}"}
    async with (
        opened("http://127.0.0.1:9") as standin,
        aiohttp.ClientSession(
            getattr(standin, "control_url", "") or standin.url, headers=headers
        ) as control,
    ):
        theirs = "+14155559998"
        async with control.post("/accounts", json={"numbers": [theirs]}) as answer:
            assert answer.status == 201
            made = await answer.json()
        _, tenant = standin.accounts
        assert tenant.holds(theirs) is not None
        with pytest.raises(NotInService):
            standin.place_call(theirs, CALLER)
        async with control.post("/accounts", json={"numbers": [theirs]}) as answer:
            assert answer.status == 400
        async with control.post("/accounts", json={"numbers": ["1"]}) as answer:
            assert answer.status == 400
        keys = {"account_sid", "auth_token"} if carrier == "twilio" else {"api_key", "public_key"}
        assert made.keys() == keys
        number = NUMBER if carrier == "twilio" else AT_TELNYX

        async def service() -> str:
            async with control.get(f"/numbers/{number}") as answer:
                return str((await answer.json())["service"])

        assert await service() == "unknown"
        standin.hold(number, number_id="1")
        assert await service() == "held"
        await _release(carrier, standin)
        assert await service() == "released"
        async with control.post("/calls", json={"to": number, "from": CALLER}) as answer:
            assert answer.status == 409
            assert "not in service" in (await answer.json())["error"]


async def _release(carrier: str, standin: Any) -> None:
    if carrier == "twilio":
        await Rest(standin.url, ACCOUNT, TOKEN).ask("DELETE", "/IncomingPhoneNumbers/1.json")
        return
    async with client(standin.url) as sdk:
        await sdk.phone_numbers.delete("1")

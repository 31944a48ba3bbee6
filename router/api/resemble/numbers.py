"""Agent phone numbers: numbers that are at Twilio already, taken over with their credentials.

Trunks are not set up yet: a number that supports inbound calls gets this installation's webhooks
(mode `webhook`), and what is wished of trunks is kept in `details`, its passwords sealed.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Literal

from router.api.fields import rfc3339
from router.api.operation import Answer, ApiRequest, Operation
from router.api.resemble.answers import answer, offset, paged, refused
from router.api.resemble.models import (
    AgentPhoneNumber,
    CreatePhoneNumberRequest,
    Done,
    ForceDeleted,
    InboundTrunk,
    OutboundTrunk,
    PageQuery,
    PhoneNumberAnswer,
    PhoneNumberList,
    Refused,
)
from router.control import connections, numbers
from router.control.model import Number
from router.errors import Conflict, Forbidden, Invalid, NotFound, Permanent, RequestError
from router.events.ids import DEFAULT_ACCOUNT
from router.provider import Credentials

_TAG: Final = "Agent Phone Numbers"
_TWILIO: Final = "twilio"
_NUMBER: Final = ("body", "phone_number")
_SID, _TOKEN = ("body", "twilio_account_sid"), ("body", "twilio_auth_token")
_LONGEST_ID: Final = 15  # digits of an id

_CORRUPTED: Final = (
    "Failed to cleanup external resources. Phone number marked as corrupted. Release it at the "
    "carrier by hand, then force delete it."
)


async def create(request: ApiRequest) -> Answer:
    """Take a number that is at Twilio."""
    wanted: CreatePhoneNumberRequest = request.body
    connection_id, is_new = await _connection(request, wanted)
    try:
        number = await numbers.adopt(
            request.control,
            request.actor,
            number=wanted.phone_number,
            provider=_TWILIO,
            connection_id=connection_id,
            agent_id=wanted.agent_uuid,
            label=wanted.label,
            mode="webhook" if wanted.supports_inbound else "trunk",
            details=_details(wanted),
        )
    except Exception as error:
        if is_new and connection_id is not None:
            with suppress(RequestError):  # a number is held through it meanwhile
                await connections.delete(request.control, request.actor, connection_id)
        if isinstance(error, NotFound | Conflict):
            raise _not_created(error) from None
        raise
    return answer(PhoneNumberAnswer(item=shown(number)))


async def list_(request: ApiRequest) -> Answer:
    """The account's numbers, also those that are being deleted."""
    query: PageQuery = request.query
    page = await numbers.list_(
        request.control,
        request.actor,
        offset=offset(query),
        limit=query.page_size,
        deleting=True,
    )
    items = [shown(number) for number in page.items]
    return answer(PhoneNumberList(**paged(query, page.total), items=items))


async def get(request: ApiRequest) -> Answer:
    """One number."""
    return answer(PhoneNumberAnswer(item=shown(await find(request, request.path["id"]))))


async def delete(request: ApiRequest) -> Answer:
    """Route it nowhere and forget it; one that was bought here is given back."""
    held = await find(request, request.path["id"])
    gone = await numbers.release(request.control, request.actor, held.id)
    if gone.state == "corrupted":
        return refused("Failed to delete phone number", 422, {"base": [_CORRUPTED]})
    return answer(Done(message="Phone number deleted successfully"))


async def force_delete(request: ApiRequest) -> Answer:
    """Forget a number whose release the carrier refused."""
    held = await find(request, request.path["id"])
    try:
        await numbers.force_delete(request.control, request.actor, held.id)
    except Conflict:
        return refused("Force delete is only allowed for corrupted phone numbers", 422)
    return answer(
        ForceDeleted(
            message="Phone number force deleted successfully. Please manually cleanup external "
            "resources if needed."
        )
    )


async def find(request: ApiRequest, number_id: str) -> Number:
    """The number with this id. Raises NotFound."""
    if number_id.isascii() and number_id.isdigit() and len(number_id) <= _LONGEST_ID:
        with suppress(NotFound):
            found = await numbers.get(request.control, request.actor, number_id)
            if found.short_id == int(number_id):  # digits may be a number, too
                return found
    raise NotFound("Phone number not found", code="number_not_found")


def shown(number: Number) -> AgentPhoneNumber:
    """A number as answers have it. One that another dialect made takes calls."""
    return AgentPhoneNumber(
        id=number.short_id,
        phone_number=number.number,
        label=number.label,
        supports_inbound=_flag(number, "supports_inbound", default=number.mode == "webhook"),
        supports_outbound=_flag(number, "supports_outbound", default=False),
        provider=number.provider,
        status=_status(number),
        has_twilio_credentials=number.provider == _TWILIO and number.connection_id is not None,
        outbound_trunk=_trunk(number, "outbound_trunk"),
        inbound_trunk=_trunk(number, "inbound_trunk"),
        agent_uuid=number.agent_id,
        created_at=rfc3339(number.created_at),
        updated_at=rfc3339(number.updated_at),
    )


def _flag(number: Number, name: str, *, default: bool) -> bool:
    kept = number.details.get(name)
    return kept if isinstance(kept, bool) else default


def _trunk(number: Number, name: str) -> dict[str, Any]:
    kept = number.details.get(name)
    if not isinstance(kept, Mapping):
        return {}
    return {key: value for key, value in kept.items() if key != "password"}


def _status(number: Number) -> Literal["active", "corrupted", "deleting"]:
    return number.state if number.state in ("active", "corrupted") else "deleting"


def _details(wanted: CreatePhoneNumberRequest) -> dict[str, Any]:
    trunks: dict[str, OutboundTrunk | InboundTrunk | None] = {
        "outbound_trunk": wanted.outbound_trunk,
        "inbound_trunk": wanted.inbound_trunk,
    }
    kept = {
        name: trunk.model_dump(mode="json", exclude_none=True)
        for name, trunk in trunks.items()
        if trunk is not None
    }
    return {
        "supports_inbound": wanted.supports_inbound,
        "supports_outbound": wanted.supports_outbound,
        **kept,
    }


# --- its Twilio account


async def _connection(
    request: ApiRequest, wanted: CreatePhoneNumberRequest
) -> tuple[str | None, bool]:
    """The account's connection with that Twilio account, and whether it was made now.

    Other credentials than those that are kept replace them, once Twilio has taken them.
    """
    sid, token = wanted.twilio_account_sid, wanted.twilio_auth_token
    if sid is None or token is None:
        return await _default(request), False
    control, actor = request.control, request.actor
    same = await connections.find_same(control, actor, provider=_TWILIO, provider_account=sid)
    if same is None:
        made = await connections.create(
            control,
            actor,
            provider=_TWILIO,
            provider_account=sid,
            secrets={"auth_token": token},
            label=wanted.label,
        )
        return made.id, True
    kept = await connections.credentials(control, actor, same.id, _TWILIO)
    if kept is None or kept.secrets.get("auth_token") != token:
        await _verify(request, Credentials(_TWILIO, same.id, sid, {"auth_token": token}))
        await connections.update(control, actor, same.id, secrets={"auth_token": token})
    return same.id, False


async def _default(request: ApiRequest) -> str | None:
    """Without credentials: the account's own default connection, never the operator's."""
    with suppress(NotFound, Forbidden):
        found = await connections.resolve(
            request.control, request.actor, provider=_TWILIO, connection_id=None
        )
        if found is not None:
            return found.connection_id
        if request.actor.account_id == DEFAULT_ACCOUNT:
            return None
    why = "is required: the account has no connection at Twilio"
    raise Invalid((_SID, why), (_TOKEN, why), kinds=("missing", "missing"))


async def _verify(request: ApiRequest, credentials: Credentials) -> None:
    """Raises Invalid: Twilio does not take them."""
    try:
        async with request.control.open_inventory(_TWILIO, credentials) as carrier:
            await carrier.find(request.body.phone_number)
    except Permanent as error:
        raise Invalid((_TOKEN, f"Twilio refuses these credentials: {error}")) from error


def _not_created(error: NotFound | Conflict) -> Invalid:
    match error.code:
        case "agent_not_found":
            return Invalid((("body", "agent_uuid"), "the account has no such agent"))
        case "number_held":
            return Invalid((_NUMBER, f"has already been taken: {error}"))
        case "carrier_refused":
            return Invalid((_SID, str(error)))
        case _:
            return Invalid((_NUMBER, str(error)))


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/api/v2/phone_numbers",
        id="list_phone_numbers",
        summary="List Phone Numbers",
        tag=_TAG,
        handle=list_,
        scope="numbers:read",
        query=PageQuery,
        answers={200: PhoneNumberList},
    ),
    Operation(
        method="POST",
        path="/api/v2/phone_numbers",
        id="create_phone_number",
        summary="Create Phone Number",
        description="Take a number that is at Twilio, with that account's credentials, which are "
        "kept as a connection of the account and never answered. With `supports_inbound` its calls "
        "come here; what is wished of trunks is kept.",
        tag=_TAG,
        handle=create,
        scope="numbers:write",
        body=CreatePhoneNumberRequest,
        answers={200: PhoneNumberAnswer, 402: Refused},
        creates=True,
    ),
    Operation(
        method="GET",
        path="/api/v2/phone_numbers/{id}",
        id="get_phone_number",
        summary="Get Phone Number",
        tag=_TAG,
        handle=get,
        scope="numbers:read",
        answers={200: PhoneNumberAnswer},
    ),
    Operation(
        method="DELETE",
        path="/api/v2/phone_numbers/{id}",
        id="delete_phone_number",
        summary="Delete Phone Number",
        description="It leads nowhere at once. One that was bought here is given back at its "
        "carrier; where the carrier refuses that, it is `corrupted` (422).",
        tag=_TAG,
        handle=delete,
        scope="numbers:write",
        answers={200: Done},
    ),
    Operation(
        method="DELETE",
        path="/api/v2/phone_numbers/{id}/force",
        id="force_delete_phone_number",
        summary="Force Delete Phone Number",
        description="Forget a corrupted number; at its carrier it stays as it is.",
        tag=_TAG,
        handle=force_delete,
        scope="numbers:write",
        answers={200: ForceDeleted},
    ),
)

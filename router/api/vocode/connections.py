"""Account connections: an account's credentials at Twilio, Telnyx (our extension) and OpenAI."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from router.api.operation import Answer, ApiRequest, Operation
from router.api.vocode.schemas import (
    NOT_SET,
    ById,
    OneOf,
    PageQuery,
    Place,
    Schema,
    answer_of,
    as_page,
    complete,
    from_client,
    is_undefined,
    page_of,
    phone_number,
    root_of,
    type_of,
    update_of,
)
from router.control import connections
from router.control.model import Connection
from router.errors import Conflict, Invalid, NotFound
from router.vault import is_masked, mask


class TwilioCredentials(Schema):
    """Of an account at Twilio."""

    twilio_account_sid: str
    twilio_auth_token: str


class TelnyxCredentials(Schema):
    """Of an account at Telnyx; the public key verifies its webhooks."""

    telnyx_api_key: str
    telnyx_public_key: str = NOT_SET


class OpenAICredentials(Schema):
    """Of an account at OpenAI."""

    openai_api_key: str


class _Params(Schema):
    label: str = NOT_SET
    description: str = NOT_SET


class TwilioAccountConnectionParams(_Params):
    """An account at Twilio."""

    credentials: TwilioCredentials
    type: Literal["account_connection_twilio"]
    steering_pool: list[str] = NOT_SET
    account_supports_any_caller_id: bool = False


class TelnyxAccountConnectionParams(_Params):
    """An account at Telnyx."""

    credentials: TelnyxCredentials
    type: Literal["account_connection_telnyx"]
    steering_pool: list[str] = NOT_SET
    account_supports_any_caller_id: bool = False


class OpenAIAccountConnectionParams(_Params):
    """An account at OpenAI."""

    credentials: OpenAICredentials
    type: Literal["account_connection_openai"]


class SteeringPoolBody(Schema):
    """A number to be added; none is added where it is left out."""

    phone_number: str | None = None


class RemoveFromSteeringPoolRequest(Schema):
    """A number to be removed."""

    phone_number: str


@dataclass(frozen=True)
class _Type:
    """A type of connection: its provider, and how Vocode calls what `router.control` keeps."""

    provider: str
    params: type[Schema]
    secrets: Mapping[str, str]  # Vocode's name → ours
    account: str = ""  # Vocode's name of the provider account

    @property
    def name(self) -> str:
        return type_of(self.params)


_TYPES: Final = (
    _Type(
        "twilio",
        TwilioAccountConnectionParams,
        {"twilio_auth_token": "auth_token"},
        "twilio_account_sid",
    ),
    _Type("openai", OpenAIAccountConnectionParams, {"openai_api_key": "api_key"}),
    _Type(
        "telnyx",
        TelnyxAccountConnectionParams,
        {"telnyx_api_key": "api_key", "telnyx_public_key": "public_key"},
    ),
)
_BY_TYPE: Final = {each.name: each for each in _TYPES}
_BY_PROVIDER: Final = {each.provider: each for each in _TYPES}
_OPTIONAL: Final = "telnyx_public_key"
_READABLE: Final = ("openai", "twilio")  # what Vocode's clients can read
_PARAMS: Final = tuple(each.params for each in _TYPES)
_UPDATES: Final = tuple(update_of(each.params) for each in _TYPES)

OpenAIAccountConnection: Final = answer_of(OpenAIAccountConnectionParams)
TwilioAccountConnection: Final = answer_of(TwilioAccountConnectionParams)
TelnyxAccountConnection: Final = answer_of(TelnyxAccountConnectionParams)
ANSWER: Final = Annotated[
    Any, OneOf(TwilioAccountConnection, OpenAIAccountConnection, TelnyxAccountConnection)
]
CARRIER_ANSWER: Final = OneOf(TwilioAccountConnection, TelnyxAccountConnection)


def shown(connection: Connection) -> dict[str, Any]:
    """A connection as answers have it, its secrets masked in their places.

    Raises:
        NotFound: it is at a provider that this dialect has no words for.
    """
    known = _BY_PROVIDER.get(connection.provider)
    if known is None:
        raise NotFound("there is no such connection")
    credentials = {known.account: connection.provider_account} if known.account else {}
    for theirs, ours in known.secrets.items():
        if ours in connection.masked or theirs != _OPTIONAL:
            credentials[theirs] = connection.masked.get(ours, mask(""))
    label = {"label": connection.label} if connection.label else {}
    return {
        "id": connection.id,
        "user_id": connection.account_id,
        "type": known.name,
        "credentials": credentials,
        **label,
        **connection.details,
    }


async def expanded(request: ApiRequest, connection_id: str | None) -> dict[str, Any] | None:
    """A number's connection as answers have it; None: it has none, or the client can't read it."""
    if connection_id is None:
        return None
    try:
        connection = await connections.get(request.control, request.actor, connection_id)
    except NotFound:
        return None
    readable = _READABLE if from_client(request) else tuple(_BY_PROVIDER)
    return shown(connection) if connection.provider in readable else None


async def update_inline(request: ApiRequest, sent: Mapping[str, Any], where: Place) -> Connection:
    """A connection that is named by its own object: what it says is changed. NotFound, Invalid."""
    stored = await connections.get(request.control, request.actor, str(sent["id"]))
    return await _changed(request, stored, sent, where)


async def _changed(
    request: ApiRequest, stored: Connection, sent: Mapping[str, Any], where: Place
) -> Connection:
    known = _BY_TYPE[sent["type"]]
    if known.provider != stored.provider:
        wanted = f"is account_connection_{stored.provider}, which can't be changed"
        raise Invalid(((*where, "type"), wanted))
    account, secrets = _credentials(known, sent.get("credentials") or {}, where)
    details = {**stored.details, **_details(known, sent, where)}
    return await connections.update(
        request.control,
        request.actor,
        stored.id,
        secrets=secrets or None,
        provider_account=account or None,
        label=sent["label"] if isinstance(sent.get("label"), str) else None,
        details=details,
    )


def _credentials(
    known: _Type, credentials: Mapping[str, Any], where: Place
) -> tuple[str, dict[str, str]]:
    """The provider account ("": keep it) and the secrets, by our names."""
    account = str(credentials.get(known.account, "")) if known.account else ""
    missing = [
        name
        for name in (known.account, *known.secrets)
        if name and name in credentials and not str(credentials[name]).strip()
    ]
    if missing:
        raise Invalid(*(((*where, "credentials", name), "is empty") for name in missing))
    secrets = {
        ours: credentials[name] for name, ours in known.secrets.items() if name in credentials
    }
    return "" if is_masked(account) else account, secrets


def _details(known: _Type, sent: Mapping[str, Any], where: Place) -> dict[str, Any]:
    """What a connection has besides its credentials."""
    description = sent.get("description")
    details: dict[str, Any] = {"description": description} if isinstance(description, str) else {}
    if known.provider == "openai":
        return details
    if "steering_pool" in sent and not is_undefined(sent["steering_pool"]):
        numbers = [
            phone_number(number, (*where, "steering_pool", index))
            for index, number in enumerate(sent["steering_pool"])
        ]
        details["steering_pool"] = list(dict.fromkeys(numbers))
    supports = sent.get("account_supports_any_caller_id")
    if isinstance(supports, bool):
        details["account_supports_any_caller_id"] = supports
    return details


# --- operations


async def _get(request: ApiRequest) -> Answer:
    found = await connections.get(request.control, request.actor, request.query.id)
    return Answer(body=shown(found))


async def _list(request: ApiRequest) -> Answer:
    window = request.query.window
    providers = _READABLE if from_client(request) else tuple(_BY_PROVIDER)
    page = await connections.list_(request.control, request.actor, providers=providers, **window)
    return Answer(body=as_page(request.query, page, [shown(each) for each in page.items]))


async def _create(request: ApiRequest) -> Answer:
    known = _BY_TYPE[request.sent["type"]]
    body = complete(known.params, request.sent, ("body",))
    account, secrets = _credentials(known, body["credentials"], ("body",))
    for name, ours in known.secrets.items():
        if is_masked(secrets.get(ours)):
            raise Invalid((("body", "credentials", name), "is masked: send the secret itself"))
    if known.account and not account:
        raise Invalid((("body", "credentials", known.account), "is masked: send it whole"))
    made = await connections.create(
        request.control,
        request.actor,
        provider=known.provider,
        secrets=secrets,
        provider_account=account,
        label=body.get("label", ""),
        details=_details(known, body, ("body",)),
    )
    return Answer(body=shown(made))


async def _update(request: ApiRequest) -> Answer:
    stored = await connections.get(request.control, request.actor, request.query.id)
    return Answer(body=shown(await _changed(request, stored, request.sent, ("body",))))


async def _add(request: ApiRequest) -> Answer:
    stored, pool = await _pool(request)
    sent = (request.sent or {}).get("phone_number")
    if sent is None:
        return Answer(body=shown(stored))
    number = phone_number(sent, ("body", "phone_number"))
    return await _with_pool(request, stored, [*(each for each in pool if each != number), number])


async def _remove(request: ApiRequest) -> Answer:
    stored, pool = await _pool(request)
    number = phone_number(request.sent["phone_number"], ("body", "phone_number"))
    if number not in pool:
        raise NotFound("phone_number: it is not in the steering pool of this connection")
    return await _with_pool(request, stored, [each for each in pool if each != number])


async def _pool(request: ApiRequest) -> tuple[Connection, list[str]]:
    stored = await connections.get(request.control, request.actor, request.query.id)
    if stored.provider == "openai":
        raise Conflict("a connection to OpenAI carries no calls, so it has no steering pool")
    return stored, list(stored.details.get("steering_pool", []))


async def _with_pool(request: ApiRequest, stored: Connection, pool: list[str]) -> Answer:
    details = {**stored.details, "steering_pool": pool}
    changed = await connections.update(request.control, request.actor, stored.id, details=details)
    return Answer(body=shown(changed))


_ONE: Final = root_of("AccountConnectionResponseModel", ANSWER)
_POOL: Final = "/v1/account_connections/{}_steering_pool"
OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/v1/account_connections",
        id="get_account_connection",
        summary="Get one account connection",
        tag="account_connections",
        handle=_get,
        scope="numbers:read",
        query=ById,
        answers={200: _ONE},
    ),
    Operation(
        method="GET",
        path="/v1/account_connections/list",
        id="list_account_connections",
        summary="List account connections",
        tag="account_connections",
        handle=_list,
        scope="numbers:read",
        query=PageQuery,
        answers={200: page_of("AccountConnectionPage", ANSWER)},
        description="Vocode's clients get those that they can read: Twilio's and OpenAI's.",
    ),
    Operation(
        method="POST",
        path="/v1/account_connections/create",
        id="create_account_connection",
        summary="Create one account connection",
        tag="account_connections",
        handle=_create,
        scope="numbers:write",
        body=root_of("AccountConnectionParamsRequest", Annotated[Any, OneOf(*_PARAMS)]),
        answers={200: _ONE},
        creates=True,
        description="Credentials are kept sealed; answers show their last four characters.",
    ),
    Operation(
        method="POST",
        path="/v1/account_connections/update",
        id="update_account_connection",
        summary="Update one account connection",
        tag="account_connections",
        handle=_update,
        scope="numbers:write",
        query=ById,
        body=root_of("AccountConnectionUpdateParamsRequest", Annotated[Any, OneOf(*_UPDATES)]),
        answers={200: _ONE},
        description="A credential that is sent back masked, as it was shown, stays as it is.",
    ),
    Operation(
        method="POST",
        path=_POOL.format("add_to"),
        id="add_to_steering_pool",
        summary="Add a number to the steering pool",
        tag="account_connections",
        handle=_add,
        scope="numbers:write",
        query=ById,
        body=SteeringPoolBody,
        body_required=False,
        answers={200: _ONE},
    ),
    Operation(
        method="POST",
        path=_POOL.format("remove_from"),
        id="remove_from_steering_pool",
        summary="Remove a number from the steering pool",
        tag="account_connections",
        handle=_remove,
        scope="numbers:write",
        query=ById,
        body=RemoveFromSteeringPoolRequest,
        answers={200: _ONE},
    ),
)

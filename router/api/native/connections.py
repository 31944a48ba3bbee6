"""Connections: the account's own credentials at Twilio and Telnyx, write-only."""

from datetime import datetime
from typing import Any, Final, Literal

from pydantic import Field

from router.api.native.shapes import BASE, Body, Listing, Paging, Shape, listing, shaped
from router.api.operation import Answer, ApiRequest, Operation
from router.control import connections
from router.control.model import Connection

_TAG: Final = "Connections"


class ConnectionShape(Shape):
    """Credentials at a provider, without the secrets."""

    id: str
    account_id: str
    provider: str
    label: str
    provider_account: str = Field(description="Twilio's Account SID; empty at Telnyx")
    details: dict[str, Any]
    secrets: dict[str, str] = Field(description="Each secret as `…` and its last four")
    is_default: bool = Field(description="Whether it is meant where none is named")
    created_at: datetime
    updated_at: datetime


class NewConnection(Body):
    """A connection to be made."""

    provider: Literal["twilio", "telnyx"]
    provider_account: str = Field("", description="Twilio: the Account SID, AC…")
    secrets: dict[str, str] = Field(
        description="Twilio: `auth_token`; Telnyx: `api_key`, `public_key`. Never shown again",
        max_length=20,
    )
    label: str = ""
    details: dict[str, Any] = Field(default_factory=dict)


class ConnectionChange(Body):
    """What is to change; what is absent stays, and so does a secret sent as it was shown."""

    provider_account: str | None = None
    secrets: dict[str, str] | None = Field(None, max_length=20)
    label: str | None = None
    details: dict[str, Any] | None = None


def _shape(connection: Connection) -> dict[str, Any]:
    return shaped(ConnectionShape, connection, secrets=connection.masked)


async def _create(request: ApiRequest) -> Answer:
    body: NewConnection = request.body
    connection = await connections.create(
        request.control,
        request.actor,
        provider=body.provider,
        secrets=body.secrets,
        provider_account=body.provider_account,
        label=body.label,
        details=body.details,
    )
    return Answer(status=201, body=_shape(connection))


async def _list(request: ApiRequest) -> Answer:
    paging: Paging = request.query
    page = await connections.list_(
        request.control, request.actor, offset=paging.offset, limit=paging.limit
    )
    return Answer(body=listing(page, paging, _shape))


async def _get(request: ApiRequest) -> Answer:
    found = await connections.get(request.control, request.actor, request.path["connection_id"])
    return Answer(body=_shape(found))


async def _update(request: ApiRequest) -> Answer:
    body: ConnectionChange = request.body
    connection = await connections.update(
        request.control,
        request.actor,
        request.path["connection_id"],
        secrets=body.secrets,
        provider_account=body.provider_account,
        label=body.label,
        details=body.details,
    )
    return Answer(body=_shape(connection))


async def _delete(request: ApiRequest) -> Answer:
    await connections.delete(request.control, request.actor, request.path["connection_id"])
    return Answer(status=204)


OPERATIONS: Final = [
    Operation(
        method="GET",
        path=f"{BASE}/connections",
        id="list_connections",
        summary="List connections, oldest first",
        tag=_TAG,
        handle=_list,
        scope="numbers:read",
        query=Paging,
        answers={200: Listing[ConnectionShape]},
    ),
    Operation(
        method="POST",
        path=f"{BASE}/connections",
        id="create_connection",
        summary="Create a connection",
        tag=_TAG,
        handle=_create,
        scope="numbers:write",
        body=NewConnection,
        answers={201: ConnectionShape},
        creates=True,
    ),
    Operation(
        method="GET",
        path=f"{BASE}/connections/{{connection_id}}",
        id="get_connection",
        summary="One connection",
        tag=_TAG,
        handle=_get,
        scope="numbers:read",
        answers={200: ConnectionShape},
    ),
    Operation(
        method="PATCH",
        path=f"{BASE}/connections/{{connection_id}}",
        id="update_connection",
        summary="Change a connection",
        tag=_TAG,
        handle=_update,
        scope="numbers:write",
        body=ConnectionChange,
        answers={200: ConnectionShape},
    ),
    Operation(
        method="DELETE",
        path=f"{BASE}/connections/{{connection_id}}",
        id="delete_connection",
        summary="Delete a connection that holds no number",
        tag=_TAG,
        handle=_delete,
        scope="numbers:write",
        answers={204: None},
    ),
]

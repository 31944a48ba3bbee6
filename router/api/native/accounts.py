"""Accounts and their plans, tokens, usage and the audit."""

from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from pydantic import Field

from router.api.native.shapes import BASE, Body, Listing, Paging, Shape, listing, shaped
from router.api.operation import Answer, ApiRequest, Operation
from router.control import accounts, audit, calls, tokens
from router.control.model import Account, AuditRow, Plan, Scope, Token

_MOST: Final = 2**31 - 1
Limit = Annotated[int, Field(ge=0, le=_MOST)]

# --- accounts


class PlanShape(Shape):
    """How much an account may have; null: no limit."""

    numbers: Limit | None = Field(description="Numbers that it holds")
    calls: Limit | None = Field(description="Calls at once")
    minutes: Limit | None = Field(description="Minutes in a calendar month, UTC")
    shared_carriers: bool = Field(
        description="Whether it buys through the operator's carriers where it has no connection"
    )


class AccountShape(Shape):
    """A tenant."""

    id: str
    name: str
    plan: PlanShape
    worker: str = Field(description="The LiveKit worker of its agents that name none")
    created_at: datetime
    updated_at: datetime


class PlanBody(Body):
    """What of a plan is given; null: no limit."""

    numbers: Limit | None = None
    calls: Limit | None = None
    minutes: Limit | None = None
    shared_carriers: bool = True


class NewAccount(Body):
    """An account to be made."""

    name: str = Field(
        description="1 to 64 of a-z, 0-9, - and _, unique", min_length=1, max_length=64
    )
    plan: PlanBody = PlanBody()
    worker: str = Field("", description="The LiveKit worker of its agents that name none")


class AccountChange(Body):
    """What is to change of an account; what is absent stays. Of `plan`, too."""

    name: str | None = Field(None, min_length=1, max_length=64)
    plan: PlanBody | None = None
    worker: str | None = None


def account_shape(account: Account) -> dict[str, Any]:
    """As it is answered."""
    return shaped(AccountShape, account, plan=shaped(PlanShape, account.plan))


async def _create(request: ApiRequest) -> Answer:
    body: NewAccount = request.body
    account = await accounts.create(
        request.control,
        request.actor,
        name=body.name,
        plan=Plan(**body.plan.model_dump()),
        worker=body.worker,
    )
    return Answer(status=201, body=account_shape(account))


async def _list(request: ApiRequest) -> Answer:
    paging: Paging = request.query
    page = await accounts.list_(
        request.control, request.actor, offset=paging.offset, limit=paging.limit
    )
    return Answer(body=listing(page, paging, account_shape))


async def _get(request: ApiRequest) -> Answer:
    account = await accounts.get(request.control, request.actor, request.path["account"])
    return Answer(body=account_shape(account))


async def _update(request: ApiRequest) -> Answer:
    body: AccountChange = request.body
    account = await accounts.get(request.control, request.actor, request.path["account"])
    plan = None
    if body.plan is not None:
        given = body.plan.model_dump(include=body.plan.model_fields_set)
        plan = msgspec.structs.replace(account.plan, **given)
    account = await accounts.update(
        request.control, request.actor, account.id, plan=plan, worker=body.worker, name=body.name
    )
    return Answer(body=account_shape(account))


# --- tokens


class TokenShape(Shape):
    """A token, without the token."""

    id: str
    account_id: str
    label: str
    hint: str = Field(description="The token's last four characters")
    scopes: list[Scope]
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="To a minute or so")
    revoked_at: datetime | None
    created_at: datetime


class TokenMade(TokenShape):
    """A new token. `token` is shown here, once, and stored nowhere."""

    token: str


class Me(TokenShape):
    """The token that asks, and the name of its account."""

    account_name: str


class NewToken(Body):
    """A token to be made."""

    account: str | None = Field(None, description="Id or name; absent: your own account")
    scopes: list[Scope] = Field(
        description="`…:write` implies `…:read`, `admin` all", min_length=1, max_length=20
    )
    label: str = ""
    lifetime: float | None = Field(
        None, gt=0, le=100 * 365 * 86400, description="Seconds; null: until it is revoked"
    )


class TokensAsked(Paging):
    """Whose tokens."""

    account: str | None = Field(None, description="Id or name; absent: of all accounts")


def token_shape(token: Token) -> dict[str, Any]:
    """As it is answered."""
    return shaped(TokenShape, token)


async def _me(request: ApiRequest) -> Answer:
    account = await accounts.own(request.control, request.actor)
    token = await tokens.get(request.control, request.actor, request.actor.name)
    return Answer(body={**token_shape(token), "account_name": account.name})


async def _create_token(request: ApiRequest) -> Answer:
    body: NewToken = request.body
    token, secret = await tokens.create(
        request.control,
        request.actor,
        account=request.actor.account_id if body.account is None else body.account,
        scopes=body.scopes,
        label=body.label,
        lifetime=body.lifetime,
    )
    return Answer(status=201, body={**token_shape(token), "token": secret})


async def _list_tokens(request: ApiRequest) -> Answer:
    asked: TokensAsked = request.query
    page = await tokens.list_(
        request.control,
        request.actor,
        account=asked.account,
        offset=asked.offset,
        limit=asked.limit,
    )
    return Answer(body=listing(page, asked, token_shape))


async def _get_token(request: ApiRequest) -> Answer:
    token = await tokens.get(request.control, request.actor, request.path["token_id"])
    return Answer(body=token_shape(token))


async def _revoke_token(request: ApiRequest) -> Answer:
    token = await tokens.revoke(request.control, request.actor, request.path["token_id"])
    return Answer(body=token_shape(token))


# --- usage and the audit


class UsageShape(Shape):
    """What the account used in the present calendar month (UTC); limits are null for none."""

    minutes: float
    minutes_limit: int | None
    calls: int
    numbers: int = Field(description="That it holds now, or is buying")
    numbers_limit: int | None


class AuditShape(Shape):
    """A change: who made it, and what was before and after, without secrets."""

    id: int
    account_id: str
    actor: str = Field(description="A token's id, or `command line`")
    action: str = Field(description="What happened: `number.bought`")
    object_id: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    request_id: str = Field(description="The `X-Request-Id` of the request that made it")
    created_at: datetime


class AuditAsked(Paging):
    """Which changes."""

    object_id: str = Field("", description="Of one thing alone")
    everybody: bool = Field(False, description="Of all accounts: for the scope `admin`")


async def _usage(request: ApiRequest) -> Answer:
    used = await calls.usage(request.control, request.actor)
    return Answer(body=shaped(UsageShape, used))


async def _audit(request: ApiRequest) -> Answer:
    asked: AuditAsked = request.query
    page = await audit.list_(
        request.control,
        request.actor,
        everybody=asked.everybody,
        object_id=asked.object_id,
        offset=asked.offset,
        limit=asked.limit,
    )
    return Answer(body=listing(page, asked, _audit_shape))


def _audit_shape(row: AuditRow) -> dict[str, Any]:
    return shaped(AuditShape, row)


_ADMIN: Final[Scope] = "admin"

OPERATIONS: Final = [
    Operation(
        method="GET",
        path=f"{BASE}/me",
        id="get_me",
        summary="The token that asks",
        tag="Accounts",
        handle=_me,
        scope=None,
        answers={200: Me},
    ),
    Operation(
        method="GET",
        path=f"{BASE}/accounts",
        id="list_accounts",
        summary="List accounts, by name",
        tag="Accounts",
        handle=_list,
        scope=_ADMIN,
        query=Paging,
        answers={200: Listing[AccountShape]},
    ),
    Operation(
        method="POST",
        path=f"{BASE}/accounts",
        id="create_account",
        summary="Create an account",
        tag="Accounts",
        handle=_create,
        scope=_ADMIN,
        body=NewAccount,
        answers={201: AccountShape},
        creates=True,
    ),
    Operation(
        method="GET",
        path=f"{BASE}/accounts/{{account}}",
        id="get_account",
        summary="One account, by id or name",
        tag="Accounts",
        handle=_get,
        scope=_ADMIN,
        answers={200: AccountShape},
    ),
    Operation(
        method="PATCH",
        path=f"{BASE}/accounts/{{account}}",
        id="update_account",
        summary="Change an account",
        tag="Accounts",
        handle=_update,
        scope=_ADMIN,
        body=AccountChange,
        answers={200: AccountShape},
    ),
    Operation(
        method="GET",
        path=f"{BASE}/tokens",
        id="list_tokens",
        summary="List tokens, newest first",
        tag="Tokens",
        handle=_list_tokens,
        scope=_ADMIN,
        query=TokensAsked,
        answers={200: Listing[TokenShape]},
    ),
    Operation(
        method="POST",
        path=f"{BASE}/tokens",
        id="create_token",
        summary="Create a token",
        tag="Tokens",
        handle=_create_token,
        scope=_ADMIN,
        body=NewToken,
        answers={201: TokenMade},
        creates=True,
        description="The token is in this answer alone: keep it, it can't be shown again.",
    ),
    Operation(
        method="GET",
        path=f"{BASE}/tokens/{{token_id}}",
        id="get_token",
        summary="One token",
        tag="Tokens",
        handle=_get_token,
        scope=_ADMIN,
        answers={200: TokenShape},
    ),
    Operation(
        method="DELETE",
        path=f"{BASE}/tokens/{{token_id}}",
        id="revoke_token",
        summary="Revoke a token, on every node at once",
        tag="Tokens",
        handle=_revoke_token,
        scope=_ADMIN,
        answers={200: TokenShape},
    ),
    Operation(
        method="GET",
        path=f"{BASE}/usage",
        id="get_usage",
        summary="What the account used this month",
        tag="Accounts",
        handle=_usage,
        scope="calls:read",
        answers={200: UsageShape},
    ),
    Operation(
        method="GET",
        path=f"{BASE}/audit",
        id="list_audit",
        summary="Who changed what, newest first",
        tag="Accounts",
        handle=_audit,
        scope=_ADMIN,
        query=AuditAsked,
        answers={200: Listing[AuditShape]},
    ),
]

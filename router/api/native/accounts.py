"""Accounts, tokens, usage and the audit."""

from pydantic import Field

from router.api.native.shapes import BASE, Shape
from router.api.operation import Answer, ApiRequest, Operation
from router.control import accounts, tokens
from router.control.model import Scope


class Me(Shape):
    """Whose token this is."""

    account_id: str
    account_name: str
    token_id: str
    scopes: list[Scope] = Field(description="`…:write` implies `…:read`, `admin` all")


async def _me(request: ApiRequest) -> Answer:
    account = await accounts.own(request.control, request.actor)
    token = await tokens.get(request.control, request.actor, request.actor.name)
    return Answer(
        body={
            "account_id": account.id,
            "account_name": account.name,
            "token_id": token.id,
            "scopes": token.scopes,
        }
    )


OPERATIONS = [
    Operation(
        method="GET",
        path=f"{BASE}/me",
        id="get_me",
        summary="Whose token this is",
        tag="Accounts",
        handle=_me,
        scope=None,
        answers={200: Me},
    ),
]

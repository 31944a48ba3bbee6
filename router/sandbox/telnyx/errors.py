"""What Telnyx's API refuses, by its error codes: `{"errors": [{code, title, detail, source}]}`.

Source: developers.telnyx.com/development/api-fundamentals/api-errors and the examples of the 422
response of the call commands in its OpenAPI.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from router.errors import SwitchboardError


class Kind(NamedTuple):
    """An error as Telnyx lists it."""

    status: int  # HTTP
    code: str
    title: str


UNAUTHENTICATED: Final = Kind(401, "10009", "Authentication failed")
NOT_FOUND: Final = Kind(404, "10005", "Resource not found")
NOT_JSON: Final = Kind(400, "10015", "Bad Request")
MISSING: Final = Kind(422, "10004", "Missing required parameter")
INVALID: Final = Kind(422, "10015", "Bad Request")
NOT_E164: Final = Kind(422, "10016", "Phone number must be in +E164 format")
NOT_IN_LIST: Final = Kind(422, "10032", "Invalid enumerated value")
OUT_OF_RANGE: Final = Kind(422, "10033", "Value outside of range")
INVALID_URL: Final = Kind(422, "10003", "Invalid URL")
DUPLICATE: Final = Kind(422, "10012", "Duplicate resource")
NO_SUCH_ASSOCIATE: Final = Kind(422, "10017", "Associated resource does not exist")
IN_USE: Final = Kind(422, "10021", "Resource in use")
TOO_MANY: Final = Kind(429, "10011", "Too many requests")
INVALID_CALL: Final = Kind(422, "90015", "Invalid Call Control ID")
ENDED: Final = Kind(422, "90018", "Call has already ended")
UNANSWERED: Final = Kind(422, "90034", "Call not answered yet")

# What msgspec says of a body → what Telnyx calls it.
_REASONS: Final[Mapping[str, Kind]] = {
    "missing required field": MISSING,
    "Invalid enum value": NOT_IN_LIST,
    "Expected `int` <": OUT_OF_RANGE,
    "Expected `int` >": OUT_OF_RANGE,
}


class ApiError(SwitchboardError):
    """A refused request. The detail never holds a value of it."""

    def __init__(self, kind: Kind, detail: str, *, pointer: str = "") -> None:
        super().__init__(f"{kind.code}: {detail}")
        self.kind = kind
        self._detail = detail
        self._pointer = pointer  # JSON pointer to what is wrong

    def body(self) -> dict[str, Any]:
        """What the API answers."""
        error: dict[str, Any] = {
            "code": self.kind.code,
            "title": self.kind.title,
            "detail": self._detail,
        }
        if self._pointer:
            error["source"] = {"pointer": self._pointer}
        return {"errors": [error]}


def of_validation(error: msgspec.ValidationError) -> ApiError:
    """The error for a body that is not what the command takes."""
    text = str(error)
    kind = next((kind for said, kind in _REASONS.items() if said in text), INVALID)
    return ApiError(kind, text)


def fault(status: int) -> dict[str, Any]:
    """What the API says of a trouble of its own."""
    kind = TOO_MANY if status == TOO_MANY.status else Kind(status, "10007", "Unexpected error")
    return ApiError(kind, "Something went wrong.").body()

"""Twirp errors, as livekit-server answers them.

Source: Twirp wire protocol v7, "Error Codes"; messages observed on livekit-server 1.13.5.
"""

from typing import Final

from router.errors import SwitchboardError

HTTP_STATUS: Final = {
    "canceled": 408,
    "unknown": 500,
    "invalid_argument": 400,
    "malformed": 400,
    "deadline_exceeded": 408,
    "not_found": 404,
    "bad_route": 404,
    "already_exists": 409,
    "permission_denied": 403,
    "unauthenticated": 401,
    "resource_exhausted": 429,
    "failed_precondition": 412,
    "aborted": 409,
    "out_of_range": 400,
    "unimplemented": 501,
    "internal": 500,
    "unavailable": 503,
    "dataloss": 500,
}


class TwirpError(SwitchboardError):
    """Answered as JSON `{"code", "msg"}` with the code's HTTP status."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def invalid(message: str) -> TwirpError:
    """The request can't be right: `invalid_argument`."""
    return TwirpError("invalid_argument", message)


def from_rpc(code: str, message: str) -> TwirpError:
    """An error that the server got over its internal bus, which adds this prefix."""
    return TwirpError(code, "twirp error unknown: " + message)

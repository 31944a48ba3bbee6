"""What goes wrong with a webhook or a TwiML document, by Twilio's error codes.

Source: twilio.com/docs/api/errors. The fallback URL gets the code as `ErrorCode`.
"""

from typing import Any, Final

from router.errors import SwitchboardError

RETRIEVAL_FAILED: Final = 11200
CONNECTION_FAILED: Final = 11205
TOO_MANY_REDIRECTS: Final = 11215
ERROR_RESPONSE: Final = 11217
PARSE_FAILED: Final = 12100
SCHEMA_INVALID: Final = 12200
CONTENT_TYPE_INVALID: Final = 12300
NESTING_INVALID: Final = 13215
NUMBER_INVALID: Final = 13223
SIP_URI_INVALID: Final = 13243
TOO_MANY_TARGETS: Final = 13250


class TwilioError(SwitchboardError):
    """`code` is Twilio's; the message never holds a number or the document."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class RestError(SwitchboardError):
    """A request of the REST API that is refused."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.body = rest_error(status, code, message)


def rest_error(status: int, code: int, message: str) -> dict[str, Any]:
    """An error as the REST API answers it."""
    more_info = f"https://www.twilio.com/docs/errors/{code}"
    return {"code": code, "message": message, "more_info": more_info, "status": status}


_HTTP: Final = {
    429: (20429, "Too Many Requests"),
    500: (20500, "Internal Server Error"),
    503: (20503, "Service Unavailable"),
}


def fault(status: int) -> dict[str, Any]:
    """What the REST API says of a trouble of its own."""
    code, message = _HTTP.get(status, (status, "Something went wrong"))
    return rest_error(status, code, message)

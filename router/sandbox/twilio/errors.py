"""What goes wrong with a webhook or a TwiML document, by Twilio's error codes.

Source: twilio.com/docs/api/errors. The fallback URL gets the code as `ErrorCode`.
"""

from typing import Final

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

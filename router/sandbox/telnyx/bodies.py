"""What the commands take, strictly: a field that Telnyx has not is refused, and so is one whose
effect the sandbox does not have. Field names and limits: the call commands' OpenAPI.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

import msgspec

from router.events.phone import is_e164
from router.sandbox.telnyx.errors import INVALID, NOT_E164, ApiError, of_validation
from router.sandbox.twilio.errors import TwilioError
from router.sandbox.twilio.sip_uri import SipUri, parse_sip_uri

Seconds = Annotated[int, msgspec.Meta(ge=5, le=600)]
Limit = Annotated[int, msgspec.Meta(ge=30, le=14_400)]


class Header(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A SIP header."""

    name: str
    value: str


class Body(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What every command takes."""

    client_state: str | None = None
    command_id: str | None = None


class Answer(Body, frozen=True, kw_only=True):
    """POST …/actions/answer."""

    custom_headers: Sequence[Header] = ()


class Hangup(Body, frozen=True, kw_only=True):
    """POST …/actions/hangup."""

    custom_headers: Sequence[Header] = ()


class Reject(Body, frozen=True, kw_only=True):
    """POST …/actions/reject."""

    cause: Literal["CALL_REJECTED", "NOT_FOUND", "TEMPORARILY_UNAVAILABLE", "USER_BUSY"]


class Speak(Body, frozen=True, kw_only=True):
    """POST …/actions/speak. Speech takes no time in the sandbox."""

    payload: str
    voice: str
    language: str = ""
    payload_type: Literal["text", "ssml"] = "text"


class Transfer(Body, frozen=True, kw_only=True):
    """POST …/actions/transfer."""

    to: str
    from_: str = msgspec.field(name="from", default="")
    from_display_name: Annotated[str, msgspec.Meta(max_length=128)] = ""
    diversion: str = ""
    custom_headers: Sequence[Header] = ()
    sip_auth_username: str = ""
    sip_auth_password: str = ""
    sip_transport_protocol: Literal["UDP", "TCP", "TLS"] = "UDP"
    sip_region: Literal["US", "Europe", "Canada", "Australia", "Middle East"] = "US"
    target_leg_client_state: str | None = None
    time_limit_secs: Limit = 14_400
    timeout_secs: Seconds = 30

    def uri(self) -> SipUri | None:
        """The SIP URI of `to`, None where it is a number.

        Raises:
            ApiError: it is neither.
        """
        if not self.to.startswith(("sip:", "sips:")):
            return None
        try:
            return parse_sip_uri(self.to, self.sip_auth_username, self.sip_auth_password)
        except TwilioError as error:
            raise ApiError(INVALID, "'to' is not a SIP URI", pointer="/to") from error


Command = Answer | Hangup | Reject | Speak | Transfer

BODIES: Final[Mapping[str, type[Command]]] = {
    "answer": Answer,
    "hangup": Hangup,
    "reject": Reject,
    "speak": Speak,
    "transfer": Transfer,
}


def read(action: str, raw: bytes) -> Command:
    """The body of a command.

    Raises:
        ApiError: it is not what the command takes.
    """
    try:
        body: Command = msgspec.json.decode(raw or b"{}", type=BODIES[action])
    except msgspec.ValidationError as error:
        raise of_validation(error) from error
    except msgspec.DecodeError as error:
        raise ApiError(INVALID, "the body is not JSON") from error
    _check_state(body.client_state, "/client_state")
    if isinstance(body, Transfer):
        _check_state(body.target_leg_client_state, "/target_leg_client_state")
        if body.uri() is None and not is_e164(body.to):
            raise ApiError(NOT_E164, "'to' must be in E164 format", pointer="/to")
        if body.from_ and not is_e164(body.from_):
            raise ApiError(NOT_E164, "'from' must be in E164 format", pointer="/from")
    return body


def _check_state(text: str | None, pointer: str) -> None:
    try:
        base64.b64decode(text or "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(INVALID, "it must be base64", pointer=pointer) from error

"""The caller as LiveKit shows it in the room: identity, name and the `sip.*` attributes.

Source: protocol sip/sip.go (EvaluateDispatchRule), sip pkg/sip/participant.go.
"""

import hashlib
from typing import Final, Literal

from livekit.protocol.models import ParticipantInfo
from livekit.protocol.sip import SIPDispatchRuleInfo, SIPHeaderOptions, SIPInboundTrunkInfo

from router.sandbox.sip import Invite

_FROM_HEADERS: Final = {
    "x-twilio-callsid": "sip.twilio.callSid",
    "x-twilio-accountsid": "sip.twilio.accountSid",
    "x-call_leg_id": "sip.telnyx.callLegID",
    "x-call_session_id": "sip.telnyx.callSessionID",
}
_HIDDEN: Final = ("sip.phoneNumber", "sip.trunkPhoneNumber", "sip.hostname")


def participant_of(
    invite: Invite, trunk: SIPInboundTrunkInfo | None, rule: SIPDispatchRuleInfo, call: str
) -> ParticipantInfo:
    """The participant for a caller who hears ringing; `call` is LiveKit's id of the call."""
    identity, name = f"sip_{invite.from_user}", f"Phone {invite.from_user}"
    attributes = {
        **rule.attributes,
        "sip.callID": call,
        "sip.callStatus": "ringing",
        "sip.trunkID": trunk.sip_trunk_id if trunk is not None else "",
        "sip.ruleID": rule.sip_dispatch_rule_id,
        "sip.phoneNumber": invite.from_user,
        "sip.trunkPhoneNumber": invite.to_user,
        "sip.hostname": invite.source_ip,
        **_header_attributes(invite, trunk),
    }
    if rule.hide_phone_number:
        digest = hashlib.sha256(invite.from_user.encode()).hexdigest()
        identity, name = f"sip_{digest[:16]}", f"Phone {invite.from_user[-4:]}"
        attributes = {key: value for key, value in attributes.items() if key not in _HIDDEN}
    return ParticipantInfo(
        identity=identity,
        name=name,
        kind=ParticipantInfo.Kind.SIP,
        metadata=rule.metadata,
        attributes=attributes,
    )


def set_status(caller: ParticipantInfo, status: Literal["ringing", "active", "hangup"]) -> None:
    """Change `sip.callStatus`."""
    caller.attributes["sip.callStatus"] = status


def _header_attributes(invite: Invite, trunk: SIPInboundTrunkInfo | None) -> dict[str, str]:
    attributes: dict[str, str] = {}
    include = trunk.include_headers if trunk is not None else SIPHeaderOptions.SIP_NO_HEADERS
    mapped = {k.lower(): v for k, v in trunk.headers_to_attributes.items()} if trunk else {}
    for name, value in invite.headers.items():
        low = name.lower()
        if low in _FROM_HEADERS:
            attributes[_FROM_HEADERS[low]] = value
        if low in mapped:
            attributes[mapped[low]] = value
        if include == SIPHeaderOptions.SIP_ALL_HEADERS or (
            include == SIPHeaderOptions.SIP_X_HEADERS and low.startswith("x-")
        ):
            attributes[f"sip.h.{low}"] = value
    return attributes

"""What LiveKit refuses when trunks and dispatch rules are written.

Source: livekit-server 1.13.5 pkg/service/sip.go, protocol sip/sip.go (ValidateTrunks,
ValidateDispatchRules) and livekit/sip_validation.go; each message observed on the real server.

The trap that the conflict keys set: allowed addresses and credentials are no part of them, so a
project has at most one trunk without numbers, shared by all carriers.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from livekit.protocol.sip import SIPDispatchRuleInfo, SIPInboundTrunkInfo, SIPOutboundTrunkInfo

from router.sandbox.livekit.errors import TwirpError, invalid

_FORBIDDEN: Final = frozenset(
    {"call-id", "contact", "cseq", "event", "expires", "from", "max-forwards", "record-route"}
    | {"refer-to", "reply-to"}
    | set("klmortuv")  # the short forms
)
_FORBIDDEN_PREFIXES: Final = ("accept", "allow", "content-")
_NAME_LIMIT: Final = 255
_VALUE_LIMIT: Final = 1024
_IGNORED_IN_NUMBERS: Final = str.maketrans("", "", " -()")


def normalise(number: str) -> str:
    """`1 (555) 000-0001` → `+15550000001`; empty stays empty."""
    bare = number.translate(_IGNORED_IN_NUMBERS)
    return bare if not bare or bare.startswith("+") else "+" + bare


def check_inbound(trunk: SIPInboundTrunkInfo) -> None:
    """Raises TwirpError: the trunk would take calls from anybody, or has a forbidden header."""
    if not (trunk.auth_username or trunk.allowed_addresses or trunk.numbers):
        raise invalid(
            "for security, one of the fields must be set: "
            "AuthUsername+AuthPassword, AllowedAddresses or Numbers"
        )
    _check_headers(trunk.headers)


def check_outbound(trunk: SIPOutboundTrunkInfo) -> None:
    """Raises TwirpError: no numbers, or an address that is no bare host."""
    if not trunk.numbers:
        raise invalid("no trunk numbers specified")
    if not trunk.address:
        raise invalid("no outbound address specified")
    if "transport=" in trunk.address:
        raise invalid("trunk address should not contain transport parameter")
    if trunk.address.startswith(("sip:", "sips:")) or any(c in trunk.address for c in ";@"):
        raise invalid("trunk address should be a hostname or IP, not SIP URI")
    _check_headers(trunk.headers)


def check_rule(rule: SIPDispatchRuleInfo) -> None:
    """Raises TwirpError: the rule says nothing."""
    if rule.rule.WhichOneof("rule") is None:
        raise invalid("missing rule")


def check_trunk_conflicts(trunks: Iterable[SIPInboundTrunkInfo]) -> None:
    """Raises TwirpError: two trunks would take the same call."""
    owners: dict[tuple[str, str], SIPInboundTrunkInfo] = {}
    for trunk in trunks:
        for number in trunk.numbers or [""]:
            for allowed in trunk.allowed_numbers or [""]:
                key = (normalise(number), normalise(allowed))
                owner = owners.setdefault(key, trunk)
                if owner is not trunk:
                    raise _trunk_conflict(trunk, owner, allowed)


def check_rule_conflicts(rules: Iterable[SIPDispatchRuleInfo]) -> None:
    """Raises TwirpError: two rules, or one rule twice, would take the same call."""
    owners: dict[tuple[str, str, str, str], SIPDispatchRuleInfo] = {}
    for rule in rules:
        for key in _rule_keys(rule):
            if key in owners:
                owner = owners[key]
                raise invalid(
                    "Dispatch rule for the same trunk, inbound number, number, and PIN combination"
                    f" already exists in dispatch rule {_id(owner.sip_dispatch_rule_id)}"
                    f" {json.dumps(owner.name)}"
                )
            owners[key] = rule


def pin_and_room(info: SIPDispatchRuleInfo) -> tuple[str, str]:
    """The rule's PIN, and its room's name or prefix."""
    kind = info.rule.WhichOneof("rule")
    if kind == "dispatch_rule_direct":
        direct = info.rule.dispatch_rule_direct
        return direct.pin, direct.room_name
    if kind == "dispatch_rule_individual":
        individual = info.rule.dispatch_rule_individual
        return individual.pin, individual.room_prefix
    callee = info.rule.dispatch_rule_callee
    return callee.pin, callee.room_prefix


def _rule_keys(rule: SIPDispatchRuleInfo) -> Iterable[tuple[str, str, str, str]]:
    pin, _ = pin_and_room(rule)
    for trunk in rule.trunk_ids or [""]:
        for inbound in rule.inbound_numbers or [""]:
            for number in rule.numbers or [""]:
                yield pin, trunk, normalise(inbound), normalise(number)


def _trunk_conflict(
    trunk: SIPInboundTrunkInfo, owner: SIPInboundTrunkInfo, allowed: str
) -> TwirpError:
    which = f"and AllowedNumber {json.dumps(allowed)}" if allowed else "without AllowedNumbers set"
    return invalid(
        f"Conflicting inbound SIP Trunks: {_id(trunk.sip_trunk_id)} and {_id(owner.sip_trunk_id)},"
        f" using the same number(s) {_numbers(trunk.numbers)} {which}"
    )


def _id(text: str) -> str:
    return json.dumps(text or "<new>")


def _numbers(numbers: Sequence[str]) -> str:
    return "[" + " ".join(map(json.dumps, numbers)) + "]" if numbers else "<any>"


def _check_headers(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        low = name.lower()
        if len(name) > _NAME_LIMIT or low in _FORBIDDEN or low.startswith(_FORBIDDEN_PREFIXES):
            raise invalid(f"invalid header name: header name {name} not supported")
        if len(value) > _VALUE_LIMIT:
            raise invalid(
                f"invalid header value for {name}: header {name}:"
                f" value too long (max {_VALUE_LIMIT} characters)"
            )

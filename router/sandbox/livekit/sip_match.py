"""Which trunk and which rule take a call, and the room it goes to. Pure functions.

Source: protocol sip/sip.go (MatchTrunk, MatchDispatchRule, DispatchRulePriority,
EvaluateDispatchRule). The trap: trunks compare normalised numbers, rules compare exact strings.
"""

from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_network
from typing import Final

from livekit.protocol.sip import SIPDispatchRuleInfo, SIPInboundTrunkInfo

from router.sandbox.livekit.errors import TwirpError
from router.sandbox.livekit.ids import new_id
from router.sandbox.livekit.sip_rules import check_rule_conflicts, normalise, pin_and_room
from router.sandbox.sip import Invite

_KINDS: Final = ("dispatch_rule_direct", "dispatch_rule_individual", "dispatch_rule_callee")
_UNFILTERED: Final = 1000  # penalty of a rule that names no caller, or no called number


def match_trunk(
    trunks: Iterable[SIPInboundTrunkInfo], invite: Invite
) -> SIPInboundTrunkInfo | None:
    """The trunk that takes the call: one that lists the number beats one that lists none.

    Raises:
        TwirpError: `failed_precondition`, several would take it.
    """
    called = normalise(invite.to_user)
    specific: list[SIPInboundTrunkInfo] = []
    wildcard: list[SIPInboundTrunkInfo] = []
    for trunk in trunks:
        if not _caller_allowed(trunk, invite.from_user):
            continue
        if not _address_allowed(trunk, invite.source_ip):
            continue
        if not trunk.numbers:
            wildcard.append(trunk)
        elif called in map(normalise, trunk.numbers):
            specific.append(trunk)
    if len(specific) > 1:
        raise TwirpError("failed_precondition", "Multiple SIP Trunks matched for the number")
    if not specific and len(wildcard) > 1:
        raise TwirpError("failed_precondition", "Multiple default SIP Trunks matched")
    return next(iter(specific or wildcard), None)


def match_rule(
    rules: Iterable[SIPDispatchRuleInfo], trunk: SIPInboundTrunkInfo | None, invite: Invite
) -> SIPDispatchRuleInfo | None:
    """The best rule; those that name the trunk beat those that name none. None: drop the call.

    Without a trunk only rules that name none apply, and nobody asked for a password.

    Raises:
        TwirpError: rules that match contradict each other.
    """
    named: list[SIPDispatchRuleInfo] = []
    open_to_all: list[SIPDispatchRuleInfo] = []
    for rule in rules:
        if rule.inbound_numbers and invite.from_user not in rule.inbound_numbers:
            continue
        if rule.numbers and invite.to_user not in rule.numbers:
            continue
        if not rule.trunk_ids:
            open_to_all.append(rule)
        elif trunk is not None and trunk.sip_trunk_id in rule.trunk_ids:
            named.append(rule)
    best = named or open_to_all
    check_rule_conflicts(best)
    return min(best, key=_priority, default=None)


def room_name(rule: SIPDispatchRuleInfo, invite: Invite) -> str:
    """The room of the call: for a callee rule without prefix and randomness exactly the To user."""
    kind = rule.rule.WhichOneof("rule")
    _, name = pin_and_room(rule)
    if kind == "dispatch_rule_individual":
        return f"{name}_{invite.from_user}_{new_id()}"
    if kind == "dispatch_rule_callee":
        room = f"{name}_{invite.to_user}" if name else invite.to_user
        return f"{room}_{new_id()}" if rule.rule.dispatch_rule_callee.randomize else room
    return name


def _priority(rule: SIPDispatchRuleInfo) -> tuple[int, str]:
    pin, room = pin_and_room(rule)
    priority = _KINDS.index(rule.rule.WhichOneof("rule") or "")
    if not pin:
        priority += 100
    if not rule.inbound_numbers:
        priority += _UNFILTERED
    if not rule.numbers:
        priority += _UNFILTERED
    return priority, room


def _caller_allowed(trunk: SIPInboundTrunkInfo, caller: str) -> bool:
    allowed: Sequence[str] = trunk.allowed_numbers
    return not allowed or normalise(caller) in map(normalise, allowed)


def _address_allowed(trunk: SIPInboundTrunkInfo, source: str) -> bool:
    if not trunk.allowed_addresses:
        return True
    return any(_in_network(source, allowed) for allowed in trunk.allowed_addresses)


def _in_network(source: str, allowed: str) -> bool:
    try:
        return ip_address(source) in ip_network(allowed, strict=False)
    except ValueError:
        return False  # a host name: LiveKit compares it with the From host, which a carrier sets

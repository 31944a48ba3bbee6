"""The two LiveKit objects that carry every call, found or made at start.

ONE inbound trunk (no numbers, so it matches all; digest credentials, so scanners get nowhere) and
ONE callee rule on it (`randomize=false`, no prefix: the room is the SIP user, our call_id). They
are owned by name. Objects that are not ours are reported and never touched.

LiveKit lists, validates and stores without a lock, so two creates at once can both land: callers
hold the set-up lease (`router.storage.leader`), and the result is listed again afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from livekit import api

from router.errors import Permanent
from router.providers.livekit.client import LiveKitClient
from router.secrets import SipCredentials

NAME: Final = "switchboard"

Status = Literal["found", "created", "mended"]
T = TypeVar("T", api.SIPInboundTrunkInfo, api.SIPDispatchRuleInfo)


@dataclass(frozen=True, slots=True)
class Setup:
    """What is there now, and what had to be done."""

    trunk_id: str
    trunk: Status
    rule_id: str
    rule: Status


class SetupConflict(Permanent):
    """An object that is not ours is in the way; the message has its id and the mend."""


async def ensure(client: LiveKitClient, credentials: SipCredentials) -> Setup:
    """Find or make the trunk and the rule.

    Raises:
        SetupConflict: something foreign is in the way, or ours is there twice.
        Transient, Ambiguous, Permanent: of the calls; call again later, it finds what it made.
    """
    trunk_id, trunk = await _ensure_trunk(client, credentials)
    rule_id, rule = await _ensure_rule(client, trunk_id)
    return Setup(trunk_id, trunk, rule_id, rule)


async def inspect(client: LiveKitClient, credentials: SipCredentials) -> Sequence[str]:
    """What `ensure` would find missing or wrong, in words; empty when all is well."""
    trunk = _only(await _trunks(client), "trunk")
    rule = _only(await _rules(client), "dispatch rule")
    problems = []
    if trunk is None:
        problems.append(f'no inbound trunk named "{NAME}": it is made at the next start')
    elif not _same_credentials(trunk, credentials):
        problems.append(
            f"trunk {trunk.sip_trunk_id} has other credentials: mended at the next start"
        )
    if rule is None:
        problems.append(f'no dispatch rule named "{NAME}": it is made at the next start')
    elif trunk is not None and list(rule.trunk_ids) != [trunk.sip_trunk_id]:
        problems.append(f"rule {rule.sip_dispatch_rule_id} names another trunk")
    return problems


async def _ensure_trunk(client: LiveKitClient, credentials: SipCredentials) -> tuple[str, Status]:
    trunks = await _trunks(client)
    ours = _only(trunks, "trunk")
    if ours is not None:
        if _same_credentials(ours, credentials):
            return ours.sip_trunk_id, "found"
        ours.auth_username, ours.auth_password = credentials.username, credentials.password
        ours_id = ours.sip_trunk_id
        await client.call(lambda: client.sip.update_inbound_trunk(ours_id, ours))
        return ours_id, "mended"
    foreign = [t for t in trunks if not t.numbers and not t.allowed_numbers]
    if foreign:
        raise SetupConflict(
            f"LiveKit already has a wildcard inbound trunk that is not Switchboard's: "
            f"{_ids(foreign)}. A project can have only one: delete it, or rename it to "
            f'"{NAME}" to hand it over'
        )
    info = api.SIPInboundTrunkInfo(
        name=NAME,
        metadata='{"managed-by": "switchboard"}',
        auth_username=credentials.username,
        auth_password=credentials.password,
    )
    request = api.CreateSIPInboundTrunkRequest(trunk=info)
    created = await client.call(lambda: client.sip.create_inbound_trunk(request))
    _only(await _trunks(client), "trunk")
    return created.sip_trunk_id, "created"


async def _ensure_rule(client: LiveKitClient, trunk_id: str) -> tuple[str, Status]:
    rules = await _rules(client)
    ours = _only(rules, "dispatch rule")
    wanted = _rule(trunk_id)
    if ours is not None:
        rule_id = ours.sip_dispatch_rule_id
        if list(ours.trunk_ids) == [trunk_id] and ours.rule == wanted.rule:
            return rule_id, "found"
        await client.call(lambda: client.sip.update_dispatch_rule(rule_id, wanted))
        return rule_id, "mended"
    foreign = [r for r in rules if trunk_id in r.trunk_ids]
    if foreign:
        raise SetupConflict(
            f"dispatch rule {_ids(foreign)} names Switchboard's trunk {trunk_id}, but is not "
            f"Switchboard's: delete it, or take the trunk out of it"
        )
    request = api.CreateSIPDispatchRuleRequest(dispatch_rule=wanted)
    created = await client.call(lambda: client.sip.create_dispatch_rule(request))
    _only(await _rules(client), "dispatch rule")
    return created.sip_dispatch_rule_id, "created"


def _rule(trunk_id: str) -> api.SIPDispatchRuleInfo:
    callee = api.SIPDispatchRuleCallee(room_prefix="", randomize=False)
    return api.SIPDispatchRuleInfo(
        name=NAME,
        trunk_ids=[trunk_id],
        rule=api.SIPDispatchRule(dispatch_rule_callee=callee),
    )


async def _trunks(client: LiveKitClient) -> list[api.SIPInboundTrunkInfo]:
    request = api.ListSIPInboundTrunkRequest()
    return list((await client.call(lambda: client.sip.list_inbound_trunk(request))).items)


async def _rules(client: LiveKitClient) -> list[api.SIPDispatchRuleInfo]:
    request = api.ListSIPDispatchRuleRequest()
    return list((await client.call(lambda: client.sip.list_dispatch_rule(request))).items)


def _same_credentials(trunk: api.SIPInboundTrunkInfo, credentials: SipCredentials) -> bool:
    return (trunk.auth_username, trunk.auth_password) == (
        credentials.username,
        credentials.password,
    )


def _only(items: Sequence[T], what: str) -> T | None:
    ours = [item for item in items if item.name == NAME]
    if len(ours) > 1:
        raise SetupConflict(
            f'LiveKit has {len(ours)} {what}s named "{NAME}": {_ids(ours)}. Every call meets both '
            f"and is refused: delete all but one"
        )
    return ours[0] if ours else None


def _ids(items: Sequence[api.SIPInboundTrunkInfo] | Sequence[api.SIPDispatchRuleInfo]) -> str:
    return ", ".join(
        item.sip_trunk_id
        if isinstance(item, api.SIPInboundTrunkInfo)
        else item.sip_dispatch_rule_id
        for item in items
    )

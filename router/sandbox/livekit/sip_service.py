"""The SIP service: create, update, list, get and delete trunks and dispatch rules.

Deleting an unknown trunk succeeds, deleting an unknown rule does not; deleting a trunk leaves the
rules that name it. Lists are sorted by id and show passwords in clear; `page.limit` is ignored,
as livekit-server 1.13.5 does. Without Redis every call fails. Dialling out is not simulated.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message
from livekit.api.access_token import Claims
from livekit.protocol import sip

from router.sandbox.livekit import ids
from router.sandbox.livekit.errors import from_rpc, invalid
from router.sandbox.livekit.sip_rules import (
    check_inbound,
    check_outbound,
    check_rule,
    check_rule_conflicts,
    check_trunk_conflicts,
    normalise,
)
from router.sandbox.livekit.sip_store import Table
from router.sandbox.livekit.twirp import Method, Methods

Trunk = TypeVar("Trunk", sip.SIPInboundTrunkInfo, sip.SIPOutboundTrunkInfo)


class SipService:
    """Trunks and rules; the bridge matches calls against `inbound` and `rules`."""

    def __init__(self, *, redis: bool) -> None:
        self.redis = redis
        self.inbound: Table[sip.SIPInboundTrunkInfo] = Table(
            id_field="sip_trunk_id", prefix=ids.TRUNK, noun="trunk", what="trunk"
        )
        self.outbound: Table[sip.SIPOutboundTrunkInfo] = Table(
            id_field="sip_trunk_id", prefix=ids.TRUNK, noun="trunk", what="trunk"
        )
        self.rules: Table[sip.SIPDispatchRuleInfo] = Table(
            id_field="sip_dispatch_rule_id", prefix=ids.RULE, noun="rule", what="dispatch rule"
        )

    def methods(self) -> Methods:
        """The service's RPCs."""
        rpcs: dict[str, tuple[type[Message], Callable[[Any], Message]]] = {
            "CreateSIPInboundTrunk": (sip.CreateSIPInboundTrunkRequest, self._create_inbound),
            "UpdateSIPInboundTrunk": (sip.UpdateSIPInboundTrunkRequest, self._update_inbound),
            "ListSIPInboundTrunk": (sip.ListSIPInboundTrunkRequest, self._list_inbound),
            "GetSIPInboundTrunk": (sip.GetSIPInboundTrunkRequest, self._get_inbound),
            "CreateSIPOutboundTrunk": (sip.CreateSIPOutboundTrunkRequest, self._create_outbound),
            "UpdateSIPOutboundTrunk": (sip.UpdateSIPOutboundTrunkRequest, self._update_outbound),
            "ListSIPOutboundTrunk": (sip.ListSIPOutboundTrunkRequest, self._list_outbound),
            "GetSIPOutboundTrunk": (sip.GetSIPOutboundTrunkRequest, self._get_outbound),
            "DeleteSIPTrunk": (sip.DeleteSIPTrunkRequest, self._delete_trunk),
            "CreateSIPDispatchRule": (sip.CreateSIPDispatchRuleRequest, self._create_rule),
            "UpdateSIPDispatchRule": (sip.UpdateSIPDispatchRuleRequest, self._update_rule),
            "ListSIPDispatchRule": (sip.ListSIPDispatchRuleRequest, self._list_rules),
            "DeleteSIPDispatchRule": (sip.DeleteSIPDispatchRuleRequest, self._delete_rule),
        }
        return {
            f"SIP/{name}": Method(request, _sip_admin, self._needs_redis(handle))
            for name, (request, handle) in rpcs.items()
        }

    def _needs_redis(self, handle: Callable[[Any], Message]) -> Callable[[Any], Message]:
        def guarded(request: Message) -> Message:
            if not self.redis:
                raise from_rpc("internal", "sip not connected (redis required)")
            return handle(request)

        return guarded

    def _create_inbound(self, request: sip.CreateSIPInboundTrunkRequest) -> Message:
        if not request.HasField("trunk"):
            raise invalid("missing trunk")
        return self.inbound.insert(request.trunk, _check_inbound)

    def _update_inbound(self, request: sip.UpdateSIPInboundTrunkRequest) -> Message:
        return self.inbound.update(request, _check_inbound)

    def _list_inbound(self, request: sip.ListSIPInboundTrunkRequest) -> Message:
        trunks = self.inbound.list(request.trunk_ids, after=request.page.after_id)
        return sip.ListSIPInboundTrunkResponse(items=_with_numbers(trunks, request.numbers))

    def _get_inbound(self, request: sip.GetSIPInboundTrunkRequest) -> Message:
        return sip.GetSIPInboundTrunkResponse(trunk=self.inbound.load(request.sip_trunk_id))

    def _create_outbound(self, request: sip.CreateSIPOutboundTrunkRequest) -> Message:
        if not request.HasField("trunk"):
            raise invalid("missing trunk")
        return self.outbound.insert(request.trunk, _check_outbound)

    def _update_outbound(self, request: sip.UpdateSIPOutboundTrunkRequest) -> Message:
        return self.outbound.update(request, _check_outbound)

    def _list_outbound(self, request: sip.ListSIPOutboundTrunkRequest) -> Message:
        trunks = self.outbound.list(request.trunk_ids, after=request.page.after_id)
        return sip.ListSIPOutboundTrunkResponse(items=_with_numbers(trunks, request.numbers))

    def _get_outbound(self, request: sip.GetSIPOutboundTrunkRequest) -> Message:
        return sip.GetSIPOutboundTrunkResponse(trunk=self.outbound.load(request.sip_trunk_id))

    def _delete_trunk(self, request: sip.DeleteSIPTrunkRequest) -> Message:
        if not request.sip_trunk_id:
            raise invalid("trunk ID is required")
        self.inbound.rows.pop(request.sip_trunk_id, None)
        self.outbound.rows.pop(request.sip_trunk_id, None)
        return sip.SIPTrunkInfo(sip_trunk_id=request.sip_trunk_id)

    def _create_rule(self, request: sip.CreateSIPDispatchRuleRequest) -> Message:
        rule = request.dispatch_rule if request.HasField("dispatch_rule") else _deprecated(request)
        return self.rules.insert(rule, _check_rules)

    def _update_rule(self, request: sip.UpdateSIPDispatchRuleRequest) -> Message:
        return self.rules.update(request, _check_rules)

    def _list_rules(self, request: sip.ListSIPDispatchRuleRequest) -> Message:
        wanted = set(request.trunk_ids)
        rules = [
            rule
            for rule in self.rules.list(request.dispatch_rule_ids, after=request.page.after_id)
            if not wanted or not rule.trunk_ids or wanted.intersection(rule.trunk_ids)
        ]
        return sip.ListSIPDispatchRuleResponse(items=rules)

    def _delete_rule(self, request: sip.DeleteSIPDispatchRuleRequest) -> Message:
        info = self.rules.load(request.sip_dispatch_rule_id)
        del self.rules.rows[request.sip_dispatch_rule_id]
        return info


def _sip_admin(claims: Claims, _: Message) -> bool:
    return claims.sip is not None and claims.sip.admin


def _check_inbound(
    trunk: sip.SIPInboundTrunkInfo, others: Iterable[sip.SIPInboundTrunkInfo]
) -> None:
    check_inbound(trunk)
    check_trunk_conflicts([*others, trunk])


def _check_outbound(trunk: sip.SIPOutboundTrunkInfo, _: Iterable[sip.SIPOutboundTrunkInfo]) -> None:
    check_outbound(trunk)


def _check_rules(rule: sip.SIPDispatchRuleInfo, others: Iterable[sip.SIPDispatchRuleInfo]) -> None:
    check_rule(rule)
    check_rule_conflicts([*others, rule])


def _with_numbers(trunks: Sequence[Trunk], numbers: Sequence[str]) -> list[Trunk]:
    # A trunk without numbers takes every number, so the server lists it for each.
    wanted = {normalise(number) for number in numbers}
    return [
        t for t in trunks if not wanted or not t.numbers or wanted & set(map(normalise, t.numbers))
    ]


def _deprecated(request: sip.CreateSIPDispatchRuleRequest) -> sip.SIPDispatchRuleInfo:
    """The rule of a request in the old form, with the rule's fields in the request itself."""
    return sip.SIPDispatchRuleInfo(
        rule=request.rule,
        trunk_ids=request.trunk_ids,
        hide_phone_number=request.hide_phone_number,
        inbound_numbers=request.inbound_numbers,
        name=request.name,
        metadata=request.metadata,
        attributes=request.attributes,
        room_preset=request.room_preset,
        room_config=request.room_config if request.HasField("room_config") else None,
    )

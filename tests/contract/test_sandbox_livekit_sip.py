"""Trunks and dispatch rules of LiveKit's stand-in, asked with LiveKit's own client.

The same tests run against the real livekit-server where there is one: what the stand-in says is
what that server says.
"""

from collections.abc import AsyncIterator, Iterator

import pytest
from livekit.api import LiveKitAPI, ServerError
from livekit.protocol import sip
from livekit.protocol.models import ListUpdate, Pagination

from tests.support.sandbox_livekit import callee_rule
from tests.support.sandbox_livekit_real import BOTH, connected, real_server, refused
from tests.support.servers.livekit import LiveKit

ONE, TWO = "+15550000001", "+15550000002"
SECURITY = (
    "for security, one of the fields must be set: AuthUsername+AuthPassword, "
    "AllowedAddresses or Numbers"
)
RULE_CONFLICT = (
    "Dispatch rule for the same trunk, inbound number, number, and PIN combination already exists"
    ' in dispatch rule "{}" "{}"'
)


@pytest.fixture(scope="module")
def real() -> Iterator[LiveKit]:
    with real_server() as server:
        yield server


@pytest.fixture(params=BOTH)
async def lk(request: pytest.FixtureRequest) -> AsyncIterator[LiveKitAPI]:
    async with connected(request) as client:
        yield client


async def make_trunk(lk: LiveKitAPI, trunk: sip.SIPInboundTrunkInfo) -> sip.SIPInboundTrunkInfo:
    return await lk.sip.create_inbound_trunk(sip.CreateSIPInboundTrunkRequest(trunk=trunk))


async def make_rule(lk: LiveKitAPI, rule: sip.SIPDispatchRuleInfo) -> sip.SIPDispatchRuleInfo:
    request = sip.CreateSIPDispatchRuleRequest(dispatch_rule=rule)
    return await lk.sip.create_dispatch_rule(request)


async def replace_nothing(lk: LiveKitAPI, key: str) -> None:
    """An update without an action, which the client has no method for."""
    service = lk.sip
    await service._client.request(
        "SIP",
        "UpdateSIPInboundTrunk",
        sip.UpdateSIPInboundTrunkRequest(sip_trunk_id=key),
        service._admin_headers(),
        sip.SIPInboundTrunkInfo,
    )


TRUNK = sip.SIPInboundTrunkInfo
LIST = sip.ListSIPInboundTrunkRequest


@pytest.mark.parametrize(
    ("trunk", "message"),
    [
        (TRUNK(name="open"), SECURITY),
        (TRUNK(sip_trunk_id="ST_x", numbers=[ONE]), "trunk id must not be set"),
        (
            TRUNK(numbers=[ONE], headers={"From": "x"}),
            "invalid header name: header name From not supported",
        ),
        (
            TRUNK(numbers=[ONE], headers={"X-A": "x" * 1025}),
            "invalid header value for X-A: header X-A: value too long (max 1024 characters)",
        ),
    ],
)
async def test_an_inbound_trunk_that_is_refused(
    lk: LiveKitAPI, trunk: sip.SIPInboundTrunkInfo, message: str
) -> None:
    with refused("invalid_argument", message):
        await make_trunk(lk, trunk)


OUT = sip.SIPOutboundTrunkInfo
NO_URI = "trunk address should be a hostname or IP, not SIP URI"
NO_TRANSPORT = "trunk address should not contain transport parameter"


@pytest.mark.parametrize(
    ("trunk", "message"),
    [
        (OUT(address="sip.example"), "no trunk numbers specified"),
        (OUT(numbers=[ONE]), "no outbound address specified"),
        (OUT(numbers=[ONE], address="sip:sip.example"), NO_URI),
        (OUT(numbers=[ONE], address="user@sip.example"), NO_URI),
        (OUT(numbers=[ONE], address="sip.example;transport=tcp"), NO_TRANSPORT),
    ],
)
async def test_an_outbound_trunk_that_is_refused(
    lk: LiveKitAPI, trunk: sip.SIPOutboundTrunkInfo, message: str
) -> None:
    with refused("invalid_argument", message):
        await lk.sip.create_outbound_trunk(sip.CreateSIPOutboundTrunkRequest(trunk=trunk))


async def test_there_is_one_wildcard_trunk_whatever_protects_it(lk: LiveKitAPI) -> None:
    first = await make_trunk(lk, TRUNK(auth_username="a", auth_password="b"))
    with pytest.raises(ServerError) as caught:
        await make_trunk(lk, TRUNK(allowed_addresses=["192.0.2.1"]))
    assert caught.value.code == "invalid_argument"
    message = caught.value.message
    assert message.startswith("Conflicting inbound SIP Trunks: ")
    assert message.endswith("using the same number(s) <any> without AllowedNumbers set")
    # The server compares in an order of its own, so either may come first.
    assert f'"{first.sip_trunk_id}"' in message
    assert '"<new>"' in message


async def test_two_trunks_with_one_number_conflict_in_any_spelling(lk: LiveKitAPI) -> None:
    await make_trunk(lk, TRUNK(numbers=[ONE]))
    with pytest.raises(ServerError, match="without AllowedNumbers set"):
        await make_trunk(lk, TRUNK(numbers=["1 (555) 000-0001"]))


async def test_allowed_numbers_part_trunks_and_conflict_among_themselves(lk: LiveKitAPI) -> None:
    await make_trunk(lk, TRUNK(numbers=[ONE]))
    await make_trunk(lk, TRUNK(numbers=[ONE], allowed_numbers=[TWO]))
    with pytest.raises(ServerError, match=rf'and AllowedNumber "\{TWO}"'):
        await make_trunk(lk, TRUNK(numbers=[ONE], allowed_numbers=[TWO]))


async def test_lists_filter_show_passwords_and_have_no_limit(lk: LiveKitAPI) -> None:
    wild = await make_trunk(lk, TRUNK(auth_username="a", auth_password="b"))
    one = await make_trunk(lk, TRUNK(numbers=[ONE]))
    await make_trunk(lk, TRUNK(numbers=[TWO]))

    async def listed(request: sip.ListSIPInboundTrunkRequest | None = None) -> list[str]:
        answer = await lk.sip.list_inbound_trunk(request or LIST())
        assert all(t.auth_password == "b" for t in answer.items if t.auth_username)
        return [trunk.sip_trunk_id for trunk in answer.items]

    everything = await listed()
    assert everything == sorted(everything)
    assert len(everything) == 3
    assert set(await listed(LIST(numbers=[ONE]))) == {wild.sip_trunk_id, one.sip_trunk_id}
    assert await listed(LIST(trunk_ids=[one.sip_trunk_id, "ST_unknown"])) == [one.sip_trunk_id]
    behind = Pagination(after_id=everything[0], limit=1)  # nobody looks at the limit
    assert await listed(LIST(page=behind)) == everything[1:]


async def test_fields_are_updated_one_by_one(lk: LiveKitAPI) -> None:
    trunk = await make_trunk(lk, TRUNK(name="old", numbers=[ONE], metadata="kept"))
    key = trunk.sip_trunk_id
    changed = await lk.sip.update_inbound_trunk_fields(
        key, name="new", numbers=ListUpdate(add=[TWO], remove=[ONE])
    )
    assert (changed.name, list(changed.numbers), changed.metadata) == ("new", [TWO], "kept")
    with refused("invalid_argument", "unsupported list update operation"):
        await lk.sip.update_inbound_trunk_fields(key, numbers=[])
    with refused("invalid_argument", "cannot set and change the list at the same time"):
        await lk.sip.update_inbound_trunk_fields(key, numbers=ListUpdate(set=[ONE], add=[TWO]))
    with refused("not_found", "requested sip trunk does not exist"):
        await lk.sip.update_inbound_trunk_fields("ST_unknown", name="x")


async def test_a_replace_is_checked_like_a_create(lk: LiveKitAPI) -> None:
    trunk = await make_trunk(lk, TRUNK(numbers=[ONE], name="old"))
    key = trunk.sip_trunk_id
    assert (await lk.sip.update_inbound_trunk(key, TRUNK(numbers=[TWO]))).name == ""
    with refused("invalid_argument", SECURITY):
        await lk.sip.update_inbound_trunk(key, TRUNK(name="open"))
    with refused(
        "invalid_argument", "trunk id in the info must be empty or match the id in the update"
    ):
        await lk.sip.update_inbound_trunk(key, TRUNK(sip_trunk_id="ST_x", numbers=[ONE]))
    with refused("invalid_argument", "missing or unsupported update action"):
        await replace_nothing(lk, key)


async def test_deleting_an_unknown_trunk_succeeds_an_unknown_rule_not(lk: LiveKitAPI) -> None:
    await lk.sip.delete_trunk(sip.DeleteSIPTrunkRequest(sip_trunk_id="ST_unknown"))
    with refused("not_found", "requested sip dispatch rule does not exist"):
        await lk.sip.delete_dispatch_rule(
            sip.DeleteSIPDispatchRuleRequest(sip_dispatch_rule_id="SDR_unknown")
        )


async def test_deleting_a_trunk_leaves_its_rules(lk: LiveKitAPI) -> None:
    trunk = await make_trunk(lk, TRUNK(numbers=[ONE]))
    await make_rule(lk, sip.SIPDispatchRuleInfo(rule=callee_rule(), trunk_ids=[trunk.sip_trunk_id]))
    await lk.sip.delete_trunk(sip.DeleteSIPTrunkRequest(sip_trunk_id=trunk.sip_trunk_id))
    rules = await lk.sip.list_dispatch_rule(sip.ListSIPDispatchRuleRequest())
    assert [list(rule.trunk_ids) for rule in rules.items] == [[trunk.sip_trunk_id]]


async def test_rules_conflict_on_pin_trunk_caller_and_number(lk: LiveKitAPI) -> None:
    rule = sip.SIPDispatchRuleInfo(name="first", rule=callee_rule(), trunk_ids=["ST_a"])
    made = await make_rule(lk, rule)
    with refused("invalid_argument", RULE_CONFLICT.format(made.sip_dispatch_rule_id, "first")):
        await make_rule(lk, rule)
    for other in (
        sip.SIPDispatchRuleInfo(rule=callee_rule(), trunk_ids=["ST_b"]),
        sip.SIPDispatchRuleInfo(rule=callee_rule(), trunk_ids=["ST_a"], numbers=[ONE]),
        sip.SIPDispatchRuleInfo(rule=callee_rule(), trunk_ids=["ST_a"], inbound_numbers=[ONE]),
    ):
        await make_rule(lk, other)
    pinned = sip.SIPDispatchRule(dispatch_rule_callee=sip.SIPDispatchRuleCallee(pin="1"))
    await make_rule(lk, sip.SIPDispatchRuleInfo(rule=pinned, trunk_ids=["ST_a"]))


async def test_a_rule_with_both_spellings_of_a_number_conflicts_with_itself(
    lk: LiveKitAPI,
) -> None:
    rule = sip.SIPDispatchRuleInfo(
        name="both", rule=callee_rule(), trunk_ids=["ST_a"], numbers=[ONE, ONE[1:]]
    )
    with refused("invalid_argument", RULE_CONFLICT.format("<new>", "both")):
        await make_rule(lk, rule)


async def test_a_rule_needs_a_rule_and_no_id(lk: LiveKitAPI) -> None:
    with refused("invalid_argument", "missing rule"):
        await make_rule(lk, sip.SIPDispatchRuleInfo(name="empty"))
    with refused("invalid_argument", "rule id must not be set"):
        await make_rule(
            lk, sip.SIPDispatchRuleInfo(sip_dispatch_rule_id="SDR_x", rule=callee_rule())
        )


async def test_attributes_of_a_rule_are_merged_and_emptied(lk: LiveKitAPI) -> None:
    made = await make_rule(
        lk, sip.SIPDispatchRuleInfo(rule=callee_rule(), attributes={"a": "1", "b": "2"})
    )
    changed = await lk.sip.update_dispatch_rule_fields(
        made.sip_dispatch_rule_id, attributes={"a": "", "c": "3"}
    )
    assert dict(changed.attributes) == {"b": "2", "c": "3"}


async def test_outbound_trunks_live_beside_inbound_ones(lk: LiveKitAPI) -> None:
    request = sip.CreateSIPOutboundTrunkRequest(trunk=OUT(address="sip.example", numbers=[ONE]))
    made = await lk.sip.create_outbound_trunk(request)
    inbound = await make_trunk(lk, TRUNK(numbers=[ONE]))
    changed = await lk.sip.update_outbound_trunk_fields(made.sip_trunk_id, name="new")
    assert (changed.name, changed.address) == ("new", "sip.example")
    with refused("not_found", "requested sip trunk does not exist"):
        await lk.sip.update_outbound_trunk_fields(inbound.sip_trunk_id, name="x")
    listed = await lk.sip.list_outbound_trunk(sip.ListSIPOutboundTrunkRequest(numbers=[TWO]))
    assert not listed.items
    await lk.sip.delete_trunk(sip.DeleteSIPTrunkRequest(sip_trunk_id=made.sip_trunk_id))
    listed = await lk.sip.list_outbound_trunk(sip.ListSIPOutboundTrunkRequest())
    assert not listed.items
    with refused("invalid_argument", "trunk ID is required"):
        await lk.sip.delete_trunk(sip.DeleteSIPTrunkRequest())


async def test_rules_are_listed_by_trunk_and_replaced_whole(lk: LiveKitAPI) -> None:
    rule = sip.SIPDispatchRuleInfo(name="a", rule=callee_rule(), trunk_ids=["ST_a"])
    made = await make_rule(lk, rule)
    await make_rule(lk, sip.SIPDispatchRuleInfo(rule=callee_rule(), trunk_ids=["ST_b"]))
    request = sip.ListSIPDispatchRuleRequest(trunk_ids=["ST_a"])
    listed = await lk.sip.list_dispatch_rule(request)
    assert [found.name for found in listed.items] == ["a"]
    replaced = await lk.sip.update_dispatch_rule(
        made.sip_dispatch_rule_id, sip.SIPDispatchRuleInfo(rule=callee_rule(), trunk_ids=["ST_c"])
    )
    assert (replaced.name, list(replaced.trunk_ids)) == ("", ["ST_c"])
    assert replaced.sip_dispatch_rule_id == made.sip_dispatch_rule_id

"""The SIP bridge: what livekit-sip 1.8.0 does with an INVITE.

1. A trunk takes the call. Several: 503. None: it goes on without authentication.
2. The trunk has a user and a password: 407, and 401 for wrong ones.
3. A rule names the room. Contradicting rules: 503. None: the call is dropped, the caller hears
   ringing and never gets a final answer.
4. The caller joins the room, which starts if absent, and hears ringing (180).
5. An agent's audio is in the room: 200. Not within the ringing timeout (3 min): 486.
6. Either side leaves, or the room ends: the other side gets BYE.
"""

import hmac
from typing import Final

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from livekit.api.access_token import Claims
from livekit.protocol import sip as proto
from livekit.protocol.models import ParticipantInfo, TrackType
from livekit.protocol.room import RoomConfiguration
from livekit.protocol.sip import SIPDispatchRuleInfo, SIPInboundTrunkInfo

from router.clock import Clock
from router.sandbox.livekit import ids
from router.sandbox.livekit.errors import TwirpError, from_rpc, invalid
from router.sandbox.livekit.rooms import LiveRoom, Rooms
from router.sandbox.livekit.sip_match import match_rule, match_trunk, room_name
from router.sandbox.livekit.sip_participant import participant_of, set_status
from router.sandbox.livekit.sip_rules import pin_and_room
from router.sandbox.livekit.sip_service import SipService
from router.sandbox.livekit.twirp import Method, Methods
from router.sandbox.sip import Invite, Leg
from router.sandbox.tasks import Tasks, happens_within

_UNAUTHORIZED: Final = 401
_PROXY_AUTHENTICATION_REQUIRED: Final = 407
_REJECTED: Final = 486
_NOT_IMPLEMENTED: Final = 501
_UNAVAILABLE: Final = 503
_RINGING_TIMEOUT: Final = 180.0
_MAX_CALL_DURATION: Final = 24 * 3600.0


class Bridge:
    """Takes INVITEs and puts their callers into rooms."""

    def __init__(self, sip: SipService, rooms: Rooms, clock: Clock, tasks: Tasks) -> None:
        self._sip, self._rooms, self._clock, self._tasks = sip, rooms, clock, tasks
        self._legs: dict[str, Leg] = {}  # by the participant's sid

    def methods(self) -> Methods:
        """The RPC that is about a call and not about trunks and rules."""
        transfer = Method(proto.TransferSIPParticipantRequest, _may_transfer, self._transfer)
        return {"SIP/TransferSIPParticipant": transfer}

    def _transfer(self, request: proto.TransferSIPParticipantRequest) -> Message:
        if not request.transfer_to.startswith(("tel:", "sip:", "sips:")):
            raise invalid("transfer_to must be a tel: or sip: URI")
        room = self._rooms.get(request.room_name)
        who = room.participants.get(request.participant_identity) if room is not None else None
        leg = self._legs.get(who.sid) if who is not None else None
        if leg is None:
            raise from_rpc("not_found", "participant does not exist")
        if not leg.refer(request.transfer_to):
            raise from_rpc("permission_denied", "call transfer failed: INVITE 603")
        return Empty()

    def invite(self, invite: Invite) -> Leg:
        """Take a call; the leg tells how it goes.

        Raises:
            SandboxFull: too many calls at once.
        """
        leg = Leg()
        self._tasks.spawn(self._take(invite, leg))
        return leg

    async def _take(self, invite: Invite, leg: Leg) -> None:
        if not self._sip.redis:
            leg.refuse(_UNAVAILABLE)  # the bridge does not even start: a transport error
            return
        try:
            trunk = match_trunk(self._sip.inbound.rows.values(), invite)
            refusal = _authenticate(trunk, invite)
            if refusal:
                leg.refuse(refusal)
                return
            rule = match_rule(self._sip.rules.rows.values(), trunk, invite)
            if rule is None:
                leg.ring()  # and nothing else, ever
                return
            await self._connect(invite, leg, trunk, rule)
        except TwirpError:
            leg.refuse(_UNAVAILABLE)

    async def _connect(
        self,
        invite: Invite,
        leg: Leg,
        trunk: SIPInboundTrunkInfo | None,
        rule: SIPDispatchRuleInfo,
    ) -> None:
        if pin_and_room(rule)[0]:
            leg.refuse(_NOT_IMPLEMENTED)  # asking for a PIN by keypad is not simulated
            return
        config = rule.room_config if rule.HasField("room_config") else RoomConfiguration()
        room = self._rooms.open(room_name(rule, invite), config)
        caller = participant_of(invite, trunk, rule, ids.new_id(ids.CALL))
        self._rooms.join(room, caller)
        self._rooms.publish_audio(room, caller)
        leg.room = room.name
        self._legs[caller.sid] = leg
        leg.ring()
        try:
            await self._talk(leg, room, caller, trunk)
        finally:
            self._legs.pop(caller.sid, None)
            set_status(caller, "hangup")
            if room.has(caller.identity, caller.sid):
                self._rooms.leave(room, caller.identity)

    async def _talk(
        self, leg: Leg, room: LiveRoom, caller: ParticipantInfo, trunk: SIPInboundTrunkInfo | None
    ) -> None:
        def gone() -> bool:
            return leg.is_ended or not room.has(caller.identity, caller.sid)

        self._tasks.spawn(_wake(room, leg))
        ringing = trunk.ringing_timeout.ToSeconds() if trunk is not None else 0
        heard = room.changed.until(lambda: gone() or _somebody_to_hear(room, caller))
        if not await happens_within(self._clock, ringing or _RINGING_TIMEOUT, heard) or gone():
            leg.refuse(_REJECTED)
            return
        set_status(caller, "active")
        leg.answer()
        limit = trunk.max_call_duration.ToSeconds() if trunk is not None else 0
        over = room.changed.until(gone)
        await happens_within(self._clock, limit or _MAX_CALL_DURATION, over)
        leg.bye()


async def _wake(room: LiveRoom, leg: Leg) -> None:
    """Let who waits for the room notice that the leg ended; every leg here ends."""
    await leg.ended()
    room.changed.fire()


def _may_transfer(claims: Claims, request: proto.TransferSIPParticipantRequest) -> bool:
    video, sip = claims.video, claims.sip
    is_admin = video is not None and video.room_admin and video.room == request.room_name
    return bool(is_admin and sip is not None and sip.call)


def _authenticate(trunk: SIPInboundTrunkInfo | None, invite: Invite) -> int:
    """The refusal of a caller who can't authenticate, 0 for none."""
    if trunk is None or not (trunk.auth_username and trunk.auth_password):
        return 0
    if not invite.username:
        return _PROXY_AUTHENTICATION_REQUIRED
    given = f"{invite.username}\0{invite.password}".encode()
    expected = f"{trunk.auth_username}\0{trunk.auth_password}".encode()
    return 0 if hmac.compare_digest(given, expected) else _UNAUTHORIZED


def _somebody_to_hear(room: LiveRoom, caller: ParticipantInfo) -> bool:
    """Whether an agent's audio or a second caller is in the room."""
    kinds = (ParticipantInfo.Kind.AGENT, ParticipantInfo.Kind.SIP)
    return any(
        track.type == TrackType.AUDIO
        for other in room.participants.values()
        if other.sid != caller.sid and other.kind in kinds
        for track in other.tracks
    )

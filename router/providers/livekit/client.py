"""The one module that calls LiveKit's server API (livekit-api, Twirp).

The SDK's fail-over is off: it replays POSTs that are not idempotent (create_dispatch starts one
more agent each time). Errors become the three that matter to a caller:

| what happened                                           | error       |
|---------------------------------------------------------|-------------|
| refused before it was done (connect, 429)               | `Transient` |
| a 4xx without a code: another key, not LiveKit at all   | `Transient` |
| time-out, connection lost, 5xx, an answer not LiveKit's | `Ambiguous` |
| 4xx                                                     | `Permanent` |
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import aiohttp
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from livekit import api
from livekit.protocol import agent, models
from livekit.protocol import room as room_proto

from config.settings import LiveKitSettings
from router.errors import Ambiguous, EffectError, Permanent, Transient
from router.rest import reason

T = TypeVar("T")

_KINDS = models.ParticipantInfo.Kind
_TOO_MANY: Final = 429
_REFUSED = {"resource_exhausted"}
_HINTS = {  # by the status of an answer that bears no code
    401: ": are livekit.api_key and livekit.api_secret the project's, and is the clock right?",
    404: ": is livekit.url right?",
}
_BUSY: Final = 10.0  # seconds without polls after LiveKit said that these are too many requests
_BURST: Final = 10.0  # seconds' worth of polls that may come at once
_SCARCE: Final = 0.5  # share of a full budget that what can wait leaves to what can't
_TRANSFER: Final = 10  # seconds; a consumer's handler may take 15
_PING: Final = "switchboard.ping"  # no agent knows it: its SDK answers by itself
_RPC_ERROR: Final = re.compile(r"RpcError (\d{4})")  # codes: docs.livekit.io/home/client/data/rpc
_ANSWERED: Final = frozenset(("1400", "1404", "1500", "1504"))  # the participant said so itself
_NO_ANSWER: Final = frozenset(("1501", "1502"))
_UNKNOWN_OUTCOME = {
    "internal",
    "unavailable",
    "unknown",
    "deadline_exceeded",
    "aborted",
    "canceled",
}


@dataclass(frozen=True, slots=True)
class Dispatch:
    """An agent dispatch of a room. Its jobs are no evidence of an agent in the room."""

    id: str
    agent_name: str
    agents: tuple[str, ...] = ()  # identities of its jobs' participants; seconds late in a new room


@dataclass(frozen=True, slots=True)
class Room:
    """An open room."""

    name: str
    sid: str
    created_at: int  # µs since epoch
    participants: int  # at LiveKit's own server without agents, and up to 5 s old


@dataclass(frozen=True, slots=True)
class Participant:
    """Somebody in a room. `kind` is LiveKit's name: AGENT, SIP, STANDARD and others."""

    sid: str
    identity: str
    kind: str
    agent_name: str  # of an agent, its `lk.agent_name`
    publishes_audio: bool
    attributes: dict[str, str]
    joined_at: int  # µs since epoch
    disconnect_reason: str = ""  # LiveKit's name for why it left, once it has

    @property
    def is_dialled(self) -> bool:
        """Whether a SIP participant was called by somebody in the room, and did not call in."""
        return bool(self.attributes.get("sip.callID")) and not self.attributes.get("sip.ruleID")

    @property
    def is_ringing(self) -> bool:
        """Whether a SIP participant waits for somebody to answer."""
        return self.attributes.get("sip.callStatus") == "ringing"


def is_audible(track_type: str, *, muted: bool) -> bool:
    """Whether a track can be heard: the one rule, for what webhooks and what the API say.

    Sound that is not muted. A picture says nothing to a caller; a muted track is silence, and
    LiveKit has no webhook for its end, so the poll finds that.
    """
    return track_type == "AUDIO" and not muted


class PollBudget:
    """What this process may ask LiveKit again and again: a token bucket.

    LiveKit Cloud allows a project 1,000 requests a minute, of all kinds. What must be done
    (dispatches, withdrawals, the look before one) never waits for this budget; polls, which only
    find what no webhook told, wait for all else.
    """

    def __init__(self, per_minute: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._rate = per_minute / 60  # a second
        self._full = max(1.0, self._rate * _BURST)
        self._monotonic = monotonic
        self._left = self._full
        self._filled_at = monotonic()

    def spend(self, *, can_wait: bool = False) -> bool:
        """Take the place of one request, if there is one; `can_wait`: only if there are many."""
        now = self._monotonic()
        if now > self._filled_at:
            self._left = min(self._full, self._left + (now - self._filled_at) * self._rate)
            self._filled_at = now
        if self._left < (max(1.0, self._full * _SCARCE) if can_wait else 1.0):
            return False
        self._left -= 1
        return True

    def pause(self, seconds: float) -> None:
        """LiveKit wants fewer requests: none for so long."""
        self._left = 0.0
        self._filled_at = max(self._filled_at, self._monotonic() + seconds)


class LiveKitClient:
    """Rooms, participants, dispatches and the SIP set-up of one LiveKit project.

    `polls`: the budget of those who ask again and again; a 429 to any request empties it.
    """

    def __init__(
        self, sdk: api.LiveKitAPI, *, timeout: float, polls: PollBudget | None = None
    ) -> None:
        self._sdk = sdk
        self._timeout = timeout  # seconds
        self.polls = polls or PollBudget(float("inf"))

    @property
    def sip(self) -> api.sip_service.SipService:
        """The SDK's SIP service, for `livekit.setup`; run its calls through `call`."""
        return self._sdk.sip

    async def create_dispatch(self, *, room: str, agent_name: str, metadata: str) -> str:
        """Start one agent, making the room where it is absent. NOT idempotent.

        Returns:
            The dispatch's id. Success says nothing about an agent: with no worker there is none.
        """
        request = api.CreateAgentDispatchRequest(
            agent_name=agent_name, room=room, metadata=metadata
        )
        created = await self.call(lambda: self._sdk.agent_dispatch.create_dispatch(request))
        return created.id

    async def delete_dispatch(self, *, room: str, dispatch_id: str) -> None:
        """Withdraw a dispatch and the agents that it brought; unknown is fine.

        An agent on its way comes all the same (seen with 1.13.5 and livekit-agents 1.8.9).
        """
        await self._unless_gone(
            room, lambda: self._sdk.agent_dispatch.delete_dispatch(dispatch_id, room)
        )

    async def dispatches(self, room: str) -> Sequence[Dispatch]:
        """The room's named dispatches; none when there is no such room."""
        found = await self._unless_gone(room, lambda: self._sdk.agent_dispatch.list_dispatch(room))
        return [
            Dispatch(d.id, d.agent_name, tuple(_identities(d.state.jobs)))
            for d in found or ()
            if d.agent_name
        ]

    async def rooms(self, names: Sequence[str] = ()) -> Sequence[Room]:
        """The open rooms: those of `names`, without names all of the project."""
        request = api.ListRoomsRequest(names=names)
        found = await self.call(lambda: self._sdk.room.list_rooms(request))
        return [
            Room(r.name, r.sid, micros(r.creation_time_ms, r.creation_time), r.num_participants)
            for r in found.rooms
        ]

    async def participants(self, room: str) -> Sequence[Participant]:
        """Who is in the room; nobody when there is no such room."""
        request = api.ListParticipantsRequest(room=room)
        found = await self._call_about(lambda: self._sdk.room.list_participants(request))
        return [participant(p) for p in (found.participants if found else ())]

    async def remove_participant(self, *, room: str, identity: str) -> None:
        """Put somebody out of a room; unknown is fine."""
        request = api.RoomParticipantIdentity(room=room, identity=identity)
        await self._unless_gone(room, lambda: self._sdk.room.remove_participant(request))

    async def answers(self, *, room: str, identity: str, within: float) -> bool | None:
        """Whether an agent's process answers within so many seconds; None: LiveKit did not say.

        A participant whose process was killed stays in the room for some 21 s, publishing silence
        (1.13.5). An RPC reaches the process itself: its SDK answers one that it does not know, in a
        few milliseconds. SDKs from before there were RPCs never answer.
        """
        request = room_proto.PerformRpcRequest(
            room=room,
            destination_identity=identity,
            method=_PING,
            response_timeout_ms=round(within * 1000),
        )
        service = self._sdk.room  # which has no method for it
        grants = service._auth_header(api.VideoGrants(room_admin=True, room=room))  # noqa: SLF001
        try:
            await self.call(
                lambda: service._client.request(  # noqa: SLF001
                    "RoomService", "PerformRpc", request, grants, room_proto.PerformRpcResponse
                )
            )
        except EffectError as error:
            found = _RPC_ERROR.search(str(error))
            code = found[1] if found else ""
            return True if code in _ANSWERED else False if code in _NO_ANSWER else None
        return True

    async def transfer(self, *, room: str, identity: str, to: str) -> None:
        """Ask the carrier of a SIP leg to connect it to `to` (SIP REFER); the leg then ends.

        Whoever is there has some seconds to answer. Raises as `call`; Permanent where the carrier
        does not do that.
        """
        request = api.TransferSIPParticipantRequest(
            room_name=room,
            participant_identity=identity,
            transfer_to=to,
            ringing_timeout=Duration(seconds=_TRANSFER),
        )
        await self.call(
            lambda: self._sdk.sip.transfer_sip_participant(request), within=_TRANSFER + 2.0
        )

    async def delete_room(self, room: str) -> None:
        """Close the room and put everybody out; unknown is fine."""
        request = api.DeleteRoomRequest(room=room)
        await self._call_about(lambda: self._sdk.room.delete_room(request))

    async def call(self, request: Callable[[], Awaitable[T]], *, within: float | None = None) -> T:
        """Run one call of the SDK, bounded in time and with its errors translated.

        The bound is ours: the SDK hands `timeout=None` to aiohttp with every request, which turns
        the session's own time-out off (seen with livekit-api 1.2.2 and aiohttp 3.14).

        Raises:
            Transient: nothing was done.
            Ambiguous: it may have been done.
            Permanent: refused; the message has LiveKit's own words.
        """
        try:
            async with asyncio.timeout(within or self._timeout):
                return await request()
        except api.TwirpError as error:
            if error.status == _TOO_MANY:
                self.polls.pause(_BUSY)
            raise _translate(error) from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            at = "livekit.url"
            if isinstance(error, aiohttp.ClientConnectorError):  # the other kind does not say
                at = f"{error.host}:{error.port}"
            raise Transient(
                f"LiveKit at {at} can't be reached: {reason(error)}; does it run, and is "
                "livekit.url right?"
            ) from error
        except TimeoutError as error:
            raise Ambiguous(
                f"LiveKit did not answer within {self._timeout:g} s (livekit.url, livekit.timeout)"
            ) from error
        except aiohttp.ClientError as error:
            raise Ambiguous(
                f"the connection to LiveKit (livekit.url) broke: {reason(error)}"
            ) from error
        except (DecodeError, AttributeError) as error:
            # The SDK takes a proxy's page for protobuf, and any JSON of an error for an object.
            raise Ambiguous("what answers is not LiveKit: is livekit.url right?") from error

    async def _call_about(self, request: Callable[[], Awaitable[T]]) -> T | None:
        """A call about something that may be gone: then None."""
        try:
            return await self.call(request)
        except Permanent as error:
            cause = error.__cause__
            if isinstance(cause, api.TwirpError) and cause.code == "not_found":
                return None
            raise

    async def _unless_gone(self, room: str, request: Callable[[], Awaitable[T]]) -> T | None:
        # About a room that is gone the server says "unavailable", as it does when it is in trouble
        # (seen on 1.13.5: nobody answers for the room). Whether the room exists tells them apart.
        try:
            return await self._call_about(request)
        except Ambiguous:
            if await self.rooms([room]):
                raise
            return None


def participant(info: models.ParticipantInfo) -> Participant:
    """The facts that matter of LiveKit's message; those of webhooks: `livekit.message`."""
    return Participant(
        sid=info.sid,
        identity=info.identity,
        kind=_name(_KINDS, info.kind),
        agent_name=info.attributes.get("lk.agent_name", ""),
        publishes_audio=any(
            is_audible(_name(models.TrackType, track.type), muted=track.muted)
            for track in info.tracks
        ),
        attributes=dict(info.attributes),
        joined_at=micros(info.joined_at_ms, info.joined_at),
        disconnect_reason=_name(models.DisconnectReason, info.disconnect_reason),
    )


def _identities(jobs: Iterable[agent.Job]) -> Iterator[str]:
    return (job.state.participant_identity for job in jobs if job.state.participant_identity)


def micros(millis: int, seconds: int) -> int:
    """A time that LiveKit tells in both: older servers fill the field in seconds only."""
    return millis * 1000 or seconds * 1_000_000


def _name(kinds: Any, value: int) -> str:
    # A newer server may know more of them.
    return str(kinds.Name(value)) if value in kinds.values() else str(value)


def _translate(error: api.TwirpError) -> EffectError:
    code: Any = error.code  # "unknown" is the SDK's word for none; a proxy's may be a number
    if not isinstance(code, str) or (code == "unknown" and not error.message):
        text = f"LiveKit answers {error.status}{_HINTS.get(error.status, '')}"
        return Ambiguous(text) if error.status >= 500 else Transient(text)
    text = f"LiveKit: {code}: {error.message}"
    if code in _REFUSED:
        return Transient(text)
    if code in _UNKNOWN_OUTCOME or (error.status >= 500 and code != "unimplemented"):
        return Ambiguous(text)
    return Permanent(text)


@asynccontextmanager
async def open_livekit(settings: LiveKitSettings) -> AsyncIterator[LiveKitClient]:
    """A client for `livekit.url`, closed at exit."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64)) as session:
        sdk = api.LiveKitAPI(
            settings.url,
            settings.api_key,
            settings.api_secret.get_secret_value(),
            session=session,
            failover=False,
        )
        polls = PollBudget(settings.polls_per_minute)
        yield LiveKitClient(sdk, timeout=settings.timeout, polls=polls)
